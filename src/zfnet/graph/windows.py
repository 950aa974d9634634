"""Receptive fields, from the network itself: which pixels one unit of a layer can see.

Through the stack, kernel k (dilated: d(k-1)+1), stride s and padding p update (size, stride,
offset):

    size   <- size + (k - 1) * d * stride       offset <- offset - p * stride       stride <- stride
    * s

A unit at row r then sees rows offset + r * stride up to offset + r * stride + size: where no border
is near. Near a border its exact field is found by following the unit down, layer by layer, and
clipping at each map: a pool in ceil mode or a strided convolution can leave the last pixels unseen.

Passes over windows stand on this: `plan` says what of every map a unit sees, `reach` what of every
map a change to the image alters, and `assemble` lays such changes over a clean map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from zfnet.graph.stack import check_supported, layers_up_to, pair
from zfnet.store.errors import UserError

NEVER = 1 << 40  # larger than any index


@dataclass(frozen=True)
class ReceptiveField:
    """Geometry of one layer's units, each a pair for rows and columns, in pixels: `size` unclipped,
    `stride` between neighbours, `offset` of unit 0.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]
    map_size: tuple[int, int]
    input_size: tuple[int, int]
    # per axis and layer: kernel, stride, padding, dilation, inputs
    chain: tuple[tuple[tuple[int, ...], ...], ...] = field(repr=False, default=())

    def box(self, row: int, col: int) -> tuple[int, int, int, int]:
        """The unit's receptive field, (top, left, bottom, right), half-open and clipped; ValueError
        outside the map.
        """
        if not (0 <= row < self.map_size[0] and 0 <= col < self.map_size[1]):
            raise UserError(
                f"position ({row}, {col}) is outside the map of {self.map_size[0]} x"
                f" {self.map_size[1]} units"
            )
        (top, bottom), (left, right) = (
            _follow(layers, unit) for layers, unit in zip(self.chain, (row, col), strict=True)
        )
        return top, left, bottom, right


def _follow(layers: tuple[tuple[int, ...], ...], unit: int) -> tuple[int, int]:
    """The half-open range of pixels that a unit sees along one axis."""
    # a set, not a range: beside a border a dilated kernel's first tap inside can lie anywhere
    seen = {unit}
    for kernel, stride, pad, dilation, inputs in reversed(layers):
        taps = {start * stride - pad + n * dilation for start in seen for n in range(kernel)}
        seen = {tap for tap in taps if 0 <= tap < inputs}
    return (min(seen), max(seen) + 1) if seen else (0, 0)


def receptive_field(
    features: nn.Sequential, layer: str, input_size: int | tuple[int, int]
) -> ReceptiveField:
    """Receptive-field geometry of `layer`'s units for an input of that many pixels (a side, or rows
    and columns).

    Raises TypeError for an unsupported module and ValueError for an unknown layer or an input too
    small to reach it.
    """
    check_supported(features)
    map_size = input_size = pair(input_size)
    size, stride, offset = (1, 1), (1, 1), (0, 0)
    chain: tuple[list, list] = ([], [])
    for name, module in layers_up_to(features, layer):
        if not isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
            continue
        kernel, step, pad, dilation = (
            pair(getattr(module, key)) for key in ("kernel_size", "stride", "padding", "dilation")
        )
        for axis, geometry in zip(
            chain, zip(kernel, step, pad, dilation, map_size, strict=True), strict=True
        ):
            axis.append(geometry)
        map_size = tuple(
            _outputs(n, *geometry, module)
            for n, *geometry in zip(map_size, kernel, step, pad, dilation, strict=True)
        )
        if min(map_size) < 1:
            raise UserError(
                f"an input of {input_size[0]} x {input_size[1]} pixels is too small to reach {name}"
            )
        size = tuple(
            n + (k - 1) * d * s for n, k, d, s in zip(size, kernel, dilation, stride, strict=True)
        )
        offset = tuple(o - p * s for o, p, s in zip(offset, pad, stride, strict=True))
        stride = tuple(s * t for s, t in zip(stride, step, strict=True))
    return ReceptiveField(size, stride, offset, map_size, input_size, tuple(map(tuple, chain)))


def _outputs(n: int, kernel: int, stride: int, pad: int, dilation: int, module: nn.Module) -> int:
    """Map size after a convolution or pool; in ceil mode a window that would start in the right
    padding is dropped, as PyTorch does.
    """
    room = n + 2 * pad - dilation * (kernel - 1) - 1
    if not getattr(module, "ceil_mode", False):
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= n + pad else count


@dataclass(frozen=True)
class Stage:
    """One layer's input windows: `start` (N, 2) is the row and column of each window's first
    element in a map of `map_size`; it may be negative.
    """

    module: nn.Module
    start: torch.Tensor
    size: tuple[int, int]
    map_size: tuple[int, int]


def blank(x: torch.Tensor, stage: Stage, fill: float) -> torch.Tensor:
    """Put `fill` wherever a window (N, C, h, w) reaches beyond the map, in place: there the
    full-size pass has padding, or nothing.
    """
    outside = _outside(stage.start, stage.size, stage.map_size)
    return x if outside is None else x.masked_fill_(outside[:, None].to(x.device), fill)


def plan(
    features: nn.Sequential, layer: str, input_size: int | tuple[int, int], position: torch.Tensor
) -> list[Stage]:
    """The windows that units at `position` (N, 2) of `layer` see in every map on the way, first
    layer first.

    A window has the same size for every unit, wherever it is, so that units of any image, channel
    and border position share a batch.
    """
    field = receptive_field(features, layer, input_size)
    geometry = list(zip(*field.chain, strict=True))
    start, size, map_size, stages = position.cpu(), (1, 1), field.map_size, []
    for _, module in reversed(layers_up_to(features, layer)):
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
            kernel, step, pad, dilation, map_size = zip(*geometry.pop(), strict=True)
            start = start * torch.tensor(step) - torch.tensor(pad)
            size = tuple(
                (n - 1) * s + d * (k - 1) + 1
                for n, s, k, d in zip(size, step, kernel, dilation, strict=True)
            )
        stages.append(Stage(module, start, size, map_size))
    return stages[::-1]


def _outside(
    start: torch.Tensor, size: tuple[int, int], map_size: tuple[int, int]
) -> torch.Tensor | None:
    """Which elements of the windows lie outside the map: bool (N, h, w), or None when none does."""
    if (start >= 0).all() and (start + torch.tensor(size) <= torch.tensor(map_size)).all():
        return None
    rows, cols = (start[:, axis, None] + torch.arange(size[axis]) for axis in (0, 1))
    return ((rows < 0) | (rows >= map_size[0]))[:, :, None] | ((cols < 0) | (cols >= map_size[1]))[
        :, None, :
    ]


def cut(maps: torch.Tensor, start: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Windows (N, C, *size) of maps (N, C, H, W) from row and column `start` (N, 2) on, zero
    outside the map.
    """
    windows = maps.new_zeros(*maps.shape[:2], *size).contiguous(memory_format=torch.channels_last)
    for source, target, here, there in _overlaps(maps, windows, start, size):
        target[:, *there] = source[:, *here]
    return windows


def paste(windows: torch.Tensor, start: torch.Tensor, map_size: tuple[int, int]) -> torch.Tensor:
    """The reverse of `cut`: windows (N, C, h, w) in maps (N, C, *map_size) of zeros; what lies
    outside is dropped.
    """
    maps = windows.new_zeros(*windows.shape[:2], *map_size)
    for target, source, there, here in _overlaps(maps, windows, start, windows.shape[-2:]):
        target[:, *there] = source[:, *here]
    return maps


def _overlaps(maps, windows, start, size) -> Iterator[tuple]:
    """Each map and its window, with the slices in either that coincide."""
    for one, window, (top, left) in zip(maps, windows, start.tolist(), strict=True):
        first, last = (
            (max(0, -top), max(0, -left)),
            (
                min(size[0], maps.shape[-2] - top),
                min(size[1], maps.shape[-1] - left),
            ),
        )
        if first[0] < last[0] and first[1] < last[1]:
            inside = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
            yield (
                one,
                window,
                tuple(
                    slice(s.start + o, s.stop + o) for s, o in zip(inside, (top, left), strict=True)
                ),
                inside,
            )


def multiply_adds(stack: Sequence[nn.Module], sizes: Sequence[tuple[int, int]]) -> int:
    """What the convolutions of a stack cost one image, or one window, on its way up; `sizes`: the
    output size of every layer.
    """
    total = 0
    for module, (rows, cols) in zip(stack, sizes, strict=True):
        if isinstance(module, nn.Conv2d):
            kernel = pair(module.kernel_size)
            total += (
                rows
                * cols
                * module.out_channels
                * (module.in_channels // module.groups)
                * kernel[0]
                * kernel[1]
            )
    return total


def windows_pay(
    stack: Sequence[nn.Module],
    windows: Sequence[tuple[int, int]],
    maps: Sequence[tuple[int, int]],
    overhead: float,
) -> bool:
    """Whether a pass over windows costs less than one over whole maps, given the size of every
    layer's output in either.

    `overhead`: how many times as long a multiply-add takes in a window as in a whole map.
    """
    return overhead * multiply_adds(stack, windows) < multiply_adds(stack, maps)


def map_sizes(features: nn.Sequential, input_size: tuple[int, int]) -> list[tuple[int, int]]:
    """The size of every layer's output."""
    last = receptive_field(features, list(features.named_children())[-1][0], input_size)
    geometry = list(zip(*last.chain, strict=True))
    sizes = [tuple(axis[4] for axis in both) for both in geometry] + [last.map_size]
    counts = torch.tensor(
        [isinstance(module, (nn.Conv2d, nn.MaxPool2d)) for module in features]
    ).cumsum(0)
    return [sizes[n] for n in counts.tolist()]


def reach(
    features: nn.Sequential, input_size: tuple[int, int], start: torch.Tensor, size: tuple[int, int]
) -> list[Stage]:
    """What of every layer's output changes when windows of the image change: from `start` (N, 2)
    on, `size` (rows, columns), all inside the image.

    The stages are outputs, first layer first; their windows lie inside the map and have one size,
    large enough for all N.
    """
    stages = []
    for module, map_size in zip(features, map_sizes(features, input_size), strict=True):
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
            kernel, step, pad, dilation = (
                torch.tensor(pair(getattr(module, key)))
                for key in ("kernel_size", "stride", "padding", "dilation")
            )
            limit = torch.tensor(map_size)
            first = (
                (start + pad - dilation * (kernel - 1) + step - 1)
                .div(step, rounding_mode="floor")
                .clamp_min(0)
            )
            end = (
                (start + torch.tensor(size) - 1 + pad)
                .div(step, rounding_mode="floor")
                .add(1)
                .minimum(limit)
            )
            size = tuple((end - first).amax(0).clamp_min(1).tolist())
            start = first.minimum(limit - torch.tensor(size))
        stages.append(Stage(module, start, size, map_size))
    return stages


def forward_window(module: nn.Conv2d | nn.MaxPool2d, windows: torch.Tensor) -> torch.Tensor:
    """A convolution or pool without its padding, which the windows already hold."""
    if isinstance(module, nn.Conv2d):
        return F.conv2d(
            windows, module.weight, module.bias, module.stride, 0, module.dilation, module.groups
        )
    return F.max_pool2d(windows, module.kernel_size, module.stride, 0, module.dilation)


def assemble(
    clean: torch.Tensor,
    changed: torch.Tensor,
    have: torch.Tensor,
    want: torch.Tensor,
    size: tuple[int, int],
    fill: float = 0.0,
) -> torch.Tensor:
    """Windows of a clean map with changes laid over it.

    clean (1, C, H, W): the map; changed (N, C, h, w): what replaces it from row and column `have`
    (N, 2) on; want (N, 2), size: the windows asked for, which hold `fill` outside the map. Returns
    (N, C, *size) in channels_last: one gather of whole pixels.
    """
    channels, height, width = clean.shape[1:]
    n, _, h, w = changed.shape
    (row, r), (col, c) = (
        (want[:, axis, None] + torch.arange(size[axis]), have[:, axis, None]) for axis in (0, 1)
    )
    row_place = torch.where((row >= r) & (row < r + h), (row - r) * w, NEVER)
    col_place = torch.where((col >= c) & (col < c + w), col - c, NEVER)
    row_clean = torch.where((row >= 0) & (row < height), row * width, -NEVER)
    col_clean = torch.where((col >= 0) & (col < width), col, -NEVER)
    index = (row_clean[:, :, None] + col_clean[:, None, :]).clamp_min(-1)
    place = row_place[:, :, None] + col_place[:, None, :]
    index = torch.where(
        place < NEVER,
        place + (height * width + 1 + torch.arange(n)[:, None, None] * (h * w)),
        index,
    )
    index.masked_fill_(index < 0, height * width)
    pixels = [maps.permute(0, 2, 3, 1).reshape(-1, channels) for maps in (clean, changed)]
    source = torch.cat([pixels[0], clean.new_full((1, channels), fill), pixels[1]])
    return (
        source.index_select(0, index.flatten().to(source.device))
        .view(n, *size, channels)
        .permute(0, 3, 1, 2)
    )
