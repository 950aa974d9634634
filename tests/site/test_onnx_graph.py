"""A net as one ONNX graph, up and down, run by onnxruntime: against PyTorch and against an
independent deconvnet by autograd.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers import oracle
from tests.helpers.pooled_nets import NETS, build, last_layer
from zfnet import Deconvnet, ZFNet, paper_layers
from zfnet.models.named import SHIPPED, load_net
from zfnet.site import build as build_page
from zfnet.site.onnx_graph import to_onnx
from zfnet.store.errors import Unsupported

page = __import__("zfnet.site.build", fromlist=["build"])
SIZE = 41


class Everything(nn.Module):
    """A residual sum, a concatenation, groups, dilation, "same" padding with an even kernel, batch
    norms, a ReLU6, LRN, padded pools in ceil mode, means over what lies inside, a mean as head.
    """

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 4, padding="same", dilation=2)
        self.norm, self.clip = nn.BatchNorm2d(8), nn.ReLU6()
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.left, self.right = nn.Conv2d(8, 8, 3, 1, 1, groups=2), nn.Conv2d(8, 6, (1, 5))
        self.pad, self.relu = nn.Conv2d(6, 6, (1, 1), padding=(0, 2)), nn.ReLU()
        self.lrn = nn.LocalResponseNorm(5, alpha=0.5)
        self.means = nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)
        self.last, self.bare = nn.Conv2d(14, 9, 3, 2), nn.BatchNorm2d(9)
        self.end, self.head = nn.ReLU(inplace=True), nn.Linear(9, 4)

    def forward(self, x):
        x = self.pool(self.clip(self.norm(self.first(x))))
        x = x + self.relu(self.left(x))
        x = torch.cat([x, F.relu(self.pad(self.right(x)))], 1)
        x = self.end(self.bare(self.last(self.means(self.lrn(x)))))
        return self.head(x.mean((2, 3)))


class Several(nn.Module):
    """Means over windows of several sizes, and a net that flattens."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AvgPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d((3, 4))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(72, 5))

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def nets(seed: int = 0) -> dict[str, tuple[nn.Module, dict[int, str]]]:
    torch.manual_seed(seed)
    small = ZFNet(7, input_size=67, maps=(6, 8, 5, 7, 6), fc=(9,))
    whole, several = oracle.lively(Everything(), seed), Several().double().eval()
    whole.bare.weight = whole.bare.bias = None
    own = {
        "ZFNet": (
            small.double().eval(),
            {n: f"features.{name}" for n, name in paper_layers(small).items()},
        ),
        "everything": (whole, {1: "clip", 2: "pool", 3: "relu", 4: "end"}),
        "several": (several, {1: "features.1"}),
    }
    return own | {name: (net := build(name), {1: last_layer(net)}) for name in NETS}


def units(maps: np.ndarray) -> list[list[int]]:
    """The strongest unit of maps (1, C, h, w), and one in the middle of those that fire."""
    order = maps.argsort(axis=None)
    order = order[maps.flat[order] > 0]
    middle = [np.unravel_index(n, maps.shape[1:]) for n in (order[-1], order[len(order) // 2])]
    return [[int(n) for n in unit] for unit in middle]


@pytest.mark.parametrize("name", ["ZFNet", "everything", "several", *NETS])
def test_up_and_down_are_pytorchs(name):
    """In float32 the graph's numbers are those of PyTorch to 1e-5, and those of autograd."""
    model, stages = nets()[name]
    size = 67 if name == "ZFNet" else SIZE
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(3)).double()
    session, zeros = page.session_of(to_onnx(model, stages, size).SerializeToString())
    feeds = {**zeros, "image": image.float().numpy()}
    names = ["outputs", "pixels", *(f"maps_{n}" for n in stages)]
    outputs, pixels, *maps = session.run(names, feeds)
    with torch.no_grad():
        want = model(image)
    assert near(outputs, want) and not pixels.any()  # nobody asked for a way down
    deconvnet = Deconvnet(model)
    for (number, layer), found in zip(stages.items(), maps, strict=True):
        assert near(found, deconvnet.activations(image, layer))
        for channel, *unit in units(found):
            seed = np.zeros_like(found)
            seed[0, channel, *unit] = found[0, channel, *unit]
            down = {**feeds, f"seed_{number}": seed, "down": np.array(True)}
            (projection,) = session.run(["pixels"], down)
            own = Deconvnet(model.float()).project(image.float(), layer, channel, tuple(unit))
            other = oracle.project(model.double(), image, layer, (channel, *unit), "deconvnet")
            assert np.abs(projection).max() > 0
            assert near(projection, own) and near(projection, other)


def near(found: np.ndarray, want: torch.Tensor) -> bool:
    return np.abs(found - want.numpy()).max() <= 1e-5 * max(float(want.abs().max()), 1e-12)


def test_weights_in_half_precision_are_those_of_a_rounded_net():
    """Stored once and as float16; what comes out is what PyTorch makes of rounded weights."""
    model, stages = nets()["everything"]
    exported = to_onnx(model, stages, SIZE, half=True)
    halves = [one for one in exported.graph.initializer if one.data_type == 10]
    assert len(halves) == 6 and sum(len(one.raw_data) for one in halves) == 2 * sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    )
    image = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    session, zeros = page.session_of(exported.SerializeToString())
    (found,) = session.run(["outputs"], {**zeros, "image": image.numpy()})
    with torch.no_grad():
        exact = model(image.double())
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.copy_(module.weight.half())
        assert near(found, model(image.double())) and not near(found, exact)
        model.first.weight[0] = 1e5
    with pytest.raises(Unsupported, match="first: weights beyond the range of half precision"):
        to_onnx(model, stages, SIZE, half=True)


class Refused(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.conv, self.relu, self.kind = nn.Conv2d(3, 4, 3), nn.ReLU(), kind
        self.odd = nn.GELU() if kind == "odd" else nn.LocalResponseNorm(4)

    def forward(self, x):
        x = self.relu(self.conv(x))
        if self.kind == "getitem":
            return x[:, :2]
        return x * x.mean((2, 3), keepdim=True) if self.kind == "mul" else self.odd(x)


@pytest.mark.parametrize(
    "kind, named", [("odd", "odd"), ("norm", "odd"), ("mul", "mul"), ("getitem", "getitem")]
)
def test_what_has_no_counterpart_is_refused_by_name(kind, named):
    with pytest.raises(Unsupported, match=f"^{named} .*no counterpart"):
        to_onnx(Refused(kind), {1: "relu"}, 16)


def test_a_net_that_is_another_as_onnx_is_refused(monkeypatch):
    """What is compared before a page is written is the graph itself, every stage of it."""
    net = load_net(SHIPPED, device="cpu")
    image = torch.randn(3, net.size, net.size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = net.model(image[None])[0]
    page._compare(net, {2: "relu2"}, image, want)

    def wrong(model, stages, size):
        exported = to_onnx(model, stages, size)
        for one in exported.graph.initializer:
            if one.name == "up_1.bias":
                one.raw_data = (np.frombuffer(one.raw_data, np.float32) + 0.1).tobytes()
        return exported

    monkeypatch.setattr(page, "to_onnx", wrong)
    with pytest.raises(Unsupported, match=r"outputs differs from PyTorch's by .* as ONNX"):
        page._compare(net, {2: "relu2"}, image, want)


def test_a_net_that_is_too_large_or_does_not_classify_is_refused():
    net = load_net(SHIPPED, device="cpu")
    fields = {"title": "big", "size": 64, "mean": net.mean, "std": net.std}
    big = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 62 * 62, 10))
    maps = type(net)(model=big[:2], **fields)
    with pytest.raises(Unsupported, match="big gives maps"):
        page.describe(maps, [])
    big[3] = nn.Linear(4 * 62 * 62, 4000, device="meta")
    with pytest.raises(ValueError, match="123 MB of weights"):
        page.describe(type(net)(model=big, **fields), [])
    with pytest.raises(ValueError, match="at least one net"):
        build_page([])
