"""How strongly each feature map fires over the whole data set, in one pass and a few numbers per
map.
"""

from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from zfnet.data.images import Images, batches
from zfnet.graph.trace import trace
from zfnet.graph.walk import walk
from zfnet.methods.top_activations import TopActivations
from zfnet.store import artefacts, keys, provenance
from zfnet.store.profiles import Profile

BINS = 32


@dataclass(frozen=True)
class Range:
    """For each map of a layer: `low` and `high`, float (C,), over all units of all images; `fires`
    int64 (C,), in how many images it is above zero at all; `histogram` int64 (C, BINS) of its
    strongest activation in each image, in equal bins from 0 to the strongest of all.
    """

    low: torch.Tensor
    high: torch.Tensor
    fires: torch.Tensor
    histogram: torch.Tensor


@torch.no_grad()
def ranges(
    model: nn.Module,
    images: Images,
    top: dict[str, TopActivations],
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, Range]:
    """The range of every map of the layers in `top`, the scan of the same images, which knows the
    upper ends.
    """
    graph = trace(model)
    weight, names = graph.weight, {graph.number(layer): layer for layer in top}
    ends = {layer: found.value[:, 0].to(weight.device) for layer, found in top.items()}
    low = {layer: torch.full_like(end, float("inf")) for layer, end in ends.items()}
    fires = {layer: torch.zeros_like(end, dtype=torch.long) for layer, end in ends.items()}
    counts = {
        layer: torch.zeros(len(end), BINS, dtype=torch.long, device=end.device)
        for layer, end in ends.items()
    }
    bar = tqdm(
        total=len(images),
        desc="activation ranges",
        unit="image",
        leave=False,
        disable=None if progress else True,
    )
    for indices, inputs in batches(images, batch_size, weight.device):
        x = inputs.to(weight).contiguous(memory_format=torch.channels_last)
        for number, maps in walk(graph, x, names):
            name, best = names[number], maps.amax((2, 3)).T
            low[name] = torch.minimum(low[name], maps.amin((0, 2, 3)))
            fires[name] += (best > 0).sum(1)
            place = (best / ends[name].clamp_min(1e-30)[:, None] * BINS).long().clamp(0, BINS - 1)
            counts[name].scatter_add_(1, place, torch.ones_like(place))
        bar.update(len(indices))
    bar.close()
    return {
        layer: Range(low[layer].cpu(), ends[layer].cpu(), fires[layer].cpu(), counts[layer].cpu())
        for layer in top
    }


def measured_ranges(
    profile: Profile, model: nn.Module, images: Images, top: dict[str, TopActivations]
) -> dict[str, Range]:
    """The ranges of the profile's maps, kept in `runs/<profile>/ranges.safetensors`: measured now,
    in one pass over the images, where they are not there.
    """
    weights, code = keys.tensors_hash(model.state_dict()), keys.code_key(ranges)
    key = keys.key_of(weights, images.fingerprint, list(top), code)

    def build():
        found = ranges(model, images, top, progress=True)
        return {
            f"{layer}/{name}": tensor
            for layer, one in found.items()
            for name, tensor in vars(one).items()
        }, provenance.record(profile, n=len(images))

    tensors, _ = artefacts.artefact(profile.runs / "ranges.safetensors", key, build)
    return {
        layer: Range(
            *(tensors[f"{layer}/{name}"] for name in ("low", "high", "fires", "histogram"))
        )
        for layer in top
    }
