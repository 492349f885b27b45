"""Dagster's SQLite files kept open, so that each of the hundreds of events of a run is cheap to write.

What lives here: one engine, with its connections, for each of the files used last, handed to Dagster's storages in
place of a new one. What does not: what is stored, which is Dagster's own. Dagster makes an engine for every event,
opens a connection and closes it again (0.6 ms; a connection that is there takes 0.06), and the last one that closes
moves the write-ahead log into the file and deletes it, which takes longer than the event. With a write-ahead log,
`synchronous = NORMAL` is safe when a process is killed; only what was written in the last moments before a power cut
may be missing from Dagster's records, never from the warehouse.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import sqlalchemy as db
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage

MOST_KEPT = 4  # files: the index, the runs, the schedules, the run under way
_STORAGES = (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage)


class _Kept:
    """Engines of the files used last, by address."""

    def __init__(self) -> None:
        self.engines: OrderedDict[str, db.Engine] = OrderedDict()
        self.lock = Lock()

    def engine(self, url: str, *, connect_args: dict[str, Any] | None = None, **_: Any) -> db.Engine:
        """In place of SQLAlchemy's `create_engine`, as Dagster calls it."""
        with self.lock:
            if url not in self.engines:
                made = db.create_engine(url, poolclass=db.QueuePool, connect_args=connect_args or {})
                db.event.listen(made, "connect", _on_connect)
                made.dispose = lambda close=True: None  # type: ignore[method-assign]  # Dagster is done with it, not we
                self.engines[url] = made
            self.engines.move_to_end(url)
            while len(self.engines) > MOST_KEPT:
                _dispose(self.engines.popitem(last=False)[1])
            return self.engines[url]

    def close(self) -> None:
        with self.lock:
            for engine in self.engines.values():
                _dispose(engine)
            self.engines.clear()


def _on_connect(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA synchronous = NORMAL")


def _dispose(engine: db.Engine) -> None:
    db.Engine.dispose(engine)


def keep_open() -> _Kept:
    """Keep them open for as long as this process lives, a daemon or a run's own."""
    kept = _Kept()
    _hand_to_dagster(kept.engine)
    return kept


@contextmanager
def kept_open() -> Iterator[None]:
    """Keep them open for the length of a `with`."""
    former = vars(sqlite_event_log)["create_engine"]
    kept = keep_open()
    try:
        yield
    finally:
        _hand_to_dagster(former)
        kept.close()


def _hand_to_dagster(create_engine: Callable[..., db.Engine]) -> None:
    for storage in _STORAGES:
        vars(storage)["create_engine"] = create_engine
