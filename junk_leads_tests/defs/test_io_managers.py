"""The IO manager, with throw-away assets: what Dagster hands over and gets back."""

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from junk_leads.defs.io_managers import PREVIEW_COLUMNS, Warehouse, describe, preview
from junk_leads.errors import DropUnknown, JunkLeadsError, WarehouseUnavailable
from junk_leads.stores.warehouse import HOLDINGS, connect, holds, rows_of, store

DROPS = dg.DynamicPartitionsDefinition(name="throw_away_drops")
HOLDER = "import sys, duckdb; con = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"

pytestmark = pytest.mark.filterwarnings("ignore:Parameter `backfill_policy`")

Rows = list[tuple[Any, ...]]


class Platform:
    """Assets `made` (by drop; yields the query of `sql`), `seen` (by drop) and `everything` (of all drops)."""

    def __init__(self, path: Path, instance: dg.DagsterInstance) -> None:
        self.path, self.instance = path, instance
        self.warehouse = Warehouse(path=str(path), wait_seconds=0.2)
        self.sql = ""
        self.metadata: dict[str, Any] = {}
        self.seen: list[Rows] = []

    def assets(self) -> list[dg.AssetsDefinition]:
        by_drop: dict[str, Any] = {
            "io_manager_key": "warehouse",
            "partitions_def": DROPS,
            "backfill_policy": dg.BackfillPolicy.single_run(),
        }

        @dg.asset(**by_drop)
        def made(context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]) -> Iterator[Any]:
            con = warehouse.connection()
            tables = {name: con.sql(sql) for name, sql in self.tables().items()}
            yield dg.Output(tables if len(tables) > 1 else tables["made"], metadata=self.metadata)

        @dg.asset(**by_drop)
        def seen(made: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
            self.seen.append(sorted(made.fetchall()))
            return made

        @dg.asset(io_manager_key="warehouse")
        def everything(made: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
            self.seen.append(sorted(made.fetchall()))
            return made

        return [made, seen, everything]

    def tables(self) -> dict[str, str]:
        return {"made": self.sql}

    def make(self, sql: str, *drops: str, select: str = "made", **metadata: Any) -> dg.ExecuteInProcessResult:
        """Materialise `select` for these drops (a range of them when there are several)."""
        self.sql, self.metadata = sql, metadata
        self.instance.add_dynamic_partitions("throw_away_drops", list(drops))
        range_of = {"start": drops[0], "end": drops[-1]} if len(drops) > 1 else {}
        return dg.materialize(
            self.assets(),
            selection=select.split(","),
            instance=self.instance,
            resources={"warehouse": self.warehouse},
            partition_key=drops[0] if len(drops) == 1 else None,
            tags={f"dagster/asset_partition_range_{end}": drop for end, drop in range_of.items()},
        )

    def fail(self, sql: str, *drops: str, select: str = "made") -> BaseException:
        """The error that fails the run."""
        with pytest.raises((JunkLeadsError, duckdb.Error)) as failed:
            self.make(sql, *drops, select=select)
        return failed.value

    def rows(self, table: str = "made", drops: Sequence[str] | None = None) -> Rows:
        with connect(self.path) as con:
            return sorted(rows_of(con, table, drops).fetchall(), key=str)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Platform(tmp_path / "warehouse.duckdb", instance)


def test_outputs_go_in_by_column_name(platform: Platform) -> None:
    platform.make("SELECT 'a' AS drop, 1 AS x, 2 AS y", "a")
    platform.make("SELECT 4 AS y, 'b' AS drop, 3 AS x", "b")
    assert platform.rows() == [("a", 1, 2), ("b", 3, 4)]


def test_the_file_is_kept_from_one_output_to_the_next_for_a_moment_only_when_another_process_waits_for_it(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def opening(path: Path, **more: Any) -> duckdb.DuckDBPyConnection:
        opened.append(path)
        return connect(path, **more)

    monkeypatch.setattr("junk_leads.defs.io_managers.connect", opening)
    platform.make("SELECT 'a' AS drop, 1 AS x", "a", select="made,seen")
    assert len(opened) == 1
    with platform.path.with_name(f"{platform.path.name}.turn").open("ab") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # as who waits has it
        platform.make("SELECT 'a' AS drop, 2 AS x", "a", select="made,seen")
        assert len(opened) == 2
        monkeypatch.setattr("junk_leads.defs.io_managers.TURN_SECONDS", 0.0)
        platform.make("SELECT 'a' AS drop, 3 AS x", "a", select="made,seen")
    assert len(opened) == 4
    platform.make("SELECT 'a' AS drop, 4 AS x", "a", select="made,seen")
    assert len(opened) == 5
    assert platform.rows("seen") == [("a", 4)]  # and it is let go at the end of a run


def test_what_was_made_for_an_output_is_gone_with_it_while_the_file_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("junk_leads.defs.io_managers.TURN_SECONDS", 0.0)
    path = tmp_path / "warehouse.duckdb"
    warehouse = Warehouse(path=str(path))
    former = warehouse.connection()
    former.execute("CREATE TABLE kept AS SELECT 1 AS x; CREATE TEMP TABLE staged AS SELECT 1 AS x")
    warehouse.pass_on()
    assert warehouse.connection().sql("SELECT table_name FROM duckdb_tables() ORDER BY ALL").fetchall() == [
        ("kept",),
        (HOLDINGS,),
    ]
    with pytest.raises(duckdb.ConnectionException):
        former.execute("SELECT 1")
    warehouse.pass_on()
    warehouse.release()
    with duckdb.connect(str(path)) as alone:  # as another program, whom any connection left open would keep out
        assert alone.sql("FROM kept").fetchall() == [(1,)]


def test_columns_may_be_added_but_not_left_out(platform: Platform) -> None:
    platform.make("SELECT 'a' AS drop, 1 AS x", "a")
    platform.make("SELECT 'b' AS drop, 2 AS x, 'new' AS y", "b")
    error = platform.fail("SELECT 'a' AS drop, 'only' AS y", "a")
    assert str(error).startswith("the output of made lacks its columns x; nothing was stored")
    assert platform.rows() == [("a", 1, None), ("b", 2, "new")]


def test_an_output_without_rows_makes_a_typed_table_that_downstream_can_read(platform: Platform) -> None:
    result = platform.make("SELECT 'a' AS drop, 1::SMALLINT AS x WHERE false", "a", select="made,seen")
    assert result.success
    assert platform.seen == [[]]
    with connect(platform.path) as con:
        assert [str(kind) for kind in con.table("seen").types] == ["VARCHAR", "SMALLINT"]


def test_a_failing_insert_fails_the_run_and_keeps_the_former_rows(platform: Platform) -> None:
    platform.make("SELECT 'a' AS drop, 1::INTEGER AS x", "a")
    assert "half way" in str(platform.fail("SELECT 'a' AS drop, error('half way')::INTEGER AS x FROM range(9)", "a"))
    assert platform.rows() == [("a", 1)]


def test_after_a_failure_the_file_is_free_for_other_processes(platform: Platform) -> None:
    platform.fail("SELECT 'a' AS drop, error('half way')::INTEGER AS x", "a")
    assert subprocess.run([sys.executable, "-c", HOLDER, platform.path], stdin=subprocess.DEVNULL).returncode == 0


def test_rows_of_another_drop_fail_the_run(platform: Platform) -> None:
    error = platform.fail("SELECT unnest(['a', 'b']) AS drop, 1 AS x", "a")
    assert isinstance(error, WarehouseUnavailable)
    assert str(error) == (
        "an output of made holds rows of other drops than a; nothing was stored: report this as a defect of the "
        "step that made it"
    )


def test_one_run_stores_several_drops_and_loads_them(platform: Platform) -> None:
    platform.make("SELECT unnest(['a', 'b', 'c']) AS drop, 1 AS x", "a", "b", "c")
    platform.make("SELECT unnest(['a', 'b']) AS drop, 2 AS x", "a", "b", select="made,seen")
    assert platform.seen == [[("a", 2), ("b", 2)]]
    assert platform.rows() == [("a", 2), ("b", 2), ("c", 1)]
    assert platform.rows("seen") == [("a", 2), ("b", 2)]


def test_a_drop_is_loaded_alone_and_all_drops_together(platform: Platform) -> None:
    for drop in "abc":
        platform.make(f"SELECT '{drop}' AS drop, 1 AS x", drop)
    platform.make("", "b", select="seen")
    platform.make("", select="everything")
    assert platform.seen == [[("b", 1)], [("a", 1), ("b", 1), ("c", 1)]]


def test_a_drop_that_upstream_does_not_hold_fails_downstream_alone(platform: Platform) -> None:
    platform.make("SELECT 'a' AS drop, 1 AS x", "a")
    error = platform.fail("", "b", select="seen")
    assert isinstance(error, DropUnknown)
    assert str(error).startswith("made does not hold drop 'b': it was refused or not materialised")


def test_a_drop_of_a_former_delivery_fails_downstream_alone(platform: Platform) -> None:
    platform.make("SELECT 'a' AS drop, 1 AS x", "a")
    with connect(platform.path) as con:
        store(con, {"raw_leads": con.sql("SELECT 'a' AS drop")}, ["a"], content="newer")
    error = platform.fail("", "a", select="seen")
    assert isinstance(error, DropUnknown)
    assert str(error).startswith("made holds drop 'a' of a former delivery only")


def test_an_output_of_several_tables_is_stored_whole_with_its_delivery(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = "SELECT 'a' AS drop, 'why' AS reason"
    monkeypatch.setattr(platform, "tables", lambda: {"made": platform.sql, "aside": side})
    platform.make("SELECT 'a' AS drop, 1 AS x", "a", content="sha")
    with connect(platform.path) as con:
        assert con.table("aside").fetchall() == [("a", "why")]
        assert holds(con, "made") == {"a": "sha"}


def test_an_output_of_several_tables_without_its_own_stores_nothing(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "tables", lambda: {"other": platform.sql, "aside": platform.sql})
    assert str(platform.fail("SELECT 'a' AS drop, 1 AS x", "a")) == (
        "the output of made holds the tables other, aside; nothing was stored: name its own table first"
    )
    with connect(platform.path) as con:
        assert con.sql("SHOW TABLES").fetchall() == [("table_drops",)]


def test_another_process_is_waited_for_no_longer_than_told(platform: Platform) -> None:
    command = [sys.executable, "-c", HOLDER, str(platform.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        started = time.monotonic()
        with pytest.raises(WarehouseUnavailable, match=rf"is held by another process \(.*PID {holder.pid}\)"):
            platform.make("SELECT 'a' AS drop, 1 AS x", "a")
        assert time.monotonic() - started < 30
        holder.stdin.close()
    assert platform.make("SELECT 'a' AS drop, 1 AS x", "a").success


# What the UI shows


def test_a_stored_table_shows_its_row_count_schema_and_first_rows(platform: Platform) -> None:
    result = platform.make("SELECT 'a' AS drop, unnest(range(7)) AS x, NULL::DATE AS y", "a")
    (told,) = (
        event.step_materialization_data.materialization.metadata for event in result.get_asset_materialization_events()
    )
    assert told["dagster/row_count"].value == 7
    columns = told["dagster/column_schema"].value.columns
    assert [(c.name, c.type) for c in columns] == [("drop", "VARCHAR"), ("x", "BIGINT"), ("y", "DATE")]
    assert told["preview"].value.splitlines() == [
        "| drop | x | y |",
        "|---|---|---|",
        *(f"| a | {x} |  |" for x in range(5)),
    ]


@pytest.fixture
def described(con: duckdb.DuckDBPyConnection) -> Callable[[str], str]:
    return lambda value: preview(con.sql("SELECT ? AS text", params=[value])).splitlines()[-1]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a|b", "| a&#124;b |"),
        ("<script>", "| &lt;script&gt; |"),
        ("![x](http://e)", "| !&#91;x](http://e) |"),
        ("`code` &amp;", "| &#96;code&#96; &amp;amp; |"),
        ("two\n\nlines\r\n", "| two lines |"),
        ("x" * 200, f"| {'x' * 79}… |"),
    ],
)
def test_values_are_inert_in_a_preview(described: Callable[[str], str], value: str, shown: str) -> None:
    assert described(value) == shown


def test_a_wide_table_shows_its_first_columns_and_how_many_more_there_are(con: duckdb.DuckDBPyConnection) -> None:
    wide = con.sql("SELECT " + ", ".join(f"{n} AS c{n}" for n in range(PREVIEW_COLUMNS + 3)))
    lines = preview(wide).splitlines()
    assert lines[0].count("|") == PREVIEW_COLUMNS + 1
    assert lines[-1] == "and 3 more columns"
    assert len(describe(wide, 1)["dagster/column_schema"].value.columns) == PREVIEW_COLUMNS + 3


def test_where_there_is_no_home_no_lock_is_held_and_nothing_is_made(tmp_path: Path) -> None:
    warehouse = Warehouse(path=str(tmp_path / "nowhere" / "warehouse.duckdb"))
    with dg.build_init_resource_context() as context:
        warehouse.setup_for_execution(context)
        warehouse.teardown_after_execution(context)
    assert list(tmp_path.iterdir()) == []
