"""Labelled drops: which there are, and the counts of their leads.

What lives here: the accepted labelled drops, those whose leads are not counted yet, the counts of all, and of these
what training learns from: each lead once. What does not: counting (`steps/leads/counting.py`), which leads are the same
(`steps/watching/overlap.py`), and Dagster's keys of drops (`defs/labelled_drops.py`).
"""

from collections.abc import Collection, Sequence
from datetime import datetime

import duckdb

from junk_leads.engine.drops import count_drop
from junk_leads.engine.executors import Executor, InProcess
from junk_leads.engine.table_parts import parts_of
from junk_leads.reference import lead_schema
from junk_leads.steps.leads.counting import count_leads, take_off_counts
from junk_leads.steps.watching.overlap import delivered_again
from junk_leads.stores.warehouse import HOLDINGS, has_table, rows_of

COUNTS = "lead_counts"


def labelled_drops(con: duckdb.DuckDBPyConnection) -> list[str]:
    """The accepted labelled drops that have leads, in the order they came."""
    return [drop for drop, _ in _drops(con)]


def uncounted(con: duckdb.DuckDBPyConnection, before: datetime | None = None) -> list[str]:
    """The labelled drops whose leads are not counted, or were before they were last cleaned, in the order they came.

    Those that came since `before` are left out, if it is given.
    """
    return [drop for drop, is_counted in _drops(con, before) if not is_counted]


def _drops(con: duckdb.DuckDBPyConnection, before: datetime | None = None) -> list[tuple[str, bool]]:
    """The labelled drops, each with whether its counts are of what is there now."""
    if not has_table(con, "delivered_drops"):
        return []
    return con.execute(
        f"""
        SELECT made.drop, coalesce(counted.content = made.content AND counted.stored_at >= made.stored_at, false)
        FROM {HOLDINGS} AS made
        JOIN {HOLDINGS} AS read ON read.table_name = 'raw_leads' AND read.drop = made.drop
        JOIN delivered_drops AS delivered ON delivered.drop = made.drop
        LEFT JOIN {HOLDINGS} AS counted ON counted.table_name = '{COUNTS}' AND counted.drop = made.drop
        WHERE made.table_name = 'interaction_groups' AND made.row_count > 0
            AND delivered.labelled AND read.content = made.content
            AND made.stored_at < coalesce(?::TIMESTAMPTZ, 'infinity')
        ORDER BY made.stored_at, made.drop
        """,
        [before],
    ).fetchall()


def counts_of(
    con: duckdb.DuckDBPyConnection, drops: Sequence[str], anew: Collection[str], executor: Executor | None = None
) -> duckdb.DuckDBPyRelation:
    """The counts of labelled drops: of those that are `anew`, counted now, of the others as they are stored.

    Drops in shards are counted by the executor, in this process unless told.
    """
    stored = [drop for drop in drops if drop not in anew]
    in_parts = {drop: parts_of(con, "cleaned_leads", drop) for drop in drops if drop in anew}
    new = [drop for drop, parts in in_parts.items() if not parts]
    found = [
        count_drop(con, executor or InProcess(), parts, parts_of(con, "interaction_groups", drop))
        for drop, parts in in_parts.items()
        if parts
    ]
    if new:
        found.append(count_leads(con, rows_of(con, "cleaned_leads", new), rows_of(con, "interaction_groups", new)))
    if stored or not found:
        found.append(rows_of(con, COUNTS, stored))
    counts, *others = found
    for other in others:  # noqa: B007  named in the SQL below
        counts = con.sql("SELECT * FROM counts UNION ALL BY NAME SELECT * FROM other")
    return counts


def repeated_leads(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation | None:
    """The labelled leads that stand in a later labelled drop too (`drop`, `lead_number`), None when there are none.

    Reads leads only when a drop was found to hold leads of labelled ones as it came. The relation reads a TEMP table of
    `con`, which the next call replaces.
    """
    drops = labelled_drops(con)
    if len(drops) < 2 or not has_table(con, "known_leads"):
        return None
    suspects = con.execute(
        "SELECT drop FROM known_leads WHERE known_labelled_leads > 0 AND drop IN (SELECT unnest(?::VARCHAR[]))", [drops]
    ).fetchall()
    if not suspects:
        return None
    leads = rows_of(con, "cleaned_leads", drops)
    moments = rows_of(con, "cleaned_leads", [drop for (drop,) in suspects]).select("created_date")  # noqa: F841
    leads = con.sql("SELECT * FROM leads SEMI JOIN moments USING (created_date)")
    deliveries = con.sql(f"SELECT drop, stored_at AS delivered_at FROM {HOLDINGS} WHERE table_name = 'raw_leads'")
    found = delivered_again(con, leads, deliveries, lead_schema())  # noqa: F841  named in the SQL below
    con.execute("CREATE OR REPLACE TEMP TABLE repeated_leads AS SELECT * FROM found")
    repeated = con.table("repeated_leads")
    return repeated if repeated.limit(1).fetchall() else None


def learned_once(con: duckdb.DuckDBPyConnection, counts: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Of the counts of all labelled drops those that training learns from: a lead counts as it was delivered last."""
    repeated = repeated_leads(con)
    if repeated is None:
        return counts
    drops = [drop for (drop,) in repeated.select("drop").distinct().fetchall()]
    leads, groups = rows_of(con, "cleaned_leads", drops), rows_of(con, "interaction_groups", drops)
    leads = con.sql("SELECT * FROM leads SEMI JOIN repeated USING (drop, lead_number)")
    return take_off_counts(con, counts, count_leads(con, leads, groups))
