"""Many drops: what is done next costs in a home of 10,000 drops beside one of 100, of the same leads in all.

What lives here: a home whose tables, ledger and Dagster records are those of many small drops, made from one that was
really ingested and divided among them, and the costs of what a person does next. What does not: large drops
(`bench.py`).

    python benchmarks/bench_drops.py [--drops 100 10000] [--leads 200000] [--rounds 3]
"""

import argparse
import json
import shutil
import sqlite3
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bench_latency import servers

from junk_leads.home import Home

SEED = "seed0"
# What the UI asks of Dagster for an asset's page, but for names that do not grow with the drops.
PAGES = {
    "overview": """query($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
        definition { assetChecksOrError { ... on AssetChecks { checks { name
            executionForLatestMaterialization { status evaluation { success } } } } } }
        assetMaterializations(limit: 1) { runId timestamp partition metadataEntries { label } } } } }""",
    "partitions": """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
        partitionKeysByDimension { name partitionKeys }
        assetPartitionStatuses { ... on DefaultPartitionStatuses {
            materializedPartitions failedPartitions unmaterializedPartitions materializingPartitions } } } } }""",
    "events": """query($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
        assetMaterializations(limit: 50) { runId timestamp partition metadataEntries { label } }
        assetObservations(limit: 50) { runId timestamp partition } } } }""",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drops", type=int, nargs="+", default=[100, 10_000], help="how many drops a home has")
    parser.add_argument("--leads", type=int, default=200_000, help="leads of a home, divided among its drops")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    given = parser.parse_args()
    if any(given.leads % drops for drops in given.drops):
        parser.error(f"{given.leads:,} leads cannot be divided evenly among {given.drops} drops")
    figures = {}
    for drops in given.drops:
        with tempfile.TemporaryDirectory() as folder:
            figures[drops] = _costs(Path(folder), drops, given.leads, given.rounds)
    if given.json:
        print(json.dumps(figures))
        return
    print(f"{given.leads:,} leads; processor seconds, of pages those of the clock; medians of {given.rounds}\n")
    print(f"{'':32}" + "".join(f"{f'{drops:,} drops':>16}" for drops in given.drops) + f"{'times':>10}")
    for name in figures[given.drops[0]]:
        costs = [figures[drops][name] for drops in given.drops]
        print(f"{name:32}" + "".join(f"{cost:16.3f}" for cost in costs) + f"{costs[-1] / max(costs[0], 1e-9):10.2f}")


def _costs(folder: Path, drops: int, leads: int, rounds: int) -> dict[str, float]:
    """Processor seconds of this process for each thing, in a home of this many drops."""
    from junk_leads.defs.after_runs import renew_history
    from junk_leads.running.launching import platform
    from junk_leads.steps.leads.generating import write_leads
    from junk_leads.stores.warehouse import connect, rows_of

    home = Home(folder / "home")
    with platform(home) as opened:
        write_leads(folder / f"{SEED}.csv", leads, seed=1)
        opened.ingest(folder / f"{SEED}.csv")
    _divide(home, drops, leads // drops)
    with platform(home) as opened:
        files = [folder / f"next{number}.csv" for number in range(rounds + 1)]
        for number, file in enumerate(files):
            write_leads(file, 20, seed=number + 2)
        with opened.among(2) as each:
            each.ingest(files[0])  # what is made once in a process
            ingest = [_seconds(lambda file=file: each.ingest(file)) for file in files[1:]]  # type: ignore[misc]
        opened.train({})  # counts the leads, as the first training does, and imports
        train = [_seconds(lambda: opened.train({})) for _ in range(rounds)]
        history = [_seconds(lambda: renew_history(home, opened.instance)) for _ in range(rounds)]
        look = [_seconds(lambda: _look(home, opened.instance)) for _ in range(rounds)]
        for number in range(drops):
            shutil.copyfile(files[0], home.incoming / f"waiting{number}.csv")
        seen = _look(home, opened.instance)
        crowded = [_seconds(lambda: _look(home, opened.instance, seen)) for _ in range(rounds)]
        shutil.rmtree(home.incoming)
        with connect(home.warehouse) as con:
            read = [_seconds(lambda: rows_of(con, "cleaned_leads", [SEED]).fetchall()) for _ in range(rounds)]
    costs = {
        "ingest of the next drop": ingest,
        "train": train,
        "the history renewed": history,
        "a look of the sensor": look,
        "a look at as many files": crowded,
        "the rows of a drop": read,
    }
    with servers(home.root) as port:
        for name, query in PAGES.items():
            _page(port, query)  # what is read once
            costs[f"asset page: {name}"] = [_page(port, query) for _ in range(rounds)]
    return {name: statistics.median(seconds) for name, seconds in costs.items()}


def _page(port: int, query: str) -> float:
    """Seconds that Dagster's webserver takes to answer what an asset's page asks."""
    body = json.dumps({"query": query, "variables": {"key": {"path": ["raw_leads"]}}}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", body, headers={"Content-Type": "application/json"}
    )
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:
        told = json.load(answer)
    if "errors" in told:
        raise SystemExit(f"the page could not be read: {told['errors'][0]['message']}")
    return time.perf_counter() - start


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _look(home: Home, instance: object, seen: str | None = None) -> str:
    import dagster as dg

    from junk_leads.definitions import build_defs
    from junk_leads.defs.resources import HomeResource
    from junk_leads.defs.sensors import make_incoming_sensor

    global _DEFINITIONS
    _DEFINITIONS = _DEFINITIONS or build_defs(home)
    context = dg.build_sensor_context(
        instance=instance,  # type: ignore[arg-type]
        cursor=seen,
        definitions=_DEFINITIONS,  # type: ignore[arg-type]
        resources={"home": HomeResource(root=str(home.root))},
    )
    return str(make_incoming_sensor(interval_seconds=5, settle_seconds=0)(context).cursor)  # type: ignore[union-attr]


_DEFINITIONS: object = None


def _divide(home: Home, drops: int, each: int) -> None:
    """Divide the leads of the home's one drop among as many as are asked for, in all its stores."""
    from junk_leads.stores.warehouse import connect

    names = [f"drop{number:06}" for number in range(1, drops)]
    with connect(home.warehouse) as con:
        tables = "SELECT table_name, list(column_name) FROM duckdb_columns() WHERE NOT internal GROUP BY table_name"
        for table, has in con.execute(tables).fetchall():
            if "lead_number" in has:  # rows of leads
                of_lead = "?[(lead_number - 1) // ? + 1]"
                con.execute(
                    f'CREATE TEMP TABLE divided AS SELECT * REPLACE ({of_lead} AS drop) FROM "{table}"',
                    [[SEED, *names], each],
                )
                con.execute(f'DELETE FROM "{table}"')
                con.execute(f'INSERT INTO "{table}" SELECT * FROM divided ORDER BY drop, lead_number')
                con.execute("DROP TABLE divided")
            elif "drop" in has:  # rows about drops
                one = ", least(t.row_count, ?) AS row_count" if "row_count" in has else ""
                con.execute(
                    f'INSERT INTO "{table}" SELECT t.* REPLACE (n.name AS drop{one}) FROM "{table}" AS t, '
                    f"(SELECT unnest(?) AS name) AS n WHERE t.drop = '{SEED}' ORDER BY n.name",
                    [*([each] if one else []), names],
                )
    with closing(sqlite3.connect(home.ledger)) as db, db:
        for table in ("deliveries", "findings"):
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] != "number"]
            told = ", ".join("?" if column == "drop_key" else column for column in columns)
            db.executemany(
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {told} FROM {table} WHERE drop_key = '{SEED}'",
                [(name,) for name in names],
            )
    with closing(sqlite3.connect(home.dagster / "history" / "runs" / "index.db")) as db, db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(event_logs)") if row[1] != "id"]
        told = ", ".join(
            f"replace({column}, '{SEED}', ?1)" if column in ("partition", "event") else column for column in columns
        )
        db.execute(f"CREATE TEMP TABLE seeds AS SELECT * FROM event_logs WHERE partition = '{SEED}'")
        db.executemany(
            f"INSERT INTO event_logs ({', '.join(columns)}) SELECT {told} FROM seeds", [(name,) for name in names]
        )
        db.executemany(
            "INSERT INTO dynamic_partitions (partitions_def_name, partition) VALUES ('drops', ?)",
            [(name,) for name in names],
        )


if __name__ == "__main__":
    main()
