"""Energy by spatial frequency: what lies above a frequency, in images, maps and projections (paper,
section 4.1).
"""

from collections.abc import Iterable, Sequence

import torch

from zfnet.data.images import Images
from zfnet.store.errors import UserError


def energy_above(
    maps: torch.Tensor, limits: Sequence[float], window: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Spectral energy of real maps (…, H, W) above each frequency of `limits` (cycles per pixel, in
    rows or in columns), and in total.

    Each map's mean is taken off first. `window` multiplies by a Hann window, for maps that were cut
    out of something larger: without it the jump from one edge to the opposite one counts as high
    frequencies. Returns float64 (len(limits),) and a scalar; sum both over batches, then divide.
    """
    height, width = maps.shape[-2:]
    values = maps.detach() - maps.detach().mean((-2, -1), keepdim=True)
    kind = {"dtype": values.dtype, "device": values.device}
    if window:
        values = (
            values * torch.hann_window(height, **kind)[:, None] * torch.hann_window(width, **kind)
        )
    energy = torch.fft.rfft2(values).abs().square().double().flatten(0, -3).sum(0)
    rows, columns = torch.fft.fftfreq(height, **kind).abs(), torch.fft.rfftfreq(width, **kind)
    # a real map's negative frequencies mirror the positive ones, which alone are computed
    energy[:, (columns > 0) & (columns < 0.5)] *= 2
    highest = torch.maximum(rows[:, None], columns)
    return torch.stack([energy[highest > limit + 1e-6].sum() for limit in limits]), energy.sum()


def nyquist(stride: int) -> float:
    """The highest frequency, in cycles per pixel, that samples `stride` pixels apart can hold.
    Raises ValueError for a stride below 1.
    """
    if stride < 1:
        raise UserError(f"stride = {stride}: must be at least 1")
    return 1 / (2 * stride)


def image_shares(images: Images, indices: torch.Tensor, limits: Sequence[float]) -> list[float]:
    """The same for the images themselves, as the network sees them."""
    return _shares([images.batch(indices)], limits, window=True)


def projection_shares(projections: torch.Tensor, limits: Sequence[float]) -> list[float]:
    """The share of the energy of projections (N, 3, H, W) that lies above each frequency.

    A projection comes down to the pixels from maps sampled `stride` pixels apart, whose spectrum
    repeats itself beyond nyquist(stride): what lies there are these repetitions, the grids and
    blocks of Fig. 6 (d).
    """
    return _shares([projections], limits, window=False)


def _shares(batches: Iterable[torch.Tensor], limits: Sequence[float], window: bool) -> list[float]:
    above, total = (
        torch.zeros(len(limits), dtype=torch.float64),
        torch.zeros((), dtype=torch.float64),
    )
    for maps in batches:
        more, everything = energy_above(maps, limits, window)
        above, total = above + more.cpu(), total + everything.cpu()
    return (above / total).tolist() if total > 0 else [0.0] * len(limits)
