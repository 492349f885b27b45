"""What every check found of every drop, refused ones too: so that one drop's pass does not hide another's warning.

What lives here: the table of findings, in the ledger's file. What does not: the checks (`defs/checks.py`), and how
their findings are told (`steps/pages/findings.py`).
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from junk_leads.home import Home
from junk_leads.stores.ledger import opened

_TABLE = """
CREATE TABLE IF NOT EXISTS findings (
    drop_key    TEXT NOT NULL,         -- '' for what is about no single drop
    content     TEXT NOT NULL,         -- SHA-256 of the delivery
    asset       TEXT NOT NULL,
    check_name  TEXT NOT NULL,
    passed      INTEGER NOT NULL,
    severity    TEXT NOT NULL,         -- ERROR, WARN; of a check that passed: that of its failure
    refuses     INTEGER NOT NULL,      -- whether it stopped the asset from being stored
    found       TEXT NOT NULL,
    expected    TEXT NOT NULL,
    psi         TEXT NOT NULL,         -- JSON: by column, where a check measured it; else ''
    run_id      TEXT NOT NULL,
    found_at    REAL NOT NULL,         -- seconds since 1970
    PRIMARY KEY (drop_key, content, asset, check_name)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Finding:
    """What one check found of one delivery, and what was expected."""

    drop: str
    content: str
    asset: str
    check: str
    passed: bool
    severity: str
    refuses: bool
    found: str
    expected: str
    psi: Mapping[str, float] = field(default_factory=dict)
    run_id: str = ""
    found_at: float = 0.0

    @property
    def state(self) -> str:
        """`passed`, `warns`, `failed` (an error that stops nothing) or `refuses`."""
        if self.passed:
            return "passed"
        return "refuses" if self.refuses else "warns" if self.severity == "WARN" else "failed"


class Findings:
    """The findings of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with opened(self.home) as db:
            db.execute(_TABLE)
            yield db

    def note(self, findings: Sequence[Finding]) -> None:
        """Keep findings; the same check of the same delivery is kept once, the last time."""
        now = time.time()
        with self._open() as db:
            db.executemany(
                "INSERT OR REPLACE INTO findings VALUES (:drop, :content, :asset, :check, :passed, :severity, "
                ":refuses, :found, :expected, :psi, :run_id, :found_at)",
                [
                    {
                        **asdict(finding),
                        "psi": json.dumps(finding.psi) if finding.psi else "",
                        "found_at": finding.found_at or now,
                    }
                    for finding in findings
                ],
            )

    def of(self, newest: Mapping[str, str]) -> list[Finding]:
        """The findings of deliveries, given as drop and content, by drop and in the order they were found."""
        with self._open() as db:
            if len(newest) == 1:  # by the key's index
                rows = db.execute(
                    "SELECT * FROM findings WHERE drop_key = ? AND content = ?", next(iter(newest.items()))
                )
            else:
                rows = db.execute("SELECT * FROM findings")
            found = [_finding(row) for row in rows]
        order = {drop: place for place, drop in enumerate(newest)}
        kept = [finding for finding in found if newest.get(finding.drop) == finding.content]
        return sorted(kept, key=lambda f: (order[f.drop], f.found_at, f.asset, f.passed, f.check))

    def unusual(self) -> list[Finding]:
        """Every finding that did not pass, or has measured how far shares moved, oldest first."""
        told = "SELECT * FROM findings WHERE NOT passed OR psi <> '' ORDER BY found_at"
        with self._open() as db:
            return [_finding(row) for row in db.execute(told)]


def _finding(row: sqlite3.Row) -> Finding:
    return Finding(
        drop=row["drop_key"],
        content=row["content"],
        asset=row["asset"],
        check=row["check_name"],
        passed=bool(row["passed"]),
        severity=row["severity"],
        refuses=bool(row["refuses"]),
        found=row["found"],
        expected=row["expected"],
        psi=json.loads(row["psi"] or "{}"),
        run_id=row["run_id"],
        found_at=row["found_at"],
    )
