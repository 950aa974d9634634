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

import contextlib
import copy
import warnings
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from scipy.stats import ConstantInputWarning, spearmanr
from skimage.filters import sobel
from skimage.metrics import structural_similarity
from torch import nn
from torch.overrides import TorchFunctionMode

from zfnet.data.images import Images
from zfnet.experiments.transposed_convolution.compute import RuledReLU
from zfnet.graph import trace, walk, windows
from zfnet.methods import deconv, localisation, top_activations
from zfnet.models.build import build_model
from zfnet.plots.contrast import drawn
from zfnet.store import artefacts, errors, keys, profiles, provenance

MEASURES = ("spearman", "ssim", "edges", "energy inside")
CONTROLS = ("another map", "another image")


def spearman(a: torch.Tensor, b: torch.Tensor) -> float:
    """Spearman's rank correlation of two tensors of one size, ties at their average rank; NaN where
    one is constant.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic)


def as_drawn(picture: torch.Tensor) -> np.ndarray:
    """A picture (3, h, w) as the figures draw it on a scale of its own, in 0..1: zero is 0.5."""
    return drawn(picture).transpose(2, 0, 1)


def same_place(a: torch.Tensor, b: torch.Tensor, box: tuple[int, int, int, int]) -> float:
    """The rank correlation of the absolute values, summed over colours, of two pictures (3, H, W)
    inside a box.
    """
    top, left, bottom, right = box
    return spearman(*(picture[:, top:bottom, left:right].abs().sum(0) for picture in (a, b)))


def similarity(
    a: torch.Tensor, b: torch.Tensor, box: tuple[int, int, int, int]
) -> tuple[float, float]:
    """How alike two pictures (3, H, W) are inside the unit's receptive field (top, left, bottom,
    right): (Spearman, SSIM), each at most 1.

    Spearman: the rank correlation of the pixels' absolute values, summed over colours (where is
    it?). SSIM: the structural similarity of the pictures as they are drawn, mid-grey for zero, in
    windows of 7 pixels (does it look the same?).
    """
    top, left, bottom, right = box
    first, second = (picture[:, top:bottom, left:right] for picture in (a, b))
    side = min(first.shape[1:])
    return same_place(a, b, box), float(
        structural_similarity(
            as_drawn(first),
            as_drawn(second),
            win_size=min(7, side - 1 + side % 2),
            channel_axis=0,
            data_range=1.0,
        )
    )


def edges(inputs: torch.Tensor) -> torch.Tensor:
    """The edges of images (N, 3, H, W): the length of Sobel's gradient of each colour, on the CPU;
    no net has a part in them.
    """
    return torch.from_numpy(
        np.stack([sobel(plane) for plane in inputs.double().flatten(0, 1).cpu().numpy()])
    ).view(inputs.shape)


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


def cascade(model: nn.Module, layer: str) -> dict[str, list[str]]:
    """Which modules lose their weights at each level of the cascade down from `layer`: {"5":
    ["conv5"], "5-4": ["conv5", "conv4"], …}, named as layers are.

    One level per layer of the paper, so that a block of VGG goes at once. ValueError unless `layer`
    is one of `paper_layers`.
    """
    graph = trace.trace(model)
    numbers = {name: number for number, name in trace.paper_layers(graph).items()}
    errors.require(layer in numbers, f"layer = {layer!r}: choose one of {', '.join(numbers)}")
    blocks, names = {}, []
    for node in (graph.nodes[n] for n in graph.above(graph.number(layer))):
        names += [node.name] if node.module is not None and node.module.state_dict() else []
        if node.name in numbers:
            blocks[numbers[node.name]], names = names, []
    levels, lost = {}, []
    for number in sorted(blocks, reverse=True):
        lost = lost + blocks[number][::-1]
        levels[f"{numbers[layer]}-{number}" if levels else f"{number}"] = lost
    return levels


def randomised(model: nn.Module, fresh: nn.Module, names: list[str]) -> nn.Module:
    """A copy of `model` whose layers `names` have the weights of `fresh`, an untrained net of the
    same kind.
    """
    net, new = copied(model, names), trace.trace(fresh)
    own = trace.trace(net)
    for name in names:
        state = new.nodes[new.number(name)].module.state_dict()
        own.nodes[own.number(name)].module.load_state_dict(state)
    return net


def copied(model: nn.Module, names: list[str]) -> nn.Module:
    """A copy of `model` with weights of its own in the layers `names`; all others are shared."""
    graph = trace.trace(model)
    modules = [graph.nodes[graph.number(name)].module for name in names]
    own = {id(t) for one in modules for t in one.state_dict(keep_vars=True).values()}
    shared = [t for t in model.state_dict(keep_vars=True).values() if id(t) not in own]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def before_rectifying(graph: trace.Graph, layer: str) -> tuple[list[str], list[str]]:
    """What a layer's ReLUs read, side by side the maps before rectification, and of each the
    convolution or batch norm whose bias raises them: the last on one of the branches of a sum.

    UserError for a layer that is not put together from ReLUs behind such modules.
    """
    read, biased, waiting = [], [], [graph.number(layer)]
    while waiting:
        node = graph.nodes[waiting.pop(0)]
        if node.kind == "cat":
            waiting = [*node.inputs, *waiting]
            continue
        below = graph.nodes[node.inputs[0]] if node.kind == "relu" else node
        terms = [below, *(graph.nodes[n] for n in below.inputs if below.kind == "sum")]
        ends = [term.name for term in terms if term.kind in ("conv", "norm")]
        errors.require(
            node.kind == "relu" and ends,
            f"layer = {layer!r}: choose a ReLU right behind a convolution, a batch norm or a sum"
            f" that ends in one, such as {', '.join(trace.paper_layers(graph).values())}",
        )
        read.append(below.name)
        biased.append(ends[0])
    return read, biased


@torch.no_grad()
def pictures(
    model: nn.Module,
    inputs: torch.Tensor,
    layer: str,
    channel: torch.Tensor,
    position: torch.Tensor,
    rule: str,
) -> torch.Tensor:
    """The chosen unit of each image projected, also where it is silent: (N, 3, H, W) on the CPU,
    each in a positive unit of its own.

    `layer` must be a ReLU right behind a convolution, a batch norm or a sum that ends in one, or a
    concatenation of such (ValueError): in a copy the biases are raised until all chosen units fire.
    """
    read, biased = before_rectifying(trace.trace(model), layer)
    net = copied(model, biased)
    graph = trace.trace(net)
    last = [graph.nodes[graph.number(name)].module for name in biased]
    for module in last:
        if isinstance(module, nn.BatchNorm2d) and module.weight is None:
            module.weight = nn.Parameter(torch.ones_like(module.running_mean))
        if module.bias is None:
            module.bias = nn.Parameter(module.weight.new_zeros(len(module.weight)))
    deconvnet, found = deconv.Deconvnet(net), []
    for part, c, unit in zip(inputs.split(32), channel.split(32), position.split(32), strict=True):
        maps = torch.cat(list(walk.outputs(graph, part, read).values()), 1)
        lowest = maps[torch.arange(len(part)), c, *unit.T].min()
        for module in last:
            module.bias += (1 - lowest).clamp_min(0)
        found.append(deconvnet.project(part, layer, c, unit, rule=rule).cpu())
    return torch.cat(found)


def sanity(
    model: nn.Module,
    untrained: list[nn.Module],
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
    errors.require(
        len(indices) >= 2 and len(untrained),
        f"{len(indices)} images and {len(untrained)} untrained nets: give at least two images"
        " and one net",
    )
    inputs, masks = images.batch(indices), None if images.masks is None else images.mask(indices)
    sketches = edges(inputs)
    channel, position = top_activations.strongest_units(model, inputs, layer)
    steps = cascade(model, layer)
    levels = ("trained", *steps, *CONTROLS)
    field = windows.receptive_field(model, layer, tuple(inputs.shape[-2:]))
    boxes = [field.box(*unit) for unit in position.tolist()]
    maps = int(deconv.Deconvnet(model).activations(inputs[:1], layer).shape[1])
    generator = torch.Generator().manual_seed(seed)
    values = {
        measure: torch.full(
            (len(levels), len(untrained), len(deconv.RULES), len(indices)), float("nan")
        )
        for measure in MEASURES
    }
    originals = [pictures(model, inputs, layer, channel, position, rule) for rule in deconv.RULES]
    for draw, fresh in enumerate(untrained):
        step = torch.randint(1, maps, channel.shape, generator=generator) if maps > 1 else 0
        swapped = {"another map": (inputs, (channel + step) % maps)}
        swapped["another image"] = inputs.roll(1 + draw % (len(indices) - 1), 0), channel
        for level, name in enumerate(levels):
            if name == "trained" and draw:  # the same for every draw
                for numbers in values.values():
                    numbers[level, draw] = numbers[level, 0]
                continue
            net = randomised(model, fresh.to(inputs.device), steps.get(name, []))
            source, chosen = swapped.get(name, (inputs, channel))
            for r, rule in enumerate(deconv.RULES):
                found, at = originals[r], (level, draw, r)
                if name != "trained":
                    found = pictures(net, source, layer, chosen, position, rule)
                values["spearman"][at], values["ssim"][at] = torch.tensor(
                    list(map(similarity, originals[r], found, boxes))
                ).T
                values["edges"][at] = torch.tensor(list(map(same_place, found, sketches, boxes)))
                if masks is not None:
                    values["energy inside"][at] = localisation.energy_share(found, masks)
    chance, outlines = (torch.full((len(indices),), float("nan")) for _ in range(2))
    if masks is not None:
        chance, outlines = masks.double().mean((1, 2)), localisation.energy_share(sketches, masks)
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
    weights, code = keys.tensors_hash(model.state_dict()), keys.code_key(sanity)
    plain = [field.name for field in fields(Sanity)][2:]
    key = keys.key_of(
        weights,
        (images.fingerprint, indices.tolist()),
        layer,
        draws,
        profile.seed,
        profile.model,
        code,
    )

    def build():
        found = sanity(
            model,
            untrained_nets(profile, len(images.classes), draws),
            images,
            indices,
            layer,
            profile.seed,
        )
        tensors = {**found.values, **{name: getattr(found, name) for name in plain}}
        return tensors, provenance.record(
            profile,
            next(model.parameters()).device,
            n=len(indices),
            draws=draws,
            levels=found.levels,
        )

    tensors, meta = artefacts.artefact(profile.runs / "sanity.safetensors", key, build)
    return Sanity(
        tuple(meta["levels"]),
        {name: tensors[name] for name in MEASURES},
        *(tensors[name] for name in plain),
    )


class Deconvolving(TorchFunctionMode):
    """Inside it every ReLU, however it is called, rectifies the signal on its way back."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("relu", "relu_"):
            return RuledReLU.apply(args[0], "deconvnet")
        return function(*args, **(kwargs or {}))


def beside_captum(model: nn.Module, image: torch.Tensor, output: int) -> dict[str, float]:
    """How far projections of one output of a net, of an image (1, 3, H, W), are from autograd with
    the ReLUs' rule changed: relative L2 errors of ours and, where captum is installed, of its
    `Deconvolution`; and how far captum's is from the plain gradient.

    captum looks for nn.ReLU modules. Where a net calls functions it gives the plain gradient.
    """
    image = image.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(image)[0, output], image)
    with Deconvolving():
        (expected,) = torch.autograd.grad(model(image)[0, output], image)

    def error(found: torch.Tensor, of: torch.Tensor) -> float:
        return float((found.detach() - of).norm() / of.norm())

    ours = deconv.Deconvnet(model).project_output(image.detach(), output)
    far = {"here": error(ours, expected)}
    with contextlib.suppress(ImportError), warnings.catch_warnings():
        from captum.attr import Deconvolution

        warnings.simplefilter("ignore")
        theirs = Deconvolution(model).attribute(image, target=output)
        far["captum"] = error(theirs, expected)
        far["captum against the plain gradient"] = error(theirs, gradient)
    return far


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
        errors.require(value in known, f"{name} = {value!r}: choose one of {', '.join(known)}")
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
