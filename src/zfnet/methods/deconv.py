"""The deconvnet (paper, section 2.1): what in an image made this unit fire?

    deconvnet = Deconvnet(model)
    pictures = deconvnet.project(images, "relu5", channel=17, position=(4, 6))    # (N, 3, H, W)

Every other activation of the layer is set to zero; then, layer by layer down to pixels, (i) unpool:
put each value back where the maximum was (the switches of the forward pass), (ii) rectify, (iii)
filter with the transposed filters. No biases. These are the steps of the gradient, with one change:
the gradient masks by the sign of the *forward* activation where the deconvnet rectifies the
*backward* signal. `rule="gradient"` and `rule="guided"` (guided backpropagation, Springenberg et
al. 2015: both at once) take those ways instead, beyond the paper.

The output keeps its sign and its scale; nothing is stretched. A unit sees only its receptive field,
so a single unit is projected on the windows that it sees (`windows.py`) wherever that costs less
than the whole image: the same numbers to rounding, many times sooner.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from zfnet.graph.trace import Graph, Node, Pair, trace
from zfnet.graph.walk import FRESH, finite, forget, walk
from zfnet.graph.windows import (
    View,
    Windows,
    cut,
    forward_window,
    map_sizes,
    multiply_adds,
    paste,
    receptive_field,
    views,
)
from zfnet.store.errors import Unsupported, UserError

OVERLAP = ("add", "overwrite", "max")
RULES = ("deconvnet", "guided", "gradient")
AUTOGRAD = ("linear", "gate", "whole", "point", "unknown")  # kinds whose adjoint is autograd's
OVERHEAD = 1.35  # of a multiply-add on windows, measured on ZFNet, AlexNet and VGG16
PASS = 1e8  # multiply-adds that take as long as what a pass over windows costs beside them


def unpool(
    values: torch.Tensor, switches: torch.Tensor, size: torch.Size, overlap: str = "add"
) -> torch.Tensor:
    """Put pooled values (N, C, h, w) back at their switches (flat indices as from F.max_pool2d) in
    maps of (H, W) = size[-2:].

    Overlapping windows can share a maximum. "add" sums what they hand down (the adjoint of pooling,
    the gradient, captum); "overwrite" keeps the last window's value in raster order, also where
    that is zero (what MaxUnpool2d does on one thread); "max" keeps the largest value.
    """
    flat = torch.zeros(
        *values.shape[:2], size[-2] * size[-1], dtype=values.dtype, device=values.device
    )
    values, switches = values.flatten(2), switches.flatten(2)
    if overlap == "add":
        flat.scatter_add_(2, switches, values)
    elif overlap == "max":
        flat.scatter_reduce_(2, switches, values, "amax", include_self=False)
    else:
        order = torch.arange(values.shape[2], device=values.device).expand_as(switches)
        last = torch.full(flat.shape, -1, dtype=torch.long, device=values.device).scatter_reduce_(
            2, switches, order, "amax"
        )
        flat = torch.where(last >= 0, values.gather(2, last.clamp_min(0)), flat)
    return flat.unflatten(2, tuple(size[-2:]))


def transpose_conv(
    node: Node,
    maps: torch.Tensor,
    size: torch.Size,
    padded: bool = True,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """The transposed convolution without bias, to exactly size[-2:]: rows that the strided forward
    pass skipped come back as zeros. `padded`: whether the forward pass had the padding;
    `weight`: the convolution's, where it is at hand.
    """
    kernel, groups = node.kernel, node.module.groups
    weight = node.weight if weight is None else weight
    before = kernel.before if padded else (0, 0)
    after = kernel.after if padded else (0, 0)
    few = maps.device.type == "cpu" and node.module.in_channels <= 4 and groups == 1
    if few and max(kernel.stride) > 1 and max(kernel.dilation) == 1:
        return _by_phases(weight, maps, kernel.stride, before, size)
    # what is missing at the lower right: rows that no window of the forward pass reached
    least = [min(p, q) for p, q in zip(before, after, strict=True)]
    bare = [n - 2 * p for n, p in zip(kernel.inputs(tuple(maps.shape[-2:])), least, strict=True)]
    extra = [p - q for p, q in zip(before, least, strict=True)]
    missing = [max(0, full + e - got) for full, got, e in zip(size[-2:], bare, extra, strict=True)]
    out = F.conv_transpose2d(
        maps, weight, None, kernel.stride, least, missing, groups, kernel.dilation
    )
    # "same" padding with an even kernel has one row less before the map than behind it
    (top, left), (height, width) = extra, size[-2:]
    return out[..., top : top + height, left : left + width]


def _by_phases(
    weight: torch.Tensor,
    maps: torch.Tensor,
    stride: tuple[int, int],
    pad: tuple[int, int],
    size: torch.Size,
) -> torch.Tensor:
    """The same, as one plain convolution per phase of the stride: on the CPU nearly three times
    faster down to the three channels of an image.
    """
    (down, across), (rows, cols) = stride, weight.shape[-2:]
    high, wide = -(-rows // down), -(-cols // across)
    taps = (
        F.pad(weight, (0, wide * across - cols, 0, high * down - rows))
        .unflatten(3, (wide, across))
        .unflatten(2, (high, down))
    )
    # image channel, phase of row, phase of column, map, tap, tap
    filters = taps.flip(2, 4).permute(1, 3, 5, 0, 2, 4)
    out = F.conv2d(
        maps,
        filters.flatten(0, 2).contiguous(memory_format=torch.channels_last),
        padding=(high - 1, wide - 1),
    )
    out = out.unflatten(1, (-1, down, across)).permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
    room = [max(0, p + n - have) for p, n, have in zip(pad, size[-2:], out.shape[-2:], strict=True)]
    return F.pad(out, (0, room[1], 0, room[0]))[
        ..., pad[0] : pad[0] + size[-2], pad[1] : pad[1] + size[-1]
    ]


@dataclass(frozen=True)
class Patches:
    """Projections cut to the receptive field: `pixels` (N, 3, h, w), zero outside the image;
    `corner` int64 (N, 2), the row and column of each patch's first pixel in its image, negative
    where the field reaches beyond it; `box` int64 (N, 4), the exact field: top, left, bottom,
    right.
    """

    pixels: torch.Tensor
    corner: torch.Tensor
    box: torch.Tensor


class Deconvnet:
    """The reverse of a net, or of a part of it: any nn.Module that torch.fx can follow, with
    residual sums, branches and functional ReLUs. `zfnet.layers(model)` lists its layers.

    The way down is the adjoint of each operation; only the rectifier's rule is chosen. Local
    response normalisation and dropout are the identity, batch norm (always as in eval mode) its
    scale; a gate (squeeze-excitation) is held fixed. The model is only read: no hooks, no mode
    changes, no gradients. Raises Unsupported for a net that fx cannot follow, and naming it where
    an operation on the way has no accepted rule.
    """

    def __init__(self, model: nn.Module | Graph):
        self.graph = trace(model)

    @torch.no_grad()
    def activations(self, images: torch.Tensor, layer: str) -> torch.Tensor:
        """The maps of `layer` for images (N, channels, H, W): (N, C, h, w)."""
        number = self.graph.number(layer)
        x = self._checked(images).contiguous(memory_format=torch.channels_last)
        map_sizes(self.graph, number, tuple(x.shape[-2:]))  # names images that are too small
        return dict(walk(self.graph, x, [number]))[number]

    @torch.no_grad()
    def project(
        self,
        images: torch.Tensor,
        layer: str,
        channel: int | torch.Tensor,
        position: tuple[int, int] | torch.Tensor | None = None,
        overlap: str = "add",
        windows: bool | None = None,
        rule: str = "deconvnet",
    ) -> torch.Tensor:
        """Project one unit, or one whole map, of each image down to its pixels.

        images (N, 3, H, W): network input, brought to the net's device and type; channel: one int,
        or (N,); position: row and column of the unit in the layer's map, one pair or (N, 2), or
        None for the whole map. The start is the layer's own activation. `windows`: True or False
        settles on which windows the pass runs; None leaves it to their cost. `rule` says what a
        ReLU hands down: "deconvnet" the positive part of the signal; "gradient" the signal where
        the unit fired on the way up (the picture is then the gradient times the activation);
        "guided" the positive part where the unit fired. Returns (N, 3, H, W) in units of activation
        x weights, exactly zero outside the unit's receptive field. Raises UserError for an unknown
        layer, channel, position, overlap or rule, and when windows are asked for where they cannot
        be exact.
        """
        units = self._units(images, layer, channel, position, overlap, rule)
        images, number, channel, position, sizes = units
        seen = views(self.graph, number) if position is not None else {}
        batches = self._batches(number, seen, sizes, position, overlap, windows)
        if batches is None:
            return self._whole(images, number, channel, position, overlap, rule)
        found = torch.zeros_like(images, memory_format=torch.contiguous_format)
        for rows, pixels, start in self._windows(
            images, number, channel, position, rule, seen, sizes, batches
        ):
            paste(pixels, start, found, rows)
        return found

    @torch.no_grad()
    def project_patches(
        self,
        images: torch.Tensor,
        layer: str,
        channel: int | torch.Tensor,
        position: tuple[int, int] | torch.Tensor,
        overlap: str = "add",
        windows: bool | None = None,
        rule: str = "deconvnet",
    ) -> Patches:
        """As `project` for single units, cut to their receptive fields, all of the field's
        unclipped size: what a grid of patches needs.
        """
        if position is None:
            raise UserError(
                "position: a patch is the receptive field of a unit",
                "give row and column, or project the whole map",
            )
        units = self._units(images, layer, channel, position, overlap, rule)
        images, number, channel, position, sizes = units
        field = receptive_field(self.graph, layer, tuple(images.shape[-2:]))
        seen = views(self.graph, number)
        batches = self._batches(number, seen, sizes, position, overlap, windows)
        start = seen[0].start(position.cpu())
        if batches is None:
            whole = self._whole(images, number, channel, position, overlap, rule)
            pixels = cut(whole, start, field.size)
        else:
            pixels = images.new_zeros(*images.shape[:2], *field.size)
            for rows, part, first in self._windows(
                images, number, channel, position, rule, seen, sizes, batches
            ):
                paste(part, first - start[rows], pixels, rows)
        boxes = torch.tensor([field.box(*unit) for unit in position.tolist()])
        return Patches(pixels, start, boxes.view(-1, 4))

    @torch.no_grad()
    def project_output(
        self, images: torch.Tensor, output: int | torch.Tensor, rule: str = "deconvnet"
    ) -> torch.Tensor:
        """Project one output of the net, a class's score say, of each image down to its pixels.

        images (N, 3, H, W) and `rule` as for `project`; output: one index for all, or (N,). The
        start is 1, whatever the output's value: with "gradient" this is the output's gradient.
        Returns (N, 3, H, W). Raises UserError for a net whose output is maps, and an unknown output
        or rule.
        """
        number = self.graph.output
        if rule not in RULES:
            raise UserError(f"rule = {rule!r}: choose one of {', '.join(RULES)}")
        if self.graph.nodes[number].spatial:
            raise UserError("this net ends in maps", "use `project` for one of them")
        images = self._checked(images)
        way, waiting = {number}, [number]
        while waiting:
            node = self.graph.nodes[waiting.pop()]
            if rule != "gradient":
                node.required()
            new = {n for n in _handed_down(self.graph, node) if n is not None} - way
            way, waiting = way | new, [*waiting, *new]
        output = _indices(output, len(images), (), "output").to(images.device)
        tape, parts = _Tape(self.graph, number, "add", rule), []
        for rows in torch.arange(len(images), device=images.device).split(self._at_once(images)):
            scores = tape.up(images[rows].contiguous(memory_format=torch.channels_last))
            known = scores.shape[1]
            if bad := [one for one in output[rows].tolist() if not 0 <= one < known]:
                raise UserError(f"output {bad[0]}: this net has outputs 0 to {known - 1}")
            start = torch.zeros_like(scores).scatter_(1, output[rows, None], 1)
            parts.append(tape.down(start))
        return torch.cat(parts) if parts else torch.zeros_like(images)

    def _batches(
        self,
        number: int,
        seen: dict[int, View],
        sizes: dict[int, Pair],
        position: torch.Tensor | None,
        overlap: str,
        wanted: bool | None,
    ) -> list[torch.Tensor] | None:
        """Which units share a pass over windows, by their rows; None for whole images, where that
        costs less or windows cannot be exact.
        """
        # a window that overwrites, or is the largest, may be one that the unit does not see
        exact = position is not None and overlap == "add"
        if wanted and not exact:
            raise UserError(
                "windows = True needs a position and overlap = 'add', got position = "
                f"{position}, overlap = {overlap!r}"
            )
        exact = exact and self.graph.local(number)
        if wanted and not exact:
            raise Unsupported("windows = True: an operation on the way sees more than a window")
        if wanted is False or not exact:
            return None
        if not len(position):
            return []

        def cost(units: torch.Tensor) -> int:
            ends = [tuple(end.tolist()) for end in (units.amin(0), units.amax(0))]
            windows = {n: view.clipped(*ends, sizes[n]).size for n, view in seen.items()}
            return len(units) * multiply_adds(self.graph, windows)

        # together, or one place at a time, without what lies beyond the map there
        every, units = torch.arange(len(position)), position.cpu()
        together, apart = cost(units), None
        if position.device.type == "cpu" and together > len(units) * PASS:
            places = units.unique(dim=0)
            apart = [every[(units == place).all(1)] for place in places]
            alone = sum(cost(units[rows]) + PASS for rows in apart)
            together, apart = (alone, apart) if alone < together else (together, None)
        if wanted is None and OVERHEAD * together >= len(units) * multiply_adds(self.graph, sizes):
            return None
        return apart or [every]

    def _whole(
        self,
        images: torch.Tensor,
        number: int,
        channel: torch.Tensor,
        position: torch.Tensor | None,
        overlap: str,
        rule: str,
    ) -> torch.Tensor:
        """One pass up and one down over whole images, as many at a time as memory holds."""
        tape = _Tape(self.graph, number, overlap, rule)
        parts = []
        for rows in torch.arange(len(images), device=images.device).split(self._at_once(images)):
            up = tape.up(images[rows].contiguous(memory_format=torch.channels_last))
            units = (channel[rows],) if position is None else (channel[rows], *position[rows].T)
            parts.append(tape.down(_seed(up, self.graph.nodes[number].name, *units)))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _at_once(self, images: torch.Tensor) -> int:
        """How many images fill some 2 GiB with what a pass up and down holds of them."""
        convolutions = [
            node.module.out_channels for node in self.graph.nodes if node.kind == "conv"
        ]
        each = max(convolutions, default=1) * images[0, 0].numel() * images.element_size()
        return max(1, 2**31 // (2 * each)) if len(images) else 1

    def _windows(
        self,
        images: torch.Tensor,
        number: int,
        channel: torch.Tensor,
        position: torch.Tensor,
        rule: str,
        seen: dict[int, View],
        sizes: dict[int, Pair],
        batches: list[torch.Tensor],
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """The same pass over the windows that the units see: of each batch its rows, its pixels
        (n, 3, h, w), and where in the image each begins (n, 2).
        """
        tape = _Tape(self.graph, number, "add", rule)
        for rows in batches:
            units = position.cpu()[rows]
            tape.windows = Windows(self.graph, seen, sizes, units, images.device)
            view = tape.windows.views[0]
            start = view.start(units)
            up = tape.up(cut(images, start, view.size, rows.tolist()))
            chosen = channel[rows.to(channel.device)]
            first = torch.zeros_like(chosen)  # the unit's own window has one row and column
            signal = _seed(up, self.graph.nodes[number].name, chosen, first, first)
            yield rows, tape.down(signal), start

    def _units(self, images: torch.Tensor, layer: str, channel, position, overlap: str, rule: str):
        """The images on the net's device, the layer's number, which unit, or map, of each image
        (channel (N,), position (N, 2) or None), and the sizes of the maps; all checked.
        """
        for name, value, known in (("overlap", overlap, OVERLAP), ("rule", rule, RULES)):
            if value not in known:
                raise UserError(f"{name} = {value!r}: choose one of {', '.join(known)}")
        number = self.graph.number(layer)
        if not self.graph.nodes[number].spatial:
            raise UserError(f"layer {layer!r} gives no maps", "choose one before the head")
        images = self._checked(images)
        way = self.graph.way_down(number)
        if rule != "gradient":
            for node in way:
                node.required()
        if not any(node.kind in ("conv", "unknown") for node in way):
            what = f"layer {layer!r} comes before the first convolution"
            raise UserError(what, "choose one after it")
        n = len(images)
        channel = _indices(channel, n, (), "channel").to(images.device)
        sizes = map_sizes(self.graph, number, tuple(images.shape[-2:]))
        if position is None:
            return images, number, channel, None, sizes
        position = _indices(position, n, (2,), "position").to(images.device)
        rows, cols = sizes[number]
        for row, col in position.tolist():
            if not (0 <= row < rows and 0 <= col < cols):
                raise UserError(
                    f"position {(row, col)} is outside the maps of {layer}, which have "
                    f"{rows} x {cols} units"
                )
        return images, number, channel, position, sizes

    def _checked(self, images: torch.Tensor) -> torch.Tensor:
        if not isinstance(images, torch.Tensor) or images.ndim != 4:
            shape = tuple(images.shape) if hasattr(images, "shape") else type(images).__name__
            what = f"images: expected a tensor (N, channels, rows, columns), got {shape}"
            raise UserError(what, "add a batch axis with images[None]")
        first = next((node for node in self.graph.nodes if node.kind in ("conv", "unknown")), None)
        if first is None:
            raise UserError("the net holds no Conv2d: there is nothing to project through")
        channels = getattr(first.module, "in_channels", images.shape[1])
        if images.shape[1] != channels:
            raise UserError(
                f"images: expected {channels} channels, got {images.shape[1]}: "
                f"{tuple(images.shape)}"
            )
        return finite(images.detach()).to(self.graph.weight)


def _seed(maps: torch.Tensor, layer: str, channel: torch.Tensor, *place: torch.Tensor):
    """Zeros but for the chosen channel (N,) of each of maps (N, C, h, w), or for one unit of it, at
    row and column `place`: there the activation.
    """
    if bad := [one for one in channel.tolist() if not 0 <= one < maps.shape[1]]:
        channels = f"channels 0 to {maps.shape[1] - 1}"
        raise UserError(f"channel {bad[0]} is not in {layer}, which has {channels}")
    at = (torch.arange(len(maps), device=maps.device), channel, *place)
    signal = torch.zeros_like(maps)
    signal[at] = maps[at]
    return signal


class _Tape:
    """A pass up to one node, which remembers what the way down needs, and the way down.

    `windows`: None for whole images; else the images handed in are what the units see of them.
    """

    def __init__(self, graph: Graph, number: int, overlap: str, rule: str):
        self.graph, self.number, self.overlap, self.rule = graph, number, overlap, rule
        self.windows: Windows | None = None
        self.order = graph.above(number)
        self.readers = graph.readers(self.order)
        self.weights: dict[int, torch.Tensor] = {}

    def up(self, x: torch.Tensor) -> torch.Tensor:
        """The maps of the node."""
        values: dict[int, object] = {0: x}
        self.saved, self.shapes, left = {}, {}, dict(self.readers)
        for number in self.order[1:]:
            node = self.graph.nodes[number]
            read = [self._read(number, node, source, values[source]) for source in node.inputs]
            self.shapes[number] = [getattr(one, "shape", None) for one in read]
            values[number], self.saved[number] = self._forward(number, node, read)
            forget(values, node, left)
        return values[self.number]

    def _alone(self, source: int) -> bool:
        """Whether what a node reads may be changed in place."""
        kind = self.graph.nodes[source].kind
        return self.readers[source] == 1 and kind in FRESH

    def _read(self, number: int, node: Node, source: int, value: object) -> object:
        """What a node reads of a source: all of it, or its own part of the source's window, with
        what lies beyond the map as a convolution or pool finds it there.
        """
        read = self.windows and self.windows.reads.get((number, source))
        if not read:
            return value
        fill = node.kernel.outside if node.kernel else 0.0
        return read.take(value, fill, self._alone(source))

    def _weight(self, number: int) -> torch.Tensor:
        """A convolution's weights in the maps' layout, brought there once for all passes."""
        if number not in self.weights:
            weight = self.graph.nodes[number].weight
            self.weights[number] = weight.contiguous(memory_format=torch.channels_last)
        return self.weights[number]

    def _forward(self, number: int, node: Node, read: list) -> tuple[object, object]:
        """A node's output, and what its way down needs."""
        if node.kind == "max":
            pad = 0 if self.windows else node.kernel.before
            ceil_mode = node.kernel.ceil_mode and not self.windows
            kernel, step, dilation = node.kernel.size, node.kernel.stride, node.kernel.dilation
            return F.max_pool2d(
                read[0], kernel, step, pad, dilation, ceil_mode, return_indices=True
            )
        if node.kernel:
            if not self.windows:
                return node.call(read), None
            weight = self._weight(number) if node.kind == "conv" else None
            return forward_window(node, read[0], weight), None
        if node.kind == "relu":
            y = node.call(read, self._alone(node.inputs[0]))
            if self.rule == "deconvnet":
                return y, None
            return y, (y > 0 if node.limit is None else (y > 0) & (y < node.limit))
        return node.call(read), read if node.kind in AUTOGRAD else None

    def down(self, signal: torch.Tensor) -> torch.Tensor:
        """What a signal in the node's maps hands down to the pixels."""
        signals = {self.number: signal}
        for number in reversed(self.order[1:]):
            signal = signals.pop(number, None)
            if signal is None:
                continue
            node = self.graph.nodes[number]
            parts = self._down(number, node, signal, self.shapes[number], self.saved.pop(number))
            for source, part in zip(node.inputs, parts, strict=True):
                if part is None:
                    continue
                if self.windows:
                    like, clean = self.windows.views[source].size, node.kind == "max"
                    part = self.windows.reads[number, source].back(part, like, clean)
                signals[source] = signals[source] + part if source in signals else part
        return signals[0]

    def _down(self, number: int, node: Node, signal: torch.Tensor, shapes: list, saved) -> list:
        """What one node hands down to each of what it read; None where that is no map."""
        if node.kind == "conv":
            weight = self._weight(number) if self.windows else None
            return [transpose_conv(node, signal, shapes[0], not self.windows, weight)]
        if node.kind == "cat":
            return list(signal.split([shape[1] for shape in shapes], 1))
        if node.kind == "max":
            return [self._unpool(node, signal, shapes[0], saved)]
        if node.kind == "relu":
            signal = signal if self.rule == "gradient" else F.relu(signal)
            return [signal if saved is None else signal * saved]
        if node.kind == "norm":
            module = node.module
            scale = (module.running_var + module.eps).rsqrt()
            scale = scale if module.weight is None else scale * module.weight
            return [signal * scale.view(1, -1, 1, 1)]
        if node.kind == "same":
            return [signal]
        if node.kind == "sum":
            return [signal for _ in node.inputs]
        if node.kind == "average":
            saved = [signal.new_zeros(shapes[0])]
        return self._adjoint(node, signal, saved)

    def _unpool(
        self, node: Node, signal: torch.Tensor, size: torch.Size, switches: torch.Tensor
    ) -> torch.Tensor:
        if self.overlap != "add" or signal.device.type != "cpu":
            return unpool(signal, switches, size, self.overlap)
        # the same sum, without leaving channels_last
        kernel = node.kernel
        like = torch.empty(size, dtype=signal.dtype, memory_format=torch.channels_last)
        pad, ceil_mode = ((0, 0), False) if self.windows else (kernel.before, kernel.ceil_mode)
        return torch.ops.aten.max_pool2d_with_indices_backward(
            signal, like, kernel.size, kernel.stride, pad, kernel.dilation, ceil_mode, switches
        )

    def _adjoint(self, node: Node, signal: torch.Tensor, read: list) -> list:
        """The operation's own adjoint, by autograd; a gate's factor is held fixed."""
        maps = [
            isinstance(one, torch.Tensor) and source is not None
            for one, source in zip(read, _handed_down(self.graph, node), strict=True)
        ]
        with torch.enable_grad():
            leaves = [
                one.detach().requires_grad_() if moves else one
                for one, moves in zip(read, maps, strict=True)
            ]
            if self.windows and node.kernel:
                y = forward_window(node, leaves[0])
            else:
                y = node.call(leaves)
            chosen = [leaf for leaf, moves in zip(leaves, maps, strict=True) if moves]
            found = iter(torch.autograd.grad(y, chosen, signal, allow_unused=True))
        return [next(found) if moves else None for moves in maps]


def _handed_down(graph: Graph, node: Node) -> list[int | None]:
    """The inputs to which a node's signal goes down, None in the place of the others: maps, and in
    the head what was made of them. A gate's factor is held fixed.
    """
    return [
        n
        if graph.nodes[n].spatial or not (node.spatial or graph.nodes[n].kind == "value")
        else None
        for n in node.inputs
    ]


def _indices(value, n: int, tail: tuple[int, ...], name: str) -> torch.Tensor:
    """One index for all images, or one for each, as a (n, *tail) tensor of integers."""
    value = torch.as_tensor(value)
    whole = not (value.is_floating_point() or value.dtype == torch.bool)
    if not whole or tuple(value.shape) not in (tail, (n, *tail)):
        each = "row and column" if tail else "an integer"
        want = f"{each}, one for all or one for each of the {n} images"
        raise UserError(f"{name}: expected {want}, got {value.dtype} {tuple(value.shape)}")
    return value.long().expand(n, *tail)
