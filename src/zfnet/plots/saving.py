"""Figures and tables on disk: small, atomic, without time stamps, with their provenance."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from .. import provenance
from ..profiles import Profile

DPI = 110
LIMIT = 490_000  # bytes of a committed figure


def save_figure(figure: Figure, profile: Profile, name: str) -> Path:
    """Write Figures/<profile>/<name>.png, atomically, without a time stamp and below 500 kB; returns its path.

    A larger picture is reduced to 256 colours, and then, if need be, drawn with fewer dots per inch.
    """
    path = profile.figures / f"{name}.png"
    for dpi in (DPI, DPI * 0.85, DPI * 0.7, DPI * 0.55):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
        if buffer.tell() > LIMIT:
            picture = _fewer_colours(Image.open(buffer).convert("RGB"))
            buffer = io.BytesIO()
            picture.save(buffer, format="png", optimize=True)
        if buffer.tell() <= LIMIT:
            break
    with provenance.atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return path


def _fewer_colours(picture: Image.Image) -> Image.Image:
    """The picture in 256 colours: 200 are means of its common ones, 48 cover its rare ones, 8 are pure, for lines and letters."""
    common = picture.quantize(200, kmeans=2).getpalette()[: 3 * 200]
    rare = picture.quantize(48, method=Image.Quantize.MAXCOVERAGE).getpalette()[: 3 * 48]
    pure = [255 * (n >> channel & 1) for n in range(8) for channel in range(3)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(common + rare + pure)
    indices, pixels = np.array(picture.quantize(palette=palette, dither=Image.Dither.NONE)), np.asarray(picture)
    for n in range(8):  # Pillow looks for colours nearly enough; white paper has to be white
        indices[(pixels == pure[3 * n : 3 * n + 3]).all(2)] = 248 + n
    reduced = Image.fromarray(indices)
    reduced.putpalette(common + rare + pure)
    return reduced


def write_figure(figure: Figure, path: Path | str) -> Path:
    """Write a figure to a file of anybody's choice, in the format that its ending names, atomically and at full quality; returns the path."""
    path = Path(path)
    with provenance.atomic(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=150, bbox_inches="tight", pad_inches=0.15)
    return path


def save_table(rows: Sequence[dict[str, object]], profile: Profile, name: str, **made_of) -> Path:
    """Write Figures/<profile>/<name>.csv, its provenance in comment lines above the header; returns its path."""
    path = profile.figures / f"{name}.csv"
    with provenance.atomic(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        for key, value in provenance.record(profile, **made_of).items():
            file.write(f"# {key}: {value}\n")
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def fingerprint(values: torch.Tensor) -> str:
    """A numeric fingerprint of what a picture shows, printed beside it: shape, mean and standard deviation to three digits."""
    values = values.double()
    return f"{tuple(values.shape)} mean {values.mean():.3g} std {values.std():.3g}"
