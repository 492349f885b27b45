"""The sensor on `incoming/`: from a decision to runs.

What lives here: what Dagster is asked for. What does not: the decision (`stores/incoming.py`), reading a file
(`steps/leads/`) and moving it (`stores/ledger.py`).
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import dagster as dg

from junk_leads.defs.assets import DROPS
from junk_leads.defs.jobs import data_pipeline, inference_pipeline
from junk_leads.defs.recovery import fail_dead_runs
from junk_leads.defs.resources import HomeResource
from junk_leads.errors import DropRefused, NoChampion, RegistryError
from junk_leads.home import Home
from junk_leads.reference import lead_schema
from junk_leads.steps.leads.reading import read_header
from junk_leads.steps.pages.sentences import listed, visible
from junk_leads.stores.incoming import (
    Decision,
    IncomingFile,
    arrivals,
    decide,
    list_incoming,
    run_key,
    with_contents,
)
from junk_leads.stores.ledger import Delivery, Ledger, drop_key
from junk_leads.stores.registry import Registry
from junk_leads.stores.telling.alerting import Alert, alert

LOOK_SECONDS = 0.25
TOGETHER_SECONDS = 1.0
AT_ONCE = 500  # runs asked after at once
_RUN_KEY = "dagster/run_key"


def make_incoming_sensor(
    *, interval_seconds: int, settle_seconds: float, watch_seconds: float = 0.0, stale_minutes: float = 60.0
) -> dg.SensorDefinition:
    """The sensor, looking every `interval_seconds` and trusting files at rest for `settle_seconds`.

    A look goes on for `watch_seconds` while there is nothing to do: Dagster's daemon looks every 5 s at most, which is
    long for who waits for scores.

    A file that still lies there after `stale_minutes` is told of.
    """

    @dg.sensor(
        name="incoming_sensor",
        jobs=[data_pipeline, inference_pipeline],
        # a look begins a moment after the daemon has asked what is due: a whole interval would be due a round later
        minimum_interval_seconds=max(interval_seconds - 1, 1),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="A new complete CSV in incoming/ becomes a drop and a run; unlabelled drops are scored too.",
    )
    def incoming_sensor(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SensorResult:
        folder = home.home.prepare().incoming
        for run_id in fail_dead_runs(context.instance, home.home):
            context.log.warning(f"run {run_id} had ended with its process and is marked as failed")
        ledger = home.ledger
        former: dict[str, list[float]] = json.loads(context.cursor) if context.cursor else {}
        files, decisions = _watch(folder, former, settle_seconds, watch_seconds, ledger, context.instance)
        by_name = {file.name: file for file in files}
        requests, reasons = [], []
        left: dict[str, tuple[str, float | None]] = {}
        for decision in decisions:
            file, reason = by_name[decision.name], decision.reason
            if decision.action == "run":
                try:
                    requests.append(_request(ledger, home.registry, folder / file.name, file.content, decision))
                except RegistryError as error:
                    # the file waits: without the registry nobody knows whether it is to be scored
                    reason = str(error)
                    reasons.append((file.name, reason))
                    left[file.name] = reason, None
            else:
                reasons.append((file.name, reason))
            if decision.action == "done":
                _done(ledger, folder / file.name, file.content)
            if decision.action == "skip" or decision.asked is not None:
                left[file.name] = reason, decision.asked
            if decision.action != "wait":
                context.log.info(f"{decision.action}: {_shown(file.name)}: {reason}")
        _tell_of_stale(home.home, left, time.time(), stale_minutes)
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else (_said(reasons) or "nothing in incoming/"),
            cursor=json.dumps({file.name: file.mark for file in files}),
            dynamic_partitions_requests=[DROPS.build_add_request([str(r.partition_key) for r in requests])],
        )

    return incoming_sensor


def _watch(
    folder: Path,
    former: Mapping[str, list[float]],
    settle_seconds: float,
    watch_seconds: float,
    ledger: Ledger,
    instance: dg.DagsterInstance,
) -> tuple[list[IncomingFile], list[Decision]]:
    """The folder's files and what to do about them: as soon as there is something to do, or when the time is over.

    Files that come together are waited for a little, so that they are asked for together.
    """
    end = time.monotonic() + watch_seconds
    looked_at: list[IncomingFile] | None = None
    decisions: list[Decision] = []
    while True:
        now = time.time()
        files = with_contents(list_incoming(folder), folder, former, settle_seconds, now)
        former = {file.name: file.mark for file in files}
        if files != looked_at:
            looked_at = files
            drops = {drop_key(file.name) for file in files if file.content}
            states = _run_states(instance, [d for d in ledger.deliveries_of(*drops) if d.status == "waiting"])
            # read again: a run that had succeeded by then had settled its delivery before, which is not to run again
            decisions = decide(files, ledger.deliveries_of(*drops), states, now)
            if any(decision.action in ("run", "done") for decision in decisions):
                copied = any(decision.action == "wait" for decision in decisions)
                end = min(end, time.monotonic() + (TOGETHER_SECONDS if copied else 0.0))
        if time.monotonic() >= end:
            return files, decisions
        time.sleep(LOOK_SECONDS)


def _said(reasons: Iterable[tuple[str, str]]) -> str:
    """Why files are left, those of one reason together."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons:
        names.setdefault(reason, []).append(_shown(name))
    return "; ".join(f"{listed(of)}: {reason}" for reason, of in names.items())


def _tell_of_stale(home: Home, left: Mapping[str, tuple[str, float | None]], now: float, stale_minutes: float) -> None:
    """Tell of each file that has been left in `incoming/` for too long, with why.

    It counts from when its run was asked for, else from when the file came: one that comes while nobody looks, or that
    is only now being looked at, is not left.
    """
    came = {name: since for name, (_, since) in left.items() if since is not None}
    came |= arrivals(home.incoming, [name for name in left if name not in came])
    told = [
        Alert(
            "stale folder",
            f"stale:{_shown(name)}:{since}",
            f"{_shown(name)} has been waiting in incoming/ for {(now - since) / 3600:.1f} h: {left[name][0]}",
        )
        for name, since in came.items()
        if now - since > stale_minutes * 60
    ]
    alert(home, *told)


def _request(ledger: Ledger, registry: Registry, path: Path, content: str, decision: Decision) -> dg.RunRequest:
    drop = drop_key(path.name)
    job = inference_pipeline if _is_scorable(path, registry) else data_pipeline
    never_started = decision.reason == "its run was never started"
    delivery = ledger.of_content(drop, content) if never_started else ledger.deliver(path, content)
    return dg.RunRequest(
        run_key=run_key(delivery), job_name=job.name, partition_key=drop, tags={"junk_leads/file": _tag(path.name)}
    )


def _is_scorable(path: Path, registry: Registry) -> bool:
    """Whether a file is unlabelled and there is a champion to score it; what is no lead file is only read.

    Raises RegistryError when the registry does not answer.
    """
    try:
        if lead_schema().label in read_header(path):
            return False
        registry.champion_version()
    except (DropRefused, NoChampion):
        return False
    return True


def _done(ledger: Ledger, path: Path, content: str) -> None:
    """Move a file whose content is settled already to where the former copy of it is."""
    known = ledger.of_content(drop_key(path.name), content)
    known.path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # the run that settled it has moved it since
        os.replace(path, known.path)
    path.unlink(missing_ok=True)  # a run that was killed may have left the file under both names; renaming keeps them


def _run_states(instance: dg.DagsterInstance, waiting: Sequence[Delivery]) -> dict[str, str]:
    states: dict[str, str] = {}
    keys = [run_key(delivery) for delivery in waiting]
    for first in range(0, len(keys), AT_ONCE):
        for run in instance.get_runs(dg.RunsFilter(tags={_RUN_KEY: keys[first : first + AT_ONCE]})):
            finished = run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
            succeeded = run.status is dg.DagsterRunStatus.SUCCESS
            states.setdefault(run.tags[_RUN_KEY], "failed" if finished else "done" if succeeded else "running")
    return states


def _tag(text: str) -> str:
    return text.encode("ascii", "replace").decode()[:60]


def _shown(name: str) -> str:
    """A file's name as text on one line that any terminal may be given; names may be any bytes."""
    return visible(" ".join(name.encode("utf-8", "replace").decode().splitlines()))
