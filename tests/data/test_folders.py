"""People's own folders: what each layout is taken for, and what is said of the files left out."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from zfnet import Profile, load_data
from zfnet.data import files
from zfnet.data.folders import PLAIN, layout
from zfnet.store.errors import UserError
from zfnet.store.profiles import DataConfig, TrainingConfig


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    return tmp_path


def loaded(root="images", **config):
    config = {"source": "folder", "root": root, "resize": 8, "size": 8, **config}
    return load_data(Profile("p", "P", data=DataConfig(**config)))


def photos(folder, count=4, seed=0):
    """`count` small images, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        pixels = np.random.default_rng([seed, n, *folder.name.encode()]).integers(0, 256, (9, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")


def everything(data):
    """{(name, class)} of all images of all three splits."""
    return {
        (name, split.classes[label])
        for split in (data.train, data.val, data.test)
        for name, label in zip(split.names, split.labels.tolist(), strict=True)
    }


# --- Several folders ------------------------------------------------------------------------------


def test_a_list_of_folders_is_one_pool_with_classes_by_name(root):
    for folder, label in (("one", "cat"), ("one", "dog"), ("deep/two", "dog"), ("deep/two", "ant")):
        photos(root / folder / label)
    data = loaded(("one", "deep/two"))
    assert data.classes == ("ant", "cat", "dog")
    assert everything(data) == {
        (f"{folder}/{label}/{n}.png", label)
        for folder, label in (
            *(("one", "cat"), ("one", "dog")),
            *(("deep/two", "dog"), ("deep/two", "ant")),
        )
        for n in range(4)
    }
    assert data.test.group is None
    alone = loaded(("one",))  # a list of one is that folder
    assert everything(alone) == everything(loaded("one")) and alone.classes == ("cat", "dog")


def test_folders_in_one_another_or_of_different_kinds_are_refused(root):
    photos(root / "one" / "cat")
    photos(root / "two" / "train" / "cat")
    photos(root / "two" / "test" / "cat")
    with pytest.raises(UserError, match=r"one/cat lies in .*one, and its images would count twice"):
        loaded(("one", "one/cat"))
    with pytest.raises(
        UserError, match=r"some of the folders are divided .*\(those of cat\): name the parts one"
    ):
        loaded(("one", "two"))
    assert len(everything(loaded(("one", "two/train", "two/test")))) == 12


def test_crops_know_their_photograph(root):
    data = load_data(Profile("p", "P", data=DataConfig(source="photos", count=36, resize=112)))
    for split in (data.train, data.val, data.test):
        of = [name.split(" ")[0] for name in split.names]
        same = torch.tensor([[one == other for other in of] for one in of])
        assert torch.equal(split.group[:, None] == split.group, same)


# --- What folders mean ----------------------------------------------------------------------------

# how people divide their images, and how many of four images a class and folder come to be in
# train, val and test
DIVIDED = {
    ("train", "test"): (6, 2, 8),  # a quarter of train is held out for validation
    ("train", "val"): (6, 2, 8),  # ImageNet: tested on its val
    ("train", "valid"): (6, 2, 8),
    ("train", "validation"): (6, 2, 8),
    ("Training", "Testing"): (6, 2, 8),
    ("TRAIN", "Test"): (6, 2, 8),
    ("training_set", "test_set"): (6, 2, 8),
    ("train2017", "val2017"): (6, 2, 8),
    ("train", "val", "test"): (8, 8, 8),
    ("train", "valid", "test"): (8, 8, 8),
    ("data/train", "data/test"): (6, 2, 8),  # one level too many
    ("a/b/Train", "a/b/Validation", "a/b/Test"): (8, 8, 8),
    ("train/train", "test/test"): (6, 2, 8),  # an archive in each
}


@pytest.mark.parametrize("folders", DIVIDED)
def test_train_val_and_test_by_any_name(root, folders):
    for folder in folders:
        for label in ("cat", "dog"):
            photos(root / "images" / folder / label)
    data = loaded(validation=0.25)
    assert data.classes == ("cat", "dog")
    assert tuple(map(len, (data.train, data.val, data.test))) == DIVIDED[folders]
    assert {name for name, _ in everything(data)} == {
        f"{folder}/{label}/{n}.png"
        for folder in folders
        for label in ("cat", "dog")
        for n in range(4)
    }
    assert all(label == name.split("/")[-2] for name, label in everything(data))
    within = [
        {name.split("/cat/")[0].split("/dog/")[0] for name in split.names}
        for split in (data.train, data.val, data.test)
    ]
    assert within[0] == {folders[0]} and within[2] == {folders[-1]}
    assert within[1] == {folders[1] if len(folders) > 2 else folders[0]}


@pytest.mark.parametrize(
    "names, classes, left_out",
    [
        # class folders, maybe some levels down, maybe with a folder in each that says nothing
        (["cat/1.png", "dog/1.png"], ["cat", "dog"], {}),
        (["a/b/cat/1.png", "a/b/dog/1.png"], ["cat", "dog"], {}),
        (["cat/images/1.png", "dog/Images/1.png"], ["cat", "dog"], {}),
        (["cat/kitten/1.png", "cat/tom/1.png", "dog/1.png"], ["cat/kitten", "cat/tom", "dog"], {}),
        (["cafe\u0301/1.png", "caf\u00e9/2.png", "b/1.png"], ["caf\u00e9", "caf\u00e9", "b"], {}),
        # classes that are called like parts
        (["train/1.png", "car/1.png"], ["train", "car"], {}),
        (["test/1.png", "cat/1.png"], ["test", "cat"], {}),
        # no class folders
        (["1.png", "2.png"], ["images", "images"], {}),
        (["train/1.png", "test/1.png"], ["images", "images"], {}),
        (["train/images/1.png", "valid/images/1.png"], ["images", "images"], {}),
        (["images/train/1.png", "images/val/1.png"], ["images", "images"], {}),
        (["cat/1.png", "cat/2.png"], ["cat", "cat"], {}),
        # beside them
        (["cat/1.png", "dog/1.png", "1.png"], ["cat", "dog", None], {"in no class folder": 1}),
        (
            ["a/cat/1.png", "a/dog/1.png", "a/1.png", "1.png"],
            ["cat", "dog", None, None],
            {"in no class folder": 2},
        ),
        (["cat/1.png", "cat/kitten/1.png"], ["cat", "cat/kitten"], {}),
        (
            ["train/cat/1.png", "test/cat/1.png", "more/cat/1.png", "1.png", "train/1.png"],
            ["cat", "cat", None, None, None],
            {"outside of train, test": 2, "in no class folder of train": 1},
        ),
        (
            ["Train/cat/1.png", "Train/dog/1.png", "holdout/cat/1.png"],
            ["cat", "dog", None],
            {"outside of Train": 1},
        ),
        # Tiny-ImageNet
        (
            ["train/n1/images/1.png", "train/n2/images/1.png", "val/images/1.png"],
            ["n1", "n2", None],
            {"in no class folder of val": 1},
        ),
        # a test set of one class, which is a class of train's; one that is a level too deep
        (["train/a/b/1.png", "train/a/c/1.png", "test/a/b/1.png"], ["b", "c", "b"], {}),
        (["train/a/b/1.png", "train/c/1.png", "test/a/b/1.png"], ["a/b", "c", "a/b"], {}),
    ],
)
def test_what_each_folder_is_taken_for(names, classes, left_out):
    found = layout(names)
    assert (found.classes, found.left_out) == (classes, left_out)


def test_classes_that_only_the_test_set_has_are_listed(root):
    for folder in ("train/cat", "train/dog", "test/cat", "test/Dog", "test/emu"):
        photos(root / "images" / folder)
    with pytest.raises(
        UserError, match="images: classes that have no training images: 'Dog', 'emu': give"
    ):
        loaded()


def test_what_lies_in_no_class_folder_is_left_out_and_said(root):
    for folder in ("train/cat/images", "train/dog/images", "val/images"):
        photos(root / "images" / folder)
    with pytest.warns(UserWarning, match="images left out: 4 in no class folder of val. Put them"):
        data = loaded()
    assert data.classes == ("cat", "dog") and len(everything(data)) == 8
    assert len(data.test) == 2  # drawn from train, a fifth of each class


def test_one_class_is_enough_where_nothing_is_trained(root):
    photos(root / "images" / "cat")
    photos(root / "flat")
    for folder, label in (("images", "cat"), ("flat", "images")):
        assert loaded(folder).classes == (label,)
        config = DataConfig(source="folder", root=folder, resize=8, size=8)
        with pytest.raises(
            UserError, match=f"{folder}: all images are of one class, '{label}', and training tells"
        ):
            load_data(Profile("q", "Q", data=config, training=TrainingConfig()))


@pytest.mark.parametrize("below", [".", "101_ObjectCategories", "caltech-101/101_ObjectCategories"])
def test_caltech101_wherever_its_folders_lie_and_whatever_lies_beside_them(root, below):
    for label in ("ant", "bass", "BACKGROUND_Google"):
        photos(root / "images" / below / label)
    photos(root / "images" / below / "ant" / "@eaDir")
    photos(root / "images" / ".thumbnails")
    (root / "images" / "Annotations" / "ant").mkdir(parents=True)
    (root / "images" / "Annotations" / "ant" / "annotation_0001.mat").write_bytes(b"")
    for name in ("Thumbs.db", ".DS_Store", "ant/._0.png", "ant/desktop.ini"):
        (root / "images" / below / name).write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="9 files left out, by name: 1 .mat, 8 hidden images"):
        data = loaded(source="caltech101")
    assert data.classes == ("ant", "bass") and len(everything(data)) == 8


# --- Which files are images -----------------------------------------------------------------------


def test_files_left_out_for_their_names_are_counted_and_said_once(root):
    photos(root / "images" / "cat")
    photos(root / "images" / "dog")
    photos(root / "images" / ".ipynb_checkpoints")
    photos(root / "images" / "cat" / "__MACOSX")
    for name in ("cat/1.HEIC", "dog/2.heic", "dog/raw.cr2", "dog/nothing", "notes.txt"):
        (root / "images" / name).write_bytes(b"x")
    (root / "images" / "cat" / "gone.png").symlink_to("nowhere.png")
    with pytest.warns(UserWarning) as caught:
        data = loaded()
    assert [str(each.message).split("images: ")[-1] for each in caught] == [
        "13 files left out, by name: 1 .HEIC, 1 .cr2, 1 .heic, 8 hidden images, 1 links to nothing,"
        " or pipes, 1 without an ending. Images need the ending of their format, such as .jpg, and"
        " no dot in front; for HEIC, `pip install pillow-heif`, or save it as JPEG"
    ]
    assert len(everything(data)) == 8
    with warnings.catch_warnings():  # what was said is not said again, until there is more
        warnings.simplefilter("error")
        loaded()
    (root / "images" / "cat" / "3.heic").write_bytes(b"x")
    with pytest.warns(UserWarning, match="14 files left out"):
        loaded()


def test_every_format_that_pillow_writes_and_reads_is_an_image(tmp_path):
    """Sixteen even grey levels in large squares, near enough also after a lossy format."""
    grey = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4) * 16, np.ones((16, 16), np.uint8))
    picture = Image.fromarray(grey).convert("RGB")
    tried = []
    for suffix, kind in files.formats().items():
        path = tmp_path / f"a{suffix.upper()}"
        mode = {"MSP": "1", "XBM": "1", "PALM": "P"}.get(kind, "RGB")
        try:
            picture.convert(mode).save(path, kind)
        except (KeyError, OSError, ValueError):  # read only
            path.unlink(missing_ok=True)
            continue
        expected = np.array(picture.convert(mode).convert("RGB"))
        found = files.read_image(path, 64).permute(1, 2, 0).numpy()
        assert abs(found.astype(int) - expected).mean() < 3, suffix
        tried.append(suffix)
    assert {".jpg", ".jfif", ".pgm", ".tif", ".tga", ".bmp", ".gif", ".ico", ".pcx"} <= set(tried)
    assert [name for name, *_ in files.list_images(tmp_path)] == sorted(
        f"a{suffix.upper()}" for suffix in tried
    )
    assert not {".eps", ".ps", ".wmf", ".pdf"} & set(files.formats())


def test_a_photograph_of_a_phone_is_named_with_the_cure(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x24ftypheic" + bytes(200))  # whatever its name
    for file in (tmp_path / "a.jpg", io.BytesIO((tmp_path / "a.jpg").read_bytes())):
        with pytest.raises(
            UserError, match=r"cannot identify .*for HEIC, `pip install pillow-heif`"
        ):
            files.read_image(file, 8)
    with pytest.raises(UserError) as caught:
        files.read_image(io.BytesIO(b"text"), 8)
    assert "HEIC" not in str(caught.value)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_grey_is_scaled_by_the_bits_that_a_file_uses(tmp_path, bits, kind):
    values = np.linspace(0, 2**bits - 1, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / f"a.{kind}")
    pixels = files.Files(tmp_path, [(f"a.{kind}", 0, 0)], 8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found, _ = files.decode(pixels, 1.0)
    assert np.abs(found[0, 0].numpy() - np.linspace(0, 255, 64).reshape(8, 8)).max() <= 0.75
    said = f"1 of 1 images in {tmp_path} were made brighter, by the bits that they use: a.{kind}"
    assert [str(each.message).split(f" (uses {bits} of its 16 bits)")[0] for each in caught] == (
        [said] * (bits < 16)
    )


def test_black_is_black_and_colours_of_which_nothing_is_left_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "black.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not files.read_image(tmp_path / "black.png", 8).any()
    for top, refused in ((4095, True), (65535, False)):
        rows = np.linspace(0, top, 192).astype(">u2").reshape(8, 24)
        chunks = (
            (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
            (b"IEND", b""),
        )
        (tmp_path / "deep.png").write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + b"".join(
                struct.pack(">I", len(data))
                + name
                + data
                + struct.pack(">I", zlib.crc32(name + data))
                for name, data in chunks
            )
        )
        if refused:
            with pytest.raises(UserError, match=r"16 bits that use 12 .*: save it with 8 bits"):
                files.read_image(tmp_path / "deep.png", 8)
        else:
            found = files.read_image(tmp_path / "deep.png", 8).permute(1, 2, 0).reshape(8, 24)
            assert np.abs(found.numpy() - rows / 257).max() <= 1


# --- Any folders at all ---------------------------------------------------------------------------

WORDS = (
    *("train", "Training", "val", "valid", "test", "Test_set", "images", "cat", "Dog", "caf\u00e9"),
    *("cafe\u0301", "$x_{", "1", "\u732b", ".hidden", "__MACOSX", "a b", "@eaDir", "data"),
)
FILES = ("1.png", "2.PNG", "x.jfif", "y.heic", "z.tar.gz", "._1.png", ".2.png", "Thumbs.db", "n")


@settings(
    max_examples=int(os.environ.get("ZFNET_FUZZ", 60)),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    st.sets(
        st.tuples(st.lists(st.sampled_from(WORDS), max_size=4).map(tuple), st.sampled_from(FILES)),
        min_size=1,
        max_size=9,
    )
)
def test_fuzz_no_image_is_lost_without_a_word(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("fuzz")
    for folder, file in tree:
        (root.joinpath(*folder)).mkdir(parents=True, exist_ok=True)
        root.joinpath(*folder, file).write_bytes(b"")
    entries, others = files.look_through(root)
    names = [name for name, *_ in entries]
    droppings = [file for _, file in tree if file in ("._1.png", "Thumbs.db")]
    hidden = {".hidden", "__MACOSX", "@eaDir"}
    nothing = [f for way, f in tree if hidden & {*way} and f in ("y.heic", "z.tar.gz", "n")]
    assert len(names) + sum(others.values()) == len(tree) - len(droppings) - len(nothing)
    assert names == [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*"))
        if path.name in ("1.png", "2.PNG", "x.jfif") and not hidden & {*path.parts}
    ]
    assert (not others) == (files.said_of(others, root) == "")
    found = layout(names)
    left_out = [name for name in found.classes if name is None]
    assert len(found.classes) == len(found.parts) == len(names)
    assert len(left_out) == sum(found.left_out.values())
    # something is always read
    assert len(left_out) < len(names) or not names
    # the same below another folder
    if all("/" in name and name.split("/")[-2].casefold() not in PLAIN for name in names):
        assert layout([f"below/{name}" for name in names]) == found
