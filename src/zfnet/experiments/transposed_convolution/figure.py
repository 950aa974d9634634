"""Small arrays with their numbers written in the cells, and one real unit under three rules for
shared maxima.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from zfnet.experiments.transposed_convolution.compute import Walk, convolution_matrix
from zfnet.plots.panels import PERCENTILE, captioned, contrast_scale, to_grey_centred

# one colour per pooling window, told apart by all readers
WINDOWS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")
RIGHT, WRONG = "#1B7837", "#B2182B"


def draw_array(
    axis: Axes,
    values: torch.Tensor,
    corner: tuple[float, float],
    title: str = "",
    colours: Mapping | None = None,
    size: float = 1.0,
    fontsize: float = 9,
    names: Mapping | None = None,
) -> None:
    """A matrix (R, C) of numbers as cells of side `size`, its upper left corner at (x, y) of an
    axis whose y points down.

    `colours` {(row, col): colour, or several that share the cell}; `names` {(row, col): text
    instead of the number}. Zeros are grey, negative numbers red.
    """
    rows, cols = values.shape
    for r, c in np.ndindex(rows, cols):
        # no minus zero
        x, y, value = corner[0] + c * size, corner[1] + r * size, float(values[r, c]) + 0.0
        shades = (colours or {}).get((r, c), ())
        shades = (shades,) if isinstance(shades, str) else shades
        for n, shade in enumerate(shades):  # one: the whole cell; two: a triangle each
            ends = (
                [(x, y), (x + size, y), (x, y + size)]
                if n == 0
                else [(x + size, y + size), (x + size, y), (x, y + size)]
            )
            axis.add_patch(
                Polygon(
                    (
                        ends
                        if len(shades) > 1
                        else [(x, y), (x + size, y), (x + size, y + size), (x, y + size)]
                    ),
                    color=shade,
                    alpha=0.6,
                    lw=0,
                )
            )
        axis.add_patch(Rectangle((x, y), size, size, fill=False, edgecolor="0.65", linewidth=0.6))
        ink = WRONG if value < 0 else "black" if value > 0 or shades else "0.7"
        text = (names or {}).get((r, c), f"{value:g}".replace("-", "\N{MINUS SIGN}"))
        axis.text(
            x + size / 2,
            y + size / 2,
            text,
            ha="center",
            va="center",
            fontsize=fontsize,
            color=ink,
            fontweight="bold" if shades else None,
        )
    axis.text(
        corner[0] + cols * size / 2, corner[1] - 0.25, title, ha="center", va="bottom", fontsize=9
    )


def _arrow(
    axis: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    above: str = "",
    below: str = "",
) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "0.25", "lw": 1.4})
    middle = (start[0] + end[0]) / 2
    axis.text(
        middle, start[1] - 0.25, above, ha="center", va="bottom", fontsize=9, fontweight="bold"
    )
    axis.text(middle, start[1] + 0.25, below, ha="center", va="top", fontsize=7.5, color="0.3")


def _canvas(width: float, height: float, inches: float) -> tuple[Figure, Axes]:
    figure, axis = plt.subplots(figsize=(inches, inches * height / width))
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axis.set_axis_off()
    return figure, axis


def _window_colours(found: Walk) -> tuple[dict, dict]:
    """{pooled cell: its window's colour} and {map cell: the colours of the windows whose maximum it
    is}.
    """
    cols = found.rectified.shape[1]
    windows, cells = {}, {}
    for n, (place, switch) in enumerate(np.ndenumerate(found.switches.numpy())):
        windows[place] = WINDOWS[n % len(WINDOWS)]
        cells.setdefault(divmod(int(switch), cols), []).append(windows[place])
    return windows, {cell: tuple(colours) for cell, colours in cells.items()}


def walk_figure(found: Walk, title: str) -> Figure:
    """Forward row, backward row, and the shared maximum under the three rules; each pooling window
    has a colour (2 x 2 windows).
    """
    windows, cells = _window_colours(found)
    shared = {cell: colours for cell, colours in cells.items() if len(colours) > 1}
    (h, w), (mh, mw), (ph, pw) = found.image.shape, found.rectified.shape, found.pooled.shape
    # left edges: image, map, rectified map, pooled map
    at = np.cumsum([0.3, w + 3.8, mw + 3.4, mw + 3.4])
    up, down, third = 1.9, h + 4.6, 2 * h + 7.3
    width = at[3] + pw + 0.5
    figure, axis = _canvas(width, third + mh + 1.1, 12)
    for y, name in (
        (up, "UP: the forward pass"),
        (down, "DOWN: the deconvnet"),
        (third, "THE SHARED MAXIMUM: three rules for unpooling it"),
    ):
        axis.text(at[0], y - 1.2, name, fontsize=10.5, fontweight="bold", color="0.25")

    draw_array(axis, found.image, (at[0], up), f"image {h} x {w}")
    draw_array(axis, found.convolved, (at[1], up), "map")
    draw_array(axis, found.rectified, (at[2], up), "rectified map; coloured: the switches", cells)
    draw_array(axis, found.pooled, (at[3], up + (mh - ph) / 2), "pooled", windows)
    # outlines of the pooling windows, a little inside one another
    for n, (r, c) in enumerate(np.ndindex(ph, pw)):
        inset = 0.06 + 0.07 * n
        axis.add_patch(
            Rectangle(
                (at[2] + 2 * c + inset, up + 2 * r + inset),
                3 - 2 * inset,
                3 - 2 * inset,
                fill=False,
                edgecolor=windows[r, c],
                lw=1.8,
            )
        )
    middle = up + mh / 2
    k = found.weight.shape[0]
    for y in (middle, down + mh / 2):
        draw_array(
            axis,
            found.weight,
            (at[0] + w + 1.9 - k * 0.45, y - 0.9 - k * 0.9),
            size=0.9,
            fontsize=8,
        )
    bias = float((found.convolved[0, 0] - (found.image[:k, :k] * found.weight).sum()).item())
    _arrow(
        axis,
        (at[0] + w + 0.4, middle),
        (at[1] - 0.4, middle),
        "filter",
        f"bias {bias:g}".replace("-", "\N{MINUS SIGN}"),
    )
    _arrow(axis, (at[1] + mw + 0.4, middle), (at[2] - 0.4, middle), "rectify", "negative: 0")
    _arrow(
        axis,
        (at[2] + mw + 0.4, middle),
        (at[3] - 0.4, middle),
        "max-pool",
        "3 x 3, every 2:\nwindows overlap",
    )

    sums = {
        cell: "+".join(
            f"{float(found.signal[place]):g}" for place in windows if windows[place] in colours
        )
        for cell, colours in shared.items()
    }
    draw_array(axis, found.picture["add"], (at[0], down), f"picture {h} x {w}")
    draw_array(axis, found.kept["add"], (at[1], down), "rectified signal", cells)
    draw_array(
        axis, found.unpooled["add"], (at[2], down), "unpooled: values at the switches", cells
    )
    draw_array(axis, found.signal, (at[3], down + (mh - ph) / 2), "signal\nfrom above", windows)
    for (r, c), text in sums.items():
        axis.text(
            at[2] + c + 0.5, down + r + 0.04, text, ha="center", va="top", fontsize=6, color="0.2"
        )
    middle = down + mh / 2
    _arrow(
        axis,
        (at[3] - 0.4, middle),
        (at[2] + mw + 0.4, middle),
        "unpool",
        "back to where the\nmaximum was;\nshared: added",
    )
    _arrow(axis, (at[2] - 0.4, middle), (at[1] + mw + 0.4, middle), "rectify", "negative: 0")
    _arrow(
        axis,
        (at[1] - 0.4, middle),
        (at[0] + w + 0.4, middle),
        "filter",
        "transposed:\nstamp value x kernel,\nadd; no bias",
    )

    both = float((found.pooled * found.signal).sum())
    left, right = "\N{MATHEMATICAL LEFT ANGLE BRACKET}", "\N{MATHEMATICAL RIGHT ANGLE BRACKET}"
    texts = {
        "add": "the sum: nothing is lost.\nThe adjoint of pooling,\nand what the gradient does",
        "overwrite": "the last window wins,\nthe other value is lost.\nWhat MaxUnpool2d does",
        "max": "the largest wins,\nthe other value is lost",
    }
    for n, (rule, text) in enumerate(texts.items()):
        product = float((found.rectified * found.unpooled[rule]).sum())
        ink, x = RIGHT if product == both else WRONG, at[0] + n * (width - 0.3) / 3
        draw_array(axis, found.unpooled[rule], (x, third), rule, shared)
        for cell, colours in shared.items():
            axis.add_patch(
                Rectangle(
                    (x + cell[1], third + cell[0]),
                    1,
                    1,
                    fill=False,
                    edgecolor=ink,
                    lw=2.5,
                    zorder=3,
                )
            )
            offered = " and ".join(
                f"{float(found.signal[place]):g}" for place in windows if windows[place] in colours
            )
            got = f"{float(found.unpooled[rule][cell]):g}"
            axis.text(
                x + mw + 0.3,
                third + 1.2,
                f"{offered} \N{RIGHTWARDS ARROW} {got}",
                fontsize=11,
                fontweight="bold",
                color=ink,
            )
        axis.text(
            x + mw + 0.3, third + 1.6, text, va="top", fontsize=7.5, color="0.3", linespacing=1.5
        )
        sign = "=" if product == both else "\N{NOT EQUAL TO}"
        identity = (
            f"{left}map, unpooled{right} = {product:g}  {sign}  {both:g} = {left}pooled,"
            f" signal{right}"
        )
        axis.text(x, third + mh + 0.3, identity, va="top", fontsize=8.5, color=ink)
    caption = (
        "Each pooling window has its colour, in the pooled map, in the signal and at its switch,"
        " the place of its maximum. The cell of two colours is the maximum of two windows. Angle"
        " brackets: the sum of the products of corresponding cells."
    )
    return captioned(figure, title, caption)


def matrix_figure(
    image: torch.Tensor, weight: torch.Tensor, signal: torch.Tensor, title: str
) -> Figure:
    """A convolution of image (H, W) with weight (k, k), stride 1, as a matrix: each output a row
    (up); each value of `signal` a stamp (down).
    """
    (h, w), (k, _), (oh, ow) = image.shape, weight.shape, signal.shape
    matrix = convolution_matrix(weight[None, None], (h, w))
    outputs = (matrix @ image.flatten()).view(oh, ow)
    figure, axis = _canvas(
        (oh * ow + 1) * (w + 1.4) + ow + 1.2, max(h, oh * ow * 0.85) + h + 5.6, 13
    )
    colours = {place: WINDOWS[n % len(WINDOWS)] for n, place in enumerate(np.ndindex(oh, ow))}
    top, low = 2.2, max(h, oh * ow * 0.85) + 5.4
    axis.text(
        0.2,
        top - 1.3,
        "UP: every output reads one window: a row of A",
        fontsize=10,
        fontweight="bold",
        color="0.25",
    )
    draw_array(axis, image, (0.2, top), f"image x, {h} x {w}")
    draw_array(axis, weight, (w + 0.9, top), "kernel")
    left, cell = w + k + 2.2, 0.85
    marks = {
        (n, int(j)): colours[place]
        for n, place in enumerate(colours)
        for j in matrix[n].nonzero().flatten()
    }
    draw_array(
        axis,
        matrix,
        (left, top),
        f"A: {oh * ow} outputs by {h * w} pixels (row by row)",
        marks,
        cell,
        8,
    )
    right = left + h * w * cell
    axis.text(right + 0.8, top + oh * ow * cell / 2, "x =", ha="center", va="center", fontsize=11)
    draw_array(axis, outputs, (right + 1.7, top + (oh * ow * cell - oh) / 2), "A x", colours)
    axis.text(
        0.2,
        low - 1.3,
        "DOWN: every value stamps the kernel where it was read: a row of A again, now a column of A"
        " transposed",
        fontsize=10,
        fontweight="bold",
        color="0.25",
    )
    draw_array(axis, signal, (0.2, low + (h - oh) / 2), "signal y", colours)
    total, x = torch.zeros(h, w, dtype=image.dtype), ow + 1.6
    for n, place in enumerate(np.ndindex(oh, ow)):
        stamp = float(signal[place]) * matrix[n].view(h, w)
        total = total + stamp
        axis.text(
            x - 0.7, low + h / 2, "=" if n == 0 else "+", ha="center", va="center", fontsize=12
        )
        spots = {tuple(map(int, spot)): colours[place] for spot in matrix[n].view(h, w).nonzero()}
        draw_array(
            axis,
            stamp,
            (x, low),
            f"{float(signal[place]):g} \N{MULTIPLICATION SIGN} kernel".replace(
                "-", "\N{MINUS SIGN}"
            ),
            spots,
        )
        x += w + 1.4
    axis.text(x - 0.7, low + h / 2, "=", ha="center", va="center", fontsize=12)
    draw_array(axis, total, (x, low), "$A^T y$")
    both = float((outputs * signal).sum())
    caption = (
        "One colour per output. The adjoint identity: the products of A x with y, cell by cell,"
        f" sum to {both:g}; those of x with $A^T y$ to {float((image * total).sum()):g}."
    )
    return captioned(figure, title, caption)


def overlap_figure(
    picture: np.ndarray,
    projections: Mapping[str, torch.Tensor],
    collisions: Mapping[str, tuple[float, float]],
    differences: Mapping[str, torch.Tensor],
    title: str,
) -> Figure:
    """One real unit: its image (H, W, 3), its projection (3, H, W) under each rule and the errors
    against "add", all on one scale; beside them, how many windows of each pool share their maximum,
    and the relative L2 difference over many units ({rule: (N,)}).
    """
    figure, axes = plt.subplots(
        2, 4, figsize=(11, 5.9), gridspec_kw={"wspace": 0.12, "hspace": 0.22}
    )
    add = projections["add"]
    scale = contrast_scale(add)
    axes[0, 0].imshow(picture)
    axes[0, 0].set_title("image", fontsize=9)
    for axis, (rule, found) in zip(axes[0, 1:], projections.items(), strict=True):
        axis.imshow(to_grey_centred(found, scale))
        axis.set_title(
            {"add": "add: the adjoint", "overwrite": "overwrite (MaxUnpool2d)"}.get(rule, rule),
            fontsize=9,
        )
    for axis, rule in zip(axes[1, 2:], differences, strict=True):
        error = projections[rule] - add
        axis.imshow(to_grey_centred(error, scale))
        axis.set_title(
            f"{rule} \N{MINUS SIGN} add: {float(error.norm() / add.norm()):.0%} of add", fontsize=9
        )
    for axis in [*axes[0], *axes[1, 2:]]:
        axis.set_axis_off()
    bars = axes[1, 0]
    for y, shares in enumerate(collisions.values()):
        for share, place, shade, name in zip(
            shares,
            (y - 0.19, y + 0.19),
            (WINDOWS[0], WINDOWS[2]),
            ("all", "that fire"),
            strict=True,
        ):
            bars.barh(place, 100 * share, color=shade, height=0.36)
            bars.text(100 * share + 1.5, place, f"{name}: {share:.0%}", va="center", fontsize=7.5)
    bars.set(
        yticks=range(len(collisions)),
        yticklabels=list(collisions),
        xlim=(0, 100),
        ylim=(len(collisions) - 0.4, -0.6),
    )
    bars.set_title("windows that share their maximum, %", fontsize=9)
    strip = axes[1, 1]
    for y, (rule, values) in enumerate(differences.items()):
        jitter = np.linspace(-0.18, 0.18, len(values))
        strip.plot(
            100 * values.cpu().numpy(), y + jitter, "o", color=WINDOWS[1], markersize=3, alpha=0.7
        )
        mean = 100 * float(values.mean())
        strip.plot([mean, mean], [y - 0.3, y + 0.3], color="black", lw=1.5)
        most = 100 * max(float(one.max()) for one in differences.values())
        strip.text(
            mean,
            y - 0.34,
            f"{rule}: mean {mean:.0f} %",
            ha="right" if mean > 0.6 * most else "center",
            va="bottom",
            fontsize=8,
        )
    strip.set(yticks=[], xlim=(0, None), ylim=(len(differences) - 0.5, -0.75))
    strip.set_title("difference from add, %", fontsize=9)
    for axis in (bars, strip):
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_box_aspect(0.86)
    count = len(next(iter(differences.values())))
    caption = (
        "Projections and differences: mid-grey is 0; one symmetric scale for all five, the"
        f' {PERCENTILE}th percentile of |value| of "add". Lower left: of all windows, and of those'
        f" whose maximum is positive, over {count} images. Beside it: one dot per image, for its"
        " strongest unit, the relative L2 difference of the projection."
    )
    return captioned(figure, title, caption)
