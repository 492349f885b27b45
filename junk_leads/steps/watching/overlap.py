"""Leads that were delivered before: counted and told, and kept.

What lives here: how many leads of a drop stand in others, the same in every delivered column but the label. What does
not: leads that came back under other codes.
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
    lead = ", ".join(quoted(name) for name in schema.names if name != schema.label)
    found = con.sql(
        f"""
        WITH here AS (SELECT lead_number, created_date, hash(ROW({lead})) AS lead_ FROM leads),
        there AS (
            SELECT created_date, hash(ROW({lead})) AS lead_, bool_or({quoted(schema.label)} IS NOT NULL) AS labelled_
            FROM others WHERE created_date IN (SELECT created_date FROM leads) GROUP BY ALL
        )
        SELECT count(*), count(*) FILTER (labelled_) FROM here JOIN there USING (created_date, lead_)
        """
    ).fetchall()[0]
    return int(found[0]), int(found[1])
