"""Correspondence between the parts of objects (section 4.3 and Table 1)."""

from dataclasses import dataclass

from zfnet.experiments import NONE, Experiment, Result, Results, Rows, one
from zfnet.store.profiles import Profile, check_fits
from zfnet.store.schema import Distinct, Positive

STEM = "13_correspondence"


@dataclass(frozen=True)
class CorrespondenceConfig:
    """The masks of Table 1: squares of `size` input pixels on the keypoints named `parts`, or the
    boxes of a YAML file (`zfnet.data.parts` describes it).
    """

    size: Positive[int] = 18
    parts: Distinct[tuple[str, ...]] = ("right_eye", "left_eye", "nose", "mouth")
    boxes: str | None = None  # relative to the project


def check(profile: Profile, where: tuple[str, ...]) -> None:
    check_fits(profile.correspondence.size, profile.data, (*where, "size"))


def results() -> Results:
    from zfnet.experiments.correspondence.compute import PAPER, RANDOM

    def delta(rows: Rows, masked: str) -> str:
        """Delta of a part over that of random masks: of all features and of those that both images'
        masks changed, and the number of groups.
        """
        ratios = []
        for zeros in ("agree", "both changed"):
            part, random = (
                one(rows, net="trained", layer="5", masked=name, zeros=zeros)
                for name in (masked, RANDOM)
            )
            chance = float(random["delta"])
            ratios.append(f"{float(part['delta']) / chance:.2f}" if chance else NONE)
        return f"{', '.join(ratios)} ({part['groups']})"

    paper = {part: mean for part, (mean, _) in PAPER[5].items()}
    for part in (name for name in paper if name != RANDOM):
        yield Result(
            STEM,
            f"Δ of masking the {part.replace('_', ' ')} over Δ of random masks, layer 5: all"
            " features, those changed in both (groups; Table 1)",
            lambda rows, part=part: delta(rows, part),
            f"{paper[part] / paper[RANDOM]:.2f}",
            headline=part == "left_eye",
        )


EXPERIMENT = Experiment(
    paper="section 4.3 and Table 1",
    notebooks=(STEM,),
    section="correspondence",
    config=CorrespondenceConfig,
    check=check,
    results=results,
)
