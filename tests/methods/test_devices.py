"""Every public function on a device that refuses to meet the CPU's tensors, against the same on the
CPU. What mixes the two fails here, and not on somebody's GPU.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.far import Far, far
from zfnet import Deconvnet, occlude, receptive_field, scan
from zfnet.graph.walk import outputs
from zfnet.methods.occlusion import LiveOcclusion
from zfnet.methods.top_activations import strongest_channel, strongest_units, top_units
from zfnet.training import run


class Net(nn.Module):
    """Residual sum, concatenation, gate, overlapping pools and a head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 5, 2, 2)
        self.norm, self.relu = nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.left, self.right = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.mean, self.gate = nn.AvgPool2d(3, 1, 1), nn.Conv2d(10, 10, 1)
        self.last = nn.Conv2d(10, 5, 3, padding=1)
        self.head = nn.Linear(5, 4)

    def maps(self, x):
        x = self.pool(self.relu(self.norm(self.first(x))))
        x = torch.cat([F.relu(self.left(x) + x), F.relu(self.right(self.mean(x)))], 1)
        return F.relu(self.last(x))

    def forward(self, x):
        return self.head(self.maps(x).mean((2, 3)))


class Gated(Net):
    def maps(self, x):
        x = self.pool(self.relu(self.norm(self.first(x))))
        x = torch.cat([self.left(x), self.right(x)], 1)
        return F.relu(self.last(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()))


def near(value):
    """The values of whatever a function returns, on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.near if isinstance(value, Far) else value
    if isinstance(value, dict):
        return {name: near(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [near(one) for one in value]
    return near(vars(value)) if hasattr(value, "__dataclass_fields__") else value


def agree(found, expected):
    if isinstance(expected, torch.Tensor):
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    elif isinstance(expected, dict | list):
        pairs = expected.items() if isinstance(expected, dict) else enumerate(expected)
        assert len(found) == len(expected)
        for name, one in pairs:
            agree(found[name], one)
    else:
        assert (
            found == pytest.approx(expected) if isinstance(expected, float) else found == expected
        )


UNIT = {"channel": torch.tensor([0, 3, 2]), "position": torch.tensor([[0, 0], [3, 5], [7, 7]])}
SQUARE = {"size": 7, "stride": 6}


def live(net, x):
    watch = LiveOcclusion(net, x[0])
    return [watch.at(5, 9, 6), watch.at(5, 9, 6, incremental=True), watch.clean_map]


def step(net, x):
    net = copy.deepcopy(net)
    optimiser = torch.optim.SGD(net.parameters(), 0.1, 0.9)
    labels = torch.arange(3).to(x.device)
    loss = run.train_step(net.train(), optimiser, x, labels, 0.1)
    return [loss, [parameter.detach() for parameter in net.parameters()]]


CALLS = {
    "activations": lambda net, x: Deconvnet(net).activations(x, "last"),
    "outputs": lambda net, x: outputs(net, x, ["first", "last"]),
    "a whole map": lambda net, x: Deconvnet(net).project(x, "last", UNIT["channel"]),
    "windows": lambda net, x: Deconvnet(net).project(x, "last", **UNIT, windows=True),
    "guided": lambda net, x: Deconvnet(net).project(x, "last", **UNIT, rule="guided"),
    "no windows": lambda net, x: Deconvnet(net).project(x, "last", **UNIT, windows=False),
    "overwrite": lambda net, x: Deconvnet(net).project(x, "last", **UNIT, overlap="overwrite"),
    "patches": lambda net, x: Deconvnet(net).project_patches(x, "last", **UNIT),
    "patches, whole": lambda net, x: Deconvnet(net).project_patches(
        x, "last", **UNIT, windows=False
    ),
    "scan": lambda net, x: scan(net, [(one, 0) for one in x], ["relu", "last"], k=2, batch_size=2),
    "top units": lambda net, x: top_units(Deconvnet(net), x[0], "last", 3),
    "strongest units": lambda net, x: strongest_units(net, x, "last"),
    "strongest channel": lambda net, x: strongest_channel(Deconvnet(net), x, "last"),
    "receptive field": lambda net, x: receptive_field(net, "last", 32),
    "occlude": lambda net, x: occlude(net, x[0], 1, **SQUARE, incremental=False),
    "occlude, in parts": lambda net, x: occlude(net, x[0], 1, **SQUARE, incremental=True),
    "live": live,
    "a training step": step,
}


def made(kind: type) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return kind().double().eval(), torch.randn(3, 3, 32, 32, dtype=torch.float64)


@pytest.mark.parametrize("call", CALLS)
def test_nothing_mixes_devices(call):
    net, x = made(Net)
    expected = near(CALLS[call](net, x))
    with far() as device:
        found = CALLS[call](copy.deepcopy(net).to(device), x.to(device))
    agree(near(found), expected)


def test_images_on_the_cpu_are_brought_to_the_net():
    net, x = made(Net)
    expected = Deconvnet(net).project(x, "last", **UNIT)
    with far() as device:
        found = Deconvnet(net.to(device)).project(x, "last", **UNIT)
    agree(near(found), expected)


def test_gates_mix_nothing():
    net, x = made(Gated)
    expected = Deconvnet(net).project(x, "last", **UNIT)
    with far() as device:
        found = Deconvnet(net.to(device)).project(x.to(device), "last", **UNIT)
    agree(near(found), expected)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(2),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x.index_select(0, torch.tensor([1])),
        lambda x: torch.cat([x, torch.ones(2)]),
        lambda x: x.masked_fill(torch.tensor([True, False]), 0.0),
    ],
)
def test_the_pretended_device_refuses_a_mix(mix):
    with far() as device:
        x = torch.arange(2.0).to(device)
        assert near((x + 1) * torch.tensor(2.0)).tolist() == [2.0, 4.0]  # numbers may meet anything
        with pytest.raises(RuntimeError, match="two devices meet"):
            mix(x)


def test_a_mix_in_a_net_is_found():
    class Mixed(Net):
        def forward(self, x):
            return super().forward(x) + torch.ones(4, dtype=torch.float64)

    net, x = made(Mixed)
    with far() as device, pytest.raises(RuntimeError, match="two devices meet"):
        occlude(net.to(device), x[0].to(device), 1, **SQUARE)
