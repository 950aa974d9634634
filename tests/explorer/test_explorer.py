"""The explorer by its widgets' values: what is shown equals Deconvnet, scan, occlude and the
model's own forward pass.
"""

from __future__ import annotations

import datetime
import io
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from zfnet import Deconvnet, ZFNet, load_profile, occlude, plots, receptive_field, scan
from zfnet.data import photographs as photos
from zfnet.explorer import Explorer
from zfnet.explorer.click_picture import ClickPicture
from zfnet.explorer.state import State, ready_profiles
from zfnet.store import artefacts, keys, profiles

NOW = datetime.datetime(2020, 1, 1)
YAML = """
title: Few shapes
data: {count: 60, resize: 72, size: 66, gain: 2.0, validation: 0.4}
model: {maps: [4, 5, 4, 6, 5], fc: [8]}
training: {epochs: 1}
occlusion: {size: 20, stride: 9}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A project of its own with two profiles: one whose net has weights, one whose has none."""
    folder, patch = tmp_path_factory.mktemp("project"), pytest.MonkeyPatch()
    (folder / "profiles").mkdir()
    (folder / "profiles" / "few.yaml").write_text(YAML)
    (folder / "profiles" / "other.yaml").write_text(
        YAML.replace("Few", "Other").replace("seed: 0", "") + "seed: 1\n"
    )
    (folder / "profiles" / "bare.yaml").write_text(YAML)
    patch.setattr(profiles, "ROOT", folder)
    for seed, name in enumerate(("few", "other")):
        torch.manual_seed(seed)
        net = ZFNet(10, input_size=66, maps=(4, 5, 4, 6, 5), fc=(8,))
        artefacts.save_tensors(load_profile(name).weights_file, net.state_dict(), {})
    yield folder
    patch.undo()


@pytest.fixture
def explorer(root):
    return Explorer("few", image=3)


def forward(explorer, image):
    """The maps of every layer, by name, and the probabilities, from the modules themselves."""
    x, found = image[None], {}
    with torch.no_grad():
        for name, module in explorer.net.model.features.named_children():
            x = found[name] = module(x)
        return found, explorer.net.model(image[None]).softmax(1)[0]


def matches(explorer, image, unit="chosen"):
    """Every array shown, against the net and the Deconvnet called directly on this input."""
    found, probabilities = forward(explorer, image)
    name, channel = explorer.layers[explorer.layer.value], explorer.channel.value
    assert torch.allclose(explorer.map, found[name][0, channel], atol=1e-5) and torch.allclose(
        explorer.clean, probabilities, atol=1e-5
    )
    position = (explorer.row.value, explorer.col.value) if unit == "chosen" else None
    assert torch.allclose(
        explorer.projection,
        Deconvnet(explorer.net.model).project(image[None], name, channel, position)[0],
        atol=1e-5,
    )
    top, left, size = explorer.top.value, explorer.left.value, explorer.size.value
    covered = image.clone()
    covered[:, top : top + size, left : left + size] = 0
    found, probabilities = forward(explorer, covered)
    assert torch.allclose(explorer.covered, probabilities, atol=1e-5) and torch.allclose(
        explorer.covered_map, found[name][0, channel], atol=1e-5
    )
    assert explorer.activity == pytest.approx(
        (float(explorer.map.sum()), float(found[name][0, channel].sum())), rel=1e-4
    )


def shown(picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.png)))


def test_the_state_alone_by_its_methods(root):
    """What is chosen and computed, without a widget: against the net called directly."""
    imported = {path.stem for path in keys.reached("zfnet.explorer.state")}
    assert "state" in imported and not {"panel", "click_picture"} & imported
    state = State("few", image=3, layer=2)
    image, square = state.images.batch([3]), slice(20, 40)
    state.choose_map(4)
    state.choose_unit(1, 2)
    state.choose_square(20, 20)
    covered = image.clone()
    covered[..., square, square] = 0
    deconvnet = Deconvnet(state.net.model)
    with torch.no_grad():
        assert torch.allclose(state.covered, state.net.model(covered).softmax(1)[0], atol=1e-5)
    assert torch.allclose(
        state.covered_map, deconvnet.activations(covered, "relu2")[0, 4], atol=1e-5
    )
    whole = {True: None, False: (1, 2)}
    for each, position in whole.items():
        state.choose_unit(1, 2, whole=each)
        expected = deconvnet.project(image, "relu2", 4, position)[0]
        assert torch.allclose(state.projection, expected, atol=1e-5) and state.unit == position
    state.sweep()
    assert state.nearest == (2, 2) and state.swept.tops[2] == 18


def test_what_it_opens_with(explorer):
    image = explorer.images.batch([3])[0]
    matches(explorer, image)
    found, _ = forward(explorer, image)
    totals = found["relu5"][0].sum((1, 2))
    assert (
        explorer.layer.value == 5
        and explorer.channel.value == int(totals.argmax()) == explorer.strongest.value
    )
    assert divmod(int(explorer.map.argmax()), explorer.map.shape[1]) == (
        explorer.row.value,
        explorer.col.value,
    )
    assert (explorer.size.value, explorer.size.max, explorer.top.value, explorer.top.max) == (
        20,
        33,
        23,
        46,
    )
    assert (
        explorer.target == int(explorer.clean.argmax())
        and explorer.image.max == len(explorer.images) - 1
    )


def test_layer_map_and_unit(explorer):
    image = explorer.images.batch([3])[0]
    for layer, channel in ((2, 3), (1, 0), (4, 5)):
        explorer.layer.value = layer
        explorer.channel.value = channel
        matches(explorer, image)
        explorer.row.value, explorer.col.value = 1, 2 % (explorer.col.max + 1)
        matches(explorer, image)
        field = receptive_field(explorer.net.model, explorer.name, 66)
        assert explorer.box == field.box(explorer.row.value, explorer.col.value)
        assert (explorer.row.max + 1, explorer.col.max + 1) == field.map_size
        explorer.whole_map.value = True
        matches(explorer, image, unit=None)
        assert explorer.unit is None and explorer.pictures["map"].marks == []
        explorer.whole_map.value = False
    explorer.layer.value = 2
    second = explorer.strongest.options[1][1]
    explorer.strongest.value = second
    assert explorer.channel.value == second
    matches(explorer, image)


def test_the_top_nine_are_those_of_the_scan(explorer):
    explorer.layer.value = 3
    explorer.channel.value = 2
    top = scan(explorer.net.model, explorer.images, "relu3")["relu3"]
    projections, patches = plots.top9_tiles(
        Deconvnet(explorer.net.model), explorer.images, "relu3", top, torch.tensor([2])
    )
    for ours, expected in zip(explorer.top9, (projections[0], patches[0]), strict=True):
        assert len(ours) == 9 and all(
            np.allclose(a, b, atol=1e-5) for a, b in zip(ours, expected, strict=True)
        )


def test_the_square(explorer):
    image = explorer.images.batch([3])[0]
    for top, left in ((0, 0), (46, 46), (5, 31)):
        explorer.top.value, explorer.left.value = top, left
        matches(explorer, image)
    explorer.size.value = 31  # its centre stays, as far as the image reaches
    assert (explorer.top.value, explorer.left.value) == (
        0,
        round(31 + 10 - 15.5),
    ) and explorer.top.max == 35
    matches(explorer, image)
    pixels = shown(explorer.pictures["covered"])
    mean = explorer.images.mean.flatten().round().numpy()
    assert np.abs(pixels[:31, 26:57] - mean).max() <= 1 and np.array_equal(
        pixels[32:], np.asarray((explorer.rgb * 255).round(), np.uint8)[32:]
    )
    assert explorer.pictures["covered"].marks == [[0, 26, 31, 31]]


def test_every_position_is_occlude(explorer):
    explorer.channel.value = 1
    explorer.sweep.click()
    image = explorer.images.batch([3])[0]
    found = occlude(explorer.net.model, image, explorer.target, 20, 9, layer="relu5", channel=1)
    for name in ("probability", "activity", "label", "tops"):
        assert torch.allclose(
            getattr(explorer.swept, name).double(), getattr(found, name).double(), atol=1e-5
        )
    for i, j in ((0, 0), (2, 3)):  # and the single position says the same
        explorer.top.value, explorer.left.value = int(found.tops[i]), int(found.lefts[j])
        assert float(explorer.covered[explorer.target]) == pytest.approx(
            float(found.probability[i, j]), abs=1e-5
        )
        assert explorer.activity[1] == pytest.approx(float(found.activity[i, j]), rel=1e-4)
        assert explorer.pictures["probability"].marks == [[i, j, 1, 1]]


def test_clicks(explorer):
    image = explorer.images.batch([3])[0]
    explorer.layer.value = 2
    explorer.whole_map.value = True
    picture = explorer.pictures["map"]
    picture.point = [2.7, 1.1, 1]  # what the browser sends
    assert (explorer.row.value, explorer.col.value, explorer.whole_map.value, picture.answered) == (
        2,
        1,
        False,
        1,
    )
    matches(explorer, image)
    assert picture.marks == [[2, 1, 1, 1]]
    picture = explorer.pictures["covered"]
    for n, (point, corner) in enumerate((((33.0, 20.4), (23, 10)), ((1.0, 65.9), (0, 46)))):
        picture.point = [*point, n]
        assert (explorer.top.value, explorer.left.value) == corner and picture.answered == n + 1
        matches(explorer, image)


def test_another_image_from_the_data_or_from_a_file(explorer):
    explorer.image.value = 7
    matches(explorer, explorer.images.batch([7])[0])
    picture, file = photos.photograph("chelsea"), io.BytesIO()
    picture.save(file, "png")
    explorer.upload.value = (
        {
            "name": "cat.png",
            "type": "image/png",
            "size": 1,
            "content": file.getvalue(),
            "last_modified": NOW,
        },
    )
    edge = min(picture.size)
    left, top = (picture.width - edge) / 2, (picture.height - edge) / 2
    pixels = np.asarray(
        picture.resize((66, 66), Image.Resampling.BICUBIC, (left, top, left + edge, top + edge))
    )
    image = (
        (torch.from_numpy(pixels.copy()).movedim(-1, 0).float() - explorer.images.mean)
        / explorer.images.std
        * 2
    )
    matches(explorer, image)
    assert explorer.title == "cat.png" and explorer.status.value == ""
    explorer.upload.value = (
        {"name": "<b>.png", "type": "", "size": 1, "content": b"no picture", "last_modified": NOW},
    )
    assert "&lt;b&gt;.png is not an image that can be read" in explorer.status.value
    matches(explorer, image)
    explorer.image.value = 2
    assert explorer.status.value == ""
    matches(explorer, explorer.images.batch([2])[0])


def test_another_profile(explorer):
    explorer.layer.value = 1
    first = explorer.net.model.features.conv1.weight
    explorer.profile.value = "other"
    assert (
        explorer.status.value == ""
        and not torch.equal(explorer.net.model.features.conv1.weight, first)
        and explorer.layer.value == 5
    )
    matches(explorer, explorer.images.batch([0])[0])


def test_what_cannot_be_opened_is_said_and_the_old_one_stays(explorer, root):
    assert ready_profiles() == ["few", "other"]
    explorer.profile.options = ["few", "other", "bare"]
    explorer.profile.value = "bare"
    assert (
        "profile &#x27;bare&#x27; is not trained here: `make train PROFILE=bare` trains it"
        in explorer.status.value
    )
    assert explorer.profile.value == "few"
    matches(explorer, explorer.images.batch([3])[0])
    for wrong, message in (
        ({"profile": "bare"}, "is not trained here"),
        ({"image": 99}, "image 99: choose 0 to"),
        ({"layer": 6}, "no layer 6: this net has"),
        ({"channel": 5}, "no channel 5 in relu5, which has channels 0 to 4"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            Explorer(**{"profile": "few", **wrong})
    assert Explorer("few", layer=4, channel=5).channel.value == 5


def test_the_figure_shows_the_same(explorer):
    explorer.row.value = 0
    figure = explorer.figure()
    panels = {axes.get_title().split(",")[0].split(":")[0]: axes for axes in figure.axes}
    channel = explorer.channel.value
    assert np.allclose(
        panels[f"map {channel} of layer 5"].images[0].get_array(), explorer.map.numpy()
    )
    scale = plots.contrast_scale(explorer.projection)
    assert np.allclose(
        panels["projected"].images[0].get_array(),
        plots.to_grey_centred(explorer.projection, scale),
        atol=0.01,
    )
    assert np.allclose(
        panels[f"p({explorer.net.called(explorer.target)})"].images[0].get_array(),
        explorer.swept.probability.numpy(),
    )
    assert np.allclose(
        panels[f"activity of map {channel}"].images[0].get_array(), explorer.swept.activity.numpy()
    )
    widths = [bar.get_width() for bar in panels["first guesses"].patches]
    classes = explorer.classes_shown()
    assert widths == pytest.approx(
        [*explorer.clean[classes].tolist(), *explorer.covered[classes].tolist()]
    )
    plt.close(figure)


def test_the_latency_is_measured_against_the_net_itself(explorer, monkeypatch):
    assert explorer.latency(3)["difference"] < 1e-5
    at = explorer.live.at
    monkeypatch.setattr(
        explorer.live, "at", lambda *given: (at(*given)[0] + torch.arange(10.0), time.sleep(0.05))
    )
    found = explorer.latency(3)
    assert found["live"] > 0.05 > found["full pass"] > 0 and found["difference"] > 0.01


def test_a_picture_shows_its_pixels_and_answers_even_when_the_answer_fails():
    picture = ClickPicture()
    pixels = np.random.default_rng(0).random((3, 5, 3))
    picture.show(pixels, [(1, 2, 1, 1)])
    assert np.array_equal(shown(picture), (pixels * 255).round().astype(np.uint8)) and (
        picture.rows,
        picture.cols,
    ) == (3, 5)
    heard = []
    picture.on_point(lambda row, col: heard.append(1 / (row - 2)))
    with pytest.raises(ZeroDivisionError):
        picture.point = [2.0, 1.0, 1]
    picture.point = [3.0, 1.0, 2]
    assert picture.answered == 2 and heard == [1.0]
