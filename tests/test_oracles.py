"""The core against independent oracles: captum, autograd, plain loops and arithmetic done by hand, in float64."""

from __future__ import annotations

import copy

import captum.attr
import pytest
import torch
from torch import nn

from zfnet import Deconvnet, ZFNet, occlude, paper_layers, receptive_field, scan, top_units
from zfnet.deconv import unpool

NETS = {
    "overlapping pools, ceil_mode": lambda: nn.Sequential(
        nn.Conv2d(3, 5, 7, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(5, 6, 5, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(6, 4, 3, 1, 1), nn.ReLU()),
    "padded pools, in-place ReLU": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 6, 3, 2, 2, groups=2), nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 1), nn.Conv2d(6, 5, 3), nn.ReLU(inplace=True)),
    "batch norm, dropout, dilation": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 2, dilation=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.MaxPool2d(2, 2), nn.Conv2d(4, 5, 3), nn.ReLU()),
}  # fmt: skip


def build(name: str, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = NETS[name]().double()
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.normal_()
            layer.bias.data.normal_()
    return net


def active_units(net, images, count=6):
    """The layer name and, for each image, some unit that fires."""
    layer = [name for name, _ in net.named_children()][-1]
    maps = Deconvnet(net).activations(images, layer)
    units = [torch.nonzero(m > 0) for m in maps]
    assert all(len(u) for u in units)
    return layer, maps, torch.stack([u[torch.randint(len(u), (1,))[0]] for u in units])


@pytest.mark.parametrize("size", [(33, 41), (40, 36)])
@pytest.mark.parametrize("name", NETS)
def test_projection_equals_captum(name, size, report):
    """NeuronDeconvolution gives the unit's attribution per unit of activation; the projection is seeded with the activation."""
    net = build(name)
    images = torch.randn(4, 3, *size, dtype=torch.float64)
    layer, maps, units = active_units(net, images)
    clean = copy.deepcopy(net).eval()
    for i, child in enumerate(clean):
        if isinstance(child, nn.ReLU):
            clean[i] = nn.ReLU()
    oracle = captum.attr.NeuronDeconvolution(clean, clean[-1])
    worst = 0.0
    for image, m, (channel, row, col) in zip(images, maps, units.tolist(), strict=True):
        expected = oracle.attribute(image[None].clone().requires_grad_(), (channel, row, col))[0] * m[channel, row, col]
        found = Deconvnet(net).project(image[None], layer, channel, (row, col))[0]
        worst = max(worst, float((found - expected).norm() / expected.norm()))
    report(f"deconvnet against captum's NeuronDeconvolution, {name}, {size[0]} x {size[1]}: largest relative error {worst:.1e}")
    assert worst < 1e-12


def slow_projection(net, image, channel, position):
    """The paper's three steps, value by value: unpool with the recorded switches, rectify, filter with the transposed filters."""
    tape, x = [], image
    for layer in net:
        tape.append((layer, x))
        x = layer(x[None])[0].detach() if not isinstance(layer, nn.ReLU) else x.clamp(min=0)
    signal = torch.zeros_like(x)
    signal[(channel, *position)] = x[(channel, *position)]
    for layer, below in reversed(tape):
        out = torch.zeros_like(below)
        if isinstance(layer, nn.ReLU):
            out = signal.clamp(min=0)
        elif isinstance(layer, nn.MaxPool2d):
            for c, i, j in signal.nonzero().tolist():
                top, left = i * layer.stride, j * layer.stride
                window = below[c, top : top + layer.kernel_size, left : left + layer.kernel_size]
                r, s = divmod(int(window.argmax()), window.shape[1])
                out[c, top + r, left + s] += signal[c, i, j]
        else:
            (stride, _), (pad, _), (k, _) = layer.stride, layer.padding, layer.kernel_size
            padded = torch.zeros(below.shape[0], below.shape[1] + 2 * pad, below.shape[2] + 2 * pad, dtype=below.dtype)
            for c, i, j in signal.nonzero().tolist():
                padded[:, i * stride : i * stride + k, j * stride : j * stride + k] += signal[c, i, j] * layer.weight[c].detach()
            out = padded[:, pad : pad + below.shape[1], pad : pad + below.shape[2]]
        signal = out
    return signal


def test_projection_equals_the_three_steps_done_slowly():
    net = build("overlapping pools, ceil_mode", seed=1)
    images = torch.randn(3, 3, 61, 53, dtype=torch.float64)
    layer, _, units = active_units(net, images)
    found = Deconvnet(net).project(images, layer, units[:, 0], units[:, 1:])
    for i, (channel, *position) in enumerate(units.tolist()):
        torch.testing.assert_close(found[i], slow_projection(net, images[i], channel, position), rtol=1e-12, atol=1e-13)


def test_unpooling_by_hand():
    """4x4 map, 3x3 windows every pixel: all four windows contain the 9 at (1, 1), except that (1, 1)'s right column holds no larger value."""
    maps = torch.tensor([[0.0, 1, 2, 0], [3, 9, 4, 0], [0, 5, 6, 0], [1, 0, 0, 8]])[None, None]
    pooled, switches = nn.functional.max_pool2d(maps, 3, 1, return_indices=True)
    assert pooled.flatten().tolist() == [9, 9, 9, 9] and switches.flatten().tolist() == [5, 5, 5, 5]
    values = torch.tensor([[1.0, -2], [4, 3]])[None, None]
    for overlap, expected in {"add": 6.0, "overwrite": 3.0, "max": 4.0}.items():
        out = unpool(values, switches, maps.shape, overlap)
        assert out[0, 0, 1, 1] == expected and out.abs().sum() == expected, overlap


def test_without_overlap_the_rules_agree_with_max_unpool():
    maps = torch.randn(2, 3, 6, 8)
    pooled, switches = nn.functional.max_pool2d(maps, 2, 2, return_indices=True)
    for overlap in ("add", "overwrite", "max"):
        assert torch.equal(unpool(pooled, switches, maps.shape, overlap), nn.functional.max_unpool2d(pooled, switches, 2, 2))


def test_linear_net_gives_gradient_times_activation():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 5, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(4, 3, 3)).double()
    image = torch.randn(1, 3, 31, 27, dtype=torch.float64, requires_grad=True)
    unit = net(image)[0, 1, 2, 1]
    (gradient,) = torch.autograd.grad(unit, image)
    torch.testing.assert_close(Deconvnet(net).project(image, "2", 1, (2, 1)), (gradient * unit).detach(), rtol=1e-12, atol=1e-14)


def test_whole_map_is_seeded_with_all_its_activations():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2)).double()
    image = torch.randn(2, 3, 12, 9, dtype=torch.float64)
    maps = net(image).detach()
    maps[:, [0, 1, 3]] = 0
    expected = nn.functional.conv_transpose2d(maps, net[0].weight, stride=2, output_padding=(1, 0))
    torch.testing.assert_close(Deconvnet(net).project(image, "0", 2), expected.detach())


@pytest.mark.parametrize("name", NETS)
def test_receptive_field_is_the_support_of_the_gradient(name):
    """Positive weights, maxima replaced by means: the gradient is positive exactly where a unit can see."""
    net = build(name)
    linear = nn.Sequential()
    for child in copy.deepcopy(net):
        if isinstance(child, nn.Conv2d):
            child.weight.data.uniform_(0.5, 1)
            linear.append(child)
        elif isinstance(child, nn.MaxPool2d):
            linear.append(nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode))
    image = torch.rand(1, 3, 61, 54, dtype=torch.float64, requires_grad=True)
    out = linear(image)
    field = receptive_field(net, [n for n, _ in net.named_children()][-1], (61, 54))
    assert field.map_size == tuple(out.shape[-2:])
    for row in range(out.shape[2]):
        for col in range(out.shape[3]):
            (gradient,) = torch.autograd.grad(out[0, :, row, col].sum(), image, retain_graph=True)
            rows, cols = gradient[0].sum(0).nonzero().unbind(1)
            assert field.box(row, col) == (rows.min(), cols.min(), rows.max() + 1, cols.max() + 1)


def test_zero_outside_the_receptive_field_and_exact_size():
    net = build("overlapping pools, ceil_mode", seed=2)
    images = torch.randn(8, 3, 75, 91, dtype=torch.float64)
    layer, _, units = active_units(net, images)
    found = Deconvnet(net).project(images, layer, units[:, 0], units[:, 1:])
    assert found.shape == images.shape
    field = receptive_field(net, layer, (75, 91))
    for picture, (_, row, col) in zip(found, units.tolist(), strict=True):
        top, left, bottom, right = field.box(row, col)
        assert picture[:, top:bottom, left:right].abs().sum() > 0
        picture[:, top:bottom, left:right] = 0
        assert not picture.any()


def test_the_model_is_left_as_it_was():
    net = build("padded pools, in-place ReLU").train()
    images = torch.randn(2, 3, 20, 20, dtype=torch.float64)
    before, kept = copy.deepcopy(net.state_dict()), images.clone()
    Deconvnet(net).project(images, "7", 0)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True)) and torch.equal(images, kept)
    assert net.training and not any(m._forward_hooks or m._backward_hooks for m in net) and all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(("arguments", "message"), [
    ({"layer": "conv9"}, "no layer 'conv9': choose one of conv1, relu1, pool1"),
    ({"channel": 8}, "channel 8 is not in relu5, which has channels 0 to 7"),
    ({"channel": -1}, "channel -1 is not in relu5"),
    ({"channel": 1.5}, "channel: expected an integer"),
    ({"position": (9, 0)}, r"position \(9, 0\) is outside the maps of relu5, which have 3 x 3 units"),
    ({"position": (1, 1, 1)}, "position: expected row and column"),
    ({"overlap": "sum"}, "overlap = 'sum': choose one of add, overwrite, max"),
    ({"images": torch.zeros(3, 64, 64)}, r"images: expected a tensor \(N, channels, rows, columns\), got \(3, 64, 64\)"),
    ({"images": torch.zeros(1, 1, 64, 64)}, "images: expected 3 channels, got 1"),
])  # fmt: skip
def test_projection_names_what_is_wrong(arguments, message):
    features = ZFNet(10, input_size=64, maps=(8,) * 5, fc=(8, 8)).features
    good = {"images": torch.zeros(2, 3, 64, 64), "layer": "relu5", "channel": 0, "position": (0, 0)}
    with pytest.raises(ValueError, match=message):
        Deconvnet(features).project(**{**good, **arguments})


@pytest.mark.parametrize(("layer", "message"), [(nn.Sigmoid(), "1 is a Sigmoid; supported are Conv2d"), (nn.Conv2d(4, 4, 3, padding="same"), "padding='same'")])
def test_unsupported_modules_are_named(layer, message):
    with pytest.raises(TypeError, match=message):
        Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 3), layer))


def brute_top(features, dataset, layer, k):
    """Sort all of an image set's maxima, straight from the definition."""
    maps = Deconvnet(features).activations(torch.stack([image for image, _ in dataset]), layer)
    table = []
    for channel in range(maps.shape[1]):
        entries = []
        for image, m in enumerate(maps[:, channel]):
            best = m.max().item()
            position = next(p for p, value in enumerate(m.flatten().tolist()) if value == best)
            entries.append((-best, image, position))
        table.append([(-v, i, *divmod(p, maps.shape[3])) for v, i, p in sorted(entries)[:k]])
    return table


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_scan_equals_brute_force_with_ties(batch_size):
    """Whole-number weights and pixels, so that many maxima tie exactly."""
    torch.manual_seed(3)
    features = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(6, 5, 3), nn.ReLU()).double()
    for p in features.parameters():
        p.data = torch.randint(-1, 2, p.shape).double()
    dataset = torch.utils.data.TensorDataset(torch.randint(0, 2, (20, 3, 17, 19)).double(), torch.zeros(20))
    found = scan(features, dataset, ["1", "4"], k=6, batch_size=batch_size)
    for layer, top in found.items():
        expected = brute_top(features, dataset, layer, 6)
        assert len({row[0] for channel in expected for row in channel}) < 30, "no ties: the test tests nothing"
        got = torch.stack([top.value, *(t.double() for t in (top.image, top.row, top.col))], -1)
        assert got.tolist() == [[list(map(float, entry)) for entry in channel] for channel in expected]


def test_scan_does_not_depend_on_the_order_and_values_recompute():
    net = build("overlapping pools, ceil_mode")
    images, order = torch.randn(15, 3, 37, 33, dtype=torch.float64), torch.randperm(15)
    straight, shuffled = (scan(net, torch.utils.data.TensorDataset(x, torch.zeros(15)), "7", 4)["7"] for x in (images, images[order]))
    fires = straight.value > 0
    torch.testing.assert_close(straight.value, shuffled.value, rtol=1e-12, atol=0)
    assert torch.equal(straight.image[fires], order[shuffled.image][fires]) and fires.any()
    maps = Deconvnet(net).activations(images, "7")
    again = maps[straight.image, torch.arange(4)[:, None], straight.row, straight.col]
    torch.testing.assert_close(again, straight.value, rtol=1e-12, atol=0)


def test_scan_stops_at_the_deepest_layer_and_checks_k():
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.MaxPool2d(50))  # the pool would fail on these images
    dataset = torch.utils.data.TensorDataset(torch.randn(4, 3, 8, 8), torch.zeros(4))
    assert scan(net, dataset, "1", k=4)["1"].value.shape == (2, 4)
    with pytest.raises(ValueError, match="k = 5: choose 1 to 4, the number of images"):
        scan(net, dataset, "1", k=5)
    with pytest.raises(ValueError, match="no layer 'relu1': choose one of 0, 1, 2"):
        scan(net, dataset, "relu1", k=1)


def test_top_units_are_the_largest_of_all():
    net = build("overlapping pools, ceil_mode")
    image = torch.randn(3, 75, 75, dtype=torch.float64)
    maps = Deconvnet(net).activations(image[None], "7")[0]
    found = top_units(Deconvnet(net), image, "7", 5)
    assert found.value.tolist() == sorted(maps.flatten().tolist(), reverse=True)[:5]
    assert torch.equal(maps[found.channel, found.row, found.col], found.value)


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(5)
    return ZFNet(7, input_size=64, maps=(6, 8, 8, 8, 8), fc=(10, 10), conv1_scale=2.0).double().train()


@pytest.mark.parametrize(("size", "stride", "batch_size"), [(20, 13, 4), (16, 16, 100), (7, 30, 1)])
def test_occlusion_equals_a_slow_loop(small, size, stride, batch_size):
    image, fill = torch.randn(3, 64, 64).double(), torch.randn(3, 1, 1).double()
    found = occlude(small, image, 3, size, stride, fill, batch_size=batch_size)
    assert small.training and all(m.training for m in small.modules())
    model = copy.deepcopy(small).eval()
    clean = model.features[:-1](image[None])[0]
    channel = int(clean.sum((1, 2)).argmax())
    assert found.channel == channel and found.clean_activity == pytest.approx(clean[channel].sum().item())
    starts = list(range(0, 64 - size + 1, stride))
    starts += [64 - size] if starts[-1] != 64 - size else []
    assert found.tops.tolist() == found.lefts.tolist() == starts
    for i, top in enumerate(starts):
        for j, left in enumerate(starts):
            covered = image.clone()
            covered[:, top : top + size, left : left + size] = fill
            logits = model(covered[None])[0].detach()
            torch.testing.assert_close(found.logits[i, j], logits, rtol=1e-9, atol=1e-11)
            assert found.probability[i, j].item() == pytest.approx(logits.softmax(0)[3].item())
            assert found.label[i, j] == logits.argmax()
            assert found.activity[i, j].item() == pytest.approx(model.features[:-1](covered[None])[0, channel].sum().item())


def test_occlusion_equals_captum(small):
    """With stride equal to size each pixel is covered once, so captum's map is the fall of the logit at its square's position."""
    image = torch.randn(3, 64, 64).double()
    found = occlude(small, image, 2, 16, 16)
    model = copy.deepcopy(small).eval()
    fall = captum.attr.Occlusion(model).attribute(image[None], (3, 16, 16), (3, 16, 16), target=2)[0, 0, ::16, ::16]
    torch.testing.assert_close(model(image[None])[0, 2].detach() - found.logits[..., 2], fall.detach().double(), rtol=1e-5, atol=1e-7)  # captum returns float32


@pytest.mark.parametrize(("arguments", "message"), [
    ({"size": 65}, "size = 65: the square must fit into the image of 64 x 64"),
    ({"stride": 0}, "stride = 0"),
    ({"target": 7}, "target = 7: choose a class from 0 to 6"),
    ({"layer": "relu6"}, "no layer 'relu6'"),
    ({"channel": 8}, "channel 8 is not in relu5"),
    ({"image": torch.zeros(64, 64)}, r"image: expected \(3, rows, columns\)"),
])  # fmt: skip
def test_occlusion_names_what_is_wrong_and_gives_the_modes_back(small, arguments, message):
    good = {"image": torch.zeros(3, 64, 64), "target": 0, "size": 16, "stride": 16}
    with pytest.raises(ValueError, match=message):
        occlude(small, **{**good, **arguments})
    assert all(m.training for m in small.modules())


def test_layers_of_vgg_are_the_last_relus_of_the_blocks():
    import torchvision

    with torch.device("meta"):
        assert list(paper_layers(torchvision.models.vgg19().features).values()) == ["3", "8", "17", "26", "35"]
        assert list(paper_layers(torchvision.models.vgg16().features).values()) == ["3", "8", "15", "22", "29"]
        assert list(paper_layers(torchvision.models.alexnet().features).values()) == ["1", "4", "7", "9", "11"]
