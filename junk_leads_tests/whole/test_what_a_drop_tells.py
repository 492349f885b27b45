"""What people see of deliveries, good and bad: checks in the catalogue, reasons, rejected rows, history, alerts.

One home is shared: an accepted file, one of semicolons, one of 20 bad rows in 100, one of 1 bad row in 200 that warns,
and after it one that passes. Tests that deliver more do so under drops of their own.
"""

import asyncio
import csv
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
from dagster._core.definitions.run_status_sensor_definition import RunStatusSensorCursor
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.loader import LoadingContextForTest

from junk_leads.defs.after_runs import after_runs, failure_sensor, renew_history, success_sensor
from junk_leads.defs.assets import freshness
from junk_leads.defs.recovery import SKIPPED_RUN
from junk_leads.defs.resources import HomeResource
from junk_leads.errors import DropUnknown, JunkLeadsError, WarehouseUnavailable
from junk_leads.home import Home
from junk_leads.running.launching import Platform, platform
from junk_leads.running.telling import told_checks, told_history
from junk_leads.stores.ledger import opened
from junk_leads_tests.conftest import DELIVERED, SCHEMA, Outcome, run_command

FOUND = "20 of 100 rows rejected: total_leads_droppped is not a number, first in line 2"
BAD = {"total_leads_droppped": "=SECRET()", "city_mapped": "<b>x</b>|y"}


def written(folder: Path, name: str, rows: int, bad: int = 0, separator: str = ",", hour: int = 0) -> Path:
    """A file of different leads, the first of them bad; another hour makes other leads."""
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n", delimiter=separator)
        writer.writerow(SCHEMA.names)
        for n in range(rows):
            cells = {
                **DELIVERED,
                "created_date": f"2021-07-01 {hour:02}:{n // 60:02}:{n % 60:02}",
                "app_complete_flag": n % 2,
            }
            cells |= BAD if n < bad else {}
            writer.writerow([cells.get(name, "") for name in SCHEMA.names])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("told")


@pytest.fixture(scope="module")
def ready(folder: Path) -> Iterator[Platform]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JUNK_LEADS_WEBHOOK", raising=False)
        patch.setenv("DAGSTER_HOME", "")
        with platform(Home(folder / "home")) as found:
            found.ingest(written(folder, "good.csv", 100))
            for refused in (written(folder, "semi.csv", 5, separator=";"), written(folder, "rotten.csv", 100, bad=20)):
                with pytest.raises(JunkLeadsError):
                    found.ingest(refused)
            found.ingest(written(folder, "warns.csv", 200, bad=1, hour=2))
            found.ingest(written(folder, "passes.csv", 50, hour=3))
            yield found


def states(ready: Platform, drop: str) -> dict[tuple[str, str], str]:
    """What Dagster says of each check of a drop, by asset and check."""
    keys = list(ready.definitions.resolve_asset_graph().asset_check_keys)
    partition, context = PartitionKeyFilter(key=drop), LoadingContextForTest(ready.instance)
    found = ready.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys, partition)
    return {
        (key.asset_key.to_user_string(), key.name): asyncio.run(record.resolve_status(context)).value
        for key, record in found.items()
    }


def evaluation(ready: Platform, drop: str, check: str) -> Any:
    partition = PartitionKeyFilter(key=drop)
    key = dg.AssetCheckKey(dg.AssetKey("raw_leads"), check)
    found = ready.instance.event_log_storage.get_latest_asset_check_execution_by_key([key], partition)
    return found[key].evaluation


# The catalogue


def test_of_a_file_that_cannot_be_read_one_check_failed_and_the_others_are_skipped(ready: Platform) -> None:
    told = states(ready, "semi")
    assert told.pop(("raw_leads", "has_every_required_column")) == "FAILED"
    assert {asset for asset, _ in told} == {"raw_leads", "cleaned_leads", "interaction_groups"}
    assert set(told.values()) == {"SKIPPED"}


def test_of_a_drop_that_a_check_refuses_that_one_failed_and_those_after_it_are_skipped(ready: Platform) -> None:
    told = states(ready, "rotten")
    assert {check for (asset, check), state in told.items() if state == "FAILED"} == {"has_few_rejected_rows"}
    assert {state for (asset, _), state in told.items() if asset != "raw_leads"} == {"SKIPPED"}
    assert {state for (asset, _), state in told.items() if asset == "raw_leads"} == {"FAILED", "SUCCEEDED"}


def test_a_warning_of_one_drop_stays_when_another_passes(ready: Platform) -> None:
    assert states(ready, "warns")["raw_leads", "has_few_rejected_rows"] == "FAILED"
    assert states(ready, "passes")["raw_leads", "has_few_rejected_rows"] == "SUCCEEDED"
    assert evaluation(ready, "warns", "has_few_rejected_rows").severity is dg.AssetCheckSeverity.WARN


def test_a_refusal_begins_with_what_was_found_and_names_the_drop(ready: Platform) -> None:
    told = evaluation(ready, "rotten", "has_few_rejected_rows")
    assert told.description.startswith(f"{FOUND}. Expected: No row is rejected; ")
    metadata = {name: value.value for name, value in told.metadata.items()}
    assert (metadata["drop"], metadata["found"]) == ("rotten", FOUND)
    assert metadata["expected"] == "No row is rejected; up to 1 % is a warning, more refuses the drop."
    semi = evaluation(ready, "semi", "has_every_required_column")
    assert semi.description.startswith(
        "the header is on line 1 and its columns are separated by semicolons. Expected: "
    )


def test_the_skipped_are_held_by_one_run_that_did_nothing(ready: Platform) -> None:
    run = ready.instance.get_run_by_id(SKIPPED_RUN)
    assert run is not None
    assert (run.job_name, run.status) == ("skipped_checks", dg.DagsterRunStatus.SUCCESS)
    assert "step before them had failed" in run.tags["junk_leads/what"]


def test_a_drop_refused_again_and_then_mended_is_told_as_it_is_now(ready: Platform, folder: Path) -> None:
    for bad in (30, 40):
        with pytest.raises(JunkLeadsError):
            ready.ingest(written(folder, "again.csv", 100, bad=bad, hour=5))
        assert states(ready, "again")["cleaned_leads", "has_few_duplicates"] == "SKIPPED"
    ready.ingest(written(folder, "again.csv", 100, hour=5))
    assert set(states(ready, "again").values()) == {"SUCCEEDED"}


def materialised(ready: Platform, drop: str) -> dict[str, Any]:
    records = ready.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("rejected_leads"), asset_partitions=[drop]), limit=1
    ).records
    assert records[0].asset_materialization is not None
    return {name: value.value for name, value in records[0].asset_materialization.metadata.items()}


def test_rejected_rows_are_in_the_catalogue_also_those_of_a_refused_drop(ready: Platform) -> None:
    told = materialised(ready, "rotten")
    assert (told["dagster/row_count"], told["state"], told["table"]) == (20, "refused", "refused_rows")
    assert len(told["preview"].splitlines()) == 2 + 20
    assert "<b>" not in told["preview"]
    assert [column.name for column in told["dagster/column_schema"].columns][:6] == [
        *("drop", "lead_number", "line", "column_name", "reason", "raw")
    ]
    accepted = materialised(ready, "warns")
    assert (accepted["dagster/row_count"], accepted["state"], accepted["table"]) == (1, "accepted", "rejected_leads")


def test_rows_of_a_refused_drop_are_kept_apart_from_those_of_accepted_ones(ready: Platform) -> None:
    kept = ready.rows(
        "SELECT drop, line, column_name, reason, raw FROM refused_rows WHERE drop = 'rotten' ORDER BY line"
    )
    assert len(kept) == 20
    assert (kept[0]["line"], kept[0]["column_name"], kept[0]["reason"]) == (
        2,
        "total_leads_droppped",
        "is not a number",
    )
    assert "=SECRET()" in kept[0]["raw"]
    assert [row["drop"] for row in ready.rows("SELECT drop FROM rejected_leads")] == ["warns"]


# What lies beside the file


def quarantined(ready: Platform, drop: str) -> Path:
    (found,) = ready.home.quarantine.glob(f"{drop}-*")
    return found


def test_the_reason_says_what_was_found_and_expected(ready: Platform) -> None:
    reason = json.loads((quarantined(ready, "rotten") / "reason.json").read_text())
    assert reason["what"] == f"has_few_rejected_rows: {FOUND}"
    assert reason["expected"] == "No row is rejected; up to 1 % is a warning, more refuses the drop"
    assert "SECRET" not in json.dumps(reason)


def test_all_rejected_rows_are_a_csv_that_no_spreadsheet_runs(ready: Platform) -> None:
    with (quarantined(ready, "rotten") / "rejected_rows.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["drop", "lead_number", "line", "column", "reason", "raw"]
    assert [(row["drop"], row["line"]) for row in rows] == [("rotten", str(n)) for n in range(2, 22)]
    assert all(not row[name].startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for name in row)


def test_a_rejected_row_that_begins_as_a_formula_is_made_inert(ready: Platform, folder: Path) -> None:
    path = written(folder, "formula.csv", 3, hour=6)
    path.write_text(path.read_text() + "=1+1\n", encoding="utf-8")
    with pytest.raises(JunkLeadsError):
        ready.ingest(path)
    assert "'=1+1" in (quarantined(ready, "formula") / "rejected_rows.csv").read_text()


def test_the_line_of_a_refusal_is_the_same_for_run_terminal_and_reason(ready: Platform, folder: Path) -> None:
    told = run_command("ingest", written(folder, "rotten.csv", 100, bad=20), home=ready.home)
    assert told.code == 1
    assert f"raw_leads was not stored: has_few_rejected_rows: {FOUND}" in told.failures[0]
    assert "SECRET" not in told.err


def test_a_refused_copy_is_resolved_when_a_mended_file_is_accepted(ready: Platform, folder: Path) -> None:
    with pytest.raises(JunkLeadsError):
        ready.ingest(written(folder, "mended.csv", 100, bad=50, hour=7))
    before = quarantined(ready, "mended")
    rotten = ready.ledger.newest("mended")
    assert rotten.path.parent == before
    ready.ingest(written(folder, "mended.csv", 100, hour=7))
    assert list(ready.home.quarantine.glob("mended-*")) == []
    resolved = ready.home.resolved / before.name
    assert {path.name for path in resolved.iterdir()} == {"mended.csv", "reason.json", "rejected_rows.csv"}
    reason = json.loads((resolved / "reason.json").read_text())
    assert reason["resolved"]["by"] == ready.ledger.newest("mended").content
    assert ready.ledger.deliveries_of("mended")[0].path == resolved / "mended.csv"
    assert ready.rows("SELECT * FROM refused_rows WHERE drop = 'mended'") == []
    # delivered again, the bad file is refused again, and its reason lies where one looks for it
    with pytest.raises(JunkLeadsError):
        ready.ingest(written(folder, "mended.csv", 100, bad=50, hour=7))
    assert quarantined(ready, "mended").is_dir()


def test_a_partition_that_was_never_delivered_does_not_stay(ready: Platform) -> None:
    ready.instance.add_dynamic_partitions("drops", ["made-up"])
    with pytest.raises(JunkLeadsError) as refused:
        ready.launch("data_pipeline", drop="made-up")
    assert str(refused.value).startswith("drop 'made-up' was never delivered; put its file into ")
    assert "\n" not in str(refused.value)
    assert "made-up" not in ready.instance.get_dynamic_partitions("drops")
    assert "good" in ready.instance.get_dynamic_partitions("drops")


# The history


def history(ready: Platform) -> dict[str, dict[str, Any]]:
    return {row["drop"]: row for row in told_history(ready.home)}


def test_every_delivery_has_its_row_refused_ones_too(ready: Platform) -> None:
    rows = history(ready)
    counted = ("state", "rows_read", "kept", "duplicates", "rejected", "labelled")
    assert tuple(rows["good"][name] for name in counted) == ("accepted", 100, 100, 0, 0, True)
    assert tuple(rows["warns"][name] for name in counted) == ("accepted", 200, 199, 0, 1, True)
    assert tuple(rows["rotten"][name] for name in counted) == ("refused", 100, None, None, 20, True)
    assert tuple(rows["semi"][name] for name in counted) == ("refused", None, None, None, None, None)
    assert rows["rotten"]["reason"].startswith(f"has_few_rejected_rows: {FOUND}")
    assert rows["warns"]["warnings"] == [
        "raw_leads, has_few_rejected_rows: 1 of 200 rows rejected: "
        "total_leads_droppped is not a number, first in line 2"
    ]
    assert rows["good"]["warnings"] == []
    assert rows["good"]["file_name"] == "good.csv"


def test_the_table_and_the_catalogue_say_the_same(ready: Platform) -> None:
    stored = {row["drop"]: row for row in ready.rows("SELECT * FROM drop_history")}
    rows = history(ready)
    assert set(stored) == set(rows)
    assert json.loads(stored["warns"]["warnings"]) == rows["warns"]["warnings"]
    event = ready.instance.get_latest_materialization_event(dg.AssetKey("drop_history"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert "| rotten | refused | 100 | 20 |" in str(metadata["deliveries"])
    assert str(metadata["plot"]).startswith(
        "![share of 1s and of rejected rows by delivery](data:image/svg+xml;base64,"
    )
    assert metadata["dagster/row_count"] == len(told_history(ready.home))


def test_a_drop_that_is_replaced_keeps_what_was_known_of_its_former_delivery(ready: Platform, folder: Path) -> None:
    ready.ingest(written(folder, "renewed.csv", 30, hour=8))
    ready.ingest(written(folder, "renewed.csv", 40, hour=8))
    rows = [row for row in told_history(ready.home) if row["drop"] == "renewed"]
    assert [(row["state"], row["rows_read"], row["kept"]) for row in rows] == [
        ("replaced", 30, 30),
        ("accepted", 40, 40),
    ]


def test_leads_that_were_delivered_before_are_counted_told_and_kept(ready: Platform, folder: Path) -> None:
    columns = [name for name in SCHEMA.names if name != "app_complete_flag"]
    path = folder / "unlabelled.csv"
    with (folder / "good.csv").open(newline="") as known, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(list(csv.DictReader(known))[:30])
        writer.writerows({**DELIVERED, "created_date": f"2021-07-02 00:00:{n:02}"} for n in range(20))
    told = run_command("ingest", path, home=ready.home)
    assert (
        "30 of the leads of unlabelled were delivered in other drops too, 30 of them labelled; all are kept" in told.err
    )
    row = history(ready)["unlabelled"]
    assert (row["known_leads"], row["known_labelled_leads"], row["kept"], row["labelled"]) == (30, 30, 50, False)
    event = ready.instance.get_latest_materialization_event(dg.AssetKey("cleaned_leads"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["known_labelled_leads"].value == 30


# Alerts


def test_a_refused_drop_is_told_of_once(ready: Platform) -> None:
    lines = [line for line in ready.home.alerts.read_text().splitlines() if " rotten (" in line]
    assert len(lines) == 1
    assert f"drop refused: rotten (rotten.csv): has_few_rejected_rows: {FOUND}" in lines[0]
    assert "SECRET" not in ready.home.alerts.read_text()


def test_a_run_that_failed_is_told_of_with_where_to_look(ready: Platform) -> None:
    with pytest.raises(JunkLeadsError):
        ready.launch("inference_pipeline", drop="good")  # there is no model yet
    line = ready.home.alerts.read_text().splitlines()[-1]
    run = ready.instance.get_runs(limit=1)[0]
    assert line.endswith(f"run failed: inference_pipeline of drop good; look at run {run.run_id} in the UI")


# The commands


def test_drops_tells_of_every_delivery(ready: Platform) -> None:
    told = run_command("drops", home=ready.home)
    assert told.code == 0
    (line,) = [line for line in told.out.splitlines() if "  rotten  " in line]
    assert line.endswith("refused    rotten  100 rows  20 rejected")
    answer = run_command("drops", "--json", home=ready.home).json["drops"]
    assert {row["drop"]: row["state"] for row in answer}["semi"] == "refused"
    assert {type(row["warnings"]) for row in answer} == {list}


def test_checks_tells_what_was_found_and_expected_and_what_was_skipped(ready: Platform) -> None:
    told = run_command("checks", "rotten", home=ready.home)
    lines = told.out.splitlines()
    at = lines.index("  refuses  raw_leads, has_few_rejected_rows")
    assert lines[at + 1 : at + 3] == [
        f"           found     {FOUND}",
        "           expected  No row is rejected; up to 1 % is a warning, more refuses the drop.",
    ]
    assert any(line.startswith("  skipped  cleaned_leads: ") for line in lines)
    (drop,) = run_command("checks", "warns", "--json", home=ready.home).json["drops"]
    states = {check["check"]: check["state"] for check in drop["checks"] if check["asset"] == "raw_leads"}
    assert states.pop("has_few_rejected_rows") == "warns"
    assert set(states.values()) == {"passed"}


def test_a_page_of_checks_is_over_all_drops_and_inert(ready: Platform) -> None:
    told = run_command("checks", "--html", "--json", home=ready.home).json
    page = Path(told["page"]).read_text()
    assert told["page"] == str(ready.home.reports / "checks.html")
    for drop in ("good", "semi", "rotten", "warns"):
        assert f"<h2>{drop} <small>" in page
    assert FOUND in page
    assert "SECRET" not in page
    assert not any(mark in page for mark in ("<script", "http://", "https://", "src="))


def test_checks_of_a_drop_that_there_is_not_are_one_plain_line(ready: Platform) -> None:
    with pytest.raises(DropUnknown):
        told_checks(ready.home, "nobody")
    told: Outcome = run_command("checks", "nobody", home=ready.home)
    assert (told.code, told.failures) == (
        1,
        ["drop 'nobody' was never delivered; `junk-leads drops` lists those that were"],
    )


def test_nothing_delivered_is_said(home: Home) -> None:
    assert run_command("drops", home=home).out == "nothing was delivered yet\n"
    assert run_command("checks", home=home).out == "nothing was delivered yet\n"


# After a run, by whoever ran it


def last_failed(ready: Platform, drop: str) -> dg.DagsterRun:
    filters = dg.RunsFilter(tags={"dagster/partition": drop}, statuses=[dg.DagsterRunStatus.FAILURE])
    return ready.instance.get_runs(filters, limit=1)[0]


def looked(ready: Platform, sensor: dg.SensorDefinition, cursor: str | None = None) -> tuple[str | None, str | None]:
    """What a look of a sensor for runs that ended says, and its cursor afterwards."""
    resources = {"home": HomeResource(root=str(ready.home.root))}
    with dg.build_sensor_context(instance=ready.instance, cursor=cursor, resources=resources) as context:
        told = sensor(context)
        assert isinstance(told, dg.SkipReason)
        return told.skip_message, context.cursor


@contextmanager
def untold(home: Home, *drops: str) -> Iterator[None]:
    """As if nobody had been told that these drops were refused; when the block ends, that and nothing else is told."""
    before = home.alerts.read_text()
    told = [line.partition("  ")[2] for line in before.splitlines()]
    wanted = [line for line in told if line.startswith(tuple(f"drop refused: {drop} " for drop in drops))]
    assert len(wanted) == len(drops)
    with opened(home) as db:
        for drop in drops:
            assert db.execute("DELETE FROM alerts WHERE event LIKE ?", [f"refused:{drop}:%"]).rowcount == 1
    home.alerts.write_text("")
    yield
    assert sorted(line.partition("  ")[2] for line in home.alerts.read_text().splitlines()) == sorted(wanted)
    home.alerts.write_text(before)


def test_what_follows_a_run_is_done_once_by_the_command_and_the_sensor_together(ready: Platform) -> None:
    before = ready.home.alerts.read_text()
    failed = ready.instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
    told, cursor = looked(ready, failure_sensor)
    assert told == f"runs that ended, in the history now: {failed}"
    assert ready.home.alerts.read_text() == before
    assert states(ready, "rotten")["raw_leads", "has_few_rejected_rows"] == "FAILED"
    assert looked(ready, failure_sensor, cursor) == ("no run has ended", cursor)


def test_all_runs_that_failed_since_the_last_look_are_told_at_once(ready: Platform) -> None:
    with untold(ready.home, "semi", "rotten"):
        looked(ready, failure_sensor)


def test_what_dagsters_own_sensor_noted_is_gone_on_from(ready: Platform) -> None:
    _, cursor = looked(ready, failure_sensor)
    assert cursor is not None
    record = json.loads(cursor)["record_id"]
    former = RunStatusSensorCursor(record_id=record, record_timestamp="2026-01-01T00:00:00+00:00").to_json()
    assert looked(ready, failure_sensor, former) == ("no run has ended", former)


def test_only_what_follows_runs_that_no_command_made_is_left_to_the_sensor(ready: Platform) -> None:
    told, cursor = looked(ready, success_sensor)
    assert (told, cursor is None) == ("no run has ended", False)
    run = dg.DagsterRun("data_pipeline", str(uuid4()), status=dg.DagsterRunStatus.STARTED)
    ready.instance.add_run(run)
    ready.instance.report_dagster_event(dg.DagsterEvent("PIPELINE_SUCCESS", run.job_name), run.run_id)
    told, after = looked(ready, success_sensor, cursor)
    assert told == "runs that ended, in the history now: 1"
    assert looked(ready, success_sensor, after) == ("no run has ended", after)


@contextmanager
def held(warehouse: Path) -> Iterator[None]:
    """Another process holds the warehouse."""
    code = f"import duckdb; con = duckdb.connect({str(warehouse)!r}); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline()
        try:
            yield
        finally:
            holder.communicate(b"\n")


def test_a_failure_is_told_also_while_another_process_holds_the_warehouse(ready: Platform) -> None:
    run = last_failed(ready, "semi")
    with held(ready.home.warehouse), untold(ready.home, "semi"), pytest.raises(WarehouseUnavailable):
        after_runs(ready.home, ready.instance, [run.run_id], failed=True, wait_seconds=0)


def test_what_the_sensor_could_not_do_it_tries_again(ready: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    without_patience = functools.partial(after_runs, wait_seconds=0)
    monkeypatch.setattr("junk_leads.defs.after_runs.after_runs", without_patience)
    with held(ready.home.warehouse):
        told, cursor = looked(ready, failure_sensor)
    assert told is not None
    assert "is held by another process" in told
    assert cursor is None
    told, cursor = looked(ready, failure_sensor, cursor)
    assert told is not None
    assert told.startswith("runs that ended, in the history now: ")


def test_a_failure_is_told_whatever_goes_wrong_afterwards(ready: Platform) -> None:
    tables, aside = ready.home.root / "tables", ready.home.root / "aside"
    tables.rename(aside)
    tables.touch()
    try:
        with untold(ready.home, "semi"), pytest.raises(FileExistsError):
            after_runs(ready.home, ready.instance, [last_failed(ready, "semi").run_id], failed=True)
    finally:
        tables.unlink()
        aside.rename(tables)


def test_a_failure_is_told_while_its_run_is_not_yet_marked_as_failed(ready: Platform) -> None:
    run = last_failed(ready, "semi")
    storage = ready.instance.run_storage
    with untold(ready.home, "semi"):
        storage.handle_run_event(run.run_id, dg.DagsterEvent("PIPELINE_START", run.job_name))
        try:
            looked(ready, failure_sensor)
        finally:
            storage.handle_run_event(run.run_id, dg.DagsterEvent("PIPELINE_FAILURE", run.job_name))


def test_the_history_is_renewed_by_two_threads_of_one_process(ready: Platform) -> None:
    before = renew_history(ready.home, ready.instance)
    with ThreadPoolExecutor(2) as threads:
        renewed = list(threads.map(lambda _: renew_history(ready.home, ready.instance), range(20)))
    assert renewed == [before] * 20


def test_the_sensors_are_on_and_the_freshness_policies_off_until_they_are_set(ready: Platform) -> None:
    sensors = {sensor.name: sensor.default_status for sensor in ready.definitions.get_repository_def().sensor_defs}
    assert {sensors["failure_sensor"], sensors["success_sensor"]} == {dg.DefaultSensorStatus.RUNNING}
    graph = ready.definitions.resolve_asset_graph()
    assert {graph.get(key).freshness_policy for key in graph.get_all_asset_keys()} == {None}


@pytest.mark.parametrize(("hours", "window"), [("24", timedelta(hours=24)), ("0.1", timedelta(minutes=6))])
def test_freshness_is_asked_for_in_hours(hours: str, window: timedelta, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUNK_LEADS_FRESH_HOURS", hours)
    policy = freshness()["freshness_policy"]
    assert (policy.fail_window.to_timedelta(), policy.warn_window.to_timedelta()) == (window, window / 2)


@pytest.mark.parametrize("hours", ["soon", "-1", "0", "1e400", "nan"])
def test_freshness_that_is_no_time_is_refused(hours: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUNK_LEADS_FRESH_HOURS", hours)
    with pytest.raises(JunkLeadsError, match=r"^JUNK_LEADS_FRESH_HOURS is '.*'; it takes a number of hours"):
        freshness()


def test_only_what_every_delivery_makes_anew_can_be_overdue(tmp_path: Path) -> None:
    code = (
        "from junk_leads.definitions import defs; graph = defs.resolve_asset_graph(); "
        "print(sorted(key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).freshness_policy))"
    )
    environment = {**os.environ, "JUNK_LEADS_FRESH_HOURS": "24", "JUNK_LEADS_HOME": str(tmp_path)}
    told = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True)
    assert told.stdout.strip() == "['predictions', 'raw_leads']"
