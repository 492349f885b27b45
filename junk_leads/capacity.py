"""What a machine gives: how much memory may be used, and whether the disk holds what a drop needs.

What lives here: the setting JUNK_LEADS_MEMORY_LIMIT as DuckDB takes it, caps on what a file may ask for, the estimate
before a drop is read, how it is told when memory or disk fail all the same, and when garbage is looked for. What does
not: what is done with a drop that does not fit, which is left as it is.
"""

import errno
import gc
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from junk_leads.errors import CapacityExceeded, JunkLeadsError
from junk_leads.home import number_setting

if TYPE_CHECKING:
    import duckdb

MEMORY_VARIABLE = "JUNK_LEADS_MEMORY_LIMIT"
# The program itself with what it imports (0.5 GB), and what it holds of kinds and of a piece of a file.
BESIDES_DUCKDB = 10**9
LEAST_MEMORY = 15 * 10**8
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
# How many times its own size a file needs on disk, measured with generated leads (docs/performance.md): its copy and
# its tables, and what DuckDB puts aside when memory is short; scored, the CSV with its reasons as well.
DISK_TO_READ, DISK_TO_SCORE = 4.0, 8.0
COMPRESSED = {".gz": 8.0, ".parquet": 10.0}  # how many times its size a file of leads is as a CSV
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
_FULL = re.compile(r"no space left|disk is full|disk i/o error|unable to open database file|readonly database", re.I)
_MALFORMED = re.compile(r"malformed|not a database|corrupt database|checksum", re.I)
ALWAYS_LEFT = 50 * 10**6  # bytes that nothing takes


@dataclass(frozen=True)
class Cap:
    """The most of something that a file may ask for: a setting of the environment, which refusals name."""

    variable: str
    default: int
    unit: str

    @property
    def value(self) -> int:
        """The cap that holds now; raises JunkLeadsError when the setting is no number."""
        return int(number_setting(self.variable, self.default, below=1e15))

    def __str__(self) -> str:
        return f"at most {self.value:,} {self.unit} ({self.variable} sets another cap)"


def collect_garbage_rarely() -> None:
    """Look for garbage rarely: to look at the libraries' millions of objects again and again is 1 s of 15."""
    gc.set_threshold(100_000, 50, 100)


@contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage in what is imported meanwhile, and rarely later: a fifth of importing Great Expectations."""
    shared = gc.get_freeze_count()  # with the process that this one was forked from
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if not shared:
            gc.unfreeze()  # to where what is old is, unseen; what stays frozen could not be taken apart at the end
        gc.enable()


def memory_limit() -> int | None:
    """The bytes that DuckDB may use, of the environment's setting; None when there is none (DuckDB's own default).

    Raises CapacityExceeded when the setting is no amount of memory, or too small to work with.
    """
    text = _limit_set()
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?B)", text.upper())
    if not found:
        raise CapacityExceeded(f"{MEMORY_VARIABLE} is {text!r}, which is no amount of memory; write one like 8GB")
    given = int(float(found[1]) * _UNITS[found[2]])
    if given < LEAST_MEMORY:
        raise CapacityExceeded(
            f"{MEMORY_VARIABLE} is {text}, too little to work with; give it {told(LEAST_MEMORY)} or more"
        )
    return given - BESIDES_DUCKDB


def has_room_beside() -> bool:
    """Whether something may be done beside what a command does: there is a second processor, and no limit of memory.

    A limit that is none is refused where it is first needed, with the drop that needs it.
    """
    return (os.cpu_count() or 1) > 1 and not _limit_set()


def _limit_set() -> str:
    return os.environ.get(MEMORY_VARIABLE, "").strip()


def limit_memory(con: "duckdb.DuckDBPyConnection") -> None:
    """Set the limit on a connection's database; what does not fit is put aside on disk, beside the warehouse."""
    limit = memory_limit()
    if limit is not None:
        con.execute(f"SET memory_limit = '{limit}B'")


@contextmanager
def failures_told() -> Iterator[None]:
    """What memory, the disk or a damaged file make impossible, as a JunkLeadsError in one line.

    Whatever raised it, in whichever store: DuckDB, SQLite, SQLAlchemy over it, or the file system.
    """
    try:
        yield
    except JunkLeadsError:
        raise
    except Exception as error:
        told_error = _told_failure(error)
        if told_error is None:
            raise
        raise told_error from error


def _told_failure(error: BaseException) -> JunkLeadsError | None:
    """Too little memory, a full disk or a damaged file as it is told; None for a defect of the program."""
    import duckdb  # late: the process that asks Great Expectations has no store

    if isinstance(error, duckdb.OutOfMemoryException):
        limit = _limit_set()
        what = f"{MEMORY_VARIABLE} is {limit}" if limit else f"{MEMORY_VARIABLE} is not set"
        return CapacityExceeded(
            f"the memory that DuckDB may use was not enough ({what}); nothing was stored: give it more, deliver the "
            "leads in several files, or free disk space below the home"
        )
    of_stores = (duckdb.Error, sqlite3.Error)
    damaged = (duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException)
    cause: BaseException | None = error
    while cause is not None:
        line = (str(cause).strip().splitlines() or [""])[0]
        first = line[:200]  # what is told of it; with a long path the reason stands behind
        if (isinstance(cause, OSError) and cause.errno in _NO_ROOM) or (
            isinstance(cause, of_stores) and _FULL.search(line)
        ):
            return CapacityExceeded(
                f"the disk is full, or cannot be written ({first}); what was stored before is as it was: free some "
                "space and run it again"
            )
        if isinstance(cause, damaged) or (isinstance(cause, of_stores) and _MALFORMED.search(line)):
            return JunkLeadsError(
                f"a file of the home is damaged ({first}); `junk-leads doctor` says which, and what to do"
            )
        cause = cause.__cause__ or cause.__context__
    return None


def refuse_without_room(home: Path, file: Path, *, scored: bool) -> None:
    """Raise CapacityExceeded, before anything is written, unless the home's disk has room for what a file will need."""
    size = file.stat().st_size * COMPRESSED.get(file.suffix.lower(), 1.0)
    needed = size * (DISK_TO_SCORE if scored else DISK_TO_READ)
    free = shutil.disk_usage(home).free - ALWAYS_LEFT
    if needed > free:
        raise CapacityExceeded(
            f"the disk of {home} has {told(max(free, 0))} free, {'scoring' if scored else 'reading'} a file of "
            f"{told(file.stat().st_size)} may need {told(needed)}; nothing was changed: free some space and try again"
        )


def told(size: float) -> str:
    """An amount of bytes for people."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 1000:,.0f} KB"
