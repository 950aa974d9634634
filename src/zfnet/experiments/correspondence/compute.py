"""Does the net establish correspondence between the parts of objects? (paper, section 4.3 and Table
1)

Mask the same part, say the left eye, in five faces. If the net relates left eyes to each other, its
features change alike in all five: the signs of the changes eps_i = x_i - x~_i (features of the
clean and of the masked image) agree from image to image. Delta is the mean, over pairs of images,
of the Hamming distance between these signs, divided by the number of features; lower is more
consistent. Squares at random places of the object are the control.

The paper does not say how an unchanged feature counts, and after a rectifier many are unchanged:
both zero. `ZEROS` names three ways. Unchanged means a change below `TOLERANCE` of the layer's
largest activation, so that rounding, which differs from device to device, has no sign.
"""

from dataclasses import dataclass

import torch

from zfnet.data.parts import Parts
from zfnet.methods.depth import layer_outputs
from zfnet.store.errors import require

ZEROS = {
    "agree": "0 is a third sign: two unchanged features agree; divided by all features",
    "left out": "features unchanged in both images are left out; 0 against + or - differs",
    "both changed": "only features that changed in both images count; chance is 0.5",
}
TOLERANCE = 1e-5
RANDOM, DIFFERENT = "random", "different parts"
PAPER = {  # Table 1: mean and standard deviation of Delta
    5: {
        "right_eye": (0.067, 0.007),
        "left_eye": (0.069, 0.007),
        "nose": (0.079, 0.017),
        RANDOM: (0.107, 0.017),
    },
    7: {
        "right_eye": (0.069, 0.015),
        "left_eye": (0.068, 0.013),
        "nose": (0.069, 0.011),
        RANDOM: (0.073, 0.014),
    },
}


@dataclass(frozen=True)
class Correspondence:
    """Delta by layer, way to count zeros, masked part and group, and its spread within a group.

    `rows`: the parts, then RANDOM and DIFFERENT. `delta[layer, zeros]` float64 (rows, groups),
    0..1; `spread` the standard deviation over a group's pairs of images; `changed[layer]` (rows,):
    the share of features that the mask changes; `random_boxes` int64 (draws, N, 4).
    """

    rows: tuple[str, ...]
    delta: dict[tuple[int | str, str], torch.Tensor]
    spread: dict[tuple[int | str, str], torch.Tensor]
    changed: dict[int | str, torch.Tensor]
    random_boxes: torch.Tensor

    def deviation(self, layer: int | str, zeros: str) -> torch.Tensor:
        """Standard deviation of each row (rows,): over groups; over the pairs inside it where there
        is but one, as in the paper.
        """
        values, spread = self.delta[layer, zeros], self.spread[layer, zeros]
        return values.std(1, correction=0) if values.shape[1] > 1 else spread[:, 0]


def mask_out(inputs: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Copies of network inputs (N, 3, H, W) with one box each (N, 4) in the mean colour, which is
    0; boxes are clipped at the border.
    """
    covered = inputs.clone()
    for one, (top, left, bottom, right) in zip(covered, boxes.clamp_min(0).tolist(), strict=True):
        one[:, top:bottom, left:right] = 0
    return covered


def random_boxes(
    boxes: torch.Tensor, objects: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """For each image one box (N, 4), inside the image, of the size of one of its parts (N, P, 4),
    its centre uniformly random on the object, bool (N, S, S).

    It may touch a part, as the paper's "random object regions" may. Raises ValueError where an
    image has no such place.
    """
    found = []
    for number, (parts, where) in enumerate(zip(boxes, objects, strict=True)):
        part = parts[torch.randint(len(parts), (1,), generator=generator)[0]].tolist()
        height, width = part[2] - part[0], part[3] - part[1]
        down, across = where.shape[0] - height + 1, where.shape[1] - width + 1
        # top left corners
        places = where[height // 2 : height // 2 + down, width // 2 : width // 2 + across].nonzero()
        require(
            len(places),
            f"image {number}: no box of {height} x {width} pixels has its centre on the object"
            " and fits into the image: make the parts smaller (`correspondence: size:`, or the"
            " boxes file)",
        )
        row, col = places[torch.randint(len(places), (1,), generator=generator)[0]].tolist()
        found.append([row, col, row + height, col + width])
    return torch.tensor(found)


def signs_of_change(clean: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """sign(clean - masked) of features (N, F): -1, 0 or 1 as int8, 0 where the change is at most
    `TOLERANCE` of the largest of `clean`.
    """
    change, least = clean - masked, TOLERANCE * clean.abs().max()
    return torch.where(change.abs() > least, change, 0.0).sign().to(torch.int8)


def disagreement(first: torch.Tensor, second: torch.Tensor, zeros: str = "agree") -> torch.Tensor:
    """Normalised Hamming distance of signs (…, F) in {-1, 0, 1}: (…,) in 0..1, float64, NaN where
    no feature counts.

    `zeros`, one of `ZEROS`: what becomes of features that did not change. ValueError for another
    one.
    """
    require(zeros in ZEROS, f"zeros = {zeros!r}: choose one of {', '.join(map(repr, ZEROS))}")
    differ = first != second
    counts = {
        "agree": torch.ones_like(differ),
        "left out": (first != 0) | (second != 0),
        "both changed": (first != 0) & (second != 0),
    }[zeros]
    return (differ & counts).sum(-1).double() / counts.sum(-1)


def delta(first: torch.Tensor, second: torch.Tensor, zeros: str = "agree") -> tuple[float, float]:
    """Mean and standard deviation of the disagreement over ordered pairs i != j of rows of signs
    (N, F); the paper's Delta has first = second.

    The deviation is over the N (N - 1) / 2 unordered pairs, each the mean of its two orders. Pairs
    in which no feature counts are left out; NaN if all are.
    """
    i, j = torch.triu_indices(len(first), len(first), 1, device=first.device)
    pairs = (
        disagreement(first[i], second[j], zeros) + disagreement(first[j], second[i], zeros)
    ) / 2
    pairs = pairs[~pairs.isnan()]
    return (
        (float(pairs.mean()), float(pairs.std(correction=0))) if len(pairs) else (float("nan"),) * 2
    )


def disjoint_groups(total: int, size: int, count: int, seed: int) -> torch.Tensor:
    """Up to `count` groups of `size` of `total` images, in seeded random order, none in two groups:
    (groups, size). ValueError where there is not even one.
    """
    require(
        total >= size and count >= 1 and size >= 2,
        f"{total} images with all parts do not make {count} group(s) of {size}: Table 1 needs"
        " at least one group of two or more",
    )
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return order[: total // size * size].view(-1, size)[:count]


@torch.no_grad()
def correspond(
    model: torch.nn.Module,
    parts: Parts,
    groups: torch.Tensor,
    layers: tuple[int | str, ...] = (5, 7),
    draws: int = 5,
    seed: int = 0,
) -> Correspondence:
    """Table 1 for each group (groups, n) of the images of `parts`.

    RANDOM is the mean over `draws` of a random box on every image's object. DIFFERENT, beyond the
    paper, compares the change by one part in one image with the change by another part in another,
    over all pairs of parts: the same squares, of the same effect, only not corresponding. Raises
    ValueError for an unknown layer, or where no random box fits.
    """
    inputs = parts.images.batch(range(len(parts)))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack([random_boxes(parts.boxes, parts.objects, generator) for _ in range(draws)])
    clean = _outputs(model, inputs, layers)
    signs = {layer: [] for layer in layers}
    for boxes in (*parts.boxes.unbind(1), *drawn):
        for layer, found in _outputs(model, mask_out(inputs, boxes), layers).items():
            signs[layer].append(signs_of_change(clean[layer], found))
    masks = range(len(parts.names))  # masks 0, 1, … are the parts, then come the random draws
    compared = {name: [(n, n)] for n, name in enumerate(parts.names)}
    compared[RANDOM] = [(n, n) for n in range(len(masks), len(masks) + draws)]
    if len(masks) > 1:
        compared[DIFFERENT] = [(a, b) for a in masks for b in masks if a != b]
    result, spread, changed = {}, {}, {}
    for layer, found in signs.items():
        share = torch.stack([(one != 0).double().mean() for one in found])
        changed[layer] = torch.stack(
            [share[[a for a, _ in pairs]].mean() for pairs in compared.values()]
        )
        for zeros in ZEROS:
            both = [
                [
                    [delta(found[a][group], found[b][group], zeros) for a, b in pairs]
                    for group in groups
                ]
                for pairs in compared.values()
            ]
            both = [torch.tensor(one, dtype=torch.float64).mean(1) for one in both]
            result[layer, zeros], spread[layer, zeros] = torch.stack(both).unbind(-1)
    return Correspondence(tuple(compared), result, spread, changed, drawn)


def _outputs(
    model: torch.nn.Module,
    inputs: torch.Tensor,
    layers: tuple[int | str, ...],
    batch_size: int = 64,
) -> dict[int | str, torch.Tensor]:
    """Flat features (N, F) by layer, on the CPU."""
    found = [layer_outputs(model, part, layers) for part in inputs.split(batch_size)]
    return {layer: torch.cat([one[layer].flatten(1).cpu() for one in found]) for layer in layers}


def table(found: Correspondence) -> list[dict[str, object]]:
    """Rows of the CSV: Delta's mean and `deviation`, the mean deviation over a group's pairs, the
    share of features that change, the paired difference to random with its deviation over groups,
    the share of groups in which it is negative, and the paper's numbers.
    """
    rows, control = [], found.rows.index(RANDOM)
    for (layer, zeros), values in found.delta.items():
        for n, row in enumerate(found.rows):
            gap, paper = values[n] - values[control], PAPER.get(layer, {}).get(row, ("", ""))
            spread, below = gap.std(correction=0), (gap < 0).double().mean()
            rows.append(
                {
                    "layer": layer,
                    "masked": row,
                    "zeros": zeros,
                    "delta": f"{values[n].mean():.4f}",
                    "std": f"{found.deviation(layer, zeros)[n]:.4f}",
                    "std_pairs": f"{found.spread[layer, zeros][n].mean():.4f}",
                    "groups": values.shape[1],
                    "features_changed": f"{found.changed[layer][n]:.3f}",
                    "minus_random": f"{gap.mean():.4f}" if row != RANDOM else "",
                    "std_minus_random": f"{spread:.4f}" if row != RANDOM else "",
                    "groups_below_random": f"{below:.2f}" if row != RANDOM else "",
                    "paper_delta": paper[0],
                    "paper_std": paper[1],
                }
            )
    return rows
