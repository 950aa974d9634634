"""Occlusion sensitivity (paper, section 4.2 and Fig. 7): slide a grey square over the image and watch the net.

One pass over the positions serves every panel: the activity of the layer-5 map that is strongest on the clean image (b), the probability of
the true class (d) and the most probable class (e), each as a raw grid without averaging or interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from .deconv import forward_layer
from .models import evaluating, paper_layers


@dataclass(frozen=True)
class Occlusion:
    """Raw grids over the square's positions; entry (i, j) has the square's corner at pixel (tops[i], lefts[j]).

    probability (R, C) of `target`; label (R, C) the most probable class; activity (R, C) of map `channel` of `layer`, summed over space;
    logits (R, C, classes); and the same quantities of the clean image. Tensors are on the CPU.
    """

    probability: torch.Tensor
    label: torch.Tensor
    activity: torch.Tensor
    logits: torch.Tensor
    tops: torch.Tensor
    lefts: torch.Tensor
    size: int
    stride: int
    target: int
    layer: str
    channel: int
    clean_probability: float
    clean_label: int
    clean_activity: float

    def centre(self, row: int, col: int) -> tuple[float, float]:
        """Row and column, in pixels, of the square's centre at grid entry (row, col)."""
        return float(self.tops[row]) + self.size / 2, float(self.lefts[col]) + self.size / 2


def positions(length: int, size: int, stride: int) -> torch.Tensor:
    """First pixels of the square along one axis: every `stride` from 0 while it fits, and last flush with the border."""
    starts = torch.arange(0, length - size + 1, stride)
    return starts if starts[-1] == length - size else torch.cat([starts, torch.tensor([length - size])])


@torch.no_grad()
def occlude(model: nn.Module, image: torch.Tensor, target: int, size: int, stride: int, fill: float | torch.Tensor = 0.0,
            layer: str | None = None, channel: int | None = None, batch_size: int = 64) -> Occlusion:  # fmt: skip
    """Occlude one image (3, H, W) with a `size` x `size` square at every position of a grid with that `stride`.

    `fill`: the square's value in units of the network's input, a number or a tensor that broadcasts to (3, H, W); 0 is the mean colour of the training
    data. `layer` and `channel` choose the map that panel (b) follows: by default the paper's layer 5 and the map with the largest total activity
    on the clean image. Raises ValueError for a square that does not fit, an unknown target, layer or channel.
    """
    if image.ndim != 3:
        raise ValueError(f"image: expected (3, rows, columns), got {tuple(image.shape)}")
    height, width = image.shape[-2:]
    if not 1 <= size <= min(height, width):
        raise ValueError(f"size = {size}: the square must fit into the image of {height} x {width} pixels")
    if stride < 1:
        raise ValueError(f"stride = {stride}: must be at least 1")
    layer = layer or paper_layers(model.features)[5]
    names = [name for name, _ in model.features.named_children()]
    if layer not in names:
        raise ValueError(f"no layer {layer!r}: choose one of {', '.join(names)}")
    image = image.to(next(model.parameters()))
    with evaluating(model):
        logits, maps = _forward(model, image[None], layer)
        if not 0 <= target < logits.shape[1]:
            raise ValueError(f"target = {target}: choose a class from 0 to {logits.shape[1] - 1}")
        totals = maps[0].sum((1, 2))
        channel = int(totals.argmax()) if channel is None else channel
        if not 0 <= channel < len(totals):
            raise ValueError(f"channel {channel} is not in {layer}, which has channels 0 to {len(totals) - 1}")
        tops, lefts = positions(height, size, stride), positions(width, size, stride)
        fill = torch.as_tensor(fill, dtype=image.dtype, device=image.device).expand_as(image)
        grid_logits, activity = [], []
        for corners in torch.cartesian_prod(tops, lefts).split(batch_size):
            covered = image.repeat(len(corners), 1, 1, 1)
            for one, (top, left) in zip(covered, corners.tolist(), strict=True):
                one[:, top : top + size, left : left + size] = fill[:, top : top + size, left : left + size]
            out, maps_ = _forward(model, covered, layer)
            grid_logits.append(out)
            activity.append(maps_[:, channel].sum((1, 2)))
    grid = (len(tops), len(lefts))
    found = torch.cat(grid_logits).view(*grid, -1).cpu()
    probability = found.softmax(-1)[..., target]
    return Occlusion(probability, found.argmax(-1), torch.cat(activity).view(grid).cpu(), found, tops, lefts, size, stride, target, layer, channel,
                     float(logits[0].softmax(0)[target]), int(logits[0].argmax()), float(totals[channel]))  # fmt: skip


def _forward(model: nn.Module, images: torch.Tensor, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, classes) and the maps of `layer`, in one forward pass."""
    x, maps = images.contiguous(memory_format=torch.channels_last), None
    for name, module in model.features.named_children():
        x = forward_layer(module, x)
        if name == layer:
            maps = x
    return model.classifier(torch.flatten(model.avgpool(x), 1)), maps
