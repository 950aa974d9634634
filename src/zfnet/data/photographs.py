"""Photographs that come with scikit-image and scikit-learn: real pictures without a download.

    made = make_photos(600, 144)
    made.images                       # uint8 (600, 3, 144, 144); and made.labels, made.names

Random crops at several scales, from the whole photograph down to an eighth of its area, make a set
large enough to scan: a detail that excites a unit is seen at the size at which it excites it most.
The pictures are read from the installed packages, where their licences stand; nothing of them is
kept here.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from zfnet.store.errors import require

SKIMAGE = (
    "astronaut",
    "brick",
    "camera",
    "chelsea",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "rocket",
)
SKLEARN = ("china", "flower")
CLASSES = tuple(sorted((*SKIMAGE, *SKLEARN, "motorcycle")))


@dataclass(frozen=True)
class Photos:
    """images uint8 (N, 3, side, side); labels int64 (N,), indices into CLASSES; names: photograph,
    and top, left, side of the crop in its pixels.
    """

    images: torch.Tensor
    labels: torch.Tensor
    names: list[str]


def photograph(name: str) -> Image.Image:
    """One of CLASSES at its full size, RGB. Raises ValueError for another name."""
    require(name in CLASSES, f"no photograph {name!r}: choose one of {', '.join(CLASSES)}")
    if name in SKLEARN:
        from sklearn.datasets import load_sample_image

        return Image.fromarray(np.asarray(load_sample_image(f"{name}.jpg")))
    from skimage import data

    pixels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    return Image.fromarray(pixels).convert("RGB")


def make_photos(count: int, side: int, seed: int = 0) -> Photos:
    """`count` crops, as many of each photograph as of the next, mirrored half of the time; the
    first crop of each is its middle, whole.

    A crop's area is log-uniform between an eighth of the largest square and all of it, but no crop
    is enlarged. Crop n depends on (seed, n) alone.
    """
    classes = len(CLASSES)
    require(count >= classes, f"count = {count}: at least {classes}, one crop of each photograph")
    photographs = [photograph(name) for name in CLASSES]
    images, names = torch.empty(count, 3, side, side, dtype=torch.uint8), []
    for n in range(count):
        rng, label = np.random.default_rng((seed, n)), n % classes
        width, height = photographs[label].size
        crop = largest = min(width, height)
        left, top = (width - crop) // 2, (height - crop) // 2
        if n >= classes:
            crop = round(max(min(side, largest), largest * 8 ** (-rng.random() / 2)))
            left, top = (int(rng.integers(length - crop + 1)) for length in (width, height))
        picture = (
            photographs[label]
            .crop((left, top, left + crop, top + crop))
            .resize((side, side), Image.Resampling.BICUBIC)
        )
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        images[n] = pixels.flip(2) if n >= classes and rng.random() < 0.5 else pixels
        names.append(f"{CLASSES[label]} ({top}, {left}), {crop} px")
    return Photos(images, torch.arange(count) % classes, names)
