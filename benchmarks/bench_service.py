"""Scores over HTTP, measured on loopback: how long one lead and a thousand take, errors, and memory.

    python benchmarks/bench_service.py [--requests 20000] [--promote VERSION]

It is the service of the home that JUNK_LEADS_HOME names, in a process of its own as each client is. With --promote,
that version is promoted halfway.
"""

import argparse
import csv
import itertools
import json
import multiprocessing
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from junk_leads.steps.leads.generating import write_leads

LEADS = 3_000


def main() -> None:
    parser = argparse.ArgumentParser(description="The HTTP service under load.")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--promote", metavar="VERSION")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        leads = generated(Path(folder))
        service = subprocess.Popen([sys.executable, "-m", "junk_leads.cli", "serve", "--port", str(port)])
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url)
            before = memory(service.pid)
            ask(url, leads[:200], 200)  # connections, imports
            tell("one client", *run(url, leads, 1, given.requests // 4))
            if given.promote:
                promoting = [sys.executable, "-m", "junk_leads.cli", "models", "promote", given.promote]
                subprocess.Popen([*promoting, "--to", "production", "--force", "--why", "a benchmark"])
            tell("eight clients", *run(url, leads, 8, given.requests * 3 // 4))
            many = [timed(httpx.Client(timeout=60), url, leads[:1000])[0] for _ in range(20)]
            print(f"1,000 leads in a request: p50 {statistics.median(many):.0f} ms, most {max(many):.0f} ms")
            print(f"memory: {before:.0f} MB at first, {memory(service.pid):.0f} MB after")
            print(httpx.get(f"{url}/version").text)
        finally:
            service.terminate()
            service.wait(60)


def generated(folder: Path) -> list[dict[str, Any]]:
    path = folder / "leads.csv"
    write_leads(path, LEADS, seed=5, labelled=False)
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: cell or None for name, cell in row.items()} for row in csv.DictReader(file)]


def wait_for(url: str) -> None:
    for _ in range(200):
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit("the service did not come up")


def timed(client: httpx.Client, url: str, leads: list[dict[str, Any]]) -> tuple[float, bool]:
    """Milliseconds of a request, its body made before, and whether it was answered."""
    body = json.dumps({"leads": leads})
    begun = time.perf_counter()
    answer = client.post(f"{url}/score", content=body, headers={"content-type": "application/json"})
    spent = (time.perf_counter() - begun) * 1000
    return spent, answer.is_success and len(answer.json()["predictions"]) == len(leads)


def ask(url: str, leads: list[dict[str, Any]], times: int) -> list[tuple[float, bool]]:
    """So many requests of one lead each."""
    with httpx.Client(timeout=60) as client:
        return [timed(client, url, [lead]) for lead in itertools.islice(itertools.cycle(leads), times)]


def run(url: str, leads: list[dict[str, Any]], clients: int, requests: int) -> tuple[list[float], int, float]:
    """Requests by clients side by side: milliseconds, errors, seconds of all."""
    begun = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(clients) as pool:
        shares = [(url, leads[n * 377 % LEADS :] + leads, requests // clients) for n in range(clients)]
        answers = [answer for found in pool.starmap(ask, shares) for answer in found]
    return [spent for spent, _ in answers], sum(not good for _, good in answers), time.perf_counter() - begun


def tell(who: str, spent: list[float], errors: int, seconds: float) -> None:
    cuts = statistics.quantiles(spent, n=100)
    print(
        f"{who}: {len(spent):,} requests of one lead, p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, most "
        f"{max(spent):.0f} ms, {len(spent) / seconds:.0f} a second, {errors} errors",
        flush=True,
    )


def memory(pid: int) -> float:
    """Resident megabytes of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


if __name__ == "__main__":
    main()
