"""Alerts: a line in the log and a POST where a webhook is set, once each, against a real server that fails at first."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from junk_leads.home import Home
from junk_leads.stores.telling import alerting
from junk_leads.stores.telling.alerting import MOST_POSTED, TRIES, WEBHOOK, Alert, alert

ONE = Alert("k", "e", "text")


@contextmanager
def listening(answers: Callable[[int], int | None]) -> Iterator[tuple[str, list[Any]]]:
    """A server on loopback: its address, and what it was told; `answers` has the status of the nth request."""
    told: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.append((self.headers["content-type"], body))
            status = answers(len(told))
            if status is None:
                time.sleep(1)  # longer than the test lets it
            self.send_response(status or 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook?token=secret", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerting, "PAUSE_SECONDS", 0.01)
    monkeypatch.delenv(WEBHOOK, raising=False)


def test_an_alert_is_one_line_with_its_time(home: Home) -> None:
    assert alert(home, Alert("run failed", "failed:1", "data_pipeline\nof july"))
    (line,) = home.alerts.read_text().splitlines()
    when, what = line.split("  ", 1)
    assert when.endswith("+00:00")
    assert what == "run failed: data_pipeline of july"


def test_an_event_is_told_once_whoever_tells_it(home: Home) -> None:
    assert [alert(home, ONE) for _ in range(3)] == [[ONE], [], []]
    another = Alert("k", "another", "text")
    assert alert(home, ONE, another, another) == [another]
    assert len(home.alerts.read_text().splitlines()) == 2


def test_a_webhook_that_fails_at_first_is_told_in_the_end(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(lambda n: 503 if n < 3 else 200) as (url, told):
        monkeypatch.setenv(WEBHOOK, url)
        alert(home, Alert("drop refused", "e", "july (july.csv): 200 of 1,000 rows rejected"))
    assert len(told) == 3
    kind, body = told[-1]
    assert kind == "application/json"
    assert body["text"] == "junk_leads: drop refused: july (july.csv): 200 of 1,000 rows rejected"
    assert len(home.alerts.read_text().splitlines()) == 1


def test_many_at_once_are_many_lines_and_one_post(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [Alert("run failed", f"e{n}", f"of drop {n}") for n in range(MOST_POSTED + 2)]
    with listening(lambda _: 200) as (url, told):
        monkeypatch.setenv(WEBHOOK, url)
        alert(home, *many)
        alert(home, Alert("drop refused", "a", "a"), Alert("drop blocked", "b", "b"))
    first, second = (body for _, body in told)
    lines = first["text"].splitlines()
    assert (lines[0], lines[-1]) == (f"junk_leads: {len(many)} alerts", "and 2 more: look into alerts.log")
    assert lines[1:-1] == [f"run failed: of drop {n}" for n in range(MOST_POSTED)]
    assert (first["kind"], second["kind"]) == ("run failed", "drop refused, drop blocked")
    assert len(home.alerts.read_text().splitlines()) == len(many) + 2


def test_a_webhook_that_does_not_answer_is_waited_for_once_for_many(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(lambda _: 404) as (url, told):
        monkeypatch.setenv(WEBHOOK, url)
        alert(home, *(Alert("k", f"e{n}", "text") for n in range(200)))
    assert len(told) == 1
    assert home.alerts.read_text().endswith(f"the webhook was not told of them (HTTP status 404); check {WEBHOOK}\n")


@pytest.mark.parametrize(
    ("status", "tries", "problem"),
    [(503, TRIES, "HTTP status 503"), (429, TRIES, "HTTP status 429"), (404, 1, "HTTP status 404")],
)
def test_a_webhook_that_keeps_failing_is_told_of_in_the_log_and_stops_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, status: int, tries: int, problem: str
) -> None:
    with listening(lambda _: status) as (url, told):
        monkeypatch.setenv(WEBHOOK, url)
        assert alert(home, ONE)
    assert len(told) == tries
    first, second = home.alerts.read_text().splitlines()
    assert first.endswith("k: text")
    assert second.endswith(f"the webhook was not told of it ({problem}); check {WEBHOOK}")
    assert "secret" not in second


def test_a_webhook_that_does_not_answer_is_waited_for_a_limited_time(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting, "POST_SECONDS", 0.05)
    monkeypatch.setattr(alerting, "TRIES", 2)
    started = time.monotonic()
    with listening(lambda _: None) as (url, _):
        monkeypatch.setenv(WEBHOOK, url)
        alert(home, ONE)
        assert time.monotonic() - started < 2
    assert "TimeoutError" in home.alerts.read_text()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "not an address", "file:///etc/passwd"])
def test_an_address_that_is_none_is_told_of_in_the_log(home: Home, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(WEBHOOK, url)
    alert(home, ONE)
    assert len(home.alerts.read_text().splitlines()) == 2
