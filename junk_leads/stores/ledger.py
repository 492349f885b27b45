"""Which file became which drop, and what happened to it.

What lives here: the keys of drops, the SQLite ledger of deliveries, and moving a file that is done
with to `archive/` or `quarantine/`. What does not: deciding what to do about a folder's files
(`sensors.py`) and reading them (`steps/leads/reading.py`).

The ledger is a file of its own, so that the sensor can read it while a run holds the warehouse.
A delivery is one content of one drop; its status goes waiting -> accepted, refused or failed.
"""

import hashlib
import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from junk_leads.engine.executors import Executor
from junk_leads.engine.shards import MANIFEST, content_of_shard, find_shards, name_of, shards_of, write_manifest
from junk_leads.errors import DropRefused, DropUnknown, JunkLeadsError
from junk_leads.home import Home
from junk_leads.steps.leads.splitting import SUFFIXES
from junk_leads.stores.making import write_whole

LONGEST_KEY = 80
_FOLDERS = ("incoming", "archive", "quarantine")  # of a home, where a delivered file may be

_TABLE = """
CREATE TABLE IF NOT EXISTS deliveries (
    number      INTEGER PRIMARY KEY,   -- order of delivery
    drop_key    TEXT NOT NULL,
    content     TEXT NOT NULL,         -- SHA-256 of the file
    file_name   TEXT NOT NULL,
    path        TEXT NOT NULL,         -- where the file is now, from the home on
    status      TEXT NOT NULL,         -- waiting, accepted, refused, failed
    attempts    INTEGER NOT NULL,      -- runs started for it
    reason      TEXT NOT NULL,
    updated     REAL NOT NULL,         -- seconds since 1970
    UNIQUE (drop_key, content)
)
"""


@dataclass(frozen=True)
class Delivery:
    """One content of one drop, and what became of it."""

    number: int
    drop: str
    content: str
    file_name: str
    path: Path
    status: str
    attempts: int
    reason: str
    updated: float = 0.0


def drop_key(file_name: str) -> str:
    """The key of the drop that a file's name means: its stem, of safe characters only.

    A name that has to be changed for that gets a hash of itself, and so does one that looks as if it had
    been: two names never meet.
    """
    stem = re.sub(r"(\.csv(\.gz)?|\.parquet|\.shards)\Z", "", file_name, flags=re.IGNORECASE)
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")[:LONGEST_KEY]
    if safe and safe == stem and not re.search(r"--[0-9a-f]{12}\Z", stem):
        return safe
    mark = hashlib.sha256(stem.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{safe or 'drop'}--{mark}"


def _suffix(file_name: str) -> str:
    """How a file of ours is named that holds the content of a delivered one."""
    if file_name.endswith(MANIFEST):
        return MANIFEST
    last = Path(file_name.lower()).suffix  # x.gz is compressed too
    return next((suffix for suffix in SUFFIXES if suffix.endswith(last)), SUFFIXES[0])


def content_of(path: Path) -> str:
    """The SHA-256 of a regular file; raises DropRefused for anything else, without opening it."""
    if not os.path.lexists(path):
        raise DropRefused(f"{path.name!r} is not there any more", where="file", do="deliver it again")
    if path.is_symlink() or not path.is_file():
        raise DropRefused(
            f"{path.name!r} is not a regular file", where="file", do="deliver the file itself, not a link or folder"
        )
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def opened(home: Home) -> Iterator[sqlite3.Connection]:
    """The ledger's file, for one transaction; other tables than that of deliveries are in it too.

    Raises JunkLeadsError when it cannot be used; nothing is changed then.
    """
    try:
        with closing(sqlite3.connect(home.ledger, timeout=60)) as db, db:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA synchronous=FULL")
            yield db
    except sqlite3.Error as error:
        raise JunkLeadsError(
            f"the ledger {home.ledger} cannot be used ({error}); nothing was changed: restore it from a "
            f"backup, or move it away and deliver the files again"
        ) from error


class Ledger:
    """The ledger of one home; every method is a transaction of its own."""

    def __init__(self, home: Home) -> None:
        self.home = home
        with opened(self.home) as db:
            db.execute(_TABLE)

    def deliveries(self) -> list[Delivery]:
        """Every delivery, oldest first."""
        with opened(self.home) as db:
            return [self._delivery(row) for row in db.execute("SELECT * FROM deliveries ORDER BY number")]

    def deliveries_of(self, *drops: str) -> list[Delivery]:
        """Every delivery of some drops, oldest first."""
        one_of = "drop_key IN (SELECT value FROM json_each(?))"
        with opened(self.home) as db:
            rows = db.execute(f"SELECT * FROM deliveries WHERE {one_of} ORDER BY number", [json.dumps(drops)])
            return [self._delivery(row) for row in rows]

    def newest(self, drop: str) -> Delivery:
        """The newest delivery of a drop; raises DropUnknown when there was none."""
        with opened(self.home) as db:
            row = db.execute(
                "SELECT * FROM deliveries WHERE drop_key = ? ORDER BY number DESC LIMIT 1", [drop]
            ).fetchone()
        if row is None:
            raise DropUnknown(f"drop {drop!r} was never delivered; put its file into {self.home.incoming}")
        return self._delivery(row)

    def refuse_refused(self, drop: str) -> None:
        """Raise DropRefused when the newest delivery of a drop was refused: what tables hold is of a former one."""
        newest = self.newest(drop)
        if newest.status == "refused":
            raise DropRefused(
                f"the newest delivery of drop {drop!r} was refused, and what is stored is of a former one",
                do=f"mend the file and deliver it again (its reason.json is in {newest.path.parent})",
            )

    def of_content(self, drop: str, content: str) -> Delivery:
        """The delivery of this content of a drop; raises DropUnknown when there was none."""
        with opened(self.home) as db:
            row = db.execute("SELECT * FROM deliveries WHERE drop_key = ? AND content = ?", [drop, content]).fetchone()
        if row is None:
            raise DropUnknown(f"drop {drop!r} was never delivered with this content; deliver its file again")
        return self._delivery(row)

    def deliver(self, path: Path, content: str, *, name: str | None = None) -> Delivery:
        """Note a file as the newest delivery of its drop, waiting for a run.

        The same content of the same drop is the same delivery: it becomes the newest again. One that waits at the same
        path was never read: another file has taken its place.
        """
        name = name or path.name
        key = drop_key(name)
        name = name.encode("utf-8", "replace").decode()  # a name that is not UTF-8 cannot be noted as it is
        with opened(self.home) as db:
            db.execute("BEGIN IMMEDIATE")
            former = db.execute(
                "SELECT attempts FROM deliveries WHERE drop_key = ? AND content = ?", [key, content]
            ).fetchone()
            db.execute("DELETE FROM deliveries WHERE drop_key = ? AND content = ?", [key, content])
            db.execute(
                "UPDATE deliveries SET status = 'replaced', reason = ?, updated = ? "
                "WHERE drop_key = ? AND path = ? AND status = 'waiting'",
                ["another file took its place before it was read", time.time(), key, self._noted(path)],
            )
            db.execute(
                "INSERT INTO deliveries (drop_key, content, file_name, path, status, attempts, reason, updated) "
                "VALUES (?, ?, ?, ?, 'waiting', ?, '', ?)",
                [key, content, name, self._noted(path), (former["attempts"] if former else 0) + 1, time.time()],
            )
        return self.newest(key)

    def settle(self, delivery: Delivery, status: str, *, reason: str = "", path: Path | None = None) -> None:
        """Note what became of a delivery, and where its file is now."""
        with opened(self.home) as db:
            db.execute(
                "UPDATE deliveries SET status = ?, reason = ?, path = ?, updated = ? WHERE number = ?",
                [status, reason, self._noted(path or delivery.path), time.time(), delivery.number],
            )

    def _noted(self, path: Path) -> str:
        """A file's place as it is noted: from the home on, so that the home can be moved."""
        return str(path.relative_to(self.home.root) if path.is_relative_to(self.home.root) else path)

    def _place(self, noted: str) -> Path:
        """Where a file is that was noted, in full by former versions: below the home, wherever that is now."""
        path = self.home.root / noted
        if not os.path.isabs(noted) or path.is_relative_to(self.home.root):
            return path
        known = [number for number, part in enumerate(path.parts) if part in _FOLDERS]
        if not known:
            return path
        moved = self.home.root.joinpath(*path.parts[known[-1] :])
        return moved if moved.exists() or not path.exists() else path

    def _delivery(self, row: sqlite3.Row) -> Delivery:
        return Delivery(
            number=row["number"],
            drop=row["drop_key"],
            content=row["content"],
            file_name=row["file_name"],
            path=self._place(row["path"]),
            status=row["status"],
            attempts=row["attempts"],
            reason=row["reason"],
            updated=row["updated"],
        )

    def accept(self, delivery: Delivery) -> None:
        """Move the file of an accepted delivery to `archive/`."""
        target = self.home.archive / f"{delivery.drop}-{delivery.content[:12]}{_suffix(delivery.file_name)}"
        self._settle_at(target, delivery, "accepted")
        for refused in self.deliveries_of(delivery.drop):
            if refused.status == "refused" and refused.path.parent.parent == self.home.quarantine:
                self._resolve(refused, delivery)

    def _resolve(self, refused: Delivery, accepted: Delivery) -> None:
        """Move a refused file with its reason to `quarantine/resolved/`: a mended one was accepted."""
        folder = refused.path.parent
        target = self.home.resolved / folder.name
        told = folder / "reason.json"
        if told.exists():
            reason = json.loads(told.read_text(encoding="utf-8"))
            write_json(told, {**reason, "resolved": {"by": accepted.content, "when": now()}})
        self.home.resolved.mkdir(exist_ok=True)
        if target.exists():  # it was refused again since, for the same content
            shutil.rmtree(target)
        if folder.exists():
            os.replace(folder, target)
        self.settle(refused, "refused", reason=refused.reason, path=target / refused.path.name)

    def refuse(self, delivery: Delivery, refused: DropRefused) -> Path:
        """Move the file of a refused delivery to `quarantine/`, with its `reason.json`."""
        folder = self.home.quarantine / f"{delivery.drop}-{delivery.content[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{delivery.drop}{_suffix(delivery.file_name)}"
        reason = {"file": delivery.file_name, "drop": delivery.drop, **refused.as_dict(), "when": now()}
        write_json(folder / "reason.json", reason)
        self._settle_at(target, delivery, "refused", str(refused))
        return folder

    def _settle_at(self, target: Path, delivery: Delivery, status: str, reason: str = "") -> None:
        """Move a delivery's file and note what became of it; killed at any moment, it is done by doing it again.

        The file has both names until the ledger knows: whoever looks at the former one finds it there to run, or done.
        """
        source = delivery.path
        moves = source != target and source.exists()
        if moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_suffix(".part")
            part.unlink(missing_ok=True)  # of one that was killed
            try:
                os.link(source, part)
            except OSError:  # another disk, or one without links
                shutil.copy2(source, part)
            os.replace(part, target)
            part.unlink(missing_ok=True)  # a name is not replaced by another of the same file: both stay
        self.settle(delivery, status, reason=reason, path=target)
        if moves:
            source.unlink(missing_ok=True)


def hand_over(home: Home, ledger: Ledger, path: Path) -> Delivery:
    """Copy a file named on the command line into the home and note it as delivered.

    The file itself is never moved or changed. Raises DropRefused for what is not a regular file.
    """
    if not path.exists() and not path.is_symlink():
        raise DropRefused(f"there is no file {str(path)!r}", do="check the name")
    content = content_of(path)
    target = home.handed / f"{drop_key(path.name)}-{content[:12]}{_suffix(path.name)}"
    part = target.with_suffix(".part")
    shutil.copyfile(path, part)
    os.replace(part, target)
    return ledger.deliver(target, content, name=path.name)


def hand_over_shards(home: Home, ledger: Ledger, asked: str, executor: Executor) -> Delivery:
    """Note a folder, pattern or address of shards as delivered: its manifest, for the shards stay where they are.

    The executor reads every shard once, for its content. Raises DropRefused, StorageUnavailable.
    """
    urls = find_shards(asked)
    shards = shards_of(urls, executor.map(content_of_shard, urls))
    name = name_of(asked) + MANIFEST
    part = home.handed / f"{drop_key(name)}.part"
    write_manifest(part, shards)
    content = content_of(part)
    target = home.handed / f"{drop_key(name)}-{content[:12]}{MANIFEST}"
    os.replace(part, target)
    return ledger.deliver(target, content, name=name)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def now() -> str:
    """The time, in UTC, as files and tables of a home tell it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
