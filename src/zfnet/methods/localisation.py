"""How well pictures point at the object, where its mask is known (the built-in shapes): numbers
beside chance.

`energy_share` measures a projection; `minimum_inside` an occlusion map. Chance is what a random
unit's projection, or a random position of the square, would give.
"""

import torch
from torch import nn

from zfnet.data.images import Images
from zfnet.methods.deconv import Deconvnet
from zfnet.methods.occlusion import Occlusion, occlude


def class_share(chosen: torch.Tensor, labels: torch.Tensor, draws: int = 2000) -> dict[str, float]:
    """The share of the most frequent class among the n images `chosen` for each map (maps, n),
    0..1, and among n images drawn at random from all, which have `labels` (N,).
    """
    generator, n = torch.Generator().manual_seed(0), chosen.shape[1]
    random = torch.stack(
        [torch.randperm(len(labels), generator=generator)[:n] for _ in range(draws)]
    )

    def share(index: torch.Tensor) -> float:
        found = labels[index]
        return (found == found.mode(1).values[:, None]).double().mean().item()

    return {
        "a map's nine" if n == 9 else f"a map's {n}": share(chosen),
        f"{'nine' if n == 9 else n} at random": share(random),
    }


def five_of_a_class(chosen: torch.Tensor, labels: torch.Tensor, least: int = 5) -> float:
    """The share of the maps among whose images `chosen` (maps, n) at least five are of one class,
    0..1; `labels` (N,) of all images.
    """
    found = labels[chosen]
    most = (found == found.mode(1).values[:, None]).sum(1)
    return (most >= least).double().mean().item()


def energy_share(projections: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Share of the squared projection (N, 3, H, W) that lies inside the masks (N, H, W): (N,) in
    0..1, NaN where a projection is all zero.
    """
    energy = projections.square().sum(1)
    return (energy * masks.to(energy.device)).sum((1, 2)) / energy.sum((1, 2))


def centre_inside(occlusion: Occlusion, mask: torch.Tensor) -> torch.Tensor:
    """Whether the square's centre lies inside the object's mask (H, W), at every grid position:
    bool (R, C).
    """
    rows, cols = (starts + occlusion.size // 2 for starts in (occlusion.tops, occlusion.lefts))
    return mask[rows][:, cols]


def minimum_inside(occlusion: Occlusion, mask: torch.Tensor) -> tuple[bool, float]:
    """Whether the probability's minimum lies inside the mask, and the share of all positions that
    do: (hit, chance).
    """
    inside = centre_inside(occlusion, mask)
    return bool(inside.flatten()[occlusion.probability.argmin()]), inside.double().mean().item()


@torch.no_grad()
def projection_localisation(
    model: nn.Module, images: Images, indices: torch.Tensor, layer: str, seed: int = 0
) -> dict[str, float]:
    """Mean energy share inside the mask of each image's strongest unit of `layer`, of a random
    active unit, and the mask's share of the image.

    Images in which no unit of the layer fires do not count towards the first two.
    """
    deconvnet, generator = Deconvnet(model), torch.Generator().manual_seed(seed)
    inputs, masks = images.batch(indices), images.mask(indices)
    maps = deconvnet.activations(inputs, layer)
    shares = {}
    flat = maps.flatten(1)
    fires = flat > 0
    fires |= ~fires.any(1, keepdim=True)
    random_unit = torch.multinomial(fires.double().cpu(), 1, generator=generator)[:, 0].to(
        flat.device
    )
    for name, unit in {"strongest unit": flat.argmax(1), "random active unit": random_unit}.items():
        per_map = maps.shape[2] * maps.shape[3]
        position = torch.stack([unit % per_map // maps.shape[3], unit % maps.shape[3]], 1)
        shares[name] = (
            energy_share(deconvnet.project(inputs, layer, unit // per_map, position), masks)
            .nanmean()
            .item()
        )
    return {**shares, "mask's share of the image": masks.double().mean().item()}


def occlusion_localisation(
    model: nn.Module, images: Images, indices: torch.Tensor, size: int, stride: int
) -> dict[str, float]:
    """Share of the images whose occlusion minimum lies inside the object's mask, and what a random
    position would give.
    """
    hits, chances = [], []
    for index in indices.tolist():
        found = occlude(model, images.batch([index])[0], int(images.labels[index]), size, stride)
        hit, chance = minimum_inside(found, images.mask([index])[0])
        hits.append(hit)
        chances.append(chance)
    return {
        "minimum inside the mask": sum(hits) / len(hits),
        "random position": sum(chances) / len(chances),
    }
