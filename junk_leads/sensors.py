"""The sensor on `incoming/`: a pure decision over a folder's files and the ledger, and a thin shell.

What lives here: when a file is complete, new, or to be tried again. What does not: reading it (`steps/reading.py`)
and moving it (`ledger.py`).
"""

import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg

from junk_leads.assets import DROPS
from junk_leads.errors import DropRefused, JunkLeadsError
from junk_leads.jobs import data_pipeline, inference_pipeline
from junk_leads.ledger import SUFFIXES, Delivery, Ledger, content_of, drop_key
from junk_leads.reference import lead_schema
from junk_leads.registry import Registry
from junk_leads.resources import HomeResource
from junk_leads.steps.reading import read_header

MOST_ATTEMPTS = 3
_UNFINISHED_NAMES = (".part", ".tmp", ".crdownload", ".filepart", "~")


@dataclass(frozen=True)
class IncomingFile:
    """A file as the folder's listing shows it; `content` is its SHA-256 once it is complete."""

    name: str
    size: int
    modified: float
    is_regular: bool = True
    content: str = ""

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
    """Whether a copy has come to rest: unchanged since the last look, and for some seconds."""
    return former.get(file.name) == file.mark and now - file.modified >= settle_seconds


def decide(
    files: Sequence[IncomingFile], deliveries: Sequence[Delivery], run_states: Mapping[str, str]
) -> list[Decision]:
    """What to do about each file of the folder, oldest first.

    `files` without a content are not complete yet; `run_states` says of each run key whether its run is
    `running`, `failed` or `done` (absent: there is no run). One delivery of a drop is under way at a time.
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
        drop = drop_key(file.name)
        if not file.content:
            decisions.append(Decision(file.name, "wait", "still being copied"))
        elif drop in busy:
            decisions.append(Decision(file.name, "wait", f"another file of drop {drop} is under way"))
        else:
            decision = _decide_delivery(file, known.get((drop, file.content)), newest.get(drop), run_states)
            decisions.append(decision)
            if decision.action in ("run", "wait"):
                busy.add(drop)
    return decisions


def _decide_delivery(
    file: IncomingFile, delivery: Delivery | None, newest: Delivery | None, run_states: Mapping[str, str]
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
    if delivery.attempts < MOST_ATTEMPTS or file.modified > delivery.updated:
        return Decision(file.name, "run", f"attempt {delivery.attempts} failed")
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
        content = ""
        if file.is_regular and is_complete(file, former, now, settle_seconds):
            try:
                content = content_of(folder / file.name)
            except (OSError, DropRefused):
                content = ""
        found.append(IncomingFile(**{**asdict(file), "content": content}))
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
        ledger = home.ledger
        former: dict[str, list[float]] = json.loads(context.cursor) if context.cursor else {}
        files = with_contents(list_incoming(folder), folder, former, settle_seconds, time.time())
        deliveries = ledger.deliveries()
        waiting = [d for d in deliveries if d.status == "waiting"]
        decisions = decide(files, deliveries, _run_states(context.instance, waiting))
        by_name = {file.name: file for file in files}
        requests = []
        for decision in decisions:
            file = by_name[decision.name]
            context.log.info(f"{decision.action}: {decision.name}: {decision.reason}")
            if decision.action == "run":
                requests.append(_request(ledger, home.registry, folder / file.name, file.content, decision))
            elif decision.action == "done":
                _done(ledger, folder / file.name, file.content)
        reasons = "; ".join(f"{d.name}: {d.reason}" for d in decisions if d.action != "run")
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else (reasons or "nothing in incoming/"),
            cursor=json.dumps({file.name: file.mark for file in files}),
            dynamic_partitions_requests=[DROPS.build_add_request([str(r.partition_key) for r in requests])],
        )

    return incoming_sensor


def _request(ledger: Ledger, registry: Registry, path: Path, content: str, decision: Decision) -> dg.RunRequest:
    drop = drop_key(path.name)
    known = [d for d in ledger.deliveries() if (d.drop, d.content) == (drop, content)]
    never_started = decision.reason == "its run was never started"
    delivery = known[0] if known and never_started else ledger.deliver(path, content)
    job = inference_pipeline if _is_scorable(path, registry) else data_pipeline
    return dg.RunRequest(
        run_key=run_key(delivery), job_name=job.name, partition_key=drop, tags={"junk_leads/file": _tag(path.name)}
    )


def _is_scorable(path: Path, registry: Registry) -> bool:
    """Whether a file is unlabelled and there is a champion to score it; in doubt it is only read."""
    try:
        if lead_schema().label in read_header(path):
            return False
        registry.champion_version()
    except JunkLeadsError:
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
