"""Random small stacks for property-based tests: every supported layer, any geometry PyTorch
accepts.
"""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

from zfnet import receptive_field


@st.composite
def stacks(draw, channels: int = 3) -> tuple[nn.Sequential, tuple[int, int]]:
    """A stack in float64 with random weights, and an image size (rows, columns) it can take."""
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()) or not layers:
            groups = 2 if channels % 2 == 0 and draw(st.booleans()) else 1
            kernel, stride, dilation = (
                draw(st.tuples(st.integers(1, high), st.integers(1, high))) for high in (4, 3, 2)
            )
            padding = tuple(draw(st.integers(0, k)) for k in kernel)
            width = 2 * draw(st.integers(1, 3))
            layers.append(
                nn.Conv2d(
                    channels,
                    width,
                    kernel,
                    stride,
                    padding,
                    dilation,
                    groups,
                    bias=draw(st.booleans()),
                )
            )
            channels = width
        else:
            kernel, stride, dilation = (
                draw(st.integers(2, 3)),
                draw(st.integers(1, 3)),
                draw(st.integers(1, 2)),
            )
            layers.append(
                nn.MaxPool2d(
                    kernel,
                    stride,
                    draw(st.integers(0, kernel // 2)),
                    dilation,
                    ceil_mode=draw(st.booleans()),
                )
            )
        layers += draw(
            st.sampled_from(
                [
                    [],
                    [nn.ReLU()],
                    [nn.ReLU(inplace=True)],
                    [nn.LocalResponseNorm(3)],
                    [nn.BatchNorm2d(channels)],
                    [nn.Dropout()],
                ]
            )
        )
    net = nn.Sequential(*layers).double().eval()
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
        for module in net:
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.abs_().add_(0.1)
    size = draw(st.tuples(st.integers(6, 40), st.integers(6, 40)))
    while not _fits(net, size):
        size = (size[0] + 15, size[1] + 15)
    return net, size


def _fits(net: nn.Sequential, size: tuple[int, int]) -> bool:
    """Whether an image of this size comes out at the end, and no pooling window lies wholly in the
    padding, which PyTorch turns into -inf.
    """
    x = torch.zeros(1, 3, *size, dtype=torch.float64)
    try:
        receptive_field(net, str(len(net) - 1), size)
        for layer in net:
            x = layer(x)
            if not x.isfinite().all():
                return False
    except ValueError:
        return False
    return True
