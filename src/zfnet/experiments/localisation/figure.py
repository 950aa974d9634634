"""Where the pictures lie: a few images, and every method beside chance and the image's centre."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from zfnet.data.images import Images
from zfnet.experiments.localisation.compute import WIDTH, saliency
from zfnet.methods.deconv import RULES
from zfnet.methods.occlusion import Occlusion
from zfnet.plots import PERCENTILE, captioned, centres, chart, drawn, outline, show, to_rgb

COLOURS = dict(zip((*RULES, "occlusion"), ("#0072B2", "#D55E00", "#009E73", "black"), strict=True))
NAMES = {"guided": "guided backprop", "occlusion": "occlusion (lowest probability)"}
TITLES = {
    "energy": "energy inside the object's mask",
    "hit": "largest value on the object (pointing game)",
}
EDGE = {"levels": [0.5], "colors": ["white"], "linewidths": 1.1}


def localisation_figure(
    images: Images,
    shown: dict[int, tuple[Occlusion, dict[str, torch.Tensor]]],
    rows: list[dict[str, object]],
    title: str,
    tail: str = "",
) -> plt.Figure:
    """Above: an image a row, {index: what `pictured` gives}: the image with its mask's outline, the
    occlusion map, the pictures. Below: `table`'s rows over all images, energy and pointing game.

    tail: what the caption says besides.
    """
    figure = plt.figure(figsize=(13, 2.15 * len(shown) + 4.7))
    high = [2.15 * len(shown), 3.7, 0.5]
    grid = figure.add_gridspec(3, 1, height_ratios=high, hspace=0.16)
    names = list(next(iter(shown.values()))[1])
    panels = grid[0].subgridspec(len(shown), 2 + len(names), wspace=0.04, hspace=0.04)
    for r, (index, (occluded, pictures)) in enumerate(shown.items()):
        axes = [figure.add_subplot(panels[r, c]) for c in range(2 + len(names))]
        _panels(axes, images, index, occluded, pictures, heads=r == 0)
    charts = grid[1].subgridspec(1, 2, wspace=0.14)
    for n, measure in enumerate(TITLES):
        axis = figure.add_subplot(charts[n])
        _chart(axis, [row for row in rows if row["images"] == "all"], measure)
    axis = figure.add_subplot(grid[2], frame_on=False, xticks=[], yticks=[])
    for name, ink in COLOURS.items():
        axis.plot([], [], color=ink, marker="o", lw=0, label=NAMES.get(name, name))
    axis.legend(fontsize=10, frameon=False, loc="lower center", ncol=4)
    return captioned(
        figure,
        title,
        "Above: the images with the largest, the middle and the smallest energy of the class"
        " score's deconvnet picture inside the mask (outlined); cross: the image's centre; square:"
        " where it lowers the probability most, which the next panel shows at every position"
        " (dark: low, from 0). Circles: the largest value. Mid-grey is 0, one symmetric scale per"
        f" picture, its {PERCENTILE}th percentile of |value|. Below: mean and standard error over"
        f" {max(int(row['n']) for row in rows)} images; unit, map: each layer's strongest. Chance:"
        " the mask's share of the image. Centre: its pixel, or a Gaussian of standard deviation"
        f" {WIDTH:g} of the side. {tail}".strip(),
    )


def _panels(
    axes: list[plt.Axes],
    images: Images,
    index: int,
    occluded: Occlusion,
    pictures: dict[str, torch.Tensor],
    heads: bool,
) -> None:
    """One image, its occlusion map and its pictures, in the image's coordinates."""
    mask, side = images.mask([index])[0].numpy(), images.size
    show(axes[0], to_rgb(images.pictures([index]))[0], "image and mask" if heads else "")
    axes[0].plot(side // 2, side // 2, "+", color="white", markersize=9, markeredgewidth=1.6)
    at = divmod(int(occluded.probability.argmin()), occluded.probability.shape[1])
    top, left = int(occluded.tops[at[0]]), int(occluded.lefts[at[1]])
    box = (top, left, top + occluded.size, left + occluded.size)
    outline(axes[0], box, edgecolor="black", linewidth=1.4)
    grid, clean = occluded.probability.numpy(), occluded.clean_probability
    largest, look = max(clean, grid.max()), {"cmap": "cividis", "extent": centres(occluded)}
    axes[1].imshow(grid, vmin=0, vmax=largest, **look)
    axes[1].set(xticks=[], yticks=[], xlim=(0, side), ylim=(side, 0), facecolor="0.93")
    axes[1].set_title("probability under the square" if heads else "", fontsize=9)
    axes[1].text(
        *(0.03, 0.03, f"{clean:.2g}, lowest {grid.min():.2g}"),
        transform=axes[1].transAxes,
        fontsize=7.5,
        bbox={"facecolor": "white", "alpha": 0.8, "pad": 1.5, "lw": 0},
    )
    for axis, (name, picture) in zip(axes[2:], pictures.items(), strict=True):
        rule = name if name in RULES else "deconvnet"
        what = f"class score, {name}" if name in RULES else f"{name}'s unit, deconvnet"
        show(axis, drawn(picture), what if heads else "", framed=True, color=COLOURS[rule])
        flat = int(saliency(picture[None])[0].argmax())
        style = {"markerfacecolor": "none", "markeredgewidth": 1.5, "markersize": 9}
        axis.plot(flat % side, flat // side, "o", markeredgecolor="#ff3030", **style)
    for axis in axes:
        axis.contour(mask, **EDGE | ({"colors": ["black"]} if axis in axes[2:] else {}))


def _chart(axis: plt.Axes, rows: list[dict[str, object]], measure: str) -> None:
    """One measure: the layers' units, the layers' maps, the class score, side by side."""
    keys = dict.fromkeys((row["start"], row["layer"]) for row in rows)
    starts, places = list(dict.fromkeys(start for start, _ in keys)), {}
    for start in starts:  # a gap between them
        first = max(places.values(), default=-1.6) + 0.6
        own = [key for key in keys if key[0] == start]
        places |= {key: first + n for n, key in enumerate(own, start=1)}
    for shift, (method, ink) in zip((-0.15, 0, 0.15, 0.3), COLOURS.items(), strict=True):
        for start in starts:
            own = [
                (
                    places[start, row["layer"]] + shift,
                    *(float(row[f"{measure}{e}"]) for e in ("", " se")),
                )
                for row in rows
                if (row["method"], row["start"]) == (method, start) and row[measure] != ""
            ]
            if own:
                x, y, error = np.array(own).T
                style = {"marker": "o", "markersize": 4.5, "capsize": 2, "elinewidth": 1}
                axis.errorbar(x, y, error, color=ink, lw=1.1, **style)
    one = next(row for row in rows if row[measure] != "")
    for name, line in (("centre", "-"), ("chance", "--")):
        height = float(one[f"{measure} {name}"])
        whose = "of the image" if name == "centre" else "(the mask's share)"
        axis.axhline(height, color="0.35", lw=1, ls=line, label=f"{name} {whose}, {height:.2f}")
    chart(axis, TITLES[measure], 10, ylim=(0, 1.03))
    axis.set_xticks(
        list(places.values()),
        [f"{layer}\n{start}" if layer else "class\nscore" for start, layer in places],
        fontsize=8.5,
    )
    axis.set_xlabel("layer, and what is projected", fontsize=8.5)
    axis.legend(fontsize=8.5, frameon=False, loc="best")
