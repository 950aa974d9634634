"""The explorer's panel on paper."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from zfnet.plots.panels import PERCENTILE, captioned, contrast_scale, mosaic, to_grey_centred


def explorer_figure(explorer) -> Figure:
    """A static picture of an `Explorer` whose sweep was made. Above: the image, the map, the
    projection, the map's top 9. Below: the square, the map under it, every position of the square,
    the classes.
    """
    one = explorer
    figure, axes = plt.subplots(2, 5, figsize=(14, 5.6), gridspec_kw={"wspace": 0.2, "hspace": 0.2})
    (
        (image, maps, projection, top9, patches),
        (
            covered,
            covered_map,
            probability,
            activity,
            bars,
        ),
    ) = axes
    high = max(float(one.map.max()), 1e-12)
    image.imshow(one.rgb)
    maps.imshow(one.map.numpy(), cmap="gray", vmin=0, vmax=high, interpolation="nearest")
    projection.imshow(to_grey_centred(one.projection, contrast_scale(one.projection)))
    for axis, tiles in zip((top9, patches), one.top9, strict=True):
        axis.imshow(mosaic(tiles, 3, max(1, tiles[0].shape[0] // 40)))
    if one.unit:
        top, left, bottom, right = one.box
        maps.add_patch(
            Rectangle(
                (one.unit[1] - 0.5, one.unit[0] - 0.5),
                1,
                1,
                fill=False,
                edgecolor="#ff3030",
                linewidth=1.2,
            )
        )
        for axis in (image, projection):
            axis.add_patch(
                Rectangle(
                    (left - 0.5, top - 0.5),
                    right - left,
                    bottom - top,
                    fill=False,
                    edgecolor="#ff3030",
                    linewidth=1.0,
                    clip_on=False,
                )
            )
    covered.imshow(one.covered_rgb)
    covered_map.imshow(
        one.covered_map.numpy(), cmap="gray", vmin=0, vmax=high, interpolation="nearest"
    )
    swept = one.swept
    limits = {
        "probability": (0, 1),
        "activity": (0, float(max(swept.activity.max(), swept.clean_activity)) or 1.0),
    }
    row, col = (
        int(np.abs(found.numpy() - slider.value).argmin())
        for found, slider in ((swept.tops, one.top), (swept.lefts, one.left))
    )
    for axis, name in ((probability, "probability"), (activity, "activity")):
        drawn = axis.imshow(
            getattr(swept, name).numpy(),
            cmap="jet",
            vmin=limits[name][0],
            vmax=limits[name][1],
            interpolation="nearest",
        )
        figure.colorbar(drawn, cax=axis.inset_axes([1.02, 0, 0.04, 1])).ax.tick_params(labelsize=6)
        axis.add_patch(
            Rectangle((col - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=1.2)
        )
    _bars(bars, one)
    total, then = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in one.activity)
    unit = (
        "the whole map" if one.unit is None else f"unit {one.unit}, {float(one.map[one.unit]):.3g}"
    )
    number = one.channel.value
    heads = {
        image: "image",
        maps: f"map {number} of layer {one.layer.value}",
        projection: f"projected: {unit}",
        top9: "its top 9, projected",
        patches: "and their patches",
        covered: f"square of {one.size.value} px at ({one.top.value}, {one.left.value})",
        covered_map: f"the map then: total {total} → {then}",
        probability: f"p({one.net.called(one.target)})",
        activity: f"activity of map {number}",
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


def _bars(axis, explorer) -> None:
    """Probabilities of a few classes, without and with the square."""
    shown = explorer.classes_shown()
    place = np.arange(len(shown))
    axis.barh(place - 0.02, explorer.clean[shown].numpy(), 0.26, color="0.65", label="clean")
    axis.barh(
        place + 0.25,
        explorer.covered[shown].numpy(),
        0.26,
        color="#ff3030",
        label="with the square",
    )
    for n, label in enumerate(shown):
        axis.text(0.0, n - 0.17, explorer.net.called(label), fontsize=7.5, va="bottom")
    axis.set(xlim=(0, 1), ylim=(len(shown) - 0.5, -0.6), yticks=[], xticks=[0, 0.5, 1])
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, loc="lower right", frameon=False)
