"""The paper's recipe (section 3): SGD with momentum (or AdamW), dropout, filters renormalised to a
bounded RMS, the learning rate annealed.

    train(load_profile("demo"))     # runs/demo/weights.safetensors and history.csv

Images stay uint8 on the device; each batch is one gather of random crops and flips. The epoch that
does best on the validation split is kept, the last one where `validation: 0` leaves no such split.
Everything random in an epoch derives from (seed, epoch), so a run resumes from its checkpoint with
the same data order and dropout masks.
"""

import contextlib
import csv
import dataclasses
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from zfnet.data.files import Files, read_ahead
from zfnet.data.images import Data, Images, random_crops
from zfnet.data.load import load_data
from zfnet.graph.forward import forward
from zfnet.models.build import build_model, load_model
from zfnet.store import artefacts, distributed, keys, provenance
from zfnet.store.errors import Diverged, require
from zfnet.store.profiles import Profile, TrainingConfig
from zfnet.training.evaluation import class_accuracy, evaluate_together
from zfnet.training.recipe import RECIPE
from zfnet.training.start import left, settled, starting_net

FEW = 5  # steps that are timed before it is said how long all of them take
COLUMNS = ("epoch", "lr", "train_loss", "train_error", "val_loss", "val_error")


def weights_key(profile: Profile, data: Data) -> str:
    """What trained weights are made from: data, net, recipe, seed and the code of all three."""
    recipe = dataclasses.asdict(profile.training)
    if recipe["start"] is None:  # as in keys from before there was a choice
        del recipe["start"]
    return keys.key_of(
        data.train.fingerprint,
        data.val.fingerprint,
        profile.model,
        recipe,
        profile.seed,
        RECIPE,
    )


def train(
    profile: Profile,
    data: Data | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> dict:
    """Train the profile's net unless its weights are already there; returns their provenance
    (accuracies, epoch, seconds, what is left of the random start, …).

    Resumes from `runs/<profile>/checkpoint.pt` when that was made from the same data, recipe and
    code. Raises ValueError for a profile without a `training:` section, and FloatingPointError,
    with the cure, when the loss is no longer finite.
    """
    require(
        profile.training is not None,
        f"profile {profile.name!r} has no `training:` section: its weights come from"
        f" {profile.model.weights or 'their publisher'}",
    )
    data = data or load_data(profile)
    require(
        len(data.test),
        f"profile {profile.name!r} has no test images, on which the net is measured",
        f"put some into {profile.data_root / 'test'}",
    )
    key = weights_key(profile, data)
    if meta := distributed.from_first(lambda: _done(profile, key, warn=False)):
        return meta
    with (
        artefacts.locked(profile.weights_file)
        if distributed.is_first()
        else contextlib.nullcontext()
    ):
        # another run may have trained the net meanwhile
        if meta := distributed.from_first(lambda: _done(profile, key)):
            return meta
        device = torch.device(device or distributed.default_device())
        # not cudnn.allow_tf32: reading that is an error once the flag below was set by anybody
        convolutions = torch.backends.cudnn.conv
        before, convolutions.fp32_precision = convolutions.fp32_precision, "tf32"
        try:
            return _train(profile, data, key, device, progress and distributed.is_first())
        finally:
            convolutions.fp32_precision = before


def _done(profile: Profile, key: str, warn: bool = True) -> dict | None:
    """The weights' provenance if the training made from `key` is complete: history, weights and
    snapshots, all of them whole; None otherwise.
    """
    if not profile.history_file.exists():
        return None
    snapshots = [profile.snapshot_file(part) for part in profile.training.snapshots]
    there = [artefacts.current(path, key, warn) for path in (profile.weights_file, *snapshots)]
    if not all(there):
        return None
    artefacts.remove_state(profile.checkpoint_file, key)  # left by a kill after the last write
    return there[0][1]


def _train(profile: Profile, data: Data, key: str, device: torch.device, progress: bool) -> dict:
    config, (rank, processes) = settled(profile.training, len(data.train)), distributed.share()
    batch = min(config.batch_size, len(data.train))
    require(
        batch % processes == 0,
        f"a batch of {batch} images cannot be shared by {processes} processes alike",
        "choose a number that divides it",
    )
    model = starting_net(profile, len(data.classes))
    model.to(device, memory_format=torch.channels_last)
    steps = max(1, len(data.train) // config.batch_size)
    optimiser, scheduler, when = optimisation(model, config, steps)
    state = _resumed(profile, key, model, optimiser, scheduler)
    net = distributed.averaged(model, forward)
    pixels, labels = data.train.pixels, data.train.labels.to(device)
    pixels = pixels if isinstance(pixels, Files) else pixels.to(device)
    bar = tqdm(
        total=config.epochs * steps,
        initial=state["epoch"] * steps,
        desc=f"train {profile.name}",
        unit="step",
        disable=None if progress else True,
    )
    # in 64ths of the run, and the step after which each is taken
    snapshots = [
        (part, max(1, round(part / 64 * config.epochs * steps)))
        for part in (config.snapshots if rank == 0 else ())
    ]
    # where the decay is to take the start away, an epoch before it has done so is no choice
    earliest = round(0.75 * config.epochs) if profile.training.weight_decay is None else 1
    first = state["epoch"] * steps + 1  # slower than those after it
    done = {first: 0.0, first + FEW: 0.0}
    for epoch in range(state["epoch"] + 1, config.epochs + 1):
        started = time.perf_counter()
        parts = epoch_steps(
            net,
            optimiser,
            scheduler if when == "batch" else None,
            data.train,
            pixels,
            labels,
            config,
            profile.seed,
            epoch,
            (rank, processes),
        )
        # the sums stay on the device, so that no step waits for the one before it
        loss = errors = seen = 0
        for step, (batch_loss, batch_errors, size) in enumerate(parts, 1 + (epoch - 1) * steps):
            loss, errors, seen = loss + batch_loss, errors + batch_errors, seen + size
            for part in (part for part, due in snapshots if due == step):
                meta = {"key": key, "step": step, "epochs": step / steps}
                tensors = getattr(model, "features", model).state_dict()
                artefacts.save_tensors(profile.snapshot_file(part), tensors, meta)
            bar.update()
            if progress and step in done:
                float(loss)  # waits for the device
                done[step] = time.perf_counter()
                if step > first:
                    pace, rest = (done[step] - done[first]) / FEW, config.epochs * steps - step
                    bar.write(_forecast(config, len(data.train), pace, rest))
        sums = torch.tensor([float(loss), float(errors), seen], dtype=torch.float64)
        loss, errors, seen = distributed.summed(sums).tolist()
        loss, error = loss / seen, errors / seen
        require(
            loss < float("inf"),
            f"the loss is no longer finite in epoch {epoch}",
            f"lower `training: lr:` ({config.lr}) or set `rms: 0.1` in profile {profile.name!r}",
            Diverged,
        )
        val = evaluate_together(model, data.val) if len(data.val) else None
        val_loss, val_error = (val.loss, 1 - val.accuracy) if val else (float("nan"), float("nan"))
        lr = optimiser.param_groups[0]["lr"]
        if when == "epoch":
            scheduler.step(val_loss)
        # the latest of the best on the validation split, the last one where there is none
        if val is None or (epoch >= earliest and val.accuracy >= state["best"]):
            weights = {name: each.cpu().clone() for name, each in model.state_dict().items()}
            best = val.accuracy if val else None
            state |= {"best": best, "best_epoch": epoch, "best_model": weights}
        state |= {
            "epoch": epoch,
            "history": [*state["history"], (epoch, lr, loss, error, val_loss, val_error)],
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "scheduler": scheduler.state_dict() if scheduler else None,
            "seconds": state["seconds"] + time.perf_counter() - started,
        }
        if rank == 0:
            artefacts.save_state(profile.checkpoint_file, state)
        bar.set_postfix_str(
            f"epoch {epoch}/{config.epochs}, train error {error:.1%}, val error {val_error:.1%}"
        )
        if progress and bar.disable:
            print(
                f"epoch {epoch:3d}/{config.epochs}  loss {loss:.3f}  train error {error:6.1%}"
                f"  val error {val_error:6.1%}",
                flush=True,
            )
    bar.close()
    profile = dataclasses.replace(profile, training=config)
    return _finish(profile, data, model, state, device)


def _forecast(config: TrainingConfig, images: int, pace: float, rest: int) -> str:
    """One line: how long `rest` steps will take at `pace` seconds each, tests not counted."""
    minutes = pace * rest / 60
    span = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{max(1, round(minutes))} min"
    return (
        f"training on {images} images, {config.epochs} epochs, weight decay"
        f" {config.weight_decay:g}: {rest} steps of {pace:.2g} s, about {span}"
    )


def _resumed(profile: Profile, key: str, model: nn.Module, optimiser, scheduler) -> dict:
    """The state to go on from: the checkpoint's, put into net, optimiser and scheduler, where one
    was made from `key`; else that of the start.
    """
    state = distributed.from_first(
        lambda: artefacts.load_state(profile.checkpoint_file, key, torch.device("cpu"))
    )
    if state is None:
        return {
            "key": key,
            "epoch": 0,
            "best": -1.0,
            "best_epoch": 0,
            "best_model": None,
            "history": [],
            "seconds": 0.0,
        }
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    if scheduler:
        scheduler.load_state_dict(state["scheduler"])
    return state


def _finish(
    profile: Profile, data: Data, model: nn.Module, state: dict, device: torch.device
) -> dict:
    """Restore the epoch that was best on validation, test it once, write weights and history."""
    config = profile.training
    model.load_state_dict(state["best_model"])
    centre = evaluate_together(model, data.test)
    test = evaluate_together(model, data.test, crops=10) if config.ten_crop else centre
    meta = provenance.record(
        profile,
        device,
        key=state["key"],
        n=len(data.train),
        n_test=len(data.test),
        classes=list(data.classes),
        epoch=state["best_epoch"],
        val_accuracy=state["best"],
        test_accuracy=test.accuracy,
        test_top5=test.top5,
        test_accuracy_centre=centre.accuracy,
        test_accuracy_per_class=class_accuracy(test.predictions, data.test.labels),
        train_seconds=round(state["seconds"], 1),
        data=data.train.fingerprint,
        processes=distributed.share()[1],
        start=config.start or left(model, build_model(profile, len(data.classes))),
        epochs=config.epochs,
        weight_decay=config.weight_decay,
    )
    return distributed.from_first(lambda: _write(profile, model, state, meta))


def _write(profile: Profile, model: nn.Module, state: dict, meta: dict) -> dict:
    """History and weights, in this order: whoever finds the weights finds all."""
    rows = ([f"{x:.6g}" for x in row] for row in state["history"])
    with (
        artefacts.atomic(profile.history_file) as temporary,
        open(temporary, "w", newline="") as file,
    ):
        csv.writer(file).writerows([COLUMNS, *rows])
    artefacts.save_tensors(profile.weights_file, model.state_dict(), meta)
    artefacts.remove_state(profile.checkpoint_file)
    return meta


def read_history(profile: Profile) -> list[dict[str, float]]:
    """One row per epoch with the columns of `COLUMNS`; FileNotFoundError with the cure before
    training, ValueError when the file is damaged.
    """
    require(
        profile.history_file.is_file(),
        f"no history at {profile.history_file}: run `make train PROFILE={profile.name}`",
        kind=FileNotFoundError,
    )
    try:
        with open(profile.history_file, newline="", encoding="utf-8") as file:
            rows = [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, csv.Error):
        rows = []
    require(
        rows and [row["epoch"] for row in rows] == list(range(1, len(rows) + 1)),
        f"{profile.history_file} is damaged",
        f"delete it and run `make train PROFILE={profile.name}`, which trains again",
    )
    return rows


def trained(profile: Profile, data: Data) -> nn.Module:
    """The profile's net with its weights, in eval mode, on the GPU where there is one: trained now
    if missing or stale; downloaded if pretrained.
    """
    if profile.training is not None and profile.model.weights is None:
        train(profile, data)
    return load_model(profile).to(distributed.default_device())


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
    schedules, adam = torch.optim.lr_scheduler, config.optimiser == "adamw"
    optimiser = (torch.optim.AdamW if adam else torch.optim.SGD)(
        model.parameters(),
        config.lr,
        (config.momentum, 0.999) if adam else config.momentum,
        weight_decay=config.weight_decay,
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
