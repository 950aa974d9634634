"""Fig. 9 for one's own data, beside the paper's Tables 4 and 5."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from zfnet.experiments.transfer.compute import CALTECH101, CALTECH256, Curve
from zfnet.plots.panels import captioned, chance_label
from zfnet.training.small_nets import mean_std

ARMS = {
    "pretrained": ("tab:blue", "pretrained, new softmax"),
    "untrained": ("0.55", "random weights, new softmax"),
    "scratch": ("tab:red", "from scratch"),
}


def transfer_figure(curve: Curve, title: str, note: str = "") -> Figure:
    """Accuracy by training images per class, on the left ours, on the right the paper's; `note`
    ends the caption.
    """
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 4), sharey=True, gridspec_kw={"wspace": 0.12, "width_ratios": (1.35, 1)}
    )
    for arm, values in curve.accuracy.items():
        colour, name = ARMS[arm]
        mean, std = zip(*(mean_std(100 * row) for row in values), strict=True)
        bars = None if any(s.isnan() for s in std) else std
        axes[0].errorbar(
            curve.per_class,
            mean,
            yerr=bars,
            color=colour,
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1.6,
            label=name,
        )
    axes[0].axhline(100 * curve.chance, color="0.6", linewidth=0.8, linestyle=":")
    chance_label(axes[0], curve.per_class[-1], curve.chance, ha="right")
    axes[0].legend(frameon=False, fontsize=9, loc="upper left")
    axes[0].set_title("here", fontsize=10)
    for name, numbers, style in (
        ("Caltech-101", CALTECH101, "-"),
        ("Caltech-256", CALTECH256, "--"),
    ):
        for arm, values in zip(
            ("pretrained", "scratch"), zip(*numbers.values(), strict=True), strict=True
        ):
            axes[1].plot(
                list(numbers),
                values,
                color=ARMS[arm][0],
                marker="o",
                markersize=4,
                linestyle=style,
                linewidth=1.6,
            )
            axes[1].annotate(
                name,
                (list(numbers)[-1], values[-1]),
                xytext=(5, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
            )
    axes[1].set_title("the paper: ImageNet to Caltech", fontsize=10)
    axes[0].set(ylabel="mean per-class accuracy, %", ylim=(0, 100))
    _images(axes[0], curve.per_class)
    _images(axes[1], tuple(CALTECH256))
    axes[1].set_xlim(13, 100)
    draws = next(iter(curve.accuracy.values())).shape[1]
    over = f"Mean and standard deviation over {draws} draws" if draws > 1 else "One draw"
    caption = f"{over} of the training images; colours alike on both sides."
    return captioned(figure, title, f"{caption} {note}".strip())


def _images(axis: Axes, ticks: tuple[int, ...]) -> None:
    axis.set_xscale("log")
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("training images per class")
    axis.spines[["top", "right"]].set_visible(False)
