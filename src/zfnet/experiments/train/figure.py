"""How training went, and what the net says about test images."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from zfnet.data.images import Images
from zfnet.plots.panels import captioned, to_rgb


def training_figure(history: list[dict[str, float]], title: str) -> Figure:
    """Loss and error of training and validation images by epoch."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4))
    epochs = [row["epoch"] for row in history]
    for axis, kind in zip(axes, ("loss", "error"), strict=True):
        for split in ("train", "val"):
            axis.plot(
                epochs,
                [row[f"{split}_{kind}"] for row in history],
                marker="o",
                markersize=3,
                label={"train": "training", "val": "validation"}[split],
            )
        axis.set(xlabel="epoch", ylabel=kind, ylim=(0, None))
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    return captioned(
        figure,
        title,
        "Training values are running means over the epoch, with dropout and random crops;"
        " validation uses the centre crop.",
    )


def confusion_figure(
    predictions: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], title: str
) -> Figure:
    """Confusion matrix, true class by row, in counts (numbers are drawn for up to 20 classes, names
    for up to 60).
    """
    n = len(classes)
    table = torch.zeros(n, n, dtype=torch.long).index_put_(
        (labels, predictions), torch.tensor(1), accumulate=True
    )
    figure, axis = plt.subplots(figsize=(6.4, 5.6) if n <= 20 else (9, 8.4))
    axis.imshow(
        (table / table.sum(1, keepdim=True).clamp_min(1)).numpy(), cmap="Blues", vmin=0, vmax=1
    )
    if n > 60:
        axis.set(
            xlabel=f"predicted class, {classes[0]} to {classes[-1]}",
            ylabel="true class, in the same order",
        )
    else:
        axis.set(xticks=range(n), yticks=range(n), xlabel="predicted class", ylabel="true class")
        axis.set_xticklabels(
            classes,
            rotation=90 if n > 20 else 40,
            ha="center" if n > 20 else "right",
            fontsize=9 if n <= 20 else 6,
        )
        axis.set_yticklabels(classes, fontsize=9 if n <= 20 else 6)
    for i, j in table.nonzero().tolist() if n <= 20 else ():
        axis.text(
            j,
            i,
            int(table[i, j]),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if i == j else "black",
        )
    return captioned(figure, title, "Colour: share of the true class's test images.")


def predictions_figure(
    images: Images, indices: torch.Tensor, probabilities: torch.Tensor, title: str, columns: int = 8
) -> Figure:
    """Test images with the predicted class and its probability; red where it is wrong."""
    rows = -(-len(indices) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(12, 1.68 * rows),
        squeeze=False,
        gridspec_kw={"wspace": 0.05, "hspace": 0.2},
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, index, picture in zip(
        axes.flat, indices.tolist(), to_rgb(images.pictures(indices)), strict=False
    ):
        guess = int(probabilities[index].argmax())
        right = guess == int(images.labels[index])
        axis.imshow(picture)
        axis.set_title(
            f"{images.classes[guess]} {float(probabilities[index, guess]):.0%}",
            fontsize=7.5,
            color="black" if right else "crimson",
        )
    return captioned(
        figure,
        title,
        "A random subset of the test images: predicted class and its probability; red where it is"
        " wrong.",
    )
