"""Table 1 against slow loops written from its definition; the parts against the pixels of the drawn
faces, and against a YAML file.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import hamming

from zfnet import Images, ZFNet, load_profile
from zfnet.data import shapes
from zfnet.data.files import Files
from zfnet.data.images import Data
from zfnet.data.parts import load_parts
from zfnet.experiments.correspondence import CorrespondenceConfig
from zfnet.experiments.correspondence import compute as correspondence
from zfnet.experiments.correspondence.compute import (
    DIFFERENT,
    PAPER,
    RANDOM,
    ZEROS,
    Correspondence,
    correspond,
    delta,
    disagreement,
    disjoint_groups,
    mask_out,
    random_boxes,
)
from zfnet.experiments.correspondence.figure import correspondence_figure

SIZE = 64


@pytest.fixture(scope="module")
def data():
    """Eighty drawn images, eight of them faces, in one split; 64 of 80 pixels."""
    made = shapes.make_shapes(80, 80, 0)
    statistics = torch.full((3, 1, 1), 100.0), torch.tensor([50.0, 60.0, 70.0]).view(3, 1, 1)
    images = Images(
        made.images,
        made.labels,
        shapes.CLASSES,
        SIZE,
        *statistics,
        gain=3.0,
        masks=made.masks,
        keypoints=made.keypoints,
    )
    return Data(images, images, images, shapes.CLASSES)


@pytest.fixture(scope="module")
def profile():
    return load_profile("demo").with_sections(correspondence=CorrespondenceConfig(size=12))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(3)
    return ZFNet(4, input_size=SIZE, maps=(6, 8, 7, 6, 9), fc=(20, 16)).train()


# signs and their distance


@pytest.mark.parametrize(
    ("zeros", "expected"), [("agree", 3 / 6), ("left out", 3 / 5), ("both changed", 1 / 3)]
)
def test_disagreement_by_hand(zeros, expected):
    """Six features: ++ agree, +- differ, 00 unchanged, 0- and +0 one unchanged, -- agree."""
    first, second = torch.tensor([1, 1, 0, 0, 1, -1]), torch.tensor([1, -1, 0, -1, 0, -1])
    assert disagreement(first, second, zeros).item() == expected
    assert disagreement(second, first, zeros).item() == expected


def test_disagreement_is_nan_where_no_feature_counts_and_delta_leaves_such_pairs_out():
    signs = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [-1, 1, 0]])
    assert math.isnan(disagreement(signs[0], signs[1], "both changed"))
    assert (
        math.isnan(disagreement(torch.zeros(3), torch.zeros(3), "left out"))
        and disagreement(torch.zeros(3), torch.zeros(3), "agree") == 0
    )
    # pairs: 01 none, 02 0, 03 1, 12 0, 13 0, 23 1/2
    assert delta(signs, signs, "both changed") == pytest.approx((0.3, np.std([0, 1, 0, 0, 0.5])))
    assert math.isnan(delta(signs[:2], signs[:2], "both changed")[0])


def test_an_unknown_way_to_count_zeros_is_named():
    with pytest.raises(
        ValueError, match="zeros = 'ignored': choose one of 'agree', 'left out', 'both changed'"
    ):
        disagreement(torch.ones(2), torch.ones(2), "ignored")


def slow_delta(first, second, zeros):
    """Delta as a loop over ordered pairs; its deviation over unordered ones."""

    def distance(a, b):
        if zeros == "agree":
            return hamming(a, b)
        kept = [
            (x, y)
            for x, y in zip(a, b, strict=True)
            if (x and y if zeros == "both changed" else x or y)
        ]
        return sum(x != y for x, y in kept) / len(kept)

    n = len(first)
    ordered = {
        (i, j): distance(first[i].tolist(), second[j].tolist())
        for i in range(n)
        for j in range(n)
        if i != j
    }
    pairs = [(ordered[i, j] + ordered[j, i]) / 2 for i, j in itertools.combinations(range(n), 2)]
    return sum(ordered.values()) / (n * (n - 1)), np.std(pairs)


@pytest.mark.parametrize("zeros", ZEROS)
def test_delta_is_the_mean_over_ordered_pairs(zeros):
    first, second = torch.randint(-1, 2, (2, 5, 40), generator=torch.Generator().manual_seed(1))
    assert delta(first, second, zeros) == pytest.approx(slow_delta(first, second, zeros))
    assert delta(first, first, zeros) == pytest.approx(slow_delta(first, first, zeros))


def test_rounding_has_no_sign():
    clean = torch.tensor([[0.0, 2.0, 200.0], [1.0, 1.0, 1.0]])
    # 1e-5 of the largest, 200, is the limit
    change = torch.tensor([[0.0019, -0.0021, 0.5], [0.0, -1.0, 0.0021]])
    assert correspondence.signs_of_change(clean, clean - change).tolist() == [
        [0, -1, 1],
        [0, -1, 1],
    ]


# masks and groups


def test_a_mask_is_the_mean_colour_in_its_box_and_nothing_elsewhere():
    inputs = torch.randn(3, 3, 6, 7, generator=torch.Generator().manual_seed(0)) + 9
    boxes = torch.tensor([[1, 2, 3, 5], [-2, -1, 2, 2], [4, 5, 9, 9]])
    before = inputs.clone()
    covered = mask_out(inputs, boxes)
    for n, c, y, x in itertools.product(range(3), range(3), range(6), range(7)):
        top, left, bottom, right = boxes[n]
        assert covered[n, c, y, x] == (
            0 if top <= y < bottom and left <= x < right else before[n, c, y, x]
        )
    assert torch.equal(inputs, before)


def test_random_boxes_lie_inside_with_their_centre_on_the_object_anywhere_there():
    where = torch.zeros(1, 7, 8, dtype=torch.bool)
    where[0, 1:6, 2:4] = where[0, 6, 7] = True
    parts = torch.tensor([[[0, 0, 4, 3], [2, 2, 4, 5]]])  # 4 x 3 and 2 x 3
    allowed = {
        (top, left, top + h, left + w)
        for h, w in ((4, 3), (2, 3))
        for top in range(7 - h + 1)
        for left in range(8 - w + 1)
        if where[0, top + h // 2, left + w // 2]
    }
    generator = torch.Generator().manual_seed(0)
    drawn = [tuple(random_boxes(parts, where, generator)[0].tolist()) for _ in range(1000)]
    assert set(drawn) == allowed
    # each part as often
    assert sum(bottom - top == 4 for top, _, bottom, _ in drawn) == pytest.approx(500, abs=60)
    again = torch.Generator().manual_seed(0)
    assert tuple(random_boxes(parts, where, again)[0].tolist()) == drawn[0]


def test_a_random_box_without_a_place_is_an_error():
    where = torch.ones(2, 5, 5, dtype=torch.bool)
    where[1, 1:] = False  # a row at the border holds no centre
    with pytest.raises(
        ValueError, match=r"image 1: no box of 3 x 3 pixels .*: make the parts smaller"
    ):
        random_boxes(torch.tensor([[[0, 0, 3, 3]]] * 2), where, torch.Generator())


def test_groups_are_disjoint_and_seeded():
    groups = disjoint_groups(17, 5, 9, seed=4)
    assert (
        groups.shape == (3, 5)
        and len(set(groups.flatten().tolist())) == 15
        and set(groups.flatten().tolist()) <= set(range(17))
    )
    assert torch.equal(groups[:2], disjoint_groups(17, 5, 2, seed=4))
    assert not torch.equal(groups, disjoint_groups(17, 5, 9, seed=5))
    for total, size, count in ((4, 5, 1), (9, 3, 0), (9, 1, 2)):
        with pytest.raises(
            ValueError,
            match=f"{total} images with all parts do not make {count} group.s. of {size}",
        ):
            disjoint_groups(total, size, count, 0)


# the table


def features(net, inputs):
    """Features at layer 5, before its pool and after it, and at layer 7, by hooks on the net's own
    forward pass.
    """
    kept, modules = (
        {},
        {
            5: net.features.pool5,
            "relu5": net.features.relu5,
            7: net.classifier.relu7,
        },
    )
    hooks = [
        module.register_forward_hook(
            lambda _, __, out, name=name: kept.update({name: out.flatten(1)})
        )
        for name, module in modules.items()
    ]
    with torch.no_grad():
        net.eval()(inputs)
    net.train()
    for hook in hooks:
        hook.remove()
    return kept


def test_correspond_against_a_slow_loop(net, data, profile):
    parts = load_parts(profile, data)
    groups = disjoint_groups(len(parts), 3, 2, 0)
    found = correspond(net, parts, groups, (5, "relu5", 7), draws=3, seed=1)
    assert found.rows == (*parts.names, RANDOM, DIFFERENT)
    inputs = parts.images.batch(range(len(parts)))
    clean = features(net, inputs)

    def signs(boxes, layer):
        change = clean[layer] - features(net, mask_out(inputs, boxes))[layer]
        change[change.abs() <= 1e-5 * clean[layer].max()] = 0
        return change.sign()

    for layer in (5, "relu5", 7):
        by_part = [signs(parts.boxes[:, n], layer) for n in range(4)]
        by_draw = [signs(boxes, layer) for boxes in found.random_boxes]
        pairs = {
            **{name: [(by_part[n],) * 2] for n, name in enumerate(parts.names)},
            RANDOM: [(one, one) for one in by_draw],
            DIFFERENT: [(by_part[a], by_part[b]) for a, b in itertools.permutations(range(4), 2)],
        }
        for row, name in enumerate(found.rows):
            assert found.changed[layer][row] == pytest.approx(
                np.mean([(first != 0).double().mean().item() for first, _ in pairs[name]])
            )
            for zeros, (g, group) in itertools.product(ZEROS, enumerate(groups)):
                slow = [
                    slow_delta(first[group], second[group], zeros) for first, second in pairs[name]
                ]
                assert found.delta[layer, zeros][row, g].item() == pytest.approx(
                    np.mean([mean for mean, _ in slow])
                ), (layer, zeros, name)
                assert found.spread[layer, zeros][row, g].item() == pytest.approx(
                    np.mean([std for _, std in slow])
                )
    # there was something to compare
    assert found.delta[5, "agree"].min() > 0.02 and found.delta[5, "agree"].max() < 0.98
    assert net.training  # its mode is its own
    again = correspond(net, parts, groups, (5,), draws=3, seed=1)
    assert torch.equal(again.random_boxes, found.random_boxes) and torch.equal(
        again.delta[5, "agree"], found.delta[5, "agree"]
    )
    assert not torch.equal(
        correspond(net, parts, groups, (5,), draws=3, seed=2).random_boxes, found.random_boxes
    )


def test_an_unknown_layer_is_named(net, data, profile):
    with pytest.raises(ValueError, match="layer 8: this net has 1, 2, 3, 4, 5, 6, 7, conv1, relu1"):
        correspond(net, load_parts(profile, data), torch.tensor([[0, 1]]), (5, 8))


def test_a_net_that_reads_one_part_finds_it_and_no_other(data, profile):
    """Features that are pixels of the left eye's square, lit where the pupil is not: masking it
    changes them alike, masking the nose not at all.
    """
    parts = load_parts(profile, data)
    eye, nose = parts.names.index("left_eye"), parts.names.index("nose")
    groups = disjoint_groups(len(parts), 4, 2, 0)

    def outputs(model, inputs, layers):
        crops = [
            one[:, max(t, 0) : b, max(le, 0) : r]
            for one, (t, le, b, r) in zip(inputs, parts.boxes[:, eye].tolist(), strict=True)
        ]
        # the pupil, darker than the mean
        return {7: torch.stack([crop[:, 5:7, 5:7].flatten() for crop in crops])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correspondence, "_outputs", outputs)
        found = correspond(None, parts, groups, (7,))
    assert found.delta[7, "both changed"][eye].tolist() == [0, 0] and found.changed[7][eye] == 1
    assert found.delta[7, "agree"][eye].tolist() == [0, 0] and found.changed[7][nose] < 0.3


def made_up(groups):
    values = torch.tensor([[0.2, 0.4], [0.5, 0.5]], dtype=torch.float64)[:, :groups]
    return Correspondence(
        ("right_eye", RANDOM),
        {(5, "agree"): values},
        {(5, "agree"): values / 10},
        {5: torch.tensor([0.3, 0.25])},
        torch.zeros(2, 3, 4),
    )


def test_the_table_by_hand():
    first, control = correspondence.table(made_up(2))
    assert first == {
        "layer": 5,
        "masked": "right_eye",
        "zeros": "agree",
        "delta": "0.3000",
        "std": "0.1000",
        "std_pairs": "0.0300",
        "groups": 2,
        "features_changed": "0.300",
        "minus_random": "-0.2000",
        "std_minus_random": "0.1000",
        "groups_below_random": "1.00",
        "paper_delta": 0.067,
        "paper_std": 0.007,
    }
    assert (control["delta"], control["minus_random"], control["groups_below_random"]) == (
        "0.5000",
        "",
        "",
    )
    assert (control["paper_delta"], control["paper_std"]) == PAPER[5][RANDOM] == (0.107, 0.017)


def test_one_group_has_the_deviation_of_its_pairs():
    assert made_up(1).deviation(5, "agree").tolist() == pytest.approx([0.02, 0.05])
    assert made_up(2).deviation(5, "agree").tolist() == pytest.approx([0.1, 0])


# parts


def test_parts_of_the_faces_lie_where_their_pixels_say(data, profile):
    parts = load_parts(profile, data)
    assert (parts.images.labels == shapes.CLASSES.index("face")).all() and len(parts) == (
        data.test.labels == shapes.CLASSES.index("face")
    ).sum()
    centres = (parts.boxes[..., :2] + parts.boxes[..., 2:]) // 2
    assert (parts.boxes[..., 2:] - parts.boxes[..., :2] == 12).all()
    seen = 0
    for n, name in enumerate(parts.names):
        for k, (row, col) in enumerate(centres[:, n].tolist()):
            exact = parts.images.keypoints[name][k] - torch.tensor(parts.images.corner)
            assert (exact - torch.tensor([row, col])).abs().max() <= 0.5001
            if "eye" in name and 1 <= row < SIZE - 1 and 1 <= col < SIZE - 1:
                seen += 1
                assert parts.images.pictures([k])[0, :, row, col].max() < 60  # a black pupil
    assert seen > 10
    assert torch.equal(parts.objects, parts.images.masks[:, 8:-8, 8:-8])
    chosen = parts.subset(torch.tensor([2, 0]))
    for kept, all_of_them in (
        (chosen.boxes, parts.boxes),
        (chosen.objects, parts.objects),
        (chosen.images.pixels, parts.images.pixels),
    ):
        assert torch.equal(kept, all_of_them[[2, 0]])


def test_without_keypoints_or_with_an_unknown_one_the_cure_is_named(data, profile):
    images = Images(
        data.test.pixels, data.test.labels, data.classes, SIZE, data.test.mean, data.test.std
    )
    bare = Data(images, images, images, data.classes)
    with pytest.raises(
        ValueError,
        match=(
            r"profile 'demo' have no keypoints: write .* `correspondence: \{boxes:"
            r" data/demo/parts.yaml\}`"
        ),
    ):
        load_parts(profile, bare)
    tail = profile.with_sections(correspondence=CorrespondenceConfig(parts=("nose", "tail")))
    with pytest.raises(ValueError, match=r"no keypoint 'tail': choose from centre, top, .*mouth"):
        load_parts(tail, data)


@pytest.fixture
def photos():
    """Three splits of four, three and five pictures, each of one colour: 0 to 11; the test split
    has the names c/0.jpg to c/4.jpg.
    """
    pixels = (
        torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).expand(12, 3, SIZE, SIZE).contiguous()
    )
    names = (
        [f"a/{n}.jpg" for n in range(4)]
        + [f"b/{n}.jpg" for n in range(3)]
        + [f"c/{n}.jpg" for n in range(5)]
    )
    images = Images(
        pixels,
        torch.arange(12),
        [str(n) for n in range(12)],
        SIZE,
        torch.zeros(3, 1, 1),
        torch.ones(3, 1, 1),
        names=names,
    )
    return Data(
        *(images.subset(torch.arange(a, b)) for a, b in ((0, 4), (4, 7), (7, 12))), images.classes
    )


def from_file(tmp_path, photos, text):
    (tmp_path / "parts.yaml").write_text(text)
    return load_parts(
        load_profile("folder").with_sections(
            correspondence=CorrespondenceConfig(boxes=str(tmp_path / "parts.yaml"))
        ),
        photos,
    )


def test_boxes_of_photographs_by_name_and_by_number(tmp_path, photos):
    lines = [
        "b/1.jpg: {nose: [1, 2, 11, 22], ear: [30, 31, 64, 64]}",
        "3: {ear: [0, 0, 5, 5], object: [0, 10, 40, 64], nose: [7, 8, 9, 10]}",
        "a/0.jpg: {nose: [1, 1, 2, 2], ear: [3, 3, 4, 4]}",
    ]
    parts = from_file(tmp_path, photos, "\n".join(lines))
    assert parts.names == ("nose", "ear")
    assert parts.images.pixels[:, 0, 0, 0].tolist() == [
        5,
        10,
        0,
    ] and parts.images.labels.tolist() == [5, 10, 0]
    assert parts.boxes.tolist() == [
        [[1, 2, 11, 22], [30, 31, 64, 64]],
        [[7, 8, 9, 10], [0, 0, 5, 5]],
        [[1, 1, 2, 2], [3, 3, 4, 4]],
    ]
    assert (
        parts.objects[[0, 2]].all()
        and parts.objects[1].sum() == 40 * 54
        and parts.objects[1, :40, 10:].all()
    )


def test_boxes_of_photographs_that_stay_in_their_files(tmp_path, photos):
    for n in range(5):
        Image.new("RGB", (SIZE, SIZE), (40 * n, 0, 0)).save(tmp_path / f"{n}.png")
    files = Files(tmp_path, [(f"{n}.png", 0, 0) for n in range(5)], SIZE)
    photos = replace(photos, test=replace(photos.test, pixels=files))
    parts = from_file(tmp_path, photos, "3: {nose: [7, 8, 9, 10]}\nc/1.jpg: {nose: [1, 1, 2, 2]}")
    assert parts.images.pixels[:, 0, 0, 0].tolist() == [120, 40]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "d/9.jpg: {nose: [0, 0, 5, 5]}",
            ValueError,
            r"no image 'd/9.jpg': give a name .*'c/0.jpg', or a number from 0 to 4",
        ),
        ("5: {nose: [0, 0, 5, 5]}", ValueError, "no image 5"),
        ("true: {nose: [0, 0, 5, 5]}", ValueError, "no image True"),
        (
            "0: {nose: [0, 0, 5, 5]}\n1: {ear: [0, 0, 5, 5]}",
            ValueError,
            "1 has the parts ear, the first image nose: every image needs the same",
        ),
        (
            "0: {nose: [0, 0, 65, 5]}",
            ValueError,
            r"0: nose = \[0, 0, 65, 5\]: expected 0 <= top < bottom <= 64",
        ),
        ("0: {nose: [5, 0, 5, 5]}", ValueError, "expected 0 <= top < bottom"),
        ("0: {nose: [0, 0, 5, 5], object: [0, 0, 70, 70]}", ValueError, "0: object = "),
        (
            "0: {nose: [0, 0, 5.5, 5]}",
            TypeError,
            r"expected \[top, left, bottom, right\], whole pixels",
        ),
        ("0: {object: [0, 0, 5, 5]}", TypeError, "expected images, each with its parts"),
        ("- nose", TypeError, "expected images, each with its parts"),
        ("", TypeError, "expected images, each with its parts"),
        ("0: [", ValueError, "is not plain YAML"),
    ],
)
def test_a_bad_file_is_explained(tmp_path, photos, text, error, message):
    with pytest.raises(error, match=message):
        from_file(tmp_path, photos, text)


def test_images_that_the_data_does_not_have_are_left_out(tmp_path, photos):
    text = "c/0.jpg: {nose: [0, 0, 5, 5]}\nd/9.jpg: {nose: [1, 1, 5, 5]}\n1: {nose: [2, 2, 5, 5]}"
    with pytest.warns(UserWarning, match=r"1 of 3 images are not in the data: d/9.jpg. Left out"):
        parts = from_file(tmp_path, photos, text)
    assert parts.boxes.tolist() == [[[0, 0, 5, 5]], [[2, 2, 5, 5]]]


def test_a_missing_file_is_named(photos):
    with pytest.raises(
        FileNotFoundError, match=r"correspondence.boxes none.yaml: there is no such file"
    ):
        load_parts(
            load_profile("folder").with_sections(
                correspondence=CorrespondenceConfig(boxes="none.yaml")
            ),
            photos,
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "correspondence: {size: 200}",
            "correspondence.size = 200 does not fit into data.size = 112",
        ),
        ("correspondence: {size: 0}", "correspondence.size = 0: must be positive"),
        ("correspondence: {parts: []}", "correspondence.parts = .*give at least one, each once"),
        (
            "correspondence: {parts: [nose, nose]}",
            "correspondence.parts = .*give at least one, each once",
        ),
    ],
)
def test_a_bad_profile_is_explained(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text("title: T\n" + text)
    with pytest.raises(ValueError, match=message):
        load_profile(tmp_path / "p.yaml")


# the picture


@pytest.mark.slow
def test_the_figure_shows_the_masks_and_the_numbers(net, data, profile):
    parts = load_parts(profile, data)
    groups = disjoint_groups(len(parts), 3, 2, 0)
    found = correspond(net, parts, groups, (5, 7), draws=2)
    control = correspond(net, parts, groups, (5, 7), draws=2, seed=8)
    figure = correspondence_figure(parts, groups[0], found, control, "T")
    pictures = [axis for axis in figure.axes if axis.images]
    assert len(pictures) == 6 * 3
    box = parts.boxes[groups[0, 1], 2].clamp(0, SIZE)  # third row, second image
    shown = pictures[2 * 3 + 1].images[0].get_array()
    original = parts.images.pictures(groups[0, 1:2])[0].permute(1, 2, 0).numpy() / 255
    inside = np.zeros((SIZE, SIZE), bool)
    inside[box[0] : box[2], box[1] : box[3]] = True
    assert np.allclose(shown[inside], 100 / 255) and np.allclose(
        shown[~inside], original[~inside], atol=1e-5
    )
    layer7 = next(axis for axis in figure.axes if axis.get_title() == "layer 7, here")
    points = {
        (round(float(x), 6), round(float(y), 2))
        for line in layer7.lines
        if line.get_marker() in "os"
        for x, y in zip(*line.get_data(), strict=True)
    }
    expected = {
        (round(float(result.delta[7, zeros][row].mean()), 6), round(row + shift, 2))
        for row in range(6)
        for result, zeros, shift in (
            (found, "agree", -0.2),
            (found, "both changed", 0),
            (control, "both changed", 0.2),
        )
    }
    assert points == expected
