"""The built-in data set: ten classes of drawn objects, made from a seed in seconds, each with
label, mask and named keypoints.

Every class shows in both its outline and its texture, so that a net learns it in minutes and every
layer has something to show: oriented edges and colours for layer 1, textures for layers 2 and 3,
whole objects for layers 4 and 5. Objects vary in place, size (diameter 45-75 % of the image), tilt
(up to 20 degrees), colours, light and texture period, and stand on smooth coloured 1/f backgrounds.
Faces carry the parts that the paper masks in Table 1.

Image i depends on (seed, i, size) alone, so a larger set begins with the smaller one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from zfnet.store.errors import UserError

CLASSES = (
    "ball",
    "zebra square",
    "checker triangle",
    "dotted star",
    "face",
    "flower",
    "plaid cross",
    "wheel",
    "brick house",
    "spiral hexagon",
)
# keypoints in the object's own frame: x right, y down, outline radius about 1
POINTS = {
    "centre": (0.0, 0.0),
    "top": (0.0, -0.35),
    "bottom": (0.0, 0.35),
    "left": (-0.3, 0.0),
    "right": (0.3, 0.0),
}
FACE_POINTS = {
    "left_eye": (-0.36, -0.22),
    "right_eye": (0.36, -0.22),
    "nose": (0.0, 0.12),
    "mouth": (0.0, 0.5),
}
TILT = np.deg2rad(20)


@dataclass(frozen=True)
class Shapes:
    """images uint8 (N, 3, S, S); labels int64 (N,); masks bool (N, S, S), true on the object;
    keypoints {name: float32 (N, 2)}, row and column in pixels, NaN where an object has no such part
    (only faces have eyes, nose and mouth).
    """

    images: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor
    keypoints: dict[str, torch.Tensor]


def make_shapes(count: int, size: int = 104, seed: int = 0) -> Shapes:
    """Draw `count` images of `size` x `size` pixels, classes balanced. Raises ValueError when count
    < 1 or size < 32.
    """
    if count < 1:
        raise UserError(f"count = {count}: must be at least 1")
    if size < 32:
        raise UserError(f"size = {size}: must be at least 32 pixels for the textures to be seen")
    images = np.empty((count, size, size, 3), np.uint8)
    masks = np.empty((count, size, size), bool)
    points = {name: np.full((count, 2), np.nan, np.float32) for name in (*POINTS, *FACE_POINTS)}
    orders = [
        np.random.default_rng([seed, block, 1]).permutation(len(CLASSES))
        for block in range(-(-count // len(CLASSES)))
    ]
    labels = np.concatenate(orders)[:count]
    for i, label in enumerate(labels):
        images[i], masks[i], found = _draw(int(label), size, np.random.default_rng([seed, i, 0]))
        for name, point in found.items():
            points[name][i] = point
    keypoints = {name: torch.from_numpy(values) for name, values in points.items()}
    return Shapes(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels),
        torch.from_numpy(masks),
        keypoints,
    )


def _draw(
    label: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[float, float]]]:
    radius = size * rng.uniform(0.225, 0.375)
    cy, cx = rng.uniform(radius * 1.05, size - radius * 1.05, 2)
    tilt = rng.uniform(-TILT, TILT)
    cos, sin = np.cos(tilt), np.sin(tilt)
    y, x = np.mgrid[:size, :size] + 0.5
    u = (cos * (x - cx) + sin * (y - cy)) / radius
    v = (cos * (y - cy) - sin * (x - cx)) / radius
    distance = _outline(label, u, v) * radius  # signed, in pixels: negative inside
    alpha = np.clip(0.5 - distance, 0, 1)[..., None]
    # texture period 9-13 px at 104 px
    wave = 2 * np.pi * radius / (size / 104 * rng.uniform(9, 13))
    first, second = _colours(rng)
    paint = np.clip(0.5 + 1.2 * _texture(label, u, v, wave, rng.uniform(0, 2 * np.pi)), 0, 1)[
        ..., None
    ]
    body = first * paint + second * (1 - paint)
    if label == CLASSES.index("face"):
        body = _face(body, u, v, first, radius)
    light = rng.uniform(0, 2 * np.pi)
    body = body * (1 - 0.22 * np.clip(np.cos(light) * u + np.sin(light) * v, -1, 1))[..., None]
    rim = np.clip(1.5 - np.abs(distance + 1.2), 0, 1)[..., None]
    body = body * (1 - rim) + rng.uniform(0, 60) * rim
    image = _background(size, rng) * (1 - alpha) + body * alpha + rng.normal(0, 3, (size, size, 3))
    names = {**POINTS, **(FACE_POINTS if label == CLASSES.index("face") else {})}
    where = {
        name: (cy + radius * (sin * px + cos * py), cx + radius * (cos * px - sin * py))
        for name, (px, py) in names.items()
    }
    return np.clip(image, 0, 255).astype(np.uint8), distance < 0, where


def _outline(label: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance (about) to the class's outline in units of its radius, negative inside."""
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    match CLASSES[label]:
        case "ball" | "wheel":
            return r - 1
        case "zebra square":
            return np.maximum(abs(u), abs(v)) - 0.82
        case "checker triangle":
            return (
                np.max([np.cos(a) * u + np.sin(a) * v for a in np.deg2rad([90, 210, 330])], axis=0)
                - 0.55
            )
        case "dotted star":
            sector = abs(np.mod((angle + np.pi / 2) / (2 * np.pi) * 5, 1) - 0.5) * 2
            return (r - (0.5 + 0.55 * sector)) * 0.7
        case "face":
            return np.hypot(u * 1.12, v) - 1
        case "flower":
            return (r - (0.76 + 0.24 * np.cos(6 * angle))) * 0.75
        case "plaid cross":
            return np.minimum(
                np.maximum(abs(u) - 0.38, abs(v) - 1), np.maximum(abs(v) - 0.38, abs(u) - 1)
            )
        case "brick house":
            return np.max([abs(u) - 0.78, v - 0.85, (0.9 * abs(u) - v - 1) * 0.74], axis=0)
    return (
        np.max([abs(np.cos(a) * u + np.sin(a) * v) for a in np.deg2rad([0, 60, 120])], axis=0)
        - 0.87
    )


def _texture(label: int, u: np.ndarray, v: np.ndarray, wave: float, phase: float) -> np.ndarray:
    """The class's texture, -1..1; `wave` radians per radius."""
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    match CLASSES[label]:
        case "ball":
            return np.cos(wave * r + phase)
        case "zebra square":
            return np.sin(wave * u + phase)
        case "checker triangle":
            return 1.6 * np.sin(wave * 0.7 * u + phase) * np.sin(wave * 0.7 * v)
        case "dotted star":
            return 1.6 * (0.35 + 0.5 * (np.cos(wave * u + phase) + np.cos(wave * v)))
        case "face":
            return np.where(v < -0.45 + 0.08 * np.cos(9 * u), -1.0, 1.0)
        case "flower":
            return np.where(r < 0.3, -1.0, np.cos(6 * angle))
        case "plaid cross":
            return 0.6 * np.sign(np.sin(wave * 0.6 * u + phase)) + 0.6 * np.sign(
                np.sin(wave * 0.6 * v + phase)
            )
        case "wheel":
            return np.where(
                (r > 0.78) | (r < 0.2), 1.0, 2.2 * np.cos(4 * (angle + phase)) ** 2 - 1.4
            )
        case "brick house":
            row = np.floor(v * wave / 5)
            joint = np.minimum(np.mod(v * wave / 5, 1), np.mod(u * wave / 10 + row / 2, 1) * 2)
            return np.clip((joint - 0.2) * 8, -1, 1)
    return np.sin(wave * 0.9 * r + 3 * angle + phase)


def _face(
    body: np.ndarray, u: np.ndarray, v: np.ndarray, skin: np.ndarray, radius: float
) -> np.ndarray:
    """Eyes with pupils, a nose and a mouth; edges softened over one pixel."""

    def over(canvas, distance, colour):
        cover = np.clip(0.5 - distance * radius, 0, 1)[..., None]
        return canvas * (1 - cover) + np.asarray(colour, float) * cover

    for name in ("left_eye", "right_eye"):
        x, y = FACE_POINTS[name]
        body = over(body, np.hypot(u - x, v - y) - 0.21, (245, 245, 245))
        body = over(body, np.hypot(u - x, v - y) - 0.1, (15, 15, 20))
    x, y = FACE_POINTS["nose"]
    body = over(
        body, np.maximum(abs(u - x) * 1.6 - (v - y + 0.22) * 0.6, v - y - 0.14), skin * 0.55
    )
    x, y = FACE_POINTS["mouth"]
    return over(
        body,
        np.maximum(abs(np.hypot(u - x, v - y + 0.3) - 0.36) - 0.075, 0.08 - v + y - 0.2),
        (150, 25, 40),
    )


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two saturated colours of distant hue, one light and one dark, in random order of roles."""
    hue = rng.uniform()
    other = hue + rng.uniform(0.25, 0.75)
    pair = [
        _hsv(hue, rng.uniform(0.45, 1), rng.uniform(0.85, 1)),
        _hsv(other, rng.uniform(0.6, 1), rng.uniform(0.15, 0.5)),
    ]
    return pair[0] * 255, pair[1] * 255


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    ramp = np.clip(abs(np.mod(hue + np.array([1, 2 / 3, 1 / 3]), 1) * 6 - 3) - 1, 0, 1)
    return value * (1 - saturation + saturation * ramp)


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth 1/f field around a random colour, float (S, S, 3)."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    f[0, 0] = np.inf
    spectrum = rng.normal(size=(2, 3, *f.shape)) / f**1.7
    fields = np.fft.irfft2(spectrum[0] + 1j * spectrum[1], s=(size, size))
    fields /= fields.std((1, 2), keepdims=True)
    mixed = fields[0] * 0.7 + fields * 0.5  # brightness shared by the colours, tint of each
    return _hsv(
        rng.uniform(), rng.uniform(0, 0.5), rng.uniform(0.35, 0.8)
    ) * 255 + 22 * mixed.transpose(1, 2, 0)
