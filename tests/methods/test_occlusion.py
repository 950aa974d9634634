"""Occlusion against a slow loop written from its definition, and against captum; in float64."""

from __future__ import annotations

import copy
import itertools

import captum.attr
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.helpers.stacks import stacks
from zfnet import ZFNet, occlude, occlude_all
from zfnet.graph.forward import Parts
from zfnet.methods import occlusion

SIZE = (26, 33)


class Small(nn.Module):
    """Five rectified layers, dropout and a linear head, for images of any size."""

    def __init__(self):
        super().__init__()
        widths, layers = (3, 5, 4, 6, 4, 5), []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, 1, 1), nn.ReLU(inplace=True)]
        layers[2:2] = [nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout(0.5)]
        self.features = nn.Sequential(*layers, nn.MaxPool2d(3, 2, ceil_mode=True))
        self.avgpool = nn.AdaptiveAvgPool2d((3, 2))
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(5 * 3 * 2, 6))

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


LAST_RELU = "11"


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Small().double()
    for p in model.parameters():
        p.data *= 2.5
    return model.train()


@pytest.fixture
def image():
    return torch.randn(3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def slow(model, image, size, stride, fill, layer, channel):
    """One square at a time: {(top, left): (logits, activity)}."""
    model = copy.deepcopy(model).eval()
    rows, cols = image.shape[1:]
    result, top = {}, 0
    while True:
        left = 0
        while True:
            covered = image.clone()
            for c in range(3):
                for i in range(top, top + size):
                    for j in range(left, left + size):
                        covered[c, i, j] = fill[c, i, j] if isinstance(fill, torch.Tensor) else fill
            with torch.no_grad():
                result[top, left] = (
                    model(covered[None])[0],
                    model.features[: int(layer) + 1](covered[None])[0, channel].sum().item(),
                )
            if left == cols - size:
                break
            left = min(left + stride, cols - size)
        if top == rows - size:
            return result
        top = min(top + stride, rows - size)


@pytest.mark.parametrize(
    ("size", "stride", "batch_size"),
    [(7, 5, 64), (7, 5, 1), (10, 8, 4), (13, 40, 3), (26, 7, 2), (4, 11, 7)],
)
def test_occlusion_is_the_slow_loop(model, image, size, stride, batch_size):
    found = occlude(model, image, 2, size, stride, 0.5, LAST_RELU, 3, batch_size)
    expected = slow(model, image, size, stride, 0.5, LAST_RELU, 3)
    assert [(t, left) for t in found.tops.tolist() for left in found.lefts.tolist()] == list(
        expected
    )
    assert (found.size, found.stride, found.target, found.layer, found.channel) == (
        size,
        stride,
        2,
        LAST_RELU,
        3,
    )
    for n, (logits, activity) in enumerate(expected.values()):
        i, j = divmod(n, len(found.lefts))
        torch.testing.assert_close(found.logits[i, j], logits, rtol=1e-11, atol=1e-12)
        assert found.probability[i, j].item() == pytest.approx(
            (logits[2].exp() / logits.exp().sum()).item(), rel=1e-11
        )
        assert found.label[i, j] == max(range(6), key=lambda c: logits[c])
        assert found.activity[i, j].item() == pytest.approx(activity, rel=1e-11)
    shape = (len(found.tops), len(found.lefts))
    assert (
        found.probability.shape
        == found.label.shape
        == found.activity.shape
        == found.logits.shape[:2]
        == shape
    )
    if len(expected) > 4:
        assert found.probability.std() > 1e-4 and found.activity.std() > 1e-4


def test_the_last_square_is_flush_with_the_border(model, image):
    found = occlude(model, image, 0, 10, 6)
    assert found.tops.tolist() == [0, 6, 12, 16] and found.lefts.tolist() == [0, 6, 12, 18, 23]
    assert found.centre(3, 4) == (21.0, 28.0)
    found = occlude(model, image, 0, 6, 10)  # 0, 10, 20 fit 26 rows exactly
    assert found.tops.tolist() == [0, 10, 20] and found.lefts.tolist() == [0, 10, 20, 27]


def test_the_fill_may_be_a_number_a_colour_or_a_picture(model, image):
    colour, picture = torch.randn(3, 1, 1).double(), torch.randn(3, *SIZE).double()
    for fill in (0.0, -1.25, colour, picture):
        full = fill.expand(3, *SIZE) if isinstance(fill, torch.Tensor) else fill
        found = occlude(model, image, 1, 9, 9, fill, LAST_RELU, 0)
        expected = torch.stack(
            [logits for logits, _ in slow(model, image, 9, 9, full, LAST_RELU, 0).values()]
        )
        torch.testing.assert_close(found.logits.flatten(0, 1), expected, rtol=1e-11, atol=1e-12)


def test_an_image_covered_with_itself_gives_the_clean_values(model, image):
    found = occlude(model, image, 1, 9, 6, fill=image)
    clean = copy.deepcopy(model).eval()
    logits = clean(image[None])[0].detach()
    assert found.clean_label == int(logits.argmax()) and (found.label == found.clean_label).all()
    assert found.clean_probability == pytest.approx(logits.softmax(0)[1].item(), rel=1e-11)
    torch.testing.assert_close(
        found.probability,
        torch.full_like(found.probability, found.clean_probability),
        rtol=1e-10,
        atol=0,
    )
    torch.testing.assert_close(
        found.activity, torch.full_like(found.activity, found.clean_activity), rtol=1e-10, atol=0
    )


def test_modules_that_work_in_place_leave_the_clean_maps_alone(model, image):
    plain, inplace = copy.deepcopy(model), copy.deepcopy(model)
    for net, flag in ((plain, False), (inplace, True)):
        net.features[5] = nn.Hardswish(inplace=flag)
    expected, found = (
        occlude(net, image, 2, 9, 9, layer="4", channel=1) for net in (plain, inplace)
    )
    with torch.no_grad():
        assert found.clean_activity == pytest.approx(
            plain.eval().features[:5](image[None])[0, 1].sum().item()
        )
    assert torch.allclose(found.activity, expected.activity) and torch.allclose(
        found.logits, expected.logits
    )


def test_the_map_followed_is_the_one_with_the_largest_total(model, image):
    totals = copy.deepcopy(model).eval().features[: int(LAST_RELU) + 1](image[None])[0].sum((1, 2))
    found = occlude(model, image, 1, 13, 13)
    assert found.layer == LAST_RELU and found.channel == int(totals.argmax())
    assert found.clean_activity == pytest.approx(totals.max().item(), rel=1e-11)
    other = occlude(model, image, 1, 13, 13, layer="1", channel=2)
    expected = copy.deepcopy(model).eval().features[:2](image[None])[0, 2].sum().item()
    assert (other.layer, other.channel) == ("1", 2) and other.clean_activity == pytest.approx(
        expected, rel=1e-11
    )


def test_largest_total_is_not_largest_peak(model):
    """Two maps that copy two colour planes: one bright pixel against a wide faint field."""
    model.features[0] = nn.Conv2d(3, 5, 1, bias=False).double()
    model.features[0].weight.data.zero_()
    model.features[0].weight.data[1, 0] = model.features[0].weight.data[4, 1] = 1
    image = torch.zeros(3, *SIZE, dtype=torch.float64)
    image[0, 5, 5], image[1] = 50, 0.1  # totals 50 and 0.1 * 26 * 33 = 85.8
    found = occlude(model, image, 0, 6, 20, layer="1")
    assert found.channel == 4 and found.clean_activity == pytest.approx(85.8)
    torch.testing.assert_close(found.activity, torch.full((2, 3), 85.8 - 3.6, dtype=torch.float64))


def test_occlusion_is_captums(model):
    """With stride equal to size each pixel is covered once: captum's map is the fall of the logit
    for that square.
    """
    image = torch.randn(3, 28, 35, dtype=torch.float64)
    found = occlude(model, image, 4, 7, 7, fill=0.3)
    clean = copy.deepcopy(model).eval()
    fall = captum.attr.Occlusion(clean).attribute(
        image[None], (3, 7, 7), (3, 7, 7), baselines=0.3, target=4
    )[0]
    assert torch.equal(fall[0], fall[2])
    expected = fall[0, ::7, ::7].double()
    assert (
        expected.shape == (4, 5) and expected.abs().mean() > 0.02 and len(expected.unique()) == 20
    )
    ours = clean(image[None])[0, 4].detach() - found.logits[..., 4]
    torch.testing.assert_close(ours, expected, rtol=2e-6, atol=2e-6)  # captum adds up in float32


def test_zfnet_follows_its_fifth_layer():
    torch.manual_seed(0)
    net = ZFNet(4, input_size=64, maps=(3, 4, 4, 4, 6), fc=(5,)).double()
    image = torch.randn(3, 64, 64, dtype=torch.float64)
    found = occlude(net, image, 1, 32, 32)
    totals = copy.deepcopy(net).eval().features[:-1](image[None])[0].sum((1, 2))
    assert (
        found.layer == "relu5"
        and found.channel == int(totals.argmax())
        and found.clean_activity == pytest.approx(totals.max().item())
    )


def test_image_weights_and_modes_are_left_alone(model, image):
    model.features.eval()
    model.classifier[0].eval()
    modes, kept, state = (
        [m.training for m in model.modules()],
        image.clone(),
        copy.deepcopy(model.state_dict()),
    )
    assert True in modes and False in modes
    found = occlude(model, image, 1, 13, 13)
    assert [m.training for m in model.modules()] == modes and torch.equal(image, kept)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert not found.logits.requires_grad


def test_an_image_too_small_for_the_net_is_named():
    with pytest.raises(ValueError, match="an input of 24 x 24 pixels is too small to reach"):
        occlude(ZFNet(3, input_size=64, maps=(4,) * 5, fc=(6,)), torch.zeros(3, 24, 24), 0, 8, 8)


def test_modes_come_back_after_an_exception(model, image):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken head")

    model.features[0].eval()
    model.classifier = Broken()
    modes = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError, match="broken head"):
        occlude(model, image, 1, 13, 13)
    assert [m.training for m in model.modules()] == modes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 6}, "target = 6: choose a class from 0 to 5"),
        ({"target": -1}, "target = -1: choose a class from 0 to 5"),
        ({"size": 27}, "size = 27: the square must fit into the image of 26 x 33 pixels"),
        ({"size": 0}, "size = 0: the square must fit"),
        ({"stride": 0}, "stride = 0: must be at least 1"),
        ({"stride": -3}, "stride = -3: must be at least 1"),
        ({"layer": "relu9"}, "no layer 'relu9': choose one of 0, 1, 2"),
        ({"channel": 5}, "channel 5 is not in 11, which has channels 0 to 4"),
        ({"channel": -1}, "channel -1 is not in 11"),
        (
            {"image": torch.zeros(1, 3, *SIZE)},
            r"image: expected \(3, rows, columns\), got \(1, 3, 26, 33\)",
        ),
    ],
)
def test_what_is_wrong_is_named_and_modes_come_back(model, image, arguments, message):
    good = {"image": image, "target": 0, "size": 10, "stride": 10}
    with pytest.raises(ValueError, match=message):
        occlude(model, **{**good, **arguments})
    assert all(m.training for m in model.modules())


@settings(max_examples=60, deadline=None)
@given(stacks(), st.data())
@pytest.mark.slow
def test_the_incremental_pass_is_the_full_pass(drawn, data):
    """Random nets, squares, strides and chunks: what the square cannot reach is read from the clean
    maps, and every number stays.
    """
    features, size = drawn
    channels = next(m for m in reversed(features) if isinstance(m, nn.Conv2d)).out_channels
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    head = nn.Linear(4 * channels, 5).double()
    model = Parts(features, nn.AdaptiveAvgPool2d(2), head)
    image, fill = (
        torch.randn(3, *size, dtype=torch.float64),
        torch.randn(3, 1, 1, dtype=torch.float64),
    )
    square, stride = data.draw(st.integers(1, min(size))), data.draw(st.integers(3, 9))
    layer = data.draw(st.sampled_from([name for name, _ in features.named_children()]))
    options = {"fill": fill, "layer": layer, "channel": 0}
    slow = occlude(model, image, 0, square, stride, incremental=False, **options)
    fast = occlude(
        model,
        image,
        0,
        square,
        stride,
        incremental=True,
        batch_size=data.draw(st.integers(1, 40)),
        **options,
    )
    assume(slow.logits.isfinite().all())  # a pooling window of padding alone is -inf
    assert torch.allclose(fast.logits, slow.logits, rtol=1e-9, atol=1e-9)
    assert torch.allclose(
        fast.activity, slow.activity, rtol=1e-9, atol=1e-9 * slow.activity.abs().max().item()
    )
    assert torch.equal(fast.tops, slow.tops) and torch.equal(fast.lefts, slow.lefts)


@pytest.mark.parametrize(("size", "square", "expected"), [(224, 32, True), (96, 80, False)])
def test_the_cheaper_pass_is_chosen(size, square, expected, monkeypatch):
    """At 224 px a 32 px square changes a quarter of the work; at 96 px an 80 px square changes
    nearly all of it.
    """
    model, taken = ZFNet(3, input_size=size, fc=(4,)).eval(), []
    kept = occlusion._Watch.covered
    monkeypatch.setattr(
        occlusion._Watch, "covered", lambda *given: taken.append(bool(given[-1])) or kept(*given)
    )
    occlude(model, torch.randn(3, size, size), 0, square, 24)
    assert set(taken) == {expected}


def test_a_batch_of_images_is_each_image_in_turn():
    torch.manual_seed(0)
    model = ZFNet(3, input_size=64, fc=(4,)).eval()
    images = torch.randn(2, 3, 64, 64)
    for found, image, target in zip(
        occlude_all(model, images, torch.tensor([2, 0]), 20, 16), images, (2, 0), strict=True
    ):
        assert found.target == target and torch.equal(
            found.logits, occlude(model, image, target, 20, 16).logits
        )
    with pytest.raises(ValueError, match="2 images, but 1 targets"):
        occlude_all(model, images, [0], 20, 16)


def test_a_net_of_fewer_layers_follows_its_last_and_a_bad_fill_is_named():
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    model = Parts(features, nn.AdaptiveAvgPool2d(1), nn.Linear(4, 2))
    assert occlude(model, torch.randn(3, 9, 9), 0, 3, 3).layer == "1"
    with pytest.raises(
        ValueError, match=r"fill of shape \(5,\) does not broadcast to the image's \(3, 9, 9\)"
    ):
        occlude(model, torch.randn(3, 9, 9), 0, 3, 3, fill=torch.zeros(5))
    with pytest.raises(ValueError, match="batch_size = 0"):
        occlude(model, torch.randn(3, 9, 9), 0, 3, 3, batch_size=0)
