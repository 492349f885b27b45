"""Labelled leads counted by what training needs to know of them.

What lives here: the counts, made inside DuckDB. What does not: which levels are significant (`levels.py`) and making
features (`encoding.py`): counts are of cleaned levels, so that any encoder takes them. They add up over drops.
"""

import duckdb

from junk_leads.reference import INTERACTION_GROUPS, lead_schema
from junk_leads.steps.leads.encoding import COUNT_COLUMNS, LEVEL_COLUMNS

KIND_COLUMNS = (*LEVEL_COLUMNS, "city_tier", "is_city_missing", *COUNT_COLUMNS, *INTERACTION_GROUPS)


def count_leads(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, groups: duckdb.DuckDBPyRelation
) -> duckdb.DuckDBPyRelation:
    """Labelled leads that are alike: one row for each drop, kind, moment of creation and label.

    Takes cleaned leads and their interaction groups; returns `drop`, `first_lead` (the least lead number), the
    columns of a kind (cleaned levels, tier, counts, groups), `created_date`, the label and `lead_count`.
    """
    label = lead_schema().label
    kind = ", ".join(f'"{column}"' for column in KIND_COLUMNS)
    return con.sql(
        f"""
        SELECT drop, min(lead_number) AS first_lead, {kind}, created_date, {label}, count(*) AS lead_count
        FROM leads JOIN groups USING (drop, lead_number)
        WHERE {label} IS NOT NULL
        GROUP BY ALL
        """
    )


def add_up_counts(con: duckdb.DuckDBPyConnection, counts: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The counts of leads from those of parts of them, wherever these were counted."""
    counted = ("first_lead", "lead_count")
    alike = [f'"{column}"' for column in counts.columns[1:] if column not in counted]
    return con.sql(
        f"""
        SELECT drop, min(first_lead) AS first_lead, {", ".join(alike)}, sum(lead_count)::BIGINT AS lead_count
        FROM counts GROUP BY ALL
        """
    )
