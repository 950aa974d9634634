"""Weights files as people have them, and the forms in which published weights are to be had."""

from __future__ import annotations

import argparse
import dataclasses
import pickle
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from torch import nn

from zfnet.models.build import UNLIKELY, load_model, make_net
from zfnet.models.checkpoints import put_weights, read_weights, state_of
from zfnet.store.errors import UserError
from zfnet.store.profiles import ModelConfig, Profile


class Small(nn.Module):
    """Stands for a net of anybody's; `classes` outputs."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
        self.classifier = nn.Linear(2, classes)


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Small()


def loaded(path):
    """What a net that was other before holds after reading the file, and the warnings."""
    net = small(1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        put_weights(net, read_weights(path), path.name)
    return net.state_dict(), [str(each.message) for each in said]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def with_prefix(prefix):
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


def inside(state):
    """As the net whose features alone were wrapped saves it."""
    return {key.replace("features.", "features.module."): each for key, each in state.items()}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".pth.tar"])
@pytest.mark.parametrize(
    ("wrap", "left_out"),
    [
        (lambda s: s, None),
        (lambda s: {"net": s, "acc": 91.2, "epoch": 199}, "acc, epoch"),
        (lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, "optimi"),
        (lambda s: {"model_state_dict": s, "loss": np.float64(0.3)}, "loss"),
        (lambda s: {"state_dict": with_prefix("model.")(s), "a": np.arange(3)}, "a"),
        (lambda s: {"epoch": 1, "weights_of_mine": s}, "epoch"),
        (with_prefix("module."), None),
        (with_prefix("_orig_mod."), None),
        (with_prefix("module._orig_mod.net."), None),
        (inside, None),
        (lambda s: {**s, "best": torch.tensor(0.5), "arch": "small"}, "arch"),
        (lambda s: {**with_prefix("model.")(s), "criterion.weight": torch.ones(4)}, "criterion"),
        (lambda s: {k: v for k, v in s.items() if "num_batches" not in k}, None),
        (lambda s: {k: v.numpy() for k, v in s.items()}, None),
    ],
)
def test_a_checkpoint_of_any_form_gives_the_nets_weights(tmp_path, wrap, left_out, suffix):
    state = small().state_dict()
    if suffix != ".pth" and wrap is not inside:  # the suffix matters not to the form
        wrap, left_out = (lambda s: {"net": s, "acc": 91.2, "epoch": 199}), "acc, epoch"
    torch.save(wrap(state), path := tmp_path / f"mine{suffix}")
    found, said = loaded(path)
    assert same(found, state)
    assert bool(said) == bool(left_out) and (not said or f"left out {left_out}" in said[0])


def test_what_lies_inside_of_a_wrapper_fits_the_wrapper_too(tmp_path):
    inner, outer = small(), nn.Module()
    outer.net = small(1)
    put_weights(outer, inner.state_dict(), "file")
    assert same(outer.net.state_dict(), inner.state_dict())


class Ran(nn.Module):
    """A model that tells when it is unpickled."""

    def __setstate__(self, state):
        pytest.fail("code in a weights file was run")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (small, r"cannot be read as weights \(it holds a .*Small, for which code would run\)"),
        (lambda: {"model": Ran()}, r"it holds a .*Ran, for which code would run\): torch.save\("),
        (
            lambda: {"net": small().state_dict(), "args": argparse.Namespace(lr=0.1)},
            r"it holds a argparse.Namespace, for which code would run\): torch.save\(model.state",
        ),
        (
            lambda: {"generator": small().state_dict(), "critic": small(1).state_dict()},
            "holds several state dicts: generator, critic: save the one of the net alone",
        ),
        (lambda: {"epoch": 3}, "holds no state dict of tensors: torch.save"),
        (lambda: [small().state_dict()], "holds no state dict of tensors"),
        (
            lambda: {**small().state_dict(), "features.3.weight": torch.ones(2, 2)},
            "does not fit this net: unexpected features.3.weight",
        ),
        (
            lambda: {**small().state_dict(), **with_prefix("module.")(small(1).state_dict())},
            "holds features.0.weight twice, as features.0.weight and as module.features.0.weight",
        ),
        (lambda: {"state_dict": {"x": torch.ones(2).to_sparse()}}, "x is not a plain tensor"),
    ],
)
def test_what_is_no_state_dict_is_refused_with_the_cure(tmp_path, content, message):
    torch.save(content(), path := tmp_path / "mine.pth")
    with pytest.raises(UserError, match=message):
        loaded(path)


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet", "zfnet"])
def test_a_net_of_other_classes_is_built_for_them(tmp_path, name):
    """For every named net, its last layer replaced by one of seven classes, in DataParallel."""
    config = ModelConfig(name, maps=(4,) * 5, fc=(6,))
    net = make_net(config, 7, 224, 0)
    state = nn.DataParallel(net).state_dict()
    if name == "googlenet":
        state["module.aux1.conv.weight"] = torch.ones(3)
    torch.save({"state_dict": state, "epoch": 3}, path := tmp_path / "mine.pth")
    profile = Profile("p", "P", model=dataclasses.replace(config, weights=str(path)))
    profile = dataclasses.replace(profile, data=dataclasses.replace(profile.data, size=224))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = load_model(profile)
    assert same(found.state_dict(), net.state_dict())
    texts = " ".join(str(each.message) for each in said)
    assert ("left out module.aux1.conv.weight" in texts) == (name == "googlenet")


# --- Fuzz -----------------------------------------------------------------------------------------

SCALARS = st.none() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=3)
STATE = small().state_dict()
EXTRAS = st.dictionaries(
    st.sampled_from(["epoch", "acc", "optimizer", "args", "scaler", "a.b", "lr"]),
    SCALARS
    | st.just(np.float32(1.5))
    | st.just({"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]})
    | st.just(torch.tensor(2)),
    max_size=3,
)
PREFIXES = st.lists(st.sampled_from(["module.", "_orig_mod.", "model.", "net."]), max_size=3)
WRAPS = st.lists(
    st.sampled_from(["net", "model", "state_dict", "model_state_dict", "mine"]), max_size=2
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(EXTRAS, PREFIXES, WRAPS, st.sets(st.sampled_from(sorted(STATE)), max_size=1))
def test_no_form_of_a_checkpoint_is_lost_in_silence(tmp_path, extras, prefixes, wraps, dropped):
    """Either the net holds the very weights, and what else there was is said; or it is refused for
    what is missing. Never a traceback.
    """
    content = {"".join(prefixes) + key: value for key, value in STATE.items() if key not in dropped}
    for name in wraps:
        content = {name: content}
    content = {**content, **extras}
    torch.save(content, path := tmp_path / "fuzz.pth")
    needed = {key for key in dropped if "num_batches" not in key}
    if needed:
        with pytest.raises(UserError, match=f"missing {needed.pop()}"):
            loaded(path)
        return
    found, said = loaded(path)
    counts = [key for key in STATE if "num_batches" in key]
    assert all(torch.equal(found[key], STATE[key]) for key in STATE if key not in counts)
    assert all(key in " ".join(said) for key in extras)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        SCALARS | st.just(torch.ones(2)) | st.just(torch.tensor(1)) | st.just(np.ones(2)),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.text(max_size=5) | st.integers(0, 2), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_whatever_a_file_holds_is_weights_or_refused(content):
    try:
        state, left_out = state_of(content, "file")
    except UserError:
        return
    assert all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items())
    if isinstance(content, dict) and state:
        assert len(state) + len(left_out) >= len(content)


def test_a_pickle_that_is_no_torch_file_is_refused(tmp_path):
    (tmp_path / "mine.pth").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "text.pth").write_text("hello")
    for name in ("mine.pth", "text.pth"):
        with pytest.raises(UserError, match=r"cannot be read as weights|holds no state dict"):
            read_weights(tmp_path / name)


def test_torchvisions_networks_have_their_classes_in_the_last_layer():
    """What the number of classes is read from: no other layer has so unlikely a number of maps."""
    for name in ("alexnet", "vgg16", "resnet18", "densenet121", "squeezenet1_0"):
        with torch.device("meta"):
            own = torchvision.models.get_model(name, num_classes=UNLIKELY).state_dict()
        heads = [key for key, each in own.items() if UNLIKELY in each.shape[:1]]
        assert 1 <= len(heads) <= 2 and len({key.rpartition(".")[0] for key in heads}) == 1
