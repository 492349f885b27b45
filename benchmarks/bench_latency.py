"""From drop to scored file: how long a CSV put into `incoming/` takes until its summary is there, `junk-leads ui` open.

What lives here: a home with a champion, the real servers and daemon on free ports, drops put into the folder one by
one and many at once, and where the time of each went, by Dagster's own records. What does not: the work itself.

    python benchmarks/bench_latency.py [--leads 500] [--single 3] [--at-once 20] [--history 6000]
"""

import argparse
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

JUNK_LEADS = [sys.executable, "-m", "junk_leads.cli"]
LONGEST = 900.0  # seconds that anything is waited for


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leads", type=int, default=500, help="leads of a drop")
    parser.add_argument("--single", type=int, default=3, help="drops that come one after the other")
    parser.add_argument("--at-once", type=int, default=20, help="drops that come together")
    parser.add_argument("--history", type=int, default=6_000, help="labelled leads that the champion learns from")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = folder / "home"
        _with_champion(home, folder / "history.csv", given.history)
        names = [f"drop{number:03}" for number in range(given.single + given.at_once)]
        for number, drop in enumerate(names):
            _junk_leads("generate", "--rows", given.leads, "--unlabelled", "--seed", number + 2, "--out", folder / drop)
        with servers(home):
            alone = [_seconds_until_scored(home, folder, [drop]) for drop in names[: given.single]]
            together = _seconds_until_scored(home, folder, names[given.single :]) if given.at_once else 0.0
            parts = _parts(home)
    figures = {"alone": alone, "together": together, "per_minute": 60 * given.at_once / max(together, 1e-9)}
    if given.json:
        print(json.dumps({**figures, "parts": parts}))
        return
    for drop, seconds in zip(names, alone, strict=False):
        told = ", ".join(f"{part} {spent:.1f}" for part, spent in parts[drop].items())
        print(f"{drop}: {seconds:5.1f} s from drop to summary   (of which {told})")
    print(f"median of {len(alone)}: {statistics.median(alone):.1f} s" if alone else "")
    if given.at_once:
        print(f"{given.at_once} at once: {together:.1f} s, {figures['per_minute']:.1f} a minute")


def _junk_leads(*arguments: Any, home: Path | None = None) -> None:
    environment = {**os.environ, **({"JUNK_LEADS_HOME": str(home)} if home else {})}
    done = subprocess.run(
        [*JUNK_LEADS, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"junk-leads {arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}")


def _with_champion(home: Path, history: Path, leads: int) -> None:
    _junk_leads("generate", "--rows", leads, "--out", history)
    _junk_leads("ingest", history, home=home)
    _junk_leads("train", "--rounds", "60", home=home)
    _junk_leads("models", "promote", "1", "--to", "production", home=home)


@contextmanager
def servers(home: Path) -> Iterator[int]:
    """`junk-leads ui` of the home on free ports, ready when its sensor has looked; gives the port of Dagster's UI.

    Ended with all that it started.
    """
    ports = [_free_port() for _ in range(2)]
    command = [*JUNK_LEADS, "ui", "--port", str(ports[0]), "--mlflow-port", str(ports[1])]
    log = (home / "ui.log").open("wb")
    server = subprocess.Popen(
        command, env={**os.environ, "JUNK_LEADS_HOME": str(home)}, stdout=log, stderr=log, start_new_session=True
    )
    try:
        _wait_until(lambda: _ticks(home) > 0 and _answers(ports[0]), "the sensor's first look", server)
        yield ports[0]
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        log.close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def _wait_until(ready: Any, what: str, server: "subprocess.Popen[bytes] | None" = None) -> None:
    deadline = time.monotonic() + LONGEST
    while not ready():
        if server is not None and server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode} before {what}")
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {LONGEST:.0f} s for {what}")
        time.sleep(0.05)


def _ticks(home: Path) -> int:
    import sqlite3
    from contextlib import closing

    store = home / "dagster" / "schedules" / "schedules.db"
    if not store.exists():
        return 0
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        try:
            return int(db.execute("SELECT count(*) FROM job_ticks").fetchone()[0])
        except sqlite3.Error:
            return 0


def _seconds_until_scored(home: Path, folder: Path, drops: list[str]) -> float:
    """Put the drops into `incoming/` as a person does, and wait for the summary of each."""
    start = time.perf_counter()
    for drop in drops:
        with (home / "incoming" / f"{drop}.csv").open("wb") as file:
            file.write((folder / drop).read_bytes())
    summaries = [home / "predictions" / f"{drop}.summary.txt" for drop in drops]
    _wait_until(lambda: all(summary.exists() for summary in summaries), f"the summaries of {len(drops)} drops")
    return time.perf_counter() - start


def _parts(home: Path) -> dict[str, dict[str, float]]:
    """Seconds of each drop's parts: until asked for, in the queue, starting, the steps."""
    import dagster as dg

    parts: dict[str, dict[str, float]] = {}
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        for record in instance.get_run_records():
            drop = record.dagster_run.tags.get("dagster/partition")
            if not drop or not (home / "predictions" / f"{drop}.summary.txt").exists():
                continue
            at = {"asked for": record.create_timestamp.timestamp()}
            for entry in instance.all_logs(record.dagster_run.run_id):
                event = entry.dagster_event
                kind = event.event_type_value if event else ""
                if kind in ("PIPELINE_STARTING", "PIPELINE_START"):
                    at[{"PIPELINE_STARTING": "queue", "PIPELINE_START": "start"}[kind]] = entry.timestamp
                if kind == "STEP_START":
                    at.setdefault("first step", entry.timestamp)
                if kind == "STEP_SUCCESS":
                    at["steps"] = entry.timestamp
            moments = list(at.items())
            parts[drop] = {
                name: round(moment - former, 2) for (_, former), (name, moment) in itertools.pairwise(moments)
            }
    return parts


if __name__ == "__main__":
    main()
