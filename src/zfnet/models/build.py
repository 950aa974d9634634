"""From a profile to its net, with random weights or with its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from zfnet.models.weights import from_pytorchcv, put_weights, read_weights
from zfnet.models.zfnet import AlexNet, ZFNet
from zfnet.store import artefacts
from zfnet.store.errors import MissingPackage, UserError
from zfnet.store.profiles import Profile


def build_model(profile: Profile, num_classes: int) -> nn.Module:
    """The profile's net with random weights drawn from the profile's seed; the caller's random
    state is left alone.
    """
    config = profile.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(profile.seed)
        if config.name in ("zfnet", "alexnet"):
            net = ZFNet if config.name == "zfnet" else AlexNet
            return net(
                num_classes,
                input_size=profile.data.size,
                maps=config.maps,
                fc=config.fc,
                lrn=config.lrn,
                dropout=config.dropout,
                init=config.init,
                conv1_scale=config.conv1_scale,
            )
        if config.name in ("zfnet_imagenet", "zfnetb_imagenet"):
            maps = (
                (96, 256, 512, 1024, 512)
                if config.name.startswith("zfnetb")
                else (96, 256, 384, 384, 256)
            )
            return ZFNet(1000, maps=maps, lrn="before")
        import torchvision

        return getattr(torchvision.models, config.name.removesuffix("_imagenet"))(weights=None)


def load_model(profile: Profile, num_classes: int | None = None) -> nn.Module:
    """The profile's net, with its weights, in eval mode on the CPU.

    A profile that trains reads `runs/<profile>/weights.safetensors` (FileNotFoundError, with the
    cure, before training). A pretrained profile reads the file named by `model.weights`, or
    downloads: torchvision's enum by name, or pytorchcv's weights for the zfnet_imagenet nets.
    """
    config = profile.model
    path = profile.given_weights
    if path is None and profile.training is None:
        return _downloaded(config).eval()
    state = read_weights(path or profile.weights_file)
    if config.name.startswith("zfnet") and "features.conv1.weight" not in state:
        state = from_pytorchcv(state)
    if num_classes is None:
        biases = [
            name for name in state if name.startswith("classifier.") and name.endswith(".bias")
        ]
        if not biases:
            raise UserError(
                f"{path or profile.weights_file} has no classifier; expected the weights of a whole"
                f" {config.name}"
            )
        num_classes = state[max(biases)].numel()
    return put_weights(
        build_model(profile, num_classes), state, str(path or profile.weights_file)
    ).eval()


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


def _downloaded(config) -> nn.Module:
    """A pretrained net from its publisher; OSError without a network becomes a FileNotFoundError
    with the cure.
    """
    try:
        if config.name.startswith("zfnet"):
            from pytorchcv.model_provider import get_model

            kind = config.name.removesuffix("_imagenet")
            maps = (96, 256, 512, 1024, 512) if kind == "zfnetb" else (96, 256, 384, 384, 256)
            state = from_pytorchcv(get_model(kind, pretrained=True).state_dict())
            return put_weights(ZFNet(1000, maps=maps, lrn="before"), state, f"pytorchcv's {kind}")
        import torchvision

        return torchvision.models.get_model(
            config.name.removesuffix("_imagenet"), weights=config.weights or "IMAGENET1K_V1"
        )
    except ImportError:
        raise MissingPackage(
            "the zfnet_imagenet weights come from the package pytorchcv: pip install pytorchcv"
        ) from None
    except OSError as error:
        raise FileNotFoundError(
            f"the weights of {config.name} could not be downloaded ({error}): connect to the"
            " network, or set `weights:` in the profile to a local file"
        ) from None
