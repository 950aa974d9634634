"""What every figure is built from; the contrast rule is that of `contrast.py`.

Patches are the exact receptive fields, clipped at the image's border; what lies outside the image
stays white.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np

from zfnet.graph.windows import ReceptiveField
from zfnet.plots.contrast import PERCENTILE
from zfnet.plots.text import literal

CONTRAST = (
    f"Projections: mid-grey is 0; one symmetric scale per feature map, its {PERCENTILE}th"
    " percentile of |value|."
)


def crop_field(picture: np.ndarray, field: ReceptiveField, row: int, col: int) -> np.ndarray:
    """The unit's receptive field cut out of an (H, W, 3) picture, white where it reaches beyond the
    border.

    A field larger than the image shows the image whole.
    """
    height, width = picture.shape[:2]
    # the box is clipped to the image; the canvas has the size of a whole field, or the image's
    top, left, bottom, right = field.box(row, col)
    rows, cols = min(field.size[0], height), min(field.size[1], width)
    top, bottom = (0, height) if rows == height else (top, bottom)
    left, right = (0, width) if cols == width else (left, right)
    canvas = np.ones((rows, cols, 3), picture.dtype)
    # how far the field reaches beyond the border above and on the left
    down = 0 if rows == height else max(0, -(field.offset[0] + row * field.stride[0]))
    across = 0 if cols == width else max(0, -(field.offset[1] + col * field.stride[1]))
    canvas[down : down + bottom - top, across : across + right - left] = picture[
        top:bottom, left:right
    ]
    return canvas


def field_tile(
    patch: np.ndarray, corner: list[int], box: list[int], side: int, zero: float = 0.5
) -> np.ndarray:
    """`crop_field` of a projection of which only its (h, w, 3) `patch` was made, at `corner`; box:
    the part of it inside the image.

    White beyond the border, and `zero` where a field larger than the image (`side`) leaves a part
    of it unseen.
    """
    (top, left), (first, start, last, end) = corner, box
    height, width = min(patch.shape[0], side), min(patch.shape[1], side)
    # the canvas's corner in the image
    down, across = 0 if height == side else top, 0 if width == side else left
    canvas = np.ones((height, width, 3), patch.dtype)
    # inside the image zero, then what the unit sees of it
    canvas[max(0, -down) : side - down, max(0, -across) : side - across] = zero
    canvas[first - down : last - down, start - across : end - across] = patch[
        first - top : last - top, start - left : end - left
    ]
    return canvas


def mosaic(tiles: list[np.ndarray], columns: int, gap: int = 1) -> np.ndarray:
    """Equal tiles (h, w, 3) side by side, `columns` a row, white gaps between."""
    rows = -(-len(tiles) // columns)
    h, w = tiles[0].shape[:2]
    sheet = np.ones((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), np.float32)
    for i, tile in enumerate(tiles):
        r, c = i // columns * (h + gap), i % columns * (w + gap)
        sheet[r : r + h, c : c + w] = tile
    return sheet


def show(
    axis: plt.Axes,
    picture: np.ndarray,
    title: str = "",
    framed: bool = False,
    interpolation: str | None = None,
    **font,
) -> None:
    """A picture (H, W, 3) in 0..1 without ticks, with a line around it where `framed`; its title in
    9 points, unless `font` says otherwise.
    """
    axis.imshow(picture, interpolation=interpolation)
    axis.set(xticks=[], yticks=[], frame_on=framed)
    axis.set_title(title, **{"fontsize": 9, **font})


def chart(axis: plt.Axes, title: str = "", size: float = 10, **settings) -> None:
    """What an axis of curves or bars says, `settings` as for `Axes.set`, under a title in `size`
    points; without lines above and on the right.
    """
    axis.set(**settings)
    axis.set_title(title, fontsize=size)
    axis.spines[["top", "right"]].set_visible(False)


def outline(axis: plt.Axes, box: tuple[int, ...], **line) -> None:
    """A frame around the pixels of a box (top, left, bottom, right), half-open, of a picture."""
    top, left, bottom, right = box
    # pixels' centres are at whole numbers
    axis.add_patch(
        plt.Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, **line)
    )


def chance_label(
    axis: plt.Axes, x: float, chance: float, ha: str = "left", size: float = 8
) -> None:
    """The word "chance" at `x`, below the line at `chance` (0..1, on an axis in per cent), or above
    it where the axis is near.
    """
    side, va = (-1, "top") if chance > 0.05 else (1, "bottom")
    axis.text(x, 100 * chance + side, "chance", ha=ha, va=va, fontsize=size, color="0.4")


def captioned(figure: plt.Figure, title: str, caption: str) -> plt.Figure:
    """Title above and caption below all axes, wherever these end; the axes fill the figure. The
    title is drawn as it is, in the caption dollars begin mathematics.
    """
    title = literal(title)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
    figure.canvas.draw()
    box = figure.get_tightbbox().transformed(figure.dpi_scale_trans + figure.transFigure.inverted())
    gap, middle = 0.12 * (1 / figure.get_figheight()), (box.x0 + box.x1) / 2
    figure.text(middle, box.y1 + gap, title, ha="center", va="bottom", fontsize=12)
    caption = textwrap.fill(caption, int(figure.get_figwidth() * (box.x1 - box.x0) * 14.5))
    figure.text(middle, box.y0 - gap, caption, ha="center", va="top", fontsize=8, color="0.3")
    return figure
