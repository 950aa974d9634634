"""What others do, for the same results: captum's attributions, and the loops that people write,
corrected so that they compute the same thing.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import captum.attr
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision import transforms


def captum_projection(
    model: nn.Module,
    layer: str,
    images: torch.Tensor,
    channel: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    """captum's NeuronDeconvolution for one unit of each image; it starts from 1, not from the
    activation.
    """
    every = torch.arange(len(images))
    row, col = position.unbind(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its hooks, and that it asks for gradients
        method = captum.attr.NeuronDeconvolution(model, getattr(model.features, layer))
        return method.attribute(images, lambda maps: maps[every, channel, row, col]).detach()


def captum_occlusion(
    model: nn.Module, image: torch.Tensor, target: int, size: int, stride: int, perturbations: int
) -> torch.Tensor:
    """captum's Occlusion of the target's logit, averaged over the windows that cover a pixel: (1,
    3, H, W).
    """
    method = captum.attr.Occlusion(model)
    with torch.no_grad():
        return method.attribute(
            image[None],
            (3, size, size),
            (3, stride, stride),
            0.0,
            target,
            perturbations_per_eval=perturbations,
        )


@torch.no_grad()
def plain_projection(
    features: nn.Sequential,
    layer: str,
    images: torch.Tensor,
    channel: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    """The whole image up and down in the default layout: pool with indices, zero everything but the
    unit, then unpool, rectify and filter.
    """
    x, tape = images, []
    for name, module in features.named_children():
        size, indices = x.shape, None
        if isinstance(module, nn.MaxPool2d):
            x, indices = F.max_pool2d(
                x,
                module.kernel_size,
                module.stride,
                module.padding,
                module.dilation,
                module.ceil_mode,
                return_indices=True,
            )
        else:
            x = F.relu(x) if isinstance(module, nn.ReLU) else module(x)
        tape.append((module, size, indices))
        if name == layer:
            break
    every, (row, col) = torch.arange(len(x)), position.unbind(1)
    signal = torch.zeros_like(x)
    signal[every, channel, row, col] = x[every, channel, row, col]
    for module, size, indices in reversed(tape):
        if isinstance(module, nn.MaxPool2d):
            maps = torch.zeros(size, dtype=signal.dtype, device=signal.device).flatten(2)
            signal = maps.scatter_add_(2, indices.flatten(2), signal.flatten(2)).view(size)
        elif isinstance(module, nn.ReLU):
            signal = F.relu(signal)
        elif isinstance(module, nn.Conv2d):
            k, s, p = module.kernel_size, module.stride, module.padding
            bare = [(n - 1) * s[i] - 2 * p[i] + k[i] for i, n in enumerate(signal.shape[-2:])]
            missing = [n - b for n, b in zip(size[-2:], bare, strict=True)]
            signal = F.conv_transpose2d(signal, module.weight, None, s, p, missing)
    return signal


class Files(torch.utils.data.Dataset):
    """Image files opened one at a time with PIL and torchvision's transforms, as a plain training
    script has them.
    """

    def __init__(self, folder: Path, labels: torch.Tensor, resize: int, size: int):
        self.paths, self.labels = sorted(folder.glob("*.jpg")), labels
        self.transform = transforms.Compose(
            [
                transforms.Resize(resize),
                transforms.RandomCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.25] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), int(self.labels[index])


def plain_training(
    model: nn.Module, loader: torch.utils.data.DataLoader, lr: float, steps: int
) -> None:
    """SGD with momentum in the default layout, reading the next batch between steps."""
    optimiser = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    device = next(model.parameters()).device
    model.train()
    for step, (images, labels) in enumerate(loader, start=1):
        loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step == steps:
            return
