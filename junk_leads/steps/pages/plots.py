"""Plots of a model's hold-out, as PNG bytes.

What lives here: ROC, precision-recall, confusion matrix, reliability, gains, junk budget, weeks, gain in money, feature
importance. What does not: the numbers behind them (`evaluation.py`).
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from junk_leads.steps.learning.evaluation import Evaluated
from junk_leads.steps.learning.metrics import BINS
from junk_leads.steps.learning.training import LabelledFeatures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_evaluation(evaluated: Evaluated, data: LabelledFeatures) -> dict[str, bytes]:
    """The plots of a training, by file name; all but the weeks are of its temporal hold-out."""
    labels, probabilities = data.labels[evaluated.holdout], evaluated.probabilities
    threshold, report = evaluated.judged.threshold, evaluated.report
    plots = plot_holdout(labels, probabilities, threshold)
    plots["gains.png"] = _curve(
        "share of leads contacted, best first",
        "share of genuine leads reached",
        [
            (
                "model",
                [0, *(t["part"] / len(report.tenths) for t in report.tenths)],
                [0, *(t["gain"] for t in report.tenths)],
            )
        ],
        diagonal=True,
    )
    plots["junk_budget.png"] = plot_junk_budget({"model": (labels, probabilities)}, threshold)
    if report.weeks:
        weeks = list(report.weeks)
        aucs = [found["auc"].value for found in report.weeks.values()]
        plots["weeks.png"] = _curve("week from", "AUC of the model of the time before", [("rolling", weeks, aucs)])
    if report.gain_curve:
        curve = report.gain_curve
        plots["expected_gain.png"] = _curve(
            "threshold", "gain for each lead", [("gain", [p["threshold"] for p in curve], [p["gain"] for p in curve])]
        )
    return plots


def plot_holdout(labels: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, bytes]:
    """ROC curve, precision-recall curve, confusion matrix and reliability of n held-out leads, by file name."""
    from sklearn.calibration import CalibrationDisplay
    from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

    plots = {}
    flags = (probabilities >= threshold).astype(int)
    for name, display, values, options in (
        ("roc_curve", RocCurveDisplay, probabilities, {"plot_chance_level": True}),
        ("precision_recall_curve", PrecisionRecallDisplay, probabilities, {"plot_chance_level": True}),
        ("confusion_matrix", ConfusionMatrixDisplay, flags, {"display_labels": ["junk", "genuine"], "colorbar": False}),
        ("reliability", CalibrationDisplay, probabilities, {"n_bins": BINS}),
    ):
        figure = _figure((5, 4))
        display.from_predictions(labels, values, ax=figure.subplots(), **options)
        plots[f"{name}.png"] = _png(figure)
    return plots


def plot_side_by_side(models: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, bytes]:
    """ROC curve and reliability of models, by file name; `models` holds labels and probabilities (n,) by name."""
    from sklearn.calibration import CalibrationDisplay
    from sklearn.metrics import RocCurveDisplay

    plots = {}
    for name, display, options in (
        ("roc_curve", RocCurveDisplay, {}),
        ("reliability", CalibrationDisplay, {"n_bins": BINS}),
    ):
        figure = _figure((5, 4))
        axes = figure.subplots()
        for model, (labels, probabilities) in models.items():
            display.from_predictions(labels, probabilities, ax=axes, name=model, **options)
        plots[f"{name}.png"] = _png(figure)
    return plots


def plot_junk_budget(models: Mapping[str, tuple[np.ndarray, np.ndarray]], threshold: float | None = None) -> bytes:
    """The share of junk removed for each share of genuine leads lost, up to a tenth of them.

    `models` holds labels and probabilities, both of shape (n,), by name; `threshold` is marked.
    """
    lost, lines = np.linspace(0, 0.1, 101), []
    for name, (labels, probabilities) in models.items():
        junk = np.sort(probabilities[labels == 0])
        removed = np.searchsorted(junk, np.quantile(probabilities[labels == 1], lost)) / max(len(junk), 1)
        lines.append((name, list(lost), list(removed)))
    mark = None if threshold is None else float((probabilities[labels == 1] < threshold).mean())
    return _curve("share of genuine leads lost", "share of junk removed", lines, mark=mark)


def _curve(
    across: str,
    up: str,
    lines: Sequence[tuple[str, Sequence[Any], Sequence[float]]],
    *,
    diagonal: bool = False,
    mark: float | None = None,
) -> bytes:
    figure = _figure((5, 4))
    axes = figure.subplots()
    for name, x, y in lines:
        axes.plot(x, y, marker="." if len(x) < 20 else None, label=name)
    if diagonal:
        axes.plot([0, 1], [0, 1], linestyle="--", color="grey", label="chance")
    if mark is not None:
        axes.axvline(mark, linestyle="--", color="grey", label="threshold")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend()
    return _png(figure)


def plot_importance(features: Sequence[str], gains: np.ndarray, most: int = 20) -> bytes:
    """The features with the largest total gain, as bars."""
    strongest = np.argsort(gains, kind="stable")[-most:]
    figure = _figure((7, 0.28 * len(strongest) + 1))
    axes = figure.subplots()
    axes.barh([features[place] for place in strongest], gains[strongest])
    axes.set_xlabel("total gain")
    return _png(figure)


def plot_leaderboard(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The AUC of each learner of a leaderboard on both splits, with 95 % intervals, as bars, the best on top."""
    figure = _figure((8, 0.5 * len(rows) + 1.2))
    axes, places = figure.subplots(), np.arange(len(rows))
    for split, title, offset in (("temporal", "last leads by time", -0.2), ("random", "random split", 0.2)):
        aucs, low, high = (
            np.array([row[f"{split}_auc{bound}"] for row in rows], dtype=float) for bound in ("", "_low", "_high")
        )
        errors = np.maximum([aucs - low, high - aucs], 0)
        axes.barh(places + offset, aucs, height=0.38, xerr=errors, label=title)
    least = min(min(row["temporal_auc_low"], row["random_auc_low"]) for row in rows)
    axes.set_xlim(max(0.0, least - 0.05), 1.0)
    axes.set_yticks(places, [row["title"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("AUC on leads held out")
    axes.legend(loc="lower right")
    return _png(figure)


def as_markdown_image(title: str, png: bytes) -> str:
    """A plot as an image within Markdown, its bytes in the text."""
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _figure(size: tuple[float, float]) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()
