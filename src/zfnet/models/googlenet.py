"""GoogLeNet as it was published in Caffe: local response normalisation, 5x5 branches and no batch
normalisation, where torchvision's has batch normalisation and 3x3.
"""

import torch
import torch.nn.functional as F
from torch import nn

# maps of: the 1x1 branch; the 3x3 branch, reduced and full; the 5x5 branch, reduced and full; the
# pooled branch
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class Inception(nn.Module):
    """Four branches side by side: maps (N, C, h, w) to (N, their sum, h, w), rectified."""

    def __init__(self, maps: int, one: int, low3: int, three: int, low5: int, five: int, pool: int):
        super().__init__()
        self.branch1 = nn.Conv2d(maps, one, 1)
        self.branch2 = nn.Sequential(nn.Conv2d(maps, low3, 1), nn.Conv2d(low3, three, 3, padding=1))
        self.branch3 = nn.Sequential(nn.Conv2d(maps, low5, 1), nn.Conv2d(low5, five, 5, padding=2))
        self.branch4 = nn.Conv2d(maps, pool, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        branches = [F.relu(self.branch1(maps))]
        for reduce, convolve in (self.branch2, self.branch3):
            branches.append(F.relu(convolve(F.relu(reduce(maps)))))
        branches.append(F.relu(self.branch4(F.max_pool2d(maps, 3, 1, padding=1))))
        return torch.cat(branches, 1)


class GoogLeNet(nn.Module):
    """Szegedy et al. (2014): images (N, 3, 224, 224), RGB of 0..255 minus a mean, to logits (N,
    num_classes).
    """

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 64, 7, 2, padding=3), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(64, 64, 1), nn.ReLU()
        self.conv3, self.relu3 = nn.Conv2d(64, 192, 3, padding=1), nn.ReLU()
        self.norm1, self.norm2 = (nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0) for _ in range(2))
        maps = 192
        for name, widths in INCEPTIONS.items():
            self.add_module(f"inception{name}", Inception(maps, *widths))
            maps = sum(widths[n] for n in (0, 2, 4, 5))
        for n in range(1, 5):
            self.add_module(f"pool{n}", nn.MaxPool2d(3, 2, ceil_mode=True))
        self.avgpool, self.dropout = nn.AdaptiveAvgPool2d(1), nn.Dropout(0.4)
        self.fc = nn.Linear(maps, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.norm1(self.pool1(self.relu1(self.conv1(images))))
        maps = self.relu3(self.conv3(self.relu2(self.conv2(maps))))
        maps = self.pool2(self.norm2(maps))
        for name in INCEPTIONS:
            maps = getattr(self, f"inception{name}")(maps)
            if name in ("3b", "4e"):
                maps = (self.pool3 if name == "3b" else self.pool4)(maps)
        return self.fc(self.dropout(torch.flatten(self.avgpool(maps), 1)))
