"""Table 3 as a picture: one line per net, the paper's numbers beside ours."""

import matplotlib.pyplot as plt
import torch

from zfnet.experiments.ablation.compute import ROWS, Row, changes
from zfnet.plots import captioned
from zfnet.training.small_nets import mean_std

OURS, PAPER = "tab:blue", "0.45"
GAP = 0.5  # between the two nets' rows


def ablation_figure(
    errors: dict[str, torch.Tensor], title: str, note: str = "", rows: tuple[Row, ...] = ROWS
) -> plt.Figure:
    """Training and validation error of every row, and what the change does to the latter; `errors`
    as `ablation.ablate` gives them.

    `note` ends the caption: what was trained on how many images.
    """
    heights = [i + GAP * (row.net != rows[0].net) for i, row in enumerate(rows)]
    figure, axes = plt.subplots(
        1, 3, figsize=(11, 0.36 * len(rows) + 0.6), sharey=True, gridspec_kw={"wspace": 0.07}
    )
    for axis, column, name in zip(
        axes[:2], (0, 1), ("training error, %", "validation error, %"), strict=True
    ):
        for row, y in zip(rows, heights, strict=True):
            _line(axis, y, 100 * errors[row.key][:, column], row.paper[column])
        most = 100 * float(max(e[:, column].max() for e in errors.values()))
        axis.set(xlabel=name, xlim=(0, 1.06 * max(most, *(row.paper[column] for row in rows))))
    found, last = changes(errors, "val", rows), axes[2]
    beside = {"transform": last.get_yaxis_transform(), "fontsize": 8, "va": "center", "ha": "right"}
    last.text(1.12, heights[0], "here", color=OURS, **beside)
    last.text(1.26, heights[0], "paper", color=PAPER, **beside)
    for row, y in zip(rows, heights, strict=True):
        if row.key in found:
            (ours, _, paper) = found[row.key]
            _line(last, y, 100 * (errors[row.key][:, 1] - errors[row.net][:, 1]), paper)
            last.text(1.12, y, f"{ours:+.1f}", color=OURS, **beside)
            last.text(1.26, y, f"{paper:+.1f}", color=PAPER, **beside)
    last.axvline(0, color="0.6", linewidth=0.8)
    last.set_xlabel("change of the validation error, percentage points")
    names = [f"{row.title}  (unchanged)" if row.key == row.net else row.title for row in rows]
    axes[0].set_yticks(heights, names, fontsize=9)
    for label, row in zip(axes[0].get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.key == row.net else "normal")
    axes[0].set_ylim(heights[-1] + 0.6, -0.6)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.92", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(axis="y", length=0)
    handles, names = axes[0].get_legend_handles_labels()
    axes[0].legend(
        [handles[names.index(name)] for name in ("here", "paper")],
        ["here", "paper"],
        loc="lower right",
        fontsize=8,
        frameon=False,
    )
    seeds = len(next(iter(errors.values())))
    over = f"mean and standard deviation over {seeds} seeds, a dot for each"
    return captioned(
        figure,
        title,
        (
            f"Blue: {over if seeds > 1 else 'one net each'}. Diamonds: the paper's, ImageNet, one"
            f" net each. {note}"
        ).strip(),
    )


def _line(axis: plt.Axes, y: float, own: torch.Tensor, paper: float) -> None:
    """One row: a dot per seed, their mean and deviation, the paper's number."""
    mean, std = mean_std(own)
    axis.errorbar(
        mean,
        y,
        xerr=None if std.isnan() else std,
        fmt="|",
        markersize=11,
        color=OURS,
        elinewidth=1.6,
        label="here",
    )
    axis.scatter(own, [y] * len(own), s=11, color=OURS, alpha=0.55, linewidths=0)
    axis.scatter(paper, y, s=26, marker="D", facecolors="none", edgecolors=PAPER, label="paper")
