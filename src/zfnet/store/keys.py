"""Keys: what an artefact was made from, as sixteen hexadecimal digits."""

import ast
import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

Tensors = dict[str, torch.Tensor]
PACKAGE = Path(__file__).resolve().parents[1]


def key_of(*parts) -> str:
    """A 16-digit hexadecimal key of dataclasses, mappings, sequences, strings and numbers; equal
    parts give equal keys.
    """

    text = json.dumps(
        parts,
        sort_keys=True,
        default=lambda part: (
            dataclasses.asdict(part) if dataclasses.is_dataclass(part) else str(part)
        ),
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_key(
    function: Callable | type, without: tuple[str, ...] = (), package: Path | None = None
) -> str:
    """A key of the code of every module of this package that `function` reaches by import, its own
    first.

    Comments, docstrings and layout do not count. Packages named in `without`, such as "store", are
    left out with all that is reached through them alone, and so are single modules, such as
    "training.recipe". `package`: its folder, where it is not this one.
    """
    files = reached(function.__module__, without, package or PACKAGE)
    return key_of([_code(path.read_text(encoding="utf-8")) for path in files])


def reached(module: str, without: tuple[str, ...] = (), package: Path = PACKAGE) -> list[Path]:
    """The files of the package that a module of it reaches by import, in the order of their names.

    A package's own `__init__` counts where it is imported by name, not where it is on the way.
    """
    left_out = tuple(f"{package.name}.{name}." for name in without)
    files, waiting = {}, [module]
    while waiting:
        name = waiting.pop()
        own = f"{name}.".startswith(f"{package.name}.")
        if name in files or not own or f"{name}.".startswith(left_out):
            continue
        path = package.joinpath(*name.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not path.is_file():  # a function or class: its module is what counts
            waiting.append(name.rpartition(".")[0])
            continue
        files[name] = path
        inside = name.split(".")[: None if path.name == "__init__.py" else -1]
        for node in ast.walk(_parsed(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                # one dot is the package that the module is in, each further dot the one above
                above = inside[: len(inside) + 1 - node.level] if node.level else []
                above += [node.module] if node.module else []
                waiting += [".".join([*above, alias.name]) for alias in node.names]
    return [files[name] for name in sorted(files)]


@functools.lru_cache(maxsize=512)
def _parsed(source: str) -> ast.Module:
    """The source without comments, docstrings and other expressions that are constants."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [
                statement
                for statement in body
                if not isinstance(getattr(statement, "value", None), ast.Constant)
                or not isinstance(statement, ast.Expr)
            ]
    return tree


@functools.lru_cache(maxsize=512)
def _code(source: str) -> str:
    """The code as Python 3.11 dumps it: 3.12 has type parameters besides, 3.13 leaves out empty
    lists, and keys must not depend on that.
    """
    newer = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(_parsed(source), **newer).replace(", type_params=[]", "")


def tensors_hash(tensors: Tensors) -> str:
    """A key of named tensors: names, shapes, types and every bit of their values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
