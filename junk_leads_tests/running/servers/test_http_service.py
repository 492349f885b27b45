"""Scores over HTTP: the same as the graph's to the bit, strict about what comes in, and following the champion."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from junk_leads.home import Home
from junk_leads.reference import lead_schema
from junk_leads.running.servers import http_service
from junk_leads.running.servers.http_service import REQUIRED, application
from junk_leads.stores.registry import Registry
from junk_leads_tests.conftest import DELIVERED, Trained, copied_home, free_port, run_command

pytestmark = pytest.mark.xdist_group("home")

CSV = {"content-type": "text/csv"}
LEAD = {name: DELIVERED[name] for name in REQUIRED}


@pytest.fixture(scope="module")
def client(trained: Trained) -> Iterator[TestClient]:
    with TestClient(application(trained.home, hosts=["testserver"])) as found:
        yield found


@pytest.fixture(scope="module")
def delivered(trained: Trained) -> list[dict[str, Any]]:
    with trained.new.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def scored(trained: Trained) -> dict[int, dict[str, Any]]:
    """What the graph said of each lead of `new`, by its number."""
    with (trained.home.predictions / "new.csv").open(newline="") as file:
        return {int(row["lead_number"]): row for row in csv.DictReader(file)}


def as_told(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "probability": float(row["probability"]),
        "predicted_flag": int(row["predicted_flag"]),
        "score": int(row["score"]),
        "grade": row["grade"],
        "reasons": row["reasons"],
    }


def test_leads_get_what_the_graph_gave_them_to_the_bit_however_they_are_sent(
    client: TestClient, trained: Trained, delivered: list[dict[str, Any]], scored: dict[int, dict[str, Any]]
) -> None:
    as_csv = client.post("/score", content=trained.new.read_bytes(), headers=CSV)
    as_json = client.post("/score", json={"leads": [{k: v or None for k, v in row.items()} for row in delivered]})
    assert as_csv.status_code == as_json.status_code == 200
    assert as_csv.json() == as_json.json()
    told = as_csv.json()
    assert told["model_version"] == "1"
    assert {number: told["predictions"][number - 1] for number in scored} == {
        number: as_told(row) for number, row in scored.items()
    }
    one = client.post("/score", json={"leads": [delivered[4]]}).json()["predictions"]
    assert one == told["predictions"][4:5]


def test_odd_texts_and_numbers_are_understood_as_the_graph_understands_them(trained: Trained, tmp_path: Path) -> None:
    odd = [
        {"city_mapped": " DELHI\u200b "},
        {"city_mapped": "Zürich"},
        {"city_mapped": "NA", "first_platform_c": " level0"},
        {"first_utm_medium_c": "LEVEL1", "first_utm_source_c": "=cmd"},
        {"total_leads_droppped": "1e2", "referred_lead": " 1 "},
        {"syllabus": "2147483647", "careers": "12.0", "city_mapped": ""},
    ]
    path, columns = tmp_path / "odd.csv", [c for c in lead_schema().names if c != "app_complete_flag"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({**LEAD, **row} for row in odd)
    home = copied_home(trained.home, tmp_path / "home")
    assert run_command("score", path, home=home).code == 0
    with (home.predictions / "odd.csv").open(newline="") as file:
        expected = [as_told(row) for row in csv.DictReader(file)]
    with TestClient(application(home)) as client:
        for sent in (
            {"content": path.read_bytes(), "headers": CSV},
            {"json": {"leads": [{**LEAD, **row} for row in odd]}},
        ):
            assert client.post("/score", **sent).json()["predictions"] == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lead", "line"),
    [
        ({"city_mapped": 3}, "lead 1: city_mapped is a number; expected text or null"),
        ({"city_mapped": ["x"]}, "lead 1: city_mapped is neither text, a number nor null"),
        ({"total_leads_droppped": True}, "lead 1: total_leads_droppped is neither text, a number nor null"),
        ({"total_leads_droppped": -1}, "lead 1: total_leads_droppped is negative"),
        ({"total_leads_droppped": 1.5}, "lead 1: total_leads_droppped is not a whole number"),
        ({"referred_lead": 2}, "lead 1: referred_lead is larger than 1"),
        ({"syllabus": "many"}, "lead 1: syllabus is not a number"),
        ({"created_date": None}, "lead 1: created_date is missing"),
        ({"created_date": "1.7.2021"}, "lead 1: created_date is not a date written as %Y-%m-%d %H:%M:%S"),
        ({"city_mapped": "x" * 1001}, "lead 1: city_mapped is longer than 1000 characters"),
    ],
)
def test_a_value_that_a_file_would_be_rejected_for_is_refused_naming_the_field(
    client: TestClient, lead: dict[str, Any], line: str
) -> None:
    refused = client.post("/score", json={"leads": [{**LEAD, **lead}]})
    assert (refused.status_code, refused.json()) == (422, {"error": line})


@pytest.mark.parametrize(
    ("sent", "code", "line"),
    [
        (
            {"json": {"leads": [{"created_date": "2021-07-01 00:00:00"}]}},
            422,
            "lead 1 lacks city_mapped, first_platform_c",
        ),
        ({"json": {"leads": [3]}}, 422, "lead 1 is no object of columns and values"),
        ({"json": {"lead": []}}, 422, "the body holds no list of leads"),
        ({"json": []}, 422, "the body holds no list of leads"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "the body is no JSON"),
        ({"content": b'{"leads": [NaN]}', "headers": {"content-type": "application/json"}}, 400, "the body is no JSON"),
        ({"content": b"[" * 99_999, "headers": {"content-type": "application/json"}}, 400, "the body is no JSON"),
        ({"content": b"a,b\n1,2\n", "headers": CSV}, 422, "the header lacks created_date, city_mapped"),
        ({"content": b"", "headers": CSV}, 422, "the header lacks created_date"),
        ({"content": b"a,a\n", "headers": CSV}, 422, "a column is in the header twice"),
        ({"content": b"\xff\xfe", "headers": CSV}, 400, "the body is no UTF-8 text"),
        (
            {"content": ",".join(REQUIRED).encode() + b"\n1,2\n", "headers": CSV},
            422,
            "lead 1 has 2 fields, the header has 7",
        ),
        ({"content": ",".join(REQUIRED).encode() + b'\n"1', "headers": CSV}, 400, "the body is no CSV"),
        ({"content": b"x", "headers": {"content-type": "text/html"}}, 415, "the content type is 'text/html'; send"),
        ({"content": b"x"}, 415, "the content type is ''; send application/json or text/csv"),
        ({"json": {"leads": [LEAD] * 10_001}}, 413, "10,001 leads are too many at once; send 10,000 at most"),
        ({"content": bytes(20_000_001), "headers": CSV}, 413, "the body is larger than 20,000,000 bytes"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_cannot_be_scored_is_refused_in_one_plain_line(
    client: TestClient, sent: dict[str, Any], code: int, line: str
) -> None:
    refused = client.post("/score", **sent)
    assert refused.status_code == code
    assert refused.json()["error"].startswith(line)
    assert "\n" not in refused.json()["error"]


def test_no_leads_are_no_predictions_and_unknown_columns_are_told(client: TestClient) -> None:
    assert client.post("/score", json={"leads": []}).json() == {"model_version": "1", "predictions": []}
    told = client.post("/score", json={"leads": [{**LEAD, "phone": "1", "app_complete_flag": 1}]}).json()
    assert told["ignored_columns"] == ["phone"]


def test_health_version_and_the_page_of_the_service(client: TestClient, trained: Trained) -> None:
    assert client.get("/health").json() == {"status": "ok", "model_version": "1"}
    told = client.get("/version").json()
    assert told["model_version"] == "1"
    assert told["encoder_id"] == Registry(trained.home).champion().encoder.id
    schema = client.get("/openapi.json").json()["paths"]["/score"]["post"]["requestBody"]["content"]
    assert schema["application/json"]["schema"]["properties"]["leads"]["items"]["required"] == list(REQUIRED)
    page = client.get("/docs").text
    assert all(f"<code>{name}</code>" in page for name in REQUIRED)
    assert "src=" not in page  # it asks the network for nothing
    assert client.get("/nowhere").json() == {"error": "Not Found"}
    assert client.get("/health", headers={"host": "evil.example.com"}).status_code == 400


def test_a_token_is_asked_for_where_one_is_set(trained: Trained) -> None:
    with TestClient(application(trained.home, token="secret")) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            refused = client.post("/score", json={"leads": [LEAD]}, headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"].startswith("a bearer token is needed")
        assert client.post("/score", json={"leads": [LEAD]}, headers={"authorization": "Bearer secret"}).is_success
        assert client.get("/health").is_success


def test_without_a_champion_the_service_says_so(home: Home) -> None:
    with TestClient(application(home)) as client:
        assert client.get("/health").status_code == 503
        assert "no model is in Production yet" in client.get("/health").json()["error"]
    refused = run_command("serve", home=home)
    assert refused.code == 1
    assert "no model is in Production yet" in refused.failures[0]


def test_a_taken_port_is_one_plain_line(trained: Trained) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = run_command("serve", "--port", taken.getsockname()[1], home=trained.home)
    assert refused.code == 1
    (line,) = refused.failures
    assert line.endswith("cannot be listened on (Address already in use); choose another with --port or --host")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_it_with_a_word_and_no_failure(trained: Trained, sign: signal.Signals) -> None:
    """As a script's background job, which has SIGINT ignored from its start."""
    ignored = "import runpy, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    serving = f"{ignored}runpy.run_module('junk_leads.cli', run_name='__main__')"
    command = [sys.executable, "-c", serving, "serve", "--port", str(free_port())]
    environment = {**os.environ, "JUNK_LEADS_HOME": str(trained.home.root)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("… scores http://127.0.0.1:")
        time.sleep(1)
        process.send_signal(sign)
        assert process.stderr.read() == "… stopped\n"
    assert process.returncode == 0


def test_a_promoted_champion_is_taken_while_requests_go_on(
    trained_home: Home, monkeypatch: pytest.MonkeyPatch, delivered: list[dict[str, Any]]
) -> None:
    assert run_command("train", "--rounds", 20, home=trained_home).code == 0
    monkeypatch.setattr(http_service, "LOOK_SECONDS", 0.05)
    answers: list[Any] = []
    stop = threading.Event()
    with TestClient(application(trained_home)) as client:

        def ask() -> None:
            while not stop.is_set():
                answers.append(client.post("/score", json={"leads": delivered[:3]}))

        asking = threading.Thread(target=ask)
        asking.start()
        promoted = run_command(
            *("models", "promote", "2", "--to", "production", "--force", "--why", "a test"), home=trained_home
        )
        deadline = time.monotonic() + 30
        while client.get("/version").json()["model_version"] != "2" and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()
        asking.join()
        assert client.get("/health").json()["model_version"] == "2"
    assert promoted.code == 0
    assert {answer.status_code for answer in answers} == {200}
    by_version = {json.dumps(a.json()["predictions"]) for a in answers if a.json()["model_version"] == "1"}
    assert len(by_version) == 1  # each answer is wholly of one version
    assert {answer.json()["model_version"] for answer in answers} <= {"1", "2"}
