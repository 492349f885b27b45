"""Runs that did not come to their end: killed ones are told to have failed, and checks not come to as skipped.

What lives here: the lock that a run holds for as long as its process lives, and what is done when nobody holds it; and
how Dagster 1.13 is told that a check was skipped. What does not: trying such a run again (`sensors.py`).

Dagster plans every check of a run when the run is made, and shows those that told nothing as "Execution failed" when it
fails, though nothing of them was executed. It shows a plan as "Skipped" when its run ended otherwise; there is no event
that says so of a check. So such plans are handed to a run of their own, which did nothing and succeeded.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import dagster as dg
from dagster._core.errors import DagsterRunAlreadyExists
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable

from junk_leads.home import Home
from junk_leads.stores.making import taken

SKIPPED_RUN = "5c1bbed0-0000-4000-8000-000000000000"
_SKIPPED_JOB = "skipped_checks"
_SKIPPED_WHY = "holds the checks that no run came to, because a step before them had failed; it does nothing"
HELD_FROM_START = {"junk_leads/lock": "held from the start"}  # the tag of runs whose process took the lock before them
_WHY = "its process ended before it did; the warehouse holds what it held before: launch it again"
_SETTLED_SECONDS = 60.0  # after which a run without a step has taken the lock, or never will
_UNFINISHED = (
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.CANCELING,
)


def hold(path: Path) -> IO[bytes]:
    """Hold the lock of runs together with others, until the file is closed or the process ends, however it ends."""
    file = path.open("ab")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    with path.open("ab") as file:
        yield taken(file)


def fail_dead_runs(instance: dg.DagsterInstance, home: Home) -> list[str]:
    """Fail the runs that are under way by their records though no process runs any; returns their ids.

    A run of which a step has started has taken the lock before, and so has one that says so by its tag; of others only
    those that started a while ago count.
    """
    with _alone(home.running_lock) as nobody_runs:
        if not nobody_runs:
            return []
        dead = []
        for record in instance.get_run_records(dg.RunsFilter(statuses=list(_UNFINISHED))):
            run = record.dagster_run
            settled = record.start_time is not None and time.time() - record.start_time > _SETTLED_SECONDS
            if settled or HELD_FROM_START.items() <= run.tags.items() or _has_begun(instance, run.run_id):
                instance.report_run_failed(run, _WHY)
                dead.append(run.run_id)
        return dead


def _has_begun(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a step of a run has started: its resources, the lock among them, are there before."""
    begun = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_START, limit=1)
    return bool(begun.records)


def skip_checks(instance: dg.DagsterInstance, run_id: str) -> int:
    """Tell Dagster that the checks which this failing run planned and has not evaluated are skipped; returns how many.

    To be called when no step of the run will evaluate any more.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return 0
    table = AssetCheckExecutionsTable.c
    planned = (table.run_id == run_id) & (table.execution_status == "PLANNED")
    with storage.index_connection() as con:
        rows = con.execute(
            AssetCheckExecutionsTable.select()
            .with_only_columns(table.asset_key, table.check_name, table.partition)
            .where(planned)
        ).fetchall()
    if not rows:
        return 0
    tags = {"junk_leads/what": _SKIPPED_WHY}
    with suppress(DagsterRunAlreadyExists):  # made by the first failing run, or by another at this moment
        instance.add_run(dg.DagsterRun(_SKIPPED_JOB, SKIPPED_RUN, status=dg.DagsterRunStatus.SUCCESS, tags=tags))
    with storage.index_connection() as con:
        for asset, check, partition in rows:  # a check of a drop is skipped once: the last time
            same = (table.asset_key == asset) & (table.check_name == check) & (table.partition.is_(partition))
            con.execute(AssetCheckExecutionsTable.delete().where((table.run_id == SKIPPED_RUN) & same))
        con.execute(AssetCheckExecutionsTable.update().where(planned).values(run_id=SKIPPED_RUN))
    return len(rows)
