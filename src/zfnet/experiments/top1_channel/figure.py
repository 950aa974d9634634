"""The strongest channel of each layer, for a few images."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from zfnet.plots.panels import PERCENTILE, captioned, contrast_scale, to_grey_centred


def channels_figure(
    pictures: np.ndarray,
    projections: dict[int, list[torch.Tensor]],
    channels: dict[int, torch.Tensor],
    title: str,
) -> Figure:
    """One row per image: the image, then for every layer its strongest channel's whole map
    projected; one scale per panel's layer and image.
    """
    count = len(pictures)
    columns = len(projections) + 1
    figure, axes = plt.subplots(
        count,
        columns,
        figsize=(11, 2.0 * count),
        squeeze=False,
        gridspec_kw={"wspace": 0.04, "hspace": 0.14},
    )
    for i in range(count):
        axes[i, 0].imshow(pictures[i])
        for axis, (layer, found) in zip(axes[i, 1:], projections.items(), strict=True):
            axis.imshow(to_grey_centred(found[i], contrast_scale(found[i])))
            axis.set_title(
                (f"layer {layer}\n" if i == 0 else "") + f"map {int(channels[layer][i])}",
                fontsize=8,
            )
    axes[0, 0].set_title("image", fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    return captioned(
        figure,
        title,
        f"Mid-grey is 0; one symmetric scale per panel, its {PERCENTILE}th percentile of |value|.",
    )
