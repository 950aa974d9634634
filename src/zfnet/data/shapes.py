"""The built-in data set: ten classes of drawn objects, made from a seed in seconds, each with
label, mask and named keypoints.

Every class shows in both its outline and its texture, so that a net learns it in minutes and every
layer has something to show: oriented edges and colours for layer 1, textures for layers 2 and 3,
whole objects for layers 4 and 5. Objects vary in place, size (diameter 45-75 % of the image), tilt
(up to 20 degrees), colours, light and texture period, and stand on smooth coloured 1/f backgrounds.
Faces carry the parts that the paper masks in Table 1.

Image i depends on (seed, i, size) alone, so a larger set begins with the smaller one.
"""

from dataclasses import dataclass

import numpy as np
import torch

from zfnet.store.errors import require

# For each class its outline, the signed distance (about) to it in units of its radius, negative
# inside; and its texture, -1..1, of `wave` radians per radius. u, v: the object's own frame, x
# right and y down; r, angle: the same in polar coordinates.
DRAWN = {
    "ball": (
        lambda u, v, r, angle: r - 1,
        lambda u, v, r, angle, wave, phase: np.cos(wave * r + phase),
    ),
    "zebra square": (
        lambda u, v, r, angle: np.maximum(abs(u), abs(v)) - 0.82,
        lambda u, v, r, angle, wave, phase: np.sin(wave * u + phase),
    ),
    "checker triangle": (
        lambda u, v, r, angle: (
            np.max([np.cos(a) * u + np.sin(a) * v for a in np.deg2rad([90, 210, 330])], axis=0)
            - 0.55
        ),
        lambda u, v, r, angle, wave, phase: (
            1.6 * np.sin(wave * 0.7 * u + phase) * np.sin(wave * 0.7 * v)
        ),
    ),
    "dotted star": (
        lambda u, v, r, angle: (
            (r - (0.5 + 0.55 * (abs(np.mod((angle + np.pi / 2) / (2 * np.pi) * 5, 1) - 0.5) * 2)))
            * 0.7
        ),
        lambda u, v, r, angle, wave, phase: (
            1.6 * (0.35 + 0.5 * (np.cos(wave * u + phase) + np.cos(wave * v)))
        ),
    ),
    "face": (
        lambda u, v, r, angle: np.hypot(u * 1.12, v) - 1,
        lambda u, v, r, angle, wave, phase: np.where(v < -0.45 + 0.08 * np.cos(9 * u), -1.0, 1.0),
    ),
    "flower": (
        lambda u, v, r, angle: (r - (0.76 + 0.24 * np.cos(6 * angle))) * 0.75,
        lambda u, v, r, angle, wave, phase: np.where(r < 0.3, -1.0, np.cos(6 * angle)),
    ),
    "plaid cross": (
        lambda u, v, r, angle: np.minimum(
            np.maximum(abs(u) - 0.38, abs(v) - 1), np.maximum(abs(v) - 0.38, abs(u) - 1)
        ),
        lambda u, v, r, angle, wave, phase: (
            0.6 * np.sign(np.sin(wave * 0.6 * u + phase))
            + 0.6 * np.sign(np.sin(wave * 0.6 * v + phase))
        ),
    ),
    "wheel": (
        lambda u, v, r, angle: r - 1,
        lambda u, v, r, angle, wave, phase: np.where(
            (r > 0.78) | (r < 0.2), 1.0, 2.2 * np.cos(4 * (angle + phase)) ** 2 - 1.4
        ),
    ),
    "brick house": (
        lambda u, v, r, angle: np.max(
            [abs(u) - 0.78, v - 0.85, (0.9 * abs(u) - v - 1) * 0.74], axis=0
        ),
        # the mortar between the rows, and between the bricks of each
        lambda u, v, r, angle, wave, phase: np.clip(
            (
                np.minimum(
                    np.mod(v * wave / 5, 1),
                    np.mod(u * wave / 10 + np.floor(v * wave / 5) / 2, 1) * 2,
                )
                - 0.2
            )
            * 8,
            -1,
            1,
        ),
    ),
    "spiral hexagon": (
        lambda u, v, r, angle: (
            np.max([abs(np.cos(a) * u + np.sin(a) * v) for a in np.deg2rad([0, 60, 120])], axis=0)
            - 0.87
        ),
        lambda u, v, r, angle, wave, phase: np.sin(wave * 0.9 * r + 3 * angle + phase),
    ),
}
CLASSES = tuple(DRAWN)
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
    require(count >= 1, f"count = {count}: must be at least 1")
    require(size >= 32, f"size = {size}: must be at least 32 pixels for the textures to be seen")
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
    return Shapes(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        labels=torch.from_numpy(labels),
        masks=torch.from_numpy(masks),
        keypoints={name: torch.from_numpy(values) for name, values in points.items()},
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
    polar, (outline, texture) = (np.hypot(u, v), np.arctan2(v, u)), DRAWN[CLASSES[label]]
    distance = outline(u, v, *polar) * radius  # signed, in pixels: negative inside
    alpha = np.clip(0.5 - distance, 0, 1)[..., None]
    # texture period 9-13 px at 104 px
    wave = 2 * np.pi * radius / (size / 104 * rng.uniform(9, 13))
    first, second = _colours(rng)
    painted = texture(u, v, *polar, wave, rng.uniform(0, 2 * np.pi))
    paint = np.clip(0.5 + 1.2 * painted, 0, 1)[..., None]
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


def _face(
    body: np.ndarray, u: np.ndarray, v: np.ndarray, skin: np.ndarray, radius: float
) -> np.ndarray:
    """Eyes with pupils, a nose and a mouth; edges softened over one pixel."""
    left, right, nose, mouth = ((u - x, v - y) for x, y in FACE_POINTS.values())
    bow = np.hypot(mouth[0], mouth[1] + 0.3)
    for distance, colour in (
        (np.hypot(*left) - 0.21, (245, 245, 245)),
        (np.hypot(*left) - 0.1, (15, 15, 20)),
        (np.hypot(*right) - 0.21, (245, 245, 245)),
        (np.hypot(*right) - 0.1, (15, 15, 20)),
        (
            np.maximum(abs(nose[0]) * 1.6 - (nose[1] + 0.22) * 0.6, nose[1] - 0.14),
            skin * 0.55,
        ),
        (
            np.maximum(abs(bow - 0.36) - 0.075, 0.08 - v + FACE_POINTS["mouth"][1] - 0.2),
            (150, 25, 40),
        ),
    ):
        cover = np.clip(0.5 - distance * radius, 0, 1)[..., None]
        body = body * (1 - cover) + np.asarray(colour, float) * cover
    return body


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two saturated colours of distant hue, one light and one dark, in random order of roles."""
    hue = rng.uniform()
    other = hue + rng.uniform(0.25, 0.75)
    return (
        _hsv(hue, rng.uniform(0.45, 1), rng.uniform(0.85, 1)) * 255,
        _hsv(other, rng.uniform(0.6, 1), rng.uniform(0.15, 0.5)) * 255,
    )


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
