"""The DuckDB file: opening it, and putting whole outputs into tables by column name.

What lives here: connections with a bounded wait for the file's lock, and the one transaction that
replaces what a table holds of some drops. What does not: Dagster (see `io_managers.py`) and what the
rows mean (see `steps/`).
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import duckdb

from junk_leads.capacity import failures_told, limit_memory, memory_limit
from junk_leads.engine.drops import MadeTable
from junk_leads.engine.table_parts import (
    FORMER,
    HELD_BY_KIND,
    KINDS,
    LEADS,
    SUFFIX,
    Stored,
    count_rows_in_parts,
    hold_by_kind,
    rows_and_parts,
    show_parts,
    show_rows_of_kinds,
    sweep,
    table_of_rows,
    with_parts,
)
from junk_leads.engine.table_parts import has_table as has_table
from junk_leads.errors import DropUnknown, WarehouseUnavailable
from junk_leads.home import number_setting
from junk_leads.steps.leads.kinds import ByKind, kinds_in
from junk_leads.steps.sql import literal, quoted
from junk_leads.stores.making import alone, make_whole, taken

WAIT_SECONDS = 300.0
TELL_SECONDS = 1.0  # a shorter wait is not told
_OUT_OF_TURN_SECONDS = 1.0
_POLL_SECONDS, _RETRY_SECONDS = 0.005, 0.05  # to look at the system's locks, and to try to open the file (4 ms of work)
# Rows that are compressed together, by one thread: half of DuckDB's own, so that both cores store 240,000 leads.
_ROW_GROUP = 61_440
_log = logging.getLogger(__name__)
RESTORE = (
    "restore a backup into an empty home (`junk-leads restore DIR`), or move it away and have the tables made again "
    "from archive/ (`junk-leads doctor --repair`)"
)
# Which table holds which drop, of which delivery (`content`, the file's SHA-256).
HOLDINGS = "table_drops"
# What a delivery must pass to be accepted, in order, and the tables of each: until it has passed the last of them, the
# rows of the delivery before it are kept beside, to be put back when it is refused.
PASSED = {
    "raw_leads": ("raw_leads", "rejected_leads", "delivered_drops", f"raw_leads{SUFFIX}"),
    "cleaned_leads": ("cleaned_leads", "known_leads", f"cleaned_leads{SUFFIX}"),
    "interaction_groups": ("interaction_groups", f"interaction_groups{SUFFIX}"),
}
LAST = "interaction_groups"
_FORMER = FORMER
_HOLDINGS_TABLE = (
    f"CREATE TABLE IF NOT EXISTS {HOLDINGS} "
    "(table_name VARCHAR, drop VARCHAR, content VARCHAR, row_count BIGINT, stored_at TIMESTAMPTZ)"
)
DROP = "drop"
# Its columns are the features of all models that were champion: those of another model are null in a row.
_OF_ALL_MODELS = f"encoded_features{KINDS}"
_INTEGERS = {f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG", "HUGE")}
_INTEGERS |= {"INTEGER", "UINTEGER"}


def connect(path: Path, *, wait_seconds: float | None = None) -> duckdb.DuckDBPyConnection:
    """Open the warehouse, made if it is not there, waiting at most `wait_seconds` while other processes hold it.

    Without a number, as long as JUNK_LEADS_WAIT_SECONDS says. Who waits is told so, and comes next: a process that lets
    the file go and asks for it again does not overtake it. Raises WarehouseUnavailable naming the holder, or what is
    wrong with the file; CapacityExceeded for a memory limit that is none.
    """
    memory_limit()  # refused before the file is made
    patience = patience_seconds() if wait_seconds is None else wait_seconds
    if not path.exists() and path.parent.is_dir():
        _make_at(path)
    started, told, out_of_turn = time.monotonic(), False, _OUT_OF_TURN_SECONDS
    with _turn(path) as is_next:
        while True:
            waited = time.monotonic() - started
            pause = _POLL_SECONDS
            # also out of turn, now and then: this process may have the file open that who is next waits for
            if (is_next() and not _seen_locked(path)) or waited >= min(patience, out_of_turn):
                pause, out_of_turn = _RETRY_SECONDS, waited + _OUT_OF_TURN_SECONDS
                found = _opened_or_held(path)
                if not isinstance(found, str):
                    break
                if waited >= patience:
                    raise WarehouseUnavailable(
                        f"the warehouse {path} is held by another process ({found}); "
                        f"waited {patience:g} s: close it and try again"
                    )
                if waited > TELL_SECONDS and not told:
                    _log.warning("waiting for the warehouse, at most %g s: it is held by %s", patience, found)
                    told = True
            time.sleep(pause)
    limit_memory(found)
    found.execute(_HOLDINGS_TABLE)
    return found


def patience_seconds() -> float:
    """How long the warehouse is waited for; raises JunkLeadsError when the setting is no number."""
    return number_setting("JUNK_LEADS_WAIT_SECONDS", WAIT_SECONDS)


@contextmanager
def _turn(path: Path) -> Iterator[Callable[[], bool]]:
    """Who is next to open the warehouse: what it gives says whether this process is, until the block ends."""
    try:
        file = path.with_name(f"{path.name}.turn").open("ab")
    except OSError:  # where nothing can be written, whatever is wrong with it is told by who opens the warehouse
        yield lambda: True
        return
    with file:
        yield partial(taken, file)


def is_waited_for(path: Path) -> bool:
    """Whether another process waits for the warehouse, which this one has open."""
    with _turn(path) as is_next:
        return not is_next()


def _seen_locked(path: Path) -> bool:
    """Whether the system tells of a lock that another process has on a file, which is cheaper than to try.

    False also where it tells nothing: then it is tried.
    """
    try:
        about = path.stat()
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return False
    file = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    # a line ends with process, file, first and last byte: `1: POSIX  ADVISORY  WRITE 4711 fe:00:2179248 0 EOF`
    holders = (line.split()[-4:-2] for line in locks.splitlines())
    return any(of == file and process != str(os.getpid()) for process, of in holders)


def _opened_or_held(path: Path) -> duckdb.DuckDBPyConnection | str:
    """The warehouse, open; or who holds it. Raises WarehouseUnavailable for a file that cannot be opened."""
    try:
        return opened(path)
    except duckdb.ResourceInUseException:  # another thread is closing it, or has it by itself
        return "a thread of this one"
    except duckdb.IOException as error:
        text = str(error)
        if "Could not set lock" not in text:
            raise WarehouseUnavailable(
                f"the warehouse {path} cannot be opened ({_first_line(text)}); nothing was changed: {RESTORE}"
            ) from error
        return _holder(text)
    except duckdb.Error as error:
        raise WarehouseUnavailable(
            f"the warehouse {path} is damaged ({_first_line(str(error))}); nothing was changed: {RESTORE}"
        ) from error


def opened(path: Path) -> duckdb.DuckDBPyConnection:
    """A connection to the file, one database for all of this process, as DuckDB has it of a file that it opens itself.

    Nobody is waited for: who has the file open already gets another one. Raises duckdb.IOException when another has it.
    It is attached, which is how DuckDB is told of the size of row groups.
    """
    con = duckdb.connect(f":memory:{path}", config={"temp_directory": f"{path}.tmp"})
    try:
        con.execute(f"ATTACH IF NOT EXISTS {literal(str(path))} AS warehouse (ROW_GROUP_SIZE {_ROW_GROUP})")
        con.execute("USE warehouse")
    except BaseException:
        con.close()
        raise
    return con


def _make_at(path: Path) -> None:
    """Make an empty warehouse, whole or not at all; DuckDB itself, killed meanwhile, leaves a file that it cannot open.

    Raises WarehouseUnavailable when only the log of a warehouse is there, which DuckDB would delete with what it holds.
    """
    log = path.with_name(f"{path.name}.wal")
    if log.exists():
        raise WarehouseUnavailable(
            f"the warehouse {path} is gone, but not its log {log.name}; nothing was changed: {RESTORE}"
        )
    try:
        with alone(path.parent):
            make_whole(path, _make)
    except OSError as error:
        raise WarehouseUnavailable(
            f"the warehouse {path} cannot be made ({error.strerror or error}); check the disk and rights"
        ) from error


def _make(path: Path) -> None:
    with duckdb.connect(str(path)) as con:
        con.execute(_HOLDINGS_TABLE)
        con.execute("CHECKPOINT")


def store(
    con: duckdb.DuckDBPyConnection,
    outputs: Mapping[str, Stored],
    drops: Sequence[str] | None,
    content: str | None = None,
) -> dict[str, int]:
    """Replace what each table holds of `drops` (of everything, when None), all in one transaction.

    Rows go in by column name; a missing table is made, typed, even for no rows; a new column is added, and an output
    that lacks a column of its table is refused (WarehouseUnavailable): only features may lack columns, those of other
    models. `content` identifies the delivery that the first table's
    rows come from; without it the drops' content in `raw_leads` is taken. Returns rows stored by table.
    A failure leaves every former row as it was. Of an output in parts, it is noted which they are.
    """
    stored: dict[str, int] = {}
    in_parts = {table: output for table, output in outputs.items() if isinstance(output, MadeTable)}
    with _in_any_order(con), _all_or_nothing(con):
        by_kind = [table for table in outputs if table in HELD_BY_KIND]
        for table in by_kind:
            hold_by_kind(con, table)
        relations = rows_and_parts(con, outputs, drops)
        for table, relation in relations.items():
            _fit_table(con, table, relation)
        for table in by_kind:
            show_rows_of_kinds(con, table)
        main = next(iter(outputs))
        if main in PASSED:
            for drop in drops or ():
                _keep_former(con, main, drop, content)
        with failures_told():
            for table, relation in relations.items():
                stored[table] = _replace(con, table, relation, drops)
        if drops:
            _hold(con, main, drops, content)
            _hold_parts(con, main, drops)
        if main == LAST:
            for drop in drops or ():
                _forget_former(con, drop)
    stored |= {table: stored[table + LEADS] for table in by_kind}
    for table, made in in_parts.items():
        stored[table] = made.rows
        sweep(con, table, (drops or ("",))[0], made)
    return stored


def take_back(con: duckdb.DuckDBPyConnection, drop: str) -> None:
    """Put a drop's former delivery back into every table where a newer one, which is refused, has taken its place.

    A delivery that has passed already stays; of a drop without a former one nothing is left. One transaction.
    """
    with _all_or_nothing(con):
        passed = content_held(con, LAST, drop)
        for main, tables in PASSED.items():
            if main == LAST or content_held(con, main, drop, passed) == passed:
                continue
            former = content_held(con, _FORMER + main, drop)
            for table in filter(partial(has_table, con), tables):
                con.execute(f"DELETE FROM {quoted(table)} WHERE drop = ?", [drop])
                if former is not None and has_table(con, _FORMER + table):
                    kept = quoted(_FORMER + table)
                    con.execute(f"INSERT INTO {quoted(table)} BY NAME SELECT * FROM {kept} WHERE drop = ?", [drop])
            con.execute(f"DELETE FROM {HOLDINGS} WHERE table_name = ? AND drop = ?", [main, drop])
            if former is not None:
                _copy_holding(con, _FORMER + main, main, drop)
            _hold_parts(con, main, [drop])
        _forget_former(con, drop)


@contextmanager
def _all_or_nothing(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """One transaction, rolled back when the block fails."""
    con.begin()
    try:
        yield
        con.commit()
    except BaseException:
        con.rollback()
        raise


@contextmanager
def _in_any_order(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Rows are stored in any order: each thread then fills row groups of its own.

    In order, row groups are cut where those of the output end, and the next checkpoint joins them all again.
    """
    con.execute("SET preserve_insertion_order = false")
    try:
        yield
    finally:
        con.execute("RESET preserve_insertion_order")


def _keep_former(con: duckdb.DuckDBPyConnection, main: str, drop: str, content: str | None) -> None:
    """Keep beside what a drop's last delivery that has passed left in the tables of `main`, before a newer one's."""
    held = content_held(con, main, drop)
    if main == LAST or held is None or held != content_held(con, LAST, drop):
        return
    if held == (content or content_held(con, "raw_leads", drop)):
        return  # the same delivery again
    for table in filter(partial(has_table, con), PASSED[main]):
        kept = _FORMER + table
        _fit_table(con, kept, con.table(table))
        con.execute(f"DELETE FROM {quoted(kept)} WHERE drop = ?", [drop])
        con.execute(f"INSERT INTO {quoted(kept)} BY NAME SELECT * FROM {quoted(table)} WHERE drop = ?", [drop])
    _copy_holding(con, main, _FORMER + main, drop)


def _copy_holding(con: duckdb.DuckDBPyConnection, table: str, target: str, drop: str) -> None:
    con.execute(f"DELETE FROM {HOLDINGS} WHERE table_name = ? AND drop = ?", [target, drop])
    con.execute(
        f"INSERT INTO {HOLDINGS} SELECT ?, * EXCLUDE (table_name) FROM {HOLDINGS} WHERE table_name = ? AND drop = ?",
        [target, table, drop],
    )


def _forget_former(con: duckdb.DuckDBPyConnection, drop: str) -> None:
    for main, tables in PASSED.items():
        if content_held(con, _FORMER + main, drop) is not None:
            for table in tables:
                if has_table(con, _FORMER + table):
                    con.execute(f"DELETE FROM {quoted(_FORMER + table)} WHERE drop = ?", [drop])
            con.execute(f"DELETE FROM {HOLDINGS} WHERE table_name = ? AND drop = ?", [_FORMER + main, drop])


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
    if drops is not None and len(drops) == 1:  # of thousands: one is found without looking at the others
        _refuse_stale(con, table, drops[0])
        return with_parts(con, table, stored_of(con, table, drops[0]), drops)
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
        return with_parts(con, table, con.table(table), None)
    rows = con.sql(f"SELECT * FROM {quoted(table)} WHERE drop IN ({current})", params=given)
    return with_parts(con, table, rows, [drop for (drop,) in con.execute(current, given).fetchall()])


def stored_of(con: duckdb.DuckDBPyConnection, table: str, drop: str) -> duckdb.DuckDBPyRelation:
    """The rows of a drop that stand in a table, of whichever delivery; without parts of its own."""
    return con.table(table).filter(duckdb.ColumnExpression(DROP) == duckdb.ConstantExpression(drop))


def by_kind_of(con: duckdb.DuckDBPyConnection, table: str, drop: str) -> ByKind:
    """What a table that is held by kind has of a drop, as `stored_of`; a table made before it was held so, the same."""
    if not has_table(con, table + KINDS):
        return kinds_in(con, stored_of(con, table, drop), HELD_BY_KIND[table], f"held {table}")
    return ByKind(stored_of(con, table + LEADS, drop), stored_of(con, table + KINDS, drop))


def _refuse_stale(con: duckdb.DuckDBPyConnection, table: str, drop: str) -> None:
    held, delivered = (content_held(con, of, drop) for of in (table, "raw_leads"))
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


def content_held(con: duckdb.DuckDBPyConnection, table: str, drop: str, otherwise: str | None = None) -> str | None:
    """The content that a table's rows of a drop were made from; `otherwise` when it holds none of it."""
    found = con.execute(f"SELECT content FROM {HOLDINGS} WHERE table_name = ? AND drop = ?", [table, drop])
    rows = found.fetchall()
    return str(rows[0][0]) if rows else otherwise


def _fit_table(con: duckdb.DuckDBPyConnection, table: str, relation: duckdb.DuckDBPyRelation) -> None:
    """Make the table, or add the columns it lacks."""
    columns = dict(zip(relation.columns, map(str, relation.types), strict=True))
    there: dict[str, str] = {}
    if has_table(con, table):
        former = con.table(table)
        there = {name.lower(): str(kind) for name, kind in zip(former.columns, former.types, strict=True)}
    for name, kind in columns.items():
        _refuse_kind(con, table, name, there.get(name.lower()), kind)
    lacking = sorted(set(there) - {name.lower() for name in columns})
    if lacking and table != _OF_ALL_MODELS:
        raise WarehouseUnavailable(
            f"the output of {table} lacks its columns {', '.join(lacking[:5])}; nothing was stored: the step that made "
            "it must give every column of its table"
        )
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
        f"FROM newly_held AS n LEFT JOIN (SELECT drop, count(*) AS row_count FROM {quoted(table_of_rows(con, table))} "
        "WHERE drop IN (SELECT unnest($drops)) GROUP BY drop) AS c USING (drop)",
        given,
    )
    con.execute("DROP TABLE newly_held")


def _hold_parts(con: duckdb.DuckDBPyConnection, table: str, drops: Sequence[str]) -> None:
    """Count and show the rows that a table holds of drops in parts."""
    if not has_table(con, table + SUFFIX):
        return
    for drop in drops:
        con.execute(
            f"UPDATE {HOLDINGS} SET row_count = ? + (SELECT count(*) FROM {quoted(table)} WHERE drop = ?) "
            "WHERE table_name = ? AND drop = ?",
            [count_rows_in_parts(con, table, drop), drop, table, drop],
        )
        show_parts(con, table, drop)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200]


def _holder(text: str) -> str:
    # DuckDB says: Conflicting lock is held in <program> (PID <number>)
    _, _, holder = text.partition("Conflicting lock is held in ")
    return holder.split(". ")[0].strip()[:200] or "unknown to DuckDB"
