"""A pretended device: its tensors, on what calls itself the meta device, refuse to meet those of
the CPU, as a GPU's do; indices included, which CUDA would copy without a word. They hold real
values, so results can be compared.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

FAR = torch.device("meta")


class Far(torch.Tensor):
    """A tensor of the pretended device; `near`: its values, on the CPU."""

    @staticmethod
    def __new__(cls, near: torch.Tensor):
        options = {"strides": near.stride(), "storage_offset": near.storage_offset()}
        options |= {"dtype": near.dtype, "layout": near.layout, "device": FAR}
        far = torch.Tensor._make_wrapper_subclass(cls, near.shape, **options)
        far.near = near
        return far

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {})


def dispatched(function, args, kwargs):
    """Call an operation on what it is given; RuntimeError where both devices meet."""
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    far = [one for one in tensors if isinstance(one, Far)]
    near = [one for one in tensors if not isinstance(one, Far)]
    name = function.overloadpacket.__name__
    copies = name in ("_to_copy", "copy_")  # the two that may cross over
    if far and any(one.ndim for one in near) and not copies:
        shapes = [
            f"{'far' if isinstance(one, Far) else 'near'} {tuple(one.shape)}" for one in tensors
        ]
        raise RuntimeError(f"{name}: tensors of two devices meet: {', '.join(shapes)}")
    device = kwargs.get("device")
    goes = bool(far) if device is None else torch.device(device).type == FAR.type
    if name == "copy_":
        goes = isinstance(args[0], Far)
    own = {id(one.near): one for one in far}
    args, kwargs = tree_map(lambda one: one.near if isinstance(one, Far) else one, (args, kwargs))
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = function(*args, **kwargs)

    def placed(one):
        if not isinstance(one, torch.Tensor) or not goes:
            return one
        return own.get(id(one)) if id(one) in own else Far(one)

    return tree_map(placed, found)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {})


class _Makers(TorchFunctionMode):
    """torch.tensor, as_tensor and tolist, whose values never pass the dispatcher."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = function in (torch.tensor, torch.as_tensor)
        if made and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is torch.Tensor.tolist:
            return function(args[0].near if isinstance(args[0], Far) else args[0])
        return function(*args, **kwargs)


@contextlib.contextmanager
def far() -> Iterator[torch.device]:
    """Pretend; gives the device."""
    with _Operations(), _Makers():
        yield FAR
