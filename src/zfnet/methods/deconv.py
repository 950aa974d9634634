"""The deconvnet (paper, section 2.1): what in an image made this unit fire?

    deconvnet = Deconvnet(model.features)
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

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from zfnet.graph.stack import check_supported, forward_layer, layers_up_to, pair
from zfnet.graph.windows import (
    Stage,
    blank,
    cut,
    forward_window,
    paste,
    plan,
    receptive_field,
    windows_pay,
)
from zfnet.store.errors import UserError

OVERLAP = ("add", "overwrite", "max")
RULES = ("deconvnet", "guided", "gradient")
OVERHEAD = 1.35  # of a multiply-add on windows, measured on ZFNet, AlexNet and VGG16


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
    layer: nn.Conv2d, maps: torch.Tensor, size: torch.Size, padding: tuple[int, int] | None = None
) -> torch.Tensor:
    """The transposed convolution without bias, to exactly size[-2:]: rows that the strided forward
    pass skipped come back as zeros.

    `padding`: the layer's own unless given.
    """
    stride, kernel, dilation = (
        pair(getattr(layer, key)) for key in ("stride", "kernel_size", "dilation")
    )
    pad = pair(layer.padding) if padding is None else padding
    if (
        maps.device.type == "cpu"
        and layer.in_channels <= 4
        and max(stride) > 1
        and layer.groups == 1
        and max(dilation) == 1
    ):
        return _by_phases(layer.weight, maps, stride, pad, size)
    bare = [
        (n - 1) * s - 2 * p + d * (k - 1) + 1
        for n, s, p, k, d in zip(maps.shape[-2:], stride, pad, kernel, dilation, strict=True)
    ]
    missing = [full - got for full, got in zip(size[-2:], bare, strict=True)]
    return F.conv_transpose2d(
        maps, layer.weight, None, stride, pad, missing, layer.groups, dilation
    )


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
    """The reverse of a `features` stack: any flat nn.Sequential of Conv2d, ReLU, MaxPool2d,
    LocalResponseNorm, BatchNorm2d and Dropout.

    Local response normalisation and dropout are the identity on the way down, batch norm (always as
    in eval mode) its scale. The model is only read: no hooks, no mode changes, no gradients. Raises
    TypeError naming any other module.
    """

    def __init__(self, features: nn.Sequential):
        check_supported(features)
        self.features = features

    @torch.no_grad()
    def activations(self, images: torch.Tensor, layer: str) -> torch.Tensor:
        """The maps of `layer` for images (N, 3, H, W): (N, C, h, w)."""
        x = first = self._checked(images, layer).contiguous(memory_format=torch.channels_last)
        for _, module in layers_up_to(self.features, layer):
            x = forward_layer(module, x, inplace=x is not first)
        return x

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
        x weights, exactly zero outside the unit's receptive field. Raises ValueError for an unknown
        layer, channel, position, overlap or rule, and when windows are asked for where they cannot
        be exact.
        """
        images, channel, position = self._units(images, layer, channel, position, overlap, rule)
        if self._on_windows(images, layer, position, overlap, windows):
            pixels, first = self._windows(images, layer, channel, position, rule)
            return paste(pixels, first.start, images.shape[-2:])
        return self._whole(images, layer, channel, position, overlap, rule)

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
        images, channel, position = self._units(images, layer, channel, position, overlap, rule)
        if position is None:
            raise UserError(
                "position: a patch is the receptive field of a unit; give row and column, or"
                " project the whole map"
            )
        field = receptive_field(self.features, layer, tuple(images.shape[-2:]))
        if self._on_windows(images, layer, position, overlap, windows):
            pixels, first = self._windows(images, layer, channel, position, rule)
            corner = first.start
        else:
            corner = position.cpu() * torch.tensor(field.stride) + torch.tensor(field.offset)
            pixels = cut(
                self._whole(images, layer, channel, position, overlap, rule), corner, field.size
            )
        return Patches(
            pixels,
            corner,
            torch.tensor([field.box(*unit) for unit in position.tolist()]).view(-1, 4),
        )

    def _on_windows(
        self,
        images: torch.Tensor,
        layer: str,
        position: torch.Tensor | None,
        overlap: str,
        wanted: bool | None,
    ) -> bool:
        # a window that overwrites, or is the largest, may be one that the unit does not see
        exact = position is not None and overlap == "add"
        if wanted and not exact:
            raise UserError(
                f"windows = True needs a position and overlap = 'add', got position = {position},"
                f" overlap = {overlap!r}"
            )
        if wanted is not None or not exact:
            return bool(wanted)
        stages = plan(self.features, layer, tuple(images.shape[-2:]), position[:1])
        maps = [stage.map_size for stage in stages[1:]] + [
            receptive_field(self.features, layer, tuple(images.shape[-2:])).map_size
        ]
        return windows_pay(
            [stage.module for stage in stages],
            [stage.size for stage in stages[1:]] + [(1, 1)],
            maps,
            OVERHEAD,
        )

    def _whole(
        self,
        images: torch.Tensor,
        layer: str,
        channel: torch.Tensor,
        position: torch.Tensor | None,
        overlap: str,
        rule: str,
    ) -> torch.Tensor:
        """One pass up and one down over whole images."""
        x, tape = images.contiguous(memory_format=torch.channels_last), []
        first = x
        for _, module in layers_up_to(self.features, layer):
            size, switches = x.shape, None
            if isinstance(module, nn.MaxPool2d):
                x, switches = F.max_pool2d(
                    x,
                    module.kernel_size,
                    module.stride,
                    module.padding,
                    module.dilation,
                    module.ceil_mode,
                    return_indices=True,
                )
            else:
                x = forward_layer(module, x, inplace=x is not first)
                switches = _fired(module, x, rule)
            tape.append((module, size, switches))
        signal, image = torch.zeros_like(x), torch.arange(len(x), device=x.device)
        at = (image, channel) if position is None else (image, channel, *position.unbind(1))
        signal[at] = x[at]
        for module, size, switches in reversed(tape):
            signal = self._down(module, signal, size, switches, overlap, rule)
        return signal

    def _windows(
        self,
        images: torch.Tensor,
        layer: str,
        channel: torch.Tensor,
        position: torch.Tensor,
        rule: str,
    ) -> tuple[torch.Tensor, Stage]:
        """The same pass over the windows that the units see: their pixels (N, 3, h, w), and the
        first stage, which says where these lie.
        """
        stages = plan(self.features, layer, tuple(images.shape[-2:]), position)
        x, tape = cut(images, stages[0].start, stages[0].size), []
        for stage in stages:
            module, switches = stage.module, None
            if isinstance(module, nn.MaxPool2d):
                size = x.shape
                x, switches = F.max_pool2d(
                    blank(x, stage, float("-inf")),
                    module.kernel_size,
                    module.stride,
                    0,
                    module.dilation,
                    return_indices=True,
                )
            elif isinstance(module, nn.Conv2d):
                size, x = x.shape, forward_window(module, blank(x, stage, 0.0))
            else:
                size, x = x.shape, forward_layer(module, x, inplace=True)
                switches = _fired(module, x, rule)
            tape.append((stage, size, switches))
        signal, image = torch.zeros_like(x), torch.arange(len(x), device=x.device)
        signal[image, channel] = x[image, channel]
        for stage, size, switches in reversed(tape):
            signal = self._down(stage.module, signal, size, switches, "add", rule, (0, 0), False)
            if isinstance(stage.module, nn.Conv2d):
                signal = blank(signal, stage, 0.0)
        return signal, stages[0]

    def _down(
        self,
        module: nn.Module,
        signal: torch.Tensor,
        size: torch.Size,
        switches: torch.Tensor | None,
        overlap: str,
        rule: str,
        padding: tuple[int, int] | None = None,
        ceil_mode: bool | None = None,
    ) -> torch.Tensor:
        """One layer down; `padding` and `ceil_mode`: the module's own unless given."""
        if isinstance(module, nn.MaxPool2d):
            # the same sum, without leaving channels_last
            if overlap == "add" and signal.device.type == "cpu":
                kernel, stride, pad, dilation = (
                    pair(getattr(module, key))
                    for key in ("kernel_size", "stride", "padding", "dilation")
                )
                like = torch.empty(size, dtype=signal.dtype, memory_format=torch.channels_last)
                pad, ceil_mode = (
                    padding or pad,
                    (module.ceil_mode if ceil_mode is None else ceil_mode),
                )
                return torch.ops.aten.max_pool2d_with_indices_backward(
                    signal, like, kernel, stride, pad, dilation, ceil_mode, switches
                )
            return unpool(signal, switches, size, overlap)
        if isinstance(module, nn.ReLU):
            signal = signal if rule == "gradient" else F.relu_(signal)
            return signal if switches is None else signal * switches
        if isinstance(module, nn.Conv2d):
            return transpose_conv(module, signal, size, padding)
        if isinstance(module, nn.BatchNorm2d):
            scale = (module.running_var + module.eps).rsqrt()
            return signal * (scale if module.weight is None else scale * module.weight).view(
                1, -1, 1, 1
            )
        return signal

    def _units(self, images: torch.Tensor, layer: str, channel, position, overlap: str, rule: str):
        """The images on the net's device, and which unit, or map, of each: channel (N,) and
        position (N, 2) or None, all checked.
        """
        for name, value, known in (("overlap", overlap, OVERLAP), ("rule", rule, RULES)):
            if value not in known:
                raise UserError(f"{name} = {value!r}: choose one of {', '.join(known)}")
        images = self._checked(images, layer)
        n, size = (
            len(images),
            receptive_field(self.features, layer, tuple(images.shape[-2:])).map_size,
        )
        below = next(
            (
                m
                for _, m in reversed(layers_up_to(self.features, layer))
                if isinstance(m, nn.Conv2d)
            ),
            None,
        )
        if below is None:
            raise UserError(
                f"layer {layer!r} comes before the first convolution: choose one after it"
            )
        channels = below.out_channels
        channel = _indices(channel, n, (), "channel").to(images.device)
        if bad := [c for c in channel.tolist() if not 0 <= c < channels]:
            raise UserError(
                f"channel {bad[0]} is not in {layer}, which has channels 0 to {channels - 1}"
            )
        if position is None:
            return images, channel, None
        position = _indices(position, n, (2,), "position").to(images.device)
        if bad := [
            (r, c) for r, c in position.tolist() if not (0 <= r < size[0] and 0 <= c < size[1])
        ]:
            raise UserError(
                f"position {bad[0]} is outside the maps of {layer}, which have {size[0]} x"
                f" {size[1]} units"
            )
        return images, channel, position

    def _checked(self, images: torch.Tensor, layer: str) -> torch.Tensor:
        if not isinstance(images, torch.Tensor) or images.ndim != 4:
            shape = tuple(images.shape) if hasattr(images, "shape") else type(images).__name__
            raise UserError(
                f"images: expected a tensor (N, channels, rows, columns), got {shape}; add a batch"
                " axis with images[None]"
            )
        first = next((layer for layer in self.features if isinstance(layer, nn.Conv2d)), None)
        if first is None:
            raise UserError("the features hold no Conv2d: there is nothing to project through")
        if images.shape[1] != first.in_channels:
            raise UserError(
                f"images: expected {first.in_channels} channels, got {images.shape[1]}:"
                f" {tuple(images.shape)}"
            )
        # names an unknown layer, and images too small to reach it
        receptive_field(self.features, layer, tuple(images.shape[-2:]))
        return images.detach().to(first.weight)


def _fired(module: nn.Module, x: torch.Tensor, rule: str) -> torch.Tensor | None:
    """A ReLU's switches, for the rules that need them: where its maps x are positive."""
    return x > 0 if isinstance(module, nn.ReLU) and rule != "deconvnet" else None


def _indices(value, n: int, tail: tuple[int, ...], name: str) -> torch.Tensor:
    """One index for all images, or one for each, as a (n, *tail) tensor of integers."""
    value = torch.as_tensor(value)
    if (
        value.is_floating_point()
        or value.dtype == torch.bool
        or tuple(value.shape) not in (tail, (n, *tail))
    ):
        want = (
            f"{'row and column' if tail else 'an integer'}, one for all or one for each of the {n}"
            " images"
        )
        raise UserError(f"{name}: expected {want}, got {value.dtype} {tuple(value.shape)}")
    return value.long().expand(n, *tail)
