"""Top-k tables against a sort of everything, with ties, in any batch size and order."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from zfnet import Deconvnet, Images, scan, strongest_channel, top_units
from zfnet.methods.top_activations import merge_tables, strongest_units

LAYERS = ["1", "2", "4"]


def stack(whole_numbers: bool, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(5, 6, 3),
        nn.ReLU(inplace=True),
    ).double()
    if whole_numbers:
        for p in net.parameters():
            p.data = torch.randint(-1, 2, p.shape).double()
    else:
        net[0].bias.data.fill_(1)  # every map fires in every image: no ties at zero
        net[3].bias.data.fill_(2)
    return net


def inputs(whole_numbers: bool, n: int = 21, size=(19, 23)) -> torch.Tensor:
    return (
        torch.randint(0, 2, (n, 3, *size)).double()
        if whole_numbers
        else torch.randn(n, 3, *size, dtype=torch.float64)
    )


def dataset_of(images: torch.Tensor) -> TensorDataset:
    return TensorDataset(images, torch.zeros(len(images)))


def brute_force(net, images, layer, k):
    """For each channel: the largest value of every image, at its first position; sorted by value,
    then image.
    """
    plain = copy.deepcopy(net)[: int(layer) + 1]
    with torch.no_grad():
        maps = [plain(image[None].clone())[0].tolist() for image in images]
    tables = []
    for channel in range(len(maps[0])):
        entries = []
        for number, m in enumerate(maps):
            best = None
            for row, values in enumerate(m[channel]):
                for col, value in enumerate(values):
                    if best is None or value > best[0]:
                        best = value, number, row, col
            entries.append(best)
        tables.append(sorted(entries, key=lambda entry: (-entry[0], entry[1])))
    return [table[:k] for table in tables], tables


def as_lists(top):
    columns = (top.value.tolist(), top.image.tolist(), top.row.tolist(), top.col.tolist())
    return [list(zip(*channel, strict=True)) for channel in zip(*columns, strict=True)]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 21, 64])
def test_a_scan_is_a_sort_of_everything_with_ties(batch_size):
    """Whole-number weights and pixels: sums are exact and maxima tie, within an image, between
    images and across the end of the table.
    """
    net, images, k = stack(True), inputs(True), 5
    found = scan(net, dataset_of(images), LAYERS, k, batch_size)
    assert list(found) == LAYERS
    across = 0
    for layer in LAYERS:
        expected, everything = brute_force(net, images, layer, k)
        across += sum(table[k - 1][0] == table[k][0] for table in everything)
        assert as_lists(found[layer]) == expected, layer
    assert across > 5


def test_equal_maxima_by_hand():
    """Larger value, then lower image, then lower position row by row."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False)).double()
    net[0].weight.data.fill_(1)
    images = torch.zeros(4, 1, 2, 3, dtype=torch.float64)
    images[0, 0, 1, 2] = images[1, 0, 1, 0] = images[1, 0, 0, 2] = images[3, 0, 0, 1] = 7
    images[2, 0, 0, 0] = 8
    for batch_size in (1, 2, 4):
        top = scan(net, dataset_of(images), "0", 4, batch_size)["0"]
        assert as_lists(top) == [[(8, 2, 0, 0), (7, 0, 1, 2), (7, 1, 0, 2), (7, 3, 0, 1)]]


@pytest.mark.parametrize("batch_size", [4, 21])
def test_the_order_of_the_images_does_not_matter(batch_size):
    net, images = stack(False), inputs(False)
    order = torch.randperm(len(images))
    straight, shuffled = (
        scan(net, dataset_of(x), LAYERS, 6, batch_size) for x in (images, images[order])
    )
    for layer in LAYERS:
        a, b = straight[layer], shuffled[layer]
        assert (a.value > 0).all() and all(len(values.unique()) == 6 for values in a.value)
        torch.testing.assert_close(a.value, b.value, rtol=1e-12, atol=0)
        assert (
            torch.equal(a.image, order[b.image])
            and torch.equal(a.row, b.row)
            and torch.equal(a.col, b.col)
        )


def test_a_recorded_value_is_the_recomputed_value():
    net, images = stack(False, seed=1), inputs(False)
    deconvnet = Deconvnet(net)
    for layer, top in scan(net, dataset_of(images), LAYERS, 4, batch_size=5).items():
        for channel, entries in enumerate(as_lists(top)):
            for value, number, row, col in entries:
                again = deconvnet.activations(images[number : number + 1], layer)[0, channel]
                assert value == pytest.approx(
                    again[row, col].item(), rel=1e-12
                ) and value == pytest.approx(again.max().item(), rel=1e-12)


@pytest.mark.parametrize("batch_size", [2, 9, 100])
def test_images_of_the_package_give_the_same_table(batch_size):
    net = stack(True)
    pixels = torch.randint(0, 3, (9, 3, 26, 30), dtype=torch.uint8)
    images = Images(
        pixels,
        torch.zeros(9, dtype=torch.long),
        ["a"],
        21,
        torch.zeros(3, 1, 1),
        torch.ones(3, 1, 1),
    )
    crops = pixels[:, :, 2:23, 4:25].double()
    found = scan(net, images, LAYERS, 4, batch_size)
    for layer in LAYERS:
        assert (
            as_lists(found[layer])
            == brute_force(net, crops, layer, 4)[0]
            == as_lists(scan(net, dataset_of(crops), layer, 4)[layer])
        )


class Unreachable(nn.LocalResponseNorm):
    def forward(self, x):
        raise RuntimeError("this layer was called")


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_crops_of_one_photograph_have_one_entry(batch_size):
    """Brute force, with ties: of all crops of a photograph only the best is left in the table."""
    net, k, generator = stack(True), 4, torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 3, (21, 3, 21, 21), generator=generator, dtype=torch.uint8)
    group = torch.randint(0, 5, (21,), generator=generator) * 7
    zeros, plain = torch.zeros(21, dtype=torch.long), (torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    images = Images(pixels, zeros, ["a"], 21, *plain, group=group)
    found = scan(net, images, LAYERS, k, batch_size)
    halves = [scan(net, images, LAYERS, k, batch_size, share=(n, 2)) for n in range(2)]
    repeated = 0
    for layer in LAYERS:
        for channel, table in enumerate(brute_force(net, pixels.double(), layer, k)[1]):
            best = {}
            for entry in table:
                best.setdefault(int(group[entry[1]]), entry)
            expected = list(best.values())[:k]
            repeated += expected != table[:k]
            for tables in (found, merge_tables(halves, k, group)):
                assert as_lists(tables[layer])[channel] == expected, (layer, channel)
    assert repeated > 5
    with pytest.raises(ValueError, match="k = 6: choose 1 to 5, the number of photographs"):
        scan(net, images, LAYERS, 6)


def test_a_scan_stops_at_the_deepest_layer():
    net, images = stack(False), dataset_of(inputs(False))
    net.append(Unreachable(2))
    assert as_lists(scan(net, images, ["4", "1"], 2)["4"]) == as_lists(
        scan(net[:5], images, "4", 2)["4"]
    )
    with pytest.raises(RuntimeError, match="this layer was called"):
        scan(net, images, "5", 2)


def test_a_scan_works_as_in_eval_mode_and_leaves_the_net_alone():
    net = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.9))
        .double()
        .train()
    )
    net[1].running_mean.uniform_(-1, 1)
    images = inputs(False)
    state = copy.deepcopy(net.state_dict())
    found = scan(net, dataset_of(images), "3", 3, batch_size=4)["3"]
    assert (
        net.training
        and all(m.training for m in net)
        and all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    )
    expected = copy.deepcopy(net).eval()(images).amax((2, 3)).T.sort(descending=True).values[:, :3]
    torch.testing.assert_close(found.value, expected.detach(), rtol=1e-12, atol=1e-14)
    assert not found.value.requires_grad


@pytest.mark.parametrize(
    ("layers", "k", "message"),
    [
        ("1", 0, "k = 0: choose 1 to 21, the number of images"),
        ("1", 22, "k = 22: choose 1 to 21, the number of images"),
        (["1", "relu5"], 3, "no layer 'relu5': choose one of 0, 1, 2, 3, 4$"),
        ([], 3, "layers: give at least one"),
    ],
)
def test_what_is_wrong_is_named(layers, k, message):
    with pytest.raises(ValueError, match=message):
        scan(stack(False), dataset_of(inputs(False)), layers, k)


def test_the_strongest_units_of_one_image_are_a_sort_of_them_all_with_ties():
    net, images = stack(True), inputs(True)
    with torch.no_grad():
        maps = copy.deepcopy(net)(images[:1].clone())[0]
    units = [
        (value, c, r, j)
        for c, m in enumerate(maps.tolist())
        for r, row in enumerate(m)
        for j, value in enumerate(row)
    ]
    units.sort(key=lambda unit: -unit[0])  # stable: the lower channel, row, column first
    for k in (1, 9, len(units)):
        top = top_units(Deconvnet(net), images[0], "4", k)
        assert (
            list(
                zip(
                    top.value.tolist(),
                    top.channel.tolist(),
                    top.row.tolist(),
                    top.col.tolist(),
                    strict=True,
                )
            )
            == units[:k]
        )
    assert units[8][0] == units[9][0] or units[0][0] == units[1][0]
    for k in (0, len(units) + 1):
        with pytest.raises(
            ValueError, match=f"k = {k}: choose 1 to {len(units)}, the number of units of 4"
        ):
            top_units(Deconvnet(net), images[0], "4", k)


def test_the_strongest_unit_of_each_image_with_ties():
    """More images than a batch; of equals the first by channel, row and column."""
    net, images = stack(True), inputs(True, 40)
    with torch.no_grad():
        maps = copy.deepcopy(net)[:3](images.clone())
    channel, position = strongest_units(net, images, "2")
    tied = 0
    for m, c, (row, col) in zip(maps, channel.tolist(), position.tolist(), strict=True):
        assert m[c, row, col] == m.max() > 0
        places = (m == m.max()).nonzero().tolist()
        assert [c, row, col] == places[0]
        tied += len(places) > 1
    assert len(channel) == 40 and tied > 20


def test_the_strongest_channel_has_the_largest_total_not_the_largest_peak():
    net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU()).double()
    net[0].weight.data = torch.eye(3, dtype=torch.float64)[:, :, None, None]
    images = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    images[0, 0, 1, 1], images[0, 2], images[1, 1, 3, 4] = 10, 1, 2
    # totals 10, 0, 20; 0, 2, 0
    assert strongest_channel(Deconvnet(net), images, "1").tolist() == [2, 1]
