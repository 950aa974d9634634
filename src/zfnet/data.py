"""Data: the built-in shapes, photographs of installed packages, CIFAR-10, Caltech-101, or a folder of images; decoded once, kept as uint8, cropped and
normalised on demand.

A folder that would take more memory than `data: memory:` allows stays in its files (`files.py`).

    data = load_data(load_profile("demo"))
    data.val.batch([0, 1, 2])       # network input, float32 (3, 3, S, S)
    data.val.pictures([0, 1, 2])    # the same crops as pixels, uint8 (3, 3, S, S)

Layouts of a folder: CLASS/image, or train/CLASS/image and test/CLASS/image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from . import photos, provenance, shapes
from .files import SUFFIXES, Files, list_images, read_ahead, read_folder, select
from .profiles import DataConfig, Profile

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's statistics, of pixels in 0..1


class Images(torch.utils.data.Dataset):
    """Images and how they become network input: (pixel - mean) / std * gain on centre crops of side `size`.

    pixels uint8 (N, 3, H, W), a tensor or `Files`; labels int64 (N,); classes: names by label; mean and std in pixel units 0..255, broadcast against (3, S, S);
    masks bool (N, H, W) and keypoints {name: (N, 2) row, col} in stored pixels where the source knows them (the shapes), else None.
    """

    def __init__(self, pixels, labels, classes, size, mean, std, gain=1.0, names=None, masks=None, keypoints=None):
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"pixels: expected uint8 (N, 3, H, W), got {pixels.dtype} {tuple(pixels.shape)}")
        if not 0 < size <= min(pixels.shape[-2:]):
            raise ValueError(f"size = {size}: crops must fit into the stored images of {tuple(pixels.shape[-2:])}")
        self.pixels, self.labels, self.classes, self.size = pixels, labels, tuple(classes), size
        self.mean, self.std, self.gain = mean, std, gain
        self.names, self.masks, self.keypoints = names, masks, keypoints

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.batch([index])[0], int(self.labels[index])

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the centre crop in the stored image."""
        return (self.pixels.shape[-2] - self.size) // 2, (self.pixels.shape[-1] - self.size) // 2

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (…, 3, S, S) to network input, float32 (a batch in channels_last), on the pixels' device."""
        mean, std = self.mean.to(pixels.device), self.std.to(pixels.device)
        layout = torch.channels_last if pixels.ndim == 4 else torch.preserve_format
        return pixels.to(torch.float32, memory_format=layout).sub_(mean).mul_(self.gain / std)

    def pictures(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Centre crops as pixels, uint8 (B, 3, S, S)."""
        top, left = self.corner
        return self.pixels[torch.as_tensor(indices), :, top : top + self.size, left : left + self.size]

    def batch(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Centre crops as network input, float32 (B, 3, S, S)."""
        return self.normalise(self.pictures(indices))

    def mask(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """The object's pixels in the centre crop, bool (B, S, S); ValueError where the source knows none."""
        if self.masks is None:
            raise ValueError("these images have no object masks; the built-in shapes have")
        top, left = self.corner
        return self.masks[torch.as_tensor(indices), top : top + self.size, left : left + self.size]

    def subset(self, indices: torch.Tensor) -> Images:
        """The chosen images, normalised alike."""
        names = [self.names[i] for i in indices.tolist()] if self.names else None
        masks = self.masks[indices] if self.masks is not None else None
        points = {k: v[indices] for k, v in self.keypoints.items()} if self.keypoints else None
        pixels = self.pixels.select(indices) if isinstance(self.pixels, Files) else self.pixels[indices]
        return Images(pixels, self.labels[indices], self.classes, self.size, self.mean, self.std, self.gain, names, masks, points)

    @property
    def fingerprint(self) -> str:
        """A key of every pixel (of files: name, size and time) and label, and of how they become input."""
        state, files = {"labels": self.labels, "mean": self.mean, "std": self.std}, None
        if isinstance(self.pixels, Files):
            files = self.pixels.entries, self.pixels.side
        else:
            state["pixels"] = self.pixels
        return provenance.key_of(provenance.tensors_hash(state), self.gain, self.size, files)


@dataclass(frozen=True)
class Data:
    train: Images
    val: Images
    test: Images
    classes: tuple[str, ...]


def crops(pixels: torch.Tensor, indices: torch.Tensor, top: torch.Tensor, left: torch.Tensor, flip: torch.Tensor, size: int) -> torch.Tensor:
    """Crops of pixels[indices] at rows `top` and columns `left`, mirrored where `flip`: (B, 3, size, size), one gather."""
    span = torch.arange(size, device=pixels.device)
    rows = top[:, None] + span
    cols = left[:, None] + torch.where(flip[:, None], size - 1 - span, span)
    channel = torch.arange(pixels.shape[1], device=pixels.device)
    return pixels[indices[:, None, None, None], channel[:, None, None], rows[:, None, :, None], cols[:, None, None, :]]


def random_crops(
    pixels: torch.Tensor, indices: torch.Tensor, size: int, generator: torch.Generator, flip: bool = True, smallest: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> torch.Tensor:  # fmt: skip
    """A random crop of each image, mirrored with probability 1/2 if `flip`: uint8 (B, 3, size, size) (paper, section 3).

    With `smallest`, crops of random side, from it to the image's, bilinearly resized to `size`. With `share` (rank, processes), `indices` are every
    processes-th of a batch from rank on, and their crops those that they have in the whole batch.
    """
    rank, processes = share
    (height, width), n, device = pixels.shape[-2:], len(indices) * processes, pixels.device
    sides = torch.randint(smallest, min(height, width) + 1, (n,), generator=generator) if smallest else None
    if sides is None:
        top = torch.randint(height - size + 1, (n,), generator=generator)
        left = torch.randint(width - size + 1, (n,), generator=generator)
    else:
        top, left = ((torch.rand(n, generator=generator) * (whole - sides + 1)).long() for whole in (height, width))
    mirrored = torch.rand(n, generator=generator) < (0.5 if flip else 0.0)
    top, left, mirrored = (part[rank::processes].to(device) for part in (top, left, mirrored))
    indices = indices.to(device)
    if sides is None:
        return crops(pixels, indices, top, left, mirrored, size)
    return resized_crops(pixels, indices, top, left, mirrored, sides[rank::processes].to(device), size)


def resized_crops(
    pixels: torch.Tensor, indices: torch.Tensor, top: torch.Tensor, left: torch.Tensor, flip: torch.Tensor, sides: torch.Tensor, size: int
) -> torch.Tensor:
    """Square crops of pixels[indices] of side `sides` (B,) at `top` and `left`, mirrored where `flip`, bilinearly resized: uint8 (B, 3, size, size)."""
    height, width = pixels.shape[-2:]
    theta = torch.zeros(len(indices), 2, 3, device=pixels.device)  # output to input, both in -1..1
    theta[:, 0, 0], theta[:, 0, 2] = torch.where(flip, -sides, sides) / width, (2 * left + sides) / width - 1
    theta[:, 1, 1], theta[:, 1, 2] = sides / height, (2 * top + sides) / height - 1
    grid = F.affine_grid(theta, [len(indices), 3, size, size], align_corners=False)
    return F.grid_sample(pixels[indices].float(), grid, padding_mode="border", align_corners=False).round_().to(torch.uint8)


def ten_crop(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """The paper's ten crops, corners and centre with and without mirroring: (B, 3, H, W) to (B, 10, 3, size, size)."""
    from torchvision.transforms.v2.functional import ten_crop as crops_of

    return torch.stack(crops_of(pixels, [size, size]), dim=1)


def batches(
    dataset, batch_size: int, device: torch.device | str = "cpu", share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Indices (B,), inputs (B, 3, S, S) and labels (B,) of any map-style dataset, in order; of share (rank, processes) every processes-th batch.

    `Images` take the direct way: bytes travel to the device, from pinned memory, and become inputs there.
    """
    parts = torch.arange(len(dataset)).split(batch_size)[share[0] :: share[1]]
    if isinstance(dataset, Images):
        cuda = torch.device(device).type == "cuda"
        (top, left), size = dataset.corner, dataset.size
        for indices, (pixels, rows) in zip(parts, read_ahead(dataset.pixels, parts), strict=True):
            pixels = pixels[rows, :, top : top + size, left : left + size]
            pixels = pixels.pin_memory().to(device, non_blocking=True) if cuda else pixels.to(device)
            yield indices, dataset.normalise(pixels), dataset.labels[indices]
        return
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=[part.tolist() for part in parts])
    for indices, (images, labels) in zip(parts, loader, strict=True):
        yield indices, images, labels


def load_data(profile: Profile) -> Data:
    """The profile's train, validation and test images; decoded once, then read from `runs/<profile>/data.safetensors`.

    Raises FileNotFoundError with the cure where images are missing, and ValueError where more than 1 % of them cannot be read.
    """
    config = profile.data
    listing = _listing(profile)
    modules = ["data", "files", *({config.source} & {"shapes", "photos"})]
    key = provenance.key_of(config, profile.seed, listing, trained_input(profile), provenance.code_version(*modules))
    tensors, meta = provenance.artefact(profile.data_file, key, lambda: _decode(profile, listing))
    keypoints = {k.split("/")[1]: v for k, v in tensors.items() if k.startswith("keypoints/")} or None
    classes, names = tuple(meta["classes"]), meta["names"]
    pixels = tensors.get("pixels")
    if pixels is None:
        found = {entry[0]: entry for entry in listing}
        pixels = Files(profile.data_root, [found[name] for name in names], config.resize)
    splits, start = [], 0
    for length in meta["lengths"]:
        part = slice(start, start + length)
        points = {name: values[part] for name, values in keypoints.items()} if keypoints else None
        masks = tensors["masks"][part] if "masks" in tensors else None
        splits.append(Images(select(pixels, part), tensors["labels"][part], classes, config.size, tensors["mean"], tensors["std"], config.gain,
                             names and names[part], masks, points))  # fmt: skip
        start += length
    return Data(*splits, classes)


def imagenet_statistics() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation per channel (3, 1, 1) that torchvision's nets expect, in pixel units 0..255."""
    mean, std = (torch.tensor(part).view(3, 1, 1) * 255 for part in IMAGENET)
    return mean, std


def trained_input(profile: Profile) -> dict | None:
    """mean, std and gain that the net in the profile's weights file was trained with, for `normalise: weights`; None for the other rules.

    Raises FileNotFoundError where there is no such file, and ValueError where it does not say, or says another gain than the profile, each with the cure.
    """
    if profile.data.normalise != "weights":
        return None
    path, weights = profile.given_weights, profile.model.weights or "no file"
    if path and not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: write them with `python -m zfnet export`, or set `model: weights:` in profile {profile.name!r}")
    found = provenance.read_meta(path).get("input") if path and path.suffix == ".safetensors" else None
    if not found:
        raise ValueError(f"normalise: weights, but {weights} does not say how its images were normalised; `python -m zfnet export` writes files that do")
    numbers = [found.get(name) for name in ("mean", "std")] if isinstance(found, dict) else []
    if not numbers or not all(isinstance(each, list) and len(each) == 3 and all(type(x) is float and 0 <= x < 1e4 for x in each) for each in numbers):
        raise ValueError(f"{weights}: its header says {str(found)[:100]!r} of its input; expected mean and std of three channels: fetch it again")
    if found.get("gain") != profile.data.gain:
        raise ValueError(f"data.gain = {profile.data.gain}, but {weights} was trained with {found.get('gain')}: set that in profile {profile.name!r}")
    return found


def statistics(pixels: torch.Tensor | Files, size: int, normalise: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the centre crops of side `size`, in pixel units 0..255, by the rule `normalise`.

    "channel": per channel (3, 1, 1); "pixel": the mean per pixel (3, size, size) and a deviation of 1 (paper, section 3); "imagenet": ImageNet's.
    """
    if normalise == "imagenet":
        return imagenet_statistics()
    top, left = ((side - size) // 2 for side in pixels.shape[-2:])
    total = torch.zeros(3, size, size, dtype=torch.float64)
    squares = torch.zeros(3, dtype=torch.float64)
    for part, rows in read_ahead(pixels, torch.arange(len(pixels)).split(128)):
        values = part[rows][:, :, top : top + size, left : left + size].double()
        total += values.sum(0)
        squares += values.square().sum((0, 2, 3))
    if normalise == "pixel":
        return (total / len(pixels)).float(), torch.ones(3, 1, 1)
    mean = total.mean((1, 2)) / len(pixels)
    std = (squares / (len(pixels) * size**2) - mean.square()).clamp_min(1e-6).sqrt()
    return mean.float().view(3, 1, 1), std.float().view(3, 1, 1)


def _split(labels: torch.Tensor, config: DataConfig, seed: int, official_test: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Indices of train, val and test in turn, drawn class by class so that every class is in each; test is the official one where there is one."""
    generator = torch.Generator().manual_seed(seed)
    train, val, test = [], [], []
    for label in labels.unique().tolist():
        of_class = (labels == label).nonzero().flatten()
        own_test = None
        if official_test is not None:
            own_test, of_class = of_class[official_test[of_class]], of_class[~official_test[of_class]]
        order = of_class[torch.randperm(len(of_class), generator=generator)]
        if own_test is None:
            n_test = max(1, round(len(order) * config.test))
            if config.train_per_class:
                n_test = max(1, len(order) - config.train_per_class)
            own_test, order = order[:n_test], order[n_test:]
        order = order[: config.train_per_class]
        n_val = max(1, round(len(order) * config.validation)) if config.validation and len(order) > 1 else 0
        val.append(order[:n_val])
        train.append(order[n_val:])
        test.append(own_test[: config.test_per_class])
    return tuple(torch.cat(part).sort().values for part in (train, val, test))


def _listing(profile: Profile) -> list:
    """What a decoded cache depends on, without decoding: nothing for sources that never change, the files for folders."""
    root, source = profile.data_root, profile.data.source
    if source in ("shapes", "photos") or (source != "folder" and not _is_folder(root)):
        return []
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: put images there as CLASS/image.jpg, or set `data: root:` in profiles/{profile.name}.yaml")
    found = list_images(root)
    if source == "caltech101":  # as torchvision has it: 101 categories
        found = [entry for entry in found if Path(entry[0]).parts[0] != "BACKGROUND_Google"]
    if not found:
        raise FileNotFoundError(f"no images in {root}: expected CLASS/image with one of {', '.join(SUFFIXES)}")
    return found


def _is_folder(root: Path) -> bool:
    """Whether `root` holds class folders of images rather than torchvision's download."""
    folders = [root / "train", root] if (root / "train").is_dir() else [root]
    return any(child.suffix.lower() in SUFFIXES for folder in folders if folder.is_dir() for child in folder.glob("*/*"))


def _decode(profile: Profile, listing: list) -> tuple[dict[str, torch.Tensor], dict]:
    """The images in the order train, val, test, what belongs to them, and the training images' statistics; no pixels where they exceed the memory."""
    config = profile.data
    own, names, official = {}, None, None
    if config.source == "shapes":
        made = shapes.make_shapes(config.count, config.resize, profile.seed)
        pixels, labels, classes = made.images, made.labels, shapes.CLASSES
        own = {"masks": made.masks, **{f"keypoints/{name}": points for name, points in made.keypoints.items()}}
    elif config.source == "photos":
        made = photos.make_photos(config.count, config.resize, profile.seed)
        pixels, labels, classes, names = made.images, made.labels, photos.CLASSES, made.names
    elif listing:
        pixels, labels, classes, names, official = read_folder(Files(profile.data_root, listing, config.resize), config.memory)
    else:
        pixels, labels, classes, names, official = _read_torchvision(profile)
    parts = _split(labels, config, profile.seed, official)
    order = torch.cat(parts)
    pixels = select(pixels, order)
    if config.normalise == "weights":
        mean, std = (torch.tensor(trained_input(profile)[name]).view(3, 1, 1) for name in ("mean", "std"))
    elif not len(parts[0]) and config.normalise != "imagenet":
        raise ValueError(f"{len(order)} images of {len(classes)} classes leave none to train on: put three at least of each class into {profile.data_root}")
    else:
        mean, std = statistics(select(pixels, slice(len(parts[0]))), config.size, config.normalise)
    tensors = {"labels": labels[order], "mean": mean, "std": std, **{name: tensor[order] for name, tensor in own.items()}}
    if isinstance(pixels, torch.Tensor):
        tensors["pixels"] = pixels
    names = [names[i] for i in order.tolist()] if names else None
    return tensors, {"classes": list(classes), "names": names, "lengths": [len(part) for part in parts]}


def _numbered(labels: torch.Tensor, classes: Sequence[str], official: torch.Tensor) -> list[str]:
    """Names for CIFAR-10's images, which have none: "test/dog/0012.jpg" is the thirteenth dog of the test images, as in a folder of them in their order."""
    number, names = {}, []
    for label, is_test in zip(labels.tolist(), official.tolist(), strict=True):
        folder = f"{'test' if is_test else 'train'}/{classes[label]}"
        number[folder] = number.get(folder, -1) + 1
        names.append(f"{folder}/{number[folder]:04d}.jpg")
    return names


def _read_torchvision(profile: Profile):
    """CIFAR-10 or Caltech-101 as torchvision stores them under `data: root:`; downloaded there when missing."""
    from torchvision import datasets
    from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

    root, side, source = profile.data_root, profile.data.resize, profile.data.source
    try:
        if source == "cifar10":
            parts = [datasets.CIFAR10(root, train=train, download=True) for train in (True, False)]
        else:
            parts = [datasets.Caltech101(root, download=True)]
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{source} is not in {root} and could not be downloaded ({error}): connect to the network once, "
            f"or point `data: root:` in profiles/{profile.name}.yaml at torchvision's copy or at a folder of class folders"
        ) from None
    if source == "cifar10":
        arrays = torch.from_numpy(np.concatenate([part.data for part in parts])).permute(0, 3, 1, 2)
        pixels = torch.cat([resize(chunk, [side, side], antialias=True) for chunk in arrays.split(1000)])
        labels = torch.tensor([label for part in parts for label in part.targets])
        official = torch.arange(len(labels)) >= len(parts[0])
        return pixels, labels, parts[0].classes, _numbered(labels, parts[0].classes, official), official
    (caltech,) = parts
    pixels = torch.stack([center_crop(resize(pil_to_tensor(image.convert("RGB")), side, antialias=True), [side, side])
                          for image, _ in tqdm(caltech, desc="decoding", disable=None, leave=False)])  # fmt: skip
    names = [f"{caltech.categories[y]}/image_{index:04d}.jpg" for y, index in zip(caltech.y, caltech.index, strict=True)]
    return pixels, torch.tensor(caltech.y), caltech.categories, names, None
