"""Feature maps themselves, and which of an image's are the strongest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from zfnet.graph.stack import check_supported, forward_layer, layers_up_to
from zfnet.store.errors import UserError


@torch.no_grad()
def feature_maps(
    features: nn.Sequential, images: torch.Tensor, names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Outputs of the named children for images (N, 3, H, W), as in eval mode, in one forward pass:
    {name: (N, C, h, w)} on the CPU.

    The maps before an in-place ReLU keep their negative values. Raises TypeError for an unsupported
    module and ValueError for an unknown name.
    """
    check_supported(features)
    stack = max((layers_up_to(features, name) for name in names), key=len)
    x, found = images.to(next(features.parameters())), {}
    for name, module in stack:
        x = forward_layer(module, x)
        if name in names:
            found[name] = x.cpu()
    return {name: found[name] for name in names}


def strongest_channels(maps: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` channels of one image's maps (C, h, w) with the largest total activity, best
    first; ties: the lower channel. ValueError for a bad count.
    """
    _check_count(count, len(maps))
    return maps.sum((1, 2)).argsort(descending=True, stable=True)[:count]


def _check_count(count: int, channels: int) -> None:
    if not 1 <= count <= channels:
        raise UserError(f"count = {count}: choose 1 to {channels}, the number of channels")
