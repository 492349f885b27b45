"""Outcomes: what became of leads that were scored before their labels were known.

What lives here: finding those leads, and how each version fared on them over time. What does not: what follows from it
(`assets/outcomes.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from junk_leads.reference import LeadSchema
from junk_leads.steps.learning.metrics import Interval, measure
from junk_leads.steps.learning.validation import WEEK, day
from junk_leads.steps.sql import quoted

LEAST_LEADS = 200  # of a version or a week, to be measured


def match_outcomes(
    con: duckdb.DuckDBPyConnection,
    scored: duckdb.DuckDBPyRelation,
    cleaned: duckdb.DuckDBPyRelation,
    trained_on: Mapping[str, Sequence[str]],
    schema: LeadSchema,
) -> duckdb.DuckDBPyRelation:
    """Scored leads whose label has since been delivered: one row for each.

    A lead is recognised in a labelled drop, of its own name or another, by every delivered column. Labels from a drop
    that the version was trained on (`trained_on`, drops by version) tell nothing of it and are left out. Takes
    predictions and cleaned leads; returns `drop`, `lead_number`, `created_date`, `model_version`, `probability`,
    `predicted_flag`, `grade`, `app_complete_flag`, `outcome_drop`.
    """
    lead = ", ".join(quoted(name) for name in schema.names if name != schema.label)
    known = [(version, drop) for version, drops in trained_on.items() for drop in drops]
    con.execute("CREATE OR REPLACE TEMP TABLE trained_on_ (version VARCHAR, drop VARCHAR)")
    if known:
        con.executemany("INSERT INTO trained_on_ VALUES (?, ?)", known)
    return con.sql(
        f"""
        WITH leads AS (
            SELECT drop, lead_number, created_date, {schema.label} AS label_, hash(ROW({lead})) AS lead_ FROM cleaned
        ),
        labelled AS (SELECT * FROM leads WHERE label_ IS NOT NULL)
        SELECT s.drop, s.lead_number, own.created_date, s.model_version, s.probability, s.predicted_flag, s.grade,
            labelled.label_ AS {schema.label}, labelled.drop AS outcome_drop
        FROM scored AS s
        JOIN leads AS own ON (own.drop, own.lead_number) = (s.drop, s.lead_number)
        JOIN labelled ON labelled.lead_ = own.lead_ AND labelled.created_date = own.created_date
        WHERE NOT EXISTS (
            SELECT 1 FROM trained_on_ AS t WHERE t.version = s.model_version AND t.drop = labelled.drop
        )
        QUALIFY row_number() OVER (PARTITION BY s.drop, s.lead_number ORDER BY labelled.drop DESC) = 1
        """
    )


@dataclass(frozen=True)
class Fared:
    """How a version fared on n leads whose outcomes have come, in all and by week of creation."""

    version: str
    leads: int
    metrics: Mapping[str, Interval]
    weeks: Mapping[str, Mapping[str, Interval]]
    promised_auc: tuple[float, float]

    @property
    def has_decayed(self) -> bool:
        """Whether its AUC is surely smaller than its training said: their 95 % intervals do not meet."""
        return self.metrics["auc"].high < self.promised_auc[0]


def how_versions_fared(
    outcomes: duckdb.DuckDBPyRelation, promised: Mapping[str, tuple[float, float]]
) -> dict[str, Fared]:
    """How each version fared, by version; `promised` holds the bounds of the AUC that its training reported.

    A version or week of fewer than LEAST_LEADS, or of one class, is left out.
    """
    rows = outcomes.select(
        "model_version, epoch(created_date) / 86400 AS created, probability, predicted_flag, app_complete_flag"
    ).fetchnumpy()
    versions, created = np.asarray(rows["model_version"]), np.asarray(rows["created"], dtype=float)
    labels = np.asarray(rows["app_complete_flag"]).astype(np.int8)
    probabilities, flags = np.asarray(rows["probability"], dtype=float), np.asarray(rows["predicted_flag"])
    found = {}
    for version in sorted(set(versions.tolist()), key=int):
        of_version = versions == version
        metrics = _measured(labels, probabilities, flags, of_version)
        if metrics is None or version not in promised:
            continue
        weeks = {}
        starts = np.floor(created / WEEK) * WEEK
        for start in np.unique(starts[of_version]):
            told = _measured(labels, probabilities, flags, of_version & (starts == start))
            if told is not None:
                weeks[day(start)] = told
        found[version] = Fared(version, int(of_version.sum()), metrics, weeks, promised[version])
    return found


def _measured(
    labels: np.ndarray, probabilities: np.ndarray, flags: np.ndarray, mask: np.ndarray
) -> dict[str, Interval] | None:
    labels, probabilities, flags = labels[mask], probabilities[mask], flags[mask]
    if len(labels) < LEAST_LEADS or len(np.unique(labels)) < 2:
        return None
    # leads are flagged by their probability, so the smallest flagged one is the threshold they were flagged at
    threshold = float(probabilities[flags == 1].min()) if flags.any() else 1.0
    return measure(labels, probabilities, threshold)


def outcomes_markdown(fared: Mapping[str, Fared]) -> str:
    """How the versions fared, as tables."""
    lines = [
        "| version | week from | AUC | promised | calibration error | genuine lost | junk removed |",
        "|---|---|---|---|---|---|---|",
    ]
    for version, told in fared.items():
        for week, metrics in (("all", told.metrics), *told.weeks.items()):
            promised = f"{told.promised_auc[0]:.4f} to {told.promised_auc[1]:.4f}" if week == "all" else ""
            lines.append(
                f"| {version} | {week} | {metrics['auc']} | {promised} | {metrics['calibration_error'].value:.4f} | "
                f"{metrics['genuine_lost'].value:.2%} | {metrics['junk_removed'].value:.1%} |"
            )
    return "\n".join(lines)
