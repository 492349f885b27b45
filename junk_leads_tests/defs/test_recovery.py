"""Runs whose process was killed: no later run waits for them, and a run that lives is left alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from junk_leads.defs.recovery import HELD_FROM_START, fail_dead_runs, hold
from junk_leads.defs.resources import HomeResource
from junk_leads.defs.sensors import make_incoming_sensor
from junk_leads.home import Home
from junk_leads.running.launching import platform
from junk_leads.steps.leads.generating import write_leads
from junk_leads_tests.conftest import run_command


def wait_for_step(home: Home, process: subprocess.Popen[bytes]) -> str:
    """The run under way, as soon as a step of it has started."""
    deadline = time.monotonic() + 60
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        while time.monotonic() < deadline and process.poll() is None:
            for run in instance.get_runs(limit=1):
                if instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.STEP_START, limit=1).records:
                    return run.run_id
            time.sleep(0.05)
    raise AssertionError("no step started")


def test_after_a_run_was_killed_the_next_command_goes_on_and_the_dead_run_is_told_as_failed(
    home: Home, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    write_leads(first, 20_000, seed=1)
    write_leads(second, 50, seed=2)
    with platform(home):
        pass  # the instance is there before it is looked into
    command = [sys.executable, "-m", "junk_leads.cli", "ingest", str(first)]
    process = subprocess.Popen(
        command, env={**os.environ, "JUNK_LEADS_HOME": str(home.root)}, stderr=subprocess.DEVNULL
    )
    dead = wait_for_step(home, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = run_command("ingest", second, "--json", home=home)
    assert done.json["drops"][0]["kept"] == 50
    assert f"… run {dead} had ended with its process and is marked as failed" in done.err.splitlines()
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        run = instance.get_run_by_id(dead)
        assert run is not None
        assert run.status is dg.DagsterRunStatus.FAILURE
    again = run_command("ingest", first, "--json", home=home)
    assert again.json["drops"][0]["rows_read"] == 20_000


def test_a_run_is_left_alone_while_any_process_runs_one(home: Home) -> None:
    with platform(home) as found:
        job = found.definitions.resolve_job_def("data_pipeline")
        run = found.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        begun = dg.DagsterEvent(dg.DagsterEventType.STEP_START.value, job.name, step_key="raw_leads")
        found.instance.report_dagster_event(begun, run.run_id)
        with hold(home.running_lock), hold(home.running_lock):
            assert fail_dead_runs(found.instance, home) == []
        assert fail_dead_runs(found.instance, home) == [run.run_id]
        assert fail_dead_runs(found.instance, home) == []


def test_a_run_that_has_just_been_started_is_given_time_to_take_the_lock(home: Home) -> None:
    with platform(home) as found:
        job = found.definitions.resolve_job_def("data_pipeline")
        found.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        assert fail_dead_runs(found.instance, home) == []


def test_a_run_that_a_command_launched_is_dead_as_soon_as_its_process_is(home: Home) -> None:
    with platform(home) as found:
        job = found.definitions.resolve_job_def("data_pipeline")
        run = found.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=HELD_FROM_START)
        with hold(home.running_lock):  # as its process does from before it is made
            assert fail_dead_runs(found.instance, home) == []
        assert fail_dead_runs(found.instance, home) == [run.run_id]


def test_a_command_holds_the_lock_of_runs_before_its_run_is_made(
    home: Home, write_csv: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    with platform(home) as found:
        handle = type(found.instance).handle_new_event

        def watched(self: dg.DagsterInstance, *event: Any, **given: Any) -> None:
            handle(self, *event, **given)
            seen.append(fail_dead_runs(self, home))

        monkeypatch.setattr(type(found.instance), "handle_new_event", watched)
        found.ingest(write_csv("july.csv", {}))
    assert seen
    assert not any(seen)


def test_the_sensor_fails_dead_runs_too(home: Home) -> None:
    with platform(home) as found:
        job = found.definitions.resolve_job_def("data_pipeline")
        run = found.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=HELD_FROM_START)
        sensor = make_incoming_sensor(interval_seconds=1, settle_seconds=0)
        resources = {"home": HomeResource(root=str(home.root))}
        with dg.build_sensor_context(instance=found.instance, resources=resources) as context:
            sensor.evaluate_tick(context)
        told = found.instance.get_run_by_id(run.run_id)
        assert told
        assert told.status == dg.DagsterRunStatus.FAILURE
