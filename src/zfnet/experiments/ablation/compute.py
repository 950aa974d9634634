"""Table 3: which layers matter? Layers are left out or made wider, and every such net is trained
from scratch by the same recipe.

    errors = ablate(profile, data)              # {"alexnet": (seeds, 4), "alexnet-without-3-4": …}
    rows = table(errors)                        # mean and standard deviation over the seeds, beside
    the paper's numbers
    changes(errors)["alexnet-without-6-7"]      # against the unchanged net, in percentage points:
    ours, its deviation, the paper's

The removal rows are of Krizhevsky's net, the width rows of both nets (paper, section 5.1). All nets
see the same small images, at `profile.ablation`'s widths. Errors of training and validation images
are measured alike: by a forward pass on the centre crop, without dropout, once the net is trained.
"""

from dataclasses import dataclass, replace

import torch
from tqdm.auto import tqdm

from zfnet.data.images import Data
from zfnet.store import artefacts, keys, profiles, provenance
from zfnet.store.errors import require
from zfnet.training import evaluation, run, small_nets

PLAIN, WIDE = (96, 256, 384, 384, 256), (96, 256, 512, 1024, 512)
COLUMNS = ("train", "val", "val_top5", "test")


@dataclass(frozen=True)
class Row:
    """One net of Table 3 at its full size. `paper`: its training, validation and top-5 validation
    error in per cent.
    """

    key: str
    title: str
    net: str
    maps: tuple[int, ...]
    fc: tuple[int, ...]
    paper: tuple[float, float, float]

    def model(
        self, maps: float = 1.0, fc: float = 1.0, dropout: float = 0.5
    ) -> profiles.ModelConfig:
        """The net with its maps and its hidden units scaled by these factors; layers left out stay
        out.
        """
        return profiles.ModelConfig(
            name=self.net,
            maps=small_nets.scaled(self.maps, maps),
            fc=small_nets.scaled(self.fc, fc),
            dropout=dropout,
        )


ROWS = (
    Row("alexnet", "AlexNet", "alexnet", PLAIN, (4096, 4096), (35.1, 40.5, 18.1)),
    Row(
        "alexnet-without-3-4",
        "without layers 3, 4",
        "alexnet",
        (96, 256, 0, 0, 256),
        (4096, 4096),
        (41.8, 45.4, 22.1),
    ),
    Row("alexnet-without-7", "without layer 7", "alexnet", PLAIN, (4096,), (27.4, 40.0, 18.4)),
    Row("alexnet-without-6-7", "without layers 6, 7", "alexnet", PLAIN, (), (27.4, 44.8, 22.4)),
    Row(
        "alexnet-without-3-4-6-7",
        "without layers 3, 4, 6, 7",
        "alexnet",
        (96, 256, 0, 0, 256),
        (),
        (71.1, 71.3, 50.1),
    ),
    Row("alexnet-fc-half", "layers 6, 7: half", "alexnet", PLAIN, (2048, 2048), (40.3, 41.7, 18.8)),
    Row(
        "alexnet-fc-double",
        "layers 6, 7: double",
        "alexnet",
        PLAIN,
        (8192, 8192),
        (26.8, 40.0, 18.1),
    ),
    Row("zfnet", "ZFNet", "zfnet", PLAIN, (4096, 4096), (33.1, 38.4, 16.5)),
    Row("zfnet-fc-half", "layers 6, 7: half", "zfnet", PLAIN, (2048, 2048), (38.2, 40.2, 17.6)),
    Row("zfnet-fc-double", "layers 6, 7: double", "zfnet", PLAIN, (8192, 8192), (22.0, 38.8, 17.0)),
    Row(
        "zfnet-wide",
        "layers 3, 4, 5: 512, 1024, 512",
        "zfnet",
        WIDE,
        (4096, 4096),
        (18.8, 37.5, 16.0),
    ),
    Row("zfnet-wide-fc-double", "both", "zfnet", WIDE, (8192, 8192), (10.0, 38.3, 16.9)),
)


def ablation_data(profile: profiles.Profile, data: Data) -> Data:
    """The images that every row is trained on: `profile.ablation.images` of the training images,
    class by class, all of them small.

    Raises ValueError for a profile that trains no net, and where there is not one training image
    for each class.
    """
    config = profile.ablation
    require(
        profile.training is not None,
        f"profile {profile.name!r} is of a pretrained net, but Table 3 trains its own: choose"
        " one with a `training:` section, such as demo",
    )
    small_nets.checked(data, profile)
    per_class = config.images // len(data.classes)
    require(
        per_class,
        f"ablation.images = {config.images}: fewer than the {len(data.classes)} classes; raise"
        f" it in profile {profile.name!r}",
    )
    return small_nets.smaller(
        replace(
            data,
            train=data.train.subset(small_nets.draw(data.train.labels, per_class, profile.seed)),
        ),
        config.size,
        profile.data.normalise,
    )


def row_profile(profile: profiles.Profile, small: Data, row: Row, seed: int) -> profiles.Profile:
    """The derived profile of one row and seed; its files are in
    `runs/<profile>/ablation/<row>-<seed>/`.
    """
    config = profile.ablation
    return small_nets.variant(
        profile,
        f"ablation/{row.key}-{seed}",
        small,
        row.model(config.maps, config.fc, config.dropout),
        small_nets.recipe(config, config.epochs),
        profile.seed + seed,
    )


def ablate(
    profile: profiles.Profile, data: Data, rows: tuple[Row, ...] = ROWS
) -> dict[str, torch.Tensor]:
    """Errors of every row, {row.key: float64 (seeds, 4)}, columns `COLUMNS`, in 0..1; trains what
    is not there yet.

    "test" is the top-1 error on the test images; unlike the validation images, on which the best
    epoch is chosen, they chose nothing.
    """
    small = ablation_data(profile, data)
    runs = [
        (row, row_profile(profile, small, row, seed))
        for row in rows
        for seed in range(profile.ablation.seeds)
    ]
    quiet = True if all(own.weights_file.exists() for _, own in runs) else None
    errors = torch.stack(
        [
            _errors(own, small)
            for _, own in tqdm(runs, desc="Table 3", unit="net", leave=False, disable=quiet)
        ]
    )
    return {
        row.key: part for row, part in zip(rows, errors.split(profile.ablation.seeds), strict=True)
    }


def _errors(own: profiles.Profile, small: Data) -> torch.Tensor:
    """Errors (4,) of one trained net, kept beside its weights."""

    def build():
        model = small_nets.trained_quietly(own, small)
        train, val, test = (
            evaluation.evaluate(model, split) for split in (small.train, small.val, small.test)
        )
        errors = [1 - train.accuracy, 1 - val.accuracy, 1 - val.top5, 1 - test.accuracy]
        return {"errors": torch.tensor(errors, dtype=torch.float64)}, provenance.record(
            own, next(model.parameters()).device
        )

    return artefacts.artefact(
        own.runs / "errors.safetensors",
        keys.key_of(run.weights_key(own, small), small.test.fingerprint, keys.code_key(ablate)),
        build,
    )[0]["errors"]


def changes(
    errors: dict[str, torch.Tensor], column: str = "val", rows: tuple[Row, ...] = ROWS
) -> dict[str, tuple[float, float, float]]:
    """What a change does to the error in `column` ("train", "val" or "val_top5"), in percentage
    points: {row.key: (mean, deviation, the paper's)}.

    Row minus the unchanged net, seed by seed, as both start from the same seed; the unchanged nets
    themselves are left out.
    """
    choices = COLUMNS[:3]
    require(
        column in choices,
        f"column = {column!r}: choose one of {', '.join(choices)}, which Table 3 has",
    )
    at, plain = choices.index(column), {row.key: row.paper for row in rows if row.key == row.net}
    found = {}
    for row in (row for row in rows if row.key != row.net):
        gap = small_nets.mean_std(100 * (errors[row.key][:, at] - errors[row.net][:, at]))
        found[row.key] = (
            *(value.item() for value in gap),
            round(row.paper[at] - plain[row.net][at], 1),
        )
    return found


def table(errors: dict[str, torch.Tensor], rows: tuple[Row, ...] = ROWS) -> list[dict[str, object]]:
    """Table 3, one mapping per row: our errors in per cent, mean and standard deviation over the
    seeds, and the paper's.

    `val_change`: the validation error less that of the unchanged net, seed by seed, in points;
    ZFNet's own less AlexNet's.
    """
    lines, plain = [], rows[0].key
    for row in rows:
        own, base = errors[row.key], errors[plain if row.key == row.net else row.net]
        mean, std = small_nets.mean_std(100 * own)
        change, spread = small_nets.mean_std(100 * (own - base)[:, COLUMNS.index("val")])
        lines.append(
            {
                "row": row.key,
                "net": row.net,
                "change": row.title,
                **{
                    f"{name}_{kind}": round(values[i].item(), 2)
                    for i, name in enumerate(COLUMNS)
                    for kind, values in (("error", mean), ("std", std))
                },
                "val_change": "" if row.key == plain else round(change.item(), 2),
                "val_change_std": "" if row.key == plain else round(spread.item(), 2),
                **dict(zip(("paper_train", "paper_val", "paper_val_top5"), row.paper, strict=True)),
                "seeds": len(own),
            }
        )
    return lines
