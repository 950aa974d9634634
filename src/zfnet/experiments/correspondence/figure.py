"""Table 1 as a picture: the masked parts, and beside each how consistently the features change."""

import matplotlib.pyplot as plt
import torch

from zfnet.data.parts import Parts
from zfnet.experiments.correspondence.compute import (
    DIFFERENT,
    PAPER,
    RANDOM,
    Correspondence,
    mask_out,
)
from zfnet.methods.depth import POOLED
from zfnet.plots import captioned, chart, outline, show

# marker, colour, face, label, shift
OURS = {
    ("trained", "agree"): ("o", "C0", "C0", "all features", -0.2),
    ("trained", "both changed"): ("s", "C1", "C1", "changed in both images", 0),
    ("control", "both changed"): ("s", "0.45", "white", "the same, random weights", 0.2),
}


def correspondence_figure(
    parts: Parts, group: torch.Tensor, found: Correspondence, control: Correspondence, title: str
) -> plt.Figure:
    """One row per kind of mask: the images of `group` as the net sees them, then Delta at layers 5
    and 7, or what stands for 7 where there is anything (mean and deviation over groups), then the
    paper's.

    `control` is the same of a net with random weights; of it only the features that changed in both
    images are drawn.
    """
    rows, count = found.rows, len(group)
    side, space = 1.08, 0.08
    layers = [5, *(layer for layer in (7, POOLED) if (layer, "agree") in found.delta)]
    ratios = [*[1] * count, 0.35, *[2.3] * len(layers), 0.15, *[1.3] * len(layers)]
    figure = plt.figure(figsize=(side * sum(ratios), side * len(rows) * (1 + space)))
    grid = figure.add_gridspec(
        len(rows), len(ratios), width_ratios=ratios, hspace=space, wspace=0.1
    )
    boxes = {
        **{name: parts.boxes[group, n] for n, name in enumerate(parts.names)},
        RANDOM: found.random_boxes[0, group],
        DIFFERENT: parts.boxes[group, torch.arange(count) % len(parts.names)],
    }
    images, inputs = parts.images, parts.images.batch(group)
    for n, row in enumerate(rows):
        pictures = (mask_out(inputs, boxes[row]) * (images.std / images.gain) + images.mean) / 255
        name = row.replace("_", " ").replace(" parts", "\nparts")
        for k, (picture, box) in enumerate(zip(pictures.clamp(0, 1), boxes[row], strict=True)):
            axis = figure.add_subplot(grid[n, k])
            show(axis, picture.permute(1, 2, 0).numpy(), framed=True)
            outline(axis, box.tolist(), edgecolor="white", linewidth=1.2)
            axis.set(xlim=(-0.5, images.size - 0.5), ylim=(images.size - 0.5, -0.5))
            axis.set_ylabel(name if k == 0 else "", fontsize=10)
    trim = space / (2 * (1 + space))
    for k, (layer, theirs) in enumerate(zip(layers, PAPER, strict=False)):
        places = (count + 1 + k, count + 2 + len(layers) + k)
        ours, paper = (figure.add_subplot(grid[:, place]) for place in places)
        right = 0.55
        for (net, zeros), (marker, colour, face, label, shift) in OURS.items():
            result = control if net == "control" else found
            mean, deviation = result.delta[layer, zeros].mean(1), result.deviation(layer, zeros)
            values = dict(zip(rows, torch.stack([mean, deviation], 1).tolist(), strict=True))
            right = max(right, *mean.tolist())
            _dots(ours, values, rows, marker, colour, face, shift, line=net == "trained")
            ours.plot([], [], marker, color=colour, markerfacecolor=face, label=label)
        ours.axvline(0.5, color="0.5", linewidth=0.8, linestyle=":")
        ours.text(0.508, -0.47 + trim, "chance\nof \u25a0", fontsize=7, color="0.4", va="top")
        _dots(paper, PAPER[theirs], rows, "D", "0.25", "0.25")
        for row in (row for row in rows if row not in PAPER[theirs]):
            paper.text(
                0.085,
                rows.index(row) + 0.03,
                "not in the paper",
                fontsize=7,
                color="0.5",
                ha="center",
                backgroundcolor="white",
            )
        here = "last maps averaged" if layer == POOLED else f"layer {layer}, here"
        for axis, what, limits, ticks in (
            (ours, here, (0, right + 0.07), [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
            (paper, f"layer {theirs}, paper", (0.04, 0.13), [0.05, 0.1]),
        ):
            chart(axis, what, xlabel="Delta", xlim=limits, xticks=ticks)
            axis.set(
                ylim=(len(rows) - 0.5 - trim, -0.5 + trim), yticks=range(len(rows)), yticklabels=[]
            )
            axis.tick_params(labelsize=8, length=2)
            axis.grid(axis="y", color="0.9")
        if k == 0:
            ours.legend(
                fontsize=7.5,
                frameon=False,
                loc="upper left",
                bbox_to_anchor=(-0.03, -0.06),
                ncol=3,
                handletextpad=0.2,
                columnspacing=1,
            )
    groups = next(iter(found.delta.values())).shape[1]
    shown, over = f"one of {groups} disjoint groups of {count}", "the groups"
    if groups == 1:
        shown, over = f"the {count} images", "pairs of images"
    return captioned(
        figure,
        title,
        f"Left: {shown}; the outlined box is filled with the mean colour. Right: Delta, the"
        " normalised Hamming distance of the signs of the features' changes; lower is more"
        " consistent. Circles: over all features, 0 a sign of its own; squares: only over features"
        f" that changed in both images. Means and standard deviations over {over} (the paper has"
        f" one group of five and does not say over what); dashed: {RANDOM}, on the object,"
        f" {found.random_boxes.shape[0]} draws a group. 'Different parts' (beyond the paper)"
        " compares the change by one part with that by another.",
    )


def _dots(
    axis: plt.Axes,
    values: dict[str, tuple[float, float]],
    rows: tuple[str, ...],
    marker: str,
    colour: str,
    face: str,
    shift: float = 0,
    line: bool = True,
):
    """Mean and deviation of each row at its height, and a dashed line at the random masks' mean."""
    for row in (row for row in rows if row in values):
        mean, std = values[row]
        axis.errorbar(
            mean,
            rows.index(row) + shift,
            xerr=std,
            fmt=marker,
            color=colour,
            markerfacecolor=face,
            markersize=5,
            capsize=2,
            linewidth=1.1,
        )
    if line:
        axis.axvline(values[RANDOM][0], color=colour, linewidth=0.8, linestyle="--", alpha=0.7)
