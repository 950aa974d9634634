"""Whether the projections of a trained net show what was learned, or the noise that training
started from.

    found = noise(profile, data, trained(profile, data))    # {1: 0.996, …, 5: 0.979}
    print(remark(found))

The norm of the start does not tell: a net with 28 % of it left, more than was learned, can be
clean, since random filters point in many directions and learned ones in few. So the same units are
projected twice, once by the weights less what is left of their start.
"""

import copy

import torch
from torch import nn

from zfnet.data.images import Data
from zfnet.graph.trace import paper_layers
from zfnet.methods.deconv import Deconvnet
from zfnet.models.build import build_model
from zfnet.store import artefacts, keys, provenance
from zfnet.store.profiles import Profile
from zfnet.training.start import left

IMAGES = 24  # how many are looked at
CLEAN = 0.9  # an agreement below which the noise is seen


@torch.no_grad()
def without_start(model: nn.Module, start: nn.Module) -> nn.Module:
    """A copy whose convolutions hold nothing of their weights in `start`, the same net as built."""
    clean, before = copy.deepcopy(model), dict(start.named_modules())
    for name, share in left(model, start).items():
        weight = clean.get_submodule(name).weight
        weight -= share * before[name].weight.to(weight.device)
    return clean


def agreement(model: nn.Module, start: nn.Module, images: torch.Tensor) -> dict[int, float]:
    """How alike the projections of a net, and of its weights less their start, are: {layer by the
    paper's number: mean cosine over images of the strongest unit's projections, -1..1}.

    images (N, 3, H, W): network input. An image in which nothing fires does not count; a unit that
    is silent without the start counts as 0.
    """
    whole, clean, found = Deconvnet(model), Deconvnet(without_start(model, start)), {}
    for number, layer in paper_layers(model).items():
        maps = whole.activations(images, layer)
        height, width = maps.shape[2:]
        value, place = maps.flatten(1).max(1)
        channel, pixel = place // (height * width), place % (height * width)
        fires = value > 0
        unit = channel[fires], torch.stack([pixel // width, pixel % width], 1)[fires]
        pair = (each.project(images[fires], layer, *unit).flatten(1) for each in (whole, clean))
        cosine = torch.cosine_similarity(*(each.double() for each in pair), dim=1, eps=1e-30)
        found[number] = round(cosine.mean().item(), 3) if fires.any() else 0.0
    return found


def noise(profile: Profile, data: Data, model: nn.Module) -> dict[int, float]:
    """`agreement` of the profile's trained net on test images, spread evenly; kept as
    `runs/<profile>/noise.safetensors`. Empty where training started from given weights.
    """
    if profile.training is None or profile.training.start:
        return {}
    start = build_model(profile, len(data.classes))
    few = torch.linspace(0, len(data.test) - 1, min(IMAGES, len(data.test))).long()

    def made() -> tuple[artefacts.Tensors, dict]:
        device = next(model.parameters()).device
        found = agreement(model.eval(), start.to(device), data.test.batch(few).to(device))
        tensors = {"agreement": torch.tensor([*found.values()], dtype=torch.float64)}
        return tensors, provenance.record(profile, layers=[*found], n=len(few))

    code, weights = keys.code_key(agreement), keys.tensors_hash(model.state_dict())
    key = keys.key_of(weights, data.test.fingerprint, code, IMAGES)
    tensors, meta = artefacts.artefact(profile.runs / "noise.safetensors", key, made)
    return dict(zip(meta["layers"], tensors["agreement"].tolist(), strict=True))


def remark(found: dict[int, float]) -> str:
    """One line on what `noise` found, with the cure where projections show the start."""
    if not found:
        return ""
    values = ", ".join(f"{value:.2f}" for value in found.values())
    text = f"agreement of projections with those without the random start, layer by layer: {values}"
    if noisy := [str(number) for number, value in found.items() if value < CLEAN]:
        text += (
            f"\nlayer {', '.join(noisy)}: projections show the noise of the start; train for more"
            " epochs, or choose `optimiser: adamw`, `schedule: onecycle` and `weight_decay: null`,"
            " the decay that takes it away"
        )
    return text
