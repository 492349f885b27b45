"""Learning several models at once: a process of its own fits some of their parts beside this one.

What lives here: that process, who fits what, and what becomes of it. What does not: learning (`validation.py`).
LightGBM takes one thread, for its bytes not to depend on their number, and one caller at a time in a process
(`steps/boosting.py`).
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

from junk_leads.steps.learning.validation import Learned, Learning

MANY_ROWS = 50_000  # below, a process takes longer to start than to learn

Part = tuple[int, int]  # of which model, and its number there
Told = tuple[Any, ...] | Exception


def learn_each(models: Sequence[Learning]) -> list[Learned]:
    """The models, the same whoever fits which of their parts: this process and another take one after the other.

    Another is started when they are large and there is a second processor. When it is ended from outside (out of
    memory) nothing is lost: what it was at is fitted here then.
    """
    parts = [(number, part) for number, model in enumerate(models) for part in model.parts]
    left = deque(sorted(parts, key=lambda part: -models[part[0]].size(part[1])))  # the longest first
    if len(models[0].data.counts) < MANY_ROWS or _processors() < 2:
        fitted = _fitted_here(models, left)
    else:
        fitted = _fitted_by_two(models, left)
    return [model.learned([fitted[number, part] for part in model.parts]) for number, model in enumerate(models)]


def _fitted_here(models: Sequence[Learning], left: "deque[Part]") -> dict[Part, tuple[Any, ...]]:
    fitted = {}
    while (taken := _taken(left)) is not None:
        number, part = taken
        fitted[taken] = models[number].fit(part)
    return fitted


def _taken(left: "deque[Part]") -> Part | None:
    """The next part, which nobody else gets; None when there is none."""
    try:
        return left.popleft()
    except IndexError:  # asked for it before, another thread could take it meanwhile
        return None


def _fitted_by_two(models: Sequence[Learning], left: "deque[Part]") -> dict[Part, tuple[Any, ...]]:
    processes = multiprocessing.get_context("spawn")  # a fork would inherit LightGBM's threads
    ours, theirs = processes.Pipe()
    process = processes.Process(target=_fit_and_send, args=(theirs, models), daemon=True)
    told: dict[Part, Told] = {}
    asking = Thread(target=_have_fitted, args=(ours, left, told))
    try:
        with _uninterrupted():  # Ctrl-C is for this process, which ends the other
            process.start()
        theirs.close()  # so that its end is noticed
        asking.start()
        here = _fitted_here(models, left)
        asking.join()
        here |= _fitted_here(models, left)  # what the other was at when it ended
    finally:
        if process.pid is not None:
            process.kill()  # also where SIGTERM is ignored: Dagster has it ignored where SIGINT is
            process.join()
        if asking.ident is not None:
            asking.join()
        ours.close()
    for part, found in told.items():
        if isinstance(found, Exception):
            raise found
        here[part] = found
    return here


def _have_fitted(process: "Connection[Part, Told]", left: "deque[Part]", told: dict[Part, Told]) -> None:
    """Have the process fit one part after the other, until none is left or it ended."""
    while (part := _taken(left)) is not None:
        try:
            process.send(part)
            told[part] = process.recv()
        except (EOFError, OSError):
            left.append(part)
            return


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """What is started meanwhile hears no interrupt; one that comes is heard here afterwards."""
    resource_tracker.ensure_running()  # started by the first process it would unblock them
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _fit_and_send(connection: "Connection[Told, Part]", models: Sequence[Learning]) -> None:
    """What the process does, until it is ended, or nobody listens any more."""
    with suppress(EOFError, OSError):
        while True:
            number, part = connection.recv()
            try:
                told: Told = models[number].fit(part)
            except Exception as error:
                told = error
            connection.send(told)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
