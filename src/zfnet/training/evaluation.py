"""What a net makes of images that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from zfnet.data.files import read_ahead
from zfnet.data.images import Images, ten_crop
from zfnet.graph.forward import evaluating, forward
from zfnet.store import distributed
from zfnet.store.errors import UserError


@dataclass(frozen=True)
class Evaluation:
    """loss (mean cross-entropy), accuracy and top5 in 0..1; probabilities (N, classes), predictions
    (N,).
    """

    loss: float
    accuracy: float
    top5: float
    probabilities: torch.Tensor
    predictions: torch.Tensor


@torch.inference_mode()
def evaluate(model: nn.Module, images: Images, crops: int = 1, batch_size: int = 100) -> Evaluation:
    """Centre crop (`crops=1`) or the mean probability of the paper's ten crops (`crops=10`), on the
    model's device.
    """
    if crops not in (1, 10):
        raise UserError(f"crops = {crops}: choose 1 (centre) or 10 (corners and centre, mirrored)")
    device = next(model.parameters()).device
    found = []
    with evaluating(model):
        parts, (top, left) = (
            torch.arange(len(images)).split(max(1, batch_size // crops)),
            images.corner,
        )
        for indices, (stored, rows) in zip(parts, read_ahead(images.pixels, parts), strict=True):
            centre = (
                rows,
                slice(None),
                slice(top, top + images.size),
                slice(left, left + images.size),
            )
            pixels = stored[centre][:, None] if crops == 1 else ten_crop(stored[rows], images.size)
            inputs = images.normalise(pixels.flatten(0, 1).to(device)).contiguous(
                memory_format=torch.channels_last
            )
            found.append(
                forward(model, inputs)
                .float()
                .softmax(1)
                .view(len(indices), crops, -1)
                .mean(1)
                .cpu()
            )
    probabilities = torch.cat(found)
    loss = F.nll_loss(probabilities.clamp_min(1e-12).log(), images.labels).item()
    best = probabilities.topk(min(5, probabilities.shape[1]), dim=1).indices
    hits = best == images.labels[:, None]
    return Evaluation(
        loss,
        hits[:, 0].double().mean().item(),
        hits.any(1).double().mean().item(),
        probabilities,
        best[:, 0],
    )


def class_accuracy(predictions: torch.Tensor | np.ndarray, labels: torch.Tensor) -> float:
    """Mean over the classes of `labels` (N,) of each one's accuracy, 0..1: the measure of the
    paper's Table 4.
    """
    right = torch.as_tensor(predictions) == labels
    # rounded as scikit-learn does
    return float(
        np.mean([right[labels == label].double().mean().item() for label in labels.unique()])
    )


def examples(
    evaluation: Evaluation, labels: torch.Tensor | None, count: int, seed: int = 0
) -> torch.Tensor:
    """Indices of `count` images of different predicted classes, in seeded random order.

    Only rightly classified ones when labels are given; otherwise, when the net has no name for
    them, those of the surest quarter.
    """
    order = torch.randperm(
        len(evaluation.predictions), generator=torch.Generator().manual_seed(seed)
    )
    if labels is None:
        sure = evaluation.probabilities.amax(1)[order]
        order = order[sure >= sure.quantile(0.75)]
    chosen: dict[int, int] = {}
    for index in order.tolist():
        guess = int(evaluation.predictions[index])
        if labels is None or guess == int(labels[index]):
            chosen.setdefault(guess, index)
    return torch.tensor(list(chosen.values())[:count])


def _evaluate(model: nn.Module, images: Images, crops: int = 1) -> Evaluation:
    """`evaluate`, each process on its share of the images, put together in all of them."""
    rank, processes = distributed.share()
    if processes == 1 or len(images) < processes:
        return evaluate(model, images, crops)
    own = evaluate(model, images.subset(torch.arange(rank, len(images), processes)), crops)
    parts = distributed.gathered(own)
    weights = [len(part.predictions) / len(images) for part in parts]
    loss, accuracy, top5 = (
        sum(w * getattr(part, name) for w, part in zip(weights, parts, strict=True))
        for name in ("loss", "accuracy", "top5")
    )
    probabilities, predictions = (
        torch.empty(len(images), own.probabilities.shape[1]),
        torch.empty(len(images), dtype=torch.long),
    )
    for n, part in enumerate(parts):
        probabilities[n::processes], predictions[n::processes] = (
            part.probabilities,
            part.predictions,
        )
    return Evaluation(loss, accuracy, top5, probabilities, predictions)
