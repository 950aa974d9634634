"""Likeness against scipy, scikit-image and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from zfnet import plots
from zfnet.experiments.sanity_checks.compute import (
    as_drawn,
    edges,
    same_place,
    similarity,
    spearman,
)


def ranks(values: np.ndarray) -> np.ndarray:
    """By definition: how many are smaller, and half of those that are equal, itself left out."""
    return np.array([(values < one).sum() + ((values == one).sum() - 1) / 2 for one in values])


def test_spearman_is_the_correlation_of_ranks_ties_and_all():
    generator = np.random.default_rng(0)
    for values in (
        generator.normal(size=(2, 40)),
        generator.integers(0, 4, size=(2, 60)).astype(float),
    ):
        a, b = torch.from_numpy(values)
        expected = np.corrcoef(*(ranks(one) for one in values))[0, 1]
        assert spearman(a, b) == pytest.approx(expected, abs=1e-12)
    assert spearman(torch.arange(5.0), torch.tensor([0.0, 1, 4, 9, 16])) == pytest.approx(1)
    assert math.isnan(spearman(torch.zeros(4), torch.arange(4.0)))


def test_pictures_are_compared_as_drawn_inside_the_box():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 20, 24, generator=generator)
    top, left, bottom, right = box = (3, 5, 17, 22)
    rank, alike = similarity(a, b, box)
    crops = [picture[:, top:bottom, left:right].double().numpy() for picture in (a, b)]
    assert rank == pytest.approx(
        spearmanr(*(np.abs(crop).sum(0).ravel() for crop in crops)).statistic, abs=1e-6
    )
    scaled = [0.5 + 0.5 * np.clip(crop / np.percentile(np.abs(crop), 98), -1, 1) for crop in crops]
    assert alike == pytest.approx(
        np.mean(
            [structural_similarity(*planes, data_range=1.0) for planes in zip(*scaled, strict=True)]
        ),
        abs=1e-5,
    )
    outside = b.clone()
    outside[:, :top] = 50
    assert similarity(a, outside, box) == (rank, alike) and same_place(a, outside, box) == rank
    assert similarity(a, 7 * a, box) == pytest.approx((1, 1))
    flipped = similarity(a, -a, box)
    assert flipped[0] == pytest.approx(1) and flipped[1] < 0
    assert np.isfinite(similarity(a, b, (0, 0, 4, 6))).all()  # smaller than a window of 7


def test_as_drawn_is_the_rule_of_the_figures():
    picture = torch.randn(3, 8, 8) * (torch.rand(8, 8) < 0.5)
    scale = plots.contrast_scale(picture)
    np.testing.assert_allclose(
        as_drawn(picture).transpose(1, 2, 0), plots.to_grey_centred(picture, scale), atol=1e-6
    )
    values = picture.numpy()
    np.testing.assert_allclose(
        as_drawn(picture),
        0.5 + 0.5 * np.clip(values / np.percentile(np.abs(values[values != 0]), 98), -1, 1),
        atol=1e-6,
    )
    assert (as_drawn(torch.zeros(3, 2, 2)) == 0.5).all()


def test_edges_are_the_length_of_sobels_gradient_of_each_colour():
    """Rows 1 2 1 across columns -1 0 1, over 4, both ways; the root of the mean of the squares."""
    images = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    found = edges(images)
    assert found.shape == images.shape
    for place in np.ndindex(2, 3, 4, 5):
        n, c, r, k = place
        part = images[n, c, r : r + 3, k : k + 3].numpy()
        across, down = (
            ((part @ [-1, 0, 1]) @ [1, 2, 1]) / 4,
            ((part.T @ [-1, 0, 1]) @ [1, 2, 1]) / 4,
        )
        assert found[n, c, r + 1, k + 1].item() == pytest.approx(
            math.sqrt((across**2 + down**2) / 2), rel=1e-12
        )
    assert not edges(torch.full((1, 3, 5, 5), 3.0)).any()
