"""Images in files: decoded ahead of need by worker processes, and held in memory only where they
fit.

    files = Files(root, entries, 128)     # as a tensor uint8 (N, 3, 128, 128), but in its files
    for pixels, rows in read_ahead(files, torch.arange(len(files)).split(64)):
        ...                               # pixels[rows]: the next 64
"""

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from zfnet.store.errors import UserError, WorkerKilled, one_line, require, typed

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff")
# whatever the name says; PostScript, say, would start another program
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "WEBP", "PPM", "GIF", "TIFF")


class Files:
    """Image files in the place of a tensor uint8 (N, 3, side, side): `files[indices]` decodes
    those. entries: (name, bytes, modification time).
    """

    dtype, ndim = torch.uint8, 4

    def __init__(self, root: Path, entries: Sequence[tuple[str, int, int]], side: int):
        self.root, self.entries, self.side = root, entries, side

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), 3, self.side, self.side))

    def __getitem__(self, key) -> torch.Tensor:
        indices, *crop = key if isinstance(key, tuple) else (key,)
        return self.intact(*self.read(indices))[(slice(None), *crop)]

    def intact(self, pixels: torch.Tensor, broken: dict[int, str]) -> torch.Tensor:
        """The pixels that `read` gave; OSError where some file has become unreadable."""
        require(
            not broken,
            f"{self.root}: {'; '.join(broken.values())} cannot be read any more. Start again: a"
            " changed folder is looked through anew",
            kind=OSError,
        )
        return pixels

    def read(self, indices: torch.Tensor) -> tuple[torch.Tensor, dict[int, str]]:
        """Images uint8 (B, 3, side, side), black where one is unreadable, and what is wrong with
        those: {index: message}.
        """
        pixels, broken = torch.zeros(len(indices), 3, self.side, self.side, dtype=torch.uint8), {}
        for row, index in zip(pixels, indices.tolist(), strict=True):
            name = self.entries[index][0]
            try:
                row.copy_(read_image(self.root / name, self.side))
            except UserError as error:
                broken[index] = f"{name} ({error})"
        return pixels, broken


def select(many: torch.Tensor | Files | Sequence, where: torch.Tensor | slice):
    """The images, or names, at `where`, indices or a slice; images in files stay there."""
    if isinstance(many, Files):
        return Files(many.root, select(many.entries, where), many.side)
    if isinstance(many, torch.Tensor) or isinstance(where, slice):
        return many[where]
    return [many[i] for i in where.tolist()]


def read_image(file: Path | io.BytesIO, side: int) -> torch.Tensor:
    """One image file as uint8 (3, side, side): EXIF-rotated, RGB, shorter side resized to `side`,
    centre crop.

    Raises UserError, with the reason in a line, if it is unreadable or nobody knows which value of
    its pixels is white.
    """
    Image.init()  # knows its formats only then
    try:
        with Image.open(file, formats=[kind for kind in FORMATS if kind in Image.OPEN]) as opened:
            image = ImageOps.exif_transpose(opened)
            # grey of 16 bits is scaled to 8, where PIL would clip it
            if image.mode.startswith("I;16") or (
                image.mode == "I" and opened.format in ("PNG", "PPM")
            ):
                grey = (np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535
                image = Image.fromarray(grey.astype(np.uint8))
            require(
                image.mode not in ("I", "F"),
                f"pixels of mode {image.mode}, 32 bits, have no known white",
                "save it with 8 or 16 bits",
            )
            # what an alpha channel hides is shown
            fitted = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
            return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)
    except Exception as error:  # decoders raise nearly everything
        raise UserError(one_line(error)) from error


def list_images(root: Path) -> list[tuple[str, int, int]]:
    """The image files in a folder and its folders, linked ones too, in the order of their paths:
    (name, bytes, modification time) as `Files` wants them.
    """
    return [
        (path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(_images_below(root))
    ]


def _images_below(folder: Path, above: tuple = ()) -> Iterator[Path]:
    """Image files in a folder and its folders; no link that leads back up is followed."""
    if (here := (folder.stat().st_dev, folder.stat().st_ino)) in above:
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _images_below(path, (*above, here))
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            yield path


def _ahead(read, parts: Sequence[torch.Tensor], use=lambda part, images: images) -> Iterator:
    """use(part, read(part)) for each part in order, read ahead by as many processes as there are
    cores for each process of a run, up to eight.

    A process that dies is WorkerKilled, from `use`, too: PyTorch's signal may strike there.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    workers = (
        min(8, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))) if len(parts) > 4 else 0
    )
    try:
        # a generator of its own, or the loader would draw from the global one, and dropout would
        # differ from a run in memory
        loader = torch.utils.data.DataLoader(
            parts,
            batch_size=None,
            collate_fn=read,
            num_workers=workers,
            generator=torch.Generator(),
        )
        yield from map(use, parts, loader)
        return
    # a dead process is seen by its signal, or by its socket before that
    except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
        if isinstance(error, RuntimeError) and not isinstance(typed(error), WorkerKilled):
            raise
    raise WorkerKilled  # out here the loader is gone with its error: no signal can follow


def read_ahead(
    pixels: torch.Tensor | Files, parts: Sequence[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each part (indices) in turn a tensor of images and the part's rows in it: the images
    themselves in memory, decoded parts of files.
    """
    if not isinstance(pixels, Files):
        return ((pixels, part) for part in parts)
    return _ahead(
        pixels.read, parts, lambda part, images: (pixels.intact(*images), torch.arange(len(part)))
    )


def decode(files: Files, memory: float) -> tuple[torch.Tensor | Files, torch.Tensor]:
    """Decode every image, to keep it or to know that it can be read: the images, and which of
    `files` they are.

    Images stay in their files where they exceed `memory` (GiB). Unreadable images are skipped with
    a warning; UserError where they are more than 1 %.
    """
    fits = files.shape.numel() <= memory * 2**30
    pixels = torch.empty(files.shape, dtype=torch.uint8) if fits else None
    broken, parts = {}, torch.arange(len(files)).split(64)
    with tqdm(total=len(files), desc="decoding", unit="image", disable=None, leave=False) as bar:
        for part, (decoded, unreadable) in zip(parts, _ahead(files.read, parts), strict=True):
            if fits:
                pixels[part] = decoded
            broken |= unreadable
            bar.update(len(part))
    if broken:
        message = (
            f"{len(broken)} of {len(files)} images in {files.root} cannot be read:"
            f" {'; '.join(list(broken.values())[:5])}"
        )
        require(
            len(broken) <= 0.01 * len(files), message + ". More than 1 %: repair or remove them"
        )
        warnings.warn(message + ". Skipped", stacklevel=2)
    kept = torch.tensor([i for i in range(len(files)) if i not in broken])
    return select(pixels if fits else files, kept) if broken or not fits else pixels, kept
