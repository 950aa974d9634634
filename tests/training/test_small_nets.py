"""Smaller copies of the data, draws and derived profiles: against numpy, PIL-free loops and each
other.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.helpers.random_data import data, tiny
from zfnet import load_profile
from zfnet.data.images import Data, Images, statistics
from zfnet.experiments.ablation import AblationConfig
from zfnet.experiments.ablation.compute import ablation_data
from zfnet.experiments.transfer import TransferConfig
from zfnet.experiments.transfer.compute import prepare_task
from zfnet.store.profiles import DataConfig, ModelConfig, Profile, TrainingConfig
from zfnet.training.small_nets import draw, mean_std, smaller, trained_quietly, variant


def test_a_draw_has_so_many_of_every_class_and_a_larger_one_holds_it():
    labels = torch.tensor([0, 1, 2] * 20 + [2] * 5)
    for per_class in (1, 4, 20):
        chosen = draw(labels, per_class, seed=3)
        assert labels[chosen].bincount().tolist() == [per_class] * 3 and chosen.tolist() == sorted(
            set(chosen.tolist())
        )
        assert set(chosen.tolist()) <= set(draw(labels, 20, seed=3).tolist())
    assert labels[draw(labels, 25, seed=3)].bincount().tolist() == [20, 20, 25]
    assert not torch.equal(draw(labels, 4, seed=3), draw(labels, 4, seed=4))
    with pytest.raises(ValueError, match="per_class = 0"):
        draw(labels, 0, seed=0)


def test_shrinking_by_two_with_a_centre_crop_is_the_mean_of_blocks_on_smooth_images():
    ramp = torch.arange(96).float()
    pixels = (
        torch.stack(
            [ramp[:, None] + ramp, 2 * ramp[:, None] + 0 * ramp, 0 * ramp[:, None] + 2 * ramp]
        )
        .round()
        .to(torch.uint8)[None]
    )
    images = Images(
        pixels,
        torch.zeros(1, dtype=torch.long),
        ("a",),
        96,
        torch.zeros(3, 1, 1),
        torch.ones(3, 1, 1),
    )
    found = smaller(Data(images, images, images, ("a",)), 48).train
    blocks = pixels.double().view(1, 3, 48, 2, 48, 2).mean((3, 5))
    assert (found.pixels.double() - blocks)[..., 2:-2, 2:-2].abs().max() <= 1 and found.size == 48
    assert smaller(data(), 48).train.pixels.shape[-1] == round(64 * 48 / 60)


@pytest.mark.parametrize("rule", ["channel", "pixel"])
def test_statistics_are_numpys_of_the_small_training_images(rule):
    small = smaller(data(), 50, rule, gain=6.0)
    crops = small.train.pictures(range(24)).numpy().astype(np.float64)
    if rule == "channel":
        np.testing.assert_allclose(small.test.mean.flatten(), crops.mean((0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(small.val.std.flatten(), crops.std((0, 2, 3)), rtol=1e-5)
    else:
        np.testing.assert_allclose(small.test.mean, crops.mean(0), rtol=1e-6)
        assert torch.equal(small.val.std, torch.ones(3, 1, 1))
    assert small.val.gain == 6.0 and statistics(small.train.pixels, small.train.size, rule)[
        0
    ].equal(small.train.mean)


def test_pretrained_statistics_and_a_size_that_adds_nothing():
    assert smaller(data(), 50, "imagenet").train.mean.flatten().tolist() == pytest.approx(
        [123.675, 116.28, 103.53]
    )
    with pytest.raises(ValueError, match="size = 61: choose a side from 1 to 60"):
        smaller(data(), 61)


def test_mean_and_deviation_by_hand():
    mean, std = mean_std(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    assert (mean.item(), std.item()) == pytest.approx((3.0, 7**0.5))
    assert mean_std(torch.tensor([[2.0]]))[1].isnan().all()


def test_a_variant_trains_once_in_a_folder_of_its_own(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    profile = Profile(
        "p", "P", seed=7, data=DataConfig(size=60, resize=64), training=TrainingConfig()
    )
    small = smaller(data(), 48)
    model = ModelConfig(maps=(2, 2, 2, 2, 2), fc=(3,))
    own = variant(
        profile,
        "x/one-0",
        small,
        model,
        TrainingConfig(epochs=1, batch_size=8, ten_crop=False),
        seed=9,
    )
    assert (own.name, own.seed, own.data.size, own.data.resize, profile.seed) == (
        "p/x/one-0",
        9,
        48,
        51,
        7,
    )
    first = trained_quietly(own, small)
    written = own.weights_file.stat().st_mtime_ns
    again = trained_quietly(own, small)
    assert (
        own.weights_file.stat().st_mtime_ns == written
        and own.weights_file == tmp_path / "runs/p/x/one-0/weights.safetensors"
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert not first.training and capfd.readouterr().out == ""
    other = dataclasses.replace(own, seed=10)
    assert not torch.equal(
        trained_quietly(other, small).features.conv1.weight, first.features.conv1.weight
    )


def test_without_validation_images_nothing_can_be_chosen():
    images = tiny()
    sections = {"ablation": AblationConfig(), "transfer": TransferConfig()}
    profile = Profile("p", "P", training=TrainingConfig(), sections=sections)
    for experiment in (ablation_data, prepare_task):
        with pytest.raises(ValueError, match=r"'p' has no validation images.*`data: validation:`"):
            experiment(
                profile, Data(images, images.subset(torch.arange(0)), images, images.classes)
            )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ablation: {size: 40}", "ablation.size = 40: the nets' five layers need at least 48"),
        ("ablation: {seeds: 0}", "ablation.seeds = 0: must be positive"),
        ("transfer: {per_class: [5, 0]}", r"transfer.per_class\[1\] = 0: must be positive"),
        ("transfer: {dropout: 1.0}", "transfer.dropout = 1.0: must be at least 0"),
        ("transfer: {sauce: vgg19}", "unknown key 'sauce'; did you mean 'source'"),
    ],
)
def test_bad_configuration_is_named(tmp_path, line, message):
    path = tmp_path / "own.yaml"
    path.write_text(f"title: T\n{line}\n")
    with pytest.raises(ValueError, match=message):
        load_profile(path)
