"""What a linear classifier sees of an image: the maps of a net's layers, averaged over a grid."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from zfnet.data.images import Images, batches
from zfnet.methods.depth import layer_outputs
from zfnet.store import artefacts, keys


def grid_side(channels: int, side: int, limit: int) -> int:
    """The finest grid over maps of `side` with at most `limit` numbers for `channels` maps; at
    least 1, at most `side`.
    """
    return max(1, min(side, math.isqrt(limit // channels)))


@torch.no_grad()
def features(
    model: nn.Module, images: Images, layers: Sequence[int], limit: int = 4096, batch_size: int = 64
) -> dict[int, torch.Tensor]:
    """Features (N, F) of centre crops by layer, float32 on the CPU, in one pass: maps averaged over
    a grid so that F <= `limit`, hidden layers whole.
    """
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    for _, inputs in batches(images, batch_size):
        for layer, x in layer_outputs(model, inputs, layers).items():
            if x.ndim == 4:
                x = nn.functional.adaptive_avg_pool2d(
                    x, tuple(grid_side(x.shape[1], side, limit) for side in x.shape[2:])
                )
            found[layer].append(x.flatten(1).float().cpu())
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def kept_features(
    file: Path, model: nn.Module, images: Images, layers: Sequence[int], limit: int, made: dict
) -> dict[int, torch.Tensor]:
    """The same from `file`, where they are computed once, with the provenance `made`."""
    tensors, _ = artefacts.artefact(
        file,
        keys.key_of(
            keys.tensors_hash(model.state_dict()),
            images.fingerprint,
            list(layers),
            limit,
            keys.code_key(features),
        ),
        lambda: (
            {str(layer): x for layer, x in features(model, images, layers, limit).items()},
            made,
        ),
    )
    return {layer: tensors[str(layer)] for layer in layers}
