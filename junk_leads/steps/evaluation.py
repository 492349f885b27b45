"""Measuring a model on leads it has not seen, always from probabilities.

What lives here: splits, metrics, their bootstrap intervals, slices, and the paired comparison of two models. What does
not: training (`training.py`), thresholds and calibration (`calibration.py`), plots (`plots.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from junk_leads.steps.training import LabelledFeatures

RESAMPLES = 200
BINS = 15  # of equal width, for the expected calibration error
_WEEK = 7 * 24 * 3600


@dataclass(frozen=True)
class Split:
    """Row numbers to train on and to test on."""

    name: str
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A measured value and the bounds of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"


def random_split(data: LabelledFeatures, share: float, seed: int) -> Split:
    """A random split with the same share of genuine leads on both sides; `share` is tested."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(len(data)), test_size=share, random_state=seed, stratify=data.labels)
    return Split("random", np.sort(train), np.sort(test))


def temporal_split(data: LabelledFeatures, share: float) -> Split:
    """The last `share` of leads by creation is tested, what came before is trained on."""
    order = np.argsort(data.created, kind="stable")
    cut = round(len(order) * (1 - share))
    return Split("temporal", order[:cut], order[cut:])


def weekly_splits(data: LabelledFeatures, weeks: int, *, least: int = 500) -> Iterator[Split]:
    """For each of the last `weeks` weeks with `least` leads: trained on all before it, tested on it."""
    last = float(data.created.max())
    for back in range(weeks, 0, -1):
        start = last - back * _WEEK
        train = np.flatnonzero(data.created <= start)
        test = np.flatnonzero((data.created > start) & (data.created <= start + _WEEK))
        if min(len(train), len(test)) >= least and len(np.unique(data.labels[test])) == 2:
            yield Split(f"week_{weeks - back + 1}", train, test)


def checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities as they can be measured, both of shape (n,).

    Raises ValueError for swapped arguments, hard labels instead of probabilities, values out of range or NaN.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=float)
    if labels.shape != probabilities.shape or not len(labels):
        raise ValueError(f"{labels.shape} labels and {probabilities.shape} probabilities cannot be measured")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1: are labels and probabilities swapped?")
    if not (np.isfinite(probabilities).all() and probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError("probabilities must be numbers from 0 to 1")
    if len(labels) > 1 and np.isin(probabilities, (0, 1)).all():
        raise ValueError("probabilities are all 0 or 1: measure probabilities, not predicted labels")
    return labels, probabilities


def measure(
    labels: np.ndarray, probabilities: np.ndarray, threshold: float, *, resamples: int = RESAMPLES, seed: int = 1
) -> dict[str, Interval]:
    """The metrics of probabilities, each with its 95 % bootstrap interval over leads.

    AUC, average precision, Brier, log loss and expected calibration error; accuracy, precision, recall, F1, the
    share of 1s, genuine leads lost and junk removed at the threshold; lift in the best tenth. `labels` (0 or 1) and
    `probabilities` (0 to 1) have shape (n,). Raises ValueError as `checked` does.
    """
    labels, probabilities = checked(labels, probabilities)
    kinds, place = np.unique(probabilities, return_inverse=True)
    genuine = np.bincount(place, weights=labels, minlength=len(kinds))
    junk = np.bincount(place, minlength=len(kinds)) - genuine
    cells = np.concatenate([genuine, junk])
    drawn = np.random.default_rng(seed).multinomial(len(labels), cells / len(labels), size=resamples)
    counts = np.vstack([cells, drawn]).astype(float)
    values = _metrics(kinds, counts[:, : len(kinds)], counts[:, len(kinds) :], threshold)
    return {name: _interval(found) for name, found in values.items()}


def _interval(found: np.ndarray) -> Interval:
    drawn = found[1:][~np.isnan(found[1:])]
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (found[0], found[0])
    return Interval(float(found[0]), float(low), float(high))


def _metrics(kinds: np.ndarray, genuine: np.ndarray, junk: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Every metric for r samples at once: `kinds` are g probabilities, rising; counts have shape (r, g)."""
    everyone = genuine + junk
    leads, ones = everyone.sum(axis=1), genuine.sum(axis=1)
    zeros = leads - ones
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.cumsum(junk, axis=1) - junk
        found = genuine[:, ::-1].cumsum(axis=1)
        precision_from = found / everyone[:, ::-1].cumsum(axis=1)
        clipped = np.clip(kinds, np.finfo(float).eps, 1 - np.finfo(float).eps)
        chosen = kinds >= threshold
        hits, alarms = genuine[:, chosen].sum(axis=1), junk[:, chosen].sum(axis=1)
        precision = np.where(hits + alarms > 0, hits / (hits + alarms), 0.0)
        recall = hits / ones
        best = np.minimum(everyone[:, ::-1].cumsum(axis=1), leads[:, None] / 10)
        taken = np.diff(best, axis=1, prepend=0.0)
        rate = genuine[:, ::-1] / np.maximum(everyone[:, ::-1], 1)
        return {
            "auc": (genuine * (below + junk / 2)).sum(axis=1) / (ones * zeros),
            "average_precision": np.nansum(genuine[:, ::-1] * precision_from, axis=1) / ones,
            "brier": (genuine @ (1 - kinds) ** 2 + junk @ kinds**2) / leads,
            "log_loss": -(genuine @ np.log(clipped) + junk @ np.log(1 - clipped)) / leads,
            "calibration_error": _calibration_error(kinds, genuine, everyone),
            "accuracy": (hits + zeros - alarms) / leads,
            "precision": precision,
            "recall": recall,
            "f1": np.where(hits > 0, 2 * precision * recall / (precision + recall), 0.0),
            "share_of_ones": (hits + alarms) / leads,
            "genuine_lost": 1 - recall,
            "junk_removed": 1 - alarms / zeros,
            "lift_of_best_tenth": (taken * rate).sum(axis=1) / (leads / 10) / (ones / leads),
        }


def _calibration_error(kinds: np.ndarray, genuine: np.ndarray, everyone: np.ndarray) -> np.ndarray:
    """Expected calibration error: mean distance of predicted and actual share over bins of equal width."""
    bins = np.minimum((kinds * BINS).astype(int), BINS - 1)
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    actual = np.add.reduceat(genuine, starts, axis=1)
    predicted = np.add.reduceat(everyone * kinds, starts, axis=1)
    error: np.ndarray = np.abs(actual - predicted).sum(axis=1) / everyone.sum(axis=1)
    return error


def gains(labels: np.ndarray, probabilities: np.ndarray, parts: int = 10) -> list[dict[str, float]]:
    """Lift and cumulative gain by tenths of the leads, the best first: `part`, `conversion`, `lift`, `gain`."""
    labels, probabilities = checked(labels, probabilities)
    ordered = labels[np.argsort(-probabilities, kind="stable")].astype(float)
    table, found = [], 0.0
    for part, members in enumerate(np.array_split(ordered, parts), start=1):
        if len(members):
            found += float(members.sum())
            conversion = float(members.mean())
            lift = conversion / max(float(ordered.mean()), 1e-12)
            table.append({"part": part, "conversion": conversion, "lift": lift, "gain": found / max(ordered.sum(), 1)})
    return table


def measure_slices(
    labels: np.ndarray,
    probabilities: np.ndarray,
    slices: Mapping[str, np.ndarray],
    threshold: float,
    *,
    least: int = 200,
) -> dict[str, dict[str, Interval]]:
    """The metrics of each slice (a mask of shape (n,)) that has `least` leads and both classes."""
    measured = {}
    for name, mask in slices.items():
        if mask.sum() >= least and len(np.unique(labels[mask])) == 2:
            measured[name] = measure(labels[mask], probabilities[mask], threshold)
    return measured


def difference_in_auc(
    labels: np.ndarray, challenger: np.ndarray, champion: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 1
) -> Interval:
    """AUC of the challenger minus the champion's on the same n leads, by paired bootstrap."""
    labels, challenger = checked(labels, challenger)
    _, champion = checked(labels, champion)
    rng = np.random.default_rng(seed)
    weights = np.vstack([np.ones(len(labels)), rng.poisson(1.0, size=(resamples, len(labels)))])
    difference = _weighted_aucs(labels, challenger, weights) - _weighted_aucs(labels, champion, weights)
    return _interval(difference)


def _weighted_aucs(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The AUC under each row of weights (r, n)."""
    order = np.argsort(probabilities, kind="stable")
    starts = np.flatnonzero(np.diff(probabilities[order], prepend=-1.0))
    aucs = np.empty(len(weights))
    for row, drawn in enumerate(weights):
        genuine = np.add.reduceat((drawn * labels)[order], starts)
        junk = np.add.reduceat((drawn * (1 - labels))[order], starts)
        below = np.cumsum(junk) - junk
        aucs[row] = (genuine * (below + junk / 2)).sum() / (genuine.sum() * junk.sum())
    return aucs
