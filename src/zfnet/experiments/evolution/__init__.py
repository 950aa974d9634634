"""How features evolve during training (section 4 and Figure 4)."""

from dataclasses import dataclass

from zfnet.experiments import Experiment
from zfnet.store.schema import Positive


@dataclass(frozen=True)
class EvolutionConfig:
    """How much Fig. 4 looks at: `images` training images searched at each snapshot (None: all),
    `probes` validation images for the responses, and `maps` feature maps of each layer whose
    projections are compared.
    """

    images: Positive[int] | None = 1000
    probes: Positive[int] = 100
    maps: Positive[int] = 32


EXPERIMENT = Experiment(
    paper="section 4 and Figure 4",
    notebooks=("11_evolution",),
    section="evolution",
    config=EvolutionConfig,
)
