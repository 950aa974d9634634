"""A flat stack of layers: what can be taken apart, and one layer forward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from zfnet.store.errors import Unsupported, UserError

SUPPORTED = (nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.LocalResponseNorm, nn.BatchNorm2d, nn.Dropout)


def pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def check_supported(features: nn.Sequential) -> None:
    """TypeError, naming the module, unless every child of this nn.Sequential can be taken apart."""
    if not isinstance(features, nn.Sequential):
        raise Unsupported(
            f"expected an nn.Sequential such as model.features, got {type(features).__name__}"
        )
    names = ", ".join(kind.__name__ for kind in SUPPORTED)
    for name, layer in features.named_children():
        if not isinstance(layer, SUPPORTED):
            raise Unsupported(f"{name} is a {type(layer).__name__}; supported are {names}")
        if isinstance(layer, nn.Conv2d) and (
            layer.padding_mode != "zeros" or isinstance(layer.padding, str)
        ):
            raise Unsupported(
                f"{name}: padding={layer.padding!r}, padding_mode={layer.padding_mode!r}; supported"
                " is a number of zeros"
            )
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is None:
            raise Unsupported(
                f"{name}: a BatchNorm2d with track_running_stats=False scales by the batch at hand;"
                " supported is one with running statistics"
            )


def layers_up_to(features: nn.Sequential, layer: str) -> list[tuple[str, nn.Module]]:
    """Named children from the first to `layer`; ValueError lists the names when there is no such
    layer.
    """
    children = list(features.named_children())
    names = [name for name, _ in children]
    if layer not in names:
        raise UserError(f"no layer {layer!r}: choose one of {', '.join(names)}")
    return children[: names.index(layer) + 1]


def forward_layer(layer: nn.Module, x: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """One layer as in eval mode, whatever mode it is in; in place only where the caller says that
    `x` is no longer needed.
    """
    if isinstance(layer, nn.ReLU):
        return F.relu(x, inplace)
    if isinstance(layer, nn.Dropout):
        return x
    if isinstance(layer, nn.BatchNorm2d):
        return F.batch_norm(
            x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps
        )
    if isinstance(layer, nn.MaxPool2d):  # whether or not it returns indices too
        return F.max_pool2d(
            x, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
        )
    return layer(x)
