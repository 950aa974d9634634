"""Fig. 5: images under translation, scale and rotation, and how far their features go."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from zfnet.data.images import Images
from zfnet.experiments.invariance.compute import Invariance, transform
from zfnet.plots import captioned, chart, mosaic, show, to_rgb

AXES = {
    "translation": "vertical translation (pixels, down)",
    "scale": "scale (factor)",
    "rotation": "rotation (degrees, clockwise)",
}
UNITS = {"translation": "{:+.0f} px", "scale": "×{:.2g}", "rotation": "{:.0f}°"}


def invariance_figure(
    images: Images,
    indices: list[int],
    found: dict[str, Invariance],
    classes: tuple[str, ...],
    title: str,
    followed: str = "the true label",
) -> plt.Figure:
    """Fig. 5, one row per transformation: examples, distance at layer 1, distance at layer 7,
    probability of the label that is `followed`.

    One colour per example image; the dashed line is the mean of all images in `found`, which are
    those of `images`. `classes` names the net's outputs; where it has none, the images' classes,
    and there are no probabilities.
    """
    indices = list(indices)
    colours = [plt.get_cmap("tab10")(i % 10) for i in range(len(indices))]
    names = ("distance at layer 1", "distance at layer 7", f"probability of {followed}")
    if all(sweep.probability.isnan().all() for sweep in found.values()):
        names = names[:2]
    figure, axes = plt.subplots(
        len(found),
        1 + len(names),
        figsize=(13, 3.1 * len(found)),
        squeeze=False,
        gridspec_kw={"wspace": 0.27, "hspace": 0.42, "width_ratios": (1.08, *[1] * len(names))},
    )
    for row, (kind, sweep) in zip(axes, found.items(), strict=True):
        _examples(row[0], images, indices, sweep, colours)
        for axis, values, name in zip(
            row[1:], (sweep.layer1, sweep.layer7, sweep.probability), names, strict=False
        ):
            for index, colour in zip(indices, colours, strict=True):
                axis.plot(
                    sweep.amounts,
                    values[index],
                    color=colour,
                    linewidth=1.4,
                    label=classes[int(sweep.targets[index])],
                )
            axis.plot(
                sweep.amounts,
                values.mean(0),
                color="black",
                linewidth=1.2,
                linestyle="--",
                label=f"mean of {len(values)}",
            )
            chart(
                axis,
                name,
                xlabel=AXES[kind],
                xlim=(float(sweep.amounts[0]), float(sweep.amounts[-1])),
                ylim=(0, 1.03 if values is sweep.probability else None),
            )
            if kind == "rotation":
                axis.set_xticks(range(0, 360, 90))
    axes[0, -1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False)
    return captioned(
        figure,
        title,
        "Distances are Euclidean, between the features of the original and of the transformed"
        f" image. Coloured: {len(indices)} test images of different classes; dashed: the mean of"
        f" {len(images)} test images. What comes into view at the border is the stored image's"
        " margin, and beyond it the mean colour of the training images.",
    )


def _examples(axis, images: Images, indices: list[int], sweep: Invariance, colours) -> None:
    """One row of pictures per image, in its curve's colour, under five amounts spread over the
    range.
    """
    full = sweep.kind == "rotation"  # the last of six would be the first
    places = torch.linspace(0, len(sweep.amounts) - 1 + full, 5 + full).round().long()[:5]
    shown = sweep.amounts[places].tolist()
    pictures = torch.stack([transform(images, indices, sweep.kind, one) for one in shown], 1)
    side, gap = images.size, max(2, images.size // 16)
    sheet, step = mosaic(list(to_rgb(pictures.flatten(0, 1))), len(shown), gap), side + gap
    show(axis, np.clip(sheet, 0, 1), sweep.kind, False, "antialiased", fontsize=10, pad=14)
    for i, colour in enumerate(colours):
        axis.add_patch(
            plt.Rectangle((-3.2 * gap, i * step), 1.6 * gap, side, color=colour, clip_on=False)
        )
    for n, amount in enumerate(shown):
        axis.text(
            n * step + side / 2,
            -gap,
            UNITS[sweep.kind].format(amount).replace("+0 ", "0 ").replace("-", "−"),
            ha="center",
            va="bottom",
            fontsize=7.5,
            color="0.25",
        )
