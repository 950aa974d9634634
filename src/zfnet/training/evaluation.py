"""What a net makes of images that it was not trained on."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from zfnet.data.files import read_ahead
from zfnet.data.images import Images, ten_crop
from zfnet.graph.forward import evaluating, forward
from zfnet.store import distributed
from zfnet.store.errors import require


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
    require(
        crops in (1, 10),
        f"crops = {crops}: choose 1 (centre) or 10 (corners and centre, mirrored)",
    )
    device, probabilities = next(model.parameters()).device, []
    parts, (top, left) = torch.arange(len(images)).split(max(1, batch_size // crops)), images.corner
    centre = slice(None), slice(top, top + images.size), slice(left, left + images.size)
    with evaluating(model):
        for indices, (stored, rows) in zip(parts, read_ahead(images.pixels, parts), strict=True):
            # (B, crops, 3, S, S)
            pixels = (
                stored[rows, *centre][:, None]
                if crops == 1
                else ten_crop(stored[rows], images.size)
            )
            inputs = images.normalise(pixels.flatten(0, 1).to(device))
            logits = forward(model, inputs.contiguous(memory_format=torch.channels_last))
            each = logits.float().softmax(1).view(len(indices), crops, -1)
            probabilities.append(each.mean(1).cpu())
    probabilities = torch.cat(probabilities)
    best = probabilities.topk(min(5, probabilities.shape[1]), dim=1).indices
    hits = best == images.labels[:, None]
    return Evaluation(
        loss=F.nll_loss(probabilities.clamp_min(1e-12).log(), images.labels).item(),
        accuracy=hits[:, 0].double().mean().item(),
        top5=hits.any(1).double().mean().item(),
        probabilities=probabilities,
        predictions=best[:, 0],
    )


def class_accuracy(predictions: torch.Tensor | np.ndarray, labels: torch.Tensor) -> float:
    """Mean over the classes of `labels` (N,) of each one's accuracy, 0..1: the measure of the
    paper's Table 4.
    """
    from sklearn.metrics import balanced_accuracy_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # predictions may be of classes that `labels` lack
        return float(balanced_accuracy_score(np.asarray(labels), np.asarray(predictions)))


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


def evaluate_together(model: nn.Module, images: Images, crops: int = 1) -> Evaluation:
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
    # process n has images n, n + processes, …
    order = torch.cat([torch.arange(n, len(images), processes) for n in range(processes)]).argsort()
    probabilities, predictions = (
        torch.cat([getattr(part, name) for part in parts])[order]
        for name in ("probabilities", "predictions")
    )
    return Evaluation(loss, accuracy, top5, probabilities, predictions)
