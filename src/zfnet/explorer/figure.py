"""The explorer's panel on paper."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from zfnet.explorer.state import State
from zfnet.plots.contrast import PERCENTILE, contrast_scale, to_grey_centred
from zfnet.plots.panels import captioned, mosaic


def explorer_figure(state: State) -> Figure:
    """A static picture of a `State` whose sweep was made. Above: the image, the map, the
    projection, the map's top 9. Below: the square, the map under it, every position of the square,
    the classes.
    """
    one = state
    figure, axes = plt.subplots(2, 5, figsize=(14, 5.6), gridspec_kw={"wspace": 0.2, "hspace": 0.2})
    (image, maps, projection, top9, patches), below = axes
    covered, covered_map, probability, activity, bars = below
    high = max(float(one.map.max()), 1e-12)
    image.imshow(one.rgb)
    for axis, shown in ((maps, one.map), (covered_map, one.covered_map)):
        axis.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=high, interpolation="nearest")
    projection.imshow(to_grey_centred(one.projection, contrast_scale(one.projection)))
    for axis, tiles in zip((top9, patches), one.top9, strict=True):
        axis.imshow(mosaic(tiles, 3, max(1, tiles[0].shape[0] // 40)))
    if one.unit:
        top, left, bottom, right = one.box
        _frame(maps, *one.unit, 1, 1, edgecolor="#ff3030", linewidth=1.2)
        for axis in (image, projection):
            _frame(
                axis,
                top,
                left,
                bottom - top,
                right - left,
                edgecolor="#ff3030",
                linewidth=1.0,
                clip_on=False,
            )
    covered.imshow(one.covered_rgb)
    swept = one.swept
    most = float(max(swept.activity.max(), swept.clean_activity)) or 1.0
    for axis, grid, limit in (
        (probability, swept.probability, 1),
        (activity, swept.activity, most),
    ):
        drawn = axis.imshow(grid.numpy(), cmap="jet", vmin=0, vmax=limit, interpolation="nearest")
        figure.colorbar(drawn, cax=axis.inset_axes([1.02, 0, 0.04, 1])).ax.tick_params(labelsize=6)
        _frame(axis, *one.nearest, 1, 1, edgecolor="white", linewidth=1.2)
    _bars(bars, one)
    total, then = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in one.activity)
    unit = (
        "the whole map" if one.unit is None else f"unit {one.unit}, {float(one.map[one.unit]):.3g}"
    )
    heads = {
        image: "image",
        maps: f"map {one.channel} of layer {one.layer}",
        projection: f"projected: {unit}",
        top9: "its top 9, projected",
        patches: "and their patches",
        covered: f"square of {one.size} px at ({one.top}, {one.left})",
        covered_map: f"the map then: total {total} → {then}",
        probability: f"p({one.net.called(one.target)})",
        activity: f"activity of map {one.channel}",
        bars: "first guesses",
    }
    for axis, text in heads.items():
        axis.set_title(text, fontsize=9)
        if axis is not bars:
            axis.set(xticks=[], yticks=[])
    caption = (
        "Red: the chosen unit, and what it sees. Maps: black is 0, white the clean map's largest"
        " value. Below: the square has the mean colour of the training images; in the coloured"
        " grids there is one cell per position of the square, the one nearest to the picture's"
        " framed. Projections: mid-grey is 0; one symmetric scale per picture, and one for the"
        f" nine, the {PERCENTILE}th percentile of |value|."
    )
    return captioned(figure, f"{one.net.title}: {one.title}", caption)


def _frame(axis: Axes, row: int, col: int, height: int, width: int, **how) -> None:
    """A frame around pixels, whose centres are at whole numbers."""
    axis.add_patch(Rectangle((col - 0.5, row - 0.5), width, height, fill=False, **how))


def _bars(axis: Axes, state: State) -> None:
    """Probabilities of a few classes, without and with the square."""
    shown = state.classes_shown()
    place = np.arange(len(shown))
    for values, shift, colour, label in (
        (state.clean, -0.02, "0.65", "clean"),
        (state.covered, 0.25, "#ff3030", "with the square"),
    ):
        axis.barh(place + shift, values[shown].numpy(), 0.26, color=colour, label=label)
    for n, label in enumerate(shown):
        axis.text(0.0, n - 0.17, state.net.called(label), fontsize=7.5, va="bottom")
    axis.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.6), yticks=[], xticks=[0, 0.5, 1])
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, loc="lower right", frameon=False)
