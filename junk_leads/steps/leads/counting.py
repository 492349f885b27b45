"""Labelled leads counted by what training needs to know of them.

What lives here: the counts, made inside DuckDB. What does not: which levels are significant (`levels.py`) and making
features (`encoding.py`): counts are of cleaned levels, so that any encoder takes them. They add up over drops.
"""

import duckdb

from junk_leads.reference import INTERACTION_GROUPS, lead_schema
from junk_leads.steps.leads.encoding import COUNT_COLUMNS, LEVEL_COLUMNS
from junk_leads.steps.sql import quoted

KIND_COLUMNS = (*LEVEL_COLUMNS, "city_tier", "is_city_missing", *COUNT_COLUMNS, *INTERACTION_GROUPS)


def count_leads(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, groups: duckdb.DuckDBPyRelation
) -> duckdb.DuckDBPyRelation:
    """Labelled leads that are alike: one row for each drop, kind, day of creation and label.

    Takes cleaned leads and their interaction groups; returns `drop`, the columns of a kind (cleaned levels, tier,
    counts, groups), `created_day`, the label and `lead_count`.
    """
    label = lead_schema().label
    kind = ", ".join(quoted(column) for column in KIND_COLUMNS)
    return con.sql(
        f"""
        SELECT drop, {kind}, created_date::DATE AS created_day, {label}, count(*) AS lead_count
        FROM leads JOIN groups USING (drop, lead_number)
        WHERE {label} IS NOT NULL
        GROUP BY ALL
        """
    )


def add_up_counts(con: duckdb.DuckDBPyConnection, counts: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The counts of leads from those of parts of them, wherever these were counted."""
    alike = ", ".join(quoted(column) for column in counts.columns if column != "lead_count")
    return con.sql(f"SELECT {alike}, sum(lead_count)::BIGINT AS lead_count FROM counts GROUP BY ALL")


def take_off_counts(
    con: duckdb.DuckDBPyConnection, counts: duckdb.DuckDBPyRelation, less: duckdb.DuckDBPyRelation
) -> duckdb.DuckDBPyRelation:
    """The counts of leads without those that are counted in `less`."""
    alike = ", ".join(quoted(column) for column in counts.columns if column != "lead_count")
    return con.sql(
        f"""
        SELECT {alike}, sum(lead_count)::BIGINT AS lead_count
        FROM (SELECT * FROM counts UNION ALL BY NAME SELECT * REPLACE (-lead_count AS lead_count) FROM less)
        GROUP BY ALL HAVING sum(lead_count) > 0
        """
    )
