"""Three ways down beside each other, and what randomising the weights does to them."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from zfnet.experiments.sanity_checks.compute import CONTROLS, Sanity
from zfnet.methods.deconv import RULES
from zfnet.plots import PERCENTILE, captioned, chart, drawn, show

COLOURS = dict(zip(RULES, ("#0072B2", "#D55E00", "#009E73"), strict=True))
NAMES = {"deconvnet": "deconvnet", "guided": "guided backprop", "gradient": "gradient"}
TITLES = {
    "spearman": "same place? (rank correlation)",
    "ssim": "same look? (SSIM)",
    "edges": "the image's edges? (rank correlation)",
    "energy inside": "energy inside the object's mask",
}


def sanity_figure(
    found: Sanity,
    pictures: np.ndarray,
    trained: dict[str, torch.Tensor],
    cascades: dict[str, list[torch.Tensor]],
    title: str,
) -> plt.Figure:
    """Upper left: rows of images x methods, trained (pictures (n, H, W, 3); {rule: (n, 3, H, W)}).
    Upper right: the first image's picture at every level of the cascade ({rule: one (3, H, W) per
    level, trained first}). Below: the measures by level, mean and standard deviation, beside their
    controls.
    """
    steps = found.levels[1 : -len(CONTROLS)]
    rows, columns = len(pictures), 1 + len(RULES)
    # of width to height: square panels fill both blocks
    ratios = [columns / rows, (len(steps) + 1) / len(RULES)]
    high = 13.2 / sum(ratios)
    figure = plt.figure(figsize=(14, high + 4.1))
    grid = figure.add_gridspec(2, 1, height_ratios=[high, 3.3], hspace=0.21)
    upper = grid[0].subgridspec(1, 2, width_ratios=ratios, wspace=0.07)
    close = {"wspace": 0.04, "hspace": 0.04}
    left = upper[0].subgridspec(rows, columns, **close)
    right = upper[1].subgridspec(len(RULES), len(steps) + 1, **close)
    heads = {"image": "black", **{NAMES[rule]: COLOURS[rule] for rule in RULES}}
    for i in range(rows):
        shown = [pictures[i], *(drawn(trained[rule][i]) for rule in RULES)]
        for j, (picture, (name, ink)) in enumerate(zip(shown, heads.items(), strict=True)):
            axis = figure.add_subplot(left[i, j])
            show(axis, picture, name if i == 0 else "", framed=True, color=ink)
    for r, rule in enumerate(RULES):
        for level, (name, picture) in enumerate(zip(found.levels, cascades[rule], strict=False)):
            axis, head = figure.add_subplot(right[r, level]), f"random: {name}" if level else name
            show(axis, drawn(picture), head if r == 0 else "", framed=True)
            if level == 0:
                axis.set_ylabel(NAMES[rule], fontsize=9, color=COLOURS[rule], labelpad=2)
    measures = [name for name in TITLES if not found.values[name].isnan().all()]
    for n, (place, measure) in enumerate(
        zip(grid[1].subgridspec(1, len(measures), wspace=0.2), measures, strict=True)
    ):
        axis = figure.add_subplot(place)
        _curves(axis, found, measure, len(steps))
        if n == 0:  # the other panels keep the colours
            axis.legend(
                handles=[
                    axis.plot(
                        [], [], color=COLOURS[rule], marker="o", markersize=4, label=NAMES[rule]
                    )[0]
                    for rule in RULES
                ],
                fontsize=8.5,
                frameon=False,
                loc="upper left",
                bbox_to_anchor=(-0.02, -0.17),
                ncol=3,
            )
    n, draws = found.chance.numel(), found.values["ssim"].shape[1]
    return captioned(
        figure,
        title,
        "Upper left: images, and the projection of the strongest unit of each. Upper right: the"
        " first one's, layers given fresh weights from the top down. Mid-grey is 0; one symmetric"
        f" scale per panel, its {PERCENTILE}th percentile of |value|. Below: mean and standard"
        f" deviation over {n} images x {draws} draws of random weights, inside the unit's receptive"
        " field; the first two panels compare with the trained net's picture, the third with the"
        " image's own edges (Sobel). Controls, all with trained weights: another map, a random"
        " other map at the same place; another image, the same unit in another image.",
    )


def _curves(axis: plt.Axes, found: Sanity, measure: str, steps: int) -> None:
    """One measure by level, a curve per rule; the controls stand apart, to the right."""
    first = 1 if measure in ("spearman", "ssim") else 0  # the trained picture is like itself
    along, apart = np.arange(first, steps + 1), np.array([steps + 1.7, steps + 3.1])
    count = len(CONTROLS)
    for r, rule in enumerate(RULES):
        part = found.values[measure][:, :, r].double().flatten(1)
        mean, spread = part.nanmean(1), [float(row[~row.isnan()].std()) for row in part]
        mean, spread, shift = mean.numpy(), np.array(spread), 0.09 * (r - 1)
        style = {"color": COLOURS[rule], "marker": "o", "markersize": 4, "elinewidth": 0.9}
        axis.errorbar(along + shift, mean[along], spread[along], lw=1.6, capsize=2, **style)
        axis.errorbar(apart + shift, mean[-count:], spread[-count:], lw=0, capsize=2, **style)
    chart(
        axis,
        TITLES[measure],
        9.5,
        ylim=(min(0.0, axis.get_ylim()[0]), None if measure == "edges" else 1.02),
        xlim=(first - 0.4, apart[-1] + 0.7),
    )
    axis.set_xticks(
        [*along, *apart],
        [
            name.replace(" ", "\n")
            for name in [
                *("none" if level == 0 else found.levels[level] for level in along),
                *CONTROLS,
            ]
        ],
        fontsize=8,
    )
    axis.axvline(steps + 0.85, color="0.8", lw=0.8)
    axis.text(
        float(along.mean()),
        -0.13,
        "layers with random weights",
        transform=axis.get_xaxis_transform(),
        ha="center",
        va="top",
        fontsize=8,
    )
    if measure == "energy inside":
        for share, style, name in (
            (found.edges_inside, ":", "the image's own edges"),
            (found.chance, "--", "chance: the mask's share"),
        ):
            height = float(share.double().mean())
            axis.axhline(height, color="0.3", lw=1, ls=style, label=f"{name}, {height:.2f}")
        axis.legend(fontsize=8, frameon=False, loc="lower left")
    axis.tick_params(axis="y", labelsize=8)
