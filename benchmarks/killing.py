"""Killing commands: at a random moment, or at one of the calls that make something durable, and what a home then holds.

What lives here: commands forked from a process that has imported all (a kill then hits work, not imports), the
strace that kills them, and the account of a home that is compared. What does not: which commands (`torture.py`).
"""

import hashlib
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["warmed"])
# the process that forks hears of no other path than this
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
DURABLE = "fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,ftruncate"
SENSOR = "the sensor"  # in place of a command: a look of the sensor, and the runs it asks for
_CALL = re.compile(r"^(?P<thread>\d+) +(?P<name>\w+)\((?P<what>.*)")


class DurableCall(NamedTuple):
    """The `ordinal`-th call of this name by some thread of a command, counted from 1, and what it was about."""

    name: str
    ordinal: int
    what: str


class Command:
    """A command of junk_leads in a forked process, the leader of a group of its own."""

    def __init__(self, home: Path, *arguments: object, traced: bool = False) -> None:
        self.name = str(arguments[0])
        self._said = tempfile.TemporaryDirectory(prefix="torture-said-")  # not beside the home, whose disk may be full
        said = Path(self._said.name)
        self.process = FORKING.Process(target=_run, args=(home, [*map(str, arguments)], said, traced))
        self.process.start()

    def ended(self, patience: float = 120.0) -> str:
        """How it ended: empty for 0, else its code and the last it said."""
        self.process.join(patience)
        code = self.process.exitcode
        if code is None:
            self.kill()
        return "" if code == 0 else f"{self.name} ended with {code}: {(self.said('out') + self.said('err'))[-600:]}"

    def said(self, where: str) -> str:
        """What it wrote on `out` or `err`."""
        return (Path(self._said.name) / where).read_text(errors="replace")

    def kill(self) -> None:
        """End it with -9, and all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        self.process.join()


def done(home: Path, *arguments: object) -> str:
    """Run a command to its end; how it ended."""
    return Command(home, *arguments).ended()


def _run(home: Path, arguments: list[str], said: Path, traced: bool) -> None:
    """The forked process's life."""
    os.setsid()
    os.environ |= {"JUNK_LEADS_HOME": str(home), "DAGSTER_HOME": ""}
    for number, name in ((1, "out"), (2, "err")):
        with (said / name).open("wb") as file:
            os.dup2(file.fileno(), number)
    while traced and "TracerPid:\t0" in Path("/proc/self/status").read_text():
        time.sleep(0.002)
    code: object = 1
    try:
        if arguments == [SENSOR]:
            _look(home)
        else:
            from junk_leads.cli import main

            sys.argv = ["junk-leads", *arguments]
            main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _look(root: Path) -> None:
    """One look of the sensor at `incoming/`, and the runs that it asks for, as Dagster's daemon does them by turns."""
    import dagster as dg

    from junk_leads.defs.after_runs import after_runs, renew_history
    from junk_leads.defs.resources import HomeResource
    from junk_leads.defs.sensors import make_incoming_sensor
    from junk_leads.home import Home
    from junk_leads.running.launching import platform
    from junk_leads.stores.mlflow_store import mlflow_quiet

    sensor = make_incoming_sensor(interval_seconds=1, settle_seconds=0)
    with platform(Home(root)) as at, mlflow_quiet():
        home, cursor = {"home": HomeResource(root=str(root))}, None
        for made in at.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.NOT_STARTED])):
            at.instance.delete_run(made.run_id)  # the daemon would start it, under the same key
        while any(path.is_file() for path in (root / "incoming").iterdir()):
            with dg.build_sensor_context(
                instance=at.instance, cursor=cursor, definitions=at.definitions, resources=home
            ) as context:
                asked: Any = sensor(context)
            cursor = asked.cursor
            for request in asked.dynamic_partitions_requests or ():
                at.instance.add_dynamic_partitions("drops", list(request.partition_keys))
            for request in asked.run_requests or ():
                run = at.definitions.resolve_job_def(request.job_name).execute_in_process(
                    instance=at.instance,
                    partition_key=request.partition_key,
                    tags={**request.tags, "dagster/run_key": request.run_key},
                    raise_on_error=False,
                )
                after_runs(at.home, at.instance, [run.run_id], failed=not run.success)
        renew_history(at.home, at.instance)  # as the daemon does after a run whose end it had not seen yet


# Killing


def killed_at_random(command: Command, chance: random.Random, seconds: float) -> str:
    """Kill a command at a moment within so many seconds; returns where it was."""
    time.sleep(chance.uniform(0, seconds))
    command.kill()
    return "a random moment" if command.process.exitcode == -signal.SIGKILL else "after its end"


def durable_calls(home: Path, arguments: tuple[object, ...]) -> list[DurableCall]:
    """Run a command to its end; the durable calls it made, those on files outside its home left out."""
    log = home.parent / f"{home.name}.strace"
    command = Command(home, *arguments, traced=True)
    with _strace(command, log, []):
        wrong = command.ended()
    if wrong:
        raise RuntimeError(wrong)
    counts: dict[tuple[str, str], int] = {}
    calls = []
    for line in log.read_text(errors="replace").splitlines():
        call = _CALL.match(line)
        if call is None or "resumed>" in line:
            continue
        place = (call["thread"], call["name"])
        counts[place] = counts.get(place, 0) + 1
        if str(home.parent) in call["what"]:
            calls.append(DurableCall(call["name"], counts[place], _shown(call["what"], home)))
    return calls


def killed_at(command: Command, call: DurableCall, log: Path, *, after: bool) -> str:
    """Kill a command, started traced, before or after a durable call; returns where it was."""
    sign = "STOP" if after else "KILL"  # stopped, it has made the call; killed, it has not
    with _strace(command, log, ["-e", f"inject={call.name}:signal={sign}:when={call.ordinal}"]):
        _wait_until_stopped(command, log)
        command.kill()
    if command.process.exitcode != -signal.SIGKILL:
        return "after its end"
    return f"{'after' if after else 'before'} {call.name} of {call.what}"


def ended_though(command: Command, call: DurableCall, log: Path, harm: Callable[[], None]) -> None:
    """Let a command, started traced, go on to its end after `harm` was done to it at a durable call."""
    with _strace(command, log, ["-e", f"inject={call.name}:signal=STOP:when={call.ordinal}"]):
        _wait_until_stopped(command, log)
        harm()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(command.process.pid or 0, signal.SIGCONT)
        command.process.join(120)
        command.kill()


def _wait_until_stopped(command: Command, log: Path) -> None:
    while command.process.is_alive() and "stopped by SIGSTOP" not in log.read_text(errors="replace"):
        command.process.join(0.02)


@contextmanager
def _strace(command: Command, log: Path, more: list[str]) -> Iterator[None]:
    """Strace on a forked command, from its first step to its end."""
    log.write_text("")
    asked = ["strace", "-f", "-y", "-s", "300", "-e", f"trace={DURABLE}", *more, "-o", str(log)]
    with subprocess.Popen([*asked, "-p", str(command.process.pid)], stderr=subprocess.DEVNULL):
        yield


def _shown(what: str, home: Path) -> str:
    """The file of a call without what differs from one run to the next."""
    (path,) = re.findall(rf"{re.escape(str(home.parent))}/([^\"<>]*)", what)[:1] or [what]
    path = path.removeprefix(home.name).removeprefix("/") or "the home"
    path = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}", "RUN", path)
    return re.sub(r"-[0-9a-f]{12}(?=[./])", "-SHA", re.sub(r"tmp\w{8}", "tmp", path))


# What a home holds

_OF_A_RUN = ("run_id", "scored_at", "stored_at", "delivered_at", "delivery")  # columns that no two runs share
_KEPT = ("archive", "incoming", "quarantine", "predictions", "reports", "tables")
_COMPARED = (".csv",)  # of these files the content counts, of others that they are there


def account(root: Path) -> dict[str, Any]:
    """What a home holds, without what differs between two homes that did the same: tables, files, drops, versions."""
    import dagster as dg

    from junk_leads.home import Home
    from junk_leads.running.instance import opened_instance
    from junk_leads.stores.ledger import Ledger
    from junk_leads.stores.registry import Registry
    from junk_leads.stores.warehouse import connect

    home = Home(root)
    tables = {}
    with connect(home.warehouse) as con:
        for (table,) in con.execute("SELECT table_name FROM duckdb_tables() ORDER BY ALL").fetchall():
            rows = con.table(table)
            columns = {c: str(t) for c, t in zip(rows.columns, rows.types, strict=True) if c not in _OF_A_RUN}
            sums = table == "prediction_summary"  # the last bits of a sum depend on which thread was first
            row = ", ".join(f'round("{c}", 9)' if sums and t == "DOUBLE" else f'"{c}"' for c, t in columns.items())
            count, hashed = con.execute(f'SELECT count(*), sum(hash({row})::HUGEINT) FROM "{table}"').fetchall()[0]
            tables[table] = (count, str(hashed))
    files = {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        if path.suffix in _COMPARED
        else ""
        for folder in _KEPT
        for path in sorted((root / folder).rglob("*"))
        # of a training that had ended nothing is done again: what is left of a published table the next run's end takes
        if path.is_file() and (folder, path.suffix) != ("tables", ".part")
    }
    registry = Registry(home)
    with opened_instance(home) as instance:
        unfinished = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        partitions = sorted(instance.get_dynamic_partitions("drops"))
    experiments = registry.client.search_experiments()
    running = registry.client.search_runs([e.experiment_id for e in experiments], "attribute.status = 'RUNNING'")
    events = [(e["version"], e["from"], e["to"]) for e in registry.history()]
    return {
        "tables": tables,
        "files": files,
        "deliveries": sorted((d.drop, d.content, d.status, d.path.is_file()) for d in Ledger(home).deliveries()),
        "partitions": partitions,
        "versions": [(v.version, v.stage) for v in registry.versions()],
        "transitions": events,
        "unfinished runs": len(unfinished) + len(running),
    }


def difference(found: dict[str, Any], right: dict[str, Any]) -> str:
    """What one account has otherwise than another, in a line; empty when they are equal."""
    told = []
    for part in right:
        if found[part] == right[part]:
            continue
        here, there = ({json.dumps(x, default=str) for x in _items(a[part])} for a in (found, right))
        told.append(f"{part}: {sorted(here - there)[:3]} instead of {sorted(there - here)[:3]}")
    return "; ".join(told)


def _items(part: Any) -> list[Any]:
    return list(part.items()) if isinstance(part, dict) else list(part) if isinstance(part, list) else [part]
