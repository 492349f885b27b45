"""Telling somebody: a line in `alerts.log` and, where `JUNK_LEADS_WEBHOOK` is set, a POST that chat tools show.

What lives here: each event told once, with retries and a time limit, and never a lead's data. What does not: what is an
event (`defs/after_runs.py`, the sensor, the registry).
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.steps.pages.sentences import visible
from junk_leads.stores.ledger import opened

WEBHOOK = "JUNK_LEADS_WEBHOOK"
TRIES = 4
PAUSE_SECONDS = 0.5  # before the second try; twice as long before each one more
MOST_POSTED = 20  # alerts in one POST; of more, so many
POST_SECONDS = 3.0  # most that one try takes to connect, and to answer

_TABLE = "CREATE TABLE IF NOT EXISTS alerts (event TEXT PRIMARY KEY, kind TEXT, told_at REAL) WITHOUT ROWID"


class Alert(NamedTuple):
    """`kind` is what happened in a word or two, `event` what tells it from every other, `text` one plain line."""

    kind: str
    event: str
    text: str

    @property
    def line(self) -> str:
        """What is told."""
        return visible(" ".join(f"{self.kind}: {self.text}".split()))


def alert(home: Home, *alerts: Alert) -> list[Alert]:
    """Tell of events, each once; returns those that had not been told yet.

    Several at once are several lines and one POST, so that a webhook that does not answer is waited for once. It never
    raises for such a webhook: that is told in the log. Killed meanwhile, it may tell twice, not never.
    """
    if not alerts:
        return []
    with opened(home) as db:
        db.execute(_TABLE)
        row = "INSERT OR IGNORE INTO alerts VALUES (?, ?, ?)"
        told = [one for one in alerts if db.execute(row, [one.event, one.kind, time.time()]).rowcount]
        _log(home, [one.line for one in told])
    if told:
        try:
            url = webhook()
            problem = _post(url, {**_message(told), "home": str(home.root)}) if url else ""
        except JunkLeadsError as error:
            problem = str(error)
        if problem:
            of = "it" if len(told) == 1 else "them"
            _log(home, [f"the webhook was not told of {of} ({problem}); check {WEBHOOK}"])
    return told


def webhook() -> str:
    """The address that is told too, which is a secret; empty without one. Raises JunkLeadsError for what is none."""
    url = os.environ.get(WEBHOOK, "").strip()
    if url and not url.lower().startswith(("http://", "https://")):
        raise JunkLeadsError(f"{WEBHOOK} is no address of http or https; write one like https://HOST/PATH")
    return url


def _log(home: Home, lines: Sequence[str]) -> None:
    if lines:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with home.alerts.open("a", encoding="utf-8") as file:
            file.write("".join(f"{now}  {line}\n" for line in lines))


def _message(told: Sequence[Alert]) -> dict[str, str]:
    lines = [one.line for one in told[:MOST_POSTED]]
    if len(told) > 1:
        lines.insert(0, f"{len(told)} alerts")
    if len(told) > MOST_POSTED:
        lines.append(f"and {len(told) - MOST_POSTED} more: look into alerts.log")
    return {"text": "junk_leads: " + "\n".join(lines), "kind": ", ".join(dict.fromkeys(one.kind for one in told))}


def _post(url: str, content: dict[str, str]) -> str:
    """POST JSON, trying again for a while; returns what was wrong at last, or nothing."""
    problem = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            request = urllib.request.Request(url, json.dumps(content).encode(), {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=POST_SECONDS):
                return ""
        except urllib.error.HTTPError as error:
            problem = f"HTTP status {error.code}"
            error.close()
            if 400 <= error.code < 500 and error.code not in (408, 429):
                break  # it will not be otherwise the next time
        except (OSError, ValueError) as error:
            problem = type(error).__name__
    return problem
