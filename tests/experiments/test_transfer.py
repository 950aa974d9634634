"""Transfer: features against the layers one by one, the softmax against its own optimum, accuracies
against a count, the halves against sets.
"""

from __future__ import annotations

import csv
import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.random_data import data
from zfnet import plots
from zfnet.experiments.transfer import TransferConfig
from zfnet.experiments.transfer.compute import (
    ARMS,
    Curve,
    accuracy_curve,
    counts,
    fit_softmax,
    layer7,
    only,
    prepare_task,
    scratch_accuracy,
    softmax_accuracy,
    split_classes,
    table,
    worth,
)
from zfnet.experiments.transfer.figure import transfer_figure
from zfnet.models.build import load_model
from zfnet.models.zfnet import ZFNet
from zfnet.store.profiles import DataConfig, Profile, TrainingConfig
from zfnet.training.evaluation import class_accuracy
from zfnet.training.small_nets import draw

SMALL = TransferConfig(
    size=48,
    per_class=(1, 2, 50),
    draws=2,
    maps=0.02,
    fc=0.001,
    source_epochs=1,
    epochs=1,
    epoch_images=12,
    batch_size=4,
)


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    return Profile(
        "p",
        "P",
        seed=5,
        data=DataConfig(size=60, resize=64),
        training=TrainingConfig(),
        sections={"transfer": SMALL},
    )


def test_halves_of_the_classes_are_disjoint_and_whole():
    for count in (4, 7, 10):
        known, new = split_classes(count, seed=1)
        assert sorted(known + new) == list(range(count)) and len(new) - len(known) in (0, 1)
    assert len({str(split_classes(10, seed)) for seed in range(6)}) > 1 and split_classes(
        10, 2
    ) == split_classes(10, 2)
    with pytest.raises(ValueError, match="3 classes: at least 4"):
        split_classes(3, 0)


def test_only_keeps_the_images_of_its_classes_and_their_order():
    everything = data(count=24, classes=4)
    kept = only(everything, [3, 1])
    where = [i for i in range(24) if i % 4 in (1, 3)]
    assert kept.classes == ("d", "b") == kept.val.classes
    assert torch.equal(kept.train.pixels, everything.train.pixels[where])
    assert (
        kept.train.labels.tolist() == [{3: 0, 1: 1}[i % 4] for i in where]
        and everything.train.labels[1] == 1
    )


@pytest.mark.parametrize("fc", [(7, 5), (6,)])
def test_layer_7_is_the_last_rectified_hidden_layer(fc):
    torch.manual_seed(0)
    net, images = ZFNet(3, input_size=60, maps=(4, 4, 4, 4, 4), fc=fc).train(), data(count=8).val
    found, pooled = (
        layer7(net, images, batch_size=3),
        net.features(images.batch(range(8))).flatten(1),
    )
    for n in range(6, 6 + len(fc)):
        layer = getattr(net.classifier, f"fc{n}")
        pooled = (pooled @ layer.weight.T + layer.bias).clamp_min(0)
    torch.testing.assert_close(found, pooled.detach(), rtol=1e-4, atol=1e-4)
    assert found.shape == (8, fc[-1]) and found.max() > 0 and net.training


def test_layer_7_of_torchvisions_nets_and_of_a_net_that_has_none():
    import torchvision

    torch.manual_seed(0)
    net, images = (
        torchvision.models.alexnet(num_classes=3).eval(),
        data(count=4, stored=70, size=64).val,
    )
    with torch.no_grad():
        expected = net.classifier[:6](net.avgpool(net.features(images.batch(range(4)))).flatten(1))
    torch.testing.assert_close(layer7(net, images), expected, rtol=1e-4, atol=1e-5)
    # a head without one: the mean over space of the last maps
    net = ZFNet(3, input_size=60, maps=(2, 2, 2, 2, 2), fc=()).eval()
    images = data(count=4).val
    with torch.no_grad():
        expected = net.features[:-1](images.batch(range(4))).mean((2, 3))
    torch.testing.assert_close(layer7(net, images), expected, rtol=1e-4, atol=1e-5)


def test_softmax_is_at_the_minimum_of_its_penalised_loss():
    rng = np.random.default_rng(0)
    x, y = (
        torch.tensor(rng.normal(size=(40, 6)), dtype=torch.float64),
        torch.tensor(rng.integers(0, 3, 40)),
    )
    softmax = fit_softmax((x, y), (x, y))
    weight, bias = (
        torch.tensor(part, dtype=torch.float64).requires_grad_()
        for part in (softmax.coef_, softmax.intercept_)
    )
    loss = (
        F.cross_entropy(x @ weight.T + bias, y, reduction="sum")
        + weight.square().sum() / 2 / softmax.C
    )
    assert max(g.abs().max() for g in torch.autograd.grad(loss, (weight, bias))) < 0.05


def test_strength_is_chosen_on_the_validation_images_the_weakest_of_equals():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = F.one_hot(y, 3).double() * 20 + torch.randn(60, 3, generator=generator, dtype=torch.float64)
    assert fit_softmax((x, y), (x, y)).C == 1e-4  # all strengths are right everywhere
    flipped = torch.cat([x[:30], x[:6].roll(1, 0)]), torch.cat([y[:30], y[:6]])
    scores = []
    for strength in [10.0**power for power in range(-4, 4)]:
        from sklearn.linear_model import LogisticRegression

        scores.append(
            class_accuracy(
                LogisticRegression(C=strength, max_iter=300)
                .fit(flipped[0].numpy(), flipped[1].numpy())
                .predict(x.numpy()),
                y,
            )
        )
    assert [10.0**power for power in range(-4, 4)][scores.index(max(scores))] == fit_softmax(
        flipped, (x, y)
    ).C


@pytest.mark.slow
def test_both_ends_of_a_transfer(profile):
    everything = data(count=24, classes=4)
    task = prepare_task(profile, everything, seed=2)
    known, new = split_classes(4, 2)
    assert task.source_classes == tuple("abcd"[i] for i in known) and task.target.classes == tuple(
        "abcd"[i] for i in new
    )
    own = dataclasses.replace(
        profile,
        name="p/transfer/source-2",
        data=dataclasses.replace(profile.data, size=48),
        model=dataclasses.replace(profile.model, maps=(2, 5, 8, 8, 5), fc=(4, 4)),
    )
    assert torch.equal(task.features["pretrained"][1], layer7(load_model(own), task.target.val))
    assert task.features["pretrained"][1].shape == task.features["untrained"][1].shape
    assert not torch.equal(task.features["pretrained"][1], task.features["untrained"][1])
    assert counts(SMALL.per_class, task.target.train.labels) == (1, 2)
    curve = accuracy_curve(task, seed=1)
    assert curve.per_class == (1, 2) and curve.chance == 0.5 and set(curve.accuracy) == set(ARMS)
    chosen = draw(task.target.train.labels, 2, 1 * 1009 + 1)
    assert curve.accuracy["pretrained"][1, 1] == softmax_accuracy(task, chosen)
    assert curve.accuracy["untrained"][1, 1] == softmax_accuracy(task, chosen, "untrained")
    weights = profile.runs / "transfer" / "1-scratch-2-1" / "weights.safetensors"
    when = weights.stat().st_mtime_ns
    assert (
        curve.accuracy["scratch"][1, 1]
        == scratch_accuracy(task, chosen, "1-scratch-2-1", profile.seed + 1)
        and weights.stat().st_mtime_ns == when
    )
    net = load_model(dataclasses.replace(own, name="p/transfer/1-scratch-2-1"))
    test = task.target.test
    right = [
        [
            int(net(test.batch([i])).argmax()) == label
            for i in range(len(test))
            if int(test.labels[i]) == label
        ]
        for label in (0, 1)
    ]
    assert curve.accuracy["scratch"][1, 1].item() == pytest.approx(
        sum(sum(hits) / len(hits) for hits in right) / 2
    )


class Brightness(nn.Module):
    """Class 0 for images brighter than the mean, class 1 for the others."""

    def __init__(self):
        super().__init__()
        self.sign = nn.Parameter(torch.tensor([1.0, -1.0]))

    def forward(self, images):
        return images.mean((1, 2, 3))[:, None] * self.sign


def test_accuracy_from_scratch_is_counted_on_the_test_images(profile, monkeypatch):
    task = prepare_task(profile, data(count=40, classes=4))
    monkeypatch.setattr(
        "zfnet.training.small_nets.trained_quietly", lambda own, small: Brightness()
    )
    counted = {}
    for name, images in (("val", task.target.val), ("test", task.target.test)):
        right = [
            (float(images.batch([i]).mean()) <= 0) == bool(images.labels[i])
            for i in range(len(images))
        ]
        counted[name] = (
            sum(
                sum(r for r, label in zip(right, images.labels.tolist(), strict=True) if label == c)
                / 10
                for c in (0, 1)
            )
            / 2
        )
    found = scratch_accuracy(task, draw(task.target.train.labels, 2, 0), "x", 0)
    assert found == pytest.approx(counted["test"]) and found != pytest.approx(counted["val"])


@pytest.mark.slow
def test_the_source_may_be_another_profile(profile, monkeypatch):
    everything = data(count=24, classes=4)
    other = dataclasses.replace(
        profile, name="other", title="Other", data=dataclasses.replace(profile.data, gain=2.0)
    )
    torch.manual_seed(0)
    net = ZFNet(2, input_size=60, maps=(2, 2, 2, 2, 2), fc=(3, 3)).eval()
    monkeypatch.setattr("zfnet.experiments.transfer.compute.load_profile", lambda name: other)
    monkeypatch.setattr(
        "zfnet.experiments.transfer.compute.load_data",
        lambda found: data(count=8, classes=2, seed=4),
    )
    monkeypatch.setattr("zfnet.training.run.trained", lambda found, its: net)
    task = prepare_task(
        profile.with_sections(transfer=dataclasses.replace(SMALL, source="other")),
        everything,
    )
    # the other's crops are as large; its mean is 0, its deviation 1
    seen = (everything.test.pictures(range(24)).float() - 0.0) * 2.0
    with torch.no_grad():
        expected = nn.Sequential(*list(net.classifier.children())[:5])(
            net.features(seen).flatten(1)
        )
    torch.testing.assert_close(task.features["pretrained"][2], expected, rtol=1e-4, atol=1e-3)
    assert (
        task.target.classes == tuple("abcd")
        and task.source == "Other"
        and task.source_classes == ("a", "b")
    )


def curve_by_hand():
    values = {
        "pretrained": [[0.5, 0.7], [0.8, 0.8]],
        "untrained": [[0.2, 0.2], [0.3, 0.3]],
        "scratch": [[0.4, 0.4], [0.7, 0.9]],
    }
    return Curve(
        (2, 10),
        {arm: torch.tensor(rows, dtype=torch.float64) for arm, rows in values.items()},
        0.25,
    )


def test_table_and_worth_by_hand(profile):
    first, *_ = lines = table(curve_by_hand())
    assert (first["pretrained"], first["pretrained_std"], first["scratch"], first["chance"]) == (
        60.0,
        14.1,
        40.0,
        25.0,
    )
    assert [(line["per_class"], line["pretrained"], line["scratch"]) for line in lines[2:]] == [
        (15, 83.8, 22.8),
        (30, 86.5, 46.5),
        (15, 65.7, 9.0),
        (30, 70.6, 22.5),
        (45, 72.7, 31.2),
        (60, 74.2, 38.8),
    ]
    assert worth(curve_by_hand(), 2) == pytest.approx(2 + 8 * (0.6 - 0.4) / (0.8 - 0.4)) and worth(
        curve_by_hand(), 10
    ) == pytest.approx(10)
    better = Curve(
        (2, 10), {**curve_by_hand().accuracy, "pretrained": torch.full((2, 2), 0.95)}, 0.25
    )
    assert worth(better, 2) == float("inf")
    with pytest.raises(ValueError, match="n = 3: the curve has 2, 10"):
        worth(curve_by_hand(), 3)
    body = [
        line
        for line in plots.save_table(lines, profile, "x").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert len(list(csv.DictReader(body))) == 8


def test_figure_draws_our_means_and_the_papers_numbers():
    figure = transfer_figure(curve_by_hand(), "title")
    ours, papers = figure.axes
    lines = [
        line.get_ydata().tolist() for container in ours.containers for line in container.lines[:1]
    ]
    assert [np.round(line, 6).tolist() for line in lines] == [[60, 80], [20, 30], [40, 80]]
    drawn = sorted(tuple(line.get_ydata()) for line in papers.lines)
    assert drawn == [(9.0, 22.5, 31.2, 38.8), (22.8, 46.5), (65.7, 70.6, 72.7, 74.2), (83.8, 86.5)]
    plt.close("all")


def test_messages_say_the_cure(profile):
    with pytest.raises(ValueError, match=r"transfer\.source = 'p' is the profile itself"):
        prepare_task(profile.with_sections(transfer=dataclasses.replace(SMALL, source="p")), data())
    with pytest.raises(
        ValueError, match="'p' is of a pretrained net: set `transfer: source: p` in one that trains"
    ):
        prepare_task(dataclasses.replace(profile, training=None), data())
    with pytest.raises(
        ValueError, match=r"transfer.per_class = \[50\]: the smallest class has 6 training images"
    ):
        counts((50,), data().train.labels)
