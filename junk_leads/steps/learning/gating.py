"""The gate: whether a challenger may take the champion's place.

What lives here: the judgement over two models' probabilities of the same leads. What does not: which leads, and what
the models say of them (`promotion.py`), and what follows from it (`registry.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from junk_leads.steps.learning.metrics import Interval, checked, measure

SURE = 3.0  # standard errors: an equal challenger passes by chance once in 700 times


@dataclass(frozen=True)
class Rules:
    """What the gate asks for; see `gate` in `reference/model_params.yaml`."""

    lowest_auc: float
    least_gain: float
    most_slice_loss: float
    most_calibration_loss: float
    least_leads: int
    least_slice: int


@dataclass(frozen=True)
class Verdict:
    """What the gate says: `objections` is empty when the challenger may pass; `figures` are for people."""

    objections: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the challenger may take the champion's place."""
        return not self.objections

    def as_text(self) -> str:
        """It in one line."""
        told = ", ".join(f"{name} {value:.4f}" for name, value in self.figures.items() if name != "leads")
        verdict = "passes the gate" if self.passed else f"does not pass: {'; '.join(self.objections)}"
        return f"{verdict} ({told}, on {self.figures.get('leads', 0):,.0f} leads)"


def difference_in_auc(
    labels: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    counts: np.ndarray | None = None,
    *,
    resamples: int = 100,
    seed: int = 1,
) -> Interval:
    """How much larger the AUC of `one` is than that of `other`, with bounds SURE standard errors away.

    All have shape (n,); `counts` is how many leads each is, one when left out. The standard error is that of a paired
    bootstrap over leads: each resample measures both.
    """
    (mine, my_place), (theirs, their_place) = (np.unique(p, return_inverse=True) for p in (one, other))
    pairs, place = np.unique(my_place * len(theirs) + their_place, return_inverse=True)
    cells = np.bincount(place * 2 + labels, counts, minlength=2 * len(pairs))
    drawn = np.random.default_rng(seed).multinomial(int(cells.sum()), cells / cells.sum(), size=resamples)
    samples = np.vstack([cells, drawn]).astype(float)
    told = (mine[pairs // len(theirs)], theirs[pairs % len(theirs)])
    aucs = [_auc(probabilities, samples[:, 1::2], samples[:, 0::2]) for probabilities in told]
    found = aucs[0] - aucs[1]
    error = float(np.nanstd(found[1:], ddof=1))
    return Interval(float(found[0]), float(found[0]) - SURE * error, float(found[0]) + SURE * error)


def _auc(probabilities: np.ndarray, genuine: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """AUC of each of r samples, whose counts have shape (r, g) over g probabilities in any order, some equal."""
    order = np.argsort(probabilities, kind="stable")
    starts = np.flatnonzero(np.diff(probabilities[order], prepend=-1.0))
    genuine, junk = (np.add.reduceat(counts[:, order], starts, axis=1) for counts in (genuine, junk))
    below = np.cumsum(junk, axis=1) - junk
    auc: np.ndarray = (genuine * (below + junk / 2)).sum(axis=1) / (genuine.sum(axis=1) * junk.sum(axis=1))
    return auc


def judge(
    labels: np.ndarray,
    challenger: np.ndarray,
    champion: np.ndarray,
    slices: Mapping[str, np.ndarray],
    rules: Rules,
    counts: np.ndarray | None = None,
    *,
    is_as_recent: bool = True,
) -> Verdict:
    """Judge a challenger against the champion on n leads that neither has seen.

    `labels` (0 or 1) and both models' probabilities have shape (n,), `slices` are masks of shape (n,), `counts` (n,)
    is how many leads each is, one when left out. The challenger passes when its AUC is above the floor, larger by
    `least_gain` and surely larger, in no slice surely smaller by more than `most_slice_loss`, its calibration error
    larger by no more than `most_calibration_loss`, and its data as recent as the champion's. Raises ValueError for
    what is no label or no probability, NaN among them.
    """
    if not is_as_recent:
        return Verdict(("its newest lead is older than the champion's; train it on newer leads too",))
    counts = np.ones(len(labels)) if counts is None else counts
    leads = int(counts.sum())
    if leads < rules.least_leads or len(np.unique(labels)) < 2:
        return Verdict((f"there are only {leads:,} leads to compare on, of {rules.least_leads:,} expected",))
    for probabilities in (challenger, champion):
        checked(labels, probabilities)
    mine, theirs = (measure(labels, p, 0.5, counts, resamples=0) for p in (challenger, champion))
    gain = difference_in_auc(labels, challenger, champion, counts)
    objections = []
    if not mine["auc"].value >= rules.lowest_auc:
        objections.append(f"its AUC {mine['auc'].value:.4f} is below the floor {rules.lowest_auc:g}")
    if not (gain.value >= rules.least_gain and gain.low > 0):
        objections.append(f"its AUC is not surely larger by {rules.least_gain:g}: {_told(gain)}")
    losses = {}
    for name, mask in slices.items():
        if counts[mask].sum() < rules.least_slice or len(np.unique(labels[mask])) < 2:
            continue
        change = difference_in_auc(labels[mask], challenger[mask], champion[mask], counts[mask])
        if change.value < -rules.most_slice_loss and change.high < 0:
            losses[name] = change
    if losses:
        worst = min(losses, key=lambda name: losses[name].value)
        more = f", and for {len(losses) - 1} more slices" if len(losses) > 1 else ""
        objections.append(f"its AUC is surely smaller for {worst}: {_told(losses[worst])}{more}")
    worse = mine["calibration_error"].value - theirs["calibration_error"].value
    if worse > rules.most_calibration_loss:
        objections.append(f"its calibration error is larger by {worse:.4f}")
    figures = {
        "challenger_auc": mine["auc"].value,
        "champion_auc": theirs["auc"].value,
        "gain": gain.value,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "challenger_calibration_error": mine["calibration_error"].value,
        "champion_calibration_error": theirs["calibration_error"].value,
        "leads": float(leads),
    }
    return Verdict(tuple(objections), figures)


def _told(difference: Interval) -> str:
    return f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
