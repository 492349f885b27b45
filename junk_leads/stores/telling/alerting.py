"""Telling somebody: a line in `alerts.log` and, where `JUNK_LEADS_WEBHOOK` is set, a POST that chat tools show.

What lives here: each event told once, with retries and a time limit, and never a lead's data. What does not: what is an
event (`defs/after_runs.py`, the sensor, the registry).
"""

import json
import os
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

from junk_leads.home import Home
from junk_leads.stores.ledger import opened

WEBHOOK = "JUNK_LEADS_WEBHOOK"
TRIES = 4
PAUSE_SECONDS = 0.5  # before the second try; twice as long before each one more
POST_SECONDS = 3.0  # most that one try takes to connect, and to answer

_TABLE = "CREATE TABLE IF NOT EXISTS alerts (event TEXT PRIMARY KEY, kind TEXT, told_at REAL) WITHOUT ROWID"


def alert(home: Home, kind: str, event: str, text: str) -> bool:
    """Tell of an event, once; returns whether it had not been told yet.

    `kind` is what happened in a word or two, `event` what tells it from every other, `text` one plain line. It never
    raises for a webhook that does not answer: that is told in the log. Killed meanwhile, it may tell twice, not never.
    """
    line = " ".join(f"{kind}: {text}".split())
    with opened(home) as db:
        db.execute(_TABLE)
        if not db.execute("INSERT OR IGNORE INTO alerts VALUES (?, ?, ?)", [event, kind, time.time()]).rowcount:
            return False
        _log(home, line)
    url = os.environ.get(WEBHOOK)
    if url:
        problem = _post(url, {"text": f"junk_leads: {line}", "kind": kind, "home": str(home.root)})
        if problem:
            _log(home, f"the webhook was not told of it ({problem}); check {WEBHOOK}")
    return True


def _log(home: Home, line: str) -> None:
    with home.alerts.open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now(UTC).isoformat(timespec='seconds')}  {line}\n")


def _post(url: str, content: dict[str, str]) -> str:
    """POST JSON, trying again for a while; returns what was wrong at last, or nothing. The address is a secret."""
    if not url.lower().startswith(("http://", "https://")):
        return "it is no address of http or https"
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
