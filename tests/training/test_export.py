"""Weights to give away."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from zfnet import Profile, class_names, evaluate, load_data, load_model, train
from zfnet.store.artefacts import load_tensors
from zfnet.store.profiles import DataConfig, ModelConfig, TrainingConfig
from zfnet.training import export as exporting
from zfnet.training.export import export

MODEL = ModelConfig(maps=(4, 4, 4, 4, 4), fc=(8,))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    profile = Profile(
        "p",
        "",
        data=DataConfig(count=60, resize=72, size=64, gain=3.0),
        model=MODEL,
        training=TrainingConfig(epochs=1, batch_size=20, schedule="onecycle"),
    )
    train(profile, progress=False)
    return profile, load_data(profile)


def test_an_exported_net_is_the_net_in_half_precision(trained, tmp_path):
    profile, data = trained
    meta = export(profile, data, tmp_path / "weights" / "small.safetensors")
    tensors, header = load_tensors(tmp_path / "weights" / "small.safetensors")
    full = load_model(profile)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(
        torch.equal(tensors[name], tensor.half()) for name, tensor in full.state_dict().items()
    )
    assert (
        header == meta
        and header["classes"] == list(data.classes)
        and header["model"]["maps"] == [4] * 5
        and header["n_test"] == len(data.test)
    )
    assert (
        header["accuracy"] == evaluate(full, data.test).accuracy
        and abs(header["half_accuracy"] - header["accuracy"]) <= exporting.TOLERANCE
    )
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["small.safetensors"]
    reader = Profile(
        "reader",
        "",
        data=DataConfig(
            source="photos", count=40, resize=72, size=64, gain=3.0, normalise="weights"
        ),
        model=dataclasses.replace(MODEL, weights="weights/small.safetensors"),
    )
    shown = load_data(reader)
    assert torch.equal(shown.val.mean, data.train.mean) and torch.equal(
        shown.val.std, data.train.std
    )
    assert class_names(reader, shown.classes) == tuple(data.classes)
    net = load_model(reader)
    assert all(
        torch.equal(tensor, full.state_dict()[name].half().float())
        for name, tensor in net.state_dict().items()
    )
    with pytest.raises(
        ValueError,
        match=(
            r"data.gain = 1.0, but weights/small.safetensors was trained with 3.0: set that in"
            r" profile 'reader'"
        ),
    ):
        load_data(dataclasses.replace(reader, data=dataclasses.replace(reader.data, gain=1.0)))


def test_nothing_is_written_when_half_precision_costs_too_much(trained, tmp_path, monkeypatch):
    profile, data = trained
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(
        ValueError, match=r"in half precision the accuracy is .* nothing was written"
    ):
        export(profile, data, tmp_path / "weights" / "small.safetensors")
    assert not (tmp_path / "weights").exists()


def test_what_cannot_be_exported_is_named(trained, tmp_path):
    profile, data = trained
    with pytest.raises(ValueError, match=r"small.pth: expected a name that ends in .safetensors"):
        export(profile, data, tmp_path / "small.pth")
    with pytest.raises(
        ValueError, match="profile 'p' trains no net: its weights come from their publisher"
    ):
        export(dataclasses.replace(profile, training=None), data, tmp_path / "small.safetensors")
    pixel = dataclasses.replace(profile, data=dataclasses.replace(profile.data, normalise="pixel"))
    with pytest.raises(ValueError, match=r"data.normalise = 'pixel': only a mean per channel"):
        export(pixel, load_data(pixel), tmp_path / "small.safetensors")


@pytest.mark.parametrize("weights", [None, "IMAGENET1K_V1", "other.safetensors"])
def test_weights_that_do_not_say_how_images_were_normalised(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    exporting.artefacts.save_tensors(tmp_path / "other.safetensors", {"a": torch.ones(1)}, {})
    reader = Profile(
        "r",
        "",
        data=DataConfig(source="photos", count=20, resize=72, size=64, normalise="weights"),
        model=ModelConfig(weights=weights),
    )
    with pytest.raises(
        ValueError,
        match=f"normalise: weights, but {weights or 'no file'} does not say .*zfnet export",
    ):
        load_data(reader)


@pytest.mark.parametrize("name", ["gone.safetensors", "gone.pth"])
def test_a_missing_weights_file_is_named_with_the_cure(name, tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    reader = Profile(
        "r",
        "",
        data=DataConfig(source="photos", count=20, resize=72, size=64, normalise="weights"),
        model=ModelConfig(weights=f"w/{name}"),
    )
    with pytest.raises(
        FileNotFoundError,
        match=(
            f"no weights at .*w/{name}: write them with `python -m zfnet export`, or set `model:"
            " weights:` in profile 'r'"
        ),
    ):
        load_data(reader)
