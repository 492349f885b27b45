"""Leads that were delivered before: counted and told, and kept.

What lives here: how many leads of a drop stand in others, the same in every delivered column but the label, and which
were delivered again later. What does not: leads that came back under other codes.
"""

import duckdb

from junk_leads.reference import LeadSchema
from junk_leads.steps.sql import quoted


def count_known_leads(
    con: duckdb.DuckDBPyConnection,
    leads: duckdb.DuckDBPyRelation,
    others: duckdb.DuckDBPyRelation,
    schema: LeadSchema,
) -> tuple[int, int]:
    """How many of the cleaned `leads` stand among `others` (cleaned leads of other drops), and among labelled ones."""
    lead = _lead(schema)
    found = con.sql(
        f"""
        WITH here AS (SELECT lead_number, created_date, {lead} AS lead_ FROM leads),
        there AS (
            SELECT created_date, {lead} AS lead_, {quoted(schema.label)} IS NOT NULL AS labelled_
            FROM others WHERE created_date IN (SELECT created_date FROM leads)
        ),
        found AS (
            SELECT lead_number, bool_or(labelled_) AS labelled_
            FROM here JOIN there USING (created_date, lead_) GROUP BY ALL
        )
        SELECT count(*), count(*) FILTER (labelled_) FROM found
        """
    ).fetchall()[0]
    return int(found[0]), int(found[1])


def delivered_again(
    con: duckdb.DuckDBPyConnection,
    leads: duckdb.DuckDBPyRelation,
    deliveries: duckdb.DuckDBPyRelation,
    schema: LeadSchema,
) -> duckdb.DuckDBPyRelation:
    """The labelled cleaned `leads` that were delivered again in a later drop, labelled too: `drop`, `lead_number`.

    `deliveries` tells when each `drop` was `delivered_at`; of deliveries at once the last by name counts as the later.
    """
    return con.sql(
        f"""
        SELECT drop, lead_number
        FROM (
            SELECT drop, lead_number, created_date, {_lead(schema)} AS lead_
            FROM leads WHERE {quoted(schema.label)} IS NOT NULL
        ) JOIN deliveries USING (drop)
        QUALIFY row_number() OVER (PARTITION BY created_date, lead_ ORDER BY delivered_at DESC, drop DESC) > 1
        """
    )


def _lead(schema: LeadSchema) -> str:
    """SQL for what makes two leads the same: a hash of all delivered columns but the label."""
    return f"hash(ROW({', '.join(quoted(name) for name in schema.names if name != schema.label)}))"
