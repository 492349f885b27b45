"""How commands speak: progress and refusals on stderr, results on stdout, as text or as one JSON object.

What lives here: what every command shares. What does not: any command.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from junk_leads.capacity import importing
from junk_leads.errors import JunkLeadsError
from junk_leads.home import SCHEDULER_VARIABLE, Home
from junk_leads.steps.pages.sentences import visible

if TYPE_CHECKING:
    from junk_leads.running.launching import Platform
    from junk_leads.stores.registry import Registry

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
FILES = (
    "CSV files (also .csv.gz) or Parquet files, copied, never moved or changed. A folder, or an address (s3://...), is "
    "one drop in shards, which stay where they are."
)
Files = Annotated[list[str], typer.Argument(help=FILES)]
OneDrop = Annotated[
    bool, typer.Option("--one-drop", help="The files of a quoted pattern are the shards of one drop, not a drop each.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(envvar=SCHEDULER_VARIABLE, help="tcp://HOST:PORT of a Dask scheduler whose workers do the work."),
]
Asked = TypeVar("Asked")


_OVER_A_BAR = "\r\x1b[K"  # from the line's start, which is then empty


def tell(line: str) -> None:
    """Progress, on stderr; where that is full or closed the work goes on untold."""
    with suppress(OSError):
        typer.echo(f"{_OVER_A_BAR if sys.stderr.isatty() else ''}… {_in_one_line(line)}", err=True)


def _in_one_line(text: str) -> str:
    """The text without line ends, which a file's name may hold; other blanks are part of its path."""
    return visible(re.sub(r"\s*[\r\n]+\s*", " ", text))


class Telling(logging.Handler):
    """What the program logs (that it waits, and for whom) as progress."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell a record."""
        tell(record.getMessage())


def named(files: Sequence[str | Path]) -> list[str | Path]:
    """The files that are meant: each as it is named, or those that it is a pattern of where there is none of that name.

    Raises JunkLeadsError for a pattern of no file.
    """
    found: list[str | Path] = []
    for name in files:
        if "://" in str(name):
            found.append(name)
            continue
        file = Path(name)
        if file.exists() or not set(str(file)) & set("*?["):
            found.append(file)
            continue
        matching = sorted(Path(match) for match in glob(str(file)))
        if not matching:
            raise JunkLeadsError(f"there is no file like {str(file)!r}; check the folder and the pattern")
        found.extend(matching)
    return found


def refuse(line: str) -> None:
    """What was refused or failed, on stderr, in one line whatever a file is called; the exit code tells it, too."""
    with suppress(OSError):
        typer.echo(f"junk-leads: {_in_one_line(line)}", err=True)


def answer(as_json: bool, content: dict[str, Any], text: str) -> None:
    """The result, on stdout. Raises JunkLeadsError where it cannot be written, but for a reader that has left."""
    try:
        typer.echo(json.dumps(content, ensure_ascii=False) if as_json else visible(text))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise JunkLeadsError(f"what was asked for is done, but its result cannot be written here ({error})") from error


def answer_each(
    asked: Sequence[Asked],
    work: Callable[[Asked], dict[str, Any]],
    told: Callable[[dict[str, Any]], str],
    *,
    as_json: bool,
) -> None:
    """Do the work for each that was asked for, whatever becomes of the others, and tell the results and refusals.

    Ends with exit code 1 when any was refused. Interrupted, it tells of those before.
    """
    done, refused, interrupted = [], [], False
    with _bar_of(asked) as each:
        for one in each:
            try:
                with interruptible():
                    done.append(work(one))
            except JunkLeadsError as error:
                refused.append(str(error))
            except KeyboardInterrupt:
                interrupted = True
                break
    try:
        if not interrupted if as_json else done:  # of an interrupt one object tells, and no more
            failed = {"error": "; ".join(refused)} if refused else {}
            answer(as_json, {"drops": done, **failed}, "\n".join(map(told, done)))
    finally:
        for line in refused:
            refuse(line)
    if interrupted:
        raise KeyboardInterrupt
    if refused:
        raise typer.Exit(1)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C is an interrupt also where it falls into a query: DuckDB makes a RuntimeError of it."""
    try:
        yield
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from error


@contextmanager
def _bar_of(asked: Sequence[Asked]) -> Iterator[Iterable[Asked]]:
    """What was asked for, one after the other, with a progress bar on a terminal when it is more than one."""
    if len(asked) < 2 or not sys.stderr.isatty():
        yield asked
        return
    with typer.progressbar(asked, label="drops", show_pos=True, file=sys.stderr) as bar:
        yield bar


@contextmanager
def opened_platform(scheduler: str | None = None, *, checking: bool = False) -> Iterator["Platform"]:
    """The platform of the home that the environment names; `scheduler` is that of this command.

    With `checking`, Great Expectations is imported by a process beside this one while it imports all else.
    """
    if scheduler is not None:
        os.environ[SCHEDULER_VARIABLE] = scheduler
    from junk_leads.defs.expectations.asking import worker_beside

    with worker_beside() if checking else nullcontext():
        with importing():
            from junk_leads.running.launching import platform

        with platform(Home.from_environment(), tell) as found:
            yield found


def opened_registry() -> "Registry":
    """The registry alone, for commands that launch nothing."""
    from junk_leads.stores.registry import Registry

    return Registry(Home.from_environment().prepare())


@contextmanager
def progress_told() -> Iterator[None]:
    """What a job tells while it runs, on stderr."""
    import logging

    logger, handler = logging.getLogger("junk_leads.progress"), logging.Handler()
    handler.emit = lambda record: tell(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
