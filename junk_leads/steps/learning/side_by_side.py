"""Learning several models at once: a process of its own fits some of their parts beside this one.

What lives here: that process, who fits what, what else it does afterwards, and what becomes of it. What does not:
learning (`validation.py`). LightGBM takes one thread, for its bytes not to depend on their number, and one caller at a
time in a process (`steps/boosting.py`).
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from junk_leads.steps.learning.validation import Learned, Learning

MANY_ROWS = 50_000  # below, a process takes longer to start than to learn

Made = TypeVar("Made")
Part = tuple[int, int]  # of which model, and its number there
Told = tuple[Any, ...] | Exception


class Begun:
    """Models whose parts another process fits, one after the other, until this one joins it (`learning_begun`)."""

    def __init__(
        self,
        models: Sequence[Learning],
        process: "Connection[Any, Any] | None" = None,
        asking: ThreadPoolExecutor | None = None,
    ) -> None:
        self._models, self._process, self._asking = models, process, asking
        parts = [(number, part) for number, model in enumerate(models) for part in model.parts]
        self._left = deque(sorted(parts, key=lambda part: -models[part[0]].size(part[1])))  # the longest first
        self._told: dict[Part, Told] = {}
        self._fitting: Future[None] | None = None
        if process is not None and asking is not None:
            self._fitting = asking.submit(_have_fitted, process, models, self._left, self._told)

    def learned(self) -> list[Learned]:
        """The models, the same whoever fits which of their parts: this process takes one after the other as well.

        When the other one was ended from outside (out of memory) nothing is lost: what it was at is fitted here.
        """
        fitted = _fitted_here(self._models, self._left)
        if self._fitting is not None:
            self._fitting.result()
            fitted |= _fitted_here(self._models, self._left)  # what the other was at when it ended
        for part, found in self._told.items():
            if isinstance(found, Exception):
                raise found
            fitted[part] = found
        return [
            model.learned([fitted[number, part] for part in model.parts]) for number, model in enumerate(self._models)
        ]

    def beside(self, call: Callable[[], Made]) -> Callable[[], Made]:
        """Have the other process make something once it has fitted; what is returned waits for it and gives it.

        `call` and what it makes can be pickled. Where there is no other process, or no more, it is made here.
        """
        process, asking = self._process, self._asking
        if process is None or asking is None:
            return call

        def asked() -> Any:
            process.send(call)
            return process.recv()

        made = asking.submit(asked)

        def given() -> Made:
            try:
                found = made.result()
            except (EOFError, OSError):
                return call()
            if isinstance(found, Exception):
                raise found
            return found  # type: ignore[no-any-return]

        return given


@contextmanager
def learning_begun(models: Sequence[Learning]) -> Iterator[Begun]:
    """The learning of models, begun by another process while this one does something else, and ended with it.

    It is started when they are large and there is a second processor.
    """
    if len(models[0].data.counts) < MANY_ROWS or _processors() < 2:
        yield Begun(models)
        return
    processes = multiprocessing.get_context("spawn")  # a fork would inherit LightGBM's threads
    ours, theirs = processes.Pipe()
    process = processes.Process(target=_do_what_is_asked, args=(theirs,), daemon=True)
    with ours, ThreadPoolExecutor(1) as asking:
        try:
            with _uninterrupted():  # Ctrl-C is for this process, which ends the other
                process.start()
            theirs.close()  # so that its end is noticed
            yield Begun(models, ours, asking)
        finally:
            if process.pid is not None:
                process.kill()  # also where SIGTERM is ignored: Dagster has it ignored where SIGINT is
                process.join()


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


def _have_fitted(
    process: "Connection[Any, Any]", models: Sequence[Learning], left: "deque[Part]", told: dict[Part, Told]
) -> None:
    """Have the process fit one part after the other, until none is left or it ended."""
    with suppress(EOFError, OSError):
        process.send(models)  # it reads them when it has imported what it needs
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


def _do_what_is_asked(connection: "Connection[Any, Any]") -> None:
    """What the process does, until it is ended, or nobody listens any more: parts of the models it gets, and calls."""
    with suppress(EOFError, OSError):
        models = connection.recv()
        while True:
            asked = connection.recv()
            try:
                told = asked() if callable(asked) else models[asked[0]].fit(asked[1])
            except Exception as error:
                told = error
            connection.send(told)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
