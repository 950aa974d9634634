"""Feature maps themselves: what a convolution hands on, what rectification keeps of it, and what
the pool passes up.

    names = stages(model, 1)                                 # ["conv1", "relu1", "pool1"]
    maps = feature_maps(model, images, names)                # {"conv1": (N, C, h, w), …}, in one
    forward pass
    channels = strongest_channels(maps["relu1"][0], 5)       # of the first image

Layers are the paper's (`paper_layers`): the rectified maps of layer n, the convolution before them
and the pools and normalisations behind. Maps that several branches put together begin where they
are put together.
"""

import torch
from torch import nn

from zfnet.data.images import Images, batches
from zfnet.graph import trace, windows
from zfnet.methods.depth import behind
from zfnet.methods.feature_maps import _check_count, feature_maps
from zfnet.store import artefacts, errors, keys, profiles, provenance


def stages(model: nn.Module | trace.Graph, layer: int) -> list[str]:
    """Names of the paper's layer `layer`: its convolution, or the sum of branches, its ReLU, and
    the pools and normalisations behind; maps that are a concatenation begin with that.

    Raises ValueError for a layer that the net does not have.
    """
    graph = trace.trace(model)
    layers = trace.paper_layers(graph)
    errors.require(
        layer in layers, f"no layer {layer!r}: this net has layers {', '.join(map(str, layers))}"
    )
    above, number = [], graph.number(layers[layer])
    while graph.nodes[number].kind in ("relu", "norm", "same"):
        number = graph.nodes[number].inputs[0]
        above.append(number)
    numbers = [*reversed(above), *behind(graph, layers[layer])]
    return [graph.nodes[number].name for number in numbers]


def random_channels(channels: int, count: int, seed: int) -> torch.Tensor:
    """A seeded random subset of 0 … channels - 1, sorted: (count,)."""
    _check_count(count, channels)
    order = torch.randperm(channels, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


def describe(
    model: nn.Module,
    maps: dict[str, torch.Tensor],
    image: int,
    channels: list[int],
    input_size: int,
) -> list[dict[str, object]]:
    """One row per stage and channel of image number `image` in `maps`: map size, smallest and
    largest value, total, where the largest lies and what it sees.

    row and col: first position of the largest value, row by row; top, left, bottom, right: that
    unit's receptive field in pixels, half-open, clipped.
    """
    rows, graph = [], trace.trace(model)
    for name, found in maps.items():
        field = windows.receptive_field(graph, name, input_size)
        for channel in channels:
            values = found[image, channel]
            unit = divmod(int(values.flatten().argmax()), values.shape[1])
            rows.append(
                {
                    "stage": name,
                    "channel": int(channel),
                    "height": values.shape[0],
                    "width": values.shape[1],
                    "smallest": float(values.min()),
                    "largest": float(values.max()),
                    "total": float(values.sum()),
                    **dict(zip(("row", "col"), unit, strict=True)),
                    **dict(zip(("top", "left", "bottom", "right"), field.box(*unit), strict=True)),
                }
            )
    return rows


@torch.no_grad()
def extremes(
    model: nn.Module, dataset, names: list[str], batch_size: int = 64
) -> dict[str, torch.Tensor]:
    """The smallest and the largest value of every channel over a data set of (image, label), in one
    pass: {name: (C, 2)} on the CPU.
    """
    found: dict[str, torch.Tensor] = {}
    for _, images in batches(dataset, batch_size):
        for name, maps in feature_maps(model, images, names).items():
            new = torch.stack([maps.amin((0, 2, 3)), maps.amax((0, 2, 3))], 1)
            both = torch.stack([found.get(name, new), new])
            found[name] = torch.stack([both[..., 0].amin(0), both[..., 1].amax(0)], 1)
    return found


def run_extremes(
    profile: profiles.Profile, model: nn.Module, images: Images, names: list[str]
) -> dict[str, torch.Tensor]:
    """The profile's `extremes`, found in `runs/<profile>/extremes.safetensors` or measured now."""
    tensors, _ = artefacts.artefact(
        profile.runs / "extremes.safetensors",
        keys.key_of(
            keys.tensors_hash(model.state_dict()),
            images.fingerprint,
            list(names),
            keys.code_key(extremes),
        ),
        lambda: (
            extremes(model, images, names),
            provenance.record(profile, n=len(images)),
        ),
    )
    return {name: tensors[name] for name in names}
