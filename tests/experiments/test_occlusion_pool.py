"""Fig. 7's images by rule, and the histogram's numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.helpers.random_data import tiny
from tests.helpers.stubs import forbidden
from zfnet import load_profile
from zfnet.experiments.occlusion import compute
from zfnet.experiments.occlusion.compute import Drops, recognised, run_drops
from zfnet.methods.localisation import minimum_inside
from zfnet.methods.occlusion import Occlusion, occlude
from zfnet.models.build import matching, true_outputs
from zfnet.store.profiles import OcclusionConfig


def brightness() -> nn.Module:
    """Says class 0 of dark images, 1 of middling, 2 of bright ones: which of three levels is the
    nearest to the mean.
    """
    levels = torch.tensor([40.0, 120.0, 200.0])
    net = nn.Sequential(
        nn.Conv2d(3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3)
    )
    net[0].weight.data.fill_(1 / 3)
    net[0].bias.data.zero_()
    net[4].weight.data = 0.004 * levels[:, None]
    net[4].bias.data = -0.002 * levels.square()
    return net.eval()


@pytest.fixture
def images():
    made = tiny(count=12, classes=3, stored=20, size=16)
    for n, level in enumerate((40, 120, 200) * 4):
        made.pixels[n] = level
    return made


@pytest.fixture
def profile(tmp_path, monkeypatch):
    own = replace(load_profile("demo"), occlusion=OcclusionConfig(size=4, stride=6, images=5))
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    return own


def test_the_images_are_those_that_the_net_recognises_in_seeded_order(profile, images):
    images.labels[[0, 5]] = torch.tensor([1, 0])  # of which it says otherwise
    model = brightness()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(4)).tolist()
    index, targets, known = recognised(profile, model, images, 7, 4)
    assert index.tolist() == [n for n in order if n not in (0, 5)][:7] and known
    assert torch.equal(targets, images.labels[index])
    every, _, _ = recognised(profile, model, images, 100, 4)
    assert sorted(every.tolist()) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    images.labels[:] = (images.labels + 1) % 3
    images.labels[[0, 5]] = 1
    with pytest.raises(ValueError, match="the net recognises none of 12 images"):
        recognised(profile, model, images, 3, 4)


def test_labels_become_outputs_by_name(images):
    foxes = ("Red fox", "red fox", "crane")
    assert [matching(foxes, name) for name in ("red_fox", "RED FOX")] == [[1], [0, 1]]
    assert matching(("crane",), "cranes") == []
    pretrained = replace(load_profile("vgg16"), name="t")
    labels = torch.tensor([0, 1, 2, 1])
    assert true_outputs(load_profile("demo"), ("a", "b", "c"), labels) is labels
    found = true_outputs(pretrained, ("goldfish", "no such class", "Great_Grey_Owl"), labels)
    assert found.tolist() == [1, -1, 24, -1]
    # it knows no class of these images: its own first guess, where it is sure
    index, targets, known = recognised(pretrained, brightness(), images, 5, 0)
    assert not known and torch.equal(targets, images.labels[index]) and len(index) == 5


def test_drops_are_those_of_occlude_and_found_again(profile, images, monkeypatch):
    monkeypatch.setattr(compute, "PIECE", 2)
    model, index = brightness(), torch.tensor([3, 1, 8, 10, 5])
    found = run_drops(profile, model, images, index, images.labels[index])
    for n, i in enumerate(index.tolist()):
        one = occlude(model, images.batch([i])[0], int(images.labels[i]), 4, 6)
        assert torch.equal(found.probability[n], one.probability.float())
        assert found.clean[n].item() == pytest.approx(one.clean_probability)
        assert torch.equal(found.tops, one.tops) and torch.equal(found.lefts, one.lefts)
    assert (found.drop > 0).any() and len(list((profile.runs / "occlusion").iterdir())) >= 3
    monkeypatch.setattr(compute, "occlude", forbidden(occlude))
    again = run_drops(profile, model, images, index, images.labels[index])
    assert torch.equal(again.probability, found.probability)
    with pytest.raises(AssertionError):
        run_drops(profile, model, images, index[:4], images.labels[index[:4]] * 0)


def by_hand(*lowest: float) -> Drops:
    n = len(lowest)
    probability = torch.full((n, 2, 2), 0.9)
    probability[torch.arange(n), torch.arange(n) % 2, 1] = torch.tensor(lowest)
    zeros = torch.zeros(n, dtype=torch.long)
    return Drops(
        zeros,
        zeros,
        torch.full((n,), 0.9),
        probability,
        torch.tensor([0, 4]),
        torch.tensor([0, 4]),
        2,
    )


def test_the_largest_the_median_and_the_smallest_drop():
    assert by_hand(0.5, 0.1, 0.8, 0.3, 0.7).chosen() == {"largest": 1, "median": 0, "smallest": 2}
    # of an even number the lower of the two in the middle; ties: the lower number
    assert by_hand(0.5, 0.1, 0.1, 0.5).chosen() == {"largest": 1, "median": 3, "smallest": 0}


def test_how_often_the_minimum_lies_inside_the_mask():
    found, masks = by_hand(0.5, 0.1, 0.8), torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :4, 4:] = True  # the lowest is there
    masks[1, :4] = True  # it is not
    masks[2, 1, 5] = True  # the pixel of its square's centre
    assert found.inside(masks) == {
        "minimum inside the mask": pytest.approx(2 / 3),
        "random position": pytest.approx((1 + 2 + 1) / 12),
    }
    for n, mask in enumerate(masks):
        one = Occlusion(found.probability[n], *[None] * 3, found.tops, found.lefts, 2, *[None] * 7)
        assert minimum_inside(one, mask)[0] == (n != 1)
