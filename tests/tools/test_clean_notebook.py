"""Committed notebooks hold what they show and nothing of the machine."""

from __future__ import annotations

import nbformat
import pytest

from tools.clean_notebook import clean


def test_notebooks_are_cleaned_for_committing(tmp_path):
    cell = nbformat.v4.new_code_cell
    output = nbformat.v4.new_output("execute_result", {"text/plain": "3"}, execution_count=7)
    injected = cell("profile = 'x'", execution_count=2, metadata={"tags": ["injected-parameters"]})
    bar = nbformat.v4.new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "100%"}
    )
    pieces = [
        nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("one\n", "two\n")
    ]
    cells = [cell("a", execution_count=1, outputs=[bar, *pieces]), injected]
    cells.append(
        cell(
            "1 + 2",
            execution_count=7,
            outputs=[output],
            metadata={"execution": {"shell.execute_reply": "2026"}},
        )
    )
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"papermill": {"path": "/somewhere"}})
    nbformat.write(notebook, tmp_path / "a.ipynb")
    clean(tmp_path / "a.ipynb", tmp_path / "b.ipynb")
    found = nbformat.read(tmp_path / "b.ipynb", as_version=4)
    assert [c.source for c in found.cells] == ["a", "1 + 2"] and [
        c.execution_count for c in found.cells
    ] == [1, 2]
    assert [output.text for output in found.cells[0].outputs] == ["one\ntwo\n"]
    assert (
        found.cells[1].outputs[0].data["text/plain"] == "3"
        and found.cells[1].outputs[0].execution_count == 2
    )
    assert "papermill" not in found.metadata and not found.cells[1].metadata
    notebook.cells[0].outputs = [
        nbformat.v4.new_output("error", ename="E", evalue="v", traceback=[])
    ]
    nbformat.write(notebook, tmp_path / "a.ipynb")
    with pytest.raises(ValueError, match="code cell 1 failed"):
        clean(tmp_path / "a.ipynb", tmp_path / "b.ipynb")
