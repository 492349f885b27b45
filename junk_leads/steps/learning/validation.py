"""Validation: what a training learns from leads that its booster has not seen.

What lives here: time-ordered and random folds, and learning a whole model (booster, calibration, threshold) with
them. What does not: the booster (`training.py`), and measuring the result on leads held out (`evaluation.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from junk_leads.steps.boosting import Booster
from junk_leads.steps.learning.calibration import (
    Calibration,
    choose_calibration,
    expected_gain,
    junk_budget_threshold,
)
from junk_leads.steps.learning.training import LabelledFeatures, Recipe, train_booster

WEEK = 7 * 86_400.0
LEAST_OF_CLASS = 20  # leads of each class that a fold trains on and predicts


@dataclass(frozen=True)
class Fold:
    """Row numbers to train on and to predict, and what the fold is called."""

    name: str
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Aim:
    """What the flag is for: the share of genuine leads that may be lost, or costs; and the platform's true share."""

    junk_budget: float
    true_share: float | None = None
    costs: Mapping[str, float] | None = None

    def as_settings(self) -> dict[str, Any]:
        """It as a model carries it."""
        costs = dict(self.costs) if self.costs else None
        return {"junk_budget": self.junk_budget, "true_share": self.true_share, "costs": costs}


@dataclass(frozen=True)
class Learned:
    """A whole model: the booster, and what leads it had not seen taught about its probabilities.

    `validated` are those leads' row numbers, in the folds' order; `validation` their probabilities, each fold
    calibrated by the others; `fold` the place in `folds` of each. `share` of the leads trained on were genuine.
    """

    booster: Booster
    calibration: Calibration
    threshold: float
    share: float
    folds: tuple[str, ...]
    validated: np.ndarray
    validation: np.ndarray
    fold: np.ndarray

    def as_settings(self) -> dict[str, Any]:
        """What the booster alone does not tell, as a model carries it."""
        return {"calibration": self.calibration.as_dict(), "threshold": self.threshold, "share_of_genuine": self.share}

    def predict(self, data: LabelledFeatures) -> np.ndarray:
        """Calibrated probabilities of n leads, shape (n,), with the share of genuine leads of the training."""
        return self.calibration.apply(data.predicted_by(self.booster))


def weekly_folds(data: LabelledFeatures, weeks: int = 4) -> list[Fold]:
    """The last weeks, each predicted from all that came before it; of leads of fewer than eight weeks, eighths.

    A fold that has too few leads of a class is left out.
    """
    newest = float(data.created.max())
    length = min(WEEK, (newest - float(data.created.min())) / 8)
    folds = []
    for number in range(weeks, 0, -1):
        start, end = newest - number * length, newest - (number - 1) * length
        test = np.flatnonzero((data.created > start) & (data.created <= end))
        folds.append(Fold(day(start), np.flatnonzero(data.created <= start), test))
    return [fold for fold in folds if _enough(data.labels[fold.train]) and _enough(data.labels[fold.test])]


def random_folds(data: LabelledFeatures, count: int = 3, seed: int = 1) -> list[Fold]:
    """Random folds with the same share of genuine leads, each predicted from the others."""
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(count, shuffle=True, random_state=seed).split(data.labels, data.labels)
    return [Fold(f"fold {number}", train, test) for number, (train, test) in enumerate(folds, start=1)]


def learn(data: LabelledFeatures, recipe: Recipe, folds: Sequence[Fold], aim: Aim) -> Learned:
    """Train a booster on all of `data`, and learn from the folds whether to adapt it, how to calibrate and the flag.

    The folds should be as the leads to come: time-ordered ones for a model that will serve. Without any, random ones
    are made. The adapting trees are kept when the folds' log loss is lower with them.
    """
    folds = folds or random_folds(data)
    order = np.concatenate([fold.test for fold in folds])
    fold = np.repeat(np.arange(len(folds)), [len(f.test) for f in folds])
    labels = data.labels[order]
    plain, adapted = (np.concatenate(found) for found in zip(*_predicted(data, recipe, folds), strict=True))
    if recipe.adapting["rounds"] and mean_log_loss(labels, adapted) >= mean_log_loss(labels, plain):
        recipe = replace(recipe, adapting={"rounds": 0})
        adapted = plain
    calibration, validation = choose_calibration(labels, adapted, fold)
    return Learned(
        train_booster(data, recipe),
        calibration,
        _threshold(labels, validation, aim),
        float(data.labels.mean()),
        tuple(f.name for f in folds),
        order,
        validation,
        fold,
    )


def _predicted(
    data: LabelledFeatures, recipe: Recipe, folds: Sequence[Fold]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Probabilities of each fold without and with the adapting trees, which come last in one booster."""
    for fold in folds:
        booster = train_booster(data.take(fold.train), recipe)
        test = data.take(fold.test)
        adapted = test.predicted_by(booster)
        plain = test.predicted_by(booster, num_iteration=recipe.rounds) if recipe.adapting["rounds"] else adapted
        yield plain, adapted


def _threshold(labels: np.ndarray, probabilities: np.ndarray, aim: Aim) -> float:
    if aim.costs is None:
        return junk_budget_threshold(labels, probabilities, aim.junk_budget)
    curve = expected_gain(labels, probabilities, aim.costs, aim.true_share)
    return max(curve, key=lambda point: point["gain"])["threshold"]


def mean_log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The log loss of probabilities (n,), also where the labels are of one class."""
    from sklearn.metrics import log_loss

    return float(log_loss(labels, probabilities, labels=[0, 1]))


def _enough(labels: np.ndarray) -> bool:
    ones = int(labels.sum())
    return min(ones, len(labels) - ones) >= LEAST_OF_CLASS


def day(seconds: float) -> str:
    """The date of seconds since 1970, as YYYY-MM-DD."""
    return str(np.datetime64(int(seconds), "s").astype("datetime64[D]"))
