"""The README's results: this project's numbers beside the paper's, read from the tables in Figures/, so that no number is typed by hand.

    python -m zfnet results     # writes the section between the marks of README.md anew
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from .profiles import ROOT, load_profile, profile_names

MARKS = "<!-- results: begin -->", "<!-- results: end -->"
NONE = "–"
Rows = list[dict[str, str]]


def read_table(path: Path) -> tuple[dict[str, str], Rows]:
    """A CSV of Figures/: its provenance {key: value} and its rows. FileNotFoundError where there is none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line[2:].split(": ", 1) for line in lines if line.startswith("# ")]
    return {key: value for key, value in head}, list(csv.DictReader(line for line in lines if not line.startswith("#")))


def _percent(share: float | str) -> str:
    return f"{float(share):.1%}".replace("%", " %")


def _one(rows: Rows, **wanted: str) -> dict[str, str]:
    """The row that has these values; KeyError where there is none or more than one."""
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    if len(found) != 1:
        raise KeyError(f"{len(found)} rows with {wanted}")
    return found[0]


def _change(one: str, other: str) -> Callable[[Rows], str]:
    """Validation error of a net of Table 3 minus another's, in points, with the deviation of the former."""

    def cell(rows: Rows) -> str:
        a, b = (_one(rows, row=name) for name in (one, other))
        return f"{float(a['val_error']) - float(b['val_error']):+.1f}"

    return cell


def _probe(kind: str, layer: int) -> Callable[[Rows], str]:
    def cell(rows: Rows) -> str:
        most = max((row["images_per_class"] for row in rows), key=int)
        row = _one(rows, net="trained", classifier=kind, layer=str(layer), images_per_class=most)
        return f"{_percent(row['accuracy'])} ({most})"

    return cell


def _delta(masked: str, layer: int) -> Callable[[Rows], str]:
    def cell(rows: Rows) -> str:
        part, random = (_one(rows, net="trained", layer=str(layer), masked=name, zeros="both changed") for name in (masked, "random"))
        return f"{float(part['delta']) / float(random['delta']):.2f}"

    return cell


def _transfer(arm: str) -> Callable[[Rows], str]:
    def cell(rows: Rows) -> str:
        own = [row for row in rows if row["data"] == "here"]
        row = max(own, key=lambda row: int(row["per_class"]))
        return f"{float(row[arm]):.1f} ± {float(row[f'{arm}_std']):.1f} % ({row['per_class']})"

    return cell


def _lines() -> Iterator[tuple[str, str, str, Callable[[Rows], str]]]:
    """(notebook, what, the paper's number, how ours is read from the notebook's table)."""
    train = "01_train"
    yield train, "test accuracy, centre crop", NONE, lambda rows: _percent(1 - float(_one(rows, crops="1")["test_error"]))
    yield train, "test accuracy, ten crops", NONE, lambda rows: _percent(1 - float(_one(rows, crops="10")["test_error"]))
    yield (train, "mean over classes, ten crops; paper: Caltech-101 from scratch, 30 a class (Table 4)", "46.5 ± 1.7 %",
           lambda rows: _percent(_one(rows, crops="10")["per_class_accuracy"]))  # fmt: skip
    yield train, "test images", NONE, lambda rows: rows[0]["n"]
    for masked, ours in (("right eye", 0.067 / 0.107), ("left eye", 0.069 / 0.107), ("nose", 0.079 / 0.107)):
        yield "13_correspondence", f"Δ of masking the {masked} over Δ of random masks, layer 5 (Table 1)", f"{ours:.2f}", _delta(masked.replace(" ", "_"), 5)
    for what, paper, one, other in (("ZFNet instead of AlexNet", 38.4 - 40.5, "zfnet", "alexnet"),
                                    ("AlexNet without layers 3, 4", 45.4 - 40.5, "alexnet-without-3-4", "alexnet"),
                                    ("AlexNet without layers 6, 7", 44.8 - 40.5, "alexnet-without-6-7", "alexnet"),
                                    ("AlexNet without layers 3, 4, 6, 7", 71.3 - 40.5, "alexnet-without-3-4-6-7", "alexnet"),
                                    ("ZFNet with layers 3, 4, 5: 512, 1024, 512", 37.5 - 38.4, "zfnet-wide", "zfnet")):  # fmt: skip
        yield "14_ablation", f"{what}: change of the validation error, points (Table 3)", f"{paper:+.1f}", _change(one, other)
    for layer, paper in ((1, 44.8), (2, 66.2), (3, 72.3), (4, 76.6), (5, 86.2), (7, 85.5)):
        yield "15_probes", f"SVM on layer {layer} (images a class; paper: 30 of Caltech-101, Table 7)", f"{paper:.1f} %", _probe("svm", layer)
    yield "16_transfer", "softmax on pretrained features (images a class; paper: 30 of Caltech-101, Table 4)", "86.5 ± 0.5 %", _transfer("pretrained")
    yield "16_transfer", "the same images from scratch", "46.5 ± 1.7 %", _transfer("scratch")


def report(figures: Path = ROOT / "Figures") -> str:
    """The section as Markdown: one column per profile that has tables, the paper's first; and what each was measured on."""
    profiles = [name for name in profile_names() if (figures / name / "01_train.csv").is_file()]
    tables: dict[tuple[str, str], Rows] = {}
    notes = []
    for name in profiles:
        for path in sorted((figures / name).glob("*.csv")):
            made, tables[name, path.stem] = read_table(path)
            if path.stem == "01_train":
                notes.append(f"- `{name}` ({load_profile(name).title}): seed {made['seed']}, n = 1 training, {made['trained']}; torch {made['torch']}.")
    lines = ["| what | paper | " + " | ".join(profiles) + " |", "|---|---|" + "---|" * len(profiles)]
    for notebook, what, paper, cell in _lines():
        ours = [cell(tables[name, notebook]) if (name, notebook) in tables else NONE for name in profiles]
        lines.append(f"| {what} | {paper} | {' | '.join(ours)} |")
    return "\n".join([*lines, "", *notes])


def write(readme: Path = ROOT / "README.md") -> bool:
    """Put the report between the marks of the README; whether that changed it. ValueError where the marks are missing."""
    text = readme.read_text(encoding="utf-8")
    if any(text.count(mark) != 1 for mark in MARKS):
        raise ValueError(f"{readme}: expected the lines {MARKS[0]} and {MARKS[1]}, once each, around the results")
    before, rest = text.split(MARKS[0])
    new = f"{before}{MARKS[0]}\n{report()}\n{MARKS[1]}{rest.split(MARKS[1])[1]}"
    if new != text:
        readme.write_text(new, encoding="utf-8")
    return new != text
