"""The panels of an occlusion map, over the image's own coordinates (Fig. 7)."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from zfnet.methods.occlusion import Occlusion


def centres(found: Occlusion) -> tuple[float, float, float, float]:
    """Where a map over the square's centres lies in the image: left, right, bottom, top, half a
    step around the outermost centres.
    """
    ends = []
    for starts in (found.lefts, found.tops):
        first, last = float(starts[0]), float(starts[-1])
        half = (last - first) / (len(starts) - 1) / 2 if len(starts) > 1 else 0.5
        ends.append((first + found.size / 2 - half, last + found.size / 2 + half))
    return *ends[0], *reversed(ends[1])


def label_map(axis, found: Occlusion, classes: Sequence[str], extent) -> None:
    """Panel (e): the most probable class at each position, with the names of the most frequent
    ones.
    """
    labels, counts = found.label.unique(return_counts=True)
    labels = labels[counts.argsort(descending=True, stable=True)].tolist()
    colours = [plt.get_cmap("tab20")(i % 20) for i in range(len(labels))]
    codes = torch.zeros_like(found.label)
    for code, label in enumerate(labels):
        codes[found.label == label] = code
    axis.imshow(
        codes.numpy(),
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(labels) - 0.5,
        extent=extent,
        interpolation="nearest",
    )
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in colours[:6]]
    axis.legend(
        handles,
        [classes[label] for label in labels[:6]],
        fontsize=7,
        loc="upper left",
        bbox_to_anchor=(1.02, 1),
        borderaxespad=0,
        frameon=False,
    )
