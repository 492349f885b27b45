"""Trials by repetition: what must never fail is done many times over, in processes of their own, and counted.

    python benchmarks/torture.py [TRIAL...] [--times N] [--seed S]        (make torture TRIAL=... TIMES=...)

A trial is a function that does its work once, in a folder of its own, and returns what went wrong, if anything did;
`@trial` puts it into the register by its name. What does not live here: trials of seconds, which are tests.
"""

import argparse
import csv
import gzip
import hashlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import killing
import pyarrow as pa
from pyarrow import parquet

Trial = Callable[[Path, random.Random], str]  # a folder, chance; returns what went wrong, empty when nothing did
Work = TypeVar("Work", bound=Trial)
TRIALS: dict[str, tuple[Trial, int]] = {}
ROWS = 3_000


def trial(times: int) -> Callable[[Work], Work]:
    """Register a trial under its function's name; `times` is how often it is done unless told otherwise."""

    def register(work: Work) -> Work:
        TRIALS[work.__name__] = (work, times)
        return work

    return register


# What trials are made of


def environment(home: Path) -> dict[str, str]:
    own = {
        "JUNK_LEADS_HOME": str(home),
        "DAGSTER_HOME": "",
        "PYTHONFAULTHANDLER": "1",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    return {**os.environ, **own}


def command(home: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "junk_leads.cli", *map(str, arguments)]


def started(home: Path, *arguments: object) -> "subprocess.Popen[str]":
    """A command of junk_leads in a process of its own."""
    return subprocess.Popen(
        command(home, *arguments),
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: "subprocess.Popen[str]", name: str) -> str:
    """How a process ended: empty for 0, else its code and the last lines it said."""
    out, err = process.communicate(timeout=900)
    return "" if process.returncode == 0 else f"{name} ended with {process.returncode}: {(err + out).strip()[-600:]}"


def done(home: Path, *arguments: object) -> str:
    """Run a command to its end; how it ended."""
    return ended(started(home, *arguments), str(arguments[0]))


def generated(folder: Path, seed: int, rows: int = ROWS) -> Path:
    """A file of generated labelled leads."""
    from junk_leads.steps.leads.generating import write_leads

    path = folder / f"leads_{seed}.csv"
    folder.mkdir(exist_ok=True)
    if not path.exists():
        write_leads(path, rows, seed=seed)
    return path


# Trials


@trial(times=300)
def evaluations(folder: Path, chance: random.Random) -> str:
    """`evaluate()`, which trains a dozen boosters, ends in a fresh process."""
    warehouse = folder / "home" / "warehouse.duckdb"
    if not warehouse.exists():
        wrong = done(folder / "home", "ingest", generated(folder, 1))
        if wrong:
            return wrong
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import torture; torture.evaluate_leads()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(folder / "home"), stderr=subprocess.PIPE, text=True
    )
    return ended(process, "evaluate()")


def evaluate_leads() -> None:
    """Learn and judge a model from the cleaned leads of the home, as training does, without logging anything."""
    from junk_leads.defs.assets.model import TrainingConfig
    from junk_leads.home import Home
    from junk_leads.reference import model_settings
    from junk_leads.steps.leads.encoding import LEVEL_COLUMNS, Encoder
    from junk_leads.steps.leads.levels import learn_significant_levels
    from junk_leads.steps.learning.evaluation import evaluate
    from junk_leads.steps.learning.training import labelled_features
    from junk_leads.stores.drops.labelled import counts_of, labelled_drops, uncounted
    from junk_leads.stores.warehouse import connect

    config, settings = TrainingConfig(), model_settings()
    with connect(Home.from_environment().warehouse) as con:
        counts = counts_of(con, labelled_drops(con), uncounted(con))
        encoder = Encoder.of_table(learn_significant_levels(con, counts, LEVEL_COLUMNS))
        data = labelled_features(con, counts, encoder)
    split = {"grades": settings["grades"], "share": settings["holdout_share"], "seed": 1}
    evaluate(data, encoder, config.recipe(), config.aim(), **split)


@trial(times=50)
def trainings(folder: Path, chance: random.Random) -> str:
    """A whole `train` registers a version in a fresh process."""
    home = folder / "home"
    wrong = "" if (home / "warehouse.duckdb").exists() else done(home, "ingest", generated(folder, 1))
    return wrong or done(home, "train")


@trial(times=20)
def first_starts(folder: Path, chance: random.Random, processes: int = 4) -> str:
    """Several `ingest` start at once on a fresh home, and all of them succeed."""
    home = folder / f"home-{chance.getrandbits(64):x}"
    files = [generated(folder, number, 300) for number in range(processes)]
    starting = [started(home, "ingest", file) for file in files]
    wrong = "; ".join(filter(None, [ended(process, "ingest") for process in starting]))
    shutil.rmtree(home)
    return wrong


@trial(times=5)
def first_starts_of_eight(folder: Path, chance: random.Random) -> str:
    """Eight of them."""
    return first_starts(folder, chance, 8)


@trial(times=40)
def creations_killed(folder: Path, chance: random.Random) -> str:
    """A process that makes the warehouse and the ledger is killed at a random moment; the next one opens both."""
    home = folder / f"home-{chance.getrandbits(64):x}"
    make = """
import sys
from pathlib import Path
from junk_leads.home import Home
from junk_leads.stores.ledger import Ledger
from junk_leads.stores.warehouse import connect
home = Home(Path(sys.argv[1])).prepare()
print("ready", flush=True)
with connect(home.warehouse) as con:
    Ledger(home)
    con.execute("CREATE TABLE t AS SELECT 1")
    print("open", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", make, home], stdout=subprocess.PIPE, env=environment(home))
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(chance.uniform(0, 0.06))  # the making takes about as long
    process.kill()
    process.communicate()
    again = subprocess.run(
        [sys.executable, "-c", make, home], env=environment(home), capture_output=True, text=True, timeout=60
    )
    damaged = "" if "already exists" in again.stderr else again.stderr.strip()[-400:]
    shutil.rmtree(home)
    return damaged


@trial(times=20)
def first_starts_killed(folder: Path, chance: random.Random) -> str:
    """A first `ingest` is killed at a random moment; the same again succeeds, without repair by hand."""
    home, file = folder / f"home-{chance.getrandbits(64):x}", generated(folder, 1, 300)
    process = started(home, "ingest", file)
    time.sleep(chance.uniform(0.5, 10))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wrong = done(home, "ingest", file)
    shutil.rmtree(home)
    return wrong


def trained_home(folder: Path) -> Path:
    """A home with a model in production and a scored drop, made once for a trial."""
    home = folder / "trained"
    if not home.exists():
        wrong = done(home, "demo", "--rows", "2000")
        if wrong:
            raise RuntimeError(wrong)
    return home


def told_plainly(command: killing.Command) -> str:
    """Whether a command that may fail did so in plain lines with exit code 1, and did not take forever."""
    command.process.join(120)
    code, err = command.process.exitcode, command.said("err")
    if code not in (0, 1):
        return f"{command.name} ended with {code}: {err.strip()[-600:]}"
    dagsters_own = ("Exception while writing logger call", "(Background on")
    strange = [line for line in err.splitlines() if not line.startswith(("\u2026 ", "junk-leads: ", *dagsters_own))]
    return f"{command.name} told more than plain lines: {strange[-3:]}" if strange else ""


@trial(times=1_000)
def kills(folder: Path, chance: random.Random) -> str:
    """A command is killed at a moment or a durable call; the same again ends as undisturbed, and the doctor is content.

    At a random moment, or before or after one of the calls that make something durable, by turns; the places that were
    hit are counted in `kills-hit.json` in the current folder. Needs strace.
    """
    name = chance.choice(("ingest", "replace", "score", "score", "train", "promote", "rollback", "sensor", "backup"))
    undisturbed = undisturbed_home(folder, name)
    home = folder / f"home-{chance.getrandbits(64):x}"
    last = made_ready(folder, home, name)
    backup, copy = backup_of(folder, home), folder / f"restored-{home.name}"
    at = chance.choice(undisturbed.calls)
    if chance.random() < 0.4:
        where = killing.killed_at_random(killing.Command(home, *last), chance, undisturbed.seconds)
    else:
        log, after = folder / f"{home.name}.strace", chance.random() < 0.5
        where = killing.killed_at(killing.Command(home, *last, traced=True), at, log, after=after)
        log.unlink()
    note_hit(f"{name}: {where}")
    settled: dict[str, Callable[[], bool]] = {  # what was done before the kill, and would be done once more
        "backup": backup.exists,
        "rollback": lambda: is_rolled_back(home),
        "train": lambda: trained(home) == 3,
    }
    wrong = "" if settled.get(name, bool)() else killing.done(home, *last)
    wrong = wrong or killing.done(home, "doctor")
    wrong = wrong or killing.difference(killing.account(home), undisturbed.account)
    if not wrong and name == "backup":
        wrong = killing.done(copy, "restore", backup) or killing.done(copy, "doctor")
        wrong = wrong or killing.difference(killing.account(copy), undisturbed.account)
    for left in (home, backup, copy):
        shutil.rmtree(left, ignore_errors=True)
    return wrong and f"{name}, killed at {where}: {wrong}"


def backup_of(folder: Path, home: Path) -> Path:
    return folder / f"backup-{home.name}"


def made_ready(folder: Path, home: Path, name: str) -> tuple[object, ...]:
    """Make a home in which all is done that comes before a command; returns the command."""
    shutil.copytree(home_to_kill_in(folder), home)
    first, second = (generated(folder, seed, 300) for seed in (11, 12))
    replacing = folder / "replacing" / first.name  # another content under the same name
    replacing.parent.mkdir(exist_ok=True)
    shutil.copyfile(second, replacing)
    if name == "sensor":
        shutil.copyfile(first, home / "incoming" / first.name)
    to_production = ("models", "promote", "2", "--to", "production", "--force", "--why", "torture")
    commands: dict[str, list[tuple[object, ...]]] = {
        "ingest": [("ingest", first)],
        "replace": [("ingest", first), ("ingest", replacing)],
        "score": [("score", first)],
        "train": [("train", "--rounds", 20)],
        "promote": [to_production],
        "rollback": [to_production, ("models", "rollback")],
        "backup": [("backup", backup_of(folder, home))],
        "sensor": [(killing.SENSOR,)],
    }
    *before, last = commands[name]
    for command in before:
        succeed(home, *command)
    return last


def succeed(home: Path, *arguments: object) -> None:
    """Run a command on which a trial builds; raises RuntimeError when it fails."""
    wrong = killing.done(home, *arguments)
    if wrong:
        raise RuntimeError(wrong)


class Undisturbed(NamedTuple):
    """What a command leaves when nobody kills it, its durable calls, and how long it takes."""

    account: dict[str, Any]
    calls: list[killing.DurableCall]
    seconds: float


@cache
def home_to_kill_in(folder: Path) -> Path:
    """A home with a scored drop and two versions, the first in production."""
    home = trained_home(folder)
    succeed(home, "train", "--rounds", 20)
    return home


@cache
def undisturbed_home(folder: Path, name: str) -> Undisturbed:
    home = folder / f"undisturbed-{name}"
    last = made_ready(folder, home, name)
    begun = time.perf_counter()
    calls = killing.durable_calls(home, last)
    seconds = time.perf_counter() - begun
    succeed(home, "doctor")
    return Undisturbed(killing.account(home), calls, seconds)


def is_rolled_back(home: Path) -> bool:
    from junk_leads.home import Home
    from junk_leads.stores.registry import Registry

    registry = Registry(Home(home))
    return registry.champion_version_or_none() == "1" and not registry.is_cut_off()


def trained(home: Path) -> int:
    """How many trainings came to their end."""
    import dagster as dg

    from junk_leads.home import Home
    from junk_leads.running.instance import opened_instance

    with opened_instance(Home(home)) as instance:
        ended = dg.RunsFilter(job_name="training_pipeline", statuses=[dg.DagsterRunStatus.SUCCESS])
        return instance.get_runs_count(ended)


def note_hit(where: str) -> None:
    """Count a place that was hit."""
    hits = Path("kills-hit.json")
    counts = json.loads(hits.read_text()) if hits.exists() else {}
    counts[where] = counts.get(where, 0) + 1
    hits.write_text(json.dumps(counts, indent=1, sort_keys=True))


@trial(times=200)
def disk_full(folder: Path, chance: random.Random) -> str:
    """The disk (a tmpfs, made by root) fills up at a durable call of a command, which says so plainly; nothing is lost.

    With the room back, the same again ends as undisturbed. Needs strace.
    """
    name = chance.choice(("ingest", "score", "train", "promote"))
    undisturbed, disk = undisturbed_home(folder, name), folder / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", disk], check=True)
    try:
        home = disk / f"home-{chance.getrandbits(64):x}"  # MLflow keeps a store of this name open in this process
        last = made_ready(folder, home, name)
        call = chance.choice(undisturbed.calls)

        def fill() -> None:
            with (disk / "filling").open("wb") as filling:
                room = max(shutil.disk_usage(disk).free - chance.choice((0, 4096, 300_000)), 1)
                os.posix_fallocate(filling.fileno(), 0, room)

        command = killing.Command(home, *last, traced=True)
        killing.ended_though(command, call, folder / "disk_full.strace", fill)
        where = f"{name}, full at {call.name} of {call.what}"
        note_hit(where)
        wrong = told_plainly(command)
        (disk / "filling").unlink(missing_ok=True)
        settled = name == "train" and trained(home) == 3
        wrong = wrong or ("" if settled else killing.done(home, *last)) or killing.done(home, "doctor")
        wrong = wrong or killing.difference(killing.account(home), undisturbed.account)
        return wrong and f"{where}: {wrong}"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@trial(times=250)
def damage(folder: Path, chance: random.Random) -> str:
    """A bit of a file of a home flips, or the file is cut: told in plain lines or harmless, never another score.

    Every file has its turn, flipped and cut.
    """
    source, home = trained_home(folder), folder / "damaged"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(source, home)
    name, is_cut = next(turns_of_damage(folder))
    path = home / name
    content = bytearray(path.read_bytes())
    if is_cut:
        del content[chance.randrange(len(content)) :]
    else:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    wrong = told_plainly(killing.Command(home, "score", "sample_new"))
    scored, right = home / "predictions" / "sample_new.csv", source / "predictions" / "sample_new.csv"
    if not wrong and scored.read_bytes() != right.read_bytes():
        wrong = "the scores are others than before"
    wrong = wrong or told_plainly(killing.Command(home, "doctor"))
    return wrong and f"{name}, {'cut' if is_cut else 'flipped'}: {wrong}"


@cache
def turns_of_damage(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Each file of the home that a program reads, flipped and cut, again and again."""
    source = trained_home(folder)
    read_by_none = ("predictions", "reports", "sample", "quarantine", "making.lock", "running.lock", "serving.lock")
    files = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file() and path.stat().st_size]
    return itertools.cycle(
        (file, is_cut) for file in files if file.parts[0] not in read_by_none for is_cut in (False, True)
    )


@trial(times=100_000)
def fuzz(folder: Path, chance: random.Random) -> str:
    """A file of odd leads, whole or damaged, is read: refused, or each of its rows accounted for, in bounded time.

    Of a whole file the rows are known to who wrote it; of a damaged one there are no more than it has lines. What
    breaks the reader is kept in the current folder.
    """
    from junk_leads.errors import DropRefused
    from junk_leads.reference import lead_schema
    from junk_leads.steps.leads.reading import read_leads

    content, suffix, rows = odd_file(chance, lead_schema().names)
    damaged = chance.random() < 0.4
    if damaged:
        for _ in range(chance.choice((1, 1, 2, 20))):
            at = chance.randrange(len(content))
            how = chance.randrange(4)
            odd = bytes(
                chance.choice((b'"', b",", b"\n", b"\r", b"\0", b"\xe9", b";", b"'", bytes([chance.randrange(256)])))
            )
            content = (
                content[:at]
                + (b"" if how == 0 else odd if how < 3 else content[at : at + 40] * 2)
                + content[at + (how < 2) :]
            )
    path = folder / f"drop{suffix}"
    path.write_bytes(content)
    begun = time.perf_counter()
    wrong = ""
    con = in_memory()
    try:
        reading = read_leads(con, path, lead_schema())
    except DropRefused as refused:
        wrong = f"a whole file was refused: {refused}" if not damaged else ""
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    else:
        accounted = con.sql(f"SELECT lead_number FROM {reading.table} ORDER BY 1").fetchall()
        con.execute(f"DROP TABLE {reading.table}")
        if [number for (number,) in accounted] != list(range(1, reading.rows_read + 1)):
            wrong = "not every row is accounted for once"
        elif reading.rows_read != rows if not damaged else suffix == ".csv" and reading.rows_read > lines_in(content):
            wrong = f"{reading.rows_read} rows of {rows}"
    if time.perf_counter() - begun > 30:
        wrong = wrong or "it took over 30 s"
    if wrong:
        crasher = Path(f"fuzz-{hash(content) & 0xFFFFFFFF:x}{suffix}")
        crasher.write_bytes(content)
        wrong += f" ({crasher})"
    return wrong


@cache
def in_memory() -> Any:
    """One DuckDB for all files of a trial."""
    import duckdb

    return duckdb.connect(config={"threads": 1})


ODD_CELLS = (
    *(
        "",
        " ",
        "NA",
        "null",
        "1",
        "1.0",
        "-1",
        "1e400",
        "inf",
        "9" * 30,
        "=1+1",
        "Level0",
        "delhi",
        "DELHI\u200b",
        "a\u0301",
    ),
    *(
        '"',
        '""',
        "a,b",
        "a\nb",
        "a\r\nb",
        "\t",
        "\u00a0x",
        "\u2028",
        "x" * 1_200,
        "\ufeff",
        "😀",
        "1_0",
        "0x1",
        "NaN",
        "'",
    ),
    *("2021-07-01 00:00:01", "2021-02-30 00:00:00", "9999-12-31 00:00:00", "1/2/2021"),
)


def odd_file(chance: random.Random, names: Sequence[str]) -> tuple[bytes, str, int]:
    """A file of good and odd leads, its suffix, and how many rows it has."""
    header = [*names, *(["note", ""] if chance.random() < 0.2 else [])]
    chance.shuffle(header)
    good = {"created_date": "2021-07-01 00:08:15", "city_mapped": "delhi", "app_complete_flag": "1"}
    rows = []
    for _ in range(chance.choice((0, 1, 2, 5, 30, 200))):
        row = [good.get(name, "") for name in header]
        for _ in range(chance.choice((0, 0, 1, 1, 5))):
            row[chance.randrange(len(row))] = chance.choice(ODD_CELLS)
        rows.append(row[: chance.randrange(1, len(row))] if chance.random() < 0.02 else row)
        if not any(cell.strip(" \t\r\n") for cell in rows[-1]) and len(rows[-1]) == 1:
            rows[-1] = ["TOTAL"]
    suffix = chance.choice((".csv", ".csv", ".csv", ".csv.gz", ".parquet"))
    if suffix == ".parquet":
        whole = [row for row in rows if len(row) == len(header)]
        columns = [[row[at] for row in whole] for at in range(len(header))]
        out = io.BytesIO()
        parquet.write_table(pa.Table.from_arrays([pa.array(cells, pa.string()) for cells in columns], header), out)
        return out.getvalue(), suffix, len(whole)
    text = io.StringIO()
    end, all_quoted = chance.choice(("\n", "\r\n", "\r")), chance.choice((False, True))
    quoted = all_quoted or end == "\r"  # the module leaves a lone line feed without quotes there
    writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerow(header)
    for row in rows:
        writer.writerow(row)
        if chance.random() < 0.02:
            text.write(end)
    content = (chance.choice(("", "", "\ufeff")) + text.getvalue()).encode()
    return (gzip.compress(content) if suffix == ".csv.gz" else content), suffix, len(rows)


def lines_in(content: bytes) -> int:
    return content.count(b"\n") + content.count(b"\r") + 1


@trial(times=5)
def together(folder: Path, chance: random.Random, files: int = 50) -> str:
    """Files dropped while the UI is open, commands and two trainings, all at once: every one of them succeeds."""
    home = folder / f"home-{chance.getrandbits(64):x}"
    shutil.copytree(trained_home(folder), home)
    seeds = [chance.getrandbits(40) for _ in range(files)]
    made = [generated(folder, seed, 300) for seed in seeds]
    dropped, named = made[: files // 2], made[files // 2 :]
    with ui_of(home) as server:
        for file in dropped:
            shutil.copyfile(file, home / "incoming" / f"dropped_{file.name}")
        working = [(file.name, started(home, chance.choice(("ingest", "score")), file)) for file in named]
        working += [(f"train {number}", started(home, "train", "--rounds", 20)) for number in (1, 2)]
        wrong = next(filter(None, [ended(process, name) for name, process in working]), "")
        wrong = wrong or all_accepted(home, files + 2, server)
    wrong = wrong or done(home, "doctor")
    shutil.rmtree(home)
    return wrong


@trial(times=50)
def many(folder: Path, chance: random.Random, files: int = 200) -> str:
    """200 drops, some delivered twice, some replaced, the servers killed twice meanwhile: each is accepted once.

    Some more have no dates: somebody is told of each of these.
    """
    home = folder / "many"
    home.mkdir(exist_ok=True)
    before, incoming = len(accepted(home)), home / "incoming"
    delivered = {
        f"drop_{chance.getrandbits(48):012x}.csv": generated(folder / "parts", chance.randrange(200), 20)
        for _ in range(files)
    }
    broken: list[str] = []
    with ui_of(home, dies_after=chance.uniform(3, 60)):
        for name, file in delivered.items():
            hand(file, incoming / name)
            if chance.random() < 0.1:
                broken.append(f"broken_{name}")
                hand(undated(file), incoming / broken[-1])
    replaced = chance.sample(list(delivered), files // 20)
    delivered |= {name: generated(folder / "parts", 200 + number, 21) for number, name in enumerate(replaced)}
    with ui_of(home, dies_after=chance.uniform(3, 60)):
        for name in {*replaced, *chance.sample(list(delivered), files // 5)}:
            hand(delivered[name], incoming / name)
    with ui_of(home) as server:
        wrong = all_accepted(home, before + files, server) or all_told(home, broken)
    wrong = wrong or done(home, "doctor")
    held = {drop: content for drop, content, _ in accepted(home)}
    for name, file in delivered.items():
        if not wrong and held.get(name.removesuffix(".csv")) != hashlib.sha256(file.read_bytes()).hexdigest():
            wrong = f"{name} is not held as it was delivered last"
    return wrong


def undated(file: Path) -> Path:
    """A copy of a file without its first column, which is refused."""
    copy = file.with_suffix(".undated")
    copy.write_bytes(b"".join(line.partition(b",")[2] for line in file.read_bytes().splitlines(keepends=True)))
    return copy


def hand(file: Path, target: Path) -> None:
    """Put a copy of a file into a folder as people do who know better: under another name first."""
    shutil.copyfile(file, target.with_suffix(".part"))
    os.replace(target.with_suffix(".part"), target)


@contextmanager
def ui_of(home: Path, *, dies_after: float | None = None) -> "Iterator[subprocess.Popen[str]]":
    """`junk-leads ui` on a home, its sensor on; ended in the end, or killed with all of its processes after seconds."""
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    log = home.parent / "ui.log"
    with log.open("a") as output:
        server = subprocess.Popen(
            command(home, "ui", "--port", ports[0], "--mlflow-port", ports[1]),
            env={**environment(home), "JUNK_LEADS_SENSOR_SECONDS": "1", "JUNK_LEADS_SETTLE_SECONDS": "0.5"},
            stdout=output,
            stderr=output,
            text=True,
            start_new_session=True,
        )
    try:
        while not (home / "incoming").is_dir():
            time.sleep(0.1)
        yield server
        if dies_after is not None:
            time.sleep(dies_after)
            server.kill()  # its guard stops the servers
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def accepted(home: Path) -> list[tuple[str, str, str]]:
    """The drops that were accepted, with the content of each and its state, newest delivery only."""
    from junk_leads.home import Home
    from junk_leads.stores.ledger import Ledger

    newest = {delivery.drop: delivery for delivery in Ledger(Home(home)).deliveries()}
    return [(d.drop, d.content, d.status) for d in newest.values() if d.status == "accepted"]


def all_accepted(home: Path, drops: int, server: "subprocess.Popen[str]", patience: float = 1_800.0) -> str:
    """Wait until that many drops are accepted and nothing is left in incoming/; what went wrong."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        waiting = [path.name for path in (home / "incoming").iterdir() if not path.name.startswith(".")]
        if not waiting and len(accepted(home)) >= drops:
            return ""
        if server.poll() is not None:
            return f"the UI ended with {server.returncode}"
        time.sleep(1)
    return f"{len(accepted(home))} of {drops} drops were accepted in {patience:g} s; waiting: {waiting[:5]}"


def all_told(home: Path, refused: Sequence[str], patience: float = 120.0) -> str:
    """Wait until somebody was told of every refused file; what went wrong."""
    deadline, untold = time.monotonic() + patience, list(refused)
    while untold and time.monotonic() < deadline:
        time.sleep(1)
        told = (home / "alerts.log").read_text(encoding="utf-8")
        untold = [name for name in untold if f"({name}): " not in told]
    return f"nobody was told that {', '.join(untold)} {'was' if len(untold) == 1 else 'were'} refused" if untold else ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Trials by repetition.")
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=f"of {', '.join(TRIALS)}; all of them without")
    parser.add_argument("--times", type=int, help="how often each is done")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is left to chance")
    parser.add_argument("--folder", type=Path, help="where they are done: it is kept, to go on in with another seed")
    given = parser.parse_args()
    strange = [name for name in given.trials if name not in TRIALS]
    if strange:
        parser.error(f"there is no trial {strange[0]!r}; trials are {', '.join(TRIALS)}")
    if given.folder:
        given.folder = given.folder.absolute()
        given.folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in given.trials or TRIALS:
        work, usual = TRIALS[name]
        times = given.times or usual
        chance, wrong, begun = random.Random(f"{name} {given.seed}"), 0, time.perf_counter()
        with nullcontext(given.folder) if given.folder else tempfile.TemporaryDirectory(prefix="torture-") as folder:
            for number in range(1, times + 1):
                said = work(Path(folder), chance)
                if said:
                    wrong += 1
                    print(f"{name} {number}: {said}", flush=True)
                elif number % max(25, times // 40) == 0:
                    print(f"{name} {number} of {times}, {wrong} failed", file=sys.stderr, flush=True)
        print(f"{name}: {times} times, {wrong} failed, {time.perf_counter() - begun:.0f} s", flush=True)
        failed += wrong
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
