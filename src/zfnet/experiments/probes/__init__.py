"""What each layer knows: linear classifiers on its features (section 5.3 and Table 7)."""

from dataclasses import dataclass

from zfnet.experiments import NONE, Experiment, Result, Results, Rows, measured, one
from zfnet.store.errors import require
from zfnet.store.profiles import Profile, profile_names
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


def check(profile: Profile, where: tuple[str, ...]) -> None:
    """Raises UserError for targets that are no profiles, or the profile itself."""
    targets = profile.sections[where[-1]].targets
    known = [name for name in profile_names() if name != profile.name]
    unknown = [target for target in targets if target not in known]
    require(
        not unknown,
        f"{': '.join(where)}: targets = {unknown}: other profiles whose images are taken: choose"
        f" from {', '.join(known)}",
    )


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
    check=check,
    results=results,
)
