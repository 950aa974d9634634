"""What low resolution takes from a projection: the same units on the same images, seen through
fewer pixels.

CIFAR-10's photographs have 32 x 32 pixels, and a net gets no more of them by enlarging them. Here
any images are reduced to a side and enlarged again, and the units that were strongest on the whole
image are asked what they see now.

    rows = compare(model.features, images, indices, [96, 64, 32, 16], {3: "relu3", 5: "relu5"})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from zfnet.data.images import Images
from zfnet.methods.deconv import Deconvnet
from zfnet.methods.spectrum import energy_above, image_shares
from zfnet.methods.top_activations import TopActivations, strongest_units
from zfnet.store.errors import UserError

CIFAR = 32  # pixels a side of CIFAR-10's images


def reduced(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Pictures uint8 (N, 3, H, W) reduced to side x side pixels and enlarged again, bicubic and
    antialiased both ways: uint8 of the same shape.

    A side of H or more changes nothing. Raises ValueError for a side below 1.
    """
    if side < 1:
        raise UserError(f"side = {side}: images keep at least 1 pixel")
    if side >= min(pixels.shape[-2:]):
        return pixels
    small = _resized(pixels, (side, side))
    return _resized(small, tuple(pixels.shape[-2:]))


def _resized(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return (
        F.interpolate(pixels.float(), size, mode="bicubic", antialias=True)
        .round_()
        .clamp_(0, 255)
        .to(torch.uint8)
    )


def reduced_images(images: Images, side: int) -> Images:
    """A data set in memory as it would be with `side` pixels across the network's input, normalised
    alike. Raises ValueError for a side below 1.
    """
    stored = max(1, round(side * images.pixels.shape[-1] / images.size)) if side >= 1 else side
    pixels = torch.cat([reduced(part, stored) for part in images.pixels.split(256)])
    return dataclasses.replace(images, pixels=pixels)


def inputs(images: Images, indices: torch.Tensor, side: int) -> torch.Tensor:
    """The network's input of the images as `reduced` shows them: float32 (N, 3, S, S)."""
    return images.normalise(reduced(images.pictures(indices), side))


def fine(size: int, side: int = CIFAR) -> float:
    """The highest frequency, in cycles per pixel of an input of side `size`, that an image of
    `side` pixels can hold.
    """
    return side / (2 * size)


def compare(
    features: nn.Sequential,
    images: Images,
    indices: torch.Tensor,
    sides: Sequence[int],
    layers: Mapping[int, str],
) -> list[dict[str, float]]:
    """For each layer {number: name} and side, means over the images: what becomes of the unit that
    was strongest on the whole image, and of its projection.

    `activation`: its activation over that on the whole image; `alike`: the cosine of the two
    projections, 0 where it no longer fires; `fine`: the share of the projections' energy above what
    32 pixels a side can hold.
    """
    deconvnet, rows = Deconvnet(features), []
    for number, layer in layers.items():
        whole = inputs(images, indices, images.size)
        channel, position = strongest_units(features, whole, layer)
        first = deconvnet.project(whole, layer, channel, position)
        strength = _values(deconvnet, whole, layer, channel, position)
        for side in sides:
            seen = inputs(images, indices, side)
            found = deconvnet.project(seen, layer, channel, position)
            above, total = energy_above(found, [fine(images.size)])
            row = {
                "activation": (
                    (_values(deconvnet, seen, layer, channel, position) / strength).mean()
                ),
                "alike": F.cosine_similarity(found.flatten(1), first.flatten(1)).mean(),
                "fine": above[0] / total,
            }
            rows.append(
                {
                    "layer": number,
                    "side": side,
                    **{name: float(value) for name, value in row.items()},
                }
            )
    return rows


def _values(
    deconvnet: Deconvnet,
    batch: torch.Tensor,
    layer: str,
    channel: torch.Tensor,
    position: torch.Tensor,
) -> torch.Tensor:
    maps = deconvnet.activations(batch, layer)
    return maps[torch.arange(len(maps)), channel, position[:, 0], position[:, 1]].cpu()


def in_all(found: Sequence[TopActivations]) -> TopActivations:
    """The first of one layer's scans of several data sets, with the smallest value of all at each
    place: what fires in it fires in all of them.
    """
    return dataclasses.replace(found[0], value=torch.stack([top.value for top in found]).amin(0))


def fine_shares(
    features: nn.Sequential, images: Images, layer: str, top: TopActivations, channels: torch.Tensor
) -> tuple[float, float]:
    """The share of energy above what 32 pixels a side can hold: in the nine top images of these
    maps, and in their projections.
    """
    limits, deconvnet = [fine(images.size)], Deconvnet(features)
    above = total = 0.0
    for channel in channels.tolist():
        found = deconvnet.project(
            images.batch(top.image[channel]),
            layer,
            channel,
            torch.stack([top.row[channel], top.col[channel]], 1),
        )
        more, everything = energy_above(found, limits)
        above, total = above + float(more[0]), total + float(everything)
    return image_shares(images, top.image[channels].flatten().unique(), limits)[0], above / total
