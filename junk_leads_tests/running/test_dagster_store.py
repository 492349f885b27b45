"""Dagster's stores kept open: what is written is read by others at once, and nothing stays open afterwards."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as db

from junk_leads.running.dagster_store import MOST_KEPT, kept_open


def made(path: Path, mode: str = "wal") -> db.Engine:
    """A store as Dagster's: an engine that opens its file anew for each use."""
    with closing(sqlite3.connect(path)) as plain:
        plain.execute(f"PRAGMA journal_mode = {mode}")
        plain.execute("CREATE TABLE event (n)")
    return db.create_engine(f"sqlite:///{path}", poolclass=db.pool.NullPool)


def synchronous(engine: db.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(db.text("PRAGMA synchronous")).scalar_one())


def opened(folder: Path) -> set[str]:
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    files = [os.readlink(link) for link in links if link.is_symlink()]
    return {Path(file).name for file in files if file.startswith(str(folder))}


def test_the_log_stays_while_it_is_kept_open_and_is_read_by_others_at_once(tmp_path: Path) -> None:
    engine = made(tmp_path / "index.db")
    with kept_open():
        for n in range(3):
            with engine.begin() as connection:
                connection.execute(db.text("INSERT INTO event VALUES (:n)"), {"n": n})
            assert (tmp_path / "index.db-wal").exists()
            with closing(sqlite3.connect(tmp_path / "index.db")) as other:
                assert other.execute("SELECT count(*) FROM event").fetchone() == (n + 1,)
        assert synchronous(engine) == 1
    assert opened(tmp_path) == set()
    assert not (tmp_path / "index.db-wal").exists()
    assert synchronous(engine) == 2


def test_a_store_without_a_write_ahead_log_is_left_as_it_is(tmp_path: Path) -> None:
    engine = made(tmp_path / "mlflow.db", "delete")
    with kept_open():
        assert synchronous(engine) == 2
        assert opened(tmp_path) == set()


def test_only_the_files_used_last_are_kept_open(tmp_path: Path) -> None:
    engines = [made(tmp_path / f"{n}.db") for n in range(MOST_KEPT + 3)]
    with kept_open():
        for engine in engines:
            synchronous(engine)
        kept = {name for name in opened(tmp_path) if name.endswith(".db")}
        assert kept == {f"{n}.db" for n in range(3, MOST_KEPT + 3)}


def test_a_server_that_is_no_sqlite_is_let_be(tmp_path: Path) -> None:
    with kept_open():
        engine = db.create_engine("sqlite://")
        with engine.connect() as connection:
            assert connection.execute(db.text("SELECT 1")).scalar_one() == 1
