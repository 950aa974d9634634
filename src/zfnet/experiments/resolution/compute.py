"""What low resolution takes from a projection: the same units on the same images, seen through
fewer pixels.

CIFAR-10's photographs have 32 x 32 pixels, and a net gets no more of them by enlarging them. Here
any images are reduced to a side and enlarged again, and the units that were strongest on the whole
image are asked what they see now.

    rows = compare(model, images, indices, [96, 64, 32, 16], {3: "relu3", 5: "relu5"})
"""

from dataclasses import replace

import torch
from torch import nn

from zfnet.data.images import Images
from zfnet.methods import deconv, spectrum, top_activations
from zfnet.store.errors import require

CIFAR = 32  # pixels a side of CIFAR-10's images


def reduced(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Pictures uint8 (N, 3, H, W) reduced to side x side pixels and enlarged again, bicubic and
    antialiased both ways: uint8 of the same shape.

    A side of H or more changes nothing. Raises ValueError for a side below 1.
    """
    require(side >= 1, f"side = {side}: images keep at least 1 pixel")
    whole = tuple(pixels.shape[-2:])
    for size in ((side, side), whole) if side < min(whole) else ():
        pixels = (
            nn.functional.interpolate(pixels.float(), size, mode="bicubic", antialias=True)
            .round_()
            .clamp_(0, 255)
            .to(torch.uint8)
        )
    return pixels


def reduced_images(images: Images, side: int) -> Images:
    """A data set in memory as it would be with `side` pixels across the network's input, normalised
    alike. Raises ValueError for a side below 1.
    """
    stored = max(1, round(side * images.pixels.shape[-1] / images.size)) if side >= 1 else side
    return replace(
        images, pixels=torch.cat([reduced(part, stored) for part in images.pixels.split(256)])
    )


def inputs(images: Images, indices: torch.Tensor, side: int) -> torch.Tensor:
    """The network's input of the images as `reduced` shows them: float32 (N, 3, S, S)."""
    return images.normalise(reduced(images.pictures(indices), side))


def fine(size: int, side: int = CIFAR) -> float:
    """The highest frequency, in cycles per pixel of an input of side `size`, that an image of
    `side` pixels can hold.
    """
    return side / (2 * size)


def compare(
    model: nn.Module,
    images: Images,
    indices: torch.Tensor,
    sides: list[int],
    layers: dict[int, str],
) -> list[dict[str, float]]:
    """For each layer {number: name} and side, means over the images: what becomes of the unit that
    was strongest on the whole image, and of its projection.

    `activation`: its activation over that on the whole image; `alike`: the cosine of the two
    projections, 0 where it no longer fires; `fine`: the share of the projections' energy above what
    32 pixels a side can hold.
    """
    deconvnet, rows = deconv.Deconvnet(model), []
    for number, layer in layers.items():
        whole = inputs(images, indices, images.size)
        unit = channel, position = top_activations.strongest_units(model, whole, layer)
        place = torch.arange(len(whole)), channel, *position.unbind(1)
        first = deconvnet.project(whole, layer, *unit).flatten(1)
        strength = deconvnet.activations(whole, layer)[place].cpu()
        for side in sides:
            seen = inputs(images, indices, side)
            found, maps = deconvnet.project(seen, layer, *unit), deconvnet.activations(seen, layer)
            above, total = spectrum.energy_above(found, [fine(images.size)])
            rows.append(
                {
                    "layer": number,
                    "side": side,
                    "activation": float((maps[place].cpu() / strength).mean()),
                    "alike": float(torch.cosine_similarity(found.flatten(1), first).mean()),
                    "fine": float(above[0] / total),
                }
            )
    return rows


def in_all(found: list[top_activations.TopActivations]) -> top_activations.TopActivations:
    """The first of one layer's scans of several data sets, with the smallest value of all at each
    place: what fires in it fires in all of them.
    """
    return replace(found[0], value=torch.stack([top.value for top in found]).amin(0))


def fine_shares(
    model: nn.Module,
    images: Images,
    layer: str,
    top: top_activations.TopActivations,
    channels: torch.Tensor,
) -> tuple[float, float]:
    """The share of energy above what 32 pixels a side can hold: in the nine top images of these
    maps, and in their projections.
    """
    limits, deconvnet = [fine(images.size)], deconv.Deconvnet(model)
    above = total = 0.0
    for channel in channels.tolist():
        found = deconvnet.project(
            images.batch(top.image[channel]),
            layer,
            channel,
            torch.stack([top.row[channel], top.col[channel]], 1),
        )
        more, everything = spectrum.energy_above(found, limits)
        above, total = above + float(more[0]), total + float(everything)
    return spectrum.image_shares(images, top.image[channels].flatten().unique(), limits)[
        0
    ], above / total
