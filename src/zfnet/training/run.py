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
from collections.abc import Iterator

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
from zfnet.training.evaluation import _evaluate, class_accuracy
from zfnet.training.recipe import RECIPE
from zfnet.training.steps import _due, _improved, _optimiser, _steps

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
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


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
            artefacts.found(path, key, warn) for path in (profile.weights_file, *snapshots)
        )
    ]
    if not all(metas):
        return None
    artefacts.remove_state(profile.checkpoint_file, key)  # left by a kill after the last write
    return metas[0]


def _train(profile: Profile, data: Data, key: str, device: torch.device, progress: bool) -> dict:
    config, share = profile.training, distributed.share()
    batch = min(config.batch_size, len(data.train))
    if batch % share[1]:
        raise UserError(
            f"a batch of {batch} images cannot be shared by {share[1]} processes alike: choose a"
            " number that divides it"
        )
    model = build_model(profile, len(data.classes)).to(device, memory_format=torch.channels_last)
    steps = max(1, len(data.train) // config.batch_size)
    optimiser, scheduler, when = _optimiser(model, config, steps)
    snapshots = _due(config, steps)
    state = {
        "key": key,
        "epoch": 0,
        "best": -1.0,
        "best_epoch": 0,
        "best_model": None,
        "history": [],
        "seconds": 0.0,
    }
    if saved := distributed.from_first(
        lambda: artefacts.load_state(profile.checkpoint_file, key, torch.device("cpu"))
    ):
        state = saved
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        if scheduler:
            scheduler.load_state_dict(state["scheduler"])
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
    for epoch in range(state["epoch"] + 1, config.epochs + 1):
        started, sums = time.perf_counter(), torch.zeros(3, dtype=torch.float64)
        parts = _steps(
            net,
            optimiser,
            scheduler if when == "batch" else None,
            data.train,
            pixels,
            labels,
            config,
            profile.seed,
            epoch,
            share,
        )
        for step, done in enumerate(parts, start=1 + (epoch - 1) * steps):
            sums += torch.tensor(done, dtype=torch.float64)
            for part in (part for part, due in snapshots.items() if due == step and share[0] == 0):
                meta = {"key": state["key"], "step": step, "epochs": step / steps}
                artefacts.save_tensors(
                    profile.snapshot_file(part), model.features.state_dict(), meta
                )
            bar.update()
        loss, errors, seen = distributed.summed(sums).tolist()
        if not loss < float("inf"):
            cure = (
                f"lower `training: lr:` ({config.lr}) or set `rms: 0.1` in profile {profile.name!r}"
            )
            raise Diverged(f"the loss is no longer finite in epoch {epoch}: {cure}")
        val = _evaluate(model, data.val) if len(data.val) else None
        val_loss, val_error = (val.loss, 1 - val.accuracy) if val else (float("nan"), float("nan"))
        lr = optimiser.param_groups[0]["lr"]
        if when == "epoch":
            scheduler.step(val_loss)
        if _improved(val, state["best"]):
            best_model = {
                name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()
            }
            state |= {
                "best": val.accuracy if val else None,
                "best_epoch": epoch,
                "best_model": best_model,
            }
        row = (epoch, lr, loss / seen, errors / seen, val_loss, val_error)
        state["history"] = [*state["history"], row]
        state |= {
            "epoch": epoch,
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "scheduler": scheduler.state_dict() if scheduler else None,
            "seconds": state["seconds"] + time.perf_counter() - started,
        }
        if share[0] == 0:
            artefacts.save_state(profile.checkpoint_file, state)
        bar.set_postfix_str(
            f"epoch {epoch}/{config.epochs}, train error {errors / seen:.1%}, val error"
            f" {val_error:.1%}"
        )
        if progress and bar.disable:
            print(
                f"epoch {epoch:3d}/{config.epochs}  loss {loss / seen:.3f}  train error"
                f" {errors / seen:6.1%}  val error {val_error:6.1%}",
                flush=True,
            )
    bar.close()
    return _finish(profile, data, model, state, device)


def _finish(
    profile: Profile, data: Data, model: nn.Module, state: dict, device: torch.device
) -> dict:
    """Restore the epoch that was best on validation, test it once, and write weights and history."""
    model.load_state_dict(state["best_model"])
    centre = _evaluate(model, data.test)
    test = _evaluate(model, data.test, crops=10) if profile.training.ten_crop else centre
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
