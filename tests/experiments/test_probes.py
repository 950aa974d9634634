"""Table 7: layers against hooks on the nets' own forward pass, probes against plain scikit-learn on
the features as they are.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from tests.helpers.stubs import forbidden
from zfnet import AlexNet, Images, ZFNet, load_profile
from zfnet.data.images import Data
from zfnet.experiments.probes import ProbesConfig
from zfnet.experiments.probes import compute as probes
from zfnet.experiments.probes.features import grid_side
from zfnet.experiments.probes.figure import probes_figure
from zfnet.methods.depth import depths, last_hidden, layer_outputs
from zfnet.models.build import build_model
from zfnet.store.profiles import DataConfig, ModelConfig

SIZE = 64


# layers


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: ZFNet(3, input_size=SIZE), "pool1 pool2 relu3 relu4 pool5 relu6 relu7"),
        (
            lambda: ZFNet(3, input_size=SIZE, lrn="after"),
            "norm1 norm2 relu3 relu4 pool5 relu6 relu7",
        ),
        (
            lambda: AlexNet(3, input_size=SIZE, lrn="before"),
            "pool1 pool2 relu3 relu4 pool5 relu6 relu7",
        ),
        (lambda: ZFNet(3, input_size=SIZE, fc=()), "pool1 pool2 relu3 relu4 pool5"),
        (lambda: torchvision.models.alexnet(), "2 5 7 9 12 2 5"),
        (lambda: torchvision.models.vgg16(), "4 9 16 23 30 1 4"),
        (lambda: torchvision.models.vgg19(), "4 9 18 27 36 1 4"),
    ],
)
def test_where_the_layers_of_each_net_end(make, expected):
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.init, "trunc_normal_", lambda tensor, *_, **__: tensor)  # needs no weights
        found = depths(make())
    assert found == {
        n: name if n <= 5 else f"classifier.{name}"
        for n, name in enumerate(expected.split(), start=1)
    }


class Inplace(nn.Module):
    """Five layers with in-place ReLUs and dropout, as torchvision writes them."""

    def __init__(self):
        super().__init__()
        layers = [
            layer
            for a, b in ((3, 4), (4, 5), (5, 3), (3, 4), (4, 2))
            for layer in (nn.Conv2d(a, b, 3, 2, 1), nn.ReLU(inplace=True))
        ]
        self.features = nn.Sequential(*layers, nn.MaxPool2d(2, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(8, 6),
            nn.ReLU(True),
            nn.Dropout(0.5),
            nn.Linear(6, 5),
            nn.ReLU(True),
            nn.Linear(5, 3),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Inplace().train()


@pytest.fixture
def inputs():
    return 3 * torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def hooked(net, inputs):
    """Outputs of every module in eval mode: {("features", "1"): …}."""
    kept = {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, out, key=(part, name): kept.update({key: out.detach().clone()})
        )
        for part in ("features", "classifier")
        for name, module in getattr(net, part).named_children()
    ]
    net.eval()(inputs.clone())
    for hook in hooks:
        hook.remove()
    net.train()
    return kept


def test_layer_outputs_are_those_of_the_forward_pass(net, inputs):
    before, expected = inputs.clone(), hooked(net, inputs)
    net.features.eval()
    found = layer_outputs(net, inputs, [7, 1, 5, "9", "logits", 6, 3])
    assert set(found) == {7, 1, 5, "9", "logits", 6, 3}
    for layer, module in {1: "1", 3: "5", 5: "10", "9": "9"}.items():
        assert (
            torch.allclose(found[layer], expected["features", module], atol=1e-5)
            and found[layer].std() > 0
        )
    assert torch.allclose(found[6], expected["classifier", "2"], atol=1e-5) and torch.allclose(
        found[7], expected["classifier", "5"], atol=1e-5
    )
    assert torch.allclose(found["logits"], expected["classifier", "6"], atol=1e-5)
    assert found[7].shape == (5, 5) and not found[7].requires_grad
    assert torch.equal(inputs, before)
    # every module has its own mode back
    assert net.classifier.training and not net.features[1].training


def test_the_last_hidden_layer_has_a_number(net):
    assert (
        last_hidden(net) == 7
        and last_hidden(ZFNet(3, input_size=SIZE, maps=(2,) * 5, fc=(4,))) == 6
    )
    assert last_hidden(ZFNet(3, input_size=SIZE, maps=(2,) * 5, fc=())) == "pooled"
    with pytest.raises(ValueError, match=r"^Conv2d has no rectified layer$"):
        last_hidden(nn.Conv2d(3, 2, 3))


def test_only_the_layers_that_are_asked_for_are_computed(net, inputs):
    net.features[6].forward = None  # the fourth convolution must not run
    assert set(layer_outputs(net, inputs, (2, 3))) == {2, 3}


def test_an_unknown_layer_is_named(net, inputs):
    with pytest.raises(ValueError, match="layer 8: this net has 1, 2, 3, 4, 5, 6, 7, 0, 1"):
        layer_outputs(net, inputs, (1, 8))


# features


@pytest.mark.parametrize(
    ("channels", "side", "limit", "expected"),
    [
        (96, 23, 4096, 6),
        (256, 5, 4096, 4),
        (256, 2, 4096, 2),
        (10, 9, 90, 3),
        (10, 9, 89, 2),
        (10, 9, 9, 1),
        (1, 3, 10**6, 3),
    ],
)
def test_the_grid_is_the_finest_that_is_allowed(channels, side, limit, expected):
    assert grid_side(channels, side, limit) == expected
    assert expected == 1 or channels * expected**2 <= limit
    assert expected == side or channels * (expected + 1) ** 2 > limit


def pictures(count, seed=0, classes=3):
    """Noise with a brighter quarter of the picture for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 120, (count, 3, SIZE, SIZE), generator=generator)
    for one, label in zip(pixels, labels.tolist(), strict=True):
        row, col = divmod(label, 2)
        one[label % 3, row * 32 : row * 32 + 32, col * 32 : col * 32 + 32] += 9
    return Images(
        pixels.to(torch.uint8),
        labels,
        [f"class {n}" for n in range(classes)],
        SIZE,
        torch.full((3, 1, 1), 60.0),
        torch.full((3, 1, 1), 30.0),
    )


def test_features_are_maps_averaged_over_a_grid(net):
    images = pictures(7)
    found = probes.features(net, images, [1, 5, 7], limit=4 * 16 * 16, batch_size=3)
    expected = hooked(net, images.batch(range(7)))
    maps = expected["features", "1"]  # 32 x 32, in a grid of 16 x 16
    slow = [
        maps[n, c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean().item()
        for n in range(7)
        for c in range(4)
        for y in range(16)
        for x in range(16)
    ]
    assert np.allclose(found[1].flatten(), slow, atol=1e-5)
    assert torch.allclose(found[7], expected["classifier", "5"], atol=1e-5)
    # a single position: left as it is
    assert torch.allclose(found[5], expected["features", "10"].flatten(1), atol=1e-5)


# probes


def blobs(count, classes=4, width=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    scale = torch.linspace(0.01, 30, width)
    return (
        centres[labels] + 3.2 * torch.randn(count, width, generator=generator)
    ).double() * scale + 5, labels


def test_coordinates_keep_the_inner_products_of_standardised_features():
    (train, _), (test, _) = blobs(20), blobs(9, seed=1)
    train[:, 3], test[:, 3] = 7, 8  # constant in training: not stretched
    scaler = StandardScaler().fit(train)
    a, b = (scaler.transform(x) / np.sqrt(60) for x in (train, test))
    x, z = probes.coordinates(train, test)
    assert x.shape == (20, 20) and z.shape == (9, 20)
    assert np.allclose(x @ x.T, a @ a.T, atol=1e-10) and np.allclose(z @ x.T, b @ a.T, atol=1e-10)
    wide = probes.coordinates(torch.cat([train] * 5))[0]
    assert wide.shape == (100, 60)


def by_hand(kind, train, val, test, grid):
    """scikit-learn on all standardised features; accuracies as means over classes."""
    scaler = StandardScaler().fit(train[0])
    x, x_val, x_test = (
        scaler.transform(part[0]) / np.sqrt(train[0].shape[1]) for part in (train, val, test)
    )
    best = None
    for penalty in grid:
        kwargs = {"tol": 1e-6, "max_iter": 20000, "C": penalty}
        model = (
            LinearSVC(dual=True, random_state=1, **kwargs)
            if kind == "svm"
            else LogisticRegression(**kwargs)
        ).fit(x, train[1])
        scores = [
            np.mean([(model.predict(z)[y == k] == k).mean() for k in range(4)])
            for z, y in ((x_val, val[1].numpy()), (x_test, test[1].numpy()))
        ]
        if best is None or scores[0] > best[0]:
            best = (*scores, penalty)
    return best[1], best[2]


@pytest.mark.parametrize("kind", ["svm", "softmax"])
def test_a_probe_against_scikit_learn_without_shortcuts(kind):
    # unequal classes: the mean over classes is not the share of images
    train, val, test = blobs(40), blobs(81, seed=1), blobs(83, seed=2)
    grid = (0.001, 0.03, 1.0, 30.0)
    accuracy, penalty = probes.probe(kind, train, val, test, grid)
    assert (accuracy, penalty) == pytest.approx(by_hand(kind, train, val, test, grid))
    assert 0.3 < accuracy < 0.98


def test_of_equal_penalties_the_smallest_is_taken_and_the_test_images_do_not_choose():
    train, val, test = blobs(40), blobs(40), blobs(83, seed=2)
    easy = (train[0] + 1000 * torch.eye(60)[train[1]].double(), train[1])
    assert probes.probe("svm", easy, easy, test, (10.0, 1.0, 100.0))[1] == 1.0
    chosen = probes.probe("svm", train, val, test)[1]
    flipped = (test[0], (test[1] + 1) % 4)
    assert probes.probe("svm", train, val, flipped)[1] == chosen


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="kind = 'forest': choose one of 'svm', 'softmax'"):
        probes.probe("forest", *[(torch.zeros(2, 2), torch.tensor([0, 1]))] * 3)


# which images


def test_draws_are_seeded_balanced_and_nested():
    labels = torch.tensor([0, 1, 2] * 7 + [2])
    rows = probes.draw(labels, 5, seed=3)
    assert (labels[rows] == torch.tensor([[0], [1], [2]])).all() and rows.unique().numel() == 15
    assert torch.equal(rows, probes.draw(labels, 5, seed=3)) and not torch.equal(
        rows, probes.draw(labels, 5, seed=4)
    )
    assert torch.equal(rows[:, :2], probes.draw(labels, 2, seed=3))
    with pytest.raises(
        ValueError,
        match=(
            "class 0 has 7 training images, fewer than the 8 of the probes: lower `probes:"
            " per_class:`"
        ),
    ):
        probes.draw(labels, 8, seed=0)


def test_held_out_takes_so_many_of_every_class():
    images = pictures(20)
    images.labels[:9] = 0
    chosen = probes.held_out(images, 4, seed=0)
    have, got = images.labels.bincount(), chosen.labels.bincount()
    assert got.tolist() == have.clamp_max(4).tolist() and len(chosen) < len(images)
    assert len({one.numpy().tobytes() for one in chosen.pixels}) == len(chosen)
    assert torch.equal(chosen.pixels, probes.held_out(images, 4, seed=0).pixels)
    assert not torch.equal(chosen.pixels, probes.held_out(images, 4, seed=1).pixels)


# the table


@pytest.fixture
def setting(tmp_path, monkeypatch):
    demo = load_profile("demo")
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    profile = replace(
        demo,
        name="tiny",
        seed=5,
        data=DataConfig(size=SIZE),
        model=ModelConfig(maps=(4, 5, 4, 5, 6), fc=(9, 8)),
        sections={"probes": ProbesConfig(per_class=(2, 4), draws=3, features=50)},
    )
    data = Data(
        pictures(30, 1), pictures(24, 2), pictures(27, 3), tuple(f"class {n}" for n in range(3))
    )
    torch.manual_seed(8)
    return profile, ZFNet(3, input_size=SIZE, maps=(4, 5, 4, 5, 6), fc=(9, 8)), data


@pytest.mark.slow
def test_every_cell_of_the_table_is_the_probe_it_names(setting):
    profile, model, data = setting
    found = probes.run_probes(profile, model, data, progress=False)
    assert set(found.accuracy) == {
        (net, *kind)
        for net in probes.NETS
        for kind in [*(("svm", n) for n in range(1, 8)), ("softmax", 5), ("softmax", 7)]
    }
    assert found.dimensions == {
        1: 4 * 3 * 3,
        2: 5 * 3 * 3,
        3: 4 * 3 * 3,
        4: 5 * 3 * 3,
        5: 6 * 1 * 1,
        6: 9,
        7: 8,
    }
    assert (found.n_val, found.n_test) == (24, 27)
    nets = {"trained": model, "random weights": build_model(profile, 3)}
    for (net, kind, layer), row, number in (
        (("trained", "svm", 2), 1, 2),
        (("random weights", "svm", 6), 0, 1),
        (("trained", "softmax", 7), 1, 0),
    ):
        size, chosen = (
            profile.probes.per_class[row],
            probes.draw(data.train.labels, 4, 5000 + number),
        )
        train = data.train.subset(chosen[:, :size].flatten().sort().values)
        parts = [
            (probes.features(nets[net], part, [layer], 50)[layer], part.labels)
            for part in (train, data.val, data.test)
        ]
        expected = probes.probe(kind, *parts)
        assert (
            found.accuracy[net, kind, layer][row, number].item(),
            found.penalty[net, kind, layer][row, number].item(),
        ) == pytest.approx(expected)
    assert not torch.equal(
        found.accuracy["trained", "svm", 2], found.accuracy["random weights", "svm", 2]
    )


@pytest.mark.slow
def test_the_table_is_kept_until_something_changes(setting, monkeypatch):
    profile, model, data = setting
    profile = profile.with_sections(probes=replace(profile.probes, per_class=(2,), draws=1))
    calls = []
    monkeypatch.setattr(probes, "probe", lambda kind, *_: (calls.append(kind), (0.25, 0.1))[1])
    first = probes.run_probes(profile, model, data, progress=False)
    assert len(calls) == 18 and len(list((profile.runs / "probes").glob("*.safetensors"))) == 18
    again = probes.run_probes(profile, model, data, progress=False)
    assert (
        len(calls) == 18
        and again.dimensions == first.dimensions
        and again.accuracy["trained", "svm", 1].tolist() == [[0.25]]
    )
    with torch.no_grad():
        model.classifier.fc7.bias += 1
    probes.run_probes(profile, model, data, progress=False)
    assert len(calls) == 36
    probes.run_probes(replace(profile, seed=6), model, data, progress=False)
    assert len(calls) == 54


def test_draws_that_take_every_image_are_one(setting, monkeypatch):
    profile, model, data = setting
    profile = profile.with_sections(probes=replace(profile.probes, per_class=(2, 10), draws=3))
    calls = []
    monkeypatch.setattr(probes, "probe", lambda kind, *_: (calls.append(kind), (0.25, 0.1))[1])
    found = probes.run_probes(profile, model, data, progress=False)
    assert len(calls) == 18 * (3 + 1) and found.accuracy["trained", "svm", 1].shape == (2, 3)


@pytest.mark.slow
def test_an_interrupted_table_goes_on_where_it_stopped(setting, monkeypatch):
    profile, model, data = setting
    whole = probes.run_probes(profile, model, data, progress=False)
    shutil.rmtree(profile.runs / "probes")
    plain, calls = probes.probe, []

    def stopped(kind, *parts):
        calls.append(kind)
        if len(calls) == 60:  # within the tenth layer of 6 probes each
            raise KeyboardInterrupt
        return plain(kind, *parts)

    monkeypatch.setattr(probes, "probe", stopped)
    with pytest.raises(KeyboardInterrupt):
        probes.run_probes(profile, model, data, progress=False)
    again = probes.run_probes(profile, model, data, progress=False)
    assert len(calls) == 60 + 9 * 6
    assert all(
        torch.equal(again.accuracy[cell], whole.accuracy[cell])
        and torch.equal(again.penalty[cell], whole.penalty[cell])
        for cell in whole.accuracy
    )


@pytest.mark.slow
def test_coarser_and_finer_grids_are_the_probes_they_name(setting, monkeypatch):
    profile, model, data = setting
    found = probes.run_grids(profile, model, data, most=5)
    # the maps of layers 2 and 3 are 3 x 3
    assert set(found) == {(1, 4), (2, 5), (3, 4), (1, 36), (2, 45), (3, 36), (1, 196)}
    train = data.train.subset(probes.draw(data.train.labels, 4, 5000).flatten())
    held = [probes.held_out(part, 5, 5) for part in (data.val, data.test)]
    for layer, count, limit in ((1, 4, 3), (2, 45, 50), (1, 196, 200)):
        parts = [
            (probes.features(model, part, [layer], limit)[layer], part.labels)
            for part in (train, *held)
        ]
        assert parts[0][0].shape[1] == count
        assert found[layer, count] == pytest.approx(probes.probe("svm", *parts)[0])
    monkeypatch.setattr(probes, "probe", forbidden(probes.probe))
    assert probes.run_grids(profile, model, data, most=5) == found


def made_up():
    accuracy = {
        ("trained", "svm", 5): [[0.2, 0.4], [0.5, 0.9]],
        ("trained", "softmax", 7): [[0.3, 0.3], [1, 1]],
        ("random weights", "svm", 5): [[0.1, 0.2]] * 2,
    }
    accuracy = {key: torch.tensor(values, dtype=torch.float64) for key, values in accuracy.items()}
    return probes.Probes(
        (2, 30),
        accuracy,
        {key: torch.full((2, 2), 0.1) for key in accuracy},
        {5: 1024, 7: 512},
        40,
        50,
        10,
    )


def test_the_csv_by_hand():
    rows = probes.table(made_up())
    assert rows[1] == {
        "net": "trained",
        "classifier": "svm",
        "layer": 5,
        "features": 1024,
        "images_per_class": 30,
        "accuracy": "0.7000",
        "std": "0.2828",
        "draws": 2,
        "C": "0.1 0.1",
        "paper_caltech101": 86.2,
        "paper_caltech256": 65.6,
    }
    assert [(row["accuracy"], row["paper_caltech101"]) for row in rows] == [
        ("0.3000", ""),
        ("0.7000", 86.2),
        ("0.3000", ""),
        ("1.0000", 85.4),
        ("0.1500", ""),
        ("0.1500", ""),
    ]


def test_the_figure_shows_the_numbers():
    figure = probes_figure(made_up(), "T", 0.9)
    ours, paper = figure.axes
    marked = [line for line in ours.lines if line.get_marker() in ("o", "x")]
    points = {
        (float(x), round(float(y), 6), line.get_marker())
        for line in marked
        for x, y in zip(*line.get_data(), strict=True)
    }
    assert points == {(5, 30, "o"), (5, 70, "o"), (5, 15, "o"), (7.13, 30, "x"), (7.13, 100, "x")}
    assert {(5.0, 86.2), (7.0, 71.7), (1.0, 44.8)} <= {
        tuple(map(float, point))
        for line in paper.lines
        for point in zip(*line.get_data(), strict=True)
    }
    levels = {
        round(float(line.get_ydata()[0]), 6) for line in ours.lines if line.get_linestyle() == ":"
    }
    assert levels == {10, 90}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("probes: {per_class: [5, 5]}", "probes.per_class = .*give at least one, each once"),
        ("probes: {per_class: [0]}", r"probes.per_class\[0\] = 0: must be positive"),
        ("probes: {draws: 0}", "probes.draws = 0: must be positive"),
        ("probes: {features: -1}", "probes.features = -1: must be positive"),
    ],
)
def test_a_bad_profile_is_explained(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text("title: T\n" + text)
    with pytest.raises(ValueError, match=message):
        load_profile(tmp_path / "p.yaml")
