"""Plots of a model's hold-out, as PNG bytes.

What lives here: ROC, precision-recall, confusion matrix, reliability, gains, junk budget, weeks, gain in money, feature
importance. What does not: the numbers behind them (`evaluation.py`).
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from junk_leads.steps.learning.calibration import quantiles
from junk_leads.steps.learning.evaluation import Evaluated
from junk_leads.steps.learning.metrics import BINS, area_under_curve, by_probability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# labels, probabilities and how many leads each is, all of shape (r,), by the name of a model
Models: TypeAlias = Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def plot_training(evaluated: Evaluated, features: Sequence[str]) -> dict[str, bytes]:
    """The plots of a training, by file name; `features` are the booster's."""
    gains = evaluated.model.booster.feature_importance("gain")
    return {**plot_evaluation(evaluated), "feature_importance.png": plot_importance(features, gains)}


def plot_evaluation(evaluated: Evaluated) -> dict[str, bytes]:
    """The plots of an evaluation, by file name; all but the weeks are of its temporal hold-out."""
    told = (evaluated.holdout.labels, evaluated.probabilities, evaluated.holdout.counts)
    threshold, report = evaluated.judged.threshold, evaluated.report
    plots = plot_holdout(*told, threshold)
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
        diagonal="chance",
    )
    plots["junk_budget.png"] = plot_junk_budget({"model": told}, threshold)
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


def plot_holdout(
    labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray, threshold: float
) -> dict[str, bytes]:
    """ROC curve, precision-recall curve, confusion matrix and reliability of held-out leads, by file name.

    All have shape (r,); `counts` is how many leads each is. They are drawn from what the metrics are made of, as
    scikit-learn draws them, whose import would take longer than all that is drawn.
    """
    told = {"model": (labels, probabilities, counts)}
    _, genuine, junk = by_probability(labels, probabilities, counts)
    found, leads = (np.cumsum(values[::-1]) for values in (genuine, genuine + junk))
    recall, precision, share = found / max(found[-1], 1), found / leads, found[-1] / leads[-1]
    average = float((np.diff(recall, prepend=0.0) * precision).sum())
    lines = [
        (f"model (average precision {average:.2f})", [0.0, *recall], [1.0, *precision]),
        (f"chance ({share:.2f})", [0.0, 1.0], [share, share]),
    ]
    return {
        "roc_curve.png": _plot_roc(told),
        "precision_recall_curve.png": _curve("recall", "precision", lines, drawstyle="steps-post"),
        "confusion_matrix.png": _plot_confusion(labels, probabilities >= threshold, counts),
        "reliability.png": plot_reliability(told),
    }


def plot_side_by_side(models: Models) -> dict[str, bytes]:
    """ROC curve and reliability of models, by file name."""
    return {"roc_curve.png": _plot_roc(models), "reliability.png": plot_reliability(models)}


def _plot_roc(models: Models) -> bytes:
    lines = []
    for name, told in models.items():
        _, genuine, junk = by_probability(*told)
        kept, alarms = (np.cumsum(values[::-1]) / max(values.sum(), 1) for values in (genuine, junk))
        lines.append((f"{name} (AUC {area_under_curve(genuine, junk):.2f})", [0.0, *alarms], [0.0, *kept]))
    return _curve("share of junk kept for calling", "share of genuine leads kept", lines, diagonal="chance (AUC 0.5)")


def _plot_confusion(labels: np.ndarray, flags: np.ndarray, counts: np.ndarray) -> bytes:
    leads = np.bincount(2 * labels.astype(int) + flags, counts, minlength=4).reshape(2, 2)
    figure = _figure((5, 4))
    axes = figure.subplots()
    axes.imshow(leads, cmap="Blues")
    for row, column in np.ndindex(2, 2):
        colour = "white" if leads[row, column] > leads.max() / 2 else "black"
        axes.text(column, row, f"{leads[row, column]:,.0f}", ha="center", va="center", color=colour)
    axes.set_xticks([0, 1], ["junk", "genuine"])
    axes.set_yticks([0, 1], ["junk", "genuine"])
    axes.set_xlabel("predicted")
    axes.set_ylabel("labelled")
    return _png(figure)


def plot_reliability(models: Models) -> bytes:
    """The share of genuine leads among those of about a probability, for each model."""
    lines = []
    for name, (labels, probabilities, counts) in models.items():
        bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
        leads, told, genuine = (np.bincount(bins, n, BINS) for n in (counts, counts * probabilities, counts * labels))
        there = leads > 0
        lines.append((name, list(told[there] / leads[there]), list(genuine[there] / leads[there])))
    return _curve("mean predicted probability", "share of genuine leads", lines, diagonal="perfectly calibrated")


def plot_junk_budget(models: Models, threshold: float | None = None) -> bytes:
    """The share of junk removed for each share of genuine leads lost, up to a tenth of them; `threshold` is marked."""
    lost, lines = np.linspace(0, 0.1, 101), []
    for name, (labels, probabilities, counts) in models.items():
        genuine, junk = labels == 1, labels == 0
        bounds = quantiles(probabilities[genuine], counts[genuine], lost)
        order = np.argsort(probabilities[junk])
        below = np.concatenate([[0], np.cumsum(counts[junk][order])])
        removed = below[np.searchsorted(probabilities[junk][order], bounds)] / max(below[-1], 1)
        lines.append((name, list(lost), list(removed)))
    mark = None if threshold is None else float(counts[genuine][probabilities[genuine] < threshold].sum())
    mark = None if mark is None else mark / counts[genuine].sum()
    return _curve("share of genuine leads lost", "share of junk removed", lines, mark=mark)


def _curve(
    across: str,
    up: str,
    lines: Sequence[tuple[str, Sequence[Any], Sequence[float]]],
    *,
    diagonal: str = "",
    mark: float | None = None,
    drawstyle: str = "default",
) -> bytes:
    figure = _figure((5, 4))
    axes = figure.subplots()
    for name, x, y in lines:
        axes.plot(x, y, marker="." if len(x) < 20 else None, label=name, drawstyle=drawstyle)
    if diagonal:
        axes.plot([0, 1], [0, 1], linestyle="--", color="grey", label=diagonal)
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
