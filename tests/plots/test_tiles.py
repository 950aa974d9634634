"""Contrast, patches and tiles, by hand and by the projection of the whole image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zfnet import Deconvnet, Images, TopActivations, plots, receptive_field
from zfnet.data.shapes import CLASSES, make_shapes
from zfnet.models.zfnet import ZFNet


def test_one_contrast_rule_by_hand():
    picture = plots.to_grey_centred(
        torch.tensor([-4.0, -1, 0, 2]).view(4, 1, 1, 1).expand(4, 3, 1, 1), 2.0
    )
    assert picture[:, 0, 0, 0].tolist() == [0.0, 0.25, 0.5, 1.0]
    found = torch.randn(9, 3, 20, 20)
    found[:, :, :10] = 0
    assert plots.contrast_scale(found) == pytest.approx(
        np.percentile(found[:, :, 10:].abs().numpy(), plots.PERCENTILE)
    )
    assert plots.contrast_scale(torch.zeros(3, 4, 4)) == 1.0


def test_patches_are_the_receptive_field_white_beyond_the_border():
    features = ZFNet(10, fc=(8, 8)).features
    field = receptive_field(features, "relu2", 64)
    picture = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32) * 0.9
    middle = plots.crop_field(picture, field, 3, 2)
    top, left, bottom, right = field.box(3, 2)
    assert middle.shape == (27, 27, 3) and np.array_equal(middle, picture[top:bottom, left:right])
    corner = plots.crop_field(picture, field, 0, 0)
    assert (
        (corner[0] == 1).all()
        and (corner[:, 0] == 1).all()
        and np.array_equal(corner[1:, 1:], picture[:26, :26])
    )


@pytest.mark.parametrize("layer", ["relu1", "relu2", "relu5"])
def test_tiles_are_cut_from_the_projection_of_the_whole_image(layer):
    """Corner, border and middle units, fields smaller and larger than the image: as `crop_field` of
    a full-size projection shows them.
    """
    torch.manual_seed(0)
    features, drawn = (
        ZFNet(10, maps=(8, 8, 8, 8, 8), input_size=112, fc=()).eval().features,
        make_shapes(9, 112),
    )
    images = Images(
        drawn.images,
        drawn.labels,
        CLASSES,
        112,
        torch.full((3, 1, 1), 120.0),
        torch.full((3, 1, 1), 60.0),
        6.0,
    )
    deconvnet, field = Deconvnet(features), receptive_field(features, layer, 112)
    maps = deconvnet.activations(images.batch(range(9)), layer)
    # one that fires almost everywhere
    channel = int(maps.amin(0).clamp_min(0).sum((1, 2)).argmax())
    last = field.map_size[0] - 1
    units = [
        (0, 0),
        (0, last),
        (last, 0),
        (last, last),
        (0, 1),
        (last // 2, 0),
        (1, last),
        (last // 2, last // 2),
        (last, 2),
    ]
    row, col = (x[None].expand(8, 9) for x in torch.tensor(units).unbind(1))
    top = TopActivations(torch.ones(8, 9), torch.arange(9).expand(8, 9), row, col)
    (tiles,), _ = plots.top9_tiles(deconvnet, images, layer, top, torch.tensor([channel]))
    whole = deconvnet.project(
        images.batch(range(9)), layer, channel, torch.stack([row[0], col[0]], 1), windows=False
    )
    pictures = plots.to_grey_centred(whole, plots.contrast_scale(whole))
    shown = 0
    for i, tile in enumerate(tiles):
        unit = int(row[0, i]), int(col[0, i])
        assert np.allclose(tile, plots.crop_field(pictures[i], field, *unit), atol=1e-4)
        shown += bool((np.abs(tile - 0.5) > 1e-3)[tile < 1].any())
    assert shown >= 5


def test_mosaic_by_hand():
    tiles = [np.full((1, 2, 3), i / 10, np.float32) for i in range(3)]
    expected = [[0, 0, 1, 0.1, 0.1], [1, 1, 1, 1, 1], [0.2, 0.2, 1, 1, 1]]
    assert np.allclose(plots.mosaic(tiles, 2)[..., 0], expected)
