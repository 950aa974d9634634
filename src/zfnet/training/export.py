"""Weights to give away: half precision, one safetensors file whose header says what net it is, how
its input is made and what it reached.

    meta = export(profile, data, "weights/zfnet_caltech101.safetensors")

A profile reads such a file by `model: weights:`, with `data: normalise: weights` for the input.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from zfnet.data.images import Data
from zfnet.models.build import build_model
from zfnet.models.weights import put_weights
from zfnet.store import artefacts
from zfnet.store.device import default_device
from zfnet.store.errors import UserError
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
    path = Path(path)
    if profile.training is None:
        raise UserError(
            f"profile {profile.name!r} trains no net: its weights come from"
            f" {profile.model.weights or 'their publisher'}"
        )
    if data.train.mean.numel() != 3:
        raise UserError(
            f"data.normalise = {profile.data.normalise!r}: only a mean per channel goes into a"
            " header; train with normalise: channel"
        )
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: expected a name that ends in .safetensors")
    model = trained(profile, data)
    measured = artefacts.read_meta(profile.weights_file)
    full = evaluate(model, data.test).accuracy
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    taken = {
        "size": profile.data.size,
        "gain": profile.data.gain,
        "mean": data.train.mean.flatten().tolist(),
        "std": data.train.std.flatten().tolist(),
    }
    meta = {
        **measured,
        "model": dataclasses.asdict(profile.model),
        "input": taken,
        "classes": list(data.classes),
        "accuracy": full,
    }
    halved = put_weights(build_model(profile, len(data.classes)), halves, "half precision").to(
        default_device()
    )
    meta["half_accuracy"] = evaluate(halved, data.test).accuracy
    if abs(meta["half_accuracy"] - full) > TOLERANCE:
        raise UserError(
            f"in half precision the accuracy is {meta['half_accuracy']:.2%} instead of {full:.2%}:"
            " nothing was written"
        )
    artefacts.save_tensors(path, halves, meta)
    return artefacts.read_meta(path)
