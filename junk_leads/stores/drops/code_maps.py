"""Code maps that people accepted, and drops that they scored although these could not be trusted.

What lives here: both tables of the ledger's file, and a map as a reviewable CSV. What does not: proposing and applying
a map (`steps/watching/codes.py`), and who asks (`defs/assets/codes.py`).
"""

import csv
import getpass
import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import duckdb

from junk_leads.errors import CodesRefused
from junk_leads.home import Home
from junk_leads.steps.leads.cleaning import level_key
from junk_leads.steps.scoring.scored_file import FORMULA_STARTS, inert_cell
from junk_leads.steps.watching.codes import Proposal
from junk_leads.steps.watching.profiles import CODES, ONE_OF_THE_RARE
from junk_leads.stores.ledger import now, opened
from junk_leads.stores.making import write_whole

_HEADER = ("column", "delivered", "becomes", "leads", "because", "confidence", "leads_behind", "shared")
_NEEDED = _HEADER[:3]
_LARGEST_FILE = 5_000_000  # bytes
_TABLES = """
CREATE TABLE IF NOT EXISTS code_maps (
    number  INTEGER PRIMARY KEY,  -- order of acceptance
    id      TEXT NOT NULL,        -- a hash of the codes
    drop_key TEXT NOT NULL,       -- the drop it was accepted for
    source  TEXT NOT NULL,        -- a pattern of file names it holds for besides; empty for the drop alone
    codes   TEXT NOT NULL,        -- JSON: column -> delivered code -> the code that the model knows
    who TEXT NOT NULL, why TEXT NOT NULL, accepted TEXT NOT NULL,
    undone  TEXT NOT NULL         -- when, and by whom; empty while it holds
);
CREATE TABLE IF NOT EXISTS accepted_drifts (
    number  INTEGER PRIMARY KEY,
    drop_key TEXT NOT NULL, content TEXT NOT NULL, model_version TEXT NOT NULL,
    reason  TEXT NOT NULL,        -- why the drop was not to be trusted
    who TEXT NOT NULL, why TEXT NOT NULL, accepted TEXT NOT NULL, run_id TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class CodeMap:
    """An accepted map: for one drop, or for all drops whose file name matches `source`."""

    number: int
    id: str
    drop: str
    source: str
    codes: Mapping[str, Mapping[str, str]]
    who: str
    why: str
    accepted: str
    undone: str

    @property
    def holds(self) -> bool:
        """Whether it was not taken back."""
        return not self.undone

    def as_dict(self) -> dict[str, Any]:
        """The map as commands print it."""
        return {**asdict(self), "codes": {column: dict(pairs) for column, pairs in self.codes.items()}}


class CodeMaps:
    """The accepted maps of one home; every method is a transaction of its own."""

    def __init__(self, home: Home) -> None:
        self.home = home
        with opened(self.home) as db:
            db.executescript(_TABLES)

    def all(self) -> list[CodeMap]:
        """Every map, oldest first, those that were taken back too."""
        with opened(self.home) as db:
            return [_code_map(row) for row in db.execute("SELECT * FROM code_maps ORDER BY number")]

    def holding(self, drop: str, file_name: str) -> CodeMap | None:
        """The map that holds for a drop: the newest of its own, else the newest of its source; None without one."""
        maps = [found for found in reversed(self.all()) if found.holds]
        own = (found for found in maps if found.drop == drop and not found.source)
        of_source = (found for found in maps if found.source and fnmatchcase(file_name, found.source))
        return next(own, None) or next(of_source, None)

    def accept(
        self,
        drop: str,
        file_name: str,
        codes: Mapping[str, Mapping[str, str]],
        *,
        source: str = "",
        by: str = "",
        why: str = "",
    ) -> CodeMap:
        """Store a map for a drop or, with a pattern of file names (`partner_*.csv`), for all that match it.

        Raises CodesRefused for an empty map, or a pattern that the drop's own file does not match.
        """
        if not any(codes.values()):
            raise CodesRefused("the map renames no code; there is nothing to accept")
        pattern = source if not source or set(source) & set("*?[") else f"{source}*"
        if pattern and not fnmatchcase(file_name, pattern):
            raise CodesRefused(
                f"the file name {file_name!r} of drop {drop!r} does not match the source {pattern!r}; "
                "name a part that it begins with, or a pattern such as 'partner_*.csv'"
            )
        text = json.dumps({column: dict(pairs) for column, pairs in codes.items()}, sort_keys=True, ensure_ascii=False)
        found = hashlib.sha256(text.encode()).hexdigest()[:12]
        with opened(self.home) as db:
            number = db.execute(
                "INSERT INTO code_maps (id, drop_key, source, codes, who, why, accepted, undone) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, '')",
                [found, drop, pattern, text, by or _who(), why, now()],
            ).lastrowid
        return next(one for one in self.all() if one.number == number)

    def undo(self, drop: str, file_name: str, *, by: str = "") -> CodeMap:
        """Take back the map that holds for a drop; returns it. Raises CodesRefused when none does."""
        held = self.holding(drop, file_name)
        if held is None:
            raise CodesRefused(f"no code map holds for drop {drop!r}; look at `junk-leads codes`")
        with opened(self.home) as db:
            db.execute("UPDATE code_maps SET undone = ? WHERE number = ?", [f"{now()} by {by or _who()}", held.number])
        return held

    def note_drift(
        self, drop: str, content: str, *, version: str, reason: str, why: str, by: str = "", run_id: str = ""
    ) -> str:
        """Note that somebody scores a drop although it cannot be trusted; returns who."""
        who = by or _who()
        with opened(self.home) as db:
            db.execute(
                "INSERT INTO accepted_drifts (drop_key, content, model_version, reason, who, why, accepted, run_id) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [drop, content, version, reason, who, why, now(), run_id],
            )
        return who

    def accepted_drifts(self) -> list[dict[str, Any]]:
        """The drops that were scored all the same, oldest first: which, by which version, why not to be trusted."""
        with opened(self.home) as db:
            return [dict(row) for row in db.execute("SELECT * FROM accepted_drifts ORDER BY number")]


def write_codes(path: Path, proposal: Proposal) -> None:
    """Write a proposal as the CSV that people review and may change."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    for c in proposal.renamed:
        confidence, shared = f"{c.confidence:.3f}", "yes" if c.shared else ""
        cells = (c.column, c.delivered, c.becomes, c.leads, c.because, confidence, c.leads_behind, shared)
        writer.writerow([inert_cell(str(cell)) for cell in cells])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.getvalue())


def read_codes(path: Path) -> dict[str, dict[str, str]]:
    """The map in a reviewed CSV: by column, delivered code -> code. A code with nothing under `becomes` stays as it is.

    Raises CodesRefused for what is no such CSV, a column that has no codes, a code that is there twice, and for two
    codes that become one where `shared` does not say yes.
    """
    named = path.name
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise CodesRefused(f"{named} is too large for a code map ({path.stat().st_size:,} bytes)")
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), strict=True)
        rows = list(reader)
    except OSError as error:
        raise CodesRefused(f"the code map {str(path)!r} cannot be read ({error.strerror}); check the name") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CodesRefused(
            f"{named} is not a CSV in UTF-8; begin with the one of `junk-leads codes propose`"
        ) from error
    missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
    if missing:
        raise CodesRefused(
            f"{named} is no code map: it lacks the column {', '.join(missing)}; "
            f"begin with the one of `junk-leads codes propose`"
        )
    codes: dict[str, dict[str, str]] = {}
    told: dict[tuple[str, str], int] = {}
    sharing: set[tuple[str, str]] = set()
    for line, row in enumerate(rows, start=2):
        column = (row["column"] or "").strip()
        if column not in CODES:
            raise CodesRefused(f"line {line} of {named} names no column of codes; they are {', '.join(CODES)}")
        delivered, becomes = (_level(row[name] or "") for name in ("delivered", "becomes"))
        if not delivered:
            raise CodesRefused(f"line {line} of {named} has nothing under delivered; name the code that is renamed")
        if (column, delivered) in told:
            first = told[column, delivered]
            raise CodesRefused(f"line {line} of {named} maps a code of {column} again that line {first} maps; keep one")
        told[column, delivered] = line
        becomes = becomes or delivered
        if becomes != ONE_OF_THE_RARE:
            shared = (row.get("shared") or "").strip().lower() in ("yes", "true", "1")
            if (column, becomes) in sharing and not shared:
                raise CodesRefused(
                    f"line {line} of {named} makes a code of {column} the same as another line does; "
                    "if two codes are one now, write yes under shared"
                )
            sharing.add((column, becomes))
        if becomes != delivered:
            codes.setdefault(column, {})[delivered] = becomes
    return codes


def _level(text: str) -> str:
    """A level as tables hold it; a leading apostrophe before what a spreadsheet would run is not part of it."""
    if len(text) > 1 and text[0] == "'" and text[1] in FORMULA_STARTS:
        text = text[1:]
    with duckdb.connect() as con:
        found = con.execute(f"SELECT {level_key('text')} FROM (SELECT ?::VARCHAR AS text)", [text]).fetchall()[0][0]
    return str(found or "")


def _code_map(row: sqlite3.Row) -> CodeMap:
    return CodeMap(
        number=row["number"],
        id=row["id"],
        drop=row["drop_key"],
        source=row["source"],
        codes=json.loads(row["codes"]),
        who=row["who"],
        why=row["why"],
        accepted=row["accepted"],
        undone=row["undone"],
    )


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"
