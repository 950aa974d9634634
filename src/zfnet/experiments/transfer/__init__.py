"""Do the features serve another task? (section 5.2, Tables 4 and 5 and Figure 9)"""

from dataclasses import dataclass

from zfnet.experiments import Experiment, Result, Results, Rows, measured
from zfnet.experiments.probes import check
from zfnet.store.profiles import SmallNetsConfig
from zfnet.store.schema import Positive

STEM = "16_transfer"


@dataclass(frozen=True)
class TransferConfig(SmallNetsConfig):
    """Tables 4 and 5: the source net, and the nets trained from scratch."""

    # the profile whose net is transferred; None: one trained on half of the classes
    source: str | None = None
    per_class: tuple[Positive[int], ...] = (1, 3, 10, 30, 100)  # training images of each class
    draws: Positive[int] = 3  # random sets of training images for each number
    source_epochs: Positive[int] = 15
    epochs: Positive[int] = 25
    # profiles on whose images the profile's own net is tried instead, such as caltech101
    targets: tuple[str, ...] = ()
    # what an epoch from scratch shows, however few images there are
    epoch_images: Positive[int] = 400


def results() -> Results:
    from zfnet.experiments.transfer.compute import CALTECH101

    def accuracy(rows: Rows, arm: str) -> str:
        row = max(
            (row for row in rows if row["data"] == "here"), key=lambda row: int(row["per_class"])
        )
        return measured(float(row[arm]), float(row[f"{arm}_std"]), " %", row["per_class"])

    pretrained, scratch = CALTECH101[30]
    yield Result(
        STEM,
        "softmax on pretrained features (images a class; paper: 30 of Caltech-101, Table 4)",
        lambda rows: accuracy(rows, "pretrained"),
        f"{pretrained} %",
        headline=True,
    )
    yield Result(
        STEM,
        "the same images from scratch",
        lambda rows: accuracy(rows, "scratch"),
        f"{scratch} %",
    )


EXPERIMENT = Experiment(
    paper="section 5.2, Tables 4 and 5 and Figure 9",
    notebooks=(STEM,),
    section="transfer",
    config=TransferConfig,
    check=check,
    results=results,
)
