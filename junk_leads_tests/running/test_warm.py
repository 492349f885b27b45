"""The process that runs start in: it forks one for each, tells of it, and leaves nothing behind.

What lives here: the process as it is asked, without what it imports for runs. What does not: a run of its own, which
`whole/test_end_to_end.py` has.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from junk_leads.running.warm import SOCKET, ask
from junk_leads_tests.conftest import until

SERVE = "import sys, pathlib; from junk_leads.running import warm; warm.WarmProcess(pathlib.Path(sys.argv[1])).serve()"

CODE = """
import pathlib, time, dagster as dg
@dg.asset
def made():
    print("printed by a run", flush=True)
    pathlib.Path({made!r}).touch()
    time.sleep({seconds})
"""


@dataclass
class Warm:
    """A process that listens in a folder; what it and its runs print is in `log`."""

    folder: Path
    process: "subprocess.Popen[bytes]"
    log: Path

    def ask(self, **request: Any) -> dict[str, Any]:
        answer = ask(self.folder, request)
        assert answer is not None
        return answer


@pytest.fixture(params=["short", pytest.param("long", marks=pytest.mark.long)])
def warm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Warm]:
    """In a folder with a name as long as systems take for a socket, and in one with a longer one."""
    folder = tmp_path / ("d" * 90 if request.param == "long" else "d")
    folder.mkdir()
    log = tmp_path / "log"
    dagster_home = tmp_path / "dagster"
    dagster_home.mkdir()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(folder)],
            stdout=output,
            stderr=output,
            env={**os.environ, "DAGSTER_HOME": str(dagster_home)},
        )
    try:
        until(lambda: ask(folder, {"terminate": "none"}) is not None)
        yield Warm(folder, process, log)
    finally:
        process.kill()
        process.wait()


def started(warm: Warm, folder: Path, seconds: int) -> int:
    """The process of a run of an asset that makes the file `made` in the folder, and then takes so many seconds."""
    code = folder / "code.py"
    code.write_text(CODE.format(made=str(folder / "made"), seconds=seconds), encoding="utf-8")
    child = warm.ask(run_id="r", execute=["asset", "materialize", "--select", "made", "-f", str(code)])["pid"]
    until(lambda: (folder / "made").exists() or not Path(f"/proc/{child}").exists())
    assert (folder / "made").exists()
    return int(child)


def test_a_run_is_a_process_of_its_own_that_calls_dagster_and_prints_nothing(warm: Warm, tmp_path: Path) -> None:
    child = started(warm, tmp_path, 0)
    assert child not in (warm.process.pid, os.getpid())
    until(lambda: not Path(f"/proc/{child}").exists())
    assert warm.log.read_text(encoding="utf-8") == ""


def test_a_run_that_has_ended_cannot_be_ended_and_its_process_is_not_left_behind(warm: Warm) -> None:
    child = warm.ask(run_id="r", execute=["--version"])["pid"]
    until(lambda: not Path(f"/proc/{child}").exists())
    assert warm.ask(terminate="r") == {"terminated": False}
    assert warm.ask(terminate="never started") == {"terminated": False}


@pytest.mark.long
def test_a_run_under_way_is_told_to_end(warm: Warm, tmp_path: Path) -> None:
    child = started(warm, tmp_path, 60)
    assert warm.ask(terminate="r") == {"terminated": True}
    until(lambda: not Path(f"/proc/{child}").exists())


def test_nonsense_is_not_answered_and_ends_nothing(warm: Warm) -> None:
    for nonsense in ({}, {"execute": ["--version"]}, {"terminate": []}):
        assert ask(warm.folder, nonsense) is None
    assert warm.ask(terminate="r") == {"terminated": False}


def test_only_the_owner_may_ask_and_nobody_answers_once_it_has_ended(warm: Warm) -> None:
    assert (warm.folder / SOCKET).stat().st_mode & 0o077 == 0
    warm.process.send_signal(signal.SIGTERM)
    assert warm.process.wait(30) == 0
    assert list(warm.folder.iterdir()) == []
    assert ask(warm.folder, {"terminate": "r"}) is None


def test_where_nobody_ever_listened_or_one_was_killed_there_is_no_answer(tmp_path: Path) -> None:
    assert ask(tmp_path, {"terminate": "r"}) is None
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / SOCKET)) if len(str(tmp_path / SOCKET)) < 100 else None
    assert ask(tmp_path, {"terminate": "r"}) is None


def test_what_is_imported_beforehand_starts_no_thread_and_opens_no_store(home: Any) -> None:
    code = (
        "import json, threading; from junk_leads.running.warm import warm_up; warm_up(); "
        "import sys; names = ('lightgbm', 'mlflow', 'great_expectations', 'dagster._cli.api'); "
        "print(json.dumps([threading.active_count(), [n for n in names if n in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    threads, imported = json.loads(done.stdout.splitlines()[-1])
    assert threads == 1
    assert imported == ["lightgbm", "mlflow", "great_expectations", "dagster._cli.api"]
    assert not home.warehouse.exists()
    assert not (home.root / "mlflow.db").exists()
