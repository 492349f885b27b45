"""What became of every delivery, collected from the ledger, the findings of checks and the tables.

What lives here: reading those, and the table `drop_history`. What does not: the row itself
(`steps/watching/history.py`).
"""

import json
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from junk_leads.home import Home
from junk_leads.steps.watching.history import ACCEPTED, HISTORY, history_row
from junk_leads.stores.ledger import Ledger
from junk_leads.stores.telling.findings import Finding, Findings
from junk_leads.stores.warehouse import HOLDINGS, has_table, store

TABLE = "drop_history"
_AS_JSON = ("psi", "warnings")


def collect_history(home: Home, con: duckdb.DuckDBPyConnection | None) -> list[dict[str, Any]]:
    """The rows of `drop_history`, a delivery each, oldest first; `con` is the warehouse, None where there is none."""
    deliveries = Ledger(home).deliveries()
    figures = _figures(con) if con is not None else {}
    former = _former(con) if con is not None else {}
    unusual: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in Findings(home).unusual():
        unusual[finding.drop, finding.content].append(finding)
    newest = {d.drop: d.number for d in deliveries if d.status == ACCEPTED}
    rows = []
    for d in deliveries:
        found = unusual[d.drop, d.content]
        delivery = {
            "number": d.number,
            "drop": d.drop,
            "content": d.content,
            "file_name": d.file_name,
            "status": d.status,
            "reason": d.reason,
            "at": datetime.fromtimestamp(d.updated, UTC),
        }
        blocked = [f"{f.asset}, {f.check}: {f.found}" for f in found if f.refuses]
        warned = [f"{f.asset}, {f.check}: {f.found}" for f in found if not f.refuses and not f.passed]
        psi = next((f.psi for f in reversed(found) if f.psi), None)
        rows.append(
            history_row(
                delivery,
                figures.get((d.drop, d.content)),
                former.get((d.drop, d.content)),
                is_newest_accepted=newest.get(d.drop) == d.number,
                blocked="; ".join(blocked),
                warnings=warned,
                psi=psi,
            )
        )
    return rows


def store_history(con: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]]) -> duckdb.DuckDBPyRelation:
    """Replace the table; returns it."""
    texts = [{**row, **{name: _as_json(row[name]) for name in _AS_JSON}} for row in rows]
    store(con, {TABLE: con.from_arrow(pa.Table.from_pylist(texts, HISTORY))}, None)
    return con.table(TABLE)


def _as_json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _former(con: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], dict[str, Any]]:
    if not has_table(con, TABLE):
        return {}
    rows = con.table(TABLE).to_arrow_table().to_pylist()
    return {
        (row["drop"], row["content"]): {**row, **{name: json.loads(row[name] or "null") for name in _AS_JSON}}
        for row in rows
    }


def _figures(con: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], dict[str, Any]]:
    """What the tables hold of each delivery that they were made from, by drop and content."""
    found: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
    for table, sql in _FACTS.items():
        if has_table(con, table):
            relation = con.sql(sql)
            for row in relation.fetchall():
                facts = dict(zip(relation.columns, row, strict=True))
                found[facts.pop("drop"), facts.pop("content")] |= facts
    return found


def _held(table: str, columns: str) -> str:
    """Columns of a table with one row for each drop, where it was made from the content that is held now."""
    return (
        f"SELECT t.drop, h.content, {columns} FROM {table} AS t "
        f"JOIN {HOLDINGS} AS h ON h.drop = t.drop AND h.table_name = '{{}}'"
    )


_READ = "labelled, rows_read, rows_rejected AS rejected"
_FACTS = {
    "refused_drops": f"SELECT drop, content, {_READ} FROM refused_drops",
    "delivered_drops": f"SELECT drop, content, {_READ} FROM delivered_drops",
    "cleaned_leads": f"SELECT drop, content, row_count AS kept FROM {HOLDINGS} WHERE table_name = 'cleaned_leads'",
    "known_leads": _held("known_leads", "known_leads, known_labelled_leads").format("cleaned_leads"),
    "drop_trust": _held("drop_trust", "psi, nullif(code_map, '') AS code_map").format("encoded_features"),
    "prediction_summary": _held(
        "prediction_summary", "share_of_ones, grade_a, grade_b, grade_c, grade_d, model_version"
    ).format("prediction_summary"),
    # the chance that a genuine lead is placed before a junk one: sums of ranks, ties in the middle of theirs
    "outcomes": f"""
        WITH ranked AS (
            SELECT drop, app_complete_flag AS genuine,
                rank() OVER by_probability + (count(*) OVER (PARTITION BY drop, probability) - 1) / 2 AS place
            FROM outcomes WINDOW by_probability AS (PARTITION BY drop ORDER BY probability)
        ),
        fared AS (
            SELECT drop, count(*) AS outcomes, sum(genuine) AS ones, sum(place) FILTER (genuine = 1) AS places
            FROM ranked GROUP BY drop
        )
        SELECT f.drop, h.content, f.outcomes, CASE WHEN ones BETWEEN 1 AND f.outcomes - 1
            THEN (places - ones * (ones + 1) / 2) / (ones * (f.outcomes - ones)) END AS outcome_auc
        FROM fared AS f JOIN {HOLDINGS} AS h ON h.drop = f.drop AND h.table_name = 'predictions'
    """,
}
