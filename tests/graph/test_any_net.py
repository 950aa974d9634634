"""Nets with branches, residual sums and functional ReLUs: exact against an independent oracle,
window by window and as a whole; what has no rule is refused by name.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from tests.helpers import oracle
from zfnet import Deconvnet, ZFNet, occlude, paper_layers, receptive_field, scan
from zfnet.graph.trace import layers, trace

# small enough to be quick, and every kind of operation in one of them
NETS = {
    "resnet18": ["relu", "layer1.1.relu:2", "layer2.0.relu", "layer3.0.relu:2"],
    "squeezenet1_1": ["features.1", "features.4.expand3x3_activation", "features.7.squeeze"],
    "googlenet": ["conv2.conv", "inception3a.branch3.1.conv", "inception4a.branch4.1.conv"],
    "shufflenet_v2_x0_5": ["maxpool", "stage2.0.branch2.7", "stage2.2.branch2.2"],
    "densenet121": ["features.denseblock1.denselayer3.relu2", "features.transition1.pool"],
    "mnasnet0_5": ["layers.2", "layers.8.1.layers.4"],
}
PLAIN = {"googlenet": {"init_weights": False, "aux_logits": False}}


def net(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = PLAIN.get(name, {})
    return oracle.lively(torchvision.models.get_model(name, weights=None, **options))


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", NETS)
def test_projections_are_the_oracles(name, report):
    model, image = net(name), torch.randn(1, 3, 48, 56, dtype=torch.float64)
    deconvnet, worst = Deconvnet(model), 0.0
    for layer in NETS[name]:
        maps = deconvnet.activations(image, layer)[0]
        strongest = tuple(map(int, torch.unravel_index(maps.argmax(), maps.shape)))
        corner = (int(maps[:, -1, 0].argmax()), maps.shape[1] - 1, 0)
        for unit, rules in ((strongest, ("deconvnet", "guided")), (corner, ("gradient",))):
            for rule in rules:
                expected = oracle.project(model, image, layer, unit, rule)
                for windows in (True, False):
                    found = deconvnet.project(
                        image, layer, unit[0], unit[1:], windows=windows, rule=rule
                    )
                    assert found.any() == expected.any()
                    worst = max(worst, relative(found, expected) if expected.any() else 0.0)
    report(f"{name} against autograd with another ReLU: largest relative error {worst:.1e}")
    assert worst < 1e-12


@pytest.mark.parametrize("name", NETS)
def test_the_walk_says_what_the_net_says(name):
    model, image = net(name), torch.randn(2, 3, 48, 48, dtype=torch.float64)
    graph = trace(model)
    with torch.no_grad():
        expected = model(image)
    maps = Deconvnet(model).activations(image, graph.nodes[graph.last].name)
    assert torch.allclose(graph.head(maps), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_receptive_fields_are_the_support_of_the_gradient(name):
    """With positive weights, and means in the place of maxima, every pixel that is seen shows."""
    model = net(name)
    for module in list(model.modules()):
        for key, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                # padding counts, so that no window is wider than its kernel
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(module, key, pool)
        for parameter in module.parameters(recurse=False):
            parameter.data.abs_().add_(0.01)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
    graph, size = trace(model), (72, 60)
    for layer in NETS[name]:
        field = receptive_field(graph, layer, size)
        for unit in ((0, 0), tuple(n // 2 for n in field.map_size)):
            image = torch.ones(1, 3, *size, dtype=torch.float64)
            found = Deconvnet(graph).project(image, layer, 0, unit, windows=False, rule="gradient")
            rows, cols = (found[0].abs().sum(0).sum(axis).nonzero() for axis in (1, 0))
            seen = int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1
            assert seen == field.box(*unit), (layer, unit)


@pytest.mark.parametrize("name", NETS)
def test_occlusion_in_parts_is_the_full_pass(name):
    model, image = net(name).float(), torch.randn(3, 64, 64)
    fast, slow = (occlude(model, image, 1, 12, 20, incremental=each) for each in (True, False))
    scale = slow.logits.abs().max()
    assert torch.allclose(fast.logits, slow.logits, rtol=0, atol=1e-5 * scale)
    assert torch.allclose(fast.activity, slow.activity, rtol=1e-4)
    with torch.no_grad():
        probability = model(image[None]).softmax(1)[0, 1]
    assert slow.clean_probability == pytest.approx(float(probability), rel=1e-5)


def test_one_layer_for_each_size_of_maps():
    assert paper_layers(net("resnet18")) == {
        1: "relu",
        2: "layer1.1.relu:2",
        3: "layer2.1.relu:2",
        4: "layer3.1.relu:2",
        5: "layer4.1.relu:2",
    }
    found = list(paper_layers(net("googlenet")).values())
    assert found == ["conv1.relu", "conv3.relu"] + [f"inception{n}.cat" for n in ("3b", "4e", "5b")]


def test_names_of_a_whole_net_are_those_of_its_features():
    model = ZFNet(4, maps=(4, 4, 4, 4, 4), fc=(8,), input_size=96).eval()
    assert (
        layers(model) == layers(model.features) == [n for n, _ in model.features.named_children()]
    )
    images = torch.randn(2, 3, 96, 96)
    whole, part = (Deconvnet(one).project(images, "relu4", 1) for one in (model, model.features))
    assert torch.equal(whole, part)
    tables = [scan(one, [*images], "features.relu4", k=2) for one in (model, model.features)]
    assert torch.equal(tables[0]["features.relu4"].value, tables[1]["features.relu4"].value)


class Functional(nn.Module):
    """Functional and in-place ReLUs, a module used twice, a residual sum, a gate, a slice."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.rectify, self.gate = nn.ReLU(inplace=True), nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.first((x - 0.4) / 0.2))
        y = self.rectify(self.again(x))
        y = self.again(y)
        y += x
        y = torch.relu_(y)
        z = torch.cat([y[:, :3], F.avg_pool2d(y[:, 3:], 3, 1, 1)], 1)
        gate = self.gate(z.mean((2, 3))).sigmoid()
        z = self.rectify(z * gate[:, :, None, None])
        return self.head(z.mean((2, 3)))


def test_functions_and_modules_used_twice():
    torch.manual_seed(1)
    model, image = Functional().double(), torch.rand(1, 3, 12, 14, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    deconvnet = Deconvnet(model)
    for layer in ("rectify", "again:2"):
        maps = deconvnet.activations(image, layer)[0]
        unit = tuple(map(int, torch.unravel_index(maps.argmax(), maps.shape)))
        expected = oracle.project(model, image, layer, unit, "deconvnet")
        for windows in (True, False):
            found = deconvnet.project(image, layer, unit[0], unit[1:], windows=windows)
            assert relative(found, expected) < 1e-12
    # a gate sees the whole image, and is held fixed
    gated = deconvnet.project(image, "rectify:2", 1, (3, 3), rule="gradient")
    below = deconvnet.project(image, "cat", 1, (3, 3), rule="gradient")
    ratio = gated[gated != 0] / below[gated != 0]
    assert gated.any() and torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-10)
    with pytest.raises(TypeError, match="sees the whole image"):
        receptive_field(model, "rectify:2", 12)
    with pytest.raises(TypeError, match="more than a window"):
        deconvnet.project(image, "rectify:2", 1, (3, 3), windows=True)
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    found = occlude(model, image[0], 2, 4, 4)
    covered = image.clone()
    covered[..., 4:8, 8:12] = 0
    with torch.no_grad():
        assert found.logits[1, 2].tolist() == pytest.approx(model(covered)[0].tolist())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.GELU(), "1 is a GELU: there is no accepted rule"),
        (nn.SiLU(), 'rule="gradient" takes the plain gradient'),
        (nn.Hardswish(), "1 is a Hardswish"),
        (nn.GroupNorm(2, 4), "1 is a GroupNorm"),
        (nn.Upsample(scale_factor=2), "1 is a Upsample"),
    ],
)
def test_what_has_no_rule_is_refused_by_name(layer, message):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Conv2d(4, 2, 3)).double().eval()
    image = torch.randn(1, 3, 12, 12, dtype=torch.float64)
    with pytest.raises(TypeError) as raised:
        Deconvnet(model).project(image, "2", 0, (2, 3))
    assert message in str(raised.value)
    found = Deconvnet(model).project(image, "2", 0, (2, 3), rule="gradient")
    assert relative(found, oracle.project(model, image, "2", (0, 2, 3), "gradient")) < 1e-12


def test_subclasses_hooks_and_python_that_decides_are_refused():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias)

    class Decides(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    image = torch.randn(1, 3, 9, 9)
    with pytest.raises(TypeError, match="0 is a Standardised, whose forward is not that of Conv2d"):
        Deconvnet(nn.Sequential(Standardised(3, 4, 3), nn.ReLU())).project(image, "1", 0, (1, 1))
    hooked = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    hooked[0].register_forward_hook(lambda module, given, output: output * 2)
    with pytest.raises(TypeError, match="0 has a forward hook"):
        Deconvnet(hooked).project(image, "1", 0, (1, 1))
    hooked = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.ReLU())
    hooked[0].register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    with pytest.raises(TypeError, match=r"0 has a forward hook.*remove it first"):
        Deconvnet(hooked)
    with pytest.raises(TypeError, match=r"torch\.fx does not follow its forward"):
        Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 3), Decides()))
    # occlusion runs such a net as it is
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Decides(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = occlude(model, image[0], 1, 3, 3)
    with torch.no_grad():
        assert found.clean_probability == pytest.approx(float(model(image).softmax(1)[0, 1]))


def test_one_output_and_a_softmax_at_the_end():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    image = torch.randn(3, 9, 9)
    single = nn.Sequential(*body, nn.Linear(4, 1))
    with torch.no_grad():
        expected = single(image[None]).sigmoid()
    found = occlude(single, image, 0, 3, 3)
    assert found.clean_probability == pytest.approx(float(expected)) and found.probability.std() > 0
    ended = nn.Sequential(*body, nn.Linear(4, 3), nn.Softmax(1))
    with torch.no_grad():
        expected = ended(image[None])[0, 2]
    assert occlude(ended, image, 2, 3, 3).clean_probability == pytest.approx(float(expected))
    difference = occlude(ended, image, lambda outputs: outputs[:, 0] - outputs[:, 1], 3, 3)
    assert torch.equal(
        difference.probability, difference.logits[..., 0] - difference.logits[..., 1]
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_everywhere(bad):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    image = torch.randn(3, 9, 9)
    image[1, 4, 4] = bad
    for call in (
        lambda: Deconvnet(model).project(image[None], "1", 0, (1, 1)),
        lambda: Deconvnet(model).activations(image[None], "1"),
        lambda: scan(model, [image], "1", k=1),
        lambda: occlude(model, image, 0, 3, 3),
    ):
        with pytest.raises(ValueError, match="not finite"):
            call()
    with pytest.raises(ValueError, match=r"floating point and normalised, got torch\.uint8"):
        Deconvnet(model).project(torch.zeros(1, 3, 9, 9, dtype=torch.uint8), "1", 0, (1, 1))


def test_data_sets_as_people_have_them():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(5, 3, 9, 9)
    expected = scan(model, [(image, 0) for image in images], "1", k=3)["1"]
    state = torch.get_rng_state()
    for dataset in (
        [*images],
        images,
        [(image, 0, "path") for image in images],
        [{"image": image, "label": None} for image in images],
        [(image.numpy(), "cat") for image in images],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), 2),
    ):
        found = scan(model, dataset, "1", k=3)["1"]
        for name, table in vars(expected).items():
            assert torch.equal(getattr(found, name), table)
    assert torch.equal(state, torch.get_rng_state())
    # images of several sizes: the place is right whatever the width of the maps
    several = [torch.zeros(3, 9, 9), torch.zeros(3, 12, 20)]
    several[1][:, 7, 15] = 1
    top = scan(nn.Sequential(nn.ReLU()), several, "0", k=1)["0"]
    assert (top.image[0, 0], top.row[0, 0], top.col[0, 0]) == (1, 7, 15)
    with pytest.raises(ValueError, match="expected images as tensors"):
        scan(model, ["cat.jpg"], "1", k=1)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["parallel", "compiled"])
def test_wrapped_nets_are_unwrapped(wrap):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.Dropout2d(), nn.ReLU())
    image = torch.randn(1, 1, 9, 9)
    plain = Deconvnet(model).project(image, "2", 1, (4, 4))
    assert torch.equal(Deconvnet(wrap(model)).project(image, "2", 1, (4, 4)), plain)
    assert model.training and plain.any()


@pytest.mark.parametrize("kernel", [2, 3, (4, 2)])
def test_same_padding_is_the_same_by_hand(kernel):
    """An even kernel has one row less before the map than behind it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, kernel, padding="same"), nn.ReLU()).double()
    image = torch.randn(1, 2, 7, 8, dtype=torch.float64)
    for unit in ((1, 0, 0), (2, 3, 4), (0, 6, 7)):
        expected = oracle.project(model, image, "0", unit, "gradient")
        for windows in (True, False):
            found = Deconvnet(model).project(image, "0", unit[0], unit[1:], windows=windows)
            assert relative(found, expected) < 1e-12
