"""One photograph: its maps and their projections; and the square that slides over it, over the
image's own coordinates (Fig. 7).
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap

from zfnet.data.images import Images
from zfnet.methods.explain import Explained
from zfnet.methods.occlusion import Occlusion
from zfnet.plots.contrast import PERCENTILE, drawn, to_rgb
from zfnet.plots.panels import captioned, outline
from zfnet.plots.text import literal

SCALE = (
    f"Projections: mid-grey is 0, one symmetric scale per picture, its {PERCENTILE}th percentile of"
    " |value|."
)
ENLARGED = 64  # pixels: a receptive field smaller than this is shown with every pixel a square


def explained_figure(
    picture: np.ndarray, found: list[Explained], names: list[str], title: str
) -> plt.Figure:
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
        (top, left, bottom, right), fires = one.box, one.value > 0
        inside = slice(top, bottom), slice(left, right)
        sharp = "nearest" if max(bottom - top, right - left) < ENLARGED else "antialiased"
        axes[0].imshow(picture)
        axes[0].set_ylabel(f"{name}\nmap {one.channel}", fontsize=9)
        axes[1].imshow(
            one.maps.numpy(),
            cmap="gray",
            vmin=min(0.0, float(one.maps.min())),
            vmax=one.value if fires else 1,
            interpolation="nearest",
        )
        axes[2].imshow(drawn(one.whole))
        axes[3].imshow(picture[inside], interpolation=sharp)
        axes[4].imshow(drawn(one.patch[:, *inside]), interpolation=sharp)
        if fires:
            axes[1].plot(
                *one.unit[::-1],
                "o",
                markersize=6,
                clip_on=False,
                markerfacecolor="none",
                markeredgecolor="#ff3030",
                markeredgewidth=1.2,
            )
            # red on white, to be seen on any image
            for colour, line in (("white", 1.6), ("#ff3030", 0.9)):
                outline(axes[0], one.box, edgecolor=colour, linewidth=line, clip_on=False)
        said = (
            "",
            f"{one.maps.shape[0]} x {one.maps.shape[1]} units, sum {_number(one.total)}"
            + ("" if fires else "\n(never fires here)"),
            "",
            f"{bottom - top} x {right - left} px",
            f"unit ({one.unit[0]}, {one.unit[1]}), activation {_number(one.value)}",
        )
        for axis, head, text in zip(axes, heads, said, strict=True):
            axis.set(xticks=[], yticks=[], anchor="N", frame_on=False)
            axis.set_title(head + "\n" if row == 0 else "", fontsize=9)
            axis.set_xlabel(text, fontsize=7.5, labelpad=3)
    return captioned(
        figure,
        title,
        "Feature map: black is 0, white its largest value, circled; the frame on the image is what"
        " that unit sees. " + SCALE,
    )


def occluded_figure(
    image: Images, found: Occlusion, own: Explained, names: tuple[str, ...], title: str
) -> plt.Figure:
    """Fig. 7 for one photograph: (a) the image with the square where it hurts most; (b) the map's
    activity, (d) the class's probability and (e) the most probable class at every position of the
    square; (c) the map projected.

    image: one image; own: map `found.channel` of `found.layer`; names: of the net's outputs.
    """
    figure, axes = plt.subplots(1, 5, figsize=(14.5, 2.45), gridspec_kw={"wspace": 0.2})
    axes[0].imshow(hidden_most(image, 0, found))
    extent = (
        *(float(found.lefts[i]) + found.size / 2 for i in (0, -1)),
        *(float(found.tops[i]) + found.size / 2 for i in (-1, 0)),
    )
    if len(found.lefts) == 1 or len(found.tops) == 1:
        extent = None  # a single position along one axis spans nothing
    for axis, grid, low, high in (
        (axes[1], found.activity, min(0.0, float(found.activity.min())), None),
        (axes[3], found.probability, 0, 1),
    ):
        # beside the panel, which keeps its size
        figure.colorbar(
            axis.imshow(
                grid.numpy(),
                vmin=low,
                vmax=high,
                cmap="viridis",
                extent=extent,
                interpolation="nearest",
            ),
            cax=axis.inset_axes([1.03, 0, 0.05, 1]),
        ).ax.tick_params(labelsize=7)
    axes[2].imshow(drawn(own.whole))
    label_map(
        axes[4],
        found,
        names,
        extent,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
        ncol=2,
        fontsize=7.5,
        borderaxespad=None,
        handlelength=1,
        columnspacing=1,
    )
    heads = {
        "(a) square where p is lowest": f"p = {float(found.probability.min()):.2g}",
        f"(b) activity of map {found.channel}": (
            f"{found.layer}; without the square {_number(found.clean_activity)}"
        ),
        f"(c) map {found.channel}, projected": "the whole map, no square",
        f"(d) p({literal(names[found.target])})": (
            f"without the square {found.clean_probability:.2g}"
        ),
        "(e) most probable class": "",
    }
    for axis, (head, text) in zip(axes, heads.items(), strict=True):
        axis.set(xticks=[], yticks=[])
        axis.set_title(head, fontsize=9)
        axis.set_xlabel(text, fontsize=8)
    return captioned(
        figure,
        title,
        f"Square of {found.size} px, every {found.stride} px, in the mean colour of the images that"
        " the net was trained on. (b, d, e): one cell per position of its centre, no"
        f" interpolation. As Figure 7 of the paper. {SCALE}",
    )


def covered(picture: np.ndarray, mean: torch.Tensor, top: int, left: int, size: int) -> np.ndarray:
    """A copy of a picture (S, S, 3) in 0..1 with a square in the mean colour, `mean` in 0..255,
    broadcast against (3, S, S).
    """
    result, square = picture.copy(), (slice(top, top + size), slice(left, left + size))
    result[square] = np.broadcast_to((mean[:3] / 255).movedim(0, -1).numpy(), picture.shape)[square]
    return result


def hidden_most(images: Images, index: int, found: Occlusion) -> np.ndarray:
    """An image (S, S, 3) in 0..1 as the network sees it with the square where its probability is
    lowest.
    """
    row, col = divmod(int(found.probability.argmin()), found.probability.shape[1])
    place = int(found.tops[row]), int(found.lefts[col])
    return covered(to_rgb(images.pictures([index]))[0], images.mean, *place, found.size)


def centres(found: Occlusion) -> tuple[float, float, float, float]:
    """Where a map over the square's centres lies in the image: left, right, bottom, top, half a
    step around the outermost centres.
    """
    ends = []
    for starts in (found.lefts, found.tops):
        first, last = float(starts[0]), float(starts[-1])
        half = (last - first) / (len(starts) - 1) / 2 if len(starts) > 1 else 0.5
        ends.append((first + found.size / 2 - half, last + found.size / 2 + half))
    return *ends[0], *reversed(ends[1])


def label_map(axis: plt.Axes, found: Occlusion, classes: tuple[str, ...], extent, **legend) -> None:
    """Panel (e): the most probable class at each position, with the names of the most frequent
    ones. `legend`: where it stands, if not to the right.
    """
    labels, counts = found.label.unique(return_counts=True)
    labels = labels[counts.argsort(descending=True, stable=True)].tolist()
    colours = [plt.get_cmap("tab20")(i % 20) for i in range(len(labels))]
    codes = torch.zeros_like(found.label)
    for code, label in enumerate(labels):
        codes[found.label == label] = code
    axis.imshow(
        codes.numpy(),
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(labels) - 0.5,
        extent=extent,
        interpolation="nearest",
    )
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in colours[:6]]
    axis.legend(
        handles,
        [literal(classes[label]) for label in labels[:6]],
        frameon=False,
        **(
            {"fontsize": 7, "loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0}
            | legend
        ),
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
