"""An independent deconvnet for any net: plain autograd, in which every ReLU, however it is called,
has a backward pass of another rule, local response normalisation is the identity on the way down,
and a gate is held fixed. Nothing of the package is used.
"""

import contextlib

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class _Rule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rule, limit):
        ctx.rule, ctx.fires = rule, (x > 0) if limit is None else (x > 0) & (x < limit)
        return x.clamp(0, limit)

    @staticmethod
    def backward(ctx, signal):
        if ctx.rule != "gradient":
            signal = signal.clamp_min(0)
        return (signal if ctx.rule == "deconvnet" else signal * ctx.fires), None, None


class _Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        return y.clone()

    @staticmethod
    def backward(ctx, signal):
        return signal, None


class Ruled(TorchFunctionMode):
    """Inside it ReLUs have this rule: "deconvnet", "guided" or "gradient"."""

    def __init__(self, rule: str):
        super().__init__()
        self.rule = rule

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "").strip("_")
        if name == "relu":
            return _Rule.apply(args[0], self.rule, None)
        if name in ("relu6", "hardtanh"):
            high = kwargs.get("max_val", args[2] if len(args) > 2 else 1.0)
            return _Rule.apply(args[0], self.rule, 6.0 if name == "relu6" else float(high))
        if name == "mul" and {getattr(one, "ndim", 0) for one in args} == {4}:
            # a gate, one factor for a whole map, is held fixed
            args = [one.detach() if one.shape[-2:] == (1, 1) else one for one in args]
            return function(*args, **kwargs)
        if name == "local_response_norm":
            with torch.no_grad():
                y = function(*args, **kwargs)
            return _Same.apply(args[0], y)
        return function(*args, **kwargs)


def project(
    model: nn.Module, image: torch.Tensor, layer: str, unit: tuple[int, int, int], rule: str
) -> torch.Tensor:
    """Activation times gradient, by `rule`, of one unit (channel, row, column) of a module's output
    for one image (1, 3, H, W); `layer`: the module's name, ":2" for its second call.
    """
    name, _, call = layer.partition(":")
    seen = []

    def keep(module, given, output):
        seen.append(output)
        if len(seen) == int(call or 1):
            raise StopIteration  # what lies above is not needed

    hook = model.get_submodule(name).register_forward_hook(keep)
    image = image.detach().clone().requires_grad_()
    with Ruled(rule), contextlib.suppress(StopIteration):
        model(image)
    hook.remove()
    activation = seen[-1][0][unit]
    return torch.autograd.grad(activation, image)[0] * activation.detach()


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """The net in float64 and eval mode, with batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.1, 0.3),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model.double().eval()
