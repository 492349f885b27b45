"""Tuning: LightGBM's parameters, searched with Optuna.

What lives here: the search, and recipes as the parameters that a training takes. What does not: the folds
(`validation.py`), and what the parameters found are worth on leads held out (`experimenting.py`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from junk_leads.reference import model_settings
from junk_leads.steps.learning.training import LabelledFeatures, Recipe, train_booster
from junk_leads.steps.learning.validation import mean_log_loss, random_folds, weekly_folds

if TYPE_CHECKING:
    import optuna

SURE_TRIALS = 5  # trials before one may be given up after some of its folds

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Budget:
    """How long tuning searches: until these seconds are over or this many trials are made."""

    seconds: float
    trials: int


@dataclass(frozen=True)
class Trial:
    """One trial of tuning: what was tried, its log loss over the folds (None when given up), and how long it took."""

    number: int
    parameters: Mapping[str, Any]
    log_loss: float | None
    seconds: float


def own_recipe() -> Recipe:
    """How a training trains unless told otherwise: `reference/model_params.yaml`."""
    settings = model_settings()
    own = {"lightgbm": {}, "rounds": settings["rounds"], "adapting": settings["adapting"]}
    return recipe_of(own, settings["rising"])


def as_parameters(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a run of training takes it."""
    return {"rounds": recipe.rounds, "adapting": dict(recipe.adapting), "lightgbm": dict(recipe.lightgbm)}


def recipe_of(parameters: Mapping[str, Any], rising: Sequence[str]) -> Recipe:
    """The recipe that a run of training makes of these parameters; `rising` as in `Recipe`."""
    lightgbm = {**model_settings()["lightgbm"], **parameters["lightgbm"]}
    return Recipe(lightgbm, parameters["rounds"], tuple(rising), parameters["adapting"])


def tune(
    data: LabelledFeatures, budget: Budget, *, seed: int, progress: Progress = lambda line: None
) -> tuple[dict[str, Any], tuple[Trial, ...]]:
    """The parameters for LightGBM with the least log loss over the last weeks, each predicted from all before it.

    A tree-structured Parzen estimator searches from the product's own parameters on, so what it finds is no worse on
    these folds. Its trials are of boosters without adapting trees; a trial worse than most is given up between folds.
    The same leads, seed and number of trials give the same parameters; a budget in seconds makes fewer or more trials
    elsewhere, and the one that is running when it is over is finished.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folds = weekly_folds(data) or random_folds(data)
    pairs = [(data.take(fold.train), data.take(fold.test).undated()) for fold in folds]
    own, trials, started = own_recipe(), [], time.perf_counter()

    def objective(trial: optuna.Trial) -> float:
        recipe = recipe_of({**_tried(own, _suggested(trial)), "adapting": {"rounds": 0}}, own.rising)
        losses: list[float] = []
        for step, (train, test) in enumerate(pairs):
            told = test.predicted_by(train_booster(train, recipe))
            losses.append(mean_log_loss(test.labels, told, test.counts))
            trial.report(float(np.mean(losses)), step)
            if step + 1 < len(pairs) and trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(losses))

    def tell(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        complete = trial.state is optuna.trial.TrialState.COMPLETE
        seconds = trial.duration.total_seconds() if trial.duration else 0.0
        trials.append(Trial(trial.number, trial.params, trial.value if complete else None, seconds))
        if trial.number == study.best_trial.number or len(trials) % 10 == 0:
            progress(
                f"tuning LightGBM: log loss {study.best_value:.5f} after {len(trials)} trials, "
                f"{time.perf_counter() - started:.0f} of {budget.seconds:g} s"
            )

    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed % 2**32),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=SURE_TRIALS),
    )
    study.enqueue_trial(_start(own))
    study.optimize(objective, n_trials=budget.trials, timeout=budget.seconds, callbacks=[tell])
    return _tried(own, study.best_params), tuple(trials)


def _start(recipe: Recipe) -> dict[str, Any]:
    """The product's own parameters as a point of the search."""
    told = recipe.lightgbm
    return {
        "num_leaves": told.get("num_leaves", 31),
        "learning_rate": told.get("learning_rate", 0.1),
        "min_sum_hessian_in_leaf": told.get("min_sum_hessian_in_leaf", 0.001),
        "lambda_l2": max(told.get("lambda_l2", 0.0), 0.001),  # the least of a search by magnitude
        "feature_fraction": told.get("feature_fraction", 1.0),
        "rounds": recipe.rounds,
    }


def _suggested(trial: "optuna.Trial") -> dict[str, Any]:
    return {
        "num_leaves": trial.suggest_int("num_leaves", 4, 128, log=True),
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 1.0, log=True),
        "min_sum_hessian_in_leaf": trial.suggest_float("min_sum_hessian_in_leaf", 0.001, 100.0, log=True),
        "lambda_l2": trial.suggest_float("lambda_l2", 0.001, 1000.0, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.3, 1.0),
        "rounds": trial.suggest_int("rounds", 50, 600),
    }


def _tried(own: Recipe, point: Mapping[str, Any]) -> dict[str, Any]:
    """The product's own recipe with a point of the search, as a run of training takes it."""
    lightgbm = {**own.lightgbm, **{name: value for name, value in point.items() if name != "rounds"}}
    return {"rounds": point["rounds"], "adapting": dict(own.adapting), "lightgbm": lightgbm}


def trials_as_dicts(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The trials of tuning as JSON holds them."""
    return [asdict(trial) for trial in trials]
