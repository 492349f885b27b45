"""Models learned at once, some parts in a process of its own: the same models, and nothing lost with the process."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from junk_leads.errors import TrainingRefused
from junk_leads.steps.learning import side_by_side
from junk_leads.steps.learning.side_by_side import learning_begun
from junk_leads.steps.learning.validation import Learned, Learning, learn, weekly_folds
from junk_leads_tests.learning.test_validation import ADAPTING, AIM, some_leads


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[Learning]:
    """Two, large enough to be learned at once."""
    monkeypatch.setattr(side_by_side, "MANY_ROWS", 1)
    monkeypatch.setattr(side_by_side, "_processors", lambda: 2)
    return [
        Learning(data, ADAPTING, weekly_folds(data), AIM) for data in (some_leads(2_000), some_leads(2_000, seed=2))
    ]


def learn_each(models: list[Learning]) -> list[Learned]:
    with learning_begun(models) as begun:
        return begun.learned()


def told(learned: list[Learned]) -> list[object]:
    return [(one.booster.model_to_string(), one.as_settings(), one.validation.tolist()) for one in learned]


@pytest.fixture
def fitted_here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The parts that this process fits."""
    parts, own = [], Learning.fit

    def fit(model: Learning, part: int) -> tuple[Any, ...]:
        parts.append(part)
        return own(model, part)

    monkeypatch.setattr(Learning, "fit", fit)
    return parts


def parts_of(models: list[Learning]) -> int:
    return sum(len(model.parts) for model in models)


def test_models_learned_at_once_are_those_learned_one_after_the_other(
    tasks: list[Learning], fitted_here: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = learn_each(tasks)
    assert 0 < len(fitted_here) < parts_of(tasks)  # the other process fitted the rest
    fitted_here.clear()
    assert told(at_once) == told([learn(task.data, task.recipe, task.folds, task.aim) for task in tasks])
    fitted_here.clear()
    monkeypatch.setattr(side_by_side, "MANY_ROWS", 10**9)
    assert told(at_once) == told(learn_each(tasks))
    assert len(fitted_here) == parts_of(tasks)
    data = some_leads(500, seed=3)
    assert at_once[0].predict(data).tolist() == learn_each(tasks)[0].predict(data).tolist()


def test_the_longest_parts_are_fitted_first(
    tasks: list[Learning], fitted_here: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "MANY_ROWS", 10**9)
    sizes = sorted((task.size(part) for task in tasks for part in task.parts), reverse=True)
    learn_each(tasks)
    assert fitted_here[:2] == [4, 4]  # all leads of each, which no fold has
    assert sizes[:2] == sorted((len(task.data.counts) for task in tasks), reverse=True)


def test_what_a_process_did_before_it_was_killed_is_kept_and_the_rest_fitted_here(
    tasks: list[Learning], fitted_here: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = told(learn_each(tasks))
    fitted_here.clear()
    processes: list[Any] = []
    start = side_by_side.multiprocessing.get_context("spawn").Process.start

    class Kept(dict[Any, Any]):
        def __setitem__(self, part: Any, found: Any) -> None:
            super().__setitem__(part, found)
            processes[0].kill()
            processes[0].join()

    def have_fitted(process: Any, models: Any, left: Any, kept: dict[Any, Any]) -> None:
        own(process, models, left, mine := Kept())
        kept.update(mine)

    own = side_by_side._have_fitted
    monkeypatch.setattr(side_by_side, "_have_fitted", have_fitted)
    monkeypatch.setattr(
        side_by_side.multiprocessing.get_context("spawn").Process,
        "start",
        lambda process: (processes.append(process), start(process)),
    )
    assert told(learn_each(tasks)) == expected
    assert len(fitted_here) == parts_of(tasks) - 1


def test_the_process_ends_without_a_word_when_nobody_listens_any_more(
    tasks: list[Learning], capfd: pytest.CaptureFixture[str]
) -> None:
    processes = side_by_side.multiprocessing.get_context("spawn")
    for says in ((), (tasks,), (tasks, (0, 0)), (tasks, list)):
        ours, theirs = processes.Pipe()
        process = processes.Process(target=side_by_side._do_what_is_asked, args=(theirs,))
        process.start()
        theirs.close()
        for said in says:
            ours.send(said)
        ours.close()
        process.join(60)
        assert process.exitcode == 0
    assert capfd.readouterr().err == ""


def test_what_a_process_that_was_killed_had_to_learn_is_learned_all_the_same(
    tasks: list[Learning], monkeypatch: pytest.MonkeyPatch
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
    tasks: list[Learning], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
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


def test_what_goes_wrong_in_the_process_goes_wrong_here(tasks: list[Learning]) -> None:
    wrong = replace(ADAPTING, lightgbm={**ADAPTING.lightgbm, "objective": "there is none"})
    with pytest.raises(Exception, match="Unknown objective type name: there"):
        learn_each([replace(tasks[0], recipe=wrong), tasks[1]])


def test_the_process_makes_something_else_once_it_has_fitted(tasks: list[Learning]) -> None:
    with learning_begun(tasks) as begun:
        who, wrong = begun.beside(os.getpid), begun.beside(partial(int, "no number"))
        begun.learned()
        assert who() != os.getpid()
        with pytest.raises(ValueError, match="no number"):
            wrong()


@pytest.mark.parametrize("rows", [1, 10**9])
def test_what_no_other_process_makes_is_made_here(
    tasks: list[Learning], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "MANY_ROWS", rows)
    with learning_begun(tasks) as begun:
        begun.learned()
        for process in multiprocessing.active_children():
            process.kill()
        assert begun.beside(os.getpid)() == os.getpid()


def test_what_is_begun_is_ended_with_whoever_began_it(tasks: list[Learning]) -> None:
    for _ in range(3):
        with suppress(TrainingRefused), learning_begun(tasks):
            assert multiprocessing.active_children()
            raise TrainingRefused
        assert not multiprocessing.active_children()


def test_each_part_is_taken_once_and_the_last_one_by_one_of_both() -> None:
    """A thousand times two threads take what is left: asking whether something is left, and taking it, is one step."""
    for _ in range(1_000):
        left = deque((0, number) for number in range(3))
        took: list[list[Any]] = [[], []]
        begin = threading.Barrier(2)

        def take(mine: list[Any], left: Any = left, begin: Any = begin) -> None:
            begin.wait()
            while (part := side_by_side._taken(left)) is not None:
                mine.append(part)

        threads = [threading.Thread(target=take, args=(mine,)) for mine in took]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(took[0] + took[1]) == [(0, 0), (0, 1), (0, 2)]
