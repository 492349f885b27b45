"""Experiments: many learners on the same leads.

What lives here: the learners (their settings are `reference/learners.yaml`), fitting one and measuring it. What does
not: tuning LightGBM (`tuning.py`), the table (`leaderboard.py`), tracking (`tracking.py`).

Every learner is given the same leads to learn from and the same ones to predict, by the two splits that a training is
judged by. The product's own way of learning is one of them, so its line is what a training reports.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from junk_leads.errors import TrainingRefused
from junk_leads.reference import learner_settings, model_settings
from junk_leads.steps.boosting import Booster
from junk_leads.steps.learning.evaluation import random_split, temporal_split
from junk_leads.steps.learning.metrics import Interval, measure
from junk_leads.steps.learning.training import LabelledFeatures, train_booster
from junk_leads.steps.learning.tuning import Budget, Progress, Trial, as_parameters, own_recipe, recipe_of, tune
from junk_leads.steps.learning.validation import Aim, Fold, learn, random_folds, weekly_folds

METRICS = ("auc", "average_precision", "brier", "log_loss", "calibration_error")
SPLITS = ("temporal", "random")


@dataclass(frozen=True)
class Learner:
    """One way of learning, as `reference/learners.yaml` has it.

    LightGBM's is the product's own unless it is `plain` (without constraints and calibration) or `tuned`; of
    scikit-learn it is an `estimator` by its full name, its features `scaled` or as they are.
    """

    name: str
    title: str
    library: str
    estimator: str = ""
    parameters: Mapping[str, Any] | None = None
    scaled: bool = False
    plain: bool = False
    tuned: bool = False


@dataclass(frozen=True)
class Tried:
    """How a learner fared. `metrics` are by `<split>_<metric>`; seconds are sums over the splits.

    `labels`, `probabilities` and `counts` (r,) are of the rows of the temporal hold-out, as is `booster` (LightGBM's
    only) of the leads before it.
    """

    learner: Learner
    parameters: Mapping[str, Any]
    metrics: Mapping[str, Interval]
    tune_seconds: float
    fit_seconds: float
    predict_seconds: float
    labels: np.ndarray
    probabilities: np.ndarray
    counts: np.ndarray
    booster: Booster | None = None
    trials: tuple[Trial, ...] = ()

    def figures(self) -> dict[str, float]:
        """Every metric and the bounds of its 95 % interval (`_low`, `_high`), and the seconds, by name."""
        ends = (("", "value"), ("_low", "low"), ("_high", "high"))
        metrics = {name + end: getattr(found, bound) for name, found in self.metrics.items() for end, bound in ends}
        return metrics | {name: getattr(self, name) for name in ("tune_seconds", "fit_seconds", "predict_seconds")}


@dataclass(frozen=True)
class _Fitted:
    predict: Callable[[LabelledFeatures], np.ndarray]
    booster: Booster | None = None


def learners(names: Sequence[str] = ()) -> list[Learner]:
    """The learners of these names, in the order they are tried; all without any names.

    Raises TrainingRefused for a name that there is not.
    """
    known = {name: Learner(name, **settings) for name, settings in learner_settings().items()}
    for name in names:
        if name not in known:
            raise TrainingRefused(f"there is no learner {name!r}; learners are {', '.join(known)}")
    return [learner for name, learner in known.items() if name in names or not names]


def splits(data: LabelledFeatures, share: float, seed: int) -> dict[str, Fold]:
    """The temporal and the random split, the same as a training is judged by."""
    return {"temporal": temporal_split(data, share), "random": random_split(data, share, seed)}


def try_learner(
    learner: Learner,
    data: LabelledFeatures,
    budget: Budget,
    *,
    share: float,
    seed: int,
    progress: Progress = lambda line: None,
) -> Tried:
    """Fit a learner on both splits and measure it on the leads it has not seen; `share` (0 to 1) of them are those.

    Tuning sees only leads that neither split holds out. Everything runs in one thread, so that seconds compare.
    """
    from threadpoolctl import threadpool_limits

    parts = splits(data, share, seed)
    with threadpool_limits(1):
        started = time.perf_counter()
        parameters: dict[str, Any] = dict(learner.parameters or {})
        trials: tuple[Trial, ...] = ()
        if learner.library == "lightgbm" and not learner.plain:
            parameters = as_parameters(own_recipe())
        if learner.tuned:
            seen_by_both = np.where(parts["temporal"].train > 0, parts["random"].train, 0)
            parameters, trials = tune(data.take(seen_by_both), budget, seed=seed, progress=progress)
        tuned = time.perf_counter()
        metrics: dict[str, Interval] = {}
        fit_seconds = predict_seconds = 0.0
        for name in reversed(SPLITS):  # the temporal one last: its model and probabilities are kept
            train, test = data.take(parts[name].train), data.take(parts[name].test)
            begun = time.perf_counter()
            fitted = _fit(learner, parameters, train, weekly_folds if name == "temporal" else random_folds)
            done = time.perf_counter()
            probabilities = fitted.predict(test)
            fit_seconds, predict_seconds = fit_seconds + done - begun, predict_seconds + time.perf_counter() - done
            found = measure(test.labels, probabilities, 0.5, test.counts)
            metrics |= {f"{name}_{metric}": found[metric] for metric in METRICS}
    return Tried(
        learner,
        parameters,
        metrics,
        tuned - started if learner.tuned else 0.0,
        fit_seconds,
        predict_seconds,
        test.labels,
        probabilities,
        test.counts,
        fitted.booster,
        trials,
    )


def _fit(
    learner: Learner,
    parameters: Mapping[str, Any],
    train: LabelledFeatures,
    folds: Callable[[LabelledFeatures], list[Fold]],
) -> _Fitted:
    if learner.library != "lightgbm":
        return _fit_estimator(learner, train)
    if learner.plain:
        booster = train_booster(train, recipe_of(parameters, ()))
        return _Fitted(lambda data: data.predicted_by(booster), booster)
    recipe = recipe_of(parameters, model_settings()["rising"])
    learned = learn(train, recipe, folds(train), Aim(model_settings()["junk_budget"]))
    return _Fitted(learned.predict, learned.booster)


def _fit_estimator(learner: Learner, train: LabelledFeatures) -> _Fitted:
    from sklearn.preprocessing import StandardScaler

    module, _, name = learner.estimator.rpartition(".")
    estimator = getattr(import_module(module), name)(**(learner.parameters or {}))
    kinds, labels, weights = train.weighted_rows()
    scaler = StandardScaler().fit(np.arcsinh(kinds), sample_weight=weights) if learner.scaled else None

    def prepared(kinds: np.ndarray) -> np.ndarray:
        if scaler is None:
            return kinds.astype(np.float32)
        scaled: np.ndarray = scaler.transform(np.arcsinh(kinds))
        return scaled

    estimator.fit(prepared(kinds), labels, sample_weight=weights)
    return _Fitted(lambda data: data.predicted_with(lambda kinds: estimator.predict_proba(prepared(kinds))[:, 1]))
