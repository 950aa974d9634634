"""The deconvnet against captum, autograd, the paper's three steps in plain loops, and 4x4 maps
worked by hand; all in float64.
"""

from __future__ import annotations

import copy

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.pooled_nets import (
    NETS,
    SIZES,
    build,
    conv,
    filter_slowly,
    firing_units,
    for_captum,
    last_layer,
    relu,
    unpool_slowly,
)
from zfnet import Deconvnet, receptive_field
from zfnet.methods.deconv import OVERLAP, unpool

pytestmark = pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NETS)
def test_a_projection_is_captums_neuron_deconvolution_times_the_activation(name, size, report):
    net = build(name)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    layer = last_layer(net)
    maps, units = firing_units(net, images, layer, each=3)
    clean = for_captum(net)
    oracle = captum.attr.NeuronDeconvolution(clean, clean[-1])
    worst = 0.0
    for n, channel, row, col in units:
        image = images[n : n + 1]
        expected = (
            oracle.attribute(image.clone().requires_grad_(), (channel, row, col))
            * maps[n, channel, row, col]
        )
        found = Deconvnet(net).project(image, layer, channel, (row, col))
        assert found.shape == image.shape and expected.norm() > 0
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    report(
        f"deconvnet against captum, {name}, {size[0]} x {size[1]}: largest relative error"
        f" {worst:.1e}"
    )
    assert worst <= 1e-12


@pytest.mark.parametrize("name", NETS)
def test_a_whole_map_is_captums_deconvolution_of_the_map_weighted_by_its_activations(name):
    net = build(name, seed=1)
    images = torch.randn(3, 3, 35, 28, dtype=torch.float64)
    clean = for_captum(net)
    maps = clean(images).detach()
    channel = int(maps.sum((0, 2, 3)).argmax())
    oracle = captum.attr.NeuronDeconvolution(clean, clean[-1])
    expected = oracle.attribute(
        images.clone().requires_grad_(),
        lambda out: (out[:, channel] * maps[:, channel]).flatten(1).sum(1),
    )
    found = Deconvnet(net).project(images, last_layer(net), channel)
    assert expected.norm() > 0
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-12


def slow_projection(net, image, stop, seeds, overlap="add"):
    """The paper's three steps, number by number; `seeds`: the units (channel, row, col) of layer
    `stop` whose activations are kept.
    """
    tape, x = [], image[None]
    with torch.no_grad():
        for layer in for_captum(net)[: stop + 1]:
            tape.append((layer, x[0].numpy()))
            x = layer(x)
    maps = x[0].numpy()
    signal = np.zeros_like(maps)
    for unit in seeds:
        signal[unit] = maps[unit]
    for layer, below in reversed(tape):
        if isinstance(layer, nn.ReLU):
            signal = np.where(signal > 0, signal, 0.0)
        elif isinstance(layer, (nn.MaxPool2d, nn.Conv2d)):
            signal = (unpool_slowly if isinstance(layer, nn.MaxPool2d) else filter_slowly)(
                layer, signal, below, overlap
            )
        elif isinstance(layer, nn.BatchNorm2d):
            for c in range(len(signal)):
                weight = 1.0 if layer.weight is None else layer.weight[c].item()
                signal[c] = signal[c] * weight / (layer.running_var[c].item() + layer.eps) ** 0.5
    return torch.from_numpy(signal)


@pytest.mark.parametrize("overlap", OVERLAP)
@pytest.mark.parametrize("name", NETS)
def test_a_projection_is_the_three_steps_of_the_paper_done_slowly(name, overlap):
    net = build(name, seed=2)
    images = torch.randn(2, 3, 31, 26, dtype=torch.float64)
    layer = last_layer(net)
    maps, units = firing_units(net, images, layer, each=2)
    for n, *unit in units:
        expected = slow_projection(net, images[n], int(layer), [tuple(unit)], overlap)
        found = Deconvnet(net).project(images[n : n + 1], layer, unit[0], tuple(unit[1:]), overlap)[
            0
        ]
        assert expected.any() or overlap == "overwrite"  # where a later window hands down a zero
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    rows, cols = maps.shape[2:]
    expected = slow_projection(
        net,
        images[n],
        int(layer),
        [(unit[0], row, col) for row in range(rows) for col in range(cols)],
        overlap,
    )
    assert expected.any()
    torch.testing.assert_close(
        Deconvnet(net).project(images[n : n + 1], layer, unit[0], None, overlap)[0],
        expected,
        rtol=1e-12,
        atol=1e-13,
    )


def test_the_rules_for_shared_maxima_differ_on_a_net():
    net = build("pooled twice, layer of a pool")
    image = torch.randn(1, 3, 31, 26, dtype=torch.float64)
    add, overwrite, largest = (
        Deconvnet(net).project(image, "6", 0, None, overlap) for overlap in OVERLAP
    )
    assert (
        not torch.equal(add, overwrite)
        and not torch.equal(overwrite, largest)
        and not torch.equal(add, largest)
    )


@pytest.mark.parametrize("layer", [3, 0])
def test_a_layer_before_its_relu_starts_with_its_own_activations_also_negative_ones(layer):
    net = build("padded pools, in-place ReLU")
    image = torch.randn(3, 21, 25, dtype=torch.float64)
    maps = for_captum(net)[: layer + 1](image[None])[0].detach()
    rows, cols = maps.shape[1:]
    assert (maps[1] < 0).any() and (maps[1] > 0).any()
    expected = slow_projection(
        net, image, layer, [(1, r, c) for r in range(rows) for c in range(cols)]
    )
    torch.testing.assert_close(
        Deconvnet(net).project(image[None], str(layer), 1)[0], expected, rtol=1e-12, atol=1e-12
    )
    row, col = (maps[1] < 0).nonzero()[0].tolist()
    expected = slow_projection(net, image, layer, [(1, row, col)])
    torch.testing.assert_close(
        Deconvnet(net).project(image[None], str(layer), 1, (row, col))[0],
        expected,
        rtol=1e-12,
        atol=1e-12,
    )


def test_without_relus_a_projection_is_the_gradient_times_the_activation():
    torch.manual_seed(0)
    net = nn.Sequential(
        conv(3, 4, 5, 2, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        conv(4, 5, 3, 1, 1),
        nn.MaxPool2d(3, 1, 1),
        conv(5, 3, 3),
    ).double()
    image = torch.randn(1, 3, 31, 27, dtype=torch.float64, requires_grad=True)
    maps = net(image)
    for unit in [(1, 2, 1), (0, 0, 0), (2, 4, 3)]:
        (gradient,) = torch.autograd.grad(maps[(0, *unit)], image, retain_graph=True)
        expected = gradient * maps[(0, *unit)].detach()
        found = Deconvnet(net).project(image, "4", unit[0], unit[1:])
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_layer_before_the_first_convolution_is_named():
    net = nn.Sequential(nn.BatchNorm2d(3), conv(3, 2, 3)).eval()
    with pytest.raises(
        ValueError, match="layer '0' comes before the first convolution: choose one after it"
    ):
        Deconvnet(net).project(torch.zeros(1, 3, 9, 9), "0", 0)


def test_the_image_itself_is_not_rectified():
    net = build("ceil_mode, 3x3/2 pools")
    picture = Deconvnet(net).project(torch.randn(1, 3, 33, 41, dtype=torch.float64), "1", 0)
    assert (picture < 0).any() and (picture > 0).any()


def square(*rows):
    return torch.tensor(rows, dtype=torch.float64)[None, None]


def test_four_by_four_with_2x2_pools_by_hand():
    maps = square([1, 5, 2, 0], [3, 4, 7, 1], [0, 0, 6, 6], [9, 0, 6, 6])
    _, switches = F.max_pool2d(maps, 2, 2, return_indices=True)
    # equal maxima: the first
    expected = square([0, 10, 0, 0], [0, 0, -20, 0], [0, 0, 40, 0], [30, 0, 0, 0])
    for overlap in OVERLAP:
        assert torch.equal(
            unpool(square([10, -20], [30, 40]), switches, maps.shape, overlap), expected
        )


def test_four_by_four_with_overlapping_3x3_pools_by_hand():
    """Windows at (0,0), (0,1), (1,0) share the 9 at (1,1); the window at (1,1) too, until a 10 at
    (3,3) takes it.
    """
    maps = square([0, 1, 2, 0], [3, 9, 4, 0], [0, 5, 6, 0], [1, 0, 0, 10])
    _, switches = F.max_pool2d(maps, 3, 1, return_indices=True)
    values = {"plain": square([1, 4], [3, 8]), "negative": square([-2, -7], [-5, 8])}
    by_hand = {
        ("plain", "add"): 8,
        ("plain", "overwrite"): 3,
        ("plain", "max"): 4,
        ("negative", "add"): -14,
        ("negative", "overwrite"): -5,
        ("negative", "max"): -2,
    }
    for (case, overlap), shared in by_hand.items():
        expected = square([0, 0, 0, 0], [0, shared, 0, 0], [0, 0, 0, 0], [0, 0, 0, 8])
        assert torch.equal(unpool(values[case], switches, maps.shape, overlap), expected), (
            case,
            overlap,
        )


def test_a_projection_by_hand():
    """conv 2x2 with weights 1 2 / 3 -4, bias -1; ReLU; 2x2/1 pool; projected from the pool's (0,
    0).
    """
    net = nn.Sequential(conv(1, 1, 2), nn.ReLU(), nn.MaxPool2d(2, 1)).double()
    net[0].weight.data = square([1, 2], [3, -4])
    net[0].bias.data.fill_(-1)
    image = square([1, 0, 0, 2], [0, 1, 0, 0], [2, 0, 0, 1], [0, 0, 3, 0])
    # conv: [1-4, 3, 4] - 1; [2+6, 1, -4] - 1; [2, 0-12, 9+2] - 1  ->  relu: [0, 2, 3]; [7, 0, 0];
    # [1, 0, 10]  ->  pool: [7, 3]; [7, 10]
    assert torch.equal(Deconvnet(net).activations(image, "2"), square([7, 3], [7, 10]))
    assert torch.equal(
        Deconvnet(net).project(image, "2", 0, (0, 0)),
        square([0, 0, 0, 0], [7, 14, 0, 0], [21, -28, 0, 0], [0, 0, 0, 0]),
    )
    # the whole map: the 7 at (1, 0) is the maximum of two windows
    sevens = {"add": 14, "overwrite": 7, "max": 7}
    for overlap, n in sevens.items():
        expected = square(
            [0, 0, 3, 6], [n, 2 * n, 9, -12], [3 * n, -4 * n, 10, 20], [0, 0, 30, -40]
        )
        assert torch.equal(Deconvnet(net).project(image, "2", 0, None, overlap), expected), overlap


@pytest.mark.parametrize(("kernel", "size"), [(2, (6, 8)), (3, (9, 6))])
def test_without_shared_maxima_overwriting_is_pytorchs_unpooling(kernel, size):
    torch.manual_seed(0)
    pooled, switches = F.max_pool2d(torch.randn(2, 3, *size), kernel, kernel, return_indices=True)
    expected = F.max_unpool2d(pooled, switches, kernel, kernel, output_size=size)
    assert expected.any()
    for overlap in OVERLAP:
        assert torch.equal(unpool(pooled, switches, torch.Size(size), overlap), expected)


@pytest.mark.parametrize("size", [(33, 33), (34, 33), (27, 45), (44, 21), (40, 39)])
@pytest.mark.parametrize("name", NETS)
def test_the_projection_has_the_images_size_and_is_zero_outside_the_units_box(name, size):
    net = build(name, seed=3)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    layer = last_layer(net)
    _, units = firing_units(net, images, layer, each=2)
    field = receptive_field(net, layer, size)
    for n, channel, row, col in units:
        picture = Deconvnet(net).project(images[n : n + 1], layer, channel, (row, col))
        assert picture.shape == (1, 3, *size)
        top, left, bottom, right = field.box(row, col)
        assert picture[..., top:bottom, left:right].any()
        picture[..., top:bottom, left:right] = 0
        assert not picture.any()


def test_response_normalisation_is_the_identity_on_the_way_down():
    torch.manual_seed(0)
    net = nn.Sequential(
        conv(3, 6, 3, 2),
        relu(),
        nn.LocalResponseNorm(5, alpha=1.0, k=2.0),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        conv(6, 4, 3),
        relu(),
        nn.LocalResponseNorm(3, alpha=0.5),
    ).double()
    images = torch.randn(1, 3, 25, 22, dtype=torch.float64)
    _, units = firing_units(net, images, "6", each=3)
    for _, *unit in units:
        expected = slow_projection(net, images[0], 6, [tuple(unit)])
        found = Deconvnet(net).project(images, "6", unit[0], tuple(unit[1:]))[0]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_dropout_changes_nothing_even_in_training_mode():
    net = build("batch norm and dropout")
    bare = nn.Sequential(*(layer for layer in net if not isinstance(layer, nn.Dropout)))
    image = torch.randn(1, 3, 41, 33, dtype=torch.float64)
    expected = Deconvnet(bare).project(image, last_layer(bare), 1)
    assert expected.any()
    net.train()
    assert torch.equal(Deconvnet(net).project(image, last_layer(net), 1), expected)


def test_activations_are_those_of_the_net_in_eval_mode():
    net = build("batch norm and dropout")
    images = torch.randn(3, 3, 41, 33, dtype=torch.float64)
    for stop, (name, _) in enumerate(net.named_children()):
        expected = copy.deepcopy(net)[: stop + 1](images.clone()).detach()
        torch.testing.assert_close(
            Deconvnet(net.train()).activations(images, name), expected, rtol=1e-12, atol=1e-14
        )
        net.eval()


def test_weights_modes_gradients_hooks_and_images_are_left_alone():
    net = build("batch norm and dropout").train()
    net[1].eval()
    net[0].bias.requires_grad_(False)
    net.insert(0, relu())  # the first layer in place: it must not write into the caller's images
    images = torch.randn(2, 3, 41, 33, dtype=torch.float64)
    state, modes, kept = (
        copy.deepcopy(net.state_dict()),
        [m.training for m in net.modules()],
        images.clone(),
    )
    wants = [p.requires_grad for p in net.parameters()]
    deconvnet = Deconvnet(net)
    deconvnet.activations(images, last_layer(net))
    assert not deconvnet.project(images, last_layer(net), 0).requires_grad
    assert torch.equal(images, kept)
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes and [
        p.requires_grad for p in net.parameters()
    ] == wants
    assert all(p.grad is None for p in net.parameters())
    assert not any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
        for m in net.modules()
    )
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", NETS)
def test_a_batch_of_units_is_the_units_one_by_one(name):
    net = build(name, seed=4)
    layer = last_layer(net)
    images = torch.randn(5, 3, 33, 40, dtype=torch.float64)
    _, units = firing_units(net, images, layer, each=1)
    units = torch.tensor(units)[:, 1:]
    assert len(set(units[:, 0].tolist())) > 1
    deconvnet = Deconvnet(net)
    together = deconvnet.project(images, layer, units[:, 0], units[:, 1:])
    whole = deconvnet.project(images, layer, units[:, 0])
    one_place = deconvnet.project(images, layer, units[:, 0], (1, 0))
    for n, (channel, row, col) in enumerate(units.tolist()):
        image = images[n : n + 1]
        for found, position in ((together, (row, col)), (whole, None), (one_place, (1, 0))):
            torch.testing.assert_close(
                found[n],
                deconvnet.project(image, layer, channel, position)[0],
                rtol=1e-12,
                atol=1e-14,
            )


def test_images_are_brought_to_the_nets_type():
    net = build("ceil_mode, 3x3/2 pools")
    image = torch.randn(1, 3, 33, 41)
    found = Deconvnet(net).project(image, "7", 0)
    assert found.dtype == torch.float64 and torch.equal(
        found, Deconvnet(net).project(image.double(), "7", 0)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "relu3"}, "no layer 'relu3': choose one of 0, 1, 2, 3, 4, 5, 6, 7$"),
        ({"channel": 4}, "channel 4 is not in 7, which has channels 0 to 3"),
        ({"channel": -1}, "channel -1 is not in 7, which has channels 0 to 3"),
        ({"channel": torch.tensor([0, 9])}, "channel 9 is not in 7"),
        (
            {"channel": 1.0},
            (
                "channel: expected an integer, one for all or one for each of the 2 images, got"
                " torch.float32"
            ),
        ),
        ({"channel": True}, "channel: expected an integer"),
        (
            {"channel": torch.tensor([0, 1, 2])},
            r"channel: expected an integer.* got torch.int64 \(3,\)",
        ),
        (
            {"position": (2, 0)},
            r"position \(2, 0\) is outside the maps of 7, which have 2 x 3 units",
        ),
        ({"position": (0, 3)}, r"position \(0, 3\) is outside the maps of 7"),
        ({"position": (-1, 0)}, r"position \(-1, 0\) is outside the maps of 7"),
        ({"position": (0.0, 1.0)}, "position: expected row and column"),
        ({"position": (0, 1, 2)}, r"position: expected row and column.* got torch.int64 \(3,\)"),
        ({"overlap": "sum"}, "overlap = 'sum': choose one of add, overwrite, max"),
        (
            {"images": torch.zeros(3, 33, 41)},
            (
                r"images: expected a tensor \(N, channels, rows, columns\), got \(3, 33, 41\): add"
                r" a batch axis"
            ),
        ),
        ({"images": "cat.jpg"}, "images: expected a tensor .* got str"),
        ({"images": torch.zeros(2, 1, 33, 41)}, "images: expected 3 channels, got 1"),
        ({"images": torch.zeros(2, 3, 9, 41)}, "9 x 41 pixels is too small to reach 3"),
    ],
)
def test_what_is_wrong_is_named(arguments, message):
    good = {"images": torch.zeros(2, 3, 33, 41), "layer": "7", "channel": 0, "position": (0, 0)}
    deconvnet = Deconvnet(build("ceil_mode, 3x3/2 pools"))
    assert deconvnet.project(**good).shape == (2, 3, 33, 41)
    with pytest.raises(ValueError, match=message):
        deconvnet.project(**{**good, **arguments})


@pytest.mark.parametrize(
    ("images", "layer", "message"),
    [
        (torch.zeros(2, 3, 33, 41), "conv9", "no layer 'conv9': choose one of 0, 1, 2"),
        (torch.zeros(2, 3, 9, 41), "7", "9 x 41 pixels is too small to reach 3"),
        (torch.zeros(3, 33, 41), "7", r"got \(3, 33, 41\): add a batch axis"),
    ],
)
def test_what_is_wrong_is_named_for_activations_too(images, layer, message):
    with pytest.raises(ValueError, match=message):
        Deconvnet(build("ceil_mode, 3x3/2 pools")).activations(images, layer)


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        (nn.Sequential(conv(3, 4, 3), nn.Sigmoid()), "1 is a Sigmoid: there is no accepted rule"),
        (nn.Sequential(conv(3, 4, 3), nn.AdaptiveAvgPool2d(2)), "layer '1' gives no maps"),
        (
            nn.Sequential(conv(3, 4, 3), conv(4, 4, 3, padding=1, padding_mode="reflect")),
            "1 has padding_mode='reflect', not zeros",
        ),
        (
            nn.Sequential(conv(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
            "1 has track_running_stats=False",
        ),
    ],
)
def test_modules_that_cannot_be_taken_apart_are_named(stack, message):
    with pytest.raises(ValueError, match=message):
        Deconvnet(stack).project(torch.randn(1, 3, 9, 9), "1", 0, (1, 1))


def test_what_is_no_net_is_named():
    with pytest.raises(TypeError, match=r"expected an nn\.Module, got list"):
        Deconvnet([conv(3, 4, 3)])


def test_a_pool_that_returns_its_indices_is_a_pool():
    torch.manual_seed(0)
    plain = build("ceil_mode, 3x3/2 pools")
    talking = copy.deepcopy(plain)
    for layer in talking:
        if isinstance(layer, nn.MaxPool2d):
            layer.return_indices = True
    images = torch.randn(2, 3, 33, 41)
    last = list(dict(plain.named_children()))[-1]
    one, other = (Deconvnet(stack).project(images, last, 1) for stack in (plain, talking))
    assert one.any() and torch.equal(one, other)
