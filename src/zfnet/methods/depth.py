"""The paper's layers 1 to 7 as features: what a net knows of an image at each depth (Tables 1 and
7).

Layer n of the convolutional part is what layer n + 1 receives (Fig. 3): the rectified maps, pooled
and normalised where the net does so. Layers 6 and 7 are the rectified hidden layers of the head.
Dropout is off. Of any net: `paper_layers` says which maps stand for layers 1 to 5.
"""

from collections.abc import Sequence

import torch
from torch import nn

from zfnet.graph.trace import Graph, paper_layers, trace
from zfnet.graph.walk import outputs
from zfnet.store.errors import UserError, require

POOLED = "pooled"


def depths(model: nn.Module | Graph) -> dict[int, str]:
    """Where each of the paper's layers ends: {1: "pool1", …, 5: "pool5", 6: "classifier.relu6", …},
    names as `layers` gives them.
    """
    graph = trace(model)
    found = {
        n: graph.nodes[behind(graph, name)[-1]].name for n, name in paper_layers(graph).items()
    }
    hidden = (node for node in graph.nodes if node.kind == "relu" and not node.spatial)
    return found | {n: node.name for n, node in enumerate(hidden, start=len(found) + 1)}


def behind(graph: Graph, layer: str) -> list[int]:
    """The numbers of a layer's node and of the pools and normalisations that follow it, one reading
    the other and nothing else reading any of them.
    """
    chain = [graph.number(layer)]
    while True:
        readers = [n for n, node in enumerate(graph.nodes) if chain[-1] in node.inputs]
        node = graph.nodes[readers[0]] if len(readers) == 1 else None
        if node is None or node.kind not in ("max", "average", "norm", "same") or not node.spatial:
            return chain
        if isinstance(node.module, (nn.Dropout, nn.Dropout2d)):
            return chain
        chain.append(readers[0])


def classifies(model: nn.Module | Graph) -> bool:
    """Whether a net returns numbers, such as one for each class, and not maps."""
    graph = trace(model)
    return not graph.nodes[graph.output].spatial


def last_hidden(model: nn.Module | Graph) -> int | str:
    """The last hidden layer: the number of the last rectified one of the head, 7 in the paper's
    nets; POOLED, the mean over space of the last of the paper's maps, for a net whose head has
    none, as most that came after.
    """
    graph = trace(model)
    convolutional, last = len(paper_layers(graph)), max(depths(graph), default=0)
    require(last, f"{type(graph.model).__name__} has no rectified layer")
    return last if last > convolutional else POOLED


def layer_outputs(
    model: nn.Module | Graph, inputs: torch.Tensor, layers: Sequence[int | str]
) -> dict[int | str, torch.Tensor]:
    """Features of network inputs (N, 3, H, W) at each of `layers`, in one forward pass: maps (N, C,
    h, w) or vectors (N, F), on the net's device.

    A layer is a number of the paper's, the name of any layer of the net ("relu5": layer 5 before
    its pool), POOLED, or "logits", what the net returns. Raises UserError for a layer that this net
    does not have.
    """
    graph = trace(model)
    stages = list(paper_layers(graph).values())
    names = depths(graph) | {name: name for name in graph.names}
    names |= {POOLED: stages[-1]} if stages else {}
    names["logits"] = graph.nodes[graph.output].name
    if missing := [layer for layer in layers if layer not in names]:
        raise UserError(f"layer {missing[0]!r}: this net has {', '.join(map(str, names))}")
    found = outputs(graph, inputs, dict.fromkeys(names[layer] for layer in layers))
    found = {layer: found[names[layer]] for layer in layers}
    if POOLED in found:
        found[POOLED] = found[POOLED].mean((2, 3))
    return found
