"""The three pipelines, whole: their assets, jobs and files, and the faults of deliveries, through the command line."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
import pytest

from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.reference import INTERACTION_GROUPS, lead_schema
from junk_leads.running.launching import Platform, failure_line, platform
from junk_leads.steps.leads.generating import write_leads
from junk_leads.steps.scoring import scoring
from junk_leads.stores import warehouse
from junk_leads_tests.conftest import Outcome, Trained, copied_home, run_command

pytestmark = pytest.mark.xdist_group("home")

SCHEMA = lead_schema()
CLI = Callable[..., Outcome]
Table = list[list[str]]
PREDICTED = ["drop", "lead_number", "probability", "predicted_flag", "score", "grade", "reasons", "model_version"]
DO = "export the leads again as comma-separated UTF-8 text and deliver that"
CHECKED, MATERIALISED = dg.DagsterEventType.ASSET_CHECK_EVALUATION, dg.DagsterEventType.ASSET_MATERIALIZATION


@pytest.fixture(scope="module")
def leads(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """A header and 200 labelled leads, cells as text, no two alike."""
    path = tmp_path_factory.mktemp("leads") / "leads.csv"
    write_leads(path, 200, seed=3)
    table = read_table(path)
    for number, row in enumerate(table[1:]):
        row[0] = f"2021-08-01 10:{number // 60:02d}:{number % 60:02d}"
    return table


@pytest.fixture(scope="module")
def unlabelled(leads: Table) -> Table:
    return without(leads, "app_complete_flag")


def read_table(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def text_of(table: Iterable[list[str]], end: str = "\n") -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows(table)
    return text.getvalue()


def write(path: Path, content: Iterable[list[str]] | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else text_of(content).encode())
    return path


def without(table: Table, *names: str) -> Table:
    kept = [place for place, name in enumerate(table[0]) if name not in names]
    return [[row[place] for place in kept] for row in table]


def with_cells(table: Table, name: str, cells: dict[int, str]) -> Table:
    """The table with other cells in a column, by line; the header is on line 1."""
    place, changed = table[0].index(name), [list(row) for row in table]
    for line, cell in cells.items():
        changed[line - 1][place] = cell
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
    """What the newest run of a drop told Dagster."""

    materialised: dict[str, dict[str, Any]]
    failed_checks: dict[str, str]


def run_of(home: Home, drop: str) -> Told:
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        run = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": drop}), limit=1)[0]
        records = instance.get_records_for_run(run.run_id).records
    events = [r.event_log_entry.dagster_event for r in records if r.event_log_entry.dagster_event]
    stored = [e.step_materialization_data.materialization for e in events if e.event_type is MATERIALISED]
    checks = [e.asset_check_evaluation_data for e in events if e.event_type is CHECKED]
    return Told(
        {m.asset_key.to_user_string(): {k: v.value for k, v in m.metadata.items()} for m in stored},
        {c.check_name: c.severity.value for c in checks if not c.passed},
    )


def materialise(found: Platform, drop: str, *assets: str) -> None:
    """Materialise these assets alone, as the UI does; raises JunkLeadsError."""
    result = found.definitions.resolve_job_def("inference_pipeline").execute_in_process(
        instance=found.instance,
        partition_key=drop,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )
    if not result.success:
        raise JunkLeadsError(failure_line(result.all_events, result.run_id))


# The data pipeline: one command for good files and bad ones, in a home that has a champion


@dataclass(frozen=True)
class Ingested:
    """A command `ingest` for several files, and the home afterwards; `files` by drop."""

    home: Home
    outcome: Outcome
    files: dict[str, Path]

    @property
    def accounts(self) -> dict[str, dict[str, Any]]:
        return {account["drop"]: account for account in self.outcome.json["drops"]}

    def refusal(self, drop: str) -> tuple[str, Path]:
        """The line on stderr about a drop, and its folder in quarantine."""
        (folder,) = self.home.quarantine.glob(f"{drop}-*")
        (line,) = (line for line in self.outcome.failures if line.startswith(f"{drop}.csv: "))
        assert line.endswith(f" (the file and its reason are in {folder})")
        return line.partition(" (the file and its reason are in ")[0], folder


@pytest.fixture(scope="module")
def ingested(trained: Trained, leads: Table, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    folder = tmp_path_factory.mktemp("ingested")
    home = copied_home(trained.home, folder / "home")
    write_leads(folder / "july.csv", 30_100, seed=4)
    july = with_cells(read_table(folder / "july.csv"), "careers", {30_001: "lots"})
    july = with_cells(july, "app_complete_flag", {12: "2", 13: ""})
    july[99], july[100] = [*july[99], "one too many"], july[100][:-2]
    contents: dict[str, Table | bytes] = {
        "empty": b"",
        "july": july,
        "missing": without(leads, "syllabus", "city_mapped"),
        "plain": [*leads[:60], leads[1], leads[2]],
        "rotten": with_cells(leads, "app_complete_flag", dict.fromkeys((5, 6, 7), "2")),
        "turned": b"\xef\xbb\xbf" + text_of(row[::-1] for row in [*leads[:60], leads[1], leads[2]]).encode(),
    }
    files = {drop: write(folder / f"{drop}.csv", content) for drop, content in contents.items()}
    return Ingested(home, run_command("ingest", *files.values(), "--json", home=home), files)


def test_a_refused_file_keeps_no_other_from_being_taken(ingested: Ingested) -> None:
    assert ingested.outcome.code == 1
    assert list(ingested.accounts) == ["july", "plain", "turned"]
    assert len(ingested.outcome.failures) == 3


def test_every_row_that_was_read_is_kept_a_duplicate_or_rejected(ingested: Ingested) -> None:
    counts = {"rows_read": 61, "kept": 59, "duplicates": 2, "rejected": 0}
    assert ingested.accounts["plain"] == {"drop": "plain", **counts, "labelled": True}
    for drop, account in ingested.accounts.items():
        assert account["rows_read"] == account["kept"] + account["duplicates"] + account["rejected"]
        where = f"WHERE drop = '{drop}'"
        assert query(ingested.home, f"SELECT count(*) FROM raw_leads {where}") == [
            (account["rows_read"] - account["rejected"],)
        ]
        for table in ("cleaned_leads", "interaction_groups"):
            assert query(ingested.home, f"SELECT count(*) FROM {table} {where}") == [(account["kept"],)]


def test_every_check_is_about_the_materialisation_that_it_came_with_which_is_looked_up_once(
    trained_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[object] = []
    look_up = dg.DagsterInstance.fetch_materializations

    def counted(instance: dg.DagsterInstance, *args: Any, **kwargs: Any) -> object:
        looked_up.append(args)
        return look_up(instance, *args, **kwargs)

    monkeypatch.setattr(dg.DagsterInstance, "fetch_materializations", counted)
    with platform(trained_home) as found:
        for times in (1, 2):
            materialise(found, "new", "raw_leads", "cleaned_leads", "interaction_groups")
            run = found.instance.get_runs(limit=1)[0]
            events = [r.dagster_event for r in found.instance.all_logs(run.run_id) if r.dagster_event]
            checks = [e.asset_check_evaluation_data for e in events if e.event_type is CHECKED]
            assert len(checks) > len({check.asset_key for check in checks}) == 3
            assert {check.target_materialization_data.run_id for check in checks} == {run.run_id}
            about = {(check.asset_key, check.target_materialization_data.storage_id) for check in checks}
            assert len(about) == 3
            assert len(looked_up) == 3 * times
        assert "fetch_materializations" not in vars(found.instance)


def test_every_table_shows_its_rows_columns_and_a_preview(ingested: Ingested) -> None:
    told = run_of(ingested.home, "plain")
    rows = {asset: data["dagster/row_count"] for asset, data in told.materialised.items()}
    assert rows == {"raw_leads": 61, "rejected_leads": 0, "cleaned_leads": 59, "interaction_groups": 59}
    assert told.failed_checks == {}
    for data in told.materialised.values():
        columns = [column.name for column in data["dagster/column_schema"].columns]
        assert columns[:2] == ["drop", "lead_number"]
        assert data["preview"].startswith("| drop | lead_number |")


def test_every_asset_tells_a_person_what_it_is(trained: Trained) -> None:
    with platform(trained.home) as found:
        specs = {spec.key.to_user_string(): spec for spec in found.definitions.resolve_all_asset_specs()}
    assert {
        "raw_leads": "1_data_pipeline",
        "cleaned_leads": "1_data_pipeline",
        "interaction_groups": "1_data_pipeline",
        "lead_counts": "2_training_pipeline",
        "significant_levels": "2_training_pipeline",
        "lightgbm_model": "2_training_pipeline",
        "champion": "2_training_pipeline",
        "encoded_features": "3_inference_pipeline",
        "predictions": "3_inference_pipeline",
        "prediction_summary": "3_inference_pipeline",
    }.items() <= {name: spec.group_name for name, spec in specs.items()}.items()
    for name, spec in specs.items():
        assert len(spec.description or "") > 80, name
        assert spec.kinds, name
        assert list(spec.owners) == ["team:lead-quality"], name


def test_fault_1_an_empty_file_is_refused(ingested: Ingested) -> None:
    line, folder = ingested.refusal("empty")
    assert line == f"empty.csv: the file is empty (0 bytes); {DO}"
    assert (folder / "empty.csv").read_bytes() == b""


def test_faults_3_8_and_22_a_bom_and_another_order_of_columns_change_nothing_and_leads_of_another_drop_are_kept(
    ingested: Ingested,
) -> None:
    assert tables_of(ingested.home, "plain") == tables_of(ingested.home, "turned")


def test_fault_9_a_missing_column_puts_the_file_into_quarantine_with_its_reason(ingested: Ingested) -> None:
    line, folder = ingested.refusal("missing")
    assert line == (
        "missing.csv: the header lacks city_mapped, syllabus (line 1); expected every column under exactly its own "
        "name, in lower case; add or rename the columns and deliver the file again"
    )
    reason = json.loads((folder / "reason.json").read_text())
    assert reason.pop("when")
    assert reason == {
        "file": "missing.csv",
        "drop": "missing",
        "what": "the header lacks city_mapped, syllabus",
        "where": "line 1",
        "expected": "every column under exactly its own name, in lower case",
        "do": "add or rename the columns and deliver the file again",
    }
    assert (folder / "missing.csv").read_bytes() == ingested.files["missing"].read_bytes()
    assert run_of(ingested.home, "missing").failed_checks == {"has_every_required_column": "ERROR"}


def test_faults_17_24_and_37_bad_rows_are_rejected_with_line_and_reason(ingested: Ingested) -> None:
    account = ingested.accounts["july"]
    assert (account["rows_read"], account["rejected"]) == (30_100, 5)
    rejected = "SELECT line, lead_number, column_name, reason FROM rejected_leads WHERE drop = 'july' ORDER BY line"
    assert query(ingested.home, rejected) == [
        (12, 11, "app_complete_flag", "is larger than 1"),
        (13, 12, "app_complete_flag", "is missing"),
        (100, 99, None, "has 46 fields where the header has 45"),
        (101, 100, None, "has 43 fields where the header has 45"),
        (30_001, 30_000, "careers", "is not a number"),
    ]
    (raw,) = query(ingested.home, "SELECT raw FROM rejected_leads WHERE line = 100")
    assert raw == (ingested.files["july"].read_text().splitlines()[99],)
    assert run_of(ingested.home, "july").failed_checks["has_few_rejected_rows"] == "WARN"


def test_more_than_one_percent_of_bad_rows_refuses_the_drop(ingested: Ingested) -> None:
    line, folder = ingested.refusal("rotten")
    assert line.startswith("rotten.csv: raw_leads was not stored: has_few_rejected_rows: ")
    reason = json.loads((folder / "reason.json").read_text())
    assert "rows rejected: app_complete_flag is larger than 1, first in line 5" in reason["what"]
    assert reason["do"] == (
        "mend the file and deliver it again; every rejected row is in rejected_rows.csv beside this reason"
    )
    assert len((folder / "rejected_rows.csv").read_text(encoding="utf-8").splitlines()) == 1 + 3
    assert run_of(ingested.home, "rotten").failed_checks == {"has_few_rejected_rows": "ERROR"}
    assert query(ingested.home, "SELECT count(*) FROM raw_leads WHERE drop = 'rotten'") == [(0,)]


def test_what_is_downstream_of_a_refused_drop_stays_refused_when_asked_for_alone(ingested: Ingested) -> None:
    upstream = {
        "cleaned_leads": "raw_leads",
        "interaction_groups": "cleaned_leads",
        "encoded_features": "cleaned_leads",
        "predictions": "encoded_features",
        "prediction_summary": "predictions",
    }
    with platform(ingested.home) as found:
        for asset, of in upstream.items():
            with pytest.raises(JunkLeadsError) as refused:
                materialise(found, "rotten", asset)
            assert str(refused.value) == (
                f"{of} does not hold drop 'rotten': it was refused or not materialised yet; look into quarantine/ for "
                f"its reason, or materialise {of} for it first"
            )
    assert not (ingested.home.predictions / "rotten.csv").exists()


def test_fault_57_ingesting_twice_equals_once_and_new_content_replaces_its_drop(
    junk_leads: CLI, trained_home: Home, trained: Trained, tmp_path: Path, unlabelled: Table
) -> None:
    before, archived = tables_of(trained_home, "new"), len(list(trained_home.archive.iterdir()))
    assert junk_leads("ingest", trained.new).code == 0
    assert tables_of(trained_home, "new") == before
    assert len(list(trained_home.archive.iterdir())) == archived

    done = junk_leads("ingest", write(tmp_path / "new.csv", unlabelled[:41]), "--json")
    account = {"rows_read": 40, "kept": 40, "duplicates": 0, "rejected": 0}
    assert done.json == {"drops": [{"drop": "new", **account, "labelled": False}]}
    assert len(tables_of(trained_home, "new")["raw_leads"]) == 40
    assert query(trained_home, "SELECT rows_read FROM delivered_drops WHERE drop = 'new'") == [(40,)]
    assert len(list(trained_home.archive.iterdir())) == archived + 1


def test_fault_60_a_refused_replacement_leaves_former_rows_and_predictions_and_nothing_is_scored_anew(
    junk_leads: CLI, trained_home: Home, tmp_path: Path, leads: Table
) -> None:
    scored = trained_home.predictions / "new.csv"
    before, predictions = tables_of(trained_home, "new"), scored.read_bytes()
    assert junk_leads("ingest", write(tmp_path / "new.csv", without(leads, "syllabus"))).code == 1
    assert tables_of(trained_home, "new") == before

    # asked for alone afterwards, nothing is scored: what is stored is not what was delivered last
    with platform(trained_home) as found:
        for asset in ("encoded_features", "predictions", "prediction_summary"):
            with pytest.raises(
                JunkLeadsError, match="the newest delivery of drop 'new' was refused, and what is stored"
            ):
                materialise(found, "new", asset)
    assert scored.read_bytes() == predictions


def test_fault_57_a_replacement_that_fails_halfway_leaves_former_rows(
    junk_leads: CLI, trained_home: Home, tmp_path: Path, unlabelled: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_is_full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = tables_of(trained_home, "new")
    monkeypatch.setattr(warehouse, "_hold", disk_is_full)  # what a transaction does last
    failed = junk_leads("ingest", write(tmp_path / "new.csv", unlabelled))
    assert failed.code == 1
    (line,) = failed.failures
    assert line.startswith("new.csv: the disk is full, or cannot be written ([Errno 28] No space left on device)")
    assert "No space left on device" in line
    assert tables_of(trained_home, "new") == before


# The training pipeline


def test_training_stores_its_row_and_its_run_is_tracked_and_finished(trained: Trained) -> None:
    from mlflow import MlflowClient

    columns = "model_version, encoder_id, run_id, labelled_leads, random_auc"
    ((version, encoder_id, run_id, leads, auc),) = query(trained.home, f"SELECT {columns} FROM lightgbm_model")
    client = MlflowClient(trained.home.mlflow_uri)
    run = client.get_run(run_id)
    assert (version, run.info.status) == ("1", "FINISHED")
    assert run.data.tags["dagster_run_id"]
    assert query(trained.home, "SELECT count(*) FROM cleaned_leads WHERE drop = 'history'") == [(leads,)]
    assert 0.75 < auc == run.data.metrics["random_auc"]
    assert {"rounds", "num_leaves", "data_fingerprint"} <= set(run.data.params)
    assert run.data.params["encoder_id"] == encoder_id
    assert {"drops.json", "encoder.json", "plots"} <= {file.path for file in client.list_artifacts(run_id)}
    plots = {Path(file.path).stem for file in client.list_artifacts(run_id, "plots")}
    assert {"roc_curve", "precision_recall_curve", "confusion_matrix", "feature_importance"} <= plots
    registered = client.get_model_version("junk_leads", "1")
    files = {"model.txt", "encoder.json", "settings.json", "profile.json"}
    assert set(json.loads(registered.tags["files_sha256"])) == files


def test_the_encoder_keeps_ninety_percent_and_features_and_sums_are_of_every_lead(trained: Trained) -> None:
    reached = dict(query(trained.home, "SELECT feature, max(cumulative_share) FROM significant_levels GROUP BY 1"))
    assert sorted(reached) == ["city_mapped", "first_platform_c", "first_utm_medium_c", "first_utm_source_c"]
    assert min(reached.values()) > 0.85
    ids = query(trained.home, "SELECT DISTINCT encoder_id FROM encoded_features")
    assert ids == query(trained.home, "SELECT encoder_id FROM lightgbm_model")
    single = " + ".join(f'"{name}"' for name in SCHEMA.with_role("interaction"))
    assert query(trained.home, f"SELECT count(*), sum({single}) FROM cleaned_leads") == query(
        trained.home, f"SELECT count(*), sum({' + '.join(INTERACTION_GROUPS)}) FROM interaction_groups"
    )


def test_scoring_a_drop_imports_no_mlflow_and_encoding_alone_no_lightgbm(trained: Trained, trained_home: Home) -> None:
    from junk_leads.stores.registry import Registry

    assert Registry(trained_home).client  # which finds that the home is a copy at another place
    code = (
        "import dagster as dg, sys, junk_leads.cli\n"
        "from junk_leads.home import Home\nfrom junk_leads.running.launching import platform\n"
        "def tell(): print([n for n in ('mlflow', 'lightgbm') if n in sys.modules], file=sys.stderr)\n"
        "with platform(Home.from_environment(), lambda line: None) as found:\n"
        "    found.launch('inference_pipeline', drop='new', selection=[dg.AssetKey('encoded_features')])\n"
        "tell()\nsys.argv = ['junk-leads', 'score', sys.argv[1], '--json']\n"
        "try:\n    junk_leads.cli.main()\nfinally:\n    tell()"
    )
    file = trained_home.root / "another.csv"
    shutil.copyfile(trained.new, file)
    environment = {**os.environ, "JUNK_LEADS_HOME": str(trained_home.root)}
    done = subprocess.run(
        [sys.executable, "-c", code, file], env=environment, capture_output=True, text=True, check=True
    )
    assert "another" in done.stdout
    told = done.stderr.splitlines()
    assert (told[0], told[-1]) == ("[]", "['lightgbm']")


def test_a_drop_too_large_to_be_written_twice_is_encoded_and_scored_the_same(
    junk_leads: CLI, trained_home: Home, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> list[Any]:
        tables = [
            query(trained_home, f"SELECT * FROM {table} WHERE drop = 'new' ORDER BY lead_number")
            for table in ("encoded_features", "predictions", "reasons")
        ]
        return [*tables, run_of(trained_home, "new").failed_checks]

    before = found()
    monkeypatch.setattr("junk_leads.defs.checks.STAGED_ROWS", 0)
    assert junk_leads("score", trained.new).code == 0
    assert found() == before


def test_fault_31_a_drop_of_many_levels_never_seen_is_scored_with_a_warning_and_they_are_counted(
    junk_leads: CLI, trained_home: Home, trained: Trained, tmp_path: Path
) -> None:
    unseen = with_cells(read_table(trained.new), "first_platform_c", dict.fromkeys(range(2, 202), "Level99"))
    done = junk_leads("score", write(tmp_path / "strange.csv", unseen))
    assert (done.code, done.failures) == (0, [])
    others_told, risk = (line for line in done.err.splitlines() if "warns (encoded_features" in line)
    assert others_told.startswith("… a check warns (encoded_features, others_are_as_in_training)")
    assert "expected: No column has many more levels that the model does not know" in others_told
    assert risk.startswith("… a check warns (encoded_features, shares_stand_as_in_training)")
    assert "of these leads come with a platform that the model does not know" in risk
    with dg.DagsterInstance.from_config(str(trained_home.dagster)) as instance:
        (event,) = instance.fetch_materializations(dg.AssetKey("encoded_features"), limit=1).records
    told = event.asset_materialization.metadata["leads_with_others"].value
    ((others,),) = query(
        trained_home, "SELECT sum(first_platform_c_others) FROM encoded_features WHERE drop = 'strange'"
    )
    assert told["first_platform_c"] == others > 180


def test_fault_36_leads_of_one_class_train_nothing_and_the_champion_stays(
    junk_leads: CLI, trained_home: Home, tmp_path: Path
) -> None:
    path = tmp_path / "history.csv"  # replaces the labelled drop of that name
    write_leads(path, 1_200, seed=5)
    table = read_table(path)
    assert junk_leads("ingest", write(path, with_cells(table, "app_complete_flag", dict.fromkeys(range(2, 1202), "1"))))
    refused = junk_leads("train", "--json")
    ((leads,),) = query(trained_home, "SELECT count(*) FROM cleaned_leads WHERE drop = 'history'")
    assert (refused.code, refused.json) == (1, {"error": refused.failures[0]})
    assert refused.failures == [
        f"lightgbm_model was not stored: has_enough_labelled_leads: {leads:,} labelled leads ({leads:,} genuine, 0 "
        "junk) are too few to train on; expected at least 1,000 with 120 of each class; ingest more labelled drops"
    ]
    assert query(trained_home, "SELECT model_version FROM lightgbm_model") == [("1",)]
    listed = junk_leads("models", "--json").json["versions"]
    assert [(row["version"], row["stage"]) for row in listed] == [("1", "production")]


def test_fault_64_leads_delivered_again_under_another_name_are_told_and_learned_from_once(
    junk_leads: CLI, trained_home: Home, trained: Trained, tmp_path: Path
) -> None:
    again = tmp_path / "the same again.csv"
    shutil.copyfile(trained.history, again)
    told = junk_leads("ingest", again, "--json")
    ((kept,),) = query(trained_home, "SELECT count(*) FROM cleaned_leads WHERE drop = 'history'")
    assert told.json["drops"][0]["kept"] == kept  # all are kept
    assert f"{kept:,} of the leads of" in told.err
    assert junk_leads("train", "--rounds", "60").code == 0
    with platform(trained_home) as found:
        first, second = (found.registry.version(number) for number in ("1", "2"))
        assert second.metrics == first.metrics
        assert sum(second.drops.values()) == sum(first.drops.values()) == kept
        hashes = [found.registry.client.get_model_version("junk_leads", n).tags["files_sha256"] for n in ("1", "2")]
        assert hashes[0] == hashes[1]  # the same booster, encoder, settings and profile to the byte
        event = found.instance.get_latest_materialization_event(dg.AssetKey("lightgbm_model"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["labelled_leads_delivered_again"].value == kept


def test_fault_38_without_any_labelled_drop_nothing_is_trained(junk_leads: CLI, home: Home) -> None:
    refused = junk_leads("train")
    assert refused.code == 1
    assert refused.failures == [
        "there are no labelled drops to train on; ingest a CSV that has app_complete_flag (at least 1,000 leads with "
        "120 of each class)"
    ]


# The inference pipeline


def test_a_run_that_will_predict_begins_with_it_while_it_checks_and_no_other_does(
    junk_leads: CLI, trained_home: Home, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted, own = [], scoring.predict_kinds

    def predict(*given: Any, **options: Any) -> pa.Table:
        predicted.append(threading.current_thread() is threading.main_thread())
        return own(*given, **options)

    monkeypatch.setattr(scoring, "predict_kinds", predict)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert junk_leads("score", trained.new).code == 0
    assert predicted == [False]
    predicted.clear()
    with platform(trained_home) as found:
        materialise(found, "new", "encoded_features")
        assert predicted == []
        materialise(found, "new", "predictions")
        assert predicted == [True]
        materialise(found, "new", "encoded_features", "predictions")
        assert predicted == [True, False]


@pytest.fixture(scope="module")
def odd_table(unlabelled: Table) -> Table:
    """Leads with an unnamed index column, an unknown column of formulas, and cells that are hard to keep.

    Line 100 is rejected, line 202 is a duplicate of line 21; lines 31 and 32 differ in their rare platform alone.
    """
    table = [["", *unlabelled[0], "note"], *([str(at), *row, ""] for at, row in enumerate(unlabelled[1:]))]
    notes = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", 'a "quoted", cell', "two\nlines", " padded ", "NULL", "'=1"]
    table = with_cells(table, "note", dict(enumerate(notes, 2)))
    cities = {13: "=cmd|' /C calc'!A0", 14: "Navi  Mumbai", 15: "Zürich "}
    table = with_cells(with_cells(table, "created_date", {100: "yesterday"}), "city_mapped", cities)
    table[30] = ["30", *table[31][1:]]
    return [*with_cells(table, "first_platform_c", {31: "Level94", 32: 'Level "{9}" 🎓'}), ["900", *table[20][1:]]]


@dataclass(frozen=True)
class Scored:
    """A command `score odd.csv --out out` that was run, and what came out."""

    home: Home
    folder: Path
    outcome: Outcome
    table: Table

    @property
    def predicted(self) -> list[dict[str, str]]:
        return [dict(zip(PREDICTED, row[-len(PREDICTED) :], strict=True)) for row in self.table[1:]]


@pytest.fixture(scope="module")
def scored(trained: Trained, odd_table: Table, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    folder = tmp_path_factory.mktemp("scored")
    home = copied_home(trained.home, folder / "home")
    path = write(folder / "odd.csv", text_of(odd_table, "\r\n").encode())
    outcome = run_command("score", path, "--out", folder / "out", "--json", home=home)
    return Scored(home, folder, outcome, read_table(folder / "out" / "odd.csv"))


def test_scoring_tells_what_it_did(scored: Scored) -> None:
    out = scored.folder / "out"
    assert (scored.outcome.code, scored.outcome.failures) == (0, [])
    (told,) = scored.outcome.json["drops"]
    ones = sum(row["predicted_flag"] == "1" for row in scored.predicted)
    assert told.pop("share_of_ones") == pytest.approx(ones / 199)
    assert told == {
        "drop": "odd",
        "rows": 199,
        "model_version": "1",
        "predictions": str(out / "odd.csv"),
        "summary": str(out / "odd.summary.txt"),
        "call_list": str(out / "odd.call_list.xlsx"),
        "report": str(out / "odd.html"),
        "warnings": [],
    }
    for name in ("odd.csv", "odd.summary.txt"):
        assert (scored.home.predictions / name).read_bytes() == (out / name).read_bytes()


def test_the_scored_file_keeps_every_delivered_column_in_order(scored: Scored, odd_table: Table) -> None:
    assert scored.table[0] == [*odd_table[0], *PREDICTED]
    kept = [row for line, row in enumerate(odd_table[1:-1], 2) if line != 100]
    safe = [[f"'{cell}" if cell.startswith(tuple("=+-@\t\r")) else cell for cell in row] for row in kept]
    assert [row[: len(odd_table[0])] for row in scored.table[1:]] == safe
    assert run_of(scored.home, "odd").failed_checks["has_no_unknown_column"] == "WARN"


def test_formulas_are_made_inert_in_the_file_for_people_and_only_there(scored: Scored, odd_table: Table) -> None:
    notes = [row[len(odd_table[0]) - 1] for row in scored.table[1:7]]
    assert notes == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\tx", "'\rx"]
    cell = query(scored.home, "SELECT city_mapped FROM raw_leads WHERE drop = 'odd' AND lead_number = 12")
    assert cell == [("=cmd|' /C calc'!A0",)]
    archived = next(file for file in scored.home.archive.iterdir() if file.name.startswith("odd-"))
    assert archived.read_bytes() == (scored.folder / "odd.csv").read_bytes()


def test_every_accepted_lead_has_one_prediction(scored: Scored) -> None:
    assert [row["lead_number"] for row in scored.predicted] == [str(n) for n in range(1, 201) if n != 99]
    assert {(row["drop"], row["model_version"]) for row in scored.predicted} == {("odd", "1")}
    for row in scored.predicted:
        assert row["predicted_flag"] in ("0", "1")
        assert 0 < float(row["probability"]) < 1
        assert 1 <= int(row["score"]) <= 99
        assert row["grade"] in tuple("ABCD")
        assert row["reasons"].startswith(("for: ", "against: "))
    by_probability = sorted(scored.predicted, key=lambda row: float(row["probability"]))
    flags, scores = ([int(row[name]) for row in by_probability] for name in ("predicted_flag", "score"))
    assert (flags, scores) == (sorted(flags), sorted(scores))
    assert [row["grade"] for row in by_probability] == sorted((row["grade"] for row in by_probability), reverse=True)


def test_the_summary_tells_the_percentages_and_every_row(scored: Scored) -> None:
    ones = sum(row["predicted_flag"] == "1" for row in scored.predicted)
    summary = (scored.home.predictions / "odd.summary.txt").read_text()
    assert f"1s (kept for calling): {ones / 199:8.2%}   {ones} leads, about " in summary
    assert f"0s (set aside):        {1 - ones / 199:8.2%}   {199 - ones} leads, about " in summary
    assert "Leads scored: 199 of 201 rows delivered (1 exact duplicates dropped, 1 rows rejected)\n" in summary
    assert "Model: version 1\n" in summary


def test_fault_31_a_level_never_seen_scores_as_a_minor_one(scored: Scored) -> None:
    minor, unseen = scored.predicted[29:31]
    assert (minor["lead_number"], unseen["lead_number"]) == ("30", "31")
    assert minor["probability"] == unseen["probability"]
    others = "SELECT lead_number, first_platform_c_others FROM encoded_features WHERE drop = 'odd'"
    assert query(scored.home, f"{others} AND lead_number IN (30, 31) ORDER BY 1") == [(30, 1), (31, 1)]


def test_fault_2_a_header_alone_makes_empty_typed_tables_a_warning_and_files_without_leads(
    junk_leads: CLI, trained_home: Home, tmp_path: Path, unlabelled: Table
) -> None:
    done = junk_leads("score", write(tmp_path / "none.csv", unlabelled[:1]), "--json")
    assert (done.code, done.failures) == (0, [])
    assert (done.json["drops"][0]["rows"], done.json["drops"][0]["share_of_ones"]) == (0, 0.0)
    assert run_of(trained_home, "none").failed_checks == {"has_leads": "WARN"}
    types = "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'raw_leads'"
    assert query(trained_home, types)[2:] == [(column.name, column.type) for column in SCHEMA.columns]
    assert query(trained_home, "SELECT count(*) FROM interaction_groups WHERE drop = 'none'") == [(0,)]
    assert read_table(trained_home.predictions / "none.csv") == [[*SCHEMA.required, *PREDICTED]]
    assert (
        "0s (set aside):           0.00%   0 leads, about 0 applications"
        in (trained_home.predictions / "none.summary.txt").read_text()
    )
