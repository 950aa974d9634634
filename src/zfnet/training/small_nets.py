"""Nets that an experiment trains beside the profile's own (Tables 3, 4 and 5): on smaller copies of
its images, each resumable and kept like any run.

    small = smaller(data, 64, profile.data.normalise)
    own = variant(profile, "ablation/alexnet-0", small, model=…, training=…, seed=0)
    model = trained_quietly(own, small)     # runs/demo/ablation/alexnet-0/
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from zfnet.data.images import Data, Images, statistics
from zfnet.models.build import load_model
from zfnet.store.distributed import default_device
from zfnet.store.errors import require
from zfnet.store.profiles import ModelConfig, Profile, SmallNetsConfig, TrainingConfig
from zfnet.training.run import train


def checked(data: Data, profile: Profile) -> None:
    """Raises ValueError where there are no validation images, on which the best epoch and the
    softmax's strength are chosen.
    """
    require(
        len(data.val),
        f"profile {profile.name!r} has no validation images, on which this experiment chooses",
        "set `data: validation:` to 0.1, say",
    )


def draw(labels: torch.Tensor, per_class: int, seed: int) -> torch.Tensor:
    """Sorted indices of `per_class` images of every class, drawn without replacement from (seed,
    class): a larger draw holds the smaller one.

    A class with fewer images gives all it has. Raises ValueError when `per_class` is less than 1.
    """
    require(per_class >= 1, f"per_class = {per_class}: draw at least one image of every class")
    chosen = []
    for label in labels.unique().tolist():
        of_class = (labels == label).nonzero().flatten()
        generator = torch.Generator().manual_seed(seed * 100_003 + label)
        chosen.append(of_class[torch.randperm(len(of_class), generator=generator)[:per_class]])
    return torch.cat(chosen).sort().values


def resized(
    images: Images, size: int, mean: torch.Tensor, std: torch.Tensor, gain: float
) -> Images:
    """The images shrunk so that the crop of `images.size` becomes one of `size` pixels, normalised
    anew; masks and keypoints are left behind.
    """
    from torchvision.transforms.v2.functional import resize

    sides = [round(side * size / images.size) for side in images.pixels.shape[-2:]]
    parts = torch.arange(len(images)).split(512)
    return dataclasses.replace(
        images,
        pixels=torch.cat([resize(images.pixels[part], sides, antialias=True) for part in parts]),
        size=size,
        mean=mean,
        std=std,
        gain=gain,
        masks=None,
        keypoints=None,
    )


def smaller(data: Data, size: int, normalise: str = "channel", gain: float = 1.0) -> Data:
    """The data with crops of `size` pixels instead of `data.train.size`; mean and std by the rule
    `normalise`, of the small training images.

    Raises ValueError when `size` exceeds the side of the data's crops, since enlarging adds
    nothing.
    """
    require(
        0 < size <= data.train.size,
        f"size = {size}: choose a side from 1 to {data.train.size} pixels, that of the profile's"
        " images",
    )
    parts = [
        resized(split, size, split.mean, split.std, gain)
        for split in (data.train, data.val, data.test)
    ]
    mean, std = statistics(parts[0].pixels, size, normalise)
    return Data(*(dataclasses.replace(part, mean=mean, std=std) for part in parts), data.classes)


def scaled(widths: Sequence[int], factor: float) -> tuple[int, ...]:
    """Widths times a factor, each 1 at least; a layer left out (0) stays out."""
    return tuple(n and max(1, round(n * factor)) for n in widths)


def recipe(config: SmallNetsConfig, epochs: int) -> TrainingConfig:
    """The recipe that all nets of an experiment share."""
    return TrainingConfig(
        epochs=epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        weight_decay=config.weight_decay,
        schedule="onecycle",
        rms=config.rms,
        ten_crop=False,
    )


def variant(
    profile: Profile, name: str, data: Data, model: ModelConfig, training: TrainingConfig, seed: int
) -> Profile:
    """The profile `<profile>/<name>`: another net, recipe and seed, on the crops of `data`, with a
    runs folder of its own.
    """
    images = data.train
    return dataclasses.replace(
        profile,
        name=f"{profile.name}/{name}",
        seed=seed,
        data=dataclasses.replace(
            profile.data, size=images.size, resize=images.pixels.shape[-1], gain=images.gain
        ),
        model=model,
        training=training,
    )


def trained_quietly(own: Profile, data: Data) -> nn.Module:
    """The variant's net, trained now unless it is there, in eval mode, on the GPU where there is
    one; no line per epoch, as the experiment counts nets.
    """
    train(own, data, progress=False)
    return load_model(own).to(default_device())


def mean_std(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and sample standard deviation over the first dimension; the latter is NaN where there is
    but one value.
    """
    return values.mean(0), (
        values.std(0) if len(values) > 1 else torch.full_like(values[0], float("nan"))
    )
