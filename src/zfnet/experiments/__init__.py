"""The experiments, one folder each: `compute.py`, `figure.py`, and an `__init__.py` that declares
`EXPERIMENT`.

Adding one is adding its folder and its notebooks; everything else finds it here. Its section of a
profile is then read (`profile.probes`), its notebooks are among those of every profile, and its
rows stand in docs/results.md: each one number of this project beside the paper's, read from the
tables in Figures/, so that no number is typed by hand.
"""

import functools
import importlib
import math
import os
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from zfnet.store.errors import require
from zfnet.store.profiles import Profile, read_profile

NONE = "–"
Rows = list[dict[str, str]]  # of a CSV in Figures/


@dataclass(frozen=True)
class Result:
    """`what` was measured, the `paper`'s number, and how ours is read from the table of `notebook`.
    `headline`: it stands in the README, too.
    """

    notebook: str
    what: str
    read: Callable[[Rows], str]
    paper: str = NONE
    headline: bool = False


Results = Iterable[Result]


@dataclass(frozen=True)
class Experiment:
    """`paper`: what of the paper it shows, as its notebooks' first cells say it, such as "section
    5.3 and Table 7"; `notebooks`: their stems.

    `section`: the name of its section in a profile, a frozen dataclass `config`; `check` raises
    UserError where the section does not fit the rest of a profile (the second argument: the file
    and the section's name). `possible`: whether a profile that names no notebooks has these (None:
    always). `results`: its rows in docs/results.md.
    """

    paper: str
    notebooks: tuple[str, ...]
    section: str | None = None
    config: type | None = None
    check: Callable[[Profile, tuple[str, ...]], None] | None = None
    possible: Callable[[Profile], bool] | None = None
    results: Callable[[], Results] = tuple


def measured(mean: float, std: float, unit: str, n: str, sign: str = "") -> str:
    """ "24.8 ± 0.5 % (28)", without the deviation where a single value has none."""
    return f"{mean:{sign}.1f}{'' if math.isnan(std) else f' ± {std:.1f}'}{unit} ({n})"


def one(rows: Rows, **wanted: str) -> dict[str, str]:
    """The row that has these values; KeyError where there is none or more than one."""
    fitting = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    if len(fitting) != 1:
        raise KeyError(f"{len(fitting)} rows with {wanted}")
    return fitting[0]


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
    where = Path(name).name if Path(name).suffix else f"{name}.yaml"
    for each in (each for each in own if each.check):
        each.check(profile, (where, each.section))
    stems = notebook_stems()
    unknown = [stem for stem in profile.notebooks if stem not in stems]
    require(not unknown, f"{where}: notebooks = {unknown}: choose from {', '.join(stems)}")
    out = [each for each in experiments().values() if each.possible and not each.possible(profile)]
    rest = tuple(stem for stem in stems if not any(stem in each.notebooks for each in out))
    return replace(profile, notebooks=profile.notebooks or rest)
