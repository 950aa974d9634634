"""The paper's recipe (section 3): SGD with momentum (or AdamW), dropout, filters renormalised to a
bounded RMS, the learning rate annealed.

    train(load_profile("demo"))     # runs/demo/weights.safetensors and history.csv

Images stay uint8 on the device; each batch is one gather of random crops and flips. The epoch that
does best on the validation split is kept, the last one where `validation: 0` leaves no such split.
Everything random in an epoch derives from (seed, epoch), so a run resumes from its checkpoint with
the same data order and dropout masks.
"""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from tqdm.auto import tqdm

from zfnet.data.files import Files
from zfnet.data.images import Data
from zfnet.data.load import load_data
from zfnet.graph.forward import forward
from zfnet.models.build import build_model, load_model
from zfnet.models.weights import save_weights
from zfnet.store import artefacts, distributed, keys, provenance
from zfnet.store.device import default_device
from zfnet.store.errors import Diverged, UserError
from zfnet.store.profiles import Profile
from zfnet.training.evaluation import Evaluation, class_accuracy, evaluate_together
from zfnet.training.recipe import RECIPE
from zfnet.training.steps import epoch_steps, improved, optimisation, snapshot_steps

COLUMNS = ("epoch", "lr", "train_loss", "train_error", "val_loss", "val_error")


def weights_key(profile: Profile, data: Data) -> str:
    """What trained weights are made from: data, net, recipe, seed and the code of all three."""
    return keys.key_of(
        data.train.fingerprint,
        data.val.fingerprint,
        profile.model,
        profile.training,
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
    (accuracies, epoch, seconds, …).

    Resumes from `runs/<profile>/checkpoint.pt` when that was made from the same data, recipe and
    code. Raises ValueError for a profile without a `training:` section, and FloatingPointError,
    with the cure, when the loss is no longer finite.
    """
    if profile.training is None:
        raise UserError(
            f"profile {profile.name!r} has no `training:` section: its weights come from"
            f" {profile.model.weights or 'their publisher'}"
        )
    data = data or load_data(profile)
    if not len(data.test):
        raise UserError(
            f"profile {profile.name!r} has no test images, on which the net is measured: put some"
            f" into {profile.data_root / 'test'}"
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
        device = torch.device(device or default_device())
        with _tf32():
            return _train(profile, data, key, device, progress and distributed.is_first())


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    # not cudnn.allow_tf32: reading that is an error once the flag below was set by anybody
    convolutions = torch.backends.cudnn.conv
    before, convolutions.fp32_precision = convolutions.fp32_precision, "tf32"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def _done(profile: Profile, key: str, warn: bool = True) -> dict | None:
    """The weights' provenance if the training made from `key` is complete: history, weights and
    snapshots, all of them whole; None otherwise.
    """
    if not profile.history_file.exists():
        return None
    snapshots = [profile.snapshot_file(part) for part in profile.training.snapshots]
    metas = [
        there and there[1]
        for there in (
            artefacts.current(path, key, warn) for path in (profile.weights_file, *snapshots)
        )
    ]
    if not all(metas):
        return None
    artefacts.remove_state(profile.checkpoint_file, key)  # left by a kill after the last write
    return metas[0]


def _train(profile: Profile, data: Data, key: str, device: torch.device, progress: bool) -> dict:
    config, (rank, processes) = profile.training, distributed.share()
    batch = min(config.batch_size, len(data.train))
    if batch % processes:
        raise UserError(
            f"a batch of {batch} images cannot be shared by {processes} processes alike: choose a"
            " number that divides it"
        )
    model = build_model(profile, len(data.classes)).to(device, memory_format=torch.channels_last)
    steps = max(1, len(data.train) // config.batch_size)
    optimiser, scheduler, when = optimisation(model, config, steps)
    state = _resumed(profile, key, model, optimiser, scheduler)
    net = distributed.averaged(model, forward)
    pixels, labels = data.train.pixels, data.train.labels.to(device)
    if not isinstance(pixels, Files):
        pixels = pixels.to(device)
    bar = tqdm(
        total=config.epochs * steps,
        initial=state["epoch"] * steps,
        desc=f"train {profile.name}",
        unit="step",
        disable=None if progress else True,
    )
    snapshots = snapshot_steps(config, steps) if rank == 0 else {}

    def after(step: int) -> None:
        """Once a step is done: its snapshots, and the bar."""
        for part in (part for part, due in snapshots.items() if due == step):
            meta = {"key": key, "step": step, "epochs": step / steps}
            artefacts.save_tensors(profile.snapshot_file(part), model.features.state_dict(), meta)
        bar.update()

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
        loss, error = _epoch(parts, after, 1 + (epoch - 1) * steps)
        if not loss < float("inf"):
            raise Diverged(
                f"the loss is no longer finite in epoch {epoch}",
                f"lower `training: lr:` ({config.lr}) or set `rms: 0.1` in profile"
                f" {profile.name!r}",
            )
        val = evaluate_together(model, data.val) if len(data.val) else None
        val_loss, val_error = (val.loss, 1 - val.accuracy) if val else (float("nan"), float("nan"))
        lr = optimiser.param_groups[0]["lr"]
        if when == "epoch":
            scheduler.step(val_loss)
        if improved(val, state["best"]):
            state |= _kept(model, epoch, val)
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
    return _finish(profile, data, model, state, device)


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


def _epoch(parts: Iterator[tuple], after: Callable[[int], None], first: int) -> tuple[float, float]:
    """Take an epoch's steps, numbered from `first`: mean loss and error over the images of all
    processes. The sums stay on the device, so that no step waits for the one before it.
    """
    loss = errors = seen = 0
    for step, (batch_loss, batch_errors, size) in enumerate(parts, start=first):
        loss, errors, seen = loss + batch_loss, errors + batch_errors, seen + size
        after(step)
    sums = torch.tensor([float(loss), float(errors), seen], dtype=torch.float64)
    loss, errors, seen = distributed.summed(sums).tolist()
    return loss / seen, errors / seen


def _kept(model: nn.Module, epoch: int, val: Evaluation | None) -> dict:
    """What a training remembers of its best epoch."""
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    return {
        "best": val.accuracy if val else None,
        "best_epoch": epoch,
        "best_model": weights,
    }


def _finish(
    profile: Profile, data: Data, model: nn.Module, state: dict, device: torch.device
) -> dict:
    """Restore the epoch that was best on validation, test it once, write weights and history."""
    model.load_state_dict(state["best_model"])
    centre = evaluate_together(model, data.test)
    test = evaluate_together(model, data.test, crops=10) if profile.training.ten_crop else centre
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
    )
    return distributed.from_first(lambda: _write(profile, model, state, meta))


def _write(profile: Profile, model: nn.Module, state: dict, meta: dict) -> dict:
    """History and weights, in this order: whoever finds the weights finds all."""
    with (
        artefacts.atomic(profile.history_file) as temporary,
        open(temporary, "w", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([f"{x:.6g}" for x in row] for row in state["history"])
    save_weights(profile.weights_file, model, meta)
    artefacts.remove_state(profile.checkpoint_file)
    return meta


def read_history(profile: Profile) -> list[dict[str, float]]:
    """One row per epoch with the columns of `COLUMNS`; FileNotFoundError with the cure before
    training, ValueError when the file is damaged.
    """
    if not profile.history_file.is_file():
        raise FileNotFoundError(
            f"no history at {profile.history_file}: run `make train PROFILE={profile.name}`"
        )
    try:
        with open(profile.history_file, newline="", encoding="utf-8") as file:
            rows = [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, csv.Error):
        rows = []
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)) or not rows:
        raise UserError(
            f"{profile.history_file} is damaged: delete it and run `make train"
            f" PROFILE={profile.name}`, which trains again"
        )
    return rows


def trained(profile: Profile, data: Data) -> nn.Module:
    """The profile's net with its weights, in eval mode, on the GPU where there is one: trained now
    if missing or stale; downloaded if pretrained.
    """
    if profile.training is not None and profile.model.weights is None:
        train(profile, data)
    return load_model(profile).to(default_device())
