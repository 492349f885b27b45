"""On a Dask scheduler with two worker processes: the same tables, model and scores, and what becomes of faults."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest

from junk_leads.engine import drops
from junk_leads.engine.cluster import executor_of, releases
from junk_leads.engine.executors import InProcess
from junk_leads.engine.parts import read_parts
from junk_leads.engine.shards import content_of_shard, find_shards, shards_of
from junk_leads.errors import ClusterUnavailable, DropRefused
from junk_leads.home import Home
from junk_leads.stores.registry import Registry
from junk_leads.stores.warehouse import connect, rows_of
from junk_leads_tests.conftest import Trained, free_port, run_command
from junk_leads_tests.engine.leads_in_shards import dirty_lines, write_shards

TABLES = ("raw_leads", "cleaned_leads", "interaction_groups", "lead_counts", "encoded_features", "predictions")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with two worker processes of one thread each."""
    import distributed

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


def in_shards(file: Path, folder: Path, shards: int) -> Path:
    header, *rows = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return write_shards(folder, header, rows, ("csv",) * shards)


# Parity


@pytest.fixture(scope="module")
def on_cluster(trained: Trained, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The trained home once more, each of its drops in shards and all of its work on the cluster."""
    folder = tmp_path_factory.mktemp("cluster")
    home = Home(folder / "home")
    history, new = in_shards(trained.history, folder / "history", 3), in_shards(trained.new, folder / "new", 2)
    for command in (
        ("ingest", history, "--scheduler", scheduler),
        ("train", "--rounds", "60", "--scheduler", scheduler),
        ("models", "promote", "1", "--to", "production"),
        ("score", new, "--scheduler", scheduler),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAGSTER_HOME", "")
            patch.setenv("JUNK_LEADS_SCHEDULER", "")
            outcome = run_command(*command, home=home)
        assert outcome.code == 0, outcome.err
    return home


def stored(home: Home, table: str) -> list[tuple[Any, ...]]:
    with connect(home.warehouse) as con:
        rows = rows_of(con, table)
        return sorted(rows.select(*sorted(rows.columns)).fetchall(), key=repr)


@pytest.mark.parametrize("table", TABLES)
def test_tables_made_on_a_cluster_equal_those_of_one_machine_row_for_row(
    on_cluster: Home, trained: Trained, table: str
) -> None:
    rows = stored(on_cluster, table)
    assert len(rows) > 300
    assert rows == stored(trained.home, table)


def test_the_model_learned_on_a_cluster_is_the_same_bytes(on_cluster: Home, trained: Trained) -> None:
    made, alone = (Registry(home).load("1") for home in (on_cluster, trained.home))
    assert made.booster.model_to_string() == alone.booster.model_to_string()
    assert made.encoder == alone.encoder
    assert made.settings == alone.settings


def test_the_scored_file_of_shards_is_that_of_one_file_to_the_byte(on_cluster: Home, trained: Trained) -> None:
    assert (on_cluster.predictions / "new.csv").read_bytes() == (trained.home.predictions / "new.csv").read_bytes()


def test_rows_stay_in_parts_which_the_warehouse_shows_as_views(on_cluster: Home) -> None:
    with connect(on_cluster.warehouse) as con:
        assert con.table("cleaned_leads").count("*").fetchall() == [(0,)]
        shown = con.sql('SELECT count(*) FROM "cleaned_leads of history"').fetchall()
        assert shown == rows_of(con, "cleaned_leads", ["history"]).count("*").fetchall()
        paths = [path for (path,) in con.sql("SELECT path FROM cleaned_leads_parts ORDER BY path").fetchall()]
    assert len(paths) == 5
    assert all((on_cluster.root / path).is_file() for path in paths)
    assert list(on_cluster.tables.rglob("*.being-written")) == []


# Faults


def read_here(scheduler: str, folder: Path, to: Path) -> drops.ReadDrop:
    with executor_of(scheduler) as executor, duckdb.connect() as con:
        urls = find_shards(str(folder))
        shards = shards_of(urls, executor.map(content_of_shard, urls))
        return drops.read_drop(con, executor, shards, drop="d", folder=str(to), looks={})


def test_a_worker_killed_in_the_middle_costs_no_row(tmp_path: Path) -> None:
    import distributed

    header, rows = dirty_lines(tmp_path, 12_000)
    folder = write_shards(tmp_path / "d", header, rows, ("csv",) * 12)
    killed = []
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:

        def kill_one() -> None:
            while not list((tmp_path / "raw").rglob("*.parquet")):
                time.sleep(0.005)
            killed.append(cluster.workers[0].pid)
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        found = read_here(cluster.scheduler_address, folder, tmp_path / "raw")
        killer.join()
    alone = read_here("", folder, tmp_path / "alone")
    assert killed
    assert (found.rows_read, found.rows_rejected) == (alone.rows_read, alone.rows_rejected) == (12_000, 2)
    assert leads_in(found) == leads_in(alone)


def leads_in(found: drops.ReadDrop) -> list[tuple[object, ...]]:
    with duckdb.connect() as con:
        return read_parts(con, [part.path for part in found.table.parts]).order("lead_number").fetchall()


def test_a_refused_shard_on_a_worker_refuses_the_drop_and_is_named(scheduler: str, tmp_path: Path) -> None:
    header, rows = dirty_lines(tmp_path, 60)
    folder = write_shards(tmp_path / "d", header, rows)
    (folder / "part-1.csv").write_bytes(b"")
    with pytest.raises(DropRefused, match=r"shard 'part-1.csv': the file is empty \(0 bytes\)") as refused:
        read_here(scheduler, folder, tmp_path / "raw")
    assert refused.value.where == "part-1.csv, file"


@pytest.mark.parametrize(
    ("address", "told"),
    [("tcp://127.0.0.1:{port}", "no Dask scheduler answers at 'tcp://127.0.0.1:"), ("nowhere", "no Dask scheduler")],
)
def test_a_wrong_address_is_one_plain_line_within_seconds_and_changes_nothing(
    tmp_path: Path, home: Home, address: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("junk_leads.engine.cluster.PATIENCE_SECONDS", 2.0)
    header, rows = dirty_lines(tmp_path, 60)
    folder = write_shards(tmp_path / "d", header, rows)
    started = time.monotonic()
    outcome = run_command("ingest", folder, "--scheduler", address.format(port=free_port()), home=home)
    assert time.monotonic() - started < 15
    assert outcome.code == 1
    (line,) = outcome.failures
    assert told in line
    assert "nothing was changed" in line
    assert list(home.handed.iterdir()) == []


def test_a_scheduler_that_goes_away_is_told_within_seconds(tmp_path: Path) -> None:
    port = free_port()
    start = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    served = subprocess.Popen(
        [*start, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"], **quiet
    )
    address = f"tcp://127.0.0.1:{port}"
    worker = subprocess.Popen([*start, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"], **quiet)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        with executor_of(address) as executor:
            assert executor.map(partial(pow, 2), [1, 2]) == [2, 4]
            killer = threading.Timer(1.0, served.kill)
            killer.start()
            started = time.monotonic()
            with pytest.raises(ClusterUnavailable, match=f"{address} .*; nothing was changed"):
                executor.map(time.sleep, [30, 30])
            assert time.monotonic() - started < 15
            killer.join()
    finally:
        for process in (worker, served):
            process.kill()
            process.wait()


def test_a_cluster_without_workers_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    monkeypatch.setattr("junk_leads.engine.cluster.PATIENCE_SECONDS", 2.0)
    with distributed.LocalCluster(n_workers=0, dashboard_address=None, silence_logs=50) as cluster:
        told = r"has no workers; nothing was changed: start some \(dask worker tcp://"
        with pytest.raises(ClusterUnavailable, match=told), executor_of(cluster.scheduler_address):
            pass


def test_workers_of_other_releases_are_refused(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {**releases(), "duckdb": "1.0.0"}
    monkeypatch.setattr("junk_leads.engine.cluster.here", lambda: here)
    with pytest.raises(ClusterUnavailable, match=r"has duckdb .* \(here 1.0.0\)"), executor_of(scheduler):
        pass


def test_without_a_scheduler_the_work_is_done_here() -> None:
    with executor_of("") as executor:
        assert isinstance(executor, InProcess)


@pytest.mark.long
def test_the_embedded_path_imports_no_dask(tmp_path: Path) -> None:
    header, rows = dirty_lines(tmp_path, 60)
    folder = write_shards(tmp_path / "d", header, [row for row in rows if row.startswith("20")])
    program = (
        "import sys\nfrom junk_leads import cli\n"
        f"sys.argv = ['junk-leads', 'ingest', {str(folder)!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as ended:\n    assert not ended.code, ended.code\n"
        "found = [name for name in sys.modules if name.split('.')[0] in ('dask', 'distributed')]\n"
        "assert found == [], found\n"
    )
    environment = {**os.environ, "JUNK_LEADS_SCHEDULER": ""}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
