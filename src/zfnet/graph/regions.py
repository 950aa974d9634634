"""What a change of the image changes: the sweep up. Regions say where, `assemble` lays a changed
region over a clean map, and `changed_maps` computes what a square changes, and nothing else.
"""

import torch

from zfnet.graph.trace import Graph, Kernel, Pair
from zfnet.graph.walk import compute, forget
from zfnet.graph.windows import Window, forward_window

NEVER = 1 << 40  # larger than any index


def regions(
    graph: Graph, sizes: dict[int, Pair], start: torch.Tensor, size: Pair
) -> dict[int, Window]:
    """What of every map changes when the image changes from `start` (N, 2) on, `size` rows and
    columns, all inside the image. `sizes`: of the maps, by number (`map_sizes`).

    The windows lie inside their maps and have one size, large enough for all N.
    """
    found = {0: Window(start, size, sizes[0])}
    for number, map_size in sizes.items():
        node = graph.nodes[number]
        if not number:
            continue
        limit = torch.tensor(map_size)
        firsts, ends = [], []
        for source in (n for n in node.inputs if n in found):
            first, end = found[source].start, found[source].start + torch.tensor(found[source].size)
            if node.kernel:
                first, end = _reached(node.kernel, first, end, limit)
            firsts.append(first)
            ends.append(end)
        first, end = (torch.stack(firsts).amin(0), torch.stack(ends).amax(0))
        extent = tuple((end - first).amax(0).clamp_min(1).tolist())
        found[number] = Window(first.minimum(limit - torch.tensor(extent)), extent, map_size)
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


def changed_maps(
    graph: Graph,
    clean: dict[int, torch.Tensor],
    found: dict[int, Window],
    square: torch.Tensor,
    wanted: dict[int, slice],
) -> dict[int, torch.Tensor]:
    """Whole maps, by number, of images in which a square is covered.

    clean: the maps (1, C, H, W) of the clean image that are read; found: `regions`; square
    (N, C, h, w): what covers it; wanted: which channels of which maps.
    """
    order = graph.above(*wanted)
    left = graph.readers(order)
    changed: dict[int, object] = {0: square}
    result = {}
    for number in order[1:]:
        node, own = graph.nodes[number], found.get(number)
        read = []
        for source in node.inputs:
            have = found.get(source)
            if own is None or have is None:  # no map: a size, a constant
                read.append(changed[source])
                continue
            start, size, fill = own.start, own.size, 0.0
            if node.kernel:
                # the change, and around it what the kernel reads of the clean map or its padding
                step, pad = torch.tensor(node.kernel.stride), torch.tensor(node.kernel.before)
                start, size, fill = (
                    start * step - pad,
                    node.kernel.inputs(size),
                    node.kernel.outside,
                )
            if not node.kernel and have.size == size and torch.equal(have.start, start):
                read.append(changed[source])
            else:
                maps = clean[source], changed[source]
                read.append(assemble(*maps, have.start, start, size, fill))
        if node.kernel:
            changed[number] = forward_window(node, *read)
        else:
            changed[number] = compute(graph, node, read, left, wanted)
        forget(changed, node, left)
        if number in wanted:
            origin, maps = torch.zeros_like(own.start), (clean[number], changed[number])
            maps = (each[:, wanted[number]] for each in maps)
            result[number] = assemble(*maps, own.start, origin, own.map_size)
    return result


def needed_maps(graph: Graph, last: int) -> set[int]:
    """Which clean maps `changed_maps` reads on the way to node `last`, that one included."""
    numbers = {last}
    for number in graph.above(last):
        node = graph.nodes[number]
        maps = [source for source in node.inputs if graph.nodes[source].kind != "value"]
        if node.kernel or len(maps) > 1:
            numbers.update(maps)
    return numbers


def assemble(
    clean: torch.Tensor,
    changed: torch.Tensor,
    have: torch.Tensor,
    want: torch.Tensor,
    size: Pair,
    fill: float = 0.0,
) -> torch.Tensor:
    """Windows of a clean map with changes laid over it.

    clean (1, C, H, W): the map; changed (N, C, h, w): what replaces it from row and column `have`
    (N, 2) on; want (N, 2), size: the windows asked for, which hold `fill` outside the map. Returns
    (N, C, *size) in channels_last.
    """
    if len(changed) == 1:  # slices: a gather would read the clean map whole
        return _laid(clean, changed, tuple(have[0].tolist()), tuple(want[0].tolist()), size, fill)
    channels, height, width = clean.shape[1:]
    n, _, h, w = changed.shape
    # every row and column of the windows: its place in the change, and in the clean map
    (row, r), (col, c) = (
        (want[:, axis, None] + torch.arange(size[axis]), have[:, axis, None]) for axis in (0, 1)
    )
    row_place = torch.where((row >= r) & (row < r + h), (row - r) * w, NEVER)
    col_place = torch.where((col >= c) & (col < c + w), col - c, NEVER)
    row_clean = torch.where((row >= 0) & (row < height), row * width, -NEVER)
    col_clean = torch.where((col >= 0) & (col < width), col, -NEVER)
    # one index for each pixel: into the clean map, behind it the fill, behind that the changes
    index = (row_clean[:, :, None] + col_clean[:, None, :]).clamp_min(-1)
    place = row_place[:, :, None] + col_place[:, None, :]
    own = height * width + 1 + torch.arange(n)[:, None, None] * (h * w)
    index = torch.where(place < NEVER, place + own, index)
    index.masked_fill_(index < 0, height * width)
    # one gather of whole pixels
    pixels = [maps.permute(0, 2, 3, 1).reshape(-1, channels) for maps in (clean, changed)]
    source = torch.cat([pixels[0], clean.new_full((1, channels), fill), pixels[1]])
    found = source.index_select(0, index.flatten().to(source.device))
    return found.view(n, *size, channels).permute(0, 3, 1, 2)


def _laid(
    clean: torch.Tensor, changed: torch.Tensor, have: Pair, want: Pair, size: Pair, fill: float
) -> torch.Tensor:
    """`assemble` for one window, by slices: first the clean map, then the change over it."""
    window = clean.new_empty(1, clean.shape[1], *size)
    window = window.contiguous(memory_format=torch.channels_last).fill_(fill)
    for maps, origin in ((clean, (0, 0)), (changed, have)):
        here, there = [], []
        for first, length, start, extent in zip(origin, maps.shape[-2:], want, size, strict=True):
            low, high = max(first, start), min(first + length, start + extent)
            here.append(slice(low - first, high - first))
            there.append(slice(low - start, high - start))
        if all(part.start < part.stop for part in here):
            window[:, :, *there] = maps[:, :, *here]
    return window
