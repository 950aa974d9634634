"""Images in, exactly: decoding, splits, crops and normalisation, against PIL and numpy; the
built-in shapes against their own description.
"""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from zfnet import Profile, load_data
from zfnet.data import files, images, load, shapes
from zfnet.store.profiles import DataConfig


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    return tmp_path


def profile(**config):
    return Profile("p", "P", data=DataConfig(**config))


def photo(path, width, height, seed, mode="RGB", **save):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = (
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))
        .resize((width, height))
        .convert(mode)
    )
    image.save(path, **save)


@pytest.fixture
def folder(root):
    for label in ("cat", "dog", "two words"):
        for i in range(12):
            photo(root / "images" / label / f"{i:02d}.png", 40 + 3 * i, 50 - i, 100 + i)
    return root / "images"


def test_a_folder_is_decoded_split_and_named(folder):
    exif = Image.Exif()
    exif[274] = 6
    photo(folder / "cat" / "rotated.jpg", 60, 40, 1, exif=exif)
    for mode in ("L", "P", "RGBA", "1"):
        photo(folder / "dog" / f"{mode}.png", 37, 61, 2, mode)
    found = load_data(
        profile(source="folder", root="images", resize=32, size=28, test=0.25, validation=0.2)
    )
    assert found.classes == ("cat", "dog", "two words")
    names = [name for split in (found.train, found.val, found.test) for name in split.names]
    assert (
        sorted(names) == sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*"))
        and len(set(names)) == 41
    )
    for split in (found.train, found.val, found.test):
        assert set(split.labels.tolist()) == {0, 1, 2}
        for i, name in enumerate(split.names):
            assert found.classes[split.labels[i]] == name.split("/")[0]
            image = ImageOps.exif_transpose(Image.open(folder / name)).convert("RGB")
            side = min(image.size)
            left, top = (image.width - side) / 2, (image.height - side) / 2
            expected = image.resize(
                (32, 32), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
            )
            assert (
                np.abs(
                    split.pixels[i].permute(1, 2, 0).numpy().astype(int) - np.array(expected)
                ).max()
                <= 1
            )


@pytest.mark.parametrize("normalise", ["channel", "pixel"])
@pytest.mark.slow
def test_files_that_do_not_fit_into_memory_give_the_same_images(root, normalise):
    for label in ("cat", "dog"):
        for i in range(220):  # enough parts for worker processes
            photo(root / "images" / label / f"{i:02d}.png", 14 + i % 5, 17, i)
    (root / "images" / "dog" / "broken.png").write_bytes(b"")
    config = {"source": "folder", "root": "images", "resize": 12, "size": 9, "normalise": normalise}
    with pytest.warns(UserWarning, match="1 of 441 images"):
        kept = load_data(profile(**config))
    with pytest.warns(UserWarning, match="1 of 441 images"):
        streamed = load_data(profile(**config, memory=1e-9))
    # labels and names, no pixels
    assert (root / "runs" / "p" / "data.safetensors").stat().st_size < 100_000
    for one, other in zip(
        (kept.train, kept.val, kept.test),
        (streamed.train, streamed.val, streamed.test),
        strict=True,
    ):
        assert (
            isinstance(other.pixels, images.Files)
            and other.pixels.shape == one.pixels.shape
            and other.names == one.names
        )
        assert (
            torch.equal(one.labels, other.labels)
            and torch.equal(one.mean, other.mean)
            and torch.equal(one.std, other.std)
        )
        some = torch.tensor([len(one) - 1, 0, 2])
        assert torch.equal(one.batch(some), other.batch(some)) and torch.equal(
            one.subset(some).pixels, other.subset(some).pixels[torch.arange(3)]
        )
        for (i, x), (j, u) in zip(images.batches(one, 7), images.batches(other, 7), strict=True):
            assert torch.equal(i, j) and torch.equal(x, u)


def test_a_file_that_disappears_is_named(root):
    for i in range(30):
        photo(root / "images" / "cat" / f"{i:02d}.png", 14, 17, i)
    found = load_data(profile(source="folder", root="images", resize=12, size=9, memory=1e-9))
    (root / "images" / found.val.names[0]).unlink()
    with pytest.raises(
        OSError, match=f"{found.val.names[0]} .*cannot be read any more. Start again"
    ):
        list(images.batches(found.val, 4))


# the second as torchvision lays ImageNet out
@pytest.mark.parametrize(("held", "suffix"), [("test", "png"), ("val", "JPEG")])
def test_train_and_test_folders_stay_what_they_are(root, held, suffix):
    for part in ("train", held):
        for label in "ab":
            for i in range(5):
                photo(root / "images" / part / label / f"{i}.{suffix}", 34, 34, i)
    found = load_data(profile(source="folder", root="images", resize=32, size=32, validation=0.2))
    assert found.classes == ("a", "b")
    assert all(name.startswith(f"{held}/") for name in found.test.names) and len(found.test) == 10
    assert all(name.startswith("train/") for name in found.train.names + found.val.names) and (
        len(found.train),
        len(found.val),
    ) == (8, 2)


def test_images_per_class(folder):
    found = load_data(
        profile(
            source="folder",
            root="images",
            resize=32,
            size=32,
            train_per_class=5,
            test_per_class=3,
            validation=0.2,
        )
    )
    assert found.train.labels.bincount().tolist() == [4, 4, 4]
    assert found.val.labels.bincount().tolist() == [1, 1, 1]
    assert found.test.labels.bincount().tolist() == [3, 3, 3]


@pytest.mark.parametrize("normalise", ["channel", "pixel", "imagenet"])
def test_normalisation_by_numpy(folder, normalise):
    found = load_data(
        profile(source="folder", root="images", resize=32, size=27, normalise=normalise, gain=3.0)
    )
    crops = found.train.pixels[:, :, 2:29, 2:29].double().numpy()
    if normalise == "channel":
        mean, std = crops.mean((0, 2, 3)).reshape(3, 1, 1), crops.std((0, 2, 3)).reshape(3, 1, 1)
    elif normalise == "pixel":
        mean, std = crops.mean(0), 1.0
    else:
        mean, std = (
            np.array([123.675, 116.28, 103.53]).reshape(3, 1, 1),
            np.array([58.395, 57.12, 57.375]).reshape(3, 1, 1),
        )
    test = found.test.pixels[:, :, 2:29, 2:29].double().numpy()
    torch.testing.assert_close(
        found.test.batch([0, 2]).double(),
        torch.from_numpy((test[[0, 2]] - mean) / std * 3),
        rtol=1e-4,
        atol=1e-4,
    )
    assert (
        torch.equal(found.test[2][0], found.test.batch([2])[0])
        and found.test[2][1] == found.test.labels[2]
    )
    assert torch.equal(found.test.pictures([1]), found.test.pixels[[1], :, 2:29, 2:29])


def test_unreadable_images_are_named_and_few_are_skipped(folder):
    (folder / "cat" / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(
        ValueError, match=r"1 of 37 images .* cannot be read: cat/broken.jpg .*More than 1 %"
    ):
        load_data(profile(source="folder", root="images", resize=32, size=32))
    for i in range(80):
        photo(folder / "dog" / f"more{i}.png", 33, 33, i)
    with pytest.warns(UserWarning, match=r"1 of 117 images .*cat/broken.jpg.*Skipped"):
        found = load_data(profile(source="folder", root="images", resize=32, size=32))
    assert len(found.train) + len(found.val) + len(found.test) == 116


def test_missing_and_empty_folders_have_a_cure(root):
    with pytest.raises(
        FileNotFoundError,
        match=r"no folder .*nowhere: put images there as CLASS/image.jpg, or set `data: root:`",
    ):
        load_data(profile(source="folder", root="nowhere"))
    (root / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no images in .*empty"):
        load_data(profile(source="folder", root="empty"))


def test_decoded_once_and_again_when_something_changes(folder, monkeypatch):
    first = load_data(profile(source="folder", root="images", resize=32, size=32))
    with monkeypatch.context() as patched:
        patched.setattr(load, "_decode", lambda *a: pytest.fail("decoded again"))
        again = load_data(profile(source="folder", root="images", resize=32, size=32))
        assert (
            torch.equal(first.train.pixels, again.train.pixels)
            and first.train.fingerprint == again.train.fingerprint
        )
        with pytest.raises(pytest.fail.Exception):
            load_data(profile(source="folder", root="images", resize=34, size=32))
    photo(folder / "cat" / "00.png", 40, 40, 999)
    changed = load_data(profile(source="folder", root="images", resize=32, size=32))
    assert [getattr(changed, n).fingerprint for n in ("train", "val", "test")] != [
        getattr(first, n).fingerprint for n in ("train", "val", "test")
    ]


def test_cifar10_in_torchvisions_own_format(root, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = root / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        content = {
            "data": rng.integers(0, 255, (20, 3072), np.uint8),
            "labels": [i % 10 for i in range(20)],
        }
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(
        pickle.dumps({"label_names": [f"class{i}" for i in range(10)]})
    )
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
    found = load_data(profile(source="cifar10", root="data", resize=32, size=32))
    assert (len(found.train), len(found.val), len(found.test)) == (90, 10, 20) and found.classes[
        3
    ] == "class3"
    raw = pickle.loads((folder / "test_batch").read_bytes())["data"].reshape(20, 3, 32, 32)
    assert np.array_equal(found.test.pixels.numpy(), raw)
    assert (
        found.test.names[3] == "test/class3/0000.jpg"
        and found.test.names[13] == "test/class3/0001.jpg"
    )
    numbers = sorted(name for name in found.train.names + found.val.names if "/class3/" in name)
    assert numbers == [f"train/class3/{n:04d}.jpg" for n in range(10)]


def test_caltech101_in_torchvisions_own_format(root):
    for label in ("accordion", "BACKGROUND_Google", "ant"):
        for i in range(1, 9):
            photo(
                root
                / "data"
                / "caltech101"
                / "101_ObjectCategories"
                / label
                / f"image_{i:04d}.jpg",
                50 + i,
                40,
                i,
            )
    (root / "data" / "caltech101" / "Annotations").mkdir()
    found = load_data(
        profile(
            source="caltech101",
            root="data",
            resize=32,
            size=32,
            train_per_class=4,
            test_per_class=3,
        )
    )
    assert found.classes == ("accordion", "ant")  # the background is no class
    assert found.test.labels.bincount().tolist() == [3, 3]
    for split in (found.train, found.test):
        for name, label, picture in zip(
            split.names, split.labels.tolist(), split.pixels, strict=True
        ):
            assert name.split("/")[0] == found.classes[label]
            folder = root / "data" / "caltech101" / "101_ObjectCategories" / name.split("/")[0]
            apart = {
                path.name: (files.read_image(path, 32).float() - picture.float()).abs().mean()
                for path in folder.iterdir()
            }
            # torchvision resizes another way
            assert min(apart, key=apart.get) == name.split("/")[1]


def test_caltech101_as_a_folder_has_no_background_either(root):
    for label in ("accordion", "BACKGROUND_Google", "ant"):
        for i in range(4):
            photo(root / "images" / label / f"image_{i:04d}.jpg", 50 + i, 40, i)
    assert load_data(profile(source="caltech101", root="images", resize=32, size=32)).classes == (
        "accordion",
        "ant",
    )
    assert load_data(profile(source="folder", root="images", resize=32, size=32)).classes == (
        "BACKGROUND_Google",
        "accordion",
        "ant",
    )


def test_offline_the_cure_is_named(root, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", offline)
    with pytest.raises(
        FileNotFoundError,
        match=(
            r"cifar10 is not in .* could not be downloaded .*connect to the network once, or point"
            r" `data: root:`"
        ),
    ):
        load_data(profile(source="cifar10"))


def test_random_crops_are_crops_and_mirrors():
    pixels = torch.randint(0, 256, (6, 3, 12, 12), dtype=torch.uint8)
    indices = torch.tensor([5, 0, 3, 3] * 20)
    seen = set()
    for flip in (True, False):
        found = images.random_crops(pixels, indices, 9, torch.Generator().manual_seed(0), flip)
        for crop, index in zip(found, indices.tolist(), strict=True):
            places = [
                (r, c, m)
                for r in range(4)
                for c in range(4)
                for m in (False, True)
                if torch.equal(crop.flip(2) if m else crop, pixels[index, :, r : r + 9, c : c + 9])
            ]
            assert len(places) == 1 and (flip or not places[0][2])
            seen.add(places[0])
    assert len(seen) > 24, "crops and mirrors are not spread"


def test_resized_crops_match_torchvision():
    from torchvision.transforms.v2.functional import InterpolationMode, resized_crop

    pixels = torch.randint(0, 256, (4, 3, 20, 24), dtype=torch.uint8)
    indices, top, left = (
        torch.tensor([3, 0, 0, 2]),
        torch.tensor([0, 4, 2, 5]),
        torch.tensor([7, 0, 6, 1]),
    )
    sides, flip = torch.tensor([16, 9, 18, 12]), torch.tensor([False, True, True, False])
    found = images.resized_crops(pixels, indices, top, left, flip, sides, 12)
    for n, index in enumerate(indices.tolist()):
        place = top[n].item(), left[n].item(), sides[n].item(), sides[n].item()
        expected = resized_crop(
            pixels[index].float(), *place, [12, 12], InterpolationMode.BILINEAR, antialias=False
        )
        # at its rim torchvision repeats the crop's own pixels
        inner = (found[n].float() - (expected.flip(2) if flip[n] else expected))[:, 1:-1, 1:-1]
        assert inner.abs().max() <= 0.51
    assert torch.equal(found[3], pixels[2, :, 5:17, 1:13])


def test_random_crops_of_random_side_stay_inside_and_spread():
    # a pixel's value tells its row
    rows = torch.arange(40.0).view(1, 1, 40, 1).expand(1, 3, 40, 40).to(torch.uint8) * 6
    found = (
        images.random_crops(
            rows,
            torch.zeros(400, dtype=torch.long),
            20,
            torch.Generator().manual_seed(0),
            True,
            smallest=20,
        ).float()
        / 6
    )
    # a crop's side, from its first and last rows
    span = (found[:, 0, -1, 0] - found[:, 0, 0, 0]) * 20 / 19
    assert span.min() > 19 and span.max() < 41 and 29 < span.mean() < 31
    assert found[:, 0, 0, 0].min() < 0.6 and found[:, 0, -1, 0].max() > 38.4


# --- The built-in shapes --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    return shapes.make_shapes(60, 96, seed=7)


def test_shapes_depend_on_seed_and_index_alone(made):
    more = shapes.make_shapes(80, 96, seed=7)
    for name in ("images", "labels", "masks"):
        assert torch.equal(getattr(more, name)[:60], getattr(made, name))
    assert not torch.equal(shapes.make_shapes(60, 96, seed=8).images, made.images)
    assert made.labels.bincount().tolist() == [6] * 10


def test_keypoints_lie_on_the_object_and_the_nose_between_the_eyes(made):
    for name, points in made.keypoints.items():
        known = ~points.isnan().any(1)
        assert torch.equal(known, made.labels == 4) if name in shapes.FACE_POINTS else known.all()
        rows, cols = points[known].long().unbind(1)
        assert made.masks[known.nonzero().flatten(), rows, cols].all(), name
    face = made.labels == 4
    left, right, nose = (made.keypoints[name][face] for name in ("left_eye", "right_eye", "nose"))
    torch.testing.assert_close((left - nose).norm(dim=1), (right - nose).norm(dim=1))
    assert (left[:, 1] < right[:, 1]).all() and (nose[:, 0] > (left + right)[:, 0] / 2).all()


def test_masks_cover_a_part_of_the_image_and_differ_from_the_background(made):
    share = made.masks.double().mean((1, 2))
    assert share.min() > 0.03 and share.max() < 0.5
    grey = made.images.double().mean(1)
    edge = (grey[:, :, 1:] - grey[:, :, :-1]).abs()
    inside = made.masks[:, :, 1:] & made.masks[:, :, :-1]
    # textures are inside, backgrounds are smooth
    assert edge[inside].mean() > 2.5 * edge[~inside].mean()


@pytest.mark.parametrize(("count", "size", "message"), [(0, 64, "count = 0"), (5, 20, "size = 20")])
def test_shapes_names_bad_arguments(count, size, message):
    with pytest.raises(ValueError, match=message):
        shapes.make_shapes(count, size)


def test_masks_follow_the_crop(root):
    found = load_data(profile(source="shapes", count=50, resize=64, size=50)).val
    assert torch.equal(found.mask([1]), found.masks[[1], 7:57, 7:57])
    with pytest.raises(ValueError, match="no object masks"):
        images.Images(found.pixels, found.labels, found.classes, 50, found.mean, found.std).mask(
            [0]
        )
