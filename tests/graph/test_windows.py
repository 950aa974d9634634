"""Receptive fields against the support of the gradient, real forward passes, and sizes worked out
by hand.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.stacks import stacks
from zfnet import Deconvnet, ZFNet, receptive_field
from zfnet.graph import windows
from zfnet.graph.trace import pair, trace

NETS = {
    "ceil-mode pools": [
        nn.Conv2d(1, 2, 7, 2, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(2, 2, 3),
        nn.MaxPool2d(3, 2, ceil_mode=True),
    ],
    "padding everywhere": [
        nn.Conv2d(1, 2, 3, 1, 1),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(2, 2, 5, 2, 2),
        nn.MaxPool2d(2, 2, 1, ceil_mode=True),
    ],
    "dilation": [
        nn.Conv2d(1, 2, 3, 1, 2, dilation=2),
        nn.MaxPool2d(3, 2, 1, dilation=2),
        nn.Conv2d(2, 2, 3, 2, 3, dilation=3),
    ],
    "stride beyond the kernel": [
        nn.Conv2d(1, 2, 2, 3),
        nn.MaxPool2d(2, 3, 1, ceil_mode=True),
        nn.Conv2d(2, 1, 1, 1),
    ],
    "rows unlike columns": [
        nn.Conv2d(1, 2, (3, 5), (1, 2), (2, 1), dilation=(2, 1)),
        nn.MaxPool2d((2, 3), (2, 1), (0, 1)),
        nn.Conv2d(2, 1, (1, 3), 1, (0, 1)),
    ],
    "layers that keep the geometry": [
        nn.Conv2d(1, 5, 3, 2),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.LocalResponseNorm(5),
        nn.Dropout(),
        nn.Conv2d(5, 1, 3, 1, 1),
    ],
}


def everything_counts(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The layer with positive weights, and a sum where the pool takes a maximum: nothing that a
    unit can see is lost or cancels.
    """
    if isinstance(module, nn.Conv2d):
        return F.conv2d(
            x,
            torch.rand_like(module.weight, dtype=x.dtype) + 0.5,
            None,
            module.stride,
            module.padding,
            module.dilation,
        )
    if isinstance(module, nn.MaxPool2d):
        rows, cols = module(x).shape[-2:]
        (top, left), kernel = pair(module.padding), pair(module.kernel_size)
        roomy = F.pad(x, (left, left + 20, top, top + 20))
        ones = torch.ones(x.shape[1], 1, *kernel, dtype=x.dtype)
        return F.conv2d(roomy, ones, None, module.stride, 0, module.dilation, x.shape[1])[
            ..., :rows, :cols
        ]
    return x


@pytest.mark.parametrize("size", [(24, 29), (31, 22)])
@pytest.mark.parametrize("name", NETS)
def test_the_box_of_every_unit_is_the_support_of_its_gradient(name, size):
    torch.manual_seed(0)
    net = nn.Sequential(*NETS[name])
    image = torch.ones(1, 1, *size, dtype=torch.float64, requires_grad=True)
    out = image
    for layer, module in net.named_children():
        out = everything_counts(module, out)
        field = receptive_field(net, layer, size)
        assert field.map_size == tuple(out.shape[-2:])
        for row in range(out.shape[2]):
            for col in range(out.shape[3]):
                (gradient,) = torch.autograd.grad(
                    out[0, :, row, col].sum(), image, retain_graph=True
                )
                rows, cols = gradient[0, 0].nonzero().unbind(1)
                assert field.box(row, col) == (
                    rows.min(),
                    cols.min(),
                    rows.max() + 1,
                    cols.max() + 1,
                ), (layer, row, col)


def test_size_stride_and_offset_describe_every_unit_away_from_the_border():
    net = nn.Sequential(*NETS["padding everywhere"])
    field = receptive_field(net, "2", (61, 75))
    inner = 0
    for row in range(field.map_size[0]):
        for col in range(field.map_size[1]):
            top, left = (
                o + s * n for o, s, n in zip(field.offset, field.stride, (row, col), strict=True)
            )
            bottom, right = top + field.size[0], left + field.size[1]
            if top >= 8 and left >= 8 and bottom <= 53 and right <= 67:
                inner += 1
                assert field.box(row, col) == (top, left, bottom, right)
    assert inner > 20


def test_a_unit_that_sees_only_padding_has_an_empty_box():
    net = nn.Sequential(nn.Conv2d(3, 1, 3), nn.Conv2d(1, 1, 1, padding=1))
    top, left, bottom, right = receptive_field(net, "1", 8).box(0, 3)
    assert top == bottom and (left, right) == (2, 5)


# layer: map side, size, stride, offset at 224 pixels: n' = (n + 2p - k) / s + 1 (rounded up in
# pools), size' = size + (k - 1) * stride
ZFNET_224 = {
    "conv1": (110, 7, 2, -1),
    "pool1": (55, 11, 4, -1),
    "conv2": (26, 27, 8, -1),
    "pool2": (13, 43, 16, -1),
    "conv3": (13, 75, 16, -17),
    "conv4": (13, 107, 16, -33),
    "conv5": (13, 139, 16, -49),
    "pool5": (6, 171, 32, -49),
}


def test_zfnet_at_224_pixels_has_the_papers_maps():
    features = ZFNet(2, maps=(1,) * 5, fc=(1,)).features
    for layer, (side, size, stride, offset) in ZFNET_224.items():
        for same in (layer, layer.replace("conv", "relu")):
            field = receptive_field(features, same, 224)
            assert (field.map_size, field.size, field.stride, field.offset) == (
                (side,) * 2,
                (size,) * 2,
                (stride,) * 2,
                (offset,) * 2,
            ), same
            assert field.input_size == (224, 224)
    # -49 + 6 * 16 = 47, + 139
    assert receptive_field(features, "relu5", 224).box(6, 6) == (47, 47, 186, 186)
    # -49 + 139 = 90, 12 * 16 - 49 = 143, both clipped at the border
    assert receptive_field(features, "relu5", 224).box(0, 12) == (0, 143, 90, 224)
    assert receptive_field(features, "relu1", 224).box(0, 109) == (0, 217, 6, 224)


@st.composite
def geometry(draw):
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        kernel, stride, dilation = (
            draw(st.integers(1, 5)),
            draw(st.integers(1, 4)),
            draw(st.integers(1, 2)),
        )
        if draw(st.booleans()):
            layers.append(nn.Conv2d(1, 1, kernel, stride, draw(st.integers(0, 3)), dilation))
        else:
            layers.append(
                nn.MaxPool2d(
                    kernel,
                    stride,
                    draw(st.integers(0, kernel // 2)),
                    dilation,
                    ceil_mode=draw(st.booleans()),
                )
            )
    return layers, (draw(st.integers(1, 30)), draw(st.integers(1, 30)))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(geometry())
@pytest.mark.slow
def test_map_size_is_that_of_the_real_forward_pass(case):
    layers, size = case
    net = nn.Sequential(*layers)
    last = str(len(layers) - 1)
    try:
        expected = tuple(net(torch.zeros(1, 1, *size)).shape[-2:])
    except RuntimeError:
        with pytest.raises(
            ValueError, match=rf"an input of {size[0]} x {size[1]} pixels is too small to reach \d"
        ):
            receptive_field(net, last, size)
    else:
        assert receptive_field(net, last, size).map_size == expected


def test_what_is_wrong_is_named():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(ValueError, match=r"no layer 'relu1': choose one of 0, 1$"):
        receptive_field(net, "relu1", 20)
    with pytest.raises(ValueError, match="an input of 2 x 20 pixels is too small to reach 0"):
        receptive_field(net, "1", (2, 20))
    for row, col in [(18, 0), (0, 18), (-1, 0), (0, -1)]:
        with pytest.raises(
            ValueError, match=rf"position \({row}, {col}\) is outside the map of 18 x 18 units"
        ):
            receptive_field(net, "1", 20).box(row, col)
    unknown = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2))
    with pytest.raises(TypeError, match="1 is a Upsample: there is no accepted rule"):
        receptive_field(unknown, "1", 20)
    # a whole net does as well as its features
    net = ZFNet(2, maps=(1,) * 5, fc=(1,))
    whole, part = (receptive_field(one, "relu1", 224) for one in (net, net.features))
    assert (whole.size, whole.map_size) == (part.size, part.map_size)


@settings(max_examples=150, deadline=None)
@given(stacks(), st.data())
@pytest.mark.slow
def test_units_on_windows_are_the_same_units(drawn, data):
    """Random nets, sizes, strides, paddings and positions: the windowed pass gives the numbers of
    the pass over whole images.
    """
    net, size = drawn
    layer = data.draw(st.sampled_from([name for name, _ in net.named_children()]))
    field, seed, n = (
        receptive_field(net, layer, size),
        data.draw(st.integers(0, 10**6)),
        data.draw(st.integers(1, 4)),
    )
    images = torch.randn(
        n, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    # borders often
    along = [
        st.one_of(st.sampled_from([0, length - 1]), st.integers(0, length - 1))
        for length in field.map_size
    ]
    position = torch.tensor([data.draw(st.tuples(*along)) for _ in range(n)])
    deconvnet = Deconvnet(net)
    channels = deconvnet.activations(images, layer).shape[1]
    channel = torch.tensor([data.draw(st.integers(0, channels - 1)) for _ in range(n)])
    slow = deconvnet.project(images, layer, channel, position, windows=False)
    fast = deconvnet.project(images, layer, channel, position, windows=True)
    scale = slow.abs().amax().clamp_min(1e-12)
    assert (fast - slow).abs().amax() <= 1e-9 * scale
    for way in (True, False):
        patches = deconvnet.project_patches(images, layer, channel, position, windows=way)
        for one, pixels, (top, left), box, unit in zip(
            slow,
            patches.pixels,
            patches.corner.tolist(),
            patches.box.tolist(),
            position.tolist(),
            strict=True,
        ):
            assert tuple(box) == field.box(*unit)
            expected = torch.zeros_like(pixels)
            for r in range(pixels.shape[1]):
                for c in range(pixels.shape[2]):
                    if 0 <= top + r < size[0] and 0 <= left + c < size[1]:
                        expected[:, r, c] = one[:, top + r, left + c]
            assert (pixels - expected).abs().amax() <= 1e-9 * scale
            # nothing lies outside the patch
            assert expected.square().sum() == pytest.approx(
                float(one.square().sum()), rel=1e-12, abs=1e-30
            )


def test_multiply_adds_are_those_that_pytorch_counts():
    net = ZFNet(10, fc=(8, 8)).eval().features
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 224, 224))
    graph = trace(net)
    maps = windows.map_sizes(graph, graph.output, (224, 224))
    assert windows.multiply_adds(graph, maps) * 2 == counter.get_total_flops()
    # as counted for the paper's net
    assert counter.get_total_flops() == pytest.approx(2 * 1.109e9, rel=1e-3)
    seen = windows.views(graph, graph.number("relu3"))
    deconvnet, image = Deconvnet(net), torch.zeros(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter:
        deconvnet.project_patches(image, "relu3", 0, (5, 5), windows=True)
    up = windows.multiply_adds(graph, {number: view.size for number, view in seen.items()})
    # down as up, and the zero taps of conv1's phases
    assert 2 * 2 * up <= counter.get_total_flops() <= 2 * 2 * up * 1.3


@pytest.mark.parametrize(
    ("net", "size", "expected"),
    [
        (
            ZFNet(10, fc=(8, 8)),
            224,
            {"relu1": True, "relu2": True, "relu3": True, "relu4": True, "relu5": True},
        ),
        (
            ZFNet(10, input_size=96, fc=(8, 8)),
            96,
            {"relu1": True, "relu2": True, "relu3": True, "relu4": True, "relu5": False},
        ),
    ],
    ids=["224 px", "96 px"],
)
def test_the_cheaper_way_is_chosen(net, size, expected):
    """By the multiply-adds that PyTorch counts for both: windows, without what lies beyond the map,
    where they are fewer by a third, whole images elsewhere.
    """
    deconvnet, image = Deconvnet(net.eval().features), torch.zeros(1, 3, size, size)
    for layer, pays in expected.items():
        counted = {}
        for way in (True, False, None):
            with FlopCounterMode(display=False) as counter:
                deconvnet.project(image, layer, 0, (2, 2), windows=way)
            counted[way] = counter.get_total_flops()
        assert counted[None] == counted[pays], layer
        assert counted[pays] < counted[not pays] * (1 if pays else 1.35), (layer, counted)


def test_windows_refuse_where_they_cannot_be_exact():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2))
    deconvnet, image = Deconvnet(net), torch.randn(1, 3, 20, 20)
    with pytest.raises(ValueError, match="windows = True needs a position and overlap = 'add'"):
        deconvnet.project(image, "2", 0, (1, 1), overlap="max", windows=True)
    with pytest.raises(ValueError, match="windows = True needs a position"):
        deconvnet.project(image, "2", 0, windows=True)
    with pytest.raises(ValueError, match="a patch is the receptive field of a unit"):
        deconvnet.project_patches(image, "2", 0, None)
