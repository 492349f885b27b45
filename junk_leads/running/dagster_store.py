"""Dagster's SQLite files kept open, so that each of the hundreds of events of a run is cheap to write.

What lives here: two facts of SQLite, told to each connection that SQLAlchemy opens in this process. What does not: what
is stored, which is Dagster's own. Dagster opens a connection for every event and closes it again: the last one that
closes moves the write-ahead log into the file and deletes it, which takes longer than the event; a connection that
stays open saves that. And with a write-ahead log, `synchronous = NORMAL` is safe when a process is killed; only what
was written in the last moments before a power cut may be missing from Dagster's records, never from the warehouse.
"""

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

MOST_KEPT = 4  # files: the index, the runs, the run under way


class _Kept:
    """A connection to each of the files used last."""

    def __init__(self) -> None:
        self.connections: OrderedDict[str, sqlite3.Connection] = OrderedDict()
        self.lock = Lock()

    def on_connect(self, connection: Any, _record: object) -> None:
        if not isinstance(connection, sqlite3.Connection):
            return
        with suppress(sqlite3.Error):  # nothing that the connection could not do without
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                return
            connection.execute("PRAGMA synchronous = NORMAL")
            path = str(connection.execute("PRAGMA database_list").fetchone()[2])
            with self.lock:
                self._keep(path)

    def _keep(self, path: str) -> None:
        if path in self.connections:
            self.connections.move_to_end(path)
            return
        kept = sqlite3.connect(path, check_same_thread=False)
        kept.execute("PRAGMA schema_version").fetchone()  # opens the log, and holds no lock afterwards
        self.connections[path] = kept
        while len(self.connections) > MOST_KEPT:
            self.connections.popitem(last=False)[1].close()

    def close(self) -> None:
        with self.lock:
            for connection in self.connections.values():
                connection.close()
            self.connections.clear()


def keep_open() -> _Kept:
    """Keep them open for as long as this process lives, a daemon or a run's own."""
    kept = _Kept()
    event.listen(Engine, "connect", kept.on_connect)
    return kept


@contextmanager
def kept_open() -> Iterator[None]:
    """Keep them open for the length of a `with`."""
    kept = keep_open()
    try:
        yield
    finally:
        event.remove(Engine, "connect", kept.on_connect)
        kept.close()
