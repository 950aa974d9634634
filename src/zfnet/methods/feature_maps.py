"""Feature maps themselves, and which of an image's are the strongest."""

from collections.abc import Sequence

import torch
from torch import nn

from zfnet.graph.walk import outputs
from zfnet.store.errors import UserError


def feature_maps(
    model: nn.Module, images: torch.Tensor, names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Outputs of the named layers for images (N, 3, H, W), as in eval mode, in one forward pass:
    {name: (N, C, h, w)} on the CPU.

    The maps before an in-place ReLU keep their negative values. Raises Unsupported for a net that
    cannot be taken apart and UserError for an unknown name.
    """
    return {name: maps.cpu() for name, maps in outputs(model, images, names).items()}


def strongest_channels(maps: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` channels of one image's maps (C, h, w) with the largest total activity, best
    first; ties: the lower channel. ValueError for a bad count.
    """
    _check_count(count, len(maps))
    return maps.sum((1, 2)).argsort(descending=True, stable=True)[:count]


def _check_count(count: int, channels: int) -> None:
    if not 1 <= count <= channels:
        raise UserError(f"count = {count}: choose 1 to {channels}, the number of channels")
