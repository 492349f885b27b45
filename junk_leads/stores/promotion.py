"""Promotion through the gate: a challenger and the champion on the same leads, and what follows.

What lives here: which leads two versions are compared on, what they say of them, and promoting on the verdict. What
does not: the judgement (`steps/learning/gating.py`), stages (`registry.py`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from junk_leads.errors import PromotionRefused
from junk_leads.reference import model_settings
from junk_leads.steps.learning.gating import Rules, Verdict, judge
from junk_leads.steps.learning.metrics import slices
from junk_leads.steps.learning.training import features_side_by_side
from junk_leads.steps.learning.validation import day
from junk_leads.steps.pages.card import few
from junk_leads.steps.pages.plots import plot_junk_budget, plot_side_by_side
from junk_leads.stores.drops.labelled import counts_of, labelled_drops, uncounted
from junk_leads.stores.registry import PRODUCTION, Registry, Version

DAY = 86_400  # seconds


@dataclass(frozen=True)
class Comparison:
    """Labels of leads that neither version has seen, both versions' probabilities, and the leads' slices, all of shape
    (r,), as are `counts`: how many leads a row is.
    """

    labels: np.ndarray
    counts: np.ndarray
    challenger: np.ndarray
    champion: np.ndarray
    slices: Mapping[str, np.ndarray]
    is_as_recent: bool

    def verdict(self) -> Verdict:
        """What the gate says."""
        rules = Rules(lowest_auc=model_settings()["lowest_auc"], **model_settings()["gate"])
        return judge(
            self.labels,
            self.challenger,
            self.champion,
            self.slices,
            rules,
            self.counts,
            is_as_recent=self.is_as_recent,
        )


def compare(con: duckdb.DuckDBPyConnection, registry: Registry, challenger: str, champion: str) -> Comparison:
    """Compare two versions on the labelled leads from the challenger's temporal hold-out on.

    The challenger speaks through the model that it was judged by, which has not seen them. So does the champion, unless
    all it was trained on is older: then it speaks as it serves.
    """
    mine, theirs = registry.version(challenger), registry.version(champion)
    start = mine.holdout_from
    models = [
        registry.load_judged(challenger),
        registry.load(champion) if theirs.newest_lead < start else registry.load_judged(champion),
    ]
    is_as_recent = mine.newest_lead // DAY >= theirs.newest_lead // DAY
    drops = labelled_drops(con)
    if math.isnan(start) or not drops:
        nothing = np.zeros(0)
        return Comparison(nothing, nothing, nothing, nothing, {}, is_as_recent)
    counts = counts_of(con, drops, uncounted(con)).filter(f"epoch(created_day) >= {start!r}")
    both = features_side_by_side(con, counts, [model.encoder for model in models])
    ours, others = (model.predict(data.kinds)[data.kind] for model, data in zip(models, both, strict=True))
    data = both[0]
    return Comparison(data.labels, data.counts, ours, others, dict(slices(data, models[0].encoder)), is_as_recent)


def promote(
    con: duckdb.DuckDBPyConnection, registry: Registry, version: str, *, why: str = "", force: bool = False
) -> Verdict | None:
    """Put a version in Production if the gate lets it pass, or by force; the first needs no comparison.

    Returns the verdict, None when there was nobody to compare with. Raises PromotionRefused, with the objections.
    A promotion that was cut off before is completed first.
    """
    registry.version(version)
    registry.complete()
    champion = registry.champion_version_or_none()
    if champion is None:
        registry.promote(version, PRODUCTION, why=why)
        return None
    if champion == version:
        return None
    verdict = compare(con, registry, version, champion).verdict()
    evidence: dict[str, Any] = {"champion": champion, "gate": verdict.as_text()}
    if not verdict.passed and not force:
        raise PromotionRefused(
            f"version {version} stays out of Production: {'; '.join(verdict.objections)}; see `junk-leads models "
            f"compare {version} {champion}`, or promote it all the same with --force --why REASON"
        )
    registry.promote(version, PRODUCTION, why=why, evidence={**evidence, **({"forced": True} if force else {})})
    return verdict


def compared(registry: Registry, versions: tuple[Version, Version], verdict: Verdict) -> str:
    """Two versions side by side, as Markdown: what they were trained on, metrics with intervals, the gate's verdict."""
    reports = [registry.evaluation(version.version) for version in versions]
    head = ["", *(f"version {version.version}" for version in versions)]
    rows: list[list[str]] = [
        ["stage", *(version.stage or "-" for version in versions)],
        ["created", *(version.created for version in versions)],
        ["newest lead", *(_day(version.newest_lead) for version in versions)],
        ["labelled leads", *(f"{sum(version.drops.values()):,}" for version in versions)],
        ["drops", *(few(list(version.drops)) for version in versions)],
        ["data fingerprint", *(version.data_fingerprint for version in versions)],
        ["encoder", *(version.encoder_id for version in versions)],
    ]
    for split in reports[0]["splits"]:
        for metric in ("auc", "average_precision", "brier", "calibration_error", "genuine_lost", "junk_removed"):
            told = [report["splits"].get(split, {}).get(metric) for report in reports]
            rows.append([f"{split} {metric}", *("-" if x is None else _interval(x) for x in told)])
    table = [f"| {' | '.join(row)} |" for row in (head, ["---"] * 3, *rows)]
    text = f"# Versions {versions[0].version} and {versions[1].version}\n\n" + "\n".join(table)
    return f"{text}\n\nOn the same leads, version {versions[0].version} {verdict.as_text()}.\n"


def plots(comparison: Comparison, versions: tuple[str, str]) -> dict[str, bytes]:
    """ROC, reliability and junk budget of both versions on the same leads, by file name; none without leads."""
    if len(np.unique(comparison.labels)) < 2:
        return {}
    told = {
        f"version {version}": (comparison.labels, probabilities, comparison.counts)
        for version, probabilities in zip(versions, (comparison.challenger, comparison.champion), strict=True)
    }
    return {**plot_side_by_side(told), "junk_budget.png": plot_junk_budget(told)}


def _interval(told: list[float]) -> str:
    return f"{told[0]:.4f} ({told[1]:.4f} to {told[2]:.4f})"


def _day(seconds: float) -> str:
    return "-" if math.isnan(seconds) else day(seconds // DAY)
