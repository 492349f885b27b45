"""How Dagster fares while it is served, asked of its UI as a person's browser asks it.

What lives here: whether it reaches its definitions, and which of its daemons and sensors fail again and again; Dagster
tells of it in its log and on pages that nobody has open. What does not: what is done about it (`serving.py`).
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from junk_leads.errors import JunkLeadsError

DEFINITIONS = "definitions"
_LOOKED_EVERY = 5.0  # seconds between two looks at how Dagster fares
_LOOKS = 2  # in a row that find something wrong, after which it is
_MOST_RESTARTS = 3  # without having reached the definitions in between
_ERRORS = 3  # of a daemon, in five minutes, or of a sensor in a row: one may come and go
_NO_ANSWER = (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError)
_HEALTH = """query ($ticks: Int!) {
  instance {daemonHealth {allDaemonStatuses {daemonType lastHeartbeatErrors {...said}}}}
  workspaceOrError {... on Workspace {locationEntries {loadStatus locationOrLoadError {
    __typename
    ... on PythonError {message}
    ... on RepositoryLocation {repositories {sensors {
      name sensorState {ticks(limit: $ticks) {timestamp status error {...said}}}
    }}}
  }}}}
}
fragment said on PythonError {message errorChain {error {message}}}"""


class Health:
    """How Dagster fares, asked of its UI every few seconds: whether it reaches its definitions, and what of it fails.

    When the process that holds the definitions was killed, or ended because the machine had slept, Dagster does not
    start it again; and that its daemons fail (a file of theirs is damaged, or gone) it tells in its log alone.
    """

    def __init__(self, host: str, port: int, log: Path) -> None:
        self._host, self._port, self._log = host, port, log
        self._since, self._looked, self._restarts = time.time(), time.monotonic(), 0
        self._seen: dict[str, int] = {}  # what is wrong, and at how many looks in a row it was

    def look(self) -> dict[str, str]:
        """What is wrong since a few looks, and why: each once while it lasts, the definitions until they are reached.

        Raises JunkLeadsError when Dagster was started again for their sake too often.
        """
        if time.monotonic() - self._looked < _LOOKED_EVERY:
            return {}
        self._looked, wrong = time.monotonic(), self._asked()
        self._seen = {part: self._seen.get(part, 0) + 1 for part in wrong}
        found = {part: why for part, why in wrong.items() if self._seen[part] == _LOOKS}
        if DEFINITIONS not in wrong:
            self._restarts = 0
        elif DEFINITIONS in found:
            if self._restarts == _MOST_RESTARTS:
                raise JunkLeadsError(
                    f"Dagster does not reach the definitions, although it was started again {self._restarts} times "
                    f"({wrong[DEFINITIONS]}); look into {self._log}"
                )
            self._restarts, self._since = self._restarts + 1, time.time()
            del self._seen[DEFINITIONS]
        return found

    def _asked(self) -> dict[str, str]:
        """What is wrong, and why in one line each; nothing where nobody can tell."""
        wrong = {}
        with closing(HTTPConnection(self._host, self._port, timeout=10)) as ui, suppress(*_NO_ANSWER):
            asked = {"query": _HEALTH, "variables": {"ticks": _ERRORS + 1}}  # one may be under way
            ui.request("POST", "/graphql", json.dumps(asked), {"Content-Type": "application/json"})
            told = json.load(ui.getresponse())
            for error in told.get("errors", [])[:1]:
                wrong["UI"] = _cause(error)
            for entry in told["data"]["workspaceOrError"]["locationEntries"]:
                there = entry["locationOrLoadError"] or {}
                if entry["loadStatus"] == "LOADED" and there["__typename"] == "PythonError":
                    return {DEFINITIONS: _in_a_line(there["message"])}  # for want of them, all fails
                for sensor in (sensor for each in there.get("repositories", []) for sensor in each["sensors"]):
                    wrong |= self._failing(sensor["name"], sensor["sensorState"]["ticks"])
            for daemon in told["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]:
                if len(daemon["lastHeartbeatErrors"]) >= _ERRORS:
                    name = daemon["daemonType"].removesuffix("_DAEMON").replace("_", " ").lower()
                    wrong[f"{name} daemon"] = _cause(daemon["lastHeartbeatErrors"][0])
        return wrong

    def _failing(self, sensor: str, ticks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Why a sensor fails, of its last ticks, newest first: when all did since Dagster was started."""
        ended = [tick for tick in ticks if tick["status"] != "STARTED" and tick["timestamp"] >= self._since][:_ERRORS]
        if len(ended) == _ERRORS and all(tick["status"] == "FAILURE" for tick in ended):
            return {sensor: _cause(ended[0]["error"])}
        return {}


def _cause(error: Mapping[str, Any]) -> str:
    """What this package said of an error, otherwise what it came from in the end."""
    chain = [error["message"], *(link["error"]["message"] for link in error.get("errorChain", []))]
    for message in chain:
        if message.startswith("junk_leads."):
            return _in_a_line(message.partition(": ")[2])
    return _in_a_line(chain[-1].strip().partition("\n")[0])


def _in_a_line(message: str) -> str:
    return " ".join(message.split())[:300]
