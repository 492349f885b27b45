"""Backups: a snapshot that scores to the bit where it is restored, made while runs go on, and never half."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.running import backups
from junk_leads.running.backups import MANIFEST, back_up, restore
from junk_leads.stores.ledger import Ledger
from junk_leads.stores.warehouse import connect
from junk_leads_tests.conftest import Outcome, Trained, run_command

pytestmark = pytest.mark.xdist_group("home")


@pytest.fixture(scope="module")
def backup(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backups") / "monday"
    told = run_command("backup", folder, "--json", home=trained.home)
    assert (told.code, told.failures, told.json["backup"]) == (0, [], str(folder))
    return folder


def test_a_home_restored_elsewhere_is_well_and_scores_to_the_bit(
    backup: Path, trained: Trained, home: Home, junk_leads: Callable[..., Outcome]
) -> None:
    assert junk_leads("restore", backup).code == 0
    assert junk_leads("doctor", "--json").json == {"findings": []}
    (home.predictions / "new.csv").unlink()
    assert junk_leads("score", "new").code == 0
    assert (home.predictions / "new.csv").read_bytes() == (trained.home.predictions / "new.csv").read_bytes()


WRITER = """
import itertools, sys
from pathlib import Path
from junk_leads.home import Home
from junk_leads.stores.ledger import Ledger
from junk_leads.stores.warehouse import connect

home = Home(Path(sys.argv[1]))
ledger = Ledger(home)
for number in itertools.count():  # as runs do: the warehouse, then the ledger, then the file moves on
    path = home.incoming / f"w{number}.csv"
    path.write_text(str(number))
    delivery = ledger.deliver(path, f"content {number}")
    with connect(home.warehouse) as con:
        con.execute("CREATE TABLE IF NOT EXISTS written (drop VARCHAR)")
        con.execute("INSERT INTO written VALUES (?)", [delivery.drop])
    ledger.accept(delivery)
    print(number, flush=True)
"""


def test_a_backup_of_one_moment_is_made_while_the_home_is_written_to(trained_home: Home, tmp_path: Path) -> None:
    for under_way in (trained_home.servers_log, trained_home.tables / "predictions.parquet.part"):
        under_way.touch()
    with subprocess.Popen([sys.executable, "-c", WRITER, trained_home.root], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"0\n"
            made = [back_up(trained_home, tmp_path / f"backup-{number}").folder for number in range(4)]
        finally:
            writer.kill()
    for folder in made:
        copy = Home(folder)
        with connect(copy.warehouse) as con:
            stored = {drop for (drop,) in con.execute("FROM written").fetchall()}
        deliveries = Ledger(copy).deliveries()
        assert {d.drop for d in deliveries if d.status == "accepted"} - {"history", "new"} <= stored
        assert [d.drop for d in deliveries if not d.path.is_file()] == []
        assert not copy.servers_log.exists()
        assert list(copy.tables.glob("*.part")) == []
    assert len(stored) > 1


@pytest.mark.parametrize("below", ["warehouse.duckdb", "mlflow.db", "dagster/history/runs.db", "predictions/new.csv"])
@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_a_damaged_backup_is_refused_and_nothing_is_made(below: str, harm: str, backup: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(backup, tmp_path / "copy"))
    path = copy / below
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (b"" if harm == "cut" else bytes([content[-1] ^ 1])))
    target = Home(tmp_path / "restored")
    with pytest.raises(JunkLeadsError, match=rf"^the backup .*copy is damaged: {below} .*; use another backup$"):
        restore(target, copy)
    assert not target.root.exists()


def test_what_is_no_backup_is_refused(backup: Path, home: Home, tmp_path: Path) -> None:
    with pytest.raises(JunkLeadsError, match=r"is no backup: it has no backup\.json; name a folder made by backup$"):
        restore(Home(tmp_path / "to"), home.root)
    copy = Path(shutil.copytree(backup, tmp_path / "copy"))
    for text in ("{", "[]", '{"files": 3}'):
        (copy / MANIFEST).write_text(text)
        with pytest.raises(JunkLeadsError, match=r"is damaged: its backup\.json cannot be read|damaged"):
            restore(Home(tmp_path / "to"), copy)
    (copy / MANIFEST).write_text(json.dumps({"files": {"../outside": "0"}}))
    with pytest.raises(JunkLeadsError, match=r"names a file outside it \(\.\./outside\)"):
        restore(Home(tmp_path / "to"), copy)


def test_neither_a_home_nor_a_folder_that_holds_something_is_written_over(
    backup: Path, trained: Trained, tmp_path: Path
) -> None:
    with pytest.raises(JunkLeadsError, match=r"holds something already; nothing was changed: name an empty folder"):
        restore(trained.home, backup)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(JunkLeadsError, match=r"nothing was changed: name a new folder for each backup$"):
        back_up(trained.home, tmp_path / "full")
    with pytest.raises(JunkLeadsError, match=r"lies in the home that is to be backed up"):
        back_up(trained.home, trained.home.root / "backup")
    with pytest.raises(
        JunkLeadsError, match=r"^there is nothing to back up in .*; is JUNK_LEADS_HOME the right folder"
    ):
        back_up(Home(tmp_path / "none"), tmp_path / "to")


def test_of_a_backup_that_fails_nothing_is_left(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backups.shutil, "copyfile", full)
    with pytest.raises(JunkLeadsError, match=r"cannot be written \(No space left on device\); nothing is left of it"):
        back_up(trained.home, tmp_path / "to")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(backups.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1))  # type: ignore[attr-defined]
    with pytest.raises(
        JunkLeadsError, match=r"has 0 KB free, the backup needs .*; nothing was written: free some space"
    ):
        back_up(trained.home, tmp_path / "to")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_damaged_is_told_before_anything_is_backed_up(home: Home, tmp_path: Path) -> None:
    Ledger(home)
    with closing(sqlite3.connect(home.root / "mlflow.db")) as db, db:
        db.execute("CREATE TABLE t (x)")
        db.executemany("INSERT INTO t VALUES (?)", [[bytes(3000)]] * 100)
    path = home.root / "mlflow.db"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(JunkLeadsError, match=r"mlflow\.db cannot be backed up \(.*\); nothing is left of the backup"):
        back_up(home, tmp_path / "to")
    assert not (tmp_path / "to").exists()
