"""One contrast rule for every picture, in the figures and where pictures are compared as they are
drawn.

Projections are drawn symmetric around zero: mid-grey is 0, and one scale s serves all panels that
belong together (the nine of a feature map), so that they can be compared. s is the 98th percentile
of their absolute values, zeros left out; what exceeds it saturates.
"""

import numpy as np
import torch

PERCENTILE = 98


def contrast_scale(values: torch.Tensor, percentile: float = PERCENTILE) -> float:
    """The scale that the panels in `values` share: a percentile of the absolute values that are not
    zero; 1 when all are.
    """
    magnitude = values.abs().flatten()
    magnitude = magnitude[magnitude > 0]
    return float(np.percentile(magnitude.cpu().numpy(), percentile)) if len(magnitude) else 1.0


def to_grey_centred(values: torch.Tensor, scale: float) -> np.ndarray:
    """Signed values (…, 3, H, W) to RGB (…, H, W, 3) in 0..1: -scale is 0, zero is mid-grey, +scale
    is 1. One channel is drawn as grey; of four, the alpha is left out.
    """
    if values.shape[-3] == 1:
        values = values.expand(*values.shape[:-3], 3, *values.shape[-2:])
    values = values[..., :3, :, :]
    return (0.5 + 0.5 * (values / scale).clamp(-1, 1)).movedim(-3, -1).cpu().numpy()


def drawn(values: torch.Tensor) -> np.ndarray:
    """Signed values (…, 3, H, W) to RGB (…, H, W, 3) in 0..1, on a scale of their own."""
    return to_grey_centred(values, contrast_scale(values))


def to_rgb(pictures: torch.Tensor) -> np.ndarray:
    """uint8 (…, 3, H, W) to RGB (…, H, W, 3) in 0..1."""
    return (pictures.float() / 255).movedim(-3, -1).cpu().numpy()
