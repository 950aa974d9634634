"""Tables 4 and 5, Figure 9: do the features of one data set serve another? A new softmax on layer 7
against a net trained from scratch.

    task = prepare_task(profile, data)      # source net, target images, what the softmax sees
    curve = accuracy_curve(task)         # mean per-class accuracy by training images per class, for
    all arms

The pretrained net's layers 1-7 stay fixed; only a softmax on top is trained (paper, section 5.2).
The source is the net of another profile, or, where there is but one data set, a net trained on half
of its classes: the other half are the target. All arms see the same training, validation and test
images. Where the profile names targets, other profiles whose images its own net is tried on, there
are no validation images, and every draw splits the images anew:

    curve = target_curve(profile, model, data, "caltech101")

Beyond the paper, a third arm puts the softmax on the same net with random weights: what the
architecture gives without any training.
"""

import functools
from dataclasses import dataclass, replace

import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from tqdm.auto import tqdm

from zfnet.data.images import Data, Images, imagenet_statistics
from zfnet.data.load import load_data
from zfnet.experiments import linear, load_profile
from zfnet.experiments.linear import Labelled
from zfnet.experiments.probes.compute import NETS
from zfnet.experiments.probes.target import pool, read_rows, run_target, splits, stems
from zfnet.experiments.transfer import STEM, TransferConfig
from zfnet.methods.depth import depths, last_hidden, layer_outputs
from zfnet.models.build import build_model
from zfnet.store import artefacts, distributed, errors, keys, profiles, provenance
from zfnet.training import evaluation, run, small_nets

ARMS = ("pretrained", "untrained", "scratch")
# of which the softmax's inverse regularisation C is chosen
STRENGTHS = tuple(10.0**power for power in range(-4, 4))
# training images per class: (pretrained, scratch), mean per-class accuracy in per cent
CALTECH101 = {15: (83.8, 22.8), 30: (86.5, 46.5)}
CALTECH256 = {15: (65.7, 9.0), 30: (70.6, 22.5), 45: (72.7, 31.2), 60: (74.2, 38.8)}


@dataclass(frozen=True)
class Task:
    """What is transferred to what: `features` are layer 7 of the source net and of one with random
    weights, {"pretrained": (train, val, test), "untrained": …}, each float32 (N, D); `target` the
    small images that nets from scratch see, in the same order, its labels 0…K-1; `source_classes`
    the classes that the source net was trained on, where they are known.
    """

    profile: profiles.Profile
    target: Data
    features: dict[str, tuple[torch.Tensor, ...]]
    source: str
    source_classes: tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """per_class (K,): training images of each class; accuracy {arm: float64 (K, draws)}: mean
    per-class accuracy on the test images, in 0..1. `n_test`: their number; `source`: what the
    net was trained on; `target`: the profile whose images these are, where it is another one.
    """

    per_class: tuple[int, ...]
    accuracy: dict[str, torch.Tensor]
    chance: float
    n_test: int = 0
    source: str = ""
    target: str | None = None


def split_classes(count: int, seed: int) -> tuple[list[int], list[int]]:
    """The labels 0…count-1 in two disjoint halves, in seeded random order: those to pretrain on and
    the target's (one more where `count` is odd).

    Raises ValueError for fewer than four classes, of which no two halves of two can be made.
    """
    errors.require(
        count >= 4,
        f"{count} classes: at least 4 are needed to pretrain on one half and transfer to the"
        " other; or set `transfer: source:` in the profile",
    )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[: count // 2]), sorted(order[count // 2 :])


def only(data: Data, labels: list[int]) -> Data:
    """The images of these classes alone, relabelled 0, 1, … in the order given."""
    classes = tuple(data.classes[label] for label in labels)
    new = torch.full((len(data.classes),), -1)
    new[torch.tensor(labels)] = torch.arange(len(labels))
    parts = []
    for images in (data.train, data.val, data.test):
        part = images.subset((new[images.labels] >= 0).nonzero().flatten())
        parts.append(replace(part, labels=new[part.labels], classes=classes))
    return Data(*parts, classes)


def layer7(model: nn.Module, images: Images, batch_size: int = 100) -> torch.Tensor:
    """The rectified output of the last hidden layer, float32 (N, D) on the CPU, of the centre crops
    (layer 7 of the paper's nets); of a net whose head has none, the mean over space of the last
    maps.
    """
    last = last_hidden(model)
    return torch.cat(
        [
            layer_outputs(model, images.batch(part), [last])[last].float().cpu()
            for part in torch.arange(len(images)).split(batch_size)
        ]
    )


def prepare_task(profile: profiles.Profile, data: Data, seed: int = 0) -> Task:
    """Source and target of the profile: `transfer.source`'s net and all classes of the data, or,
    without one, the two halves of the classes.

    Trains the source net unless it is there. Raises ValueError where the two are the same, or where
    the profile cannot train the net on half of its classes.
    """
    config = profile.transfer
    small_nets.checked(data, profile)
    errors.require(
        config.source != profile.name,
        f"transfer.source = {config.source!r} is the profile itself: name another one, or leave"
        " it out to split the classes",
    )
    errors.require(
        config.source is not None or profile.training is not None,
        f"profile {profile.name!r} is of a pretrained net: set `transfer: source:"
        f" {profile.name}` in one that trains, such as caltech101",
    )
    small = small_nets.smaller(data, config.size, profile.data.normalise)
    if config.source is None:
        known, new = split_classes(len(data.classes), seed)
        source, target = only(small, known), only(small, new)
        kind, training = model(config), small_nets.recipe(config, config.source_epochs)
        own = small_nets.variant(
            profile, f"transfer/source-{seed}", source, kind, training, profile.seed
        )
        net, views = (
            small_nets.trained_quietly(own, source),
            (target.train, target.val, target.test),
        )
        name = f"{len(known)} other classes of {profile.title}"
        classes, blank = source.classes, build_model(own, len(known))
    else:
        other, target, source = load_profile(config.source), small, None
        if other.training or other.data.normalise != "imagenet":
            source = load_data(other)
        net, name = run.trained(other, source), other.title
        # the data's splits at the size and with the normalisation of that net
        like = (source.train.mean, source.train.std) if source else imagenet_statistics()
        views = tuple(
            small_nets.resized(split, other.data.size, *like, other.data.gain)
            for split in (data.train, data.val, data.test)
        )
        classes = source.classes if source and other.training else ()
        blank = build_model(other, len(classes) or 1000)
    features = {
        arm: _features(profile, each, views, arm)
        for arm, each in (
            ("pretrained", net),
            ("untrained", blank.to(distributed.default_device())),
        )
    }
    return Task(profile, target, features, name, classes)


def _features(
    profile: profiles.Profile, net: nn.Module, views: tuple[Images, ...], arm: str
) -> tuple[torch.Tensor, ...]:
    """Layer 7 of train, val and test, kept in one file."""
    named = dict(zip(("train", "val", "test"), views, strict=True))
    prints, code = [view.fingerprint for view in views], keys.code_key(layer7)
    tensors, _ = artefacts.artefact(
        profile.runs / "transfer" / f"layer7-{arm}.safetensors",
        keys.key_of(keys.tensors_hash(net.state_dict()), prints, code),
        lambda: ({n: layer7(net, view) for n, view in named.items()}, provenance.record(profile)),
    )
    return tuple(tensors[name] for name in named)


def model(config: TransferConfig) -> profiles.ModelConfig:
    """ZFNet at the widths of the configuration: the source net of a split, and every net from
    scratch.
    """
    return profiles.ModelConfig(
        name="zfnet",
        maps=small_nets.scaled((96, 256, 384, 384, 256), config.maps),
        fc=small_nets.scaled((4096, 4096), config.fc),
        dropout=config.dropout,
    )


def counts(wanted: tuple[int, ...], labels: torch.Tensor) -> tuple[int, ...]:
    """The numbers of training images per class, of those wanted, that the data has, ascending;
    UserError where even the smallest is too large.
    """
    most = int(labels.bincount().min())
    enough = tuple(n for n in sorted(set(wanted)) if n <= most)
    errors.require(
        enough,
        f"transfer.per_class = {list(wanted)}: the smallest class has {most} training images;"
        f" choose from 1 to {most}",
    )
    return enough


def fit_softmax(train: Labelled, val: Labelled) -> LogisticRegression:
    """A softmax on features (N, D) with labels (N,): the strength of `STRENGTHS` with the best mean
    per-class accuracy on `val`, the weakest C among equals.
    """
    return linear.fit_best(functools.partial(linear.softmax, steps=300), train, val, STRENGTHS)[0]


def softmax_accuracy(task: Task, chosen: torch.Tensor, arm: str = "pretrained") -> float:
    """Accuracy of a softmax that was trained on layer 7 ("pretrained" or "untrained") of the chosen
    training images, scaled to a root mean square of 1.
    """
    train, val, test = task.features[arm]
    scale = train[chosen].square().mean().sqrt().clamp_min(1e-12)
    softmax = fit_softmax(
        (train[chosen] / scale, task.target.train.labels[chosen]),
        (val / scale, task.target.val.labels),
    )
    return linear.accuracy(softmax, (test / scale, task.target.test.labels))


def scratch_accuracy(task: Task, chosen: torch.Tensor, name: str, seed: int) -> float:
    """Accuracy of a net trained from scratch on the chosen training images, its best epoch taken on
    the validation images.

    Whatever their number, an epoch shows `transfer.epoch_images` random crops, so that all nets
    take about as many steps.
    """
    config = task.profile.transfer
    small = replace(
        task.target,
        train=task.target.train.subset(chosen.repeat(max(1, config.epoch_images // len(chosen)))),
    )
    kind, training = model(config), small_nets.recipe(config, config.epochs)
    own = small_nets.variant(task.profile, f"transfer/{name}", small, kind, training, seed)

    def build():
        net = small_nets.trained_quietly(own, small)
        found = evaluation.evaluate(net, small.test)
        accuracy = evaluation.class_accuracy(found.predictions, small.test.labels)
        return {"accuracy": torch.tensor(accuracy, dtype=torch.float64)}, provenance.record(
            own, next(net.parameters()).device
        )

    return artefacts.artefact(
        own.runs / "accuracy.safetensors",
        keys.key_of(
            run.weights_key(own, small), small.test.fingerprint, keys.code_key(scratch_accuracy)
        ),
        build,
    )[0]["accuracy"].item()


def accuracy_curve(task: Task, seed: int = 0) -> Curve:
    """All arms at every number of training images per class, `transfer.draws` draws each; trains
    what is not there yet.
    """
    config = task.profile.transfer
    sizes = counts(config.per_class, task.target.train.labels)
    accuracy = {arm: torch.zeros(len(sizes), config.draws, dtype=torch.float64) for arm in ARMS}
    runs = [
        (i, n, number, f"{seed}-scratch-{n}-{number}")
        for i, n in enumerate(sizes)
        for number in range(config.draws)
    ]
    folder, own = task.profile.runs / "transfer", task.profile.seed
    quiet = all((folder / name / "weights.safetensors").exists() for *_, name in runs) or None
    for i, n, number, name in tqdm(runs, desc="Table 4", unit="net", leave=False, disable=quiet):
        chosen = small_nets.draw(task.target.train.labels, n, seed * 1009 + number)
        for arm in task.features:
            accuracy[arm][i, number] = softmax_accuracy(task, chosen, arm)
        accuracy["scratch"][i, number] = scratch_accuracy(task, chosen, name, own + number)
    return Curve(sizes, accuracy, 1 / len(task.target.classes), len(task.target.test), task.source)


def target_curve(
    profile: profiles.Profile, model: nn.Module, data: Data, target: str, progress: bool = True
) -> Curve:
    """A softmax on the top layer of the profile's net, and of the same net with random weights, and
    nets from scratch, on the images of the profile `target`: `transfer.draws` random splits.

    The top layer is the last of `depths`, as the probes take it. Raises UserError where a class has
    too few images.
    """
    config, top = profile.transfer, max(layer for layer in depths(model) if layer <= 7)
    found = run_target(
        profile,
        model,
        data,
        target,
        [(net, "softmax", top) for net in NETS],
        (config.per_class, config.draws),
        progress,
    )
    arms = zip(ARMS, NETS, strict=False)
    accuracy = {arm: found.accuracy[net, "softmax", top] for arm, net in arms}
    accuracy["scratch"] = scratch_on_target(target, config.per_class, config.draws, progress)
    return Curve(found.per_class, accuracy, 1 / found.classes, found.n_test, profile.title, target)


def scratch_on_target(
    target: str, per_class: tuple[int, ...], draws: int, progress: bool = True
) -> torch.Tensor:
    """Accuracies (sizes, draws) of nets that the recipe of the target's own `transfer:` section
    trains from scratch on the same splits. The last epoch counts: there are no validation images.

    They are kept in `runs/<target>/transfer/`, as any net may be compared with them.
    """
    other = load_profile(target)
    images = pool(other, target, memory=other.data.memory)
    parts = splits(images, max(per_class), draws, target)
    accuracy = torch.zeros(len(per_class), draws, dtype=torch.float64)
    runs = [(i, n, number) for i, n in enumerate(per_class) for number in range(draws)]
    for i, n, number in tqdm(
        runs, desc="from scratch", unit="net", leave=False, disable=None if progress else True
    ):
        part = parts[number]
        rows = (part.train[:, :n].flatten(), torch.arange(0), part.test)
        own = Data(*(images.subset(where) for where in rows), images.classes)
        small = small_nets.smaller(own, other.transfer.size, other.data.normalise)
        task, chosen = Task(other, small, {}, "", ()), torch.arange(len(small.train))
        accuracy[i, number] = scratch_accuracy(
            task, chosen, f"split-{n}-{number}", other.seed + number
        )
    return accuracy


def all_curves(
    profile: profiles.Profile, data: Data, task: Task | None, seed: int = 0, stem: str = STEM
) -> dict[str, Curve]:
    """The curve of the task or, where the profile names `transfer: targets:`, one for each of them,
    by the name of its figure: `stem` is the first, the others add the target's name.
    """
    if task is not None:
        return {stem: accuracy_curve(task, seed)}
    model, targets = run.trained(profile, data), profile.transfer.targets
    found = [target_curve(profile, model, data, target) for target in targets]
    return dict(zip(stems(stem, targets), found, strict=True))


def whole_net(target: str) -> tuple[int, float] | None:
    """Training images per class, those that chose the epoch included, and accuracy (0..1, centre
    crops, mean over classes) of the net that the profile `target` trains from scratch, from the
    table in its Figures/; None without one.
    """
    rows = [row for row in read_rows(target, "01_train") if row["crops"] == "1"]
    per_class = load_profile(target).data.train_per_class
    return (per_class, float(rows[0]["per_class_accuracy"])) if rows and per_class else None


def table(curve: Curve) -> list[dict[str, object]]:
    """The curve's numbers and the paper's, one mapping per number of training images: per cent,
    mean and sample standard deviation over the draws.
    """
    lines = []
    for i, n in enumerate(curve.per_class):
        line: dict[str, object] = {"data": "here", "per_class": n}
        for arm, values in curve.accuracy.items():
            mean, std = small_nets.mean_std(100 * values[i])
            line |= {arm: round(mean.item(), 1), f"{arm}_std": round(std.item(), 1)}
        lines.append({**line, "chance": round(100 * curve.chance, 1)})
    if whole := curve.target and whole_net(curve.target):
        name = f"ZFNet of profile {curve.target}, one split"
        lines.append({"data": name, "per_class": whole[0], "scratch": round(100 * whole[1], 1)})
    for name, numbers, classes in (
        ("Caltech-101 (paper)", CALTECH101, 102),
        ("Caltech-256 (paper)", CALTECH256, 257),
    ):
        for n, (pretrained, scratch) in numbers.items():
            lines.append(
                {
                    "data": name,
                    "per_class": n,
                    "pretrained": pretrained,
                    "scratch": scratch,
                    "chance": round(100 / classes, 1),
                }
            )
    return lines


def worth(curve: Curve, n: int) -> float:
    """How many training images per class a net from scratch needs for what the pretrained one does
    with `n`: linear between the curve's points, inf beyond.

    Raises ValueError for an `n` that the curve does not have.
    """
    errors.require(
        n in curve.per_class, f"n = {n}: the curve has {', '.join(map(str, curve.per_class))}"
    )
    goal = curve.accuracy["pretrained"].mean(1)[curve.per_class.index(n)].item()
    scratch = curve.accuracy["scratch"].mean(1).tolist()
    i = next((i for i, value in enumerate(scratch) if value >= goal), None)
    if i is None or i == 0:
        return float("inf") if i is None else float(curve.per_class[0])
    share = (goal - scratch[i - 1]) / (scratch[i] - scratch[i - 1])
    return curve.per_class[i - 1] + share * (curve.per_class[i] - curve.per_class[i - 1])
