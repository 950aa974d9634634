"""The README and the pages of docs/ tell the truth: their links lead somewhere, their numbers are
those of the tables, their names are exported.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile

import pytest

import zfnet
from benchmarks import run
from tools import readme
from zfnet import profile_names
from zfnet.experiments import notebook_stems
from zfnet.store.profiles import ROOT

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BENCHMARKS = {
    *(f"project.conv{n}" for n in range(1, 6)),
    *(f"project.vgg19.block{n}" for n in range(1, 5)),
    "top9.all",
    "scan.overhead",
    "occlude.16x8",
    "occlude.32x8",
    "occlude.64x8",
    "occlude.vgg16.16x16",
    "train.step",
    "train.loop",
    "scan.memory",
}


def section(name: str, page: str = "README.md") -> str:
    text = (ROOT / page).read_text()
    return text.split(f"<!-- {name}: begin -->\n")[1].split(f"\n<!-- {name}: end -->")[0]


def test_the_readme_is_one_screen():
    assert len(README.encode()) <= 10_000


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
    assert len(links) > 40 or page.name != "README.md"


def test_paths_that_the_pages_name_are_there():
    """In code, as `src/zfnet/…`, `zfnet.graph` or `python -m tools.…`."""
    for page in PAGES:
        text = page.read_text()
        paths = re.findall(r"\b((?:tests|tools|benchmarks|src)/[\w/]+\.\w+)", text)
        for path in paths:
            assert (ROOT / path).is_file(), f"{page.name}: {path}"
        for module in re.findall(r"(?:python -m |`)((?:tools|benchmarks|zfnet)\.[a-z_.]+)", text):
            inside = "src" if module.startswith("zfnet") else "."
            path = ROOT.joinpath(inside, *module.split("."))
            assert path.is_dir() or path.with_suffix(".py").is_file(), f"{page.name}: {module}"


def test_every_page_is_linked_from_the_readme():
    assert {f"docs/{page.name}" for page in PAGES if page.parent.name == "docs"} <= set(
        re.findall(r"\]\(([^)#]+)\)", README)
    )


def test_every_notebook_and_every_profile_is_in_the_tables():
    for name in notebook_stems():
        assert f"(notebooks/{name}.ipynb)" in README
    profiles = (ROOT / "docs" / "own_nets_and_data.md").read_text()
    for name in profile_names():
        assert f"`{name}`" in profiles


def test_the_results_are_those_of_the_tables(tmp_path):
    def written(figures):
        table = readme.results_table(figures)
        return f"{table}\n\n{readme.provenance_notes(figures)}", readme.results_table(figures, True)

    found = section("results", "docs/results.md"), section("headline")
    # `make figures` on another machine leaves its own tables here: then those that are committed
    # count
    if found != written(ROOT / "Figures"):
        tables = subprocess.run(
            ["git", "archive", "HEAD", "Figures"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(tables)) as tar:
            tar.extractall(tmp_path, filter="data")
        assert found == written(tmp_path / "Figures")


def test_the_notebooks_are_those_of_the_table():
    assert section("notebooks") == readme.notebooks_table()


def test_the_names_that_the_pages_import_are_exported():
    text = (ROOT / "docs" / "own_nets_and_data.md").read_text()
    (names,) = re.findall(r"^from zfnet import (.*)$", text, re.M)
    assert set(names.split(", ")) <= set(zfnet.__all__)


def test_the_benchmark_table_is_that_of_the_results():
    rows = json.loads(run.RESULTS.read_text())
    assert section("make bench", "docs/speed.md") == run.report(rows)
    for device in {r["device"] for r in rows}:
        found = {r["name"]: r for r in rows if r["device"] == device}
        assert set(found) == BENCHMARKS
        assert all(r["error"] <= 1e-5 for r in found.values() if r["error"] is not None)
        assert all(
            r["ratio"] == pytest.approx(r["peer_s"] / r["ours_s"], rel=0.02)
            for r in found.values()
            if r["ours_s"]
        )
