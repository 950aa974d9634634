"""Rows of docs/results.md: one number of this project beside the paper's, read from the tables in
Figures/, so that no number is typed by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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


def measured(mean: float, std: float, unit: str, n: str, sign: str = "") -> str:
    """ "24.8 ± 0.5 % (28)", without the deviation where a single value has none."""
    return f"{mean:{sign}.1f}{'' if math.isnan(std) else f' ± {std:.1f}'}{unit} ({n})"


def one(rows: Rows, **wanted: str) -> dict[str, str]:
    """The row that has these values; KeyError where there is none or more than one."""
    fitting = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    if len(fitting) != 1:
        raise KeyError(f"{len(fitting)} rows with {wanted}")
    return fitting[0]
