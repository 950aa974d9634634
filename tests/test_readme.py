"""The README tells the truth: its links lead somewhere, its numbers are those of the tables, its
names are exported.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile

import pytest

import zfnet
from tools import contents, results
from zfnet import profile_names
from zfnet.store.profiles import NOTEBOOKS, ROOT

README = (ROOT / "README.md").read_text()
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


def section(name: str) -> str:
    return README.split(f"<!-- {name}: begin -->\n")[1].split(f"\n<!-- {name}: end -->")[0]


def test_links_lead_somewhere():
    targets = [
        target for target in re.findall(r"\]\(([^)#]+)\)", README) if not target.startswith("http")
    ]
    assert len(targets) > 20
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_notebook_and_every_profile_is_in_the_tables():
    for name in NOTEBOOKS:
        assert f"(notebooks/{name}.ipynb)" in README
    for name in profile_names():
        assert f"`{name}`" in README


def test_the_results_are_those_of_the_tables(tmp_path):
    found = section("results")
    # `make figures` on another machine leaves its own tables here: then those that are committed
    # count
    if found != results.report():
        tables = subprocess.run(
            ["git", "archive", "HEAD", "Figures"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(tables)) as tar:
            tar.extractall(tmp_path, filter="data")
        assert found == results.report(tmp_path / "Figures")


def test_the_notebooks_are_those_of_the_table():
    assert section("notebooks") == contents.report()


def test_the_names_that_the_readme_imports_are_exported():
    (names,) = re.findall(r"^from zfnet import (.*)$", README, re.M)
    assert set(names.split(", ")) <= set(zfnet.__all__)


def test_the_benchmark_table_is_that_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import run

    rows = json.loads(run.RESULTS.read_text())
    assert section("make bench") == run.report(rows)
    for device in {r["device"] for r in rows}:
        found = {r["name"]: r for r in rows if r["device"] == device}
        assert set(found) == BENCHMARKS
        assert all(r["error"] <= 1e-5 for r in found.values() if r["error"] is not None)
        assert all(
            r["ratio"] == pytest.approx(r["peer_s"] / r["ours_s"], rel=0.02)
            for r in found.values()
            if r["ours_s"]
        )
