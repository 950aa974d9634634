"""Sanity checks, beyond the paper: do the pictures depend on what the net has learned? (Adebayo et
al. 2018, arXiv 1810.03292)

    found = run_sanity(profile, model, data.test, indices, "relu5")
    rows = table(found)

Three ways down from the same unit (`Deconvnet.project(…, rule=…)`): deconvnet, guided
backpropagation, gradient. Cascading randomisation: the layers are given fresh weights, as the net
had before training, from the top down; the same unit of the same image is projected again and
compared with the picture that the trained net gave. A method that shows what was learned should
change as soon as the unit's own weights are lost.

A unit that falls silent when its weights change would have no picture. Biases never enter the way
down, so the last one is raised until every chosen unit fires: this multiplies its picture by a
positive number and changes nothing else, and every measure here is blind to scale.

No similarity means anything without its controls: pictures of the trained net that another map, or
another image, gave; and the image's own edges, which no net has drawn.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import nn

from zfnet.data.images import Images
from zfnet.experiments.sanity_checks.likeness import edges, same_place, similarity
from zfnet.graph import trace, windows
from zfnet.methods import deconv, localisation, top_activations
from zfnet.models.build import build_model
from zfnet.store import artefacts, errors, keys, profiles, provenance

MEASURES = ("spearman", "ssim", "edges", "energy inside")
CONTROLS = ("another map", "another image")


@dataclass(frozen=True)
class Sanity:
    """levels: "trained", the randomised layers from the top down ("5", "5-4", …), then the
    controls. values: {measure: (levels, draws, rules, images)}, "spearman" and "ssim" against the
    trained net's picture, "edges" the rank correlation with the image's own edges, "energy inside"
    the object's mask (NaN without masks). chance, edges_inside (images,): the mask's share of the
    image, and of the energy of its edges. channel (images,), position (images, 2): the unit of each
    image.
    """

    levels: tuple[str, ...]
    values: dict[str, torch.Tensor]
    chance: torch.Tensor
    edges_inside: torch.Tensor
    channel: torch.Tensor
    position: torch.Tensor


def cascade(features: nn.Sequential, layer: str) -> dict[str, list[str]]:
    """Which modules lose their weights at each level of the cascade down from `layer`: {"5":
    ["conv5"], "5-4": ["conv5", "conv4"], …}.

    One level per layer of the paper, so that a block of VGG goes at once. ValueError unless `layer`
    is one of `paper_layers`.
    """
    numbers = {name: number for number, name in trace.paper_layers(features).items()}
    if layer not in numbers:
        raise errors.UserError(f"layer = {layer!r}: choose one of {', '.join(numbers)}")
    blocks, names, graph = {}, [], trace.trace(features)
    for node in (graph.nodes[n] for n in graph.above(graph.number(layer))):
        names += [node.name] if node.module is not None and node.module.state_dict() else []
        if node.name in numbers:
            blocks[numbers[node.name]], names = names, []
    levels, lost = {}, []
    for number in sorted(blocks, reverse=True):
        lost = lost + blocks[number][::-1]
        levels[f"{numbers[layer]}-{number}" if levels else f"{number}"] = lost
    return levels


def randomised(
    features: nn.Sequential, fresh: nn.Sequential, names: Sequence[str]
) -> nn.Sequential:
    """A copy of `features` whose modules `names` have the weights of `fresh`, an untrained net of
    the same kind.
    """
    net = copy.deepcopy(features)
    for name in names:
        net.get_submodule(name).load_state_dict(fresh.get_submodule(name).state_dict())
    return net


@torch.no_grad()
def pictures(
    features: nn.Sequential,
    inputs: torch.Tensor,
    layer: str,
    channel: torch.Tensor,
    position: torch.Tensor,
    rule: str,
) -> torch.Tensor:
    """The chosen unit of each image projected, also where it is silent: (N, 3, H, W) on the CPU,
    each in a positive unit of its own.

    `layer` must be a ReLU right behind a convolution or a batch norm (ValueError): its bias is
    raised in a copy, until all chosen units fire.
    """
    graph = trace.trace(features)
    node = graph.nodes[graph.number(layer)]
    below = graph.nodes[node.inputs[0]]
    if node.kind != "relu" or below.kind not in ("conv", "norm"):
        raise errors.UserError(
            f"layer = {layer!r}: choose a ReLU right behind a convolution or a batch norm, such as"
            f" {', '.join(trace.paper_layers(features).values())}"
        )
    net = copy.deepcopy(features)
    last = net.get_submodule(below.name)
    if isinstance(last, nn.BatchNorm2d) and last.weight is None:
        last.weight = nn.Parameter(torch.ones_like(last.running_mean))
    if last.bias is None:
        last.bias = nn.Parameter(last.weight.new_zeros(len(last.weight)))
    deconvnet, found = deconv.Deconvnet(net), []
    for part, c, unit in zip(inputs.split(32), channel.split(32), position.split(32), strict=True):
        before = deconvnet.activations(part, below.name)[torch.arange(len(part)), c, *unit.T]
        last.bias += (1 - before.min()).clamp_min(0)
        found.append(deconvnet.project(part, layer, c, unit, rule=rule).cpu())
    return torch.cat(found)


def sanity(
    model: nn.Module,
    untrained: Sequence[nn.Module],
    images: Images,
    indices: torch.Tensor,
    layer: str,
    seed: int = 0,
) -> Sanity:
    """Cascading randomisation of `model`, once with the weights of each net of `untrained`, for the
    strongest unit of `layer` in each image.

    The controls are pictures of the trained net: of a random other map at the same place, and of
    the same unit in another of the images.
    """
    if len(indices) < 2 or not len(untrained):
        raise errors.UserError(
            f"{len(indices)} images and {len(untrained)} untrained nets: give at least two images"
            " and one net"
        )
    inputs, masks = images.batch(indices), None if images.masks is None else images.mask(indices)
    drawn = edges(inputs)
    channel, position = top_activations.strongest_units(model.features, inputs, layer)
    steps = cascade(model.features, layer)
    levels = ("trained", *steps, *CONTROLS)
    field = windows.receptive_field(model.features, layer, tuple(inputs.shape[-2:]))
    boxes = [field.box(*unit) for unit in position.tolist()]
    maps = int(deconv.Deconvnet(model.features).activations(inputs[:1], layer).shape[1])
    generator = torch.Generator().manual_seed(seed)
    values = {
        measure: torch.full(
            (len(levels), len(untrained), len(deconv.RULES), len(indices)), float("nan")
        )
        for measure in MEASURES
    }
    originals = [
        pictures(model.features, inputs, layer, channel, position, rule) for rule in deconv.RULES
    ]
    for draw, fresh in enumerate(untrained):
        step = torch.randint(1, maps, channel.shape, generator=generator) if maps > 1 else 0
        swapped = {"another map": (inputs, (channel + step) % maps)}
        swapped["another image"] = inputs.roll(1 + draw % (len(indices) - 1), 0), channel
        for level, name in enumerate(levels):
            if name == "trained" and draw:  # the same for every draw
                for numbers in values.values():
                    numbers[level, draw] = numbers[level, 0]
                continue
            net = randomised(model.features, fresh.features.to(inputs.device), steps.get(name, []))
            source, chosen = swapped.get(name, (inputs, channel))
            for r, rule in enumerate(deconv.RULES):
                found, at = originals[r], (level, draw, r)
                if name != "trained":
                    found = pictures(net, source, layer, chosen, position, rule)
                pairs = map(similarity, originals[r], found, boxes)
                values["spearman"][at], values["ssim"][at] = torch.tensor(list(pairs)).T
                values["edges"][at] = torch.tensor(list(map(same_place, found, drawn, boxes)))
                if masks is not None:
                    values["energy inside"][at] = localisation.energy_share(found, masks)
    chance, outlines = (torch.full((len(indices),), float("nan")) for _ in range(2))
    if masks is not None:
        chance, outlines = masks.double().mean((1, 2)), localisation.energy_share(drawn, masks)
    return Sanity(levels, values, chance.float(), outlines.float(), channel, position)


def untrained_nets(profile: profiles.Profile, classes: int, draws: int) -> list[nn.Module]:
    """Nets of the profile's kind as they are before training, from other seeds than the trained
    one's.
    """
    return [
        build_model(replace(profile, seed=profile.seed + 1000 + draw), classes)
        for draw in range(draws)
    ]


def run_sanity(
    profile: profiles.Profile,
    model: nn.Module,
    images: Images,
    indices: torch.Tensor,
    layer: str,
    draws: int = 3,
) -> Sanity:
    """The profile's sanity checks with `draws` untrained nets, found in
    `runs/<profile>/sanity.safetensors` or made now.
    """
    weights, code = keys.tensors_hash(model.features.state_dict()), keys.code_key(sanity)
    plain = [field.name for field in fields(Sanity)][2:]
    seen = images.fingerprint, indices.tolist()
    key = keys.key_of(weights, seen, layer, draws, profile.seed, profile.model, code)

    def build():
        untrained = untrained_nets(profile, len(images.classes), draws)
        found = sanity(model, untrained, images, indices, layer, profile.seed)
        tensors = {**found.values, **{name: getattr(found, name) for name in plain}}
        made = {"n": len(indices), "draws": draws, "levels": found.levels}
        return tensors, provenance.record(profile, next(model.parameters()).device, **made)

    tensors, meta = artefacts.artefact(profile.runs / "sanity.safetensors", key, build)
    return Sanity(
        tuple(meta["levels"]),
        {name: tensors[name] for name in MEASURES},
        *(tensors[name] for name in plain),
    )


def difference(
    found: Sanity, measure: str, level: str, other: str
) -> dict[str, tuple[float, float]]:
    """{rule: (mean, half width)} of a measure at one level minus the same image's at another: draws
    averaged, the mean over images, and the half width of its 95 % confidence interval (normal).
    Raises ValueError for an unknown measure or level.
    """
    for name, value, known in (
        ("measure", measure, MEASURES),
        ("level", level, found.levels),
        ("level", other, found.levels),
    ):
        if value not in known:
            raise errors.UserError(f"{name} = {value!r}: choose one of {', '.join(known)}")
    one, two = (
        found.values[measure][found.levels.index(name)].double().mean(0) for name in (level, other)
    )
    return {
        rule: (float(row.mean()), float(1.96 * row.std() / len(row) ** 0.5))
        for rule, row in zip(deconv.RULES, one - two, strict=True)
    }


def table(found: Sanity) -> list[dict[str, object]]:
    """One row per level and rule: mean and standard deviation, over images and draws, of every
    measure; empty where there are no masks.
    """
    rows = []
    for level, name in enumerate(found.levels):
        for r, rule in enumerate(deconv.RULES):
            row = {
                "weights": (
                    "trained" if name in ("trained", *CONTROLS) else f"layers {name} random"
                ),
                "compared with": name if name in CONTROLS else "the same unit",
                "rule": rule,
            }
            for measure in MEASURES:
                part = found.values[measure][level, :, r].double()
                part = part[~part.isnan()]
                row[f"{measure} mean"], row[f"{measure} std"] = (
                    (f"{part.mean():.4f}", f"{part.std():.4f}") if len(part) > 1 else ("", "")
                )
            for column, part in (
                ("mask's share", found.chance),
                ("edges inside", found.edges_inside),
            ):
                row[column] = "" if part.isnan().any() else f"{part.double().mean():.4f}"
            rows.append(
                {**row, "images": found.chance.numel(), "draws": found.values["ssim"].shape[1]}
            )
    return rows
