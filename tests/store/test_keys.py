"""Keys tell everything apart that an artefact is made from: values, tensors, and the code that it
reaches; prose, layout and the version of Python are not among them.
"""

from __future__ import annotations

import ast
import importlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from zfnet import Images, Profile, ZFNet, load_scan, receptive_field
from zfnet.store import artefacts, keys

# every function whose code is part of a cheap artefact's key, by the module that asks for the key
ASKED = {
    path.relative_to(keys.PACKAGE).with_suffix("").as_posix().replace("/", "."): names
    for path in sorted(keys.PACKAGE.rglob("*.py"))
    if path.name != "keys.py"
    and (names := re.findall(r"code_key\((\w+)\)", path.read_text(encoding="utf-8")))
}


def test_keys_tell_everything_apart():
    made = [
        keys.key_of(*parts)
        for parts in (
            (1, 2),
            (2, 1),
            ("1", 2),
            ([1, 2],),
            (Profile("a", "t"),),
            (Profile("a", "t", seed=1),),
        )
    ]
    assert len(set(made)) == len(made) and made[0] == keys.key_of(1, 2)
    a = {"w": torch.zeros(2, 3)}
    variants = [
        a,
        {"v": a["w"]},
        {"w": torch.zeros(3, 2)},
        {"w": torch.zeros(2, 3).double()},
        {"w": torch.full((2, 3), 1e-30)},
    ]
    assert len({keys.tensors_hash(v) for v in variants}) == 5


# --- A small package ------------------------------------------------------------------------------

SOURCES = {
    "__init__": "from p.top import f\n",
    "top": "import json\nfrom p.middle import g\n\nLIMIT = 1\n\ndef f():\n    return g(LIMIT)\n",
    "middle": "from .low import deep\n\ndef g(x):\n    from p import late\n    return deep.h(x)\n",
    "low.__init__": "from . import deep\nfrom .beside import shown\n",
    "low.deep": "from ..top import f\n\ndef h(x):\n    return x + 1\n",
    "low.beside": "shown = 3\n",
    "late": "import p.named as other\n",
    "named": "from p.words import *\n",
    "words": "word = 'a'\n",
    "aside": "from p.top import f\n",
}


def written(folder: Path, **changed: str) -> Path:
    for name, source in {**SOURCES, **changed}.items():
        path = folder / "p" / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder / "p"


def key_of_f(package: Path, *without: str) -> str:
    return keys.code_key(SimpleNamespace(__module__="p.top"), without, package)


def test_imports_are_followed_however_they_are_written(tmp_path):
    package = written(tmp_path)
    files = [path.relative_to(package).as_posix() for path in keys.reached("p.top", (), package)]
    expected = ["late.py", "low/deep.py", "middle.py", "named.py", "top.py", "words.py"]
    assert files == expected
    # by the package's own name, its __init__ counts, with what that imports
    written(tmp_path, middle="from p.low import shown\nimport p.low\n")
    files = [path.relative_to(package).as_posix() for path in keys.reached("p.top", (), package)]
    assert files == ["low/__init__.py", "low/beside.py", "low/deep.py", "middle.py", "top.py"]
    # and what is left out takes along what is reached through it alone
    assert [path.name for path in keys.reached("p.top", ("low",), package)] == [
        "middle.py",
        "top.py",
    ]
    assert [path.name for path in keys.reached("p.top", ("low.deep",), package)] == [
        "__init__.py",
        "beside.py",
        "middle.py",
        "top.py",
    ]


def test_the_key_is_of_the_code_that_is_reached_and_of_nothing_else(tmp_path):
    first = key_of_f(written(tmp_path / "0"))
    for n, (name, source) in enumerate(SOURCES.items(), start=1):
        key = key_of_f(written(tmp_path / str(n), **{name: source + "\nmore = 1\n"}))
        reached = name in ("top", "middle", "low.deep", "late", "named", "words")
        assert (key != first) == reached, name
    constant = {"low.deep": SOURCES["low.deep"].replace("+ 1", "+ 2")}
    assert key_of_f(written(tmp_path / "constant", **constant)) != first
    assert key_of_f(written(tmp_path / "constant", **constant), "low") == key_of_f(
        written(tmp_path / "0"), "low"
    )


def test_prose_and_layout_do_not_count(tmp_path):
    bare = "def f(x):\n    return x + 1\n\nclass G:\n    pass\n"
    prose = (
        '"""Doc."""\n\n\ndef f(x):  # why\n\n    """D."""\n    return (\n        x + 1  # 1\n'
        "    )\n"
        '"""Aside."""\nclass G:\n    # nothing\n    """G."""\n    pass\n'
    )
    other = bare.replace("1", "2")
    first, same, new = (
        key_of_f(written(tmp_path / str(n), top=text))
        for n, text in enumerate((bare, prose, other))
    )
    assert first == same != new


def test_the_key_does_not_depend_on_the_version_of_python(tmp_path):
    source = (
        "@wrap\nclass A(B):\n    x: int = 1\n\n    def f(self, *a, b=[], **c):\n        return [g()"
        " for g in a if g]\n"
    )
    # as Python 3.11 has it
    assert key_of_f(written(tmp_path, top=source)) == "e976aaf425d8c83f"


# --- This package, of which a copy is changed -----------------------------------------------------


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package."""
    ignore = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(keys.PACKAGE, tmp_path / "zfnet", ignore=ignore))


def change(package: Path, module: str, edit: Callable[[ast.Module], object]) -> None:
    """Edit a module's code; its layout, comments and quotes change, too."""
    path = package / f"{module.replace('.', '/')}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    edit(tree)
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")


def double(name: str) -> Callable[[ast.Module], None]:
    """Make a function return twice what it does."""

    def edit(tree: ast.Module) -> None:
        (function,) = (
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node.name == name
        )
        (*_, last) = (node for node in ast.walk(function) if isinstance(node, ast.Return))
        last.value = ast.BinOp(last.value, ast.Mult(), ast.Constant(2))

    return edit


def raise_a_number(tree: ast.Module) -> None:
    """Add one to a number that stands in the module."""
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    next(node for node in constants if type(node.value) is int).value += 1


def rewrite_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body[0].value.value = "Something else."


def artefact_keys(package: Path | None = None) -> dict[str, str]:
    """The code's key of every cheap artefact, by module and function."""
    return {
        f"{module}.{name}": keys.code_key(
            getattr(importlib.import_module(f"zfnet.{module}"), name), package=package
        )
        for module, names in ASKED.items()
        for name in names
    }


def test_cheap_artefacts_are_keyed_by_their_code():
    assert {"data.load.load_data", "methods.top_activations.scan"} < set(artefact_keys())
    assert len(ASKED) > 8


@pytest.mark.slow
def test_a_copy_has_the_same_keys_whatever_its_prose_and_layout(package):
    assert artefact_keys(package) == artefact_keys()
    for path in sorted(package.rglob("*.py")):
        module = path.relative_to(package).with_suffix("").as_posix().replace("/", ".")
        change(package, module, rewrite_docstrings)
        path.write_text(f"# A remark.\n\n{path.read_text(encoding='utf-8')}\n", encoding="utf-8")
    assert artefact_keys(package) == artefact_keys()


@pytest.mark.parametrize(
    ("module", "edit", "kept"),
    [
        ("data.images", double("normalise"), ()),
        # two imports away from most of them
        (
            receptive_field.__module__.removeprefix("zfnet."),
            double("receptive_field"),
            ("data.load.load_data",),
        ),
        ("methods.top_activations", raise_a_number, ("data.load.load_data",)),
    ],
)
@pytest.mark.slow
def test_changed_code_has_a_new_key_in_all_that_reach_it(package, module, edit, kept):
    before = artefact_keys()
    change(package, module, edit)
    after = artefact_keys(package)
    path = package / f"{module.replace('.', '/')}.py"
    for name in before:
        function = getattr(
            importlib.import_module(f"zfnet.{name.rpartition('.')[0]}"), name.rpartition(".")[2]
        )
        reached = path in keys.reached(function.__module__, (), package)
        assert (before[name] != after[name]) == reached, name
        assert not reached or name not in kept
    assert before["methods.top_activations.scan"] != after["methods.top_activations.scan"]
    assert sum(before[name] != after[name] for name in before) > 4


def test_a_scan_is_made_again_where_the_code_is_another(package, tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path / "project")
    torch.manual_seed(0)
    net = ZFNet(4, input_size=64, maps=(4,) * 5, fc=()).eval()
    pixels = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    zeros, ones = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    images = Images(pixels, torch.zeros(6, dtype=torch.long), ("one",), 64, zeros, ones)
    profile = Profile("p", "P")

    def made() -> str:
        load_scan(profile, net, images, ["relu1"], k=2)
        return artefacts.read_meta(profile.scan_file)["key"]

    first = made()
    monkeypatch.setattr(keys, "PACKAGE", package)
    change(package, "data.images", rewrite_docstrings)
    assert made() == first
    change(package, "data.images", double("normalise"))
    assert made() != first
