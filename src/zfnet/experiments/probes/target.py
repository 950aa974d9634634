"""A net on the images of another profile, which it was not trained on: Tables 4, 5 and 7 as the
paper has them.

    found = run_target(profile, model, data, "caltech101")    # `Probes`, as of the profile's own
    tables = run_all(profile, model, data, "15_probes")       # whatever the profile asks for

Every draw splits the images anew: so many training images of each class, and at most 50 others as
test images. There are no validation images: C is chosen on one half of the training images.
Features are computed once, for all draws, and kept. Different nets get the same splits.
"""

import copy
import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from zfnet.data.files import Files
from zfnet.data.images import Data, Images
from zfnet.data.load import load_data
from zfnet.experiments import linear, load_profile
from zfnet.experiments.probes import STEM
from zfnet.experiments.probes.compute import (
    HELD_OUT,
    NETS,
    Cell,
    Probes,
    cells_of,
    held_out,
    kept,
    run_probes,
    standardised,
)
from zfnet.experiments.probes.features import kept_features
from zfnet.methods.depth import depths
from zfnet.models.build import build_model
from zfnet.store import errors, keys, profiles, provenance

# values of C to choose from; the tables say which were taken
STRENGTHS = {"svm": (0.1, 1.0, 10.0), "softmax": (1.0, 10.0, 100.0)}
POOL = 100  # at most so many images of a class take part, drawn once
IN_FILES = 1e-3  # GiB: images that are looked at once need not be kept decoded


@dataclass(frozen=True)
class Split:
    """Rows of the pool: `train` (classes, images of each), of which a smaller number takes the
    first; `test` (T,).
    """

    train: torch.Tensor
    test: torch.Tensor


def pool(
    profile: profiles.Profile, target: str, like: Images | None = None, memory: float = IN_FILES
) -> Images:
    """The images of the profile `target`, at most `POOL` of each class, at the size and with the
    normalisation of `profile`: that of its images `like` where they are given.

    Raises FileNotFoundError, with the cure, where there is no such profile or no images.
    """
    other = load_profile(target)
    config = replace(
        profile.data,
        source=other.data.source,
        root=other.data.root,
        count=other.data.count,
        memory=memory,
        # its own split is undone: all images are there, in the order that its seed gives
        validation=0.0,
        test=0.5,
        train_per_class=None,
        test_per_class=None,
    )
    name = f"{profile.name}/probes/{target}"
    data = load_data(replace(profile, name=name, seed=other.seed, data=config))
    images = joined(data.train, data.test)
    if like is not None:
        images = replace(images, mean=like.mean, std=like.std)
    return held_out(images, POOL, other.seed)


def joined(first: Images, second: Images) -> Images:
    """Both parts of one data set, without masks, keypoints and groups."""
    a, b = first.pixels, second.pixels
    if isinstance(a, Files):
        pixels = copy.copy(a)
        pixels.entries = [*a.entries, *b.entries]
    else:
        pixels = torch.cat([a, b])
    return replace(
        first,
        pixels=pixels,
        labels=torch.cat([first.labels, second.labels]),
        names=[*first.names, *second.names] if first.names and second.names else None,
        masks=None,
        keypoints=None,
        group=None,
    )


def split(labels: torch.Tensor, per_class: int, seed: int, most: int = HELD_OUT) -> Split:
    """A random split: `per_class` training images of each class, and of the others at most `most`
    test images. UserError where a class has none to test.
    """
    generator = torch.Generator().manual_seed(seed)
    train, test = [], []
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().flatten()
        errors.require(
            len(own) > per_class,
            f"class {label} has {len(own)} images: too few for {per_class} to train and one to"
            " test",
            "lower `per_class:` in the profile",
        )
        own = own[torch.randperm(len(own), generator=generator)]
        train.append(own[:per_class])
        test.append(own[per_class:][:most])
    return Split(torch.stack(train), torch.cat(test))


def splits(images: Images, per_class: int, draws: int, target: str) -> list[Split]:
    """The splits of the target's pool, by its profile's seed: the same for every net."""
    seed = load_profile(target).seed * 1000
    return [split(images.labels, per_class, seed + n) for n in range(draws)]


def measure(
    kind: str, own: torch.Tensor, labels: torch.Tensor, train: torch.Tensor, test: torch.Tensor
) -> tuple[float, float]:
    """Mean per-class accuracy on the rows `test` of a classifier on features (N, F) that was fitted
    on the rows `train`, C chosen on one half of these: (accuracy, C).
    """
    fitting, testing = standardised(own[train], own[test])
    classifier, strength = linear.chosen(kind, (fitting, labels[train]), STRENGTHS[kind])
    return linear.accuracy(classifier, (testing, labels[test])), strength


def run_target(
    profile: profiles.Profile,
    model: nn.Module,
    data: Data,
    target: str,
    cells: Sequence[Cell] = (),
    sizes: tuple[tuple[int, ...], int] | None = None,
    progress: bool = True,
) -> Probes:
    """Table 7 of the profile's net, and of the same net with random weights, on the images of the
    profile `target`. `cells`: these of it alone, (net, kind, layer); `sizes`: other numbers of
    training images per class and of draws than those of `probes:`.

    Every cell is kept in `runs/<profile>/probes/<target>/`, so that an interrupted run goes on.
    Raises UserError where a class has too few images.
    """
    limit, own = profile.probes.features, (profile.probes.per_class, profile.probes.draws)
    per_class, draws = sizes or own
    images = pool(profile, target, data.train)
    parts = splits(images, max(per_class), draws, target)
    labels, layers = images.labels, [layer for layer in depths(model) if layer <= 7]
    folder = f"probes/{target}"

    @functools.lru_cache(maxsize=1)
    def taken(name: str) -> dict[int, torch.Tensor]:
        net = model if name == NETS[0] else build_model(profile, len(data.classes))
        net = net.to(next(model.parameters()).device).eval()
        file = profile.runs / folder / f"features-{name.replace(' ', '-')}.safetensors"
        made = provenance.record(profile)
        return kept_features(file, net, images, layers, limit, made)

    def build(name: str, kind: str, layer: int):
        own = taken(name)[layer]
        rows = [
            [measure(kind, own, labels, one.train[:, :n].flatten(), one.test) for one in parts]
            for n in per_class
        ]
        return {"found": torch.tensor(rows, dtype=torch.float64)}, provenance.record(
            profile, features=own.shape[1]
        )

    key = keys.key_of(
        keys.tensors_hash(model.state_dict()),
        images.fingerprint,
        (per_class, draws, limit),
        (profile.model, profile.seed),
        keys.code_key(measure),
    )
    table = f"{folder}/{draws} x {' '.join(map(str, per_class))}"
    wanted = cells or cells_of(layers)
    accuracy, penalty, dimensions = kept(profile, table, wanted, key, build, progress)
    n_test, count = len(parts[0].test), len(images.classes)
    return Probes(per_class, accuracy, penalty, dimensions, 0, n_test, count, target)


def run_all(
    profile: profiles.Profile, model: nn.Module, data: Data, stem: str = STEM
) -> dict[str, Probes]:
    """Table 7 on the profile's own images or, where it names `probes: targets:`, on those of each,
    by the name of its figure: `stem` is the first, the others add the target's name.
    """
    if targets := profile.probes.targets:
        tables = [run_target(profile, model, data, target) for target in targets]
        return dict(zip(stems(stem, targets), tables, strict=True))
    return {stem: run_probes(profile, model, data)}


def stems(stem: str, targets: Sequence[str]) -> list[str]:
    """The names of the figures, one a target."""
    return [f"{stem}_{target}" if n else stem for n, target in enumerate(targets)]


def own_net(target: str) -> tuple[dict[int, float], int]:
    """What the layers of the target's own net, trained on its images alone, reach, from the table
    of its notebook in Figures/: ({layer: 0..1}, training images per class); ({}, 0) without one.
    """
    rows = read_rows(target, STEM)
    rows = [row for row in rows if (row["net"], row["classifier"]) == (NETS[0], "svm")]
    most = max((int(row["images_per_class"]) for row in rows), default=0)
    return {
        int(row["layer"]): float(row["accuracy"])
        for row in rows
        if int(row["images_per_class"]) == most
    }, most


def read_rows(target: str, stem: str) -> list[dict[str, str]]:
    """The rows of Figures/<target>/<stem>.csv, none where it is not there."""
    path = load_profile(target).figures / f"{stem}.csv"
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))
