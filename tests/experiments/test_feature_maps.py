"""Feature maps: equal to the net's own forward pass, channels and positions found as a slow loop
finds them.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torchvision
from torch import nn

from tests.helpers.stubs import forbidden
from zfnet import AlexNet, Images, ZFNet, load_profile, receptive_field
from zfnet.experiments.feature_maps import compute
from zfnet.experiments.feature_maps.compute import (
    describe,
    extremes,
    random_channels,
    run_extremes,
    stages,
)
from zfnet.methods import feature_maps
from zfnet.methods.feature_maps import strongest_channels

CHECKOUT = load_profile("demo")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return ZFNet(5, input_size=70, maps=(6, 8, 5, 5, 4), fc=(7, 7), lrn="after").eval()


def pictures(count, side=70):
    pixels = torch.randint(
        0,
        256,
        (count, 3, side, side),
        generator=torch.Generator().manual_seed(1),
        dtype=torch.uint8,
    )
    return Images(
        pixels,
        torch.zeros(count, dtype=torch.long),
        ("a",),
        side,
        torch.full((3, 1, 1), 128.0),
        torch.full((3, 1, 1), 60.0),
    )


def test_maps_equal_the_beginning_of_the_net(net):
    images = pictures(3).batch(torch.arange(3))
    names = [name for name, _ in net.features.named_children()]
    found = feature_maps.feature_maps(net.features, images, names)
    assert list(found) == names
    with torch.no_grad():
        for n, name in enumerate(names, start=1):
            assert torch.equal(found[name], net.features[:n](images)), name
    assert torch.equal(found["relu1"], found["conv1"].clamp_min(0)) and (found["conv1"] < 0).any()


def test_an_in_place_relu_and_a_net_in_training_mode_change_nothing():
    torch.manual_seed(1)
    stack = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.MaxPool2d(2),
    )
    stack[1].running_mean.uniform_(-1, 1)
    images = torch.randn(2, 3, 9, 9)
    found = feature_maps.feature_maps(stack.train(), images, ["4", "0"])
    assert list(found) == ["4", "0"] and stack.training
    assert torch.equal(found["0"], stack[0](images)) and (found["0"] < 0).any()
    assert torch.equal(found["4"], stack.eval()(images)) and not found["4"].requires_grad


@pytest.mark.slow
def test_stages_of_the_papers_layers(net):
    assert stages(net.features, 1) == ["conv1", "relu1", "pool1", "norm1"]
    assert stages(net.features, 3) == ["conv3", "relu3"]
    assert stages(AlexNet(2, input_size=96, maps=(4, 4, 0, 0, 4), fc=()).features, 3) == [
        "conv5",
        "relu5",
        "pool5",
    ]
    # the block's second convolution, before its pool
    assert stages(torchvision.models.vgg16(weights=None, num_classes=2).features, 2) == [
        "7",
        "8",
        "9",
    ]
    with pytest.raises(ValueError, match="no layer 6: this net has layers 1, 2, 3, 4, 5"):
        stages(net.features, 6)


def test_the_strongest_channels_have_the_largest_sums_and_ties_go_to_the_lower():
    maps = torch.zeros(5, 2, 2)
    maps[1], maps[3, 0, 0], maps[4, 1, 1], maps[0, 0, 1] = 1.0, 9.0, 4.0, -1.0
    assert strongest_channels(maps, 4).tolist() == [3, 1, 4, 2]
    assert strongest_channels(maps, 5).tolist() == sorted(
        range(5), key=lambda c: (-sum(maps[c].flatten().tolist()), c)
    )
    for count in (0, 6):
        with pytest.raises(ValueError, match=f"count = {count}: choose 1 to 5"):
            strongest_channels(maps, count)


def test_random_channels_follow_the_seed():
    found = random_channels(50, 6, 3).tolist()
    assert found == sorted(set(found)) and len(found) == 6 and found[0] >= 0 and found[-1] < 50
    assert found == random_channels(50, 6, 3).tolist() != random_channels(50, 6, 4).tolist()
    assert random_channels(4, 4, 0).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="count = 5: choose 1 to 4"):
        random_channels(4, 5, 0)


def test_ranges_totals_and_positions_are_those_of_a_plain_loop(net):
    images = pictures(2).batch(torch.arange(2))
    maps = feature_maps.feature_maps(net.features, images, ["conv1", "pool2"])
    rows = describe(net.features, maps, 1, [4, 0], 70)
    assert [(row["stage"], row["channel"]) for row in rows] == [
        ("conv1", 4),
        ("conv1", 0),
        ("pool2", 4),
        ("pool2", 0),
    ]
    for row in rows:
        values = net.features[: 1 if row["stage"] == "conv1" else 7](images)[
            1, row["channel"]
        ].tolist()
        best = max((value, -r, -c) for r, line in enumerate(values) for c, value in enumerate(line))
        assert (row["largest"], -row["row"], -row["col"]) == best
        assert row["smallest"] == min(map(min, values)) and row["total"] == pytest.approx(
            sum(map(sum, values)), rel=1e-4, abs=1e-3
        )
        assert (row["height"], row["width"]) == (len(values), len(values[0]))
        box = receptive_field(net.features, row["stage"], 70).box(row["row"], row["col"])
        assert (row["top"], row["left"], row["bottom"], row["right"]) == box


def test_the_largest_value_sees_nothing_outside_its_box(net):
    image = pictures(1).batch([0])
    (row,) = describe(
        net.features, feature_maps.feature_maps(net.features, image, ["relu2"]), 0, [3], 70
    )
    masked = torch.zeros_like(image)
    inside = slice(row["top"], row["bottom"]), slice(row["left"], row["right"])
    masked[:, :, *inside] = image[:, :, *inside]
    with torch.no_grad():
        again = net.features[:6](masked)[0, 3, row["row"], row["col"]]
    assert list(dict(net.features.named_children()))[
        5
    ] == "relu2" and again.item() == pytest.approx(row["largest"], rel=1e-5)


def test_extremes_are_over_all_images_whatever_the_batch(net):
    images = pictures(5)
    names = ["conv1", "relu2"]
    whole = feature_maps.feature_maps(net.features, images.batch(torch.arange(5)), names)
    for size in (1, 2, 5):
        found = extremes(net.features, images, names, size)
        for name in names:
            per_channel = whole[name].transpose(0, 1).flatten(1)
            expected = torch.stack([per_channel.min(1).values, per_channel.max(1).values], 1)
            assert torch.allclose(found[name], expected, rtol=1e-5, atol=1e-5)


def test_extremes_are_kept_and_made_again_for_other_weights(net, tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    profile = dataclasses.replace(CHECKOUT, name="tiny")
    images = pictures(2)
    first = run_extremes(profile, net, images, ["relu1"])
    monkeypatch.setattr(compute, "extremes", forbidden(compute.extremes))  # a second call must read
    assert torch.equal(run_extremes(profile, net, images, ["relu1"])["relu1"], first["relu1"])
    with pytest.raises(AssertionError, match="was called"):
        run_extremes(
            profile, ZFNet(5, input_size=70, maps=(6, 8, 5, 5, 4), fc=()), images, ["relu1"]
        )


class Fork(nn.Module):
    """A net whose way depends on the image."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_unknown_names_and_modules_are_named(net):
    images = torch.zeros(1, 3, 70, 70)
    with pytest.raises(ValueError, match="no layer 'conv9': choose one of conv1"):
        feature_maps.feature_maps(net.features, images, ["conv1", "conv9"])
    with pytest.raises(TypeError, match="Fork cannot be taken apart"):
        feature_maps.feature_maps(Fork(), images, ["0"])
