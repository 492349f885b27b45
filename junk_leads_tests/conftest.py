"""What the tests share: a home of their own, a DuckDB connection, tiny leads and CSV files of them.

`lead` and `leads_of` are plain functions, so that Hypothesis tests can use them too.
"""

import csv
import io
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from filelock import FileLock

from junk_leads.capacity import collect_garbage_rarely
from junk_leads.home import Home
from junk_leads.reference import lead_schema
from junk_leads.steps.leads.arrow import ARROW_TYPES

# nothing calls home; said before Dagster, MLflow or Great Expectations are imported
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["GX_ANALYTICS_ENABLED"] = "false"
os.environ["MLFLOW_LOGGING_LEVEL"] = "ERROR"  # who imports MLflow first sets its level for all
collect_garbage_rarely()  # as a command does
# two workers on two cores: threads of LightGBM that wait for each other would take most of the time
os.environ["OMP_NUM_THREADS"] = "1"

SCHEMA = lead_schema()
SHARED = Path(__file__).parents[2] / "shared" / "data"
KINDS = {column.name: ARROW_TYPES[column.type] for column in SCHEMA.columns}
DELIVERED = {
    "created_date": "2021-07-01 00:08:15",
    "city_mapped": "delhi",
    "first_platform_c": "Level0",
    "first_utm_medium_c": "Level1",
    "first_utm_source_c": "Level2",
    "total_leads_droppped": "1.0",
    "referred_lead": "0.0",
    "app_complete_flag": "1",
}


def lead(**cells: Any) -> dict[str, Any]:
    """A typed raw lead: a good one but for these cells; interactions are null unless told."""
    typed = {
        **dict.fromkeys(SCHEMA.names),
        **DELIVERED,
        "total_leads_droppped": 1,
        "referred_lead": 0,
        "app_complete_flag": 1,
        **cells,
    }
    if isinstance(typed["created_date"], str):
        typed["created_date"] = datetime.fromisoformat(typed["created_date"])
    return typed


def leads_of(con: duckdb.DuckDBPyConnection, *leads: Mapping[str, Any], drop: str = "d") -> duckdb.DuckDBPyRelation:
    """Raw leads as the table holds them: `drop`, `lead_number` from 1, and the 45 typed columns."""
    rows = [{"drop": drop, "lead_number": number, **lead(**cells)} for number, cells in enumerate(leads, 1)]
    schema = pa.schema({"drop": pa.string(), "lead_number": pa.int64(), **KINDS})
    return con.from_arrow(pa.Table.from_pylist(rows, schema))


def rows_as_dicts(relation: duckdb.DuckDBPyRelation) -> list[dict[str, Any]]:
    """The rows, those with a drop and lead number in that order."""
    if {"drop", "lead_number"} <= set(relation.columns):
        relation = relation.order("drop, lead_number")
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


FIRST = ("whole", "running", "engine", "junk_leads_tests")  # rooms that take long: two workers end together so


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of rooms that take long come first, and while the first file makes the trained home those without it."""

    def place(path: Path) -> int:
        return FIRST.index(path.parent.name) if path.parent.name in FIRST else len(FIRST)

    asking = {item.path for item in items if "trained" in getattr(item, "fixturenames", ())}
    first = min(asking, key=lambda path: (place(path), path), default=None)
    items.sort(key=lambda item: (item.path != first, place(item.path), item.path in asking))


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc to see processes in")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Interrupts are heard, also where the tests were started with SIGINT ignored, as a script's background job is.

    There Dagster has SIGTERM ignored too, after the first run.
    """
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    former_end = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, former)
    signal.signal(signal.SIGTERM, former_end)


def free_port(first: int | None = None) -> int:
    """A port that nothing listens on, below those that the system hands out by itself; from `first` on, if given."""
    first = 20_000 + os.getpid() % 5_000 * 2 if first is None else first
    for port in range(first, first + 1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


def until(what: Callable[[], object]) -> None:
    """Wait until a look finds something; a minute at most."""
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _a_home_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes what belongs to the user."""
    monkeypatch.setenv("JUNK_LEADS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))
    monkeypatch.setenv("JUNK_LEADS_SCHEDULER", "")  # a command sets it for its process


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """The home that JUNK_LEADS_HOME names, its folders made."""
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to an empty database in memory."""
    with duckdb.connect() as connection:
        yield connection


@pytest.fixture
def leads(con: duckdb.DuckDBPyConnection) -> Callable[..., duckdb.DuckDBPyRelation]:
    """Makes raw leads on `con`: `leads({"city_mapped": None}, {}, drop="july")`."""
    return lambda *rows, drop="d": leads_of(con, *rows, drop=drop)


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[..., Path]:
    """Writes a delivered CSV: `write_csv("july.csv", {"city_mapped": "pune"}, columns=..., folder=...)`."""

    def write(
        name: str, *rows: Mapping[str, Any], columns: tuple[str, ...] = SCHEMA.names, folder: Path = tmp_path
    ) -> Path:
        path = folder / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([{**DELIVERED, **row}.get(column, "") for column in columns] for row in rows)
        return path

    return write


# ---------------------------------------------------------------------------------------------------------------------
# A trained home, for the tests of whole pipelines: made once in a session (by one worker), copied where a test
# changes it. And the command line, run in this process.


@dataclass(frozen=True)
class Trained:
    """A home with a labelled drop `history`, version 1 trained on it and in Production, and a scored drop `new`."""

    home: Home
    history: Path
    new: Path


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        return json.loads(self.out)

    @property
    def failures(self) -> list[str]:
        """The lines on stderr that say what went wrong; there is never anything but these and progress."""
        lines = self.err.splitlines()
        strange = [line for line in lines if not line.startswith(("… ", "junk-leads: "))]
        assert strange == [], self.err
        return [line.removeprefix("junk-leads: ") for line in lines if line.startswith("junk-leads: ")]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The trained home of this session, to read only; made under a lock, for other workers use it too."""
    from junk_leads.running.launching import platform
    from junk_leads.steps.leads.generating import write_leads

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    folder = Path(os.environ.get("JUNK_LEADS_TRAINED", folder))  # one for many sessions, as a mutation run has them
    made = Trained(Home(folder / "trained"), folder / "history.csv", folder / "new.csv")
    ready = folder / "trained.ready"
    with FileLock(folder / "trained.lock"), pytest.MonkeyPatch.context() as patch:
        if not ready.exists():
            patch.setenv("DAGSTER_HOME", "")
            write_leads(made.history, 6_000, seed=1)
            write_leads(made.new, 400, seed=2, labelled=False)
            with platform(made.home) as found:
                found.process(made.history, "data_pipeline")
                found.train({"rounds": 60})  # fewer than by default: the suite is long enough
                found.registry.promote("1", "production", why="the first", by="a test")
                found.process(made.new, "inference_pipeline")
            ready.touch()
    return made


@pytest.fixture
def trained_home(trained: Trained, tmp_path: Path) -> Home:
    """A copy of the trained home where JUNK_LEADS_HOME says, for a test to change."""
    return copied_home(trained.home, tmp_path / "home")


def copied_home(source: Home, target: Path) -> Home:
    """A copy of a home, which is as good as the home."""
    shutil.copytree(source.root, target, dirs_exist_ok=True)
    return Home(target)


def run_command(*arguments: Any, home: Home | None = None) -> Outcome:
    """A command in this process: `run_command("score", path, "--json")`."""
    from junk_leads import cli

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["junk-leads", *map(str, arguments)])
        if home is not None:
            patch.setenv("JUNK_LEADS_HOME", str(home.root))
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return Outcome(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture
def junk_leads() -> Callable[..., Outcome]:
    """Runs a command in this process, in the home of the test: `junk_leads("score", path, "--json")`."""
    return run_command
