"""How well pictures point at the object: cases small enough to work by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from zfnet import Images, occlusion_localisation, projection_localisation
from zfnet.methods.localisation import (
    centre_inside,
    class_share,
    energy_share,
    five_of_a_class,
    minimum_inside,
)
from zfnet.methods.occlusion import Occlusion


def test_the_energy_share_is_of_squares_summed_over_colours():
    pictures = torch.zeros(3, 3, 2, 3)
    # 9 + 16 inside, 25 outside
    pictures[0, 0, 0, 0], pictures[0, 2, 0, 0], pictures[0, 1, 1, 2] = 3, -4, 5
    pictures[1, 1, 1, 1], pictures[1, 0, 0, 1] = -1, 3  # 1 inside, 9 outside
    masks = torch.tensor(
        [[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [1, 1, 1]], [[1, 1, 1], [1, 1, 1]]], dtype=torch.bool
    )
    share = energy_share(pictures, masks)
    assert share[:2].tolist() == pytest.approx([0.5, 0.1]) and math.isnan(share[2])


def test_the_share_of_one_class_beside_that_of_chance():
    labels = torch.tensor([0] * 6 + [1] * 6)
    found = class_share(torch.tensor([[0, 1, 2], [0, 1, 6], [6, 7, 0]]), labels, draws=4000)
    assert found["a map's 3"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    alike = 2 * 20 / 220  # three of the same class among 12 over 3 draws; otherwise two of three
    assert found["3 at random"] == pytest.approx(alike + (1 - alike) * 2 / 3, abs=0.01)
    assert set(class_share(torch.arange(9)[None], labels, 5)) == {"a map's nine", "nine at random"}


def occlusion(probability, tops, lefts, size):
    grid = torch.tensor(probability)
    empty = torch.zeros(grid.shape)
    return Occlusion(
        grid,
        empty.long(),
        empty,
        empty[..., None],
        torch.tensor(tops),
        torch.tensor(lefts),
        size,
        2,
        0,
        "relu5",
        0,
        1.0,
        0,
        1.0,
    )


MASK = torch.tensor(
    [[0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 0], [0, 1, 0, 0, 0]], dtype=torch.bool
)


@pytest.mark.parametrize(
    ("size", "tops", "inside"),
    [
        # centres in rows 1 and 2, columns 1, 2, 3
        (3, [0, 1], [[False, False, True], [False, False, True]]),
        (3, [1, 2], [[False, False, True], [True, False, False]]),  # rows 2 and 3
        # rows 1 and 3: the pixel below and right of the middle
        (2, [0, 2], [[False, False, True], [True, False, False]]),
    ],
)
def test_the_centre_of_the_square_decides(size, tops, inside):
    assert centre_inside(occlusion([[0.5] * 3] * 2, tops, [0, 1, 2], size), MASK).tolist() == inside


def test_the_minimum_is_inside_or_not_and_chance_is_the_share_of_positions():
    # centres rows 1, 2, 3, columns 1, 2, 3, 4: inside are (0, 2), (1, 2) and (2, 0)
    tops, lefts = [0, 1, 2], [0, 1, 2, 3]
    grid = [[0.9, 0.8, 0.7, 0.9], [0.9, 0.8, 0.1, 0.9], [0.3, 0.9, 0.9, 0.2]]
    assert minimum_inside(occlusion(grid, tops, lefts, 2), MASK) == (True, 0.25)
    grid[2][3] = 0.05
    assert minimum_inside(occlusion(grid, tops, lefts, 2), MASK) == (False, 0.25)


class Colours(nn.Module):
    """Two maps that copy the red and the green plane; the logits are their sums over space."""

    def __init__(self, relus=5):
        super().__init__()
        first = nn.Conv2d(3, 2, 1, bias=False)
        first.weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0]])[..., None, None]
        self.features = nn.Sequential(first, *(nn.ReLU() for _ in range(relus)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(2, 2))
        self.classifier[0].weight.data, self.classifier[0].bias.data = torch.eye(2), torch.zeros(2)


def images_with_masks():
    """6 x 6 pictures, a mask of the left 2 columns. Red peaks: inside in picture 0, outside in 1;
    green, one pixel inside, in 2; red out, green in, in 3.
    """
    pixels = torch.zeros(4, 3, 6, 6, dtype=torch.uint8)
    pixels[0, 0, 2, 1] = 200
    pixels[1, 0, 4, 4] = 200
    pixels[2, 1, 0, 0] = 9
    pixels[3, 0, 3, 5], pixels[3, 1, 5, 1] = 100, 90
    masks = torch.zeros(4, 6, 6, dtype=torch.bool)
    masks[:, :, :2] = True
    return Images(
        pixels,
        torch.tensor([0, 0, 1, 1]),
        ["red", "green"],
        6,
        torch.zeros(3, 1, 1),
        torch.ones(3, 1, 1),
        masks=masks,
    )


def test_projections_of_single_pixels_lie_in_the_mask_or_not():
    images, model = images_with_masks(), Colours().eval()
    # one active unit each: random and strongest are the same
    found = projection_localisation(model, images, torch.tensor([0, 1, 2]), "5")
    assert found == pytest.approx(
        {"strongest unit": 2 / 3, "random active unit": 2 / 3, "mask's share of the image": 1 / 3}
    )
    # the stronger of picture 3 lies outside
    found = projection_localisation(model, images, torch.tensor([3, 0]), "5")
    assert found["strongest unit"] == 0.5
    drawn = {
        projection_localisation(model, images, torch.tensor([3]), "5", seed)["random active unit"]
        for seed in range(12)
    }
    assert drawn == {0.0, 1.0}
    assert projection_localisation(
        model, images, torch.tensor([3]), "5", 4
    ) == projection_localisation(model, images, torch.tensor([3]), "5", 4)


def test_images_in_which_nothing_fires_do_not_count():
    images = images_with_masks()
    images.pixels[2] = 0
    found = projection_localisation(Colours().eval(), images, torch.tensor([0, 2, 1]), "5")
    assert found["strongest unit"] == found["random active unit"] == 0.5


def test_occlusion_minima_lie_where_the_evidence_is():
    """Covering the only pixel of its class is the minimum: 2 x 2 squares at 0, 2, 4, with centres
    at 1, 3, 5; a third of them in the mask.
    """
    images, model = images_with_masks(), Colours().eval()
    for chosen, share in (([0], 1.0), ([1], 0.0), ([0, 1, 2], 2 / 3), ([3], 1.0)):
        found = occlusion_localisation(model, images, torch.tensor(chosen), 2, 2)
        assert found == pytest.approx({"minimum inside the mask": share, "random position": 1 / 3})


def test_maps_with_five_of_a_class():
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 2])
    chosen = torch.tensor([[0, 1, 2, 3, 4, 9], [0, 1, 2, 3, 5, 6], [5, 6, 7, 8, 9, 0]])
    assert five_of_a_class(chosen, labels) == pytest.approx(1 / 3)
    assert five_of_a_class(chosen, labels, 4) == 1
