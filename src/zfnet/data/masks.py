"""Photographs with the object's exact mask: NAME.jpg in one folder, NAME.png in another.

    pixels, masks, names = read_masked("data/horses/photos", "data/horses/masks", 256)

A mask goes through the same resizing and cropping as its photograph, so that it stays on it.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from zfnet.data.files import list_images, read_image
from zfnet.store.errors import UserError, one_line, require


def read_masked(
    photos: Path | str, masks: Path | str, side: int
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Photographs uint8 (N, 3, side, side), masks bool (N, side, side), true on the object, and the
    photographs' names, in their order. A mask has its photograph's name, but for the ending.

    Raises FileNotFoundError for a folder that is not there, and UserError, naming the file, for a
    photograph without mask or the reverse, a mask of another size than its photograph, and one that
    has more than two values, or marks nothing.
    """
    found = []
    for folder in map(Path, (photos, masks)):
        require(
            folder.is_dir(),
            f"no folder {folder}",
            "put photographs and masks there, or name their folders in the profile's section"
            " `localisation:`",
            FileNotFoundError,
        )
        files = [folder / entry[0] for entry in list_images(folder)]
        stems = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
        twice = sorted({stem for stem in stems if stems.count(stem) > 1})
        require(not twice, f"{folder} has several images named {', '.join(twice[:3])}")
        found.append(dict(zip(stems, files, strict=True)))
    (own, on), alone = found, sorted(set(found[0]) ^ set(found[1]))
    require(
        not alone,
        f"{', '.join(alone[:5])}: in one of {photos} and {masks}, but not in the other",
        "each photograph needs a mask of the same name",
    )
    require(own, f"no images in {photos}", kind=FileNotFoundError)
    pixels = torch.stack([_read(file, side) for file in own.values()])
    marks = torch.stack([read_mask(on[stem], side, photo=own[stem]) for stem in own])
    return pixels, marks, [file.name for file in own.values()]


def _read(file: Path, side: int) -> torch.Tensor:
    try:
        return read_image(file, side)
    except ValueError as error:
        raise UserError(f"{file} is not an image that can be read ({error})") from None


def read_mask(file: Path, side: int, photo: Path) -> torch.Tensor:
    """One mask as bool (side, side): its shorter side resized to `side`, the centre cut out, as
    `read_image` does with its photograph; the object is the larger of its two values.
    """
    try:
        with Image.open(file) as opened, Image.open(photo) as other:
            mask, size = ImageOps.exif_transpose(opened), ImageOps.exif_transpose(other).size
            values = np.asarray(mask if mask.mode in ("1", "L", "P", "I;16") else mask.convert("L"))
    except Exception as error:  # decoders raise nearly everything
        raise UserError(f"{file} cannot be read as a mask ({one_line(error)})") from error
    require(
        mask.size == size,
        f"{file} has {mask.size[0]} x {mask.size[1]} pixels, its photograph {size[0]} x {size[1]}",
    )
    known = np.unique(values)
    require(
        len(known) == 2,
        f"{file} has {len(known)} values",
        "a mask has two: one on the object, a smaller one beside it",
    )
    marked = Image.fromarray(np.uint8(255) * (values == known[1]))
    fitted = ImageOps.fit(marked, (side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted) > 127)
