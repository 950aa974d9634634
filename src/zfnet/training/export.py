"""Weights to give away: half precision, one safetensors file whose header says what net it is, how
its input is made and what it reached.

    meta = export(profile, data, "weights/zfnet_caltech101.safetensors")

A profile reads such a file by `model: weights:`, with `data: normalise: weights` for the input.
"""

import dataclasses
from pathlib import Path

from zfnet.data.images import Data
from zfnet.models.build import build_model, put_weights
from zfnet.store import artefacts, distributed
from zfnet.store.errors import require
from zfnet.store.profiles import Profile
from zfnet.training.evaluation import evaluate
from zfnet.training.run import trained

TOLERANCE = 0.002  # of accuracy that half precision may cost


def export(profile: Profile, data: Data, path: Path | str) -> dict:
    """Write the profile's trained net to `path` in float16, once that is known to do as well, and
    return its header.

    The header holds `model` (the profile's section), `input` {size, mean, std, gain}, `classes`,
    what training measured, and `accuracy` and `half_accuracy`, before and after the rounding, on
    the centre crops of the test images. Raises ValueError, and writes nothing, for a profile that
    trains no net, for a mean per pixel, and where half precision changes the accuracy by more than
    0.2 points.
    """
    require(
        profile.training is not None,
        f"profile {profile.name!r} trains no net: its weights come from"
        f" {profile.model.weights or 'their publisher'}",
    )
    require(
        data.train.mean.numel() == 3,
        f"data.normalise = {profile.data.normalise!r}: only a mean per channel goes into a header;"
        " train with normalise: channel",
    )
    require(
        Path(path).suffix == ".safetensors", f"{path}: expected a name that ends in .safetensors"
    )
    model = trained(profile, data)
    full = evaluate(model, data.test).accuracy
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    halved = put_weights(build_model(profile, len(data.classes)), halves, "half precision")
    half = evaluate(halved.to(distributed.default_device()), data.test).accuracy
    require(
        abs(half - full) <= TOLERANCE,
        f"in half precision the accuracy is {half:.2%} instead of {full:.2%}: nothing was written",
    )
    meta = {
        **artefacts.read_meta(profile.weights_file),
        "model": dataclasses.asdict(profile.model),
        "input": {
            "size": profile.data.size,
            "gain": profile.data.gain,
            "mean": data.train.mean.flatten().tolist(),
            "std": data.train.std.flatten().tolist(),
        },
        "classes": list(data.classes),
        "accuracy": full,
        "half_accuracy": half,
    }
    artefacts.save_tensors(path, halves, meta)
    return artefacts.read_meta(path)
