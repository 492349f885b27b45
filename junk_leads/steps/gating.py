"""The gate: whether a challenger may take the champion's place.

What lives here: the judgement over two models' probabilities of the same leads. What does not: where they come from
(`assets/model.py`) and what follows from it (`registry.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from junk_leads.steps.evaluation import Interval, difference_in_auc, measure

LEAST_GAIN = 0.001  # AUC; what is gained must be worth a change
MOST_SLICE_LOSS = 0.01  # AUC; no tier, platform or the like may lose more, for sure
MOST_CALIBRATION_LOSS = 0.01  # expected calibration error
LEAST_LEADS = 1000
LEAST_SLICE = 500
SURE = 0.0


@dataclass(frozen=True)
class Verdict:
    """What the gate says: `objections` is empty when the challenger may pass; `figures` are for people."""

    objections: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the challenger may take the champion's place."""
        return not self.objections


def judge(
    labels: np.ndarray,
    challenger: np.ndarray,
    champion: np.ndarray,
    slices: Mapping[str, np.ndarray],
    *,
    lowest_auc: float,
    challenger_newest: float,
    champion_newest: float,
    resamples: int = 200,
    seed: int = 1,
) -> Verdict:
    """Judge a challenger against the champion on n leads that neither was trained on.

    `labels` (0 or 1) and both models' probabilities have shape (n,), `slices` are masks of shape (n,), `*_newest` the
    newest lead each was trained on (seconds). The challenger passes when its AUC is above the floor, is better by
    LEAST_GAIN and surely better (paired bootstrap), no slice is surely worse by MOST_SLICE_LOSS, its calibration is not
    worse, and its data is at least as recent.
    """
    if len(labels) < LEAST_LEADS or len(np.unique(labels)) < 2:
        return Verdict((f"only {len(labels):,} leads to compare on, expected {LEAST_LEADS:,} of both classes",))
    mine, theirs = (measure(labels, p, 0.5, resamples=0) for p in (challenger, champion))
    gain = difference_in_auc(labels, challenger, champion, resamples=resamples, seed=seed)
    objections = []
    if not mine["auc"].value >= lowest_auc:
        objections.append(f"its AUC {mine['auc'].value:.4f} is below the floor {lowest_auc:g}")
    if not (gain.value >= LEAST_GAIN and gain.low > SURE):
        objections.append(f"its AUC is not surely better by {LEAST_GAIN:g}: {_told(gain)} against the champion")
    for name, mask in slices.items():
        loss = _slice_loss(labels, challenger, champion, mask, resamples, seed)
        if loss is not None and loss.value < -MOST_SLICE_LOSS and loss.high < SURE:
            objections.append(f"it is surely worse for {name}: AUC {_told(loss)}")
    worse = mine["calibration_error"].value - theirs["calibration_error"].value
    if worse > MOST_CALIBRATION_LOSS:
        objections.append(f"its calibration error is {worse:.4f} worse")
    if challenger_newest < champion_newest:
        objections.append("its newest lead is older than the champion's")
    figures = {
        "challenger_auc": mine["auc"].value,
        "champion_auc": theirs["auc"].value,
        "auc_gain": gain.value,
        "auc_gain_low": gain.low,
        "auc_gain_high": gain.high,
        "compared_leads": float(len(labels)),
    }
    return Verdict(tuple(objections), figures)


def _slice_loss(
    labels: np.ndarray, challenger: np.ndarray, champion: np.ndarray, mask: np.ndarray, resamples: int, seed: int
) -> Interval | None:
    if mask.sum() < LEAST_SLICE or len(np.unique(labels[mask])) < 2:
        return None
    return difference_in_auc(labels[mask], challenger[mask], champion[mask], resamples=resamples, seed=seed)


def _told(difference: Interval) -> str:
    return f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
