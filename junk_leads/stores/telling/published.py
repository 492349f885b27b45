"""Tables for people, as Parquet: read while runs hold the warehouse, which lets in one process at a time.

What lives here: which tables are published below `tables/`, and writing a file anew when its table has changed. What
does not: the tables themselves (`warehouse.py`) and the parts of drops in shards, which lie in folders beside.
"""

import os
from pathlib import Path

import duckdb

from junk_leads.home import Home
from junk_leads.steps.sql import literal
from junk_leads.stores.warehouse import HOLDINGS, has_table, rows_of

BY_DROP = ("predictions", "prediction_summary")
WHOLE = ("drop_history", "rejected_leads", "known_leads", "significant_levels", "lightgbm_model")


def publish_tables(home: Home, con: duckdb.DuckDBPyConnection) -> list[Path]:
    """Write the published tables that have changed, each whole or not at all; returns their files.

    A table of drops has changed when one was stored after its file was written, or has fewer drops than it held; the
    others are small and written each time. Raises OSError or duckdb.Error when the disk is full.
    """
    written = []
    for table in (*BY_DROP, *WHOLE):
        path = home.root / "tables" / f"{table}.parquet"
        if not has_table(con, table) or (table in BY_DROP and _is_new(con, table, path)):
            continue
        rows = rows_of(con, table) if table in BY_DROP else con.table(table)  # noqa: F841  named in the SQL below
        part = path.with_suffix(".part")  # the next takes the name of one that was killed: who has `con` is alone
        path.parent.mkdir(exist_ok=True)
        try:
            con.execute(f"COPY (SELECT * FROM rows) TO {literal(str(part))} (FORMAT parquet, COMPRESSION zstd)")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        written.append(path)
    return written


def _is_new(con: duckdb.DuckDBPyConnection, table: str, path: Path) -> bool:
    if not path.exists():
        return False
    ((stored,),) = con.execute(
        f"SELECT coalesce(max(epoch(stored_at)), 0) FROM {HOLDINGS} WHERE table_name = ? "
        f"OR (table_name = 'raw_leads' AND drop IN (SELECT drop FROM {HOLDINGS} WHERE table_name = ?))",
        [table, table],
    ).fetchall()
    return bool(path.stat().st_mtime > stored)
