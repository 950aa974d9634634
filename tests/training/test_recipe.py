"""A training's key is data, configuration, seed and RECIPE; a lock on the code behind it says when
RECIPE has to be looked at.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from zfnet import Profile, train
from zfnet.store import keys
from zfnet.store.profiles import ModelConfig, TrainingConfig
from zfnet.training import run
from zfnet.training.recipe import LOCKED

PROFILE = Profile("p", "P", model=ModelConfig(), training=TrainingConfig())
PRINTS = ("a", "b")


def lock(package: Path | None = None) -> str:
    """The hash of the code that shapes a training, the store left out."""
    return keys.code_key(train, ("store", "training.recipe"), package)


def weights_key(profile: Profile = PROFILE, prints: tuple[str, str] = PRINTS) -> str:
    train, val = (SimpleNamespace(fingerprint=one) for one in prints)
    return run.weights_key(profile, SimpleNamespace(train=train, val=val))


def test_the_code_behind_a_training_is_the_locked_one():
    assert lock() == LOCKED, (
        "the code that shapes a training has changed: bump RECIPE, or lock the new hash if no"
        f' result changes; in src/zfnet/training/recipe.py, LOCKED = "{lock()}"'
    )


def test_the_lock_covers_what_shapes_a_training():
    reached = {
        path.relative_to(keys.PACKAGE).as_posix()
        for path in keys.reached(train.__module__, ("store", "training.recipe"))
    }
    assert {"data/images.py", "data/load.py", "models/zfnet.py", "training/run.py"} < reached
    assert "training/recipe.py" not in reached
    assert not any(name.startswith(("store/", "methods/", "plots/", "cli/")) for name in reached)


def test_the_key_of_a_training_tells_data_configuration_seed_and_recipe_apart(monkeypatch):
    made = [
        weights_key(),
        weights_key(prints=("a", "c")),
        weights_key(prints=("c", "b")),
        weights_key(dataclasses.replace(PROFILE, seed=1)),
        weights_key(dataclasses.replace(PROFILE, model=ModelConfig(dropout=0.25))),
        weights_key(dataclasses.replace(PROFILE, training=TrainingConfig(lr=0.123))),
    ]
    monkeypatch.setattr(run, "RECIPE", run.RECIPE + 1)
    assert len({*made, weights_key()}) == 7


def message(tree: ast.Module) -> None:
    """Another wording of all that is said."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            node.value = node.value.upper()


def renamed(tree: ast.Module) -> None:
    """Another name for `loss`, wherever it is one of a local variable."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "loss":
            node.id = "cost"


def steps_of_half_the_size(tree: ast.Module) -> None:
    (function,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "train_step"
    )
    halved = ast.parse("loss = loss / 2").body[0]
    at = next(n for n, line in enumerate(function.body) if "backward" in ast.dump(line))
    function.body.insert(at, halved)


@pytest.mark.parametrize(
    ("module", "edit"),
    [
        ("training/run", message),
        ("training/run", renamed),
        ("training/run", steps_of_half_the_size),
        ("store/artefacts", message),
    ],
)
def test_a_change_of_the_code_is_noticed_by_the_lock_alone(tmp_path, monkeypatch, module, edit):
    """And one of the store, which shapes no training, by none."""
    ignore = shutil.ignore_patterns("__pycache__")
    package = Path(shutil.copytree(keys.PACKAGE, tmp_path / "zfnet", ignore=ignore))
    before = weights_key(), lock()
    path = package / f"{module}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    same = ast.dump(tree)
    edit(tree)
    assert ast.dump(tree) != same
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
    monkeypatch.setattr(keys, "PACKAGE", package)
    assert weights_key() == before[0]
    assert (lock() == before[1]) == module.startswith("store/")
    if edit is steps_of_half_the_size:
        with pytest.raises(AssertionError, match=re.escape(f'LOCKED = "{lock()}"')):
            test_the_code_behind_a_training_is_the_locked_one()
