"""The plain forward pass, as quickly as it goes; train and eval mode given back as they were."""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from zfnet.store.errors import Unsupported, WrongType


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put the model into eval mode and give every module its own mode back, also after an
    exception.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


class Parts(nn.Module):
    """A net from its parts, called as torchvision's AlexNet and VGG call theirs."""

    def __init__(self, features: nn.Module, avgpool: nn.Module, classifier: nn.Module):
        super().__init__()
        self.features, self.avgpool, self.classifier = features, avgpool, classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))


def unwrapped(model: nn.Module) -> nn.Module:
    """The net inside DataParallel, DistributedDataParallel or torch.compile; of a bare nn.Module
    that holds features, avgpool and classifier, these one after the other. WrongType for what is no
    nn.Module, Unsupported for a scripted one, which has no code to follow.
    """
    if not isinstance(model, nn.Module):
        raise WrongType(f"expected an nn.Module, got {type(model).__name__}")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(model.module)
    if isinstance(model, torch.jit.ScriptModule):
        raise Unsupported(
            "a scripted net cannot be taken apart", "hand in the net it was made from"
        )
    if type(model).forward is nn.Module.forward:
        parts = [getattr(model, name, None) for name in ("features", "avgpool", "classifier")]
        if all(isinstance(part, nn.Module) for part in parts):
            return Parts(*parts).train(model.training)
        if isinstance(parts[0], nn.Module):
            return unwrapped(parts[0])
    return unwrapped(model._orig_mod) if hasattr(model, "_orig_mod") else model


def forward(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """model(images) to the last bit, gradients too, but rectified after pooling: a maximum and a
    rectification commute, and pooled maps are smaller.

    ReLUs run in place. For whoever wants the logits only; a net that is not features, avgpool,
    classifier is called as it is.
    """
    if not (
        hasattr(model, "classifier")
        and hasattr(model, "avgpool")
        and isinstance(getattr(model, "features", None), nn.Sequential)
    ):
        return model(images)
    x, layers = images, list(model.features)
    for n, layer in enumerate(layers):
        if isinstance(layer, nn.ReLU) and isinstance(
            layers[n + 1] if n + 1 < len(layers) else None, nn.MaxPool2d
        ):
            continue
        x = F.relu_(x) if isinstance(layer, nn.ReLU) else layer(x)
        if n and isinstance(layer, nn.MaxPool2d) and isinstance(layers[n - 1], nn.ReLU):
            x = F.relu_(x)
    return model.classifier(torch.flatten(model.avgpool(x), 1))
