"""The servers' own life: a home is served once, and they end with the process that started them, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.running.servers import serving
from junk_leads.running.servers.guard import stop
from junk_leads.running.servers.serving import _appended, _served_once

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
    monkeypatch.setattr("junk_leads.running.servers.guard._PATIENCE", ((signal.SIGINT, 1.0), (signal.SIGKILL, 5.0)))
    servers = [started(code) for code in (POLITE, PARENT, STUBBORN)]
    stop([server.pid for server in servers], lambda: [server.poll() for server in servers])
    assert [is_gone(server.pid) for server in servers] == [True] * 3
    assert [server.wait(5) for server in servers] == [-signal.SIGINT, -signal.SIGINT, -signal.SIGKILL]


def test_the_guard_stops_the_servers_of_a_process_that_was_killed() -> None:
    servers = [started(code) for code in (POLITE, PARENT)]
    keeping = (
        "import subprocess, sys\n"
        "guard = subprocess.Popen([sys.executable, '-m', 'junk_leads.running.servers.guard'], stdin=subprocess.PIPE,"
        " text=True, start_new_session=True)\n"
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
    command = [sys.executable, "-m", "junk_leads.running.servers.guard"]
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
from junk_leads.running.servers.serving import _served_once
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
