"""Backups: a snapshot of a whole home while it is in use, and a home made of one.

What lives here: what is copied in which order, the manifest that a backup is checked against, and restoring. What does
not: moving a home, which needs nothing (its stores note places from the home on), and comparing what is in it
(`doctor.py`).

The order makes the snapshot one that a killed process could have left, which running again repairs. No run writes to
the warehouse while it, then the ledger, then the other databases are copied: a delivery that the ledger has as accepted
is in the warehouse. Other files are written once, before a database names them, and are copied after.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from junk_leads.capacity import told
from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.stores.ledger import Ledger, now, write_json
from junk_leads.stores.warehouse import connect

MANIFEST = "backup.json"
_SQLITE = b"SQLite format 3\0"
_BESIDE = ("-wal", "-shm", "-journal", ".wal", ".lock", ".part", "servers.log")  # under way: of no use elsewhere


@dataclass(frozen=True)
class Backup:
    """A backup that was made or restored: where, and how many files and bytes it has."""

    folder: Path
    files: int
    size: int


def back_up(home: Home, folder: Path) -> Backup:
    """Copy a home into a folder that is new or empty, whole or not at all; runs may go on meanwhile.

    Raises JunkLeadsError when the folder holds something, lies in the home, or does not have the room.
    """
    folder = folder.absolute()
    if folder.is_relative_to(home.root):
        raise JunkLeadsError(f"{folder} lies in the home that is to be backed up; name a folder outside {home.root}")
    _refuse_holding(folder, "name a new folder for each backup")
    if not home.ledger.exists():
        raise JunkLeadsError(f"there is nothing to back up in {home.root}; is JUNK_LEADS_HOME the right folder?")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # whoever made it was killed
    try:
        part.mkdir(parents=True)
        _refuse_without_room(home, part)
        _copy_databases(home, part)
        _copy_files(home, part)
        _copy_moved(home, part)
        files = {path.relative_to(part).as_posix(): _sha256(path) for path in _files(part)}
        size = _size_of(part)
        write_json(part / MANIFEST, {"made_at": now(), "home": str(home.root), "files": files})
        if folder.exists():
            folder.rmdir()
        os.replace(part, folder)
    except OSError as error:
        raise JunkLeadsError(
            f"the backup {folder} cannot be written ({error.strerror or error}); nothing is left of it: check the disk "
            "and rights"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Backup(folder, len(files), size)


def restore(home: Home, folder: Path) -> Backup:
    """Make a home of a backup, whole or not at all, where there is none; every file is checked first.

    Raises JunkLeadsError when the backup is damaged or none, or the home holds something.
    """
    manifest = verified(folder)
    _refuse_holding(home.root, "name an empty folder in JUNK_LEADS_HOME, or move away what is there")
    part = home.root.with_name(f".{home.root.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for name in manifest["files"]:
            target = part / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, target)
        shutil.rmtree(home.root, ignore_errors=True)  # empty folders
        size = _size_of(part)
        os.replace(part, home.root)
    except OSError as error:
        raise JunkLeadsError(
            f"{home.root} cannot be written ({error.strerror or error}); nothing is left of it: check the disk and "
            "rights, and restore again"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    home.prepare()
    return Backup(folder, len(manifest["files"]), size)


def verified(folder: Path) -> dict[str, Any]:
    """The manifest of a backup whose files are all there and unchanged; raises JunkLeadsError naming what is not."""
    do = "use another backup"
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = dict(manifest["files"].items())
    except FileNotFoundError as error:
        raise JunkLeadsError(f"{folder} is no backup: it has no {MANIFEST}; name a folder made by backup") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise JunkLeadsError(f"the backup {folder} is damaged: its {MANIFEST} cannot be read; {do}") from error
    for name, expected in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise JunkLeadsError(f"the backup {folder} names a file outside it ({name}); {do}")
        try:
            found = _sha256(path)
        except OSError as error:
            raise JunkLeadsError(f"the backup {folder} is damaged: {name} cannot be read; {do}") from error
        if found != expected:
            raise JunkLeadsError(f"the backup {folder} is damaged: {name} is not what was backed up; {do}")
    return manifest


def _refuse_holding(folder: Path, do: str) -> None:
    if folder.exists() and (not folder.is_dir() or any(path.name != "dagster.yaml" for path in _files(folder))):
        raise JunkLeadsError(f"{folder} holds something already; nothing was changed: {do}")


def _refuse_without_room(home: Home, folder: Path) -> None:
    needed = _size_of(home.root)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise JunkLeadsError(
            f"the disk of {folder.parent} has {told(free)} free, the backup needs {told(needed)}; nothing was written: "
            "free some space, or name a folder on another disk"
        )


def _copy_databases(home: Home, target: Path) -> None:
    """Copy what is written to again and again, while nobody writes to the warehouse."""
    if not home.warehouse.exists():
        _copy_sqlite(home, target)
        return
    with connect(home.warehouse) as con:
        con.execute("CHECKPOINT")
        # by another process: this one would let go of DuckDB's lock as it closes the file
        copied = subprocess.run(
            ["cp", str(home.warehouse), str(target / home.warehouse.name)], capture_output=True, text=True
        )
        if copied.returncode:
            raise OSError(copied.stderr.strip().rpartition(": ")[2] or "the warehouse cannot be copied")
        _copy_sqlite(home, target)


def _copy_sqlite(home: Home, target: Path) -> None:
    others = [path for path in _files(home.root) if path != home.ledger and _is_sqlite(path)]
    for path in (home.ledger, *others):
        copy = target / path.relative_to(home.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(path, timeout=60)) as db, closing(sqlite3.connect(copy)) as other:
                db.backup(other)
        except sqlite3.Error as error:
            raise JunkLeadsError(
                f"{path} cannot be backed up ({error}); nothing is left of the backup: `junk-leads doctor` says what "
                "is wrong with it"
            ) from error


def _copy_files(home: Home, target: Path) -> None:
    for path in _files(home.root):
        copy = target / path.relative_to(home.root)
        if copy.exists() or path == home.warehouse:
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, copy)
        except FileNotFoundError:
            continue  # moved on meanwhile


def _copy_moved(home: Home, target: Path) -> None:
    """Copy the files of deliveries that moved on while files were copied, to where the copied ledger has them."""
    copied = Home(target)
    current = {(d.drop, d.content): d.path for d in Ledger(home).deliveries()}
    for delivery in Ledger(copied).deliveries():
        there = current.get((delivery.drop, delivery.content))
        if not delivery.path.exists() and delivery.path.is_relative_to(target) and there is not None and there.exists():
            delivery.path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(there, delivery.path)


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder that are of use elsewhere; links and what is no file are left out."""
    for root, _, names in os.walk(folder):
        for path in (Path(root) / name for name in sorted(names)):
            if not path.name.endswith(_BESIDE) and path.is_file() and not path.is_symlink():
                yield path


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def _size_of(folder: Path) -> int:
    """The bytes of the files below a folder; what moves on meanwhile does not count."""
    size = 0
    for path in _files(folder):
        with suppress(OSError):
            size += path.stat().st_size
    return size


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
