"""One page about a scored drop: the percentages of 1s and 0s, and what else a person wants to know.

What lives here: the figures, and their text and Markdown. What does not: predictions themselves (`scoring.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from junk_leads.steps.learning.grading import GRADES


def summarise(predictions: duckdb.DuckDBPyRelation, about: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one drop's predictions.

    `about` holds drop, rows_read, rows_rejected and the time. Shares are 0 to 1, and 0 of no leads.
    """
    grades = ", ".join(f"count(*) FILTER (grade = '{grade}') AS grade_{grade.lower()}" for grade in GRADES)
    # not by name: DuckDB takes a table called predictions before a relation
    figures = predictions.aggregate(
        f"count(*) AS lead_count, coalesce(sum(predicted_flag), 0)::BIGINT AS ones, {grades}, "
        "coalesce(avg(probability), 0) AS mean_probability, coalesce(max(model_version), '') AS model_version"
    )
    found = dict(zip(figures.columns, figures.fetchall()[0], strict=True))
    leads = found["lead_count"]
    found["zeros"] = leads - found["ones"]
    found["share_of_ones"] = found["ones"] / leads if leads else 0.0
    found["share_of_zeros"] = found["zeros"] / leads if leads else 0.0
    found["duplicates"] = about["rows_read"] - about["rows_rejected"] - leads
    return {**about, **found}


def summary_text(figures: Mapping[str, Any], warnings: Sequence[str] = ()) -> str:
    """The summary as the text file for people; what warns comes first."""
    lines = [
        *(f"WARNING: {warning}" for warning in warnings),
        f"Drop {figures['drop']}",
        "",
        f"1s (likely to complete the application): {figures['share_of_ones']:8.2%}   {figures['ones']:,} leads",
        f"0s (likely junk):                        {figures['share_of_zeros']:8.2%}   {figures['zeros']:,} leads",
        "",
        f"Leads scored: {figures['lead_count']:,} of {figures['rows_read']:,} rows delivered "
        f"({figures['duplicates']:,} exact duplicates dropped, {figures['rows_rejected']:,} rows rejected)",
        "Grades: " + ", ".join(f"{grade} {figures[f'grade_{grade.lower()}']:,}" for grade in GRADES),
        f"Mean probability: {figures['mean_probability']:.4f}",
        f"Model: version {figures['model_version'] or 'none (no leads)'}",
        f"Scored at: {figures['scored_at']}",
    ]
    return "\n".join(lines) + "\n"


def percentages_line(figures: Mapping[str, Any]) -> str:
    """The percentages of one drop on a line with its time, for the log of all."""
    return (
        f"{figures['scored_at']}  {figures['drop']}  1: {figures['share_of_ones']:.2%}  "
        f"0: {figures['share_of_zeros']:.2%}  of {figures['lead_count']:,} leads  "
        f"by version {figures['model_version'] or 'none'}\n"
    )


def summary_markdown(figures: Mapping[str, Any], warnings: Sequence[str] = ()) -> str:
    """The summary as Dagster's UI shows it; `warnings` are Markdown already."""
    rows = [
        ("predicted 1 (likely genuine)", f"{figures['ones']:,}", f"{figures['share_of_ones']:.2%}"),
        ("predicted 0 (likely junk)", f"{figures['zeros']:,}", f"{figures['share_of_zeros']:.2%}"),
    ]
    rows += [(f"grade {grade}", f"{figures[f'grade_{grade.lower()}']:,}", _share(figures, grade)) for grade in GRADES]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    told = "".join(f"**Warning**: {warning}\n\n" for warning in warnings)
    return (
        f"{told}### Drop {figures['drop']}\n\n|  | leads | share |\n|---|---|---|\n{table}\n\n"
        f"{figures['lead_count']:,} leads scored of {figures['rows_read']:,} rows delivered, "
        f"{figures['duplicates']:,} duplicates, {figures['rows_rejected']:,} rejected. "
        f"Model version {figures['model_version']}, {figures['scored_at']}."
    )


def _share(figures: Mapping[str, Any], grade: str) -> str:
    leads = figures["lead_count"]
    return f"{figures[f'grade_{grade.lower()}'] / leads:.2%}" if leads else "0.00%"
