"""Invariance to translation, scale and rotation (section 4 and Figure 5)."""

from dataclasses import dataclass

from zfnet.experiments import Experiment
from zfnet.store.schema import Positive


@dataclass(frozen=True)
class InvarianceConfig:
    """Fig. 5: how many test images are transformed."""

    images: Positive[int] = 100


EXPERIMENT = Experiment(
    paper="section 4 and Figure 5",
    notebooks=("12_invariance",),
    section="invariance",
    config=InvarianceConfig,
)
