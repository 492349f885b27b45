"""What lasts is made whole: under another name until it can be used, stores by one process at a time.

What lives here: taking a lock, the one that all makers of stores share, making one so that a process killed meanwhile
leaves nothing that the next one would take for a store, and writing a text. What does not: what is in a store
(`warehouse.py`, `mlflow_store.py`).
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from junk_leads.errors import JunkLeadsError

PATIENCE_SECONDS = 300.0


def taken(file: IO[Any]) -> bool:
    """Take the lock of an open file for this process alone, at once or not at all; whether it has it.

    It has it until the file is closed, there and in processes that it was handed to, or they end, however they do.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Be the only process that makes a store below `root`, waiting for the others.

    Raises JunkLeadsError when one of them takes longer than any maker should. A process that ends, however it does,
    lets go of the lock.
    """
    lock = FileLock(root / "making.lock", timeout=PATIENCE_SECONDS)
    try:
        with lock:
            yield
    except Timeout as error:
        raise JunkLeadsError(
            f"another process has been making the stores of {root} for {PATIENCE_SECONDS:g} s; end it and try again"
        ) from error


def make_whole(target: Path, make: Callable[[Path], object]) -> None:
    """Make the file or folder `target`, unless it is there, whole or not at all; the caller is `alone`.

    `make` is given another path of the same name to make it at, in a folder that nobody else looks into; what stands
    beside it there (a log, a journal) is of no use any more when `make` returns, and goes.
    """
    if os.path.lexists(target):
        return
    folder = target.parent / f".making-{target.name}"
    if folder.exists():
        shutil.rmtree(folder)  # whoever made it was killed
    folder.mkdir()
    try:
        make(folder / target.name)
        os.replace(folder / target.name, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file of text whole or not at all; one that stood there is replaced."""
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
