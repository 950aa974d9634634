"""Figures as files, and which maps they show."""

from __future__ import annotations

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from zfnet import Images, Occlusion, TopActivations, plots
from zfnet.experiments.occlusion.figure import occlusion_figure
from zfnet.experiments.train.figure import confusion_figure
from zfnet.plots import panels
from zfnet.plots.saving import LIMIT, _fewer_colours
from zfnet.store import profiles


@pytest.fixture
def profile(tmp_path, monkeypatch):
    demo = profiles.read_profile("demo")
    monkeypatch.setattr(profiles, "ROOT", tmp_path)
    return demo


def photograph(side: int) -> np.ndarray:
    """Shaded noise in colours of a middling strength, which no palette of 256 holds: (side, side,
    3) in 0..1.
    """
    generator = torch.Generator().manual_seed(0)
    shade = torch.linspace(0.2, 0.7, side)[:, None, None] + torch.linspace(-0.1, 0.1, side)[
        None, :, None
    ] * torch.tensor([1.0, 0.2, -1.0])
    return (shade + 0.04 * torch.randn(side, side, 3, generator=generator)).clamp(0, 1).numpy()


def drawn(pixels: np.ndarray, inches: float) -> plt.Figure:
    figure = plt.figure(figsize=(inches, inches))
    axes = figure.add_axes((0, 0, 1, 0.99))  # a strip of white paper above it
    axes.imshow(pixels, interpolation="nearest")
    axes.axhline(len(pixels) / 2, color="red", linewidth=4)
    axes.set_axis_off()
    plt.close(figure)
    return figure


@pytest.mark.slow
def test_a_large_figure_becomes_small_and_keeps_its_colours(profile, report):
    pixels = photograph(700)
    path = plots.save_figure(drawn(pixels, 7.0), profile, "large")
    again = path.read_bytes()
    plots.save_figure(drawn(pixels, 7.0), profile, "large")
    assert path.read_bytes() == again and len(again) <= LIMIT
    found = np.asarray(Image.open(path).convert("RGB")).astype(float)
    side = len(found)
    assert (found[side // 2, side // 4 : 3 * side // 4] == (255, 0, 0)).all(), (
        "a line's colour is rare, but it is what the caption names"
    )
    assert (found[2] == 255).all(), "paper is white"
    quarter = found[side // 8 : 3 * side // 8, side // 8 : 3 * side // 8].mean((0, 1))
    error = np.abs(
        quarter - 255 * pixels[700 // 8 : 3 * 700 // 8, 700 // 8 : 3 * 700 // 8].mean((0, 1))
    ).max()
    report(f"a picture of {len(again)} bytes in 256 colours: its mean is off by {error:.2f} of 255")
    assert error < 5


def test_of_256_colours_each_pixel_has_the_nearest_and_grey_stays_grey():
    generator = np.random.default_rng(0)
    pixels = generator.integers(60, 200, (120, 120, 3)).astype(np.uint8)
    pixels[::2, ::2] = 128  # the zero of a projection, among colours near to it
    reduced = _fewer_colours(Image.fromarray(pixels))
    found = np.asarray(reduced.convert("RGB")).astype(int)
    assert (found[::2, ::2] == 128).all()
    palette = np.array(reduced.getpalette()).reshape(-1, 3)
    distance = np.square(pixels.reshape(-1, 1, 3).astype(int) - palette).sum(2)
    assert (
        len(palette) == 256
        and (np.square(found - pixels).sum(2).flatten() == distance.min(1)).all()
    )


def test_a_small_figure_keeps_every_colour(profile):
    ramp = np.stack(
        [*np.meshgrid(np.linspace(0, 1, 60), np.linspace(0, 1, 60)), np.full((60, 60), 0.5)], 2
    )
    found = Image.open(plots.save_figure(drawn(ramp, 1.0), profile, "small")).convert("RGB")
    assert len(np.unique(np.asarray(found).reshape(-1, 3), axis=0)) > 1000


def test_a_layer_that_never_fires_is_an_error():
    nothing = TopActivations(
        *(
            torch.zeros(5, 2, dtype=torch.float if field.name == "value" else torch.long)
            for field in dataclasses.fields(TopActivations)
        )
    )
    with pytest.raises(ValueError, match="no map of this layer fires for any of these images"):
        plots.random_maps(nothing, 3, 0)


@pytest.mark.parametrize(("chance", "height", "side"), [(0.1, 9, "top"), (0.01, 2, "bottom")])
def test_chance_is_named_where_there_is_room(chance, height, side):
    _, axis = plt.subplots()
    panels.chance_label(axis, 3, chance)
    (label,) = axis.texts
    assert label.get_position() == (3, pytest.approx(height)) and label.get_va() == side


@pytest.mark.parametrize(("count", "named"), [(12, True), (61, False)])
def test_a_confusion_of_many_classes_has_no_names_too_small_to_read(count, named):
    classes = [f"class {n}" for n in range(count)]
    figure = confusion_figure(torch.arange(count), torch.arange(count), classes, "T")
    axis = figure.axes[0]
    assert ("class 3" in [label.get_text() for label in axis.get_xticklabels()]) == named
    assert axis.get_xlabel() == (
        "predicted class" if named else "predicted class, class 0 to class 60"
    )


def test_the_maps_of_an_occlusion_lie_where_the_squares_centres_are():
    grid = torch.tensor([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4]])
    found = Occlusion(
        grid,
        grid.long(),
        10 * grid,
        grid[..., None],
        torch.tensor([0, 10]),
        torch.tensor([0, 4, 8]),
        6,
        4,
        0,
        "relu5",
        0,
        1.0,
        0,
        1.0,
    )
    images = Images(
        torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
        torch.zeros(1, dtype=torch.long),
        ["a"],
        16,
        torch.zeros(3, 1, 1),
        torch.ones(3, 1, 1),
    )
    drops = torch.tensor([0.6, 0.31, 0.33, 0.0])
    own = [torch.zeros(4, 3, 16, 16)]
    figure = occlusion_figure(images, [0], [found], own, ["a", "b"], "T", ["largest drop"], drops)
    panels = {axis.get_title()[:3]: axis for axis in figure.axes if axis.get_title()}
    for name in ("(b)", "(d)", "(e)"):
        axis = panels[name]
        assert axis.images[-1].get_extent() == [1, 13, 18, -2]  # centres at 3, 7, 11 and at 3, 13
        assert axis.get_xlim() == (0, 16) and axis.get_ylim() == (16, 0)
    assert len({round(axis.get_position().width, 6) for axis in panels.values()}) == 1
    activity, probability = (panels[name].images[-1] for name in ("(b)", "(d)"))
    assert activity.get_clim() == (0, 9) and probability.get_clim() == (0, 1)
    below = next(axis for axis in figure.axes if axis.get_ylabel() == "images, of 4")
    heights = {round(bar.get_x(), 2): bar.get_height() for bar in below.patches}
    assert {x: n for x, n in heights.items() if n} == {0.0: 1, 0.3: 2, 0.6: 1}
    assert below.lines[0].get_xdata()[0] == pytest.approx(0.6)  # 1.0 without, 0.4 at the lowest


@pytest.mark.parametrize(("count", "alive"), [(2, {1, 3, 4}), (3, {1, 3, 4}), (4, {1, 2, 3, 4})])
def test_random_maps_fire_in_all_their_top_images(count, alive):
    value = torch.tensor([[0.0, 0.0], [3.0, 1.0], [2.0, 0.0], [5.0, 4.0], [1.0, 0.5]])
    top = TopActivations(
        *(
            value if field.name == "value" else torch.zeros(5, 2, dtype=torch.long)
            for field in dataclasses.fields(TopActivations)
        )
    )
    chosen = [plots.random_maps(top, count, seed).tolist() for seed in range(20)]
    assert set().union(*chosen) == alive and all(
        len(set(maps)) == count and maps == sorted(maps) for maps in chosen
    )
