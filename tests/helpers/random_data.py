"""Small data sets of random pixels, one class after the other."""

from __future__ import annotations

import torch

from zfnet.data.images import Data, Images


def tiny(count=24, classes=4, stored=64, size=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(
        0, 256, (count, 3, stored, stored), generator=generator, dtype=torch.uint8
    )
    labels = torch.arange(count) % classes
    return Images(
        pixels, labels, tuple("abcdefgh"[:classes]), size, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    )


def data(**kind):
    images = tiny(**kind)
    return Data(images, tiny(**{**kind, "seed": 1}), tiny(**{**kind, "seed": 2}), images.classes)
