"""The paper's recipe (section 3): SGD with momentum (or AdamW), dropout, filters renormalised to a bounded RMS, the learning rate annealed.

    train(load_profile("demo"))     # runs/demo/weights.safetensors and history.csv

Images stay uint8 on the device; each batch is one gather of random crops and flips. The epoch that does best on the validation split is kept, the last
one where `validation: 0` leaves no such split. Everything random in an epoch derives from (seed, epoch), so a run resumes from its checkpoint with the
same data order and dropout masks.
"""

from __future__ import annotations

import contextlib
import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm.auto import tqdm

from . import distributed, provenance
from .data import Data, Images, load_data, random_crops, ten_crop
from .files import Files, read_ahead
from .models import build_model, evaluating, load_model, save_weights
from .profiles import Profile, TrainingConfig

COLUMNS = ("epoch", "lr", "train_loss", "train_error", "val_loss", "val_error")


@dataclass(frozen=True)
class Evaluation:
    """loss (mean cross-entropy), accuracy and top5 in 0..1; probabilities (N, classes), predictions (N,)."""

    loss: float
    accuracy: float
    top5: float
    probabilities: torch.Tensor
    predictions: torch.Tensor


def default_device() -> torch.device:
    """The GPU where there is one, with convolutions in full float32: cuDNN's TF32 rounds inputs to ten bits, and no two ways of computing would agree.

    Training alone keeps TF32 (`train`, with its own validation and test), where it is faster and noise is no harm.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


@torch.no_grad()
def renormalise(model: nn.Module, limit: float) -> None:
    """Scale every convolution filter whose root mean square exceeds `limit` back to it (paper, section 3: 0.1)."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            rms = layer.weight.square().mean((1, 2, 3), keepdim=True).sqrt()
            layer.weight.mul_((limit / rms).clamp_max(1.0))


def forward(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """model(images) to the last bit, gradients too, but rectified after pooling: a maximum and a rectification commute, and pooled maps are smaller.

    ReLUs run in place. For whoever wants the logits only; a net that is not features, avgpool, classifier is called as it is.
    """
    if not (hasattr(model, "classifier") and hasattr(model, "avgpool") and isinstance(getattr(model, "features", None), nn.Sequential)):
        return model(images)
    x, layers = images, list(model.features)
    for n, layer in enumerate(layers):
        if isinstance(layer, nn.ReLU) and isinstance(layers[n + 1] if n + 1 < len(layers) else None, nn.MaxPool2d):
            continue
        x = F.relu_(x) if isinstance(layer, nn.ReLU) else layer(x)
        if n and isinstance(layer, nn.MaxPool2d) and isinstance(layers[n - 1], nn.ReLU):
            x = F.relu_(x)
    return model.classifier(torch.flatten(model.avgpool(x), 1))


def train_step(model: nn.Module, optimiser: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor, rms: float | None) -> torch.Tensor:
    """One step on a batch; returns its logits (N, classes) before the step."""
    logits = forward(model, images)
    loss = F.cross_entropy(logits, labels)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    if rms:
        renormalise(model, rms)
    return logits.detach()


@torch.inference_mode()
def evaluate(model: nn.Module, images: Images, crops: int = 1, batch_size: int = 100) -> Evaluation:
    """Centre crop (`crops=1`) or the mean probability of the paper's ten crops (`crops=10`), on the model's device."""
    if crops not in (1, 10):
        raise ValueError(f"crops = {crops}: choose 1 (centre) or 10 (corners and centre, mirrored)")
    device = next(model.parameters()).device
    found = []
    with evaluating(model):
        parts, (top, left) = torch.arange(len(images)).split(max(1, batch_size // crops)), images.corner
        for indices, (stored, rows) in zip(parts, read_ahead(images.pixels, parts), strict=True):
            centre = rows, slice(None), slice(top, top + images.size), slice(left, left + images.size)
            pixels = stored[centre][:, None] if crops == 1 else ten_crop(stored[rows], images.size)
            inputs = images.normalise(pixels.flatten(0, 1).to(device)).contiguous(memory_format=torch.channels_last)
            found.append(forward(model, inputs).float().softmax(1).view(len(indices), crops, -1).mean(1).cpu())
    probabilities = torch.cat(found)
    loss = F.nll_loss(probabilities.clamp_min(1e-12).log(), images.labels).item()
    best = probabilities.topk(min(5, probabilities.shape[1]), dim=1).indices
    hits = best == images.labels[:, None]
    return Evaluation(loss, hits[:, 0].double().mean().item(), hits.any(1).double().mean().item(), probabilities, best[:, 0])


def class_accuracy(predictions: torch.Tensor | np.ndarray, labels: torch.Tensor) -> float:
    """Mean over the classes of `labels` (N,) of each one's accuracy, 0..1: the measure of the paper's Table 4."""
    right = torch.as_tensor(predictions) == labels
    return float(np.mean([right[labels == label].double().mean().item() for label in labels.unique()]))  # rounded as scikit-learn does


def _optimiser(model: nn.Module, config: TrainingConfig, steps: int):
    """(optimiser, scheduler, when it steps: "batch", "epoch" or None) of a run of `steps` steps an epoch. "plateau" is the paper's annealing by hand."""
    if config.optimiser == "adamw":
        optimiser = torch.optim.AdamW(model.parameters(), config.lr, (config.momentum, 0.999), weight_decay=config.weight_decay)
    else:
        optimiser = torch.optim.SGD(model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
    if config.schedule == "onecycle":
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=config.epochs * steps, cycle_momentum=False), "batch"
    if config.schedule == "plateau":
        return optimiser, torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.1, patience=3, threshold=1e-3), "epoch"
    return optimiser, None, None


def _due(config: TrainingConfig, steps: int) -> dict[int, int]:
    """Snapshot n, in 64ths of the run, and the step after which it is taken."""
    return {part: max(1, round(part / 64 * config.epochs * steps)) for part in config.snapshots}


def _improved(val: Evaluation | None, best: float | None) -> bool:
    """Whether an epoch is the one to keep: the latest of the best on the validation split, the last one where there is none."""
    return val is None or val.accuracy >= best


def examples(evaluation: Evaluation, labels: torch.Tensor | None, count: int, seed: int = 0) -> torch.Tensor:
    """Indices of `count` images of different predicted classes, in seeded random order.

    Only rightly classified ones when labels are given; otherwise, when the net has no name for them, those of the surest quarter.
    """
    order = torch.randperm(len(evaluation.predictions), generator=torch.Generator().manual_seed(seed))
    if labels is None:
        sure = evaluation.probabilities.amax(1)[order]
        order = order[sure >= sure.quantile(0.75)]
    chosen: dict[int, int] = {}
    for index in order.tolist():
        guess = int(evaluation.predictions[index])
        if labels is None or guess == int(labels[index]):
            chosen.setdefault(guess, index)
    return torch.tensor(list(chosen.values())[:count])


def weights_key(profile: Profile, data: Data) -> str:
    """What trained weights are made from: data, net, recipe, seed and the code of all three."""
    code = provenance.code_version(
        "training:renormalise,forward,train_step,evaluate,_optimiser,_steps,_due,_improved", "models:_ZFNET,_ALEXNET,_POOLED,_Net,ZFNet,AlexNet,build_model",
        "data:Images,crops,random_crops,resized_crops,ten_crop",
    )  # fmt: skip
    return provenance.key_of(data.train.fingerprint, data.val.fingerprint, profile.model, profile.training, profile.seed, code)


def train(profile: Profile, data: Data | None = None, device: torch.device | str | None = None, progress: bool = True) -> dict:
    """Train the profile's net unless its weights are already there; returns their provenance (accuracies, epoch, seconds, …).

    Resumes from `runs/<profile>/checkpoint.pt` when that was made from the same data, recipe and code. Raises ValueError for a profile without a
    `training:` section, and FloatingPointError, with the cure, when the loss is no longer finite.
    """
    if profile.training is None:
        raise ValueError(f"profile {profile.name!r} has no `training:` section: its weights come from {profile.model.weights or 'their publisher'}")
    data = data or load_data(profile)
    if not len(data.test):
        raise ValueError(f"profile {profile.name!r} has no test images, on which the net is measured: put some into {profile.data_root / 'test'}")
    key = weights_key(profile, data)
    if meta := distributed.from_first(lambda: _done(profile, key, warn=False)):
        return meta
    with provenance.locked(profile.weights_file) if distributed.is_first() else contextlib.nullcontext():
        if meta := distributed.from_first(lambda: _done(profile, key)):  # another run may have trained the net meanwhile
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
    """The weights' provenance if the training made from `key` is complete: history, weights and snapshots, all of them whole; None otherwise."""
    if not profile.history_file.exists():
        return None
    snapshots = [profile.snapshot_file(part) for part in profile.training.snapshots]
    metas = [there and there[1] for there in (provenance.found(path, key, warn) for path in (profile.weights_file, *snapshots))]
    if not all(metas):
        return None
    provenance.remove_state(profile.checkpoint_file, key)  # left by a kill after the last write
    return metas[0]


def _steps(
    model: nn.Module, optimiser: torch.optim.Optimizer, scheduler, images: Images, pixels: torch.Tensor | Files, labels: torch.Tensor,
    config: TrainingConfig, seed: int, epoch: int, share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[float, int, int]]:  # fmt: skip
    """One epoch, a step at a time: yields each batch's summed loss, errors and size. All that is random in it derives from `seed` and `epoch`.

    pixels, labels: those of `images` on the device. share: (rank, processes), of which this one takes every processes-th image of each batch; the crops
    are those of a single process, dropout masks are its own.
    """
    rank, processes = share
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    torch.manual_seed(seed * 100_003 + epoch + rank * 1_000_003)
    model.train()
    order = torch.randperm(len(labels), generator=generator)[: max(1, len(labels) // config.batch_size) * config.batch_size]
    parts = [part[rank::processes] for part in order.split(config.batch_size)]
    for indices, (stored, rows) in zip(parts, read_ahead(pixels, parts), strict=True):
        inputs = images.normalise(random_crops(stored, rows, images.size, generator, config.flip, config.smallest_crop, share).to(labels.device))
        target = labels[indices.to(labels.device)]
        logits = train_step(model, optimiser, inputs.contiguous(memory_format=torch.channels_last), target, config.rms)
        if scheduler:
            scheduler.step()
        yield F.cross_entropy(logits, target).item() * len(indices), (logits.argmax(1) != target).sum().item(), len(indices)


def _train(profile: Profile, data: Data, key: str, device: torch.device, progress: bool) -> dict:
    config, share = profile.training, distributed.share()
    batch = min(config.batch_size, len(data.train))
    if batch % share[1]:
        raise ValueError(f"a batch of {batch} images cannot be shared by {share[1]} processes alike: choose a number that divides it")
    model = build_model(profile, len(data.classes)).to(device, memory_format=torch.channels_last)
    steps = max(1, len(data.train) // config.batch_size)
    optimiser, scheduler, when = _optimiser(model, config, steps)
    snapshots = _due(config, steps)
    state = {"key": key, "epoch": 0, "best": -1.0, "best_epoch": 0, "best_model": None, "history": [], "seconds": 0.0}
    if saved := distributed.from_first(lambda: provenance.load_state(profile.checkpoint_file, key, torch.device("cpu"))):
        state = saved
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        if scheduler:
            scheduler.load_state_dict(state["scheduler"])
    net = distributed.averaged(model, forward)
    pixels, labels = data.train.pixels, data.train.labels.to(device)
    if not isinstance(pixels, Files):
        pixels = pixels.to(device)
    bar = tqdm(total=config.epochs * steps, initial=state["epoch"] * steps, desc=f"train {profile.name}", unit="step", disable=None if progress else True)
    for epoch in range(state["epoch"] + 1, config.epochs + 1):
        started, sums = time.perf_counter(), torch.zeros(3, dtype=torch.float64)
        parts = _steps(net, optimiser, scheduler if when == "batch" else None, data.train, pixels, labels, config, profile.seed, epoch, share)
        for step, done in enumerate(parts, start=1 + (epoch - 1) * steps):
            sums += torch.tensor(done, dtype=torch.float64)
            for part in (part for part, due in snapshots.items() if due == step and share[0] == 0):
                meta = {"key": state["key"], "step": step, "epochs": step / steps}
                provenance.save_tensors(profile.snapshot_file(part), model.features.state_dict(), meta)
            bar.update()
        loss, errors, seen = distributed.summed(sums).tolist()
        if not loss < float("inf"):
            cure = f"lower `training: lr:` ({config.lr}) or set `rms: 0.1` in profile {profile.name!r}"
            raise FloatingPointError(f"the loss is no longer finite in epoch {epoch}: {cure}")
        val = _evaluate(model, data.val) if len(data.val) else None
        val_loss, val_error = (val.loss, 1 - val.accuracy) if val else (float("nan"), float("nan"))
        lr = optimiser.param_groups[0]["lr"]
        if when == "epoch":
            scheduler.step(val_loss)
        if _improved(val, state["best"]):
            best_model = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
            state |= {"best": val.accuracy if val else None, "best_epoch": epoch, "best_model": best_model}
        row = (epoch, lr, loss / seen, errors / seen, val_loss, val_error)
        state["history"] = [*state["history"], row]
        state |= {"epoch": epoch, "model": model.state_dict(), "optimiser": optimiser.state_dict(),
                  "scheduler": scheduler.state_dict() if scheduler else None,
                  "seconds": state["seconds"] + time.perf_counter() - started}  # fmt: skip
        if share[0] == 0:
            provenance.save_state(profile.checkpoint_file, state)
        bar.set_postfix_str(f"epoch {epoch}/{config.epochs}, train error {errors / seen:.1%}, val error {val_error:.1%}")
        if progress and bar.disable:
            print(f"epoch {epoch:3d}/{config.epochs}  loss {loss / seen:.3f}  train error {errors / seen:6.1%}  val error {val_error:6.1%}", flush=True)
    bar.close()
    return _finish(profile, data, model, state, device)


def _evaluate(model: nn.Module, images: Images, crops: int = 1) -> Evaluation:
    """`evaluate`, each process on its share of the images, put together in all of them."""
    rank, processes = distributed.share()
    if processes == 1 or len(images) < processes:
        return evaluate(model, images, crops)
    own = evaluate(model, images.subset(torch.arange(rank, len(images), processes)), crops)
    parts = distributed.gathered(own)
    weights = [len(part.predictions) / len(images) for part in parts]
    loss, accuracy, top5 = (sum(w * getattr(part, name) for w, part in zip(weights, parts, strict=True)) for name in ("loss", "accuracy", "top5"))
    probabilities, predictions = torch.empty(len(images), own.probabilities.shape[1]), torch.empty(len(images), dtype=torch.long)
    for n, part in enumerate(parts):
        probabilities[n::processes], predictions[n::processes] = part.probabilities, part.predictions
    return Evaluation(loss, accuracy, top5, probabilities, predictions)


def _finish(profile: Profile, data: Data, model: nn.Module, state: dict, device: torch.device) -> dict:
    """Restore the epoch that was best on validation, test it once, and write weights and history."""
    model.load_state_dict(state["best_model"])
    centre = _evaluate(model, data.test)
    test = _evaluate(model, data.test, crops=10) if profile.training.ten_crop else centre
    meta = provenance.record(
        profile, device, key=state["key"], n=len(data.train), n_test=len(data.test), classes=list(data.classes), epoch=state["best_epoch"],
        val_accuracy=state["best"], test_accuracy=test.accuracy, test_top5=test.top5, test_accuracy_centre=centre.accuracy,
        test_accuracy_per_class=class_accuracy(test.predictions, data.test.labels), train_seconds=round(state["seconds"], 1),
        data=data.train.fingerprint, processes=distributed.share()[1],
    )  # fmt: skip
    return distributed.from_first(lambda: _write(profile, model, state, meta))


def _write(profile: Profile, model: nn.Module, state: dict, meta: dict) -> dict:
    """History and weights, in this order: whoever finds the weights finds all."""
    with provenance.atomic(profile.history_file) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([f"{x:.6g}" for x in row] for row in state["history"])
    save_weights(profile.weights_file, model, meta)
    provenance.remove_state(profile.checkpoint_file)
    return meta


def read_history(profile: Profile) -> list[dict[str, float]]:
    """One row per epoch with the columns of `COLUMNS`; FileNotFoundError with the cure before training, ValueError when the file is damaged."""
    if not profile.history_file.is_file():
        raise FileNotFoundError(f"no history at {profile.history_file}: run `make train PROFILE={profile.name}`")
    try:
        with open(profile.history_file, newline="", encoding="utf-8") as file:
            rows = [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, csv.Error):
        rows = []
    if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)) or not rows:
        raise ValueError(f"{profile.history_file} is damaged: delete it and run `make train PROFILE={profile.name}`, which trains again")
    return rows


def trained(profile: Profile, data: Data) -> nn.Module:
    """The profile's net with its weights, in eval mode, on the GPU where there is one: trained now if missing or stale; downloaded if pretrained."""
    if profile.training is not None and profile.model.weights is None:
        train(profile, data)
    return load_model(profile).to(default_device())
