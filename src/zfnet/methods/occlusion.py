"""Occlusion sensitivity (paper, section 4.2 and Fig. 7): slide a grey square over the image and
watch the net.

One pass over the positions serves every panel: the activity of the layer-5 map that is strongest on
the clean image (b), the probability of the true class (d) and the most probable class (e), each as
a raw grid without averaging or interpolation.

The pass is incremental: of every map only what the square can reach is computed anew, the rest is
read from the clean image's maps, and the classifier runs on the maps put together. The numbers are
those of the full pass. Where the square reaches nearly everything, the full pass is taken.
"""

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from zfnet.graph.forward import evaluating, unwrapped
from zfnet.graph.regions import alike, changed_maps, needed_maps, regions
from zfnet.graph.trace import Graph, paper_layers, trace
from zfnet.graph.walk import finite, walk
from zfnet.graph.windows import Window, cut, map_sizes, multiply_adds
from zfnet.methods.probabilities import first_output, probabilities
from zfnet.store.errors import Unsupported, UserError

CHUNK = 128  # positions at once in a full pass: more is no faster
GROUP = 64  # and where only what changes is computed: fewer are more alike
OVERHEAD = 1.1  # of a multiply-add on windows, measured on ZFNet at 96, 128 and 224 px
LIVE_OVERHEAD = 1.5  # of a multiply-add on a single window, measured at 128 and 224 px on one core
HEAD = 512  # positions that share one pass of the classifier, unless their maps fill 64 MiB


@dataclass(frozen=True)
class Occlusion:
    """Raw grids over the square's positions; entry (i, j) has the square's corner at pixel
    (tops[i], lefts[j]).

    probability (R, C) of `target`; label (R, C) the most probable class; activity (R, C) of map
    `channel` of `layer`, summed over space; logits (R, C, classes); and the same quantities of the
    clean image. Tensors are on the CPU.
    """

    probability: torch.Tensor
    label: torch.Tensor
    activity: torch.Tensor
    logits: torch.Tensor
    tops: torch.Tensor
    lefts: torch.Tensor
    size: int
    stride: int
    target: int
    layer: str
    channel: int
    clean_probability: float
    clean_label: int
    clean_activity: float

    def centre(self, row: int, col: int) -> tuple[float, float]:
        """Row and column, in pixels, of the square's centre at grid entry (row, col)."""
        return float(self.tops[row]) + self.size / 2, float(self.lefts[col]) + self.size / 2


def positions(length: int, size: int, stride: int) -> torch.Tensor:
    """First pixels of the square along one axis: every `stride` from 0 while it fits, and last
    flush with the border.
    """
    starts = torch.arange(0, length - size + 1, stride)
    return (
        starts
        if starts[-1] == length - size
        else torch.cat([starts, torch.tensor([length - size])])
    )


Target = int | Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def occlude(
    model: nn.Module,
    image: torch.Tensor,
    target: Target,
    size: int,
    stride: int,
    fill: float | torch.Tensor = 0.0,
    layer: str | None = None,
    channel: int | None = None,
    batch_size: int | None = None,
    incremental: bool | None = None,
) -> Occlusion:
    """Occlude one image (3, H, W) with a `size` x `size` square at every position of a grid with
    that `stride`. The model is any classifier (N, 3, H, W) -> (N, classes).

    target: the class whose probability is followed, or a function of the model's output
    (N, classes) -> (N,), whose value then stands in its place. `fill`: the square's value in units
    of the network's input, a number or a tensor that broadcasts to (3, H, W); 0 is the mean colour
    of the training data. `layer` and `channel` choose the map that panel (b) follows: by default
    the paper's layer 5 (the last there is in a shallower net) and the map with the largest total
    activity on the clean image. `batch_size`: how many positions at once, by default what fits into
    a quarter of the free memory (on the CPU half a GiB at most), 128 at most. `incremental`: True
    or False settles whether only what the square can change is computed; None leaves it to the
    cost. Raises UserError for an image too small for the net or with values that are not finite, a
    square or fill that does not fit, an unknown target, layer or channel.
    """
    if image.ndim != 3:
        raise UserError(
            f"image: expected (3, rows, columns), got {tuple(image.shape)}; `occlude_all` takes a"
            " batch"
        )
    height, width = image.shape[-2:]
    if not 1 <= size <= min(height, width):
        what = f"size = {size}: the square must fit into the image of {height} x {width} pixels"
        raise UserError(what)
    for name, value in (("stride", stride), ("batch_size", batch_size)):
        if value is not None and value < 1:
            rest = ", or None" if name == "batch_size" else ""
            raise UserError(f"{name} = {value}: must be at least 1{rest}")
    watch = _Watch(model, image, fill)
    watch.follow(layer, channel)
    classes = watch.logits.shape[1]
    if not callable(target) and not 0 <= target < classes:
        raise UserError(f"target = {target}: choose a class from 0 to {classes - 1}")
    tops, lefts = positions(height, size, stride), positions(width, size, stride)
    corners = torch.cartesian_prod(tops, lefts)
    groups = watch.groups(tops, lefts, size, batch_size, incremental)
    maps, activity, found = [], [], []
    for numbers, reached in groups:
        last, chosen = watch.covered(corners[numbers], size, reached)
        activity.append(chosen.sum((1, 2)))
        maps.append(last)
        # the classifier's weights are read once for many positions, not once for each chunk
        waiting = sum(map(len, maps))
        if waiting >= HEAD or waiting * last[0].numel() * last.element_size() >= 2**26:
            found.append(watch.head(torch.cat(maps)))
            maps = []
    if maps:
        found.append(watch.head(torch.cat(maps)))
    order = torch.cat([numbers for numbers, _ in groups]).argsort()
    found, activity = (torch.cat(each).cpu()[order] for each in (found, activity))
    clean = watch.logits.cpu()
    if callable(target):
        probability, clean_probability = target(found), target(clean)[0]
    else:
        probability = probabilities(found, clean)[:, target]
        clean_probability = probabilities(clean, clean)[0, target]
    grid = (len(tops), len(lefts))
    found = found.view(*grid, -1)
    return Occlusion(
        probability=probability.view(grid),
        label=found.argmax(-1),
        activity=activity.view(grid),
        logits=found,
        tops=tops,
        lefts=lefts,
        size=size,
        stride=stride,
        target=target,
        layer=watch.layer,
        channel=watch.channel,
        clean_probability=float(clean_probability),
        clean_label=int(clean[0].argmax()),
        clean_activity=float(watch.clean_map.sum()),
    )


class LiveOcclusion:
    """The square at one position at a time, for an answer while somebody drags it: the clean
    image's maps are kept, so that only what the square can reach is computed, where that costs less
    than the full pass.

        live = LiveOcclusion(model, image)              # follows the strongest map, as `occlude`
        logits, maps = live.at(40, 24, size=32)         # (classes,), and the followed map (h, w)

    image (3, H, W), `fill`, `layer` and `channel` as for `occlude`. `clean_logits` and `clean_map`:
    without the square.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: nn.Module,
        image: torch.Tensor,
        fill: float | torch.Tensor = 0.0,
        layer: str | None = None,
        channel: int | None = None,
    ):
        # one image at a time spends much of its time on bringing the weights into the maps' layout:
        # done once
        copied = copy.deepcopy(unwrapped(model)).to(memory_format=torch.channels_last)
        self._watch = _Watch(copied, image, fill, everything=True)
        self.clean_logits = self._watch.logits[0].cpu()
        self.follow(layer, channel)

    def follow(self, layer: str | None = None, channel: int | None = None) -> None:
        """Follow another map from now on; UserError for one that the net does not have."""
        self._watch.follow(layer, channel)
        self.layer, self.channel = self._watch.layer, self._watch.channel
        self.clean_map = self._watch.clean_map.cpu()

    @torch.no_grad()
    def at(
        self, top: int, left: int, size: int, incremental: bool | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (classes,) and the followed map (h, w), on the CPU, with the square's corner at
        pixel (top, left); UserError where it does not lie in the image.

        `incremental`: True or False settles how; None leaves it to the cost.
        """
        height, width = self._watch.image.shape[-2:]
        if size < 1 or not (0 <= top <= height - size and 0 <= left <= width - size):
            raise UserError(
                f"a square of {size} pixels at ({top}, {left}) does not lie in the image of "
                f"{height} x {width} pixels"
            )
        corner = torch.tensor([top]), torch.tensor([left])
        (_, reached), *_ = self._watch.groups(*corner, size, 1, incremental, LIVE_OVERHEAD)
        maps, chosen = self._watch.covered(torch.cartesian_prod(*corner), size, reached)
        return self._watch.head(maps)[0].cpu(), chosen[0].cpu()


class _Watch:
    """A net, the maps of one clean image, and what becomes of them under a square: for the grid and
    for the live position alike.

    The net is taken apart where that is known to give what the model itself says of the clean
    image; else it runs as it is, and `maps` are its outputs (`head` then does nothing).
    """

    def __init__(
        self,
        model: nn.Module,
        image: torch.Tensor,
        fill: float | torch.Tensor,
        everything: bool = False,
    ):
        self.model, self.everything = unwrapped(model), everything
        self.image = finite(image).to(next(self.model.parameters(), image))
        self.fill = torch.as_tensor(fill, dtype=self.image.dtype, device=self.image.device)
        try:
            self.fill = self.fill.expand_as(self.image)
        except RuntimeError as error:
            shapes = f"{tuple(self.fill.shape)} does not broadcast to the image's"
            raise UserError(f"fill of shape {shapes} {tuple(self.image.shape)}") from error
        self.graph = self._taken_apart()

    def _taken_apart(self) -> Graph | None:
        """The graph, with `clean`, `sizes` and `logits` measured; None where it is of no use."""
        x = self.image[None].contiguous(memory_format=torch.channels_last)
        self.sizes, self.clean = {}, {}
        try:
            graph = trace(self.model)
        except Unsupported:
            graph = None
        if graph is not None and graph.last is not None:
            self.local = graph.local(graph.last)
            if self.local:
                size = tuple(self.image.shape[-2:])
                self.sizes = map_sizes(graph, graph.last, size)  # names an image too small
            wanted = needed_maps(graph, graph.last)
            if self.everything:
                wanted |= {graph.number(name) for name in graph.names}
            self.clean = dict(walk(graph, x, wanted))
            self.logits = graph.head(self.clean[graph.last])
            with evaluating(self.model):
                said = first_output(self.model(x))
            if torch.allclose(self.logits, said, rtol=1e-2, atol=1e-3 * float(said.abs().max())):
                return graph
        self.local = False
        with evaluating(self.model):
            self.logits = first_output(self.model(x))
        return None

    def follow(self, layer: str | None, channel: int | None) -> None:
        """Choose the map that is followed: `layer`, `channel` and `clean_map` (h, w)."""
        if self.graph is None:
            known = [name for name, _ in self.model.named_modules() if name]
            self.layer = layer or _last_convolution(self.model)
            if self.layer not in known:
                raise UserError(f"no layer {layer!r}: choose one of {', '.join(known)}")
            maps = self._as_it_is(self.image[None])[1][0]
        else:
            layers = paper_layers(self.graph)
            names = layers.get(5) or layers.get(max(layers, default=0))
            self.layer = layer or names or self.graph.nodes[self.graph.last].name
            self.number = self.graph.number(self.layer)
            self.layer = self.graph.nodes[self.number].name
            if self.number not in self.clean:
                x = self.image[None].contiguous(memory_format=torch.channels_last)
                self.clean |= dict(walk(self.graph, x, [self.number]))
            maps = self.clean[self.number][0]
        self.channel = int(maps.sum((1, 2)).argmax()) if channel is None else channel
        if not 0 <= self.channel < len(maps):
            channels = f"channels 0 to {len(maps) - 1}"
            raise UserError(f"channel {self.channel} is not in {self.layer}, which has {channels}")
        self.clean_map = maps[self.channel]

    def groups(
        self,
        tops: torch.Tensor,
        lefts: torch.Tensor,
        size: int,
        at_once: int | None,
        wanted: bool | None,
        overhead: float = OVERHEAD,
    ) -> list[tuple[torch.Tensor, dict[int, Window] | None]]:
        """Which positions of a grid, by their index, are computed together, and what of the maps
        they change; None for the latter where the full pass costs less, or where `wanted` is False.
        """
        possible = self.graph is not None and self.local and self.number in self.sizes
        if wanted and not possible:
            raise Unsupported("incremental = True: this net cannot be computed in parts")
        if possible and wanted is not False:
            side = math.isqrt(at_once or self.at_once(size))
            found = alike(self.graph, self.sizes, tops, lefts, (size, size), max(1, side))
            if wanted:
                return found
            cost = sum(
                len(numbers)
                * multiply_adds(self.graph, {n: one.size for n, one in windows.items()})
                for numbers, windows in found
            )
            every = len(tops) * len(lefts)
            if overhead * cost < every * multiply_adds(self.graph, self.sizes):
                return found
        numbers = torch.arange(len(tops) * len(lefts))
        return [(chunk, None) for chunk in numbers.split(at_once or self.at_once(None))]

    def at_once(self, size: int | None) -> int:
        """How many positions at once: 128, or fewer where they would fill more than a quarter of
        the free memory, on the CPU more than half a GiB. `size`: of the square, where only what it
        changes is computed.
        """
        if self.graph is None:
            return CHUNK // 8
        sizes = {n: tuple(maps.shape[-2:]) for n, maps in self.clean.items()}
        if size:  # in the middle, where it reaches furthest
            middle = torch.tensor([[(n - size) // 2 for n in self.image.shape[-2:]]])
            found = regions(self.graph, self.sizes, middle, (size, size))
            sizes = {n: one.size for n, one in found.items()}
        widest = max(
            maps.shape[1] * sizes[n][0] * sizes[n][1]
            for n, maps in self.clean.items()
            if n and n in sizes
        )
        each = 6 * widest * self.image.element_size()  # what is read, its copy, what comes out
        if self.image.is_cuda:
            free = torch.cuda.mem_get_info(self.image.device)[0]
        else:  # more is no faster, and a container may have less; a GiB where nobody knows
            known = "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {})
            pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 2**30
            free = min(2**31, pages)
        return max(1, min(GROUP if size else CHUNK, int(free / 4 / each)))

    def covered(
        self, corners: torch.Tensor, size: int, found: dict[int, Window] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The last maps and the followed one (N, h, w), with the square at each of these corners
        (N, 2); `found`: what these change, None for the full pass.
        """
        last = getattr(self.graph, "last", None)
        if found:
            square = cut(self.fill.expand(len(corners), *self.fill.shape), corners, (size, size))
            wanted = {self.number: slice(self.channel, self.channel + 1), last: slice(None)}
            maps = changed_maps(self.graph, self.clean, found, square, wanted)
            chosen = self.channel if self.number == last else 0
            return maps[last], maps[self.number][:, chosen]
        x = self.image.repeat(len(corners), 1, 1, 1).contiguous(memory_format=torch.channels_last)
        for each, (top, left) in zip(x, corners.tolist(), strict=True):
            place = (..., slice(top, top + size), slice(left, left + size))
            each[place] = self.fill[place]
        if self.graph is None:
            maps, followed = self._as_it_is(x)
            return maps, followed[:, self.channel]
        for number, maps in walk(self.graph, x, {self.number, last}):
            if number == self.number:
                chosen = maps[:, self.channel].clone()
            if number == last:
                final = maps
        return final, chosen

    def head(self, maps: torch.Tensor) -> torch.Tensor:
        """The model's outputs (N, classes) from its last maps."""
        return maps if self.graph is None else first_output(self.graph.head(maps))

    def _as_it_is(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The outputs of a net that cannot be taken apart, and the followed layer's maps."""
        seen = []
        module = self.model.get_submodule(self.layer)
        hook = module.register_forward_hook(lambda module, given, maps: seen.append(maps.clone()))
        try:
            with evaluating(self.model):
                logits = first_output(self.model(x))
        finally:
            hook.remove()
        if not seen or seen[-1].ndim != 4:
            raise UserError(f"layer {self.layer!r} gives no maps: choose another one")
        return logits, seen[-1]


def _last_convolution(model: nn.Module) -> str:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if not names:
        raise UserError("this net has no convolution whose maps could be followed", "name a layer")
    return names[-1]


def occlude_all(
    model: nn.Module,
    images: torch.Tensor,
    targets: Sequence[int] | torch.Tensor,
    size: int,
    stride: int,
    **options,
) -> list[Occlusion]:
    """`occlude` for every image of a batch (N, 3, H, W) and its target (N,), with progress on a
    terminal.
    """
    if len(images) != len(targets):
        raise UserError(f"{len(images)} images, but {len(targets)} targets: give one for each")
    pairs = zip(images, torch.as_tensor(targets).tolist(), strict=True)
    return [
        occlude(model, image, target, size, stride, **options)
        for image, target in tqdm(pairs, "occlude", len(images), disable=None, leave=False)
    ]
