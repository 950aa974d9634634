"""Linear classifiers on features: the probes of Table 7, and the softmax of Tables 4 and 5 that is
trained on top of a net.

    classifier, strength = fit_best(softmax, train, val, (0.1, 1.0, 10.0))
    accuracy(classifier, test)

Images stand for themselves as (features (n, F) float32, labels (n,)), `Labelled`.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from zfnet.training.evaluation import class_accuracy

Labelled = tuple[torch.Tensor, torch.Tensor]
Classifier = LinearSVC | LogisticRegression


def svm(strength: float) -> LinearSVC:
    """A linear support vector machine: squared hinge, one class against the rest."""
    return LinearSVC(C=strength, dual=True, random_state=0, max_iter=2000)


def softmax(strength: float, steps: int = 2000) -> LogisticRegression:
    """A multinomial softmax, in at most `steps` steps."""
    return LogisticRegression(C=strength, max_iter=steps)


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
