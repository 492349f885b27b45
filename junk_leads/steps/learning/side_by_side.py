"""Learning two models at once: one of them in a process of its own.

What lives here: that process, and what becomes of it. What does not: learning (`validation.py`). LightGBM takes one
thread, for its bytes not to depend on their number, and one caller at a time in a process (`steps/boosting.py`).
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

from junk_leads.steps.learning.training import LabelledFeatures, Recipe
from junk_leads.steps.learning.validation import Aim, Fold, Learned, learn

MANY_ROWS = 50_000  # below, a process takes longer to start than to learn

Task = tuple[LabelledFeatures, Recipe, Sequence[Fold], Aim]


def learn_each(tasks: Sequence[Task]) -> list[Learned]:
    """What `learn` makes of each task, the same whether the first is learned beside the others or before them.

    It is learned beside them when it is large and there is a second processor. A process that is ended from outside
    (out of memory) loses nothing: its task is learned here then.
    """
    if len(tasks) < 2 or len(tasks[0][0].counts) < MANY_ROWS or _processors() < 2:
        return [learn(*task) for task in tasks]
    processes = multiprocessing.get_context("spawn")  # a fork would inherit LightGBM's threads
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=_learn_and_send, args=(theirs, tasks[0]), daemon=True)
    try:
        with _uninterrupted():  # Ctrl-C is for this process, which ends the other
            process.start()
        theirs.close()  # so that its end is noticed
        others = [learn(*task) for task in tasks[1:]]
        try:
            first = ours.recv()
        except EOFError:
            first = learn(*tasks[0])
    except BaseException:
        if process.pid is not None:
            process.kill()  # also where SIGTERM is ignored: Dagster has it ignored where SIGINT is
        raise
    finally:
        ours.close()
        if process.pid is not None:
            process.join()
    if isinstance(first, Exception):
        raise first
    return [first, *others]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """What is started meanwhile hears no interrupt; one that comes is heard here afterwards."""
    resource_tracker.ensure_running()  # started by the first process it would unblock them
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _learn_and_send(connection: Connection, task: Task) -> None:
    """What the process does; it ends with its parent at the latest when it has learned, for nobody listens then."""
    try:
        told: Learned | Exception = learn(*task)
    except Exception as error:
        told = error
    try:
        connection.send(told)
    except OSError:
        os._exit(1)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
