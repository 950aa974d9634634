"""Fig. 2 and its relatives: top activations beside the patches that caused them, single units of
one image, whole channels.
"""

import math

import matplotlib.pyplot as plt
import torch

from zfnet.data.images import Images
from zfnet.graph.windows import receptive_field
from zfnet.methods.deconv import Deconvnet
from zfnet.methods.top_activations import TopActivations
from zfnet.plots.contrast import drawn, to_rgb
from zfnet.plots.panels import CONTRAST, captioned, crop_field, field_tile, mosaic, show
from zfnet.store.errors import require


def spread(images: Images, count: int) -> torch.Tensor:
    """Indices of `count` images spread evenly over the set, all of them when there are fewer."""
    return torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()


def random_maps(top: TopActivations, count: int, seed: int) -> torch.Tensor:
    """A seeded random subset of the feature maps that fire in all their top images, sorted:
    (count,) channels (Fig. 2 shows a random subset).

    Where those are fewer than `count`, of all maps that ever fire; ValueError where none does.
    """
    alive = (top.value[:, -1] > 0).nonzero().flatten()
    if len(alive) < count:
        alive = (top.value[:, 0] > 0).nonzero().flatten()
    require(
        len(alive), "no map of this layer fires for any of these images: there is nothing to show"
    )
    order = torch.randperm(len(alive), generator=torch.Generator().manual_seed(seed))
    return alive[order[:count]].sort().values


def top9_tiles(
    deconvnet: Deconvnet, images: Images, layer: str, top: TopActivations, channels: torch.Tensor
):
    """For each channel its nine projections and its nine patches, cut to the receptive field: two
    lists of lists of (h, w, 3).
    """
    field = receptive_field(deconvnet.graph, layer, images.size)
    projections, patches = [], []
    for channel in channels.tolist():
        index, row, col = top.image[channel], top.row[channel], top.col[channel]
        found = deconvnet.project_patches(
            images.batch(index), layer, channel, torch.stack([row, col], 1)
        )
        places = zip(drawn(found.pixels), found.corner.tolist(), found.box.tolist(), strict=True)
        projections.append([field_tile(p, *where, images.size) for p, *where in places])
        units = zip(to_rgb(images.pictures(index)), row.tolist(), col.tolist(), strict=True)
        patches.append([crop_field(p, field, *unit) for p, *unit in units])
    return projections, patches


def top9_figure(
    projections, patches, channels: torch.Tensor, title: str, columns: int = 4
) -> plt.Figure:
    """Fig. 2: the feature maps' 3x3 projections on the left, the 3x3 image patches that caused them
    on the right; of another number than nine, as square a block as they make.
    """
    tile, count = projections[0][0].shape[0], len(projections[0])
    sheets = []
    for blocks in (projections, patches):
        grids = [mosaic(block, math.ceil(math.sqrt(count)), max(1, tile // 40)) for block in blocks]
        (high, wide), gap = grids[0].shape[:2], max(3, grids[0].shape[1] // 14)
        sheets.append(mosaic(grids, columns, gap))
    shape = sheets[0].shape
    figure, halves = plt.subplots(
        1, 2, figsize=(12, 12 * 0.5 * shape[0] / shape[1]), gridspec_kw={"wspace": 0.03}
    )
    for axes, sheet, name in zip(
        halves, sheets, ("projected down to pixels", "image patches"), strict=True
    ):
        show(
            axes,
            sheet,
            name,
            interpolation="nearest" if tile < 40 else "antialiased",
            fontsize=10,
            pad=10,
        )
        for i, channel in enumerate(channels.tolist()):
            x, y = i % columns * (wide + gap), i // columns * (high + gap)
            axes.text(x, y - gap * 0.12, f"{channel}", fontsize=6.5, color="0.35", va="bottom")
            # around patches that are white, too
            box, line = (x - 1, y - 1), {"edgecolor": "0.8", "linewidth": 0.5}
            axes.add_patch(plt.Rectangle(box, wide + 1, high + 1, fill=False, **line))
    return captioned(
        figure,
        title,
        f"Numbers are feature maps; each shows its {count} strongest activations, one per image,"
        f" best first; white beyond the image. {CONTRAST}",
    )
