"""The notebooks are what DESIGN promises: thin, of one body where they say so, clean, with
parameters that papermill knows.
"""

from __future__ import annotations

import json
import re

import nbformat
import papermill
import pytest

from tools.readme import heading
from zfnet import load_profile
from zfnet.experiments import experiments, notebook_stems
from zfnet.store.profiles import ROOT

FILES = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request):
    return request.param


def code(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_every_notebook_belongs_to_one_experiment():
    assert [path.stem for path in FILES] == list(notebook_stems())
    assert len(set(notebook_stems())) == len(notebook_stems())


def test_an_experiment_shows_what_of_the_paper_its_notebooks_say():
    for each in experiments().values():
        for stem in each.notebooks:
            assert heading(ROOT / "notebooks" / f"{stem}.ipynb")[1] == each.paper


def test_notebooks_are_thin(path):
    cells = code(path)
    assert len(cells) <= 12
    for cell in cells:
        assert len(cell.source.splitlines()) <= 15, cell.source
        assert not re.search(r"^\s*(def|class|lambda)\b", cell.source, re.M), cell.source


def test_defaults_are_the_demo_and_papermill_knows_them(path):
    found = papermill.inspect_notebook(str(path))
    assert found["profile"]["default"] == '"demo"'
    assert set(found) <= {"profile", "layer", "maps", "seed", "images", "count"}


def test_committed_with_outputs_and_without_traces_of_a_machine(path):
    text = path.read_text()
    assert len(text) < 300_000
    assert not re.search(
        r"PosixPath|/(home|root|tmp|Users)/|site-packages|injected-parameters", text
    )
    cells = code(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any(output.output_type == "display_data" for output in outputs), "no picture"
    assert not any(
        output.output_type == "error" or output.get("name") == "stderr" for output in outputs
    )
    assert (
        "language_info" in json.loads(text)["metadata"]
        and "papermill" not in json.loads(text)["metadata"]
    )


def test_layer_notebooks_share_one_body():
    bodies = []
    layers = [path for path in FILES if re.fullmatch(r"\d\d_layer\d_top9", path.stem)]
    assert len(layers) == 5
    for number, path in enumerate(layers, start=1):
        stem = path.stem
        source = "\n\n".join(cell.source for cell in code(path))
        assert f"layer = {number}\n" in source
        bodies.append(
            source.replace(f"layer = {number}\n", "layer = N\n")
            .replace(stem, "STEM")
            .replace(stem.removesuffix("_top9"), "STEM")
        )
    assert len(set(bodies)) == 1


def test_each_notebook_saves_the_figure_of_its_name(path):
    assert f'"{path.stem}")' in "\n".join(cell.source for cell in code(path))


def test_the_explorer_is_thin_and_needs_no_training():
    path = ROOT / "notebooks" / "explore.ipynb"
    assert path.stem not in notebook_stems()  # it makes no figure of the project
    test_notebooks_are_thin(path)
    test_committed_with_outputs_and_without_traces_of_a_machine(path)
    found = papermill.inspect_notebook(str(path))
    assert set(found) == {"profile", "image", "layer"} and found["profile"]["default"] == '"photos"'
    assert load_profile("photos").training is None
    assert not any(
        "widget-view" in kind
        for cell in code(path)
        for output in cell.outputs
        for kind in output.get("data", {})
    )
