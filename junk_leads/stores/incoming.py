"""The folder `incoming/`: a pure decision over its files and the ledger.

What lives here: when a file is complete, new, or to be tried again. What does not: asking for its run
(`defs/sensors.py`), reading it (`steps/leads/`) and moving it (`ledger.py`).
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from junk_leads.errors import DropRefused
from junk_leads.steps.leads.splitting import NAMED, SUFFIXES
from junk_leads.stores.ledger import Delivery, content_of, drop_key

MOST_ATTEMPTS = 3
MOST_UNDER_WAY = 100  # runs asked for at a time: thousands would be asked after at every look
PARQUET_END = b"PAR1"
UNENDED = 3.0  # how many times as long a file must be at rest that does not end as a whole one does
_UNFINISHED_NAMES = (".part", ".tmp", ".crdownload", ".filepart", "~")


@dataclass(frozen=True)
class IncomingFile:
    """A file as the folder's listing shows it.

    `content` is its SHA-256 once it is complete, `problem` why it cannot be read.
    """

    name: str
    size: int
    modified: float
    is_regular: bool = True
    content: str = ""
    problem: str = ""

    @property
    def mark(self) -> list[float]:
        """What changes when the file does."""
        return [self.size, self.modified]


@dataclass(frozen=True)
class Decision:
    """What to do about a file: `wait`, `skip` (leave it), `done` (move it away) or `run`, and why.

    `asked` is when the run that is waited for was asked for, in seconds since 1970.
    """

    name: str
    action: str
    reason: str = ""
    asked: float | None = None


def is_complete(file: IncomingFile, former: Mapping[str, list[float]], now: float, settle_seconds: float) -> bool:
    """Whether a copy has come to rest: unchanged since the last look, and for some seconds.

    A file from the future (a clock that is wrong) counts as one as long ago.
    """
    return former.get(file.name) == file.mark and abs(now - file.modified) >= settle_seconds


def decide(
    files: Sequence[IncomingFile], deliveries: Sequence[Delivery], run_states: Mapping[str, str], now: float
) -> list[Decision]:
    """What to do about each file of the folder, oldest first.

    `files` without a content are not complete yet; `run_states` says of each run key whether its run is
    `running`, `failed` or `done` (absent: there is no run); `now` is in seconds since 1970. One delivery of
    a drop is under way at a time, and not more than MOST_UNDER_WAY of all.
    """
    known = {(d.drop, d.content): d for d in deliveries}
    newest = {d.drop: d for d in deliveries}
    busy: set[str] = set()
    decisions = []
    for file in sorted(files, key=lambda f: (f.modified, f.name)):
        if not file.is_regular:
            decisions.append(Decision(file.name, "skip", "not a regular file; deliver the file itself"))
            continue
        if not file.name.lower().endswith(SUFFIXES):
            decisions.append(Decision(file.name, "skip", f"not named {NAMED}"))
            continue
        if file.name.encode("utf-8", "replace").decode() != file.name:
            decisions.append(Decision(file.name, "skip", "its name is not UTF-8 text; rename it"))
            continue
        if file.problem:
            decisions.append(Decision(file.name, "skip", f"cannot be read ({file.problem}); check its permissions"))
            continue
        drop = drop_key(file.name)
        if not file.content:
            decisions.append(Decision(file.name, "wait", "still being copied"))
        elif drop in busy:
            decisions.append(Decision(file.name, "wait", f"another file of drop {drop} is under way"))
        else:
            decision = _decide_delivery(file, known.get((drop, file.content)), newest.get(drop), run_states, now)
            decisions.append(decision)
            if decision.action in ("run", "wait"):
                busy.add(drop)
    under_way = sum(decision.asked is not None for decision in decisions)
    asked_for = [place for place, decision in enumerate(decisions) if decision.action == "run"]
    for place in asked_for[max(MOST_UNDER_WAY - under_way, 0) :]:
        decisions[place] = Decision(decisions[place].name, "wait", f"{MOST_UNDER_WAY} others come first")
    return decisions


def _decide_delivery(
    file: IncomingFile,
    delivery: Delivery | None,
    newest: Delivery | None,
    run_states: Mapping[str, str],
    now: float,
) -> Decision:
    if delivery is None or (delivery != newest and delivery.status != "refused"):
        return Decision(file.name, "run", "new content")
    if delivery.status == "accepted":
        return Decision(file.name, "done", "the same content was accepted already")
    if delivery.status == "refused":
        return Decision(file.name, "done", f"the same content was refused already: {delivery.reason}")
    state = run_states.get(run_key(delivery), "none")
    if state == "running":
        return Decision(file.name, "wait", "its run is under way", delivery.updated)
    if state == "none":
        return Decision(file.name, "run", "its run was never started")
    if delivery.attempts < MOST_ATTEMPTS or delivery.updated < file.modified <= now:
        return Decision(file.name, "run", f"attempt {delivery.attempts} {state}")
    return Decision(
        file.name,
        "skip",
        f"its run failed {delivery.attempts} times; look at the runs of drop {delivery.drop}, then touch the file",
    )


def run_key(delivery: Delivery) -> str:
    """The key of the run that reads a delivery; the attempt is in it, or a retry would never start."""
    return f"{delivery.drop}:{delivery.content[:16]}:{delivery.attempts}"


def list_incoming(folder: Path) -> list[IncomingFile]:
    """The folder's files, those named as unfinished or hidden left out. Raises OSError when it cannot be read."""
    files = []
    for entry in os.scandir(folder):
        if entry.name.startswith(".") or entry.name.lower().endswith(_UNFINISHED_NAMES):
            continue
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # moved away while we looked
        files.append(IncomingFile(entry.name, found.st_size, found.st_mtime, stat.S_ISREG(found.st_mode)))
    return files


def arrivals(folder: Path, names: Iterable[str]) -> dict[str, float]:
    """When files came into the folder, in seconds since 1970; of those that are gone nothing.

    That is when a file's inode last changed: a copy may keep the time at which its content was written.
    """
    found = {}
    for name in names:
        with suppress(OSError):  # moved away while we looked
            found[name] = (folder / name).lstat().st_ctime
    return found


def with_contents(
    files: Sequence[IncomingFile],
    folder: Path,
    former: Mapping[str, list[float]],
    settle_seconds: float,
    now: float,
) -> list[IncomingFile]:
    """The files, each complete one with its content's SHA-256.

    A file whose last line has no end yet must be at rest for longer: so a copy looks that has come to a halt.
    """
    found = []
    for file in files:
        content = problem = ""
        if file.is_regular and is_complete(file, former, now, settle_seconds):
            try:
                if is_complete(file, former, now, UNENDED * settle_seconds) or _ends_a_line(folder / file.name):
                    content = _content_of(folder / file.name, *file.mark)
            except DropRefused:
                pass  # moved away, or replaced by a link, while we looked
            except OSError as error:
                problem = error.strerror or type(error).__name__
        found.append(replace(file, content=content, problem=problem))
    return found


@lru_cache(maxsize=100_000)
def _content_of(path: Path, size: float, modified: float) -> str:
    """The content of a file, looked at once for as long as its mark stays: a large file waits for many looks."""
    return content_of(path)


def _ends_a_line(path: Path) -> bool:
    """Whether the last bytes end a line, or a Parquet file; of what is zipped nobody can tell."""
    if path.name.lower().endswith(".gz"):
        return False
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - len(PARQUET_END), 0))
        last = file.read()
    return last == PARQUET_END if path.suffix.lower() == ".parquet" else last.endswith((b"\n", b"\r"))
