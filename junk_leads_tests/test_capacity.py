"""What a machine gives: the memory limit as it is set, and room on the disk looked for before anything is written."""

import gc
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

from junk_leads.capacity import failures_told, importing, memory_limit, refuse_without_room
from junk_leads.errors import CapacityExceeded, JunkLeadsError
from junk_leads.home import Home
from junk_leads.stores.warehouse import connect
from junk_leads_tests.conftest import Outcome

CLI = Callable[..., Outcome]
LIMIT = "JUNK_LEADS_MEMORY_LIMIT"


def test_without_the_setting_duckdb_keeps_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT, raising=False)
    assert memory_limit() is None


@pytest.mark.parametrize(
    ("text", "given"), [("8GB", 8e9), ("1.5 gb", 1.5e9), ("2048MiB", 2048 * 2**20), (" 4GiB ", 4 * 2**30)]
)
def test_duckdb_is_given_what_the_program_leaves(monkeypatch: pytest.MonkeyPatch, text: str, given: float) -> None:
    monkeypatch.setenv(LIMIT, text)
    assert memory_limit() == given - 1e9


def test_the_limit_holds_for_every_connection_and_what_does_not_fit_goes_beside_the_warehouse(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "1.5GB")
    with connect(home.warehouse) as con:
        settings = con.execute("SELECT current_setting('memory_limit'), current_setting('temp_directory')").fetchall()[
            0
        ]
    assert settings == ("476.8 MiB", f"{home.warehouse}.tmp")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("lots", "JUNK_LEADS_MEMORY_LIMIT is 'lots', which is no amount of memory; write one like 8GB"),
        ("8", "JUNK_LEADS_MEMORY_LIMIT is '8', which is no amount of memory; write one like 8GB"),
        ("500MB", "JUNK_LEADS_MEMORY_LIMIT is 500MB, too little to work with; give it 1.5 GB or more"),
    ],
)
def test_a_limit_that_is_none_or_too_small_is_one_plain_line_and_no_warehouse_is_made(
    home: Home, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    monkeypatch.setenv(LIMIT, text)
    with pytest.raises(CapacityExceeded) as refused:
        connect(home.warehouse)
    assert str(refused.value) == line
    assert not home.warehouse.exists()


def test_a_command_with_a_limit_too_small_says_so_and_changes_nothing(
    junk_leads: CLI, write_csv: Callable[..., Path], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "1GB")
    done = junk_leads("ingest", write_csv("july.csv", {}))
    assert (done.code, done.out) == (1, "")
    assert done.failures == [
        "july.csv: JUNK_LEADS_MEMORY_LIMIT is 1GB, too little to work with; give it 1.5 GB or more"
    ]
    assert not home.warehouse.exists()


def test_memory_that_was_not_enough_is_one_plain_line(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("SET memory_limit = '20MB'; SET max_temp_directory_size = '0KB'")
    with pytest.raises(CapacityExceeded) as told, failures_told():
        con.execute("CREATE TEMP TABLE wide AS SELECT range AS a, random() AS b FROM range(10_000_000)")
    assert str(told.value) == (
        "the memory that DuckDB may use was not enough (JUNK_LEADS_MEMORY_LIMIT is not set); nothing was stored: give "
        "it more, deliver the leads in several files, or free disk space below the home"
    )


def test_a_file_that_the_disk_has_no_room_for_is_refused_before_anything_is_written(
    junk_leads: CLI, write_csv: Callable[..., Path], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_csv("july.csv", {})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    before = sorted(home.root.rglob("*"))
    done = junk_leads("ingest", file)
    assert done.code == 1
    (line,) = done.failures
    assert "has 0 KB free, reading a file of 1 KB may need" in line
    assert line.endswith("nothing was changed: free some space and try again")
    assert [path for path in sorted(home.root.rglob("*.csv*")) if path not in before] == []


def test_scoring_and_what_is_compressed_need_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, packed, columns = (tmp_path / f"a{suffix}" for suffix in (".csv", ".csv.gz", ".parquet"))
    for path in (plain, packed, columns):
        path.write_bytes(b"x" * 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 57 * 10**6))
    refuse_without_room(tmp_path, plain, scored=False)  # 4 MB of 7
    for file, scored in ((plain, True), (packed, False), (columns, False)):
        with pytest.raises(CapacityExceeded):
            refuse_without_room(tmp_path, file, scored=scored)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(28, "No space left on device", "/x"),
            "the disk is full, or cannot be written ([Errno 28] No space left on device: '/x'); what was stored before "
            "is as it was: free some space and run it again",
        ),
        (
            sqlite3.OperationalError("database or disk is full"),
            "the disk is full, or cannot be written (database or disk is full); what was stored before is as it was: "
            "free some space and run it again",
        ),
        (
            duckdb.IOException(f"IO Error: Could not write file {'x' * 300}: No space left on device"),
            f"the disk is full, or cannot be written (IO Error: Could not write file {'x' * 169}); what was stored "
            "before is as it was: free some space and run it again",
        ),
        (
            duckdb.IOException("IO Error: Could not write file: No space left on device"),
            "the disk is full, or cannot be written (IO Error: Could not write file: No space left on device); what "
            "was stored before is as it was: free some space and run it again",
        ),
        (
            sqlite3.DatabaseError("database disk image is malformed"),
            "a file of the home is damaged (database disk image is malformed); `junk-leads doctor` says which, and "
            "what to do",
        ),
        (
            duckdb.Error("Corrupt database file: computed checksum 1 does not match"),
            "a file of the home is damaged (Corrupt database file: computed checksum 1 does not match); `junk-leads "
            "doctor` says which, and what to do",
        ),
        (
            duckdb.FatalException("FATAL Error: checksum"),
            "a file of the home is damaged (FATAL Error: checksum); `junk-leads doctor` says which, and what to do",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_faults_49_and_50_a_full_disk_and_a_damaged_file_are_one_plain_line(
    error: Exception, line: str, wrapped: bool
) -> None:
    raised = RuntimeError("what SQLAlchemy and Dagster make of it") if wrapped else error
    raised.__cause__ = error if wrapped else None
    with pytest.raises(JunkLeadsError) as told, failures_told():
        raise raised
    assert str(told.value) == line


def test_a_defect_of_the_program_stays_what_it_is() -> None:
    for error in (ValueError("full"), duckdb.BinderException("no such column"), FileNotFoundError(2, "no", "x")):
        with pytest.raises(type(error)), failures_told():
            raise error


@pytest.mark.parametrize("fails", [False, True])
def test_garbage_is_looked_for_again_after_importing_but_rarely_in_what_was_imported(fails: bool) -> None:
    imported: list[list[str]] = []
    with suppress(ImportError), importing():
        assert not gc.isenabled()
        imported.append(["a module"])
        if fails:
            raise ImportError
    assert gc.isenabled()
    assert any(found is imported[0] for found in gc.get_objects(generation=2))
    assert gc.get_freeze_count() == 0  # all can be taken apart at the end


def test_what_is_shared_with_the_process_that_this_one_was_forked_from_stays_so_while_more_is_imported() -> None:
    gc.freeze()
    try:
        shared = gc.get_freeze_count()
        with importing():
            pass
        assert gc.get_freeze_count() >= shared > 0
    finally:
        gc.unfreeze()
