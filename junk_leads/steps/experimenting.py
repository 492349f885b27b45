"""Experiments: many learners on the same leads, and the table of how they fare.

What lives here: the learners (their settings are `reference/learners.yaml`), fitting and measuring one, tuning
LightGBM, and the leaderboard. What does not: tracking (`tracking.py`), and adopting parameters (`launching.py`).

Every learner is given the same leads to learn from and the same ones to predict, by the two splits that a training is
judged by. The product's own way of learning is one of them, so its line is what a training reports.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from junk_leads.errors import TrainingRefused
from junk_leads.reference import learner_settings, model_settings
from junk_leads.steps.evaluation import Interval, measure, random_split, temporal_split
from junk_leads.steps.training import LabelledFeatures, Recipe, train_booster
from junk_leads.steps.validation import Aim, Fold, learn, random_folds, weekly_folds

if TYPE_CHECKING:
    import lightgbm as lgb
    import optuna

METRICS = ("auc", "average_precision", "brier", "log_loss", "calibration_error")
SPLITS = ("temporal", "random")
SURE_TRIALS = 5  # trials before one may be given up after some of its folds

Progress = Callable[[str], None]


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


@dataclass(frozen=True)
class Tried:
    """How a learner fared. `metrics` are by `<split>_<metric>`; seconds are sums over the splits.

    `labels` and `probabilities` (n,) are of the temporal hold-out, as is `booster` (LightGBM's only) of the leads
    before it.
    """

    learner: Learner
    parameters: Mapping[str, Any]
    metrics: Mapping[str, Interval]
    tune_seconds: float
    fit_seconds: float
    predict_seconds: float
    labels: np.ndarray
    probabilities: np.ndarray
    booster: "lgb.Booster | None" = None
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class _Fitted:
    predict: Callable[[LabelledFeatures], np.ndarray]
    booster: "lgb.Booster | None" = None


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
            parameters = _of_recipe(own_recipe())
        if learner.tuned:
            seen_by_both = np.intersect1d(parts["temporal"].train, parts["random"].train)
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
            found = measure(test.labels, probabilities, threshold=0.5)
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
        fitted.booster,
        trials,
    )


def own_recipe() -> Recipe:
    """How a training trains unless told otherwise: `reference/model_params.yaml`."""
    settings = model_settings()
    return Recipe(settings["lightgbm"], settings["rounds"], tuple(settings["rising"]), settings["adapting"])


def _of_recipe(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a run of training takes it."""
    return {"rounds": recipe.rounds, "adapting": dict(recipe.adapting), "lightgbm": dict(recipe.lightgbm)}


def _recipe(parameters: Mapping[str, Any], rising: Sequence[str]) -> Recipe:
    lightgbm = {**model_settings()["lightgbm"], **parameters["lightgbm"]}
    return Recipe(lightgbm, parameters["rounds"], tuple(rising), parameters["adapting"])


def _fit(
    learner: Learner,
    parameters: Mapping[str, Any],
    train: LabelledFeatures,
    folds: Callable[[LabelledFeatures], list[Fold]],
) -> _Fitted:
    if learner.library != "lightgbm":
        return _fit_estimator(learner, train)
    if learner.plain:
        booster = train_booster(train, _recipe(parameters, ()))
        return _Fitted(lambda data: data.predicted_by(booster), booster)
    recipe = _recipe(parameters, model_settings()["rising"])
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


def tune(
    data: LabelledFeatures, budget: Budget, *, seed: int, progress: Progress = lambda line: None
) -> tuple[dict[str, Any], tuple[Trial, ...]]:
    """The parameters for LightGBM with the least log loss over the last weeks, each predicted from all before it.

    A tree-structured Parzen estimator searches from the product's own parameters on, so what it finds is no worse on
    these folds. Its trials are of boosters without adapting trees; a trial worse than most is given up between folds.
    The same leads, seed and number of trials give the same parameters; a budget in seconds may end sooner elsewhere.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folds = weekly_folds(data) or random_folds(data)
    pairs = [(data.take(fold.train), data.take(fold.test)) for fold in folds]
    own, trials, started = own_recipe(), [], time.perf_counter()

    def objective(trial: optuna.Trial) -> float:
        recipe = _recipe({**_tried(own, _suggested(trial)), "adapting": {"rounds": 0}}, own.rising)
        losses: list[float] = []
        for step, (train, test) in enumerate(pairs):
            losses += [_log_loss(test.labels, test.predicted_by(train_booster(train, recipe)))]
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
        "learning_rate": trial.suggest_float("learning_rate", 0.01, 0.3, log=True),
        "min_sum_hessian_in_leaf": trial.suggest_float("min_sum_hessian_in_leaf", 0.001, 100.0, log=True),
        "lambda_l2": trial.suggest_float("lambda_l2", 0.001, 1000.0, log=True),
        "feature_fraction": trial.suggest_float("feature_fraction", 0.3, 1.0),
        "rounds": trial.suggest_int("rounds", 50, 600),
    }


def _tried(own: Recipe, point: Mapping[str, Any]) -> dict[str, Any]:
    """The product's own recipe with a point of the search, as a run of training takes it."""
    lightgbm = {**own.lightgbm, **{name: value for name, value in point.items() if name != "rounds"}}
    return {"rounds": point["rounds"], "adapting": dict(own.adapting), "lightgbm": lightgbm}


def _log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    from sklearn.metrics import log_loss

    return float(log_loss(labels, probabilities, labels=[0, 1]))


def leaderboard(tried: Sequence[Tried], run_ids: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """One row for each learner, the one with the best AUC on the last leads by time first.

    Each metric comes with the bounds of its 95 % interval (`_low`, `_high`); `parameters` are JSON, of LightGBM those
    that a training takes. `run_ids` are MLflow's, by learner.
    """
    ranked = sorted(tried, key=lambda found: -found.metrics["temporal_auc"].value)
    rows = []
    for rank, found in enumerate(ranked, start=1):
        row: dict[str, Any] = {"rank": rank, "learner": found.learner.name, "title": found.learner.title}
        row |= {"library": found.learner.library}
        for name, interval in found.metrics.items():
            row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        row |= {name: getattr(found, name) for name in ("tune_seconds", "fit_seconds", "predict_seconds")}
        row |= {"trials": len(found.trials), "parameters": json.dumps(found.parameters, sort_keys=True)}
        rows.append({**row, "run_id": (run_ids or {}).get(found.learner.name)})
    return rows


HEAD = (
    *("rank", "learner", "AUC by time", "95 %", "AUC at random", "avg precision", "Brier", "log loss"),
    *("calibration", "tune s", "fit s", "predict s"),
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the leaderboard as people read it, under `HEAD`; all but the AUC at random are of the last leads."""
    return [
        str(row["rank"]),
        row["title"],
        f"{row['temporal_auc']:.4f}",
        f"{row['temporal_auc_low']:.4f} to {row['temporal_auc_high']:.4f}",
        f"{row['random_auc']:.4f}",
        f"{row['temporal_average_precision']:.4f}",
        f"{row['temporal_brier']:.4f}",
        f"{row['temporal_log_loss']:.4f}",
        f"{row['temporal_calibration_error']:.4f}",
        f"{row['tune_seconds']:.1f}" if row["trials"] else "",
        f"{row['fit_seconds']:.1f}",
        f"{row['predict_seconds']:.2f}",
    ]


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The leaderboard as a Markdown table."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|---" + "|---:" * (len(HEAD) - 2) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows)])


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The leaderboard as aligned text; numbers to the right."""
    table = [list(HEAD), *map(cells, rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 1 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    )


def trials_as_dicts(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The trials of tuning as JSON holds them."""
    return [asdict(trial) for trial in trials]
