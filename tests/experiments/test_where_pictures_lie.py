"""Where pictures lie: masks that stay on their photographs, and measures small enough to count by
hand, on nets whose pictures are known.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torchvision
from matplotlib import pyplot as plt
from PIL import Image
from torch import nn

from tests.helpers.oracle import Ruled, lively
from tests.helpers.stubs import forbidden
from zfnet import Data, Deconvnet, Images, ZFNet, load_profile
from zfnet.data.files import read_image
from zfnet.data.masks import read_masked
from zfnet.experiments import experiments
from zfnet.experiments.localisation.compute import (
    CENTRE,
    CHANCE,
    MEASURES,
    SQUARE,
    Localisation,
    choose_targets,
    gaussian,
    grown,
    localise,
    pictured,
    pointing,
    run_localisation,
    subjects,
)
from zfnet.experiments.localisation.figure import localisation_figure
from zfnet.experiments.localisation.summary import extremes, interval, overview, table, verdict
from zfnet.methods.deconv import RULES
from zfnet.store.errors import UserError

DEMO = load_profile("demo")


# --- A class's score, projected


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["squeezenet1_1", "zfnet"])
def test_a_score_projected_is_what_autograd_with_that_rule_gives(name, rule):
    torch.manual_seed(0)
    net = (
        ZFNet(7, input_size=64, maps=(4, 6, 5, 5, 6), fc=(64,))
        if name == "zfnet"
        else torchvision.models.get_model(name, weights=None, num_classes=7)
    )
    net, images = lively(net), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    given = images.clone().requires_grad_()
    with Ruled(rule):
        scores = net(given)
    (wanted,) = torch.autograd.grad(scores[0, 5] + scores[1, 2], given)
    found = Deconvnet(net).project_output(images, torch.tensor([5, 2]), rule)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12 * float(wanted.abs().max()))


def test_an_output_that_is_none_is_refused():
    net, images = Blobs().eval(), torch.zeros(2, 3, 8, 8)
    for bad, message in ((2, "outputs 0 to 1"), (torch.tensor([0, -1]), "output -1")):
        with pytest.raises(UserError, match=message):
            Deconvnet(net).project_output(images, bad)
    with pytest.raises(UserError, match="ends in maps"):
        Deconvnet(net.features).project_output(images, 0)
    with pytest.raises(UserError, match="rule = 'no'"):
        Deconvnet(net).project_output(images, 0, "no")


# --- Photographs and their masks


def saved(folder, name, pixels, mask):
    for kind in ("photos", "masks"):
        (folder / kind).mkdir(exist_ok=True)
    Image.fromarray(pixels).save(folder / "photos" / f"{name}.png")
    if mask is not None:
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")


@pytest.mark.parametrize("on", [1, 255, True])
@pytest.mark.parametrize("shape", [(50, 90), (90, 41), (30, 30)])
def test_a_mask_stays_on_its_photograph(tmp_path, on, shape):
    """A photograph that is white on the object and black elsewhere shows where the object goes."""
    mask = np.zeros(shape, bool)
    mask[8:25, 12:29] = mask[-7:-2, -9:-4] = True
    saved(
        tmp_path,
        "a",
        np.uint8(255) * mask[..., None].repeat(3, 2),
        mask if on is True else np.uint8(on) * mask,
    )
    pixels, masks, names = read_masked(tmp_path / "photos", tmp_path / "masks", 64)
    assert names == ["a.png"] and 0 < masks.float().mean() < 1
    assert torch.equal(masks[0], pixels[0, 0] > 127)
    assert torch.equal(pixels[0], read_image(tmp_path / "photos" / "a.png", 64))


def test_masks_that_do_not_fit_are_named(tmp_path):
    pixels, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
    mask[:9] = 255
    folders = tmp_path / "photos", tmp_path / "masks"
    with pytest.raises(FileNotFoundError, match=r"no folder .*photos"):
        read_masked(*folders, 16)
    saved(tmp_path, "fine", pixels, mask)
    assert len(read_masked(*folders, 16)[0]) == 1
    for bad, message in (
        (None, "bad: in one of .* but not in the other"),
        (mask[:, :-1], "bad.png has 29 x 20 pixels, its photograph 30 x 20"),
        (mask * 0, "bad.png has 1 values"),
        (np.arange(600).astype(np.uint8).reshape(20, 30), "bad.png has 256 values"),
    ):
        saved(tmp_path, "bad", pixels, bad)
        with pytest.raises(UserError, match=message):
            read_masked(*folders, 16)
    (tmp_path / "masks" / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bad\.png cannot be read as a mask"):
        read_masked(*folders, 16)


def test_subjects_are_the_photographs_normalised_as_the_profile_s_data(tmp_path):
    rng, test = np.random.default_rng(0), pictures()
    for name in "ab":
        pixels = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
        saved(tmp_path, name, pixels, np.uint8(pixels[..., 0] > 99))
    section = dataclasses.replace(
        DEMO.localisation,
        photos=str(tmp_path / "photos"),
        masks=str(tmp_path / "masks"),
        classes=("green",),
        images=2,
    )
    profile = dataclasses.replace(
        DEMO, data=dataclasses.replace(DEMO.data, resize=10, size=8)
    ).with_sections(localisation=section)
    found = subjects(profile, Data(test, test, test, test.classes))
    pixels = read_image(tmp_path / "photos" / "b.png", 10)[:, 1:9, 1:9].float()
    assert torch.allclose(found.batch([1])[0], (pixels - 2) / 5) and found.mask([1]).shape[-1] == 8
    bare = dataclasses.replace(test, masks=None)
    with pytest.raises(UserError, match="no images whose object's mask is known"):
        subjects(DEMO, Data(bare, bare, bare, bare.classes))


# --- The measures, by hand


def test_pointing_takes_the_largest_absolute_value_and_refuses_to_point_at_nothing():
    shown = torch.zeros(3, 3, 4, 4)
    shown[0, 1, 2, 3], shown[0, 0, 0, 0] = -5, 4
    shown[1, 2, 1, 1] = shown[1, 0, 3, 3] = 2  # the first of equals counts
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0, 2, 3] = masks[1, 3, 3] = masks[2, 0, 0] = True
    found = pointing(shown, masks)
    assert found[:2].tolist() == [1, 0] and math.isnan(found[2])


def test_a_mask_grows_by_a_disc():
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, 4, 4] = True
    rows, cols = torch.meshgrid(*2 * (torch.arange(9) - 4,), indexing="ij")
    for tolerance in (1, 2, 3):
        wanted = rows.square() + cols.square() <= tolerance**2
        assert torch.equal(grown(mask, tolerance)[0], wanted)


def test_the_centre_s_picture_has_its_stated_width():
    found = gaussian(101, 0.1)[0, 0]
    assert found.argmax() == 50 * 101 + 50 and found[50, 50] == 1
    spread = found[50] / found[50].sum()
    deviation = (spread * (torch.arange(101) - 50).square()).sum().sqrt()
    assert float(deviation) == pytest.approx(10.1, rel=1e-3)


class Blobs(nn.Module):
    """Five ReLUs that copy the red and the green plane; a class's score is its colour's mean."""

    def __init__(self):
        super().__init__()
        first = nn.Conv2d(3, 2, 1, bias=False)
        first.weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0]])[..., None, None]
        self.features = nn.Sequential(first, *(nn.ReLU() for _ in range(5)))

    def forward(self, images):
        return self.features(images).mean((2, 3))


def pictures():
    """8 x 8 pixels; the object is the upper left quarter. Picture 0: green peaks on it, red beside
    it; picture 1: green beside it, and weakly on it; picture 2 has no green.
    """
    pixels = torch.full((3, 3, 8, 8), 2, dtype=torch.uint8)  # the mean: zero to the net
    pixels[0, 1, 1, 1], pixels[0, 0, 6, 6] = 102, 52
    pixels[1, 1, 7, 0], pixels[1, 1, 2, 2] = 42, 32
    pixels[2, 0, 0, 3] = 22
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[:, :4, :4] = True
    return Images(
        pixels,
        torch.tensor([1, 1, 0]),
        ("red", "green"),
        8,
        torch.full((3, 1, 1), 2.0),
        torch.full((3, 1, 1), 5.0),
        masks=masks,
    )


def at(found: Localisation, *row: str) -> dict[str, list[float]]:
    return {name: values[found.rows.index(row)].tolist() for name, values in found.values.items()}


def test_every_measure_of_a_net_whose_pictures_are_known():
    images, net = pictures(), Blobs().eval()
    found = localise(net, images, torch.tensor([1, 1, 0]), 2, 2)
    assert found.tolerance == 1  # of 8 pixels
    # the strongest unit: green on the object, green beside it, red on it
    unit = {"energy": [1, 0, 1], "hit": [1, 0, 1], "near": [1, 0, 1]}
    for layer in "12345":
        for rule in RULES:
            assert at(found, "unit", layer, rule) == unit
    # the whole green map of picture 1: 8 and 6 high, the lower one on the object
    assert at(found, "map", "3", "deconvnet")["energy"] == pytest.approx([1, 36 / 100, 1])
    # a square at rows and columns 0, 2, 4, 6 has its centre one further: four of sixteen on it
    occluded = at(found, "class score", "", "occlusion")
    assert occluded["hit"] == [1, 0, 1] and at(found, "", "", SQUARE)["hit"] == [0.25] * 3
    assert all(map(math.isnan, occluded["energy"]))
    assert at(found, "", "", CHANCE)["energy"] == [0.25] * 3
    # grown by a pixel: a row and a column of four more, but not the corner
    assert at(found, "", "", CHANCE)["near"] == [24 / 64] * 3
    # the central pixel (4, 4) is that corner
    assert at(found, "", "", CENTRE)["hit"] == at(found, "", "", CENTRE)["near"] == [0] * 3
    line = (-(torch.arange(8.0) - 4).square() / 4).exp()  # the square of a Gaussian of 2 pixels
    share = float((line[:4].sum() / line.sum()) ** 2)
    assert at(found, "", "", CENTRE)["energy"] == pytest.approx([share] * 3)
    # sigmoid of the difference of both means
    green = torch.tensor([20 - 10, 8 + 6, 4]) / 64
    assert found.probability.tolist() == pytest.approx(green.sigmoid().tolist())
    lowest = torch.tensor([-10, 6, 0]) / 64  # without the largest
    assert found.lowest.tolist() == pytest.approx(lowest.sigmoid().tolist())
    assert found.first.tolist() == [True] * 3


def test_the_gradient_of_a_mean_is_everywhere_that_it_fires():
    """Zero is no activation: the gradient passes one pixel, the deconvnet all of them."""
    net, images = Blobs().eval(), pictures()
    batch = images.batch([0])
    plain = Deconvnet(net).project_output(batch, 1, "gradient")[0]
    assert plain[1].nonzero().tolist() == [[1, 1]] and not plain[[0, 2]].any()
    assert torch.allclose(Deconvnet(net).project_output(batch, 1)[0, 1], torch.tensor(1 / 64))


def test_an_image_that_shows_nothing_but_the_object_is_named():
    images = pictures()
    images.masks[1] = True
    named = dataclasses.replace(images, names=["a.jpg", "b.jpg", "c.jpg"])
    with pytest.raises(UserError, match=r"b\.jpg: what the net sees of it lies wholly on"):
        localise(Blobs().eval(), named, images.labels, 2, 2)


def test_the_class_followed_is_the_most_probable_of_those_named():
    net, images = Blobs().eval(), pictures()
    assert choose_targets(net, images, ("red", "green"), ()).tolist() == [1, 1, 0]
    assert choose_targets(net, images, ("red", "green"), ("green", "red")).tolist() == [1, 1, 0]
    assert choose_targets(net, images, ("red", "green"), ("red",)).tolist() == [0, 0, 0]
    with pytest.raises(UserError, match="no class 'blue' among the 2"):
        choose_targets(net, images, ("red", "green"), ("red", "blue"))


# --- What is made of them


def test_the_bootstrap_interval_is_that_of_the_mean():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).double() + 3
    low, high = interval(values, draws=4000)
    error = float(values.std() / 20)
    assert (low + high) / 2 == pytest.approx(float(values.mean()), abs=0.1 * error)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert interval(torch.ones(5)) == (1, 1)


def made(own: list[float], centre: list[float], first: list[bool]) -> Localisation:
    """Measurements of one method whose three measures are alike."""
    rows = (("unit", "1", "deconvnet"), ("", "", CHANCE), ("", "", CENTRE), ("", "", SQUARE))
    values = torch.tensor([own, [0.25] * len(own), centre, [0.5] * len(own)]).double()
    empty = torch.zeros(len(own))
    return Localisation(
        rows, dict.fromkeys(MEASURES, values), empty, empty, torch.tensor(first), 15
    )


@pytest.mark.parametrize(
    ("shift", "words"), [(0.2, "beats"), (-0.2, "loses to"), (0.0, "is level with")]
)
def test_the_sentence_says_who_wins(shift, words):
    noise = [0.05, -0.05] * 20
    found = made([0.5 + shift + each for each in noise], [0.5] * 40, [True] * 40)
    rows = table(found)
    assert len(rows) == 1 and rows[0]["n"] == 40
    wanted = f"deconvnet, energy inside the mask, points: {words} the centre: layer 1 unit"
    assert verdict(rows) == [f"{wanted} ({100 * shift:+.0f})"]


def test_the_table_pairs_each_image_with_its_own_centre_and_leaves_out_what_has_no_picture():
    own, centre = [0.9, 0.1, float("nan"), 0.5], [0.8, 0.0, 1.0, 0.4]
    rows = table(made(own, centre, [True, True, False, False]))
    assert [row["images"] for row in rows] == ["all", "first guess right"]
    assert [row["n"] for row in rows] == [3, 2]
    assert float(rows[0]["energy"]) == pytest.approx(0.5, abs=1e-4)
    assert float(rows[0]["energy se"]) == pytest.approx(0.4 / 3**0.5, abs=1e-4)
    assert float(rows[0]["energy centre"]) == pytest.approx(0.4, abs=1e-4)
    # every difference is 0.1: no doubt is left
    ends = [float(rows[0][f"energy minus centre {end}"]) for end in ("low", "high")]
    assert ends == pytest.approx([0.1, 0.1], abs=1e-4)


@pytest.mark.slow
def test_the_artefacts_the_figure_and_the_rows_of_the_results(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    net, images = Blobs().eval(), pictures()
    images = images.subset(torch.arange(9) % 2)
    section = dataclasses.replace(DEMO.localisation, size=2, stride=2)
    profile = DEMO.with_sections(localisation=section)
    found = run_localisation(profile, net, images, images.labels)
    whole = localise(net, images, images.labels, 2, 2)
    assert len(list((tmp_path / "runs/demo/localisation").glob("*.safetensors"))) == 2
    monkeypatch.setattr(
        "zfnet.experiments.localisation.compute.localise", forbidden(localise)
    )  # the second time it is read
    again = run_localisation(profile, net, images, images.labels)
    for each in (found, again):
        assert each.rows == whole.rows and torch.equal(each.first, whole.first)
        for name in MEASURES:
            assert torch.equal(each.values[name].nan_to_num(9), whole.values[name].nan_to_num(9))
    rows = table(found)
    shown = {n: pictured(profile, net, images, images.labels, n) for n in extremes(found)}
    assert list(shown[0][1]) == [*RULES, "layer 5"]
    figure = localisation_figure(images, shown, rows, "tiny")
    heights = [line.get_ydata()[0] for line in figure.axes[-2].lines if len(line.get_xdata()) == 2]
    assert heights[-2:] == [float(rows[0]["hit centre"]), float(rows[0]["hit chance"])]
    plt.close(figure)
    text = [{key: str(value) for key, value in row.items()} for row in rows]
    said = {each.what: each.read(text) for each in experiments()["localisation"].results()}
    share = 100 * 5 / 9  # of the pictures, green is on the object
    error = 100 * (5 / 9 * 4 / 9 / 8) ** 0.5
    wanted = f"{share:.1f} ± {error:.1f} %; 25.0; 0.0 (9)"
    assert next(value for key, value in said.items() if key.startswith("lowest")) == wanted
    assert len(overview(found, rows)) == 5 + len(rows)


def test_a_profile_s_section_is_whole_or_not_there(tmp_path):
    path = tmp_path / "p.yaml"
    for text, message in (
        ("{photos: a, masks: b}", "p.yaml: localisation: photos, masks and classes belong"),
        ("{size: 200}", "localisation.size = 200 does not fit"),
    ):
        path.write_text(f"title: T\nlocalisation: {text}\n")
        with pytest.raises(UserError, match=message):
            load_profile(path)
    path.write_text("title: T\ndata: {source: photos}\n")
    assert "19_localisation" not in load_profile(path).notebooks
    path.write_text("title: T\nlocalisation: {photos: a, masks: b, classes: [c]}\n")
    assert "19_localisation" in load_profile(path).notebooks
