"""What is left of the random start, against weights and decays that are known; and other starts."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.helpers import oracle
from zfnet import build_model, load_data, load_model, load_profile, train
from zfnet.data.photographs import make_photos
from zfnet.models.build import read_weights
from zfnet.store.artefacts import load_tensors, read_meta
from zfnet.store.profiles import ROOT, ModelConfig, TrainingConfig, profile_names
from zfnet.training import evaluation, noise, run, start

IMAGES = {"demo": 4050, "caltech101": 2828, "cifar10": 45_000, "imagenet": 1_268_000}


def two_convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3), nn.ReLU()
    )


def orthogonal(weights: torch.Tensor) -> torch.Tensor:
    """Random weights of the same length, orthogonal to these."""
    other = torch.randn_like(weights)
    other -= weights * (other * weights).sum() / weights.square().sum()
    return other * weights.norm() / other.norm()


def test_what_is_left_of_the_start_in_weights_made_from_a_part_of_it_and_of_others():
    torch.manual_seed(0)
    before, after = two_convolutions(), two_convolutions()
    old = before[0].weight.data
    after[0].weight.data = 0.3 * old + 4 * orthogonal(old)
    after[3].weight.data = 0.01 * before[3].weight.data
    assert start.left(after, before) == {"0": 0.3, "3": 0.01}
    clean = noise.without_start(after, before)
    torch.testing.assert_close(clean[0].weight.data, after[0].weight.data - 0.3 * old)
    assert clean[3].weight.abs().max() < 1e-7


def test_the_agreement_is_that_of_projections_by_autograd():
    """Of two convolutions, each unit projected by the independent deconvnet, with the start and
    without.
    """
    torch.manual_seed(0)
    before, after = two_convolutions().double(), two_convolutions().double()
    for n in (0, 3):
        old = before[n].weight.data
        after[n].weight.data = 0.7 * old + 0.8 * orthogonal(old)
    images = torch.randn(5, 3, 16, 16, dtype=torch.float64)
    clean = copy.deepcopy(after)
    for n in (0, 3):
        clean[n].weight.data -= 0.7 * before[n].weight.data
    found = noise.agreement(after, before, images)
    for number, layer in noise.paper_layers(after).items():
        cosines = []
        for image in images:
            maps = after[: int(layer) + 1](image[None])[0]
            unit = tuple(map(int, torch.unravel_index(maps.argmax(), maps.shape)))
            pair = [
                oracle.project(net, image[None], layer, unit, "deconvnet") for net in (after, clean)
            ]
            cosines.append(float(torch.cosine_similarity(*(p.flatten() for p in pair), dim=0)))
        assert found[number] == pytest.approx(sum(cosines) / 5, abs=1e-3)
        assert found[number] < 0.95
    assert found.keys() == {1, 2}
    assert noise.agreement(after, two_convolutions().double(), images)[2] > 0.9  # another start


def test_the_remark_names_the_layers_that_show_noise_and_the_cure():
    clean = noise.remark({1: 0.996, 2: 0.951, 5: 0.979})
    assert clean.endswith("layer by layer: 1.00, 0.95, 0.98")
    noisy = noise.remark({1: 0.996, 4: 0.388, 5: 0.427})
    assert "1.00, 0.39, 0.43\nlayer 4, 5: projections show the noise of the start;" in noisy
    assert "weight_decay: null" in noisy and noise.remark({}) == ""


@pytest.mark.parametrize("schedule", ["onecycle", "constant"])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_without_gradients_the_chosen_decay_leaves_a_twelfth(optimiser, schedule):
    config = TrainingConfig(
        epochs=20,
        batch_size=64,
        optimiser=optimiser,
        lr=0.0005 if optimiser == "adamw" else 0.01,
        weight_decay=None,
        schedule=schedule,
    )
    config, layer = start.settled(config, 1300), nn.Linear(4, 4)
    before, steps = layer.weight.detach().clone(), 20
    optimiser, scheduler, _ = run.optimisation(layer, config, steps)
    for _ in range(config.epochs * steps):
        for parameter in layer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        if scheduler:
            scheduler.step()
    left = (layer.weight.detach() / before).mean().item()
    assert left == pytest.approx(1 / 12, rel=0.25)  # to first order in the decay of one step


def test_epochs_follow_from_the_number_of_images():
    config = TrainingConfig(epochs=None, batch_size=16, schedule="onecycle")
    found = {n: start.settled(config, n).epochs for n in (5, 60, 2160, 8000, 10**5, 1_281_167)}
    assert found == {5: 300, 60: 300, 2160: 37, 8000: 10, 10**5: 10, 1_281_167: 10}
    few = dataclasses.replace(config, epochs=1, weight_decay=None, optimiser="adamw")
    found = start.settled(few, 60)  # 3 steps
    assert found.epochs == 1 and few.lr * found.weight_decay == pytest.approx(0.1, rel=0.02)
    with pytest.raises(ValueError, match=r"weight_decay: null with schedule: plateau.*onecycle"):
        start.settled(TrainingConfig(weight_decay=None, schedule="plateau"), 100)


@pytest.mark.parametrize("name", profile_names())
def test_no_profile_that_trains_keeps_the_noise_of_its_start(name):
    """Each either leaves the decay open, or its numbers take the start away."""
    config = load_profile(name).training
    if config is None or config.start or config.weight_decay is None:
        return
    steps = config.epochs * (IMAGES[name] // config.batch_size)
    # annealed by validation: counted as if it were over after a third
    rate = config.lr * {"onecycle": 0.506, "plateau": 1 / 3}[config.schedule]
    rate *= 1 if config.optimiser == "adamw" else 10
    assert torch.tensor(-rate * steps * config.weight_decay).exp() < 0.3


def test_the_weights_that_come_with_the_project_are_clean():
    """And the random start is drawn as when they were trained, or all of it would seem to be gone.
    Of the first layer, which started 250 times smaller, that is no matter.
    """
    profile = load_profile("caltech101")
    net, before = (build_model(profile, 101) for _ in range(2))
    net.load_state_dict(read_weights(ROOT / "weights/zfnet_caltech101.safetensors"))
    share = [*start.left(net, before).values()]
    assert share == pytest.approx([0.916, 0.084, 0.088, 0.092, 0.093], abs=0.001)
    pixels = make_photos(12, 128, 0).images[:6].float()
    found = noise.agreement(net.eval(), before, (pixels - 120) / 70 * 6)
    assert list(found) == [1, 2, 3, 4, 5] and min(found.values()) > 0.98
    # as the same weights are not when their start is put back
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d) and name != "features.conv1":
            layer.weight.data += 0.8 * before.get_submodule(name).weight.data
    found = noise.agreement(net, before, (pixels - 120) / 70 * 6)
    assert found[1] > 0.98 and max(found[4], found[5]) < noise.CLEAN


def test_a_recipe_with_open_numbers_is_settled_said_and_chooses_a_late_epoch(
    tiny, monkeypatch, capsys
):
    monkeypatch.setattr(start, "STEPS", 30)
    recipe = dataclasses.replace(
        tiny.training, epochs=None, optimiser="adamw", lr=0.002, weight_decay=None
    )
    tiny = dataclasses.replace(tiny, training=recipe)
    data, real, calls = load_data(tiny), evaluation.evaluate, []

    def early(model, images, *args, **kwargs):  # the first epochs look best
        found = real(model, images, *args, **kwargs)
        if images is data.val:
            calls.append(1)
            return dataclasses.replace(found, accuracy=1 - len(calls) / 100)
        return found

    monkeypatch.setattr(evaluation, "evaluate", early)
    meta = train(tiny, data, device="cpu")
    steps = len(data.train) // 16
    assert meta["epochs"] == 30 // steps and meta["epoch"] == round(0.75 * meta["epochs"])
    assert meta["weight_decay"] == start.settled(recipe, len(data.train)).weight_decay
    kept, before = read_weights(tiny.weights_file), build_model(tiny, 10).state_dict()
    for name, share in read_meta(tiny.weights_file)["start"].items():
        new, old = kept[f"{name}.weight"].flatten(), before[f"{name}.weight"].flatten()
        assert share == pytest.approx(float(new @ old / (old @ old)), abs=1e-3)
    assert len(meta["start"]) == 5
    model = load_model(tiny)
    found = noise.noise(tiny, data, model)
    assert len(found) == 5 and found == noise.noise(tiny, data, model)
    assert read_meta(tiny.runs / "noise.safetensors")["n"] == len(data.test)
    said = [line for line in capsys.readouterr().out.splitlines() if "about" in line]
    assert len(said) == 1
    expected = (
        f"training on {len(data.train)} images, {meta['epochs']} epochs,"
        f" weight decay {meta['weight_decay']:g}: {meta['epochs'] * steps - 6} steps of "
    )
    assert said[0].startswith(expected) and said[0].endswith("about 1 min")


@pytest.mark.parametrize(
    ("pace", "left", "said"), [(0.5, 1200, "10 min"), (2, 9000, "5.0 hours"), (0.01, 5, "1 min")]
)
def test_the_forecast_is_steps_times_seconds(pace, left, said):
    config = TrainingConfig(epochs=3, weight_decay=0.1)
    assert run._forecast(config, 77, pace, left).endswith(f"{left} steps of {pace} s, about {said}")


def test_a_training_starts_from_the_weights_that_it_names(tiny, tmp_path):
    given = build_model(dataclasses.replace(tiny, seed=9), 1000)
    save_file(given.state_dict(), tmp_path / "given.safetensors")
    recipe = dataclasses.replace(tiny.training, start="given.safetensors", rms=None, lr=1e-9)
    own = dataclasses.replace(tiny, name="own", training=recipe)
    meta = train(own, device="cpu", progress=False)
    assert meta["start"] == "given.safetensors"
    found, random = load_model(own).state_dict(), build_model(own, 10).state_dict()
    for name, tensor in found.items():  # a step of 1e-9 moves nothing
        origin = random if name.startswith("classifier.fc8.") else given.state_dict()
        torch.testing.assert_close(tensor, origin[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(found["features.conv3.weight"], random["features.conv3.weight"])
    other = dataclasses.replace(own, model=dataclasses.replace(own.model, maps=(8, 8, 8, 9, 8)))
    with pytest.raises(ValueError, match="does not fit"):
        train(other, device="cpu", progress=False)
    # keys from before there was a choice hold
    data = load_data(tiny)
    assert run.weights_key(tiny, data) != run.weights_key(own, data)


def test_a_net_without_a_part_called_features_is_trained_and_its_snapshots_are_whole(tiny):
    recipe = dataclasses.replace(
        tiny.training, epochs=1, rms=None, ten_crop=False, snapshots=(1, 64), lr=1e-3
    )
    own = dataclasses.replace(tiny, model=ModelConfig(name="shufflenet_v2_x0_5"), training=recipe)
    meta = train(own, device="cpu", progress=False)
    last, kept = load_tensors(own.snapshot_file(64))[0], load_model(own).state_dict()
    assert set(last) == set(kept) and all(torch.equal(last[name], kept[name]) for name in kept)
    assert kept["fc.weight"].shape == (10, 1024) and "stage4.3.branch2.3" in meta["start"]
