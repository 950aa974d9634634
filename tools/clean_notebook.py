"""Committed notebooks: outputs kept, progress bars, machine metadata and injected cells gone,
execution counts 1..n.

    python -m tools.clean_notebook SOURCE [TARGET]     # in place without TARGET
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nbformat

from zfnet.store.artefacts import atomic
from zfnet.store.errors import UserError

WIDGET = "application/vnd.jupyter.widget-view+json"  # a progress bar; nothing without its kernel


def clean(source: Path | str, target: Path | str) -> None:
    """Write the executed notebook `source` to `target` as it is committed; ValueError if a cell
    failed or was not run.
    """
    notebook = nbformat.read(source, as_version=4)
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    count = 0
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = nbformat.from_dict(
            {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        )
        if cell.cell_type != "code":
            continue
        count += 1
        if cell.execution_count is None or any(
            output.output_type == "error" for output in cell.outputs
        ):
            raise UserError(f"{source}: code cell {count} failed or was not run")
        cell.execution_count = count
        cell.outputs = [
            output
            for output in cell.outputs
            if output.get("name") != "stderr" and WIDGET not in output.get("data", {})
        ]
        cell.outputs = _merged(cell.outputs)
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            if "metadata" in output:
                output.metadata = {}
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    nbformat.validate(notebook)
    with atomic(target) as temporary:
        nbformat.write(notebook, temporary)


def _merged(outputs: list) -> list:
    """Printed lines arrive in pieces whose cuts are chance: adjoining ones become one."""
    merged: list = []
    for output in outputs:
        if (
            merged
            and output.output_type == "stream"
            and merged[-1].output_type == "stream"
            and output.name == merged[-1].name
        ):
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.clean_notebook", description=__doc__)
    parser.add_argument("source", help="the executed notebook")
    parser.add_argument("target", nargs="?", help="where the cleaned one goes")
    arguments = parser.parse_args(argv)
    clean(arguments.source, arguments.target or arguments.source)


if __name__ == "__main__":
    main()
