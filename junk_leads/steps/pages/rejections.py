"""Rejected rows, for people: counted in a sentence, shown in a table, written as a CSV that no spreadsheet runs.

What lives here: how they are told. What does not: why a row is rejected (`steps/leads/reading.py`).
"""

from pathlib import Path

import duckdb

from junk_leads.steps.scoring.scored_file import FORMULA_STARTS

MOST_REASONS = 3
_STARTS = ", ".join(f"chr({ord(start)})" for start in FORMULA_STARTS)


def rejections_sentence(rejected: duckdb.DuckDBPyRelation, rows_read: int) -> str:
    """How many of the rows read were rejected, why, and in which line first; never what they hold.

    `200 of 1,000 rows rejected: total_leads_droppped is not a number, first in line 2`.
    """
    told = rejected.aggregate("column_name, reason, count(*) AS n, min(line) AS line").order("n DESC, line").fetchall()
    rows = sum(n for *_, n, _ in told)
    if not rows:
        return f"none of {rows_read:,} rows rejected"
    reasons = [
        f"{f'{n:,} ' if len(told) > 1 else ''}{column or 'the row'} {reason}, first in line {line:,}"
        for column, reason, n, line in told[:MOST_REASONS]
    ]
    more = f"; and {len(told) - MOST_REASONS} more reasons" if len(told) > MOST_REASONS else ""
    return f"{rows:,} of {rows_read:,} rows rejected: {'; '.join(reasons)}{more}"


def write_rejected_rows(rejected: duckdb.DuckDBPyRelation, path: Path) -> None:
    """Write all rejected rows of a delivery: `drop`, `lead_number`, `line`, `column`, `reason`, `raw`.

    Texts that a spreadsheet would run as a formula get a leading apostrophe.
    """
    cells = [
        f"CASE WHEN left({name}, 1) IN ({_STARTS}) THEN '''' || {name} ELSE {name} END AS {told}"
        for name, told in (("column_name", '"column"'), ("reason", "reason"), ("raw", "raw"))
    ]
    rejected.order("lead_number").select(f"drop, lead_number, line, {', '.join(cells)}").write_csv(
        str(path), header=True, quotechar='"', escapechar='"'
    )
