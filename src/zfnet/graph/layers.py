"""Which maps stand for the paper's layers."""

from __future__ import annotations

from torch import nn


def paper_layers(features: nn.Sequential) -> dict[int, str]:
    """The rectified maps that stand for the paper's layers: {1: "relu1", …, 5: "relu5"}.

    With up to eight ReLUs each is a layer; deeper nets (VGG) give the last ReLU of each block, that
    is, before each pool and at the end; those without pools every ReLU.
    """
    relus = [name for name, layer in features.named_children() if isinstance(layer, nn.ReLU)]
    if len(relus) > 8:
        blocks, last = [], None
        for name, layer in features.named_children():
            if isinstance(layer, nn.ReLU):
                last = name
            elif isinstance(layer, nn.MaxPool2d) and last is not None:
                blocks, last = [*blocks, last], None
        if blocks:
            relus = blocks if last is None else [*blocks, last]
    return dict(enumerate(relus, start=1))
