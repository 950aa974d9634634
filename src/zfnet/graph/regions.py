"""What a change of the image changes: the sweep up. Regions say where, `assemble` lays a changed
region over a clean map, and `changed_maps` computes what a square changes, and nothing else.
"""

import torch

from zfnet.graph.trace import Graph, Kernel, Pair
from zfnet.graph.walk import compute, forget
from zfnet.graph.windows import Window, forward_window, multiply_adds


def reach(
    graph: Graph, sizes: dict[int, Pair], start: torch.Tensor, size: Pair
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """First and end (N, 2) of what changes of every map when the image changes from `start` (N, 2)
    on, `size` rows and columns, all inside the image. `sizes`: of the maps, by number.
    """
    found = {0: (start, start + torch.tensor(size))}
    for number, map_size in sizes.items():
        node = graph.nodes[number]
        if number:
            read = [found[source] for source in node.inputs if source in found]
            if node.kernel:
                read = [_reached(node.kernel, *each, torch.tensor(map_size)) for each in read]
            firsts, ends = zip(*read, strict=True)
            found[number] = torch.stack(firsts).amin(0), torch.stack(ends).amax(0)
    return found


def _reached(
    kernel: Kernel, first: torch.Tensor, end: torch.Tensor, limit: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """First and end (N, 2) of the outputs that read inputs from `first` up to `end`."""
    size, step, pad, dilation = map(
        torch.tensor, (kernel.size, kernel.stride, kernel.before, kernel.dilation)
    )
    # the first output whose last tap is not before the change, the last whose first is not behind
    low = first + pad - dilation * (size - 1) + step - 1
    high = end - 1 + pad
    return (
        low.div(step, rounding_mode="floor").clamp_min(0),
        high.div(step, rounding_mode="floor").add(1).minimum(limit),
    )


def regions(
    graph: Graph, sizes: dict[int, Pair], start: torch.Tensor, size: Pair
) -> dict[int, Window]:
    """`reach` as windows: they lie inside their maps and have one size, large enough for all N."""
    found = reach(graph, sizes, start, size)
    return {number: _window(*span, sizes[number]) for number, span in found.items()}


def _window(first: torch.Tensor, end: torch.Tensor, map_size: Pair) -> Window:
    extent = (end - first).amax(0).clamp_min(1)
    rows, cols = extent.tolist()
    return Window(first.minimum(torch.tensor(map_size) - extent), (rows, cols), map_size)


def alike(
    graph: Graph,
    sizes: dict[int, Pair],
    tops: torch.Tensor,
    lefts: torch.Tensor,
    size: Pair,
    side: int,
) -> list[tuple[torch.Tensor, dict[int, Window]]]:
    """A grid of positions in groups of at most side x side, each with its `regions`; a position is
    its index, row by row.

    All of a group have windows of one size, so rows and columns go together that change as much: at
    a border, or where the strides fall in the same place, that is less than elsewhere.
    """
    spans = [reach(graph, sizes, torch.stack([at, at], 1), size) for at in (tops, lefts)]
    # extents[axis][number]: rows, or columns, of the map that each position along the axis changes
    extents = [
        {n: (end - first)[:, axis].double() for n, (first, end) in span.items()}
        for axis, span in enumerate(spans)
    ]
    groups = []
    for axis in (0, 1):
        cost = sum(
            multiply_adds(graph, {n: (1, 1)}) * extent * extents[1 - axis][n].mean()
            for n, extent in extents[axis].items()
        )
        groups.append(cost.argsort(stable=True).split(side))
    found = []
    for rows in groups[0]:
        for cols in groups[1]:
            row, col = torch.cartesian_prod(rows, cols).T
            windows = {}
            for number, map_size in sizes.items():
                parts = zip(spans[0][number], spans[1][number], strict=True)
                first, end = (torch.stack([r[row, 0], c[col, 1]], 1) for r, c in parts)
                windows[number] = _window(first, end, map_size)
            found.append((row * len(lefts) + col, windows))
    return found


def changed_maps(
    graph: Graph,
    clean: dict[int, torch.Tensor],
    found: dict[int, Window],
    square: torch.Tensor,
    wanted: dict[int, slice],
) -> dict[int, torch.Tensor]:
    """Whole maps, by number, of images in which a square is covered.

    clean: the maps (1, C, H, W) of the clean image that are read (`needed_maps`); found: `regions`;
    square (N, C, h, w): what covers it; wanted: which channels of which maps.
    """
    order = graph.above(*wanted)
    left = graph.readers(order)
    changed: dict[int, object] = {0: square}
    result = {}
    for number in order[1:]:
        node, own = graph.nodes[number], found.get(number)
        have = [found.get(source) for source in node.inputs]
        # what is no map (a size, a constant) is read as it is, and so are maps all of which changes
        plain = own is None or all(one is None or one.whole() for one in (own, *have))
        if node.kind == "cat" and not plain:
            # its clean map at once, and each source's change over its channels
            parts = [changed[source] for source in node.inputs]
            changed[number] = assemble(clean[number], parts, have, own)
        else:
            need = own
            if node.kernel and not plain:
                need = own.through(node.kernel, have[0].map_size)
            fill = node.kernel.outside if node.kernel else 0.0
            read = []
            for source, one in zip(node.inputs, have, strict=True):
                same = plain or one is None or one.same(need)
                maps = changed[source]
                read.append(maps if same else assemble(clean[source], [maps], [one], need, fill))
            if node.kernel and not plain:
                changed[number] = forward_window(node, *read)
            else:
                changed[number] = compute(graph, node, read, left, wanted)
        forget(changed, node, left)
        if number in wanted:
            maps = [each[:, wanted[number]] for each in (clean[number], changed[number])]
            whole = Window(torch.zeros_like(own.start), own.map_size, own.map_size)
            result[number] = assemble(maps[0], maps[1:], [own], whole)
    return result


def needed_maps(graph: Graph, last: int) -> set[int]:
    """Which clean maps `changed_maps` reads on the way to node `last`, that one included."""
    numbers = {last}
    for number in graph.above(last):
        node = graph.nodes[number]
        maps = [source for source in node.inputs if graph.nodes[source].kind != "value"]
        if node.kind == "cat":
            numbers.add(number)
        elif node.kernel or len(maps) > 1:
            numbers.update(maps)
    return numbers


def assemble(
    clean: torch.Tensor,
    changes: list[torch.Tensor],
    have: list[Window],
    want: Window,
    fill: float = 0.0,
) -> torch.Tensor:
    """Windows of a clean map with changes laid over it.

    clean (1, C, H, W): the map; changes: each (N, c, h, w), what replaces it at the windows `have`,
    the channels of one behind those of the other; want: the windows asked for, which hold `fill`
    outside the map. Returns (N, C, *want.size) in channels_last.
    """
    n, channels, (height, width) = len(want.start), clean.shape[1], clean.shape[-2:]
    rows, cols = (want.start[:, axis, None] + torch.arange(want.size[axis]) for axis in (0, 1))
    index = rows.clamp(0, height - 1)[:, :, None] * width + cols.clamp(0, width - 1)[:, None, :]
    pixels = clean.permute(0, 2, 3, 1).reshape(-1, channels)
    outside = want.outside()
    if outside is not None:  # behind the map's pixels one that holds the fill
        pixels = torch.cat([pixels, clean.new_full((1, channels), fill)])
        index = index.masked_fill(outside, height * width)
    windows = pixels.index_select(0, index.flatten().to(pixels.device))
    windows = windows.view(n, *want.size, channels).permute(0, 3, 1, 2)
    first = 0
    for change, window in zip(changes, have, strict=True):
        part = windows[:, first : first + change.shape[1]]
        first += change.shape[1]
        offsets = window.start - want.start
        if (offsets == offsets[0]).all():
            places = [(slice(None), offsets[0].tolist())]
        elif clean.device.type == "cpu":  # slices of one each: far quicker than by index
            places = [(slice(i, i + 1), each) for i, each in enumerate(offsets.tolist())]
        else:
            unique, group = offsets.unique(dim=0, return_inverse=True)
            chosen = [(group == i).to(clean.device) for i in range(len(unique))]
            places = zip(chosen, unique.tolist(), strict=True)
        for chosen, offset in places:
            here, there = [], []  # where they overlap: in the change, and in the window
            for at, length, limit in zip(offset, change.shape[-2:], want.size, strict=True):
                low, high = max(0, at), min(at + length, limit)
                here.append(slice(low - at, high - at))
                there.append(slice(low, high))
            if all(each.start < each.stop for each in there):
                part[chosen, :, *there] = change[chosen, :, *here]
    return windows
