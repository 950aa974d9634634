"""How training went, and what the net says about test images."""

import matplotlib.pyplot as plt
import torch

from zfnet.data.images import Images
from zfnet.plots import captioned, chart, literal, to_rgb


def training_figure(history: list[dict[str, float]], title: str) -> plt.Figure:
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
        chart(axis, xlabel="epoch", ylabel=kind, ylim=(0, None))
        axis.legend(frameon=False)
    return captioned(
        figure,
        title,
        "Training values are running means over the epoch, with dropout and random crops;"
        " validation uses the centre crop.",
    )


def confusion_figure(
    predictions: torch.Tensor, labels: torch.Tensor, classes: tuple[str, ...], title: str
) -> plt.Figure:
    """Confusion matrix, true class by row, in counts (numbers are drawn for up to 20 classes, names
    for up to 60).
    """
    n, size = len(classes), 9 if len(classes) <= 20 else 6
    classes = tuple(map(literal, classes))
    table = torch.zeros(n, n, dtype=torch.long).index_put_(
        (labels, predictions), torch.tensor(1), accumulate=True
    )
    figure, axis = plt.subplots(figsize=(6.4, 5.6) if n <= 20 else (9, 8.4))
    axis.imshow(
        (table / table.sum(1, keepdim=True).clamp_min(1)).numpy(), cmap="Blues", vmin=0, vmax=1
    )
    names = ("predicted class", "true class")
    if n > 60:
        names = (f"{names[0]}, {classes[0]} to {classes[-1]}", f"{names[1]}, in the same order")
    else:
        turned = {"rotation": 90, "ha": "center"} if n > 20 else {"rotation": 40, "ha": "right"}
        axis.set_xticks(range(n), classes, fontsize=size, **turned)
        axis.set_yticks(range(n), classes, fontsize=size)
    axis.set(xlabel=names[0], ylabel=names[1])
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
) -> plt.Figure:
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
        ink = "black" if guess == int(images.labels[index]) else "crimson"
        axis.imshow(picture)
        axis.set_title(
            f"{literal(images.classes[guess])} {float(probabilities[index, guess]):.0%}",
            fontsize=7.5,
            color=ink,
        )
    return captioned(
        figure,
        title,
        "A random subset of the test images: predicted class and its probability; red where it is"
        " wrong.",
    )
