"""Images in files: decoded ahead of need by worker processes, and held in memory only where they
fit.

    files = Files(root, entries, 128)     # as a tensor uint8 (N, 3, 128, 128), but in its files
    for pixels, rows in read_ahead(files, torch.arange(len(files)).split(64)):
        ...                               # pixels[rows]: the next 64
"""

import contextlib
import functools
import io
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from zfnet.store.errors import UserError, WorkerKilled, one_line, require, typed

# known by their first bytes, whatever the name says; other formats of Pillow where the name says so
FORMATS = (
    *("JPEG", "MPO", "PNG", "BMP", "DIB", "WEBP", "PPM", "GIF", "TIFF"),
    *("AVIF", "HEIF", "JPEG2000"),
)
# PostScript and Windows' metafiles would start another program; of the others Pillow knows the
# name, but cannot decode them
NEVER = ("EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "PDF")
HEIC = (".heic", ".heif", ".hif")
HEIC_CURE = "for HEIC, `pip install pillow-heif`, or save it as JPEG"
# annotations, programs and notes, which nobody takes for images
TEXTS = (
    *(".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml"),
    *(".html", ".htm", ".log", ".py", ".ipynb", ".sh"),
)
# what file managers, notebooks and operating systems leave behind; so do names with a dot in front
DROPPINGS = ("__macosx", "@eadir", "$recycle.bin", "thumbs.db", "ehthumbs.db", "desktop.ini")


class Scaled(UserWarning):
    """An image that does not use all the bits that it is stored in."""


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
        return self.read_noting(indices)[:2]

    def read_noting(self, indices: torch.Tensor) -> tuple[torch.Tensor, dict, dict]:
        """`read`, and which images were scaled by the bits that they use, {index: message}."""
        pixels = torch.zeros(len(indices), 3, self.side, self.side, dtype=torch.uint8)
        broken, scaled = {}, {}
        for row, index in zip(pixels, indices.tolist(), strict=True):
            name = self.entries[index][0]
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    row.copy_(read_image(self.root / name, self.side))
            except UserError as error:
                broken[index] = f"{name} ({error})"
            for each in caught:
                if issubclass(each.category, Scaled):
                    scaled[index] = f"{name} ({each.message})"
        return pixels, broken, scaled


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

    Grey pixels of 16 bits are scaled by the bits that they use, 8, 10, 12, 14 or 16, with the
    warning `Scaled` where those are not all. Raises UserError, with the reason in a line, if the
    file is unreadable or nobody knows which value of its pixels is white.
    """
    own = formats().get(file.suffix.lower()) if isinstance(file, Path) else None
    kinds = dict.fromkeys((*FORMATS, *([own] if own else ())))
    try:
        with Image.open(file, formats=[kind for kind in kinds if kind in Image.OPEN]) as opened:
            deep = ";16" in str(opened.tile)
            image = ImageOps.exif_transpose(opened)
            # grey of 16 bits is scaled to 8, where PIL would clip it
            if image.mode.startswith("I;16") or (
                image.mode == "I" and opened.format in ("PNG", "PPM")
            ):
                image = _eight_bits(np.asarray(image).astype(np.uint32))
            elif deep and image.mode in ("RGB", "RGBA", "LA"):
                require(
                    max(top for _, top in image.convert("RGB").getextrema()) > 15,
                    "colours of 16 bits that use 12 of them or fewer, of which the upper 8 bits"
                    " show nothing",
                    "save it with 8 bits",
                )
            require(
                image.mode not in ("I", "F"),
                f"pixels of mode {image.mode}, 32 bits, have no known white",
                "save it with 8 or 16 bits",
            )
            # what an alpha channel hides is shown
            fitted = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
            return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)
    except Exception as error:  # decoders raise nearly everything
        raise UserError(one_line(error), HEIC_CURE if _is_heic(file) else "") from error


def _eight_bits(grey: np.ndarray) -> Image.Image:
    """Whole numbers of at most 16 bits (H, W) as a grey image, white the largest number of the bits
    that they use.
    """
    bits = next(bits for bits in (8, 10, 12, 14, 16) if grey.max() < 2**bits)
    if bits < 16 and grey.any():
        warnings.warn(f"uses {bits} of its 16 bits", Scaled, stacklevel=3)
    white = 2**bits - 1
    return Image.fromarray(((grey * 255 + white // 2) // white).astype(np.uint8))


def _is_heic(file: Path | io.BytesIO) -> bool:
    """Whether a file that could not be read is one of HEIC, by its first bytes."""
    if isinstance(file, io.BytesIO):
        head = file.getvalue()[:12]
    else:
        try:
            with open(file, "rb") as opened:
                head = opened.read(12)
        except OSError:
            return False
    return head[4:8] == b"ftyp" and head[8:11] in (b"hei", b"hev", b"mif", b"msf")


@functools.cache
def formats() -> dict[str, str]:
    """{ending of a name, in small letters: format} of all images that Pillow can decode here."""
    Image.init()  # knows its formats only then
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return {
        suffix: kind
        for suffix, kind in Image.registered_extensions().items()
        if kind not in NEVER and (kind in Image.OPEN or kind in FORMATS)
    }


def look_through(root: Path) -> tuple[list[tuple[str, int, int]], dict[str, int]]:
    """The image files in a folder and its folders, linked ones too, in the order of their paths:
    (name, bytes, modification time) as `Files` wants them; and how many others there are, {".txt":
    3}, hidden images among them.

    What programs leave behind without being asked (`Thumbs.db`, `._photo.jpg`) does not count, nor
    do texts.
    """
    images, others = [], Counter()
    for path, kind in _below(root):
        if kind is None:
            images.append(path)
        else:
            others[kind] += 1
    return [
        (path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(images)
    ], dict(sorted(others.items()))


def list_images(root: Path) -> list[tuple[str, int, int]]:
    """The images that `look_through` finds."""
    return look_through(root)[0]


def said_of(others: dict[str, int], root: Path | str) -> str:
    """What `look_through` left out, in a line with the cure; "" where that is nothing."""
    if not others:
        return ""
    count, listed = sum(others.values()), [f"{count} {kind}" for kind, count in others.items()]
    shown = ", ".join(listed[:8]) + (f" and {len(listed) - 8} other kinds" * (len(listed) > 8))
    heic = {kind.lower() for kind in others} & set(HEIC)
    return (
        f"{root}: {count} file{'s' * (count > 1)} left out, by name: {shown}. Images need the"
        " ending of their format, such as .jpg, and no dot in front"
        + (f"; {HEIC_CURE}" if heic else "")
    )


def _below(
    folder: Path, above: tuple = (), hidden: bool = False
) -> Iterator[tuple[Path, str | None]]:
    """Files in a folder and its folders, with None for images and else what they are; no link that
    leads back up is followed.
    """
    if (here := (folder.stat().st_dev, folder.stat().st_ino)) in above:
        return
    for path in folder.iterdir():
        dropped = path.name.startswith(".") or path.name.casefold() in DROPPINGS
        image = path.suffix.lower() in formats()
        if path.is_dir():
            yield from _below(path, (*above, here), hidden or dropped)
        elif hidden or dropped:
            if image and not path.name.startswith("._"):
                yield path, "hidden images"
        elif image and path.is_file():
            yield path, None
        elif image:
            yield path, "links to nothing, or pipes"
        elif path.suffix.lower() not in TEXTS:
            yield path, path.suffix or "without an ending"


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
    a warning; UserError where they are more than 1 %. A warning says which were scaled by the bits
    that they use.
    """
    fits = files.shape.numel() <= memory * 2**30
    pixels = torch.empty(files.shape, dtype=torch.uint8) if fits else None
    broken, scaled, parts = {}, {}, torch.arange(len(files)).split(64)
    with tqdm(total=len(files), desc="decoding", unit="image", disable=None, leave=False) as bar:
        read = _ahead(files.read_noting, parts)
        for part, (decoded, unreadable, of_fewer_bits) in zip(parts, read, strict=True):
            if fits:
                pixels[part] = decoded
            broken |= unreadable
            scaled |= of_fewer_bits
            bar.update(len(part))
    if scaled:
        warnings.warn(
            f"{len(scaled)} of {len(files)} images in {files.root} were made brighter, by the bits"
            f" that they use: {'; '.join(list(scaled.values())[:5])}. Save those that are just dark"
            " with 8 bits",
            stacklevel=2,
        )
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
