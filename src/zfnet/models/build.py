"""From a profile to its net, with random weights or with its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from zfnet.models.weights import from_pytorchcv, put_weights, read_weights
from zfnet.models.zfnet import AlexNet, ZFNet
from zfnet.store import artefacts
from zfnet.store.errors import MissingPackage, NotDownloaded, UserError
from zfnet.store.profiles import ModelConfig, Profile

# how many maps the layers of pytorchcv's two nets have
PYTORCHCV = {"zfnet": (96, 256, 384, 384, 256), "zfnetb": (96, 256, 512, 1024, 512)}


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
    published have their own number of classes and size of input.
    """
    with drawn_from(seed):
        if config.name in ("zfnet", "alexnet"):
            net = ZFNet if config.name == "zfnet" else AlexNet
            return net(
                num_classes,
                input_size=input_size,
                maps=config.maps,
                fc=config.fc,
                lrn=config.lrn,
                dropout=config.dropout,
                init=config.init,
                conv1_scale=config.conv1_scale,
            )
        name = config.name.removesuffix("_imagenet")
        if name in PYTORCHCV:
            return ZFNet(1000, maps=PYTORCHCV[name], lrn="before")
        import torchvision

        return getattr(torchvision.models, name)(weights=None)


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
    if num_classes is None:
        num_classes = outputs(state, path, config.name)
    return put_weights(build_model(profile, num_classes), state, str(path)).eval()


def outputs(state: dict[str, torch.Tensor], path: Path, name: str) -> int:
    """How many classes the net tells apart whose weights these are; ValueError where the file holds
    no whole net.
    """
    biases = [key for key in state if key.startswith("classifier.") and key.endswith(".bias")]
    if not biases:
        raise UserError(f"{path} has no classifier; expected the weights of a whole {name}")
    return state[max(biases)].numel()


def class_names(profile: Profile, classes: Sequence[str]) -> tuple[str, ...]:
    """What the net's outputs are called: the data's classes where it was trained on them, those in
    the header of a weights file, else ImageNet's.
    """
    path = profile.given_weights
    if (
        path
        and path.suffix == ".safetensors"
        and (names := artefacts.read_meta(path).get("classes"))
    ):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(
                f"{path}: its header says {str(names)[:100]!r} of its classes; expected their"
                " names: fetch it again"
            )
        return tuple(names)
    if profile.training is not None or len(classes) == 1000:
        return tuple(classes)
    from torchvision.models import AlexNet_Weights

    return tuple(AlexNet_Weights.IMAGENET1K_V1.meta["categories"])


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
        import torchvision

        return torchvision.models.get_model(name, weights=config.weights or "IMAGENET1K_V1")
    except ImportError as error:
        raise MissingPackage(
            "the zfnet_imagenet weights come from the package pytorchcv: pip install pytorchcv"
        ) from error
    except OSError as error:
        raise NotDownloaded(
            f"the weights of {config.name} could not be downloaded ({error})",
            "connect to the network, or set `weights:` in the profile to a local file",
        ) from error
