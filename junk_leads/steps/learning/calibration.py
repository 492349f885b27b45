"""From a booster's probabilities to ones that mean what they say, and to the flag.

What lives here: calibration, the correction for the true share of genuine leads, the junk budget and the gain of
contacting leads. What does not: training (`training.py`) and the validation that all of it is learned on
(`validation.py`).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

KINDS = ("none", "platt", "beta")
_RIDGE, _MOST_STEPS, _LEAST_STEP = 1e-6, 100, 1e-9  # of Newton's method
_BOUND = 1e-6  # probabilities are kept this far from 0 and 1, where log-odds have no end


@dataclass(frozen=True)
class Calibration:
    """A rising map of probabilities: log-odds = a * log(p) - b * log(1 - p) + c.

    `none` has a = b = 1 and c = 0; Platt's has a = b; beta calibration (Kull, Silva Filho, Flach 2017) is free in
    all three.
    """

    kind: str = "none"
    a: float = 1.0
    b: float = 1.0
    c: float = 0.0

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, of the same shape."""
        if self.kind == "none":
            return probabilities
        bounded = np.clip(probabilities, _BOUND, 1 - _BOUND)
        return _expit(self.a * np.log(bounded) - self.b * np.log1p(-bounded) + self.c)

    def as_dict(self) -> dict[str, Any]:
        """Its kind and numbers, as JSON holds them."""
        return asdict(self)


def fit_calibration(
    kind: str, labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray | None = None
) -> Calibration:
    """The calibration of a kind that these labelled probabilities, shape (n,), ask for; `counts` (n,) of each, or one.

    One that would not rise everywhere is none.
    """
    if kind == "none" or len(np.unique(labels)) < 2:
        return Calibration()
    bounded = np.clip(probabilities, _BOUND, 1 - _BOUND)
    terms = [np.log(bounded), -np.log1p(-bounded)]
    columns = np.stack([*(terms if kind == "beta" else [terms[0] + terms[1]]), np.ones(len(bounded))], axis=1)
    *slopes, c = _logistic(columns, labels, np.ones(len(labels)) if counts is None else counts)
    a, b = (float(value) for value in np.resize(slopes, 2))
    if min(a, b) < 0 or max(a, b) == 0:
        return Calibration()
    return Calibration(kind, a, b, float(c))


def _logistic(columns: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The coefficients (c,) of a logistic regression on columns (n x c), the last of which is 1, by Newton's method."""
    ridge = np.array([_RIDGE] * (columns.shape[1] - 1) + [0.0])  # holds labels that a column tells apart
    found = np.array([1.0] * (columns.shape[1] - 1) + [0.0])

    def loss(coefficients: np.ndarray) -> float:
        told = columns @ coefficients
        return float(counts @ (np.logaddexp(0, told) - labels * told) + 0.5 * ridge @ coefficients**2)

    for _ in range(_MOST_STEPS):
        told = _expit(columns @ found)
        gradient = columns.T @ (counts * (told - labels)) + ridge * found
        curvature = (columns.T * (counts * told * (1 - told))) @ columns + np.diag(ridge + _RIDGE)
        step = np.linalg.solve(curvature, gradient)
        size, before = 1.0, loss(found)
        while size > _LEAST_STEP and loss(found - size * step) > before:
            size /= 2
        found = found - size * step
        if np.abs(size * step).max() < _LEAST_STEP:
            break
    return found


def choose_calibration(
    labels: np.ndarray, probabilities: np.ndarray, folds: np.ndarray, counts: np.ndarray | None = None
) -> tuple[Calibration, np.ndarray]:
    """The simplest kind that calibrates each of the folds (n,), when fitted on the others, as well as the best does.

    As well is: within one standard error over folds of the difference in log loss (Breiman's rule). Returns it fitted
    on all of them, and the probabilities (n,) of each fold calibrated by the others. `counts` (n,) is how many leads
    each is; one, when left out.
    """
    counts = np.ones(len(labels)) if counts is None else counts
    told = {kind: probabilities.copy() for kind in KINDS}
    names = np.unique(folds)
    losses = np.zeros((len(KINDS), len(names)))
    for place, fold in enumerate(names):
        within = folds == fold
        for row, kind in enumerate(KINDS):
            calibration = fit_calibration(kind, labels[~within], probabilities[~within], counts[~within])
            told[kind][within] = calibration.apply(probabilities[within])
            losses[row, place] = _log_loss(labels[within], told[kind][within], counts[within])
    worse = losses - losses[losses.mean(axis=1).argmin()]
    errors = worse.std(axis=1, ddof=1) / np.sqrt(len(names)) if len(names) > 1 else np.zeros(len(KINDS))
    chosen = KINDS[int(np.argmax(worse.mean(axis=1) <= errors))]
    return fit_calibration(chosen, labels, probabilities, counts), told[chosen]


def correct_base_rate(probabilities: np.ndarray, share: float, true_share: float | None) -> np.ndarray:
    """Probabilities for a platform where `true_share` of leads are genuine, of a model taught with `share` of them.

    Labelled files are balanced samples, so their probabilities are too high for the platform at large; the odds are
    scaled as Bayes' rule says (Elkan 2001). None leaves them as they are.
    """
    if true_share is None:
        return probabilities
    bounded = np.clip(probabilities, _BOUND, 1 - _BOUND)
    return _expit(np.log(bounded) - np.log1p(-bounded) + log_odds(true_share) - log_odds(share))


def population_weights(labels: np.ndarray, true_share: float | None, counts: np.ndarray | None = None) -> np.ndarray:
    """Weights (n,) that make a labelled sample one where `true_share` are genuine; as they are when it is None.

    `counts` (n,) is how many leads each is, one when left out; they are in the weights.
    """
    counts = np.ones(len(labels)) if counts is None else counts.astype(float)
    if true_share is None:
        return counts
    share = float(np.average(labels, weights=counts))
    weights: np.ndarray = counts * np.where(labels == 1, true_share / share, (1 - true_share) / (1 - share))
    return weights


def junk_budget_threshold(
    labels: np.ndarray, probabilities: np.ndarray, budget: float, counts: np.ndarray | None = None
) -> float:
    """The probability below which `budget` (0 to 1) of the genuine leads of a validation lie.

    `counts` (n,) is how many leads each is; one, when left out.
    """
    counts = np.ones(len(labels), dtype=np.int64) if counts is None else counts
    return float(quantiles(probabilities[labels == 1], counts[labels == 1], np.array([budget]))[0])


def quantiles(values: np.ndarray, counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The quantiles at `shares` (0 to 1) of values that are there `counts` times each: those of the values repeated."""
    order = np.argsort(values, kind="stable")
    ends, ordered = np.cumsum(counts[order]), values[order]
    places = shares * (ends[-1] - 1)
    below = np.floor(places)
    low, high = (
        ordered[np.searchsorted(ends, np.minimum(place, ends[-1] - 1), side="right")] for place in (below, below + 1)
    )
    found: np.ndarray = low + (high - low) * (places - below)
    return found


def expected_gain(
    labels: np.ndarray,
    probabilities: np.ndarray,
    costs: Mapping[str, float],
    true_share: float | None,
    counts: np.ndarray | None = None,
    points: int = 100,
) -> list[dict[str, float]]:
    """What a lead brings on average when those from a threshold on are contacted, for thresholds rising from 0.

    `costs` holds cost_of_contact and value_of_application, in one currency; `counts` (n,) is how many leads each is,
    one when left out. Returns threshold, contacted (share of
    all leads), genuine_lost (share of the genuine) and gain (currency for each lead of the file).
    """
    order = np.argsort(probabilities, kind="stable")
    weights = population_weights(labels, true_share, counts)[order]
    genuine = weights * labels[order]
    left = weights.sum() - np.concatenate([[0.0], np.cumsum(weights)])
    found = genuine.sum() - np.concatenate([[0.0], np.cumsum(genuine)])
    gain = (costs["value_of_application"] * found - costs["cost_of_contact"] * left) / weights.sum()
    thresholds = np.append(probabilities[order], 1.0)
    first = np.flatnonzero(np.diff(thresholds, prepend=-1.0) > 0)  # leads of one probability stand or fall together
    shown = first[np.unique(np.linspace(0, len(first) - 1, points).round().astype(int))]
    shown = np.unique(np.append(shown, first[np.argmax(gain[first])]))
    return [
        {
            "threshold": float(thresholds[place]),
            "contacted": float(left[place] / weights.sum()),
            "genuine_lost": float(1 - found[place] / genuine.sum()),
            "gain": float(gain[place]),
        }
        for place in shown
    ]


def log_odds(probability: float) -> float:
    """The log-odds of a probability."""
    bounded = min(max(probability, _BOUND), 1 - _BOUND)
    return math.log(bounded / (1 - bounded))


def _expit(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 / (1 + np.exp(-np.clip(values, -700, 700)))
    return result


def _log_loss(labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray) -> float:
    bounded = np.clip(probabilities, _BOUND, 1 - _BOUND)
    return float(-np.average(np.log(np.where(labels == 1, bounded, 1 - bounded)), weights=counts))
