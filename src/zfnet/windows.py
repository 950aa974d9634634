"""Receptive fields, from the network itself: which pixels one unit of a layer can see.

Through the stack, kernel k (dilated: d(k-1)+1), stride s and padding p update (size, stride, offset):

    size   <- size + (k - 1) * d * stride       offset <- offset - p * stride       stride <- stride * s

A unit at row r then sees rows offset + r * stride up to offset + r * stride + size: where no border is near. Near a border its exact field is found by
following the unit down, layer by layer, and clipping at each map: a pool in ceil mode or a strided convolution can leave the last pixels unseen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

SUPPORTED = (nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.LocalResponseNorm, nn.BatchNorm2d, nn.Dropout)


@dataclass(frozen=True)
class ReceptiveField:
    """Geometry of one layer's units, each a pair for rows and columns, in pixels: `size` unclipped, `stride` between neighbours, `offset` of unit 0."""

    size: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]
    map_size: tuple[int, int]
    input_size: tuple[int, int]
    chain: tuple[tuple[tuple[int, ...], ...], ...] = field(repr=False, default=())  # per axis and layer: kernel, stride, padding, dilation, inputs

    def box(self, row: int, col: int) -> tuple[int, int, int, int]:
        """The unit's receptive field, (top, left, bottom, right), half-open and clipped; ValueError outside the map."""
        if not (0 <= row < self.map_size[0] and 0 <= col < self.map_size[1]):
            raise ValueError(f"position ({row}, {col}) is outside the map of {self.map_size[0]} x {self.map_size[1]} units")
        (top, bottom), (left, right) = (_follow(layers, unit) for layers, unit in zip(self.chain, (row, col), strict=True))
        return top, left, bottom, right


def _follow(layers: tuple[tuple[int, ...], ...], unit: int) -> tuple[int, int]:
    """The half-open range of pixels that a unit sees along one axis."""
    seen = {unit}  # a set, not a range: beside a border a dilated kernel's first tap inside can lie anywhere
    for kernel, stride, pad, dilation, inputs in reversed(layers):
        taps = {start * stride - pad + n * dilation for start in seen for n in range(kernel)}
        seen = {tap for tap in taps if 0 <= tap < inputs}
    return (min(seen), max(seen) + 1) if seen else (0, 0)


def pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def check_supported(features: nn.Sequential) -> None:
    """TypeError, naming the module, unless every child of this nn.Sequential can be taken apart."""
    if not isinstance(features, nn.Sequential):
        raise TypeError(f"expected an nn.Sequential such as model.features, got {type(features).__name__}")
    names = ", ".join(kind.__name__ for kind in SUPPORTED)
    for name, layer in features.named_children():
        if not isinstance(layer, SUPPORTED):
            raise TypeError(f"{name} is a {type(layer).__name__}; supported are {names}")
        if isinstance(layer, nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
            raise TypeError(f"{name}: padding={layer.padding!r}, padding_mode={layer.padding_mode!r}; supported is a number of zeros")


def layers_up_to(features: nn.Sequential, layer: str) -> list[tuple[str, nn.Module]]:
    """Named children from the first to `layer`; ValueError lists the names when there is no such layer."""
    children = list(features.named_children())
    names = [name for name, _ in children]
    if layer not in names:
        raise ValueError(f"no layer {layer!r}: choose one of {', '.join(names)}")
    return children[: names.index(layer) + 1]


def receptive_field(features: nn.Sequential, layer: str, input_size: int | tuple[int, int]) -> ReceptiveField:
    """Receptive-field geometry of `layer`'s units for an input of that many pixels (a side, or rows and columns).

    Raises TypeError for an unsupported module and ValueError for an unknown layer or an input too small to reach it.
    """
    check_supported(features)
    map_size = input_size = pair(input_size)
    size, stride, offset = (1, 1), (1, 1), (0, 0)
    chain: tuple[list, list] = ([], [])
    for name, module in layers_up_to(features, layer):
        if not isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
            continue
        kernel, step, pad, dilation = (pair(getattr(module, key)) for key in ("kernel_size", "stride", "padding", "dilation"))
        for axis, geometry in zip(chain, zip(kernel, step, pad, dilation, map_size, strict=True), strict=True):
            axis.append(geometry)
        map_size = tuple(_outputs(n, *geometry, module) for n, *geometry in zip(map_size, kernel, step, pad, dilation, strict=True))
        if min(map_size) < 1:
            raise ValueError(f"an input of {input_size[0]} x {input_size[1]} pixels is too small to reach {name}")
        size = tuple(n + (k - 1) * d * s for n, k, d, s in zip(size, kernel, dilation, stride, strict=True))
        offset = tuple(o - p * s for o, p, s in zip(offset, pad, stride, strict=True))
        stride = tuple(s * t for s, t in zip(stride, step, strict=True))
    return ReceptiveField(size, stride, offset, map_size, input_size, tuple(map(tuple, chain)))


def _outputs(n: int, kernel: int, stride: int, pad: int, dilation: int, module: nn.Module) -> int:
    """Map size after a convolution or pool; in ceil mode a window that would start in the right padding is dropped, as PyTorch does."""
    room = n + 2 * pad - dilation * (kernel - 1) - 1
    if not getattr(module, "ceil_mode", False):
        return room // stride + 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= n + pad else count
