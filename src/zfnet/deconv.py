"""The deconvnet (paper, section 2.1): what in an image made this unit fire?

    deconvnet = Deconvnet(model.features)
    pictures = deconvnet.project(images, "relu5", channel=17, position=(4, 6))    # (N, 3, H, W)

Every other activation of the layer is set to zero; then, layer by layer down to pixels, (i) unpool: put each value back where the maximum was
(the switches of the forward pass), (ii) rectify, (iii) filter with the transposed filters. No biases. These are the steps of the gradient, with
one change: the gradient masks by the sign of the *forward* activation where the deconvnet rectifies the *backward* signal. `rule="gradient"` and
`rule="guided"` (guided backpropagation, Springenberg et al. 2015: both at once) take those ways instead, beyond the paper.

The output keeps its sign and its scale; nothing is stretched.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .windows import check_supported, layers_up_to, pair, receptive_field

OVERLAP = ("add", "overwrite", "max")
RULES = ("deconvnet", "guided", "gradient")


def forward_layer(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """One layer as in eval mode, whatever mode it is in, never in place."""
    if isinstance(layer, nn.ReLU):
        return F.relu(x)
    if isinstance(layer, nn.Dropout):
        return x
    if isinstance(layer, nn.BatchNorm2d):
        return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
    return layer(x)


def unpool(values: torch.Tensor, switches: torch.Tensor, size: torch.Size, overlap: str = "add") -> torch.Tensor:
    """Put pooled values (N, C, h, w) back at their switches (flat indices as from F.max_pool2d) in maps of (H, W) = size[-2:].

    Overlapping windows can share a maximum. "add" sums what they hand down (the adjoint of pooling, the gradient, captum); "overwrite" keeps
    the last window's value in raster order (what MaxUnpool2d does on one thread); "max" keeps the largest value.
    """
    flat = torch.zeros(*values.shape[:2], size[-2] * size[-1], dtype=values.dtype, device=values.device)
    values, switches = values.flatten(2), switches.flatten(2)
    if overlap == "add":
        flat.scatter_add_(2, switches, values)
    elif overlap == "max":
        flat.scatter_reduce_(2, switches, values, "amax", include_self=False)
    else:
        order = torch.arange(values.shape[2], device=values.device).expand_as(switches)
        last = torch.full(flat.shape, -1, dtype=torch.long, device=values.device).scatter_reduce_(2, switches, order, "amax")
        flat = torch.where(last >= 0, values.gather(2, last.clamp_min(0)), flat)
    return flat.unflatten(2, tuple(size[-2:]))


def transpose_conv(layer: nn.Conv2d, maps: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """The transposed convolution without bias, to exactly size[-2:]: rows that the strided forward pass skipped come back as zeros."""
    stride, pad, kernel, dilation = (pair(getattr(layer, key)) for key in ("stride", "padding", "kernel_size", "dilation"))
    bare = [(n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, k, d in zip(maps.shape[-2:], stride, pad, kernel, dilation, strict=True)]
    missing = [full - got for full, got in zip(size[-2:], bare, strict=True)]
    return F.conv_transpose2d(maps, layer.weight, None, stride, pad, missing, layer.groups, dilation)


class Deconvnet:
    """The reverse of a `features` stack: any flat nn.Sequential of Conv2d, ReLU, MaxPool2d, LocalResponseNorm, BatchNorm2d and Dropout.

    Local response normalisation and dropout are the identity on the way down, batch norm (always as in eval mode) its scale. The model is only
    read: no hooks, no mode changes, no gradients. Raises TypeError naming any other module.
    """

    def __init__(self, features: nn.Sequential):
        check_supported(features)
        self.features = features

    @torch.no_grad()
    def activations(self, images: torch.Tensor, layer: str) -> torch.Tensor:
        """The maps of `layer` for images (N, 3, H, W): (N, C, h, w)."""
        x = self._checked(images, layer)
        for _, module in layers_up_to(self.features, layer):
            x = forward_layer(module, x)
        return x

    @torch.no_grad()
    def project(self, images: torch.Tensor, layer: str, channel: int | torch.Tensor,
                position: tuple[int, int] | torch.Tensor | None = None, overlap: str = "add", rule: str = "deconvnet") -> torch.Tensor:  # fmt: skip
        """Project one unit, or one whole map, of each image down to its pixels.

        images (N, 3, H, W): network input, brought to the net's device and type; channel: one int, or (N,); position: row and
        column of the unit in the layer's map, one pair or (N, 2), or None for the whole map. The start is the layer's own activation.
        `rule` says what a ReLU hands down: "deconvnet" the positive part of the signal; "gradient" the signal where the unit fired on the way up
        (the picture is then the gradient times the activation); "guided" the positive part where the unit fired.
        Returns (N, 3, H, W) in units of activation x weights, exactly zero outside the unit's receptive field. Raises ValueError for an
        unknown layer, channel, position, overlap or rule.
        """
        for name, value, known in (("overlap", overlap, OVERLAP), ("rule", rule, RULES)):
            if value not in known:
                raise ValueError(f"{name} = {value!r}: choose one of {', '.join(known)}")
        x, tape = self._checked(images, layer), []
        for _, module in layers_up_to(self.features, layer):
            size, kept = x.shape, None  # what the way down needs: a pool's switches, where a ReLU fired
            if isinstance(module, nn.MaxPool2d):
                x, kept = F.max_pool2d(x, module.kernel_size, module.stride, module.padding, module.dilation,
                                       module.ceil_mode, return_indices=True)  # fmt: skip
            else:
                x = forward_layer(module, x)
                if isinstance(module, nn.ReLU):
                    kept = x > 0
            tape.append((module, size, kept))
        signal = self._start(x, layer, channel, position)
        for module, size, kept in reversed(tape):
            signal = self._down(module, signal, size, kept, overlap, rule)
        return signal

    def _down(self, module: nn.Module, signal: torch.Tensor, size: torch.Size, kept: torch.Tensor | None, overlap: str, rule: str) -> torch.Tensor:
        if isinstance(module, nn.MaxPool2d):
            return unpool(signal, kept, size, overlap)
        if isinstance(module, nn.ReLU):
            signal = signal if rule == "gradient" else F.relu(signal)
            return signal if rule == "deconvnet" else signal * kept
        if isinstance(module, nn.Conv2d):
            return transpose_conv(module, signal, size)
        if isinstance(module, nn.BatchNorm2d):
            scale = (module.running_var + module.eps).rsqrt()
            return signal * (scale if module.weight is None else scale * module.weight).view(1, -1, 1, 1)
        return signal

    def _start(self, maps: torch.Tensor, layer: str, channel, position) -> torch.Tensor:
        """The layer's maps with every activation but the chosen ones set to zero."""
        n, channels, *size = maps.shape
        channel = _indices(channel, n, (), "channel").to(maps.device)
        if bad := [c for c in channel.tolist() if not 0 <= c < channels]:
            raise ValueError(f"channel {bad[0]} is not in {layer}, which has channels 0 to {channels - 1}")
        start, image = torch.zeros_like(maps), torch.arange(n, device=maps.device)
        if position is None:
            start[image, channel] = maps[image, channel]
            return start
        position = _indices(position, n, (2,), "position").to(maps.device)
        if bad := [(r, c) for r, c in position.tolist() if not (0 <= r < size[0] and 0 <= c < size[1])]:
            raise ValueError(f"position {bad[0]} is outside the maps of {layer}, which have {size[0]} x {size[1]} units")
        row, col = position.unbind(1)
        start[image, channel, row, col] = maps[image, channel, row, col]
        return start

    def _checked(self, images: torch.Tensor, layer: str) -> torch.Tensor:
        if not isinstance(images, torch.Tensor) or images.ndim != 4:
            shape = tuple(images.shape) if hasattr(images, "shape") else type(images).__name__
            raise ValueError(f"images: expected a tensor (N, channels, rows, columns), got {shape}; add a batch axis with images[None]")
        first = next(layer for layer in self.features if isinstance(layer, nn.Conv2d))
        if images.shape[1] != first.in_channels:
            raise ValueError(f"images: expected {first.in_channels} channels, got {images.shape[1]}: {tuple(images.shape)}")
        receptive_field(self.features, layer, tuple(images.shape[-2:]))  # names an unknown layer, and images too small to reach it
        return images.detach().to(first.weight)


def _indices(value, n: int, tail: tuple[int, ...], name: str) -> torch.Tensor:
    """One index for all images, or one for each, as a (n, *tail) tensor of integers."""
    value = torch.as_tensor(value)
    if value.is_floating_point() or value.dtype == torch.bool or tuple(value.shape) not in (tail, (n, *tail)):
        want = f"{'row and column' if tail else 'an integer'}, one for all or one for each of the {n} images"
        raise ValueError(f"{name}: expected {want}, got {value.dtype} {tuple(value.shape)}")
    return value.long().expand(n, *tail)
