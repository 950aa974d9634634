"""Three ReLU rules, one engine: the gradient against autograd, guided backpropagation against
captum, both against the rules done slowly; in float64.
"""

from __future__ import annotations

import captum.attr
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.helpers.pooled_nets import (
    NETS,
    SIZES,
    build,
    filter_slowly,
    firing_units,
    for_captum,
    last_layer,
    unpool_slowly,
)
from tests.helpers.stacks import stacks
from zfnet import Deconvnet, receptive_field
from zfnet.methods.deconv import RULES

pytestmark = pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NETS)
def test_the_gradient_rule_is_autograds_gradient_times_the_activation(name, size, report):
    net = build(name)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    maps, units = firing_units(net, images, last_layer(net), each=3)
    worst = 0.0
    for n, *unit in units:
        image = images[n : n + 1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(for_captum(net)(image)[(0, *unit)], image)
        expected = gradient * maps[(n, *unit)]
        found = Deconvnet(net).project(
            images[n : n + 1], last_layer(net), unit[0], tuple(unit[1:]), rule="gradient"
        )
        assert expected.any()
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    report(
        f"rule 'gradient' against autograd, {name}, {size[0]} x {size[1]}: largest relative error"
        f" {worst:.1e}"
    )
    assert worst <= 1e-12


@pytest.mark.parametrize("oracle", ["deconvnet", "guided"])
@pytest.mark.parametrize("name", NETS)
def test_the_rectifying_rules_are_captums(name, oracle, report):
    net = build(name, seed=5)
    images = torch.randn(2, 3, 35, 30, dtype=torch.float64)
    maps, units = firing_units(net, images, last_layer(net), each=3)
    clean = for_captum(net)
    theirs = {
        "deconvnet": captum.attr.NeuronDeconvolution,
        "guided": captum.attr.NeuronGuidedBackprop,
    }[oracle](clean, clean[-1])
    worst = 0.0
    for n, *unit in units:
        expected = (
            theirs.attribute(images[n : n + 1].clone().requires_grad_(), tuple(unit))
            * maps[(n, *unit)]
        )
        found = Deconvnet(net).project(
            images[n : n + 1], last_layer(net), unit[0], tuple(unit[1:]), rule=oracle
        )
        worst = max(
            worst, float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-300))
        )
    report(f"rule {oracle!r} against captum, {name}: largest relative error {worst:.1e}")
    assert worst <= 1e-12


def slowly(net, image, seeds, rule):
    """A signal down a net, number by number, by a rule; `seeds`: the units (channel, row, col)
    whose activations are kept.
    """
    tape, x = [], image[None]
    with torch.no_grad():
        for layer in for_captum(net):
            tape.append((layer, x[0].numpy(), layer(x)[0].numpy()))
            x = layer(x)
    signal = np.zeros_like(tape[-1][2])
    for unit in seeds:
        signal[unit] = tape[-1][2][unit]
    for layer, below, above in reversed(tape):
        if isinstance(layer, nn.ReLU):
            for place in np.ndindex(signal.shape):
                fired, positive = above[place] > 0, signal[place] > 0
                passes = {"deconvnet": positive, "gradient": fired, "guided": fired and positive}[
                    rule
                ]
                signal[place] = signal[place] if passes else 0.0
        elif isinstance(layer, (nn.MaxPool2d, nn.Conv2d)):
            signal = (unpool_slowly if isinstance(layer, nn.MaxPool2d) else filter_slowly)(
                layer, signal, below, "add"
            )
    return torch.from_numpy(signal)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "name",
    [
        "ceil_mode, 3x3/2 pools",
        "padded pools, in-place ReLU",
        "dilation, no biases, padded pools in ceil_mode",
    ],
)
def test_whole_maps_by_each_rule_done_slowly(name, rule):
    net = build(name, seed=6)
    image = torch.randn(3, 29, 26, dtype=torch.float64)
    layer = last_layer(net)
    maps = for_captum(net)(image[None])[0].detach()
    channel = int(maps.sum((1, 2)).argmax())
    expected = slowly(
        net, image, [(channel, row, col) for row, col in np.ndindex(*maps.shape[1:])], rule
    )
    assert expected.any()
    torch.testing.assert_close(
        Deconvnet(net).project(image[None], layer, channel, rule=rule)[0],
        expected,
        rtol=1e-12,
        atol=1e-13,
    )


def test_the_rules_by_hand():
    """conv 1x1 by -1 and 1; ReLU; conv 1x1 by 2 and -3 with bias 9; ReLU. Pixels 2, -1: maps (0, 2)
    and (1, 0), then 9 - 6 and 9 + 2.
    """
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(2, 1, 1),
        nn.ReLU(inplace=True),
    ).double()
    net[0].weight.data = torch.tensor([-1.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
    net[2].weight.data = torch.tensor([2.0, -3.0], dtype=torch.float64).view(1, 2, 1, 1)
    net[2].bias.data.fill_(9)
    image = torch.tensor([[2.0, -1.0]], dtype=torch.float64)[None, None]
    # down from 3: (6, -9) meets (silent, fired); from 11: (22, -33) meets (fired, silent)
    for rule, expected in {
        "deconvnet": [-6.0, -22.0],
        "gradient": [-9.0, -22.0],
        "guided": [0.0, -22.0],
    }.items():
        assert Deconvnet(net).project(image, "3", 0, rule=rule).flatten().tolist() == expected, rule


def test_the_default_is_the_deconvnet_and_the_rules_differ():
    net = build("ceil_mode, 3x3/2 pools")
    image = torch.randn(1, 3, 41, 38, dtype=torch.float64)
    found = {rule: Deconvnet(net).project(image, "7", 0, rule=rule) for rule in RULES}
    assert torch.equal(found["deconvnet"], Deconvnet(net).project(image, "7", 0))
    assert not torch.equal(found["deconvnet"], found["guided"]) and not torch.equal(
        found["guided"], found["gradient"]
    )


def test_an_unknown_rule_is_named():
    with pytest.raises(
        ValueError, match="rule = 'relu': choose one of deconvnet, guided, gradient"
    ):
        Deconvnet(build("ceil_mode, 3x3/2 pools")).project(
            torch.zeros(1, 3, 33, 41), "7", 0, rule="relu"
        )


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(drawn=stacks(), data=st.data())
@pytest.mark.slow
def test_units_on_windows_are_the_same_by_every_rule(rule, drawn, data):
    """Random nets and positions, borders often, where a window reaches beyond the map and biases
    would let ReLUs fire that do not exist.
    """
    net, size = drawn
    layer = data.draw(st.sampled_from([name for name, _ in net.named_children()]))
    images = torch.randn(
        3,
        3,
        *size,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(data.draw(st.integers(0, 10**6))),
    )
    along = [
        st.one_of(st.sampled_from([0, length - 1]), st.integers(0, length - 1))
        for length in receptive_field(net, layer, size).map_size
    ]
    position = torch.tensor([data.draw(st.tuples(*along)) for _ in range(3)])
    deconvnet = Deconvnet(net)
    # a pool may have windows of nothing but padding: PyTorch gives them -inf
    assume(deconvnet.activations(images, layer).isfinite().all())
    slow, fast = (
        deconvnet.project(images, layer, 0, position, windows=way, rule=rule)
        for way in (False, True)
    )
    scale = slow.abs().amax().clamp_min(1e-12)
    assert (fast - slow).abs().amax() <= 1e-9 * scale
    one, two = (
        deconvnet.project_patches(images, layer, 0, position, windows=way, rule=rule).pixels
        for way in (False, True)
    )
    assert (one - two).abs().amax() <= 1e-9 * scale
    assert one.square().sum() == pytest.approx(float(slow.square().sum()), rel=1e-12, abs=1e-30)
