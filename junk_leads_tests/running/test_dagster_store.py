"""Dagster's stores kept open: what is written is read by others at once, and nothing stays open afterwards."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import dagster as dg
from dagster._core.storage.event_log.sqlite import sqlite_event_log

from junk_leads.running.dagster_store import MOST_KEPT, kept_open


def opened(folder: Path) -> list[str]:
    links = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    files = [os.readlink(link) for link in links if link.is_symlink()]
    return sorted(str(Path(file).relative_to(folder)) for file in files if file.startswith(str(folder)))


@dg.job
def nothing() -> None:
    pass


def events_by_another(folder: Path, run_id: str) -> int:
    with closing(sqlite3.connect(folder / "history" / "runs" / f"{run_id}.db")) as other:
        return int(other.execute("SELECT count(*) FROM event_logs").fetchone()[0])


def test_what_is_written_is_read_by_others_at_once_and_nothing_stays_open(tmp_path: Path) -> None:
    before = vars(sqlite_event_log)["create_engine"]
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance, kept_open():
        for _ in range(MOST_KEPT + 3):
            run = nothing.execute_in_process(instance=instance)
            assert events_by_another(tmp_path, run.run_id) == len(instance.all_logs(run.run_id)) > 0
        kept = [name for name in opened(tmp_path) if name.endswith(".db")]
        assert len(set(kept)) <= MOST_KEPT
        assert {f"history/runs/{run.run_id}.db", "history/runs.db"} <= set(kept)
        log = tmp_path / "history" / "runs" / f"{run.run_id}.db-wal"
        assert log.exists()
    assert opened(tmp_path) == []
    assert not log.exists()
    assert vars(sqlite_event_log)["create_engine"] is before


def test_a_killed_process_loses_no_event(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance, kept_open():
        run = nothing.execute_in_process(instance=instance)
        before = len(instance.all_logs(run.run_id))
        (pid := os.fork()) or _write_and_die(instance, run.run_id)
        assert os.waitpid(pid, 0)[1] != 0
        assert events_by_another(tmp_path, run.run_id) == len(instance.all_logs(run.run_id)) == before + 1


def _write_and_die(instance: dg.DagsterInstance, run_id: str) -> None:
    with kept_open():
        instance.report_engine_event("written before the end", run_id=run_id, job_name="nothing")
        os.kill(os.getpid(), 9)
