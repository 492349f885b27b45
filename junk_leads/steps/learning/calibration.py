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


def fit_calibration(kind: str, labels: np.ndarray, probabilities: np.ndarray) -> Calibration:
    """The calibration of a kind that these labelled probabilities, shape (n,), ask for.

    One that would not rise everywhere is none.
    """
    from sklearn.linear_model import LogisticRegression

    if kind == "none" or len(np.unique(labels)) < 2:
        return Calibration()
    bounded = np.clip(probabilities, _BOUND, 1 - _BOUND)
    terms = [np.log(bounded), -np.log1p(-bounded)]
    columns = np.stack(terms if kind == "beta" else [terms[0] + terms[1]], axis=1)
    found = LogisticRegression(C=1e6, max_iter=500).fit(columns, labels)
    a, b = (float(value) for value in np.resize(found.coef_[0], 2))
    if min(a, b) < 0 or max(a, b) == 0:
        return Calibration()
    return Calibration(kind, a, b, float(found.intercept_[0]))


def choose_calibration(
    labels: np.ndarray, probabilities: np.ndarray, folds: np.ndarray
) -> tuple[Calibration, np.ndarray]:
    """The simplest kind that calibrates each of the folds (n,), when fitted on the others, as well as the best does.

    As well is: within one standard error over folds of the difference in log loss (Breiman's rule). Returns it fitted
    on all of them, and the probabilities (n,) of each fold calibrated by the others.
    """
    told = {kind: probabilities.copy() for kind in KINDS}
    names = np.unique(folds)
    losses = np.zeros((len(KINDS), len(names)))
    for place, fold in enumerate(names):
        within = folds == fold
        for row, kind in enumerate(KINDS):
            calibration = fit_calibration(kind, labels[~within], probabilities[~within])
            told[kind][within] = calibration.apply(probabilities[within])
            losses[row, place] = _log_loss(labels[within], told[kind][within])
    worse = losses - losses[losses.mean(axis=1).argmin()]
    errors = worse.std(axis=1, ddof=1) / np.sqrt(len(names)) if len(names) > 1 else np.zeros(len(KINDS))
    chosen = KINDS[int(np.argmax(worse.mean(axis=1) <= errors))]
    return fit_calibration(chosen, labels, probabilities), told[chosen]


def correct_base_rate(probabilities: np.ndarray, share: float, true_share: float | None) -> np.ndarray:
    """Probabilities for a platform where `true_share` of leads are genuine, of a model taught with `share` of them.

    Labelled files are balanced samples, so their probabilities are too high for the platform at large; the odds are
    scaled as Bayes' rule says (Elkan 2001). None leaves them as they are.
    """
    if true_share is None:
        return probabilities
    bounded = np.clip(probabilities, _BOUND, 1 - _BOUND)
    return _expit(np.log(bounded) - np.log1p(-bounded) + log_odds(true_share) - log_odds(share))


def population_weights(labels: np.ndarray, true_share: float | None) -> np.ndarray:
    """Weights (n,) that make a labelled sample one where `true_share` are genuine; all 1 when it is None."""
    if true_share is None:
        return np.ones(len(labels))
    share = float(labels.mean())
    return np.where(labels == 1, true_share / share, (1 - true_share) / (1 - share))


def junk_budget_threshold(labels: np.ndarray, probabilities: np.ndarray, budget: float) -> float:
    """The probability below which `budget` (0 to 1) of the genuine leads of a validation lie."""
    return float(np.quantile(probabilities[labels == 1], budget))


def expected_gain(
    labels: np.ndarray,
    probabilities: np.ndarray,
    costs: Mapping[str, float],
    true_share: float | None,
    points: int = 100,
) -> list[dict[str, float]]:
    """What a lead brings on average when those from a threshold on are contacted, for thresholds rising from 0.

    `costs` holds cost_of_contact and value_of_application, in one currency. Returns threshold, contacted (share of
    all leads), genuine_lost (share of the genuine) and gain (currency for each lead of the file).
    """
    order = np.argsort(probabilities, kind="stable")
    weights = population_weights(labels, true_share)[order]
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
    result: np.ndarray = 1 / (1 + np.exp(-values))
    return result


def _log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    bounded = np.clip(probabilities, _BOUND, 1 - _BOUND)
    return float(-np.log(np.where(labels == 1, bounded, 1 - bounded)).mean())
