"""Sanity checks of the sanity checks: randomisation and pictures on nets small enough to follow,
every number made a second time by hand.
"""

from __future__ import annotations

import copy
import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from tests.helpers.stubs import forbidden
from zfnet import Deconvnet, Images, ZFNet, build_model, load_profile, receptive_field
from zfnet.experiments.sanity_checks.compute import (
    CONTROLS,
    MEASURES,
    Sanity,
    cascade,
    difference,
    edges,
    pictures,
    randomised,
    run_sanity,
    same_place,
    sanity,
    similarity,
    table,
    untrained_nets,
)
from zfnet.experiments.sanity_checks.figure import sanity_figure
from zfnet.methods.deconv import RULES
from zfnet.methods.top_activations import strongest_units

DEMO = load_profile("demo")


def small(seed, classes=3):
    torch.manual_seed(seed)
    return ZFNet(classes, input_size=64, maps=(4, 6, 5, 5, 6), fc=()).eval()


def drawn_images(count=4, masks=True):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    found = torch.rand(count, 64, 64, generator=generator) < 0.3
    return Images(
        pixels,
        torch.arange(count) % 3,
        "abc",
        64,
        torch.full((3, 1, 1), 128.0),
        torch.full((3, 1, 1), 60.0),
        masks=found if masks else None,
    )


@pytest.mark.slow
def test_the_cascade_goes_from_the_top_down():
    assert cascade(small(0).features, "relu5") == {
        "5": ["conv5"],
        "5-4": ["conv5", "conv4"],
        "5-3": ["conv5", "conv4", "conv3"],
        "5-2": ["conv5", "conv4", "conv3", "conv2"],
        "5-1": ["conv5", "conv4", "conv3", "conv2", "conv1"],
    }
    assert cascade(small(0).features, "relu2") == {"2": ["conv2"], "2-1": ["conv2", "conv1"]}
    steps = cascade(torchvision.models.vgg16().features, "22")  # the last ReLU of the fourth block
    assert (
        steps["4"] == ["21", "19", "17"]
        and steps["4-3"] == ["21", "19", "17", "14", "12", "10"]
        and len(steps["4-1"]) == 10
    )
    with pytest.raises(ValueError, match="layer = 'conv5': choose one of relu1, relu2"):
        cascade(small(0).features, "conv5")


def test_randomised_copies_those_weights_and_no_others():
    trained, fresh = small(0).features, small(1).features
    before = copy.deepcopy(trained.state_dict())
    mixed = randomised(trained, fresh, ["conv5", "conv2"]).state_dict()
    for name, value in mixed.items():
        source = fresh if name.split(".")[0] in ("conv5", "conv2") else trained
        assert torch.equal(value, source.state_dict()[name]), name
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert not torch.equal(fresh.conv5.weight, trained.conv5.weight)


@pytest.mark.parametrize("rule", RULES)
def test_a_unit_that_fires_keeps_its_picture_up_to_scale(rule):
    net, inputs = small(0).double().features, torch.randn(3, 3, 64, 64, dtype=torch.float64)
    kept = copy.deepcopy(net.state_dict())
    channel, position = strongest_units(net, inputs, "relu4")
    found, plain = (
        pictures(net, inputs, "relu4", channel, position, rule),
        Deconvnet(net).project(inputs, "relu4", channel, position, rule=rule),
    )
    for one, two in zip(found, plain, strict=True):
        ratio = float((one * two).sum() / two.square().sum())
        assert ratio > 0
        torch.testing.assert_close(one, ratio * two, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(kept[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("bias", [True, False])
def test_a_silent_unit_gets_the_gradient_of_what_it_is_before_the_relu(bias):
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(4, 5, 3, bias=bias),
        nn.ReLU(),
    ).double()
    image = torch.randn(1, 3, 20, 20, dtype=torch.float64, requires_grad=True)
    before = net[:4](image)
    channel, row, col = (before[0] < -0.1).nonzero()[0].tolist()
    (expected,) = torch.autograd.grad(before[0, channel, row, col], image)
    unit = torch.tensor([channel]), torch.tensor([[row, col]])
    found = pictures(net, image.detach(), "4", *unit, "gradient")
    assert not Deconvnet(net).project(image, "4", *unit).any()
    ratio = float((found * expected).sum() / expected.square().sum())
    assert ratio > 0
    torch.testing.assert_close(found, ratio * expected, rtol=1e-9, atol=1e-12)


def test_a_batch_norms_bias_does_as_well():
    torch.manual_seed(2)
    for affine in (True, False):
        net = (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=affine), nn.ReLU())
            .double()
            .eval()
        )
        net[1].running_var.fill_(4.0)
        image = torch.randn(1, 3, 9, 9, dtype=torch.float64)
        channel, row, col = (net[:2](image)[0] < -0.1).nonzero()[0].tolist()
        found = pictures(
            net, image, "2", torch.tensor([channel]), torch.tensor([[row, col]]), "deconvnet"
        )[0]
        stamp = found[:, row : row + 3, col : col + 3] / net[0].weight[channel].detach()
        assert float(stamp.min()) > 0 and torch.allclose(stamp, stamp.mean().expand_as(stamp))


def test_a_layer_that_is_no_relu_is_named():
    with pytest.raises(
        ValueError,
        match=(
            "layer = 'pool2': choose a ReLU right behind a convolution, a batch norm or a sum"
            " that ends in one, such as relu1"
        ),
    ):
        pictures(
            small(0).features,
            torch.zeros(1, 3, 64, 64),
            "pool2",
            torch.tensor([0]),
            torch.tensor([[0, 0]]),
            "deconvnet",
        )


@pytest.mark.slow
def test_every_number_of_the_cascade_can_be_made_by_hand():
    model, nets, images = small(0), [small(10), small(11)], drawn_images()
    indices = torch.tensor([2, 0, 3])
    found = sanity(model, nets, images, indices, "relu3")
    assert found.levels == ("trained", "3", "3-2", "3-1", *CONTROLS)
    inputs, masks = images.batch(indices), images.mask(indices)
    channel, position = strongest_units(model.features, inputs, "relu3")
    field = receptive_field(model.features, "relu3", 64)
    assert torch.equal(found.channel, channel) and torch.equal(found.position, position)
    assert found.chance.tolist() == pytest.approx(masks.double().mean((1, 2)).tolist())
    outlines = edges(inputs).square().sum(1)
    assert found.edges_inside.tolist() == pytest.approx(
        [float(one[mask].sum() / one.sum()) for one, mask in zip(outlines, masks, strict=True)]
    )
    for level, names in (("3-2", ["conv3", "conv2"]), ("another image", [])):
        for draw, fresh in enumerate(nets):
            net = randomised(model.features, fresh.features, names)
            source = inputs if names else inputs[[(n - 1 - draw) % 3 for n in range(3)]]
            for r, rule in enumerate(RULES):
                before, after = (
                    pictures(n, x, "relu3", channel, position, rule)
                    for n, x in ((model.features, inputs), (net, source))
                )
                for n in range(3):
                    expected = similarity(before[n], after[n], field.box(*position[n].tolist()))
                    at = found.levels.index(level), draw, r, n
                    assert (
                        found.values["spearman"][at].item(),
                        found.values["ssim"][at].item(),
                    ) == pytest.approx(expected, abs=1e-6)
                    assert found.values["edges"][at].item() == pytest.approx(
                        same_place(after[n], edges(inputs)[n], field.box(*position[n].tolist())),
                        abs=1e-6,
                    )
                    energy = after[n].square().sum(0)
                    assert found.values["energy inside"][at].item() == pytest.approx(
                        float(energy[masks[n]].sum() / energy.sum()), abs=1e-5
                    )
    assert torch.allclose(found.values["ssim"][0], torch.ones(2, 3, 3)) and torch.allclose(
        found.values["spearman"][0], torch.ones(2, 3, 3)
    )
    assert not torch.allclose(found.values["ssim"][1, 0], found.values["ssim"][1, 1])  # two draws
    assert (found.values["ssim"][-2] < 0.999).any()  # another map is another picture
    assert (found.values["energy inside"][0, 0] == found.values["energy inside"][0, 1]).all()


def test_differences_are_paired_by_image():
    values = torch.zeros(3, 2, 3, 4)  # levels, draws, rules, images
    # over draws: 2 3 4 5
    values[1, :, 0] = torch.tensor([[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0]])
    values[2, :, 0] = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 3.0]])  # 1 1 1 2
    found = Sanity(
        ("trained", "5", "another map"),
        dict.fromkeys(MEASURES, values),
        *torch.zeros(2, 4),
        torch.zeros(4).long(),
        torch.zeros(4, 2).long(),
    )
    gap = difference(found, "ssim", "5", "another map")  # 1 2 3 3: mean 9/4, variance 11/12
    assert gap["deconvnet"] == pytest.approx((9 / 4, 1.96 * (11 / 12) ** 0.5 / 2)) and gap[
        "guided"
    ] == gap["gradient"] == (0, 0)
    assert difference(found, "ssim", "another map", "5")["deconvnet"][0] == pytest.approx(-9 / 4)
    with pytest.raises(
        ValueError, match="measure = 'psnr': choose one of spearman, ssim, edges, energy inside"
    ):
        difference(found, "psnr", "5", "trained")
    with pytest.raises(ValueError, match="level = '4': choose one of trained, 5, another map"):
        difference(found, "ssim", "5", "4")


def test_a_single_image_or_no_net_is_named():
    for indices, nets in ((torch.tensor([0]), [small(1)]), (torch.tensor([0, 1]), [])):
        with pytest.raises(ValueError, match="give at least two images and one net"):
            sanity(small(0), nets, drawn_images(), indices, "relu5")


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    model = dataclasses.replace(DEMO.model, maps=(4, 6, 5, 5, 6), fc=())
    return dataclasses.replace(
        DEMO, name="tiny", model=model, data=dataclasses.replace(DEMO.data, size=64)
    )


def test_untrained_nets_are_the_profiles_from_other_seeds(profile):
    one, two = untrained_nets(profile, 3, 2)
    assert [c.weight.shape[0] for c in one.features if isinstance(c, nn.Conv2d)] == [4, 6, 5, 5, 6]
    assert not torch.equal(one.features.conv1.weight, two.features.conv1.weight)
    assert torch.equal(
        one.features.conv1.weight, untrained_nets(profile, 3, 1)[0].features.conv1.weight
    )
    own = dataclasses.replace(profile, seed=profile.seed + 1001)
    assert torch.equal(build_model(own, 3).features.conv3.weight, two.features.conv3.weight)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.slow
def test_the_artefact_the_table_and_the_figure(profile, masks, monkeypatch):
    model, images, indices = small(0), drawn_images(masks=masks), torch.tensor([0, 1, 3])
    found = run_sanity(profile, model, images, indices, "relu3", draws=2)
    # the second time it is read
    monkeypatch.setattr("zfnet.experiments.sanity_checks.compute.sanity", forbidden(sanity))
    again = run_sanity(profile, model, images, indices, "relu3", draws=2)
    assert again.levels == found.levels and torch.equal(
        again.edges_inside.nan_to_num(9), found.edges_inside.nan_to_num(9)
    )
    assert (
        torch.equal(again.channel, found.channel)
        and torch.equal(again.position, found.position)
        and torch.equal(again.chance.nan_to_num(9), found.chance.nan_to_num(9))
    )
    assert all(
        torch.equal(again.values[m].nan_to_num(9), found.values[m].nan_to_num(9)) for m in MEASURES
    )
    rows = table(found)
    assert len(rows) == 6 * 3 and [row["rule"] for row in rows[:3]] == list(RULES)
    assert [row["weights"] for row in rows[::3]] == [
        "trained",
        "layers 3 random",
        "layers 3-2 random",
        "layers 3-1 random",
        "trained",
        "trained",
    ]
    assert [row["compared with"] for row in rows[::3]] == ["the same unit"] * 4 + [
        "another map",
        "another image",
    ]
    part = found.values["ssim"][2, :, 1].double()
    assert (rows[7]["ssim mean"], rows[7]["ssim std"]) == (
        f"{part.mean():.4f}",
        f"{part.std():.4f}",
    )
    assert (rows[0]["energy inside mean"] == "") is (not masks) and (
        rows[0]["mask's share"] == ""
    ) is (not masks)
    if masks:
        assert rows[0]["mask's share"] == f"{images.mask(indices).double().mean():.4f}"
    pictured = {rule: torch.randn(2, 3, 8, 8) for rule in RULES}
    figure = sanity_figure(
        found,
        np.zeros((2, 8, 8, 3)),
        pictured,
        {rule: list(torch.randn(4, 3, 8, 8)) for rule in RULES},
        "tiny",
    )
    curves = [axis for axis in figure.axes if axis.lines]
    assert len(curves) == (4 if masks else 3)
    means = found.values["spearman"][1:4, :, 0].double().mean((1, 2))
    np.testing.assert_allclose(curves[0].lines[0].get_ydata(), means.numpy(), atol=1e-6)
    plt.close(figure)
