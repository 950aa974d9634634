"""The nine strongest single activations of one image."""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from zfnet.data.images import Images
from zfnet.graph.windows import receptive_field
from zfnet.methods.deconv import Deconvnet
from zfnet.methods.top_activations import TopUnits
from zfnet.plots.panels import captioned, contrast_scale, to_grey_centred, to_rgb


def one_image_figure(
    deconvnet: Deconvnet, images: Images, index: int, layer: str, units: TopUnits, title: str
) -> Figure:
    """The nine strongest single activations of one image, each projected, all on one scale; the
    unit's receptive field is drawn on the image.
    """
    count = len(units.value)
    field = receptive_field(deconvnet.features, layer, images.size)
    position = torch.stack([units.row, units.col], 1)
    found = deconvnet.project(images.batch([index] * count), layer, units.channel, position)
    pictures = to_grey_centred(found, contrast_scale(found))
    figure, axes = plt.subplots(1, count + 1, figsize=(13, 1.25), gridspec_kw={"wspace": 0.06})
    axes[0].imshow(to_rgb(images.pictures([index]))[0])
    axes[0].set_title("image", fontsize=8)
    for i, (axis, picture) in enumerate(zip(axes[1:], pictures, strict=True)):
        unit = int(units.row[i]), int(units.col[i])
        top, left, bottom, right = field.box(*unit)
        if field.size < (images.size, images.size):
            axes[0].add_patch(
                Rectangle(
                    (left - 0.5, top - 0.5),
                    right - left,
                    bottom - top,
                    fill=False,
                    edgecolor="white",
                    linewidth=0.7,
                )
            )
        axis.imshow(picture)
        axis.set_title(
            f"map {int(units.channel[i])} {unit}\n{float(units.value[i]):.2f}", fontsize=7
        )
    for axis in axes:
        axis.set_axis_off()
    return captioned(
        figure,
        title,
        "Above each panel: map, (row, column) of the unit, activation. Mid-grey is 0; one symmetric"
        " scale for all nine.",
    )
