"""Every panel and grid, and one contrast rule.

Projections are drawn symmetric around zero: mid-grey is 0, and one scale s serves all panels that belong together (the nine of a feature map), so that
they can be compared. s is the 98th percentile of their absolute values, zeros left out; what exceeds it saturates. Patches are the exact receptive
fields, clipped at the image's border; what lies outside the image stays white.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from . import provenance
from .activations import TopActivations, TopUnits
from .data import Images
from .deconv import Deconvnet
from .occlusion import Occlusion
from .profiles import Profile
from .windows import ReceptiveField, receptive_field

PERCENTILE = 98
DPI = 110
LIMIT = 490_000  # bytes of a committed figure
CONTRAST = f"Projections: mid-grey is 0; one symmetric scale per feature map, its {PERCENTILE}th percentile of |value|."


def contrast_scale(values: torch.Tensor, percentile: float = PERCENTILE) -> float:
    """The scale that the panels in `values` share: a percentile of the absolute values that are not zero; 1 when all are."""
    magnitude = values.abs().flatten()
    magnitude = magnitude[magnitude > 0]
    return float(np.percentile(magnitude.cpu().numpy(), percentile)) if len(magnitude) else 1.0


def to_grey_centred(values: torch.Tensor, scale: float) -> np.ndarray:
    """Signed values (…, 3, H, W) to RGB (…, H, W, 3) in 0..1: -scale is 0, zero is mid-grey, +scale is 1."""
    return (0.5 + 0.5 * (values / scale).clamp(-1, 1)).movedim(-3, -1).cpu().numpy()


def to_rgb(pictures: torch.Tensor) -> np.ndarray:
    """uint8 (…, 3, H, W) to RGB (…, H, W, 3) in 0..1."""
    return (pictures.float() / 255).movedim(-3, -1).cpu().numpy()


def crop_field(picture: np.ndarray, field: ReceptiveField, row: int, col: int) -> np.ndarray:
    """The unit's receptive field cut out of an (H, W, 3) picture, white where it reaches beyond the border.

    A field larger than the image shows the image whole.
    """
    height, width = picture.shape[:2]
    top, left, bottom, right = field.box(row, col)
    rows, cols = min(field.size[0], height), min(field.size[1], width)
    if field.size[0] >= height:
        top, bottom = 0, height
    if field.size[1] >= width:
        left, right = 0, width
    canvas = np.ones((rows, cols, 3), picture.dtype)
    down = 0 if rows == height else max(0, -(field.offset[0] + row * field.stride[0]))
    across = 0 if cols == width else max(0, -(field.offset[1] + col * field.stride[1]))
    canvas[down : down + bottom - top, across : across + right - left] = picture[top:bottom, left:right]
    return canvas


def mosaic(tiles: Sequence[np.ndarray], columns: int, gap: int = 1) -> np.ndarray:
    """Equal tiles (h, w, 3) side by side, `columns` a row, white gaps between."""
    rows = -(-len(tiles) // columns)
    h, w = tiles[0].shape[:2]
    sheet = np.ones((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), np.float32)
    for i, tile in enumerate(tiles):
        r, c = i // columns * (h + gap), i % columns * (w + gap)
        sheet[r : r + h, c : c + w] = tile
    return sheet


def spread(images: Images, count: int) -> torch.Tensor:
    """Indices of `count` images spread evenly over the set, all of them when there are fewer."""
    return torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()


def random_maps(top: TopActivations, count: int, seed: int) -> torch.Tensor:
    """A seeded random subset of the feature maps that ever fire, sorted: (count,) channels (Fig. 2 shows a random subset)."""
    alive = (top.value[:, 0] > 0).nonzero().flatten()
    chosen = torch.randperm(len(alive), generator=torch.Generator().manual_seed(seed))[:count]
    return alive[chosen].sort().values


def top9_tiles(deconvnet: Deconvnet, images: Images, layer: str, top: TopActivations, channels: torch.Tensor):
    """For each channel its nine projections and its nine patches, cut to the receptive field: two lists of lists of (h, w, 3)."""
    field = receptive_field(deconvnet.features, layer, images.size)
    projections, patches = [], []
    for channel in channels.tolist():
        index, row, col = top.image[channel], top.row[channel], top.col[channel]
        found = deconvnet.project(images.batch(index), layer, channel, torch.stack([row, col], 1))
        pictures = to_grey_centred(found, contrast_scale(found))
        sources = to_rgb(images.pictures(index))
        units = list(zip(row.tolist(), col.tolist(), strict=True))
        projections.append([crop_field(p, field, *unit) for p, unit in zip(pictures, units, strict=True)])
        patches.append([crop_field(p, field, *unit) for p, unit in zip(sources, units, strict=True)])
    return projections, patches


def top9_figure(projections, patches, channels: torch.Tensor, title: str, columns: int = 4) -> Figure:
    """Fig. 2: the feature maps' 3x3 projections on the left, the 3x3 image patches that caused them on the right."""
    tile = projections[0][0].shape[0]
    sheets = []
    for blocks in (projections, patches):
        grids = [mosaic(block, 3, max(1, tile // 40)) for block in blocks]
        blocks_side, gap = grids[0].shape[0], max(3, grids[0].shape[0] // 14)
        sheets.append(mosaic(grids, columns, gap))
    shape = sheets[0].shape
    figure, halves = plt.subplots(1, 2, figsize=(12, 12 * 0.5 * shape[0] / shape[1]), gridspec_kw={"wspace": 0.03})
    for axes, sheet, name in zip(halves, sheets, ("projected down to pixels", "image patches"), strict=True):
        axes.imshow(sheet, interpolation="nearest" if tile < 40 else "antialiased")
        for i, channel in enumerate(channels.tolist()):
            x, y = (n * (blocks_side + gap) for n in (i % columns, i // columns))
            axes.text(x, y - gap * 0.12, f"{channel}", fontsize=6.5, color="0.35", va="bottom")
        axes.set_title(name, fontsize=10, pad=10)
        axes.set_axis_off()
    return _captioned(figure, title, f"Numbers are feature maps; each shows its 9 strongest activations, one per image, best first. {CONTRAST}")


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
    return _captioned(figure, title, "Above each panel: map, (row, column) of the unit, activation. Mid-grey is 0; one symmetric scale for all nine.")


def filters_figure(weight: torch.Tensor, title: str, columns: int = 16) -> Figure:
    """First-layer filters (maps, 3, k, k) on one symmetric scale, so that dead and dominating filters show (Fig. 6 a-c)."""
    scale = contrast_scale(weight.detach())
    sheet = mosaic(list(to_grey_centred(weight.detach(), scale)), columns)
    figure, axes = plt.subplots(figsize=(8, 8 * sheet.shape[0] / sheet.shape[1]))
    axes.imshow(sheet, interpolation="nearest")
    axes.set_axis_off()
    return _captioned(figure, title, f"Mid-grey is 0; one symmetric scale for all filters, the {PERCENTILE}th percentile of |weight|.")


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
    return _captioned(figure, title, f"Mid-grey is 0; one symmetric scale per panel, its {PERCENTILE}th percentile of |value|.")


def occlusion_figure(images: Images, indices: Sequence[int], occlusions: Sequence[Occlusion], projections: Sequence[torch.Tensor],
                     classes: Sequence[str], title: str) -> Figure:  # fmt: skip
    """Fig. 7, one row per image: (a) the image with the square, (b) activity, (c) projections, own image first, (d) probability, (e) class.

    `classes` names the net's outputs. The square is drawn as the network sees it: the training images' mean.
    """
    count = len(indices)
    figure, axes = plt.subplots(count, 5, figsize=(13, 2.25 * count), squeeze=False, gridspec_kw={"wspace": 0.24, "hspace": 0.16})
    names = ["(a) image and square", "(b) activity", "(c) projections", "(d) p(true class)", "(e) most probable class"]
    mean = (images.mean.expand(3, images.size, images.size).permute(1, 2, 0) / 255).numpy()
    for row, index, found, own in zip(axes, indices, occlusions, projections, strict=True):
        name = classes[found.target]
        picture = to_rgb(images.pictures([index]))[0].copy()
        worst = divmod(int(found.probability.argmin()), found.probability.shape[1])
        top, left = int(found.tops[worst[0]]), int(found.lefts[worst[1]])
        square = slice(top, top + found.size), slice(left, left + found.size)
        picture[square] = mean[square]
        row[0].imshow(picture)
        row[0].set_ylabel(name, fontsize=10)
        extent = (found.lefts[0] + found.size / 2, found.lefts[-1] + found.size / 2, found.tops[-1] + found.size / 2, found.tops[0] + found.size / 2)
        figure.colorbar(row[1].imshow(found.activity, cmap="jet", extent=extent, interpolation="nearest"), ax=row[1], fraction=0.046)
        row[2].imshow(_framed(own))
        figure.colorbar(row[3].imshow(found.probability, cmap="jet", vmin=0, vmax=1, extent=extent, interpolation="nearest"), ax=row[3], fraction=0.046)
        _label_map(row[4], found, classes, extent)
        for axis, text in zip(row, names, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{text}: map {found.channel}" if axis in row[1:3] else text, fontsize=9)
    size = occlusions[0].size
    caption = (f"Square of {size} px, every {occlusions[0].stride} px, drawn in (a) where the probability is lowest. (b, d, e): one cell per "
               "position of its centre, no interpolation. (c): black frame, this image; the others, the map's strongest images. ")  # fmt: skip
    return _captioned(figure, title, caption + CONTRAST)


def _framed(projections: torch.Tensor) -> np.ndarray:
    """Four projections (4, 3, H, W) as 2x2 on one scale, a black frame around the first."""
    tiles = list(to_grey_centred(projections, contrast_scale(projections)))
    edge = max(1, tiles[0].shape[0] // 40)
    tiles[0] = tiles[0].copy()
    tiles[0][:edge] = tiles[0][-edge:] = 0
    tiles[0][:, :edge] = tiles[0][:, -edge:] = 0
    return mosaic(tiles, 2, 2)


def _label_map(axis, found: Occlusion, classes: Sequence[str], extent) -> None:
    """Panel (e): the most probable class at each position, with the names of the most frequent ones."""
    labels, counts = found.label.unique(return_counts=True)
    labels = labels[counts.argsort(descending=True, stable=True)].tolist()
    colours = [plt.get_cmap("tab20")(i % 20) for i in range(len(labels))]
    codes = torch.zeros_like(found.label)
    for code, label in enumerate(labels):
        codes[found.label == label] = code
    axis.imshow(codes, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(labels) - 0.5, extent=extent, interpolation="nearest")
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in colours[:6]]
    axis.legend(handles, [classes[label] for label in labels[:6]], fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, frameon=False)


def training_figure(history: list[dict[str, float]], title: str) -> Figure:
    """Loss and error of training and validation images by epoch."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4))
    epochs = [row["epoch"] for row in history]
    for axis, kind in zip(axes, ("loss", "error"), strict=True):
        for split in ("train", "val"):
            axis.plot(epochs, [row[f"{split}_{kind}"] for row in history], marker="o", markersize=3, label={"train": "training", "val": "validation"}[split])
        axis.set(xlabel="epoch", ylabel=kind, ylim=(0, None))
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    return _captioned(figure, title, "Training values are running means over the epoch, with dropout and random crops; validation uses the centre crop.")


def confusion_figure(predictions: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], title: str) -> Figure:
    """Confusion matrix, true class by row, in counts (numbers are drawn for up to 20 classes)."""
    n = len(classes)
    table = torch.zeros(n, n, dtype=torch.long).index_put_((labels, predictions), torch.tensor(1), accumulate=True)
    figure, axis = plt.subplots(figsize=(6.4, 5.6) if n <= 20 else (9, 8.4))
    axis.imshow(table / table.sum(1, keepdim=True).clamp_min(1), cmap="Blues", vmin=0, vmax=1)
    axis.set(xticks=range(n), yticks=range(n), xlabel="predicted class", ylabel="true class")
    axis.set_xticklabels(classes, rotation=90 if n > 20 else 40, ha="center" if n > 20 else "right", fontsize=9 if n <= 20 else 4)
    axis.set_yticklabels(classes, fontsize=9 if n <= 20 else 4)
    for i, j in table.nonzero().tolist() if n <= 20 else ():
        axis.text(j, i, int(table[i, j]), ha="center", va="center", fontsize=7, color="white" if i == j else "black")
    return _captioned(figure, title, "Colour: share of the true class's test images.")


def predictions_figure(images: Images, indices: torch.Tensor, probabilities: torch.Tensor, title: str, columns: int = 8) -> Figure:
    """Test images with the predicted class and its probability; red where it is wrong."""
    rows = -(-len(indices) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(12, 1.68 * rows), squeeze=False, gridspec_kw={"wspace": 0.05, "hspace": 0.2})  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, index, picture in zip(axes.flat, indices.tolist(), to_rgb(images.pictures(indices)), strict=False):
        guess = int(probabilities[index].argmax())
        right = guess == int(images.labels[index])
        axis.imshow(picture)
        axis.set_title(f"{images.classes[guess]} {float(probabilities[index, guess]):.0%}", fontsize=7.5, color="black" if right else "crimson")
    return _captioned(figure, title, "A random subset of the test images: predicted class and its probability; red where it is wrong.")


def _captioned(figure: Figure, title: str, caption: str) -> Figure:
    """Title above and caption below all axes, wherever these end; the axes fill the figure."""
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
    figure.canvas.draw()
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans + figure.transFigure.inverted())
    inch = 1 / figure.get_figheight()
    middle = (box.x0 + box.x1) / 2
    figure.text(middle, box.y1 + 0.12 * inch, title, ha="center", va="bottom", fontsize=12)
    width = int(figure.get_figwidth() * (box.x1 - box.x0) * 14.5)
    figure.text(middle, box.y0 - 0.12 * inch, textwrap.fill(caption, width), ha="center", va="top", fontsize=8, color="0.3")
    return figure


def save_figure(figure: Figure, profile: Profile, name: str) -> Path:
    """Write Figures/<profile>/<name>.png, atomically, without a time stamp and below 500 kB; returns its path.

    A larger picture is reduced to 256 colours, and then, if need be, drawn with fewer dots per inch.
    """
    path = profile.figures / f"{name}.png"
    for dpi in (DPI, DPI * 0.85, DPI * 0.7, DPI * 0.55):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
        if buffer.tell() > LIMIT:
            picture = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
            buffer = io.BytesIO()
            picture.save(buffer, format="png", optimize=True)
        if buffer.tell() <= LIMIT:
            break
    with provenance.atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return path


def save_table(rows: Sequence[dict[str, object]], profile: Profile, name: str, **made_of) -> Path:
    """Write Figures/<profile>/<name>.csv, its provenance in comment lines above the header; returns its path."""
    path = profile.figures / f"{name}.csv"
    with provenance.atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        for key, value in provenance.record(profile, **made_of).items():
            file.write(f"# {key}: {value}\n")
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def fingerprint(values: torch.Tensor) -> str:
    """A numeric fingerprint of what a picture shows, printed beside it: shape, mean and standard deviation to three digits."""
    values = values.double()
    return f"{tuple(values.shape)} mean {values.mean():.3g} std {values.std():.3g}"
