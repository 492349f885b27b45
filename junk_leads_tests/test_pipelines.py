"""The three pipelines, whole: assets, jobs and the faults of deliveries, through the command line and in process."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.launching import Platform, failure_line, platform
from junk_leads.reference import INTERACTION_GROUPS, lead_schema
from junk_leads.steps.generating import write_leads
from junk_leads_tests.conftest import Outcome, Trained

pytestmark = pytest.mark.xdist_group("home")

SCHEMA = lead_schema()
CLI = Callable[..., Outcome]
Table = list[list[str]]
PREDICTED = ["drop", "lead_number", "probability", "predicted_flag", "score", "grade", "reasons", "model_version"]
DO = "export the leads again as comma-separated UTF-8 text and deliver that"
MATERIALISED, CHECKED = dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_CHECK_EVALUATION


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """A header and 200 labelled leads, cells as text."""
    path = tmp_path_factory.mktemp("delivered") / "leads.csv"
    write_leads(path, 200, seed=3)
    table = read_table(path)
    # each lead its own second, so that none is the duplicate of another
    for number, row in enumerate(table[1:]):
        row[0] = f"2021-08-01 10:{number // 60:02d}:{number % 60:02d}"
    return table


def read_table(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def text_of(table: Iterable[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue()


def write(path: Path, content: Iterable[list[str]] | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else text_of(content).encode())
    return path


def without(table: Table, *names: str) -> Table:
    kept = [place for place, name in enumerate(table[0]) if name not in names]
    return [[row[place] for place in kept] for row in table]


def with_cell(table: Table, line: int, name: str, value: str) -> Table:
    """The table with one other cell; the header is on line 1."""
    changed = [list(row) for row in table]
    changed[line - 1][table[0].index(name)] = value
    return changed


def query(home: Home, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(home.warehouse)) as con:
        return con.execute(sql).fetchall()


def tables_of(home: Home, drop: str) -> dict[str, list[tuple[Any, ...]]]:
    """What the data pipeline's tables hold of a drop, but for its key."""
    names = ("raw_leads", "cleaned_leads", "interaction_groups", "rejected_leads")
    return {
        name: query(home, f"SELECT * EXCLUDE (drop) FROM {name} WHERE drop = '{drop}' ORDER BY lead_number")
        for name in names
    }


@dataclass(frozen=True)
class Told:
    """What the newest run of a home told Dagster."""

    materialised: dict[str, dict[str, Any]]
    failed_checks: dict[str, str]
    passed_checks: set[str]


@contextmanager
def instance_of(home: Home) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        yield instance


def newest_run(home: Home) -> Told:
    with instance_of(home) as instance:
        run = instance.get_runs(limit=1)[0]
        records = instance.get_records_for_run(run.run_id).records
    events = [r.event_log_entry.dagster_event for r in records if r.event_log_entry.dagster_event]
    stored = [e.step_materialization_data.materialization for e in events if e.event_type is MATERIALISED]
    checks = [e.asset_check_evaluation_data for e in events if e.event_type is CHECKED]
    return Told(
        {m.asset_key.to_user_string(): {k: v.value for k, v in m.metadata.items()} for m in stored},
        {c.check_name: c.severity.value for c in checks if not c.passed},
        {c.check_name for c in checks if c.passed},
    )


def launch(found: Platform, drop: str, *assets: str) -> None:
    """Materialise some assets alone, as the UI does; raises JunkLeadsError."""
    result = found.definitions.resolve_job_def("inference_pipeline").execute_in_process(
        instance=found.instance,
        partition_key=drop,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )
    if not result.success:
        raise JunkLeadsError(failure_line(result.all_events, result.run_id))


# The data pipeline


def test_the_data_pipeline_stores_and_accounts_for_every_row(
    junk_leads: CLI, home: Home, tmp_path: Path, delivered: Table
) -> None:
    table = [*with_cell(delivered, 31, "syllabus", "many"), delivered[1], delivered[2]]
    done = junk_leads("ingest", write(tmp_path / "july.csv", table), "--json")
    account = {"rows_read": 202, "kept": 199, "duplicates": 2, "rejected": 1}
    assert (done.code, done.failures) == (0, [])
    assert done.json == {"drops": [{"drop": "july", **account, "labelled": True}]}

    counts = "SELECT (SELECT count(*) FROM raw_leads), (SELECT count(*) FROM cleaned_leads)"
    assert query(home, f"{counts}, (SELECT count(*) FROM interaction_groups)") == [(201, 199, 199)]
    assert query(home, "SELECT * EXCLUDE (raw) FROM rejected_leads") == [
        ("july", 30, 31, "syllabus", "is not a number")
    ]
    assert query(home, "SELECT raw FROM rejected_leads") == [(text_of([table[30]]).strip(),)]

    told = newest_run(home)
    assert {asset: data["dagster/row_count"] for asset, data in told.materialised.items()} == {
        "raw_leads": 201,
        "cleaned_leads": 199,
        "interaction_groups": 199,
    }
    assert told.failed_checks == {"has_few_rejected_rows": "WARN"}
    for data in told.materialised.values():
        columns = [column.name for column in data["dagster/column_schema"].columns]
        assert columns[:2] == ["drop", "lead_number"]
        assert data["preview"].startswith("| drop | lead_number |")


def test_every_asset_tells_a_person_what_it_is(home: Home) -> None:
    with platform(home) as found:
        specs = {spec.key.to_user_string(): spec for spec in found.definitions.resolve_all_asset_specs()}
    assert list(specs) and {name: spec.group_name for name, spec in specs.items()} == {
        "raw_leads": "data_pipeline",
        "cleaned_leads": "data_pipeline",
        "interaction_groups": "data_pipeline",
        "significant_levels": "training_pipeline",
        "encoded_features": "training_pipeline",
        "lightgbm_model": "training_pipeline",
        "predictions": "inference_pipeline",
        "prediction_summary": "inference_pipeline",
    }
    for name, spec in specs.items():
        assert len(spec.description or "") > 80, name
        assert spec.kinds, name
        assert list(spec.owners) == ["team:lead-quality"], name


def test_ingesting_twice_equals_once(junk_leads: CLI, home: Home, tmp_path: Path, delivered: Table) -> None:
    path = write(tmp_path / "july.csv", [*delivered[:60], delivered[1]])
    once = junk_leads("ingest", path, "--json")
    before = tables_of(home, "july")
    twice = junk_leads("ingest", path, "--json")
    assert once == twice
    assert tables_of(home, "july") == before
    assert query(home, "SELECT count(*) FROM delivered_drops") == [(1,)]
    assert len(list(home.archive.iterdir())) == 1


def test_new_content_replaces_its_drop(junk_leads: CLI, home: Home, tmp_path: Path, delivered: Table) -> None:
    junk_leads("ingest", write(tmp_path / "july.csv", delivered[:60]), write(tmp_path / "may.csv", delivered[:9]))
    may = tables_of(home, "may")
    done = junk_leads("ingest", write(tmp_path / "july.csv", delivered[:1] + delivered[100:140]), "--json")
    account = {"rows_read": 40, "kept": 40, "duplicates": 0, "rejected": 0}
    assert done.json == {"drops": [{"drop": "july", **account, "labelled": True}]}
    assert query(home, "SELECT min(created_date)::VARCHAR, count(*) FROM raw_leads WHERE drop = 'july'") == [
        ("2021-08-01 10:01:39", 40)
    ]
    assert tables_of(home, "may") == may


def test_a_refused_file_leaves_the_former_rows_and_tells_why_in_quarantine(
    junk_leads: CLI, home: Home, tmp_path: Path, delivered: Table
) -> None:
    path = tmp_path / "july.csv"
    junk_leads("ingest", write(path, delivered[:60]))
    before = tables_of(home, "july")
    refused = junk_leads("ingest", write(path, without(delivered, "syllabus")), "--json")
    (folder,) = home.quarantine.iterdir()
    assert (refused.code, refused.json) == (1, {"drops": []})
    assert refused.failures == [
        "july.csv: the header lacks syllabus; expected every column under exactly its own name, in lower case; "
        f"add or rename the columns and deliver the file again (the file and its reason are in {folder})"
    ]
    assert tables_of(home, "july") == before
    reason = json.loads((folder / "reason.json").read_text())
    assert reason.pop("when")
    assert reason == {
        "file": "july.csv",
        "drop": "july",
        "what": "the header lacks syllabus",
        "where": "line 1",
        "expected": "every column under exactly its own name, in lower case",
        "do": "add or rename the columns and deliver the file again",
    }
    assert (folder / "july.csv").read_bytes() == path.read_bytes()
    assert newest_run(home).failed_checks == {"has_every_required_column": "ERROR"}


def test_what_is_downstream_of_a_refused_drop_is_refused_alone_too(
    junk_leads: CLI, home: Home, tmp_path: Path, delivered: Table
) -> None:
    junk_leads("ingest", write(tmp_path / "may.csv", delivered[:9]), write(tmp_path / "july.csv", b""))
    with platform(home) as found:
        for asset in ("cleaned_leads", "interaction_groups", "encoded_features", "predictions"):
            with pytest.raises(JunkLeadsError, match="^(raw|cleaned)_leads does not hold drop 'july': it was refused"):
                launch(found, "july", "cleaned_leads" if asset == "cleaned_leads" else "interaction_groups")
    assert query(home, "SELECT DISTINCT drop FROM cleaned_leads") == [("may",)]


# The training pipeline


def test_training_stores_its_row_and_tracks_its_run(trained: Trained) -> None:
    from mlflow import MlflowClient

    columns = "model_version, encoder_id, run_id, labelled_leads, random_auc"
    ((version, encoder_id, run_id, leads, auc),) = query(trained.home, f"SELECT {columns} FROM lightgbm_model")
    client = MlflowClient(trained.home.mlflow_uri)
    run = client.get_run(run_id)
    assert (version, run.info.status, run.data.tags["dagster_run_id"] != "") == ("1", "FINISHED", True)
    assert query(trained.home, "SELECT count(*) FROM cleaned_leads WHERE drop = 'history'") == [(leads,)]
    assert run.data.metrics["random_auc"] == auc > 0.75
    assert {"rounds", "num_leaves", "data_fingerprint", "encoder_id"} <= set(run.data.params)
    assert run.data.params["encoder_id"] == encoder_id
    logged = {file.path for file in client.list_artifacts(run_id)}
    assert {"drops.json", "encoder.json", "plots"} <= logged
    plots = {Path(file.path).stem for file in client.list_artifacts(run_id, "plots")}
    assert {"roc_curve", "precision_recall_curve", "confusion_matrix", "feature_importance"} <= plots
    registered = client.get_model_version("junk_leads", "1")
    assert set(json.loads(registered.tags["files_sha256"])) == {"model.txt", "encoder.json", "settings.json"}


def test_the_encoder_keeps_ninety_percent_and_the_features_carry_its_id(trained: Trained) -> None:
    levels = query(trained.home, "SELECT feature, max(cumulative_share) FROM significant_levels GROUP BY 1 ORDER BY 1")
    assert [feature for feature, _ in levels] == [
        "city_mapped",
        "first_platform_c",
        "first_utm_medium_c",
        "first_utm_source_c",
    ]
    assert all(0.9 <= reached <= 1 for _, reached in levels)
    ids = query(trained.home, "SELECT DISTINCT encoder_id FROM encoded_features")
    assert ids == query(trained.home, "SELECT encoder_id FROM lightgbm_model")
    sums = " + ".join(INTERACTION_GROUPS)
    single = " + ".join(f'"{name}"' for name in SCHEMA.with_role("interaction"))
    assert query(trained.home, f"SELECT sum({sums}) FROM interaction_groups") == query(
        trained.home, f"SELECT sum({single}) FROM cleaned_leads"
    )


def test_two_trainings_in_one_process_are_two_runs_and_two_versions(junk_leads: CLI, trained_home: Home) -> None:
    done = junk_leads("train", "--rounds", 5, "--param", "num_leaves=4", "--json")
    assert (done.code, done.failures) == (0, [])
    assert set(done.json) == {"version", "run_id", "encoder_id", "rows", "metrics"}
    assert done.json["version"] == "2"
    assert done.json["metrics"]["random_auc"] > 0.7
    listed = junk_leads("models", "--json").json["versions"]
    assert [(row["version"], row["stage"]) for row in listed] == [("2", ""), ("1", "production")]
    assert len({row["run_id"] for row in listed}) == 2


# The inference pipeline


@pytest.fixture(scope="module")
def odd_table(delivered: Table) -> Table:
    """Unlabelled leads with an unnamed index column, an unknown column of formulas, and cells hard to keep."""
    cells = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", 'a "quoted", cell', "two\nlines", " padded ", "NULL", "'=1"]
    table = without(delivered, "app_complete_flag")
    table = [["", *table[0], "note"], *([str(i), *row, ""] for i, row in enumerate(table[1:]))]
    for row, cell in zip(table[1:], cells, strict=False):
        row[-1] = cell
    city = table[0].index("city_mapped")
    table[12][city], table[13][city], table[14][city] = "=cmd|' /C calc'!A0", "Navi  Mumbai", "Zürich "
    return [*with_cell(table, 100, "created_date", "yesterday"), ["900", *table[20][1:]]]


def test_the_scored_file_keeps_every_delivered_column_and_is_safe_to_open(
    junk_leads: CLI, trained_home: Home, tmp_path: Path, odd_table: Table
) -> None:
    path = write(tmp_path / "odd.csv", odd_table)
    done = junk_leads("score", path, "--out", tmp_path / "out", "--json")
    assert (done.code, done.failures) == (0, [])
    (told,) = done.json["drops"]
    scored_path, summary_path = tmp_path / "out" / "odd.csv", tmp_path / "out" / "odd.summary.txt"
    assert told | {"share_of_ones": 0} == {
        "drop": "odd",
        "rows": 199,
        "share_of_ones": 0,
        "model_version": "1",
        "predictions": str(scored_path),
        "summary": str(summary_path),
    }

    scored = read_table(scored_path)
    assert scored[0] == [*odd_table[0], *PREDICTED]
    width = len(odd_table[0])
    accepted = [row for line, row in enumerate(odd_table[1:], 2) if line != 100]
    kept = [row for row in accepted if row[0] != "900"]  # the last one is a duplicate
    inert = [[f"'{cell}" if cell.startswith(tuple("=+-@\t\r")) else cell for cell in row] for row in kept]
    assert [row[:width] for row in scored[1:]] == inert
    assert [row[-1] for row in inert[:6]] == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\tx", "'\rx"]

    numbers = [str(line) for line in range(1, 201) if line != 99]
    predicted = [dict(zip(PREDICTED, row[width:], strict=True)) for row in scored[1:]]
    assert [row["lead_number"] for row in predicted] == numbers
    assert {(row["drop"], row["model_version"]) for row in predicted} == {("odd", "1")}
    for row in predicted:
        probability = float(row["probability"])
        assert row["predicted_flag"] == str(int(probability >= 0.5))
        assert 1 <= int(row["score"]) <= 99
        assert row["grade"] in "ABCD"
        assert 1 <= len(row["reasons"].split("; ")) <= 3
    ones = sum(row["predicted_flag"] == "1" for row in predicted)
    assert told["share_of_ones"] == pytest.approx(ones / 199)

    assert query(trained_home, "SELECT city_mapped FROM raw_leads WHERE drop = 'odd' AND lead_number = 12") == [
        ("=cmd|' /C calc'!A0",)
    ]
    assert (trained_home.predictions / "odd.csv").read_bytes() == scored_path.read_bytes()
    archived = next(file for file in trained_home.archive.iterdir() if file.name.startswith("odd-"))
    assert archived.read_bytes() == path.read_bytes()
    assert newest_run(trained_home).failed_checks["has_no_unknown_column"] == "WARN"

    summary = summary_path.read_text()
    assert f"1s (likely to complete the application): {ones / 199:8.2%}   {ones} leads\n" in summary
    assert f"0s (likely junk):                        {1 - ones / 199:8.2%}   {199 - ones} leads\n" in summary
    assert "Leads scored: 199 of 201 rows delivered (1 exact duplicates dropped, 1 rows rejected)\n" in summary
    assert "Model: version 1\n" in summary


def test_a_file_with_only_a_header_is_scored_to_a_file_with_only_a_header(
    junk_leads: CLI, trained_home: Home, tmp_path: Path, delivered: Table
) -> None:
    done = junk_leads("score", write(tmp_path / "none.csv", without(delivered, "app_complete_flag")[:1]), "--json")
    assert (done.code, done.failures) == (0, [])
    assert (done.json["drops"][0]["rows"], done.json["drops"][0]["share_of_ones"]) == (0, 0.0)
    scored = read_table(trained_home.predictions / "none.csv")
    assert scored == [[*SCHEMA.required, *PREDICTED]]
    assert "   0 leads" in (trained_home.predictions / "none.summary.txt").read_text()
    assert newest_run(trained_home).failed_checks == {"has_leads": "WARN"}


def test_predictions_asked_for_alone_never_mix_a_refused_file_with_former_leads(
    junk_leads: CLI, trained_home: Home, tmp_path: Path, delivered: Table
) -> None:
    former = (trained_home.predictions / "new.csv").read_bytes()
    refused = junk_leads("ingest", write(tmp_path / "new.csv", without(delivered, "syllabus")))
    assert refused.code == 1
    with platform(trained_home) as found:
        launch(found, "new", "predictions")
    assert (trained_home.predictions / "new.csv").read_bytes() == former


# Faults of deliveries, as FAULTS.md numbers them


def test_fault_1_an_empty_file_is_refused(junk_leads: CLI, home: Home, tmp_path: Path) -> None:
    refused = junk_leads("ingest", write(tmp_path / "july.csv", b""), "--json")
    (folder,) = home.quarantine.iterdir()
    assert (refused.code, refused.json) == (1, {"drops": []})
    assert refused.failures == [
        f"july.csv: the file is empty (0 bytes); {DO} (the file and its reason are in {folder})"
    ]
    assert (folder / "july.csv").read_bytes() == b""


def test_fault_2_a_header_alone_makes_empty_typed_tables_and_a_warning(
    junk_leads: CLI, home: Home, tmp_path: Path, delivered: Table
) -> None:
    done = junk_leads("ingest", write(tmp_path / "july.csv", delivered[:1]), "--json")
    account = {"rows_read": 0, "kept": 0, "duplicates": 0, "rejected": 0}
    assert (done.code, done.json) == (0, {"drops": [{"drop": "july", **account, "labelled": True}]})
    assert newest_run(home).failed_checks == {"has_leads": "WARN"}
    types = "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'raw_leads'"
    assert query(home, types)[2:] == [(column.name, column.type) for column in SCHEMA.columns]
    assert query(home, "SELECT count(*) FROM interaction_groups") == [(0,)]


def test_faults_3_and_8_a_bom_or_another_order_of_columns_changes_nothing(
    junk_leads: CLI, home: Home, tmp_path: Path, delivered: Table
) -> None:
    plain = write(tmp_path / "plain.csv", delivered[:60])
    bom = write(tmp_path / "bom.csv", b"\xef\xbb\xbf" + plain.read_bytes())
    turned = write(tmp_path / "turned.csv", [row[::-1] for row in delivered[:60]])
    done = junk_leads("ingest", plain, bom, turned, "--json")
    assert (done.code, [drop["kept"] for drop in done.json["drops"]]) == (0, [59, 59, 59])
    assert tables_of(home, "plain") == tables_of(home, "bom") == tables_of(home, "turned")


def test_fault_9_a_missing_column_is_refused_and_an_extra_one_is_a_warning(
    junk_leads: CLI, home: Home, tmp_path: Path, delivered: Table
) -> None:
    extra = [["", *delivered[0], "note"], *(["1", *row, "x"] for row in delivered[1:60])]
    done = junk_leads(
        "ingest",
        write(tmp_path / "missing.csv", without(delivered, "city_mapped", "careers")),
        write(tmp_path / "plain.csv", delivered[:60]),
        write(tmp_path / "extra.csv", extra),
        "--json",
    )
    (folder,) = home.quarantine.iterdir()
    assert (done.code, [drop["drop"] for drop in done.json["drops"]]) == (1, ["plain", "extra"])
    assert done.failures == [
        "missing.csv: the header lacks city_mapped, careers; expected every column under exactly its own name, in "
        "lower case; add or rename the columns and deliver the file again (the file and its reason are in "
        f"{folder})"
    ]
    assert newest_run(home).failed_checks == {"has_no_unknown_column": "WARN"}
    assert tables_of(home, "extra") == tables_of(home, "plain")


def test_faults_17_24_and_37_bad_rows_are_rejected_with_line_and_reason(
    junk_leads: CLI, home: Home, tmp_path: Path
) -> None:
    path = tmp_path / "july.csv"
    write_leads(path, 30_100, seed=4)
    table = read_table(path)
    table = with_cell(table, 30_001, "careers", "lots")
    table = with_cell(with_cell(table, 12, "app_complete_flag", "2"), 13, "app_complete_flag", "")
    table[99] = [*table[99], "one too many"]
    table[100] = table[100][:-2]
    done = junk_leads("ingest", write(path, table), "--json")
    (account,) = done.json["drops"]
    assert (done.code, account["rows_read"], account["rejected"]) == (0, 30_100, 5)
    assert account["kept"] + account["duplicates"] == 30_095
    assert query(home, "SELECT line, column_name, reason FROM rejected_leads ORDER BY line") == [
        (12, "app_complete_flag", "is larger than 1"),
        (13, "app_complete_flag", "is missing"),
        (100, None, "has 46 fields where the header has 45"),
        (101, None, "has 43 fields where the header has 45"),
        (30_001, "careers", "is not a number"),
    ]
    assert newest_run(home).failed_checks["has_few_rejected_rows"] == "WARN"


def test_more_than_one_percent_of_bad_rows_refuses_the_drop(
    junk_leads: CLI, home: Home, tmp_path: Path, delivered: Table
) -> None:
    table = delivered
    for line in (5, 6, 7):
        table = with_cell(table, line, "app_complete_flag", "2")
    refused = junk_leads("ingest", write(tmp_path / "july.csv", table), "--json")
    (folder,) = home.quarantine.iterdir()
    assert (refused.code, refused.json) == (1, {"drops": []})
    (line,) = refused.failures
    assert line.startswith("july.csv: raw_leads was not stored: has_few_rejected_rows: ")
    assert line.endswith(f"(the file and its reason are in {folder})")
    assert json.loads((folder / "reason.json").read_text())["do"] == (
        "mend the file and deliver it again: 3 rows: app_complete_flag is larger than 1 (first in line 5)"
    )
    assert newest_run(home).failed_checks == {"has_few_rejected_rows": "ERROR"}


def test_fault_22_duplicates_inside_a_drop_go_and_leads_of_another_drop_stay(
    junk_leads: CLI, home: Home, tmp_path: Path, delivered: Table
) -> None:
    twice = [*delivered[:60], delivered[5], delivered[9], delivered[5]]
    done = junk_leads(
        "ingest", write(tmp_path / "may.csv", delivered[:60]), write(tmp_path / "july.csv", twice), "--json"
    )
    may, july = ({k: drop[k] for k in ("rows_read", "kept", "duplicates")} for drop in done.json["drops"])
    assert may == {"rows_read": 59, "kept": 59, "duplicates": 0}
    assert july == {"rows_read": 62, "kept": 59, "duplicates": 3}
    assert query(home, "SELECT max(lead_number) FROM cleaned_leads WHERE drop = 'july'") == [(59,)]


def test_fault_31_a_level_never_seen_scores_as_a_minor_one(
    junk_leads: CLI, trained_home: Home, tmp_path: Path, delivered: Table
) -> None:
    unlabelled = without(delivered, "app_complete_flag")
    tables = {}
    for name, level in (("unseen", 'Level "{9}" 🎓'), ("minor", "Level94")):
        tables[name] = with_cell(with_cell(unlabelled, 2, "first_platform_c", level), 2, "first_utm_source_c", level)
    done = junk_leads("score", *(write(tmp_path / f"{name}.csv", table) for name, table in tables.items()))
    assert (done.code, done.failures) == (0, [])
    both = [read_table(trained_home.predictions / f"{name}.csv") for name in tables]
    probability = both[0][0].index("probability")
    assert both[0][1][probability] == both[1][1][probability]
    encoded = "SELECT first_platform_c_others, first_utm_source_c_others FROM encoded_features"
    assert query(trained_home, f"{encoded} WHERE drop = 'unseen' AND lead_number = 1") == [(1, 1)]


def test_fault_36_leads_of_one_class_train_nothing_and_the_champion_stays(
    junk_leads: CLI, home: Home, tmp_path: Path
) -> None:
    path = tmp_path / "history.csv"
    write_leads(path, 1_200, seed=5)
    junk_leads("ingest", write(path, [row if at == 0 else [*row[:-1], "1"] for at, row in enumerate(read_table(path))]))
    refused = junk_leads("train", "--json")
    ((leads,),) = query(home, "SELECT count(*) FROM cleaned_leads")
    assert (refused.code, refused.out) == (1, "")
    assert refused.failures == [
        f"lightgbm_model was not stored: has_enough_labelled_leads: {leads:,} labelled leads ({leads:,} genuine, 0 "
        "junk) are too few to train on; expected at least 1,000 with 120 of each class; ingest more labelled drops"
    ]
    assert newest_run(home).failed_checks == {"has_enough_labelled_leads": "ERROR"}
    assert junk_leads("models", "--json").json == {"versions": []}


def test_fault_38_too_few_labelled_leads_train_nothing_and_the_champion_stays(
    junk_leads: CLI, trained_home: Home
) -> None:
    ((leads,),) = query(trained_home, "SELECT labelled_leads FROM lightgbm_model")
    refused = junk_leads("train", "--minimum-labelled", 10_000)
    assert refused.code == 1
    (line,) = refused.failures
    assert line.startswith(f"lightgbm_model was not stored: has_enough_labelled_leads: {leads:,} labelled leads (")
    assert line.endswith(
        "are too few to train on; expected at least 10,000 with 120 of each class; ingest more labelled drops"
    )
    assert query(trained_home, "SELECT model_version FROM lightgbm_model") == [("1",)]
    listed = junk_leads("models", "--json").json["versions"]
    assert [(row["version"], row["stage"]) for row in listed] == [("1", "production")]


def test_fault_38_no_labelled_leads_at_all_is_a_clear_error(
    junk_leads: CLI, home: Home, tmp_path: Path, delivered: Table
) -> None:
    line = (
        "there are no labelled drops to train on; ingest a CSV that has app_complete_flag (at least 1,000 leads with "
        "120 of each class)"
    )
    assert (refused := junk_leads("train")).code == 1
    assert refused.failures == [line]
    junk_leads("ingest", write(tmp_path / "new.csv", without(delivered, "app_complete_flag")[:20]))
    assert (refused := junk_leads("train")).code == 1
    assert refused.failures == [line]


def test_fault_44_a_file_seen_by_two_ticks_makes_one_run(home: Home, tmp_path: Path, delivered: Table) -> None:
    write(home.incoming / "july.csv", delivered[:60])
    with platform(home) as found:
        sensor = found.definitions.resolve_sensor_def("incoming_sensor")
        keys, cursor = [], None
        for _ in range(4):
            context = dg.build_sensor_context(
                instance=found.instance, cursor=cursor, definitions=found.definitions, sensor_name="incoming_sensor"
            )
            tick = sensor.evaluate_tick(context)
            cursor = tick.cursor
            keys += [request.run_key for request in tick.run_requests or []]
    # Dagster starts one run for a run key, however often it is asked for
    assert len(set(keys)) == 1
    assert len(found.ledger.deliveries()) == 1


def test_fault_54_without_a_champion_nothing_is_scored_and_the_line_says_what_to_do(
    junk_leads: CLI, home: Home, tmp_path: Path, delivered: Table
) -> None:
    refused = junk_leads("score", write(tmp_path / "new.csv", without(delivered, "app_complete_flag")))
    assert refused.code == 1
    assert refused.failures == [
        "no model is in Production yet; run `junk-leads train`, then `junk-leads models promote VERSION --to production`"
    ]
    assert list(home.predictions.iterdir()) == []


def test_fault_57_content_that_failed_halfway_leaves_no_half_of_it(
    junk_leads: CLI, home: Home, tmp_path: Path, delivered: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    from junk_leads import warehouse

    path = tmp_path / "july.csv"
    junk_leads("ingest", write(path, delivered[:60]))
    before = tables_of(home, "july")

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(warehouse, "_hold", fails)
        failed = junk_leads("ingest", write(path, delivered[:100]))
    assert failed.code == 1
    (line,) = failed.failures
    assert "No space left on device" in line
    assert tables_of(home, "july") == before
    again = junk_leads("ingest", path, "--json")
    assert again.json["drops"][0]["kept"] == 99
