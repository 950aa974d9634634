"""Figures and tables on disk: small, atomic, without time stamps, with their provenance."""

import csv
import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from zfnet.store import artefacts, provenance
from zfnet.store.profiles import Profile

DPI = 110
LIMIT = 490_000  # bytes of a committed figure


def save_figure(figure: Figure, profile: Profile, name: str) -> Path:
    """Write Figures/<profile>/<name>.png, atomically, without a time stamp and below 500 kB;
    returns its path.

    A larger picture is reduced to 256 colours, and then, if need be, drawn with fewer dots per
    inch.
    """
    path = profile.figures / f"{name}.png"
    for dpi in (DPI, DPI * 0.85, DPI * 0.7, DPI * 0.55):
        buffer = io.BytesIO()
        figure.savefig(
            buffer,
            format="png",
            dpi=dpi,
            bbox_inches="tight",
            pad_inches=0.12,
            metadata={"Software": None},
        )
        if buffer.tell() > LIMIT:
            picture = _fewer_colours(Image.open(buffer).convert("RGB"))
            buffer = io.BytesIO()
            picture.save(buffer, format="png", optimize=True)
        if buffer.tell() <= LIMIT:
            break
    with artefacts.atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return path


def _fewer_colours(picture: Image.Image) -> Image.Image:
    """The picture in 256 colours, each pixel in the nearest: pure ones and the 16 most frequent are
    exact, 40 cover its rare ones, the rest common ones.

    Exact are so the lines and letters, the white paper and the grey that stands for zero.
    """
    # the picture's own colours, each once, with how often it is there
    packed = (np.asarray(picture).astype(np.int64) << (16, 8, 0)).sum(2)
    colours, which, counts = np.unique(packed, return_inverse=True, return_counts=True)
    colours = torch.from_numpy(colours[:, None] >> np.array([16, 8, 0]) & 255).float()
    # the palette: 8 pure ones, 16 frequent ones, 40 rare ones, 192 common ones
    pure = torch.cartesian_prod(*3 * (torch.tensor([0.0, 255.0]),))
    frequent = colours[torch.from_numpy(counts.argsort(kind="stable")[::-1][:16].copy())]
    rare, common = (
        torch.tensor(part.getpalette(), dtype=torch.float32).view(-1, 3)
        for part in (
            picture.quantize(40, method=Image.Quantize.MAXCOVERAGE),
            picture.quantize(192, kmeans=2),
        )
    )
    palette = torch.cat([pure, frequent, rare[:40], common[:192]])
    # the nearest for each: |p|^2 - 2 p.c is least where |p - c| is; whole numbers, so exact
    nearest = torch.cat(
        [
            (palette.square().sum(1) - 2 * part @ palette.T).argmin(1)
            for part in colours.split(1 << 16)
        ]
    )
    reduced = Image.fromarray(nearest.numpy().astype(np.uint8)[which].reshape(packed.shape))
    reduced.putpalette(palette.to(torch.uint8).flatten().tolist())
    return reduced


def write_figure(figure: Figure, path: Path | str) -> Path:
    """Write a figure to a file of anybody's choice, in the format that its ending names, atomically
    and at full quality; returns the path.
    """
    path = Path(path)
    with artefacts.atomic(path) as temporary:
        figure.savefig(
            temporary, format=path.suffix[1:].lower(), dpi=150, bbox_inches="tight", pad_inches=0.15
        )
    return path


def save_table(rows: list[dict[str, object]], profile: Profile, name: str, **made_of) -> Path:
    """Write Figures/<profile>/<name>.csv, its provenance in comment lines above the header; returns
    its path.
    """
    path = profile.figures / f"{name}.csv"
    with (
        artefacts.atomic(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        for key, value in provenance.record(profile, **made_of).items():
            file.write(f"# {key}: {value}\n")
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def fingerprint(values: torch.Tensor) -> str:
    """A numeric fingerprint of what a picture shows, printed beside it: shape, mean and standard
    deviation to three digits.
    """
    values = values.double()
    return f"{tuple(values.shape)} mean {values.mean():.3g} std {values.std():.3g}"
