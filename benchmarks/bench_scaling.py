"""How a drop in shards scales from one worker of one thread to two: seconds, processor seconds, memory, bytes.

    python benchmarks/bench_scaling.py --rows 480000 --shards 8 --repeats 3 [--home HOME]

Steps are those of the graph on every shard (read, clean, group, count; with a home that has a champion also encode and
score), with what the checks look at. Each figure is the best of the repeats, which alternate between one worker and
two. `processor` is what the workers and the head used, which others on the machine do not change: with the share of
the head it says what more workers can bring where wall-clock is not to be trusted. What does not live here: Dagster,
Great Expectations and the warehouse, which stay on one machine and are measured by `bench.py`.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import duckdb
import psutil
from distributed import LocalCluster

from junk_leads.defs.expectations.suites import load_suite
from junk_leads.engine import drops
from junk_leads.engine.cluster import executor_of
from junk_leads.engine.shards import content_of_shard, find_shards, shards_of
from junk_leads.home import Home
from junk_leads.steps.leads.generating import write_leads
from junk_leads.stores.registry import Registry


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rows", type=int, default=480_000)
    asked.add_argument("--shards", type=int, default=8)
    asked.add_argument("--repeats", type=int, default=3)
    asked.add_argument("--home", type=Path, help="score too, with the champion of this home")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "leads"
        shards.mkdir()
        for number in range(given.shards):
            write_leads(shards / f"part-{number:03}.csv", given.rows // given.shards, seed=number + 1)
        runs: dict[int, list[dict[str, dict[str, float]]]] = {1: [], 2: []}
        for repeat in range(given.repeats):
            for workers in (1, 2):
                runs[workers].append(run(workers, shards, Path(folder) / f"tables-{repeat}-{workers}", given.home))
    best = {workers: fastest(found) for workers, found in runs.items()}
    report = {
        "rows": given.rows,
        "shards": given.shards,
        "workers": best,
        "speedup_wall_clock": {step: best[1][step]["seconds"] / best[2][step]["seconds"] for step in best[1]},
        "speedup_by_processor_seconds": {
            step: (cost["head"] + cost["processor"]) / (cost["head"] + cost["processor"] / 2)
            for step, cost in best[1].items()
        },
        "microseconds_of_a_worker_per_lead": {
            step: cost["processor"] / given.rows * 1e6 for step, cost in best[1].items()
        },
    }
    print(json.dumps(rounded(report), indent=1))


def run(workers: int, shards: Path, folder: Path, home: Path | None) -> dict[str, dict[str, float]]:
    """Every step once on so many workers: seconds, processor seconds of the workers and of this head, bytes written."""
    found: dict[str, dict[str, float]] = {}
    model = Registry(Home(home)).champion() if home else None
    looks = {name: load_suite(name).looks for name in ("raw_leads", "cleaned_leads", "interaction_groups")}
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        executor_of(cluster.scheduler_address) as executor,
        duckdb.connect() as con,
    ):
        executor.map(load, list(range(workers * 4)))  # imports are of the workers' start, not of the work
        urls = find_shards(str(shards))

        def step(name: str, work: Callable[[str], Any]) -> Any:
            started, head, there = perf_counter(), process_time(), used_by_workers()
            result = work(str(folder / name))
            found[name] = {
                "seconds": perf_counter() - started,
                "processor": used_by_workers() - there,
                "head": process_time() - head,
                "megabytes_written": sum(path.stat().st_size for path in (folder / name).rglob("*.parquet")) / 1e6,
            }
            return result

        contents = step("hash", lambda _: executor.map(content_of_shard, urls))
        listed = shards_of(urls, contents)
        read = step(
            "read",
            lambda to: drops.read_drop(con, executor, listed, drop="d", folder=to, looks=looks["raw_leads"]),
        )
        cleaned, _ = step(
            "clean",
            lambda to: drops.clean_drop(
                con, executor, read.table.parts, codes={}, folder=to, looks=looks["cleaned_leads"]
            ),
        )
        groups = step(
            "group",
            lambda to: drops.group_drop(con, executor, cleaned.parts, folder=to, looks=looks["interaction_groups"]),
        )
        step("count", lambda _: drops.count_drop(con, executor, cleaned.parts, groups.parts).fetchall())
        if model is not None:
            encoded, _ = step(
                "encode",
                lambda to: drops.encode_drop(
                    con, executor, cleaned.parts, groups.parts, model.encoder, folder=to, looks={}
                ),
            )
            step(
                "score",
                lambda to: drops.score_drop(
                    con,
                    executor,
                    encoded.parts,
                    model,
                    folder=f"{to}/predictions",
                    reasons_folder=f"{to}/reasons",
                    looks={},
                ),
            )
        memory = max(process.memory_info().rss for process in worker_processes()) / 1e6
    names = list(found)
    found["all"] = {figure: sum(found[name][figure] for name in names) for figure in found["hash"]}
    found["all"]["megabytes_of_a_worker"] = memory
    return found


def load(_: int) -> None:
    """Import what the work needs."""
    import junk_leads.engine.on_shards  # noqa: F401


def worker_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.is_running()]


def used_by_workers() -> float:
    times = [process.cpu_times() for process in worker_processes()]
    return float(sum(time.user + time.system for time in times))


def fastest(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        step: {figure: min(found[step][figure] for found in runs) for figure in figures}
        for step, figures in runs[0].items()
    }


def rounded(found: object) -> object:
    if isinstance(found, dict):
        return {name: rounded(value) for name, value in found.items()}
    return round(found, 3) if isinstance(found, float) else found


if __name__ == "__main__":
    main()
