"""Stores are made whole or not at all, by one process at a time; a maker that is killed leaves nothing to mend."""

import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest

from junk_leads.errors import JunkLeadsError, WarehouseUnavailable
from junk_leads.home import Home
from junk_leads.stores import making
from junk_leads.stores.ledger import Ledger
from junk_leads.stores.making import alone, make_whole
from junk_leads.stores.registry import Registry
from junk_leads.stores.warehouse import RESTORE, connect, holds

# A process that is killed at the moment when a file of its grows beyond so many bytes.
KILLED = """
import resource, signal, sys
from pathlib import Path
from junk_leads.home import Home
from junk_leads.stores.ledger import Ledger
from junk_leads.stores.registry import Registry
from junk_leads.stores.warehouse import RESTORE, connect
import duckdb, mlflow

home = Home(Path(sys.argv[1])).prepare()
makers = {
    "warehouse": lambda: connect(home.warehouse),
    "ledger": lambda: Ledger(home),
    "mlflow": lambda: Registry(home).client,
}
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
makers[sys.argv[2]]()
"""


def killed_while_making(what: str, home: Home, size: int) -> None:
    code = KILLED if what == "mlflow" else KILLED.replace(", mlflow\n", "\n")
    done = subprocess.run([sys.executable, "-c", code, home.root, what, str(size)], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGXFSZ, done.stderr.decode()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != size


def test_a_store_is_made_once_and_what_stands_beside_it_goes(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        path.write_text("whole")
        path.with_suffix(".wal").write_text("a log")

    for _ in range(2):
        make_whole(tmp_path / "store.db", make)
        make = pytest.fail  # type: ignore[assignment]
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("store.db", "whole")]


def test_a_maker_that_fails_leaves_nothing_and_the_next_one_makes_it(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        make_whole(tmp_path / "store.db", fail)
    assert list(tmp_path.iterdir()) == []
    make_whole(tmp_path / "store.db", lambda path: path.write_text("whole"))
    assert (tmp_path / "store.db").read_text() == "whole"


def test_makers_wait_for_each_other_and_one_makes_it(tmp_path: Path) -> None:
    made: list[str] = []

    def start() -> None:
        with alone(tmp_path):
            make_whole(tmp_path / "store", lambda path: (path.mkdir(), made.append("made")))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["made"]


def test_a_maker_that_takes_too_long_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with alone(tmp_path):
        monkeypatch.setattr(making, "PATIENCE_SECONDS", 0.05)
        with pytest.raises(JunkLeadsError) as refused, alone(tmp_path):
            pass
    assert str(refused.value) == (
        f"another process has been making the stores of {tmp_path} for 0.05 s; end it and try again"
    )


@pytest.mark.parametrize("size", [0, 4_096, 8_192])
def test_fault_47_a_warehouse_killed_at_its_creation_is_made_by_the_next_one(home: Home, size: int) -> None:
    killed_while_making("warehouse", home, size)
    assert not home.warehouse.exists()
    with connect(home.warehouse) as con:
        assert holds(con, "raw_leads") == {}
    assert {path.name for path in home.root.glob("*warehouse*")} == {"warehouse.duckdb", "warehouse.duckdb.turn"}


@pytest.mark.parametrize("size", [0, 4_096])
def test_fault_47_a_ledger_killed_at_its_creation_is_made_by_the_next_one(home: Home, size: int) -> None:
    killed_while_making("ledger", home, size)
    assert Ledger(home).deliveries() == []


def test_fault_47_a_registry_killed_at_its_creation_is_made_by_the_next_one(home: Home) -> None:
    killed_while_making("mlflow", home, 150_000)
    assert not (home.root / "mlflow.db").exists()
    assert Registry(home).versions() == []


def test_a_log_without_its_warehouse_is_told_and_kept(home: Home) -> None:
    log = home.root / "warehouse.duckdb.wal"
    log.write_bytes(b"what was not in the file yet")
    with pytest.raises(WarehouseUnavailable) as refused:
        connect(home.warehouse)
    assert str(refused.value) == (
        f"the warehouse {home.warehouse} is gone, but not its log warehouse.duckdb.wal; nothing was changed: {RESTORE}"
    )
    assert log.read_bytes() == b"what was not in the file yet"


def test_a_warehouse_of_a_former_version_is_opened_as_it_is(home: Home, tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "old.duckdb")) as con:
        con.execute("CREATE TABLE raw_leads AS SELECT 'a' AS drop")
    shutil.move(tmp_path / "old.duckdb", home.warehouse)
    with connect(home.warehouse) as con:
        assert con.table("raw_leads").fetchall() == [("a",)]
        assert holds(con, "raw_leads") == {}
