"""Weights to give away, and the photographs that they are shown on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from zfnet import Profile, class_names, evaluate, load_data, load_model, photos, train
from zfnet import export as exporting
from zfnet.export import export
from zfnet.profiles import DataConfig, ModelConfig, TrainingConfig
from zfnet.provenance import load_tensors

MODEL = ModelConfig(maps=(4, 4, 4, 4, 4), fc=(8,))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.profiles.ROOT", tmp_path)
    profile = Profile("p", "", data=DataConfig(count=60, resize=72, size=64, gain=3.0), model=MODEL,
                      training=TrainingConfig(epochs=1, batch_size=20, schedule="onecycle"))  # fmt: skip
    train(profile, progress=False)
    return profile, load_data(profile)


def test_an_exported_net_is_the_net_in_half_precision(trained, tmp_path):
    profile, data = trained
    meta = export(profile, data, tmp_path / "weights" / "small.safetensors")
    tensors, header = load_tensors(tmp_path / "weights" / "small.safetensors")
    full = load_model(profile)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(torch.equal(tensors[name], tensor.half()) for name, tensor in full.state_dict().items())
    assert header == meta and header["classes"] == list(data.classes) and header["model"]["maps"] == [4] * 5 and header["n_test"] == len(data.test)
    assert header["accuracy"] == evaluate(full, data.test).accuracy and abs(header["half_accuracy"] - header["accuracy"]) <= exporting.TOLERANCE
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["small.safetensors"]
    reader = Profile("reader", "", data=DataConfig(source="photos", count=40, resize=72, size=64, gain=3.0, normalise="weights"),
                     model=dataclasses.replace(MODEL, weights="weights/small.safetensors"))  # fmt: skip
    shown = load_data(reader)
    assert torch.equal(shown.val.mean, data.train.mean) and torch.equal(shown.val.std, data.train.std)
    assert class_names(reader, shown.classes) == tuple(data.classes)
    net = load_model(reader)
    assert all(torch.equal(tensor, full.state_dict()[name].half().float()) for name, tensor in net.state_dict().items())
    with pytest.raises(ValueError, match=r"data.gain = 1.0, but weights/small.safetensors was trained with 3.0: set that in profile 'reader'"):
        load_data(dataclasses.replace(reader, data=dataclasses.replace(reader.data, gain=1.0)))


def test_nothing_is_written_when_half_precision_costs_too_much(trained, tmp_path, monkeypatch):
    profile, data = trained
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="in half precision the accuracy is .* nothing was written"):
        export(profile, data, tmp_path / "weights" / "small.safetensors")
    assert not (tmp_path / "weights").exists()


def test_what_cannot_be_exported_is_named(trained, tmp_path):
    profile, data = trained
    with pytest.raises(ValueError, match=r"small.pth: expected a name that ends in .safetensors"):
        export(profile, data, tmp_path / "small.pth")
    with pytest.raises(ValueError, match="profile 'p' trains no net: its weights come from their publisher"):
        export(dataclasses.replace(profile, training=None), data, tmp_path / "small.safetensors")
    pixel = dataclasses.replace(profile, data=dataclasses.replace(profile.data, normalise="pixel"))
    with pytest.raises(ValueError, match="data.normalise = 'pixel': only a mean per channel"):
        export(pixel, load_data(pixel), tmp_path / "small.safetensors")


@pytest.mark.parametrize("weights", [None, "IMAGENET1K_V1", "other.safetensors"])
def test_weights_that_do_not_say_how_images_were_normalised(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.profiles.ROOT", tmp_path)
    exporting.provenance.save_tensors(tmp_path / "other.safetensors", {"a": torch.ones(1)}, {})
    reader = Profile("r", "", data=DataConfig(source="photos", count=20, resize=72, size=64, normalise="weights"), model=ModelConfig(weights=weights))
    with pytest.raises(ValueError, match=f"normalise: weights, but {weights or 'no file'} does not say .*zfnet export"):
        load_data(reader)


@pytest.mark.parametrize("name", ["gone.safetensors", "gone.pth"])
def test_a_missing_weights_file_is_named_with_the_cure(name, tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.profiles.ROOT", tmp_path)
    reader = Profile("r", "", data=DataConfig(source="photos", count=20, resize=72, size=64, normalise="weights"), model=ModelConfig(weights=f"w/{name}"))
    with pytest.raises(FileNotFoundError, match=f"no weights at .*w/{name}: write them with `python -m zfnet export`, or set `model: weights:` in profile 'r'"):
        load_data(reader)


def test_photographs_are_cropped_at_several_scales():
    made = photos.make_photos(60, 40, seed=3)
    assert made.images.shape == (60, 3, 40, 40) and made.labels.tolist() == [n % len(photos.CLASSES) for n in range(60)]
    for n, name in enumerate(photos.CLASSES):  # the first of each: its middle, whole
        picture = photos.photograph(name)
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        expected = picture.crop((left, top, left + side, top + side)).resize((40, 40), Image.Resampling.BICUBIC)
        assert np.array_equal(made.images[n].permute(1, 2, 0).numpy(), np.array(expected)), name
        assert made.names[n] == f"{name} ({top}, {left}), {side} px"
    mirrored = []
    for n in range(len(photos.CLASSES), 60):
        name, rest = made.names[n].split(" (")
        top, left, side = (int(number) for number in rest.replace("),", ",").removesuffix(" px").split(", "))
        picture = photos.photograph(name)
        largest = min(picture.size)
        assert max(40, largest / 8**0.5 - 1) <= side <= largest and left + side <= picture.width and top + side <= picture.height
        crop = torch.from_numpy(np.array(picture.crop((left, top, left + side, top + side)).resize((40, 40), Image.Resampling.BICUBIC))).permute(2, 0, 1)
        mirrored.append(torch.equal(made.images[n], crop.flip(2)))
        assert mirrored[-1] or torch.equal(made.images[n], crop)
    assert 10 < sum(mirrored) < 38
    again, other = photos.make_photos(30, 40, seed=3), photos.make_photos(30, 40, seed=4)
    assert torch.equal(again.images, made.images[:30]) and not torch.equal(other.images[20:], made.images[20:30])
    assert len({name.split(") ")[-1] for name in made.names}) > 20


def test_photographs_name_what_is_wrong():
    with pytest.raises(ValueError, match="count = 3: at least 12, one crop of each photograph"):
        photos.make_photos(3, 40)
    with pytest.raises(ValueError, match="no photograph 'lena': choose one of astronaut"):
        photos.photograph("lena")
