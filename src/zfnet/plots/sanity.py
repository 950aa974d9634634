"""Three ways down beside each other, and what randomising the weights does to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from ..deconv import RULES
from ..sanity import CONTROLS, Sanity
from .panels import PERCENTILE, captioned, contrast_scale, to_grey_centred

COLOURS = dict(zip(RULES, ("#0072B2", "#D55E00", "#009E73"), strict=True))
NAMES = {"deconvnet": "deconvnet", "guided": "guided backprop", "gradient": "gradient"}
TITLES = {"spearman": "where: rank correlation of |value|", "ssim": "how it looks: SSIM", "energy inside": "energy inside the object's mask"}


def sanity_figure(found: Sanity, pictures: np.ndarray, trained: Mapping[str, torch.Tensor], cascades: Mapping[str, Sequence[torch.Tensor]],
                  title: str) -> Figure:  # fmt: skip
    """Upper left: rows of images x methods, trained (pictures (n, H, W, 3); {rule: (n, 3, H, W)}). Upper right: the first image's picture at every level of
    the cascade ({rule: one (3, H, W) per level, trained first}). Below: the measures by level, mean and standard deviation, beside their controls."""
    steps = found.levels[1 : -len(CONTROLS)]
    rows, columns = len(pictures), 1 + len(RULES)
    ratios = [columns / rows, (len(steps) + 1) / len(RULES)]  # of width to height: square panels fill both blocks
    high = 13.2 / sum(ratios)
    figure = plt.figure(figsize=(14, high + 4.1))
    grid = figure.add_gridspec(2, 1, height_ratios=[high, 3.3], hspace=0.21)
    upper = grid[0].subgridspec(1, 2, width_ratios=ratios, wspace=0.07)
    left, right = upper[0].subgridspec(rows, columns, wspace=0.04, hspace=0.04), upper[1].subgridspec(len(RULES), len(steps) + 1, wspace=0.04, hspace=0.04)
    for i in range(rows):
        drawn = [pictures[i], *(to_grey_centred(trained[rule][i], contrast_scale(trained[rule][i])) for rule in RULES)]
        for j, (name, picture) in enumerate(zip(("image", *NAMES.values()), drawn, strict=True)):
            axis = figure.add_subplot(left[i, j])
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
            axis.set_title(name if i == 0 else "", fontsize=9, color=COLOURS.get(RULES[j - 1], "black") if j else "black")
    for r, rule in enumerate(RULES):
        for level, (name, picture) in enumerate(zip(found.levels, cascades[rule], strict=False)):
            axis = figure.add_subplot(right[r, level])
            axis.imshow(to_grey_centred(picture, contrast_scale(picture)))
            axis.set(xticks=[], yticks=[])
            axis.set_title(("trained" if level == 0 else f"random: {name}") if r == 0 else "", fontsize=9)
            if level == 0:
                axis.set_ylabel(NAMES[rule], fontsize=9, color=COLOURS[rule], labelpad=2)
    measures = [name for name in TITLES if not found.values[name].isnan().all()]
    lower = grid[1].subgridspec(1, len(measures), wspace=0.2)
    for place, measure in zip(lower, measures, strict=True):
        _curves(figure.add_subplot(place), found, measure, len(steps))
    n, draws = found.chance.numel(), found.values["ssim"].shape[1]
    caption = ("Upper left: images, and the projection of the strongest unit of each. Upper right: the first one's, layers given fresh weights from the top "
               f"down. Mid-grey is 0; one symmetric scale per panel, its {PERCENTILE}th percentile of |value|. Below: mean and standard deviation over {n} images x "
               f"{draws} draws of random weights; similarity is to the trained net's picture, inside the unit's receptive field. Controls, all with trained weights: "
               "another map, the unit of a random other map at the same place; another image, the same unit in another image.")  # fmt: skip
    return captioned(figure, title, caption)


def _curves(axis, found: Sanity, measure: str, steps: int) -> None:
    """One measure by level, a curve per rule; the controls stand apart, to the right."""
    first = 0 if measure == "energy inside" else 1  # the trained picture is like itself
    along = np.arange(first, steps + 1)
    apart = np.array([steps + 1.6, steps + 2.6])
    for r, rule in enumerate(RULES):
        part = found.values[measure][:, :, r].double().flatten(1)
        mean, spread = part.nanmean(1).numpy(), np.array([float(row[~row.isnan()].std()) for row in part])
        shift = 0.09 * (r - 1)
        style = {"color": COLOURS[rule], "marker": "o", "markersize": 4, "capsize": 2, "elinewidth": 0.9}
        axis.errorbar(along + shift, mean[along], spread[along], lw=1.6, **style)
        axis.errorbar(apart + shift, mean[-len(CONTROLS):], spread[-len(CONTROLS):], lw=0, **style)
    labels = ["trained" if level == 0 else f"random\n{found.levels[level]}" for level in along]
    axis.set(xticks=[*along, *apart], ylim=(min(0.0, axis.get_ylim()[0]), 1.02), xlim=(first - 0.4, apart[-1] + 0.5))
    axis.set_xticklabels([*labels, *(name.replace(" ", "\n") for name in CONTROLS)], fontsize=8)
    axis.axvline(steps + 0.8, color="0.8", lw=0.8)
    if measure == "energy inside":
        share = float(found.chance.double().mean())
        axis.axhline(share, color="0.3", lw=1, ls="--")
        axis.text(axis.get_xlim()[1], share - 0.015, f"chance: the mask's share of the image, {share:.2f}", ha="right", va="top", fontsize=8, color="0.3")
    axis.set_title(TITLES[measure], fontsize=10)
    axis.tick_params(axis="y", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if measure == "spearman":  # the other panels keep the colours
        handles = [axis.plot([], [], color=COLOURS[rule], marker="o", markersize=4, label=NAMES[rule])[0] for rule in RULES]
        axis.legend(handles=handles, fontsize=8.5, frameon=False, loc="lower left")
