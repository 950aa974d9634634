"""Krizhevsky's AlexNet as it was trained: split over two GPUs, so that layers 2, 4 and 5 have two
groups. The layers alone: the weights that are to be had come without a classifier.
"""

from collections import OrderedDict

import torch
from torch import nn

# maps, kernel, stride, padding, groups
LAYERS = (
    (96, 11, 4, 0, 1),
    (256, 5, 1, 2, 2),
    (384, 3, 1, 1, 1),
    (384, 3, 1, 1, 2),
    (256, 3, 1, 1, 2),
)


class AlexNetGroups(nn.Module):
    """Images (N, 3, 227, 227), RGB of 0..255 minus a mean, to the pooled maps of layer 5, (N, 256,
    6, 6). Normalisation follows the pools of layers 1 and 2.
    """

    def __init__(self):
        super().__init__()
        layers, before = OrderedDict(), 3
        for n, (maps, kernel, stride, padding, groups) in enumerate(LAYERS, start=1):
            layers[f"conv{n}"] = nn.Conv2d(
                before, maps, kernel, stride, padding=padding, groups=groups
            )
            layers[f"relu{n}"] = nn.ReLU()
            if n in (1, 2, 5):
                layers[f"pool{n}"] = nn.MaxPool2d(3, 2)
            if n <= 2:  # torch divides alpha by the size
                layers[f"norm{n}"] = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
            before = maps
        self.features = nn.Sequential(layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.features(images)
