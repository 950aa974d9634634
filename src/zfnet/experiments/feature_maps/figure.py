"""Feature maps of one image, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from zfnet.data.images import Images
from zfnet.graph.windows import ReceptiveField
from zfnet.plots.panels import captioned, to_rgb


def feature_maps_figure(
    images: Images,
    indices: Sequence[int],
    maps: Sequence[dict[str, torch.Tensor]],
    channels: Sequence[dict[str, torch.Tensor]],
    fields: dict[str, ReceptiveField],
    title: str,
    choice: str = "the largest total activity",
) -> Figure:
    """One row per image and stage: the image, then the chosen channels of every stage, each in its
    own grey scale.

    images, indices: which pictures; maps: for each image {stage: (C, h, w)}; channels: for each
    image {stage: (count,)}; fields: the stages' geometry; choice: how the channels were chosen, for
    the caption. A stage with negative values is drawn around mid-grey = 0, one without from black =
    0 to white. A red circle marks the largest value; the frame on the image is what that unit of
    the row's first channel sees.
    """
    stages = list(maps[0])
    count = len(channels[0][stages[0]])
    figure, axes = plt.subplots(
        len(indices) * len(stages),
        count + 1,
        figsize=((count + 1) * 1.12, len(indices) * len(stages) * 1.46),
        squeeze=False,
        gridspec_kw={"wspace": 0.05, "hspace": 0.34},
    )
    pictures = to_rgb(images.pictures(torch.as_tensor(indices)))
    rows = (
        (picture, found[stage], chosen[stage], stage)
        for picture, found, chosen in zip(pictures, maps, channels, strict=True)
        for stage in stages
    )
    for (first, *panels), (picture, values, chosen, stage) in zip(axes, rows, strict=True):
        height, width = values.shape[-2:]
        first.imshow(picture)
        first.set_title(f"{stage}\n{height} x {width}", fontsize=9)
        if values[chosen[0]].any():
            _frame(first, fields[stage], *divmod(int(values[chosen[0]].argmax()), width))
        for axis, channel in zip(panels, chosen.tolist(), strict=True):
            _panel(axis, values[channel], channel)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    caption = (
        "Left of each row: the image, framed what the strongest unit of the first map sees. Maps:"
        f" the layer's channels with {choice}, the same at every stage; above each its number, its"
        " smallest and its largest value. One grey scale per panel: before the rectification"
        " mid-grey is 0 and the largest absolute value is black or white; after it black is 0 and"
        " the largest value white. Red: the largest value."
    )
    return captioned(figure, title, caption)


def _panel(axis, values: torch.Tensor, channel: int) -> None:
    """One map in its own grey scale, its range above it, its largest value circled."""
    low, high = float(values.min()), float(values.max())
    top = max(abs(low), abs(high)) or 1.0
    axis.imshow(values, cmap="gray", vmin=-top if low < 0 else 0, vmax=top, interpolation="nearest")
    axis.set_title(f"map {channel}\n{low:.3g} … {high:.3g}", fontsize=8)
    if high > 0:
        row, col = divmod(int(values.argmax()), values.shape[1])
        axis.plot(
            col,
            row,
            marker="o",
            markersize=5,
            markerfacecolor="none",
            markeredgecolor="#ff3030",
            markeredgewidth=1.1,
        )


def _frame(axis, field: ReceptiveField, row: int, col: int) -> None:
    top, left, bottom, right = field.box(row, col)
    axis.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5),
            right - left,
            bottom - top,
            fill=False,
            edgecolor="white",
            linewidth=1.1,
        )
    )
    axis.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5),
            right - left,
            bottom - top,
            fill=False,
            edgecolor="black",
            linewidth=0.4,
        )
    )
