"""Two models learned at once, one in a process of its own: the same models, and nothing lost with the process."""

import os
import signal
from dataclasses import replace
from typing import Any

import pytest

from junk_leads.steps.learning import side_by_side
from junk_leads.steps.learning.side_by_side import Task, learn_each
from junk_leads.steps.learning.validation import Learned, weekly_folds
from junk_leads_tests.learning.test_validation import ADAPTING, AIM, some_leads


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Two, large enough to be learned at once."""
    monkeypatch.setattr(side_by_side, "MANY_ROWS", 1)
    monkeypatch.setattr(side_by_side, "_processors", lambda: 2)
    return [(data, ADAPTING, weekly_folds(data), AIM) for data in (some_leads(2_000), some_leads(2_000, seed=2))]


def told(learned: list[Learned]) -> list[object]:
    return [(one.booster.model_to_string(), one.as_settings(), one.validation.tolist()) for one in learned]


def test_models_learned_at_once_are_those_learned_one_after_the_other(
    tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = learn_each(tasks)
    monkeypatch.setattr(side_by_side, "MANY_ROWS", 10**9)
    assert told(at_once) == told(learn_each(tasks))
    data = some_leads(500, seed=3)
    assert at_once[0].predict(data).tolist() == learn_each(tasks)[0].predict(data).tolist()


def test_what_a_process_that_was_killed_had_to_learn_is_learned_all_the_same(
    tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = told(learn_each(tasks))
    start = side_by_side.multiprocessing.get_context("spawn").Process.start

    def started_and_killed(process: object) -> None:
        start(process)
        os.kill(process.pid, signal.SIGKILL)  # type: ignore[attr-defined]

    monkeypatch.setattr(side_by_side.multiprocessing.get_context("spawn").Process, "start", started_and_killed)
    assert told(learn_each(tasks)) == expected


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_both_and_only_this_process_hears_it(
    tasks: list[Task], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    processes = []
    start = side_by_side.multiprocessing.get_context("spawn").Process.start

    def started_and_interrupted(process: Any) -> None:
        start(process)
        processes.append(process)
        for hears in (process.pid, os.getpid()):  # as a terminal does
            os.kill(hears, signal.SIGINT)

    monkeypatch.setattr(side_by_side.multiprocessing.get_context("spawn").Process, "start", started_and_interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn_each(tasks)
    (process,) = processes
    assert process.exitcode == -signal.SIGKILL  # by this process
    assert capfd.readouterr().err == ""


def test_what_goes_wrong_in_the_process_goes_wrong_here(tasks: list[Task]) -> None:
    wrong = replace(ADAPTING, lightgbm={**ADAPTING.lightgbm, "objective": "there is none"})
    data, _, folds, aim = tasks[0]
    with pytest.raises(Exception, match="Unknown objective type name: there"):
        learn_each([(data, wrong, folds, aim), tasks[1]])
