"""Fig. 9 for one's own data, beside the paper's Tables 4 and 5."""

import matplotlib.pyplot as plt

from zfnet.experiments.transfer.compute import CALTECH101, CALTECH256, Curve, whole_net
from zfnet.plots import captioned, chance_label, chart
from zfnet.training.small_nets import mean_std

ARMS = {
    "pretrained": ("tab:blue", "pretrained, new softmax"),
    "untrained": ("0.55", "random weights, new softmax"),
    "scratch": ("tab:red", "from scratch"),
}


def transfer_figure(curve: Curve, title: str, note: str = "") -> plt.Figure:
    """Accuracy by training images per class, on the left ours, on the right the paper's; `note`
    ends the caption.
    """
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 4), sharey=True, gridspec_kw={"wspace": 0.12, "width_ratios": (1.35, 1)}
    )
    for arm, values in curve.accuracy.items():
        mean, std = zip(*(mean_std(100 * row) for row in values), strict=True)
        axes[0].errorbar(
            curve.per_class,
            mean,
            yerr=None if any(s.isnan() for s in std) else std,
            color=ARMS[arm][0],
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1.6,
            label=ARMS[arm][1],
        )
    axes[0].axhline(100 * curve.chance, color="0.6", linewidth=0.8, linestyle=":")
    chance_label(axes[0], curve.per_class[-1], curve.chance, ha="right")
    if curve.target:
        _each_split(axes[0], curve)
    place = "center left" if curve.target else "upper left"
    axes[0].legend(frameon=False, fontsize=9, loc=place)
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
    for axis, name, ticks in (
        (axes[0], "here", curve.per_class),
        (axes[1], "the paper: ImageNet to Caltech", tuple(CALTECH256)),
    ):
        chart(axis, name, xscale="log", xlabel="training images per class")
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.xaxis.set_minor_locator(plt.NullLocator())
    axes[0].set(ylabel="mean per-class accuracy, %", ylim=(0, 100))
    axes[1].set_xlim(13, 100)
    draws = next(iter(curve.accuracy.values())).shape[1]
    over = f"Mean and standard deviation over {draws} draws" if draws > 1 else "One draw"
    return captioned(
        figure,
        title,
        (f"{over} of the training images; colours alike on both sides. {note}").strip(),
    )


def _each_split(axis: plt.Axes, curve: Curve) -> None:
    """A point for every split, beside the means, and the target's own net, trained whole."""
    for arm, values in curve.accuracy.items():
        for n, row in zip(curve.per_class, values.tolist(), strict=True):
            x = [n * 1.04] * len(row)
            axis.plot(x, [100 * one for one in row], ".", color=ARMS[arm][0], markersize=3)
    if whole := whole_net(curve.target):
        label = "from scratch: the whole ZFNet, one split"
        axis.plot(
            whole[0], 100 * whole[1], "*", color=ARMS["scratch"][0], markersize=9, label=label
        )
