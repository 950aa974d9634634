"""The panels of Fig. 7."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from zfnet.data.images import Images
from zfnet.methods.occlusion import Occlusion
from zfnet.plots.occlusion import centres, label_map
from zfnet.plots.panels import CONTRAST, captioned, contrast_scale, mosaic, to_grey_centred, to_rgb


def occlusion_figure(
    images: Images,
    indices: Sequence[int],
    occlusions: Sequence[Occlusion],
    projections: Sequence[torch.Tensor],
    classes: Sequence[str],
    title: str,
    known: bool = True,
) -> Figure:
    """Fig. 7, one row per image: (a) the image with the square, (b) activity, (c) projections, own
    image first, (d) probability, (e) class.

    `classes` names the net's outputs; `known`: the class followed is the true one, not merely the
    net's first guess. The square is drawn as the network sees it: the training images' mean.
    """
    count = len(indices)
    figure, axes = plt.subplots(
        count,
        5,
        figsize=(13, 2.25 * count),
        squeeze=False,
        gridspec_kw={"wspace": 0.24, "hspace": 0.16},
    )
    names = [
        "(a) image and square",
        "(b) activity",
        "(c) projections",
        f"(d) p({'true' if known else 'predicted'} class)",
        "(e) most probable class",
    ]
    mean = (images.mean.expand(3, images.size, images.size).permute(1, 2, 0) / 255).numpy()
    for row, index, found, own in zip(axes, indices, occlusions, projections, strict=True):
        name = classes[found.target]
        picture = to_rgb(images.pictures([index]))[0].copy()
        worst = divmod(int(found.probability.argmin()), found.probability.shape[1])
        top, left = int(found.tops[worst[0]]), int(found.lefts[worst[1]])
        square = slice(top, top + found.size), slice(left, left + found.size)
        picture[square] = mean[square]
        row[0].imshow(picture)
        row[0].set_ylabel(name if known else f"guess: {name}", fontsize=10)
        extent = centres(found)
        figure.colorbar(
            row[1].imshow(
                found.activity.numpy(), cmap="jet", vmin=0, extent=extent, interpolation="nearest"
            ),
            ax=row[1],
            fraction=0.046,
        )
        row[2].imshow(_framed(own))
        figure.colorbar(
            row[3].imshow(
                found.probability.numpy(),
                cmap="jet",
                vmin=0,
                vmax=1,
                extent=extent,
                interpolation="nearest",
            ),
            ax=row[3],
            fraction=0.046,
        )
        label_map(row[4], found, classes, extent)
        # on the image's own coordinates, so that the panels can be laid over (a)
        for axis in (row[1], row[3], row[4]):
            axis.set(xlim=(0, images.size), ylim=(images.size, 0), facecolor="0.93")
        for axis, text in zip(row, names, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{text}: map {found.channel}" if axis in row[1:3] else text, fontsize=9)
    size = occlusions[0].size
    caption = (
        f"Square of {size} px, every {occlusions[0].stride} px, drawn in (a) where the probability"
        " is lowest. (b, d, e): one cell per position of its centre, in the image's coordinates,"
        " grey where no centre comes; (b) begins at 0. (c): black frame, this image; the others,"
        " the map's strongest images. "
    )
    return captioned(figure, title, caption + CONTRAST)


def _framed(projections: torch.Tensor) -> np.ndarray:
    """Four projections (4, 3, H, W) as 2x2 on one scale, a black frame around the first."""
    tiles = list(to_grey_centred(projections, contrast_scale(projections)))
    edge = max(1, tiles[0].shape[0] // 40)
    tiles[0] = tiles[0].copy()
    tiles[0][:edge] = tiles[0][-edge:] = 0
    tiles[0][:, :edge] = tiles[0][:, -edge:] = 0
    return mosaic(tiles, 2, 2)
