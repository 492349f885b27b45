"""Great Expectations asked in a process beside this one: the same answers, and what happens when it is lost."""

import errno
import operator
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import date, datetime
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from junk_leads.capacity import MEMORY_VARIABLE
from junk_leads.defs.expectations import asking
from junk_leads.defs.expectations.suites import Expectation
from junk_leads_tests.conftest import needs_proc, until

BETWEEN = "expect_column_values_to_be_between"
QUESTIONS = {
    "numbers, one too large": (BETWEEN, {"column": "c", "min_value": 0, "max_value": 2}, [0, 1, 3]),
    "fractions, one missing": (BETWEEN, {"column": "c", "min_value": 0.5}, [0.5, float("nan"), 1e300]),
    "days": (BETWEEN, {"column": "c", "min_value": "2021-07-01"}, [date(2021, 7, 1), date(2020, 1, 1)]),
    "moments": (BETWEEN, {"column": "c", "max_value": datetime(2021, 6, 30)}, [datetime(2021, 7, 1), None]),
    "texts of all kinds": (
        "expect_column_values_to_be_in_set",
        {"column": "c", "value_set": ["ä"]},
        ["ä", "\0", "", None],
    ),
    "a column that is not missing": ("expect_column_values_to_not_be_null", {"column": "c"}, [1, None]),
    "a distribution": (  # the worker imports scipy.stats for it
        "expect_column_kl_divergence_to_be_less_than",
        {"column": "c", "partition_object": {"values": ["a", "b"], "weights": [0.5, 0.5]}, "threshold": 0.01},
        ["a", "a", "b"],
    ),
    "other columns": ("expect_table_columns_to_match_set", {"column_set": ["c", "d"]}, [1]),
}


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker, as a command has it that has not imported Great Expectations; it is asked, never this process."""
    monkeypatch.delitem(sys.modules, "great_expectations", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pandas.py").write_text("raise SystemExit('it is not to be imported')", encoding="utf-8")
    with asking.worker_beside() as process:
        assert process is not None
        yield process


def asked(name: str) -> tuple[list[Expectation], pd.DataFrame]:
    kind, kwargs, values = QUESTIONS[name]
    return [Expectation("c", kind, kwargs)], pd.DataFrame({"c": values})


def test_a_worker_answers_as_this_process_does(
    worker: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {
        (name, told): asking._ask_here(*asked(name), told)
        for name in QUESTIONS
        for told in ("COMPLETE", "BOOLEAN_ONLY")
    }
    monkeypatch.setattr(asking, "_batches", None)  # in this process
    assert here == {(name, told): asking.ask(*asked(name), told) for name, told in here}
    assert {answer[0]["success"] for answer in here.values()} == {True, False}


def test_what_great_expectations_makes_once_for_an_answer_is_what_it_makes_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from great_expectations.expectations.expectation import Expectation as Own

    made_anew, made = Own.configuration, []
    counted = property(lambda own: made.append(type(own)) or made_anew.fget(own))  # type: ignore[attr-defined,func-returns-value]
    monkeypatch.setattr(Own, "configuration", counted)

    def answers() -> list[asking.Results]:
        one_by_one = [asked(name) for name in QUESTIONS]
        frame = pd.DataFrame({"c": [1, 1, 7], "d": ["ä", "b", "\0"]})
        of_both = [
            Expectation("low", BETWEEN, {"column": "c", "min_value": 0, "max_value": 2}),
            Expectation("high", BETWEEN, {"column": "c", "min_value": 0, "max_value": 9}),
            Expectation("known", "expect_column_values_to_be_in_set", {"column": "d", "value_set": ["ä", "b"]}),
        ]
        asks = [*one_by_one, (of_both, frame)]
        return [asking._ask_here(*ask, told) for ask in asks for told in ("COMPLETE", "BOOLEAN_ONLY")]

    kept = answers()
    made_once = len(made)
    assert Own.configuration is counted
    monkeypatch.setattr(asking, "_configured_once", nullcontext)
    assert kept == answers()
    assert 0 < made_once < (len(made) - made_once) / 5
    assert [answer["success"] for answer in kept[-2]] == [False, True, False]


def test_a_worker_imports_neither_charts_nor_distributions_nor_schemas_nor_databases() -> None:
    program = (
        "import os, sys; from junk_leads.defs.expectations import asking\n"
        "reading, writing = os.pipe(); os.close(writing); sys.argv[1:] = [str(reading)]; asking.main()\n"
        "print('great_expectations' in sys.modules, sys.modules['sqlalchemy'], *sorted(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert told[:2] == ["True", "None"]
    unused = {"altair.vegalite", "scipy.stats.distributions", "jsonschema.validators", "google.auth"}
    assert not (unused | {"duckdb"}) & set(told)


def test_a_question_without_an_answer_is_told_as_in_this_process_and_the_next_is_answered(
    worker: "subprocess.Popen[bytes]",
) -> None:
    expectations, frame = asked("days")
    absent = [Expectation("c", BETWEEN, {"column": "absent", "min_value": 0})]
    with pytest.raises(ValueError, match=r"^c: expect_column_values_to_be_between could not run: .*absent"):
        asking.ask(absent, frame, "BOOLEAN_ONLY")
    assert asking.ask(expectations, frame, "BOOLEAN_ONLY")[0]["success"] is False


@pytest.mark.parametrize("when", ["while it imports", "when it has answered"])
def test_without_its_worker_a_command_asks_in_its_own_process(worker: "subprocess.Popen[bytes]", when: str) -> None:
    if when == "when it has answered":
        asking.ask(*asked("days"), "COMPLETE")
    worker.kill()
    assert asking.ask(*asked("days"), "COMPLETE") == asking._ask_here(*asked("days"), "COMPLETE")
    assert asking._worker is None


def test_the_worker_makes_something_else_meanwhile(worker: "subprocess.Popen[bytes]") -> None:
    made = asking.beside(os.getpid)
    assert made() == worker.pid
    assert asking.ask(*asked("days"), "COMPLETE") == asking._ask_here(*asked("days"), "COMPLETE")


@pytest.mark.parametrize("when", ["before it is asked", "while it is at it", "when it cannot"])
def test_what_the_worker_does_not_make_is_made_here(worker: "subprocess.Popen[bytes]", when: str) -> None:
    if when == "before it is asked":
        worker.kill()
        worker.wait()
    made = asking.beside(partial(_only_in, os.getpid(), there=3_600 if when == "while it is at it" else 0))
    if when == "while it is at it":
        worker.kill()
    assert made() == os.getpid()


def test_what_is_asked_at_once_is_answered_each_by_its_own_whichever_is_waited_for_first(
    worker: "subprocess.Popen[bytes]",
) -> None:
    given = {n: asking.beside(partial(operator.mul, n, 2)) for n in range(50)}
    assert [given[n]() for n in (49, 0, *range(1, 49))] == [98, 0, *range(2, 98, 2)]
    assert [given[7](), given[7]()] == [14, 14]


def test_more_may_be_asked_at_once_than_the_pipe_holds(worker: "subprocess.Popen[bytes]") -> None:
    much = bytes(1 << 20)  # of a question and of its answer
    given = [asking.beside(partial(operator.add, much, bytes([n]))) for n in range(20)]
    assert [waited()[-1] for waited in given] == list(range(20))


def test_what_was_asked_of_a_worker_that_is_lost_is_all_made_here(worker: "subprocess.Popen[bytes]") -> None:
    given = [asking.beside(partial(_only_in, os.getpid(), there=3_600)) for _ in range(3)]
    worker.kill()
    assert [waited() for waited in reversed(given)] == [os.getpid()] * 3
    assert asking.ask(*asked("days"), "COMPLETE") == asking._ask_here(*asked("days"), "COMPLETE")


def test_answers_that_nobody_waited_for_are_not_taken_for_those_of_the_next_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.delitem(sys.modules, "great_expectations", raising=False)
    with asking.worker_beside():
        asking.beside(partial(operator.mul, 1, 2))
    with asking.worker_beside() as process:
        assert process is not None
        assert asking.beside(partial(operator.mul, 3, 2))() == 6


def _only_in(pid: int, *, there: float) -> int:
    """The number of this process, when it is that one; another is at it so long, and then cannot."""
    if os.getpid() != pid:
        time.sleep(there)
        raise ValueError("not here")
    return pid


def no_process(*_: object, **__: object) -> None:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.mark.parametrize(
    "why",
    [
        lambda patch: patch.setenv(MEMORY_VARIABLE, "2GB"),
        lambda patch: patch.setattr(os, "cpu_count", lambda: 1),
        lambda patch: patch.setitem(sys.modules, "great_expectations", sys),
        lambda patch: patch.setattr(subprocess, "Popen", no_process),
    ],
    ids=["memory is limited", "one core", "already imported", "no process to be had"],
)
def test_there_is_no_worker_where_it_gains_nothing_or_cannot_be(
    why: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "great_expectations", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    why(monkeypatch)
    with asking.worker_beside() as process:
        assert process is None


@needs_proc
def test_a_worker_ends_with_its_command_however_that_ends() -> None:
    program = (
        "import os, signal; os.cpu_count = lambda: 2; from junk_leads.defs.expectations.asking import worker_beside\n"
        "with worker_beside() as process: print(process.pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        pid = int(command.stdout.readline())
        until(lambda: _is_asking(pid))  # its name is there a moment after it is
        command.kill()
        assert command.stdout.read() == ""  # the worker does not hold what its command writes to
    until(lambda: not _is_asking(pid))


def _is_asking(pid: int) -> bool:
    try:
        return asking.__name__ in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def test_ingest_itself_does_not_import_great_expectations(
    tmp_path: Path, write_csv: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are two cores; the same account, checks among it, is asserted of every way in elsewhere."""
    monkeypatch.setenv("JUNK_LEADS_HOME", str(tmp_path / "home"))
    program = (
        "import os, sys; os.cpu_count = lambda: 2; from junk_leads.cli import main; "
        f"sys.argv = ['junk-leads', 'ingest', {str(write_csv('drop.csv', {}, {}))!r}]\n"
        "try: main()\nexcept SystemExit as ended: assert not ended.code\n"
        "print('great_expectations' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False", done.stdout + done.stderr
