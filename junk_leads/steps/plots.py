"""Plots of a model's hold-out, as PNG bytes.

What lives here: ROC, precision-recall, confusion matrix, feature importance. What does not: the numbers
behind them (`evaluation.py`).
"""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure


def plot_holdout(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, bytes]:
    """ROC curve, precision-recall curve and confusion matrix of n held-out leads, by file name."""
    from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

    plots = {}
    flags = (probabilities >= threshold).astype(int)
    for name, display, values, options in (
        ("roc_curve", RocCurveDisplay, probabilities, {"plot_chance_level": True}),
        ("precision_recall_curve", PrecisionRecallDisplay, probabilities, {"plot_chance_level": True}),
        ("confusion_matrix", ConfusionMatrixDisplay, flags, {"display_labels": ["junk", "genuine"], "colorbar": False}),
    ):
        figure = Figure(figsize=(5, 4), layout="constrained")
        display.from_predictions(labels, values, ax=figure.subplots(), **options)
        plots[f"{name}.png"] = _png(figure)
    return plots


def plot_importance(features: Sequence[str], gains: np.ndarray, most: int = 20) -> bytes:
    """The features with the largest total gain, as bars."""
    strongest = np.argsort(gains, kind="stable")[-most:]
    figure = Figure(figsize=(7, 0.28 * len(strongest) + 1), layout="constrained")
    axes = figure.subplots()
    axes.barh([features[place] for place in strongest], gains[strongest])
    axes.set_xlabel("total gain")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()
