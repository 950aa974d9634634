"""The panels of Fig. 7."""

import matplotlib.pyplot as plt
import torch

from zfnet.data.images import Images
from zfnet.methods.occlusion import Occlusion
from zfnet.plots import CONTRAST, captioned, centres, drawn, hidden_most, label_map, mosaic


def occlusion_figure(
    images: Images,
    indices: list[int],
    occlusions: list[Occlusion],
    projections: list[torch.Tensor],
    classes: tuple[str, ...],
    title: str,
    known: bool = True,
) -> plt.Figure:
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
    for row, index, found, own in zip(axes, indices, occlusions, projections, strict=True):
        row[0].imshow(hidden_most(images, index, found))
        row[0].set_ylabel(f"{'' if known else 'guess: '}{classes[found.target]}", fontsize=10)
        look = {"cmap": "jet", "vmin": 0, "extent": centres(found), "interpolation": "nearest"}
        figure.colorbar(row[1].imshow(found.activity.numpy(), **look), ax=row[1], fraction=0.046)
        # as 2x2 on one scale, a black frame around this image's own
        tiles, edge = drawn(own), max(1, own.shape[2] // 40)
        tiles[0, :edge] = tiles[0, -edge:] = tiles[0, :, :edge] = tiles[0, :, -edge:] = 0
        row[2].imshow(mosaic(tiles, 2, 2))
        figure.colorbar(
            row[3].imshow(found.probability.numpy(), vmax=1, **look), ax=row[3], fraction=0.046
        )
        label_map(row[4], found, classes, look["extent"])
        # on the image's own coordinates, so that the panels can be laid over (a)
        for axis in (row[1], row[3], row[4]):
            axis.set(xlim=(0, images.size), ylim=(images.size, 0), facecolor="0.93")
        for axis, text in zip(row, names, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{text}: map {found.channel}" if axis in row[1:3] else text, fontsize=9)
    return captioned(
        figure,
        title,
        f"Square of {occlusions[0].size} px, every {occlusions[0].stride} px, drawn in (a) where"
        " the probability is lowest. (b, d, e): one cell per position of its centre, in the"
        " image's coordinates, grey where no centre comes; (b) begins at 0. (c): black frame,"
        f" this image; the others, the map's strongest images. {CONTRAST}",
    )
