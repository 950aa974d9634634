"""First-layer filters (Fig. 6 a-c)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from .panels import PERCENTILE, captioned, contrast_scale, mosaic, to_grey_centred


def filters_figure(weight: torch.Tensor, title: str, columns: int = 16) -> Figure:
    """First-layer filters (maps, 3, k, k) on one symmetric scale, so that dead and dominating filters show (Fig. 6 a-c)."""
    scale = contrast_scale(weight.detach())
    sheet = mosaic(list(to_grey_centred(weight.detach(), scale)), columns)
    figure, axes = plt.subplots(figsize=(8, 8 * sheet.shape[0] / sheet.shape[1]))
    axes.imshow(sheet, interpolation="nearest")
    axes.set_axis_off()
    return captioned(figure, title, f"Mid-grey is 0; one symmetric scale for all filters, the {PERCENTILE}th percentile of |weight|.")
