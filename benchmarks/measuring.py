"""How both yardsticks are called and measured: their command line, seconds per step, peak memory.

What lives here: what `published_way.py` and `floor.py` share besides the work itself. What does not: any
work on leads (each script does all of its own), nor medians and ratios (those are made of many runs).
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep

REFERENCE = Path(__file__).resolve().parents[1] / "junk_leads" / "reference"
Levels = dict[str, list[str]]


class Stopwatch:
    """Wall-clock seconds of each named step, in the order of the steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times the body of the `with`."""
        start = perf_counter()
        yield
        self.seconds[name] = perf_counter() - start

    def report(self) -> dict[str, float]:
        """The steps and two sums: `data_pipeline` (from the CSV to the features) and `all`."""
        data_pipeline = sum(s for step, s in self.seconds.items() if step not in ("train", "predict"))
        sums = {"data_pipeline": data_pipeline, "all": sum(self.seconds.values())}
        return {name: round(seconds, 3) for name, seconds in {**self.seconds, **sums}.items()}


def peak_memory_mb() -> float:
    """The most memory this process held at once, in MB.

    Linux's own peak of this program: what `getrusage` says is never below the peak of the process that
    started this one (it is handed down by fork and exec), so a large caller would spoil the figure.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return round(next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024, 1)


def tree_cost(command: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Run a command; returns its seconds, the processor seconds and the peak memory in MB of it and all that it starts.

    Memory is looked at ten times a second, pages that processes share counted for each. Ends this process when the
    command fails.
    """
    start, before = perf_counter(), os.times()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=told, stderr=told)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _memory_mb(process.pid))
            sleep(0.1)
        if process.returncode:
            told.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {told.read().decode()[-300:]}")
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return perf_counter() - start, processor, peak


def _memory_mb(pid: int) -> float:
    """What a process and those below it hold now, in MB; 0 of what has ended meanwhile."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(_memory_mb(int(child)) for child in children)


def arguments(about: str) -> tuple[Path, Path, Levels | None]:
    """Labelled leads (a CSV), the folder to work in (made if need be), significant levels if given."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("leads", type=Path, help="a CSV of labelled leads")
    parser.add_argument("workdir", type=Path, help="a folder; what an earlier run left there is replaced")
    parser.add_argument("--levels", type=Path, help="JSON: column -> its significant levels; else learned")
    given = parser.parse_args()
    given.workdir.mkdir(parents=True, exist_ok=True)
    levels: Levels | None = json.loads(given.levels.read_text(encoding="utf-8")) if given.levels else None
    return given.leads, given.workdir, levels


def print_result(stopwatch: Stopwatch, *, rows: int, kept: int, auc: float) -> None:
    """One JSON object on stdout: seconds, peak memory, rows delivered and kept, AUC on held-out leads."""
    measured = {"seconds": stopwatch.report(), "peak_memory_mb": peak_memory_mb()}
    print(json.dumps({**measured, "rows": rows, "kept": kept, "auc": round(auc, 4)}))
