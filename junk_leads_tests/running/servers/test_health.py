"""How Dagster fares is told once while it lasts, and one error that came and went is not told."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from junk_leads.errors import JunkLeadsError
from junk_leads.running.servers import health
from junk_leads.running.servers.health import Health
from junk_leads_tests.conftest import free_port


def test_what_dagster_is_asked_is_a_question_that_it_knows() -> None:
    from dagster_graphql.schema import create_schema
    from graphql import parse, validate

    assert validate(create_schema().graphql_schema, parse(health._HEALTH)) == []


REACHED = {"loadStatus": "LOADED", "locationOrLoadError": {"__typename": "RepositoryLocation"}}
OUT_OF_REACH = {
    "loadStatus": "LOADED",
    "locationOrLoadError": {"__typename": "PythonError", "message": "Could not reach\nuser code server.\n"},
}


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[bytes]]]:
    """Looks at a server that answers what the list holds last; every look is due."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[-1])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    answers = [b""]
    monkeypatch.setattr(health, "_LOOKED_EVERY", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Health("127.0.0.1", server.server_port, Path("servers.log")), answers
        server.shutdown()


def answer(*entries: object, **errors: int) -> bytes:
    daemons = [
        {"daemonType": name, "lastHeartbeatErrors": [{"message": "gone\n[SQL: SELECT 1]"}] * count}
        for name, count in errors.items()
    ]
    told = {
        "workspaceOrError": {"locationEntries": entries},
        "instance": {"daemonHealth": {"allDaemonStatuses": daemons}},
    }
    return json.dumps({"data": told}).encode()


LOST = {"definitions": "Could not reach user code server."}


def test_definitions_are_lost_when_they_are_out_of_reach_twice_in_a_row(looking: tuple[Any, list[bytes]]) -> None:
    looks, answers = looking
    told = []
    for entries in ((REACHED,), (OUT_OF_REACH,), (REACHED,), (OUT_OF_REACH,), (OUT_OF_REACH,), (REACHED,)):
        answers.append(answer(*entries, SENSOR=5 * (OUT_OF_REACH in entries)))  # for want of them
        told.append(looks.look())
    assert told == [{}, {}, {}, {}, LOST, {}]


@pytest.mark.parametrize(
    "told",
    [
        answer(),
        answer({**OUT_OF_REACH, "loadStatus": "LOADING"}),
        answer({"loadStatus": "LOADING", "locationOrLoadError": None}),
        answer(REACHED, SENSOR=2),  # errors that came and went
        b"no JSON",
        b'{"data": null}',
        b"[]",
    ],
)
def test_what_cannot_be_told_is_not_wrong(told: bytes, looking: tuple[Any, list[bytes]]) -> None:
    looks, answers = looking
    answers.append(told)
    assert [looks.look() for _ in range(3)] == [{}] * 3


def test_where_nobody_answers_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_LOOKED_EVERY", 0.0)
    looks = Health("127.0.0.1", free_port(), Path("servers.log"))
    assert [looks.look() for _ in range(3)] == [{}] * 3


def test_what_starting_again_does_not_mend_is_told_after_three_times(looking: tuple[Any, list[bytes]]) -> None:
    looks, answers = looking
    answers.append(answer(REACHED, OUT_OF_REACH))
    assert [looks.look() for _ in range(6)] == [{}, LOST] * 3
    assert looks.look() == {}
    with pytest.raises(JunkLeadsError) as refused:
        looks.look()
    assert str(refused.value) == (
        "Dagster does not reach the definitions, although it was started again 3 times (Could not reach user code "
        "server.); look into servers.log"
    )


def test_what_fails_is_told_once_until_it_has_ceased(looking: tuple[Any, list[bytes]]) -> None:
    looks, answers = looking
    told = []
    broken = b'{"data": null, "errors": [{"message": "(sqlite3.OperationalError) unable to open\\n(Background)"}]}'
    fine, one, both = answer(REACHED), answer(SENSOR=3), answer(SENSOR=5, FRESHNESS_DAEMON=4)
    for said in (one, one, both, both, both, fine, both, both, broken, broken, broken):
        answers.append(said)
        told.append(looks.look())
    sensor, freshness = {"sensor daemon": "gone"}, {"freshness daemon": "gone"}
    ui = {"UI": "(sqlite3.OperationalError) unable to open"}
    assert told == [{}, sensor, {}, freshness, {}, {}, {}, {**sensor, **freshness}, {}, ui, {}]


def ticks(*states: str, at: float = 2e9) -> dict[str, Any]:
    """An entry whose sensor has these ticks, newest first."""
    said = "junk_leads.errors.JunkLeadsError: the ledger cannot be used\n"
    chain = [{"error": {"message": said}}, {"error": {"message": "sqlite3.DatabaseError: no database\n"}}]
    error = {"message": "dagster.SensorExecutionError: Error occurred\n", "errorChain": chain}
    told = [{"timestamp": at, "status": state, "error": error if state == "FAILURE" else None} for state in states]
    sensors = [{"name": "incoming_sensor", "sensorState": {"ticks": told}}]
    return {
        **REACHED,
        "locationOrLoadError": {"__typename": "RepositoryLocation", "repositories": [{"sensors": sensors}]},
    }


@pytest.mark.parametrize(
    ("entry", "fails"),
    [
        (ticks(*["FAILURE"] * 4), True),
        (ticks("STARTED", *["FAILURE"] * 3), True),
        (ticks("STARTED", "FAILURE", "FAILURE"), False),
        (ticks("FAILURE", "FAILURE", "SKIPPED", "FAILURE"), False),
        (ticks(*["FAILURE"] * 4, at=1e9), False),  # before this UI was started
        (ticks(), False),
    ],
)
def test_a_sensor_whose_last_three_ticks_failed_fails(
    entry: dict[str, Any], fails: bool, looking: tuple[Any, list[bytes]]
) -> None:
    looks, answers = looking
    answers.append(answer(entry))
    told = [looks.look() for _ in range(3)]
    assert told == [{}, {"incoming_sensor": "the ledger cannot be used"} if fails else {}, {}]


def test_it_is_looked_every_few_seconds(looking: tuple[Any, list[bytes]], monkeypatch: Any) -> None:
    looks, answers = looking
    answers.append(answer(OUT_OF_REACH))
    monkeypatch.setattr(health, "_LOOKED_EVERY", 3600.0)
    assert [looks.look() for _ in range(3)] == [{}] * 3
    monkeypatch.setattr(health, "_LOOKED_EVERY", 0.0)
    assert [looks.look() for _ in range(2)] == [{}, LOST]
