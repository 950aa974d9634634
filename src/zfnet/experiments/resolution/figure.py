"""Projections of images of few pixels and of many, side by side."""

import matplotlib.pyplot as plt
import torch

from zfnet.plots import CONTRAST, captioned, drawn, mosaic, show, to_rgb


def beside_figure(
    sheets: dict[str, dict[int, tuple[list, list, torch.Tensor]]], title: str
) -> plt.Figure:
    """Fig. 2 of several data sets side by side: a column each, a row for each layer; above the nine
    projections of a map, below the nine patches.

    sheets: {heading: {layer: (projections, patches, channels)}} as `top9_tiles` gives them.
    """
    layers = list(next(iter(sheets.values())))
    figure, axes = plt.subplots(
        len(layers),
        len(sheets),
        figsize=(4.4 * len(sheets), 2.36 * len(layers)),
        squeeze=False,
        gridspec_kw={"wspace": 0.05, "hspace": 0.12},
    )
    for column, (heading, found) in zip(axes.T, sheets.items(), strict=True):
        for axis, layer in zip(column, layers, strict=True):
            projections, patches, channels = found[layer]
            side = projections[0][0].shape[0]
            blocks = [mosaic(block, 3, max(1, side // 40)) for block in (*projections, *patches)]
            gap = max(3, blocks[0].shape[0] // 14)
            sharp, name = "nearest" if side < 40 else "antialiased", f"{heading}: layer {layer}"
            show(
                axis,
                mosaic(blocks, len(projections), gap),
                name,
                interpolation=sharp,
                fontsize=10,
                pad=10,
            )
            for n, channel in enumerate(channels.tolist()):
                x, y = n * (blocks[0].shape[1] + gap), -gap * 0.15
                axis.text(x, y, f"{channel}", fontsize=6.5, color="0.35", va="bottom")
    return captioned(
        figure,
        title,
        "Numbers are feature maps; above their nine projections, below the patches that caused"
        f" them, best first; white beyond the image. {CONTRAST}",
    )


def reduced_figure(
    pictures: list[torch.Tensor],
    projections: dict[int, list[torch.Tensor]],
    sides: list[int],
    rows: list[dict],
    title: str,
) -> plt.Figure:
    """One image at several resolutions, what its strongest unit of each layer projects there, and
    how that goes on average.

    pictures: the image (3, S, S) at each side; projections: {layer: (3, h, w) at each side}, on one
    scale a layer; rows: those of `resolution.compare`.
    """
    figure = plt.figure(figsize=(13, 1.75 * (len(projections) + 1)))
    panels, curves = figure.add_gridspec(1, 2, width_ratios=(1.7, 1), wspace=0.16)
    grid = panels.subgridspec(len(projections) + 1, len(sides), wspace=0.05, hspace=0.08)
    shown = {"image": to_rgb(torch.stack(list(pictures)))}
    shown |= {f"layer {n}": drawn(torch.stack(list(found))) for n, found in projections.items()}
    for i, (name, row) in enumerate(shown.items()):
        for j, (picture, side) in enumerate(zip(row, sides, strict=True)):
            axis, head = figure.add_subplot(grid[i, j]), f"{side} x {side} pixels"
            show(axis, picture, head if i == 0 else "", interpolation="nearest")
            axis.set_ylabel(name if j == 0 else "", fontsize=9)
    stacked = curves.subgridspec(3, 1, hspace=0.35)
    for n, (name, label) in enumerate(
        (
            ("activation", "activation, of the whole image's"),
            ("alike", "projection: cosine with the whole image's"),
            ("fine", "projection: energy beyond 32 pixels"),
        )
    ):
        axis = figure.add_subplot(stacked[n])
        for i, layer in enumerate(projections):
            axis.plot(
                sides,
                [row[name] for row in rows if row["layer"] == layer],
                marker="o",
                markersize=4,
                color=plt.cm.viridis(i / len(projections)),
                label=f"layer {layer}",
            )
        axis.set_xscale("log", base=2)
        axis.set_xticks(sides, [str(side) for side in sides])
        axis.minorticks_off()
        axis.set_ylim(0, max(1.0, axis.get_ylim()[1]) if name != "fine" else None)
        axis.set_title(label, fontsize=9)
        axis.grid(alpha=0.3)
        if n == 0:
            axis.legend(fontsize=8, loc="lower right")
    axis.set_xlabel("pixels a side that the image keeps", fontsize=9)
    return captioned(
        figure,
        title,
        "Each row: the projection of the unit that is strongest on the whole image, cut to its"
        " receptive field, the same unit at every resolution; mid-grey is 0, one symmetric scale a"
        " row. Curves: means over the test images drawn.",
    )
