"""Weights files as people have them: bare state dicts and whole checkpoints, keys with the prefixes
of wrappers, and no code run in reading them.
"""

import collections
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from zfnet.store import artefacts
from zfnet.store.errors import UserError, require

Tensors = dict[str, torch.Tensor]
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
# what training scripts call the state dict in a checkpoint
STATES = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
# parts of a key that wrappers add: DataParallel and torch.compile anywhere, others at the front
ANYWHERE, IN_FRONT = ("module", "_orig_mod"), ("model", "net")
# the second classifiers of torchvision's GoogLeNet and Inception, for training alone
SECOND = ("aux1.", "aux2.", "AuxLogits.")
# numbers of numpy are data, too
NUMBERS = [
    np.ndarray,
    np.dtype,
    *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
    *(
        (function, f"{module}.{name}")
        for module in ("numpy._core.multiarray", "numpy.core.multiarray")
        for name, function in (
            ("scalar", np.float64(0).__reduce__()[0]),
            ("_reconstruct", np.empty(0).__reduce__()[0]),
        )
    ),
]
SAVE = "torch.save(model.state_dict(), FILE), where it was made, writes a file that is read"


def read_weights(path: Path | str) -> Tensors:
    """A state dict from a .safetensors file, or from what `torch.save` wrote, read as data, so that
    no code in it runs: the state dict itself, or a checkpoint that holds one.

    What a checkpoint holds besides is left out, which a warning says. Raises FileNotFoundError,
    Damaged for a .safetensors file that is not whole, and UserError for a file that holds no state
    dict, several, a pickled model, or values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: train first (`make train PROFILE=…`), or set `weights:` in the"
            " profile"
        )
    if path.suffix == ".safetensors":
        state = artefacts.load_tensors(path)[0]
    else:
        state, left_out = state_of(_loaded(path), path)
        if left_out:
            warnings.warn(f"{path.name}: left out {listed(left_out)}", stacklevel=2)
    require(state, f"{path} holds no state dict of tensors", SAVE)
    for name, tensor in state.items():
        require(
            tensor.layout == torch.strided
            and not tensor.is_meta
            and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes(),
            f"{path}: {name} is not a plain tensor with all its values",
            "save the state dict of a net",
        )
        require(
            not tensor.is_floating_point() or torch.isfinite(tensor).all(),
            f"{path}: {name} has values that are not finite; the training diverged or the file is"
            " damaged",
        )
    return state


def _loaded(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # torch raises nearly everything
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"it holds a {asked[1]}, for which code would run" if asked else type(error).__name__
        raise UserError(f"{path} cannot be read as weights ({what})", SAVE) from error


def state_of(content: object, path: Path | str) -> tuple[Tensors, list[str]]:
    """The state dict in a checkpoint, and what else stands in it. UserError where it holds none, or
    several.
    """
    left_out = []
    for _ in range(10):  # a dict may hold itself
        if not isinstance(content, Mapping):
            break
        named: list = []
        for names, depth in ((STATES, 3), (content, 0), (content, 3)):
            named = named or [key for key in names if _is_state(content.get(key), depth)]
        require(
            len(named) < 2,
            f"{path} holds several state dicts: {listed(map(str, named))}",
            "save the one of the net alone",
        )
        if not named:
            state = {k: t for k, v in content.items() if (t := _tensor(k, v)) is not None}
            left_out += [str(key) for key in content if key not in state]
            return state if _is_state(content) else {}, left_out
        left_out += [str(key) for key in content if key != named[0]]
        content = content[named[0]]
    return {}, left_out


def _tensor(key: object, value: object) -> torch.Tensor | None:
    """What a state dict holds under a key, None if that is no tensor."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(value)
    return value.detach() if isinstance(key, str) and isinstance(value, torch.Tensor) else None


def _is_state(value: object, depth: int = 0) -> bool:
    """Whether a checkpoint's entry is a state dict, or holds one so deep."""
    if not isinstance(value, Mapping):
        return False
    # an optimiser's state has numbers for keys
    named = {key: each for key, each in value.items() if isinstance(key, str)}
    if any((t := _tensor(key, each)) is not None and t.ndim for key, each in named.items()):
        return True
    return depth > 0 and any(_is_state(each, depth - 1) for each in named.values())


def plain(key: str) -> str:
    """A key without the parts that wrappers add."""
    parts = [part for part in key.split(".") if part not in ANYWHERE]
    while len(parts) > 2 and parts[0] in IN_FRONT:
        parts.pop(0)
    return ".".join(parts)


def fitted(state: Tensors, own: Iterable[str], origin: str) -> tuple[Tensors, list[str]]:
    """The state under the names that a net has for its own, whatever wrappers either of them is in,
    and the keys that are none of the net's for certain: numbers, and those of other parts of a
    wrapper. UserError where two keys are one.
    """
    own = set(own)
    forms = collections.Counter(map(plain, own))
    names = {plain(name): name for name in own if forms[plain(name)] == 1}
    renamed, of, other = {}, {}, []
    for key, tensor in state.items():
        name = key if key in own else names.get(plain(key), key)
        require(
            name not in renamed,
            f"{origin} holds {name} twice, as {of.get(name)} and as {key}",
            "save the one that is meant",
        )
        renamed[name], of[name] = tensor, key
    # where all that is the net's own stands under one prefix, what stands beside it is not
    fronts = {of[name].split(".")[0] for name in renamed if name in own}
    wrapped = len(fronts) == 1 and fronts <= {*ANYWHERE, *IN_FRONT}
    for name in [name for name in renamed if name not in own]:
        beside = wrapped and not of[name].startswith(f"{min(fronts)}.")
        if beside or not renamed[name].ndim or plain(name).startswith(SECOND):
            other.append(of[name])
            del renamed[name]
    return renamed, other


def put_weights(model: nn.Module, state: Tensors, origin: str) -> nn.Module:
    """Load a state dict whole, under the names of the net or a wrapper's of it; UserError names
    what is missing, extra or misshapen. A warning says what was left out.
    """
    own = model.state_dict()
    state, other = fitted(state, own, origin)
    counts = {name: own[name] for name in own if name.endswith("num_batches_tracked")}
    state = {**counts, **state}  # of training alone, and not in old files
    both = [(name, state[name], own[name]) for name in own if name in state]
    problems = [
        *(f"missing {name}" for name in own if name not in state),
        *(f"unexpected {name}" for name in state if name not in own),
        *(
            f"{name} holds {given.dtype}, expected {wanted.dtype}"
            for name, given, wanted in both
            if given.is_floating_point() != wanted.is_floating_point() or given.is_complex()
        ),
        *(
            f"{name} is {tuple(given.shape)}, expected {tuple(wanted.shape)}"
            for name, given, wanted in both
            if given.shape != wanted.shape
        ),
    ]
    more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
    require(not problems, f"{origin} does not fit this net: {'; '.join(problems[:4])}{more}")
    if other:
        what = f"{Path(origin).name}: left out {listed(other)}, which this net does not have"
        warnings.warn(what, stacklevel=2)
    model.load_state_dict(state)
    return model


def listed(names: Iterable[str]) -> str:
    """Up to five names, and how many more."""
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
