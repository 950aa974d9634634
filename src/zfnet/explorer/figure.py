"""The explorer's panel on paper."""

import matplotlib.pyplot as plt
import numpy as np

from zfnet.explorer.state import State
from zfnet.plots import PERCENTILE, captioned, chart, drawn, literal, mosaic, outline


def explorer_figure(state: State) -> plt.Figure:
    """A static picture of a `State` whose sweep was made. Above: the image, the map, the
    projection, the map's top 9. Below: the square, the map under it, every position of the square,
    the classes.
    """
    figure, axes = plt.subplots(2, 5, figsize=(14, 5.6), gridspec_kw={"wspace": 0.2, "hspace": 0.2})
    (image, maps, projection, top9, patches), below = axes
    covered, covered_map, probability, activity, bars = below
    swept = state.swept
    high = max(float(state.map.max()), 1e-12)
    image.imshow(state.rgb)
    for axis, shown in ((maps, state.map), (covered_map, state.covered_map)):
        axis.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=high, interpolation="nearest")
    projection.imshow(drawn(state.projection))
    for axis, tiles in zip((top9, patches), state.top9, strict=True):
        axis.imshow(mosaic(tiles, 3, max(1, tiles[0].shape[0] // 40)))
    if state.unit:
        row, col = state.unit
        outline(maps, (row, col, row + 1, col + 1), edgecolor="#ff3030", linewidth=1.2)
        for axis in (image, projection):
            outline(axis, state.box, edgecolor="#ff3030", linewidth=1.0, clip_on=False)
    covered.imshow(state.covered_rgb)
    row, col = state.nearest
    most = float(max(swept.activity.max(), swept.clean_activity)) or 1.0
    for axis, grid, limit in (
        (probability, swept.probability, 1),
        (activity, swept.activity, most),
    ):
        figure.colorbar(
            axis.imshow(grid.numpy(), cmap="viridis", vmin=0, vmax=limit, interpolation="nearest"),
            cax=axis.inset_axes([1.02, 0, 0.04, 1]),
        ).ax.tick_params(labelsize=6)
        outline(axis, (row, col, row + 1, col + 1), edgecolor="white", linewidth=1.2)
    # probabilities of a few classes, without and with the square
    shown = state.classes_shown()
    for values, shift, colour, label in (
        (state.clean, -0.02, "0.65", "clean"),
        (state.covered, 0.25, "#ff3030", "with the square"),
    ):
        heights, lengths = np.arange(len(shown)) + shift, values[shown].numpy()
        bars.barh(heights, lengths, 0.26, color=colour, label=label)
    for n, label in enumerate(shown):
        bars.text(0.0, n - 0.17, literal(state.net.called(label)), fontsize=7.5, va="bottom")
    bars.tick_params(labelsize=7)
    bars.legend(fontsize=7, loc="lower right", frameon=False)
    total, then = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in state.activity)
    unit = (
        "the whole map"
        if state.unit is None
        else f"unit {state.unit}, {float(state.map[state.unit]):.3g}"
    )
    heads = {
        image: "image",
        maps: f"map {state.channel} of layer {state.layer}",
        projection: f"projected: {unit}",
        top9: "its top 9, projected",
        patches: "and their patches",
        covered: f"square of {state.size} px at ({state.top}, {state.left})",
        covered_map: f"the map then: total {total} → {then}",
        probability: f"p({literal(state.net.called(state.target))})",
        activity: f"activity of map {state.channel}",
    }
    for axis, text in heads.items():
        axis.set_title(text, fontsize=9)
        axis.set(xticks=[], yticks=[])
    chart(
        bars,
        "first guesses",
        9,
        xlim=(0, 1),
        ylim=(len(shown) - 0.5, -0.6),
        yticks=[],
        xticks=[0, 0.5, 1],
    )
    return captioned(
        figure,
        f"{state.net.title}: {state.title}",
        "Red: the chosen unit, and what it sees. Maps: black is 0, white the clean map's largest"
        " value. Below: the square has the mean colour of the training images; in the coloured"
        " grids there is one cell per position of the square, the one nearest to the picture's"
        " framed. Projections: mid-grey is 0; one symmetric scale per picture, and one for the"
        f" nine, the {PERCENTILE}th percentile of |value|.",
    )
