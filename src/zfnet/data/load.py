"""From a profile to its training, validation and test images: drawn, read or downloaded, split,
decoded once.
"""

import itertools
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from zfnet.data import photographs as photos
from zfnet.data import shapes
from zfnet.data.files import Files, formats, look_through, said_of, select
from zfnet.data.folders import read_folder
from zfnet.data.images import PUBLISHED_MEANS, Data, Images, statistics
from zfnet.store import artefacts, keys
from zfnet.store.errors import require
from zfnet.store.profiles import DataConfig, Profile


def load_data(profile: Profile) -> Data:
    """The profile's train, validation and test images; decoded once, then read from
    `runs/<profile>/data.safetensors`.

    Raises FileNotFoundError with the cure where images are missing, and ValueError where more than
    1 % of them cannot be read.
    """
    config, given = profile.data, trained_input(profile)
    listing = _listing(config, profile.data_root, profile.data_roots)
    key = keys.key_of(config, profile.seed, listing.key, given, keys.code_key(load_data))
    tensors, meta = artefacts.artefact(
        profile.data_file, key, lambda: _decode(config, profile.seed, listing, given)
    )
    require(
        len(meta["classes"]) > 1 or not profile.training or profile.model.weights,
        f"{profile.data_root}: all images are of one class, {meta['classes'][0]!r}, and training"
        " tells classes apart",
        "put the images of each class into a folder of its own, or give `model: weights:`",
    )
    pixels = tensors.get("pixels")
    if pixels is None:
        entries = {entry[0]: entry for entry in listing.files}
        pixels = Files(listing.root, [entries[name] for name in meta["names"]], config.resize)
    keypoints = {k.split("/")[1]: v for k, v in tensors.items() if k.startswith("keypoints/")}
    images = Images(
        pixels=pixels,
        labels=tensors["labels"],
        classes=tuple(meta["classes"]),
        size=config.size,
        mean=tensors["mean"],
        std=tensors["std"],
        gain=config.gain,
        names=meta["names"],
        masks=tensors.get("masks"),
        keypoints=keypoints or None,
        group=tensors.get("group"),
    )
    ends = [0, *itertools.accumulate(meta["lengths"])]
    train, val, test = (images.subset(slice(*each)) for each in itertools.pairwise(ends))
    return Data(train=train, val=val, test=test, classes=images.classes)


def trained_input(profile: Profile) -> dict | None:
    """mean, std and gain that the net in the profile's weights file was trained with, for
    `normalise: weights`; None for the other rules. A published net's are known by its name.

    Raises FileNotFoundError where there is no such file, and ValueError where it does not say, or
    says another gain than the profile, each with the cure.
    """
    if profile.data.normalise != "weights":
        return None
    profile = profile.origin
    path, weights = profile.given_weights, profile.model.weights or "no file"
    known = PUBLISHED_MEANS.get(profile.model.name) or PUBLISHED_MEANS.get(weights)
    if known:
        return {"mean": list(known), "std": [1.0] * 3, "gain": profile.data.gain}
    require(
        not path or path.is_file(),
        f"no weights at {path}: write them with `python -m zfnet export`, or set `model: weights:`"
        f" in profile {profile.name!r}",
        kind=FileNotFoundError,
    )
    found = (
        artefacts.read_meta(path).get("input") if path and path.suffix == ".safetensors" else None
    )
    require(
        found,
        f"normalise: weights, but {weights} does not say how its images were normalised;"
        " `python -m zfnet export` writes files that do",
    )
    require(
        isinstance(found, dict)
        and all(
            isinstance(each, list)
            and len(each) == 3
            and all(type(x) is float and 0 <= x < 1e4 for x in each)
            for each in (found.get("mean"), found.get("std"))
        ),
        f"{weights}: its header says {str(found)[:100]!r} of its input; expected mean and std of"
        " three channels",
        "fetch it again",
    )
    require(
        found.get("gain") == profile.data.gain,
        f"data.gain = {profile.data.gain}, but {weights} was trained with {found.get('gain')}",
        f"set that in profile {profile.name!r}",
    )
    return found


def _split(
    labels: torch.Tensor, config: DataConfig, seed: int, official: Sequence[str] | None
) -> tuple[torch.Tensor, ...]:
    """Indices of train, val and test in turn, drawn class by class so that every class is in each;
    official: the part of each image where the source says it.

    A source that has train and val alone, as ImageNet, is tested on its val; one that has train,
    val and test keeps all three.
    """
    generator = torch.Generator().manual_seed(seed)
    held = [name for name in ("test", "val") if name in (official or ())]
    of_test, of_val = (
        torch.tensor([part == name for part in official])
        if name
        else torch.zeros_like(labels, dtype=torch.bool)
        for name in [*held, None, None][:2]
    )
    parts = []
    for label in labels.unique().tolist():
        of_class = (labels == label).nonzero().flatten()
        # test first: the official one, or its share; then validation; training has the rest
        own_test, own_val = of_class[of_test[of_class]], of_class[of_val[of_class]]
        of_class = of_class[~(of_test | of_val)[of_class]]
        order = of_class[torch.randperm(len(of_class), generator=generator)]
        if not held:
            all_but = config.train_per_class
            n_test = max(1, len(order) - all_but if all_but else round(len(order) * config.test))
            own_test, order = order[:n_test], order[n_test:]
        order = order[: config.train_per_class]
        n_val = (
            max(1, round(len(order) * config.validation))
            if config.validation and len(order) > 1 and len(held) < 2
            else 0
        )
        val = torch.cat([own_val, order[:n_val]])
        parts.append((order[n_val:], val, own_test[: config.test_per_class]))
    return tuple(torch.cat(part).sort().values for part in zip(*parts, strict=True))


@dataclass(frozen=True)
class Listing:
    """The files of a folder of images, or of several, and the `others` that are left out for their
    names; no files for sources that never change.

    root: the folder that the names of `files` are relative to; folders: those of the data set, in
    it; others: {".heic": 3} of each folder that has such.
    """

    root: Path
    folders: tuple[str, ...] = ("",)
    files: tuple[tuple[str, int, int], ...] = ()
    others: tuple[tuple[str, dict[str, int]], ...] = ()

    @property
    def key(self) -> tuple:
        """What decoded images depend on, and what has been said of the others, without decoding."""
        return self.files, self.others

    @property
    def said(self) -> list[str]:
        return [said_of(others, self.root / folder) for folder, others in self.others]


def _listing(config: DataConfig, root: Path, folders: Sequence[Path]) -> Listing:
    """The images of the profile's folders. FileNotFoundError, with the cure, where there are none,
    UserError where folders lie in one another.
    """
    require(
        len(folders) == 1 or config.source == "folder",
        f"data.source: {config.source} has one folder, and data.root names {len(folders)}",
        "set `source: folder`",
    )
    own = config.source == "folder" or (
        config.source in ("cifar10", "caltech101") and _class_folders(root, config.source)
    )
    if not own:
        return Listing(root)
    found, others = [], []
    for folder in folders:
        require(
            folder.is_dir(),
            f"no folder {folder}: put images there as CLASS/image.jpg, or set `data: root:` in the"
            " profile",
            kind=FileNotFoundError,
        )
        for other in folders:
            require(
                other is folder or not folder.resolve().is_relative_to(other.resolve()),
                f"data.root: {folder} lies in {other}, and its images would count twice",
                "name one of the two",
            )
        images, left_out = look_through(folder)
        if config.source == "caltech101":  # as torchvision has it: 101 categories
            images = [entry for entry in images if "BACKGROUND_Google" not in entry[0].split("/")]
        require(
            images,
            f"no images in {folder}: expected CLASS/image.jpg, or another format of Pillow's."
            f" {said_of(left_out, folder)}".rstrip(),
            kind=FileNotFoundError,
        )
        below = _below(root, folder)
        found += [(f"{below}/{name}" if below else name, *rest) for name, *rest in images]
        others += [(below, left_out)] if left_out else []
    below = tuple(_below(root, folder) for folder in folders)
    return Listing(root, below, tuple(found), tuple(others))


def _class_folders(root: Path, source: str) -> bool:
    """Whether CIFAR-10 or Caltech-101 lies there as class folders of images, and not as torchvision
    downloads it.
    """
    above = (".", "train", "101_ObjectCategories", "caltech-101/101_ObjectCategories")
    return root.is_dir() and any(
        child.suffix.lower() in formats()
        for folder in above[: None if source == "caltech101" else 2]
        for child in (root / folder).glob("[!.]*/[!.]*")
    )


def _below(root: Path, folder: Path) -> str:
    """The way from the root to a folder in it, with "/"; "" for the root itself."""
    return "" if folder == root else Path(os.path.abspath(folder)).relative_to(root).as_posix()


def _decode(
    config: DataConfig, seed: int, listing: Listing, given: dict | None
) -> tuple[dict[str, torch.Tensor], dict]:
    """The images in the order train, val, test, what belongs to them, and the training images'
    statistics; no pixels where they exceed the memory.

    given: the statistics that come with the weights. What is left out is said in warnings.
    """
    root, own, names, official = listing.root, {}, None, None
    for said in listing.said:
        warnings.warn(said, stacklevel=2)
    if config.source == "shapes":
        made = shapes.make_shapes(config.count, config.resize, seed)
        pixels, labels, classes = made.images, made.labels, shapes.CLASSES
        own = {
            "masks": made.masks,
            **{f"keypoints/{name}": points for name, points in made.keypoints.items()},
        }
    elif config.source == "photos":
        made = photos.make_photos(config.count, config.resize, seed)
        pixels, labels, classes, names = made.images, made.labels, photos.CLASSES, made.names
        own = {"group": made.labels}  # a class is one photograph, cut out many times
    elif listing.files:
        pixels, labels, classes, names, official = read_folder(
            Files(root, listing.files, config.resize), config.memory, listing.folders
        )
    else:
        pixels, labels, classes, names, official = _read_torchvision(config, root)
    parts = _split(labels, config, seed, official)
    order = torch.cat(parts)
    pixels = select(pixels, order)
    if given:
        mean, std = (torch.tensor(given[name]).view(3, 1, 1) for name in ("mean", "std"))
    else:
        require(
            len(parts[0]) or config.normalise == "imagenet",
            f"{len(order)} images of {len(classes)} classes leave none to train on",
            f"put three at least of each class into {root}",
        )
        mean, std = statistics(select(pixels, slice(len(parts[0]))), config.size, config.normalise)
    tensors = {
        "labels": labels[order],
        "mean": mean,
        "std": std,
        **{name: tensor[order] for name, tensor in own.items()},
        **({} if isinstance(pixels, Files) else {"pixels": pixels}),
    }
    return tensors, {
        "classes": list(classes),
        "names": select(names, order) if names else None,
        "lengths": [len(part) for part in parts],
    }


def _numbered(labels: torch.Tensor, classes: Sequence[str], official: torch.Tensor) -> list[str]:
    """Names for CIFAR-10's images, which have none: "test/dog/0012.jpg" is the thirteenth dog of
    the test images, as in a folder of them in their order.
    """
    number, names = {}, []
    for label, is_test in zip(labels.tolist(), official.tolist(), strict=True):
        folder = f"{'test' if is_test else 'train'}/{classes[label]}"
        number[folder] = number.get(folder, -1) + 1
        names.append(f"{folder}/{number[folder]:04d}.jpg")
    return names


def _read_torchvision(config: DataConfig, root: Path):
    """CIFAR-10 or Caltech-101 as torchvision stores them under `data: root:`; downloaded there when
    missing.
    """
    from torchvision import datasets
    from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

    side, source = config.resize, config.source
    try:
        parts = (
            [datasets.CIFAR10(root, train=train, download=True) for train in (True, False)]
            if source == "cifar10"
            else [datasets.Caltech101(root, download=True)]
        )
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{source} is not in {root} and could not be downloaded ({error}): connect to the"
            " network once, or point `data: root:` in the profile at torchvision's copy or at a"
            " folder of class folders"
        ) from error
    if source == "cifar10":
        arrays = torch.from_numpy(np.concatenate([part.data for part in parts])).permute(0, 3, 1, 2)
        pixels = torch.cat(
            [resize(chunk, [side, side], antialias=True) for chunk in arrays.split(1000)]
        )
        labels = torch.tensor([label for part in parts for label in part.targets])
        classes, official = parts[0].classes, torch.arange(len(labels)) >= len(parts[0])
        parts = ["test" if is_test else "train" for is_test in official.tolist()]
        return pixels, labels, classes, _numbered(labels, classes, official), parts
    (caltech,) = parts
    pixels = torch.stack(
        [
            center_crop(
                resize(pil_to_tensor(image.convert("RGB")), side, antialias=True), [side, side]
            )
            for image, _ in tqdm(caltech, desc="decoding", disable=None, leave=False)
        ]
    )
    names = [
        f"{caltech.categories[y]}/image_{index:04d}.jpg"
        for y, index in zip(caltech.y, caltech.index, strict=True)
    ]
    return pixels, torch.tensor(caltech.y), caltech.categories, names, None
