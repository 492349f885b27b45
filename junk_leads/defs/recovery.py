"""Runs whose process was killed: found, and told to have failed, so that no other run waits for them.

What lives here: the lock that a run holds for as long as its process lives, and what is done when nobody holds it. What
does not: trying such a run again (`sensors.py`).
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import dagster as dg

from junk_leads.home import Home

_WHY = "its process ended before it did; the warehouse holds what it held before: launch it again"
_SETTLED_SECONDS = 60.0  # after which a run without a pool slot has taken the lock, or never will
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
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def fail_dead_runs(instance: dg.DagsterInstance, home: Home) -> list[str]:
    """Fail the runs that are under way by their records though no process runs any; returns their ids.

    A run that holds a slot of a pool has taken the lock before; of others only those that started a while ago count.
    """
    with _alone(home.running_lock) as nobody_runs:
        if not nobody_runs:
            return []
        storage = instance.event_log_storage
        holders = storage.get_concurrency_run_ids() if storage.supports_global_concurrency_limits else set()
        dead = []
        for record in instance.get_run_records(dg.RunsFilter(statuses=list(_UNFINISHED))):
            run = record.dagster_run
            settled = record.start_time is not None and time.time() - record.start_time > _SETTLED_SECONDS
            if run.run_id in holders or settled:
                instance.report_run_failed(run, _WHY)
                dead.append(run.run_id)
        for run_id in holders:
            storage.free_concurrency_slots_for_run(run_id)
        return dead
