"""Experiments declare themselves: adding one is adding its folder and its notebook."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import zfnet
from zfnet import load_profile
from zfnet.experiments import experiments, notebook_stems
from zfnet.store.profiles import ROOT, Profile, read_profile

PACKAGE = Path(zfnet.__file__).parent
TOY = """
from dataclasses import dataclass

from zfnet.experiments import Experiment, Result, one
from zfnet.store.schema import Positive


@dataclass(frozen=True)
class ToyConfig:
    marbles: Positive[int] = 7


def results():
    yield Result("99_toy", "marbles counted", lambda rows: one(rows, bag="red")["marbles"], "12")


EXPERIMENT = Experiment(
    paper="section 9",
    notebooks=("99_toy",),
    section="toy",
    config=ToyConfig,
    results=results,
)
"""
QUESTIONS = """
import json
from tools import readme
from zfnet import load_profile

def refused(text):
    (readme.ROOT / "other.yaml").write_text("title: T\\n" + text)
    try:
        load_profile(readme.ROOT / "other.yaml")
    except ValueError as error:
        return str(error)

print(json.dumps({
    "read": load_profile("demo").toy.marbles,
    "default": load_profile("photos").toy.marbles,
    "misspelt": refused("toy: {marbels: 3}"),
    "misspelt section": refused("tooy: {marbles: 3}"),
    "bad": refused("toy: {marbles: 0}"),
    "notebooks": load_profile("demo").notebooks,
    "table": readme.notebooks_table(),
    "results": readme.results_table(),
}))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What a copy of the project says when a toy experiment is added to it."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(PACKAGE, root / "src" / "zfnet", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "profiles", root / "profiles")
    for kind, names in (("notebooks", "[0-9]*.ipynb"), ("Figures/demo", "*.*")):
        (root / kind).mkdir(parents=True)
        for path in (ROOT / kind).glob(names):
            (root / kind / path.name).symlink_to(path)
    # the experiment: a folder of the package and a notebook
    (root / "src/zfnet/experiments/toy").mkdir()
    (root / "src/zfnet/experiments/toy/__init__.py").write_text(TOY)
    words = "# Toys\n\n**Zeiler & Fergus, section 9.** Marbles."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(words)])
    nbformat.write(notebook, root / "notebooks" / "99_toy.ipynb")
    # what running it would leave, and a profile that has a section for it
    (root / "Figures/demo/99_toy.png").touch()
    (root / "Figures/demo/99_toy.csv").write_text("# seed: 0\nbag,marbles\nred,11\nblue,4\n")
    with (root / "profiles/demo.yaml").open("a") as demo:
        demo.write("toy: {marbles: 3}\n")
    paths = os.pathsep.join((str(root / "src"), str(ROOT)))
    run = subprocess.run(
        [sys.executable, "-c", QUESTIONS],
        cwd=root,
        env={**os.environ, "PYTHONPATH": paths, "ZFNET_ROOT": str(root)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.slow
def test_the_section_of_a_new_experiment_is_read_and_its_keys_are_checked(answers):
    assert (answers["read"], answers["default"]) == (3, 7)
    assert answers["misspelt"].startswith(
        "other.yaml: toy: unknown key 'marbels'; did you mean 'marbles'"
    )
    assert "unknown key 'tooy'; did you mean 'toy'" in answers["misspelt section"]
    assert answers["bad"] == "other.yaml: toy.marbles = 0: must be positive"


@pytest.mark.slow
def test_the_notebook_and_the_results_of_a_new_experiment_are_in_the_tables(answers):
    assert answers["notebooks"] == [*notebook_stems(), "99_toy"]
    last = answers["table"].splitlines()[-1]
    assert last.startswith(
        "| 99 | section 9 | [Toys](notebooks/99_toy.ipynb) | [figure](Figures/demo/99_toy.png),"
        " [table](Figures/demo/99_toy.csv) |"
    )
    assert "| marbles counted | 12 | 11 |" in answers["results"].splitlines()


def test_without_it_its_section_is_unknown(tmp_path):
    (tmp_path / "p.yaml").write_text("title: T\ntoy: {marbles: 3}\n")
    with pytest.raises(ValueError, match=r"p\.yaml: unknown key 'toy'"):
        load_profile(tmp_path / "p.yaml")


def test_sections_have_names_of_their_own_and_defaults_that_are_valid(tmp_path):
    sections = {each.section: each.config for each in experiments().values() if each.section}
    assert len(sections) == sum(each.section is not None for each in experiments().values())
    assert not set(sections) & set(dir(Profile("p", "P")))
    for name, config in sections.items():
        content = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(config()).items()
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps({"title": "T", name: content}))
        assert getattr(load_profile(path), name) == config()


def test_a_net_is_read_from_a_profile_without_knowing_the_experiments(tmp_path):
    whole, core = load_profile("caltech101"), read_profile("caltech101")
    assert dataclasses.replace(whole, sections={}, notebooks=()) == core
    with pytest.raises(AttributeError, match="no 'probes', or was read without it"):
        _ = core.probes
    path = tmp_path / "p.yaml"
    for text, message in (
        ("trainign: {}", "unknown key 'trainign'; did you mean 'training'"),
        ("probes: 3", "unknown key 'probes'"),
    ):
        path.write_text(f"title: T\n{text}\n")
        with pytest.raises(ValueError, match=message):
            read_profile(path)


def test_declarations_are_light():
    """At their top, they import neither torch nor what computes or draws."""
    for name in experiments():
        tree = ast.parse((PACKAGE / "experiments" / name / "__init__.py").read_text())
        modules = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
        modules += [
            a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names
        ]
        ours = {module for module in modules if module.startswith("zfnet")}
        others = {f"zfnet.experiments.{other}" for other in experiments()}  # declarations, too
        assert ours - others <= {
            "zfnet.experiments",
            "zfnet.store.errors",
            "zfnet.store.profiles",
            "zfnet.store.schema",
        }
        assert set(modules) - ours <= sys.stdlib_module_names | {"collections.abc"}
