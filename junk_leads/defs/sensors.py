"""The sensor on `incoming/`: a pure decision over a folder's files and the ledger, and a thin shell.

What lives here: when a file is complete, new, or to be tried again. What does not: reading it (`steps/leads/`) and
moving it (`ledger.py`).
"""

import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg

from junk_leads.defs.assets import DROPS
from junk_leads.defs.jobs import data_pipeline, inference_pipeline
from junk_leads.defs.recovery import fail_dead_runs
from junk_leads.defs.resources import HomeResource
from junk_leads.errors import DropRefused, NoChampion, RegistryError
from junk_leads.reference import lead_schema
from junk_leads.steps.leads.reading import read_header
from junk_leads.stores.ledger import SUFFIXES, Delivery, Ledger, content_of, drop_key
from junk_leads.stores.registry import Registry

MOST_ATTEMPTS = 3
_UNFINISHED_NAMES = (".part", ".tmp", ".crdownload", ".filepart", "~")


@dataclass(frozen=True)
class IncomingFile:
    """A file as the folder's listing shows it.

    `content` is its SHA-256 once it is complete, `problem` why it cannot be read.
    """

    name: str
    size: int
    modified: float
    is_regular: bool = True
    content: str = ""
    problem: str = ""

    @property
    def mark(self) -> list[float]:
        """What changes when the file does."""
        return [self.size, self.modified]


@dataclass(frozen=True)
class Decision:
    """What to do about a file: `wait`, `skip` (leave it), `done` (move it away) or `run`, and why."""

    name: str
    action: str
    reason: str = ""


def is_complete(file: IncomingFile, former: Mapping[str, list[float]], now: float, settle_seconds: float) -> bool:
    """Whether a copy has come to rest: unchanged since the last look, and for some seconds.

    A file from the future (a clock that is wrong) counts as one as long ago.
    """
    return former.get(file.name) == file.mark and abs(now - file.modified) >= settle_seconds


def decide(
    files: Sequence[IncomingFile], deliveries: Sequence[Delivery], run_states: Mapping[str, str], now: float
) -> list[Decision]:
    """What to do about each file of the folder, oldest first.

    `files` without a content are not complete yet; `run_states` says of each run key whether its run is
    `running`, `failed` or `done` (absent: there is no run); `now` is in seconds since 1970. One delivery of
    a drop is under way at a time.
    """
    known = {(d.drop, d.content): d for d in deliveries}
    newest = {d.drop: d for d in deliveries}
    busy: set[str] = set()
    decisions = []
    for file in sorted(files, key=lambda f: (f.modified, f.name)):
        if not file.is_regular:
            decisions.append(Decision(file.name, "skip", "not a regular file; deliver the CSV itself"))
            continue
        if not file.name.lower().endswith(SUFFIXES):
            decisions.append(Decision(file.name, "skip", f"not named {' or '.join(SUFFIXES)}"))
            continue
        if file.name.encode("utf-8", "replace").decode() != file.name:
            decisions.append(Decision(file.name, "skip", "its name is not UTF-8 text; rename it"))
            continue
        if file.problem:
            decisions.append(Decision(file.name, "skip", f"cannot be read ({file.problem}); check its permissions"))
            continue
        drop = drop_key(file.name)
        if not file.content:
            decisions.append(Decision(file.name, "wait", "still being copied"))
        elif drop in busy:
            decisions.append(Decision(file.name, "wait", f"another file of drop {drop} is under way"))
        else:
            decision = _decide_delivery(file, known.get((drop, file.content)), newest.get(drop), run_states, now)
            decisions.append(decision)
            if decision.action in ("run", "wait"):
                busy.add(drop)
    return decisions


def _decide_delivery(
    file: IncomingFile,
    delivery: Delivery | None,
    newest: Delivery | None,
    run_states: Mapping[str, str],
    now: float,
) -> Decision:
    if delivery is None or (delivery != newest and delivery.status != "refused"):
        return Decision(file.name, "run", "new content")
    if delivery.status == "accepted":
        return Decision(file.name, "done", "the same content was accepted already")
    if delivery.status == "refused":
        return Decision(file.name, "done", f"the same content was refused already: {delivery.reason}")
    state = run_states.get(run_key(delivery), "none")
    if state == "running":
        return Decision(file.name, "wait", "its run is under way")
    if state == "none":
        return Decision(file.name, "run", "its run was never started")
    if delivery.attempts < MOST_ATTEMPTS or delivery.updated < file.modified <= now:
        return Decision(file.name, "run", f"attempt {delivery.attempts} {state}")
    return Decision(
        file.name,
        "skip",
        f"its run failed {delivery.attempts} times; look at the runs of drop {delivery.drop}, then touch the file",
    )


def run_key(delivery: Delivery) -> str:
    """The key of the run that reads a delivery; the attempt is in it, or a retry would never start."""
    return f"{delivery.drop}:{delivery.content[:16]}:{delivery.attempts}"


def list_incoming(folder: Path) -> list[IncomingFile]:
    """The folder's files, those named as unfinished or hidden left out. Raises OSError when it cannot be read."""
    files = []
    for entry in os.scandir(folder):
        if entry.name.startswith(".") or entry.name.lower().endswith(_UNFINISHED_NAMES):
            continue
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # moved away while we looked
        files.append(IncomingFile(entry.name, found.st_size, found.st_mtime, stat.S_ISREG(found.st_mode)))
    return files


def with_contents(
    files: Sequence[IncomingFile],
    folder: Path,
    former: Mapping[str, list[float]],
    settle_seconds: float,
    now: float,
) -> list[IncomingFile]:
    """The files, each complete one with its content's SHA-256."""
    found = []
    for file in files:
        content = problem = ""
        if file.is_regular and is_complete(file, former, now, settle_seconds):
            try:
                content = content_of(folder / file.name)
            except DropRefused:
                pass  # moved away, or replaced by a link, while we looked
            except OSError as error:
                problem = error.strerror or type(error).__name__
        found.append(replace(file, content=content, problem=problem))
    return found


def make_incoming_sensor(*, interval_seconds: int, settle_seconds: float) -> dg.SensorDefinition:
    """The sensor, looking every `interval_seconds` and trusting files at rest for `settle_seconds`."""

    @dg.sensor(
        name="incoming_sensor",
        jobs=[data_pipeline, inference_pipeline],
        minimum_interval_seconds=interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="A new complete CSV in incoming/ becomes a drop and a run; unlabelled drops are scored too.",
    )
    def incoming_sensor(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SensorResult:
        folder = home.home.prepare().incoming
        for run_id in fail_dead_runs(context.instance, home.home):
            context.log.warning(f"run {run_id} had ended with its process and is marked as failed")
        ledger = home.ledger
        former: dict[str, list[float]] = json.loads(context.cursor) if context.cursor else {}
        now = time.time()
        files = with_contents(list_incoming(folder), folder, former, settle_seconds, now)
        deliveries = ledger.deliveries()
        waiting = [d for d in deliveries if d.status == "waiting"]
        by_name = {file.name: file for file in files}
        requests, reasons = [], []
        for decision in decide(files, deliveries, _run_states(context.instance, waiting), now):
            file, reason = by_name[decision.name], decision.reason
            if decision.action == "run":
                try:
                    requests.append(_request(ledger, home.registry, folder / file.name, file.content, decision))
                except RegistryError as error:
                    # the file waits: without the registry nobody knows whether it is to be scored
                    reason = str(error)
                    reasons.append(f"{file.name}: {reason}")
            else:
                reasons.append(f"{_shown(file.name)}: {reason}")
            if decision.action == "done":
                _done(ledger, folder / file.name, file.content)
            context.log.info(f"{decision.action}: {_shown(file.name)}: {reason}")
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else ("; ".join(reasons) or "nothing in incoming/"),
            cursor=json.dumps({file.name: file.mark for file in files}),
            dynamic_partitions_requests=[DROPS.build_add_request([str(r.partition_key) for r in requests])],
        )

    return incoming_sensor


def _request(ledger: Ledger, registry: Registry, path: Path, content: str, decision: Decision) -> dg.RunRequest:
    drop = drop_key(path.name)
    job = inference_pipeline if _is_scorable(path, registry) else data_pipeline
    known = [d for d in ledger.deliveries() if (d.drop, d.content) == (drop, content)]
    never_started = decision.reason == "its run was never started"
    delivery = known[0] if known and never_started else ledger.deliver(path, content)
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
    known = next(d for d in ledger.deliveries() if (d.drop, d.content) == (drop_key(path.name), content))
    known.path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, known.path)


def _run_states(instance: dg.DagsterInstance, waiting: Sequence[Delivery]) -> dict[str, str]:
    states = {}
    for delivery in waiting:
        runs = instance.get_runs(filters=dg.RunsFilter(tags={"dagster/run_key": run_key(delivery)}), limit=1)
        if runs:
            finished = runs[0].status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
            succeeded = runs[0].status is dg.DagsterRunStatus.SUCCESS
            states[run_key(delivery)] = "failed" if finished else "done" if succeeded else "running"
    return states


def _tag(text: str) -> str:
    return text.encode("ascii", "replace").decode()[:60]


def _shown(name: str) -> str:
    """A file's name as UTF-8 text on one line; names may be any bytes."""
    return " ".join(name.encode("utf-8", "replace").decode().splitlines())
