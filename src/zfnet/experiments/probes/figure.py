"""Table 7 as curves: how well a linear classifier does on each layer's features."""

import matplotlib.pyplot as plt

from zfnet.experiments.probes.compute import NETS, PAPER, Probes
from zfnet.plots import captioned, chance_label, chart
from zfnet.training.small_nets import mean_std


def probes_figure(
    found: Probes, classes: int, title: str, own_accuracy: float | None = None
) -> plt.Figure:
    """Accuracy by layer, one curve per number of training images: the net, solid, and the same net
    with random weights, dashed; and the paper's curves.

    `own_accuracy`: of the net's own softmax on the test images, 0..1, drawn as a line where given.
    """
    figure, (ours, paper) = plt.subplots(
        1,
        2,
        figsize=(11, 4.2),
        sharey=True,
        gridspec_kw={"width_ratios": [1.45, 1], "wspace": 0.07},
    )
    shades = plt.get_cmap("viridis_r")
    for n, size in enumerate(found.per_class):
        colour = shades(0.15 + 0.75 * n / max(1, len(found.per_class) - 1))
        for net, style in zip(NETS, ("-", "--"), strict=True):
            curve = {
                layer: values[n] * 100
                for (name, kind, layer), values in found.accuracy.items()
                if (name, kind) == (net, "svm")
            }
            means, stds = zip(*(mean_std(values) for values in curve.values()), strict=True)
            ours.errorbar(
                list(curve),
                means,
                None if any(std.isnan() for std in stds) else stds,
                fmt=f"o{style}",
                color=colour,
                markersize=4,
                markerfacecolor=colour if style == "-" else "white",
                capsize=2,
                linewidth=1.4,
            )
            for (name, kind, layer), values in found.accuracy.items():
                if (name, kind, style) == (net, "softmax", "-"):
                    ours.plot(layer + 0.13, 100 * values[n].mean(), "x", color=colour, markersize=6)
            ours.annotate(
                f"{size} a class",
                (max(curve), means[-1]),
                (18, _apart(found, net, n)),
                textcoords="offset points",
                fontsize=7.5,
                color=colour,
                va="center",
            )
    last = max(layer for _, _, layer in found.accuracy)
    ours.plot((0.8, last + 0.2), [100 / classes] * 2, color="0.5", linewidth=0.8, linestyle=":")
    chance_label(ours, 0.8, 1 / classes, size=7.5)
    if own_accuracy is not None:
        y, ink = 100 * own_accuracy, "crimson"
        ours.plot((0.8, last + 0.2), [y] * 2, color=ink, linewidth=0.8, linestyle=":")
        ours.text(0.8, y + 0.6, "the net's own softmax", fontsize=7.5, color=ink, va="bottom")
    for n, name in enumerate(("Caltech-101, 30 a class", "Caltech-256, 60 a class")):
        svm, colour = {layer: values[n] for layer, values in PAPER["svm"].items()}, f"C{n}"
        paper.plot(*zip(*svm.items(), strict=True), "o-", color=colour, markersize=4, linewidth=1.4)
        for layer, values in PAPER["softmax"].items():
            paper.plot(layer + 0.13, values[n], "x", color=colour, markersize=6)
        paper.annotate(
            name,
            (3.2, svm[3]),
            (4, -12),
            textcoords="offset points",
            fontsize=8.5,
            color=colour,
        )
    ours.set(xlim=(0.7, last + 1), ylim=(0, 103), ylabel="accuracy (%), mean over classes")
    paper.set_xlim(0.7, 7.4)
    ours.plot([], [], "ko-", markersize=4, label="SVM, trained net")
    ours.plot([], [], "ko--", markersize=4, markerfacecolor="white", label="SVM, random weights")
    ours.plot([], [], "kx", label="softmax, trained net")
    ours.legend(fontsize=8, frameon=False, ncol=3, loc="upper left", bbox_to_anchor=(-0.02, -0.13))
    for axis, name in ((ours, "here"), (paper, "the paper (net trained on ImageNet)")):
        chart(axis, name, xlabel="layer", xticks=range(1, 8))
        axis.grid(axis="y", color="0.92")
    draws = next(iter(found.accuracy.values())).shape[1]
    over = f"mean and standard deviation over {draws} draws" if draws > 1 else "one draw"
    return captioned(
        figure,
        title,
        f"Here: {over} of the training images; {found.n_test} test images; C chosen on"
        f" {found.n_val} validation images. Features per layer:"
        f" {', '.join(map(str, found.dimensions.values()))} (maps averaged over a grid). The"
        " paper's Table 7 has no layer 6 and one number of training images.",
    )


def _apart(found: Probes, net: str, n: int, least: float = 3.6) -> float:
    """How far, in points, the label of curve `n` moves up so that labels at the right end keep
    their distance (in percent).
    """
    last = max(layer for _, kind, layer in found.accuracy if kind == "svm")
    ends = [100 * float(values.mean()) for values in found.accuracy[net, "svm", last]]
    order = sorted(range(len(ends)), key=ends.__getitem__)
    placed = [ends[i] for i in order]
    for i in reversed(range(len(placed) - 1)):
        placed[i] = min(placed[i], placed[i + 1] - least)
    return (placed[order.index(n)] - ends[n]) * 4.2 * 72 / 103
