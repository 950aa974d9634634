"""Broken and hostile input, one table each for profiles, images, folders, weights and artefacts:
what it is, and the one line, or the value, that it gets.

Fuzzing: ZFNET_FUZZ=5000 python -m pytest tests/store/test_hostile.py -k fuzz

says how many mutated files of each kind; 150 by default.
"""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import re
import struct
import sys
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save, save_file

import zfnet
from zfnet import Profile, ZFNet, class_names, load_data, load_model, load_profile
from zfnet.cli.main import main
from zfnet.data import files
from zfnet.data.files import Files
from zfnet.models import build as weights
from zfnet.store import artefacts
from zfnet.store.errors import UserError, WorkerKilled
from zfnet.store.profiles import ROOT, DataConfig, ModelConfig

EXAMPLES = int(os.environ.get("ZFNET_FUZZ", 150))
OURS = (UserError, OSError)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("zfnet.store.profiles.ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def got(report):
    """Report what a bad input got; an error has to be one line, and not a long one."""

    def say(kind: str, name: str, what: object, folder: Path = Path("\0")) -> None:
        text = str(what).replace(f"{folder}/", "").replace(str(folder), "folder")
        if isinstance(what, Exception):
            assert "\n" not in text and len(text) < 700, text
            text = f"{type(what).__name__}: {text}"
        report(f"{kind}, {name}: {text[:170]}")

    return say


# --- Profiles -------------------------------------------------------------------------------------

LAUGHS = (
    "a: &a [x, x]\n"
    + "".join(
        f"{new}: &{new} [*{old}, *{old}]\n"
        for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    )
    + "title: *j\n"
)
PROFILES = {
    "code in a tag": (
        "title: !!python/object/apply:os.system ['touch ran']",
        ValueError,
        "is not plain YAML: could not determine a constructor",
    ),
    "an object in a tag": (
        "title: !!python/object:zfnet.Profile {}",
        ValueError,
        "is not plain YAML: could not determine a constructor",
    ),
    "a tag that does not fit": (
        "title: !!int abc",
        ValueError,
        "is not plain YAML: invalid literal",
    ),
    "a timestamp that is none": ("title: !!timestamp abc", ValueError, "is not plain YAML"),
    "a truth that is none": ("title: !!bool maybe", ValueError, "is not plain YAML"),
    "the 99th of month 99": (
        "title: 2001-99-99",
        ValueError,
        "is not plain YAML: month must be in 1..12",
    ),
    "an alias bomb": (
        LAUGHS,
        ValueError,
        r"is not plain YAML: line 2 has an alias \(\*a\): write the value out",
    ),
    "an alias of itself": ("title: &a [*a]", ValueError, r"has an alias \(\*a\)"),
    "a merge of itself": ("data: &a {<<: *a}", ValueError, r"has an alias \(\*a\)"),
    "lists 30,000 deep": (
        "title: " + "[" * 30_000,
        ValueError,
        "is not plain YAML: it is nested too deeply",
    ),
    "mappings 30,000 deep": (
        "title: " + "{a: " * 30_000,
        ValueError,
        "is not plain YAML: it is nested too deeply",
    ),
    "two megabytes": (
        "title: T # " + "x" * 2_000_000,
        ValueError,
        "has 2,000,011 bytes: expected a short file",
    ),
    "a zero byte": ("title: \0", ValueError, "is not plain YAML: unacceptable character #x0000"),
    "bytes that are no text": (
        b"title: \xff\xfe",
        ValueError,
        "is not plain YAML: 'utf-8' codec can't decode",
    ),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0", ValueError, "is not plain YAML"),
    "nothing": ("", TypeError, "expected keys and values, got NoneType"),
    "a list": ("- title: T", TypeError, "expected keys and values, got list"),
    "a text for a section": (
        "title: T\ndata: folder",
        TypeError,
        "data: expected keys and values, got 'folder'",
    ),
    "a list for a section": (
        "title: T\ntraining: [1]",
        TypeError,
        r"training: expected keys and values, got \[1\]",
    ),
    "a section twice": (
        "title: T\ndata: {size: 96}\ndata: {size: 64}",
        ValueError,
        "'data' stands there twice",
    ),
    "an unknown key": (
        "title: T\ntrainng: {}",
        ValueError,
        "unknown key 'trainng'; did you mean 'training'\\? Known keys: name, title",
    ),
    "a number for a key": ("title: T\n1: 2", ValueError, "unknown key 1. Known keys"),
    "a list for a key": (
        "? [a, b]\n: 1",
        ValueError,
        "is not plain YAML: while constructing a mapping",
    ),
    "a key of 100,000 letters": (f"title: T\n{'k' * 1000}: 1", ValueError, "unknown key 'kkkk"),
    "a value of 100,000 letters": (
        f"title: T\ndata: {{source: {'x' * 100_000}}}",
        ValueError,
        "source = 'xxx.*…: choose one of shapes",
    ),
    "a name that leaves the project": (
        "title: T\nname: ../../etc",
        ValueError,
        "name = '../../etc': it names a folder",
    ),
    "a truth for a number": (
        "title: T\ndata: {size: true}",
        TypeError,
        "size = True: expected int, got bool",
    ),
    "a fraction for a whole number": (
        "title: T\ndata: {count: 5.0}",
        TypeError,
        "count = 5.0: expected int, got float",
    ),
    "1e-3, which YAML takes for text": (
        "title: T\ntraining: {lr: 1e-3}",
        TypeError,
        "lr = '1e-3': expected float, got str; write 0.001",
    ),
    "null for a number": (
        "title: T\ndata: {size: null}",
        TypeError,
        "size = None: expected int, got NoneType",
    ),
    "a mapping in a list": (
        "title: T\nmodel: {maps: [1, {}, 3]}",
        TypeError,
        r"maps = \{\}: expected int",
    ),
    "a negative size": (
        "title: T\ndata: {size: -3}",
        ValueError,
        "data.size = -3: must be positive",
    ),
    "a size of zero": (
        "title: T\nocclusion: {stride: 0}",
        ValueError,
        "occlusion.stride = 0: must be positive",
    ),
    "negative maps": (
        "title: T\nmodel: {maps: [8, -8, 8, 8, 8]}",
        ValueError,
        "maps.1. = -8: must be positive",
    ),
    "four layers": (
        "title: T\nmodel: {maps: [8, 8, 8, 8]}",
        ValueError,
        "expected the numbers of maps of five layers",
    ),
    "a negative seed": ("title: T\nseed: -1", ValueError, "seed = -1: must not be negative"),
    "a rate that is no number": (
        "title: T\ntraining: {lr: .nan}",
        ValueError,
        "training.lr = nan: must be positive",
    ),
    "an infinite gain": (
        "title: T\ndata: {gain: .inf}",
        ValueError,
        "data.gain = inf: must be positive",
    ),
    "a momentum that is no number": (
        "title: T\ntraining: {momentum: .nan}",
        ValueError,
        "momentum = nan: must be a number that is not negative",
    ),
    "a momentum of 1": (
        "title: T\ntraining: {momentum: 1.0}",
        ValueError,
        "momentum = 1.0: must be at least 0 and less than 1",
    ),
    "a negative decay": (
        "title: T\ntransfer: {weight_decay: -.inf}",
        ValueError,
        "transfer.weight_decay = -inf: must be a number",
    ),
    "a seed of 40 digits": (
        f"title: T\nseed: {'9' * 40}",
        ValueError,
        "seed = 9{40}: at most 1,000,000,000",
    ),
    "a seed of 5,000 digits": (
        f"title: T\nseed: {'9' * 5000}",
        ValueError,
        "is not plain YAML: Exceeds the limit",
    ),
    "a seed of 8,000 hexadecimal digits": (
        f"title: T\nseed: 0x{'f' * 8000}",
        ValueError,
        "seed = a number of thousands of digits: at most",
    ),
    "a rate of 400 digits": (
        f"title: T\ntraining: {{lr: {'9' * 400}}}",
        ValueError,
        "lr = 9+…: at most",
    ),
    "images of a billion pixels": (
        "title: T\ndata: {resize: 1000000000}",
        ValueError,
        "data.resize = 1000000000: at most 10000 pixels",
    ),
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_hostile_profile_gets_one_line_that_names_it(name, tmp_path, monkeypatch, got):
    content, error, message = PROFILES[name]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "p.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=message) as caught:
        load_profile(path)
    assert str(caught.value).startswith("p.yaml") and not (tmp_path / "ran").exists()
    got("profile", name, caught.value)


def test_more_memory_than_there_is_gets_one_line(root, capsys, got):
    (root / "huge.yaml").write_text(
        "title: T\ndata: {count: 900000000, resize: 9000}\ntraining: {}\n"
    )
    assert main(["train", str(root / "huge.yaml")]) == 1
    out = capsys.readouterr()
    assert (
        out.err.startswith("error: not enough memory (")
        and "lower `data: size:`" in out.err
        and out.err.count("\n") == 1
    )
    got("profile", "9e8 images of 9,000 px", out.err.strip())


# --- Images ---------------------------------------------------------------------------------------

SIDE = 24
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG by hand: PIL writes neither 16-bit colours nor a size that is a lie."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    )


RAMP = np.arange(SIDE) * 11
SMOOTH = Image.fromarray(
    np.stack(np.broadcast_arrays(RAMP[:, None], RAMP, 255 - RAMP[:, None]), 2).astype(np.uint8)
)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\n%%EndComments\nshowpage\n%%EOF\n"
UNREADABLE = {
    "nothing": (b"", "cannot identify image file"),
    "a text file": (b"not an image", "cannot identify image file"),
    "noise": (RNG.bytes(5000), "cannot identify image file"),
    "a PNG cut in half": (encoded(Image.fromarray(NOISE), "PNG")[:900], "truncated|broken"),
    "a JPEG cut in half": (encoded(Image.fromarray(NOISE), "JPEG")[:700], "truncated"),
    "a PNG of 50,000 x 50,000": (
        png(50_000, 50_000, 8, 2, b""),
        "could be decompression bomb DOS attack",
    ),
    "a PNG that says more than it holds": (png(3000, 3000, 8, 2, b"\0" * 100), "truncated"),
    "a text of 200 MB in a PNG": (
        encoded(Image.fromarray(NOISE), "PNG")[:-12]
        + (
            lambda z: (
                struct.pack(">I", len(z)) + b"zTXt" + z + struct.pack(">I", zlib.crc32(b"zTXt" + z))
            )
        )(b"Comment\0\0" + zlib.compress(b"\0" * 200_000_000))
        + encoded(Image.fromarray(NOISE), "PNG")[-12:],
        "too large",
    ),
    "PostScript, which is a program": (POSTSCRIPT, "cannot identify image file"),
    "floating-point pixels": (
        encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"),
        "pixels of mode F, 32 bits, have no known white",
    ),
    "32-bit whole numbers": (
        encoded(Image.fromarray(np.ones((8, 8), np.int32)), "TIFF"),
        "pixels of mode I, 32 bits, have no known white",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_image_is_named(name, tmp_path, monkeypatch, got):
    content, message = UNREADABLE[name]
    (tmp_path / "gs").write_text("#!/bin/sh\ntouch ran\n")  # where PIL would look for Ghostscript
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jpg").write_bytes(content)
    (tmp_path / "good.jpg").write_bytes(encoded(SMOOTH, "PNG"))
    pixels, broken = Files(tmp_path, [("bad.jpg", 0, 0), ("good.jpg", 0, 0)], SIDE).read(
        torch.tensor([0, 1])
    )
    assert (
        list(broken) == [0]
        and re.match(r"bad\.jpg \(.*" + message, broken[0])
        and "\n" not in broken[0]
        and len(broken[0]) < 250
    )
    assert (
        not pixels[0].any()
        and np.array_equal(pixels[1].permute(1, 2, 0).numpy(), np.array(SMOOTH))
        and not (tmp_path / "ran").exists()
    )
    got("image", name, broken[0], tmp_path)


GREY16 = np.linspace(0, 65535, SIDE * SIDE).astype(np.uint16).reshape(SIDE, SIDE)
COLOUR16 = RNG.integers(0, 65536, (SIDE, SIDE, 3)).astype(">u2")
PALETTE = RNG.integers(0, 256, (256, 3), np.uint8)
SMALL = np.array(SMOOTH)


def indexed() -> Image.Image:
    picture = Image.frombytes("P", (SIDE, SIDE), (NOISE[..., 0] % 16).astype(np.uint8).tobytes())
    picture.putpalette(PALETTE.tobytes())
    return picture


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, 2)


def cmyk() -> tuple[Image.Image, np.ndarray]:
    """Inks, 0..255, and the colour of what they leave of white: (255 - ink)(255 - black) / 255."""
    inks = np.dstack([SMALL, SMALL[..., :1] // 4])
    return (
        Image.frombytes("CMYK", (SIDE, SIDE), inks.tobytes()),
        (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255,
    )


# how a picture is stored under each EXIF orientation (section 4.6.4 of its specification), from the
# upright one
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
}


def rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(
        Image.fromarray(np.ascontiguousarray(STORED[orientation](NOISE))), "PNG", exif=exif
    )


WIDE = np.zeros((SIDE, 20_000, 3), np.uint8)
WIDE[:, 10_000 - SIDE // 2 : 10_000 + SIDE // 2] = NOISE
ODD = {  # bytes, the pixels that they are, and how far from them is near enough
    "16-bit grey, PNG": (encoded(Image.fromarray(GREY16), "PNG"), grey(GREY16 / 257), 0.5),
    "16-bit grey, TIFF": (encoded(Image.fromarray(GREY16), "TIFF"), grey(GREY16 / 257), 0.5),
    "16-bit grey, big-endian TIFF": (
        encoded(Image.frombytes("I;16B", (SIDE, SIDE), GREY16.astype(">u2").tobytes()), "TIFF"),
        grey(GREY16 / 257),
        0.5,
    ),
    "16-bit grey, PGM": (
        b"P5 24 24 65535\n" + GREY16.astype(">u2").tobytes(),
        grey(GREY16 / 257),
        0.5,
    ),
    "16-bit colour, PNG": (
        png(SIDE, SIDE, 16, 2, b"".join(b"\0" + row.tobytes() for row in COLOUR16)),
        COLOUR16 / 257,
        1.0,
    ),
    "8-bit grey": (encoded(Image.fromarray(NOISE[..., 0]), "PNG"), grey(NOISE[..., 0]), 0),
    "1 bit": (
        encoded(Image.fromarray(NOISE[..., 0] > 127), "PNG"),
        grey((NOISE[..., 0] > 127) * 255),
        0,
    ),
    "palette": (encoded(indexed(), "PNG"), PALETTE[NOISE[..., 0] % 16], 0),
    "palette with a transparent colour": (
        encoded(indexed(), "PNG", transparency=3),
        PALETTE[NOISE[..., 0] % 16],
        0,
    ),
    "alpha: what it hides is shown": (
        encoded(Image.fromarray(np.dstack([NOISE, NOISE[..., :1]])), "PNG"),
        NOISE,
        0,
    ),
    "grey with alpha": (
        encoded(Image.fromarray(NOISE[..., 0]).convert("LA"), "PNG"),
        grey(NOISE[..., 0]),
        0,
    ),
    "four inks (CMYK), TIFF": (encoded(cmyk()[0], "TIFF"), cmyk()[1], 1.5),
    "four inks (CMYK), JPEG": (
        encoded(cmyk()[0], "JPEG", quality=100, subsampling=0),
        cmyk()[1],
        6,
    ),
    "an animation: its first picture": (
        encoded(indexed(), "GIF", save_all=True, append_images=[Image.new("P", (SIDE, SIDE))]),
        PALETTE[NOISE[..., 0] % 16],
        0,
    ),
    "1 x 1": (
        encoded(Image.new("RGB", (1, 1), (7, 80, 200)), "PNG"),
        np.full((SIDE, SIDE, 3), (7, 80, 200)),
        0,
    ),
    "20,000 px wide": (encoded(Image.fromarray(WIDE), "PNG"), NOISE, 0),
    **{f"EXIF orientation {n}": (rotated(n), NOISE, 0) for n in STORED},
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_image_is_read_by_value(name, tmp_path, got):
    content, expected, tolerance = ODD[name]
    (tmp_path / "odd.png").write_bytes(content)
    found = files.read_image(tmp_path / "odd.png", SIDE).permute(1, 2, 0).numpy()
    apart = np.abs(found - np.asarray(expected, float)).max()
    assert np.ptp(np.asarray(expected)) > 100 and apart <= tolerance
    got("image", name, f"read, at most {apart:.2g} of 255 off")


# --- Folders --------------------------------------------------------------------------------------


def photos(folder: Path, count: int = 4) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        Image.fromarray(RNG.integers(0, 256, (20, 20, 3), np.uint8)).save(folder / f"{n}.png")


def of_folder(**config) -> Profile:
    return Profile(
        "p", "P", data=DataConfig(source="folder", root="images", resize=16, size=16, **config)
    )


def empty_class(images: Path) -> None:
    (images / "nothing in here").mkdir()


def loops(images: Path) -> None:
    (images / "cat" / "up").symlink_to(images)
    (images / "cat" / "self").symlink_to(images / "cat" / "self")
    (images / "cat" / "self.jpg").symlink_to("self.jpg")
    (images / "cat" / "gone.jpg").symlink_to(images / "nowhere.jpg")
    (images / "dog" / "there").symlink_to(images / "cat")
    (images / "cat" / "back").symlink_to(images / "dog")


def linked(images: Path) -> None:
    photos(images.parent / "elsewhere")
    (images / "linked").symlink_to(images.parent / "elsewhere")


def not_images(images: Path) -> None:
    (images / "cat" / "notes.txt").write_text("hello")
    (images / "cat" / "folder.jpg").mkdir()
    os.mkfifo(images / "cat" / "pipe.jpg")


def names(images: Path) -> None:
    photos(images / "two words, ünïcödé 猫", 3)
    for name in ("a b.PNG", "é猫🐈.png", "quote'\".png", "line\nbreak.png", "-rf.png"):
        (images / "cat" / name).write_bytes((images / "cat" / "0.png").read_bytes())
    if sys.platform == "linux":  # others refuse such a name
        Path(os.fsdecode(os.fsencode(images / "cat") + b"/not utf-8 \xe9.png")).write_bytes(
            (images / "cat" / "0.png").read_bytes()
        )


FOLDERS = {
    "an empty class folder": (empty_class, ("cat", "dog"), 8),
    "links that lead round in circles": (loops, ("cat", "cat/back", "dog", "dog/there"), 16),
    "a link to a class folder": (linked, ("cat", "dog", "linked"), 12),
    "texts, pipes and folders among images": (not_images, ("cat", "dog"), 8),
    "spaces, accents, quotes, line breaks, bytes that are no text in names": (
        names,
        ("cat", "dog", "two words, ünïcödé 猫"),
        16 + (sys.platform == "linux"),
    ),
}


@pytest.mark.skipif(os.name != "posix", reason="links, pipes and such names are POSIX's")
@pytest.mark.parametrize("name", FOLDERS)
def test_an_odd_folder_is_read(name, root, got):
    change, classes, count = FOLDERS[name]
    for label in ("cat", "dog"):
        photos(root / "images" / label)
    change(root / "images")
    first, again = (load_data(of_folder()) for _ in range(2))
    assert first.classes == classes == again.classes
    own = [name for split in (first.train, first.val, first.test) for name in split.names]
    assert len(own) == count == len(set(own)) and all(
        files.read_image(root / "images" / one, 16).any() for one in own
    )
    assert again.val.names == first.val.names and torch.equal(again.val.pixels, first.val.pixels)
    got("folder", name, f"{count} images of {len(classes)} classes")


def test_too_few_images_are_named(root, got):
    photos(root / "images" / "cat", 1)
    with pytest.raises(
        ValueError,
        match=(
            "1 images of 1 classes leave none to train on: put three at least of each class into"
            r" .*images"
        ),
    ) as caught:
        load_data(of_folder())
    got("folder", "a single image", caught.value, root)


# the signal may come while PyTorch clears up, which it reports
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_killed_decoder_gets_one_line(root, got):
    photos(root / "images" / "cat", 400)

    class Deadly(Files):
        def read(self, indices):
            os._exit(9) if 300 in indices.tolist() else None
            return super().read(indices)

    images = Deadly(root / "images", [(f"cat/{n}.png", 0, 0) for n in range(400)], 16)
    with pytest.raises(
        OSError,
        match="a process that decodes images was killed: most likely memory, or /dev/shm, ran out",
    ) as caught:
        list(files.read_ahead(images, torch.arange(400).split(64)))
    got("folder", "a decoding process killed", caught.value)


@pytest.mark.parametrize(
    "seen",
    [ConnectionResetError, ConnectionRefusedError, BrokenPipeError, EOFError, FileNotFoundError],
)
def test_a_dead_decoder_is_known_by_its_socket_too(root, monkeypatch, seen):
    """Which of the two the program sees first, the signal or the closed socket that tensors are
    fetched through, is chance.
    """
    photos(root / "images" / "cat", 10)

    def loader(*_, **__):
        yield torch.zeros(2, 3, 16, 16, dtype=torch.uint8), {}
        raise seen

    monkeypatch.setattr(torch.utils.data, "DataLoader", loader)
    images = Files(root / "images", [(f"cat/{n}.png", 0, 0) for n in range(10)], 16)
    read = files.read_ahead(images, torch.arange(10).split(2))
    assert len(next(read)[0]) == 2
    with pytest.raises(OSError, match=r"^a process that decodes images was killed"):
        next(read)


def test_a_decoder_that_dies_during_a_step_gets_the_same_line(monkeypatch, capsys):
    def step(_):
        raise RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. ")

    monkeypatch.setattr("zfnet.cli.main._carry_out", step)
    assert main(["train", "demo"]) == 1
    assert capsys.readouterr().err == f"error: {WorkerKilled()}\n"


# --- Weights --------------------------------------------------------------------------------------


class Program:
    def __reduce__(self):
        return os.mkdir, ("ran",)


NET = ZFNet(4, input_size=64, maps=(4,) * 5, fc=(6,)).eval()
STATE = NET.state_dict()


def header(text: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(**entry) -> bytes:
    return header(
        json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}).encode(),
        b"\0" * 8,
    )


def torch_bytes(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def but(**other) -> dict[str, torch.Tensor]:
    state = {**STATE, **{name.replace("__", "."): value for name, value in other.items()}}
    return {name: value for name, value in state.items() if value is not None}


WEIGHTS = {
    "a program for a pickle": (".pth", pickle.dumps(Program()), "cannot be read as weights"),
    "a program among weights": (
        ".pth",
        torch_bytes({**STATE, "extra": Program()}),
        "cannot be read as weights",
    ),
    "nothing": (".pth", b"", "cannot be read as weights"),
    "a text file": (".pth", b"hello", "cannot be read as weights"),
    "half a file": (".pth", torch_bytes(STATE)[:3000], "cannot be read as weights"),
    "a list": (".pth", torch_bytes([1, 2]), "holds no state dict of tensors"),
    "numbers for names": (
        ".pth",
        torch_bytes({1: torch.zeros(1)}),
        "holds no state dict of tensors",
    ),
    "a terabyte out of one number": (
        ".pth",
        torch_bytes({"a": torch.zeros(1).expand(10**12)}),
        "a is not a plain tensor with all its values",
    ),
    "a tensor without values": (
        ".pth",
        torch_bytes({"a": torch.zeros(3, device="meta")}),
        "a is not a plain tensor",
    ),
    "a sparse tensor": (
        ".pth",
        torch_bytes({"a": torch.zeros(3, 3).to_sparse()}),
        "a is not a plain tensor",
    ),
    "not finite": (
        ".pth",
        torch_bytes(but(features__conv2__bias=torch.full((4,), torch.inf))),
        "features.conv2.bias has values that are not finite",
    ),
    "a missing tensor": (
        ".pth",
        torch_bytes(but(features__conv2__bias=None)),
        "does not fit this net: missing features.conv2.bias",
    ),
    "an extra tensor": (
        ".pth",
        torch_bytes(but(more=torch.zeros(1))),
        "does not fit this net: unexpected more",
    ),
    "a misshapen tensor": (
        ".pth",
        torch_bytes(but(features__conv2__bias=torch.zeros(5))),
        r"conv2.bias is \(5,\), expected \(4,\)",
    ),
    "whole numbers for weights": (
        ".pth",
        torch_bytes(but(features__conv2__bias=torch.zeros(4, dtype=torch.int64))),
        "conv2.bias holds torch.int64, expected",
    ),
    "complex numbers": (
        ".pth",
        torch_bytes(but(features__conv2__bias=torch.zeros(4, dtype=torch.complex64))),
        "conv2.bias holds torch.complex64, expected",
    ),
    "no classifier": (
        ".pth",
        torch_bytes({k: v for k, v in STATE.items() if k.startswith("features")}),
        "has no classifier; expected the weights of a whole",
    ),
    "nothing, .safetensors": (
        ".safetensors",
        b"",
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "a header of 2^63 bytes": (
        ".safetensors",
        header(b"{}", length=2**63),
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "a header of 100 MB that is not there": (
        ".safetensors",
        header(b"{}", length=10**8),
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "a header that is no JSON": (
        ".safetensors",
        header(b"{'a': 1}"),
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "a header that is no text": (
        ".safetensors",
        header(b"\xff\xfe\xfd"),
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "a header 100,000 lists deep": (
        ".safetensors",
        header(b'{"a": ' + b"[" * 100_000),
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "offsets beyond the end": (
        ".safetensors",
        tensor(data_offsets=[0, 800]),
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "offsets backwards": (
        ".safetensors",
        tensor(data_offsets=[8, 0]),
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "a shape that overflows": (
        ".safetensors",
        tensor(shape=[2**40, 2**40]),
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "a negative shape": (
        ".safetensors",
        tensor(shape=[-2]),
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "an unknown type": (
        ".safetensors",
        tensor(dtype="F31"),
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "a header of ours that is no JSON": (
        ".safetensors",
        save(STATE, {"zfnet": "{"}),
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "a header of ours 100,000 lists deep": (
        ".safetensors",
        save(STATE, {"zfnet": "[" * 100_000}),
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "a header of ours that is a list": (
        ".safetensors",
        save(STATE, {"zfnet": "[1]"}),
        r"w.safetensors is damaged \(.*\): delete it to have it made again",
    ),
    "a checksum that does not match": (
        ".safetensors",
        save(STATE, {"zfnet": '{"checksum": "crc32", "crc32": "00000000"}'}),
        r"is damaged \(its contents do not match their checksum\)",
    ),
}


def given(path: Path, **data) -> Profile:
    return Profile(
        "p",
        "P",
        data=DataConfig(size=64, resize=64, **data),
        model=ModelConfig(maps=(4,) * 5, fc=(6,), weights=str(path)),
    )


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Sparse invariant checks")
def test_hostile_weights_get_one_line_that_names_them(name, tmp_path, monkeypatch, got):
    suffix, content, message = WEIGHTS[name]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(given(path))
    assert str(path) in str(caught.value) and not (tmp_path / "ran").exists()
    got("weights", name, caught.value, tmp_path)


def test_other_nets_weights_and_headers_are_named(tmp_path, got):
    without = {name: value for name, value in STATE.items() if not name.startswith("features")}
    save_file(
        {**without, **{f"features.stage{n}.weight": torch.zeros(1) for n in range(6)}},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(
        ValueError, match=r"not a pytorchcv zfnet: missing features\.stage0\.bias, "
    ) as caught:
        weights.from_pytorchcv(weights.read_weights(tmp_path / "a.safetensors"))
    got("weights", "a net without biases", caught.value)
    for number, (key, value, use) in enumerate(
        [
            ("classes", 5, class_names),
            ("classes", [1, 2], class_names),
            ("input", "text", load_data),
            ("input", {"gain": 1.0, "mean": [0.0] * 3, "std": [float("nan")] * 3}, load_data),
            ("input", {"gain": 1.0, "mean": [0.0]}, load_data),
        ]
    ):
        path = tmp_path / f"{number}.safetensors"
        artefacts.save_tensors(path, STATE, {key: value})
        with pytest.raises(
            ValueError,
            match=(
                f"{number}.safetensors: its header says .* of its {key}; expected .*: fetch it"
                " again"
            ),
        ) as caught:
            use(given(path, normalise="weights"), *([()] if use is class_names else []))
        got("weights", f"{key} = {value} in the header", caught.value, tmp_path)


# --- Fuzzing --------------------------------------------------------------------------------------

SOURCE = str(Path(zfnet.__file__).parent)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "flip", "insert", "delete", "double", "cut"]),
        st.integers(0, 10**6),
        st.binary(min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=6,
)
NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.just(10**400),
    st.just([]),
    st.just({}),
    st.lists(st.one_of(st.integers(-3, 300), st.floats(), st.text(max_size=3)), max_size=6),
    st.dictionaries(st.text(max_size=6), st.integers(), max_size=3),
    st.sampled_from(
        ["shapes", "folder", "weights", "../x", "1e-3", "0x10", "yes", "\0", "a\nb", "inf"]
    ),
    st.integers(-3, 200),
    st.floats(-1, 2),
)


def mutated(content: bytes, changes) -> bytes:
    found = bytearray(content)
    for how, at, what in changes:
        at %= max(1, len(found))
        if how == "set":
            found[at : at + len(what)] = what
        elif how == "flip" and found:
            found[at] ^= 1 << what[0] % 8
        elif how == "insert":
            found[at:at] = what
        elif how == "delete":
            del found[at : at + what[0]]
        elif how == "double":
            found[at:at] = found[at : at + what[0]]
        elif how == "cut" and what[0] < 64:
            del found[at:]
    return bytes(found)


def only_ours(path: Path, counts: collections.Counter) -> None:
    """Load a profile: it may be good, or refused by us, in one line with its name."""
    try:
        load_profile(path)
        counts["taken"] += 1
    except OURS as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        assert (
            where.startswith(SOURCE) and str(error).startswith(path.name) and "\n" not in str(error)
        ), (where, str(error))
        counts[f"refused: {type(error).__name__}"] += 1


def fuzzing(test):
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=EXAMPLES <= 150,
        suppress_health_check=checks,
    )(test)


DEMO = (ROOT / "profiles" / "demo.yaml").read_bytes()


@pytest.mark.slow
def test_fuzz_profiles_byte_by_byte(tmp_path, report):
    counts = collections.Counter()

    @fuzzing
    @hypothesis_given(CHANGES)
    def fuzz(changes):
        (tmp_path / "p.yaml").write_bytes(mutated(DEMO, changes))
        only_ours(tmp_path / "p.yaml", counts)

    fuzz()
    assert counts["taken"] and sum(counts.values()) >= EXAMPLES
    report(f"fuzzing profiles/demo.yaml, bytes: {sum(counts.values())} files, {dict(counts)}")


@st.composite
def profiles(draw):
    """The demo's content with up to three values, sections or keys replaced, removed or added."""
    content = yaml.safe_load(DEMO)
    for _ in range(draw(st.integers(1, 3))):
        sections = [content, *(value for value in content.values() if isinstance(value, dict))]
        section = draw(st.sampled_from(sections))
        key = draw(
            st.one_of(
                st.sampled_from([*section, "scan_split", "probes", "fc", "maps"]),
                st.text(max_size=8),
                st.integers(0, 3),
            )
        )
        if draw(st.integers(0, 4)):
            section[key] = draw(NASTY)
        else:
            section.pop(key, None)
    return content


@pytest.mark.slow
def test_fuzz_profiles_by_structure(tmp_path, report):
    counts = collections.Counter()

    @fuzzing
    @hypothesis_given(profiles())
    def fuzz(content):
        (tmp_path / "p.yaml").write_text(
            yaml.safe_dump(content, allow_unicode=True), encoding="utf-8", errors="surrogatepass"
        )
        only_ours(tmp_path / "p.yaml", counts)

    fuzz()
    assert counts["taken"] and counts["refused: UserError"] and counts["refused: WrongType"]
    report(f"fuzzing profiles/demo.yaml, structure: {sum(counts.values())} files, {dict(counts)}")


EXIF = Image.Exif()
EXIF[274] = 6
KINDS = {
    "PNG": encoded(Image.fromarray(NOISE), "PNG", exif=EXIF),
    "JPEG": encoded(Image.fromarray(NOISE), "JPEG", exif=EXIF),
    "GIF": encoded(indexed(), "GIF"),
    "TIFF": encoded(Image.fromarray(GREY16), "TIFF", compression="tiff_lzw"),
    "WEBP": encoded(SMOOTH, "WEBP"),
    "BMP": encoded(Image.fromarray(NOISE), "BMP"),
    "PPM": b"P5 24 24 65535\n" + GREY16.tobytes(),
}


def test_fuzz_images_in_a_folder(tmp_path, report):
    counts, images = collections.Counter(), Files(tmp_path, [("picture.jpg", 0, 0)], 16)

    @fuzzing
    @hypothesis_given(st.sampled_from(list(KINDS)), CHANGES)
    def fuzz(kind, changes):
        (tmp_path / "picture.jpg").write_bytes(mutated(KINDS[kind], changes))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's, about what it mends
            pixels, broken = images.read(torch.tensor([0]))
        assert pixels.shape == (1, 3, 16, 16)
        if broken:
            assert (
                broken[0].startswith("picture.jpg (") and "\n" not in broken[0] and not pixels.any()
            )
        counts["named" if broken else "read"] += 1

    fuzz()
    assert counts["read"] and counts["named"]
    report(f"fuzzing images: {sum(counts.values())} files of {len(KINDS)} formats, {dict(counts)}")
