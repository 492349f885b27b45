"""Measuring a model on leads it has not seen, always from probabilities.

What lives here: splits and metrics. What does not: training (`training.py`) and plots (`plots.py`).
"""

from dataclasses import dataclass

import numpy as np

from junk_leads.steps.training import LabelledFeatures


@dataclass(frozen=True)
class Split:
    """Row numbers to train on and to test on."""

    name: str
    train: np.ndarray
    test: np.ndarray


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


def measure(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, float]:
    """AUC, average precision, Brier and log loss of probabilities; accuracy and the like at the threshold.

    `labels` are 0 or 1, `probabilities` in [0, 1], both of shape (n,). Raises ValueError for arguments
    that are swapped, hard labels instead of probabilities, values out of range or NaN.
    """
    from sklearn import metrics

    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=float)
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1: are labels and probabilities swapped?")
    if not (np.isfinite(probabilities).all() and probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError("probabilities must be numbers from 0 to 1")
    if len(labels) > 1 and np.isin(probabilities, (0, 1)).all():
        raise ValueError("probabilities are all 0 or 1: measure probabilities, not predicted labels")
    flags = probabilities >= threshold
    return {
        "auc": float(metrics.roc_auc_score(labels, probabilities)),
        "average_precision": float(metrics.average_precision_score(labels, probabilities)),
        "brier": float(metrics.brier_score_loss(labels, probabilities)),
        "log_loss": float(metrics.log_loss(labels, probabilities, labels=[0, 1])),
        "accuracy": float(metrics.accuracy_score(labels, flags)),
        "precision": float(metrics.precision_score(labels, flags, zero_division=0)),
        "recall": float(metrics.recall_score(labels, flags, zero_division=0)),
        "f1": float(metrics.f1_score(labels, flags, zero_division=0)),
        "share_of_ones": float(flags.mean()),
    }
