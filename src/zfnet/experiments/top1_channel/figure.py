"""The strongest channel of each layer, for a few images."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from zfnet.plots import PERCENTILE, captioned, drawn, show


def channels_figure(
    pictures: np.ndarray,
    projections: dict[int, list[torch.Tensor]],
    channels: dict[int, torch.Tensor],
    title: str,
) -> plt.Figure:
    """One row per image: the image, then for every layer its strongest channel's whole map
    projected; one scale per panel's layer and image.
    """
    figure, axes = plt.subplots(
        len(pictures),
        len(projections) + 1,
        figsize=(11, 2.0 * len(pictures)),
        squeeze=False,
        gridspec_kw={"wspace": 0.04, "hspace": 0.14},
    )
    for i, (first, *others) in enumerate(axes):
        show(first, pictures[i], "image" if i == 0 else "", fontsize=8)
        for axis, (layer, found) in zip(others, projections.items(), strict=True):
            head = f"layer {layer}\n" if i == 0 else ""
            show(axis, drawn(found[i]), f"{head}map {int(channels[layer][i])}", fontsize=8)
    return captioned(
        figure,
        title,
        f"Mid-grey is 0; one symmetric scale per panel, its {PERCENTILE}th percentile of |value|.",
    )
