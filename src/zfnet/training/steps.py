"""What shapes trained weights: the step, the crops, the schedule, the choice of the epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from zfnet.data.files import Files, read_ahead
from zfnet.data.images import Images, random_crops
from zfnet.graph.forward import forward
from zfnet.store.profiles import TrainingConfig
from zfnet.training.evaluation import Evaluation


@torch.no_grad()
def renormalise(model: nn.Module, limit: float) -> None:
    """Scale every convolution filter whose root mean square exceeds `limit` back to it (paper,
    section 3: 0.1).
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            rms = layer.weight.square().mean((1, 2, 3), keepdim=True).sqrt()
            layer.weight.mul_((limit / rms).clamp_max(1.0))


def train_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    rms: float | None,
) -> torch.Tensor:
    """One step on a batch; returns its logits (N, classes) before the step."""
    logits = forward(model, images)
    loss = F.cross_entropy(logits, labels)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    if rms:
        renormalise(model, rms)
    return logits.detach()


def optimisation(model: nn.Module, config: TrainingConfig, steps: int):
    """(optimiser, scheduler, when it steps: "batch", "epoch" or None) of a run of `steps` steps an
    epoch. "plateau" is the paper's annealing by hand.
    """
    schedules, parameters = torch.optim.lr_scheduler, model.parameters()
    if config.optimiser == "adamw":
        optimiser = torch.optim.AdamW(
            parameters, config.lr, (config.momentum, 0.999), weight_decay=config.weight_decay
        )
    else:
        optimiser = torch.optim.SGD(
            parameters, config.lr, config.momentum, weight_decay=config.weight_decay
        )
    if config.schedule == "onecycle":
        total = config.epochs * steps
        scheduler = schedules.OneCycleLR(
            optimiser, config.lr, total_steps=total, cycle_momentum=False
        )
        return optimiser, scheduler, "batch"
    if config.schedule == "plateau":
        scheduler = schedules.ReduceLROnPlateau(optimiser, factor=0.1, patience=3, threshold=1e-3)
        return optimiser, scheduler, "epoch"
    return optimiser, None, None


def snapshot_steps(config: TrainingConfig, steps: int) -> dict[int, int]:
    """Snapshot n, in 64ths of the run, and the step after which it is taken."""
    return {part: max(1, round(part / 64 * config.epochs * steps)) for part in config.snapshots}


def improved(val: Evaluation | None, best: float | None) -> bool:
    """Whether an epoch is the one to keep: the latest of the best on the validation split, the last
    one where there is none.
    """
    return val is None or val.accuracy >= best


def epoch_steps(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    scheduler,
    images: Images,
    pixels: torch.Tensor | Files,
    labels: torch.Tensor,
    config: TrainingConfig,
    seed: int,
    epoch: int,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """One epoch, a step at a time: yields each batch's summed loss (float64) and errors, where the
    model is, and its size. All that is random in it derives from `seed` and `epoch`.

    pixels, labels: those of `images` on the device. share: (rank, processes), of which this one
    takes every processes-th image of each batch; the crops are those of a single process, dropout
    masks are its own.
    """
    rank, processes = share
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    torch.manual_seed(seed * 100_003 + epoch + rank * 1_000_003)
    model.train()
    # whole batches only, but for a set smaller than one
    used = max(1, len(labels) // config.batch_size) * config.batch_size
    order = torch.randperm(len(labels), generator=generator)[:used]
    parts = [part[rank::processes] for part in order.split(config.batch_size)]
    for indices, (stored, rows) in zip(parts, read_ahead(pixels, parts), strict=True):
        cut = random_crops(
            stored, rows, images.size, generator, config.flip, config.smallest_crop, share
        )
        inputs = images.normalise(cut.to(labels.device))
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        target = labels[indices.to(labels.device)]
        logits = train_step(model, optimiser, inputs, target, config.rms)
        if scheduler:
            scheduler.step()
        loss = F.cross_entropy(logits, target).double() * len(indices)
        yield loss, (logits.argmax(1) != target).sum(), len(indices)
