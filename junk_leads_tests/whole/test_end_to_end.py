"""`junk-leads ui` as a person has it: the daemon, the sensor and the two UIs as processes, and a browser.

What lives here: what only shows when the parts run together. What does not: what each does, which the other tests
hold. One server is shared, in the order of this file: the last test ends it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import dagster as dg
import pytest

from junk_leads.defs.expectations.suites import load_suite
from junk_leads.home import Home
from junk_leads.running.servers.guarded_ui import HOSTS_VARIABLE, allowed_hosts
from junk_leads.running.warm import ask
from junk_leads.stores.warehouse import connect
from junk_leads_tests.conftest import Trained, copied_home, free_port, needs_proc, run_command

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.xdist_group("end_to_end")

PATIENCE = 120  # seconds, for a machine that has much else to do; waiting ends with the event
GROUPS = ("1_data_pipeline", "2_training_pipeline", "3_inference_pipeline")
LEAD_TABLES = ("raw_leads", "cleaned_leads", "interaction_groups", "encoded_features", "predictions")
SCORED = (*LEAD_TABLES, "prediction_summary")  # what an unlabelled drop makes
Found = TypeVar("Found")


@dataclass(frozen=True)
class Server:
    """A running `junk-leads ui` and its home."""

    home: Home
    process: "subprocess.Popen[bytes]"
    port: int
    mlflow_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, query: str, **variables: Any) -> Any:
        """What Dagster's GraphQL answers."""
        content = json.dumps({"query": query, "variables": variables}).encode()
        answer = answered(Request(f"{self.url}/graphql", content, {"content-type": "application/json"}))
        assert "errors" not in answer, answer
        return answer["data"]

    def until(self, what: str, probe: Callable[[], Found | None]) -> Found:
        """What `probe` finds, once it finds something."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the server ended: {self._end_of_log()}"
            found = probe()
            if found:
                return found
            time.sleep(0.2)
        raise AssertionError(f"{what}: not within {PATIENCE} s; {self._end_of_log()}")

    def location(self) -> dict[str, str]:
        """The repository that the server loaded, as GraphQL selects it; nothing while it is loading."""
        query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"
        for node in self.ask(query)["repositoriesOrError"].get("nodes", []):
            return {"repositoryName": node["name"], "repositoryLocationName": node["location"]["name"]}
        return {}

    def runs(self, drop: str) -> list[dict[str, Any]]:
        """The runs of a drop, newest first."""
        query = (
            "query ($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs { results { runId status } } } }"
        )
        tags = [{"key": "dagster/partition", "value": drop}]
        found: list[dict[str, Any]] = self.ask(query, filter={"tags": tags})["runsOrError"]["results"]
        return found

    def checks(self, run_id: str) -> dict[tuple[str, str], dict[str, Any]]:
        """The check evaluations of a run by asset and check, metadata as its labels."""
        query = (
            "query ($run: ID!) { runOrError(runId: $run) { ... on Run { eventConnection { events { "
            "... on AssetCheckEvaluationEvent { evaluation { assetKey { path } checkName success severity "
            "metadataEntries { label } } } } } } } }"
        )
        events = self.ask(query, run=run_id)["runOrError"]["eventConnection"]["events"]
        told = [event["evaluation"] for event in events if event]
        return {
            (one["assetKey"]["path"][-1], one["checkName"]): {
                **one,
                "metadata": {entry["label"] for entry in one["metadataEntries"]},
            }
            for one in told
        }

    def _end_of_log(self) -> str:
        logs = [log for log in (self.log, self.home.servers_log) if log.exists()]
        return "\n".join(log.read_text(encoding="utf-8", errors="replace")[-3000:] for log in logs)


def answered(request: Request | str) -> Any:
    """The JSON that an address answers."""
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


def served(home: Home, port: int, mlflow_port: int, log: Path, settings: Mapping[str, str]) -> Server:
    """`junk-leads ui` of a home, started in a folder with a module that is called as one of Python's."""
    (log.parent / "calendar.py").write_text("raise SystemExit('it is not to be imported')", encoding="utf-8")
    program = [sys.executable, "-P", "-m", "junk_leads.cli"]
    command = [*program, "ui", "--port", str(port), "--mlflow-port", str(mlflow_port)]
    environment = {**os.environ, "JUNK_LEADS_HOME": str(home.root), **settings}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=log.parent, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    return Server(home, process, port, mlflow_port, log)


@pytest.fixture(scope="module")
def server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server on a copy of the trained home, once Dagster and MLflow answer."""
    folder = tmp_path_factory.mktemp("end_to_end")
    home = copied_home(trained.home, folder / "home")
    port = free_port()
    mlflow_port = free_port(port + 1)
    settings = {
        "JUNK_LEADS_SENSOR_SECONDS": "1",
        "JUNK_LEADS_SETTLE_SECONDS": "0.2",
    }
    found = served(home, port, mlflow_port, folder / "log", settings)

    def answers() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{mlflow_port}/health", timeout=60):
                return bool(found.location())
        except OSError:
            return False

    try:
        found.until("Dagster and MLflow answer", answers)
        yield found
    finally:
        started = family(found.process.pid)
        found.process.terminate()
        try:
            found.process.wait(PATIENCE)
        finally:
            for pid, _ in alive(started):
                os.kill(pid, signal.SIGKILL)


Process = tuple[int, int]  # its id, and when it started: ids are given again


def family(root: int) -> set[Process]:
    """A process and all that it started, directly or not; none where there is no /proc."""
    found = {root}
    while more := {pid for (pid, _), parent in processes().items() if parent in found} - found:
        found |= more
    return {process for process in processes() if process[0] in found}


def alive(those: set[Process]) -> set[Process]:
    return those & set(processes())


def processes() -> dict[Process, int]:
    """Every process that has not ended, with the id of its parent."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = path.read_text(errors="replace").partition(" ")
        except OSError:
            continue  # ended while we looked
        state, parent, *others = rest.rpartition(")")[2].split()  # its name, in brackets, may hold anything
        if state not in "ZX":
            found[int(pid), int(others[17])] = int(parent)
    return found


@dataclass(frozen=True)
class Delivered:
    """Two files dropped into `incoming/`, as they were, and the runs that the sensor started for each."""

    good: bytes
    bad: bytes
    good_runs: list[dict[str, Any]]
    bad_runs: list[dict[str, Any]]


@pytest.fixture(scope="module")
def delivered(server: Server, trained: Trained) -> Delivered:
    """200 unlabelled leads, no two alike, as `august.csv`, and without their dates as `rotten.csv`; both runs ended."""
    lines = list(dict.fromkeys(trained.new.read_bytes().splitlines(keepends=True)))[:201]
    good, bad = b"".join(lines), b"".join(line.partition(b",")[2] for line in lines)
    for name, content in (("august.csv", good), ("rotten.csv", bad)):
        (server.home.incoming / f"{name}.part").write_bytes(content)
        (server.home.incoming / f"{name}.part").rename(server.home.incoming / name)

    def ended() -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
        runs = server.runs("august"), server.runs("rotten")
        return runs if all(of and {run["status"] for run in of} <= {"SUCCESS", "FAILURE"} for of in runs) else None

    return Delivered(good, bad, *server.until("the runs of both files end", ended))


def test_the_sensor_looks_by_itself(server: Server) -> None:
    query = (
        "query ($of: RepositorySelector!) { sensorsOrError(repositorySelector: $of) { ... on Sensors { results { "
        "name sensorState { status } } } } }"
    )
    sensors = server.ask(query, of=server.location())["sensorsOrError"]["results"]
    assert ("incoming_sensor", "RUNNING") in [(one["name"], one["sensorState"]["status"]) for one in sensors]


@pytest.mark.parametrize("upgrade", [{}, {"Connection": "Upgrade", "Upgrade": "websocket"}], ids=["page", "socket"])
def test_fault_66_a_request_under_another_host_is_refused(upgrade: dict[str, str], server: Server) -> None:
    for port in (server.port, server.mlflow_port):
        asked = Request(f"http://127.0.0.1:{port}/graphql", headers={"Host": "evil.example.com", **upgrade})
        with pytest.raises(HTTPError) as refused:
            urlopen(asked, timeout=60)
        assert refused.value.code in (400, 403)


def test_the_names_that_are_answered_to_are_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert allowed_hosts(["dev", "-h", "10.0.0.5", "-p", "3000"]) == ["127.0.0.1", "localhost", "10.0.0.5"]
    monkeypatch.setenv(HOSTS_VARIABLE, "leads.example.com, 127.0.0.1")
    assert allowed_hosts(["--host", "127.0.0.1"]) == ["127.0.0.1", "localhost", "leads.example.com"]


def test_an_unlabelled_csv_dropped_into_incoming_is_scored_by_itself(server: Server, delivered: Delivered) -> None:
    assert [run["status"] for run in delivered.good_runs] == ["SUCCESS"]
    scored = (server.home.predictions / "august.csv").read_bytes().splitlines()
    assert len(scored) == len(delivered.good.splitlines())
    assert scored[0].startswith(delivered.good.splitlines()[0])
    assert b"predicted_flag" in scored[0]
    assert "200" in (server.home.predictions / "august.summary.txt").read_text(encoding="utf-8")
    with connect(server.home.warehouse) as con:
        for table in SCORED:
            counted = con.execute(f"SELECT count(*) FROM {table} WHERE drop = 'august'").fetchall()
            assert counted == [(200 if table in LEAD_TABLES else 1,)], table
        assert con.execute("SELECT DISTINCT model_version FROM predictions").fetchall() == [("1",)]
    (archived,) = server.home.archive.glob("august-*.csv")
    assert archived.read_bytes() == delivered.good


def test_its_run_was_started_by_the_warm_process_and_not_as_dagster_starts_them(
    server: Server, delivered: Delivered
) -> None:
    assert ask(server.home.dagster, {"terminate": "no run"}) == {"terminated": False}
    with dg.DagsterInstance.from_config(str(server.home.dagster)) as instance:
        run = instance.get_run_by_id(delivered.good_runs[0]["runId"])
    assert run is not None
    assert ".dagster/grpc_info" not in run.tags  # with which Dagster notes where it started a run
    # what it printed is kept for the UI, and is not printed by the servers once more
    printed = "\n".join(path.read_text() for path in server.home.dagster.glob(f"storage/{run.run_id}/**/*.err"))
    assert "STEP_SUCCESS" in printed
    assert "STEP_SUCCESS" not in server.log.read_text(encoding="utf-8")


def test_a_bad_csv_dropped_into_incoming_goes_to_quarantine_with_its_reason(
    server: Server, delivered: Delivered
) -> None:
    assert [run["status"] for run in delivered.bad_runs] == ["FAILURE"]
    (folder,) = server.home.quarantine.glob("rotten-*")
    assert (folder / "rotten.csv").read_bytes() == delivered.bad
    reason = json.loads((folder / "reason.json").read_text(encoding="utf-8"))
    assert (reason["file"], reason["what"], reason["where"]) == (
        "rotten.csv",
        "the header lacks created_date",
        "line 1",
    )
    assert list(server.home.predictions.glob("rotten*")) == []
    assert [path.name for path in server.home.incoming.iterdir()] == [server.home.handed.name]


def test_every_check_of_a_drop_is_told_with_its_evidence(server: Server, delivered: Delivered) -> None:
    told = server.checks(delivered.good_runs[0]["runId"])
    for asset in SCORED:
        for check in load_suite(asset).descriptions:
            assert told[asset, check]["success"], check
            assert {"evidence", "unexpected_count", "seconds"} <= told[asset, check]["metadata"], check
    refused = server.checks(delivered.bad_runs[0]["runId"])
    assert [(key, one["success"], one["severity"]) for key, one in refused.items()] == [
        (("raw_leads", "has_every_required_column"), False, "ERROR")
    ]
    assert "refused_do" in refused["raw_leads", "has_every_required_column"]["metadata"]


def test_after_a_refused_drop_its_other_checks_are_skipped_the_history_has_it_and_somebody_is_told(
    server: Server, delivered: Delivered
) -> None:
    query = (
        "query ($asset: AssetKeyInput!) { assetNodeOrError(assetKey: $asset) { ... on AssetNode { assetChecksOrError { "
        "... on AssetChecks { checks { name partitionStatuses { ... on AssetCheckDefaultPartitionStatuses { "
        "failedPartitions skippedPartitions executionFailedPartitions inProgressPartitions } } } } } } } }"
    )

    def told(asset: str) -> dict[str, list[str]]:
        checks = server.ask(query, asset={"path": [asset]})["assetNodeOrError"]["assetChecksOrError"]["checks"]
        return {
            check["name"]: [state for state, drops in check["partitionStatuses"].items() if "rotten" in drops]
            for check in checks
        }

    assert told("raw_leads").pop("has_every_required_column") == ["failedPartitions"]
    assert told("cleaned_leads") == {check: ["skippedPartitions"] for check in load_suite("cleaned_leads").descriptions}
    line = server.until("the alert", lambda: server.home.alerts.exists() and server.home.alerts.read_text())
    assert "drop refused: rotten (rotten.csv): the header lacks created_date" in str(line)
    history = '{ assetOrError(assetKey: {path: ["drop_history"]}) { ... on Asset { assetMaterializations(limit: 1) { '
    history += "metadataEntries { label ... on MarkdownMetadataEntry { mdStr } } } } } }"

    def shown() -> bool:
        found = server.ask(history)["assetOrError"].get("assetMaterializations", [])
        texts = [entry.get("mdStr") or "" for event in found for entry in event["metadataEntries"]]
        return any("| rotten | refused |" in text and "| scored |" in text for text in texts)

    server.until("the history", shown)


def test_mlflow_shows_the_version_in_production(server: Server) -> None:
    address = f"http://127.0.0.1:{server.mlflow_port}/api/2.0/mlflow/registered-models/get?name=junk_leads"
    model = answered(address)["registered_model"]
    assert model["aliases"] == [{"alias": "production", "version": "1"}]


@pytest.fixture
def page(server: Server) -> Iterator["Page"]:
    """A page of a headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra `test`)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": 2400, "height": 1400}, base_url=server.url)
        page.set_default_timeout(PATIENCE * 1000)
        yield page
        browser.close()


def test_a_person_sees_the_graph_materialises_a_summary_and_reads_its_checks_and_the_model(
    server: Server, delivered: Delivered, page: "Page"
) -> None:
    strangers: list[str] = []
    page.on("request", lambda request: strangers.append(request.url) if is_elsewhere(request.url) else None)

    # the graph, its groups opened one after the other; loaded anew, the whole of it is fitted into the window
    page.goto("/asset-groups")
    nodes = page.locator("foreignObject")
    for group in reversed(GROUPS):
        nodes.get_by_text(group, exact=True).first.click()
        page.wait_for_url(f"**expanded=**{group}**")
        page.reload()
    for asset in (*SCORED, "lead_counts", "significant_levels", "lightgbm_model", "champion"):
        nodes.get_by_text(asset, exact=True).first.wait_for()

    # materialise the summary of a drop again
    nodes.get_by_text("prediction_summary", exact=True).first.click()
    page.get_by_role("button", name="Materialize selected").click()
    page.get_by_text("Select a partition").click()
    page.get_by_role("menuitem").filter(has_text="august").click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Launch 1 run").click()
    server.until("the run succeeds", lambda: [run["status"] for run in server.runs("august")] == ["SUCCESS"] * 2)

    # what it shows then
    page.goto("/assets/prediction_summary")
    page.get_by_text("200 leads scored of 200 rows delivered").wait_for()
    page.get_by_role("tab", name="Checks").click()
    checks = load_suite("prediction_summary").descriptions
    for check in checks:  # beside its name stands the worst of all drops: another was refused, and its checks skipped
        page.get_by_title(check).first.click()
        page.get_by_text("Passed", exact=True).first.wait_for()
        page.get_by_text("august", exact=True).first.wait_for()

    # the model: its figures, and its plots as pictures
    page.goto("/assets/lightgbm_model")
    page.get_by_role("row", name="temporal_auc").get_by_text("0.").first.wait_for()
    page.get_by_role("row", name="plots").get_by_text("Show Markdown").click()
    page.locator("img[src^='data:image/png']").first.wait_for()
    page.wait_for_function(
        "() => [...document.images].every(picture => picture.complete && picture.naturalWidth > 100)"
    )
    assert strangers == []


def test_a_home_that_is_served_is_not_served_again(server: Server) -> None:
    again = run_command("ui", "--port", str(server.port + 7), home=server.home)
    assert again.code == 1
    assert again.failures == [
        f"the home {server.home.root} is served already, by process {server.process.pid}: open {server.url}, or stop "
        "that process first"
    ]


@needs_proc
def test_sigterm_ends_every_process_also_with_a_run_under_way(server: Server) -> None:
    mutation = "mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename } }"
    selector = {**server.location(), "jobName": "inference_pipeline"}
    tags = [{"key": "dagster/partition", "value": "new"}]
    launched = server.ask(mutation, params={"selector": selector, "executionMetadata": {"tags": tags}})["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess"
    waiting = {"NOT_STARTED", "QUEUED", "STARTING"}
    server.until("the run starts", lambda: len(runs := server.runs("new")) == 2 and runs[0]["status"] not in waiting)
    started = family(server.process.pid)
    assert len(started) > 5
    assert "SensorDaemon" not in server.home.servers_log.read_text(encoding="utf-8")  # a look as it stops may fail

    server.process.terminate()
    time.sleep(0.5)  # within the servers' stopping, which takes longer
    server.process.terminate()  # as whoever is impatient does
    assert server.process.wait(PATIENCE) == 0
    deadline = time.monotonic() + 10  # for the system to take note of the ends
    while alive(started) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert alive(started) == set()
    # all that its terminal showed, in lines for people; what the servers print is elsewhere
    first, ready, *news, last = server.log.read_text(encoding="utf-8").splitlines()
    assert (first, last) == ("… starting Dagster and MLflow", "… stopping")
    assert ready == f"… Dagster {server.url}   MLflow http://127.0.0.1:{server.mlflow_port}   (Ctrl-C stops both)"
    assert [line for line in news if "drop refused: rotten (rotten.csv): the header lacks created_date" in line]
    assert [line for line in news if re.search(r"  august  1: .* of \d+ leads  by version 1$", line)]
    assert all(re.match(r"… \d{4}-\d\d-\d\dT", line) for line in news)


@pytest.mark.long
@needs_proc
def test_killed_its_servers_end_all_the_same_and_the_next_one_waits_for_that(home: Home, tmp_path: Path) -> None:
    port = free_port()
    mlflow_port = free_port(port + 1)

    def serving(log: Path) -> "subprocess.Popen[bytes]":
        found = served(home, port, mlflow_port, log, {})
        found.until("Dagster serves", lambda: b"Ctrl-C stops both" in log.read_bytes())
        return found.process

    killed = serving(tmp_path / "first.log")
    started = family(killed.pid)
    assert len(started) > 5
    killed.kill()
    killed.wait()
    second = serving(tmp_path / "second.log")
    try:
        assert alive(started) == set()
        assert "was killed; waiting until its servers have stopped" in (tmp_path / "second.log").read_text()
        assert "is still sending heartbeats" not in home.servers_log.read_text()
    finally:
        second.terminate()
        assert second.wait(PATIENCE) == 0


@pytest.mark.long
@needs_proc
def test_fault_75_when_the_process_with_the_definitions_ends_dagster_is_started_again_and_takes_files(
    home: Home, trained: Trained, tmp_path: Path
) -> None:
    port = free_port()
    found = served(home, port, free_port(port + 1), tmp_path / "log", {"JUNK_LEADS_SETTLE_SECONDS": "0.2"})
    try:
        found.until("Dagster serves", lambda: b"Ctrl-C stops both" in found.log.read_bytes() and found.location())
        (holds,) = [
            pid
            for pid, _ in family(found.process.pid)
            if b"dagster\0api\0grpc" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(holds, signal.SIGKILL)
        found.until("it is told", lambda: b"definitions are out of reach" in found.log.read_bytes())
        shutil.copyfile(trained.history, home.incoming / "history.csv")
        found.until("a file is taken", lambda: list(home.archive.glob("history-*.csv")))
    finally:
        found.process.terminate()
        assert found.process.wait(PATIENCE) == 0
    first, ready, told, again, *_ = found.log.read_text(encoding="utf-8").splitlines()
    assert ready == again != first
    assert told == "… Dagster's definitions are out of reach (killed, or the machine slept): starting it again"


@pytest.mark.long
@needs_proc
def test_faults_77_and_78_damaged_files_of_dagster_are_told_and_a_home_that_was_moved_is_served_no_longer(
    home: Home, tmp_path: Path
) -> None:
    port = free_port()
    found = served(home, port, free_port(port + 1), tmp_path / "log", {})
    try:
        found.until("Dagster serves", lambda: b"Ctrl-C stops both" in found.log.read_bytes() and found.location())
        started = family(found.process.pid)
        (home.dagster / "schedules" / "schedules.db").write_bytes(b"no database" * 1_000)
        advice = f"run `junk-leads doctor`, and look into {home.servers_log}"
        fails = f"… Dagster's UI fails ((sqlite3.DatabaseError) file is not a database); {advice}\n"
        found.until("it is told", lambda: fails in found.log.read_text(encoding="utf-8"))
        home.root.rename(tmp_path / "moved")
        assert found.process.wait(PATIENCE) == 1
    finally:
        found.process.terminate()
        found.process.wait(PATIENCE)
    *_, last = found.log.read_text(encoding="utf-8").splitlines()
    assert last == f"junk-leads: the home {home.root} was moved or deleted; start again where it is now"
    assert alive(started) == set()
    assert not home.root.exists()


def is_elsewhere(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:"))
