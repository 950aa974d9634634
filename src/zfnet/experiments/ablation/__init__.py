"""Which layers matter? (section 5.1 and Table 3)"""

from dataclasses import dataclass

from zfnet.experiments import Experiment, Result, Results, Rows, measured, one
from zfnet.store.profiles import SmallNetsConfig
from zfnet.store.schema import BelowOne, Positive

STEM = "14_ablation"


@dataclass(frozen=True)
class AblationConfig(SmallNetsConfig):
    """The nets of Table 3, small enough to train three dozen of them."""

    images: Positive[int] = 1000  # training images, all classes together
    seeds: Positive[int] = 3  # nets per row
    dropout: BelowOne[float] = 0.1
    epochs: Positive[int] = 18


def results() -> Results:
    from zfnet.experiments.ablation.compute import ROWS

    def change(rows: Rows, name: str) -> str:
        row = one(rows, row=name)
        mean, std = float(row["val_change"]), float(row["val_change_std"])
        return measured(mean, std, "", row["seeds"], sign="+")

    paper = {row.key: row.paper[1] for row in ROWS}
    for what, net, plain in (
        ("ZFNet instead of AlexNet", "zfnet", "alexnet"),
        ("AlexNet without layers 3, 4", "alexnet-without-3-4", "alexnet"),
        ("AlexNet without layers 6, 7", "alexnet-without-6-7", "alexnet"),
        ("AlexNet without layers 3, 4, 6, 7", "alexnet-without-3-4-6-7", "alexnet"),
        ("ZFNet with layers 3, 4, 5: 512, 1024, 512", "zfnet-wide", "zfnet"),
    ):
        yield Result(
            STEM,
            f"{what}: change of the validation error, points (seeds; Table 3)",
            lambda rows, net=net: change(rows, net),
            f"{paper[net] - paper[plain]:+.1f}",
            headline=net == "alexnet-without-3-4-6-7",
        )


EXPERIMENT = Experiment(
    paper="section 5.1 and Table 3",
    notebooks=(STEM,),
    section="ablation",
    config=AblationConfig,
    results=results,
)
