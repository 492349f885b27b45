"""Labelled drops: which there are, and the counts of their leads.

What lives here: the accepted labelled drops, those whose leads are not counted yet, and the counts of all. What does
not: counting (`steps/leads/counting.py`), and Dagster's keys of them (`defs/labelled_drops.py`).
"""

from collections.abc import Collection, Sequence

import duckdb

from junk_leads.engine.drops import count_drop
from junk_leads.engine.executors import Executor, InProcess
from junk_leads.engine.table_parts import parts_of
from junk_leads.steps.leads.counting import count_leads
from junk_leads.stores.warehouse import HOLDINGS, has_table, rows_of

COUNTS = "lead_counts"


def labelled_drops(con: duckdb.DuckDBPyConnection) -> list[str]:
    """The accepted labelled drops that have leads, in the order they came."""
    return [drop for drop, _ in _drops(con)]


def uncounted(con: duckdb.DuckDBPyConnection) -> list[str]:
    """The labelled drops whose leads are not counted, or were before they were last cleaned, in the order they came."""
    return [drop for drop, is_counted in _drops(con) if not is_counted]


def _drops(con: duckdb.DuckDBPyConnection) -> list[tuple[str, bool]]:
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
        ORDER BY made.stored_at, made.drop
        """
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
