"""How alike two pictures are: in the same place, and to the eye; and how like the image's own
edges, which no net has drawn.

where, looks = similarity(picture, other, box)      # both at most 1, both blind to the pictures'
scales like_edges = same_place(picture, edges(inputs)[0], box)
"""

import warnings

import numpy as np
import torch
from scipy.stats import ConstantInputWarning, spearmanr
from skimage.filters import sobel
from skimage.metrics import structural_similarity

from zfnet.plots.contrast import contrast_scale, to_grey_centred


def spearman(a: torch.Tensor, b: torch.Tensor) -> float:
    """Spearman's rank correlation of two tensors of one size, ties at their average rank; NaN where
    one is constant.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return float(spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic)


def as_drawn(picture: torch.Tensor) -> np.ndarray:
    """A picture (3, h, w) as the figures draw it on a scale of its own, in 0..1: zero is 0.5."""
    return to_grey_centred(picture, contrast_scale(picture)).transpose(2, 0, 1)


def same_place(a: torch.Tensor, b: torch.Tensor, box: tuple[int, int, int, int]) -> float:
    """The rank correlation of the absolute values, summed over colours, of two pictures (3, H, W)
    inside a box.
    """
    top, left, bottom, right = box
    return spearman(*(picture[:, top:bottom, left:right].abs().sum(0) for picture in (a, b)))


def similarity(
    a: torch.Tensor, b: torch.Tensor, box: tuple[int, int, int, int]
) -> tuple[float, float]:
    """How alike two pictures (3, H, W) are inside the unit's receptive field (top, left, bottom,
    right): (Spearman, SSIM), each at most 1.

    Spearman: the rank correlation of the pixels' absolute values, summed over colours (where is
    it?). SSIM: the structural similarity of the pictures as they are drawn, mid-grey for zero, in
    windows of 7 pixels (does it look the same?).
    """
    top, left, bottom, right = box
    first, second = (picture[:, top:bottom, left:right] for picture in (a, b))
    side = min(first.shape[1:])
    window = min(7, side - 1 + side % 2)
    alike = structural_similarity(
        as_drawn(first), as_drawn(second), win_size=window, channel_axis=0, data_range=1.0
    )
    return same_place(a, b, box), float(alike)


def edges(inputs: torch.Tensor) -> torch.Tensor:
    """The edges of images (N, 3, H, W): the length of Sobel's gradient of each colour, on the CPU;
    no net has a part in them.
    """
    planes = [sobel(plane) for plane in inputs.double().flatten(0, 1).cpu().numpy()]
    return torch.from_numpy(np.stack(planes)).view(inputs.shape)
