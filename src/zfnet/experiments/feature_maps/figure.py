"""Feature maps of one image, stage by stage."""

import matplotlib.pyplot as plt
import torch

from zfnet.data.images import Images
from zfnet.graph.windows import ReceptiveField
from zfnet.plots import captioned, outline, show, to_rgb


def feature_maps_figure(
    images: Images,
    indices: list[int],
    maps: list[dict[str, torch.Tensor]],
    channels: list[dict[str, torch.Tensor]],
    fields: dict[str, ReceptiveField],
    title: str,
    choice: str = "the largest total activity",
) -> plt.Figure:
    """One row per image and stage: the image, then the chosen channels of every stage, each in its
    own grey scale.

    images, indices: which pictures; maps: for each image {stage: (C, h, w)}; channels: for each
    image {stage: (count,)}; fields: the stages' geometry; choice: how the channels were chosen, for
    the caption. A stage with negative values is drawn around mid-grey = 0, one without from black =
    0 to white. A red circle marks the largest value; the frame on the image is what that unit of
    the row's first channel sees.
    """
    stages, count = list(maps[0]), len(next(iter(channels[0].values())))
    figure, axes = plt.subplots(
        len(indices) * len(stages),
        count + 1,
        figsize=((count + 1) * 1.12, len(indices) * len(stages) * 1.46),
        squeeze=False,
        gridspec_kw={"wspace": 0.05, "hspace": 0.34},
    )
    pictures = to_rgb(images.pictures(torch.as_tensor(indices)))
    rows = (
        (picture, found[stage], chosen[stage], stage)
        for picture, found, chosen in zip(pictures, maps, channels, strict=True)
        for stage in stages
    )
    for (first, *panels), (picture, values, chosen, stage) in zip(axes, rows, strict=True):
        height, width = values.shape[-2:]
        show(first, picture, f"{stage}\n{height} x {width}")
        if values[chosen[0]].any():
            box = fields[stage].box(*divmod(int(values[chosen[0]].argmax()), width))
            outline(first, box, edgecolor="white", linewidth=1.1)
            outline(first, box, edgecolor="black", linewidth=0.4)
        for axis, channel in zip(panels, chosen.tolist(), strict=True):
            # in its own grey scale, its range above it, its largest value circled
            low, high = float(values[channel].min()), float(values[channel].max())
            top = max(abs(low), abs(high)) or 1.0
            axis.imshow(
                values[channel],
                cmap="gray",
                vmin=-top if low < 0 else 0,
                vmax=top,
                interpolation="nearest",
            )
            axis.set(xticks=[], yticks=[], frame_on=False)
            axis.set_title(f"map {channel}\n{low:.3g} … {high:.3g}", fontsize=8)
            if high > 0:
                row, col = divmod(int(values[channel].argmax()), width)
                axis.plot(
                    col,
                    row,
                    marker="o",
                    markersize=5,
                    markerfacecolor="none",
                    markeredgecolor="#ff3030",
                    markeredgewidth=1.1,
                )
    return captioned(
        figure,
        title,
        "Left of each row: the image, framed what the strongest unit of the first map sees. Maps:"
        f" the layer's channels with {choice}, the same at every stage; above each its number, its"
        " smallest and its largest value. One grey scale per panel: before the rectification"
        " mid-grey is 0 and the largest absolute value is black or white; after it black is 0 and"
        " the largest value white. Red: the largest value.",
    )
