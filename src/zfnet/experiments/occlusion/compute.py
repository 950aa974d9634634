"""Which photographs a square that hides a part of them bothers, and how much (section 4.2 and Fig.
7): the drop of the true class's probability, from the clean image to the worst position.

    pool = recognised(profile, model, data.test, profile.occlusion.images, seed)
    found = run_drops(profile, model, data.test, *pool)
    found.chosen()                                   # {"largest": 12, "median": 4, "smallest": 7}

The images of the figure are those of the largest, the median and the smallest drop, so that nobody
picks them.
"""

from dataclasses import dataclass

import torch
from torch import nn

from zfnet.data.images import Images
from zfnet.methods.localisation import centre_inside
from zfnet.methods.occlusion import occlude, positions
from zfnet.models.build import true_outputs
from zfnet.store import artefacts, keys, profiles, provenance
from zfnet.store.errors import require
from zfnet.training.evaluation import evaluate

PIECE = 25  # images an artefact, so that an interruption loses little
SURE = 0.5  # the probability from which on a first guess stands for a class that nobody knows


@dataclass(frozen=True)
class Drops:
    """N images under a square at R x C positions: `index` (N,) in the data set, `targets` (N,) the
    output that is followed, its probability `clean` (N,) and `probability` (N, R, C); `tops` (R,)
    and `lefts` (C,) of the square of `size` pixels.
    """

    index: torch.Tensor
    targets: torch.Tensor
    clean: torch.Tensor
    probability: torch.Tensor
    tops: torch.Tensor
    lefts: torch.Tensor
    size: int

    @property
    def drop(self) -> torch.Tensor:
        """The clean probability less the lowest: (N,)."""
        return self.clean - self.probability.amin((1, 2))

    def chosen(self) -> dict[str, int]:
        """The images, of 0 to N - 1, with the largest, the median (of an even number the lower of
        the two) and the smallest drop; ties: the lower number.
        """
        order = self.drop.argsort(stable=True)
        largest = int(self.drop.argmax())
        return {
            "largest": largest,
            "median": int(order[(len(order) - 1) // 2]),
            "smallest": int(order[0]),
        }

    def inside(self, masks: torch.Tensor) -> dict[str, float]:
        """How often the lowest probability has the square's centre inside the object's mask, bool
        (N, S, S), and how often a random position has.
        """
        inside = torch.stack([centre_inside(self, mask) for mask in masks]).flatten(1)
        lowest = self.probability.flatten(1).argmin(1, keepdim=True)
        return {
            "minimum inside the mask": inside.gather(1, lowest).double().mean().item(),
            "random position": inside.double().mean().item(),
        }


def recognised(
    profile: profiles.Profile, model: nn.Module, images: Images, count: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """The first `count` images, in seeded random order, to which the net gives their class: their
    indices, their outputs, and whether these are the true ones. Where it knows none of their
    classes, those of whose first guess it is sure. UserError where there is not one.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    truth = true_outputs(profile, images.classes, images.labels)
    known = bool((truth >= 0).any())
    order = order[truth[order] >= 0] if known else order
    index, targets = [], []
    for part in order.split(max(count, 10)):
        said = evaluate(model, images.subset(part))
        sure = said.probabilities.amax(1) >= SURE
        right = (said.predictions == truth[part] if known else sure).nonzero().flatten()
        index.append(part[right])
        targets.append(said.predictions[right])
        if sum(map(len, index)) >= count:
            break
    index, targets = torch.cat(index)[:count], torch.cat(targets)[:count]
    require(len(index), f"the net recognises none of {len(order)} images: nothing to occlude")
    return index, targets, known


def run_drops(
    profile: profiles.Profile,
    model: nn.Module,
    images: Images,
    index: torch.Tensor,
    targets: torch.Tensor,
) -> Drops:
    """The profile's square over these images, found in `runs/<profile>/occlusion/` or done now."""
    square = profile.occlusion
    weights, code = keys.tensors_hash(model.state_dict()), keys.code_key(occlude)
    parts = []
    for n, (own, outputs) in enumerate(zip(index.split(PIECE), targets.split(PIECE), strict=True)):
        piece = images.subset(own)
        key = keys.key_of(
            weights, piece.fingerprint, outputs.tolist(), square.size, square.stride, code
        )

        def build(piece=piece, outputs=outputs):
            found = [
                occlude(model, piece.batch([i])[0], target, square.size, square.stride)
                for i, target in enumerate(outputs.tolist())
            ]
            tensors = {
                "probability": torch.stack([one.probability for one in found]).float(),
                "clean": torch.tensor([one.clean_probability for one in found]),
            }
            return tensors, provenance.record(
                profile, next(model.parameters()).device, n=len(piece)
            )

        path = profile.runs / "occlusion" / f"{n:03d}.safetensors"
        parts.append(artefacts.artefact(path, key, build)[0])
    clean, probability = (
        torch.cat([part[name] for part in parts]) for name in ("clean", "probability")
    )
    places = (positions(images.size, square.size, square.stride) for _ in range(2))
    return Drops(index, targets, clean, probability, *places, square.size)
