"""The panels of Fig. 7, and how much the square bothers all the other images."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from zfnet.data.images import Images
from zfnet.methods.occlusion import Occlusion
from zfnet.plots import (
    CONTRAST,
    captioned,
    centres,
    chart,
    drawn,
    hidden_most,
    label_map,
    mosaic,
    to_rgb,
)


def occlusion_figure(
    images: Images,
    indices: list[int],
    occlusions: list[Occlusion],
    projections: list[torch.Tensor],
    classes: tuple[str, ...],
    title: str,
    rows: list[str],
    drops: torch.Tensor,
    known: bool = True,
) -> plt.Figure:
    """Fig. 7, one row per image: (a) the image with the square, (b) activity, (c) projections, own
    image first, (d) probability, (e) class; below, the histogram of `drops` (N,), the fall of the
    probability in 0..1 of all images looked at.

    `classes` names the net's outputs; rows: how each image was chosen; `known`: the class followed
    is the true one, not merely the net's first guess. The square is drawn as the network sees it:
    the training images' mean.
    """
    count = len(indices)
    figure = plt.figure(figsize=(13, 2.6 * count + 1.9))
    grid = figure.add_gridspec(
        count + 1, 5, height_ratios=[*[1] * count, 0.5], wspace=0.3, hspace=0.3
    )
    what = "true" if known else "guessed"
    for n, (index, found, own) in enumerate(zip(indices, occlusions, projections, strict=True)):
        row = [figure.add_subplot(grid[n, k]) for k in range(5)]
        row[0].imshow(hidden_most(images, index, found))
        row[0].set_ylabel(f"{rows[n]}:\n{classes[found.target]}", fontsize=9)
        _over(row[1], images, index, found, found.activity, None)
        # as 2x2 on one scale, a black frame around this image's own
        tiles, edge = drawn(own), max(1, own.shape[2] // 40)
        tiles[0, :edge] = tiles[0, -edge:] = tiles[0, :, :edge] = tiles[0, :, -edge:] = 0
        row[2].imshow(mosaic(tiles, 2, 2))
        _over(row[3], images, index, found, found.probability, 1)
        label_map(row[4], found, classes, centres(found))
        # on the image's own coordinates, so that the panels can be laid over (a)
        row[4].set(xlim=(0, images.size), ylim=(images.size, 0), facecolor="0.93")
        heads = (
            "(a) image and square",
            f"(b) activity of map {found.channel}",
            f"(c) projections of map {found.channel}",
            f"(d) probability of the {what} class",
            "(e) most probable class",
        )
        said = {
            1: f"without the square {found.clean_activity:.3g}",
            3: f"without the square {found.clean_probability:.2f},"
            f" lowest {float(found.probability.min()):.2f}",
        }
        for k, (axis, text) in enumerate(zip(row, heads, strict=True)):
            axis.set(xticks=[], yticks=[])
            axis.set_title(text, fontsize=9)
            axis.set_xlabel(said.get(k, ""), fontsize=8)
    below = figure.add_subplot(grid[count, :])
    below.hist(drops.clamp(0, 1).numpy(), np.linspace(0, 1, 21), color="0.7", edgecolor="white")
    for text, found in zip(rows, occlusions, strict=True):
        fall = found.clean_probability - float(found.probability.min())
        below.axvline(fall, color="C3", linewidth=1.2)
        below.annotate(
            text,
            (fall, 1),
            (0, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if fall > 0.9 else "left" if fall < 0.1 else "center",
            fontsize=8,
            color="C3",
        )
    chart(
        below,
        xlabel=f"largest drop of the probability of the {what} class in an image",
        ylabel=f"images, of {len(drops)}",
        xlim=(0, 1),
    )
    return captioned(
        figure,
        title,
        f"Square of {occlusions[0].size} px, every {occlusions[0].stride} px, drawn in (a) where"
        " the probability is lowest. (b, d, e): one cell per position of its centre, in the"
        " image's coordinates, (b, d) laid over the image; (b) begins at 0. (c): black frame,"
        f" this image; the others, the map's strongest images. {CONTRAST} Below: all images"
        " looked at, recognised without the square; red, the three shown.",
    )


def _over(
    axis: plt.Axes, images: Images, index: int, found: Occlusion, grid: torch.Tensor, top
) -> None:
    """A map over the square's positions (R, C), from 0 to `top`, laid over the image in grey, and
    its scale beside the panel, which keeps its size.
    """
    axis.imshow(
        to_rgb(images.pictures([index]))[0].mean(2),
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(0, images.size, images.size, 0),
    )
    heat = axis.imshow(
        grid.numpy(),
        cmap="viridis",
        vmin=0,
        vmax=top,
        extent=centres(found),
        interpolation="nearest",
        alpha=0.6,
    )
    axis.set(xlim=(0, images.size), ylim=(images.size, 0))
    bar = axis.figure.colorbar(heat, cax=axis.inset_axes([1.03, 0, 0.05, 1]))
    bar.ax.tick_params(labelsize=7)
    bar.solids.set_alpha(1)
