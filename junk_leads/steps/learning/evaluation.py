"""Judging a way of learning: leads held out, a model learned without them, and the report of what it says of them.

What lives here: the random and the temporal split, learning and measuring on both, the report. What does not: metrics
(`metrics.py`), learning one model (`validation.py`), comparing two (`gating.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.learning.calibration import correct_base_rate, expected_gain, population_weights
from junk_leads.steps.learning.metrics import Interval, gains, grade_table, measure, measure_slices
from junk_leads.steps.learning.training import LabelledFeatures, Recipe
from junk_leads.steps.learning.validation import Aim, Fold, Learned, learn, random_folds, weekly_folds


def random_split(data: LabelledFeatures, share: float, seed: int) -> Fold:
    """A random split with the same share of genuine leads on both sides; `share` is tested."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(len(data)), test_size=share, random_state=seed, stratify=data.labels)
    return Fold("random", np.sort(train), np.sort(test))


def temporal_split(data: LabelledFeatures, share: float) -> Fold:
    """The last `share` of leads by creation is tested, what came before is trained on."""
    order = np.argsort(data.created, kind="stable")
    cut = round(len(order) * (1 - share))
    return Fold("temporal", order[:cut], order[cut:])


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

    `holdout` are the row numbers that the latter has not seen, `probabilities` what it says of them.
    """

    model: Learned
    judged: Learned
    report: Report
    holdout: np.ndarray
    probabilities: np.ndarray


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

    Of the random split the inner folds are random too, of the temporal one they are weeks, as for the model itself:
    the calibration, threshold and adapting trees are chosen without the leads they are measured on. `share` (0 to 1)
    of the leads are held out.
    """
    random, temporal = random_split(data, share, seed), temporal_split(data, share)
    model = learn(data, recipe, weekly_folds(data), aim)
    splits = {}
    for split, folds in ((random, random_folds), (temporal, weekly_folds)):
        train, test = data.take(split.train), data.take(split.test)
        judged = learn(train, recipe, folds(train), aim)
        probabilities = judged.predict(test)
        splits[split.name] = measure(test.labels, probabilities, judged.threshold)
        splits[split.name] |= _of_population(test.labels, probabilities, judged.share, aim)
    labels = data.labels[model.validated]
    splits["rolling"] = measure(labels, model.validation, model.threshold)
    splits["rolling"] |= _of_population(labels, model.validation, model.share, aim)
    weeks = {
        name: measure(labels[model.fold == number], model.validation[model.fold == number], model.threshold)
        for number, name in enumerate(model.folds)
    }
    report = Report(
        splits,
        weeks,
        measure_slices(test, encoder, probabilities, judged.threshold),
        gains(test.labels, probabilities),
        grade_table(test.labels, probabilities, grades),
        expected_gain(test.labels, probabilities, aim.costs, aim.true_share) if aim.costs else (),
    )
    return Evaluated(model, judged, report, temporal.test, probabilities)


def _of_population(labels: np.ndarray, probabilities: np.ndarray, share: float, aim: Aim) -> dict[str, Interval]:
    """The mean that probabilities corrected for the true share have over leads weighted to that share."""
    if aim.true_share is None:
        return {}
    told = correct_base_rate(probabilities, share, aim.true_share)
    mean = float(np.average(told, weights=population_weights(labels, aim.true_share)))
    return {"corrected_mean": Interval(mean, mean, mean)}
