"""Table 3: the nets that are named, their errors against a loop over images, the table by hand."""

from __future__ import annotations

import csv
import dataclasses

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.collections import PathCollection

from tests.helpers.random_data import data
from zfnet import plots
from zfnet.experiments.ablation import AblationConfig
from zfnet.experiments.ablation.compute import (
    ROWS,
    ablate,
    ablation_data,
    changes,
    row_profile,
    table,
)
from zfnet.experiments.ablation.figure import ablation_figure
from zfnet.models.build import build_model, load_model
from zfnet.models.zfnet import AlexNet, ZFNet
from zfnet.store.profiles import DataConfig, Profile, TrainingConfig

ROW = {row.key: row for row in ROWS}
SMALL = AblationConfig(
    size=48, images=16, seeds=2, maps=0.02, fc=0.001, epochs=2, batch_size=8, lr=0.01
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
        sections={"ablation": SMALL},
    )


def test_full_size_rows_have_the_parameters_that_their_layers_imply():
    kernels = {"alexnet": (11, 5, 3, 3, 3), "zfnet": (7, 5, 3, 3, 3)}
    for row in ROWS:
        channels, count = 3, 0
        for width, kernel in zip(row.maps, kernels[row.net], strict=True):
            if width:
                count += width * (channels * kernel**2 + 1)
                channels = width
        inputs = channels * 36
        for width in (*row.fc, 1000):
            count, inputs = count + width * (inputs + 1), width
        model = row.model()
        assert (model.maps, model.fc, model.name) == (row.maps, row.fc, row.net)
        with torch.device("meta"):
            net = (AlexNet if row.net == "alexnet" else ZFNet)(1000, maps=model.maps, fc=model.fc)
        assert sum(p.numel() for p in net.parameters()) == count
        if row.key == "zfnet":
            assert count == 62_357_608


def test_rows_differ_from_their_net_in_nothing_but_what_they_name():
    plain = ROW["alexnet"]
    for key, maps, fc in (
        ("alexnet-without-3-4", (96, 256, 0, 0, 256), (4096, 4096)),
        ("alexnet-without-7", plain.maps, (4096,)),
        ("alexnet-without-6-7", plain.maps, ()),
        ("alexnet-without-3-4-6-7", (96, 256, 0, 0, 256), ()),
        ("alexnet-fc-half", plain.maps, (2048, 2048)),
        ("zfnet-wide", (96, 256, 512, 1024, 512), (4096, 4096)),
        ("zfnet-wide-fc-double", (96, 256, 512, 1024, 512), (8192, 8192)),
    ):
        assert (ROW[key].maps, ROW[key].fc) == (maps, fc)
    assert [row.net for row in ROWS] == ["alexnet"] * 7 + ["zfnet"] * 5
    assert all("without" not in row.key for row in ROWS if row.net == "zfnet")


def test_scaling_keeps_left_out_layers_out_and_none_vanishes():
    model = ROW["alexnet-without-3-4-6-7"].model(0.25, 0.0625)
    assert (model.maps, model.fc) == ((24, 64, 0, 0, 64), ())
    assert ROW["alexnet-fc-double"].model(0.25, 0.0625).fc == (512, 512)
    assert ROW["zfnet"].model(0.001, 0.0001).maps == (1, 1, 1, 1, 1)


def test_layers_that_are_left_out_are_not_there(profile):
    small = ablation_data(profile, data())
    names = [
        name
        for name, _ in build_model(
            row_profile(profile, small, ROW["alexnet-without-3-4"], 0), 4
        ).features.named_children()
    ]
    assert names == [
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
    head = build_model(row_profile(profile, small, ROW["alexnet-without-7"], 0), 4).classifier
    assert [name for name, _ in head.named_children()] == ["fc6", "relu6", "drop6", "fc8"]


@pytest.mark.slow
def test_errors_are_those_counted_image_by_image_and_rows_resume(profile):
    everything, rows = data(classes=8, count=48), [ROW["alexnet"], ROW["alexnet-without-6-7"]]
    errors = ablate(profile, everything, rows)
    small = ablation_data(profile, everything)
    assert small.train.labels.bincount().tolist() == [2] * 8 and len(small.val) == 48
    for row in rows:
        assert errors[row.key].shape == (2, 4) and errors[row.key].dtype == torch.float64
        for seed in range(2):
            own = row_profile(profile, small, row, seed)
            model, wrong, outside = load_model(own), [], 0
            for images in (small.train, small.val, small.test):
                orders = [
                    model(images.batch([i]))[0].argsort(descending=True).tolist()
                    for i in range(len(images))
                ]
                wrong.append(
                    sum(
                        order[0] != label
                        for order, label in zip(orders, images.labels.tolist(), strict=True)
                    )
                    / len(images)
                )
                if images is small.val:
                    outside = sum(
                        label not in order[:5]
                        for order, label in zip(orders, images.labels.tolist(), strict=True)
                    ) / len(images)
            assert errors[row.key][seed].tolist() == pytest.approx(
                [wrong[0], wrong[1], outside, wrong[2]]
            )
            assert (
                own.runs == profile.runs / "ablation" / f"{row.key}-{seed}" and own.seed == 5 + seed
            )
    written = {path: path.stat().st_mtime_ns for path in profile.runs.rglob("*.safetensors")}
    (profile.runs / "ablation" / "alexnet-1" / "errors.safetensors").unlink()
    again = ablate(profile, everything, rows)
    assert all(torch.equal(again[key], errors[key]) for key in errors)
    kept = [path for path, when in written.items() if path.stat().st_mtime_ns == when]
    assert len(written) == 8 and len(kept) == 7
    changed = ablate(
        profile.with_sections(ablation=dataclasses.replace(SMALL, seeds=1, lr=0.02)),
        everything,
        rows[:1],
    )
    assert (
        changed["alexnet"].shape == (1, 4)
        and (profile.runs / "ablation/alexnet-0/weights.safetensors").stat().st_mtime_ns
        not in written.values()
    )


def by_hand():
    """Two seeds; every row as the unchanged one but for two."""
    base = torch.tensor([[0.10, 0.20, 0.0, 0.3], [0.20, 0.40, 0.1, 0.5]], dtype=torch.float64)
    errors = {row.key: base.clone() for row in ROWS}
    errors["alexnet-without-6-7"] = base + torch.tensor([[0.0, 0.01, 0, 0], [0.0, 0.05, 0, 0]])
    errors["zfnet-wide"] = base - torch.tensor([[0.02, 0.0, 0, 0], [0.02, 0.0, 0, 0]])
    return errors


def test_table_and_changes_by_hand():
    lines = {line["row"]: line for line in table(by_hand())}
    assert (
        len(lines) == 12
        and lines["alexnet"]["train_error"] == 15.0
        and lines["alexnet"]["train_std"] == pytest.approx(7.07)
    )
    assert (
        lines["alexnet-without-6-7"]["val_error"] == 33.0
        and lines["alexnet-without-6-7"]["paper_val"] == 44.8
        and lines["alexnet"]["seeds"] == 2
    )
    # 1 and 5 points
    assert (
        lines["alexnet-without-6-7"]["val_change"],
        lines["alexnet-without-6-7"]["val_change_std"],
    ) == (3.0, 2.83)
    assert (
        lines["alexnet"]["val_change"] == ""
        and lines["zfnet"]["val_change"] == 0.0
        and lines["zfnet-wide"]["val_change_std"] == 0.0
    )
    found = changes(by_hand())
    assert set(found) == {row.key for row in ROWS} - {"alexnet", "zfnet"}
    assert found["alexnet-without-6-7"] == pytest.approx((3.0, 8**0.5, 4.3), abs=1e-6)
    assert changes(by_hand(), "train")["zfnet-wide"] == pytest.approx((-2.0, 0.0, -14.3), abs=1e-6)
    with pytest.raises(ValueError, match="column = 'test': choose one of train, val, val_top5"):
        changes(by_hand(), "test")


def test_papers_numbers_are_those_of_table_3():
    assert [row.paper for row in ROWS] == [
        (35.1, 40.5, 18.1),
        (41.8, 45.4, 22.1),
        (27.4, 40.0, 18.4),
        (27.4, 44.8, 22.4),
        (71.1, 71.3, 50.1),
        (40.3, 41.7, 18.8),
        (26.8, 40.0, 18.1),
        (33.1, 38.4, 16.5),
        (38.2, 40.2, 17.6),
        (22.0, 38.8, 17.0),
        (18.8, 37.5, 16.0),
        (10.0, 38.3, 16.9),
    ]


def test_figure_draws_every_seed_and_the_papers_numbers(profile):
    figure = ablation_figure(by_hand(), "title")
    for axis, column, points in zip(figure.axes[:2], (0, 1), (12, 12), strict=True):
        drawn = [
            c.get_offsets().tolist() for c in axis.collections if isinstance(c, PathCollection)
        ]
        xs = [x for offsets in drawn for x, _ in offsets]
        assert len(xs) == points * 3 and sorted(row.paper[column] for row in ROWS) == pytest.approx(
            sorted(o[0][0] for o in drawn if len(o) == 1)
        )
    path = plots.save_table(table(by_hand()), profile, "x")
    body = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert len(list(csv.DictReader(body))) == 12
    plt.close("all")


def test_messages_say_the_cure(profile):
    with pytest.raises(
        ValueError, match=r"'p' is of a pretrained net.*choose one with a `training:` section"
    ):
        ablation_data(dataclasses.replace(profile, training=None), data())
    with pytest.raises(ValueError, match=r"ablation\.images = 3: fewer than the 4 classes"):
        ablation_data(profile.with_sections(ablation=dataclasses.replace(SMALL, images=3)), data())
