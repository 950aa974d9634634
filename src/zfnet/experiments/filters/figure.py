"""First-layer filters, and the second layer's projections (Fig. 6)."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch

from zfnet.experiments.filters.compute import DEAD, DOMINATING, FilterCounts
from zfnet.graph.windows import ReceptiveField
from zfnet.methods.top_activations import TopActivations
from zfnet.plots import PERCENTILE, captioned, chart, crop_field, drawn, mosaic, show

_COLOURS = ("tab:red", "tab:blue", "tab:green", "tab:purple")


def filters_figure(weight: torch.Tensor, title: str, columns: int = 16) -> plt.Figure:
    """First-layer filters (maps, 3, k, k) on one symmetric scale, so that dead and dominating
    filters show (Fig. 6 a-c).
    """
    sheet = mosaic(list(drawn(weight.detach())), columns)
    figure, axes = plt.subplots(figsize=(8, 8 * sheet.shape[0] / sheet.shape[1]))
    show(axes, sheet, interpolation="nearest")
    return captioned(
        figure,
        title,
        f"Mid-grey is 0; one symmetric scale for all filters, the {PERCENTILE}th percentile of"
        " |weight|.",
    )


def others_figure(filters: dict[str, torch.Tensor], title: str) -> plt.Figure:
    """First-layer filters (maps, 3, k, k) of several nets side by side, in panels of one size."""
    figure, axes = plt.subplots(
        1,
        len(filters),
        figsize=(2.6 * len(filters), 2.9),
        squeeze=False,
        gridspec_kw={"wspace": 0.08},
    )
    for axis, (name, weight) in zip(axes[0], filters.items(), strict=True):
        columns = math.ceil(math.sqrt(len(weight)))
        maps, kernel = len(weight), weight.shape[-1]
        scale = -(-24 // kernel)  # so that the gaps are thinner than a weight
        tiles = [tile.repeat(scale, 0).repeat(scale, 1) for tile in drawn(weight)]
        sheet = mosaic(tiles, columns, 2)
        show(axis, sheet, f"{name}: {maps} of {kernel} x {kernel}", interpolation="nearest")
        axis.set(box_aspect=1, anchor="N")
    return captioned(
        figure,
        title,
        "Number and size of the filters above. Mid-grey is 0; one symmetric scale per net, the"
        f" {PERCENTILE}th percentile of |weight|.",
    )


def unit_tiles(
    projections: torch.Tensor, field: ReceptiveField, top: TopActivations, channels: torch.Tensor
) -> list[np.ndarray]:
    """Projections (maps, 3, H, W) of the channels' strongest units, each on its own scale and cut
    to its receptive field: tiles (h, w, 3).
    """
    units = zip(top.row[channels, 0].tolist(), top.col[channels, 0].tolist(), strict=True)
    return [
        crop_field(drawn(one), field, *unit) for one, unit in zip(projections, units, strict=True)
    ]


def two_layers_figure(
    filters: dict[str, tuple[torch.Tensor, FilterCounts]],
    projections: dict[str, list[np.ndarray]],
    curves: dict[str, tuple[list[float], list[float], int]],
    title: str,
) -> plt.Figure:
    """Fig. 6: on top the nets' first-layer filters, below projections of second-layer maps, and at
    the right how much of the first layer's energy folds back.

    Keys are the panels' titles, without letters. filters: weight (maps, 3, k, k) and what was
    counted; projections: tiles (h, w, 3), one per map; curves: by net's name the frequencies, in
    cycles per pixel, the share of the energy above each, and the stride.
    """
    figure = plt.figure(figsize=(12.5, 8.3))
    top, bottom = figure.add_gridspec(2, 1, height_ratios=(1, 1.06), hspace=0.16)
    letters = iter("abcdefgh")
    for cell, (name, (weight, counts)) in zip(
        top.subgridspec(1, len(filters), wspace=0.06), filters.items(), strict=False
    ):
        axes, weight = figure.add_subplot(cell), weight.detach().cpu()
        columns, side = max(1, round((len(weight) * 4 / 3) ** 0.5)), weight.shape[-1] + 1
        show(
            axes,
            mosaic(list(drawn(weight)), columns),
            f"({next(letters)}) {name}",
            interpolation="nearest",
            fontsize=9.5,
        )
        dead = counts.dead if counts.silent is None else counts.dead | counts.silent
        for colour, marked in (("red", counts.dominating), ("blue", dead)):
            for i in marked.nonzero().flatten().tolist():
                axes.add_patch(
                    plt.Rectangle(
                        (i % columns * side - 1, i // columns * side - 1),
                        side,
                        side,
                        fill=False,
                        edgecolor=colour,
                        linewidth=1.5,
                        clip_on=False,
                    )
                )
    cells = bottom.subgridspec(
        1, len(projections) + 1, wspace=0.06, width_ratios=[*[1] * len(projections), 0.74]
    )
    for cell, (name, tiles) in zip(cells, projections.items(), strict=False):
        show(
            figure.add_subplot(cell),
            mosaic(
                tiles,
                -(-len(tiles) // max(1, round(len(tiles) ** 0.5))),
                max(1, tiles[0].shape[0] // 20),
            ),
            f"({next(letters)}) {name}",
            interpolation="nearest" if tiles[0].shape[0] < 40 else "antialiased",
            fontsize=9.5,
        )
    _curves(
        figure.add_subplot(cells[0, len(projections)].subgridspec(1, 2, width_ratios=(0.16, 1))[1]),
        curves,
        f"({next(letters)}) energy of the layer-1 maps\nabove a frequency",
    )
    return captioned(
        figure,
        title,
        f"Filters: mid-grey is 0; one symmetric scale per net, the {PERCENTILE}th percentile of"
        f" |weight|. Framed red: dominating, RMS above {DOMINATING:g} medians; blue: dead, RMS"
        f" below {DEAD:g} medians, or never above 0 on these images. Layer 2: the strongest"
        " activation of each of a random subset of the maps that fire, projected and cut to its"
        " receptive field, white beyond the image; one symmetric scale per map; the percentage is"
        " the share of the projections' energy above the Nyquist frequency of the net's layer-1"
        " stride. Curves: maps before rectification, at every pixel; dots: that frequency"
        " (triangles: the curve is below). What lies to the right of a dot folds back.",
    )


def _curves(axes, curves: dict[str, tuple[list[float], list[float], int]], title: str) -> None:
    """Share of the energy above each frequency, a dot and its value at each net's Nyquist
    frequency; the labels one below the other, in the upper right.
    """
    floor = 1e-3
    for n, ((name, (frequencies, shares, stride)), colour) in enumerate(
        zip(curves.items(), _COLOURS, strict=False)
    ):
        axes.plot(frequencies, shares, color=colour, linewidth=1.4)
        value = float(np.interp(1 / (2 * stride), frequencies, shares))
        mark, share = ("v", "less than 0.1%") if value < floor else ("o", f"{value:.1%}")
        axes.plot(1 / (2 * stride), max(value, floor), marker=mark, color=colour, clip_on=False)
        axes.text(
            0.98,
            0.98 - 0.12 * n,
            f"{name}, stride {stride}:\n{share} folds back",
            ha="right",
            va="top",
            fontsize=8,
            color=colour,
            transform=axes.transAxes,
        )
    chart(
        axes,
        title,
        9.5,
        xlabel="frequency (cycles per pixel)",
        ylabel="share above it",
        xlim=(0, 0.5),
        yscale="log",
        ylim=(floor, 1),
    )
    axes.tick_params(labelsize=8)
