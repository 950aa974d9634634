"""The README's results: this project's numbers beside the paper's, read from the tables in
Figures/, so that no number is typed by hand.

    python -m zfnet results     # writes the section between the marks of README.md anew
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from tools import contents
from tools.sections import write_sections
from zfnet.experiments.ablation import compute as ablation
from zfnet.experiments.correspondence import compute as correspondence
from zfnet.experiments.probes import compute as probes
from zfnet.experiments.transfer import compute as transfer
from zfnet.store.profiles import ROOT, load_profile, profile_names

NONE = "–"
Rows = list[dict[str, str]]


def read_table(path: Path) -> tuple[dict[str, str], Rows]:
    """A CSV of Figures/: its provenance {key: value} and its rows. FileNotFoundError where there is
    none.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line[2:].split(": ", 1) for line in lines if line.startswith("# ")]
    return {key: value for key, value in head}, list(
        csv.DictReader(line for line in lines if not line.startswith("#"))
    )


def _percent(share: float | str) -> str:
    return f"{float(share):.1%}".replace("%", " %")


def _measured(mean: float, std: float, unit: str, n: str, sign: str = "") -> str:
    """ "24.8 ± 0.5 % (28)", without the deviation where a single value has none."""
    return f"{mean:{sign}.1f}{'' if math.isnan(std) else f' ± {std:.1f}'}{unit} ({n})"


def _one(rows: Rows, **wanted: str) -> dict[str, str]:
    """The row that has these values; KeyError where there is none or more than one."""
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    if len(found) != 1:
        raise KeyError(f"{len(found)} rows with {wanted}")
    return found[0]


def _change(name: str) -> Callable[[Rows], str]:
    """What a net of Table 3 changes in the validation error, in points."""

    def cell(rows: Rows) -> str:
        row = _one(rows, row=name)
        return _measured(
            float(row["val_change"]), float(row["val_change_std"]), "", row["seeds"], sign="+"
        )

    return cell


def _probe(kind: str, layer: int) -> Callable[[Rows], str]:
    def cell(rows: Rows) -> str:
        if not any(row["layer"] == str(layer) for row in rows):  # a net with fewer layers
            return NONE
        most = max((row["images_per_class"] for row in rows), key=int)
        row = _one(rows, net="trained", classifier=kind, layer=str(layer), images_per_class=most)
        return _measured(100 * float(row["accuracy"]), 100 * float(row["std"]), " %", most)

    return cell


def _delta(masked: str) -> Callable[[Rows], str]:
    """Delta of a part over that of random masks: of all features and of those that both images'
    masks changed, and the number of groups.
    """

    def cell(rows: Rows) -> str:
        ratios = []
        for zeros in ("agree", "both changed"):
            part, random = (
                _one(rows, net="trained", layer="5", masked=name, zeros=zeros)
                for name in (masked, correspondence.RANDOM)
            )
            ratios.append(
                f"{float(part['delta']) / float(random['delta']):.2f}"
                if float(random["delta"])
                else NONE
            )
        return f"{', '.join(ratios)} ({part['groups']})"

    return cell


def _transfer(arm: str) -> Callable[[Rows], str]:
    def cell(rows: Rows) -> str:
        own = [row for row in rows if row["data"] == "here"]
        row = max(own, key=lambda row: int(row["per_class"]))
        return _measured(float(row[arm]), float(row[f"{arm}_std"]), " %", row["per_class"])

    return cell


def _lines() -> Iterator[tuple[str, str, str, Callable[[Rows], str]]]:
    """(notebook, what, the paper's number, how ours is read from the notebook's table)."""
    train = "01_train"
    yield (
        train,
        "test accuracy, centre crop",
        NONE,
        lambda rows: _percent(1 - float(_one(rows, crops="1")["test_error"])),
    )
    yield (
        train,
        "test accuracy, ten crops",
        NONE,
        lambda rows: _percent(1 - float(_one(rows, crops="10")["test_error"])),
    )
    yield (
        train,
        "mean over classes, ten crops; paper: Caltech-101 from scratch, 30 a class (Table 4)",
        f"{transfer.CALTECH101[30][1]} %",
        lambda rows: _percent(_one(rows, crops="10")["per_class_accuracy"]),
    )
    yield train, "test images", NONE, lambda rows: rows[0]["n"]
    table1 = {part: mean for part, (mean, _) in correspondence.PAPER[5].items()}
    for part in (name for name in table1 if name != correspondence.RANDOM):
        what = (
            f"Δ of masking the {part.replace('_', ' ')} over Δ of random masks, layer 5: all"
            " features, those changed in both (groups; Table 1)"
        )
        yield (
            "13_correspondence",
            what,
            f"{table1[part] / table1[correspondence.RANDOM]:.2f}",
            _delta(part),
        )
    table3 = {row.key: row.paper[1] for row in ablation.ROWS}
    for what, one, other in (
        ("ZFNet instead of AlexNet", "zfnet", "alexnet"),
        ("AlexNet without layers 3, 4", "alexnet-without-3-4", "alexnet"),
        ("AlexNet without layers 6, 7", "alexnet-without-6-7", "alexnet"),
        ("AlexNet without layers 3, 4, 6, 7", "alexnet-without-3-4-6-7", "alexnet"),
        ("ZFNet with layers 3, 4, 5: 512, 1024, 512", "zfnet-wide", "zfnet"),
    ):
        yield (
            "14_ablation",
            f"{what}: change of the validation error, points (seeds; Table 3)",
            f"{table3[one] - table3[other]:+.1f}",
            _change(one),
        )
    for layer, (paper, _) in probes.PAPER["svm"].items():
        yield (
            "15_probes",
            f"SVM on layer {layer} (images a class; paper: 30 of Caltech-101, Table 7)",
            f"{paper:.1f} %",
            _probe("svm", layer),
        )
    pretrained, scratch = transfer.CALTECH101[30]
    yield (
        "16_transfer",
        "softmax on pretrained features (images a class; paper: 30 of Caltech-101, Table 4)",
        f"{pretrained} %",
        _transfer("pretrained"),
    )
    yield "16_transfer", "the same images from scratch", f"{scratch} %", _transfer("scratch")


def report(figures: Path = ROOT / "Figures", times: Path = contents.TIMES) -> str:
    """The section as Markdown: one column per profile that has tables, the paper's first; what each
    was measured on, and its time if known.
    """
    profiles = [name for name in profile_names() if (figures / name / "01_train.csv").is_file()]
    tables: dict[tuple[str, str], Rows] = {}
    notes = []
    for name in profiles:
        for path in sorted((figures / name).glob("*.csv")):
            made, tables[name, path.stem] = read_table(path)
            if path.stem == "01_train":
                seconds = (
                    contents.read_times(times)
                    .get(name, {})
                    .get(made["trained"].rpartition(" on ")[2], {})
                    .get("training")
                )
                took = f", {seconds:.0f} s" if seconds else ""
                notes.append(
                    f"- `{name}` ({load_profile(name).title}): seed {made['seed']}, n = 1 training,"
                    f" {made['trained']}{took}; torch {made['torch']}."
                )
    lines = [
        "| what | paper | " + " | ".join(profiles) + " |",
        "|---|---|" + "---|" * len(profiles),
    ]
    for notebook, what, paper, cell in _lines():
        ours = [
            cell(tables[name, notebook]) if (name, notebook) in tables else NONE
            for name in profiles
        ]
        lines.append(f"| {what} | {paper} | {' | '.join(ours)} |")
    return "\n".join([*lines, "", *notes])


def write(readme: Path = ROOT / "README.md") -> bool:
    """Put the table of notebooks and the results between their marks of the README; whether that
    changed it. ValueError where the marks are missing.
    """
    return write_sections(readme, {"notebooks": contents.report(), "results": report()})
