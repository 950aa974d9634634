"""What the folders of a data set mean: which class each image is of, and whether it is for
training, validation or testing.

    CLASS/image                       train/CLASS/image, test/CLASS/image
    CLASS/images/image                train/…, val/…, test/…: also Training, valid, validation, …
    one/or/two/levels/more/CLASS/image, or images alone: one class, "images"

A class inside of others is "outer/inner".
"""

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from zfnet.data.files import Files, decode, select
from zfnet.store.errors import require

# what people call them, in any case; "training_set", "trainset" and "train2017" are train, too
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SAYING_NOTHING = ("set", "data", "dataset", "images", "imgs", "split", "folder")
# a folder inside each class, or in the place of classes, that says nothing
PLAIN = ("images", "image", "imgs", "img", "jpeg", "jpegimages", "photos")
ALONE = "images"  # the class of images that lie in no folder


@dataclass(frozen=True)
class Layout:
    """Of each image its class, None where it is left out, and its part, "train", "val" or "test",
    None where the folder is not divided; left_out: why, in words, and how many.
    """

    classes: list[str | None]
    parts: list[str | None]
    left_out: dict[str, int]


def layout(names: Sequence[str]) -> Layout:
    """What the folders of images mean; names: their paths below the data set's folder, with "/".

    Left out are images outside of the class folders that others lie in, outside of train, val and
    test, and those of a part that has no class folders where training has.
    """
    names = [unicodedata.normalize("NFC", name) for name in names]
    folders = _one_down([_plain(tuple(name.split("/")[:-1])) for name in names])
    of = _divided(folders)
    parts = [(of or {}).get(folder[0]) if folder else None for folder in folders]
    classes: list[str | None] = [None] * len(names)
    for part in ("train", "val", "test") if of else (None,):
        rows = [n for n, each in enumerate(parts) if each == part]
        inside = [folders[n][1:] if part else folders[n] for n in rows]
        # one level too many in this part alone, unless training has just these classes
        if part and not {"/".join(folder) for folder in inside if folder} <= set(classes):
            inside = _one_down(inside)
        for n, folder in zip(rows, inside, strict=True):
            classes[n] = "/".join(folder) or None
    if not any(classes):  # without any class folder they are one class
        classes = [ALONE if part or not of else None for part in parts]
    left_out = Counter(
        (f"in no class folder of {part}" if part else f"outside of {', '.join(of)}")
        if of
        else "in no class folder"
        for name, part in zip(classes, parts, strict=True)
        if name is None
    )
    return Layout(classes, parts, dict(left_out))


def _divided(folders: Sequence[tuple[str, ...]]) -> dict[str, str] | None:
    """{folder: part} where the topmost folders are parts, None where they are classes: one of them
    may well be called "train".
    """
    tops = {folder[0] for folder in folders if folder}
    parts = {top: part for top in tops if (part := _part(top))}
    deep = any(len(f) > 1 and parts.get(f[0]) == "train" for f in folders)
    alone = len(parts) == len(tops) and len(set(parts.values())) > 1
    if not deep and not alone:
        return None
    return dict(sorted(parts.items(), key=lambda item: ("train", "val", "test").index(item[1])))


def _part(folder: str) -> str | None:
    words = [
        re.sub("(?<=.)(set|data)$", "", word)
        for word in re.split("[^a-z]+", folder.casefold())
        if word and word not in SAYING_NOTHING
    ]
    return PARTS.get(words[0]) if len(words) == 1 else None


def _plain(folder: tuple[str, ...]) -> tuple[str, ...]:
    """Without the folder in each class that says nothing, as Tiny-ImageNet's CLASS/images."""
    return folder[:-1] if len(folder) > 1 and folder[-1].casefold() in PLAIN else folder


def _one_down(folders: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """As many levels less as a single folder holds all the others; images beside two others or more
    make it no class.
    """
    tops = {folder[0] for folder in folders if folder}
    below = {folder[1] for folder in folders if len(folder) > 1}
    if len(tops) != 1 or (len(below) < 2 and any(len(folder) == 1 for folder in folders)):
        return folders
    return _one_down([folder[1:] for folder in folders])


def read_folder(files: Files, memory: float, folders: Sequence[str] = ("",)):
    """The images of a data set's folder, or of several together, as `layout` understands them:
    images, labels (N,), classes, names, and the part of each, "train", "val" or "test", or None
    where the folder is not divided; decoded as by `decode`.

    folders: those below the files' root that hold data sets, "" for the root itself. What is left
    out is said in a warning. UserError where some are divided and others are not, or where a class
    has images for testing alone.
    """
    names, of, left_out = [entry[0] for entry in files.entries], {}, Counter()
    for folder in folders:
        rows = [n for n, name in enumerate(names) if not folder or name.startswith(f"{folder}/")]
        found = layout([names[n].removeprefix(f"{folder}/") for n in rows])
        of |= dict(zip(rows, zip(found.classes, found.parts, strict=True), strict=True))
        left_out.update(found.left_out)
    used = torch.tensor([n for n in range(len(names)) if of[n][0] is not None])
    if left_out:
        what = ", ".join(f"{count} {why}" for why, count in left_out.items())
        warnings.warn(
            f"{files.root}: images left out: {what}. Put them into class"
            " folders, those of train, val or test where there are such",
            stacklevel=2,
        )
    images, kept = decode(select(files, used), memory)
    used = used[kept]
    named, parts = zip(*(of[n] for n in used.tolist()), strict=True)
    whole = sorted({name for name, part in zip(named, parts, strict=True) if part is None})
    require(
        not any(parts) or not whole,
        f"{files.root}: some of the folders are divided into train and test, and others are not"
        f" (those of {', '.join(whole[:3])})",
        "name the parts one by one in `data: root:`",
    )
    classes = sorted(set(named))
    lacking = sorted(set(classes) - {n for n, p in zip(named, parts, strict=True) if p == "train"})
    require(
        not any(parts) or not lacking,
        f"{files.root}: classes that have no training images: {', '.join(map(repr, lacking[:20]))}"
        + (f" and {len(lacking) - 20} more" if len(lacking) > 20 else ""),
        "give the folders the names that they have in train, or take them away",
    )
    label = {name: n for n, name in enumerate(classes)}
    labels = torch.tensor([label[name] for name in named])
    return images, labels, classes, select(names, used), list(parts) if any(parts) else None
