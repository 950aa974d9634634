"""The parts of the deconvnet on arrays small enough to check by eye: what
`notebooks/00_transposed_convolution.ipynb` is made of.

    A = convolution_matrix(weight, (4, 4))        # conv2d(x) is A @ x, conv_transpose2d(y) is A.T @
    y
    P = pooling_matrix(switches, (5, 5))          # with its switches held, a max pool is linear
    too: P @ x; unpool(s, overlap="add") is P.T @ s
    found = walk(image, weight, bias, signal)     # convolve, rectify, pool; and back: unpool,
    rectify, filter
    shared = shared_switches(switches)            # which overlapping windows have their maximum in
    common
    picture = ruled_gradient(net, image, 0, (1, 1), "deconvnet")    # autograd with another ReLU
    rule is the deconvnet
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from zfnet.graph.trace import trace
from zfnet.graph.walk import outputs
from zfnet.methods.deconv import OVERLAP, RULES, Deconvnet, unpool
from zfnet.store.errors import require


def convolution_matrix(
    weight: torch.Tensor, size: tuple[int, int], stride: int = 1, padding: int = 0
) -> torch.Tensor:
    """The matrix of a convolution of images (I, H, W) with weight (O, I, k, k): one row per output,
    one column per pixel, (O * h * w, I * H * W).

    Column j is the convolution of the image that is 1 at pixel j and 0 elsewhere. Pixels and
    outputs are counted row by row, channel by channel. Raises ValueError where the kernel does not
    fit into the image.
    """
    require(
        min(n + 2 * padding - k for n, k in zip(size, weight.shape[2:], strict=True)) >= 0,
        f"size = {tuple(size)}: too small for a kernel of {tuple(weight.shape[2:])} with"
        f" padding {padding}",
    )
    pixels = weight.shape[1] * size[0] * size[1]
    probes = torch.eye(pixels, dtype=weight.dtype).view(pixels, weight.shape[1], *size)
    return F.conv2d(probes, weight, stride=stride, padding=padding).flatten(1).T.contiguous()


def pooling_matrix(switches: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The matrix of a max pool of one map (H, W) whose switches (h, w), flat indices as from
    F.max_pool2d, are held fixed: (h * w, H * W).
    """
    return F.one_hot(switches.flatten(), size[0] * size[1]).double()


def shared_switches(switches: torch.Tensor) -> torch.Tensor:
    """Which windows (N, C, h, w) of a max pool have their maximum in common with another window of
    the same map: bool, of the same shape.
    """
    flat = switches.flatten(2)
    counts = torch.zeros(
        *flat.shape[:2], int(flat.max()) + 1, dtype=torch.long, device=flat.device
    ).scatter_add_(2, flat, torch.ones_like(flat))
    return (counts.gather(2, flat) > 1).view_as(switches)


def pool_collisions(model: nn.Module, images: torch.Tensor) -> dict[str, tuple[float, float]]:
    """For every max pool of a net, over images (N, 3, H, W): the share of its windows that share
    their maximum, of all and of those that fire.
    """
    graph, found = trace(model), {}
    pools = [node for node in graph.nodes if node.kind == "max"]
    below = {node.name: graph.nodes[node.inputs[0]].name for node in pools}
    maps = outputs(graph, images, [*below.values(), *below])
    for node in pools:
        module = node.module
        pooled, switches = F.max_pool2d(
            maps[below[node.name]],
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            module.ceil_mode,
            return_indices=True,
        )
        shared = shared_switches(switches).double()
        found[node.name] = shared.mean().item(), shared[pooled > 0].mean().item()
    return found


@dataclass(frozen=True)
class Walk:
    """One map (…, H, W) up and a signal down. Up: image, convolved, rectified, pooled with its
    switches. Down, by rule for shared maxima ("add", "overwrite", "max"): unpooled, kept (the
    rectified signal) and picture.
    """

    image: torch.Tensor
    weight: torch.Tensor
    convolved: torch.Tensor
    rectified: torch.Tensor
    pooled: torch.Tensor
    switches: torch.Tensor
    signal: torch.Tensor
    unpooled: dict[str, torch.Tensor]
    kept: dict[str, torch.Tensor]
    picture: dict[str, torch.Tensor]


def walk(
    image: torch.Tensor,
    weight: torch.Tensor,
    bias: float,
    signal: torch.Tensor,
    pool: int = 3,
    stride: int = 2,
) -> Walk:
    """Convolve (image (H, W), weight (k, k), stride 1), rectify and pool; then take `signal`, of
    the pooled size, the three steps down (section 2.1).

    Raises ValueError where the signal has another size than the pooled map.
    """
    convolved = F.conv2d(
        image[None, None], weight[None, None], torch.tensor([bias], dtype=image.dtype)
    )
    rectified = F.relu(convolved)
    pooled, switches = F.max_pool2d(rectified, pool, stride, return_indices=True)
    require(
        signal.shape == pooled.shape[2:],
        f"signal: expected the size of the pooled map, {tuple(pooled.shape[2:])}, got"
        f" {tuple(signal.shape)}",
    )
    unpooled = {
        rule: unpool(signal[None, None], switches, rectified.shape, rule) for rule in OVERLAP
    }
    kept = {rule: F.relu(maps) for rule, maps in unpooled.items()}
    picture = {
        rule: F.conv_transpose2d(maps, weight[None, None])[0, 0] for rule, maps in kept.items()
    }
    down = ({rule: maps[0, 0] for rule, maps in step.items()} for step in (unpooled, kept))
    return Walk(
        image,
        weight,
        convolved[0, 0],
        rectified[0, 0],
        pooled[0, 0],
        switches[0, 0],
        signal,
        *down,
        picture,
    )


class RuledReLU(torch.autograd.Function):
    """A ReLU whose backward pass follows a rule: "gradient" (its own), "deconvnet" (rectify the
    signal), "guided" (both).
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, rule: str) -> torch.Tensor:
        ctx.rule, ctx.fired = rule, x > 0
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx, signal: torch.Tensor):
        if ctx.rule != "gradient":
            signal = signal.clamp_min(0)
        if ctx.rule != "deconvnet":
            signal = signal * ctx.fired
        return signal, None


def ruled_gradient(
    net: nn.Sequential, image: torch.Tensor, channel: int, position: tuple[int, int], rule: str
) -> torch.Tensor:
    """Activation times gradient of one unit of the net's last layer, by autograd, with `rule` in
    place of every ReLU's own: (1, C, H, W).

    No deconvnet in here: forward, `backward()`, and one changed rule. Raises ValueError for an
    unknown rule.
    """
    require(rule in RULES, f"rule = {rule!r}: choose one of {', '.join(RULES)}")
    x = image = image.detach().clone().requires_grad_()
    for module in net:
        x = RuledReLU.apply(x, rule) if isinstance(module, nn.ReLU) else module(x)
    unit = x[0, channel, position[0], position[1]]
    return torch.autograd.grad(unit, image)[0] * unit.detach()


def grid_periods(pictures: torch.Tensor, below: float, count: int = 2) -> list[float]:
    """The periods in pixels, along rows, of the `count` strongest waves shorter than `below` in
    pictures (N, C, H, W): the fine grid, strongest first.
    """
    energy = torch.fft.rfft(pictures.double().cpu(), dim=3).abs().square().mean((0, 1, 2))
    periods = pictures.shape[3] / torch.arange(len(energy)).clamp_min(1)
    short = periods < below
    return periods[short][energy[short].argsort(descending=True)][:count].tolist()


def overlap_differences(
    deconvnet: Deconvnet,
    images: torch.Tensor,
    layer: str,
    channel: torch.Tensor,
    position: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """How far "overwrite" and "max" are from "add", for one unit of each image: relative L2
    differences of the projections, (N,) each.
    """
    add = deconvnet.project(images, layer, channel, position).flatten(1)
    return {
        rule: (
            (deconvnet.project(images, layer, channel, position, rule).flatten(1) - add).norm(dim=1)
            / add.norm(dim=1)
        )
        for rule in OVERLAP[1:]
    }
