"""Feature invariance (paper, section 4 and Fig. 5): move, enlarge or turn an image, and see how far
its features go.

Vertical translation by -60 to 60 pixels of 224, scale 1.0 to 1.8, rotation by 0 to 350 degrees. For
each: the Euclidean distance between the features of the original and of the transformed image, at
layer 1 and at layer 7 (the last hidden layer: `last_hidden`), and the probability of the true
label, of a net that gives any.

Choices where the paper is silent: the *stored* image, which is larger than the net's input, is
transformed about the middle of the centre crop, and then cropped, so that its margin comes into
view first; beyond it the mean colour of the training data does. Bilinear, 8 bits again afterwards.
Shifts are whole pixels, so that interpolation does not count as translation.
"""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from zfnet.data.images import Images
from zfnet.graph.trace import paper_layers, trace
from zfnet.methods.depth import classifies, last_hidden, layer_outputs
from zfnet.methods.probabilities import probabilities
from zfnet.store import artefacts, errors, keys, profiles, provenance

KINDS = ("translation", "scale", "rotation")
# order of rotational symmetry of the built-in shapes' outlines (of its stripes, for the zebra
# square); 0: the same at any angle
SYMMETRY = {
    "ball": 0,
    "wheel": 0,
    "flower": 6,
    "spiral hexagon": 6,
    "dotted star": 5,
    "plaid cross": 4,
    "checker triangle": 3,
    "zebra square": 2,
    "face": 1,
    "brick house": 1,
}


@dataclass(frozen=True)
class Invariance:
    """N images under T amounts of one kind of transformation, in pixels (down is positive), as a
    factor, or in degrees (clockwise).

    amounts (T,); layer1, layer7 (N, T): Euclidean distances from the original's features;
    probability (N, T) of `targets` (N,), NaN for a net that gives none. All on the CPU.
    """

    kind: str
    amounts: torch.Tensor
    layer1: torch.Tensor
    layer7: torch.Tensor
    probability: torch.Tensor
    targets: torch.Tensor

    def at(self, amount: float) -> int:
        """The column of the amount nearest to this one."""
        return int((self.amounts - amount).abs().argmin())


def amounts(kind: str, size: int) -> torch.Tensor:
    """The paper's range of a transformation for a net's input of `size` pixels: shifts scaled from
    224 and rounded to whole pixels.
    """
    _check(kind)
    return {
        "translation": (torch.arange(-60, 61, 5) * size / 224).round().unique().double(),
        "scale": torch.linspace(1.0, 1.8, 17, dtype=torch.float64),
        "rotation": torch.arange(0.0, 360.0, 10.0, dtype=torch.float64),
    }[kind]


def _check(kind: str) -> None:
    errors.require(kind in KINDS, f"kind = {kind!r}: choose one of {', '.join(KINDS)}")


def transform(
    images: Images, indices: list[int] | torch.Tensor, kind: str, amount: float
) -> torch.Tensor:
    """The centre crops of transformed images as pixels, uint8 (B, 3, S, S). ValueError for an
    unknown kind or a scale that is not positive.
    """
    from torchvision.transforms.v2.functional import InterpolationMode, affine

    _check(kind)
    errors.require(kind != "scale" or amount > 0, f"scale = {amount}: must be positive")
    top, left = images.corner
    moved = affine(
        images.pixels[torch.as_tensor(indices)],
        angle=float(amount) if kind == "rotation" else 0.0,
        translate=[0.0, float(amount) if kind == "translation" else 0.0],
        scale=float(amount) if kind == "scale" else 1.0,
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
        fill=images.mean.mean((1, 2)).tolist(),
        center=[left + images.size / 2, top + images.size / 2],
    )
    return moved[:, :, top : top + images.size, left : left + images.size]


def hidden(
    model: torch.nn.Module, inputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Layer 1 and layer 7 of images (N, 3, H, W), each rectified and flattened to (N, units), and
    the net's outputs, from one forward pass in eval mode.

    Layer 7 is the last hidden layer (`last_hidden`), layer 1 the rectified maps before their pool.
    """
    graph = trace(model)
    first, last = paper_layers(graph)[1], last_hidden(graph)
    found = layer_outputs(graph, inputs, (first, last, "logits"))
    return found[first].flatten(1), found[last], found["logits"]


@torch.no_grad()
def measure(
    model: torch.nn.Module,
    images: Images,
    targets: torch.Tensor,
    kind: str,
    steps: torch.Tensor | None = None,
    batch_size: int = 25,
) -> Invariance:
    """Transform all images by every amount in `steps` (by default the paper's range), on the
    model's device.

    `targets` (N,): the label whose probability is followed, the true one where the net knows it.
    ValueError for another number of them, or one that is not an output of the net.
    """
    errors.require(
        targets.shape == (len(images),),
        f"targets: expected one label for each of the {len(images)} images, got"
        f" {tuple(targets.shape)}",
    )
    steps = amounts(kind, images.size) if steps is None else steps
    device, parts, graph = next(model.parameters()).device, [], trace(model)
    for indices in tqdm(
        torch.arange(len(images)).split(batch_size),
        desc=kind,
        unit="batch",
        leave=False,
        disable=None,
    ):
        clean = hidden(graph, images.normalise(images.pictures(indices).to(device)))
        errors.require(
            not classifies(graph)
            or (int(targets.min()) >= 0 and int(targets.max()) < clean[2].shape[1]),
            f"targets reach from {int(targets.min())} to {int(targets.max())}: choose labels"
            f" from 0 to {clean[2].shape[1] - 1}",
        )
        rows = []
        for amount in steps.tolist():
            moved = hidden(
                graph, images.normalise(transform(images, indices, kind, amount).to(device))
            )
            followed = torch.full((len(indices),), torch.nan, dtype=torch.float64)
            if classifies(graph):
                each = probabilities(moved[2].double(), clean[2]).cpu()
                followed = each.gather(1, targets[indices, None])[:, 0]
            distances = [
                torch.linalg.vector_norm(a - b, dim=1).double().cpu()
                for a, b in zip(moved[:2], clean[:2], strict=True)
            ]
            rows.append(torch.stack([*distances, followed]))
        parts.append(torch.stack(rows, 2))
    return Invariance(kind, steps, *torch.cat(parts, 1), targets)


def run_invariance(
    profile: profiles.Profile, model: torch.nn.Module, images: Images, targets: torch.Tensor
) -> dict[str, Invariance]:
    """All three transformations of these images, found in `runs/<profile>/invariance.safetensors`
    or measured now.
    """
    weights, code = keys.tensors_hash(model.state_dict()), keys.code_key(measure)
    names = ("amounts", "layer1", "layer7", "probability")

    def build():
        found = {kind: measure(model, images, targets, kind) for kind in KINDS}
        tensors = {
            f"{kind}/{name}": getattr(sweep, name).contiguous()
            for kind, sweep in found.items()
            for name in names
        }
        return tensors, provenance.record(profile, n=len(images))

    tensors, _ = artefacts.artefact(
        profile.runs / "invariance.safetensors",
        keys.key_of(weights, images.fingerprint, targets.tolist(), code),
        build,
    )
    return {
        kind: Invariance(kind, *(tensors[f"{kind}/{name}"] for name in names), targets)
        for kind in KINDS
    }


def share_of_range(found: Invariance, layer: int, amount: float) -> torch.Tensor:
    """Distance after a change by `amount` as a share of the largest distance of the sweep, image by
    image: (N,) in 0..1.

    Translations and rotations go both ways, and the mean of the two is taken.
    """
    distances = _distances(found, layer)
    ways = {
        "translation": (-amount, amount),
        "scale": (amount,),
        "rotation": (amount, 360 - amount),
    }[found.kind]
    return distances[:, [found.at(way) for way in ways]].mean(1) / distances.max(1).values


def linearity(found: Invariance, layer: int, limit: float) -> torch.Tensor:
    """R² of a line through the origin fitted to the distance over |change| up to `limit` (pixels,
    or scale - 1), image by image: (N,).

    1 is a straight line; 0 no better than a constant; negative worse. Both directions of a
    translation share the line.
    """
    change = found.amounts - 1 if found.kind == "scale" else found.amounts
    near = change.abs() <= limit + 1e-9
    x, y = change[near].abs(), _distances(found, layer)[:, near]
    slope = (y @ x) / (x @ x)
    residual = (y - slope[:, None] * x).square().sum(1)
    return 1 - residual / (y - y.mean(1, keepdim=True)).square().sum(1)


def _distances(found: Invariance, layer: int) -> torch.Tensor:
    errors.require(layer in (1, 7), f"layer = {layer}: distances are measured at layers 1 and 7")
    return found.layer1 if layer == 1 else found.layer7


def turned(found: Invariance, angles: list[float]) -> torch.Tensor:
    """The probability of the true label after rotations by `angles` degrees, interpolated linearly
    between those measured: (N, len(angles)).
    """
    errors.require(found.kind == "rotation", f"kind = {found.kind!r}: angles belong to a rotation")
    return torch.from_numpy(
        np.stack(
            [
                np.interp(angles, found.amounts.numpy(), row, period=360)
                for row in found.probability.numpy()
            ]
        )
    )


def rotation_rows(
    found: Invariance, classes: tuple[str, ...], symmetry: dict[str, int] | None = None
) -> list[dict[str, object]]:
    """One row per class among the targets: the probability of the true label over all angles but 0,
    as means over its images; the most stable class first.

    `lowest` is the lowest of the curve of means. `symmetry` gives orders of rotational symmetry by
    class name (0: the same at any angle), such as `SYMMETRY` of the built-in shapes; for an order
    of 2 or more also the mean at the angles that bring the object onto itself (multiples of
    360/order), and at those half-way between.
    """
    rows, symmetry = [], symmetry or {}
    for label in found.targets.unique().tolist():
        own = found.targets == label
        curve = found.probability[own].mean(0)
        order = symmetry.get(classes[label])
        row = {
            "class": classes[label],
            "images": int(own.sum()),
            "symmetry": order,
            "unturned": curve[found.at(0)].item(),
            "mean": curve[found.amounts > 0].mean().item(),
            "lowest": curve.min().item(),
            "lowest_at": float(found.amounts[curve.argmin()]),
            "symmetric": None,
            "half_way": None,
        }
        if order and order > 1:
            onto = [n * (360 / order) for n in range(1, order)]
            between = [(n + 0.5) * (360 / order) for n in range(order)]
            row["symmetric"] = turned(found, onto)[own].mean().item()
            row["half_way"] = turned(found, between)[own].mean().item()
        rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    return sorted(rows, key=lambda row: -row["mean"])


def invariance_rows(found: dict[str, Invariance]) -> list[dict[str, object]]:
    """The table of the curves: one row per transformation and amount, means and standard deviations
    over the images.
    """
    rows = []
    for kind, sweep in found.items():
        for t, amount in enumerate(sweep.amounts.tolist()):
            columns = {
                name: getattr(sweep, name)[:, t] for name in ("layer1", "layer7", "probability")
            }
            rows.append(
                {
                    "transformation": kind,
                    "amount": round(amount, 4),
                    "images": len(sweep.targets),
                    **{
                        f"{name}_{measure}": "" if value.isnan() else round(value.item(), 4)
                        for name, values in columns.items()
                        for measure, value in (("mean", values.mean()), ("std", values.std()))
                    },
                }
            )
    return rows
