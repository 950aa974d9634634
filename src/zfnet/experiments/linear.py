"""Linear classifiers on features: the probes of Table 7, and the softmax of Tables 4 and 5 that is
trained on top of a net.

    classifier, strength = fit_best(softmax, train, val, (0.1, 1.0, 10.0))
    accuracy(classifier, test)
    classifier, strength = chosen("svm", train, (0.1, 1.0, 10.0))     # without validation images

Images stand for themselves as (features (n, F) float32, labels (n,)), `Labelled`.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from zfnet.training.evaluation import class_accuracy

Labelled = tuple[torch.Tensor, torch.Tensor]


def svm(strength: float) -> LinearSVC:
    """A linear support vector machine: squared hinge, one class against the rest."""
    return LinearSVC(C=strength, dual=True, random_state=0, max_iter=2000)


def softmax(strength: float, steps: int = 2000) -> LogisticRegression:
    """A multinomial softmax, in at most `steps` steps."""
    return LogisticRegression(C=strength, max_iter=steps)


@dataclass(frozen=True)
class Linear:
    """One score a class: weight (F + 1, K), the last row the biases."""

    weight: torch.Tensor

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The class with the largest score, for features (n, F)."""
        return (torch.from_numpy(x) @ self.weight[:-1] + self.weight[-1]).argmax(1).numpy()


Classifier = LinearSVC | LogisticRegression | Linear
KINDS = {"svm": svm, "softmax": softmax}


def accuracy(classifier: Classifier, images: Labelled) -> float:
    """Mean per-class accuracy of a fitted classifier, 0..1."""
    return class_accuracy(classifier.predict(images[0].numpy()), images[1])


def fit_best(
    build: Callable[[float], Classifier],
    train: Labelled,
    val: Labelled,
    strengths: Sequence[float],
) -> tuple[Classifier, float]:
    """The classifier, fitted on `train`, whose strength C is best on `val`, the smallest of equals;
    and that C.
    """

    def fitted(strength: float) -> Classifier:
        with warnings.catch_warnings():
            # a large C that does not converge loses on the validation images, or is as good
            warnings.simplefilter("ignore", ConvergenceWarning)
            return build(strength).fit(*(part.numpy() for part in train))

    return max(
        ((fitted(strength), strength) for strength in sorted(strengths)),
        key=lambda one: accuracy(one[0], val),
    )


def fit(
    kind: str,
    images: Labelled,
    strength: float,
    start: Linear | None = None,
    tolerance: float = 1e-4,
) -> Linear:
    """`svm` or `softmax` by L-BFGS over all classes at once, from `start`, say of a smaller C: many
    times quicker than one class after the other where there are a hundred.

    It stops where ten steps lower the objective by less than `tolerance` of it. Biases are
    penalised like weights, as `LinearSVC` does.
    """
    x, labels = images
    count = int(labels.max()) + 1
    weight = torch.zeros(x.shape[1] + 1, count, dtype=x.dtype)
    weight = (weight if start is None else start.weight.clone()).requires_grad_()
    sign = 2.0 * F.one_hot(labels, count).to(x.dtype) - 1.0

    def objective() -> torch.Tensor:
        optimiser.zero_grad()
        scores = x @ weight[:-1] + weight[-1]
        loss = (
            (1 - sign * scores).clamp_min(0).square().sum()
            if kind == "svm"
            else F.cross_entropy(scores, labels, reduction="sum")
        )
        value = weight.square().sum() / 2 + strength * loss
        value.backward()
        return value

    optimiser = torch.optim.LBFGS(
        [weight], max_iter=10, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    before, now = float("inf"), objective().item()
    while before - now > tolerance * now:
        optimiser.step(objective)
        before, now = now, objective().item()
    return Linear(weight.detach())


def chosen(kind: str, train: Labelled, strengths: Sequence[float]) -> tuple[Classifier, float]:
    """The classifier, fitted on all of `train`, with the C that is best (mean per-class accuracy)
    on one half of it when fitted on the other, the smallest of equals; and that C.

    To choose, rougher fits will do; each starts from that of the smaller C.
    """
    x, labels = train
    halves = StratifiedKFold(2, shuffle=True, random_state=0).split(x, labels)
    fitting, judging = next(halves)
    found, scores, last = {}, {}, None
    for strength in sorted(strengths):
        last = found[strength] = fit(kind, (x[fitting], labels[fitting]), strength, last, 1e-2)
        scores[strength] = accuracy(last, (x[judging], labels[judging]))
    best = max(scores, key=scores.get)
    return fit(kind, train, best, found[best]), best
