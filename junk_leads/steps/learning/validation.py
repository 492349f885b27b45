"""Validation: what a training learns from leads that its booster has not seen.

What lives here: time-ordered and random folds, and learning a whole model (booster, calibration, threshold) with
them. What does not: the booster (`training.py`), and measuring the result on leads held out (`evaluation.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from junk_leads.steps.boosting import Booster
from junk_leads.steps.learning.calibration import (
    Calibration,
    choose_calibration,
    expected_gain,
    junk_budget_threshold,
)
from junk_leads.steps.learning.training import LabelledFeatures, Recipe, train_boosters

WEEK = 7.0  # days
LEAST_OF_CLASS = 20  # leads of each class that a fold trains on and predicts


@dataclass(frozen=True)
class Fold:
    """How many leads of each row (r,) to train on and to predict, and what the fold is called."""

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

    Those leads are rows in the folds' order: `labels`, `counts`, `validation` (their probabilities, each fold
    calibrated by the others) and `fold` (the place in `folds`) have shape (v,). `share` of the leads trained on were
    genuine.
    """

    booster: Booster
    calibration: Calibration
    threshold: float
    share: float
    folds: tuple[str, ...]
    labels: np.ndarray
    counts: np.ndarray
    validation: np.ndarray
    fold: np.ndarray

    def as_settings(self) -> dict[str, Any]:
        """What the booster alone does not tell, as a model carries it."""
        return {"calibration": self.calibration.as_dict(), "threshold": self.threshold, "share_of_genuine": self.share}

    def predict(self, data: LabelledFeatures) -> np.ndarray:
        """Calibrated probabilities of each row, shape (r,), with the share of genuine leads of the training."""
        return self.calibration.apply(data.predicted_by(self.booster))


def weekly_folds(data: LabelledFeatures, weeks: int = 4) -> list[Fold]:
    """The last weeks, each predicted from all that came before it; of leads of fewer than eight weeks, eighths.

    They are cut between days. A fold that has too few leads of a class is left out.
    """
    newest, oldest = float(data.days.max(initial=0)), float(data.days.min(initial=0))
    length = min(WEEK, (newest - oldest + 1) / 8)
    folds = []
    for number in range(weeks, 0, -1):
        start, end = newest - number * length, newest - (number - 1) * length
        test = np.where((data.days > start) & (data.days <= end), data.counts, 0)
        folds.append(Fold(day(np.floor(start + 1)), np.where(data.days <= start, data.counts, 0), test))
    return [fold for fold in folds if _enough(data.labels, fold.train) and _enough(data.labels, fold.test)]


def random_folds(data: LabelledFeatures, count: int = 3, seed: int = 1) -> list[Fold]:
    """Random folds with the same share of genuine leads, each predicted from the others."""
    generator, left = np.random.default_rng(seed), data.counts
    tests = []
    for parts in range(count, 1, -1):
        tests.append(drawn(left, data.labels, 1 / parts, generator))
        left = left - tests[-1]
    return [Fold(f"fold {n}", data.counts - test, test) for n, test in enumerate([*tests, left], start=1)]


def drawn(counts: np.ndarray, labels: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """A random `share` (0 to 1) of the leads that rows count, without replacement and of each class the same share.

    Takes and returns counts of shape (r,).
    """
    taken = np.zeros_like(counts)
    for label in (1, 0):
        rows = np.flatnonzero(labels == label)
        leads = int(counts[rows].sum())
        if len(rows):
            taken[rows] = generator.multivariate_hypergeometric(counts[rows], round(leads * share), method="marginals")
    return taken


@dataclass(frozen=True)
class Learning:
    """A model to be learned, in parts that do not know of each other: one for each fold, the last for the model's own.

    The folds should be as the leads to come: time-ordered ones for a model that will serve. Where none can be made of
    the leads, they are random ones.
    """

    data: LabelledFeatures
    recipe: Recipe
    folds: Sequence[Fold]
    aim: Aim

    @classmethod
    def of(cls, data: LabelledFeatures, recipe: Recipe, folds: Sequence[Fold], aim: Aim) -> "Learning":
        """It, with random folds when there are none."""
        return cls(data, recipe, folds or random_folds(data), aim)

    @property
    def parts(self) -> range:
        """The numbers of its parts."""
        return range(len(self.folds) + 1)

    def size(self, part: int) -> int:
        """How many rows the boosters of a part are fitted on."""
        return int(np.count_nonzero(self.folds[part].train)) if part < len(self.folds) else len(self.data.counts)

    def fit(self, part: int) -> tuple[Any, ...]:
        """A fold's test, rows of kind and label alone (t,): labels, counts, probabilities without and with the adapting
        trees. Of the last part the two boosters.
        """
        if part == len(self.folds):
            return train_boosters(self.data, self.recipe)
        fold, rounds = self.folds[part], self.recipe.rounds
        test = self.data.take(fold.test).undated()
        _, booster = train_boosters(self.data.take(fold.train), self.recipe)
        first = test.predicted_by(booster, num_iteration=rounds, raw_score=True)
        has_more = booster.num_trees() > rounds
        last = test.predicted_by(booster, start_iteration=rounds, raw_score=True) if has_more else 0.0
        plain, adapted = (1 / (1 + np.exp(-raw)) for raw in (first, first + last))
        return test.labels, test.counts, plain, adapted

    def learned(self, fitted: Sequence[tuple[Any, ...]]) -> Learned:
        """The model, of all its parts in their order.

        The adapting trees are kept when the folds' log loss is lower with them.
        """
        *tests, boosters = fitted
        labels, counts, plain, adapted = (np.concatenate(told) for told in zip(*tests, strict=True))
        fold = np.repeat(np.arange(len(tests)), [len(test[0]) for test in tests])
        losses = [mean_log_loss(labels, told, counts) for told in (plain, adapted)]
        is_adapted = losses[1] < losses[0]
        calibration, validation = choose_calibration(labels, adapted if is_adapted else plain, fold, counts)
        return Learned(
            boosters[is_adapted],
            calibration,
            _threshold(labels, validation, counts, self.aim),
            self.data.share,
            tuple(f.name for f in self.folds),
            labels,
            counts,
            validation,
            fold,
        )


def learn(data: LabelledFeatures, recipe: Recipe, folds: Sequence[Fold], aim: Aim) -> Learned:
    """Train a booster on all of `data`, and learn from the folds whether to adapt it, how to calibrate and the flag.

    Without any folds, random ones are made.
    """
    learning = Learning.of(data, recipe, folds, aim)
    return learning.learned([learning.fit(part) for part in learning.parts])


def _threshold(labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray, aim: Aim) -> float:
    if aim.costs is None:
        return junk_budget_threshold(labels, probabilities, aim.junk_budget, counts)
    curve = expected_gain(labels, probabilities, aim.costs, aim.true_share, counts)
    return max(curve, key=lambda point: point["gain"])["threshold"]


def mean_log_loss(labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray) -> float:
    """The log loss of probabilities (r,) of so many leads each (r,), also where the labels are of one class."""
    least = np.finfo(float).eps
    bounded = np.clip(probabilities, least, 1 - least)
    return float(-np.average(np.log(np.where(labels == 1, bounded, 1 - bounded)), weights=counts))


def _enough(labels: np.ndarray, counts: np.ndarray) -> bool:
    return min(int(counts[labels == label].sum()) for label in (0, 1)) >= LEAST_OF_CLASS


def day(days: float) -> str:
    """The date of whole days since 1970, as YYYY-MM-DD."""
    return str(np.datetime64(int(days), "D"))
