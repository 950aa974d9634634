"""How features evolve during training (paper, section 4 and Fig. 4), from the snapshots that
training leaves.

    history = snapshots(profile, model, classes=10)
    found = evolve(profile, history, data)          # runs/<profile>/evolution.safetensors
    found.layers[5].image                           # (S, channels): each map's strongest training
    image at each snapshot

At every snapshot one pass over training images finds each map's strongest activation: the cells of
Fig. 4. How far a layer still is from what it becomes is measured in three ways, each for every map
against the last snapshot: *responses*, Pearson's correlation of the map's rectified values over
images and positions; *projections*, the cosine between the projections of one and the same unit and
image (the last snapshot's strongest), so that a change of source image does not count; and whether
the *source image* is already the last one.
"""

import copy
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from zfnet.data.images import Data, Images
from zfnet.graph import trace, walk
from zfnet.methods import deconv, top_activations
from zfnet.models.build import build_model
from zfnet.store import artefacts, errors, keys, profiles, provenance


@dataclass(frozen=True)
class Snapshot:
    """The net after `part`/64 of the training, `epochs` epochs; part 0: the untrained net. A head
    of which training leaves no snapshots is that of the end.
    """

    part: int
    epochs: float
    net: nn.Module


@dataclass(frozen=True)
class LayerEvolution:
    """One layer over S snapshots, each table (S, channels) on the CPU.

    value, image (index in the training images), row, col: the strongest activation. responses,
    -1..1: correlation with the last snapshot; NaN for a map that is constant there, 0 for one that
    is constant only at this snapshot. `maps` (M,): the channels of `projections` (S, M), a cosine
    in -1..1.
    """

    name: str
    value: torch.Tensor
    image: torch.Tensor
    row: torch.Tensor
    col: torch.Tensor
    responses: torch.Tensor
    maps: torch.Tensor
    projections: torch.Tensor

    def top(self, snapshot: int) -> top_activations.TopActivations:
        """The strongest activations at one snapshot, tables (channels, 1)."""
        return top_activations.TopActivations(
            *(table[snapshot, :, None] for table in (self.value, self.image, self.row, self.col))
        )

    @property
    def same_source(self) -> torch.Tensor:
        """Share of the maps that fire at the last snapshot whose source image is already the last
        one's: (S,) in 0..1.
        """
        same = (self.image == self.image[-1]) & (self.value > 0)
        return same[:, self.value[-1] > 0].double().mean(1)

    @property
    def curves(self) -> dict[str, torch.Tensor]:
        """The three measures as means over maps, each (S,): responses (of maps that are not
        constant at the last snapshot), projections, source image.
        """
        return {
            "responses": self.responses.nanmean(1),
            "projections": self.projections.mean(1),
            "source image": self.same_source,
        }


@dataclass(frozen=True)
class Evolution:
    """parts and epochs (S,) of the snapshots, part 0 first; layers by the paper's number; how many
    images each measure used.
    """

    parts: torch.Tensor
    epochs: torch.Tensor
    layers: dict[int, LayerEvolution]
    searched: int
    probes: int


def snapshots(profile: profiles.Profile, model: nn.Module, classes: int) -> list[Snapshot]:
    """The untrained net and the snapshots of its training, in order, on the model's device;
    `classes`: how many the net was trained on.

    Raises ValueError for a profile that trains nothing or leaves no snapshots, or whose snapshots
    are of another training than its weights, and FileNotFoundError where they are missing, each
    with the cure.
    """
    errors.require(
        profile.training is not None and not profile.model.weights,
        f"profile {profile.name!r} trains nothing, so its features have no history: choose a"
        " profile with a `training:` section and without `weights:`, such as demo",
    )
    errors.require(
        profile.training.snapshots,
        f"profile {profile.name!r} leaves no snapshots: add `snapshots: [1, 2, 5, 10, 20, 30,"
        " 40, 64]` to its `training:` section",
    )
    untrained = build_model(profile, classes).to(next(model.parameters()).device)
    found = [Snapshot(0, 0.0, untrained)]
    weights = profile.weights_file
    key = artefacts.read_meta(weights).get("key") if weights.is_file() else None
    for part in sorted(profile.training.snapshots):
        path = profile.snapshot_file(part)
        errors.require(
            key is not None and path.is_file(),
            f"no snapshot {part}/64 of the training, {weights if key is None else path} is"
            f" missing: run `make train PROFILE={profile.name}`",
            kind=FileNotFoundError,
        )
        tensors, meta = artefacts.load_tensors(path)
        errors.require(
            meta.get("key") == key,
            f"{path} comes from another training than {weights}: run `make train"
            f" PROFILE={profile.name}`",
        )
        found.append(Snapshot(part, meta["epochs"], _with(model, tensors)))
    return found


def _with(model: nn.Module, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """A copy of the model with these weights, of all its parts or of `features` alone; it shares
    the others.
    """
    own = model.state_dict(keep_vars=True)
    if not tensors.keys() <= own.keys():
        tensors = {f"features.{name}": tensor for name, tensor in tensors.items()}
    net = copy.deepcopy(model, {id(t): t for name, t in own.items() if name not in tensors})
    net.load_state_dict(net.state_dict() | tensors)
    return net


@torch.no_grad()
def response_similarity(
    stacks: list[nn.Module], layers: list[str], images: Images, batch_size: int = 20
) -> dict[str, torch.Tensor]:
    """Pearson's correlation of every map's values with the same map's in the last stack, over all
    images and positions: {layer: (S, channels)}.

    NaN where the map is constant in the last stack; 0 where it is constant in this one only. Sums
    are kept in float64, batch by batch.
    """
    sums = {layer: None for layer in layers}
    for indices in torch.arange(len(images)).split(batch_size):
        inputs = images.batch(indices)
        last = _maps(stacks[-1], layers, inputs)
        for s, stack in enumerate(stacks):
            own = last if stack is stacks[-1] else _maps(stack, layers, inputs)
            for layer, y in last.items():
                x, y = own[layer].double(), y.double()
                if sums[layer] is None:
                    sums[layer] = torch.zeros(len(stacks), 6, len(x), dtype=torch.float64)
                sums[layer][s, :5] += torch.stack(
                    [x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)]
                ).cpu()
                sums[layer][s, 5] += x.shape[1]
    result = {}
    for layer, table in sums.items():
        sx, sy, sxx, syy, sxy, n = table.unbind(1)
        own, other = (sxx - sx * sx / n).clamp_min(0), (syy - sy * sy / n).clamp_min(0)
        flat, flat_last = own <= 1e-12 * sxx, other <= 1e-12 * syy
        r = (sxy - sx * sy / n) / (own * other).sqrt()
        result[layer] = torch.where(flat_last, torch.nan, torch.where(flat, 0.0, r).clamp(-1, 1))
    return result


def _maps(stack: nn.Module, layers: list[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The maps of each layer, (channels, images x positions), from one forward pass."""
    found = walk.outputs(stack, x, layers).items()
    return {layer: maps.transpose(0, 1).flatten(1) for layer, maps in found}


def projection_similarity(
    stacks: list[nn.Module],
    layer: str,
    inputs: torch.Tensor,
    channel: torch.Tensor,
    position: torch.Tensor,
    batch_size: int = 32,
) -> torch.Tensor:
    """Cosine between the projections of the same units by each stack and by the last one: (S, N) in
    -1..1, 0 where a unit does not fire.

    inputs (N, 3, H, W), channel (N,) and position (N, 2) as for `Deconvnet.project`.
    """
    parts = []
    for chosen in torch.arange(len(inputs)).split(batch_size):
        units = inputs[chosen], layer, channel[chosen], position[chosen]
        found = [deconv.Deconvnet(stack).project(*units).flatten(1).double() for stack in stacks]
        parts.append(
            torch.stack(
                [torch.cosine_similarity(own, found[-1], dim=1, eps=1e-30) for own in found]
            ).cpu()
        )
    return torch.cat(parts, 1)


def settled(epochs: torch.Tensor, curve: torch.Tensor, level: float = 0.9) -> float:
    """The epoch from which on a curve stays at `level` or above, interpolated linearly between
    snapshots; NaN if its end lies below.

    Both (S,), epochs ascending. ValueError for other shapes.
    """
    errors.require(
        epochs.shape == curve.shape and epochs.ndim == 1,
        f"epochs {tuple(epochs.shape)} and curve {tuple(curve.shape)}: expected two series of"
        " one length",
    )
    below = [i for i, value in enumerate(curve.tolist()) if not value >= level]
    if not below or below[-1] == len(curve) - 1:
        return float("nan") if below else float(epochs[0])
    i = below[-1]
    share = (level - curve[i]) / (curve[i + 1] - curve[i])
    return float(epochs[i] + share * (epochs[i + 1] - epochs[i]))


def jumps(cells: list[list[np.ndarray]], images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How alike neighbouring cells of Fig. 4 are: their correlations over pixels, where the source
    image stayed, and where it changed.

    cells: for each of M maps one picture (h, w, 3) per snapshot, all of one size; images (S, M):
    their source images. Pairs with a constant cell are left out.
    """
    found: tuple[list[float], list[float]] = [], []
    for row, sources in zip(cells, images.T.tolist(), strict=True):
        for (old, new), (before, after) in zip(pairwise(row), pairwise(sources), strict=True):
            if min(np.ptp(old), np.ptp(new)) > 0:
                found[before != after].append(np.corrcoef(old.ravel(), new.ravel())[0, 1])
    return torch.tensor(found[0], dtype=torch.float64), torch.tensor(found[1], dtype=torch.float64)


def evolve(profile: profiles.Profile, history: list[Snapshot], data: Data) -> Evolution:
    """What became of the features, found in `runs/<profile>/evolution.safetensors` or made now;
    numbers of images and maps as in `evolution:`.
    """
    config, layers = profile.evolution, trace.paper_layers(history[-1].net)
    stacks, names = [snapshot.net for snapshot in history], list(layers.values())
    weights = [keys.tensors_hash(stack.state_dict()) for stack in stacks]
    images = data.train.fingerprint, data.val.fingerprint
    key = keys.key_of(weights, layers, images, config, profile.seed, keys.code_key(evolve))
    searched = _subset(data.train, config.images, profile.seed)
    probes = _subset(data.val, config.probes, profile.seed)

    def build():
        images, tensors = data.train.subset(searched), {}
        tops = [top_activations.scan(stack, images, names, k=1, progress=True) for stack in stacks]
        responses = response_similarity(stacks, names, data.val.subset(probes))
        for name in names:
            value, image, row, col = (
                torch.stack([getattr(top[name], part)[:, 0] for top in tops])
                for part in ("value", "image", "row", "col")
            )
            alive = (value[-1] > 0).nonzero().flatten()
            maps = alive[_subset(alive, config.maps, profile.seed)]
            position, inputs = torch.stack([row[-1], col[-1]], 1)[maps], image[-1, maps]
            tables = {
                "value": value,
                "image": searched[image],
                "row": row,
                "col": col,
                "responses": responses[name],
                "maps": maps,
                "projections": projection_similarity(
                    stacks, name, images.batch(inputs), maps, position
                ),
            }
            tensors |= {f"{name}/{part}": table.contiguous() for part, table in tables.items()}
        return tensors, provenance.record(profile, n=len(searched))

    tensors, _ = artefacts.artefact(profile.runs / "evolution.safetensors", key, build)
    tables = {name: {"name": name} for name in names}
    for key, tensor in tensors.items():
        name, part = key.split("/")
        tables[name][part] = tensor
    return Evolution(
        torch.tensor([snapshot.part for snapshot in history]),
        torch.tensor([snapshot.epochs for snapshot in history], dtype=torch.float64),
        {n: LayerEvolution(**tables[name]) for n, name in layers.items()},
        len(searched),
        len(probes),
    )


def _subset(items, count: int | None, seed: int) -> torch.Tensor:
    """A seeded random subset of the indices of `items`, sorted; all of them for None."""
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


def evolution_rows(found: Evolution) -> list[dict[str, object]]:
    """The table of the curves: one row per layer and snapshot, means and standard deviations over
    its maps.
    """
    rows = []
    for number, layer in found.layers.items():
        alive, curves = ~layer.responses[-1].isnan(), layer.curves
        for s, part in enumerate(found.parts.tolist()):
            rows.append(
                {
                    "layer": number,
                    "part_of_64": part,
                    "epochs": round(found.epochs[s].item(), 3),
                    "maps": int(alive.sum()),
                    "responses_mean": round(curves["responses"][s].item(), 4),
                    "responses_std": round(layer.responses[s, alive].std().item(), 4),
                    "maps_projected": len(layer.maps),
                    "projections_mean": round(curves["projections"][s].item(), 4),
                    "projections_std": round(layer.projections[s].std().item(), 4),
                    "same_source_image": round(curves["source image"][s].item(), 4),
                    "source_images": len(layer.image[s].unique()),
                    "strongest_activation_median": round(layer.value[s].median().item(), 4),
                }
            )
    return rows
