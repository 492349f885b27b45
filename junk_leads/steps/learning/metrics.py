"""Metrics of probabilities on leads that a model has not seen, with their bootstrap intervals.

What lives here: measuring n leads, their slices, gains by tenths and grades. What does not: which leads are held out
(`evaluation.py`), comparing two models (`gating.py`) and how people read it (`steps/pages/`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.learning.grading import GRADES, grade_of
from junk_leads.steps.learning.training import LabelledFeatures

RESAMPLES = 200
BINS = 15  # of equal width, for the expected calibration error


@dataclass(frozen=True)
class Interval:
    """A measured value and the bounds of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"


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
            table.append(
                {"part": part, "conversion": conversion, "lift": lift, "gain": found / max(float(ordered.sum()), 1.0)}
            )
    return table


def measure_slices(
    data: LabelledFeatures, encoder: Encoder, probabilities: np.ndarray, threshold: float, *, least: int = 200
) -> dict[str, dict[str, Interval]]:
    """The metrics of each slice of n leads by tier, platform, month, referral and missing city.

    A slice that has fewer than `least` leads, or one class only, is left out.
    """
    measured = {}
    for name, mask in slices(data, encoder):
        if mask.sum() >= least and len(np.unique(data.labels[mask])) == 2:
            measured[name] = measure(data.labels[mask], probabilities[mask], threshold)
    return measured


def slices(data: LabelledFeatures, encoder: Encoder) -> Iterator[tuple[str, np.ndarray]]:
    """The slices of n leads by tier, platform, referral, missing city and month, as masks of shape (n,)."""
    flags = [*encoder.blocks["city_tier"], *encoder.blocks["first_platform_c"], "referred_lead", "is_city_missing"]
    for feature in flags:
        yield feature, data.column(feature) > 0
    months = data.created.astype("datetime64[s]").astype("datetime64[M]")
    for month in np.unique(months):
        yield f"month_{month}", months == month


def grade_table(labels: np.ndarray, probabilities: np.ndarray, grades: Mapping[str, float]) -> list[dict[str, Any]]:
    """How leads of each grade fare: `grade`, `share` of all leads, and `conversion` (0 to 1, None of no leads)."""
    given = grade_of(probabilities, grades)
    return [
        {
            "grade": grade,
            "share": float((given == grade).mean()),
            "conversion": float(labels[given == grade].mean()) if (given == grade).any() else None,
        }
        for grade in GRADES
    ]
