"""The one walk through a net: operation by operation, in order, as in eval mode.

for layer, maps in walk(graph, images, ["relu1", "relu5"]): ...
maps = outputs(model, images, ["relu1", "relu5"])        # the same, as a mapping
"""

from collections.abc import Container, Iterable, Iterator

import torch
from torch import nn

from zfnet.graph.trace import Graph, Node, trace
from zfnet.store.errors import UserError

# kinds whose output nobody else holds
FRESH = ("conv", "norm", "max", "average", "sum", "cat", "relu")


def walk(
    graph: Graph, x: torch.Tensor, wanted: Iterable[int]
) -> Iterator[tuple[int, torch.Tensor]]:
    """The outputs of the nodes numbered `wanted` for images x (N, C, H, W), each as soon as it is
    there: (number, output). What nobody reads any more is let go, and a ReLU works in place where
    nobody reads what it changes.
    """
    wanted = set(wanted)
    order = graph.above(*wanted)
    left = graph.readers(order)
    values: dict[int, object] = {0: x}
    for number in order:
        node = graph.nodes[number]
        if number:
            read = [values[source] for source in node.inputs]
            values[number] = compute(graph, node, read, left, wanted)
            forget(values, node, left)
        if number in wanted:
            yield number, values[number]


def compute(
    graph: Graph, node: Node, read: list, left: dict[int, int], wanted: Container
) -> object:
    """A node's output from what it reads; a ReLU in place where nobody else reads that. `left`: how
    many nodes still have to read each; `wanted`: which outputs are kept.
    """
    if node.kind != "relu":
        return node.call(read)
    source = node.inputs[0]
    alone = left[source] == 1 and source not in wanted and graph.nodes[source].kind in FRESH
    return node.call(read, alone)


def forget(values: dict[int, object], node: Node, left: dict[int, int]) -> None:
    """Let go of what a node was the last to read."""
    for source in node.inputs:
        left[source] -= 1
        if not left[source]:
            values.pop(source, None)


@torch.no_grad()
def outputs(
    model: nn.Module | Graph, images: torch.Tensor, layers: Iterable[str]
) -> dict[str, torch.Tensor]:
    """The outputs of the layers of these names for images (N, C, H, W), in one pass, on the net's
    device. Raises UserError for an unknown name and Unsupported for a net that fx cannot follow.
    """
    graph = trace(model)
    numbers = {layer: graph.number(layer) for layer in layers}
    x = images.to(graph.weight).contiguous(memory_format=torch.channels_last)
    found = dict(walk(graph, x, numbers.values()))
    return {layer: found[number] for layer, number in numbers.items()}


def finite(images: torch.Tensor) -> torch.Tensor:
    """The images; UserError for whole numbers, which no net was trained on, and for values that are
    not finite, which would win every comparison.
    """
    if not images.is_floating_point():
        what = f"images: expected network input, floating point and normalised, got {images.dtype}"
        raise UserError(what, "normalise them as the net's training images were")
    # a sum is finite only if all are, and far quicker
    if not images.sum().isfinite() and not images.isfinite().all():
        raise UserError("images: some values are not finite (NaN or infinite)", "leave these out")
    return images
