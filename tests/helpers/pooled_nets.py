"""Nets with overlapping pools, and captum's deconvnet and guided backpropagation for them."""

import copy

import numpy as np
import torch
from torch import nn

from zfnet.graph.trace import pair


def conv(*arguments, **keywords):
    return nn.Conv2d(*arguments, **keywords)


def relu():
    return nn.ReLU(inplace=True)


# every net has overlapping pools
NETS = {
    "ceil_mode, 3x3/2 pools": lambda: [
        conv(3, 5, 7, 2, 1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        conv(5, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        conv(6, 4, 3, 1, 1),
        nn.ReLU(),
    ],
    "padded pools, in-place ReLU": lambda: [
        conv(3, 4, 3, 1, 1),
        relu(),
        nn.MaxPool2d(3, 2, 1),
        conv(4, 6, 3, 2, 2, groups=2),
        relu(),
        nn.MaxPool2d(3, 1),
        conv(6, 5, 2),
        relu(),
    ],
    "dilation, no biases, padded pools in ceil_mode": lambda: [
        conv(3, 4, 3, 2, 2, dilation=2, bias=False),
        relu(),
        nn.MaxPool2d(3, 1, 1, dilation=2),
        conv(4, 5, 4, 3, 1, bias=False),
        relu(),
        nn.MaxPool2d(2, 1, 1, ceil_mode=True),
    ],
    "batch norm and dropout": lambda: [
        conv(3, 4, 3, 2),
        nn.BatchNorm2d(4),
        relu(),
        nn.Dropout(0.5),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        conv(4, 5, 3, 1, 1),
        nn.BatchNorm2d(5, affine=False),
        relu(),
        nn.MaxPool2d(3, 1),
        conv(5, 4, 2),
        relu(),
    ],
    "rows unlike columns": lambda: [
        conv(3, 4, (3, 5), (2, 1), (1, 2)),
        relu(),
        nn.MaxPool2d((3, 2), (1, 2), (1, 0)),
        conv(4, 4, (2, 3), (1, 3)),
        relu(),
    ],
    "pooled twice, layer of a pool": lambda: [
        conv(3, 4, 3),
        relu(),
        nn.MaxPool2d(3, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        conv(4, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    ],
}


SIZES = [(27, 36), (41, 33)]


def build(name: str, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(*NETS[name]()).double()
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            if layer.affine:
                layer.weight.data.normal_()
                layer.bias.data.normal_()
    return net.eval()


def last_layer(net: nn.Sequential) -> str:
    return [name for name, _ in net.named_children()][-1]


def for_captum(net: nn.Sequential) -> nn.Sequential:
    """A copy whose ReLUs are not in place, as captum's hooks need them."""
    clean = copy.deepcopy(net).eval()
    for i, layer in enumerate(clean):
        if isinstance(layer, nn.ReLU):
            clean[i] = nn.ReLU()
    return clean


def firing_units(net, images, layer, each):
    """(image, channel, row, col) of some units that fire, `each` for every image."""
    maps = for_captum(net)[: int(layer) + 1](images).detach()
    units = []
    for n, m in enumerate(maps):
        active = (m > 0).nonzero()
        assert len(active) >= each
        units += [(n, *unit) for unit in active[torch.randperm(len(active))[:each]].tolist()]
    return maps, units


def taps(layer, row, col, below):
    """(pixel row, pixel column, kernel row, kernel column) of each input that output (row, col) of
    a convolution or pool reads.
    """
    (kr, kc), (sr, sc), (pr, pc), (dr, dc) = (
        pair(v) for v in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    )
    for a in range(kr):
        for b in range(kc):
            i, j = row * sr - pr + a * dr, col * sc - pc + b * dc
            if 0 <= i < below.shape[1] and 0 <= j < below.shape[2]:
                yield i, j, a, b


def unpool_slowly(layer, signal, below, overlap):
    handed = {}
    for c, row, col in np.ndindex(signal.shape):
        best = None
        for i, j, _, _ in taps(layer, row, col, below):
            if best is None or below[c, i, j] > below[c][best]:
                best = i, j
        handed.setdefault((c, *best), []).append(signal[c, row, col])
    out = np.zeros_like(below)
    for pixel, values in handed.items():
        out[pixel] = {"add": sum(values), "overwrite": values[-1], "max": max(values)}[overlap]
    return out


def filter_slowly(layer, signal, below, _):
    weight, out = layer.weight.detach().numpy(), np.zeros_like(below)
    per_group = weight.shape[0] // layer.groups
    for c, row, col in zip(*signal.nonzero(), strict=True):
        first = c // per_group * weight.shape[1]
        for i, j, a, b in taps(layer, row, col, below):
            out[first : first + weight.shape[1], i, j] += signal[c, row, col] * weight[c, :, a, b]
    return out
