"""The training itself: its curve, its errors and its accuracy (section 3)."""

from zfnet.experiments import Experiment, Result, Results, Rows, one

STEM = "01_train"


def results() -> Results:
    from zfnet.experiments.transfer.compute import CALTECH101

    def percent(share: float) -> str:
        return f"{share:.1%}".replace("%", " %")

    def accuracy(rows: Rows, crops: str) -> str:
        return percent(1 - float(one(rows, crops=crops)["test_error"]))

    yield Result(STEM, "test accuracy, centre crop", lambda rows: accuracy(rows, "1"))
    yield Result(STEM, "test accuracy, ten crops", lambda rows: accuracy(rows, "10"))
    yield Result(
        STEM,
        "mean over classes, ten crops; paper: Caltech-101 from scratch, 30 a class (Table 4)",
        lambda rows: percent(float(one(rows, crops="10")["per_class_accuracy"])),
        f"{CALTECH101[30][1]} %",
        headline=True,
    )
    yield Result(STEM, "test images", lambda rows: rows[0]["n"])


EXPERIMENT = Experiment(paper="section 3", notebooks=(STEM,), results=results)
