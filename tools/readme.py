"""What the README and docs/results.md say in numbers, read from the notebooks, from the tables in
Figures/ and from what the notebooks' last runs took, so that no number is typed by hand.

    python -m tools.readme               # writes the sections between their marks anew
    python -m tools.readme times demo    # after `make figures`: benchmarks/notebooks.json
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path

import nbformat

from tools.sections import write_sections
from zfnet import load_profile, profile_names
from zfnet.experiments import NONE, Result, Rows, experiments, notebook_stems
from zfnet.store import artefacts, provenance
from zfnet.store.errors import UserError
from zfnet.store.profiles import ROOT, Profile

TIMES = ROOT / "benchmarks" / "notebooks.json"


# --- The table of notebooks


def heading(notebook: Path) -> tuple[str, str]:
    """A notebook's title and what of the paper it shows, from its first cell: ("Training ZFNet",
    "section 3"). UserError where that does not say so.
    """
    text = nbformat.read(notebook, as_version=4).cells[0].source
    title = re.match(r"# (.+)\n", text)
    source = re.search(r"\*\*(?:Zeiler & Fergus, )?(.+?)\.\*\*", text)
    if not title or not source:
        raise UserError(
            f"{notebook}: expected a first cell of the form '# Title', then '**Zeiler & Fergus,"
            " section 4 and Figure 2.** …'"
        )
    return title[1], source[1]


def read_times(path: Path = TIMES) -> dict[str, dict[str, dict[str, float]]]:
    """{profile: {machine: {"training" or notebook: seconds}}}; {} where nothing was recorded."""
    return json.loads(path.read_text()) if path.is_file() else {}


def record_times(profile: Profile, path: Path = TIMES) -> dict[str, float]:
    """Write what the profile's training and its executed notebooks took, in seconds, to `path`,
    beside what is known of other machines; returns them.

    They have a file of their own as the tables in Figures/ hold nothing that differs from run to
    run. FileNotFoundError, with the cure, before `make figures`.
    """
    times = {}
    if profile.weights_file.is_file():
        times["training"] = artefacts.read_meta(profile.weights_file)["train_seconds"]
    for stem in profile.notebooks:
        executed = profile.runs / "notebooks" / f"{stem}.ipynb"
        metadata = nbformat.read(executed, as_version=4).metadata if executed.is_file() else {}
        if "duration" not in metadata.get("papermill", {}):
            raise FileNotFoundError(
                f"{executed} was not run to its end: run `make figures PROFILE={profile.name}`"
                " first"
            )
        times[stem] = round(metadata["papermill"]["duration"], 1)
    known = read_times(path)
    known.setdefault(profile.name, {})[str(provenance.record(profile)["device"])] = times
    with artefacts.atomic(path) as temporary:
        temporary.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return times


def _took(times: dict[str, float], what: str) -> str:
    if what not in times:
        return NONE
    seconds = times[what]
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _output(file: Path, stem: str) -> str:
    """A link to one of a notebook's files, named by what its name adds to the notebook's: "one
    image", "table".
    """
    common = stem if file.stem.startswith(stem) else "_".join(file.stem.split("_", 2)[:2])
    added = file.stem.removeprefix(common).replace("_", " ")
    name = added + (" table" if file.suffix == ".csv" else "" if added else " figure")
    return f"[{name.strip()}](Figures/{file.parent.name}/{file.name})"


def notebooks_table(root: Path = ROOT, times: Path = TIMES, profile: str = "demo") -> str:
    """The table as Markdown: a row for each numbered notebook, with a column of times for each
    machine that `profile` was timed on.

    Raises UserError for a notebook without its heading and FileNotFoundError for one without a
    figure.
    """
    machines = read_times(times).get(profile, {})
    took = {
        what: [_took(known, what) for known in machines.values()]
        for what in ("training", *notebook_stems())
    }
    lines = [
        ["", "of the paper", "notebook", "what it draws", *machines],
        [*["---"] * 4, *["---:"] * len(machines)],
        ["", "section 3", "before the notebooks: `make train`", "", *took["training"]],
    ]
    for stem in notebook_stems():
        title, source = heading(root / "notebooks" / f"{stem}.ipynb")
        files = sorted(
            (root / "Figures" / profile).glob(f"{stem[:3]}*"),
            key=lambda file: (file.suffix == ".csv", len(file.stem), file.stem),
        )
        if stem not in {file.stem for file in files}:
            raise FileNotFoundError(
                f"no figure of {stem} in {root / 'Figures'}: run `make figures` first"
            )
        link = f"[{title}](notebooks/{stem}.ipynb)"
        outputs = ", ".join(_output(file, stem) for file in files)
        lines.append([stem[:2], source, link, outputs, *took[stem]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- The results


def read_table(path: Path) -> tuple[dict[str, str], Rows]:
    """A CSV of Figures/: its provenance {key: value} and its rows. FileNotFoundError where there is
    none.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    head = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    return head, list(csv.DictReader(line for line in lines if not line.startswith("#")))


def results_table(figures: Path = ROOT / "Figures", headline: bool = False) -> str:
    """This project's numbers beside the paper's as Markdown: a column for each profile that has
    tables; `headline`: of the few results that the README names alone.
    """
    profiles = _measured(figures)
    shown: Iterable[Result] = (
        result
        for each in experiments().values()
        for result in each.results()
        if result.headline or not headline
    )
    lines = [["what", "paper", *profiles], ["---"] * (2 + len(profiles))]
    for result in shown:
        tables = [figures / name / f"{result.notebook}.csv" for name in profiles]
        ours = [result.read(read_table(path)[1]) if path.is_file() else NONE for path in tables]
        lines.append([result.what, result.paper, *ours])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def provenance_notes(figures: Path = ROOT / "Figures", times: Path = TIMES) -> str:
    """What each profile's numbers were measured on, and how long its training took if known."""
    notes = []
    for name in _measured(figures):
        made, _ = read_table(min(_tables(figures, name)))
        if "trained" not in made:  # elsewhere, as its title says
            notes.append(
                f"- `{name}` ({load_profile(name).title}): seed {made['seed']}, nothing trained;"
                f" {made['device']}; torch {made['torch']}."
            )
            continue
        machine = made["trained"].rpartition(" on ")[2]
        seconds = read_times(times).get(name, {}).get(machine, {}).get("training")
        took = f", {seconds:.0f} s" if seconds else ""
        notes.append(
            f"- `{name}` ({load_profile(name).title}): seed {made['seed']}, n = 1 training,"
            f" {made['trained']}{took}; torch {made['torch']}."
        )
    return "\n".join(notes)


def _measured(figures: Path) -> list[str]:
    """The profiles that have tables, those of nets from ImageNet first."""
    found = [name for name in profile_names() if _tables(figures, name)]
    return sorted(found, key=lambda name: load_profile(name).training is not None)


def _tables(figures: Path, name: str) -> list[Path]:
    """The tables of a profile from which results are read."""
    stems = {result.notebook for each in experiments().values() for result in each.results()}
    return [path for path in (figures / name).glob("*.csv") if path.stem in stems]


# --- Writing


def sections() -> dict[str, dict[str, str]]:
    """All that is written, {file: {name of its marks: text}}."""
    return {
        "README.md": {
            "notebooks": notebooks_table(),
            "headline": results_table(headline=True),
        },
        "docs/results.md": {"results": f"{results_table()}\n\n{provenance_notes()}"},
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.readme", description=__doc__)
    verbs = parser.add_subparsers(dest="verb")
    verbs.add_parser("times", help="keep what the notebooks took").add_argument("profile")
    arguments = parser.parse_args(argv)
    if arguments.verb == "times":
        profile = load_profile(arguments.profile)
        times = record_times(profile)
        print(
            f"{profile.name}: {sum(times.values()) / 60:.0f} minutes for {len(profile.notebooks)}"
            " notebooks" + " and the training" * ("training" in times)
        )
        return
    for name, texts in sections().items():
        changed = write_sections(ROOT / name, texts)
        print(f"{name}: {'written anew' if changed else 'nothing to change'}")


if __name__ == "__main__":
    main()
