"""The product beside the published way and the floor, on one file of generated leads, in one run.

What lives here: running the three by turns as whole processes, and the table of medians, ratios and peak memory.
What does not: the yardsticks themselves (`published_way.py`, `floor.py`).

    python benchmarks/bench.py [--rows 240000] [--rounds 3]
    python benchmarks/bench.py --growth --rows 240000 2400000     the product alone, on files of several sizes
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import tree_cost

HERE = Path(__file__).resolve().parent
PIPELINE = ("raw_leads", "cleaned_leads", "interaction_groups", "encoded_features")
# `score` predicts while it encodes: what encoding takes is seen where nothing else is asked for, as may be in the UI.
ENCODING_ALONE = """
import sys
from junk_leads.cli.speaking import opened_platform
with opened_platform(checking=True) as found:
    import dagster as dg
    found.registry.champion()  # in a home that was copied MLflow is asked, once
    drop = found.ingest(sys.argv[1])["drop"]
    found.launch("inference_pipeline", drop=drop, selection=[dg.AssetKey("encoded_features")])
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[240_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--growth", action="store_true", help="the product alone: time, memory and disk by size")
    given = parser.parse_args()
    if given.growth or len(given.rows) > 1:
        _print_growth(given.rows, given.rounds)
        return
    (given.rows,) = given.rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        leads, new = folder / "history.csv", folder / "new.csv"
        _generate(leads, given.rows)
        _generate(new, given.rows, "--unlabelled", "--seed", "2")
        rounds = [_round(folder / str(number), leads, new) for number in range(given.rounds)]
        print(f"{given.rows:,} generated leads, {given.rounds} rounds, medians; seconds, peak memory in MB\n")
        _print_table(rounds)
        _compare(folder / "0")


def _print_growth(sizes: list[int], rounds: int) -> None:
    """Whole processes on files of several sizes: seconds, peak memory of the process tree, what is left on disk."""
    print(f"generated leads, {rounds} rounds, medians\n")
    print(f"{'':10}{'leads':>14}{'seconds':>10}{'processor':>11}{'memory MB':>11}{'disk MB':>9}{'x linear':>10}")
    former: dict[str, tuple[int, float]] = {}
    for rows in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            leads, new = folder / "history.csv", folder / "new.csv"
            _generate(leads, rows)
            _generate(new, rows, "--unlabelled", "--seed", "2")
            told: dict[str, list[tuple[float, float, float, float]]] = {}
            for number in range(rounds):
                home = folder / str(number)
                for command, arguments in commands_of(leads, new):
                    cost = tree_cost([*_junk_leads(), *arguments], {"JUNK_LEADS_HOME": str(home)})
                    on_disk = sum(path.stat().st_size for path in home.rglob("*") if path.is_file()) / 1e6
                    told.setdefault(command, []).append((*cost, on_disk))
        for command, costs in told.items():
            seconds, processor, memory, disk = (statistics.median(values) for values in zip(*costs, strict=True))
            smaller, its = former.get(command, (rows, seconds))
            times = seconds / its / (rows / smaller)
            print(f"{command:10}{rows:14,}{seconds:10.1f}{processor:11.1f}{memory:11.0f}{disk:9.0f}{times:10.2f}")
            former[command] = (rows, seconds)


def commands_of(leads: Path, new: Path) -> list[tuple[str, list[str]]]:
    """What is measured, in order."""
    return [
        ("ingest", ["ingest", str(leads)]),
        ("train", ["train"]),
        ("promote", ["models", "promote", "1", "--to", "production"]),
        ("score", ["score", str(new)]),
    ]


def _generate(path: Path, rows: int, *more: str) -> None:
    subprocess.run([*_junk_leads(), "generate", "--rows", str(rows), "--out", str(path), *more], check=True)


def _junk_leads() -> list[str]:
    return [sys.executable, "-m", "junk_leads.cli"]


def _round(folder: Path, leads: Path, new: Path) -> dict[str, float]:
    """One round of all three, by turns; every figure by its name."""
    figures: dict[str, float] = {}
    for yardstick in ("published_way", "floor"):
        printed, wall = _run([sys.executable, str(HERE / f"{yardstick}.py"), str(leads), str(folder / yardstick)])
        told = json.loads(printed)
        figures |= {f"{yardstick} {step}": seconds for step, seconds in told["seconds"].items()}
        figures[f"{yardstick} whole"] = wall
        figures[f"{yardstick} memory"] = told["peak_memory_mb"]
    home, alone = folder / "home", folder / "alone"
    for command, arguments in commands_of(leads, new):
        if command == "score":
            shutil.copytree(home, alone)
            tree_cost([sys.executable, "-c", ENCODING_ALONE, str(new)], {"JUNK_LEADS_HOME": str(alone)})
        wall, _, memory = tree_cost([*_junk_leads(), *arguments], {"JUNK_LEADS_HOME": str(home)})
        figures[f"product {command}"] = wall
        figures[f"product {command} memory"] = memory
    told = _materialisations(home)
    figures["product encoding in score"] = told["encoded_features"]
    for asset, seconds in (told | _materialisations(alone)).items():
        figures[f"product {asset}"] = seconds
    figures["product materialisations"] = sum(figures[f"product {asset}"] for asset in PIPELINE)
    figures["product checks"] = sum(figures[f"product {asset} checks"] for asset in PIPELINE)
    return figures


def _run(command: list[str]) -> tuple[str, float]:
    """Run a command; returns what it printed, and its seconds."""
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}")
    return done.stdout, time.perf_counter() - start


def _materialisations(home: Path) -> dict[str, float]:
    """Seconds of the first step of each asset, from Dagster's own events, its checks apart."""
    import dagster as dg

    seconds: dict[str, float] = {}
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        for run in sorted(instance.get_run_records(), key=lambda record: record.create_timestamp):
            for entry in instance.all_logs(run.dagster_run.run_id):
                event: Any = entry.dagster_event
                if event is None or event.step_key in seconds or event.event_type_value != "STEP_SUCCESS":
                    continue
                seconds[event.step_key] = event.event_specific_data.duration_ms / 1000
            for entry in instance.all_logs(run.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
                event = entry.dagster_event
                spent = event.materialization.metadata.get("checks_seconds")
                if spent is not None and f"{event.step_key} checks" not in seconds:
                    seconds[f"{event.step_key} checks"] = float(spent.value)
    for asset in list(seconds):
        if f"{asset} checks" in seconds:
            seconds[asset] -= seconds[f"{asset} checks"]
    return seconds


def _print_table(rounds: list[dict[str, float]]) -> None:
    median = {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}
    print(f"{'':44}{'seconds':>10}{'memory':>10}{'x published':>14}{'x floor':>10}")
    lines = (
        ("published way: data pipeline", "published_way data_pipeline", None, "data_pipeline"),
        ("published way: all", "published_way all", "published_way memory", "all"),
        ("floor: data pipeline", "floor data_pipeline", None, "data_pipeline"),
        ("floor: all", "floor all", "floor memory", "all"),
        ("product: data pipeline, materialisations", "product materialisations", None, "data_pipeline"),
        ("product: data pipeline, checks", "product checks", None, None),
        ("product: `ingest`, whole process", "product ingest", "product ingest memory", "data_pipeline"),
        ("product: `train`, whole process", "product train", "product train memory", "all"),
        ("product: `score`, whole process", "product score", "product score memory", "all"),
    )
    for label, name, memory, against in lines:
        # ratios are made round by round: these machines drift
        ratios = [
            statistics.median(figures[f"{yardstick} {against}"] / figures[name] for figures in rounds)
            if against
            else None
            for yardstick in ("published_way", "floor")
        ]
        told = "".join(f"{'' if r is None else f'{r:.2f}':>{width}}" for r, width in zip(ratios, (14, 10), strict=True))
        print(f"{label:44}{median[name]:10.2f}{f'{median[memory]:.0f}' if memory else '':>10}{told}")
    print("\nby asset (materialisation without checks, then its checks):")
    for asset in PIPELINE:
        print(f"  {asset:24}{median[f'product {asset}']:8.2f}{median[f'product {asset} checks']:8.2f}")
    print(f"  {'the last in `score`':24}{median['product encoding in score']:8.2f}        it predicts meanwhile")


def _compare(folder: Path) -> None:
    """Where the published way and the product make the same table, the two must be equal."""
    import sqlite3

    import duckdb
    import pandas as pd

    from junk_leads.steps.leads.encoding import COUNT_COLUMNS

    with sqlite3.connect(folder / "published_way" / "published.sqlite") as db:
        published = pd.read_sql("SELECT * FROM interactions_mapped", db)
    groups = [name for name in published.columns if name.endswith("_interaction")]
    keys = ["created_date", "city_tier", *COUNT_COLUMNS, *groups, "app_complete_flag"]
    with duckdb.connect(str(folder / "home" / "warehouse.duckdb"), read_only=True) as con:
        told = con.sql(
            "SELECT c.created_date::VARCHAR AS created_date, city_tier, total_leads_droppped, referred_lead, "
            f"{', '.join(groups)}, app_complete_flag, first_platform_c, first_utm_medium_c, first_utm_source_c "
            "FROM cleaned_leads c JOIN interaction_groups g USING (drop, lead_number) WHERE c.drop = 'history'"
        ).df()
    levels = {name: set(published[name]) - {"others"} for name in told.columns if name.startswith("first_")}
    for name, kept in levels.items():
        told[name] = told[name].where(told[name].isin(kept), "others")
    # the published way drops duplicates after it has dropped the city, so it drops some that are none: so do both here
    ours = told.astype(dict.fromkeys(keys[1:], float)).drop_duplicates()
    theirs = published.assign(created_date=published["created_date"].str[:19])[told.columns]
    theirs = theirs.astype(dict.fromkeys(keys[1:], float)).drop_duplicates()
    both = pd.concat([ours, theirs])
    odd = both[~both.duplicated(keep=False)]
    print(f"\nequal tables: {len(ours):,} rows of the product, {len(theirs):,} of the published way, {len(odd)} differ")
    if len(odd):
        raise SystemExit("the product and the published way do not make the same table")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # programs are compiled once, as wherever they are used
    main()
