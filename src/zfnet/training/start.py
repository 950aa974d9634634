"""What a net starts from, and how long to train it for the random part of that to vanish.

A projection shows what the weights hold: what was learned, and what is left of the random start.
Weight decay alone takes the start away. Each step of AdamW keeps 1 - lr * weight_decay of it, so
what is left at the end follows from the numbers of the recipe, and `settled` chooses those that a
profile leaves open; `left` measures it in the trained net. What of it is seen says `noise`.
"""

import dataclasses
import math

import torch
from torch import nn

from zfnet.models.build import build_model, load_model
from zfnet.store.errors import require
from zfnet.store.profiles import Profile, TrainingConfig

STEPS = 5000  # a net from a random start takes as many, however few the images are
EPOCHS = 10, 300  # but sees each image so often, at least and at most
LEFT = 1 / 12  # of the random start, where the weight decay is left open
# the mean of the learning rate over a run, as a share of the largest
MEAN_RATE = {"constant": 1.0, "onecycle": 0.506}


def settled(config: TrainingConfig, images: int) -> TrainingConfig:
    """The recipe for so many training images, with a number where it leaves one open.

    `epochs: null` becomes so many that there are 5,000 steps, from 10 to 300. `weight_decay: null`
    becomes the one that leaves a twelfth of the random start: without gradients a weight would
    shrink to that by the end. Raises UserError where the decay is open and the learning rate too,
    since `schedule: plateau` lets the validation error choose it.
    """
    steps = max(1, images // config.batch_size)
    epochs = config.epochs or min(max(round(STEPS / steps), EPOCHS[0]), EPOCHS[1])
    decay = config.weight_decay
    if decay is None:
        require(
            config.schedule in MEAN_RATE,
            f"training: weight_decay: null with schedule: {config.schedule}: how much it takes"
            " away is not known beforehand",
            "give a number, or choose schedule: onecycle",
        )
        rate = config.lr * MEAN_RATE[config.schedule]
        if config.optimiser == "sgd":  # a step goes on, ever weaker, in those after it
            rate /= 1 - config.momentum
        a_step = min(
            -math.log(LEFT) / (epochs * steps), 0.05
        )  # or a run of a few steps is all decay
        decay = float(f"{a_step / rate:.3g}")
    return dataclasses.replace(config, epochs=epochs, weight_decay=decay)


def starting_net(profile: Profile, num_classes: int) -> nn.Module:
    """The net as it is before the first step: random, or with the weights that `training: start:`
    names in all layers but the last, whose softmax is new (paper, section 5.2).

    Raises UserError for weights of another net.
    """
    net = build_model(profile, num_classes)
    if profile.training.start is None:
        return net
    own, given = net.state_dict(), load_model(profile.origin).state_dict()
    last = {name for name in own if name.startswith(list(own)[-1].rpartition(".")[0] + ".")}
    require(
        last
        and not [n for n in own.keys() - last if n not in given or given[n].shape != own[n].shape],
        f"training: start: {profile.training.start} does not fit {profile.model.name}",
        "name weights of the same net, or leave `start:` out",
    )
    net.load_state_dict(own | {name: given[name] for name in own.keys() - last})
    return net


@torch.no_grad()
def left(model: nn.Module, start: nn.Module) -> dict[str, float]:
    """How much of the random start is in each convolution's weights still: the factor by which
    their projection on the weights of `start` has shrunk, 1 where nothing was learned.

    What was learned hardly counts: among so many weights it is nearly orthogonal to the start.
    `start`: the same net as it was built; {name of the convolution: share}.
    """
    before, found = dict(start.named_modules()), {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            new, old = (each.weight.double().cpu() for each in (layer, before[name]))
            found[name] = round(((new * old).sum() / old.square().sum()).item(), 4)
    return found
