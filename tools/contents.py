"""The README's table of notebooks, read from the notebooks, from Figures/ and from what their last
runs took.

    python -m zfnet times demo     # after `make figures`: benchmarks/notebooks.json
    python -m zfnet results        # writes the README's tables anew
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat

from zfnet.store import artefacts, provenance
from zfnet.store.errors import UserError
from zfnet.store.profiles import NOTEBOOKS, ROOT, Profile

TIMES = ROOT / "benchmarks" / "notebooks.json"
# the profile whose figure stands for a notebook: the first that has it
PICTURES = ("caltech101", "demo")


def heading(notebook: Path) -> tuple[str, str]:
    """A notebook's title and what of the paper it shows, from its first cell: ("Training ZFNet",
    "section 3"). ValueError where that does not say so.
    """
    text = nbformat.read(notebook, as_version=4).cells[0].source
    title, source = (
        re.match(r"# (.+)\n", text),
        re.search(r"\*\*(?:Zeiler & Fergus, )?(.+?)\.\*\*", text),
    )
    if not title or not source:
        raise UserError(
            f"{notebook}: expected a first cell of the form '# Title', then '**Zeiler & Fergus,"
            " section 4 and Figure 2.** …'"
        )
    return title[1], source[1]


def read_times(path: Path = TIMES) -> dict[str, dict[str, dict[str, float]]]:
    """{profile: {machine: {"training" or notebook: seconds}}}; {} where nothing was recorded yet."""
    return json.loads(path.read_text()) if path.is_file() else {}


def record_times(profile: Profile, path: Path = TIMES) -> dict[str, float]:
    """Write what the profile's training and its executed notebooks took, in seconds, to `path`,
    beside what is known of other machines; returns them.

    They have a file of their own as the tables in Figures/ hold nothing that differs from run to
    run. FileNotFoundError, with the cure, before `make figures`.
    """
    times = (
        {"training": artefacts.read_meta(profile.weights_file)["train_seconds"]}
        if profile.weights_file.is_file()
        else {}
    )
    for stem in profile.notebooks:
        executed = profile.runs / "notebooks" / f"{stem}.ipynb"
        duration = (
            nbformat.read(executed, as_version=4).metadata.get("papermill", {}).get("duration")
            if executed.is_file()
            else None
        )
        if duration is None:
            raise FileNotFoundError(
                f"{executed} was not run to its end: run `make figures PROFILE={profile.name}`"
                " first"
            )
        times[stem] = round(duration, 1)
    known = read_times(path)
    known.setdefault(profile.name, {})[str(provenance.record(profile)["device"])] = times
    with artefacts.atomic(path) as temporary:
        temporary.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return times


def _took(times: dict[str, float], what: str) -> str:
    seconds = times.get(what)
    return (
        "–"
        if seconds is None
        else f"{seconds:.0f} s"
        if seconds < 60
        else f"{seconds / 60:.1f} min"
    )


def _output(file: Path, stem: str) -> str:
    """A link to one of a notebook's files, named by what its name adds to the notebook's: "one
    image", "table".
    """
    added = (
        file.stem.removeprefix(stem)
        if file.stem.startswith(stem)
        else "_" + file.stem.split("_", 2)[2]
    )
    name = (
        added.replace("_", " ")
        + (" table" if file.suffix == ".csv" else "" if added else " figure")
    ).strip()
    return f"[{name}](Figures/{file.parent.name}/{file.name})"


def report(root: Path = ROOT, times: Path = TIMES, profile: str = "demo") -> str:
    """The table as Markdown: a row for each numbered notebook, with a column of times for each
    machine that `profile` was timed on.

    Raises ValueError for a notebook without its heading and FileNotFoundError for one without a
    figure.
    """
    known = read_times(times).get(profile, {})
    lines = [
        "| | of the paper | notebook | picture | all it draws | " + " | ".join(known) + " |",
        "|---|---|---|---|---|" + "---:|" * len(known),
    ]
    lines.append(
        "| | section 3 | before the notebooks: `make train` | | | "
        + " | ".join(_took(device, "training") for device in known.values())
        + " |"
    )
    for stem in NOTEBOOKS:
        title, source = heading(root / "notebooks" / f"{stem}.ipynb")
        picture = next(
            (
                path
                for name in PICTURES
                if (root / (path := Path("Figures", name, f"{stem}.png"))).is_file()
            ),
            None,
        )
        if picture is None:
            raise FileNotFoundError(
                f"no figure of {stem} in {root / 'Figures'}: run `make figures` first"
            )
        own = sorted(
            (root / "Figures" / profile).glob(f"{stem[:3]}*"),
            key=lambda file: (file.suffix == ".csv", len(file.stem), file.stem),
        )
        seen = (
            f'<a href="{picture.as_posix()}"><img src="{picture.as_posix()}" width="150"'
            f' alt="{title}"></a>'
        )
        took = " | ".join(_took(device, stem) for device in known.values())
        outputs = ", ".join(_output(file, stem) for file in own)
        lines.append(
            f"| {stem[:2]} | {source} | [{title}](notebooks/{stem}.ipynb) | {seen} | {outputs} |"
            f" {took} |"
        )
    return "\n".join(lines)
