"""Probabilities from what a net says: softmax, sigmoid for a single output, or as they are."""

import torch


def probabilities(outputs: torch.Tensor, clean: torch.Tensor | None = None) -> torch.Tensor:
    """Probabilities (N, classes) of a net's outputs (N, classes), in float32 at least.

    One output is a sigmoid's: a softmax would say 1 of everything. Outputs that are probabilities
    already (not negative, with a sum of 1) stay as they are. `clean`: the outputs that tell which,
    `outputs` themselves unless given.
    """
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    clean = outputs if clean is None else clean
    if outputs.shape[-1] == 1:
        return outputs.sigmoid()
    sums = clean.double().sum(-1)
    if (clean >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        return outputs
    return outputs.softmax(-1)


def first_output(output) -> torch.Tensor:
    """The first output of a model that returns several."""
    if isinstance(output, dict):
        output = next(iter(output.values()))
    return output[0] if isinstance(output, tuple | list) else output
