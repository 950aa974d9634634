"""Receptive fields, from the net itself: which pixels a unit sees, and passes over these alone.

Down through the graph, an operation of kernel k (dilated: d(k-1)+1), stride s and padding p turns
what a unit sees of its output (size, stride, offset) into what it sees of its input:

    size <- (size - 1) * s + d(k-1) + 1       offset <- offset * s - p       stride <- stride * s

and of a map that several operations read the unit sees the union. At row r it sees rows
offset + r * stride up to offset + r * stride + size: where no border is near. Near a border its
exact field is found by following the unit down, node by node, and clipping at each map: a pool in
ceil mode or a strided convolution can leave the last pixels unseen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
import torch.nn.functional as F
from torch import nn

from zfnet.graph.trace import Graph, Kernel, Node, Pair, pair, trace
from zfnet.store.errors import Unsupported, UserError


@dataclass(frozen=True)
class View:
    """What the unit at (row, col) of a layer sees of a map: `size` rows and columns, the first at
    row * stride + offset; all pairs.
    """

    stride: Pair
    offset: Pair
    size: Pair

    def start(self, position: torch.Tensor) -> torch.Tensor:
        """First row and column of the windows of units at `position` (N, 2): int64 (N, 2)."""
        return position * torch.tensor(self.stride) + torch.tensor(self.offset)

    def through(self, kernel: Kernel | None) -> Self:
        """What of its input an operation needs for this much of its output."""
        if kernel is None:
            return self
        strides, offsets, steps = self.stride, self.offset, kernel.stride
        return View(
            _pairs(lambda s, k: s * k, strides, steps),
            _pairs(lambda o, k, p: o * k - p, offsets, steps, kernel.before),
            kernel.inputs(self.size),
        )

    def clipped(self, first: Pair, last: Pair, map_size: Pair) -> Self:
        """Without the rows and columns that lie outside a map of that size for all units from
        `first` to `last`; one of each is kept.
        """
        spans = []
        for stride, offset, size, least, most, limit in zip(
            self.stride, self.offset, self.size, first, last, map_size, strict=True
        ):
            low = min(max(0, -most * stride - offset), size - 1)
            spans.append((low, max(low + 1, min(size, limit - least * stride - offset))))
        (top, bottom), (left, right) = spans
        offset = self.offset[0] + top, self.offset[1] + left
        return View(self.stride, offset, (bottom - top, right - left))

    def joined(self, other: Self | None, name: str) -> Self:
        """What either sees, of the map `name`."""
        if other is None or other == self:
            return self
        if self.stride != other.stride:
            raise Unsupported(f"{name} is read by branches whose strides differ on the way up")
        ends = (_pairs(lambda o, n: o + n, one.offset, one.size) for one in (self, other))
        offset = _pairs(min, self.offset, other.offset)
        return View(self.stride, offset, _pairs(lambda o, *e: max(e) - o, offset, *ends))


def _pairs(function, *pairs: Pair) -> Pair:
    rows, cols = (function(*each) for each in zip(*pairs, strict=True))
    return rows, cols


def views(graph: Graph, layer: int) -> dict[int, View]:
    """What a unit of the layer of this number sees of every map on the way, by number."""
    found = {layer: View((1, 1), (0, 0), (1, 1))}
    for number in reversed(graph.above(layer)):
        node = graph.nodes[number]
        if node.kind == "value":
            continue
        needed = found[number].through(node.kernel)
        for source in node.inputs:
            if graph.nodes[source].kind != "value":
                found[source] = needed.joined(found.get(source), graph.nodes[source].name)
    return found


@dataclass(frozen=True)
class Read:
    """What a node reads of the windows of a source: `crop` of them, with `pad` (left, right, top,
    bottom) around it; `outside` bool (N, 1, h, w), what of the crop lies beyond the map.
    """

    crop: tuple[slice, slice]
    pad: tuple[int, int, int, int]
    whole: bool
    outside: torch.Tensor | None

    def take(self, windows: torch.Tensor, fill: float, inplace: bool) -> torch.Tensor:
        """That part of windows (N, C, h, w), with `fill` where the map ends."""
        part = windows if self.whole else windows[..., *self.crop]
        if self.outside is not None:
            part = (part.masked_fill_ if inplace else part.masked_fill)(self.outside, fill)
        return F.pad(part, self.pad, value=fill) if any(self.pad) else part

    def back(self, part: torch.Tensor, like: Pair, clean: bool) -> torch.Tensor:
        """The adjoint: what the part hands down, in windows of that size. `clean`: whether nothing
        is handed down beyond the map anyhow.
        """
        left, right, top, bottom = self.pad
        rows, cols = part.shape[-2:]
        part = part[..., top : rows - bottom, left : cols - right]
        if self.outside is not None and not clean:
            part = part.masked_fill_(self.outside, 0.0)
        if self.whole:
            return part
        windows = part.new_zeros(*part.shape[:2], *like)
        windows[..., *self.crop] = part
        return windows


class Windows:
    """What units at `position` (N, 2) see of every map: `views` by number, without the rows and
    columns that lie outside the map for all of them; `reads` what each node reads of its sources.
    """

    def __init__(
        self,
        graph: Graph,
        seen: dict[int, View],
        sizes: dict[int, Pair],
        position: torch.Tensor,
        device: torch.device | str = "cpu",
    ):
        ends = [tuple(end.tolist()) for end in (position.amin(0), position.amax(0))]
        self.views = {n: view.clipped(*ends, sizes[n]) for n, view in seen.items()}
        self.reads: dict[tuple[int, int], Read] = {}
        for number, view in self.views.items():
            node = graph.nodes[number]
            need = view.through(node.kernel)
            for source in (n for n in node.inputs if n in self.views):
                have, crop, pad = self.views[source], [], ()
                for o, n, base, size in zip(
                    need.offset, need.size, have.offset, have.size, strict=True
                ):
                    low = min(max(0, o - base), size)
                    high = max(low, min(size, o - base + n))
                    before = min(max(0, base + low - o), n)
                    crop.append(slice(low, high))
                    pad = (before, n - before - (high - low), *pad)
                outside = None
                if node.kernel:
                    offset = tuple(c.start + o for c, o in zip(crop, have.offset, strict=True))
                    size = tuple(c.stop - c.start for c in crop)
                    edges = zip(*ends, have.stride, offset, size, sizes[source], strict=True)
                    # beyond the map for some unit, perhaps whole: a unit can see padding alone
                    if any(
                        least * stride + o < 0 or most * stride + o + n > limit
                        for least, most, stride, o, n, limit in edges
                    ):
                        start = View(have.stride, offset, size).start(position)
                        mask = Window(start, size, sizes[source]).outside()
                        outside = None if mask is None else mask[:, None].to(device)
                whole = all(c == slice(0, n) for c, n in zip(crop, have.size, strict=True))
                self.reads[number, source] = Read(tuple(crop), pad, whole, outside)


def map_sizes(graph: Graph, layer: int, input_size: Pair) -> dict[int, Pair]:
    """Rows and columns of every map on the way to a layer, by number.

    Raises UserError for an input too small to reach it, and where a window of a dilated pool lies
    wholly in its padding: torch takes its maximum from outside the map.
    """
    sizes: dict[int, Pair] = {0: input_size}
    for number in graph.above(layer)[1:]:
        node = graph.nodes[number]
        if node.kind == "value":
            continue
        maps = [source for source in node.inputs if graph.nodes[source].kind != "value"]
        sizes[number] = sizes[maps[0]]
        if node.kernel:
            sizes[number] = node.kernel.outputs(sizes[maps[0]])
            if min(sizes[number]) < 1:
                rows, cols = input_size
                what = f"an input of {rows} x {cols} pixels is too small to reach {node.name}"
                raise UserError(what)
            if node.kind == "max":
                _check_pool(node, sizes[maps[0]], sizes[number])
    return sizes


def _check_pool(node: Node, inputs: Pair, outputs: Pair) -> None:
    kernel = node.kernel
    if max(kernel.dilation) == 1 or not any(kernel.before):
        return
    for axis in (0, 1):
        taps = torch.arange(kernel.size[axis]) * kernel.dilation[axis] - kernel.before[axis]
        places = torch.arange(outputs[axis])[:, None] * kernel.stride[axis] + taps
        if not ((places >= 0) & (places < inputs[axis])).any(1).all():
            what = f"{node.name}: a window of this dilated pool lies wholly in its padding"
            raise UserError(what, "give it less padding, or larger images")


@dataclass(frozen=True)
class ReceptiveField:
    """Geometry of one layer's units, each a pair for rows and columns, in pixels: `size` unclipped,
    `stride` between neighbours, `offset` of unit 0.
    """

    size: Pair
    stride: Pair
    offset: Pair
    map_size: Pair
    input_size: Pair
    # (number, inputs, kernel, map size) of every node on the way down, the layer first
    steps: tuple = field(repr=False, default=())

    def box(self, row: int, col: int) -> tuple[int, int, int, int]:
        """The unit's receptive field, (top, left, bottom, right), half-open and clipped; UserError
        outside the map.
        """
        if not (0 <= row < self.map_size[0] and 0 <= col < self.map_size[1]):
            rows, cols = self.map_size
            raise UserError(f"position ({row}, {col}) is outside the map of {rows} x {cols} units")
        (top, bottom), (left, right) = (
            self._follow(axis, at) for axis, at in enumerate((row, col))
        )
        return top, left, bottom, right

    def _follow(self, axis: int, unit: int) -> Pair:
        """The half-open range of pixels that a unit sees along one axis."""
        # sets, not ranges: beside a border a dilated kernel's first tap inside can lie anywhere
        seen = {self.steps[0][0]: {unit}} if self.steps else {0: {unit}}
        for number, inputs, kernel, sizes in self.steps:
            places = seen.pop(number)
            if kernel is not None:
                step, pad = kernel.stride[axis], kernel.before[axis]
                taps = range(0, kernel.size[axis] * kernel.dilation[axis], kernel.dilation[axis])
                read = {place * step - pad + tap for place in places for tap in taps}
                places = {place for place in read if 0 <= place < sizes[axis]}
            for source in inputs:
                seen[source] = seen.get(source, set()) | places
        return (min(seen[0]), max(seen[0]) + 1) if seen[0] else (0, 0)


def receptive_field(model: nn.Module | Graph, layer: str, input_size: int | Pair) -> ReceptiveField:
    """Receptive-field geometry of `layer`'s units for an input of that many pixels (a side, or rows
    and columns).

    Raises Unsupported, by name, for an operation on the way whose geometry is not known, and
    UserError for an unknown layer or an input too small to reach it.
    """
    graph = trace(model)
    number, input_size = graph.number(layer), pair(input_size)
    sizes = map_sizes(graph, number, input_size)
    steps = []
    for one in reversed(graph.above(number)):
        node = graph.nodes[one]
        if node.kind in ("value", "input"):
            continue
        if node.kind == "unknown":
            node.required()
        if node.global_:
            raise Unsupported(f"{node.name} sees the whole image: its units have no window")
        maps = tuple(source for source in node.inputs if graph.nodes[source].kind != "value")
        steps.append((one, maps, node.kernel, sizes[maps[0]]))
    view = views(graph, number)[0]
    return ReceptiveField(
        view.size, view.stride, view.offset, sizes[number], input_size, tuple(steps)
    )


@dataclass(frozen=True)
class Window:
    """Windows of one map: `start` (N, 2) is the row and column of each one's first element, which
    may be negative, in a map of `map_size`; all have one `size`.
    """

    start: torch.Tensor
    size: Pair
    map_size: Pair

    def whole(self) -> bool:
        """Whether these are the whole map."""
        return self.size == self.map_size

    def same(self, other: Self) -> bool:
        """Whether both are the same places."""
        return self.size == other.size and torch.equal(self.start, other.start)

    def through(self, kernel: Kernel, map_size: Pair) -> Self:
        """What an operation reads of its input, which has that size, for these of its output."""
        step, pad = torch.tensor(kernel.stride), torch.tensor(kernel.before)
        return Window(self.start * step - pad, kernel.inputs(self.size), map_size)

    def outside(self) -> torch.Tensor | None:
        """Which elements lie outside the map: bool (N, h, w), or None when none does."""
        ends = self.start + torch.tensor(self.size)
        if (self.start >= 0).all() and (ends <= torch.tensor(self.map_size)).all():
            return None
        rows, cols = (self.start[:, axis, None] + torch.arange(self.size[axis]) for axis in (0, 1))
        outside_rows = (rows < 0) | (rows >= self.map_size[0])
        outside_cols = (cols < 0) | (cols >= self.map_size[1])
        return outside_rows[:, :, None] | outside_cols[:, None, :]


def cut(
    maps: torch.Tensor, start: torch.Tensor, size: Pair, rows: Sequence[int] | None = None
) -> torch.Tensor:
    """Windows (N, C, *size) of maps (N, C, H, W) from row and column `start` (N, 2) on, zero
    outside the map. `rows`: of which maps, all of them by default.
    """
    rows = range(len(maps)) if rows is None else rows
    windows = maps.new_empty(len(rows), maps.shape[1], *size)
    windows = windows.to(memory_format=torch.channels_last).zero_()
    for row, window, corner in zip(rows, windows, start.tolist(), strict=True):
        here, there = _overlap(corner, size, maps.shape[-2:])
        window[:, *there] = maps[row][:, *here]
    return windows


def paste(
    windows: torch.Tensor, start: torch.Tensor, maps: torch.Tensor, rows: torch.Tensor
) -> None:
    """The reverse of `cut`: windows (n, C, h, w) into the maps of these rows; what lies outside is
    dropped.
    """
    for row, window, corner in zip(rows.tolist(), windows, start.tolist(), strict=True):
        here, there = _overlap(corner, windows.shape[-2:], maps.shape[-2:])
        maps[row][:, *here] = window[:, *there]


def _overlap(corner: Sequence[int], size: Pair, limits: Pair) -> tuple[list, list]:
    """Where a window lies inside its map: in the map, and in the window."""
    here, there = [], []
    for first, length, limit in zip(corner, size, limits, strict=True):
        low = min(max(0, -first), length)
        high = max(low, min(length, limit - first))
        there.append(slice(low, high))
        here.append(slice(max(0, first), max(0, first) + high - low))
    return here, there


def forward_window(
    node: Node, windows: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """A convolution or pool without its padding, which the windows already hold. `weight`: the
    convolution's, where it is at hand.
    """
    module, kernel = node.module, node.kernel
    if node.kind == "conv":
        weight = node.weight if weight is None else weight
        return F.conv2d(
            windows, weight, module.bias, kernel.stride, 0, kernel.dilation, module.groups
        )
    if node.kind == "average":
        return F.avg_pool2d(windows, kernel.size, kernel.stride)
    return F.max_pool2d(windows, kernel.size, kernel.stride, 0, kernel.dilation)


def multiply_adds(graph: Graph, sizes: dict[int, Pair]) -> int:
    """What the convolutions cost one image, or one window, on its way up; `sizes`: of the output of
    every node that is computed.
    """
    total = 0
    for number, (rows, cols) in sizes.items():
        node = graph.nodes[number]
        if node.kind == "conv":
            total += rows * cols * node.module.weight[0].numel() * node.module.out_channels
    return total
