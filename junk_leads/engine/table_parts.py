"""Tables whose rows are not all in one table of their name: of drops in shards, and those that are held by kind.

What lives here: the table `<table>_parts`, one row for each Parquet file with rows of `<table>`, which is replaced,
kept and taken back in the same transactions as rows are; a view of each drop in parts; and deleting files that no
table names any more. Of one held by kind `<table>_leads` and `<table>_kinds`, and the view `<table>` of both. What does
not: writing parts (`engine/parts.py`) and the transactions (`warehouse.py`).
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import duckdb
import pyarrow as pa

from junk_leads.engine.drops import MadeTable
from junk_leads.engine.parts import Part, read_parts, sql_of_parts
from junk_leads.steps.leads.accounting import count
from junk_leads.steps.leads.encoding import IDENTITY
from junk_leads.steps.leads.kinds import ByKind, kinds_in, rows_of_kinds
from junk_leads.steps.sql import quoted

SUFFIX = "_parts"
# Tables that are held by kind, and what is each lead's own there.
HELD_BY_KIND = {"encoded_features": IDENTITY, "reasons": ("drop", "lead_number")}
LEADS, KINDS = "_leads", "_kinds"
FORMER = "former_"
_SCHEMA = pa.schema(
    {"drop": pa.string(), "shard": pa.int64(), "path": pa.string(), "row_count": pa.int64(), "first_lead": pa.int64()}
)

Output: TypeAlias = duckdb.DuckDBPyRelation | MadeTable
Stored: TypeAlias = Output | ByKind  # what a table can be made of


def tables_in(con: duckdb.DuckDBPyConnection) -> list[str]:
    """The names of the warehouse's tables."""
    return [name for (name,) in con.execute("SELECT table_name FROM duckdb_tables() WHERE NOT temporary").fetchall()]


def has_table(con: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Whether the warehouse has this table, as one or by kind."""
    for name in (table, table + KINDS):
        with suppress(duckdb.CatalogException):
            con.table(name)  # to list all tables takes six times as long, and a run asks a hundred times
            return True
    return False


def table_of_rows(con: duckdb.DuckDBPyConnection, table: str) -> str:
    """The table with a row for each row of `table`: itself, unless it is held by kind."""
    return table + LEADS if has_table(con, table + LEADS) else table


def rows_and_parts(
    con: duckdb.DuckDBPyConnection, outputs: Mapping[str, Stored], drops: Sequence[str] | None
) -> dict[str, duckdb.DuckDBPyRelation]:
    """Outputs as rows of tables: of one in parts, none of its own and one for each part in the table of its parts.

    Rows that take the place of parts leave none. Of a table that is held by kind they are the rows of two.
    """
    told: dict[str, duckdb.DuckDBPyRelation] = {}
    for table, output in outputs.items():
        parts: list[dict[str, object]] = []
        if isinstance(output, MadeTable):
            (drop,) = drops or ()
            parts = [{**_row(con, part), "drop": drop} for part in output.parts]
            output = relation_of(con, output).limit(0)
        if table in HELD_BY_KIND and not isinstance(output, ByKind):
            output = kinds_in(con, output, HELD_BY_KIND[table], table)
        if isinstance(output, ByKind):
            told |= {table + LEADS: output.leads, table + KINDS: output.kinds}
        else:
            told[table] = output
        if parts or (drops is not None and has_table(con, table + SUFFIX)):
            told[table + SUFFIX] = con.from_arrow(pa.Table.from_pylist(parts, _SCHEMA))
    return told


def relation_of(con: duckdb.DuckDBPyConnection, output: Stored) -> duckdb.DuckDBPyRelation:
    """The rows of an output, wherever they are."""
    if isinstance(output, ByKind):
        return output.rows(con)
    return read_parts(con, [part.path for part in output.parts]) if isinstance(output, MadeTable) else output


def count_of(output: Output) -> int:
    """The number of rows of an output, wherever they are."""
    return output.rows if isinstance(output, MadeTable) else count(output)


def hold_by_kind(con: duckdb.DuckDBPyConnection, table: str) -> None:
    """Take a table with a row for each lead apart, as it was made before it was held by kind."""
    if has_table(con, table) and not has_table(con, table + KINDS):
        by_kind = kinds_in(con, con.table(table), HELD_BY_KIND[table], f"former {table}")
        for name, rows in ((table + LEADS, by_kind.leads), (table + KINDS, by_kind.kinds)):  # noqa: B007
            con.execute(f"CREATE TABLE {quoted(name)} AS SELECT * FROM rows")
        con.execute(f"DROP TABLE {quoted(table)}")


def show_rows_of_kinds(con: duckdb.DuckDBPyConnection, table: str) -> None:
    """Keep the view `<table>` what its two tables are: a row for each lead, with the columns that both have now."""
    con.execute(f"CREATE OR REPLACE VIEW {quoted(table)} AS {rows_of_kinds(table + LEADS, table + KINDS)}")


def parts_of(con: duckdb.DuckDBPyConnection, table: str, drop: str) -> list[Part]:
    """The parts that a table has of a drop, in the order of the shards; none when its rows are in the table itself."""
    if not has_table(con, table + SUFFIX):
        return []
    found = con.execute(
        f"SELECT shard, path, row_count, first_lead FROM {quoted(table + SUFFIX)} WHERE drop = ? ORDER BY shard", [drop]
    )
    return [Part(shard, _place(con, path), rows, first) for shard, path, rows, first in found.fetchall()]


def with_parts(
    con: duckdb.DuckDBPyConnection, table: str, rows: duckdb.DuckDBPyRelation, drops: Sequence[str] | None
) -> duckdb.DuckDBPyRelation:
    """The rows of a table, and those in its parts: of some drops, or all."""
    if not has_table(con, table + SUFFIX):
        return rows
    given = [] if drops is None else [list(drops)]
    among = "" if drops is None else "WHERE drop IN (SELECT unnest(?::VARCHAR[]))"
    found = con.execute(
        f"SELECT drop, path FROM {quoted(table + SUFFIX)} {among} ORDER BY drop, shard", given
    ).fetchall()
    if not found:
        return rows
    parts = read_parts(con, [_place(con, path) for _, path in found])
    if drops is not None and {drop for drop, _ in found} == set(drops):
        return parts
    return con.sql("SELECT * FROM rows UNION ALL BY NAME SELECT * FROM parts")


def count_rows_in_parts(con: duckdb.DuckDBPyConnection, table: str, drop: str) -> int:
    """How many rows of a drop a table has in parts."""
    return sum(part.rows for part in parts_of(con, table, drop))


def show_parts(con: duckdb.DuckDBPyConnection, table: str, drop: str) -> None:
    """Keep the view `<table> of <drop>` what the parts of a drop are; without parts there is none."""
    parts, view = parts_of(con, table, drop), quoted(f"{table} of {drop}")
    if parts:
        con.execute(f"CREATE OR REPLACE VIEW {view} AS {sql_of_parts([part.path for part in parts])}")
    else:
        con.execute(f"DROP VIEW IF EXISTS {view}")


def sweep(con: duckdb.DuckDBPyConnection, table: str, drop: str, made: MadeTable) -> None:
    """Delete the files of a drop, beside those just made, that no table names any more."""
    if not made.parts:
        return
    folder = Path(made.parts[0].path).parents[1]  # below it first_lead=<n>/part-<shard>.parquet
    named = {Path(part.path).parents[1].name for kept in (table, FORMER + table) for part in parts_of(con, kept, drop)}
    for other in folder.parent.iterdir():
        if other.name not in named:
            shutil.rmtree(other, ignore_errors=True)


def _row(con: duckdb.DuckDBPyConnection, part: Part) -> dict[str, object]:
    path = Path(part.path)
    noted = str(path.relative_to(_root(con))) if path.is_relative_to(_root(con)) else part.path
    return {"shard": part.shard, "path": noted, "row_count": part.rows, "first_lead": part.first_lead}


def _place(con: duckdb.DuckDBPyConnection, noted: str) -> str:
    """Where a part is that was noted from the warehouse's folder on, so that both can be moved together."""
    return os.path.join(_root(con), noted)


def _root(con: duckdb.DuckDBPyConnection) -> Path:
    return Path(
        con.execute("SELECT path FROM duckdb_databases() WHERE NOT internal AND path IS NOT NULL").fetchall()[0][0]
    ).parent
