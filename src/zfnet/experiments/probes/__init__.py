"""What each layer knows: linear classifiers on its features (section 5.3 and Table 7)."""

from dataclasses import dataclass

from zfnet.experiments import NONE, Experiment, Result, Results, Rows, measured, one
from zfnet.store.schema import Distinct, Positive

STEM = "15_probes"


@dataclass(frozen=True)
class ProbesConfig:
    """The classifiers of Table 7: training images per class, how often each is drawn, the most
    features that a layer may give, and the profiles on whose images, instead of the profile's own,
    the net is tried.
    """

    per_class: Distinct[tuple[Positive[int], ...]] = (2, 5, 10, 30)
    draws: Positive[int] = 5
    features: Positive[int] = 4096
    targets: tuple[str, ...] = ()


def results() -> Results:
    from zfnet.experiments.probes.compute import PAPER

    def accuracy(rows: Rows, layer: str) -> str:
        if not any(row["layer"] == layer for row in rows):  # a net with fewer layers
            return NONE
        most = max((row["images_per_class"] for row in rows), key=int)
        row = one(rows, net="trained", classifier="svm", layer=layer, images_per_class=most)
        return measured(100 * float(row["accuracy"]), 100 * float(row["std"]), " %", most)

    for layer, (paper, _) in PAPER["svm"].items():
        yield Result(
            STEM,
            f"SVM on layer {layer} (images a class; paper: 30 of Caltech-101, Table 7)",
            lambda rows, layer=str(layer): accuracy(rows, layer),
            f"{paper:.1f} %",
            headline=layer == 5,
        )


EXPERIMENT = Experiment(
    paper="section 5.3 and Table 7",
    notebooks=(STEM,),
    section="probes",
    config=ProbesConfig,
    results=results,
)
