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
MOST_BINS = 1_000  # of leads by probability, for a bootstrap
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
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float,
    counts: np.ndarray | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 1,
) -> dict[str, Interval]:
    """The metrics of probabilities, each with its 95 % bootstrap interval over leads.

    AUC, average precision, Brier, log loss and expected calibration error; accuracy, precision, recall, F1, the
    share of 1s, genuine leads lost and junk removed at the threshold; lift in the best tenth. `labels` (0 or 1) and
    `probabilities` (0 to 1) have shape (n,), and so have `counts`, how many leads each is: one, when left out. Raises
    ValueError as `checked` does.
    """
    labels, probabilities = checked(labels, probabilities)
    counts = np.ones(len(labels)) if counts is None else counts
    kinds, genuine, junk = by_probability(labels, probabilities, counts)
    values = _metrics(kinds, genuine[None], junk[None], threshold)
    binned = _binned(kinds, genuine, junk, threshold)
    cells, leads, bins = np.concatenate(binned[1:]), int(counts.sum()), len(binned[0])
    drawn = np.random.default_rng(seed).multinomial(leads, cells / leads, size=resamples)
    samples = np.vstack([cells, drawn]).astype(float)
    spread = _metrics(binned[0], samples[:, :bins], samples[:, bins:], threshold)
    return {name: _interval(float(found[0]), spread[name]) for name, found in values.items()}


def by_probability(
    labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The g different probabilities, rising, and how many genuine and how many junk leads have each, of shape (g,)."""
    kinds, place = np.unique(probabilities, return_inverse=True)
    genuine = np.bincount(place, counts * labels, minlength=len(kinds))
    return kinds, genuine, np.bincount(place, counts, minlength=len(kinds)) - genuine


def _binned(
    kinds: np.ndarray, genuine: np.ndarray, junk: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities (g,) that rise and how many leads have them, neighbours of which are one when they are very many.

    None is of both sides of the threshold, or of two bins of the calibration error. It makes a bootstrap as quick for
    a million different probabilities as for thousands, and moves its bounds by less than it does itself.
    """
    if len(kinds) <= MOST_BINS:
        return kinds, genuine, junk
    everyone = genuine + junk
    part = np.minimum(np.cumsum(everyone) * MOST_BINS // everyone.sum(), MOST_BINS - 1) * 2 * BINS
    part = part + np.minimum((kinds * BINS).astype(int), BINS - 1) * 2 + (kinds >= threshold)
    starts = np.flatnonzero(np.diff(part, prepend=-1.0))
    leads, ones, sums = (np.add.reduceat(values, starts) for values in (everyone, genuine, everyone * kinds))
    return sums / leads, ones, leads - ones


def _interval(value: float, spread: np.ndarray) -> Interval:
    """A value with the bounds that resamples give it; the first of `spread` stands for the value among them."""
    drawn = spread[1:][~np.isnan(spread[1:])]
    low, high = np.quantile(drawn, (0.025, 0.975)) - spread[0] if len(drawn) else (0.0, 0.0)
    return Interval(value, value + float(low), value + float(high))


def _metrics(kinds: np.ndarray, genuine: np.ndarray, junk: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Every metric for r samples at once: `kinds` are g probabilities, rising; counts have shape (r, g)."""
    everyone = genuine + junk
    leads, ones = everyone.sum(axis=1), genuine.sum(axis=1)
    zeros = leads - ones
    with np.errstate(divide="ignore", invalid="ignore"):
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
            "auc": area_under_curve(genuine, junk),
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


def area_under_curve(genuine: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """The area under the ROC curve of counts (..., g) by what tells them apart, rising; NaN without one of the classes.

    How often a genuine lead stands above a junk one; the same value counts half.
    """
    below = np.cumsum(junk, axis=-1) - junk
    area: np.ndarray = (genuine * (below + junk / 2)).sum(axis=-1) / (genuine.sum(axis=-1) * junk.sum(axis=-1))
    return area


def _calibration_error(kinds: np.ndarray, genuine: np.ndarray, everyone: np.ndarray) -> np.ndarray:
    """Expected calibration error: mean distance of predicted and actual share over bins of equal width."""
    bins = np.minimum((kinds * BINS).astype(int), BINS - 1)
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    actual = np.add.reduceat(genuine, starts, axis=1)
    predicted = np.add.reduceat(everyone * kinds, starts, axis=1)
    error: np.ndarray = np.abs(actual - predicted).sum(axis=1) / everyone.sum(axis=1)
    return error


def gains(labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray, parts: int = 10) -> list[dict[str, float]]:
    """Lift and cumulative gain by tenths of the leads, the best first: `part`, `conversion`, `lift`, `gain`.

    Leads of one probability that stand in two tenths are in both as all of them are, so that their order is nothing.
    """
    labels, probabilities = checked(labels, probabilities)
    told, place = np.unique(-probabilities, return_inverse=True)
    leads, genuine = (np.bincount(place, weights, len(told)) for weights in (counts, counts * labels))
    ends = np.linspace(0, leads.sum(), parts + 1)
    found = np.interp(ends, np.concatenate([[0], np.cumsum(leads)]), np.concatenate([[0], np.cumsum(genuine)]))
    share = genuine.sum() / leads.sum()
    table = []
    for part in range(1, parts + 1):
        conversion = float((found[part] - found[part - 1]) / (ends[part] - ends[part - 1]))
        gain = float(found[part] / max(genuine.sum(), 1.0))
        table.append({"part": part, "conversion": conversion, "lift": conversion / max(share, 1e-12), "gain": gain})
    return table


def measure_slices(
    data: LabelledFeatures, encoder: Encoder, probabilities: np.ndarray, threshold: float, *, least: int = 200
) -> dict[str, dict[str, Interval]]:
    """The metrics of each slice of leads by tier, platform, month, referral and missing city.

    `probabilities` are those of the rows, shape (r,). A slice that has fewer than `least` leads, or one class only, is
    left out.
    """
    measured = {}
    for name, mask in slices(data, encoder):
        if data.counts[mask].sum() >= least and len(np.unique(data.labels[mask])) == 2:
            measured[name] = measure(data.labels[mask], probabilities[mask], threshold, data.counts[mask])
    return measured


def slices(data: LabelledFeatures, encoder: Encoder) -> Iterator[tuple[str, np.ndarray]]:
    """The slices of the leads by tier, platform, referral, missing city and month, as masks of the rows (r,)."""
    flags = [*encoder.blocks["city_tier"], *encoder.blocks["first_platform_c"], "referred_lead", "is_city_missing"]
    for feature in flags:
        yield feature, data.column(feature) > 0
    months = data.days.astype("datetime64[D]").astype("datetime64[M]")
    for month in np.unique(months):
        yield f"month_{month}", months == month


def grade_table(
    labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray, grades: Mapping[str, float]
) -> list[dict[str, Any]]:
    """How leads of each grade fare: `grade`, `share` of all leads, and `conversion` (0 to 1, None of no leads).

    `low` and `high` are the conversion's 95 % interval (Wilson's).
    """
    given, table = grade_of(probabilities, grades), []
    for grade in GRADES:
        leads, genuine = (float(n[given == grade].sum()) for n in (counts, counts * labels))
        conversion = genuine / leads if leads else None
        low, high = wilson_interval(genuine, leads) if leads else (None, None)
        share = leads / float(counts.sum())
        table.append({"grade": grade, "share": share, "conversion": conversion, "low": low, "high": high})
    return table


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """The 95 % interval of a share, 0 to 1 (Wilson 1927); `trials` is at least 1."""
    z, share = 1.959964, successes / trials
    middle, half = share + z * z / (2 * trials), z * (share * (1 - share) / trials + z * z / (4 * trials**2)) ** 0.5
    scale = 1 + z * z / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
