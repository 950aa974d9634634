"""Fig. 4: feature maps through training, and how soon each layer settles."""

import matplotlib.pyplot as plt
import numpy as np
import torch

from zfnet.data.images import Images
from zfnet.experiments.evolution.compute import Evolution, LayerEvolution, Snapshot, settled
from zfnet.methods.deconv import Deconvnet
from zfnet.plots import PERCENTILE, captioned, chart, drawn, field_tile, mosaic, show

WIDTH = 13.0  # inches


def evolution_tiles(
    history: list[Snapshot], images: Images, layer: LayerEvolution, channels: torch.Tensor
) -> list[list[np.ndarray]]:
    """For each channel its projection at every snapshot but the untrained one, each on its own
    scale and cut to the receptive field (h, w, 3).

    `images`: the training images that `layer.image` counts.
    """
    columns = []
    for s, snapshot in [(s, one) for s, one in enumerate(history) if one.part]:
        found = Deconvnet(snapshot.net).project_patches(
            images.batch(layer.image[s, channels]),
            layer.name,
            channels,
            torch.stack([layer.row[s], layer.col[s]], 1)[channels],
        )
        places = zip(found.pixels, found.corner.tolist(), found.box.tolist(), strict=True)
        columns.append([field_tile(drawn(one), *where, images.size) for one, *where in places])
    return [list(row) for row in zip(*columns, strict=True)]


def evolution_figure(
    tiles: dict[int, list[list[np.ndarray]]],
    channels: dict[int, torch.Tensor],
    found: Evolution,
    title: str,
) -> plt.Figure:
    """Fig. 4: one block per layer, one row per feature map, one column per snapshot; a bar under a
    cell: its source image is already the last one.
    """
    bands = [band for band in (list(tiles)[:3], list(tiles)[3:]) if band]
    blocks = {number: _block(rows) for number, rows in tiles.items()}
    widths = {number: (WIDTH - 0.42 * len(band)) / len(band) for band in bands for number in band}
    heights = [
        max(widths[n] * blocks[n][0].shape[0] / blocks[n][0].shape[1] for n in band)
        for band in bands
    ]
    total = sum(heights) + 0.62 * (len(bands) - 1)
    figure, below = plt.figure(figsize=(WIDTH, total)), total
    shown = found.parts > 0
    for band, height in zip(bands, heights, strict=True):
        below -= height
        for i, number in enumerate(band):
            left = 0.42 * (i + 1) + sum(widths[n] for n in band[:i])
            axes = figure.add_axes(
                (left / WIDTH, below / total, widths[number] / WIDTH, height / total)
            )
            layer, chosen = found.layers[number], channels[number]
            same = (layer.image[:, chosen] == layer.image[-1, chosen]) & (
                layer.value[:, chosen] > 0
            )
            _draw(
                axes,
                *blocks[number],
                f"layer {number}: map, and its projection after … epochs",
                chosen.tolist(),
                found.epochs[shown].tolist(),
                same[shown].T.tolist(),
            )
        below -= 0.62
    return captioned(
        figure,
        title,
        f"Each cell projects the strongest activation of a feature map among {found.searched:,}"
        " training images, the same ones at every snapshot. Black bar: the source image is already"
        " the last snapshot's. Mid-grey is 0; one symmetric scale per cell (as the paper enhances"
        f" contrast), its {PERCENTILE}th percentile of |value|: strengths are in the table. An even"
        " grey cell: the map does not fire then. White lies outside the image.",
    )


def _block(rows: list[list[np.ndarray]]) -> tuple[np.ndarray, int, int]:
    """All cells of a layer in one sheet, the side of a cell and the gap between two."""
    side = rows[0][0].shape[0]
    # few large pixels become several, so that gaps can be thinner than one of them
    scale = -(-40 // side)
    cells = [cell.repeat(scale, 0).repeat(scale, 1) for row in rows for cell in row]
    side *= scale
    gap = max(3, side // 12)
    return mosaic(cells, len(rows[0]), gap), side, gap


def _draw(
    axes,
    sheet: np.ndarray,
    side: int,
    gap: int,
    title: str,
    channels: list[int],
    epochs: list[float],
    same: list[list[bool]],
) -> None:
    show(axes, sheet, title, interpolation="antialiased", pad=16)
    axes.set(anchor="N", xlim=(-0.5, sheet.shape[1] - 0.5), ylim=(sheet.shape[0] - 0.5, -0.5))
    step = side + gap
    for column, epoch in enumerate(epochs):
        axes.text(
            column * step + side / 2,
            -gap,
            f"{epoch:.2g}",
            ha="center",
            va="bottom",
            fontsize=7.5,
            color="0.25",
        )
    for row, (channel, bars) in enumerate(zip(channels, same, strict=True)):
        axes.text(
            -gap,
            row * step + side / 2,
            f"{channel}",
            ha="right",
            va="center",
            fontsize=7,
            color="0.35",
        )
        for column in (column for column, bar in enumerate(bars) if bar):
            y = row * step + side + gap * 0.35
            axes.plot(
                [column * step, column * step + side - 1],
                [y, y],
                color="black",
                linewidth=1.3,
                solid_capstyle="butt",
                clip_on=False,
            )


def curves_figure(found: Evolution, title: str, level: float = 0.9) -> plt.Figure:
    """How close each layer is to what it becomes, by epoch: responses, projections and source
    images; a dot where a curve reaches `level`.
    """
    figure, panels = plt.subplots(
        1, 3, figsize=(WIDTH, 3.9), sharey=True, gridspec_kw={"wspace": 0.07}
    )
    epochs, ends = found.epochs, (min(found.layers), max(found.layers))
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.88, len(found.layers)))
    names = (
        "responses: correlation with the last",
        "projections: cosine with the last",
        "source image: share that is the last one",
    )
    for colour, (number, layer) in zip(colours, found.layers.items(), strict=True):
        alive = ~layer.responses[-1].isnan()
        spreads = (layer.responses[:, alive], layer.projections, None)
        for axis, values, curve in zip(panels, spreads, layer.curves.values(), strict=True):
            axis.plot(
                epochs, curve, color=colour, marker="o", markersize=3, label=f"layer {number}"
            )
            if values is not None and number in ends:
                low, high = values.quantile(torch.tensor([0.25, 0.75], dtype=values.dtype), dim=1)
                axis.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
            axis.plot(
                settled(epochs, curve, level),
                level,
                marker="D",
                color=colour,
                markersize=6,
                markeredgecolor="white",
            )
    for axis, name in zip(panels, names, strict=True):
        axis.axhline(level, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
        chart(axis, name, xlabel="epoch", ylim=(-0.02, 1.02), xlim=(0, float(epochs[-1])))
    panels[0].set_ylabel("similarity to the last snapshot")
    panels[2].legend(frameon=False, loc="lower right")
    first = next(iter(found.layers.values()))
    return captioned(
        figure,
        title,
        f"Lines: means over all maps of a layer (responses: {found.probes} validation images, all"
        f" positions), over {len(first.maps)} random maps (projections of one and the same unit and"
        f" image), share of all maps ({found.searched:,} training images searched). Bands: the"
        f" middle half of the maps of layers {ends[0]} and {ends[1]}. Diamonds: where a curve"
        f" reaches {level:g} for good, interpolated between snapshots. Epoch 0: the untrained net.",
    )
