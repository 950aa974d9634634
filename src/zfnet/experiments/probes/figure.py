"""Table 7 as curves: how well a linear classifier does on each layer's features."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import torch

from zfnet.experiments import load_profile
from zfnet.experiments.probes.compute import NETS, PAPER, Probes
from zfnet.experiments.probes.target import own_net
from zfnet.plots import captioned, chance_label, chart
from zfnet.training.small_nets import mean_std


def probes_figure(
    found: Probes,
    title: str,
    own_accuracy: float | None = None,
    names: Mapping[int, str] | None = None,
) -> plt.Figure:
    """Accuracy by layer, one curve per number of training images: the net, solid, and the same net
    with random weights, dashed; and the paper's curves. On another profile's images a panel for
    each number, with every split.

    `own_accuracy`: of the net's own softmax on the test images, 0..1, drawn as a line where given.
    `names`: what the net calls its layers, {1: "pool1", …}.
    """
    if found.target:
        return _target_figure(found, title, names or {})
    classes = found.classes
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


def _target_figure(found: Probes, title: str, names: Mapping[int, str]) -> plt.Figure:
    """Accuracy by layer of a net on images of another profile, a panel for each number of training
    images a class, the largest first: every split a point, means as curves; and the paper's five
    numbers where it has them.
    """
    sizes, target = sorted(found.per_class, reverse=True), load_profile(found.target)
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(11, 4.4), sharey=True, squeeze=False, gridspec_kw={"wspace": 0.06}
    )
    layers = sorted(layer for net, kind, layer in found.accuracy if (net, kind) == (NETS[0], "svm"))
    own, images = own_net(found.target)
    for axis, size in zip(axes[0], sizes, strict=True):
        n = found.per_class.index(size)
        for net, colour, filled in zip(NETS, ("C0", "0.45"), (True, False), strict=True):
            svm = {layer: 100 * found.accuracy[net, "svm", layer][n] for layer in layers}
            _curve(axis, svm, colour, filled, f"SVM, {net} net" if filled else f"SVM, {net}")
            if filled:
                for layer, values in svm.items():
                    _number(axis, layer, values.mean(), colour, 9)
        softmax = {
            layer: 100 * values[n]
            for (net, kind, layer), values in found.accuracy.items()
            if (net, kind) == (NETS[0], "softmax")
        }
        x = [layer + 0.16 for layer in softmax]
        axis.plot(x, [v.mean() for v in softmax.values()], "x", color="C0", label="softmax")
        if size == 30 and found.target == "caltech101":
            paper = {layer: PAPER["svm"][layer][0] for layer in layers if layer in PAPER["svm"]}
            axis.plot(*zip(*paper.items(), strict=True), "D--", color="C1", label="SVM, the paper")
            for layer, value in paper.items():
                _number(axis, layer, value, "C1", -16)
        if own and size == sizes[0]:
            own = {layer: 100 * value for layer, value in own.items() if layer in layers}
            label = f"SVM, ZFNet trained on {target.title} itself, {images} a class"
            axis.plot(*zip(*own.items(), strict=True), ":", color="C3", linewidth=1.4, label=label)
        span = (layers[0] - 0.3, layers[-1] + 0.4)
        axis.plot(span, [100 / found.classes] * 2, color="0.5", linewidth=0.8, linestyle=":")
        chance_label(axis, span[0] + 0.05, 1 / found.classes, size=7.5)
        ticks = [f"{layer}\n{names.get(layer, '')}" for layer in layers]
        chart(axis, f"{size} training images a class", xlabel="layer", xlim=span, ylim=(0, 100))
        axis.set_xticks(layers, ticks, fontsize=8)
        axis.grid(axis="y", color="0.92")
    axes[0, 0].set_ylabel("accuracy (%), mean over classes")
    axes[0, 0].legend(
        fontsize=8, frameon=False, ncol=5, loc="upper left", bbox_to_anchor=(-0.02, -0.17)
    )
    draws = next(iter(found.accuracy.values())).shape[1]
    return captioned(
        figure,
        title,
        f"{target.title}, {found.classes} classes: {draws} random splits, each a point, their means"
        f" the curves; {found.n_test} test images a split, at most 50 a class. C chosen on"
        " one half of the training images. Numbers per layer:"
        f" {', '.join(str(found.dimensions[layer]) for layer in layers)} (maps averaged over a"
        " grid).",
    )


def _curve(
    axis: plt.Axes, values: Mapping[int, torch.Tensor], colour: str, filled: bool, label: str
) -> None:
    """The means by layer as a curve, and every value as a point beside it."""
    style = {"color": colour, "markerfacecolor": colour if filled else "white", "markersize": 5}
    means = [float(each.mean()) for each in values.values()]
    axis.plot(list(values), means, "o-" if filled else "o--", linewidth=1.5, label=label, **style)
    for layer, each in values.items():
        x = [layer - 0.12] * len(each)
        axis.plot(x, each.tolist(), ".", color=colour, markersize=3)


def _number(axis: plt.Axes, layer: int, value: float, colour: str, up: float) -> None:
    axis.annotate(
        f"{value:.1f}",
        (layer, value),
        (0, up),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=colour,
    )
