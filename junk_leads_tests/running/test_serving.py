"""The servers' own life: a home is served once, and they end with the process that started them, however it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.running import serving
from junk_leads.running.guard import stop
from junk_leads.running.serving import _appended, _served_once
from junk_leads_tests.conftest import free_port

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)
# a script's background job is started with SIGINT ignored, and hands that on
POLITE = STUBBORN.replace("SIG_IGN", "SIG_DFL")
PARENT = (
    "import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    f"subprocess.Popen([sys.executable, '-c', {POLITE!r}]).wait()"
)


def started(code: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def is_gone(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("JUNK_LEADS_SENSOR_SECONDS", "is 'many', which is no number; write one like 5"),
        ("JUNK_LEADS_FRESH_HOURS", "is 'many'; it takes a number of hours, 0.1 or more"),
        ("JUNK_LEADS_MEMORY_LIMIT", "is 'many', which is no amount of memory; write one like 8GB"),
    ],
)
def test_nothing_is_served_under_a_setting_that_is_refused(tmp_path: Path, setting: str, told: str) -> None:
    """In a process of its own, as some are read when the definitions are imported."""
    command = [sys.executable, "-m", "junk_leads.cli", "ui"]
    environment = {**os.environ, "JUNK_LEADS_HOME": str(tmp_path / "home"), setting: "many"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"junk-leads: {setting} {told}\n")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("JUNK_LEADS_WAIT_SECONDS", "which is no number"),
        ("JUNK_LEADS_MOST_COLUMNS", "which is no number"),
        ("JUNK_LEADS_WEBHOOK", "is no address of http or https; write one like https://HOST/PATH"),
    ],
)
def test_settings_that_are_read_when_they_are_needed_are_read_before_anything_is_served(
    home: Home, monkeypatch: pytest.MonkeyPatch, setting: str, told: str
) -> None:
    monkeypatch.setenv(setting, "many")
    monkeypatch.setattr(serving, "_serve", lambda *_, **__: pytest.fail("it was served"))
    with pytest.raises(JunkLeadsError, match=f"^{setting} .*{told}"):
        serving.serve(home, host="127.0.0.1", port=1, mlflow_port=2, tell=print)


def test_who_is_asked_ends_with_all_that_it_started_and_who_does_not_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("junk_leads.running.guard._PATIENCE", ((signal.SIGINT, 1.0), (signal.SIGKILL, 5.0)))
    servers = [started(code) for code in (POLITE, PARENT, STUBBORN)]
    stop([server.pid for server in servers], lambda: [server.poll() for server in servers])
    assert [is_gone(server.pid) for server in servers] == [True] * 3
    assert [server.wait(5) for server in servers] == [-signal.SIGINT, -signal.SIGINT, -signal.SIGKILL]


def test_the_guard_stops_the_servers_of_a_process_that_was_killed() -> None:
    servers = [started(code) for code in (POLITE, PARENT)]
    keeping = (
        "import subprocess, sys\n"
        "guard = subprocess.Popen([sys.executable, '-m', 'junk_leads.running.guard'], stdin=subprocess.PIPE, text=True,"
        " start_new_session=True)\n"
        "for leader in sys.argv[1:]: print(leader, file=guard.stdin, flush=True)\n"
        "print('ready', flush=True); guard.wait()"
    )
    leaders = [str(server.pid) for server in servers]
    keeper = subprocess.Popen([sys.executable, "-c", keeping, *leaders], stdout=subprocess.PIPE, text=True)
    assert keeper.stdout is not None
    assert keeper.stdout.readline() == "ready\n"
    time.sleep(0.5)
    assert [server.poll() for server in servers] == [None, None]
    keeper.kill()
    keeper.wait()
    assert [server.wait(20) for server in servers] == [-signal.SIGINT] * 2


def test_the_guard_lets_be_whose_end_it_was_told() -> None:
    ended, other = [started(POLITE) for _ in range(2)]
    command = [sys.executable, "-m", "junk_leads.running.guard"]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert guard.stdin is not None
        guard.stdin.write(f"{ended.pid}\n{other.pid}\n{ended.pid}\n")
        guard.stdin.close()
        assert other.wait(20) == -signal.SIGINT
        assert guard.wait(20) == 0
        assert ended.poll() is None
    finally:
        stop([ended.pid, other.pid], lambda: [ended.poll(), other.poll()])


HELD = """
import sys
from pathlib import Path
from junk_leads.home import Home
from junk_leads.running.serving import _served_once
with _served_once(Home(Path(sys.argv[1])), "http://127.0.0.1:3000", print) as lock:
    if sys.argv[2:]:  # as Dagster's server holds it
        import subprocess
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(" + sys.argv[2] + ")"],
            stdout=subprocess.DEVNULL, pass_fds=[lock.fileno()])
    print("ready", flush=True)
    sys.stdin.read()
"""


def holding(home: Home, *more: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, str(home.root), *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_home_that_is_served_is_not_served_again_and_who_serves_it_is_named(home: Home) -> None:
    first = holding(home)
    told: list[str] = []
    with pytest.raises(JunkLeadsError) as refused, _served_once(home, "http://127.0.0.1:4000", told.append):
        pass
    assert str(refused.value) == (
        f"the home {home.root} is served already, by process {first.pid}: open http://127.0.0.1:3000, or stop that "
        "process first"
    )
    first.communicate()
    with _served_once(home, "http://127.0.0.1:4000", told.append):
        assert Path(home.root / "serving.lock").read_text() == f"{os.getpid()} http://127.0.0.1:4000"
    assert told == []


def test_the_servers_of_one_that_was_killed_are_waited_for_until_they_have_stopped(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = holding(home, "2")
    first.kill()
    first.wait()
    told: list[str] = []
    with _served_once(home, "http://127.0.0.1:4000", told.append):
        pass
    assert told == [f"process {first.pid}, which served this home, was killed; waiting until its servers have stopped"]
    second = holding(home, "5")
    second.kill()
    second.wait()
    monkeypatch.setattr(serving, "_STOPPED_WITHIN", 0.5)
    with (
        pytest.raises(JunkLeadsError, match=f"is served already, by process {second.pid}: open"),
        _served_once(home, "http://127.0.0.1:4000", told.append),
    ):
        pass


def test_whole_lines_that_were_added_to_a_log_are_told_once(tmp_path: Path) -> None:
    log = tmp_path / "alerts.log"
    assert _appended(log, 0) == ([], 0)
    log.write_bytes(b"one\ntwo \xff\nhal")
    lines, place = _appended(log, 0)
    assert (lines, place) == (["one", "two \ufffd"], 10)
    assert _appended(log, place) == ([], 10)
    with log.open("ab") as more:
        more.write(b"f\n")
    assert _appended(log, place) == (["half"], 15)
    log.write_bytes(b"anew\n")  # shorter than before
    assert _appended(log, 15) == (["anew"], 5)


def test_what_dagster_is_asked_is_a_question_that_it_knows() -> None:
    from dagster_graphql.schema import create_schema
    from graphql import parse, validate

    assert validate(create_schema().graphql_schema, parse(serving._HEALTH)) == []


REACHED = {"loadStatus": "LOADED", "locationOrLoadError": {"__typename": "RepositoryLocation"}}
OUT_OF_REACH = {
    "loadStatus": "LOADED",
    "locationOrLoadError": {"__typename": "PythonError", "message": "Could not reach\nuser code server.\n"},
}


@pytest.fixture
def health(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[bytes]]]:
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
    monkeypatch.setattr(serving, "_LOOKED_EVERY", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield serving._Health("127.0.0.1", server.server_port, Path("servers.log")), answers
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


def test_definitions_are_lost_when_they_are_out_of_reach_twice_in_a_row(health: tuple[Any, list[bytes]]) -> None:
    looks, answers = health
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
def test_what_cannot_be_told_is_not_wrong(told: bytes, health: tuple[Any, list[bytes]]) -> None:
    looks, answers = health
    answers.append(told)
    assert [looks.look() for _ in range(3)] == [{}] * 3


def test_where_nobody_answers_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_LOOKED_EVERY", 0.0)
    looks = serving._Health("127.0.0.1", free_port(), Path("servers.log"))
    assert [looks.look() for _ in range(3)] == [{}] * 3


def test_what_starting_again_does_not_mend_is_told_after_three_times(health: tuple[Any, list[bytes]]) -> None:
    looks, answers = health
    answers.append(answer(REACHED, OUT_OF_REACH))
    assert [looks.look() for _ in range(6)] == [{}, LOST] * 3
    assert looks.look() == {}
    with pytest.raises(JunkLeadsError) as refused:
        looks.look()
    assert str(refused.value) == (
        "Dagster does not reach the definitions, although it was started again 3 times (Could not reach user code "
        "server.); look into servers.log"
    )


def test_what_fails_is_told_once_until_it_has_ceased(health: tuple[Any, list[bytes]]) -> None:
    looks, answers = health
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
    entry: dict[str, Any], fails: bool, health: tuple[Any, list[bytes]]
) -> None:
    looks, answers = health
    answers.append(answer(entry))
    told = [looks.look() for _ in range(3)]
    assert told == [{}, {"incoming_sensor": "the ledger cannot be used"} if fails else {}, {}]


def test_it_is_looked_every_few_seconds(health: tuple[Any, list[bytes]], monkeypatch: Any) -> None:
    looks, answers = health
    answers.append(answer(OUT_OF_REACH))
    monkeypatch.setattr(serving, "_LOOKED_EVERY", 3600.0)
    assert [looks.look() for _ in range(3)] == [{}] * 3
    monkeypatch.setattr(serving, "_LOOKED_EVERY", 0.0)
    assert [looks.look() for _ in range(2)] == [{}, LOST]


def test_a_file_that_was_moved_deleted_or_replaced_is_gone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with (tmp_path / "home" / "serving.lock").open("a+") as lock:
        assert not serving._is_gone(lock)
        (tmp_path / "home").rename(tmp_path / "moved")
        assert serving._is_gone(lock)
        (tmp_path / "home").write_text("in its place")
        assert serving._is_gone(lock)
        (tmp_path / "home").unlink()
        (tmp_path / "moved").rename(tmp_path / "home")
        assert not serving._is_gone(lock)
        (tmp_path / "home" / "serving.lock").unlink()
        (tmp_path / "home" / "serving.lock").touch()
        assert serving._is_gone(lock)
