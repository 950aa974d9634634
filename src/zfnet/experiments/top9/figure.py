"""The nine strongest single activations of one image."""

import matplotlib.pyplot as plt
import torch

from zfnet.data.images import Images
from zfnet.graph.windows import receptive_field
from zfnet.methods.deconv import Deconvnet
from zfnet.methods.top_activations import TopUnits
from zfnet.plots import captioned, drawn, outline, show, to_rgb


def one_image_figure(
    deconvnet: Deconvnet, images: Images, index: int, layer: str, units: TopUnits, title: str
) -> plt.Figure:
    """The nine strongest single activations of one image, each projected, all on one scale; the
    unit's receptive field is drawn on the image.
    """
    count = len(units.value)
    field = receptive_field(deconvnet.graph, layer, images.size)
    found = deconvnet.project(
        images.batch([index] * count), layer, units.channel, torch.stack([units.row, units.col], 1)
    )
    figure, axes = plt.subplots(1, count + 1, figsize=(13, 1.25), gridspec_kw={"wspace": 0.06})
    show(axes[0], to_rgb(images.pictures([index]))[0], "image", fontsize=8)
    for i, (axis, picture) in enumerate(zip(axes[1:], drawn(found), strict=True)):
        unit = int(units.row[i]), int(units.col[i])
        if field.size < (images.size, images.size):
            outline(axes[0], field.box(*unit), edgecolor="white", linewidth=0.7)
        show(
            axis,
            picture,
            f"map {int(units.channel[i])} {unit}\n{float(units.value[i]):.2f}",
            fontsize=7,
        )
    return captioned(
        figure,
        title,
        "Above each panel: map, (row, column) of the unit, activation. Mid-grey is 0; one symmetric"
        " scale for all nine.",
    )
