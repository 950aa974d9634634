"""The README's table of notebooks: read from notebooks, figures and run times."""

from __future__ import annotations

import json

import nbformat
import pytest

from tools import readme
from zfnet import load_profile
from zfnet.experiments import notebook_stems
from zfnet.store import profiles
from zfnet.store.profiles import ROOT

NOTEBOOKS = notebook_stems()


def notebook(
    path, first="# Title\n\n**Zeiler & Fergus, section 1 and Figure 9.** Words.", **metadata
):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(first)])
    made.metadata.update(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)


@pytest.fixture
def times(tmp_path):
    path = tmp_path / "times.json"
    slow, fast = (
        {stem: 1.0 + 40 * n for n, stem in enumerate(NOTEBOOKS)},
        dict.fromkeys(NOTEBOOKS, 59.4),
    )
    path.write_text(json.dumps({"demo": {"4 cores": {"training": 90} | slow, "a GPU": fast}}))
    return path


def test_every_notebook_says_what_it_shows():
    found = {stem: readme.heading(ROOT / "notebooks" / f"{stem}.ipynb") for stem in NOTEBOOKS}
    assert found["08_occlusion"] == ("Occlusion sensitivity", "section 4.2 and Figure 7")
    assert found["18_resolution"] == ("What resolution buys", "Beyond the paper, about its data")


def test_a_row_of_the_table(times):
    rows = readme.notebooks_table(times=times).splitlines()
    assert (
        rows[0].endswith("| 4 cores | a GPU |")
        and len(rows) == 3 + len(NOTEBOOKS)
        and rows[2].endswith("| 1.5 min | – |")
    )
    cells = [cell.strip() for cell in rows[3 + NOTEBOOKS.index("09_filters")].strip("|").split("|")]
    assert cells[:3] == [
        "09",
        "section 4.1 and Figure 6",
        "[First-layer filters and aliasing](notebooks/09_filters.ipynb)",
    ]
    assert cells[3:] == [
        "[figure](Figures/demo/09_filters.png), [table](Figures/demo/09_filters.csv)",
        "6.0 min",
        "59 s",
    ]
    top9 = rows[3 + NOTEBOOKS.index("03_layer2_top9")].split(" | ")
    assert top9[3] == (
        "[figure](Figures/demo/03_layer2_top9.png), [one"
        " image](Figures/demo/03_layer2_top9_one_image.png)"
    )
    filters = rows[3 + NOTEBOOKS.index("02_layer1_top9")]
    assert "[filters](Figures/demo/02_layer1_filters.png)" in filters


def test_a_notebook_without_its_heading_is_named(tmp_path):
    notebook(tmp_path / "odd.ipynb", "# Title\n\nNo source.")
    with pytest.raises(ValueError, match=r"odd\.ipynb: expected a first cell"):
        readme.heading(tmp_path / "odd.ipynb")


def test_a_notebook_without_a_figure_is_named(tmp_path, times):
    notebook(tmp_path / "notebooks" / f"{NOTEBOOKS[0]}.ipynb")
    with pytest.raises(
        FileNotFoundError, match=f"no figure of {NOTEBOOKS[0]} in .*: run `make figures` first"
    ):
        readme.notebooks_table(tmp_path, times)


def test_times_are_those_of_the_executed_notebooks(tmp_path, monkeypatch):
    profile = load_profile("photos")
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    for n, stem in enumerate(profile.notebooks):
        notebook(profile.runs / "notebooks" / f"{stem}.ipynb", papermill={"duration": 2.04 + n})
    path = tmp_path / "times.json"
    path.write_text('{"photos": {"a GPU": {"x": 1}}, "demo": {}}')
    took = readme.record_times(profile, path)
    # and no training, as the weights are shipped
    assert took == {stem: 2.0 + n for n, stem in enumerate(profile.notebooks)}
    known = json.loads(path.read_text())
    assert (
        known["demo"] == {}
        and known["photos"].pop("a GPU") == {"x": 1}
        and list(known["photos"].values()) == [took]
    )
    (profile.runs / "notebooks" / f"{profile.notebooks[3]}.ipynb").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=(
            f"{profile.notebooks[3]}.ipynb was not run to its end: run `make figures"
            " PROFILE=photos` first"
        ),
    ):
        readme.record_times(profile, path)
    assert json.loads(path.read_text())["photos"] == {next(iter(known["photos"])): took} | {
        "a GPU": {"x": 1}
    }
