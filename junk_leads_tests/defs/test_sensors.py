"""The sensor: what it decides about the files of `incoming/`, and what it then asks for and moves."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from dagster._daemon.sensor import MIN_INTERVAL_LOOP_TIME

from junk_leads.definitions import build_defs
from junk_leads.defs import sensors
from junk_leads.defs.resources import HomeResource
from junk_leads.defs.sensors import make_incoming_sensor
from junk_leads.errors import DropRefused, NoChampion, RegistryError
from junk_leads.home import Home
from junk_leads.stores.incoming import (
    MOST_ATTEMPTS,
    MOST_UNDER_WAY,
    IncomingFile,
    arrivals,
    decide,
    is_complete,
    list_incoming,
    run_key,
    with_contents,
)
from junk_leads.stores.ledger import Delivery, Ledger, content_of
from junk_leads.stores.registry import Registry

NOW = 1_000.0
UNLABELLED = ("created_date", "city_mapped")


def file(name: str = "july.csv", content: str = "sha-1", modified: float = 100.0, **more: Any) -> IncomingFile:
    return IncomingFile(name, 10, modified, content=content, **more)


def delivery(
    status: str = "waiting",
    content: str = "sha-1",
    *,
    drop: str = "july",
    attempts: int = 1,
    reason: str = "",
    updated: float = 500.0,
) -> Delivery:
    return Delivery(1, drop, content, "july.csv", Path("july.csv"), status, attempts, reason, updated)


def key(attempts: int = 1, content: str = "sha-1") -> str:
    return f"july:{content}:{attempts}"


# What is told of


def incoming_evaluated(
    home: Home, instance: dg.DagsterInstance, stale_minutes: float, cursor: str | None = None
) -> Any:
    sensor = make_incoming_sensor(interval_seconds=1, settle_seconds=0, stale_minutes=stale_minutes)
    resources = {"home": HomeResource(root=str(home.root))}
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
        return sensor(context)


def test_a_file_that_waits_for_too_long_is_told_of_once_with_the_reason(home: Home) -> None:
    (home.incoming / "july.xlsx").write_bytes(b"PK")
    os.utime(home.incoming / "july.xlsx", (0, 0))  # written long ago, but it came just now
    with dg.DagsterInstance.ephemeral() as instance:
        incoming_evaluated(home, instance, 60)
        assert not home.alerts.exists()
        for _ in range(2):
            incoming_evaluated(home, instance, -1)
    (line,) = home.alerts.read_text().splitlines()
    assert line.endswith(
        "stale folder: july.xlsx has been waiting in incoming/ for 0.0 h: not named .csv, .csv.gz or .parquet"
    )


@pytest.mark.parametrize(("minutes", "told"), [(59, ""), (61, "1.0 h"), (60_000, "1000.0 h")])
def test_how_long_a_file_has_been_waiting_is_told_in_hours_beyond_an_hour(
    home: Home, monkeypatch: pytest.MonkeyPatch, minutes: int, told: str
) -> None:
    (home.incoming / "two\nlines.xlsx").write_bytes(b"PK")
    now = time.time() + 60 * minutes
    monkeypatch.setattr(time, "time", lambda: now)
    with dg.DagsterInstance.ephemeral() as instance:
        incoming_evaluated(home, instance, 60)
    line = home.alerts.read_text() if told else ""
    assert home.alerts.exists() == bool(told)
    assert (f"two lines.xlsx has been waiting in incoming/ for {told}: not named" in line) == bool(told)


def test_when_a_file_came_is_told_while_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "here.csv").touch()
    os.utime(tmp_path / "here.csv", (0, 0))
    came = (tmp_path / "here.csv").stat().st_ctime
    assert arrivals(tmp_path, ["here.csv", "gone.csv"]) == {"here.csv": came}
    assert time.time() - came < 60


def test_files_that_came_while_nobody_looked_are_not_told_of_but_runs_that_do_not_start_are(
    home: Home, write_csv: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for drop in ("july", "august"):
        os.replace(write_csv(f"{drop}.csv"), home.incoming / f"{drop}.csv")
    came = time.time()
    with dg.DagsterInstance.ephemeral() as instance, monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: came + 7_200)
        first = incoming_evaluated(home, instance, 60)
        second = incoming_evaluated(home, instance, 60, first.cursor)
        assert (len(first.run_requests), len(second.run_requests)) == (0, 2)
        for request in second.run_requests:
            tags = {"dagster/run_key": request.run_key}
            instance.add_run(
                dg.DagsterRun("data_pipeline", str(uuid4()), tags=tags, status=dg.DagsterRunStatus.STARTING)
            )
        incoming_evaluated(home, instance, 60, second.cursor)
        assert not home.alerts.exists()
        patch.setattr(time, "time", lambda: came + 7_200 + 3_601)
        incoming_evaluated(home, instance, 60, second.cursor)
    lines = [line.partition("  ")[2] for line in home.alerts.read_text().splitlines()]
    assert sorted(lines) == [
        f"stale folder: {drop}.csv has been waiting in incoming/ for 1.0 h: its run is under way"
        for drop in ("august", "july")
    ]


# What is decided

DECISIONS: dict[str, tuple[list[IncomingFile], list[Delivery], dict[str, str], list[tuple[str, str, str]]]] = {
    "a new file is run": ([file()], [], {}, [("july.csv", "run", "new content")]),
    "a file that is not complete waits": ([file(content="")], [], {}, [("july.csv", "wait", "still being copied")]),
    "a link, folder or pipe is left where it is": (
        [file(is_regular=False)],
        [],
        {},
        [("july.csv", "skip", "not a regular file; deliver the file itself")],
    ),
    "a file of another kind is left where it is": (
        [file("july.xlsx"), file("july.csv.zip")],
        [],
        {},
        [
            ("july.csv.zip", "skip", "not named .csv, .csv.gz or .parquet"),
            ("july.xlsx", "skip", "not named .csv, .csv.gz or .parquet"),
        ],
    ),
    "a file that cannot be read is left where it is": (
        [file(content="", problem="Permission denied")],
        [],
        {},
        [("july.csv", "skip", "cannot be read (Permission denied); check its permissions")],
    ),
    "a name that is no text is left where it is": (
        [file("caf\udce9.csv")],
        [],
        {},
        [("caf\udce9.csv", "skip", "its name is not UTF-8 text; rename it")],
    ),
    "odd but whole names are run": (
        [file("two\nlines.csv"), file("😀.CSV.GZ")],
        [],
        {},
        [("two\nlines.csv", "run", "new content"), ("😀.CSV.GZ", "run", "new content")],
    ),
    "fifty files at once are fifty runs, oldest first": (
        [file(f"d{n}.csv", modified=100 - n) for n in range(50)],
        [],
        {},
        [(f"d{n}.csv", "run", "new content") for n in reversed(range(50))],
    ),
    "of two files of one drop the older runs first": (
        [file("july.csv", "sha-1", 200), file("july.csv.gz", "sha-2", 100)],
        [],
        {},
        [("july.csv.gz", "run", "new content"), ("july.csv", "wait", "another file of drop july is under way")],
    ),
    "the same content again is moved away": (
        [file()],
        [delivery("accepted")],
        {},
        [("july.csv", "done", "the same content was accepted already")],
    ),
    "the same content that was refused is moved away": (
        [file()],
        [delivery("refused", reason="it is empty")],
        {},
        [("july.csv", "done", "the same content was refused already: it is empty")],
    ),
    "the same name with new content is run": (
        [file(content="sha-2")],
        [delivery("accepted")],
        {},
        [("july.csv", "run", "new content")],
    ),
    "the same content under another name is another drop": (
        [file("june.csv")],
        [delivery("accepted")],
        {},
        [("june.csv", "run", "new content")],
    ),
    "a former content that comes back replaces the newer one": (
        [file()],
        [delivery("accepted"), delivery("accepted", "sha-2")],
        {},
        [("july.csv", "run", "new content")],
    ),
    "a former content that was refused stays refused": (
        [file()],
        [delivery("refused", reason="it is empty"), delivery("accepted", "sha-2")],
        {},
        [("july.csv", "done", "the same content was refused already: it is empty")],
    ),
    "a file whose run is under way waits": (
        [file()],
        [delivery()],
        {key(): "running"},
        [("july.csv", "wait", "its run is under way")],
    ),
    "a file whose run is under way keeps other files of its drop waiting": (
        [file(), file("july.csv.gz", "sha-2", 200)],
        [delivery()],
        {key(): "running"},
        [
            ("july.csv", "wait", "its run is under way"),
            ("july.csv.gz", "wait", "another file of drop july is under way"),
        ],
    ),
    "a file that was noted but never run is run": (
        [file()],
        [delivery()],
        {},
        [("july.csv", "run", "its run was never started")],
    ),
    "a failed run is tried again": (
        [file()],
        [delivery()],
        {key(): "failed"},
        [("july.csv", "run", "attempt 1 failed")],
    ),
    "a run that ended without an outcome is tried again": (
        [file()],
        [delivery()],
        {key(): "done"},
        [("july.csv", "run", "attempt 1 done")],
    ),
    "a run that failed too often is left to a person": (
        [file()],
        [delivery(attempts=MOST_ATTEMPTS)],
        {key(3): "failed"},
        [("july.csv", "skip", "its run failed 3 times; look at the runs of drop july, then touch the file")],
    ),
    "a file that a person touched after that is tried again": (
        [file(modified=600)],
        [delivery(attempts=MOST_ATTEMPTS, updated=500)],
        {key(3): "failed"},
        [("july.csv", "run", "attempt 3 failed")],
    ),
    "a file from the future does not count as touched": (
        [file(modified=NOW + 1)],
        [delivery(attempts=MOST_ATTEMPTS, updated=500)],
        {key(3): "failed"},
        [("july.csv", "skip", "its run failed 3 times; look at the runs of drop july, then touch the file")],
    ),
    "a mended file after failures is new content": (
        [file(content="sha-2")],
        [delivery(attempts=MOST_ATTEMPTS)],
        {key(3): "failed"},
        [("july.csv", "run", "new content")],
    ),
    "an empty folder asks for nothing": ([], [delivery("accepted")], {}, []),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_decision(case: str) -> None:
    files, deliveries, states, expected = DECISIONS[case]
    decisions = decide(files, deliveries, states, NOW)
    assert [(d.name, d.action, d.reason) for d in decisions] == expected


def test_of_many_files_the_oldest_are_asked_for_and_no_more_than_may_be_under_way() -> None:
    files = [file(f"d{n}.csv", f"sha-{n}", modified=float(n)) for n in range(MOST_UNDER_WAY + 50)]
    running = [delivery(content=f"sha-{n}", drop=f"d{n}") for n in range(30, MOST_UNDER_WAY)]
    states = {run_key(d): "running" for d in running}
    random.Random(1).shuffle(files)
    decisions = decide(files, running, states, NOW)
    asked = [d.name for d in decisions if d.action == "run"]
    assert asked == [f"d{n}.csv" for n in range(30)]
    assert [d.name for d in decisions if d.asked] == [f"d{n}.csv" for n in range(30, MOST_UNDER_WAY)]
    left = [(d.name, d.reason) for d in decisions[MOST_UNDER_WAY:]]
    assert left == [(f"d{n}.csv", "100 others come first") for n in range(MOST_UNDER_WAY, MOST_UNDER_WAY + 50)]
    assert {d.action for d in decide(files, [], {}, NOW)[:MOST_UNDER_WAY]} == {"run"}


@pytest.mark.parametrize(
    ("former", "modified", "complete"),
    [
        ({}, 100, False),
        ({"july.csv": [10, 100.0]}, 100, True),
        ({"july.csv": [9, 100.0]}, 100, False),
        ({"july.csv": [10, 99.0]}, 100, False),
        ({"july.csv": [10, 997.0]}, 997, False),
        ({"july.csv": [10, 995.0]}, 995, True),
        ({"july.csv": [10, 1e9]}, 1e9, True),
        ({"july.csv": [10, 0.0]}, 0, True),
    ],
)
def test_a_copy_is_complete_when_it_has_not_changed_between_looks_and_for_some_seconds(
    former: dict[str, list[float]], modified: float, complete: bool
) -> None:
    assert is_complete(file(modified=modified), former, NOW, settle_seconds=5) is complete


def test_the_mark_of_a_file_survives_the_cursor() -> None:
    mark = file(modified=1_626_098_895.123456789).mark
    assert json.loads(json.dumps(mark)) == mark


def test_a_run_key_names_drop_content_and_attempt() -> None:
    assert run_key(delivery(content="0123456789abcdef0123", attempts=2)) == "july:0123456789abcdef:2"


# What is looked at


def test_hidden_and_unfinished_files_are_not_listed_and_odd_ones_are_told(tmp_path: Path) -> None:
    for name in ("a.csv", ".hidden.csv", "b.csv.part", "c.tmp", "d.CRDOWNLOAD", "e.filepart", "f.csv~"):
        (tmp_path / name).write_text("x")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    found = {f.name: f.is_regular for f in list_incoming(tmp_path)}
    assert found == {"a.csv": True, "folder.csv": False, "link.csv": False, "pipe.csv": False}


def test_a_file_that_is_moved_away_while_the_folder_is_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gone.csv", "here.csv"):
        (tmp_path / name).touch()
    look = os.scandir

    def look_and_lose(folder: Path) -> list[os.DirEntry[str]]:
        entries = list(look(folder))
        (folder / "gone.csv").unlink()
        return entries

    monkeypatch.setattr(os, "scandir", look_and_lose)
    assert [file.name for file in list_incoming(tmp_path)] == ["here.csv"]


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list_incoming(tmp_path / "absent")


def test_only_complete_regular_files_are_read(tmp_path: Path) -> None:
    for name in ("old.csv", "new.csv"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.csv").mkdir()
    listed = list_incoming(tmp_path)
    former = {f.name: f.mark for f in listed if f.name != "new.csv"}
    found = {f.name: f.content for f in with_contents(listed, tmp_path, former, 0, time.time() + 60)}
    assert found == {"old.csv": content_of(tmp_path / "old.csv"), "new.csv": "", "folder.csv": ""}


@pytest.mark.parametrize(
    ("error", "problem"), [(PermissionError(13, "Permission denied"), "Permission denied"), (DropRefused("gone"), "")]
)
def test_a_file_that_cannot_be_read_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str
) -> None:
    def refuse(path: Path) -> str:
        raise error

    monkeypatch.setattr("junk_leads.stores.incoming.content_of", refuse)
    (found,) = with_contents([file(content="")], tmp_path, {"july.csv": [10, 100.0]}, 0, NOW)
    assert (found.content, found.problem) == ("", problem)


@pytest.mark.parametrize(
    ("name", "text", "taken_after"),
    [
        ("whole.csv", b"a,b\n1,2\n", 4.0),
        ("old_mac.csv", b"a,b\r1,2\r", 4.0),
        ("halted.csv", b"a,b\n1,", 12.0),
        ("empty.csv", b"", 12.0),
        ("packed.csv.gz", b"\n", 12.0),
        ("whole.Parquet", b"PAR1 leads PAR1", 4.0),
        ("halted.parquet", b"PAR1 leads PAR", 12.0),
        ("line.parquet", b"PAR1 leads\n", 12.0),
    ],
)
def test_a_file_that_does_not_end_as_a_whole_one_must_be_at_rest_for_longer(
    tmp_path: Path, name: str, text: bytes, taken_after: float
) -> None:
    (tmp_path / name).write_bytes(text)
    listed = list_incoming(tmp_path)
    former = {file.name: file.mark for file in listed}
    for seconds, taken in ((taken_after - 0.1, False), (taken_after, True)):
        (found,) = with_contents(listed, tmp_path, former, 4.0, listed[0].modified + seconds)
        assert bool(found.content) is taken


def test_a_content_is_looked_at_once_for_as_long_as_the_file_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    monkeypatch.setattr(
        "junk_leads.stores.incoming.content_of", lambda path: looks.append(path.name) or str(len(looks))
    )
    path = tmp_path / "large.csv"
    for text in ("1\n", "1\n2\n"):
        path.write_text(text)
        for _ in range(3):
            listed = list_incoming(tmp_path)
            with_contents(listed, tmp_path, {file.name: file.mark for file in listed}, 0, time.time() + 60)
    assert looks == ["large.csv", "large.csv"]


# The sensor itself


class Incoming:
    """A home's sensor, with the clock of its cursor: `tick()` looks once, files count as at rest at once."""

    def __init__(self, home: Home, instance: dg.DagsterInstance, watch_seconds: float = 0.0) -> None:
        self.home, self.instance = home, instance
        self.ledger = Ledger(home)
        self.definitions = build_defs(home)
        self.sensor = make_incoming_sensor(interval_seconds=1, settle_seconds=0, watch_seconds=watch_seconds)
        self.cursor: str | None = None

    def tick(self) -> dg.SensorResult:
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            definitions=self.definitions,
            resources={"home": HomeResource(root=str(self.home.root))},
        )
        found = self.sensor(context)
        assert isinstance(found, dg.SensorResult)
        self.cursor = found.cursor
        for request in found.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        return found

    def skipped(self) -> str:
        """Looks once, asks for nothing; returns why."""
        found = self.tick()
        assert not found.run_requests
        assert isinstance(found.skip_reason, dg.SkipReason)
        return str(found.skip_reason.skip_message)

    def requested(self) -> list[dg.RunRequest]:
        """Looks once; returns the runs asked for."""
        return list(self.tick().run_requests or [])

    def start(self, request: dg.RunRequest, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        """What the daemon does with a request: a run that carries its key."""
        job = self.definitions.resolve_job_def(request.job_name)
        return self.instance.create_run_for_job(
            job, tags={**request.tags, "dagster/run_key": request.run_key}, status=status
        )


def test_a_look_is_due_whenever_the_daemon_asks(home: Home) -> None:
    (sensor,) = [s for s in build_defs(home).sensors or [] if s.name == "incoming_sensor"]
    assert isinstance(sensor, dg.SensorDefinition)
    assert sensor.minimum_interval_seconds is not None
    # its last look began a little after the daemon's last round
    assert sensor.minimum_interval_seconds <= MIN_INTERVAL_LOOP_TIME - 1


@pytest.fixture
def incoming(home: Home) -> Iterator[Incoming]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Incoming(home, instance)


@pytest.fixture
def put(home: Home, write_csv: Callable[..., Path]) -> Callable[..., Path]:
    return lambda name, *rows, **more: write_csv(name, *rows, folder=home.incoming, **more)


@pytest.fixture(autouse=True)
def champion(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | Exception], None]:
    """Sets what the registry answers when asked for its champion; at first there is none."""

    def answer(champion: str | Exception) -> None:
        def champion_version(self: Registry) -> str:
            if isinstance(champion, Exception):
                raise champion
            return champion

        monkeypatch.setattr(Registry, "champion_version", champion_version)

    answer(NoChampion("no model is in Production yet"))
    return answer


def test_an_empty_folder_is_skipped(incoming: Incoming) -> None:
    assert incoming.skipped() == "nothing in incoming/"


def test_a_new_file_waits_for_one_look_and_is_then_requested_once(incoming: Incoming, put: Callable[..., Path]) -> None:
    path = put("july.csv", {})
    assert incoming.skipped() == "july.csv: still being copied"
    (request,) = incoming.requested()
    delivered = incoming.ledger.newest("july")
    assert (request.job_name, request.partition_key, request.run_key) == ("data_pipeline", "july", run_key(delivered))
    assert request.tags["junk_leads/file"] == "july.csv"
    assert (delivered.path, delivered.content, delivered.status) == (path, content_of(path), "waiting")
    assert incoming.instance.get_dynamic_partitions("drops") == ["july"]

    incoming.start(request, dg.DagsterRunStatus.STARTED)
    assert incoming.skipped() == "july.csv: its run is under way"


@pytest.mark.parametrize("is_moved", [True, False])
def test_a_run_that_succeeds_during_a_look_is_not_asked_for_again(
    incoming: Incoming, put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, is_moved: bool
) -> None:
    path = put("july.csv", {})
    incoming.skipped()
    (request,) = incoming.requested()
    incoming.start(request, dg.DagsterRunStatus.SUCCESS)

    def ends_meanwhile(instance: dg.DagsterInstance, waiting: Sequence[Delivery]) -> dict[str, str]:
        if waiting:  # the ledger has been asked; the run accepts, and then succeeds
            (delivery,) = waiting
            incoming.ledger.accept(delivery)
            if not is_moved:  # as the look found it
                shutil.copyfile(incoming.ledger.newest("july").path, path)
        return run_states(instance, waiting)

    run_states = sensors._run_states
    monkeypatch.setattr(sensors, "_run_states", ends_meanwhile)
    if is_moved:  # after the look has listed it
        listed = sensors.list_incoming(path.parent)
        monkeypatch.setattr(sensors, "list_incoming", lambda _: listed)
        monkeypatch.setattr(sensors, "with_contents", lambda files, *_: [replace(files[0], content=content_of_july)])
    content_of_july = incoming.ledger.newest("july").content
    assert incoming.skipped() == "july.csv: the same content was accepted already"
    (delivery,) = incoming.ledger.deliveries()
    assert (delivery.status, delivery.path.parent, path.exists()) == ("accepted", incoming.home.archive, False)


def test_what_became_of_a_run_is_told_of_its_own_delivery(
    incoming: Incoming, put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {
        "july": (dg.DagsterRunStatus.FAILURE, "failed"),
        "june": (dg.DagsterRunStatus.CANCELED, "failed"),
        "may": (dg.DagsterRunStatus.STARTED, "running"),
        "april": (dg.DagsterRunStatus.SUCCESS, "done"),
        "march": (None, None),
    }
    for name in names:
        put(f"{name}.csv", {})
    incoming.tick()
    for request in incoming.requested():
        status, _ = names[str(request.partition_key)]
        if status is not None:
            incoming.start(request, status)
    monkeypatch.setattr(sensors, "AT_ONCE", 2)
    states = sensors._run_states(incoming.instance, incoming.ledger.deliveries())
    told = {delivery.drop: states.get(run_key(delivery)) for delivery in incoming.ledger.deliveries()}
    assert told == {name: state for name, (_, state) in names.items()}


def test_a_request_that_never_became_a_run_is_made_again_under_its_key(
    incoming: Incoming, put: Callable[..., Path]
) -> None:
    put("july.csv", {})
    requests = [request for _ in range(3) for request in incoming.requested()]
    assert len(requests) == 2
    assert requests[0].run_key == requests[1].run_key


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])
def test_a_failed_run_is_requested_again_under_another_key_until_it_failed_too_often(
    incoming: Incoming, put: Callable[..., Path], status: dg.DagsterRunStatus
) -> None:
    path = put("july.csv", {})
    keys = []
    incoming.tick()
    for _ in range(MOST_ATTEMPTS):
        (request,) = incoming.requested()
        keys.append(request.run_key)
        incoming.start(request, status)
    assert [key.rpartition(":")[2] for key in keys] == ["1", "2", "3"]
    assert incoming.skipped() == (
        "july.csv: its run failed 3 times; look at the runs of drop july, then touch the file"
    )
    touched = incoming.ledger.newest("july").updated + 0.001
    os.utime(path, (touched, touched))
    incoming.tick()
    assert [request.run_key[-2:] for request in incoming.requested()] == [":4"]


def test_an_accepted_file_that_comes_again_joins_the_archived_one(incoming: Incoming, put: Callable[..., Path]) -> None:
    put("july.csv", {})
    incoming.tick()
    incoming.tick()
    incoming.ledger.accept(incoming.ledger.newest("july"))
    assert incoming.skipped() == "nothing in incoming/"

    path = put("july.csv", {})
    incoming.tick()
    assert incoming.skipped() == "july.csv: the same content was accepted already"
    assert not path.exists()
    assert [file.name for file in incoming.home.archive.iterdir()] == [incoming.ledger.newest("july").path.name]


def test_the_same_name_with_new_content_is_requested(incoming: Incoming, put: Callable[..., Path]) -> None:
    put("july.csv", {})
    incoming.tick()
    incoming.tick()
    incoming.ledger.accept(incoming.ledger.newest("july"))
    put("july.csv", {"city_mapped": "pune"})
    incoming.tick()
    (request,) = incoming.requested()
    assert request.run_key == run_key(incoming.ledger.newest("july"))
    assert [d.status for d in incoming.ledger.deliveries()] == ["accepted", "waiting"]


@pytest.mark.parametrize(
    ("columns", "answer", "job"),
    [
        (None, NoChampion("none"), "data_pipeline"),
        (None, "1", "data_pipeline"),
        (UNLABELLED, NoChampion("none"), "data_pipeline"),
        (UNLABELLED, "1", "inference_pipeline"),
    ],
    ids=["labelled", "labelled, champion", "unlabelled", "unlabelled, champion"],
)
def test_only_an_unlabelled_file_is_scored_and_only_by_a_champion(
    incoming: Incoming,
    put: Callable[..., Path],
    champion: Callable[[str | Exception], None],
    columns: tuple[str, ...] | None,
    answer: str | Exception,
    job: str,
) -> None:
    champion(answer)
    put("july.csv", {}, **({"columns": columns} if columns else {}))
    incoming.tick()
    assert [request.job_name for request in incoming.requested()] == [job]


def test_a_file_that_is_no_lead_file_goes_to_the_data_pipeline_which_refuses_it(
    incoming: Incoming, champion: Callable[[str | Exception], None]
) -> None:
    champion("1")
    (incoming.home.incoming / "july.csv").write_bytes(b"")
    incoming.tick()
    assert [request.job_name for request in incoming.requested()] == ["data_pipeline"]


def test_when_the_registry_does_not_answer_unlabelled_files_wait_and_labelled_ones_do_not(
    incoming: Incoming, put: Callable[..., Path], champion: Callable[[str | Exception], None]
) -> None:
    champion(RegistryError("the model registry did not answer"))
    put("unlabelled.csv", {}, columns=UNLABELLED)
    incoming.tick()
    assert incoming.skipped() == "unlabelled.csv: the model registry did not answer"
    assert incoming.ledger.deliveries() == []

    put("labelled.csv", {})
    first, second = incoming.skipped().split("; ")  # each reason with its files
    assert first == "unlabelled.csv: the model registry did not answer"
    assert second.startswith("labelled.csv: ")
    assert [request.partition_key for request in incoming.requested()] == ["labelled"]

    champion("1")
    (request,) = (r for r in incoming.requested() if r.partition_key == "unlabelled")
    assert request.job_name == "inference_pipeline"


def test_files_with_odd_names_are_requested_or_told_and_keep_no_other_file_waiting(
    incoming: Incoming, put: Callable[..., Path]
) -> None:
    for name in ("two\nlines.csv", "😀.csv", "it's; --.csv", "x[1].csv", "n" * 251 + ".csv", "fine.csv"):
        put(name, {})
    (incoming.home.incoming / os.fsdecode(b"caf\xe9.csv")).write_bytes(b"")
    os.mkfifo(incoming.home.incoming / "pipe.csv")
    assert "caf?.csv: its name is not UTF-8 text; rename it" in incoming.skipped()
    requests = incoming.requested()
    assert len({request.partition_key for request in requests}) == 6
    for request in requests:
        incoming.start(request, dg.DagsterRunStatus.STARTED)
    names, _, _ = incoming.skipped().partition(": its run is under way")
    assert names == f"two lines.csv, 😀.csv, it's; --.csv, x[1].csv, {'n' * 251}.csv and 1 more"


def test_a_file_that_the_archive_has_under_another_name_is_taken_away(
    incoming: Incoming, put: Callable[..., Path]
) -> None:
    """As a run leaves it that was killed when the ledger knew, and `incoming/` was not rid of the file yet."""
    path = put("july.csv", {})
    delivery = incoming.ledger.deliver(path, content_of(path))
    incoming.ledger.accept(delivery)
    os.link(incoming.ledger.newest("july").path, path)
    incoming.tick()
    incoming.tick()
    assert not path.exists()
    assert incoming.ledger.newest("july").path.exists()


def test_a_file_that_comes_while_the_sensor_watches_is_requested_by_the_same_look(
    home: Home, put: Callable[..., Path]
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        incoming = Incoming(home, instance, watch_seconds=60)
        started = time.monotonic()
        coming = threading.Timer(0.5, lambda: put("july.csv", {}))
        coming.start()
        assert [request.partition_key for request in incoming.requested()] == ["july"]
        coming.join()
        assert time.monotonic() - started < 30  # what there is to do ends the watch


def test_a_file_that_was_accepted_already_ends_the_watch(home: Home, put: Callable[..., Path]) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        incoming = Incoming(home, instance, watch_seconds=60)
        ledger, path = incoming.ledger, put("july.csv", {})
        ledger.accept(ledger.deliver(path, content_of(path)))
        put("july.csv", {})
        incoming.cursor = json.dumps({file.name: file.mark for file in list_incoming(home.incoming)})
        started = time.monotonic()
        assert incoming.skipped() == "july.csv: the same content was accepted already"
        assert time.monotonic() - started < 30


def test_files_that_come_together_are_requested_together(home: Home, put: Callable[..., Path]) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        incoming = Incoming(home, instance, watch_seconds=60)
        put("first.csv", {})
        incoming.cursor = json.dumps({file.name: file.mark for file in list_incoming(home.incoming)})
        put("second.csv", {})  # the first may be taken at once, this one at the next look
        assert [request.partition_key for request in incoming.requested()] == ["first", "second"]


def test_among_thousands_of_deliveries_a_look_reads_those_of_the_files_that_are_there(
    incoming: Incoming, put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "deliveries", lambda self: pytest.fail("every delivery was read"))
    for name in ("july.csv", "june.csv"):
        put(name, {})
    incoming.tick()
    assert [request.partition_key for request in incoming.requested()] == ["july", "june"]
    incoming.ledger.accept(incoming.ledger.newest("july"))
    put("july.csv", {})
    incoming.tick()
    incoming.tick()
    assert not (incoming.home.incoming / "july.csv").exists()


def test_a_look_imports_nothing_heavy_and_knows_the_champion_all_the_same(trained_home: Home) -> None:
    code = """
import json, os, shutil, sys, time
import dagster as dg
from pathlib import Path
from junk_leads.definitions import defs
from junk_leads.defs.resources import HomeResource
from junk_leads.home import Home
home = Home.from_environment()
with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
    cursor = None
    for _ in range(2):
        context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs,
            resources={"home": HomeResource(root=str(home.root))})
        found = defs.resolve_sensor_def("incoming_sensor")(context)
        cursor = found.cursor
print(json.dumps([[r.job_name for r in found.run_requests],
    [n for n in ("lightgbm", "mlflow", "great_expectations") if n in sys.modules]]))
"""
    (delivered,) = (path for path in trained_home.archive.iterdir() if path.name.startswith("new"))
    shutil.copyfile(delivered, trained_home.incoming / "again.csv")
    settings = {"JUNK_LEADS_HOME": str(trained_home.root), "JUNK_LEADS_SETTLE_SECONDS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [["inference_pipeline"], []]
