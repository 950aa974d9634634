"""Feature evolution (Fig. 4) against slow oracles: correlations by numpy, strongest images by a
plain loop, projections worked by hand.
"""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.stubs import forbidden
from zfnet import Data, Images, build_model, load_profile, paper_layers, scan
from zfnet.experiments.evolution import EvolutionConfig
from zfnet.experiments.evolution.compute import (
    Evolution,
    LayerEvolution,
    Snapshot,
    evolution_rows,
    evolve,
    jumps,
    projection_similarity,
    response_similarity,
    settled,
    snapshots,
)
from zfnet.experiments.evolution.figure import curves_figure, evolution_figure, evolution_tiles
from zfnet.store import artefacts
from zfnet.store.profiles import DataConfig, ModelConfig, Profile, TrainingConfig


def stack(seed: int, inplace: bool = False) -> nn.Sequential:
    """Two layers with an overlapping pool between them."""
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2),
        nn.ReLU(inplace),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(4, 5, 3, 1, 1),
        nn.ReLU(inplace),
    )
    layers[0].bias.data += 1  # so that all maps fire
    layers[3].bias.data += 1
    return layers


def random_images(n: int, side: int = 16, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (n, 3, side + 2, side + 2), generator=generator, dtype=torch.uint8)
    return Images(
        pixels,
        torch.arange(n) % 2,
        ["a", "b"],
        side,
        torch.full((3, 1, 1), 127.0),
        torch.full((3, 1, 1), 60.0),
    )


# --- responses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True])
def test_responses_are_numpys_correlation_over_images_and_positions(inplace):
    stacks, images = [stack(seed, inplace) for seed in (1, 2, 3)], random_images(7)
    found = response_similarity(stacks, ["1", "4"], images, batch_size=3)
    for layer, depth in (("1", 2), ("4", 5)):
        maps = [s[:depth](images.batch(range(7))).detach().double().numpy() for s in stacks]
        for s, own in enumerate(maps):
            for channel in range(own.shape[1]):
                expected = np.corrcoef(own[:, channel].ravel(), maps[-1][:, channel].ravel())[0, 1]
                assert found[layer][s, channel].item() == pytest.approx(expected, abs=1e-6)
    assert (
        found["1"].shape == (3, 4)
        and found["4"].shape == (3, 5)
        and not torch.allclose(found["1"][0], found["1"][1])
    )


def test_a_constant_map_has_no_last_responses_and_none_to_compare_with_counts_as_0():
    first, last = stack(1), stack(2)
    with torch.no_grad():
        first[0].weight[1], first[0].bias[1] = 0, -1  # dead at first
        last[0].weight[2], last[0].bias[2] = 0, 3  # constant at the end, and not 0
    found = response_similarity([first, last], ["1"], random_images(4))["1"]
    assert found[:, 1].tolist() == [0.0, pytest.approx(1.0)]
    assert found[:, 2].isnan().all()
    assert not found[:, [0, 3]].isnan().any()


# --- projections ----------------------------------------------------------------------------------


def one_filter(*weights: float) -> nn.Sequential:
    """1 x 1 convolutions: the projection of a unit is its activation times its filter, at its own
    pixel.
    """
    layers = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU())
    layers[0].weight.data = torch.tensor([weights, (0.0, 0.0, -1.0)])[..., None, None]
    return layers


def test_projections_are_compared_by_the_cosine_of_their_filters():
    stacks = [one_filter(1, 0, 0), one_filter(0, 0, 5), one_filter(3, 0, 4), one_filter(2, 2, 0)]
    inputs = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(0)) + 0.1
    found = projection_similarity(
        stacks,
        "1",
        inputs,
        torch.tensor([0, 0, 1]),
        torch.tensor([[0, 1], [1, 1], [0, 0]]),
        batch_size=2,
    )
    assert (
        found[:, :2].T.tolist() == [pytest.approx([1 / math.sqrt(2), 0, 0.6 / math.sqrt(2), 1])] * 2
    )
    assert found[:, 2].tolist() == [0, 0, 0, 0], "a unit that does not fire has no projection"


# --- when a curve settles -------------------------------------------------------------------------

EPOCHS = torch.tensor([0.0, 1.0, 2.0, 4.0, 8.0])


@pytest.mark.parametrize(
    ("curve", "level", "expected"),
    [
        ([0.0, 0.8, 1.0, 1.0, 1.0], 0.9, 1.5),
        (
            [0.0, 0.95, 0.5, 1.0, 1.0],
            0.9,
            2 + 2 * 0.8,
        ),  # it must stay: the first rise does not count
        ([0.9, 0.9, 1.0, 1.0, 1.0], 0.9, 0.0),
        ([0.0, 0.0, 0.0, 0.2, 1.0], 0.6, 6.0),
        ([0.0, math.nan, 0.0, 0.5, 1.0], 0.5, 4.0),
        ([1.0, 1.0, 1.0, 1.0, 0.8], 0.9, math.nan),
    ],
)
def test_settled_by_hand(curve, level, expected):
    assert settled(EPOCHS, torch.tensor(curve, dtype=torch.float64), level) == pytest.approx(
        expected, nan_ok=True
    )


def test_settled_wants_two_series_of_one_length():
    with pytest.raises(ValueError, match=r"epochs \(5,\) and curve \(4,\)"):
        settled(EPOCHS, torch.ones(4))


# --- jumps ----------------------------------------------------------------------------------------


def test_jumps_sort_neighbours_by_their_source_image():
    a, b = np.random.default_rng(0).random((2, 4, 4, 3))
    # the last two pairs have a constant cell
    cells = [[a, 2 * a + 1, b, 1 - b], [a, 1 - a, np.ones_like(a), b]]
    images = torch.tensor([[7, 3], [7, 4], [8, 4], [8, 4]])
    stayed, changed = jumps(cells, images)
    assert stayed.tolist() == pytest.approx([1, -1])
    assert changed.tolist() == pytest.approx([np.corrcoef(a.ravel(), b.ravel())[0, 1], -1])


# --- a whole evolution ----------------------------------------------------------------------------


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    model = ModelConfig(maps=(3, 4, 4, 4, 5), fc=(6,))
    training = TrainingConfig(epochs=4, snapshots=(1, 32, 64))
    return Profile(
        "tiny",
        "Tiny",
        seed=3,
        data=DataConfig(size=64, resize=66),
        model=model,
        training=training,
        sections={"evolution": EvolutionConfig(images=9, probes=4, maps=2)},
    )


def net(profile: Profile, seed: int) -> nn.Module:
    return build_model(dataclasses.replace(profile, seed=seed), 2).eval()


def leave_snapshots(profile: Profile, key: str = "k") -> None:
    artefacts.save_tensors(profile.weights_file, {"x": torch.zeros(1)}, {"key": key})
    for part in profile.training.snapshots:
        artefacts.save_tensors(
            profile.snapshot_file(part),
            net(profile, 100 + part).features.state_dict(),
            {"key": "k", "epochs": part / 16},
        )


def test_snapshots_are_the_untrained_net_and_what_training_left(profile):
    leave_snapshots(profile)
    model = net(profile, 50)
    before = copy.deepcopy(model.state_dict())
    history = snapshots(profile, model, 2)
    assert [(one.part, one.epochs) for one in history] == [
        (0, 0.0),
        (1, 0.0625),
        (32, 2.0),
        (64, 4.0),
    ]
    for one, seed in zip(history, (3, 101, 132, 164), strict=True):
        for name, tensor in net(profile, seed).features.state_dict().items():
            assert torch.equal(one.net.features.state_dict()[name], tensor)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items()), (
        "the model itself is only read"
    )


def test_snapshots_say_what_is_missing_and_the_cure(profile):
    model = net(profile, 0)
    with pytest.raises(
        FileNotFoundError,
        match=r"snapshot 1/64.*weights.safetensors is missing: run `make train PROFILE=tiny`",
    ):
        snapshots(profile, model, 2)
    leave_snapshots(profile)
    profile.snapshot_file(32).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"snapshot 32/64.*32.safetensors is missing: run `make train"
    ):
        snapshots(profile, model, 2)
    leave_snapshots(profile, key="another")
    with pytest.raises(
        ValueError, match=r"from another training than .*weights\.safetensors: run `make train"
    ):
        snapshots(profile, model, 2)
    pretrained = dataclasses.replace(
        profile, model=dataclasses.replace(profile.model, weights="some.pth")
    )
    for without in (dataclasses.replace(profile, training=None), pretrained):
        with pytest.raises(
            ValueError,
            match=(
                "'tiny' trains nothing, so its features have no history: choose a profile with a"
                " `training:` section"
            ),
        ):
            snapshots(without, model, 2)
    none = dataclasses.replace(
        profile, training=dataclasses.replace(profile.training, snapshots=())
    )
    with pytest.raises(ValueError, match=r"leaves no snapshots: add `snapshots: \[1, 2, 5"):
        snapshots(none, model, 2)


@pytest.mark.slow
def test_evolve_finds_the_strongest_training_image_of_every_map(profile, monkeypatch):
    history = [Snapshot(part, part / 16, net(profile, 10 + part)) for part in (0, 1, 64)]
    data = Data(
        random_images(15, 64, 1), random_images(6, 64, 2), random_images(1, 64, 3), ("a", "b")
    )
    found = evolve(profile, history, data)
    searched = (
        torch.randperm(15, generator=torch.Generator().manual_seed(3))[:9].sort().values.tolist()
    )
    assert (found.searched, found.probes, found.parts.tolist(), found.epochs.tolist()) == (
        9,
        4,
        [0, 1, 64],
        [0, 0.0625, 4.0],
    )
    for number, name in paper_layers(history[0].net).items():
        layer = found.layers[number]
        for s, snapshot in enumerate(history):
            for channel in range(layer.value.shape[1]):
                best = (-1.0, None)
                for index in searched:
                    x = data.train.batch([index])
                    for child, module in snapshot.net.features.named_children():
                        x = module(x)
                        if child == name:
                            break
                    value, where = x[0, channel].flatten().max(0)
                    if value.item() > best[0] + 1e-6:
                        best = value.item(), (index, *divmod(int(where), x.shape[-1]))
                assert layer.value[s, channel].item() == pytest.approx(best[0], rel=1e-4, abs=1e-6)
                if best[0] > 0:
                    assert (
                        int(layer.image[s, channel]),
                        int(layer.row[s, channel]),
                        int(layer.col[s, channel]),
                    ) == best[1]
        alive = layer.value[-1] > 0
        assert alive[layer.maps].all() and len(layer.maps) == min(2, int(alive.sum()))
        assert layer.projections[-1].tolist() == pytest.approx([1.0] * len(layer.maps))
    # the second time nothing is computed
    monkeypatch.setattr("zfnet.methods.top_activations.scan", forbidden(scan))
    again = evolve(profile, history, data)
    assert torch.equal(again.layers[5].value, found.layers[5].value) and torch.equal(
        again.layers[1].responses, found.layers[1].responses
    )
    with pytest.raises(AssertionError, match="was called"):
        # other snapshots: computed anew
        evolve(profile, [history[1], history[0], history[2]], data)


def by_hand() -> Evolution:
    """One layer of three maps over the untrained net and two snapshots; the third map never fires
    at the end.
    """
    image = torch.tensor([[4, 9, 1], [5, 9, 1], [5, 9, 1]])
    value = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0], [4.0, 2.0, 0.0]])
    responses = torch.tensor(
        [[0.2, 0.4, math.nan], [0.5, 0.9, math.nan], [1.0, 1.0, math.nan]], dtype=torch.float64
    )
    projections = torch.tensor([[0.0, 0.5], [0.6, 1.0], [1.0, 1.0]], dtype=torch.float64)
    position = torch.tensor([[0, 1, 0], [1, 2, 0], [1, 2, 0]])
    layer = LayerEvolution(
        "1", value, image, position, position, responses, torch.tensor([0, 1]), projections
    )
    return Evolution(
        torch.tensor([0, 32, 64]),
        torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64),
        {1: layer},
        10,
        4,
    )


def test_the_source_is_the_last_one_only_where_the_map_fires():
    layer = by_hand().layers[1]
    assert layer.same_source.tolist() == [
        0,
        1,
        1,
    ], "map 1 starts on image 9 but does not fire; map 2 is dead and does not count"
    assert layer.curves["responses"].tolist() == pytest.approx([0.3, 0.7, 1.0])
    assert layer.curves["projections"].tolist() == [0.25, 0.8, 1.0]
    assert layer.top(1).image.tolist() == [[5], [9], [1]] and layer.top(1).value.tolist() == [
        [3.0],
        [1.0],
        [0.0],
    ]


def test_rows_of_the_table():
    rows = evolution_rows(by_hand())
    assert [(row["layer"], row["part_of_64"], row["epochs"], row["maps"]) for row in rows] == [
        (1, 0, 0.0, 2),
        (1, 32, 1.0, 2),
        (1, 64, 2.0, 2),
    ]
    assert rows[1]["responses_mean"] == 0.7 and rows[1]["responses_std"] == round(
        0.2 * math.sqrt(2), 4
    )
    assert (
        rows[1]["projections_mean"] == 0.8
        and rows[0]["source_images"] == 3
        and rows[1]["strongest_activation_median"] == 1.0
    )


# --- pictures -------------------------------------------------------------------------------------


def test_cells_show_the_projection_on_its_own_scale_and_bars_the_last_source():
    found, images = by_hand(), random_images(10, 3)
    history = [
        Snapshot(part, part / 32, one_filter(*weights))
        for part, weights in ((0, (1, 1, 1)), (32, (0, 1, 0)), (64, (-1, -1, -1)))
    ]
    filters = nn.Conv2d(3, 3, 1, bias=False)
    for snapshot in history:
        snapshot.net[0] = copy.deepcopy(filters)
        snapshot.net[0].weight.data = (
            torch.ones(3, 3, 1, 1) * torch.tensor([1.0, -1.0, 1.0])[:, None, None, None]
        )
    # unit (1, 1) of map 0 in the crop: 0.1
    images.pixels[5, :, 2, 2] = torch.tensor([130, 130, 127], dtype=torch.uint8)
    cells = evolution_tiles(history, images, found.layers[1], torch.tensor([0, 1]))
    assert [len(row) for row in cells] == [2, 2], "the untrained net has no column"
    assert cells[0][0].shape == (1, 1, 3) and np.allclose(cells[0][0], 1.0), (
        "a positive projection, saturated on its own scale"
    )
    figure = evolution_figure({1: cells}, {1: torch.tensor([0, 1])}, found, "t")
    axes = figure.axes[0]
    assert len(axes.lines) == 4, "both maps have their last source image at both snapshots"
    assert [text.get_text() for text in axes.texts] == ["1", "2", "0", "1"]


def test_the_curves_are_drawn_as_measured():
    found = by_hand()
    figure = curves_figure(found, "t", level=0.7)
    responses, projections, sources = figure.axes
    for axes, name in (
        (responses, "responses"),
        (projections, "projections"),
        (sources, "source image"),
    ):
        assert axes.lines[0].get_ydata().tolist() == pytest.approx(
            found.layers[1].curves[name].tolist()
        )
    assert responses.lines[1].get_xdata()[0] == pytest.approx(1.0) and projections.lines[
        1
    ].get_xdata()[0] == pytest.approx(0.45 / 0.55)


@pytest.mark.parametrize("name", ["images", "probes", "maps"])
def test_the_numbers_of_the_profile_must_be_positive(name, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"title: own\nevolution: {{{name}: 0}}\n")
    with pytest.raises(ValueError, match=rf"evolution.{name} = 0: must be positive"):
        load_profile(path)
