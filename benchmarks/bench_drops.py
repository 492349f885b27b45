"""Many drops: what the next drop, a look of the sensor and training's tables cost in a home of 100 drops and of 10,000.

What lives here: a home whose tables, ledger and Dagster records are those of many small drops, made from one that was
really ingested, and the costs of what a person does next. What does not: large drops (`bench.py`).

    python benchmarks/bench_drops.py [--drops 100 10000] [--leads 20] [--rounds 3]
"""

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from junk_leads.home import Home

SEED = "seed0"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drops", type=int, nargs="+", default=[100, 10_000], help="how many drops a home has")
    parser.add_argument("--leads", type=int, default=20, help="leads of a drop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    given = parser.parse_args()
    figures = {}
    for drops in given.drops:
        with tempfile.TemporaryDirectory() as folder:
            figures[drops] = _costs(Path(folder), drops, given.leads, given.rounds)
    if given.json:
        print(json.dumps(figures))
        return
    print(f"drops of {given.leads} leads; processor seconds, medians of {given.rounds}\n")
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
    _multiply(home, drops)
    with platform(home) as opened:
        files = [folder / f"next{number}.csv" for number in range(rounds + 1)]
        for number, file in enumerate(files):
            write_leads(file, leads, seed=number + 2)
        with opened.among(2) as each:
            each.ingest(files[0])  # what is made once in a process
            ingest = [_seconds(lambda file=file: each.ingest(file)) for file in files[1:]]  # type: ignore[misc]
        history = [_seconds(lambda: renew_history(home, opened.instance)) for _ in range(rounds)]
        look = [_seconds(lambda: _look(home, opened.instance)) for _ in range(rounds)]
        with connect(home.warehouse) as con:
            read = [_seconds(lambda: rows_of(con, "cleaned_leads", [SEED]).fetchall()) for _ in range(rounds)]
        partitions = [
            _seconds(lambda: opened.instance.get_materialized_partitions(_key("raw_leads"))) for _ in range(rounds)
        ]
    return {
        "ingest of the next drop": statistics.median(ingest),
        "the history renewed": statistics.median(history),
        "a look of the sensor": statistics.median(look),
        "the rows of a drop": statistics.median(read),
        "partitions, for asset pages": statistics.median(partitions),
    }


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _key(asset: str) -> object:
    import dagster as dg

    return dg.AssetKey(asset)


def _look(home: Home, instance: object) -> None:
    import dagster as dg

    from junk_leads.definitions import build_defs
    from junk_leads.defs.resources import HomeResource
    from junk_leads.defs.sensors import make_incoming_sensor

    global _DEFINITIONS
    _DEFINITIONS = _DEFINITIONS or build_defs(home)
    context = dg.build_sensor_context(
        instance=instance,  # type: ignore[arg-type]
        definitions=_DEFINITIONS,  # type: ignore[arg-type]
        resources={"home": HomeResource(root=str(home.root))},
    )
    make_incoming_sensor(interval_seconds=5, settle_seconds=3)(context)


_DEFINITIONS: object = None


def _multiply(home: Home, drops: int) -> None:
    """Give the home as many drops as are asked for, each like the one that it has, in all its stores."""
    from junk_leads.stores.warehouse import connect

    names = [f"drop{number:06}" for number in range(1, drops)]
    with connect(home.warehouse) as con:
        tables = [
            row[0]
            for row in con.execute("SELECT table_name FROM duckdb_columns() WHERE column_name = 'drop'").fetchall()
        ]
        for table in tables:
            con.execute(
                f'INSERT INTO "{table}" SELECT t.* REPLACE (n.name AS drop) FROM "{table}" AS t, '
                f"(SELECT unnest(?) AS name) AS n WHERE t.drop = '{SEED}' ORDER BY n.name",
                [names],
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
        db.executemany(
            f"INSERT INTO event_logs ({', '.join(columns)}) SELECT {told} FROM event_logs WHERE partition = '{SEED}'",
            [(name,) for name in names],
        )
        db.executemany(
            "INSERT INTO dynamic_partitions (partitions_def_name, partition) VALUES ('drops', ?)",
            [(name,) for name in names],
        )


if __name__ == "__main__":
    main()
