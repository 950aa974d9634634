"""Weights in and out of files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from zfnet.store import artefacts
from zfnet.store.errors import UserError


def from_pytorchcv(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a pytorchcv `zfnet`/`zfnetb` state dict to ours: five convolutions, then three linear
    layers, in the same order.
    """
    names = [
        *(f"features.conv{n}" for n in range(1, 6)),
        *(f"classifier.fc{n}" for n in range(6, 9)),
    ]
    weights = [key.removesuffix(".weight") for key in state if key.endswith(".weight")]
    if len(weights) != len(names):
        raise UserError(
            f"not a pytorchcv zfnet: {len(weights)} weights instead of {len(names)}:"
            f" {', '.join(weights)}"
        )
    if missing := [f"{old}.bias" for old in weights if f"{old}.bias" not in state]:
        raise UserError(f"not a pytorchcv zfnet: missing {', '.join(missing)}")
    return {
        f"{new}.{kind}": state[f"{old}.{kind}"]
        for new, old in zip(names, weights, strict=True)
        for kind in ("weight", "bias")
    }


def read_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """A state dict from a .safetensors file, or from a .pth/.pt file with `weights_only=True`, so
    that no code in it runs.

    Raises FileNotFoundError, Damaged for a .safetensors file that is not whole, and UserError for a
    file that is not a state dict or holds values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: train first (`make train PROFILE=…`), or set `weights:` in the"
            " profile"
        )
    if path.suffix == ".safetensors":
        state = artefacts.load_tensors(path)[0]
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except PermissionError:
            raise
        except Exception as error:  # torch raises nearly everything
            raise UserError(
                f"{path} cannot be read as weights ({type(error).__name__})",
                "expected a state dict, safetensors or .pth",
            ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(v, torch.Tensor) and isinstance(k, str) for k, v in state.items())
    ):
        raise UserError(f"{path} holds no state dict of tensors")
    for name, tensor in state.items():
        if (
            tensor.layout != torch.strided
            or tensor.is_meta
            or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
        ):
            raise UserError(
                f"{path}: {name} is not a plain tensor with all its values: save the state dict of"
                " a net"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(
                f"{path}: {name} has values that are not finite; the training diverged or the file"
                " is damaged"
            )
    return state


def put_weights(model: nn.Module, state: dict[str, torch.Tensor], origin: str) -> nn.Module:
    """Load a state dict whole; UserError names what is missing, extra or misshapen."""
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in own]
    problems += [
        f"{name} holds {state[name].dtype}, expected {own[name].dtype}"
        for name in own
        if name in state and state[name].is_floating_point() != own[name].is_floating_point()
    ]
    problems += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise UserError(f"{origin} does not fit this net: {'; '.join(problems[:4])}{more}")
    model.load_state_dict(state)
    return model


def save_weights(path: Path | str, model: nn.Module, meta: dict) -> None:
    """Write the model's state dict and `meta` to one safetensors file, atomically."""
    artefacts.save_tensors(path, model.state_dict(), meta)
