"""The warehouse: outputs go in by name, in one transaction, and come out by drop."""

import fcntl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from junk_leads.errors import DropUnknown, WarehouseUnavailable
from junk_leads.stores import warehouse
from junk_leads.stores.warehouse import _seen_locked, by_kind_of, connect, holds, rows_of, store, take_back

RESTORE = f"nothing was changed: {warehouse.RESTORE}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "warehouse.duckdb"


@pytest.fixture
def con(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(path) as connection:
        yield connection


@pytest.fixture
def keep(con: duckdb.DuckDBPyConnection) -> Callable[..., dict[str, int]]:
    """Stores the rows of a query in table `t`: `keep("SELECT 'a' AS drop, 1 AS n", "a")`."""
    return lambda sql, *drops, content=None: store(con, {"t": con.sql(sql)}, drops or None, content)


def rows(con: duckdb.DuckDBPyConnection, table: str = "t", *drops: str) -> list[tuple[object, ...]]:
    return sorted(rows_of(con, table, drops or None).fetchall(), key=str)


# Storing


def test_row_groups_are_so_small_that_both_cores_have_some_of_a_drop_also_beside_larger_ones(path: Path) -> None:
    with duckdb.connect(str(path)) as former:  # as it was made before
        former.execute("CREATE TABLE t AS SELECT 'a' AS drop, range AS n FROM range(200000)")
    with connect(path) as con:
        store(con, {"t": con.sql("SELECT 'b' AS drop, range AS n FROM range(130000)")}, ["b"], "content")
    with connect(path) as con:
        assert con.sql("SELECT drop, count(*), sum(n)::BIGINT FROM t GROUP BY ALL ORDER BY ALL").fetchall() == [
            ("a", 200_000, sum(range(200_000))),
            ("b", 130_000, sum(range(130_000))),
        ]
        groups = con.sql(
            "SELECT row_group_id, max(start + count) FROM pragma_storage_info('t') GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    assert [rows for _, rows in groups] == [122_880, 77_120, 61_440, 61_440, 7_120]


def test_columns_go_in_by_name_whatever_their_order(
    con: duckdb.DuckDBPyConnection, keep: Callable[..., object]
) -> None:
    keep("SELECT 'a' AS drop, 1 AS x, 2 AS y", "a")
    keep("SELECT 4 AS y, 3 AS x, 'b' AS drop", "b")
    assert rows(con) == [("a", 1, 2), ("b", 3, 4)]


def test_column_names_differ_by_more_than_case(con: duckdb.DuckDBPyConnection, keep: Callable[..., object]) -> None:
    keep("SELECT 'a' AS drop, 1 AS x", "a")
    keep("SELECT 'b' AS Drop, 2 AS X", "b")
    assert rows(con) == [("a", 1), ("b", 2)]


def test_a_new_column_is_added_and_former_rows_have_none(
    con: duckdb.DuckDBPyConnection, keep: Callable[..., object]
) -> None:
    keep("SELECT 'a' AS drop, 1 AS x", "a")
    keep("SELECT 'b' AS drop, 2 AS x, 'new' AS y", "b")
    assert rows(con) == [("a", 1, None), ("b", 2, "new")]


def test_an_output_that_lacks_a_column_of_its_table_is_refused_and_former_rows_stay(
    con: duckdb.DuckDBPyConnection, keep: Callable[..., object]
) -> None:
    keep("SELECT 'a' AS drop, 1 AS x, 2 AS y", "a")
    with pytest.raises(WarehouseUnavailable, match="the output of t lacks its columns x, y; nothing was stored"):
        keep("SELECT 'a' AS drop, 3 AS z", "a")
    assert rows(con) == [("a", 1, 2)]


def test_features_of_another_model_are_null_in_a_row(con: duckdb.DuckDBPyConnection) -> None:
    for drop, feature in (("a", "x"), ("b", "y")):
        store(con, {"encoded_features": con.sql(f"SELECT '{drop}' AS drop, 1 AS {feature}")}, [drop])
    assert rows(con, "encoded_features") == [("a", 1, None), ("b", None, 1)]


LEADS = "(VALUES (1, 5, 0.5), (2, 6, 0.25), (3, 5, 0.5)) AS leads (lead_number, x, base)"


def shown(con: duckdb.DuckDBPyConnection, table: str, drop: str) -> list[Any]:
    return con.sql(f"SELECT * FROM {table} WHERE drop = '{drop}' ORDER BY lead_number").fetchall()


def test_what_leads_of_a_kind_share_is_held_once_and_shown_for_each_of_them(con: duckdb.DuckDBPyConnection) -> None:
    for drop in ("a", "b", "a"):
        leads = con.sql(f"SELECT '{drop}' AS drop, lead_number, x, base FROM {LEADS}")
        assert store(con, {"predictions": leads, "reasons": leads}, [drop])["reasons"] == 3
    assert con.table("reasons").columns == ["drop", "lead_number", "x", "base"]
    for drop in ("a", "b"):
        assert shown(con, "reasons", drop) == shown(con, "predictions", drop) != []
    assert len(con.table("reasons_leads")) == 6
    assert len(con.table("reasons_kinds")) == 4
    assert sorted(by_kind_of(con, "reasons", "b").rows(con).fetchall()) == shown(con, "predictions", "b")


def test_a_table_made_before_it_was_held_by_kind_keeps_its_rows(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(f"CREATE TABLE encoded_features AS SELECT 'a' AS drop, lead_number, x, NULL::INTEGER AS y FROM {LEADS}")
    former = shown(con, "encoded_features", "a")
    assert sorted(by_kind_of(con, "encoded_features", "a").rows(con).fetchall()) == former
    new = con.sql("SELECT 'b' AS drop, 1 AS lead_number, 7 AS y, 8 AS z")
    store(con, {"encoded_features": new}, ["b"])
    assert shown(con, "encoded_features", "a") == [(*row, None) for row in former]
    assert shown(con, "encoded_features", "b") == [("b", 1, None, 7, 8)]
    assert len(con.table("encoded_features_kinds")) == 3


def test_two_tables_made_before_and_new_rows_of_them_do_not_come_in_each_others_way(
    con: duckdb.DuckDBPyConnection,
) -> None:
    """Features of a former home are scored: what is stored is made of kinds found in one former table, of another."""
    for table in ("encoded_features", "reasons"):
        con.execute(f"CREATE TABLE {table} AS SELECT 'a' AS drop, lead_number, x, '{table}' AS y FROM {LEADS}")
    found = by_kind_of(con, "encoded_features", "a")
    store(con, {"predictions": found.rows(con), "reasons": found}, ["a"])
    assert shown(con, "reasons", "a") == shown(con, "predictions", "a") == shown(con, "encoded_features", "a")


def test_a_failure_leaves_a_table_made_before_as_it_was(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(f"CREATE TABLE reasons AS SELECT 'a' AS drop, lead_number, x FROM {LEADS}")
    foreign = con.sql("SELECT 'c' AS drop, 1 AS lead_number, 7 AS x")
    with pytest.raises(WarehouseUnavailable, match="an output of reasons_leads holds rows of other drops than b"):
        store(con, {"reasons": foreign}, ["b"])
    assert con.sql("SHOW TABLES").fetchall() == [("reasons",), ("table_drops",)]
    assert len(shown(con, "reasons", "a")) == 3


def test_an_output_without_rows_makes_a_typed_table(
    con: duckdb.DuckDBPyConnection, keep: Callable[..., dict[str, int]]
) -> None:
    stored = keep("SELECT 'a' AS drop, 1::SMALLINT AS x, TIMESTAMP '2021-07-01' AS t WHERE false", "a")
    assert stored == {"t": 0}
    assert [str(kind) for kind in con.table("t").types] == ["VARCHAR", "SMALLINT", "TIMESTAMP"]
    assert rows(con, "t", "a") == []


def test_storing_a_drop_again_replaces_it_and_no_other(
    con: duckdb.DuckDBPyConnection, keep: Callable[..., dict[str, int]]
) -> None:
    keep("SELECT 'a' AS drop, unnest([1, 2]) AS x", "a")
    keep("SELECT 'b' AS drop, 3 AS x", "b")
    for _ in range(2):
        assert keep("SELECT 'a' AS drop, unnest([7, 8, 9]) AS x", "a") == {"t": 3}
    assert rows(con) == [("a", 7), ("a", 8), ("a", 9), ("b", 3)]


def test_an_output_for_no_drop_in_particular_replaces_the_table(
    con: duckdb.DuckDBPyConnection, keep: Callable[..., object]
) -> None:
    keep("SELECT unnest([1, 2]) AS x")
    keep("SELECT 3 AS x")
    assert rows(con) == [(3,)]


def test_several_drops_of_one_output_are_replaced_together(
    con: duckdb.DuckDBPyConnection, keep: Callable[..., object]
) -> None:
    keep("SELECT unnest(['a', 'b', 'c']) AS drop, 1 AS x", "a", "b", "c")
    keep("SELECT 'a' AS drop, 2 AS x", "a", "b")
    assert rows(con) == [("a", 2), ("c", 1)]
    assert rows(con, "t", "a", "b", "c") == [("a", 2), ("c", 1)]


def test_an_output_may_be_made_of_the_former_rows_of_its_own_table(
    con: duckdb.DuckDBPyConnection, keep: Callable[..., object]
) -> None:
    keep("SELECT 'a' AS drop, 1 AS x", "a")
    keep("SELECT drop, x + 1 AS x FROM t", "a")
    assert rows(con) == [("a", 2)]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT 'a' AS drop, 99999999999 AS x", "out of range"),
        ("SELECT 'a' AS drop, error('half way')::INTEGER AS x FROM range(5)", "half way"),
    ],
)
def test_an_output_that_fails_leaves_the_former_rows(
    con: duckdb.DuckDBPyConnection, keep: Callable[..., object], sql: str, message: str
) -> None:
    keep("SELECT 'a' AS drop, 1::INTEGER AS x", "a", content="first")
    with pytest.raises(duckdb.Error, match=message):
        keep(sql, "a", content="second")
    assert rows(con) == [("a", 1)]
    assert holds(con, "t") == {"a": "first"}
    assert con.execute("SELECT current_setting('preserve_insertion_order')").fetchall() == [(True,)]
    keep("SELECT 'a' AS drop, 2 AS x", "a")  # and the connection can go on
    assert rows(con) == [("a", 2)]


def test_one_table_that_fails_leaves_the_other_tables_of_the_output_as_they_were(
    con: duckdb.DuckDBPyConnection, keep: Callable[..., object]
) -> None:
    keep("SELECT 'a' AS drop, 1 AS x", "a")
    bad = {
        "t": con.sql("SELECT 'a' AS drop, 2 AS x, 3 AS y"),
        "u": con.sql("SELECT 'a' AS drop, error('no')::INTEGER AS z"),
    }
    with pytest.raises(duckdb.Error, match="no"):
        store(con, bad, ["a"])
    assert rows(con) == [("a", 1)]
    assert con.table("t").columns == ["drop", "x"]
    assert con.sql("SHOW TABLES").fetchall() == [("t",), ("table_drops",)]


@pytest.mark.parametrize(
    ("former", "new", "kinds"),
    [
        ("1::INTEGER", "2.7::DOUBLE", "INTEGER, the output has DOUBLE"),
        ("1::INTEGER", "2.7", r"INTEGER, the output has DECIMAL\(2,1\)"),
        ("1::INTEGER", "'7'", "INTEGER, the output has VARCHAR"),
        ("DATE '2021-07-01'", "TIMESTAMP '2021-07-01 08:00:00'", "DATE, the output has TIMESTAMP"),
        ("1::FLOAT", "0.1::DOUBLE", "FLOAT, the output has DOUBLE"),
    ],
)
def test_a_column_whose_type_changed_is_refused_before_it_loses_anything(
    con: duckdb.DuckDBPyConnection, keep: Callable[..., object], former: str, new: str, kinds: str
) -> None:
    keep(f"SELECT 'a' AS drop, {former} AS x", "a")
    with pytest.raises(
        WarehouseUnavailable,
        match=rf"^column x of t is {kinds}; nothing was stored: cast it in the step that made it$",
    ):
        keep(f"SELECT 'a' AS drop, {new} AS x", "a")
    assert len(rows(con)) == 1


@pytest.mark.parametrize("new", ["2::TINYINT", "2::BIGINT", "NULL"])
def test_a_column_takes_what_fits_it(con: duckdb.DuckDBPyConnection, keep: Callable[..., object], new: str) -> None:
    keep("SELECT 'a' AS drop, 1::INTEGER AS x", "a")
    keep(f"SELECT 'a' AS drop, {new} AS x", "a")
    assert rows(con) == [("a", None if new == "NULL" else 2)]


def test_a_column_without_a_type_is_refused(con: duckdb.DuckDBPyConnection, keep: Callable[..., object]) -> None:
    with pytest.raises(
        WarehouseUnavailable, match=r"^column x of t has no type; nothing was stored: cast it in the step that made it$"
    ):
        keep("SELECT 'a' AS drop, NULL AS x", "a")
    assert con.sql("SHOW TABLES").fetchall() == [("table_drops",)]


def test_rows_of_another_drop_are_refused(con: duckdb.DuckDBPyConnection, keep: Callable[..., object]) -> None:
    keep("SELECT 'a' AS drop, 1 AS x", "a")
    with pytest.raises(
        WarehouseUnavailable,
        match=r"^an output of t holds rows of other drops than a; nothing was stored: report this as a defect of the "
        "step that made it$",
    ):
        keep("SELECT unnest(['a', 'b']) AS drop, 2 AS x", "a")
    assert rows(con) == [("a", 1)]


def test_names_are_quoted_wherever_they_meet_sql(con: duckdb.DuckDBPyConnection) -> None:
    table, drop = 'o"dd; DROP TABLE x', "d'; --"
    for value in (1, 2):
        odd = con.sql(f'SELECT ? AS drop, {value} AS "c""ol\'umn"', params=[drop])
        store(con, {table: odd}, [drop])
    assert rows_of(con, table, [drop]).fetchall() == [(drop, 2)]
    assert holds(con, table) == {drop: ""}


# Loading


def test_one_drop_several_or_all_are_loaded(con: duckdb.DuckDBPyConnection, keep: Callable[..., object]) -> None:
    for drop in "abc":
        keep(f"SELECT '{drop}' AS drop, 1 AS x", drop)
    assert rows(con, "t", "b") == [("b", 1)]
    assert rows(con, "t", "a", "c") == [("a", 1), ("c", 1)]
    assert rows(con) == [("a", 1), ("b", 1), ("c", 1)]


def test_a_table_that_was_never_stored_says_what_to_materialise(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(DropUnknown, match=r"^t does not hold anything yet; materialise t first$"):
        rows_of(con, "t")
    with pytest.raises(DropUnknown, match=r"^t does not hold drop 'a' yet; materialise t first$"):
        rows_of(con, "t", ["a"])


def test_a_drop_that_was_never_stored_is_refused(con: duckdb.DuckDBPyConnection, keep: Callable[..., object]) -> None:
    keep("SELECT 'a' AS drop, 1 AS x", "a")
    with pytest.raises(
        DropUnknown,
        match=r"^t does not hold drop 'b': it was refused or not materialised yet; look into quarantine/ for its "
        "reason, or materialise t for it first$",
    ):
        rows_of(con, "t", ["b"])
    assert rows(con, "t", "a", "b") == [("a", 1)]


def test_a_drop_without_rows_is_held_all_the_same(con: duckdb.DuckDBPyConnection, keep: Callable[..., object]) -> None:
    keep("SELECT 'a' AS drop, 1 AS x WHERE false", "a")
    assert rows(con, "t", "a") == []


@pytest.fixture
def redelivered(con: duckdb.DuckDBPyConnection, keep: Callable[..., object]) -> None:
    """Drops a and b, stored in t; then a was delivered anew and stored in raw_leads only."""
    for drop in "ab":
        store(con, {"raw_leads": con.sql(f"SELECT '{drop}' AS drop")}, [drop], content="first")
        keep(f"SELECT '{drop}' AS drop, 1 AS x", drop)
    store(con, {"raw_leads": con.sql("SELECT 'a' AS drop")}, ["a"], content="second")


@pytest.mark.usefixtures("redelivered")
def test_rows_of_a_former_delivery_are_refused_and_left_out(con: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(
        DropUnknown,
        match=r"^t holds drop 'a' of a former delivery only, its newest was refused there or not materialised yet; "
        "materialise t for it first$",
    ):
        rows_of(con, "t", ["a"])
    assert rows(con) == rows(con, "t", "a", "b") == rows(con, "t", "b") == [("b", 1)]


@pytest.mark.usefixtures("redelivered")
def test_a_former_delivery_is_replaced_by_the_newest(
    con: duckdb.DuckDBPyConnection, keep: Callable[..., object]
) -> None:
    keep("SELECT 'a' AS drop, 2 AS x", "a")
    assert rows(con, "t", "a") == [("a", 2)]
    assert holds(con, "t") == {"a": "second", "b": "first"}


@pytest.mark.usefixtures("redelivered")
def test_a_refused_drop_among_several_is_not_held(con: duckdb.DuckDBPyConnection, keep: Callable[..., object]) -> None:
    keep("SELECT unnest(['a', 'b']) AS drop, 2 AS x", "a", "b", "refused")
    assert list(holds(con, "t")) == ["a", "b"]
    with pytest.raises(DropUnknown, match="does not hold drop 'refused'"):
        rows_of(con, "t", ["refused"])


@pytest.mark.usefixtures("redelivered")
def test_a_taking_back_that_fails_leaves_everything_as_it_was(
    con: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise duckdb.IOException("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("junk_leads.stores.warehouse._forget_former", fail)
        with pytest.raises(duckdb.IOException):
            take_back(con, "a")
    assert holds(con, "raw_leads") == {"a": "second", "b": "first"}
    take_back(con, "a")  # neither delivery of it had passed
    assert holds(con, "raw_leads") == {"b": "first"}


def deliver(con: duckdb.DuckDBPyConnection, drop: str, content: str, *tables: str) -> None:
    """Store a delivery of a drop, two leads of that content, in the tables that it comes to."""
    of = f"SELECT '{drop}' AS drop, n AS lead_number, '{content}' AS made_of FROM range(2) AS r(n)"
    outputs = {
        "raw_leads": ("raw_leads", "rejected_leads", "delivered_drops"),
        "cleaned_leads": ("cleaned_leads", "known_leads"),
        "interaction_groups": ("interaction_groups",),
    }
    for main in tables:
        store(con, {table: con.sql(of) for table in outputs[main]}, [drop], content if main == "raw_leads" else None)


def everything(con: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[object, ...]]]:
    """What each table holds, and of which delivery it is said to be; not when it was stored."""
    tables = [name for (name,) in con.sql("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()]
    held = {
        name: con.sql(f"SELECT * FROM {name} ORDER BY ALL").fetchall() for name in tables if name != warehouse.HOLDINGS
    }
    noted = con.sql(f"SELECT * EXCLUDE (stored_at) FROM {warehouse.HOLDINGS} ORDER BY ALL").fetchall()
    return {**{name: rows for name, rows in held.items() if rows}, warehouse.HOLDINGS: noted}


@pytest.mark.parametrize("refused_at", [["raw_leads"], ["raw_leads", "cleaned_leads"]], ids=len)
def test_a_refused_delivery_is_taken_back_from_every_table_that_it_came_to(
    con: duckdb.DuckDBPyConnection, refused_at: list[str]
) -> None:
    for drop in "ab":
        deliver(con, drop, "first", *warehouse.PASSED)
    before = everything(con)
    deliver(con, "a", "second", *refused_at)
    deliver(con, "a", "third", *refused_at)  # what is kept beside is that which has passed, not the one before
    assert ("a", 0, "third") in con.table("raw_leads").fetchall()
    take_back(con, "a")
    assert everything(con) == before
    assert rows(con, "interaction_groups", "a") == [("a", 0, "first"), ("a", 1, "first")]
    take_back(con, "a")  # there is nothing more to take
    assert everything(con) == before


def test_of_a_first_delivery_that_is_refused_nothing_is_left(con: duckdb.DuckDBPyConnection) -> None:
    deliver(con, "b", "first", *warehouse.PASSED)
    before = everything(con)
    deliver(con, "a", "first", "raw_leads", "cleaned_leads")
    take_back(con, "a")
    assert everything(con) == before


def test_a_delivery_that_has_passed_stays_and_the_one_before_is_forgotten(con: duckdb.DuckDBPyConnection) -> None:
    for content in ("first", "second"):
        deliver(con, "a", content, *warehouse.PASSED)
    passed = everything(con)
    assert {made_of for _, _, made_of in passed["cleaned_leads"]} == {"second"}
    assert not [name for name in passed if name.startswith("former_")]
    take_back(con, "a")
    assert everything(con) == passed


def test_the_same_delivery_again_keeps_nothing_beside(con: duckdb.DuckDBPyConnection) -> None:
    deliver(con, "a", "first", *warehouse.PASSED)
    passed = everything(con)
    deliver(con, "a", "first", "raw_leads", "cleaned_leads")
    assert everything(con) == passed


# The file


HOLDER = "import sys, duckdb; con = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"


@contextmanager
def held(path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process that has the file open until its input is closed."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        yield process
        process.stdin.close()


def test_a_file_that_another_process_holds_is_waited_for_no_longer_than_told(path: Path) -> None:
    started = time.monotonic()
    with held(path) as process, pytest.raises(WarehouseUnavailable) as refused:
        connect(path, wait_seconds=0.3)
    assert 0.3 <= time.monotonic() - started < 30
    message = str(refused.value)
    assert message.startswith(f"the warehouse {path} is held by another process (")
    assert f"(PID {process.pid})" in message
    assert message.endswith("); waited 0.3 s: close it and try again")


def test_a_file_that_another_process_lets_go_is_opened(path: Path) -> None:
    opened = threading.Event()

    def wait_and_open() -> None:
        with connect(path, wait_seconds=60):
            opened.set()

    with held(path):
        waiting = threading.Thread(target=wait_and_open)
        waiting.start()
        assert not opened.is_set()
    waiting.join(timeout=60)
    assert opened.is_set()


def test_a_lock_of_another_process_is_seen_without_trying(path: Path) -> None:
    assert not _seen_locked(path)  # there is no file
    with connect(path):
        assert not _seen_locked(path)  # this process's own
    with held(path):
        assert _seen_locked(path) == Path("/proc/locks").exists()
    assert not _seen_locked(path)


def test_where_locks_are_not_seen_the_file_is_tried_until_it_is_let_go(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("junk_leads.stores.warehouse._seen_locked", lambda path: False)
    test_a_file_that_another_process_lets_go_is_opened(path)


def test_who_waits_is_told_whom_for_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with held(path) as process, pytest.raises(WarehouseUnavailable):
        connect(path, wait_seconds=2.5)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("waiting for the warehouse, at most 2.5 s: it is held by ")
    assert f"(PID {process.pid})" in told


def test_where_no_turn_can_be_kept_the_file_is_opened_all_the_same(path: Path) -> None:
    path.with_name(f"{path.name}.turn").mkdir()
    connect(path).close()
    assert path.exists()


def test_a_warehouse_that_cannot_be_made_is_one_line(path: Path) -> None:
    path.with_name("making.lock").mkdir()
    with pytest.raises(
        WarehouseUnavailable, match=r"/warehouse.duckdb cannot be made \(Is a directory\); check the disk"
    ):
        connect(path)
    assert not path.exists()


GREEDY = """
import sys, time; from pathlib import Path; from junk_leads.stores.warehouse import connect
connect(Path(sys.argv[1])).close(); print("open", flush=True)
while True:
    with connect(Path(sys.argv[1])): time.sleep(0.2)
"""


def test_who_asks_again_and_again_starves_nobody(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", GREEDY, str(path)], stdout=subprocess.PIPE) as greedy:
        assert greedy.stdout is not None
        assert greedy.stdout.readline() == b"open\n"
        time.sleep(0.5)
        try:
            started = time.monotonic()
            for _ in range(5):
                connect(path, wait_seconds=20).close()
            assert time.monotonic() - started < 10
        finally:
            greedy.kill()


def test_a_process_that_has_the_file_open_may_open_it_again_while_another_is_next(path: Path) -> None:
    with connect(path), path.with_name(f"{path.name}.turn").open("ab") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        connect(path, wait_seconds=20).close()


def test_a_file_that_this_process_has_open_otherwise_is_waited_for_too(path: Path) -> None:
    connect(path).close()
    with (
        duckdb.connect(str(path)),
        pytest.raises(WarehouseUnavailable, match=r"\(a thread of this one\); waited 0.3 s"),
    ):
        connect(path, wait_seconds=0.3)
    connect(path).close()


def test_a_file_that_is_no_database_is_told_at_once_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(WarehouseUnavailable) as refused:
        connect(path)
    assert str(refused.value) == (
        f'the warehouse {path} cannot be opened (IO Error: The file "{path}" exists, but it is not a valid DuckDB '
        f"database file!); {RESTORE}"
    )
    assert path.read_bytes() == b"no database" * 1000


def test_a_damaged_file_is_told_at_once_and_left_as_it_is(path: Path) -> None:
    connect(path).close()
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(WarehouseUnavailable) as refused:
        connect(path)
    message = str(refused.value)
    assert message.startswith(f"the warehouse {path} is damaged (Corrupt database file: computed checksum")
    assert message.endswith(f"); {RESTORE}")
    assert path.read_bytes() == damaged


def test_a_folder_with_lock_in_its_name_is_not_taken_for_a_lock(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(WarehouseUnavailable, match=r"/blocks/warehouse\.duckdb cannot be opened \(.*No such file"):
        connect(tmp_path / "blocks" / "warehouse.duckdb", wait_seconds=10)
    assert time.monotonic() - started < 10
