"""The README tells the truth: its links lead somewhere, its numbers are those of the tables, its names are exported."""

from __future__ import annotations

import csv
import re

import pytest

import zfnet
from zfnet import profile_names
from zfnet.profiles import NOTEBOOKS, ROOT

README = (ROOT / "README.md").read_text()


def test_links_lead_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if not target.startswith("http")]
    assert len(targets) > 20
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_notebook_and_every_profile_is_in_the_tables():
    for name in NOTEBOOKS:
        assert f"(notebooks/{name}.ipynb)" in README
    for name in profile_names():
        assert f"`{name}`" in README


@pytest.mark.parametrize("profile", [path.parent.name for path in ROOT.glob("Figures/*/01_train.csv")])
def test_accuracies_are_those_of_the_table(profile):
    with open(ROOT / "Figures" / profile / "01_train.csv") as file:
        one, ten = csv.DictReader(line for line in file if not line.startswith("#"))
    assert (one["crops"], ten["crops"]) == ("1", "10")
    accuracies = " | ".join(f"{1 - float(row['test_error']):.2%}".replace("%", " %") for row in (one, ten))
    assert f"| {profile} | {accuracies} | {one['n']} |" in README


def test_the_names_that_the_readme_imports_are_exported():
    (names,) = re.findall(r"^from zfnet import (.*)$", README, re.M)
    assert set(names.split(", ")) <= set(zfnet.__all__)
