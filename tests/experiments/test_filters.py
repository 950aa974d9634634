"""Filters counted, aliasing measured: planted filters, sinusoids whose frequency is known, and a
transform written from its definition.
"""

from __future__ import annotations

import dataclasses
import json
import math

import matplotlib.pyplot as plt
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zfnet import Deconvnet, Images, load_profile, paper_layers, scan
from zfnet.data.images import Data
from zfnet.experiments.filters import compute
from zfnet.experiments.filters.compute import others
from zfnet.experiments.filters.figure import others_figure, two_layers_figure
from zfnet.methods import spectrum


def planted():
    weight = torch.randn(9, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    weight /= weight.square().mean((1, 2, 3), keepdim=True).sqrt()
    weight[2] *= 0.05
    weight[7] *= 6
    return weight


def test_a_planted_dead_and_a_planted_dominating_filter_are_counted():
    found = compute.count_filters(planted(), torch.tensor([1.0, 2, 0, 1, 0, 1, 1, -1, 1]))
    assert found.dead.nonzero().flatten().tolist() == [
        2
    ] and found.dominating.nonzero().flatten().tolist() == [7]
    assert found.silent.nonzero().flatten().tolist() == [2, 4, 7]
    assert found.ratio == pytest.approx(6) and found.share == pytest.approx(36 / (36 + 7 + 0.0025))
    assert compute.count_filters(planted()).silent is None


def test_the_thresholds_are_where_they_are_said_to_be():
    weight = torch.ones(5, 1, 2, 2) * torch.tensor([0.099, 0.101, 1, 1.99, 2.01]).view(5, 1, 1, 1)
    found = compute.count_filters(weight)
    assert found.dead.tolist() == [
        True,
        False,
        False,
        False,
        False,
    ] and found.dominating.tolist() == [False, False, False, False, True]
    assert compute.filter_rms(torch.tensor([[[[3.0, 4.0]]]])).item() == pytest.approx(
        math.sqrt(12.5)
    )


def wave(rows, columns, side=32):
    """A sinusoid of that many cycles over `side` pixels down and across."""
    n = torch.arange(side, dtype=torch.float64)
    return torch.sin(2 * math.pi * (rows * n[:, None] + columns * n) / side + 0.3)


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize(
    ("rows", "columns", "share"),
    [
        (3, 5, 0),
        (0, 6, 0),
        (6, 0, 0),
        (5, 11, 1),
        (11, 2, 1),
        (12, 12, 1),
        (0, 16, 1),
        (15, 0, 1),
        (-11, 4, 1),
    ],
)
def test_a_sinusoid_below_the_limit_counts_nothing_and_one_above_counts_all(
    rows, columns, share, window
):
    maps = 3 * wave(rows, columns) + 100  # the limit of stride 2 is 8 cycles over 32 pixels
    above, total = spectrum.energy_above(
        maps[None], [spectrum.nyquist(2), spectrum.nyquist(1)], window
    )
    assert (above[0] / total).item() == pytest.approx(share, abs=1e-9) and above[1] == 0


def test_the_limit_itself_can_still_be_sampled():
    above, total = spectrum.energy_above((wave(8, 0) + 2 * wave(0, 9))[None], [spectrum.nyquist(2)])
    assert (above / total).item() == pytest.approx(0.8)


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("size", [(7, 9), (8, 6)])
def test_energy_equals_the_transform_written_from_its_definition(size, window):
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    height, width = size
    limits = [0.125, 0.25, 0.3]
    expected, total = torch.zeros(3, dtype=torch.float64), 0.0
    for one in (maps - maps.mean((2, 3), keepdim=True)).flatten(0, 1):
        if window:
            one = one * torch.tensor(
                [
                    [
                        math.sin(math.pi * y / height) ** 2 * math.sin(math.pi * x / width) ** 2
                        for x in range(width)
                    ]
                    for y in range(height)
                ],
                dtype=torch.float64,
            )
        for p in range(height):
            for q in range(width):
                phase = torch.tensor(
                    [
                        [-2 * math.pi * (p * y / height + q * x / width) for x in range(width)]
                        for y in range(height)
                    ],
                    dtype=torch.float64,
                )
                power = float((one * phase.cos()).sum() ** 2 + (one * phase.sin()).sum() ** 2)
                highest = max(min(p, height - p) / height, min(q, width - q) / width)
                total += power
                expected += torch.tensor(
                    [power if highest > limit + 1e-9 else 0.0 for limit in limits],
                    dtype=torch.float64,
                )
    above, everything = spectrum.energy_above(maps, limits, window)
    assert torch.allclose(above, expected, rtol=1e-9) and everything.item() == pytest.approx(
        total, rel=1e-6
    )


LIMITS = [spectrum.nyquist(stride) for stride in (1, 2, 4)]


def images(pixels):
    return Images(
        pixels,
        torch.zeros(len(pixels), dtype=torch.long),
        ("a",),
        pixels.shape[-1],
        torch.zeros(3, 1, 1),
        torch.ones(3, 1, 1),
    )


def test_the_strided_convolution_samples_the_full_resolution_maps():
    layer = nn.Conv2d(3, 4, 5, stride=3, padding=0)
    x = torch.randn(2, 3, 17, 17, generator=torch.Generator().manual_seed(2))
    full = compute.full_resolution(layer, x)
    assert full.shape == (2, 4, 13, 13)
    assert torch.allclose(full[:, :, ::3, ::3] + layer.bias.view(1, -1, 1, 1), layer(x), atol=1e-6)


def test_what_folds_back_is_what_looks_like_another_frequency_after_sampling():
    """14 cycles over 48 pixels, sampled every 4: the strided layer cannot tell them from 2 cycles,
    and all of the energy counts; at stride 1 none does.
    """
    layer = nn.Conv2d(3, 1, 1, stride=4, bias=False)
    layer.weight.data.fill_(1 / 3)
    n = torch.arange(48)
    high, low = (torch.cos(2 * math.pi * cycles * n / 48) for cycles in (14, 2))
    assert torch.allclose(
        layer(high.expand(1, 3, 48, 48)), layer(low.expand(1, 3, 48, 48)), atol=1e-5
    )
    for pattern, expected in ((high, [0.0, 1.0, 1.0]), (low, [0.0, 0.0, 0.0])):
        pixels = (100 + 100 * pattern).round().to(torch.uint8).expand(2, 3, 48, 48)
        assert compute.map_shares(
            layer, images(pixels), torch.arange(2), LIMITS, 1
        ) == pytest.approx(expected, abs=1e-4)


def test_shares_do_not_depend_on_the_batch_size():
    layer = nn.Conv2d(3, 4, 3)
    some = images(
        torch.randint(
            0, 256, (5, 3, 20, 20), generator=torch.Generator().manual_seed(3), dtype=torch.uint8
        )
    )
    one, five = (
        compute.map_shares(layer, some, torch.arange(5), LIMITS[1:], size) for size in (1, 5)
    )
    assert one == pytest.approx(five, rel=1e-5) and 0 < one[0] < one[1] < 1


def test_a_single_pixel_filter_passes_all_frequencies_and_a_smooth_one_few():
    flat = nn.Conv2d(3, 2, 1)
    # 33 of 64 rows and columns lie within stride 2
    assert compute.noise_shares(flat, LIMITS) == pytest.approx([0, 1 - 1 / 4, 1 - 1 / 16], abs=0.02)
    box = nn.Conv2d(3, 1, 8)
    box.weight.data.fill_(1.0)
    assert compute.noise_shares(box, LIMITS[1:2])[0] < 0.12


def test_projections_are_measured_as_they_are():
    grid = torch.zeros(1, 3, 32, 32)
    # 4 x 4 equal frequencies, 0 and 1/4 and 1/2 either way; without the mean 15, of which 7 are at
    # 1/2
    grid[..., ::4, ::4] = 1
    assert spectrum.projection_shares(grid, LIMITS) == pytest.approx([0, 7 / 15, 1], abs=1e-6)
    assert spectrum.projection_shares(torch.zeros(1, 3, 8, 8), [0.25]) == [0.0]


def test_the_summary_counts_and_measures_each_thing_on_its_own():
    torch.manual_seed(5)
    net = nn.Sequential(
        nn.Conv2d(3, 9, 5, stride=4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(9, 4, 2), nn.ReLU()
    )
    net[0].weight.data = planted()
    some = images(torch.randint(0, 256, (11, 3, 30, 30), dtype=torch.uint8))
    names = paper_layers(net)
    top = scan(net, some, list(names.values()), k=3)
    channels = torch.tensor([3, 0, 2])
    found = compute.strongest_projections(
        Deconvnet(net), some, names[2], top[names[2]], channels, batch_size=2
    )
    maps = net(some.batch(torch.arange(11)))
    for channel, picture in zip(channels.tolist(), found, strict=True):
        image, row, col = torch.unravel_index(maps[:, channel].argmax(), maps[:, channel].shape)
        assert torch.allclose(
            picture,
            Deconvnet(net).project(
                some.batch([int(image)]), names[2], channel, (int(row), int(col))
            )[0],
            rtol=1e-4,
            atol=1e-4,
        )
    counts = compute.count_filters(net[0].weight, top[names[1]].value[:, 0])
    row = compute.summary(net[0], counts, some, torch.arange(11), found)
    above, total = spectrum.energy_above(
        compute.full_resolution(net[0], some.batch(torch.arange(11))), [1 / 4, 1 / 8], window=True
    )
    assert [row["at stride 2"], row["at stride 4"], row["maps folded"]] == pytest.approx(
        [*(above / total).tolist(), float(above[1] / total)], abs=6e-5
    )
    assert row["projections above"] == pytest.approx(
        spectrum.projection_shares(found, [1 / 8])[0], abs=6e-5
    )
    assert (row["kernel"], row["stride"], row["filters"], row["dead"], row["dominating"]) == (
        5,
        4,
        9,
        1,
        1,
    )
    assert row["over median"] == pytest.approx(6, abs=1e-3)


def test_the_first_convolution_of_a_deep_net_is_scanned_by_itself(tmp_path, monkeypatch):
    """Layer 1 of a net of blocks ends with its second convolution; the filters are those of the
    first.
    """
    torch.manual_seed(6)
    blocks = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)]
    for _ in range(2):
        blocks += [
            layer
            for _ in range(4)
            for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
        ] + [nn.MaxPool2d(2)]
    net = nn.Module()
    net.features = nn.Sequential(*blocks)
    profile = load_profile("demo")
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    some = images(torch.randint(0, 256, (10, 3, 12, 12), dtype=torch.uint8))
    found = compute.first_two_layers(profile, net, some)
    x = some.batch(torch.arange(10))
    assert torch.allclose(found[1].value[:, 0], net.features[:2](x).amax((0, 2, 3)))
    assert torch.allclose(
        found[2].value[:, 0],
        net.features[: int(paper_layers(net.features)[2]) + 1](x).amax((0, 2, 3)),
    )


def test_image_shares_see_the_network_input():
    pixels = (100 + 50 * wave(3, 0)).round().to(torch.uint8).expand(1, 3, 32, 32)
    fine = (100 + 50 * wave(11, 0)).round().to(torch.uint8).expand(1, 3, 32, 32)
    both = images(torch.cat([pixels, fine]))
    assert [
        spectrum.image_shares(both, torch.tensor([i]), [1 / 4])[0] for i in (0, 1)
    ] == pytest.approx([0, 1], abs=1e-3)


def test_the_figure_frames_what_was_counted_and_labels_what_folds_back():
    weight = planted()
    # 2 is dead and silent, 4 silent, 7 dominates
    counts = compute.count_filters(weight, torch.tensor([1.0, 2, 0, 1, 0, 1, 1, 1, 1]))
    tile = torch.rand(9, 9, 3).numpy()
    figure = two_layers_figure(
        {"one": (weight, counts)},
        {"two": [tile] * 5},
        {"net": ([0.0, 0.25, 0.5], [1.0, 0.4, 0.0], 2)},
        "title",
    )
    sheet, tiles, curves = figure.axes
    colours = [patch.get_edgecolor()[:3] for patch in sheet.patches]
    assert colours == [(1, 0, 0), (0, 0, 1), (0, 0, 1)]
    columns, side = 3, 6  # nine filters of 5 x 5 and a gap, three a row
    assert [patch.get_xy() for patch in sheet.patches] == [
        (i % columns * side - 1, i // columns * side - 1) for i in (7, 2, 4)
    ]
    assert [axes.get_title().split()[0] for axes in (sheet, tiles, curves)] == ["(a)", "(b)", "(c)"]
    assert curves.texts[0].get_text() == "net, stride 2:\n40.0% folds back"
    assert curves.lines[1].get_xydata().tolist() == [[0.25, 0.4]]
    plt.close(figure)


def test_what_lies_below_the_axis_is_marked_and_not_drawn_on_it():
    counts = compute.count_filters(planted(), torch.ones(9))
    shares = [1.0, 0.0002, 0.0]
    figure = two_layers_figure(
        {"one": (planted(), counts)},
        {"two": [torch.rand(9, 9, 3).numpy()]},
        {"net": ([0.0, 0.25, 0.5], shares, 2)},
        "title",
    )
    curves = figure.axes[-1]
    assert curves.texts[0].get_text() == "net, stride 2:\nless than 0.1% folds back"
    assert curves.lines[0].get_ydata().tolist() == shares and curves.lines[1].get_marker() == "v"
    plt.close(figure)


def small_data():
    pixels = torch.zeros(12, 3, 70, 70, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(12)
    whole = images(pixels)
    return Data(whole, whole, whole, ("a",))


def test_the_compared_nets_differ_in_one_thing_each():
    profile = load_profile("demo")
    options = {
        "images": 7,
        "rms": 0.05,
        "gain": 3.0,
        "lr": 0.007,
        "batch_size": 5,
        "epochs": 9,
        "weight_decay": 0.04,
    }
    profile = profile.with_sections(filters=dataclasses.replace(profile.filters, **options))
    nets = compute.compared(profile, small_data())
    assert list(nets) == ["zfnet-free", "alexnet", "zfnet"]
    profiles = {name: derived for name, (derived, _) in nets.items()}
    assert [(p.model.name, p.training.rms) for p in profiles.values()] == [
        ("zfnet", None),
        ("alexnet", 0.05),
        ("zfnet", 0.05),
    ]
    assert (
        dataclasses.replace(profiles["zfnet-free"].training, rms=0.05)
        == profiles["zfnet"].training
        == profiles["alexnet"].training
    )
    assert (
        dataclasses.replace(profiles["alexnet"].model, name="zfnet")
        == profiles["zfnet"].model
        == profiles["zfnet-free"].model
    )
    recipe = profiles["zfnet"].training
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay) == (
        9,
        5,
        0.007,
        0.04,
    ) and profiles["zfnet"].model.dropout == 0
    assert (profiles["zfnet"].model.maps, profiles["zfnet"].model.fc) == (
        profile.filters.maps,
        profile.filters.fc,
    )
    assert len({p.runs for p in profiles.values()}) == 3 and all(
        p.runs.is_relative_to(profile.runs) for p in profiles.values()
    )
    chosen = [data.train.pixels[:, 0, 0, 0].tolist() for _, data in nets.values()]
    assert chosen[0] == chosen[1] == chosen[2] == sorted(set(chosen[0])) and len(chosen[0]) == 7


def test_the_compared_nets_see_inputs_of_their_own_scale():
    profile, data = load_profile("demo"), small_data()
    (derived, part), *_ = compute.compared(
        profile.with_sections(filters=dataclasses.replace(profile.filters, gain=2.5)), data
    ).values()
    assert derived.data.gain == 2.5 and data.val.gain == 1.0
    for name in ("train", "val", "test"):
        assert getattr(part, name).gain == 2.5
    assert torch.equal(part.val.batch([3]), 2.5 * data.val.batch([3]))


def test_errors_name_the_value_and_the_cure():
    with pytest.raises(ValueError, match=r"'vgg19' is pretrained.*such as demo"):
        compute.compared(load_profile("vgg19"), small_data())
    with pytest.raises(ValueError, match="stride = 0: must be at least 1"):
        spectrum.nyquist(0)
    with pytest.raises(ValueError, match=r"expected \(maps, channels, k, k\), got \(3, 4\)"):
        compute.filter_rms(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"one value for each of the 9 filters, got \(4,\)"):
        compute.count_filters(planted(), torch.zeros(4))
    with pytest.raises(ValueError, match="no Conv2d"):
        compute.first_convolution(nn.Sequential(nn.ReLU()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 0", "filters.epochs = 0: must be positive"),
        *(
            (f"maps: {maps}", "filters.maps = .* five layers, above 0 in the first two")
            for maps in ([96, 0], [96, 0, 1, 1, 1], [0, 96, 1, 1, 1], [96, 96, -1, 1, 1])
        ),
    ],
)
def test_a_bad_profile_is_explained(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text(f"title: T\nfilters: {{{text}}}")
    with pytest.raises(ValueError, match=message):
        load_profile(tmp_path / "p.yaml")


def test_the_first_layers_of_other_nets_where_they_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    first = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4).half()
    state = {"deep": torch.zeros(3, 5, 3, 3), "first": first, "bias": torch.zeros(2)}
    save_file(state, tmp_path / "there.safetensors")
    save_file({"deep": torch.zeros(3, 5, 3, 3)}, tmp_path / "deep.safetensors")
    path = tmp_path / "mine.yaml"

    def profile(*pairs):
        path.write_text(f"title: T\nfilters: {{others: {json.dumps(pairs)}}}\n")
        return load_profile(path)

    found = others(profile(("A", "there.safetensors"), ("B", "gone.safetensors")))
    assert list(found) == ["A"] and torch.equal(found["A"], first.float())
    figure = others_figure({"A": found["A"], "C": torch.ones(5, 3, 7, 7)}, "T")
    assert [axis.get_title() for axis in figure.axes] == ["A: 2 of 4 x 4", "C: 5 of 7 x 7"]
    sides = {tuple(axis.get_window_extent().size.round(3)) for axis in figure.axes}
    assert len(sides) == 1
    with pytest.raises(ValueError, match=r"deep\.safetensors holds no filters of three colours"):
        others(profile(("A", "deep.safetensors")))
    with pytest.raises(ValueError, match="expected a title and a file of weights"):
        profile(("A",))
