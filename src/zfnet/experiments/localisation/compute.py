"""Do the pictures lie on the object? Numbers beside chance and beside the centre of the image, for
images whose object's mask is known.

    images = subjects(profile, data)
    targets = choose_targets(model, images, names, profile.localisation.classes)
    found = run_localisation(profile, model, images, targets)
    rows = table(found)          # summary.py

Measured are the energy of a picture (its squares) inside the mask, and the pointing game (Zhang et
al. 2018, "Top-down neural attention by excitation backprop"): does the pixel with the largest
absolute value lie on the mask, or within a tolerance of it? Pictures are the projections of each
layer's strongest unit and of the class score, by the three rules of `Deconvnet`, and by its own of
each layer's strongest map. Occlusion points where the class's probability is lowest: at the centre
of that square.

Photographers put their subject into the middle. A method that knows nothing of the net and points
at the centre of every image is therefore right far more often than chance; what does not beat it
says little of where things are. Its picture is a Gaussian of standard deviation a quarter of the
image's side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.ndimage import distance_transform_edt
from torch import nn
from tqdm.auto import tqdm

from zfnet.data.images import Data, Images
from zfnet.data.masks import read_masked
from zfnet.graph.forward import evaluating
from zfnet.graph.trace import paper_layers
from zfnet.graph.walk import outputs
from zfnet.methods.deconv import RULES, Deconvnet
from zfnet.methods.localisation import energy_share, minimum_inside
from zfnet.methods.occlusion import Occlusion, occlude
from zfnet.methods.probabilities import first_output, probabilities
from zfnet.methods.top_activations import strongest_units
from zfnet.store import artefacts, keys, provenance
from zfnet.store.errors import require
from zfnet.store.profiles import ROOT, Profile

MEASURES = ("energy", "hit", "near")
TOLERANCE = 15  # of 224 pixels: Zhang et al. allow 15 pixels beside the object
WIDTH = 0.25  # standard deviation of the centre's Gaussian, of the image's side
PART = 8  # images in one artefact: what an interruption may cost
CHANCE, CENTRE, SQUARE = "chance", "centre", "chance of a square"


@dataclass(frozen=True)
class Localisation:
    """rows: (start, layer, method) of each picture, then the three baselines; values: {measure:
    (rows, N)} in 0..1, NaN where there is no picture or no such measure; per image (N,):
    `probability` of the target on the clean image, `first`, whether it is the net's first guess,
    and `lowest`, its lowest probability under the square. `tolerance` in pixels.
    """

    rows: tuple[tuple[str, str, str], ...]
    values: dict[str, torch.Tensor]
    probability: torch.Tensor
    lowest: torch.Tensor
    first: torch.Tensor
    tolerance: int


def subjects(profile: Profile, data: Data) -> Images:
    """The images with masks that the profile's section names, normalised as its data are; else its
    test images. UserError where these have no masks.
    """
    section, own = profile.localisation, data.test
    if section.photos is None:
        require(
            own.masks is not None,
            f"profile {profile.name!r} has no images whose object's mask is known",
            "name photographs, masks and classes in its section `localisation:`",
        )
        return own.subset(slice(section.images))
    pixels, masks, names = read_masked(
        ROOT / section.photos, ROOT / section.masks, profile.data.resize
    )
    most = slice(section.images)
    return replace(
        own,
        pixels=pixels[most],
        labels=torch.zeros(len(pixels[most]), dtype=torch.long),
        classes=("",),
        names=names[most],
        masks=masks[most],
        keypoints=None,
        group=None,
    )


def choose_targets(
    model: nn.Module, images: Images, names: Sequence[str], among: Sequence[str]
) -> torch.Tensor:
    """For each image the most probable of the outputs called `among`, of all that are called
    `names`; its own label where none is named: int64 (N,). UserError for an unknown name.
    """
    unknown = [name for name in among if name not in names]
    require(
        not unknown,
        f"no class {', '.join(map(repr, unknown))} among the {len(names)} of this net",
        "choose others in the profile's section `localisation:`",
    )
    if not among:
        return images.labels.clone()
    of = torch.tensor([list(names).index(name) for name in among])
    parts = torch.arange(len(images)).split(PART)
    scores = torch.cat([_scores(model, images.batch(part)) for part in parts])
    return of[scores[:, of].argmax(1)]


@torch.no_grad()
def _scores(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with evaluating(model):
        return first_output(model(inputs.to(next(model.parameters())))).cpu()


def saliency(pictures: torch.Tensor) -> torch.Tensor:
    """How much each pixel counts in pictures (N, 3, H, W): the largest absolute value of its three
    colours, (N, H, W).
    """
    return pictures.abs().amax(1)


def grown(masks: torch.Tensor, tolerance: int) -> torch.Tensor:
    """Masks bool (N, H, W) and every pixel that lies within `tolerance` pixels of one of theirs."""
    return torch.stack(
        [torch.from_numpy(distance_transform_edt(~mask.numpy()) <= tolerance) for mask in masks]
    )


def pointing(pictures: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Whether the first largest value of each picture (N, 3, H, W) lies in its mask (N, H, W): 0 or
    1, NaN for a picture that is zero everywhere, (N,).
    """
    flat = saliency(pictures).flatten(1).cpu()
    hit = masks.flatten(1).gather(1, flat.argmax(1, keepdim=True))[:, 0].double()
    return hit.masked_fill(flat.amax(1) == 0, float("nan"))


def gaussian(side: int, width: float = WIDTH) -> torch.Tensor:
    """The picture (1, 3, side, side) of whoever points at the centre: standard deviation `width` of
    the side.
    """
    away = (torch.arange(side, dtype=torch.float64) - side // 2) / (width * side)
    line = (-away.square() / 2).exp()
    return (line[:, None] * line).expand(1, 3, side, side)


def projections(
    model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor
) -> dict[tuple[str, str, str], torch.Tensor]:
    """All pictures of some images, {(start, layer, method): (N, 3, H, W)}: of each layer's
    strongest unit and of the class score by the three rules, and of each layer's strongest map (by
    its sum) by the deconvnet.
    """
    deconvnet, found, layers = Deconvnet(model), {}, paper_layers(model)
    maps = outputs(model, inputs, layers.values())
    for number, layer in layers.items():
        cols, flat = maps[layer].shape[3], maps[layer].flatten(2)
        unit = flat.flatten(1).argmax(1)
        row_col = torch.stack([unit % flat.shape[2] // cols, unit % cols], 1)
        starts = {"unit": (unit // flat.shape[2], row_col), "map": (flat.sum(2).argmax(1), None)}
        for start, (channel, position) in starts.items():
            for rule in RULES if start == "unit" else RULES[:1]:
                found[start, str(number), rule] = deconvnet.project(
                    inputs, layer, channel, position, rule=rule
                ).cpu()
    for rule in RULES:
        found["class score", "", rule] = deconvnet.project_output(inputs, targets, rule).cpu()
    return found


def localise(
    model: nn.Module, images: Images, targets: torch.Tensor, size: int, stride: int
) -> Localisation:
    """Every measure of every image, whose class `targets` (N,) says; the square's `size` and
    `stride` in pixels. UserError where a mask leaves nothing, or no background, in the image.
    """
    everything = torch.arange(len(images))
    inputs, masks = images.batch(everything), images.mask(everything)
    inside = masks.flatten(1)
    odd = (~inside.any(1) | inside.all(1)).nonzero().flatten().tolist()
    require(
        not odd,
        f"image {images.names[odd[0]] if images.names and odd else odd[:1]}: what the net sees of"
        " it lies wholly on the object or wholly beside it",
        "leave it out",
    )
    side, tolerance = images.size, max(1, round(TOLERANCE * images.size / 224))
    near, none = grown(masks, tolerance), torch.full((len(images),), float("nan")).double()
    values = {
        key: (energy_share(each.double(), masks), pointing(each, masks), pointing(each, near))
        for key, each in projections(model, inputs, targets).items()
    }
    minimum, minimum_near, lowest = [], [], []
    for image, target, mask, wider in zip(inputs, targets.tolist(), masks, near, strict=True):
        occluded = occlude(model, image, target, size, stride)
        minimum.append(minimum_inside(occluded, mask))
        minimum_near.append(minimum_inside(occluded, wider))
        lowest.append(float(occluded.probability.min()))
    (hits, squares), (hits_near, squares_near) = (
        torch.tensor(part, dtype=torch.float64).T for part in (minimum, minimum_near)
    )
    values["class score", "", "occlusion"] = none, hits, hits_near
    values["", "", CHANCE] = *2 * (masks.double().mean((1, 2)),), near.double().mean((1, 2))
    middle = side // 2
    values["", "", CENTRE] = (
        energy_share(gaussian(side).expand(len(images), -1, -1, -1), masks),
        *(part[:, middle, middle].double() for part in (masks, near)),
    )
    values["", "", SQUARE] = none, squares, squares_near
    clean = probabilities(_scores(model, inputs))
    return Localisation(
        tuple(values),
        {
            name: torch.stack(part)
            for name, part in zip(MEASURES, zip(*values.values(), strict=True), strict=True)
        },
        clean[everything, targets],
        torch.tensor(lowest),
        clean.argmax(1) == targets,
        tolerance,
    )


def run_localisation(
    profile: Profile, model: nn.Module, images: Images, targets: torch.Tensor
) -> Localisation:
    """`localise` for all images with the profile's square, eight at a time: found in
    `runs/<profile>/localisation/` or made now, so that a run that was stopped goes on where it was.
    """
    size, stride = square(profile)
    whole = (keys.tensors_hash(model.state_dict()), size, stride, keys.code_key(localise))
    found = []
    parts = list(torch.arange(len(images)).split(PART))
    for n, part in enumerate(tqdm(parts, "localise", disable=None, leave=False)):
        own = images.subset(part)
        key = keys.key_of(
            *whole, own.fingerprint, keys.tensors_hash({"m": own.masks, "t": targets[part]})
        )

        def build(own=own, part=part):
            made = localise(model, own, targets[part], size, stride)
            kept = {name: getattr(made, name) for name in ("probability", "lowest", "first")}
            return {**made.values, **kept}, provenance.record(
                profile, next(model.parameters()).device, rows=made.rows, tolerance=made.tolerance
            )

        path = profile.runs / "localisation" / f"{n:03d}.safetensors"
        tensors, meta = artefacts.artefact(path, key, build)
        found.append(
            Localisation(
                tuple(map(tuple, meta["rows"])),
                {name: tensors[name] for name in MEASURES},
                tensors["probability"],
                tensors["lowest"],
                tensors["first"],
                meta["tolerance"],
            )
        )
    return replace(
        found[0],
        values={name: torch.cat([each.values[name] for each in found], 1) for name in MEASURES},
        **{
            name: torch.cat([getattr(each, name) for each in found])
            for name in ("probability", "lowest", "first")
        },
    )


def square(profile: Profile) -> tuple[int, int]:
    """Size and stride of the square that slides over the images, in pixels of the net's input."""
    section, default = profile.localisation, profile.occlusion
    return section.size or default.size, section.stride or default.stride


def pictured(
    profile: Profile, model: nn.Module, images: Images, targets: torch.Tensor, index: int
) -> tuple[Occlusion, dict[str, torch.Tensor]]:
    """One image's occlusion, and its pictures (3, H, W): of the class score by the three rules, and
    of the top layer's strongest unit by the deconvnet.
    """
    inputs, target = images.batch([index]), targets[index : index + 1]
    deconvnet, (number, layer) = Deconvnet(model), list(paper_layers(model).items())[-1]
    shown = {rule: deconvnet.project_output(inputs, target, rule)[0].cpu() for rule in RULES}
    unit = strongest_units(model, inputs, layer)
    shown[f"layer {number}"] = deconvnet.project(inputs, layer, *unit)[0].cpu()
    return occlude(model, inputs[0], int(target), *square(profile)), shown
