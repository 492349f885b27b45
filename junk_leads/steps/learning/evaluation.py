"""Judging a way of learning: leads held out, a model learned without them, and the report of what it says of them.

What lives here: the random and the temporal split, learning and measuring on both, the report. What does not: metrics
(`metrics.py`), learning one model (`validation.py`), comparing two (`gating.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.learning.calibration import correct_base_rate, expected_gain, population_weights
from junk_leads.steps.learning.metrics import Interval, gains, grade_table, measure, measure_slices
from junk_leads.steps.learning.side_by_side import Begun, learning_begun
from junk_leads.steps.learning.training import LabelledFeatures, Recipe
from junk_leads.steps.learning.validation import Aim, Fold, Learned, Learning, drawn, random_folds, weekly_folds


def random_split(data: LabelledFeatures, share: float, seed: int) -> Fold:
    """A random split with the same share of genuine leads on both sides; `share` is tested."""
    test = drawn(data.counts, data.labels, share, np.random.default_rng(seed))
    return Fold("random", data.counts - test, test)


def temporal_split(data: LabelledFeatures, share: float) -> Fold:
    """The leads of the last days, as near to `share` of all as whole days are, are tested, those before are trained on.

    Leads of one day alone have none before: of them a random share is tested.
    """
    days, place = np.unique(data.days, return_inverse=True)
    if len(days) < 2:
        return replace(random_split(data, share, 1), name="temporal")
    left = data.leads - np.cumsum(np.bincount(place, data.counts))[:-1]
    last = days[np.argmin(np.abs(left - share * data.leads))]
    train = np.where(data.days <= last, data.counts, 0)
    return Fold("temporal", train, data.counts - train)


@dataclass(frozen=True)
class Report:
    """What hold-outs showed: metrics by split, by week and by slice; gains by tenth, grades, and gain in money.

    The rolling split is the last weeks, each predicted by a model of what came before; the slices, tenths, grades and
    gain curve are of the temporal split, on which the model is judged.
    """

    splits: Mapping[str, Mapping[str, Interval]]
    weeks: Mapping[str, Mapping[str, Interval]]
    slices: Mapping[str, Mapping[str, Interval]]
    tenths: Sequence[Mapping[str, float]]
    grades: Sequence[Mapping[str, Any]]
    gain_curve: Sequence[Mapping[str, float]] = ()

    def values(self) -> dict[str, float]:
        """Every split's metrics without their intervals, as `<split>_<metric>`."""
        return {f"{split}_{name}": x.value for split, found in self.splits.items() for name, x in found.items()}

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it; an interval is [value, low, high]."""
        measured = {
            name: {key: {m: [x.value, x.low, x.high] for m, x in found.items()} for key, found in part.items()}
            for name, part in (("splits", self.splits), ("weeks", self.weeks), ("slices", self.slices))
        }
        listed = {"tenths": self.tenths, "grades": self.grades, "gain_curve": self.gain_curve}
        return {**measured, **{name: [dict(row) for row in rows] for name, rows in listed.items()}}


@dataclass(frozen=True)
class Evaluated:
    """A model learned from all leads, its report, and the model of the temporal split, which it is judged by.

    `holdout` are the leads that the latter has not seen, `probabilities` what it says of their rows, shape (r,).
    """

    model: Learned
    judged: Learned
    report: Report
    holdout: LabelledFeatures
    probabilities: np.ndarray


@dataclass(frozen=True)
class Evaluating:
    """An evaluation under way (`evaluating`): its splits, and the learning of the models on them, which has begun."""

    random: Fold
    temporal: Fold
    data: LabelledFeatures
    aim: Aim
    learning: Begun

    def evaluated(self, encoder: Encoder, grades: Mapping[str, float]) -> Evaluated:
        """Its end: the models, and what they say of leads held out; `grades` are the least probability of each."""
        aim = self.aim
        judged, judged_at_random, model = self.learning.learned()
        test, at_random = self.data.take(self.temporal.test), self.data.take(self.random.test)
        probabilities = judged.predict(test)
        sliced = self.learning.beside(partial(measure_slices, test, encoder, probabilities, judged.threshold))
        splits = {
            self.random.name: _measured(at_random, judged_at_random.predict(at_random), judged_at_random, aim),
            self.temporal.name: _measured(test, probabilities, judged, aim),
            "rolling": _measured(model, model.validation, model, aim),
        }
        weeks = {}
        for number, name in enumerate(model.folds):
            week = model.fold == number
            weeks[name] = measure(model.labels[week], model.validation[week], model.threshold, model.counts[week])
        report = Report(
            splits,
            weeks,
            sliced(),
            gains(test.labels, probabilities, test.counts),
            grade_table(test.labels, probabilities, test.counts, grades),
            expected_gain(test.labels, probabilities, aim.costs, aim.true_share, test.counts) if aim.costs else (),
        )
        return Evaluated(model, judged, report, test, probabilities)


@contextmanager
def evaluating(data: LabelledFeatures, recipe: Recipe, aim: Aim, *, share: float, seed: int) -> Iterator[Evaluating]:
    """An evaluation, begun: of many leads another process fits models already while this one does something else.

    The model is learned from all leads, and what the same way of learning gives is measured on leads held out, of which
    `share` (0 to 1) are. Of the random split the inner folds are random too, of the temporal one they are weeks, as for
    the model itself: the calibration, threshold and adapting trees are chosen without the leads they are measured on.
    """
    random, temporal = random_split(data, share, seed), temporal_split(data, share)
    learned_from = (
        (data.take(temporal.train), weekly_folds),
        (data.take(random.train), random_folds),
        (data, weekly_folds),
    )
    models = [Learning.of(train, recipe, folds(train), aim) for train, folds in learned_from]
    with learning_begun(models) as learning:
        yield Evaluating(random, temporal, data, aim, learning)


def evaluate(
    data: LabelledFeatures,
    encoder: Encoder,
    recipe: Recipe,
    aim: Aim,
    *,
    grades: Mapping[str, float],
    share: float,
    seed: int,
) -> Evaluated:
    """Learn a model from all of `data`, and measure what the same way of learning gives on leads held out.

    See `evaluating`.
    """
    with evaluating(data, recipe, aim, share=share, seed=seed) as begun:
        return begun.evaluated(encoder, grades)


def _measured(
    leads: LabelledFeatures | Learned, probabilities: np.ndarray, judged: Learned, aim: Aim
) -> dict[str, Interval]:
    """The metrics, and where a true share is set, the mean that probabilities corrected for it have over leads
    weighted to that share.
    """
    found = measure(leads.labels, probabilities, judged.threshold, leads.counts)
    if aim.true_share is None:
        return found
    told = correct_base_rate(probabilities, judged.share, aim.true_share)
    mean = float(np.average(told, weights=population_weights(leads.labels, aim.true_share, leads.counts)))
    return {**found, "corrected_mean": Interval(mean, mean, mean)}
