"""The nets against pytorchcv's, and the recipe against the paper's rules."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import pickle

import pytest
import torch
from PIL import Image
from pytorchcv.model_provider import get_model
from safetensors.torch import save_file
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from zfnet import (
    AlexNet,
    Profile,
    ZFNet,
    build_model,
    class_accuracy,
    evaluate,
    load_data,
    load_model,
    paper_layers,
    read_history,
    receptive_field,
    train,
)
from zfnet.data.images import Files, ten_crop
from zfnet.data.shapes import make_shapes
from zfnet.models import build as weights
from zfnet.store import distributed
from zfnet.store.artefacts import load_tensors
from zfnet.store.profiles import DataConfig, ModelConfig, TrainingConfig
from zfnet.training import evaluation, run


@pytest.mark.parametrize(
    ("name", "maps", "parameters"),
    [
        ("zfnet", (96, 256, 384, 384, 256), 62_357_608),
        ("zfnetb", (96, 256, 512, 1024, 512), 107_627_624),
    ],
)
@pytest.mark.slow
def test_logits_equal_pytorchcv(name, maps, parameters, report):
    torch.manual_seed(0)
    theirs = get_model(name, pretrained=False).eval()
    ours = ZFNet(maps=maps, lrn="before").eval()
    assert sum(p.numel() for p in ours.parameters()) == parameters
    weights.put_weights(ours, weights.from_pytorchcv(theirs.state_dict()), name)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    error = float((found - expected).norm() / expected.norm())
    report(f"{name}: relative difference of our logits from pytorchcv's {error:.1e}")
    assert error < 1e-6


def sides(net, size=224):
    return [
        receptive_field(net.features, name, size).map_size[0]
        for name, m in net.features.named_children()
        if not isinstance(m, nn.ReLU)
    ]


def test_map_sizes_are_the_papers():
    assert sides(ZFNet(10, fc=(8, 8))) == [110, 55, 26, 13, 13, 13, 13, 6]
    assert sides(AlexNet(10, fc=(8, 8))) == [55, 27, 27, 13, 13, 13, 13, 6]


def test_lrn_stands_where_it_is_asked_for():
    names = {
        lrn: " ".join(n for n, _ in ZFNet(10, fc=(8, 8), lrn=lrn).features.named_children())
        for lrn in (None, "after", "before")
    }
    assert "norm" not in names[None]
    assert names["after"].startswith("conv1 relu1 pool1 norm1 conv2 relu2 pool2 norm2 conv3")
    assert names["before"].startswith("conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3")


def test_the_papers_initialisation():
    torch.manual_seed(0)
    net = ZFNet(10, input_size=64, fc=(64, 64), init="paper", conv1_scale=0.5)
    assert net.features.conv3.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert net.features.conv1.weight.std().item() == pytest.approx(0.005, rel=0.03)
    assert all(not p.any() for n, p in net.named_parameters() if n.endswith("bias"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lrn": "yes"}, "lrn = 'yes': choose None"),
        ({"init": "xavier"}, "init = 'xavier'"),
        ({"maps": (1, 2)}, r"maps = \(1, 2\)"),
        ({"input_size": 20}, "input_size = 20: too small"),
    ],
)
def test_bad_nets_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ZFNet(10, **arguments)


def test_layers_of_vgg_are_the_last_relus_of_the_blocks():
    import torchvision

    with torch.device("meta"):
        assert list(paper_layers(torchvision.models.vgg19().features).values()) == [
            "3",
            "8",
            "17",
            "26",
            "35",
        ]
        assert list(paper_layers(torchvision.models.vgg16().features).values()) == [
            "3",
            "8",
            "15",
            "22",
            "29",
        ]
        assert list(paper_layers(torchvision.models.alexnet().features).values()) == [
            "1",
            "4",
            "7",
            "9",
            "11",
        ]


def test_layers_of_other_deep_nets():
    def deep(kinds):
        return nn.Sequential(
            *(
                {"r": nn.ReLU, "p": lambda: nn.MaxPool2d(2), "c": nn.Identity}[kind]()
                for kind in kinds
            )
        )

    # two pools in a row; a block after the last pool; the longest stretches halved
    assert list(paper_layers(deep("crrrpprrrrrrpcr")).values()) == ["2", "3", "8", "11", "14"]
    # strided convolutions instead of pools
    assert list(paper_layers(deep("crcrcrcrcrcrcrcrcr")).values()) == [
        str(n) for n in range(1, 18, 2)
    ]


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code in a weights file was run",))


def test_weights_files(tmp_path):
    net = ZFNet(5, input_size=64, maps=(4,) * 5, fc=(6, 6))
    state = net.state_dict()
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        assert all(
            torch.equal(v, state[k]) for k, v in weights.read_weights(tmp_path / name).items()
        )
    with pytest.raises(FileNotFoundError, match=r"no weights at .*train first"):
        weights.read_weights(tmp_path / "none.pth")
    with open(tmp_path / "bomb.pth", "wb") as file:
        pickle.dump(Bomb(), file)
    with pytest.raises(ValueError, match=r"bomb.pth cannot be read as weights"):
        weights.read_weights(tmp_path / "bomb.pth")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.safetensors is damaged"):
        weights.read_weights(tmp_path / "text.safetensors")
    save_file(
        {**state, "classifier.fc8.bias": torch.full((5,), torch.nan)}, tmp_path / "nan.safetensors"
    )
    with pytest.raises(ValueError, match=r"fc8.bias has values that are not finite"):
        weights.read_weights(tmp_path / "nan.safetensors")


def test_weights_that_do_not_fit_are_named():
    net = ZFNet(5, input_size=64, maps=(4,) * 5, fc=(6, 6))
    state = net.state_dict()
    state["extra"] = torch.zeros(1)
    state["classifier.fc8.bias"] = torch.zeros(6)
    del state["features.conv2.bias"]
    with pytest.raises(
        ValueError,
        match=(
            r"missing features.conv2.bias; unexpected extra; classifier.fc8.bias is \(6,\),"
            r" expected \(5,\)"
        ),
    ):
        weights.put_weights(net, state, "file")


@pytest.mark.slow
def test_pretrained_profiles_read_local_files(tmp_path):
    """Files of the publishers' formats, with random weights."""
    import torchvision

    torch.manual_seed(0)
    images = torch.randn(1, 3, 224, 224)
    for name, theirs in {
        "alexnet_imagenet": torchvision.models.alexnet(),
        "zfnet_imagenet": get_model("zfnet", pretrained=False),
    }.items():
        path = tmp_path / f"{name}.pth"
        torch.save(theirs.state_dict(), path)
        profile = Profile("p", "P", model=ModelConfig(name=name, weights=str(path)))
        with torch.no_grad():
            torch.testing.assert_close(
                load_model(profile)(images), theirs.eval()(images), rtol=1e-4, atol=1e-5
            )
        path.unlink()


def test_weights_without_a_classifier_are_named(tmp_path):
    save_file(
        ZFNet(5, input_size=64, maps=(4,) * 5, fc=(6, 6)).features.state_dict(prefix="features."),
        tmp_path / "f.safetensors",
    )
    with pytest.raises(
        ValueError, match=r"f.safetensors has no classifier; expected the weights of a whole zfnet"
    ):
        load_model(Profile("p", "P", model=ModelConfig(weights=str(tmp_path / "f.safetensors"))))


def test_without_a_network_the_cure_is_named(monkeypatch):
    import torchvision

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(
        FileNotFoundError,
        match=(
            r"weights of vgg19 could not be downloaded .*connect to the network, or set `weights:`"
        ),
    ):
        load_model(Profile("p", "P", model=ModelConfig(name="vgg19")))


# --- Training -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_overfits_one_batch(tiny):
    tiny = dataclasses.replace(
        tiny,
        model=dataclasses.replace(tiny.model, maps=(16, 24, 24, 24, 24), fc=(64, 64), dropout=0.0),
    )
    data = load_data(tiny)
    net = build_model(tiny, 10)
    images, labels = data.train.batch(range(16)), data.train.labels[:16]
    optimiser = torch.optim.SGD(net.parameters(), 0.01, 0.9)
    for _ in range(150):
        logits = run.train_step(net, optimiser, images, labels, None)
    assert nn.functional.cross_entropy(logits, labels) < 0.05


def test_rms_bound_holds_after_every_step_and_small_filters_are_left_alone(tiny):
    data, net, limit = load_data(tiny), build_model(tiny, 10), 0.05
    optimiser = torch.optim.SGD(net.parameters(), 0.5, 0.9)
    exceeded = False
    for indices in torch.arange(48).split(16):
        run.train_step(net, optimiser, data.train.batch(indices), data.train.labels[indices], limit)
        for layer in net.features:
            if isinstance(layer, nn.Conv2d):
                rms = (layer.weight**2).mean((1, 2, 3)).sqrt()
                exceeded |= bool((rms > 0.999 * limit).any())
                assert (rms <= limit * (1 + 1e-6)).all()
    assert exceeded, "the bound was never reached: the test tests nothing"
    layer = nn.Conv2d(1, 2, 1, bias=False)
    layer.weight.data = torch.tensor([0.02, -0.3]).view(2, 1, 1, 1)
    run.renormalise(layer, 0.1)
    torch.testing.assert_close(layer.weight.flatten(), torch.tensor([0.02, -0.1]))


def test_ten_crop_evaluation_equals_a_slow_loop(tiny):
    data, net = load_data(tiny), build_model(tiny, 10).eval()
    found = evaluate(net, data.test, crops=10)
    for i in range(len(data.test)):
        probability = torch.zeros(10)
        for top, left in ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)):
            crop = data.test.pixels[i, :, top : top + 64, left : left + 64]
            for view in (crop, crop.flip(2)):
                with torch.no_grad():
                    probability += net(data.test.normalise(view[None]))[0].softmax(0) / 10
        torch.testing.assert_close(found.probabilities[i], probability, rtol=1e-4, atol=1e-6)
    assert found.accuracy == pytest.approx(
        (found.probabilities.argmax(1) == data.test.labels).float().mean().item()
    )
    crops = {c.numpy().tobytes() for c in ten_crop(data.test.pixels[:1], 64)[0]}
    corners = {(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)}
    mine = {
        v.numpy().tobytes()
        for r, c in corners
        for p in [data.test.pixels[0, :, r : r + 64, c : c + 64]]
        for v in (p.contiguous(), p.flip(2).contiguous())
    }
    assert crops == mine


def test_mean_per_class_accuracy_is_scikit_learns_and_not_the_plain_one():
    labels, predictions = torch.tensor([0, 0, 0, 0, 1, 2]), torch.tensor([0, 0, 0, 1, 2, 2])
    assert class_accuracy(predictions, labels) == pytest.approx((0.75 + 0 + 1) / 3)
    assert class_accuracy(predictions.numpy(), labels) != pytest.approx(4 / 6)
    generator = torch.Generator().manual_seed(0)
    for classes in (2, 5, 10, 101):
        labels, predictions = torch.randint(classes, (2, 20 * classes), generator=generator)
        predictions = torch.where(labels % 3 > 0, labels, predictions)
        # to the last bit, so that ties stay ties
        assert class_accuracy(predictions, labels) == balanced_accuracy_score(labels, predictions)


@pytest.mark.parametrize(
    "recipe",
    [{}, {"optimiser": "adamw", "lr": 0.003, "weight_decay": 0.05, "smallest_crop": 48}],
    ids=["sgd", "adamw"],
)
def test_interrupted_training_ends_bit_equal(tiny, monkeypatch, recipe):
    tiny = dataclasses.replace(tiny, training=dataclasses.replace(tiny.training, **recipe))
    data = load_data(tiny)
    meta = train(tiny, data, device="cpu", progress=False)
    before, history = weights.read_weights(tiny.weights_file), read_history(tiny)
    assert len(history) == 3 and meta["epoch"] in (1, 2, 3) and not tiny.checkpoint_file.exists()
    tiny.weights_file.unlink()
    real, calls = evaluation.evaluate, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, data, device="cpu", progress=False)
    assert tiny.checkpoint_file.exists() and not tiny.weights_file.exists()
    train(tiny, data, device="cpu", progress=False)
    again = weights.read_weights(tiny.weights_file)
    assert (
        all(torch.equal(before[name], again[name]) for name in before)
        and read_history(tiny) == history
    )


def test_the_first_step_of_adamw_by_hand(tiny):
    """Its averages begin with the gradient itself: every weight decays, then moves by the learning
    rate against its gradient's sign.
    """
    lr, decay = 0.003, 0.1
    recipe = TrainingConfig(
        epochs=1,
        batch_size=48,
        optimiser="adamw",
        lr=lr,
        weight_decay=decay,
        schedule="constant",
        rms=None,
        flip=False,
    )
    tiny = dataclasses.replace(
        tiny,
        training=recipe,
        model=dataclasses.replace(tiny.model, dropout=0.0),
        data=dataclasses.replace(tiny.data, resize=64),
    )
    data, net = load_data(tiny), build_model(tiny, 10)
    assert len(data.train) // 48 == 1, "more than one step"
    train(tiny, data, device="cpu", progress=False)
    order = torch.randperm(
        len(data.train), generator=torch.Generator().manual_seed(tiny.seed * 100_003 + 1)
    )[:48]
    nn.functional.cross_entropy(net(data.train.batch(order)), data.train.labels[order]).backward()
    found, moved = weights.read_weights(tiny.weights_file), 0
    for name, weight in net.named_parameters():
        expected = weight * (1 - lr * decay) - lr * weight.grad / (weight.grad.abs() + 1e-8)
        torch.testing.assert_close(found[name], expected.detach(), rtol=1e-5, atol=1e-6, msg=name)
        moved += int(((found[name] - weight * (1 - lr * decay)).abs() > 0.99 * lr).sum())
    assert moved > 0.5 * sum(weight.numel() for weight in net.parameters())


def test_the_epoch_that_is_best_on_validation_is_kept(tiny, monkeypatch):
    data, real, seen = load_data(tiny), evaluation.evaluate, []

    def scripted(model, images, *args, **kwargs):
        found = real(model, images, *args, **kwargs)
        if images is data.val:
            seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            return dataclasses.replace(found, accuracy=(0.1, 0.9, 0.2)[len(seen) - 1])
        return found

    monkeypatch.setattr(evaluation, "evaluate", scripted)
    meta = train(tiny, data, device="cpu", progress=False)
    assert meta["epoch"] == 2 and meta["val_accuracy"] == 0.9
    kept = weights.read_weights(tiny.weights_file)
    assert all(torch.equal(kept[name], seen[1][name]) for name in kept)
    assert not torch.equal(seen[1]["features.conv1.weight"], seen[2]["features.conv1.weight"])


def test_a_second_training_does_nothing_and_a_changed_recipe_trains(tiny, monkeypatch):
    data = load_data(tiny)
    train(tiny, data, device="cpu", progress=False)
    monkeypatch.setattr(run, "_train", lambda *a: pytest.fail("trained again"))
    train(tiny, data, device="cpu", progress=False)
    other = dataclasses.replace(tiny, training=dataclasses.replace(tiny.training, lr=0.03))
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        train(other, data, device="cpu", progress=False)


def test_training_names_what_is_wrong(tiny):
    wild = dataclasses.replace(tiny, training=dataclasses.replace(tiny.training, lr=1e12, rms=None))
    with pytest.raises(
        FloatingPointError, match="no longer finite in epoch 1: lower `training: lr:`"
    ):
        train(wild, device="cpu", progress=False)
    with pytest.raises(ValueError, match="has no `training:` section"):
        train(dataclasses.replace(tiny, training=None))
    with pytest.raises(FileNotFoundError, match="make train PROFILE=tiny"):
        read_history(tiny)
    whole = load_data(tiny)
    empty = dataclasses.replace(whole, test=whole.test.subset(torch.arange(0)))
    with pytest.raises(
        ValueError,
        match=(
            r"profile 'tiny' has no test images, on which the net is measured: put some into .*test"
        ),
    ):
        train(tiny, empty, device="cpu", progress=False)
    assert not tiny.history_file.exists()


def test_convolutions_are_in_full_precision_but_for_training(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert (
        distributed.default_device() == torch.device("cuda") and not torch.backends.cudnn.allow_tf32
    )
    convolutions, seen = torch.backends.cudnn.conv, []
    monkeypatch.setattr(run, "_train", lambda *_: seen.append(convolutions.fp32_precision))
    train(tiny, device="cpu", progress=False)
    assert seen == ["tf32"] and not torch.backends.cudnn.allow_tf32
    # PyTorch's newer flag and the older one contradict each other now, and reading the older one is
    # an error
    convolutions.fp32_precision = "tf32"
    train(tiny, device="cpu", progress=False)
    assert seen == ["tf32"] * 2 and convolutions.fp32_precision == "tf32"
    convolutions.fp32_precision = "none"


def test_the_random_generators_are_left_as_they_were(tiny, monkeypatch):
    """And the weights are those of `torch.manual_seed`."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda *_: pytest.fail("seeds the GPUs"))
    before = torch.get_rng_state()
    net = build_model(dataclasses.replace(tiny, seed=5), 10)
    assert torch.equal(torch.get_rng_state(), before)
    torch.default_generator.manual_seed(5)
    same = ZFNet(10, input_size=64, maps=(8,) * 5, fc=(16, 16))
    torch.set_rng_state(before)
    assert all(
        torch.equal(a, b)
        for a, b in zip(net.state_dict().values(), same.state_dict().values(), strict=True)
    )


def test_a_width_of_zero_leaves_a_layer_out():
    """The removal rows of Table 3: without layers 3 and 4, and without 3, 4, 6 and 7."""
    net = AlexNet(10, input_size=96, maps=(6, 8, 0, 0, 4), fc=())
    assert [n for n, _ in net.features.named_children()] == [
        "conv1",
        "relu1",
        "pool1",
        "conv2",
        "relu2",
        "pool2",
        "conv5",
        "relu5",
        "pool5",
    ]
    assert net.features.conv5.in_channels == 8 and [
        n for n, _ in net.classifier.named_children()
    ] == ["fc8"]
    with pytest.raises(ValueError, match="the first one must stay"):
        AlexNet(10, maps=(0, 8, 8, 8, 4))


@pytest.mark.slow
def test_snapshots_are_the_net_on_its_way(tmp_path, monkeypatch):
    """Four snapshots of a run of 4 epochs, 8 steps: the last is the final net, one lost is made
    again, and they cost no randomness.
    """
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    plain = Profile(
        "plain",
        "",
        data=DataConfig(count=60, resize=72, size=64),
        model=ModelConfig(maps=(4, 4, 4, 4, 4), fc=()),
        training=TrainingConfig(epochs=4, batch_size=20, schedule="onecycle", ten_crop=False),
    )
    data = load_data(plain)
    steps = len(data.train) // 20
    taken = dataclasses.replace(
        plain, name="taken", training=dataclasses.replace(plain.training, snapshots=(1, 16, 32, 64))
    )
    train(plain, data, progress=False)
    train(taken, data, progress=False)
    found = {part: load_tensors(taken.snapshot_file(part)) for part in (1, 16, 32, 64)}
    assert [meta["step"] for _, meta in found.values()] == [1, steps, 2 * steps, 4 * steps]
    final, once = load_model(taken).features.state_dict(), load_model(plain).features.state_dict()
    assert all(torch.equal(final[name], once[name]) for name in once)
    short = dataclasses.replace(
        plain, name="short", training=dataclasses.replace(plain.training, epochs=1, snapshots=(64,))
    )
    train(short, data, progress=False)  # its only epoch is its best
    kept = load_model(short).features.state_dict()
    assert all(
        torch.equal(kept[name], load_tensors(short.snapshot_file(64))[0][name]) for name in kept
    )
    assert not torch.equal(found[1][0]["conv1.weight"], found[16][0]["conv1.weight"])
    taken.snapshot_file(16).unlink()
    train(taken, data, progress=False)
    assert torch.equal(
        load_tensors(taken.snapshot_file(16))[0]["conv1.weight"], found[16][0]["conv1.weight"]
    )


@pytest.mark.slow
def test_files_decoded_on_demand_train_the_same_net(tmp_path, monkeypatch):
    """Bit for bit the weights and history of the same images in memory: worker processes change
    neither the order nor dropout.
    """
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    for n, picture in enumerate(make_shapes(120, 72).images):
        path = tmp_path / "images" / str(n % 2) / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
    kept = Profile(
        "kept",
        "",
        data=DataConfig(source="folder", root="images", resize=72, size=64),
        model=ModelConfig(maps=(4, 4, 4, 4, 4), fc=(8,)),
        training=TrainingConfig(epochs=2, batch_size=10),
    )
    streamed = dataclasses.replace(
        kept, name="streamed", data=dataclasses.replace(kept.data, memory=1e-9)
    )
    metas = [train(profile, progress=False) for profile in (kept, streamed)]
    assert isinstance(load_data(streamed).train.pixels, Files)
    one, other = (load_model(profile).state_dict() for profile in (kept, streamed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert kept.history_file.read_text() == streamed.history_file.read_text()
    assert metas[0]["test_accuracy"] == metas[1]["test_accuracy"]


def test_without_validation_the_last_epoch_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    profile = Profile(
        "p",
        "",
        data=DataConfig(count=60, resize=72, size=64, validation=0.0),
        model=ModelConfig(maps=(4, 4, 4, 4, 4), fc=()),
        training=TrainingConfig(
            epochs=3, batch_size=20, schedule="onecycle", ten_crop=False, snapshots=(64,)
        ),
    )
    meta = train(profile, progress=False)
    last, kept = (
        load_tensors(profile.snapshot_file(64))[0],
        load_model(profile).features.state_dict(),
    )
    assert meta["epoch"] == 3 and meta["val_accuracy"] is None and meta["n"] + meta["n_test"] == 60
    assert all(torch.equal(kept[name], last[name]) for name in kept)
    assert all(math.isnan(row["val_error"]) for row in read_history(profile))


@pytest.mark.parametrize("lrn", [None, "after", "before"])
def test_rectifying_after_pooling_changes_no_bit(lrn):
    torch.manual_seed(0)
    net = (
        ZFNet(10, maps=(8, 8, 8, 8, 8), input_size=96, fc=(16,), lrn=lrn, dropout=0.3)
        .to(memory_format=torch.channels_last)
        .train()
    )
    other = copy.deepcopy(net)
    images, labels = (
        torch.randn(8, 3, 96, 96).contiguous(memory_format=torch.channels_last),
        torch.randint(10, (8,)),
    )
    found = []
    for model, call in ((net, net), (other, functools.partial(run.forward, other))):
        torch.manual_seed(1)
        logits = call(images)
        torch.nn.functional.cross_entropy(logits, labels).backward()
        found.append([logits, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(a, b) and a.any() for a, b in zip(*found, strict=True))


def test_examples_are_right_where_labels_are_known_and_sure_where_not():
    sure = torch.tensor([0.9, 0.5, 0.95, 0.6, 0.8, 0.55, 0.99, 0.4])
    guesses = torch.tensor([0, 1, 0, 1, 1, 0, 2, 2])
    probabilities = torch.full((8, 3), 0.0).scatter_(1, guesses[:, None], sure[:, None])
    found = evaluation.Evaluation(0.0, 0.0, 0.0, probabilities, guesses)
    for seed in range(5):
        # the surest two, of classes 0 and 2
        assert set(evaluation.examples(found, None, 3, seed).tolist()) == {2, 6}
        right = evaluation.examples(found, torch.tensor([1, 1, 0, 0, 0, 1, 0, 2]), 3, seed).tolist()
        assert sorted(right) == [1, 2, 7]
    assert len(evaluation.examples(found, None, 1, 0)) == 1
