"""Figures are byte-equal from run to run, and small."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from zfnet import Profile, plots
from zfnet.experiments.filters.figure import filters_figure
from zfnet.plots import saving


@pytest.mark.slow
def test_figures_are_byte_equal_and_below_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    profile, found = Profile("p", "P"), []
    for name in "ab":
        figure = filters_figure(
            torch.randn(96, 3, 7, 7, generator=torch.Generator().manual_seed(0)), "Filters"
        )
        found.append(plots.save_figure(figure, profile, name).read_bytes())
        plt.close(figure)
    assert found[0] == found[1]
    assert saving.LIMIT < 500_000
    # a tenth, so that noise of a tenth of a page is too large even in 256 colours
    monkeypatch.setattr(saving, "LIMIT", 49_000)
    figure, axis = plt.subplots(figsize=(4, 3))
    axis.imshow(np.random.default_rng(0).random((300, 400, 3)))
    path = plots.save_figure(figure, profile, "noise")
    assert path.stat().st_size < 49_000
    with Image.open(path) as reduced:
        assert reduced.width < 0.9 * 4 * 110  # fewer dots, too
    plt.close(figure)
