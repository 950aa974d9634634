"""Small arrays with their numbers written in the cells, and one real unit under three rules for
shared maxima.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from zfnet.experiments.transposed_convolution.compute import Walk, convolution_matrix
from zfnet.plots import PERCENTILE, captioned, chart, contrast_scale, show, to_grey_centred

# one colour per pooling window, told apart by all readers
WINDOWS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")
RIGHT, WRONG = "#1B7837", "#B2182B"


def draw_array(
    axis: plt.Axes,
    values: torch.Tensor,
    corner: tuple[float, float],
    title: str = "",
    colours: dict | None = None,
    size: float = 1.0,
    fontsize: float = 9,
) -> None:
    """A matrix (R, C) of numbers as cells of side `size`, its upper left corner at (x, y) of an
    axis whose y points down.

    `colours` {(row, col): colour, or several that share the cell}. Zeros are grey, negative numbers
    red.
    """
    rows, cols = values.shape
    for r, c in np.ndindex(rows, cols):
        # no minus zero
        x, y, value = corner[0] + c * size, corner[1] + r * size, float(values[r, c]) + 0.0
        shades = (colours or {}).get((r, c), ())
        shades = (shades,) if isinstance(shades, str) else shades
        first, right, last, below = (x, y), (x + size, y), (x + size, y + size), (x, y + size)
        # one: the whole cell; two: a triangle each
        for n, shade in enumerate(shades):
            half = (last if n else first, right, below)
            axis.add_patch(
                plt.Polygon(
                    half if len(shades) > 1 else (first, right, last, below),
                    color=shade,
                    alpha=0.6,
                    lw=0,
                )
            )
        axis.add_patch(
            plt.Rectangle((x, y), size, size, fill=False, edgecolor="0.65", linewidth=0.6)
        )
        axis.text(
            x + size / 2,
            y + size / 2,
            f"{value:g}".replace("-", "\N{MINUS SIGN}"),
            ha="center",
            va="center",
            fontsize=fontsize,
            color=WRONG if value < 0 else "black" if value > 0 or shades else "0.7",
            fontweight="bold" if shades else None,
        )
    axis.text(
        corner[0] + cols * size / 2, corner[1] - 0.25, title, ha="center", va="bottom", fontsize=9
    )


def _canvas(width: float, height: float, inches: float) -> tuple[plt.Figure, plt.Axes]:
    figure, axis = plt.subplots(figsize=(inches, inches * height / width))
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axis.set_axis_off()
    return figure, axis


def walk_figure(found: Walk, title: str) -> plt.Figure:
    """Forward row, backward row, and the shared maximum under the three rules; each pooling window
    has a colour (2 x 2 windows).
    """
    # {pooled cell: its window's colour}, {map cell: the colours of the windows whose maximum it is}
    windows, cells = {}, {}
    for n, (place, switch) in enumerate(np.ndenumerate(found.switches.numpy())):
        windows[place] = WINDOWS[n % len(WINDOWS)]
        cell = divmod(int(switch), found.rectified.shape[1])
        cells[cell] = (*cells.get(cell, ()), windows[place])
    shared = {cell: colours for cell, colours in cells.items() if len(colours) > 1}
    # {shared cell: what the windows would put there}
    offered = {
        cell: [f"{float(found.signal[at]):g}" for at in windows if windows[at] in colours]
        for cell, colours in shared.items()
    }
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
    inset = (mh - ph) / 2
    for values, place, name, colours in (
        (found.image, (at[0], up), f"image {h} x {w}", None),
        (found.convolved, (at[1], up), "map", None),
        (found.rectified, (at[2], up), "rectified map; coloured: the switches", cells),
        (found.pooled, (at[3], up + inset), "pooled", windows),
        (found.picture["add"], (at[0], down), f"picture {h} x {w}", None),
        (found.kept["add"], (at[1], down), "rectified signal", cells),
        (found.unpooled["add"], (at[2], down), "unpooled: values at the switches", cells),
        (found.signal, (at[3], down + inset), "signal\nfrom above", windows),
    ):
        draw_array(axis, values, place, name, colours)
    # outlines of the pooling windows, a little inside one another
    for n, (r, c) in enumerate(np.ndindex(ph, pw)):
        inset = 0.06 + 0.07 * n
        corner, side = (at[2] + 2 * c + inset, up + 2 * r + inset), 3 - 2 * inset
        line = {"edgecolor": windows[r, c], "lw": 1.8}
        axis.add_patch(plt.Rectangle(corner, side, side, fill=False, **line))
    k, high, low = found.weight.shape[0], up + mh / 2, down + mh / 2
    bias = float((found.convolved[0, 0] - (found.image[:k, :k] * found.weight).sum()).item())
    # where the arrows begin and end: beside the image, the map, the rectified map, the pooled map
    ends = [at[0] + w + 0.4, at[1] - 0.4, at[1] + mw + 0.4, at[2] - 0.4, at[2] + mw + 0.4]
    ends.append(at[3] - 0.4)
    for start, end, y, above, below in (
        (0, 1, high, "filter", f"bias {bias:g}".replace("-", "\N{MINUS SIGN}")),
        (2, 3, high, "rectify", "negative: 0"),
        (4, 5, high, "max-pool", "3 x 3, every 2:\nwindows overlap"),
        (5, 4, low, "unpool", "back to where the\nmaximum was;\nshared: added"),
        (3, 2, low, "rectify", "negative: 0"),
        (1, 0, low, "filter", "transposed:\nstamp value x kernel,\nadd; no bias"),
    ):
        axis.annotate(
            "",
            (ends[end], y),
            (ends[start], y),
            arrowprops={"arrowstyle": "-|>", "color": "0.25", "lw": 1.4},
        )
        x = (ends[start] + ends[end]) / 2
        axis.text(x, y - 0.25, above, ha="center", va="bottom", fontsize=9, fontweight="bold")
        axis.text(x, y + 0.25, below, ha="center", va="top", fontsize=7.5, color="0.3")
    for y in (high, low):
        corner = at[0] + w + 1.9 - k * 0.45, y - 0.9 - k * 0.9
        draw_array(axis, found.weight, corner, size=0.9, fontsize=8)
    for (r, c), values in offered.items():
        x, y = at[2] + c + 0.5, down + r + 0.04
        axis.text(x, y, "+".join(values), ha="center", va="top", fontsize=6, color="0.2")

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
        beside = x + mw + 0.3
        for (r, c), values in offered.items():
            line = {"edgecolor": ink, "lw": 2.5, "zorder": 3}
            axis.add_patch(plt.Rectangle((x + c, third + r), 1, 1, fill=False, **line))
            got = f"{float(found.unpooled[rule][r, c]):g}"
            axis.text(
                beside,
                third + 1.2,
                f"{' and '.join(values)} \N{RIGHTWARDS ARROW} {got}",
                fontsize=11,
                fontweight="bold",
                color=ink,
            )
        axis.text(beside, third + 1.6, text, va="top", fontsize=7.5, color="0.3", linespacing=1.5)
        sign = "=" if product == both else "\N{NOT EQUAL TO}"
        axis.text(
            x,
            third + mh + 0.3,
            f"{left}map, unpooled{right} = {product:g}  {sign}  {both:g} = {left}pooled,"
            f" signal{right}",
            va="top",
            fontsize=8.5,
            color=ink,
        )
    return captioned(
        figure,
        title,
        "Each pooling window has its colour, in the pooled map, in the signal and at its switch,"
        " the place of its maximum. The cell of two colours is the maximum of two windows. Angle"
        " brackets: the sum of the products of corresponding cells.",
    )


def matrix_figure(
    image: torch.Tensor, weight: torch.Tensor, signal: torch.Tensor, title: str
) -> plt.Figure:
    """A convolution of image (H, W) with weight (k, k), stride 1, as a matrix: each output a row
    (up); each value of `signal` a stamp (down).
    """
    (h, w), (k, _), (oh, ow) = image.shape, weight.shape, signal.shape
    matrix = convolution_matrix(weight[None, None], (h, w))
    outputs, tall = (matrix @ image.flatten()).view(oh, ow), max(h, oh * ow * 0.85)
    figure, axis = _canvas((oh * ow + 1) * (w + 1.4) + ow + 1.2, tall + h + 5.6, 13)
    colours = {place: WINDOWS[n % len(WINDOWS)] for n, place in enumerate(np.ndindex(oh, ow))}
    top, low = 2.2, tall + 5.4
    for y, text in (
        (top, "UP: every output reads one window: a row of A"),
        (
            low,
            "DOWN: every value stamps the kernel where it was read: a row of A again, now a column"
            " of A transposed",
        ),
    ):
        axis.text(0.2, y - 1.3, text, fontsize=10, fontweight="bold", color="0.25")
    draw_array(axis, image, (0.2, top), f"image x, {h} x {w}")
    draw_array(axis, weight, (w + 0.9, top), "kernel")
    left, cell = w + k + 2.2, 0.85
    marks = {
        (n, int(j)): colours[place]
        for n, place in enumerate(colours)
        for j in matrix[n].nonzero().flatten()
    }
    name = f"A: {oh * ow} outputs by {h * w} pixels (row by row)"
    draw_array(axis, matrix, (left, top), name, marks, cell, 8)
    right = left + h * w * cell
    axis.text(right + 0.8, top + oh * ow * cell / 2, "x =", ha="center", va="center", fontsize=11)
    draw_array(axis, outputs, (right + 1.7, top + (oh * ow * cell - oh) / 2), "A x", colours)
    draw_array(axis, signal, (0.2, low + (h - oh) / 2), "signal y", colours)
    total, x = torch.zeros(h, w, dtype=image.dtype), ow + 1.6
    for n, place in enumerate(np.ndindex(oh, ow)):
        stamp = float(signal[place]) * matrix[n].view(h, w)
        total = total + stamp
        sign = {"ha": "center", "va": "center", "fontsize": 12}
        axis.text(x - 0.7, low + h / 2, "=" if n == 0 else "+", **sign)
        spots = {tuple(map(int, spot)): colours[place] for spot in matrix[n].view(h, w).nonzero()}
        name = f"{float(signal[place]):g} \N{MULTIPLICATION SIGN} kernel"
        draw_array(axis, stamp, (x, low), name.replace("-", "\N{MINUS SIGN}"), spots)
        x += w + 1.4
    axis.text(x - 0.7, low + h / 2, "=", **sign)
    draw_array(axis, total, (x, low), "$A^T y$")
    both = float((outputs * signal).sum())
    return captioned(
        figure,
        title,
        "One colour per output. The adjoint identity: the products of A x with y, cell by cell,"
        f" sum to {both:g}; those of x with $A^T y$ to {float((image * total).sum()):g}.",
    )


def overlap_figure(
    picture: np.ndarray,
    projections: dict[str, torch.Tensor],
    collisions: dict[str, tuple[float, float]],
    differences: dict[str, torch.Tensor],
    title: str,
) -> plt.Figure:
    """One real unit: its image (H, W, 3), its projection (3, H, W) under each rule and the errors
    against "add", all on one scale; beside them, how many windows of each pool share their maximum,
    and the relative L2 difference over many units ({rule: (N,)}).
    """
    figure, axes = plt.subplots(
        2, 4, figsize=(11, 5.9), gridspec_kw={"wspace": 0.12, "hspace": 0.22}
    )
    add, (bars, strip) = projections["add"], axes[1, :2]
    scale = contrast_scale(add)
    show(axes[0, 0], picture, "image")
    names = {"add": "add: the adjoint", "overwrite": "overwrite (MaxUnpool2d)"}
    for axis, (rule, found) in zip(axes[0, 1:], projections.items(), strict=True):
        show(axis, to_grey_centred(found, scale), names.get(rule, rule))
    for axis, rule in zip(axes[1, 2:], differences, strict=True):
        error = projections[rule] - add
        name = f"{rule} \N{MINUS SIGN} add: {float(error.norm() / add.norm()):.0%} of add"
        show(axis, to_grey_centred(error, scale), name)
    for y, shares in enumerate(collisions.values()):
        kinds = ((y - 0.19, WINDOWS[0], "all"), (y + 0.19, WINDOWS[2], "that fire"))
        for share, (place, shade, name) in zip(shares, kinds, strict=True):
            bars.barh(place, 100 * share, color=shade, height=0.36)
            bars.text(100 * share + 1.5, place, f"{name}: {share:.0%}", va="center", fontsize=7.5)
    ends = len(collisions) - 0.4, -0.6
    chart(bars, "windows that share their maximum, %", 9, xlim=(0, 100), ylim=ends)
    bars.set_yticks(range(len(collisions)), list(collisions))
    most = 100 * max(float(one.max()) for one in differences.values())
    for y, (rule, values) in enumerate(differences.items()):
        heights, dots = y + np.linspace(-0.18, 0.18, len(values)), 100 * values.cpu().numpy()
        strip.plot(dots, heights, "o", color=WINDOWS[1], markersize=3, alpha=0.7)
        mean = 100 * float(values.mean())
        strip.plot([mean, mean], [y - 0.3, y + 0.3], color="black", lw=1.5)
        strip.text(
            mean,
            y - 0.34,
            f"{rule}: mean {mean:.0f} %",
            ha="right" if mean > 0.6 * most else "center",
            va="bottom",
            fontsize=8,
        )
    ends = len(differences) - 0.5, -0.75
    chart(strip, "difference from add, %", 9, yticks=[], xlim=(0, None), ylim=ends)
    for axis in (bars, strip):
        axis.tick_params(labelsize=8)
        axis.set_box_aspect(0.86)
    count = len(next(iter(differences.values())))
    return captioned(
        figure,
        title,
        "Projections and differences: mid-grey is 0; one symmetric scale for all five, the"
        f' {PERCENTILE}th percentile of |value| of "add". Lower left: of all windows, and of those'
        f" whose maximum is positive, over {count} images. Beside it: one dot per image, for its"
        " strongest unit, the relative L2 difference of the projection.",
    )
