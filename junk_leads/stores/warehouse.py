"""The DuckDB file: opening it, and putting whole outputs into tables by column name.

What lives here: connections with a bounded wait for the file's lock, and the one transaction that
replaces what a table holds of some drops. What does not: Dagster (see `io_managers.py`) and what the
rows mean (see `steps/`).
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from junk_leads.errors import DropUnknown, WarehouseUnavailable
from junk_leads.steps.sql import quoted
from junk_leads.stores.capacity import limit_memory, memory_limit, memory_told

# Which table holds which drop, of which delivery (`content`, the file's SHA-256).
HOLDINGS = "table_drops"
DROP = "drop"
_INTEGERS = {f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG", "HUGE")}
_INTEGERS |= {"INTEGER", "UINTEGER"}


def connect(path: Path, *, wait_seconds: float = 60.0) -> duckdb.DuckDBPyConnection:
    """Open the warehouse, waiting at most `wait_seconds` while another process holds it.

    Raises WarehouseUnavailable naming the holder, or what is wrong with the file; CapacityExceeded for a memory limit
    that is none.
    """
    memory_limit()  # refused before the file is made
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            con = duckdb.connect(str(path))
            break
        except duckdb.IOException as error:
            text = str(error)
            if "Could not set lock" not in text:
                raise WarehouseUnavailable(
                    f"the warehouse {path} cannot be opened ({_first_line(text)}); "
                    f"nothing was changed: restore it from a backup, or move it away and ingest the archive again"
                ) from error
            if time.monotonic() >= deadline:
                raise WarehouseUnavailable(
                    f"the warehouse {path} is held by another process ({_holder(text)}); "
                    f"waited {wait_seconds:g} s: close it and try again"
                ) from error
            time.sleep(0.1)
        except duckdb.Error as error:
            raise WarehouseUnavailable(
                f"the warehouse {path} is damaged ({_first_line(str(error))}); "
                f"nothing was changed: restore it from a backup, or move it away and ingest the archive again"
            ) from error
    limit_memory(con)
    con.execute(
        f"CREATE TABLE IF NOT EXISTS {HOLDINGS} "
        "(table_name VARCHAR, drop VARCHAR, content VARCHAR, row_count BIGINT, stored_at TIMESTAMPTZ)"
    )
    return con


def store(
    con: duckdb.DuckDBPyConnection,
    outputs: Mapping[str, duckdb.DuckDBPyRelation],
    drops: Sequence[str] | None,
    content: str | None = None,
) -> dict[str, int]:
    """Replace what each table holds of `drops` (of everything, when None), all in one transaction.

    Rows go in by column name; a missing table is made, typed, even for no rows; a new column is added
    and a column the output lacks is left null. `content` identifies the delivery that the first table's
    rows come from; without it the drops' content in `raw_leads` is taken. Returns rows stored by table.
    A failure leaves every former row as it was.
    """
    stored: dict[str, int] = {}
    con.begin()
    try:
        for table, relation in outputs.items():
            _fit_table(con, table, relation)
        with memory_told():
            for table, relation in outputs.items():
                stored[table] = _replace(con, table, relation, drops)
        main = next(iter(outputs))
        if drops:
            _hold(con, main, drops, content)
        con.commit()
    except BaseException:
        con.rollback()
        raise
    return stored


def holds(con: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """The drops a table holds, each with the content it was made from, in the order first stored."""
    rows = con.execute(
        f"SELECT drop, content FROM {HOLDINGS} WHERE table_name = ? ORDER BY stored_at, drop", [table]
    ).fetchall()
    return dict(rows)


def rows_of(con: duckdb.DuckDBPyConnection, table: str, drops: Sequence[str] | None = None) -> duckdb.DuckDBPyRelation:
    """The rows of a table: of some drops, or all. Nothing is read until the relation is used.

    Raises DropUnknown when a single drop is asked for that the table does not hold, or holds of a former
    delivery only. Of several drops, those that it does not hold have no rows.
    """
    if not has_table(con, table):
        what = f"drop {drops[0]!r}" if drops and len(drops) == 1 else "anything"
        raise DropUnknown(f"{table} does not hold {what} yet; materialise {table} first")
    relation = con.table(table)
    if drops is not None and len(drops) == 1:  # of thousands: one is found without looking at the others
        _refuse_stale(con, table, drops[0])
        return relation.filter(duckdb.ColumnExpression(DROP) == duckdb.ConstantExpression(drops[0]))
    wanted = "" if drops is None else " AND h.drop IN (SELECT unnest(?::VARCHAR[]))"
    current = (
        f"SELECT h.drop FROM {HOLDINGS} AS h LEFT JOIN {HOLDINGS} AS r "
        f"ON r.table_name = 'raw_leads' AND r.drop = h.drop "
        f"WHERE h.table_name = ? AND coalesce(r.content, h.content) = h.content{wanted}"
    )
    given: list[object] = [table] if drops is None else [table, list(drops)]
    counted = con.execute(
        f"SELECT (SELECT count(*) FROM ({current})), (SELECT count(*) FROM {HOLDINGS} WHERE table_name = ?)",
        [*given, table],
    ).fetchall()[0]
    if counted[0] == counted[1] and (counted[1] or drops is None):
        return relation
    return con.sql(f"SELECT * FROM {quoted(table)} WHERE drop IN ({current})", params=given)


def has_table(con: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Whether the warehouse has this table."""
    found = con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = ? AND NOT temporary", [table])
    return bool(found.fetchall()[0][0])


def _refuse_stale(con: duckdb.DuckDBPyConnection, table: str, drop: str) -> None:
    held, delivered = (_content_held(con, of, drop) for of in (table, "raw_leads"))
    if held is None:
        raise DropUnknown(
            f"{table} does not hold drop {drop!r}: it was refused or not materialised yet; "
            f"look into quarantine/ for its reason, or materialise {table} for it first"
        )
    if delivered is not None and held != delivered:
        raise DropUnknown(
            f"{table} holds drop {drop!r} of a former delivery only, its newest was refused there or not "
            f"materialised yet; materialise {table} for it first"
        )


def _content_held(con: duckdb.DuckDBPyConnection, table: str, drop: str) -> str | None:
    """The content that a table's rows of a drop were made from, None when it holds none of it."""
    found = con.execute(f"SELECT content FROM {HOLDINGS} WHERE table_name = ? AND drop = ?", [table, drop])
    rows = found.fetchall()
    return str(rows[0][0]) if rows else None


def _fit_table(con: duckdb.DuckDBPyConnection, table: str, relation: duckdb.DuckDBPyRelation) -> None:
    """Make the table, or add the columns it lacks."""
    columns = dict(zip(relation.columns, map(str, relation.types), strict=True))
    there: dict[str, str] = {}
    if has_table(con, table):
        former = con.table(table)
        there = {name.lower(): str(kind) for name, kind in zip(former.columns, former.types, strict=True)}
    for name, kind in columns.items():
        _refuse_kind(con, table, name, there.get(name.lower()), kind)
    if not there:
        declared = ", ".join(f"{quoted(name)} {kind}" for name, kind in columns.items())
        con.execute(f"CREATE TABLE {quoted(table)} ({declared})")
        return
    for name, kind in columns.items():
        if name.lower() not in there:
            con.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted(name)} {kind}")


def _refuse_kind(con: duckdb.DuckDBPyConnection, table: str, name: str, former: str | None, kind: str) -> None:
    """Refuse a column whose values DuckDB would round or cut to fit the table; integers fail loudly of themselves."""
    if kind == former or (former in _INTEGERS and kind in _INTEGERS):
        return
    if former is None:
        wrong = "has no type" if kind == '"NULL"' else None
    else:
        common = con.sql(f"SELECT NULL::{former} UNION ALL SELECT NULL::{kind}").types[0]
        wrong = None if str(common) == former else f"is {former}, the output has {kind}"
    if wrong:
        raise WarehouseUnavailable(
            f"column {name} of {table} {wrong}; nothing was stored: cast it in the step that made it"
        )


def _replace(
    con: duckdb.DuckDBPyConnection, table: str, relation: duckdb.DuckDBPyRelation, drops: Sequence[str] | None
) -> int:
    target = quoted(table)
    last = con.execute(f"SELECT coalesce(max(rowid), -1) FROM {target}").fetchall()[0][0]
    output = relation  # noqa: F841  DuckDB finds it by this name: the rows never leave DuckDB
    # former rows go last: the output may be made of them
    inserted = int(con.execute(f"INSERT INTO {target} BY NAME SELECT * FROM output").fetchall()[0][0])
    if drops is None:
        con.execute(f"DELETE FROM {target} WHERE rowid <= ?", [last])
    else:
        # one drop by its name: DuckDB then reads the few blocks that may hold it
        among, named = ("= ?", drops[0]) if len(drops) == 1 else ("IN (SELECT unnest(?))", list(drops))
        con.execute(f"DELETE FROM {target} WHERE rowid <= ? AND drop {among}", [last, named])
        counted = con.execute(f"SELECT count(*) FROM {target} WHERE drop {among}", [named])
        if counted.fetchall()[0][0] != inserted:
            raise WarehouseUnavailable(
                f"an output of {table} holds rows of other drops than {', '.join(drops)}; nothing was stored: "
                f"report this as a defect of the step that made it"
            )
    return inserted


def _hold(con: duckdb.DuckDBPyConnection, table: str, drops: Sequence[str], content: str | None) -> None:
    """Note what a table holds of drops; of a refused drop inside a range of drops it holds nothing."""
    if content is None and con.execute(f"SELECT 1 FROM {HOLDINGS} WHERE table_name = 'raw_leads' LIMIT 1").fetchall():
        known = (
            f"SELECT drop, content FROM {HOLDINGS} WHERE table_name = 'raw_leads' AND drop IN (SELECT unnest($drops))"
        )
    else:
        known = "SELECT unnest($drops) AS drop, $content AS content"
    given = {"drops": list(drops), "table": table}
    more = {"content": content or ""} if "$content" in known else {}
    con.execute(f"CREATE OR REPLACE TEMP TABLE newly_held AS {known}", {"drops": list(drops), **more})
    con.execute(
        f"DELETE FROM {HOLDINGS} WHERE table_name = $table AND drop IN (SELECT drop FROM newly_held)",
        {"table": table},
    )
    con.execute(
        f"INSERT INTO {HOLDINGS} SELECT $table, n.drop, n.content, coalesce(c.row_count, 0), now() "
        f"FROM newly_held AS n LEFT JOIN (SELECT drop, count(*) AS row_count FROM {quoted(table)} "
        "WHERE drop IN (SELECT unnest($drops)) GROUP BY drop) AS c USING (drop)",
        given,
    )
    con.execute("DROP TABLE newly_held")


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200]


def _holder(text: str) -> str:
    # DuckDB says: Conflicting lock is held in <program> (PID <number>)
    _, _, holder = text.partition("Conflicting lock is held in ")
    return holder.split(". ")[0].strip()[:200] or "unknown to DuckDB"
