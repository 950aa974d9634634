"""The command line's pictures: what they are drawn from equals Deconvnet, occlude and brute force
called directly; every error is one clear line.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib
import io
import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from zfnet import (
    Deconvnet,
    ZFNet,
    load_data,
    load_profile,
    occlude,
    plots,
    receptive_field,
    scan,
    strongest_channel,
)
from zfnet.cli import photographs
from zfnet.cli.main import main
from zfnet.data import photographs as photos
from zfnet.methods.explain import (
    explain,
    guesses,
    layer_name,
    read_photo_folder,
    read_photos,
    target_class,
)
from zfnet.models import named as nets
from zfnet.store import artefacts

pytestmark = pytest.mark.slow

OWN = """
import torch
from torch import nn

class Small(nn.Module):
    input_size, mean, std = 40, (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
    classes = ("ash", "birch", "cedar", "elm")

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(3)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(72, 4))

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

def small():
    return Small()

def headless():
    return nn.Sequential()

def features_only():
    net = Small().features
    net.input_size, net.mean, net.std = 40, (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
    return net

def odd():
    net = Small()
    net.features[1] = nn.Sigmoid()
    return net

def narrow():
    net = Small()
    net.avgpool = nn.Identity()
    return net

def loud():
    net = Small()
    net.mean = (0.1, 0.2)
    return net

def bad():
    raise RuntimeError("no such day")

version = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in: three photographs, a text that is none, a folder of six crops, and a
    module with nets.
    """
    monkeypatch.chdir(tmp_path)
    for name in ("chelsea", "motorcycle"):
        photos.photograph(name).resize((90, 70)).save(f"{name}.png")
    (tmp_path / "notes.jpg").write_text("not a picture")
    (tmp_path / "many" / "more").mkdir(parents=True)
    made = photos.make_photos(12, 48)
    for n, pixels in enumerate(made.images):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(
            tmp_path / "many" / ("more" if n % 2 else ".") / f"{n:02d}.png"
        )
    module = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(OWN)
    return module


def said(capsys, *words) -> str:
    """What a command that succeeds prints."""
    code, (out, err) = main([str(word) for word in words]), capsys.readouterr()
    assert code == 0, err
    return out


def refused(capsys, *words) -> str:
    """The one line of a command that does not."""
    code, (out, err) = main([str(word) for word in words]), capsys.readouterr()
    assert code == 1 and err.count("\n") == 1 and err.startswith("error: "), out + err
    return err.removeprefix("error: ").strip()


def drawn(monkeypatch, name) -> list:
    """What the figure of that name is called with, once a command has run."""
    seen, own = [], getattr(plots, name)
    monkeypatch.setattr(plots, name, lambda *given: seen.append(given) or own(*given))
    return seen


def by_hand(path, net, side):
    """The largest centred square, resized by PIL, normalised: network input (3, side, side)."""
    picture = Image.open(path).convert("RGB")
    edge = min(picture.size)
    left, top = (picture.width - edge) / 2, (picture.height - edge) / 2
    pixels = np.asarray(
        picture.resize(
            (side, side), Image.Resampling.BICUBIC, (left, top, left + edge, top + edge)
        ),
        np.float32,
    )
    return (torch.from_numpy(pixels).permute(2, 0, 1) - net.mean) / net.std * net.gain


# --- Nets by name ---------------------------------------------------------------------------------


def test_without_squeezenet_the_net_is_the_one_in_the_repository(monkeypatch):
    monkeypatch.setattr(nets, "squeezenet_file", lambda: None)
    net, same = nets.load_net(device="cpu"), nets.load_net("photos_zfnet", device="cpu")
    meta = artefacts.read_meta(nets.SHIPPED)
    assert (
        net.size == meta["input"]["size"] == same.size
        and net.gain == same.gain == 6.0
        and len(net.classes) == 101
        and net.classes == same.classes
    )
    assert net.mean.flatten().tolist() == pytest.approx(
        meta["input"]["mean"]
    ) and net.std.flatten().tolist() == pytest.approx(meta["input"]["std"])
    assert net.square == load_profile("photos_zfnet").occlusion == same.square
    x = torch.randn(2, 3, 128, 128)
    assert torch.equal(net.model(x), same.model(x)) and net.model(x).isfinite().all()
    assert not any(module.training for module in net.model.modules())


def test_a_net_of_ones_own(here):
    net = nets.load_net(f"{here}:small", device="cpu", seed=3)
    assert (net.size, net.classes, net.square) == (
        40,
        ("ash", "birch", "cedar", "elm"),
        net.square,
    ) and (net.square.size, net.square.stride) == (10, 2)
    assert net.mean.flatten().tolist() == pytest.approx(
        [102.0, 127.5, 153.0]
    ) and net.std.flatten().tolist() == pytest.approx([51.0, 63.75, 127.5])
    state = torch.random.get_rng_state()
    again, other = (nets.load_net(f"{here}:small", device="cpu", seed=seed) for seed in (3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(
        net.model.features[0].weight, again.model.features[0].weight
    ) and not torch.equal(net.model.features[0].weight, other.model.features[0].weight)
    torch.save(other.model.state_dict(), "other.pth")
    loaded = nets.load_net(f"{here}:small", "other.pth", device="cpu")
    assert torch.equal(loaded.model.features[0].weight, other.model.features[0].weight)
    assert nets.load_net(f"{here}:small", input_size=56, device="cpu").size == 56


class Flat(nn.Module):
    """Stands in for VGG11, of which building alone takes seconds."""

    def __init__(self, num_classes=1000):
        super().__init__()
        self.features, self.avgpool = (
            nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()),
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, num_classes))


def test_torchvisions_nets_take_what_their_weights_expect(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        torchvision.models,
        "get_model",
        lambda name, weights=None, **more: asked.append((name, weights)) or Flat(**more),
    )
    net = nets.load_net("vgg11", device="cpu")
    assert asked[-1] == ("vgg11", torchvision.models.VGG11_Weights.IMAGENET1K_V1)
    assert (
        (net.title, net.size, net.gain) == ("torchvision's vgg11", 224, 1.0)
        and len(net.classes) == 1000
        and net.classes[281] == "tabby"
    )
    assert net.mean.flatten().tolist() == pytest.approx(
        [123.675, 116.28, 103.53]
    ) and net.std.flatten().tolist() == pytest.approx([58.395, 57.12, 57.375])
    own = Flat(10)
    torch.save(own.state_dict(), tmp_path / "own.pth")
    net = nets.load_net("vgg11", tmp_path / "own.pth", device="cpu")
    # ten outputs: ImageNet's names would be wrong ones
    assert asked[-1] == ("vgg11", None) and net.classes == ()
    assert torch.equal(net.model.classifier[2].weight, own.classifier[2].weight)


def test_a_trained_profile_lends_its_net_and_its_input(here, tmp_path):
    profile = tmp_path / "shapes.yaml"
    data = "data: {count: 30, resize: 70, size: 66, gain: 2.0}"
    profile.write_text(
        f"title: Few shapes\n{data}\nmodel: {{maps: [4, 4, 4, 4, 4], fc: [8]}}\ntraining: {{epochs:"
        " 1}\n"
    )
    loaded = load_profile(profile)
    with pytest.raises(
        FileNotFoundError,
        match="profile 'shapes' is not trained here: `make train PROFILE=shapes` trains it",
    ):
        nets.load_net(profile)
    data = load_data(loaded)
    model = ZFNet(10, input_size=66, maps=(4,) * 5, fc=(8,))
    artefacts.save_tensors(loaded.weights_file, model.state_dict(), {})
    try:
        net = nets.load_net(profile, device="cpu")
    finally:
        for path in (loaded.weights_file, loaded.data_file, *loaded.runs.glob(".*.lock")):
            path.unlink()
        loaded.runs.rmdir()
    assert (
        torch.equal(net.mean, data.train.mean)
        and torch.equal(net.std, data.train.std)
        and net.gain == 2.0
        and net.classes == data.classes
    )
    assert (
        torch.equal(net.model.features.conv1.weight, model.features.conv1.weight)
        and net.title == "Few shapes"
        and net.square == loaded.occlusion
    )


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        (
            "vgg91",
            None,
            r"no model 'vgg91'. Did you mean vgg\d\d.* Known: alexnet, .*; a .safetensors file",
        ),
        ("gone.safetensors", None, "no weights at .*gone.safetensors"),
        (
            "plain.safetensors",
            None,
            (
                "plain.safetensors does not say what net it holds; name that too: --model vgg19"
                " --weights plain.safetensors"
            ),
        ),
        ("plain.pth", None, "plain.pth does not say what net it holds"),
        (
            "new.safetensors",
            None,
            "new.safetensors describes its net by depth, which this version does not know",
        ),
        ("OWN:small", "gone.pth", "no weights at .*gone.pth"),
        (
            "OWN:small",
            "notes.jpg",
            "notes.jpg: weights are read from .safetensors, .pth, .pt, .ckpt, .bin, .tar files",
        ),
        ("OWN:small", "plain.pth", "plain.pth does not fit this net: missing features.0.weight"),
        (
            "vgg11",
            "plain.pth",
            "plain.pth has no classifier; expected the weights of a whole vgg11",
        ),
        (
            "no_module_x:small",
            None,
            "'no_module_x:small': no module 'no_module_x' in .* or among the installed packages",
        ),
        (
            "OWN:smal",
            None,
            (
                "'own_.*:smal': own_.* has no callable 'smal'; it has Small, small, headless,"
                " features_only, odd, narrow, loud, bad"
            ),
        ),
        ("OWN:version", None, "has no callable 'version'"),
        ("OWN:bad", None, r"bad\(\) failed: RuntimeError: no such day"),
        (
            "OWN:headless",
            None,
            "holds no Conv2d, so it has no maps to look at",
        ),
        ("OWN:odd", None, "1 is a Sigmoid: there is no accepted rule"),
        (
            "OWN:narrow",
            None,
            (
                r"'own_.*:narrow' does not take images of 3 x 40 x 40 \(mat1 and mat2 .*\); say"
                r" what it takes by .input_size, or --input-size"
            ),
        ),
        (
            "OWN:loud",
            None,
            (
                r"'own_.*:loud': .mean = \(0.1, 0.2\): expected one number, or one for each colour,"
                r" of pixels in 0..1"
            ),
        ),
        (
            "broken:small",
            None,
            "'broken:small': importing broken failed: ZeroDivisionError: division by zero",
        ),
        ("none.yaml", None, "no profile 'none.yaml'"),
    ],
)
def test_a_net_that_cannot_be_had_is_named(here, tmp_path, capsys, name, weights, message):
    artefacts.save_tensors("plain.safetensors", {"x": torch.zeros(2)}, {})
    artefacts.save_tensors(
        "new.safetensors",
        {"x": torch.zeros(2)},
        {"model": {"name": "zfnet", "depth": 9}, "input": {}},
    )
    torch.save({"x": torch.zeros(2)}, "plain.pth")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    words = ["explain", "chelsea.png", "--model", name.replace("OWN", here)]
    found = refused(capsys, *words, *(["--weights", weights] if weights else []))
    assert re.search(message, found), found
    assert not list(tmp_path.glob("*_explain.png"))


def test_weights_that_cannot_be_downloaded_say_what_to_do(monkeypatch):
    def offline(*given, **more):
        if more.get("weights"):
            raise OSError("no route to host")
        return nn.Module()

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(
        FileNotFoundError,
        match=(
            r"vgg19 could not be downloaded \(no route to host\): .* or give a local file:"
            r" --weights FILE"
        ),
    ):
        nets.load_net("vgg19")


# --- explain --------------------------------------------------------------------------------------


def test_the_picture_holds_what_the_deconvnet_gives(here, capsys, monkeypatch):
    seen = drawn(monkeypatch, "explained_figure")
    text = said(
        capsys,
        "explain",
        "chelsea.png",
        "--model",
        f"{here}:small",
        "--layer",
        "2",
        "--top",
        "3",
        "--device",
        "cpu",
    )
    ((picture, found, rows, title),) = seen
    net = nets.load_net(f"{here}:small", device="cpu")
    image = by_hand("chelsea.png", net, 40)
    assert picture.shape == (40, 40, 3) and torch.allclose(
        (torch.from_numpy(picture).movedim(-1, 0) * 255 - net.mean) / net.std, image, atol=1e-4
    )
    maps = net.model.features(image[None])[0].detach()
    order = maps.sum((1, 2)).argsort(descending=True)[:3].tolist()
    assert [one.channel for one in found] == order
    for one in found:
        assert torch.allclose(
            one.maps, maps[one.channel], atol=1e-5
        ) and one.total == pytest.approx(float(maps[one.channel].sum()), rel=1e-4)
        flat = int(maps[one.channel].argmax())
        assert one.unit == (
            flat // maps.shape[2],
            flat % maps.shape[2],
        ) and one.value == pytest.approx(float(maps[one.channel].max()), rel=1e-4)
        deconvnet = Deconvnet(net.model)
        assert torch.allclose(
            one.whole, deconvnet.project(image[None], "4", one.channel)[0], atol=1e-5
        )
        assert torch.allclose(
            one.patch, deconvnet.project(image[None], "4", one.channel, one.unit)[0], atol=1e-5
        )
        assert (
            one.box == receptive_field(net.model, "4", 40).box(*one.unit)
            and float(one.whole.abs().max()) > 0
        )
        assert (
            f"layer 2 (4), map {one.channel}: total activity {one.total:.4g}; strongest unit"
            f" {one.unit}" in text
        )
    best = net.model(image[None]).softmax(1)[0].detach()
    assert (
        f"{net.classes[int(best.argmax())]} {float(best.max()):.2f}" in text
        and rows == ["layer 2\n(4)"] * 3
        and "chelsea.png" in title
    )
    assert Image.open("chelsea_explain.png").size[0] > 1000 and text.endswith(
        "chelsea_explain.png\n"
    )


def test_without_a_layer_there_is_a_row_for_each(here, capsys, monkeypatch):
    seen = drawn(monkeypatch, "explained_figure")
    said(capsys, "explain", "chelsea.png", "--model", f"{here}:small", "--out", "a.pdf")
    assert [one.layer for one in seen[0][1]] == ["1", "4"] and (
        Path("a.pdf").read_bytes()[:4] == b"%PDF"
    )
    said(
        capsys,
        "explain",
        "chelsea.png",
        "--model",
        f"{here}:small",
        "--layer",
        "features.3",
        "--channel",
        "5",
        "--out",
        "a.png",
    )
    assert [(one.layer, one.channel) for one in seen[1][1]] == [("3", 5)]
    said(capsys, "explain", "chelsea.png", "--model", f"{here}:features_only", "--out", "a.png")
    assert "no classifier" in seen[2][3]


def test_the_strongest_map_is_that_of_the_notebook():
    net = nets.load_net("photos_zfnet", device="cpu")
    image = net.images(photos.make_photos(12, 128).images[3:4]).batch([0])
    (one,) = explain(net.model, image[0], "relu4")
    assert one.channel == int(strongest_channel(Deconvnet(net.model), image, "relu4")[0])
    assert torch.allclose(guesses(net, image[0]), net.model(image)[0].softmax(0), atol=1e-6)


def test_a_map_that_does_not_fire_is_drawn_without_a_unit(here):
    net = nets.load_net(f"{here}:small", device="cpu")
    with torch.no_grad():
        net.model.features[3].bias[2] = -1e6
    (one,) = explain(net.model, torch.zeros(3, 40, 40), "4", [2])
    assert one.total == one.value == 0 and not one.whole.any()
    figure = plots.explained_figure(np.zeros((40, 40, 3)), [one], ["layer 2"], "title")
    assert (
        not figure.axes[0].patches
        and not figure.axes[1].lines
        and "never fires" in figure.axes[1].get_xlabel()
    )


def test_layers_by_the_papers_number_and_by_name():
    stack = nn.Sequential(*(part for _ in range(3) for part in (nn.Conv2d(3, 3, 1), nn.ReLU())))
    assert [layer_name(stack, n) for n in (1, 2, "3", "features.3")] == ["1", "3", "5", "3"]
    named = ZFNet(3, input_size=96, maps=(2,) * 5, fc=()).features
    assert [layer_name(named, name) for name in ("5", "relu5", "features.pool1")] == [
        "relu5",
        "relu5",
        "pool1",
    ]
    with pytest.raises(
        ValueError,
        match=(
            r"no layer '4' in this net: the paper's layers are 1 \(1\), 2 \(3\), 3 \(5\); or a"
            r" layer by its name: features.0, "
        ),
    ):
        layer_name(stack, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.jpg"], "no file gone.jpg"),
        (["notes.jpg"], "notes.jpg is not an image that can be read"),
        (["many"], "many is a folder: `zfnet top9` takes one, this takes an image"),
        (
            ["chelsea.png", "--layer", "9"],
            (
                r"no layer '9' in this net: the paper's layers are 1 \(1\), 2 \(4\); or a layer by"
                r" its name: features.0, features.1"
            ),
        ),
        (
            ["chelsea.png", "--layer", "2", "--channel", "8"],
            "no channel 8 in 4, which has channels 0 to 7",
        ),
        (
            ["chelsea.png", "--layer", "2", "--top", "9"],
            "count = 9: choose 1 to 8, the number of channels",
        ),
        (
            ["chelsea.png", "--channel", "8"],
            "--channel and --top are of one layer: say which, --layer L",
        ),
        (
            ["chelsea.png", "--layer", "2", "--channel", "1", "--top", "2"],
            "--channel is one map, --top the strongest ones: give one of the two",
        ),
        (
            ["chelsea.png", "--out", "chelsea.png"],
            "chelsea.png is the image itself; choose another file",
        ),
        (
            ["chelsea.png", "--out", "chelsea.doc"],
            "chelsea.doc: cannot write .doc; choose .png, .jpg, .pdf, .svg",
        ),
        (["chelsea.png", "--out", "no/where.png"], "no/where.png: there is no folder .*no"),
        (
            ["chelsea.png", "--out", "motorcycle.png/x.png"],
            "motorcycle.png/x.png: there is no folder",
        ),
        (
            ["chelsea.png", "--out", "dir.png"],
            "dir.png cannot be written; choose another file: --out FILE",
        ),
        (["chelsea.png", "--device", "tpu9"], "no device 'tpu9': choose cpu"),
        (
            ["chelsea.png", "--input-size", "4"],
            (
                "small. does not take images of 3 x 4 x 4 .*; say what it takes by .input_size, or"
                " --input-size"
            ),
        ),
    ],
)
def test_explain_says_what_is_wrong(here, tmp_path, capsys, words, message):
    (tmp_path / "dir.png").mkdir()
    before = (tmp_path / "chelsea.png").read_bytes()
    found = refused(capsys, "explain", *words, "--model", f"{here}:small")
    assert re.search(message, found), found
    assert (tmp_path / "chelsea.png").read_bytes() == before


def test_a_picture_that_cannot_be_written_after_all_is_said_so(here, capsys, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device", "/somewhere/.x.tmp")

    monkeypatch.setattr(plots, "write_figure", full)
    found = refused(capsys, "explain", "chelsea.png", "--model", f"{here}:small", "--out", "x.png")
    assert (
        found
        == "x.png cannot be written (No space left on device); choose another file: --out FILE"
    )


# --- occlude --------------------------------------------------------------------------------------


def test_the_occlusion_is_that_of_the_notebook(here, capsys, monkeypatch):
    seen = drawn(monkeypatch, "occluded_figure")
    words = ["occlude", "motorcycle.png", "--model", f"{here}:small", "--device", "cpu"]
    text = said(
        capsys,
        *words,
        "--target",
        "Cedar",
        "--size",
        "12",
        "--stride",
        "5",
        "--layer",
        "1",
        "--channel",
        "3",
    )
    ((_, found, own, *_),) = seen
    net = nets.load_net(f"{here}:small", device="cpu")
    image = by_hand("motorcycle.png", net, 40)
    direct = occlude(net.model, image, 2, 12, 5, layer="1", channel=3)
    for field in dataclasses.fields(direct):
        ours, expected = getattr(found, field.name), getattr(direct, field.name)
        same = (
            ours == expected
            if isinstance(expected, str)
            else torch.allclose(torch.as_tensor(ours), torch.as_tensor(expected), atol=1e-4)
        )
        assert same, field.name
    with torch.no_grad():  # one position by hand
        covered = image.clone()
        covered[:, 5:17, 10:22] = 0
        assert float(found.probability[1, 2]) == pytest.approx(
            float(net.model(covered[None]).softmax(1)[0, 2]), rel=1e-4
        )
    assert torch.allclose(
        own.whole, Deconvnet(net.model).project(image[None], "1", 3)[0], atol=1e-5
    )
    row, col = divmod(int(direct.probability.argmin()), direct.probability.shape[1])
    corner = f"row {int(direct.tops[row])}, column {int(direct.lefts[col])}"
    assert (
        f"cedar: {direct.clean_probability:.3f} without the square; {direct.probability.min():.3f}"
        f" at the lowest, the square's corner at {corner}" in text
    )
    said(capsys, *words)  # the net's own first guess, a quarter of the image, a sixteenth at a time
    guess = int(net.model(image[None]).argmax())
    assert (seen[1][1].target, seen[1][1].size, seen[1][1].stride) == (guess, 10, 2)
    said(capsys, *words, "--size", "40")  # one position


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "7"], "no class 7: this net has classes 0 to 3"),
        (["--target", "birhc"], "no class 'birhc'. Did you mean 'birch'?"),
        (["--target", "zebra"], "no class 'zebra'. A number from 0 to 3 will do too"),
        (["--size", "41"], "size = 41: the square must fit into the image of 40 x 40 pixels"),
        (["--layer", "1", "--channel", "6"], "channel 6 is not in 1, which has channels 0 to 5"),
        (
            ["--model", "OWN:features_only"],
            (
                "own_.*:features_only has no classifier: without classes there is no"
                " probability to watch"
            ),
        ),
    ],
)
def test_occlude_says_what_is_wrong(here, capsys, words, message):
    model = [] if "--model" in words else ["--model", f"{here}:small"]
    found = refused(
        capsys, "occlude", "chelsea.png", *(word.replace("OWN", here) for word in words), *model
    )
    assert re.search(message, found), found


def test_a_class_by_its_very_name_its_number_or_its_name_in_another_form():
    plain = nets.Net(nn.Identity(), "t", 8, torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    signs = dataclasses.replace(plain, classes=tuple(map(str, range(1, 44))))  # folders 1 to 43
    assert [target_class(signs, 43, name) for name in ("1", "43", 7, "0")] == [0, 42, 6, 0]
    with pytest.raises(ValueError, match=r"no class 44: .* has classes 0 to 42: 0 1, 1 2, .*, …"):
        target_class(signs, 43, "44")
    decomposed = ("cafe\u0301", "Ha\u0308user", "Stra\u00dfe", "\uff21")
    names = dataclasses.replace(plain, classes=(*decomposed, "crane", "Crane", "heron", "heron"))
    for name, output in (
        *(("caf\u00e9", 0), ("CAFE\u0301", 0), ("h\u00e4user", 1), ("STRASSE", 2), ("a", 3)),
        *(("crane", 4), ("Crane", 5), ("4", 4)),
    ):
        assert target_class(names, 8, name) == output
    with pytest.raises(ValueError, match=r"'CRANE' stands for 2 outputs of this net: .* 4 or 5"):
        target_class(names, 8, "CRANE")
    with pytest.raises(ValueError, match=r"'heron' stands for 2 outputs of this net: .* 6 or 7"):
        target_class(names, 8, "heron")


def test_a_class_whose_name_only_holds_the_word_is_offered():
    net = dataclasses.replace(
        nets.Net(nn.Identity(), "t", 8, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)),
        classes=("tiger cat", "bee"),
    )
    with pytest.raises(ValueError, match=r"no class 'cat'. Did you mean 'tiger cat'\?"):
        target_class(net, 2, "cat")
    assert target_class(net, 2, "TIGER cat") == 0 and target_class(net, 2, "1") == 1
    with pytest.raises(
        ValueError, match="this net's classes have no names; give a number from 0 to 1"
    ):
        target_class(dataclasses.replace(net, classes=()), 2, "cat")


# --- top9 -----------------------------------------------------------------------------------------


def test_the_table_of_top9_is_brute_force(here, tmp_path, capsys, monkeypatch):
    seen = drawn(monkeypatch, "top9_figure")
    model = f"{here}:small"
    said(
        capsys,
        "top9",
        "many",
        "--model",
        model,
        "--layer",
        "2",
        "--top",
        "4",
        "--maps",
        "3",
        "--seed",
        "5",
        "--table",
        "t.csv",
        "--device",
        "cpu",
    )
    net = nets.load_net(model, device="cpu", seed=5)
    files = sorted((tmp_path / "many").rglob("*.png"))
    maps = {
        path.relative_to(tmp_path / "many").as_posix(): (
            net.model.features(by_hand(path, net, 40)[None])[0].detach()
        )
        for path in files
    }
    with open("t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * 4
    for channel in range(8):
        best = sorted(maps, key=lambda name: -float(maps[name][channel].max()))[:4]
        own = [row for row in rows if int(row["map"]) == channel]
        assert [row["rank"] for row in own] == ["1", "2", "3", "4"]
        for name, row in zip(best, own, strict=True):
            one = maps[name][channel]
            assert float(row["activation"]) == pytest.approx(float(one.max()), rel=1e-4, abs=1e-6)
            if one.max() > 0:
                assert row["image"] == name and float(
                    one[int(row["row"]), int(row["col"])]
                ) == pytest.approx(float(one.max()), rel=1e-4)
    ((projections, patches, channels, title, columns),) = seen
    assert len(channels) == 3 and columns == 2 and "12 images" in title and "layer 2 (4)" in title
    alive = [c for c in range(8) if max(float(maps[name][c].max()) for name in maps) > 0]
    assert set(channels.tolist()) <= set(alive) and [len(block) for block in projections] == [
        4,
        4,
        4,
    ]
    for channel, blocks, sources in zip(channels.tolist(), projections, patches, strict=True):
        own = [row for row in rows if int(row["map"]) == channel]
        stack = torch.stack([by_hand(tmp_path / "many" / row["image"], net, 40) for row in own])
        at = torch.tensor([[int(row["row"]), int(row["col"])] for row in own])
        pixels = Deconvnet(net.model).project_patches(stack, "4", channel, at).pixels
        scale = plots.contrast_scale(pixels)
        field = receptive_field(net.model, "4", 40)
        for row, block, source in zip(own, blocks, sources, strict=True):
            top, left, bottom, right = field.box(int(row["row"]), int(row["col"]))
            if (bottom - top, right - left) == field.size:
                image = by_hand(tmp_path / "many" / row["image"], net, 40)
                whole = Deconvnet(net.model).project(
                    image[None], "4", channel, (int(row["row"]), int(row["col"]))
                )
                assert np.allclose(
                    block,
                    plots.to_grey_centred(whole[0, :, top:bottom, left:right], scale),
                    atol=1e-4,
                )
                picture = image * net.std + net.mean
                assert np.allclose(
                    source,
                    (picture[:, top:bottom, left:right] / 255).movedim(0, -1).numpy(),
                    atol=1e-4,
                )


def test_top9_repeats_its_own_warnings_and_not_those_of_python(here, capsys, monkeypatch):
    module = importlib.import_module("zfnet.methods.explain")
    read = module.decode

    def warned(*arguments):
        warnings.warn("2 images cannot be read", stacklevel=1)
        warnings.warn(
            "use of fork() may lead to deadlocks in the child", DeprecationWarning, stacklevel=1
        )
        return read(*arguments)

    monkeypatch.setattr(module, "decode", warned)
    assert (
        main(["top9", "many/more", "--model", f"{here}:small", "--channel", "2", "--out", "m.png"])
        == 0
    )
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")] == [
        "note: 2 images cannot be read"
    ]


def test_top9_draws_one_map_or_as_many_images_as_there_are(here, capsys, monkeypatch):
    seen = drawn(monkeypatch, "top9_figure")
    said(
        capsys, "top9", "many/more", "--model", f"{here}:small", "--channel", "2", "--out", "m.png"
    )
    assert (
        seen[0][2].tolist() == [2]
        and len(seen[0][0][0]) == 6
        and "top 6 activations of map 2" in seen[0][3]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone"], "no folder gone"),
        (
            ["chelsea.png"],
            (
                "chelsea.png is a file: top9 takes a folder of images; `zfnet explain`"
                " takes one image"
            ),
        ),
        (["empty"], "no images in empty: expected .jpg, .png, or another format of Pillow"),
        (["many", "--top", "13"], "--top 13: there are only 12 images in many"),
        (["many", "--channel", "8"], "no channel 8 in 4, which has channels 0 to 7"),
        (
            ["many", "--out", "many/more/new.png"],
            "new.png lies in the folder of images, and would be one of them the next time",
        ),
        (["many", "--table", "t.txt"], "t.txt: cannot write .txt; choose .csv"),
        (
            ["."],
            "1 of 15 images in . cannot be read: notes.jpg .*More than 1 %: repair or remove them",
        ),
    ],
)
def test_top9_says_what_is_wrong(here, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    out = [] if "--out" in words else ["--out", "../top9.png"]
    found = refused(capsys, "top9", *words, *out, "--model", f"{here}:small")
    assert re.search(message, found), found


def test_help_shows_examples_that_parse(capsys):
    parser = argparse.ArgumentParser()
    photographs.add_verbs(parser.add_subparsers(dest="verb"))
    for verb, text in photographs.EXAMPLES.items():
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        shown = capsys.readouterr().out
        assert stop.value.code == 0 and text in shown and "my_nets:small" in shown
        lines = [
            line.strip().split("   ")[0]
            for line in text.splitlines()
            if line.startswith("  zfnet ")
        ]
        assert len(lines) >= 3
        for line in lines:
            parsed = parser.parse_args(shlex.split(line)[1:])
            assert parsed.verb == verb


def test_photographs_are_turned_as_their_camera_says(here, tmp_path):
    net = nets.load_net(f"{here}:small", device="cpu")
    picture = photos.photograph("chelsea").resize((40, 40))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save("turned.png", exif=exif)
    assert torch.equal(
        read_photos(["turned.png"], net).pixels[0],
        torch.from_numpy(np.array(picture)).permute(2, 0, 1).flip(1, 2),
    )
    images = read_photo_folder("many", net)
    assert images.names == sorted(images.names) and len(images) == 12


def test_a_folder_is_read_through_its_links_and_once_in_circles(here):
    net = nets.load_net(f"{here}:small", device="cpu")
    Path("linked").mkdir()
    for link, to in (
        ("linked/far", "../many"),
        ("linked/back", "."),
        ("linked/one.jpg", "../many/" + read_photo_folder("many", net).names[0]),
    ):
        Path(link).symlink_to(to)
    images = read_photo_folder("linked", net)
    assert images.names == [
        *(f"far/{name}" for name in read_photo_folder("many", net).names),
        "one.jpg",
    ]
    assert torch.equal(images.pixels[-1], images.pixels[0])


def test_a_decoder_that_fails_in_a_way_of_its_own_is_one_line(here):
    """PIL calls a damaged chunk in the middle of a PNG a SyntaxError."""
    net = nets.load_net(f"{here}:small", device="cpu")
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)).save(
        file, "png"
    )
    png, second = file.getvalue(), file.getvalue().rindex(b"IDAT")
    Path("odd.png").write_bytes(png[:second] + b"\0\1\2\3" + png[second + 4 :])
    with pytest.raises(SyntaxError):
        Image.open("odd.png").load()
    with pytest.raises(
        ValueError, match=r"^odd\.png is not an image that can be read \(broken PNG file.*\)$"
    ):
        read_photos(["odd.png"], net)


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("squeezenet1_1", "4.cat", ""),
        ("mobilenet_v3_small", "1", "0.2 is a Hardswish: there is no accepted rule"),
    ],
)
def test_any_net_of_torchvision_with_weights_of_ones_own(
    here, tmp_path, capsys, name, layer, message
):
    """A fine-tuned net of five classes; what has no rule is refused by name."""
    torch.manual_seed(0)
    net = torchvision.models.get_model(name, weights=None, num_classes=5).eval()
    torch.save(net.state_dict(), tmp_path / "mine.pth")
    words = ["explain", "chelsea.png", "--model", name, "--weights", "mine.pth", "--layer", layer]
    words += ["--input-size", "96"]
    if message:
        assert message in refused(capsys, *words)
        return
    assert main(words) == 0
    said = capsys.readouterr().out
    image = read_photos(["chelsea.png"], nets.load_net(name, "mine.pth", 96)).batch([0])
    best = net(image).softmax(1)[0].detach()
    assert f"class {int(best.argmax())} {float(best.max()):.2f}" in said
    found = scan(net, image, layer, k=1)[layer]
    strongest = Deconvnet(net).activations(image, layer)[0].sum((1, 2)).argmax()
    assert f"map {int(strongest)}: total activity" in said and found.value.shape == (128, 1)
