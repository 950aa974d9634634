"""Feature invariance (Fig. 5): transformations pixel by pixel from their definition, distances by a
plain loop, the numbers by hand.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.stubs import forbidden
from zfnet import Images, ZFNet, load_profile
from zfnet.data.shapes import CLASSES
from zfnet.experiments.invariance import compute as invariance
from zfnet.experiments.invariance.compute import (
    KINDS,
    SYMMETRY,
    Invariance,
    amounts,
    hidden,
    invariance_rows,
    linearity,
    measure,
    rotation_rows,
    run_invariance,
    share_of_range,
    transform,
    turned,
)
from zfnet.experiments.invariance.figure import invariance_figure
from zfnet.store.profiles import Profile


def random_images(n: int = 3, side: int = 20, stored: tuple[int, int] = (24, 27)) -> Images:
    """Smooth noise, so that a bilinear oracle is close; stored larger than the crop, and not
    square.
    """
    coarse = torch.rand(n, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 255
    pixels = nn.functional.interpolate(coarse, stored, mode="bilinear").round().to(torch.uint8)
    return Images(
        pixels,
        torch.arange(n) % 3,
        ["a", "b", "c"],
        side,
        torch.tensor([30.0, 120.0, 200.0]).view(3, 1, 1),
        torch.full((3, 1, 1), 50.0),
    )


# --- what is done to the images -------------------------------------------------------------------


def test_the_papers_amounts():
    assert amounts("translation", 224).tolist() == list(range(-60, 61, 5))
    small = amounts("translation", 96)
    assert (
        small[0] == -26
        and small[-1] == 26
        and 0 in small.tolist()
        and torch.equal(small, -small.flip(0))
        and torch.equal(small, small.round())
    )
    assert (
        amounts("scale", 96)[0] == 1
        and amounts("scale", 96)[-1] == 1.8
        and amounts("rotation", 96).tolist() == list(range(0, 360, 10))
    )


def test_a_shift_moves_whole_pixels_margin_first_and_then_the_mean_colour():
    images = random_images()
    top, left = images.corner
    for shift in (-5, -1, 0, 1, 5):
        moved = transform(images, [0, 2], "translation", shift)
        for n, index in enumerate((0, 2)):
            for y in range(20):
                source = top + y - shift  # down is positive
                if 0 <= source < 24:
                    assert torch.equal(
                        moved[n, :, y], images.pixels[index, :, source, left : left + 20]
                    )
                else:
                    assert moved[n, :, y].T.tolist() == [[30, 120, 200]] * 20


@pytest.mark.parametrize(
    ("kind", "amount"), [("scale", 1.3), ("scale", 1.8), ("rotation", 30.0), ("rotation", 200.0)]
)
def test_every_pixel_comes_from_where_it_should(kind, amount):
    """The pixel at (y, x) shows the point that the transformation about the middle of the crop
    brings there, by bilinear interpolation.
    """
    images = random_images()
    (top, left), stored = images.corner, images.pixels[1].double().numpy()
    moved = transform(images, [1], kind, amount)[0].double().numpy()
    angle, factor = (math.radians(amount), 1.0) if kind == "rotation" else (0.0, amount)
    seen = 0
    for y in range(20):
        for x in range(20):
            dy, dx = y + 0.5 - 10, x + 0.5 - 10
            # turned clockwise on the screen, whose y points down: the inverse turns the other way
            v = top + 10 + (math.cos(angle) * dy - math.sin(angle) * dx) / factor - 0.5
            u = left + 10 + (math.sin(angle) * dy + math.cos(angle) * dx) / factor - 0.5
            i, j = math.floor(v), math.floor(u)
            if not (0 <= i < 23 and 0 <= j < 26):
                continue
            a, b = v - i, u - j
            expected = (1 - a) * ((1 - b) * stored[:, i, j] + b * stored[:, i, j + 1]) + a * (
                (1 - b) * stored[:, i + 1, j] + b * stored[:, i + 1, j + 1]
            )
            assert np.abs(moved[:, y, x] - expected).max() <= 0.51, (y, x)
            seen += 1
    assert seen > 300


def test_no_change_is_no_change():
    images = random_images()
    for kind, amount in (("translation", 0), ("scale", 1.0), ("rotation", 0), ("rotation", 360)):
        assert torch.equal(transform(images, [0, 1, 2], kind, amount), images.pictures([0, 1, 2]))


def test_a_quarter_turn_is_clockwise():
    images = random_images(side=20, stored=(24, 24))
    assert torch.equal(
        transform(images, [0], "rotation", 90), torch.rot90(images.pictures([0]), -1, (2, 3))
    )


def test_bad_transformations_are_named():
    images = random_images()
    for call in (lambda: transform(images, [0], "shear", 1), lambda: amounts("shear", 224)):
        with pytest.raises(
            ValueError, match="kind = 'shear': choose one of translation, scale, rotation"
        ):
            call()
    with pytest.raises(ValueError, match="scale = 0: must be positive"):
        transform(images, [0], "scale", 0)


# --- what is measured -----------------------------------------------------------------------------


def net(**choices) -> ZFNet:
    torch.manual_seed(0)
    return ZFNet(3, input_size=64, maps=(3, 4, 4, 4, 5), fc=(6, 7), **choices)


class InPlace(nn.Module):
    """Laid out as torchvision's nets: numbered children, dropout first, rectified in place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d(3)
        hidden_layers = (
            nn.Linear(36, 8),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(8, 6),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Sequential(nn.Dropout(), *hidden_layers, nn.Linear(6, 3))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


@pytest.mark.parametrize(
    ("model", "first", "last"),
    [(net(), "features.relu1", "classifier.relu7"), (InPlace(), "features.1", "classifier.5")],
)
def test_hidden_layers_are_what_hooks_see_in_eval_mode(model, first, last):
    inputs, seen = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output.clone()})
        )
        for name in (first, last)
    ]
    logits = model.eval()(inputs)
    for handle in handles:
        handle.remove()
    layer1, layer7, found = hidden(model.train(), inputs)  # dropout stays out of it
    assert model.training
    torch.testing.assert_close(layer1, seen[first].flatten(1))
    torch.testing.assert_close(layer7, seen[last])
    torch.testing.assert_close(found, logits)


def test_without_hidden_layers_the_last_maps_averaged_over_space_stand_for_layer_7():
    torch.manual_seed(2)
    model = ZFNet(3, input_size=64, maps=(3, 4, 4, 4, 5), fc=()).eval()
    inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    _, layer7, _ = hidden(model, inputs)
    maps = model.features[: list(dict(model.features.named_children())).index("relu5") + 1](inputs)
    assert maps.std() > 0
    torch.testing.assert_close(layer7, maps.mean((2, 3)))


def test_a_net_without_a_classifier_gives_distances_and_no_probability():
    images, model = random_images(3, 64, (70, 70)), net().features.eval()
    steps = torch.tensor([0.0, 6.0], dtype=torch.float64)
    found = measure(model, images, torch.zeros(3, dtype=torch.long), "translation", steps)
    assert found.probability.isnan().all() and (found.layer1[:, 1] > 0).all()
    assert not invariance_rows({"translation": found})[0]["probability_mean"]


def test_measured_as_the_definition_says():
    images, model = random_images(3, 64, (70, 70)), net().eval()
    targets, steps = torch.tensor([2, 0, 1]), torch.tensor([-3.0, 0.0, 6.0], dtype=torch.float64)
    found = measure(model, images, targets, "translation", steps, batch_size=2)
    for n in range(3):
        clean = [part[0].detach().double().numpy() for part in hidden(model, images.batch([n]))]
        for t, amount in enumerate(steps.tolist()):
            moved = [
                part[0].detach().double().numpy()
                for part in hidden(
                    model, images.normalise(transform(images, [n], "translation", amount))
                )
            ]
            assert found.layer1[n, t].item() == pytest.approx(
                math.sqrt(sum((moved[0] - clean[0]) ** 2)), rel=1e-4, abs=1e-4
            )
            assert found.layer7[n, t].item() == pytest.approx(
                math.sqrt(sum((moved[1] - clean[1]) ** 2)), rel=1e-4, abs=1e-4
            )
            powers = np.exp(moved[2])
            assert found.probability[n, t].item() == pytest.approx(
                powers[targets[n]] / powers.sum(), rel=1e-4
            )
    assert (
        found.layer1[:, 1].tolist() == [0, 0, 0]
        and found.layer1[:, 2].min() > 0
        and found.at(5.1) == 2
    )


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0, 1], r"one label for each of the 3 images, got \(2,\)"),
        ([0, 1, 3], "from 0 to 3: choose labels from 0 to 2"),
        ([0, -1, 1], "from -1 to 1: choose"),
    ],
)
def test_targets_must_be_outputs_of_the_net(targets, message):
    with pytest.raises(ValueError, match=message):
        measure(net(), random_images(3, 64, (64, 64)), torch.tensor(targets), "scale")


def test_measured_once_and_then_read(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    monkeypatch.setattr(
        invariance, "amounts", lambda kind, size: torch.tensor([1.0, 2.0], dtype=torch.float64)
    )
    profile, images, model = Profile("tiny", "Tiny"), random_images(2, 64, (64, 64)), net()
    first = run_invariance(profile, model, images, torch.tensor([0, 1]))
    monkeypatch.setattr(invariance, "measure", forbidden(invariance.measure))
    again = run_invariance(profile, model, images, torch.tensor([0, 1]))
    assert list(again) == list(KINDS) and all(
        torch.equal(getattr(again[kind], name), getattr(first[kind], name))
        for kind in KINDS
        for name in ("amounts", "layer1", "layer7", "probability", "targets")
    )
    for other in (
        (net(lrn="after"), images, [1, 0]),
        (model, images.subset(torch.tensor([1, 0])), [0, 1]),
    ):
        with pytest.raises(AssertionError, match="was called"):
            run_invariance(profile, *other[:2], torch.tensor(other[2]))


# --- what is made of it ---------------------------------------------------------------------------


def sweep(kind, steps, layer1, layer7=None, probability=None, targets=None) -> Invariance:
    tables = [
        torch.tensor(np.array(table if table is not None else layer1), dtype=torch.float64)
        for table in (layer1, layer7, probability)
    ]
    return Invariance(
        kind,
        torch.tensor(steps, dtype=torch.float64),
        *tables,
        torch.tensor(targets if targets is not None else [0] * len(layer1)),
    )


def test_the_share_of_the_range_by_hand():
    found = sweep(
        "translation",
        [-4, -2, 0, 2, 4],
        [[8, 3, 0, 5, 6], [1, 1, 0, 2, 4]],
        [[1, 1, 0, 1, 10], [2, 0, 0, 0, 1]],
    )
    assert share_of_range(found, 1, 2).tolist() == [4 / 8, 1.5 / 4]
    assert share_of_range(found, 7, 2.3).tolist() == [1 / 10, 0]
    with pytest.raises(ValueError, match="layer = 5: distances are measured at layers 1 and 7"):
        share_of_range(found, 5, 2)


def test_only_one_side_of_a_scale_and_both_of_a_turn():
    """The amounts of a scale start at 1, so there is one side; a small turn is one either way."""
    assert share_of_range(sweep("scale", [1.0, 1.2, 1.4], [[0, 1, 4]]), 1, 1.2).tolist() == [1 / 4]
    assert share_of_range(sweep("rotation", [0, 10, 180, 350], [[0, 1, 8, 3]]), 1, 10).tolist() == [
        2 / 8
    ]


def test_linearity_is_the_r_squared_of_a_line_through_the_origin():
    straight, bent = [6, 3, 0, 3, 6], [6, 5, 0, 4, 6]
    found = sweep("translation", [-4, -2, 0, 2, 4], [straight, bent])
    x, y = np.abs([[-4], [-2], [0], [2], [4]]).astype(float), np.array(bent, float)
    residual = np.linalg.lstsq(x, y, rcond=None)[1][0]
    assert linearity(found, 1, 4).tolist() == pytest.approx(
        [1.0, 1 - residual / ((y - y.mean()) ** 2).sum()]
    )
    # slope 4.5 / 2 through 5, 0, 4
    assert linearity(found, 1, 2).tolist() == pytest.approx([1.0, 1 - 0.5 / 14])
    assert linearity(
        sweep("scale", [1.0, 1.1, 1.2], [[0, 2, 4]]), 1, 0.2
    ).tolist() == pytest.approx([1.0])


def test_turned_goes_round():
    found = sweep("rotation", [0, 90, 180, 270], [[0.0] * 4], probability=[[1.0, 0.2, 0.6, 0.4]])
    assert turned(found, [45, 90, 315, 360, -90])[0].tolist() == pytest.approx(
        [0.6, 0.2, 0.7, 1.0, 0.4]
    )
    with pytest.raises(ValueError, match="kind = 'scale': angles belong to a rotation"):
        turned(dataclasses.replace(found, kind="scale"), [45])


def test_rotation_rows_read_the_symmetry_off_the_curve():
    """Class a repeats every 90 degrees, b not at all; the most stable comes first."""
    angles = np.arange(0, 360, 10.0)
    four, none = 0.5 + 0.5 * np.cos(np.radians(4 * angles)), np.where(angles == 0, 1.0, 0.1)
    found = sweep(
        "rotation", angles, [angles * 0] * 3, probability=[four, none, four], targets=[0, 1, 0]
    )
    first, second = rotation_rows(found, ["a", "b"], {"a": 4})
    assert (
        first["class"],
        first["images"],
        first["symmetry"],
        second["class"],
        second["symmetry"],
    ) == ("a", 2, 4, "b", None)
    assert (
        first["symmetric"] == 1.0
        and first["half_way"] == round((four[4] + four[5]) / 2, 4)
        and second["symmetric"] is None
    )
    assert (
        second["mean"] == 0.1
        and second["unturned"] == 1.0
        and second["lowest"] == 0.1
        and second["lowest_at"] == 10.0
    )
    assert first["mean"] == round(four[1:].mean(), 4)
    assert rotation_rows(found, ["face", "ball"])[0]["symmetry"] is None, (
        "names alone say nothing: other data may have a class of that name"
    )


def test_every_built_in_class_has_its_symmetry():
    assert set(SYMMETRY) == set(CLASSES)


def test_rows_of_the_table():
    found = {
        "scale": sweep(
            "scale", [1.0, 1.05], [[0, 3], [0, 5]], [[0, 1], [0, 2]], [[0.5, 0.25], [1.0, 0.75]]
        )
    }
    assert invariance_rows(found)[1] == {
        "transformation": "scale",
        "amount": 1.05,
        "images": 2,
        "layer1_mean": 4,
        "layer1_std": 1.4142,
        "layer7_mean": 1.5,
        "layer7_std": 0.7071,
        "probability_mean": 0.5,
        "probability_std": 0.3536,
    }


def test_the_figure_draws_what_was_measured():
    images, angles = random_images(3), list(range(0, 360, 60))
    rows = np.random.default_rng(0).random((3, 3, 6))
    found = {"rotation": sweep("rotation", angles, *rows, targets=[2, 0, 1])}
    figure = invariance_figure(images, [2, 0], found, ["x", "y", "z"], "t", "the net's own label")
    for axes, values in zip(figure.axes[1:4], rows, strict=True):
        assert [line.get_ydata().tolist() for line in axes.lines] == [
            values[2].tolist(),
            values[0].tolist(),
            pytest.approx(values.mean(0).tolist()),
        ]
    assert figure.axes[3].get_title() == "probability of the net's own label" and [
        line.get_label() for line in figure.axes[3].lines
    ] == ["y", "z", "mean of 3"]
    shown = figure.axes[0].images[0].get_array()
    # row 0, second column: 20 pixels and a gap of 2
    expected = transform(images, [2], "rotation", 60)[0].permute(1, 2, 0).numpy() / 255
    assert np.allclose(shown[:20, 22:42], expected, atol=1e-6)


def test_the_number_of_images_must_be_positive(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("title: own\ninvariance: {images: 0}\n")
    with pytest.raises(ValueError, match=r"invariance\.images = 0: must be positive"):
        load_profile(path)
