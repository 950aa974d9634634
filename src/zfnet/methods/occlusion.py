"""Occlusion sensitivity (paper, section 4.2 and Fig. 7): slide a grey square over the image and
watch the net.

One pass over the positions serves every panel: the activity of the layer-5 map that is strongest on
the clean image (b), the probability of the true class (d) and the most probable class (e), each as
a raw grid without averaging or interpolation.

The pass is incremental: of every map only what the square can reach is computed anew, the rest is
read from the clean image's maps, and the classifier runs on the maps put together. The numbers are
those of the full pass. Where the square reaches nearly everything, the full pass is taken.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from zfnet.graph.forward import evaluating
from zfnet.graph.layers import paper_layers
from zfnet.graph.stack import SUPPORTED, check_supported, forward_layer, pair
from zfnet.graph.windows import (
    Stage,
    assemble,
    cut,
    forward_window,
    reach,
    receptive_field,
    windows_pay,
)
from zfnet.store.errors import Unsupported, UserError

CHUNK = 128  # positions at once: more is no faster
OVERHEAD = 1.1  # of a multiply-add on windows, measured on ZFNet at 96, 128 and 224 px
LIVE_OVERHEAD = 1.5  # of a multiply-add on a single window, measured at 128 and 224 px on one core
HEAD = 512  # positions that share one pass of the classifier


@dataclass(frozen=True)
class Occlusion:
    """Raw grids over the square's positions; entry (i, j) has the square's corner at pixel
    (tops[i], lefts[j]).

    probability (R, C) of `target`; label (R, C) the most probable class; activity (R, C) of map
    `channel` of `layer`, summed over space; logits (R, C, classes); and the same quantities of the
    clean image. Tensors are on the CPU.
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
    """First pixels of the square along one axis: every `stride` from 0 while it fits, and last
    flush with the border.
    """
    starts = torch.arange(0, length - size + 1, stride)
    return (
        starts
        if starts[-1] == length - size
        else torch.cat([starts, torch.tensor([length - size])])
    )


@torch.no_grad()
def occlude(
    model: nn.Module,
    image: torch.Tensor,
    target: int,
    size: int,
    stride: int,
    fill: float | torch.Tensor = 0.0,
    layer: str | None = None,
    channel: int | None = None,
    batch_size: int | None = None,
    incremental: bool | None = None,
) -> Occlusion:
    """Occlude one image (3, H, W) with a `size` x `size` square at every position of a grid with
    that `stride`.

    `fill`: the square's value in units of the network's input, a number or a tensor that broadcasts
    to (3, H, W); 0 is the mean colour of the training data. `layer` and `channel` choose the map
    that panel (b) follows: by default the paper's layer 5 (the last there is in a shallower net)
    and the map with the largest total activity on the clean image. `batch_size`: how many positions
    at once, by default what fits into a quarter of the free memory (on the CPU half a GiB at most),
    128 at most. `incremental`: True or False settles whether only what the square can change is
    computed; None leaves it to the cost. Raises ValueError for an image too small for the net, a
    square or fill that does not fit, an unknown target, layer or channel.
    """
    if image.ndim != 3:
        raise UserError(
            f"image: expected (3, rows, columns), got {tuple(image.shape)}; `occlude_all` takes a"
            " batch"
        )
    height, width = image.shape[-2:]
    if not 1 <= size <= min(height, width):
        raise UserError(
            f"size = {size}: the square must fit into the image of {height} x {width} pixels"
        )
    if stride < 1:
        raise UserError(f"stride = {stride}: must be at least 1")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size = {batch_size}: must be at least 1, or None")
    names = [name for name, _ in model.features.named_children()]
    layers = paper_layers(model.features)
    layer = layer or layers.get(5) or layers[max(layers)]
    if layer not in names:
        raise UserError(f"no layer {layer!r}: choose one of {', '.join(names)}")
    image = image.to(next(model.parameters()))
    try:
        fill = torch.as_tensor(fill, dtype=image.dtype, device=image.device).expand_as(image)
    except RuntimeError:
        raise UserError(
            f"fill of shape {tuple(fill.shape)} does not broadcast to the image's"
            f" {tuple(image.shape)}"
        ) from None
    if _known(model.features):
        # names an image too small for the net
        receptive_field(model.features, names[-1], (height, width))
    with evaluating(model):
        clean = _clean_maps(model.features, image)
        logits = model.classifier(torch.flatten(model.avgpool(clean[-1]), 1))
        if not 0 <= target < logits.shape[1]:
            raise UserError(f"target = {target}: choose a class from 0 to {logits.shape[1] - 1}")
        followed = clean[names.index(layer) + 1][0]
        totals = followed.sum((1, 2))
        channel = int(totals.argmax()) if channel is None else channel
        if not 0 <= channel < len(totals):
            raise UserError(
                f"channel {channel} is not in {layer}, which has channels 0 to {len(totals) - 1}"
            )
        tops, lefts = positions(height, size, stride), positions(width, size, stride)
        corners = torch.cartesian_prod(tops, lefts)
        stages = (
            reach(model.features, (height, width), corners, (size, size))
            if _known(model.features)
            else None
        )
        if incremental is None:
            incremental = stages is not None and windows_pay(
                list(model.features),
                [s.size for s in stages],
                [s.map_size for s in stages],
                OVERHEAD,
            )
        elif incremental and stages is None:
            check_supported(model.features)
        run = _incremental if incremental else _whole
        batch_size = batch_size or _chunk(model.features, clean, stages if incremental else None)
        features, activity, found = [], [], []
        for chunk in corners.split(batch_size):
            maps, chosen = run(
                model.features, clean, image, chunk, size, fill, names.index(layer), channel
            )
            features.append(torch.flatten(model.avgpool(maps), 1))
            activity.append(chosen.sum((1, 2)))
            # the classifier's weights are read once for many positions, not once for each chunk
            if sum(map(len, features)) >= HEAD:
                found.append(model.classifier(torch.cat(features)))
                features = []
        if features:
            found.append(model.classifier(torch.cat(features)))
    grid = (len(tops), len(lefts))
    found = torch.cat(found).view(*grid, -1).cpu()
    probability = found.softmax(-1)[..., target]
    return Occlusion(
        probability,
        found.argmax(-1),
        torch.cat(activity).view(grid).cpu(),
        found,
        tops,
        lefts,
        size,
        stride,
        target,
        layer,
        channel,
        float(logits[0].softmax(0)[target]),
        int(logits[0].argmax()),
        float(totals[channel]),
    )


class LiveOcclusion:
    """The square at one position at a time, for an answer while somebody drags it: the clean
    image's maps are kept, so that only what the square can reach is computed, where that costs less
    than the full pass.

        live = LiveOcclusion(model, image)              # follows the strongest map of the paper's
        layer 5, as `occlude` does
        logits, maps = live.at(40, 24, size=32)         # (classes,), and the followed map (h, w),
        both on the CPU

    image (3, H, W), `fill`, `layer` and `channel` as for `occlude`. `clean_logits` and `clean_map`:
    without the square.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: nn.Module,
        image: torch.Tensor,
        fill: float | torch.Tensor = 0.0,
        layer: str | None = None,
        channel: int | None = None,
    ):
        self.model, self.image = model, image.to(next(model.parameters()))
        self.fill = torch.as_tensor(
            fill, dtype=self.image.dtype, device=self.image.device
        ).expand_as(self.image)
        # one image at a time spends much of its time on bringing the weights into the maps' layout:
        # done once
        self.features = copy.deepcopy(model.features).to(memory_format=torch.channels_last)
        self._maps = _clean_maps(self.features, self.image)
        self.clean_logits = self._logits(self._maps[-1])
        self.follow(layer, channel)

    def follow(self, layer: str | None = None, channel: int | None = None) -> None:
        """Follow another map from now on; ValueError for one that the net does not have."""
        names, layers = (
            [name for name, _ in self.model.features.named_children()],
            paper_layers(self.model.features),
        )
        self.layer = layer or layers.get(5) or layers[max(layers)]
        if self.layer not in names:
            raise UserError(f"no layer {self.layer!r}: choose one of {', '.join(names)}")
        self._number = names.index(self.layer)
        maps = self._maps[self._number + 1][0]
        self.channel = int(maps.sum((1, 2)).argmax()) if channel is None else channel
        if not 0 <= self.channel < len(maps):
            raise UserError(
                f"channel {self.channel} is not in {self.layer}, which has channels 0 to"
                f" {len(maps) - 1}"
            )
        self.clean_map = maps[self.channel].cpu()

    @torch.no_grad()
    def at(
        self, top: int, left: int, size: int, incremental: bool | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (classes,) and the followed map (h, w) with the square's corner at pixel (top,
        left); ValueError where it does not lie in the image.

        `incremental`: True or False settles how; None leaves it to the cost.
        """
        height, width = self.image.shape[-2:]
        if size < 1 or not (0 <= top <= height - size and 0 <= left <= width - size):
            raise UserError(
                f"a square of {size} pixels at ({top}, {left}) does not lie in the image of"
                f" {height} x {width} pixels"
            )
        corner = torch.tensor([[top, left]])
        stages = (
            reach(self.features, (height, width), corner, (size, size))
            if incremental is not False and _known(self.features)
            else None
        )
        if incremental is None:
            sizes = [(stage.size, stage.map_size) for stage in stages or ()]
            incremental = bool(sizes) and windows_pay(
                list(self.features), *zip(*sizes, strict=True), LIVE_OVERHEAD
            )
        elif incremental and stages is None:
            check_supported(self.features)
        if incremental:
            maps, chosen = self._changed(stages, corner, size)
        else:
            maps, chosen = _whole(
                self.features,
                self._maps,
                self.image,
                corner,
                size,
                self.fill,
                self._number,
                self.channel,
            )
            chosen = chosen[0]
        return self._logits(maps), chosen.cpu()

    def _changed(
        self, stages: list[Stage], corner: torch.Tensor, size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`_incremental` for one position: slices instead of a gather, which would read the clean
        maps whole.
        """
        have = tuple(corner[0].tolist())
        changed = _laid(self.fill[None], (), have, (size, size), 0.0)
        for number, stage in enumerate(stages):
            module, start = stage.module, tuple(stage.start[0].tolist())
            if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
                kernel, step, pad, dilation = (
                    pair(getattr(module, key))
                    for key in ("kernel_size", "stride", "padding", "dilation")
                )
                seen = tuple(
                    (n - 1) * s + d * (k - 1) + 1
                    for n, s, d, k in zip(stage.size, step, dilation, kernel, strict=True)
                )
                want = tuple(first * s - p for first, s, p in zip(start, step, pad, strict=True))
                outside = 0.0 if isinstance(module, nn.Conv2d) else float("-inf")
                window = _laid(self._maps[number], ((changed, have),), want, seen, outside)
                changed, have = forward_window(module, window), start
            else:
                changed = forward_layer(module, changed, inplace=True)
            if number == self._number:
                one = slice(self.channel, self.channel + 1)
                chosen = _laid(
                    self._maps[number + 1][:, one],
                    ((changed[:, one], have),),
                    (0, 0),
                    stage.map_size,
                    0.0,
                )[0, 0]
        return _laid(self._maps[-1], ((changed, have),), (0, 0), stage.map_size, 0.0), chosen

    def _logits(self, maps: torch.Tensor) -> torch.Tensor:
        with evaluating(self.model):
            return self.model.classifier(torch.flatten(self.model.avgpool(maps), 1))[0].cpu()


def _laid(
    clean: torch.Tensor, changes, want: tuple[int, int], size: tuple[int, int], outside: float
) -> torch.Tensor:
    """A window (1, C, *size) from row and column `want` on of a map (1, C, H, W), with changes,
    each with where it lies in the map, laid over it.
    """
    window = (
        clean.new_empty(1, clean.shape[1], *size)
        .contiguous(memory_format=torch.channels_last)
        .fill_(outside)
    )
    for maps, have in ((clean, (0, 0)), *changes):
        first = [max(h, w) for h, w in zip(have, want, strict=True)]
        last = [
            min(h + n, w + m) for h, n, w, m in zip(have, maps.shape[-2:], want, size, strict=True)
        ]
        if all(a < b for a, b in zip(first, last, strict=True)):
            here, there = (
                [slice(a - o, b - o) for a, b, o in zip(first, last, origin, strict=True)]
                for origin in (have, want)
            )
            window[:, :, *there] = maps[:, :, *here]
    return window


def occlude_all(
    model: nn.Module,
    images: torch.Tensor,
    targets: Sequence[int] | torch.Tensor,
    size: int,
    stride: int,
    **options,
) -> list[Occlusion]:
    """`occlude` for every image of a batch (N, 3, H, W) and its target (N,), with progress on a
    terminal.
    """
    if len(images) != len(targets):
        raise UserError(f"{len(images)} images, but {len(targets)} targets: give one for each")
    pairs = zip(images, torch.as_tensor(targets).tolist(), strict=True)
    return [
        occlude(model, image, target, size, stride, **options)
        for image, target in tqdm(pairs, "occlude", len(images), disable=None, leave=False)
    ]


def _known(features: nn.Module) -> bool:
    try:
        check_supported(features)
    except Unsupported:
        return False
    return True


def _clean_maps(features: nn.Sequential, image: torch.Tensor) -> list[torch.Tensor]:
    """The image (1, 3, H, W) and the output of every layer."""
    maps = [image[None].contiguous(memory_format=torch.channels_last)]
    for module in features:
        # others may work in place
        maps.append(
            forward_layer(module, maps[-1] if isinstance(module, SUPPORTED) else maps[-1].clone())
        )
    return maps


def _chunk(features: nn.Sequential, clean: list[torch.Tensor], stages: list[Stage] | None) -> int:
    """How many positions at once: 128, or fewer where they would fill more than a quarter of the
    free memory, on the CPU more than half a GiB.
    """
    sizes = [stage.size for stage in stages] if stages else [maps.shape[-2:] for maps in clean[1:]]
    widest = max(
        maps.shape[1] * rows * cols for maps, (rows, cols) in zip(clean[1:], sizes, strict=True)
    )
    # a layer's input, its copy with the changes, its output
    each = 6 * widest * clean[0].element_size()
    if clean[0].is_cuda:
        free = torch.cuda.mem_get_info(clean[0].device)[0]
    else:
        # Linux; elsewhere a GiB is taken for free
        known = "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {})
        # more is no faster, and a container may have less
        free = (
            min(2**31, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
            if known
            else 2**30
        )
    return max(1, min(CHUNK, int(free / 4 / each)))


def _whole(
    features, clean, image, corners, size, fill, followed, channel
) -> tuple[torch.Tensor, torch.Tensor]:
    """The last layer's maps, and `channel` of layer number `followed`, for covered images: the
    plain forward pass.
    """
    x = image.repeat(len(corners), 1, 1, 1).contiguous(memory_format=torch.channels_last)
    for one, (top, left) in zip(x, corners.tolist(), strict=True):
        one[:, top : top + size, left : left + size] = fill[:, top : top + size, left : left + size]
    for number, module in enumerate(features):
        x = forward_layer(module, x, inplace=True)
        if number == followed:
            chosen = x[:, channel].clone()
    return x, chosen


def _incremental(
    features, clean, image, corners, size, fill, followed, channel
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, computing of every map only what the square can change and reading the rest from
    the clean image's.
    """
    changed, have = cut(fill.expand(len(corners), *fill.shape), corners, (size, size)), corners
    for number, stage in enumerate(reach(features, tuple(image.shape[-2:]), corners, (size, size))):
        module = stage.module
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
            kernel, step, pad, dilation = (
                pair(getattr(module, key))
                for key in ("kernel_size", "stride", "padding", "dilation")
            )
            seen = tuple(
                (n - 1) * s + d * (k - 1) + 1
                for n, s, d, k in zip(stage.size, step, dilation, kernel, strict=True)
            )
            outside = 0.0 if isinstance(module, nn.Conv2d) else float("-inf")
            windows = assemble(
                clean[number],
                changed,
                have,
                stage.start * torch.tensor(step) - torch.tensor(pad),
                seen,
                outside,
            )
            changed, have = forward_window(module, windows), stage.start
        else:
            changed = forward_layer(module, changed, inplace=True)
        if number == followed:
            one = slice(channel, channel + 1)
            chosen = assemble(
                clean[number + 1][:, one],
                changed[:, one],
                have,
                torch.zeros_like(have),
                stage.map_size,
            )[:, 0]
    return assemble(clean[-1], changed, have, torch.zeros_like(have), stage.map_size), chosen
