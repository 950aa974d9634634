"""A net on another profile's images: splits against sets, L-BFGS and the cells of the table against
scikit-learn's own solvers.
"""

from __future__ import annotations

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from zfnet import ZFNet, load_profile
from zfnet.data.files import Files
from zfnet.data.load import load_data
from zfnet.experiments import linear
from zfnet.experiments.probes import ProbesConfig, compute, target
from zfnet.experiments.probes.features import features
from zfnet.experiments.probes.figure import probes_figure
from zfnet.experiments.transfer import TransferConfig
from zfnet.experiments.transfer import compute as transfer
from zfnet.experiments.transfer.figure import transfer_figure
from zfnet.store.profiles import DataConfig, ModelConfig
from zfnet.training import small_nets

MAPS, FC = (4, 5, 4, 5, 6), (9, 8)


# classifiers


def blobs(count, classes=5, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    return centres[labels] + 1.5 * torch.randn(count, width, generator=generator), labels


@pytest.mark.parametrize("kind", ["svm", "softmax"])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_lbfgs_finds_the_classifier_of_scikit_learn(kind, strength):
    (x, y), (z, _) = blobs(60), blobs(200, seed=1)
    found = linear.fit(kind, (x, y), strength)
    if kind == "svm":
        theirs = LinearSVC(C=strength, tol=1e-7, max_iter=10**5, random_state=0).fit(x, y)
        biases = theirs.intercept_
    else:  # its bias is free: one more feature, of ones, is penalised as ours
        ones = np.hstack([x, np.ones((60, 1))])
        theirs = LogisticRegression(C=strength, tol=1e-8, max_iter=10**4, fit_intercept=False)
        theirs.fit(ones, y)
        biases = theirs.coef_[:, -1]
    expected = torch.tensor(np.vstack([theirs.coef_.T[:12], biases]))
    # the softmax's weights are fixed but for what all classes share, which the penalty makes zero
    assert (found.weight - expected).norm() < 0.03 * expected.norm()
    scores = z.numpy() @ theirs.coef_.T[:12] + biases
    assert np.mean(found.predict(z.numpy()) == scores.argmax(1)) > 0.98
    warm = linear.fit(kind, (x, y), strength, linear.fit(kind, (x, y), strength / 10))
    assert (warm.weight - expected).norm() < 0.03 * expected.norm()


def test_c_is_chosen_on_one_half_of_the_training_images():
    x, y = blobs(60)
    grid = (0.0001, 0.003, 0.1, 3.0)
    a, b = next(StratifiedKFold(2, shuffle=True, random_state=0).split(x, y))
    scores = []
    for strength in grid:
        model = LinearSVC(C=strength, tol=1e-7, max_iter=10**5, random_state=0).fit(x[a], y[a])
        right = model.predict(x[b]) == y[b].numpy()
        scores.append(np.mean([right[y[b].numpy() == k].mean() for k in range(5)]))
    found, strength = linear.chosen("svm", (x, y), grid)
    assert strength == grid[int(np.argmax(scores))] and len(set(scores)) > 2
    whole = linear.fit("svm", (x, y), strength).weight
    assert (found.weight - whole).norm() < 0.03 * whole.norm()
    easy = (x + 100 * torch.eye(12)[y], y)
    assert linear.chosen("svm", easy, (10.0, 1.0, 100.0))[1] == 1.0


# images


def test_splits_are_balanced_disjoint_and_seeded():
    labels = torch.tensor([0, 1, 2] * 7 + [2] * 9)
    one = target.split(labels, 5, seed=3, most=4)
    assert (labels[one.train] == torch.tensor([[0], [1], [2]])).all() and one.train.shape == (3, 5)
    assert labels[one.test].bincount().tolist() == [2, 2, 4]
    rows = [*one.train.flatten().tolist(), *one.test.tolist()]
    assert len(set(rows)) == len(rows)
    again, other = (target.split(labels, 5, seed, 4) for seed in (3, 4))
    assert torch.equal(again.train, one.train) and torch.equal(again.test, one.test)
    assert not torch.equal(other.train, one.train)
    with pytest.raises(ValueError, match="class 0 has 7 images: too few for 7 to train and one to"):
        target.split(labels, 7, seed=0)


@pytest.fixture
def setting(tmp_path, monkeypatch):
    """A profile and its net, and the profile "other", which has 90 shapes."""
    demo = load_profile("demo")
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    small = TransferConfig(
        targets=("other",),
        size=48,
        per_class=(2, 3),
        draws=2,
        maps=0.02,
        fc=0.001,
        epochs=1,
        epoch_images=12,
        batch_size=4,
    )
    probes = ProbesConfig(per_class=(2, 3), draws=2, features=50, targets=("other",))
    own = dataclasses.replace(
        demo,
        name="own",
        data=DataConfig(count=40, resize=56, size=52, gain=3.0),
        model=ModelConfig(maps=MAPS, fc=FC),
        sections={"probes": probes, "transfer": small},
    )
    data = DataConfig(count=90, resize=64, size=60, train_per_class=3)
    other = dataclasses.replace(own, name="other", title="Other", seed=4, data=data)
    for module in ("probes.target", "transfer.compute", "probes.figure"):
        name = f"zfnet.experiments.{module}.load_profile"
        monkeypatch.setattr(name, lambda name: {"other": other}[name])
    torch.manual_seed(8)
    return own, ZFNet(10, input_size=52, maps=MAPS, fc=FC).eval(), other


def test_the_pool_has_all_images_of_the_target_as_this_net_takes_them(setting):
    own, _, other = setting
    like = load_data(own).train
    images = target.pool(own, "other", like)
    assert len(images) == 90 and images.labels.bincount().tolist() == [9] * 10
    assert (images.size, images.gain) == (52, 3.0) and torch.equal(images.mean, like.mean)
    whole = dataclasses.replace(other.data, resize=56, size=52, train_per_class=None)
    parts = load_data(dataclasses.replace(other, name="whole", data=whole))
    expected = {
        one.numpy().tobytes()
        for part in (parts.train, parts.val, parts.test)
        for one in part.pixels
    }
    assert {one.numpy().tobytes() for one in images.pixels} == expected and len(expected) == 90


def test_images_in_files_stay_there(tmp_path):
    def part(names):
        entries = [(name, 1, 1) for name in names]
        labels = torch.arange(len(names))
        mean = torch.zeros(3, 1, 1)
        files = Files(tmp_path, entries, 8)
        return target.Images(files, labels, ("a", "b"), 8, mean, mean + 1)

    found = target.joined(part(["x", "y"]), part(["z"]))
    assert [name for name, *_ in found.pixels.entries] == ["x", "y", "z"]
    assert found.labels.tolist() == [0, 1, 0]


# the table


def test_a_cell_is_the_accuracy_of_scikit_learns_svm(setting, monkeypatch):
    own, net, _ = setting
    monkeypatch.setitem(target.STRENGTHS, "svm", (1.0,))
    data, cells = load_data(own), [("trained", "svm", 1), ("random weights", "svm", 1)]
    found = target.run_target(own, net, data, "other", cells, progress=False)
    images = target.pool(own, "other", data.train)
    x, y = features(net, images, [1], 50)[1], images.labels
    for number, one in enumerate(target.splits(images, 3, 2, "other")):
        for row, count in enumerate((2, 3)):
            rows = one.train[:, :count].flatten()
            scaler = StandardScaler().fit(x[rows])
            model = LinearSVC(C=1.0, tol=1e-6, max_iter=10**5)
            model.fit(scaler.transform(x[rows]) / x.shape[1] ** 0.5, y[rows])
            right = model.predict(scaler.transform(x[one.test]) / x.shape[1] ** 0.5)
            right = torch.from_numpy(right) == y[one.test]
            expected = np.mean([float(right[y[one.test] == k].float().mean()) for k in range(10)])
            accuracy = found.accuracy["trained", "svm", 1][row, number].item()
            assert accuracy == pytest.approx(expected, abs=0.02)
    assert found.accuracy["trained", "svm", 1].mean() > 0.15
    assert not torch.equal(*found.accuracy.values())
    assert (found.n_val, found.n_test, found.classes, found.target) == (0, 60, 10, "other")


def test_features_are_computed_once_and_an_interrupted_table_goes_on(setting, monkeypatch):
    own, net, _ = setting
    data, taken, made = load_data(own), [], []
    plain = features
    name = "zfnet.experiments.probes.features.features"
    monkeypatch.setattr(name, lambda *each: (taken.append(1), plain(*each))[1])

    def measured(kind, *_):
        made.append(kind)
        if len(made) == 6:
            raise KeyboardInterrupt
        return 0.5, 1.0

    monkeypatch.setattr(target, "measure", measured)
    with pytest.raises(KeyboardInterrupt):
        target.run_all(own, net, data)
    tables = target.run_all(own, net, data)
    assert list(tables) == ["15_probes"] and len(tables["15_probes"].accuracy) == 18
    # four a cell; the first one was kept; once for the net and once for the random one
    assert len(made) == 6 + 17 * 4 and len(taken) == 2
    target.run_all(own, net, data)
    assert len(made) == 6 + 17 * 4 and len(taken) == 2


def made_up():
    accuracy = {
        ("trained", "svm", 1): [[0.2, 0.4], [0.5, 0.9]],
        ("trained", "svm", 5): [[0.6, 0.8], [0.8, 1.0]],
        ("trained", "softmax", 5): [[0.3, 0.3], [1, 1]],
        ("random weights", "svm", 1): [[0.1, 0.2]] * 2,
        ("random weights", "svm", 5): [[0.1, 0.1]] * 2,
    }
    accuracy = {key: torch.tensor(values, dtype=torch.float64) for key, values in accuracy.items()}
    penalty = {key: torch.ones(2, 2) for key in accuracy}
    dimensions = {1: 96, 5: 512}
    return compute.Probes((15, 30), accuracy, penalty, dimensions, 0, 50, 10, "caltech101")


def drawn(axis, marker):
    return {
        (round(float(x), 6), round(float(y), 6))
        for line in axis.lines
        if line.get_marker() == marker
        for x, y in zip(*line.get_data(), strict=True)
    }


def test_the_figure_has_every_split_and_the_papers_numbers():
    figure = probes_figure(made_up(), "T", names={1: "conv1", 5: "fire9"})
    left, right = figure.axes
    assert drawn(left, "o") == {(1, 70), (5, 90), (1, 15), (5, 10)}
    assert drawn(left, ".") == {(0.88, y) for y in (50, 90, 10, 20)} | {
        (4.88, y) for y in (80, 100, 10)
    }
    assert drawn(left, "D") == {(1, 44.8), (5, 86.2)} and drawn(right, "D") == set()
    assert drawn(left, "x") == {(5.16, 100)} and drawn(right, "x") == {(5.16, 30)}
    assert [text.get_text() for text in left.get_xticklabels()] == ["1\nconv1", "5\nfire9"]
    assert "86.2" in [text.get_text() for text in left.texts]
    plt.close("all")


def test_the_csv_has_every_split():
    assert [row["splits"] for row in compute.table(made_up())[:2]] == [
        "0.2000 0.4000",
        "0.5000 0.9000",
    ]


# Tables 4 and 5


def test_all_arms_see_the_same_splits(setting, monkeypatch):
    own, net, other = setting
    data, seen = load_data(own), {}
    monkeypatch.setitem(target.STRENGTHS, "softmax", (1.0,))

    def noted(task, chosen, name, seed):
        seen[name] = task
        assert chosen.tolist() == list(range(len(task.target.train))) and not len(task.target.val)
        return float(len(seen))

    monkeypatch.setattr(transfer, "scratch_accuracy", noted)
    monkeypatch.setattr("zfnet.training.run.trained", lambda profile, data: net)
    (curve,) = transfer.all_curves(own, data, None).values()
    assert curve.accuracy["scratch"].tolist() == [[1, 2], [3, 4]]
    images = target.pool(other, "other", memory=1.0)
    small = small_nets.resized(images, 48, images.mean, images.std, 1.0)
    for number, one in enumerate(target.splits(images, 3, 2, "other")):
        for count in (2, 3):
            task = seen[f"split-{count}-{number}"]
            rows = one.train[:, :count].flatten()
            assert torch.equal(task.target.train.pixels, small.pixels[rows])
            assert torch.equal(task.target.test.labels, images.labels[one.test])
    cells = [("trained", "softmax", 7), ("random weights", "softmax", 7)]
    found = target.run_target(own, net, data, "other", cells, progress=False)
    assert torch.equal(curve.accuracy["pretrained"], found.accuracy[cells[0]])
    assert torch.equal(curve.accuracy["untrained"], found.accuracy[cells[1]])
    assert (curve.per_class, curve.chance, curve.n_test) == ((2, 3), 0.1, 60)


@pytest.mark.slow
def test_a_net_from_scratch_learns_from_its_split_alone(setting):
    other = setting[2]
    first = transfer.scratch_on_target("other", (2, 3), 2, progress=False)
    made = (other.runs / "transfer" / "split-3-1" / "weights.safetensors").stat().st_mtime_ns
    assert first.shape == (2, 2) and (first > 0).all() and (first < 1).all()
    assert torch.equal(first, transfer.scratch_on_target("other", (2, 3), 2, progress=False))
    assert (
        other.runs / "transfer" / "split-3-1" / "weights.safetensors"
    ).stat().st_mtime_ns == made


def test_the_whole_net_stands_beside_those_from_scratch(tmp_path, setting):
    other = setting[2]
    values = torch.tensor([[0.5, 0.75], [0.8, 0.8]], dtype=torch.float64)
    accuracy = dict.fromkeys(transfer.ARMS, values)
    curve = transfer.Curve((2, 3), accuracy, 0.1, 60, "Own", "other")
    assert (
        transfer.whole_net("other") is None and transfer.table(curve)[2]["data"][:8] == "Caltech-"
    )
    other.figures.mkdir(parents=True)
    table = "# profile: other\ncrops,per_class_accuracy\n1,0.5447\n10,0.5552\n"
    (other.figures / "01_train.csv").write_text(table)
    assert transfer.whole_net("other") == (3, 0.5447)
    row = transfer.table(curve)[2]
    assert (row["data"], row["per_class"], row["scratch"]) == (
        "ZFNet of profile other, one split",
        3,
        54.5,
    )
    left = transfer_figure(curve, "T").axes[0]
    assert (3, 54.47) in drawn(left, "*") and (2.08, 75) in drawn(left, ".")
    plt.close("all")


@pytest.mark.parametrize("section", ["probes", "transfer"])
def test_targets_are_other_profiles(tmp_path, section):
    path = tmp_path / "alexnet.yaml"
    for name in ("alexnet", "caltech"):
        path.write_text(f"title: T\n{section}: {{targets: [demo, {name}]}}")
        message = rf"alexnet.yaml: {section}: targets = \['{name}'\]: other profiles .* demo, "
        with pytest.raises(ValueError, match=message):
            load_profile(path)
