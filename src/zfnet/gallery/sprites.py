"""The gallery's pictures: for every feature map its nine projections and its nine patches, three by
three, exactly the panels of Fig. 2; and the images.
"""

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from zfnet.data.images import Images
from zfnet.methods.deconv import Deconvnet
from zfnet.methods.top_activations import TopActivations
from zfnet.plots.panels import mosaic
from zfnet.plots.top9 import top9_tiles
from zfnet.store import artefacts

# pixels: tiles below it are kept to the last bit, and pages show their pixels as squares
SMALL = 40
QUALITY = 90
KINDS = ("projections", "patches")


def suffix(tile: int) -> str:
    """The type of a sprite whose tiles have that side: without loss where they are small, else
    JPEG, a third of the size.
    """
    return "webp" if tile < SMALL else "jpg"


def save(picture: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) in 0..1 to `path`, atomically, as its suffix says."""
    options = (
        {"format": "WEBP", "lossless": True, "method": 2}
        if path.suffix == ".webp"
        else {"format": "JPEG", "quality": QUALITY, "subsampling": 0}
    )
    with artefacts.atomic(path) as temporary:
        Image.fromarray(np.rint(255 * picture).astype(np.uint8)).save(temporary, **options)


def draw(
    deconvnet: Deconvnet,
    images: Images,
    layers: dict[int, str],
    tiles: dict[int, int],
    top: dict[str, TopActivations],
    folder: Path,
    progress: bool = True,
) -> int:
    """Draw what is not in `folder` yet: layer-N/C-projections and -patches of the maps that fire,
    images/I.jpg of the images these like; returns how many.

    layers: number to name; tiles: number to the side of a tile. Each core takes a map at a time.
    """
    jobs = []
    for number, name in layers.items():
        for channel in (top[name].value[:, 0] > 0).nonzero().flatten().tolist():
            paths = [
                folder / f"layer-{number}" / f"{channel}-{kind}.{suffix(tiles[number])}"
                for kind in KINDS
            ]
            if not all(path.exists() for path in paths):
                jobs.append((_draw_map, deconvnet, images, name, top[name], channel, paths))
    shown = {index for found in top.values() for index in found.image[found.value > 0].tolist()}
    jobs += [
        (_draw_image, images, index, path)
        for index in sorted(shown)
        if not (path := folder / "images" / f"{index}.jpg").exists()
    ]
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    threads, pool = torch.get_num_threads(), ThreadPoolExecutor(cores)
    torch.set_num_threads(1)
    try:
        waiting = [pool.submit(*job) for job in jobs]
        for done in tqdm(
            as_completed(waiting),
            total=len(jobs),
            desc="gallery",
            unit="picture",
            leave=False,
            disable=None if progress else True,
        ):
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
    return len(jobs)


def _draw_map(
    deconvnet: Deconvnet,
    images: Images,
    layer: str,
    top: TopActivations,
    channel: int,
    paths: list[Path],
) -> None:
    for path, (tiles,) in zip(
        paths, top9_tiles(deconvnet, images, layer, top, torch.tensor([channel])), strict=True
    ):
        save(mosaic(tiles, 3, 0), path)


def _draw_image(images: Images, index: int, path: Path) -> None:
    save(images.pictures([index])[0].permute(1, 2, 0).numpy() / 255, path)
