"""How discriminative are the features of each layer? (paper, section 5.3 and Table 7)

A linear classifier on the features of layer n alone: a linear support vector machine on layers 1 to
7, and a softmax on layers 5 and 7. The net itself is left as it is. Three choices, none of which
the paper states:

- Maps are averaged over an adaptive grid, as fine as `probes.features` numbers per layer allow, so
  that layer 1 costs no more than layer 5.
- Features are standardised by the probe's own training images and divided by the square root of
  their number: C then means the same at every layer.
- C is chosen on validation images; test images are used once, after that. Accuracy is the mean over
  classes of each one's, as in the paper's Table 4.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from zfnet.data.images import Data, Images
from zfnet.experiments import linear
from zfnet.experiments.linear import Labelled
from zfnet.experiments.probes.features import features
from zfnet.methods.depth import depths
from zfnet.models.build import build_model
from zfnet.store import artefacts, errors, keys, profiles, provenance
from zfnet.training.small_nets import mean_std

# values of C to choose from
GRID = {"svm": (0.01, 0.1, 1.0, 10.0), "softmax": (0.1, 1.0, 10.0, 100.0, 1000.0)}
HELD_OUT = 50  # at most so many validation and test images per class, as in the paper's Table 4
NETS = ("trained", "random weights")
Cell = tuple[str, str, int]  # of the table: (net, kind of classifier, layer)
# Table 7: accuracy in percent on Caltech-101 (30 training images per class) and Caltech-256 (60)
PAPER = {
    "svm": {
        1: (44.8, 24.6),
        2: (66.2, 39.6),
        3: (72.3, 46.0),
        4: (76.6, 51.3),
        5: (86.2, 65.6),
        7: (85.5, 71.7),
    },
    "softmax": {5: (82.9, 65.7), 7: (85.4, 72.6)},
}


@dataclass(frozen=True)
class Probes:
    """Accuracy on the test images, 0..1, and the C chosen: `accuracy[net, kind, layer]` and
    `penalty[…]`, float64 (sizes, draws), sizes as in `per_class`. `target`: the profile whose
    images these are, where it is another one; C is then chosen without validation images.
    """

    per_class: tuple[int, ...]
    accuracy: dict[tuple[str, str, int], torch.Tensor]
    penalty: dict[tuple[str, str, int], torch.Tensor]
    dimensions: dict[int, int]
    n_val: int
    n_test: int
    classes: int = 0
    target: str | None = None


def standardised(train: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Features (n, F) standardised by those of `train` and divided by sqrt(F)."""
    mean, std = train.mean(0), train.std(0, correction=0)
    scale = torch.where(std > 1e-6 * std.max(), std, 1.0) * math.sqrt(train.shape[1])
    return tuple((x - mean) / scale for x in (train, *others))


def coordinates(train: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Features (n, F), `standardised` and turned into the space that `train` spans: (n,
    min(len(train), F)).

    Linear classifiers with a quadratic penalty depend on the inner products with the training
    images alone, and these stay; fitting is only quicker.
    """
    scaled = standardised(train, *others)
    basis = torch.linalg.qr(scaled[0].T).Q
    return tuple(x @ basis for x in scaled)


def probe(
    kind: str, train: Labelled, val: Labelled, test: Labelled, grid: Sequence[float] | None = None
) -> tuple[float, float]:
    """Mean per-class accuracy on `test` of the probe, an "svm" or a "softmax", fitted on `train`,
    with the C that is best on `val`, the smallest of equals: (accuracy, C).

    `grid` has the values of C to choose from, by default those of `GRID`. ValueError for another
    kind.
    """
    errors.require(kind in GRID, f"kind = {kind!r}: choose one of {', '.join(map(repr, GRID))}")
    train, val, test = zip(
        coordinates(train[0], val[0], test[0]), (train[1], val[1], test[1]), strict=True
    )
    classifier, strength = linear.fit_best(linear.KINDS[kind], train, val, grid or GRID[kind])
    return linear.accuracy(classifier, test), strength


def draw(labels: torch.Tensor, per_class: int, seed: int) -> torch.Tensor:
    """`per_class` random indices of every class, (classes, per_class); those of a smaller number
    come first. ValueError where a class has fewer images.
    """
    generator, rows = torch.Generator().manual_seed(seed), []
    for label in labels.unique():
        own = (labels == label).nonzero().flatten()
        errors.require(
            len(own) >= per_class,
            f"class {int(label)} has {len(own)} training images, fewer than the {per_class} of"
            " the probes: lower `probes: per_class:` in the profile, or `data: validation:` and"
            " `data: test:`",
        )
        rows.append(own[torch.randperm(len(own), generator=generator)[:per_class]])
    return torch.stack(rows)


def held_out(images: Images, per_class: int, seed: int) -> Images:
    """At most `per_class` random images of every class."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    rank = (
        nn.functional.one_hot(images.labels[order], len(images.classes))
        .cumsum(0)
        .gather(1, images.labels[order][:, None])
        .flatten()
    )
    return images.subset(order[rank <= per_class].sort().values)


def cells_of(layers: Sequence[int]) -> list[Cell]:
    """The cells of the table for a net with these layers: an SVM on each, a softmax on the paper's
    two and on the last.
    """
    top = [n for n in layers if n in (5, 7, layers[-1])]
    kinds = [("svm", n) for n in layers] + [("softmax", n) for n in top]
    return [(name, kind, layer) for name in NETS for kind, layer in kinds]


def kept(
    profile: profiles.Profile,
    folder: str,
    cells: Sequence[Cell],
    key: str,
    build: Callable,
    progress: bool = True,
) -> tuple[dict[Cell, torch.Tensor], dict[Cell, torch.Tensor], dict[int, int]]:
    """Accuracies, penalties and dimensions of the cells, each a file of `runs/<profile>/<folder>/`:
    made by `build(net, kind, layer)` where it is not there, so that an interrupted run goes on.
    """
    accuracy, penalty, dimensions = {}, {}, {}
    for cell in tqdm(cells, desc="probes", leave=False, disable=None if progress else True):
        file = f"{folder}/{cell[0].replace(' ', '-')}-{cell[1]}-{cell[2]}.safetensors"
        own, make = keys.key_of(key, *cell), functools.partial(build, *cell)
        tensors, meta = artefacts.artefact(profile.runs / file, own, make)
        accuracy[cell], penalty[cell] = tensors["found"].unbind(-1)
        dimensions[cell[2]] = meta["features"]
    return accuracy, penalty, dimensions


def run_probes(
    profile: profiles.Profile, model: nn.Module, data: Data, progress: bool = True
) -> Probes:
    """Table 7 of the profile's net, and of the same net with the random weights it started from: a
    file for each layer in `runs/<profile>/probes/`, made now where it is not there.

    Raises ValueError where a class has fewer training images than `probes.per_class` asks for.
    """
    config, key = profile.probes, _key(profile, model, data)
    most, seed = max(config.per_class), profile.seed * 1000
    chosen = [draw(data.train.labels, most, seed + n) for n in range(config.draws)]
    union, where = torch.stack(chosen).unique(return_inverse=True)
    parts = {
        "train": data.train.subset(union),
        "val": held_out(data.val, HELD_OUT, profile.seed),
        "test": held_out(data.test, HELD_OUT, profile.seed),
    }
    layers = [layer for layer in depths(model) if layer <= 7]

    @functools.lru_cache(maxsize=1)
    def taken(name: str) -> dict[str, dict[int, torch.Tensor]]:
        net = model if name == NETS[0] else build_model(profile, len(data.classes))
        net = net.to(next(model.parameters()).device)
        return {
            part: features(net, images, layers, config.features) for part, images in parts.items()
        }

    def build(name: str, kind: str, layer: int):
        held = [(taken(name)[part][layer], parts[part].labels) for part in ("val", "test")]
        own, labels = taken(name)["train"][layer], parts["train"].labels

        @functools.cache  # draws that take every image are one and the same
        def found(chosen: tuple[int, ...]) -> tuple[float, float]:
            return probe(kind, (own[list(chosen)], labels[list(chosen)]), *held)

        rows = [
            [found(tuple(sorted(one[:, :n].flatten().tolist()))) for one in where]
            for n in config.per_class
        ]
        return {"found": torch.tensor(rows, dtype=torch.float64)}, provenance.record(
            profile, features=own.shape[1]
        )

    accuracy, penalty, dimensions = kept(
        profile, "probes", cells_of(layers), keys.key_of(key, config), build, progress
    )
    return Probes(
        config.per_class,
        accuracy,
        penalty,
        dimensions,
        len(parts["val"]),
        len(parts["test"]),
        len(data.classes),
    )


def run_grids(
    profile: profiles.Profile,
    model: nn.Module,
    data: Data,
    layers: Sequence[int] = (1, 2, 3),
    most: int = 20,
) -> dict[tuple[int, int], float]:
    """Do the grids hold the lower layers back? An SVM's accuracy, {(layer, features): 0..1}, with
    at most a sixteenth of `probes.features`, as many, and four times as many: the first draw, of
    the largest number of training images, and at most `most` validation and test images a class.

    Found in `runs/<profile>/probes/` or made now; {} for a profile whose probes have targets.
    ValueError as in `run_probes`.
    """
    if profile.probes.targets:
        return {}
    config, key, rows = profile.probes, _key(profile, model, data), []
    chosen = draw(data.train.labels, max(config.per_class), profile.seed * 1000).flatten()
    held = [held_out(images, most, profile.seed) for images in (data.val, data.test)]
    parts = [data.train.subset(chosen), *held]

    def build(limit: int):
        taken, rows = [features(model, part, layers, limit) for part in parts], []
        for layer in layers:
            labelled = ((one[layer], part.labels) for one, part in zip(taken, parts, strict=True))
            rows.append((layer, taken[0][layer].shape[1], probe("svm", *labelled)[0]))
        return {"rows": torch.tensor(rows, dtype=torch.float64)}, provenance.record(profile)

    for limit in tqdm(
        (config.features // 16, config.features, config.features * 4),
        desc="grids",
        leave=False,
        disable=None,
    ):
        own = keys.key_of(key, limit, max(config.per_class), list(layers), most)
        file = profile.runs / "probes" / f"grid-{limit}.safetensors"
        rows += artefacts.artefact(file, own, functools.partial(build, limit))[0]["rows"].tolist()
    return dict(
        sorted({(int(layer), int(count)): accuracy for layer, count, accuracy in rows}.items())
    )


def _key(profile: profiles.Profile, model: nn.Module, data: Data) -> str:
    """Of what every probe of a profile rests on."""
    prints = [images.fingerprint for images in (data.train, data.val, data.test)]
    weights, code = keys.tensors_hash(model.state_dict()), keys.code_key(probe)
    return keys.key_of(weights, prints, profile.model, profile.seed, GRID, code)


def table(found: Probes) -> list[dict[str, object]]:
    """Rows of the CSV: one per net, kind, layer and number of training images, with the paper's two
    accuracies beside the trained net's largest number; of another profile's images, each split's
    accuracy, too.
    """
    rows = []
    for (net, kind, layer), values in found.accuracy.items():
        for n, size in enumerate(found.per_class):
            own = (
                PAPER[kind].get(layer, ("", ""))
                if net == NETS[0] and size == max(found.per_class)
                else ("", "")
            )
            rows.append(
                {
                    "net": net,
                    "classifier": kind,
                    "layer": layer,
                    "features": found.dimensions[layer],
                    "images_per_class": size,
                    "accuracy": f"{values[n].mean():.4f}",
                    "std": f"{mean_std(values[n])[1]:.4f}",
                    "draws": values.shape[1],
                    "C": " ".join(
                        f"{c:g}" for c in sorted(found.penalty[net, kind, layer][n].tolist())
                    ),
                    "paper_caltech101": own[0],
                    "paper_caltech256": own[1],
                }
            )
            if found.target:
                rows[-1]["splits"] = " ".join(f"{one:.4f}" for one in values[n])
    return rows
