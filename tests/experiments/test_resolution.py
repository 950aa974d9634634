"""Reduced images against Pillow; what units see of them against the net itself; frequencies against
gratings of known ones.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from zfnet import Deconvnet, Images, TopActivations, plots, scan
from zfnet.experiments.resolution.compute import (
    compare,
    fine,
    fine_shares,
    in_all,
    inputs,
    reduced,
    reduced_images,
)


def noise(n: int = 6, side: int = 48) -> torch.Tensor:
    # no step of Pillow's clips
    return torch.randint(
        70, 186, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def as_images(pixels: torch.Tensor) -> Images:
    return Images(
        pixels,
        torch.zeros(len(pixels), dtype=torch.long),
        ["one"],
        pixels.shape[-1],
        torch.full((3, 1, 1), 127.5),
        torch.full((3, 1, 1), 64.0),
    )


def grating(cycles: int, side: int = 96) -> torch.Tensor:
    wave = 127.5 + 100 * torch.sin(2 * torch.pi * cycles * torch.arange(side) / side)
    return wave.round().to(torch.uint8).expand(1, 3, side, side).clone()


@pytest.mark.parametrize("side", [5, 16, 47])
def test_images_are_reduced_as_pillow_does_it(side, report):
    pixels = noise()
    found = reduced(pixels, side)
    worst = 0
    for one, picture in zip(found, pixels, strict=True):
        small = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        expected = np.array(small.resize((48, 48), Image.Resampling.BICUBIC)).astype(int)
        worst = max(worst, int(np.abs(one.permute(1, 2, 0).numpy().astype(int) - expected).max()))
    report(
        f"images reduced to {side} of 48 pixels and enlarged: within {worst} of Pillow's 255 levels"
    )
    assert worst <= 2 and not torch.equal(found, pixels)


def test_a_side_as_large_as_the_image_changes_nothing_and_none_is_refused():
    assert torch.equal(reduced(noise(), 48), noise()) and torch.equal(reduced(noise(), 60), noise())
    with pytest.raises(ValueError, match="side = 0: images keep at least 1 pixel"):
        reduced(noise(), 0)


def test_a_reduced_image_keeps_what_its_pixels_can_hold():
    """A grating of 8 cycles fits into 32 pixels, one of 24 does not."""
    keeps, loses = (
        float(reduced(grating(cycles), 32).float().std() / grating(cycles).float().std())
        for cycles in (8, 24)
    )
    assert keeps > 0.85 and loses < 0.1
    assert fine(96) == pytest.approx(16 / 96)


def test_a_reduced_data_set_is_the_reduced_images():
    whole = as_images(noise())
    inner = Images(whole.pixels, whole.labels, ["one"], 32, whole.mean, whole.std)
    # 24 of 48 stored are 16 of the 32 that the net sees
    assert torch.equal(reduced_images(inner, 16).pixels, reduced(whole.pixels, 24))
    assert torch.equal(reduced_images(inner, 32).batch([3, 1]), inner.batch([3, 1]))


def test_units_of_the_whole_image_are_asked_again():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 7, 3), nn.ReLU()
    )
    images, indices = as_images(noise()), torch.tensor([4, 1, 2])
    rows = {
        (row["layer"], row["side"]): row
        for row in compare(net, images, indices, [48, 12], {1: "1", 2: "4"})
    }
    for number, layer in ((1, "1"), (2, "4")):
        whole, less = (
            net[: int(layer) + 1](inputs(images, indices, 48)),
            net[: int(layer) + 1](inputs(images, indices, 12)),
        )
        flat = whole.flatten(1).argmax(1)
        ratio = (
            less.flatten(1).gather(1, flat[:, None]) / whole.flatten(1).gather(1, flat[:, None])
        ).mean()
        unit = torch.stack(torch.unravel_index(flat, whole.shape[1:]), 1)
        first, second = (
            Deconvnet(net)
            .project(inputs(images, indices, side), layer, unit[:, 0], unit[:, 1:])
            .flatten(1)
            .double()
            for side in (48, 12)
        )
        cosine = (
            (first * second).sum(1) / first.norm(dim=1) / second.norm(dim=1).clamp_min(1e-12)
        ).mean()
        assert (
            rows[number, 12]["activation"] == pytest.approx(ratio.item(), rel=1e-4) and ratio < 0.9
        )
        assert rows[number, 12]["alike"] == pytest.approx(cosine.item(), rel=1e-4)
        assert rows[number, 48]["activation"] == pytest.approx(1) and rows[number, 48][
            "alike"
        ] == pytest.approx(1, abs=1e-5)
        assert 0 < rows[number, 48]["fine"] < 1


@pytest.mark.parametrize(("cycles", "share"), [(8, 0), (24, 1)])
def test_the_energy_beyond_32_pixels_is_that_of_a_grating(cycles, share):
    """A first layer of one pixel's reach hands the image's own frequencies down, to the projection
    of the whole image's brightest pixels.
    """
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU())
    images = as_images(torch.cat([grating(cycles), grating(cycles).roll(3, -1)]))
    top = scan(net, images, "1", k=2)["1"]
    of_images, of_projections = fine_shares(net, images, "1", top, torch.tensor([0]))
    assert of_images == pytest.approx(share, abs=0.05)
    # a single pixel has all frequencies: the share of those beyond, 1 - (32 / 96)^2 = 0.89
    assert 0.8 < of_projections < 0.95


def test_maps_are_drawn_among_those_that_fire_everywhere():
    places = torch.zeros(4, 2, dtype=torch.long)
    one, other = (
        TopActivations(torch.tensor(value), places, places, places)
        for value in (
            [[2.0, 1.0], [3.0, 0.0], [4.0, 3.0], [5.0, 2.0]],
            [[9.0, 8.0], [9.0, 9.0], [1.0, 0.0], [4.0, 4.0]],
        )
    )
    assert in_all([one, other]).value.tolist() == [[2, 1], [3, 0], [1, 0], [4, 2]]
    assert plots.random_maps(in_all([one, other]), 2, 0).tolist() == [0, 3]
    assert in_all([one]).value.equal(one.value)
