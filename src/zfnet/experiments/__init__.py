"""The experiments, one folder each: `compute.py`, `figure.py`, and an `__init__.py` that declares
`EXPERIMENT`.

Adding one is adding its folder and its notebooks; everything else finds it here. Its section of a
profile is then read (`profile.probes`), its notebooks are among those of every profile, and its
rows stand in docs/results.md.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from zfnet.experiments.results import Result
from zfnet.store.errors import UserError
from zfnet.store.profiles import Profile, read_profile


@dataclass(frozen=True)
class Experiment:
    """`paper`: what of the paper it shows, as its notebooks' first cells say it, such as "section
    5.3 and Table 7"; `notebooks`: their stems.

    `section`: the name of its section in a profile, a frozen dataclass `config`; `check` raises
    UserError where the section does not fit the rest of a profile (the second argument: the file
    and the section's name). `results`: its rows in docs/results.md.
    """

    paper: str
    notebooks: tuple[str, ...]
    section: str | None = None
    config: type | None = None
    check: Callable[[Profile, tuple[str, ...]], None] | None = None
    results: Callable[[], Iterable[Result]] = tuple


@functools.cache
def experiments() -> dict[str, Experiment]:
    """All of them by the name of their folder, in the order of their notebooks."""
    found = {
        module.name: importlib.import_module(f"{__name__}.{module.name}").EXPERIMENT
        for module in pkgutil.iter_modules(__path__)
        if module.ispkg
    }
    return dict(sorted(found.items(), key=lambda item: item[1].notebooks))


def notebook_stems() -> tuple[str, ...]:
    """The names of all numbered notebooks, without their suffix, in order."""
    return tuple(sorted(stem for each in experiments().values() for stem in each.notebooks))


def load_profile(name: str | os.PathLike) -> Profile:
    """The profile of that name, or of that YAML file, with the sections of all experiments.

    Raises FileNotFoundError for an unknown name; UserError or WrongType, which are a ValueError and
    a TypeError, naming the key, for a misspelt key or a bad value.
    """
    own = [each for each in experiments().values() if each.section]
    profile = read_profile(name, {each.section: each.config for each in own})
    path = Path(name)
    where = path.name if path.suffix else f"{name}.yaml"
    for each in own:
        if each.check:
            each.check(profile, (where, each.section))
    stems = notebook_stems()
    if unknown := [stem for stem in profile.notebooks if stem not in stems]:
        raise UserError(f"{where}: notebooks = {unknown}: choose from {', '.join(stems)}")
    return dataclasses.replace(profile, notebooks=profile.notebooks or stems)
