"""The house stands as its plan says: few rooms, doors that open one way, lines of readable length.

Each rule is a function of a folder, shown to see a violation planted in a copy.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import json
import shutil
from pathlib import Path

import pytest

from zfnet.store import keys
from zfnet.store.profiles import ROOT

PACKAGE = ROOT / "src" / "zfnet"
# each uses only those before it; "" is the package's own `__init__`, what notebooks import
ORDER = (
    *("store", "data", "graph", "models", "methods", "training", "plots", "experiments", ""),
    *("gallery", "explorer", "site", "cli", "__main__"),
)
APART = {("explorer", "gallery")}  # side by side: neither uses the other
LENGTH = 100
SKIP = "# fmt:" + " skip"
CELL = 160  # of a notebook, whose cells have fifteen lines at most


def modules(package: Path) -> dict[str, Path]:
    """{"graph.windows": its file} of the whole package; a package stands for its `__init__`."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(package: Path, everywhere: bool) -> dict[str, set[str]]:
    """{module: the package's modules that it imports}, inside of functions only if `everywhere`."""
    known, found = modules(package), {}
    for name, path in known.items():
        tree = parsed(path.read_text())
        nodes = list(ast.walk(tree)) if everywhere else list(at_import(tree))
        wanted = []
        for node in nodes:
            if isinstance(node, ast.Import):
                wanted += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path} imports by a relative name"
                wanted += [f"{node.module}.{alias.name}" for alias in node.names]
        ours = [each.partition(".") for each in wanted]
        ours = [inside for top, _, inside in ours if top == package.name]
        # what is no module is a name in one
        found[name] = {each if each in known else each.rpartition(".")[0] for each in ours}
        found[name].discard(name)
    return found


parsed = functools.cache(ast.parse)


def at_import(tree: ast.AST):
    """The statements that run when a module is imported."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_import(node)


def upward(package: Path) -> list[str]:
    """Imports that lead from a room into one above it, or into one beside it."""
    found = []
    for module, others in imports(package, everywhere=True).items():
        room = module.split(".")[0]
        for other in others:
            into = other.split(".")[0]
            if ORDER.index(into) > ORDER.index(room) or (room, into) in APART:
                found.append(f"{module} imports {other}")
    return sorted(found)


def circle(package: Path) -> list[str]:
    """Modules that import each other in a circle as they are loaded, [] if none do."""
    try:
        graphlib.TopologicalSorter(imports(package, everywhere=False)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def unreadable(folder: Path) -> list[str]:
    """Lines that are too long, and lines kept from the formatter, but for tables of data: what
    stands between `# fmt: off` and `# fmt: on`, with no statement but assignments of constants.
    """
    found = []
    for path in sorted(folder.rglob("*.py")):
        lines, table = path.read_text().splitlines(), False
        for number, line in enumerate(lines, 1):
            table = (table or line.strip() == "# fmt: off") and line.strip() != "# fmt: on"
            wide = len(line.split("  # noqa: ")[0]) > LENGTH  # as ruff counts
            if (wide and not table) or SKIP in line:
                found.append(f"{path.name}:{number}")
    return found


def drawing(package: Path) -> list[str]:
    """Computations of experiments that reach matplotlib, by way of any module of ours."""
    found = []
    for path in sorted((package / "experiments").glob("*/compute.py")):
        module = f"{package.name}.experiments.{path.parent.name}.compute"
        for file in keys.reached(module, package=package):
            if "matplotlib" in file.read_text():
                found.append(f"{path.parent.name} reaches {file.relative_to(package)}")
    return found


@pytest.fixture
def plant(tmp_path):
    """`plant(module, line)` -> a copy of the package with this line at the end of a file."""

    def planted(file: str, line: str) -> Path:
        copy = tmp_path / "zfnet"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        with open(copy / file, "a", encoding="utf-8") as target:
            target.write(f"\n{line}\n")
        return copy

    return planted


def test_there_are_few_rooms():
    rooms = [path for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "shipped")]
    assert len([path for path in rooms if not path.name.startswith("__")]) <= 12
    assert {path.name for path in rooms if path.is_dir()} <= set(ORDER)
    assert {path.name for path in rooms if path.is_file()} == {"__init__.py", "__main__.py"}


def test_doors_open_one_way():
    assert upward(PACKAGE) == []


@pytest.mark.parametrize(
    "file, line",
    [
        ("store/keys.py", "from zfnet.data import images"),
        ("graph/forward.py", "def late():\n    import zfnet.methods.deconv"),
        ("data/load.py", "from zfnet import evaluating"),
        ("explorer/__init__.py", "from zfnet.gallery import build"),
    ],
)
def test_a_door_that_opens_the_wrong_way_is_seen(plant, file, line):
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert [each.split()[0] for each in upward(plant(file, line))] == [module]


def test_nothing_is_imported_in_a_circle():
    assert circle(PACKAGE) == []


def test_a_circle_is_seen(plant):
    copy = plant("store/errors.py", "from zfnet.store.artefacts import atomic")
    assert {"store.errors", "store.artefacts"} <= set(circle(copy))


@pytest.mark.parametrize("folder", ["src", "tests", "tools", "benchmarks"])
def test_lines_are_of_readable_length(folder):
    assert unreadable(ROOT / folder) == []


def test_lines_of_notebooks_fit_their_cells():
    long = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            lines = "".join(cell["source"]).splitlines() if cell["cell_type"] == "code" else []
            long += [f"{path.name}: {line}" for line in lines if len(line) > CELL]
    assert long == []


def test_a_long_line_is_seen_but_in_a_table(tmp_path):
    long = f"A = [{', '.join(map(str, range(40)))}]"
    (tmp_path / "a.py").write_text(f"{long}\nB = 1  {SKIP}\n# fmt: off\n{long}\n# fmt: on\n")
    assert unreadable(tmp_path) == ["a.py:1", "a.py:2"]


def test_computations_know_no_matplotlib():
    assert len(list(PACKAGE.glob("experiments/*/compute.py"))) >= 10
    assert drawing(PACKAGE) == []


@pytest.mark.parametrize(
    "file, line",
    [
        ("experiments/probes/compute.py", "from zfnet.plots.panels import to_rgb"),
        ("data/images.py", "def late():\n    import matplotlib.pyplot"),
    ],
)
def test_a_computation_that_draws_is_seen(plant, file, line):
    assert [each for each in drawing(plant(file, line)) if each.startswith("probes")]
