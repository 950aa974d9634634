"""The experiments on nets with residual sums and branches, functional ReLUs and no `features`."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from tests.helpers.random_data import tiny
from zfnet import ZFNet
from zfnet.experiments.evolution.compute import Snapshot, _with, projection_similarity
from zfnet.experiments.feature_maps.compute import extremes, stages
from zfnet.experiments.filters.compute import first_convolution
from zfnet.experiments.invariance.compute import measure
from zfnet.experiments.sanity_checks.compute import (
    before_rectifying,
    beside_captum,
    cascade,
    copied,
    pictures,
    randomised,
    sanity,
)
from zfnet.graph.trace import paper_layers, trace
from zfnet.methods.depth import classifies, depths, last_hidden, layer_outputs


class Branched(nn.Module):
    """Two convolutions, a residual block, two concatenated branches; no part is called features."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 4, 3, 2)
        self.inner = nn.Conv2d(4, 4, 3, 1, 1)
        self.norm = nn.BatchNorm2d(4)
        self.left = nn.Conv2d(4, 3, 1)
        self.right = nn.Conv2d(4, 5, 3, 1, 1)
        self.head = nn.Linear(8, 3)
        self.norm.running_mean.uniform_(-0.5, 0.5)
        self.norm.running_var.uniform_(0.5, 2)

    def summed(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2)
        return self.norm(self.inner(x)) + x

    def both(self, x):
        x = F.relu(self.summed(x))
        return torch.cat([self.left(x), self.right(x)], 1)

    def forward(self, x):
        x = F.relu(self.summed(x))
        x = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def net():
    return Branched().double().eval()


@pytest.fixture
def image():
    return torch.randn(
        1, 3, 25, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )


@pytest.mark.parametrize(("layer", "part"), [("relu:2", "summed"), ("cat", "both")])
def test_a_silent_unit_behind_branches_gets_the_gradient_of_what_it_is_before(
    net, image, layer, part
):
    x = image.clone().requires_grad_()
    before = getattr(net, part)(x)
    assert (before.amin((0, 2, 3)) < 0).sum() >= 2
    for channel in range(before.shape[1]):
        row, col = divmod(int(before[0, channel].argmin()), before.shape[3])
        (expected,) = torch.autograd.grad(before[0, channel, row, col], x, retain_graph=True)
        unit = torch.tensor([channel]), torch.tensor([[row, col]])
        found = pictures(net, image, layer, *unit, "gradient")
        ratio = float((found * expected).sum() / expected.square().sum())
        assert ratio > 0
        torch.testing.assert_close(found, ratio * expected, rtol=1e-9, atol=1e-12)


def test_which_biases_raise_a_layer(net):
    graph = trace(net)
    assert before_rectifying(graph, "cat") == (["left", "right"], ["left", "right"])
    assert before_rectifying(graph, "relu:2") == (["add"], ["norm"])
    for layer in ("add", "max_pool2d"):
        with pytest.raises(ValueError, match=f"layer = '{layer}': choose a ReLU right behind"):
            before_rectifying(graph, layer)


def test_copies_share_what_stays_and_leave_the_net_alone(net):
    kept, fresh = copy.deepcopy(net.state_dict()), Branched(1).double()
    mixed = randomised(net, fresh, ["right", "norm"])
    own, other = mixed.state_dict(), fresh.state_dict()
    assert not torch.equal(kept["right.weight"], other["right.weight"])
    for name, tensor in own.items():
        changed = name.startswith(("right", "norm"))
        assert torch.equal(tensor, (other if changed else kept)[name]), name
        assert (tensor.data_ptr() == net.state_dict()[name].data_ptr()) != changed
    assert all(torch.equal(kept[name], tensor) for name, tensor in net.state_dict().items())
    assert copied(net, []).stem.weight is net.stem.weight


def test_layers_and_what_lies_behind_them():
    with torch.device("meta"):
        resnet = torchvision.models.resnet18()
        squeezenet = torchvision.models.squeezenet1_1()
    assert stages(resnet, 1) == ["conv1", "bn1", "relu", "maxpool"]
    assert stages(resnet, 2) == ["layer1.1.add", "layer1.1.relu:2"]
    assert depths(resnet)[1] == "maxpool" and depths(resnet)[5] == paper_layers(resnet)[5]
    assert stages(squeezenet, 2) == ["4.cat", "5"] and depths(squeezenet)[2] == "5"
    assert last_hidden(resnet) == last_hidden(squeezenet) == "pooled"
    assert list(cascade(resnet, paper_layers(resnet)[5])) == ["5", "5-4", "5-3", "5-2", "5-1"]
    assert cascade(squeezenet, paper_layers(squeezenet)[2])["2"] == [
        f"{fire}.{part}" for fire in (4, 3) for part in ("expand3x3", "expand1x1", "squeeze")
    ]
    assert first_convolution(resnet) is resnet.conv1


def test_features_of_a_net_with_branches(net, image):
    layers = paper_layers(net)
    found = layer_outputs(net, image, ["cat", 1, "pooled", "logits"])
    x = F.relu(net.summed(image))
    maps = F.relu(torch.cat([net.left(x), net.right(x)], 1))
    torch.testing.assert_close(found["cat"], maps)
    torch.testing.assert_close(found[1], F.max_pool2d(F.relu(net.stem(image)), 3, 2))
    torch.testing.assert_close(found["logits"], net(image))
    last = layer_outputs(net, image, [layers[max(layers)]])[layers[max(layers)]]
    torch.testing.assert_close(found["pooled"], last.mean((2, 3)))
    assert classifies(net) and not classifies(nn.Sequential(net.stem, nn.ReLU()))


def test_the_experiments_run_on_it(net):
    images, net = tiny(count=4, stored=27, size=25), net.float()
    layers = list(paper_layers(net).values())
    few = torch.arange(4)
    found = sanity(net, [Branched(3).eval()], images, few, layers[1])
    assert (found.values["ssim"][0] == 1).all() and (found.values["ssim"][1] < 1).all()
    assert measure(net, images, few % 3, "scale", torch.tensor([1.0, 1.5])).probability.shape == (
        4,
        2,
    )
    ends = extremes(net, images, [layers[0]])[layers[0]]
    maps = F.relu(net.stem(images.batch(few)))
    torch.testing.assert_close(ends, torch.stack([maps.amin((0, 2, 3)), maps.amax((0, 2, 3))], 1))


def test_snapshots_of_a_whole_net_or_of_its_features():
    whole = _with(Branched(0), Branched(1).state_dict())
    assert all(torch.equal(t, Branched(1).state_dict()[n]) for n, t in whole.state_dict().items())
    plain = ZFNet(2, input_size=64, maps=(2,) * 5, fc=())
    tensors = {name: tensor + 1 for name, tensor in plain.features.state_dict().items()}
    part = _with(plain, tensors)
    assert all(torch.equal(t, tensors[name]) for name, t in part.features.state_dict().items())
    assert part.classifier.fc8.weight is plain.classifier.fc8.weight
    assert not torch.equal(part.features.conv1.weight, plain.features.conv1.weight)
    units = "relu:2", torch.tensor([0, 1]), torch.tensor([[2, 2], [3, 1]])
    inputs = torch.randn(2, 3, 25, 25)
    nets = [Snapshot(0, 0.0, Branched(1).eval()).net, whole.eval()]
    assert projection_similarity(nets, units[0], inputs, *units[1:])[0].tolist() == pytest.approx(
        [1, 1]
    )


def test_the_deconvnet_of_an_output_is_autograd_with_one_changed_rule(net, image):
    """captum looks for nn.ReLU modules: of this net it gives the plain gradient, of one made of
    modules what we give.
    """
    found = beside_captum(net, image, 1)
    assert found["here"] < 1e-12 and found["captum against the plain gradient"] < 1e-12
    assert found["captum"] > 0.01
    plain = nn.Sequential(net.stem, nn.ReLU(), net.left, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    found = beside_captum(plain.double(), image, 1)
    assert found["here"] < 1e-12 and found["captum"] < 1e-12
    assert found["captum against the plain gradient"] > 0.01
