"""One photograph: its maps and their projections; and the square that slides over it."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from zfnet.data.images import Images
from zfnet.methods.explain import Explained
from zfnet.methods.occlusion import Occlusion
from zfnet.plots.occlusion import label_map
from zfnet.plots.panels import PERCENTILE, captioned, contrast_scale, to_grey_centred, to_rgb

SCALE = (
    f"Projections: mid-grey is 0, one symmetric scale per picture, its {PERCENTILE}th percentile of"
    " |value|."
)
ENLARGED = 64  # pixels: a receptive field smaller than this is shown with every pixel a square


def explained_figure(
    picture: np.ndarray, found: Sequence[Explained], names: Sequence[str], title: str
) -> Figure:
    """One row per map: the image, the map, the whole map projected, and its strongest unit: what it
    sees, and its projection.

    picture (S, S, 3) in 0..1, as the net sees it; names: what to call each row's layer.
    """
    figure, grid = plt.subplots(
        len(found),
        5,
        figsize=(11.5, 2.62 * len(found)),
        squeeze=False,
        gridspec_kw={"wspace": 0.06, "hspace": 0.17},
    )
    heads = (
        "image",
        "feature map",
        "whole map, projected",
        "strongest unit sees",
        "strongest unit, projected",
    )
    for row, (axes, one, name) in enumerate(zip(grid, found, names, strict=True)):
        top, left, bottom, right = one.box
        inside = slice(top, bottom), slice(left, right)
        sharp = "nearest" if max(bottom - top, right - left) < ENLARGED else "antialiased"
        axes[0].imshow(picture)
        axes[0].set_ylabel(f"{name}\nmap {one.channel}", fontsize=9)
        axes[1].imshow(
            one.maps.numpy(),
            cmap="gray",
            vmin=min(0.0, float(one.maps.min())),
            vmax=one.value if one.value > 0 else 1,
            interpolation="nearest",
        )
        axes[2].imshow(to_grey_centred(one.whole, contrast_scale(one.whole)))
        axes[3].imshow(picture[inside], interpolation=sharp)
        patch = one.patch[:, *inside]
        axes[4].imshow(to_grey_centred(patch, contrast_scale(patch)), interpolation=sharp)
        said = [
            "",
            f"{one.maps.shape[0]} x {one.maps.shape[1]} units, sum {_number(one.total)}",
            "",
            f"{bottom - top} x {right - left} px",
            f"unit ({one.unit[0]}, {one.unit[1]}), activation {_number(one.value)}",
        ]
        if one.value > 0:
            axes[1].plot(
                one.unit[1],
                one.unit[0],
                "o",
                markersize=6,
                markerfacecolor="none",
                markeredgecolor="#ff3030",
                markeredgewidth=1.2,
                clip_on=False,
            )
            # red on white, to be seen on any image
            for colour, line in (("white", 1.6), ("#ff3030", 0.9)):
                axes[0].add_patch(
                    Rectangle(
                        (left - 0.5, top - 0.5),
                        right - left,
                        bottom - top,
                        fill=False,
                        edgecolor=colour,
                        linewidth=line,
                        clip_on=False,
                    )
                )
        else:
            said[1] += "\n(never fires here)"
        for axis, head, text in zip(axes, heads, said, strict=True):
            axis.set(xticks=[], yticks=[], anchor="N")
            axis.spines[:].set_visible(False)
            axis.set_title(head + "\n" if row == 0 else "", fontsize=9)
            axis.set_xlabel(text, fontsize=7.5, labelpad=3)
    caption = (
        "Feature map: black is 0, white its largest value, circled; the frame on the image is what"
        " that unit sees. " + SCALE
    )
    return captioned(figure, title, caption)


def occluded_figure(
    image: Images, found: Occlusion, own: Explained, names: Sequence[str], title: str
) -> Figure:
    """Fig. 7 for one photograph: (a) the image with the square where it hurts most; (b) the map's
    activity, (d) the class's probability and (e) the most probable class at every position of the
    square; (c) the map projected.

    image: one image; own: map `found.channel` of `found.layer`; names: of the net's outputs.
    """
    figure, axes = plt.subplots(1, 5, figsize=(14.5, 2.45), gridspec_kw={"wspace": 0.2})
    picture, side = to_rgb(image.pictures([0]))[0].copy(), image.size
    mean = (image.mean.expand(3, side, side).permute(1, 2, 0) / 255).numpy()
    row, col = divmod(int(found.probability.argmin()), found.probability.shape[1])
    top, left = int(found.tops[row]), int(found.lefts[col])
    square = slice(top, top + found.size), slice(left, left + found.size)
    picture[square] = mean[square]
    axes[0].imshow(picture)
    extent = (
        *(float(found.lefts[i]) + found.size / 2 for i in (0, -1)),
        *(float(found.tops[i]) + found.size / 2 for i in (-1, 0)),
    )
    if len(found.lefts) == 1 or len(found.tops) == 1:
        extent = None  # a single position along one axis spans nothing
    _bar(
        axes[1].imshow(
            found.activity.numpy(),
            cmap="jet",
            vmin=min(0.0, float(found.activity.min())),
            extent=extent,
            interpolation="nearest",
        ),
        axes[1],
    )
    axes[2].imshow(to_grey_centred(own.whole, contrast_scale(own.whole)))
    _bar(
        axes[3].imshow(
            found.probability.numpy(),
            cmap="jet",
            vmin=0,
            vmax=1,
            extent=extent,
            interpolation="nearest",
        ),
        axes[3],
    )
    label_map(axes[4], found, names, extent)
    axes[4].legend(
        *_handles(axes[4]),
        fontsize=7.5,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
        ncol=2,
        frameon=False,
        handlelength=1,
        columnspacing=1,
    )
    name = names[found.target]
    heads = (
        "(a) square where p is lowest",
        f"(b) activity of map {found.channel}",
        f"(c) map {found.channel}, projected",
        f"(d) p({name})",
        "(e) most probable class",
    )
    below = (
        f"p = {float(found.probability[row, col]):.2g}",
        f"{found.layer}; without the square {_number(found.clean_activity)}",
        "the whole map, no square",
        f"without the square {found.clean_probability:.2g}",
        "",
    )
    for axis, head, text in zip(axes, heads, below, strict=True):
        axis.set(xticks=[], yticks=[])
        axis.set_title(head, fontsize=9)
        axis.set_xlabel(text, fontsize=8)
    caption = (
        f"Square of {found.size} px, every {found.stride} px, in the mean colour of the images that"
        " the net was trained on. (b, d, e): one cell per position of its centre, no"
        f" interpolation. As Figure 7 of the paper. {SCALE}"
    )
    return captioned(figure, title, caption)


def _bar(drawn, axis) -> None:
    """A colour bar that leaves the panel its size."""
    axis.figure.colorbar(drawn, cax=axis.inset_axes([1.03, 0, 0.05, 1])).ax.tick_params(labelsize=7)


def _handles(axis) -> tuple[list, list[str]]:
    legend = axis.get_legend()
    return legend.legend_handles, [text.get_text() for text in legend.get_texts()]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
