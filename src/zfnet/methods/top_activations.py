"""Top-k activations in one pass over a data set (paper, Fig. 2: "the top 9 activations … across the
validation data").

For every feature map of every layer asked for, the k images in which it fires most strongly, at
most one entry per image, and where; of crops, at most one per photograph (`Images.group`). Order:
larger value, then lower image index, then lower position (row by row): the table depends on neither
batch size nor loading order. Memory is one
(channels, k) table per layer, whatever the number of images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from zfnet.data.images import Images, batches
from zfnet.graph.trace import trace
from zfnet.graph.walk import finite, walk
from zfnet.methods.deconv import Deconvnet
from zfnet.store import distributed, keys, provenance
from zfnet.store.errors import UserError
from zfnet.store.profiles import Profile

WIDEST = 1 << 24  # columns of a map, more than any has: a position is row * WIDEST + column


@dataclass(frozen=True)
class TopActivations:
    """Tables (channels, k), best first: `value` float, and int64 `image` (index in the data set),
    `row`, `col` (in the layer's map).
    """

    value: torch.Tensor
    image: torch.Tensor
    row: torch.Tensor
    col: torch.Tensor


@dataclass(frozen=True)
class TopUnits:
    """The k strongest single activations of one image, best first, each (k,)."""

    value: torch.Tensor
    channel: torch.Tensor
    row: torch.Tensor
    col: torch.Tensor


def first_maximum(maps: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The lowest flat position, row by row, at which each of maps (M, h, w) has its maximum `value`
    (M,): int64 (M,).
    """
    here = maps.flatten(1) == value[:, None]
    return torch.where(here, torch.arange(here.shape[1], device=here.device), here.shape[1]).amin(1)


def merge(
    value: torch.Tensor,
    image: torch.Tensor,
    position: torch.Tensor,
    k: int,
    group: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k best of (channels, m) candidates, by value descending and then image ascending: two
    stable sorts. group (N,): which images count as one; of these only the best is taken, and what
    is left where there are fewer than k of them has the value -inf.
    """
    by_image = image.argsort(dim=1, stable=True)
    order = by_image.gather(
        1, value.gather(1, by_image).argsort(dim=1, descending=True, stable=True)
    )
    if group is not None:
        own = group.to(image.device)[image.gather(1, order)]
        again = (own[:, :, None] == own[:, None]).tril(-1).any(2)
        value = value.scatter(1, order, value.gather(1, order).masked_fill(again, float("-inf")))
        order = order.gather(1, again.byte().argsort(dim=1, stable=True))
    order = order[:, :k]
    return value.gather(1, order), image.gather(1, order), position.gather(1, order)


@torch.no_grad()
def scan(
    model: nn.Module,
    dataset,
    layers: str | Sequence[str],
    k: int = 9,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    progress: bool = False,
    share: tuple[int, int] = (0, 1),
) -> dict[str, TopActivations]:
    """The top k activations of every feature map of `layers`, over a map-style dataset of (image
    (3, H, W), label), in one pass.

    model: a net, or a part of it such as its features; the pass stops at the deepest layer asked
    for. `device=None` stays where the net is. share: (rank, processes), of which this one takes
    every processes-th batch; with fewer images than k in them the tables are narrower; without any
    there are none. Raises UserError for an unknown layer, images whose values are not finite, or
    when k is not between 1 and the number of images, of photographs for crops of them.
    """
    graph = trace(model)
    if isinstance(dataset, torch.utils.data.DataLoader):
        dataset = dataset.dataset
    layers = [layers] if isinstance(layers, str | int) else list(dict.fromkeys(layers))
    if not layers:
        raise UserError("layers: give at least one")
    group = getattr(dataset, "group", None)
    most = len(dataset) if group is None else len(group.unique())
    if not 1 <= k <= most:
        what = "images" if group is None else "photographs"
        raise UserError(f"k = {k}: choose 1 to {most}, the number of {what}")
    names = {graph.number(layer): layer for layer in layers}
    weight = graph.weight
    device = torch.device(device) if device is not None else weight.device
    graph.model.to(device)
    tables: dict[str, tuple[torch.Tensor, ...]] = {}
    bar = tqdm(
        total=len(dataset),
        desc="scan",
        unit="image",
        leave=False,
        disable=None if progress else True,
    )
    for indices, images in batches(dataset, batch_size, device, share):
        x = finite(images).to(device, weight.dtype).contiguous(memory_format=torch.channels_last)
        for number, maps in walk(graph, x, names):
            name = names[number]
            tables[name] = _enter(tables.get(name), maps, indices.to(device), k, group)
        bar.update(len(indices) * share[1])
    bar.close()
    result = {}
    for name in layers:
        if name in tables:
            value, image, where = (table.cpu() for table in tables[name])
            result[name] = TopActivations(value, image, where // WIDEST, where % WIDEST)
    return result


def merge_tables(
    parts: Sequence[dict[str, TopActivations]], k: int, group: torch.Tensor | None = None
) -> dict[str, TopActivations]:
    """The tables of a whole data set from those of its parts, which share no image; `group` as for
    `merge`.
    """
    whole = {}
    for name in max(parts, key=len):
        value, image, row, col = (
            torch.cat([getattr(part[name], field) for part in parts if part], 1)
            for field in ("value", "image", "row", "col")
        )
        value, image, order = merge(
            value, image, torch.arange(value.shape[1]).expand(value.shape), k, group
        )
        whole[name] = TopActivations(value, image, row.gather(1, order), col.gather(1, order))
    return whole


def _enter(
    table: tuple[torch.Tensor, ...] | None,
    maps: torch.Tensor,
    images: torch.Tensor,
    k: int,
    group: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer's table with the next images' maps (B, C, h, w) entered. Only the few maps that make
    it into the table are searched for their maximum.
    """
    best = maps.amax((2, 3)).T
    # negative: row in this batch
    found = (
        best,
        images.expand(best.shape),
        (-1 - torch.arange(best.shape[1], device=maps.device)).expand(best.shape),
    )
    if table is not None:
        found = tuple(torch.cat(both, 1) for both in zip(table, found, strict=True))
    value, image, position = merge(*found, k, group)
    channel, place = (position < 0).nonzero(as_tuple=True)
    row = -1 - position[channel, place]
    flat, width = first_maximum(maps[row, channel], best[channel, row]), maps.shape[-1]
    position[channel, place] = flat // width * WIDEST + flat % width
    return value, image, position


def top_units(deconvnet: Deconvnet, image: torch.Tensor, layer: str, k: int = 9) -> TopUnits:
    """The k strongest single activations of one image (3, H, W), any channel, any position; ties:
    lower channel, then lower position.
    """
    maps = deconvnet.activations(image[None], layer)[0]
    if not 1 <= k <= maps.numel():
        raise UserError(f"k = {k}: choose 1 to {maps.numel()}, the number of units of {layer}")
    value, order = maps.flatten().sort(descending=True, stable=True)
    flat = order[:k]
    _, rows, cols = maps.shape
    return TopUnits(value[:k], flat // (rows * cols), flat // cols % rows, flat % cols)


def strongest_units(
    features: nn.Sequential, inputs: torch.Tensor, layer: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The strongest unit of `layer` in each image: channel (N,) and position (N, 2), on the CPU;
    ties go to the lower channel, then position.
    """
    maps = torch.cat(
        [Deconvnet(features).activations(part, layer).cpu() for part in inputs.split(32)]
    )
    unit, (rows, cols) = maps.flatten(1).argmax(1), maps.shape[2:]
    return unit // (rows * cols), torch.stack([unit // cols % rows, unit % cols], 1)


def strongest_channel(deconvnet: Deconvnet, images: torch.Tensor, layer: str) -> torch.Tensor:
    """For each image (N, 3, H, W) the channel of `layer` with the largest total activity: int64
    (N,).
    """
    return deconvnet.activations(images, layer).sum((2, 3)).argmax(1)


def load_scan(
    profile: Profile, model: nn.Module, images: Images, layers: Sequence[str], k: int = 9
) -> dict[str, TopActivations]:
    """The profile's scan, found in `runs/<profile>/scan.safetensors` or made now, by all processes
    of the run together.
    """
    weights = keys.tensors_hash(model.state_dict())
    group = None if images.group is None else images.group.tolist()
    key = keys.key_of(weights, (images.fingerprint, group), list(layers), k, keys.code_key(scan))

    def build():
        own = scan(
            model,
            images,
            layers,
            k,
            progress=distributed.is_first(),
            share=distributed.share(),
        )
        found = merge_tables(distributed.gathered(own), k, images.group)
        return {
            f"{layer}/{name}": tensor
            for layer, top in found.items()
            for name, tensor in vars(top).items()
        }, provenance.record(profile, n=len(images))

    tensors, _ = distributed.artefact(profile.scan_file, key, build)
    return {
        layer: TopActivations(
            *(tensors[f"{layer}/{name}"] for name in ("value", "image", "row", "col"))
        )
        for layer in layers
    }
