"""Fig. 2 and its relatives: top activations beside the patches that caused them, single units of one image, whole channels."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..activations import TopActivations, TopUnits
from ..data import Images
from ..deconv import Deconvnet
from ..windows import receptive_field
from .panels import CONTRAST, PERCENTILE, captioned, contrast_scale, crop_field, field_tile, mosaic, to_grey_centred, to_rgb


def spread(images: Images, count: int) -> torch.Tensor:
    """Indices of `count` images spread evenly over the set, all of them when there are fewer."""
    return torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()


def random_maps(top: TopActivations, count: int, seed: int) -> torch.Tensor:
    """A seeded random subset of the feature maps that fire in all their top images, sorted: (count,) channels (Fig. 2 shows a random subset).

    Where those are fewer than `count`, of all maps that ever fire; ValueError where none does.
    """
    alive = (top.value[:, -1] > 0).nonzero().flatten()
    if len(alive) < count:
        alive = (top.value[:, 0] > 0).nonzero().flatten()
    if not len(alive):
        raise ValueError("no map of this layer fires for any of these images: there is nothing to show")
    chosen = torch.randperm(len(alive), generator=torch.Generator().manual_seed(seed))[:count]
    return alive[chosen].sort().values


def top9_tiles(deconvnet: Deconvnet, images: Images, layer: str, top: TopActivations, channels: torch.Tensor):
    """For each channel its nine projections and its nine patches, cut to the receptive field: two lists of lists of (h, w, 3)."""
    field = receptive_field(deconvnet.features, layer, images.size)
    projections, patches = [], []
    for channel in channels.tolist():
        index, row, col = top.image[channel], top.row[channel], top.col[channel]
        found = deconvnet.project_patches(images.batch(index), layer, channel, torch.stack([row, col], 1))
        pictures = to_grey_centred(found.pixels, contrast_scale(found.pixels))
        sources = to_rgb(images.pictures(index))
        units = list(zip(row.tolist(), col.tolist(), strict=True))
        projections.append([field_tile(p, *where, images.size) for p, *where in zip(pictures, found.corner.tolist(), found.box.tolist(), strict=True)])
        patches.append([crop_field(p, field, *unit) for p, unit in zip(sources, units, strict=True)])
    return projections, patches


def top9_figure(projections, patches, channels: torch.Tensor, title: str, columns: int = 4) -> Figure:
    """Fig. 2: the feature maps' 3x3 projections on the left, the 3x3 image patches that caused them on the right; of another number than nine, as square a
    block as they make."""
    tile, count = projections[0][0].shape[0], len(projections[0])
    sheets = []
    for blocks in (projections, patches):
        grids = [mosaic(block, math.ceil(math.sqrt(count)), max(1, tile // 40)) for block in blocks]
        (high, wide), gap = grids[0].shape[:2], max(3, grids[0].shape[1] // 14)
        sheets.append(mosaic(grids, columns, gap))
    shape = sheets[0].shape
    figure, halves = plt.subplots(1, 2, figsize=(12, 12 * 0.5 * shape[0] / shape[1]), gridspec_kw={"wspace": 0.03})
    for axes, sheet, name in zip(halves, sheets, ("projected down to pixels", "image patches"), strict=True):
        axes.imshow(sheet, interpolation="nearest" if tile < 40 else "antialiased")
        for i, channel in enumerate(channels.tolist()):
            x, y = i % columns * (wide + gap), i // columns * (high + gap)
            axes.text(x, y - gap * 0.12, f"{channel}", fontsize=6.5, color="0.35", va="bottom")
            axes.add_patch(Rectangle((x - 1, y - 1), wide + 1, high + 1, fill=False, edgecolor="0.8", linewidth=0.5))  # around patches that are white, too
        axes.set_title(name, fontsize=10, pad=10)
        axes.set_axis_off()
    caption = f"Numbers are feature maps; each shows its {count} strongest activations, one per image, best first; white beyond the image."
    return captioned(figure, title, f"{caption} {CONTRAST}")


def one_image_figure(deconvnet: Deconvnet, images: Images, index: int, layer: str, units: TopUnits, title: str) -> Figure:
    """The nine strongest single activations of one image, each projected, all on one scale; the unit's receptive field is drawn on the image."""
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
            axes[0].add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor="white", linewidth=0.7))
        axis.imshow(picture)
        axis.set_title(f"map {int(units.channel[i])} {unit}\n{float(units.value[i]):.2f}", fontsize=7)
    for axis in axes:
        axis.set_axis_off()
    return captioned(figure, title, "Above each panel: map, (row, column) of the unit, activation. Mid-grey is 0; one symmetric scale for all nine.")


def channels_figure(pictures: np.ndarray, projections: dict[int, list[torch.Tensor]], channels: dict[int, torch.Tensor], title: str) -> Figure:
    """One row per image: the image, then for every layer its strongest channel's whole map projected; one scale per panel's layer and image."""
    count = len(pictures)
    columns = len(projections) + 1
    figure, axes = plt.subplots(count, columns, figsize=(11, 2.0 * count), squeeze=False, gridspec_kw={"wspace": 0.04, "hspace": 0.14})  # fmt: skip
    for i in range(count):
        axes[i, 0].imshow(pictures[i])
        for axis, (layer, found) in zip(axes[i, 1:], projections.items(), strict=True):
            axis.imshow(to_grey_centred(found[i], contrast_scale(found[i])))
            axis.set_title((f"layer {layer}\n" if i == 0 else "") + f"map {int(channels[layer][i])}", fontsize=8)
    axes[0, 0].set_title("image", fontsize=8)
    for axis in axes.flat:
        axis.set_axis_off()
    return captioned(figure, title, f"Mid-grey is 0; one symmetric scale per panel, its {PERCENTILE}th percentile of |value|.")
