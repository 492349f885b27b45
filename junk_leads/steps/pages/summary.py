"""One page about a scored drop: the percentages of 1s and 0s, what they mean, and what else a person wants to know.

What lives here: the figures, what a model's words mean, and their text and Markdown. What does not: predictions
themselves (`scoring.py`), the call list and the report of a drop (`call_list.py`, `drop_report.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from junk_leads.steps.learning.grading import GRADES
from junk_leads.steps.pages.sentences import percent
from junk_leads.steps.scoring.scoring import ScoringModel

ONES, ZEROS = "kept for calling", "set aside"


@dataclass(frozen=True)
class Meaning:
    """What the words of a model mean: what its flag is for, of which base rate its probabilities are, and its grades.

    `grades` tells for each grade the conversion, 0 to 1, that its leads had in the model's hold-out, with the 95 %
    interval, as the probabilities are told; grades without leads there are left out.
    """

    flag: str
    base_rate: str
    grades: Mapping[str, tuple[float, float, float]]

    @classmethod
    def of(cls, model: ScoringModel) -> "Meaning":
        """What the words of this model mean."""
        settings = model.settings
        if settings["costs"]:
            flag = "1 where calling a lead gains more than it costs"
        else:
            flag = f"about {percent(settings['junk_budget'])} of the genuine leads may be lost among the 0s"
        taught = percent(settings["share_of_genuine"])
        if settings["true_share"] is None:
            base_rate = (
                f"probabilities are those of the labelled leads, a balanced sample of which {taught} applied; where "
                "fewer of all leads apply, expect fewer (train --true-conversion corrects for it)"
            )
        else:
            base_rate = f"probabilities are corrected for the platform's own share of {percent(settings['true_share'])}"
        grades = {}
        for row in settings.get("grade_conversions", ()):
            if row["conversion"] is not None:
                told = model.tell(np.array([row["conversion"], row["low"], row["high"]]))
                grades[row["grade"]] = (float(told[0]), float(told[1]), float(told[2]))
        return cls(flag, base_rate, grades)

    def of_grade(self, grade: str) -> str:
        """How leads of a grade fared, in words; empty when nothing is known of it."""
        if grade not in self.grades:
            return ""
        conversion, low, high = self.grades[grade]
        return f"{conversion:.0%} apply ({low:.0%} to {high:.0%})"


def summarise(predictions: duckdb.DuckDBPyRelation, about: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one drop's predictions.

    `about` holds drop, rows_read, rows_rejected and the time. Shares are 0 to 1, and 0 of no leads; the applications
    expected are the sum of the probabilities.
    """
    grades = ", ".join(f"count(*) FILTER (grade = '{grade}') AS grade_{grade.lower()}" for grade in GRADES)
    # not by name: DuckDB takes a table called predictions before a relation
    figures = predictions.aggregate(
        f"count(*) AS lead_count, coalesce(sum(predicted_flag), 0)::BIGINT AS ones, {grades}, "
        "coalesce(avg(probability), 0) AS mean_probability, coalesce(max(model_version), '') AS model_version, "
        "coalesce(fsum(probability) FILTER (predicted_flag = 1), 0) AS applications_of_ones, "
        "coalesce(fsum(probability) FILTER (predicted_flag = 0), 0) AS applications_of_zeros"
    )
    found = dict(zip(figures.columns, figures.fetchall()[0], strict=True))
    leads = found["lead_count"]
    found["zeros"] = leads - found["ones"]
    found["share_of_ones"] = found["ones"] / leads if leads else 0.0
    found["share_of_zeros"] = found["zeros"] / leads if leads else 0.0
    found["duplicates"] = about["rows_read"] - about["rows_rejected"] - leads
    return {**about, **found}


def summary_text(figures: Mapping[str, Any], meaning: Meaning, warnings: Sequence[str] = ()) -> str:
    """The summary as the text file for people; what warns comes first."""
    grades = [
        f"  {grade} {figures[f'grade_{grade.lower()}']:>9,} leads"
        + (f"   in the model's hold-out {meaning.of_grade(grade)}" if meaning.of_grade(grade) else "")
        for grade in GRADES
    ]
    lines = [
        *(f"WARNING: {warning}" for warning in warnings),
        f"Drop {figures['drop']}",
        "",
        f"1s ({ONES}): {figures['share_of_ones']:8.2%}   {figures['ones']:,} leads, {_expected(figures, 'ones')}",
        f"0s ({ZEROS}):        {figures['share_of_zeros']:8.2%}   {figures['zeros']:,} leads, "
        f"{_expected(figures, 'zeros')}",
        f"The flag: {meaning.flag}.",
        f"Expected: {meaning.base_rate}.",
        "",
        "Grades",
        *grades,
        "",
        f"Leads scored: {figures['lead_count']:,} of {figures['rows_read']:,} rows delivered "
        f"({figures['duplicates']:,} exact duplicates dropped, {figures['rows_rejected']:,} rows rejected)",
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


def summary_markdown(figures: Mapping[str, Any], meaning: Meaning, warnings: Sequence[str] = ()) -> str:
    """The summary as Dagster's UI shows it; `warnings` are Markdown already."""
    rows = [
        (
            f"1s, {ONES}",
            f"{figures['ones']:,}",
            f"{figures['share_of_ones']:.2%}",
            _expected(figures, "ones"),
        ),
        (
            f"0s, {ZEROS}",
            f"{figures['zeros']:,}",
            f"{figures['share_of_zeros']:.2%}",
            _expected(figures, "zeros"),
        ),
    ]
    rows += [
        (f"grade {grade}", f"{figures[f'grade_{grade.lower()}']:,}", _share(figures, grade), meaning.of_grade(grade))
        for grade in GRADES
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    told = "".join(f"**Warning**: {warning}\n\n" for warning in warnings)
    return (
        f"{told}### Drop {figures['drop']}\n\n|  | leads | share | expected |\n|---|---|---|---|\n{table}\n\n"
        f"The flag: {meaning.flag}. Expected: {meaning.base_rate}.\n\n"
        f"{figures['lead_count']:,} leads scored of {figures['rows_read']:,} rows delivered, "
        f"{figures['duplicates']:,} duplicates, {figures['rows_rejected']:,} rejected. "
        f"Model version {figures['model_version']}, {figures['scored_at']}."
    )


def _expected(figures: Mapping[str, Any], of: str) -> str:
    """The applications expected among the 1s or the 0s."""
    leads, expected = figures[of], figures[f"applications_of_{of}"]
    return f"about {expected:,.0f} applications" + (f" ({expected / leads:.0%} of them)" if leads else "")


def _share(figures: Mapping[str, Any], grade: str) -> str:
    leads = figures["lead_count"]
    return f"{figures[f'grade_{grade.lower()}'] / leads:.2%}" if leads else "0.00%"
