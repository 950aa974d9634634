"""The paper's layers 1 to 7 as features: what a net knows of an image at each depth (Tables 1 and
7).

Layer n of the convolutional part is what layer n + 1 receives (Fig. 3): the rectified maps, pooled
and normalised where the net does so. Layers 6 and 7 are the rectified hidden layers of the head.
Dropout is off.
"""

from collections.abc import Sequence

import torch
from torch import nn

from zfnet.graph.trace import paper_layers
from zfnet.graph.walk import outputs
from zfnet.store.errors import UserError


def depths(model: nn.Module) -> dict[int, tuple[str, str]]:
    """Where each of the paper's layers ends: {1: ("features", "pool1"), …, 5: ("features",
    "pool5"), 6: ("classifier", "relu6"), …}.
    """
    found, rectified = {}, {name: layer for layer, name in paper_layers(model.features).items()}
    layer = None
    for name, module in model.features.named_children():
        if isinstance(module, nn.Conv2d):
            layer = None
        layer = rectified.get(name, layer)
        if layer:
            found[layer] = ("features", name)
    hidden = [
        name for name, module in model.classifier.named_children() if isinstance(module, nn.ReLU)
    ]
    return found | {n: ("classifier", name) for n, name in enumerate(hidden, start=len(found) + 1)}


def last_hidden(model: nn.Module) -> int:
    """The number of the last rectified hidden layer: 7 in the paper's nets. Raises ValueError for a
    net whose head has none.
    """
    hidden = [layer for layer, (part, _) in depths(model).items() if part == "classifier"]
    if not hidden:
        raise UserError(
            f"{type(model).__name__} has no hidden layer, so there is no layer 7: choose a profile"
            " whose `model: fc:` is not empty"
        )
    return hidden[-1]


def layer_outputs(
    model: nn.Module, inputs: torch.Tensor, layers: Sequence[int | str]
) -> dict[int | str, torch.Tensor]:
    """Features of network inputs (N, 3, H, W) at each of `layers`, in one forward pass: maps (N, C,
    h, w) or vectors (N, F), on the net's device.

    A layer is a number of the paper's, the name of a module of the convolutional part ("relu5":
    layer 5 before its pool), or "logits", the end of the head. Raises ValueError for a layer that
    this net does not have.
    """
    known = depths(model)
    known |= {name: ("features", name) for name, _ in model.features.named_children()}
    if head := [name for name, _ in model.classifier.named_children()]:
        known["logits"] = ("classifier", head[-1])
    if missing := [layer for layer in layers if layer not in known]:
        raise UserError(f"layer {missing[0]!r}: this net has {', '.join(map(str, known))}")
    names = {
        layer: name if part == "features" else f"{part}.{name}"
        for layer, (part, name) in known.items()
    }
    found = outputs(model, inputs, dict.fromkeys(names[layer] for layer in layers))
    return {layer: found[names[layer]] for layer in layers}
