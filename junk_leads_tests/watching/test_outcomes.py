"""When labels come later: scored leads find their outcomes, decay is told, and a rule may roll back."""

import csv
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from junk_leads.defs.assets.outcomes import keeps_its_promise
from junk_leads.defs.io_managers import Warehouse
from junk_leads.defs.jobs import TRAINING_ASSETS
from junk_leads.defs.resources import HomeResource
from junk_leads.defs.schedules import new_labels, retraining
from junk_leads.home import Home
from junk_leads.running.launching import platform
from junk_leads.steps.leads.cleaning import clean
from junk_leads.steps.watching.outcomes import how_versions_fared, match_outcomes, outcomes_markdown
from junk_leads.stores.registry import Registry
from junk_leads.stores.warehouse import connect
from junk_leads_tests.conftest import SCHEMA, Outcome, Trained, leads_of, rows_as_dicts, run_command

MOMENTS = [f"2021-08-0{day} 10:00:00" for day in range(1, 8)]


def matched(
    con: duckdb.DuckDBPyConnection, labelled: dict[str, list[dict[str, Any]]], trained_on: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """The outcomes of three leads of the drop `new`, scored by version 2, and of these labelled drops."""
    scored = [{"created_date": moment, "city_mapped": None, "app_complete_flag": None} for moment in MOMENTS[:3]]
    drops = {"new": scored, **labelled}
    tables = [clean(con, leads_of(con, *rows, drop=drop), SCHEMA).to_arrow_table() for drop, rows in drops.items()]
    cleaned = con.from_arrow(pa.concat_tables(tables))
    predictions = con.sql(
        "SELECT 'new' AS drop, range + 1 AS lead_number, 0.7::DOUBLE AS probability, 1::TINYINT AS predicted_flag, "
        "'A' AS grade, '2' AS model_version FROM range(3)"
    )
    return rows_as_dicts(match_outcomes(con, predictions, cleaned, trained_on, SCHEMA))


def outcome(row: dict[str, Any]) -> tuple[int, int, str]:
    return row["lead_number"], row["app_complete_flag"], row["outcome_drop"]


def test_a_scored_lead_is_recognised_in_any_labelled_drop_by_all_that_was_delivered(
    con: duckdb.DuckDBPyConnection,
) -> None:
    later = [
        {"created_date": MOMENTS[1], "city_mapped": None, "app_complete_flag": 0},
        {"created_date": MOMENTS[0], "city_mapped": None, "app_complete_flag": 1},
        {"created_date": MOMENTS[2], "city_mapped": "delhi", "app_complete_flag": 1},  # somebody else
        {"created_date": MOMENTS[5], "city_mapped": None, "app_complete_flag": 1},
    ]
    found = matched(con, {"september": later}, {})
    assert [outcome(row) for row in found] == [(1, 1, "september"), (2, 0, "september")]
    assert found[0]["created_date"] == datetime.fromisoformat(MOMENTS[0])
    assert (found[0]["model_version"], found[0]["probability"]) == ("2", 0.7)


def test_labels_that_a_version_was_trained_on_tell_nothing_of_it(con: duckdb.DuckDBPyConnection) -> None:
    rows = [{"created_date": MOMENTS[0], "city_mapped": None, "app_complete_flag": 1}]
    assert matched(con, {"september": rows}, {"2": ["september"]}) == []
    assert [outcome(row) for row in matched(con, {"september": rows}, {"1": ["september"]})] == [(1, 1, "september")]


def test_a_lead_that_is_labelled_twice_has_one_outcome(con: duckdb.DuckDBPyConnection) -> None:
    rows = [{"created_date": MOMENTS[0], "city_mapped": None, "app_complete_flag": flag} for flag in (0, 1)]
    found = matched(con, {"a": rows[:1], "b": rows[1:]}, {})
    assert [outcome(row) for row in found] == [(1, 1, "b")]


def some_outcomes(con: duckdb.DuckDBPyConnection, noise: float) -> duckdb.DuckDBPyRelation:
    """3,000 outcomes over three weeks of a version 2 whose probabilities are this noisy, and ten of a version 3."""
    rng = np.random.default_rng(1)
    truth = rng.normal(0, 2, 3_010)
    labels = (rng.random(3_010) < 1 / (1 + np.exp(-truth))).astype(np.int8)
    told = 1 / (1 + np.exp(-(truth + rng.normal(0, noise, 3_010))))
    rows = {
        "model_version": np.array(["2"] * 3_000 + ["3"] * 10, dtype=object),
        "created_date": np.datetime64("2021-08-05") + (np.arange(3_010) // 1_000).astype("timedelta64[W]"),
        "probability": told,
        "predicted_flag": (told >= 0.3).astype(np.int8),
        "app_complete_flag": labels,
    }
    return con.from_df(pd.DataFrame(rows))


def test_versions_are_measured_by_week_and_beside_what_their_training_promised(con: duckdb.DuckDBPyConnection) -> None:
    promised = {"2": (0.82, 0.84), "3": (0.82, 0.84)}
    fared = how_versions_fared(some_outcomes(con, 0.0), promised)
    assert list(fared) == ["2"]  # ten leads tell nothing
    version = fared["2"]
    assert (version.leads, version.has_decayed) == (3_000, False)
    assert list(version.weeks) == ["2021-08-05", "2021-08-12", "2021-08-19"]
    assert version.metrics["auc"].value > 0.83
    assert version.metrics["genuine_lost"].value == pytest.approx(0.08, abs=0.03)
    assert keeps_its_promise(version).passed
    text = outcomes_markdown(fared)
    assert "| 2 | all | 0.8" in text
    assert "| 2 | 2021-08-12 | 0." in text


def test_a_version_that_is_surely_worse_than_promised_has_decayed_and_its_check_warns(
    con: duckdb.DuckDBPyConnection,
) -> None:
    version = how_versions_fared(some_outcomes(con, 4.0), {"2": (0.82, 0.84)})["2"]
    assert version.has_decayed
    result = keeps_its_promise(version)
    assert (result.passed, result.severity.value) == (False, "WARN")
    assert result.metadata["promised_from"].value == 0.82
    assert keeps_its_promise(None).passed


# The whole way


def deliver_labels(trained: Trained, target: Path, labels: Callable[[float, int], int]) -> Path:
    """The scored leads as they were delivered, with labels that depend on each one's probability and place."""
    with (trained.home.predictions / "new.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, SCHEMA.names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for place, row in enumerate(rows):
            writer.writerow({**row, "app_complete_flag": labels(float(row["probability"]), place)})
    return target


@pytest.fixture
def evaluated(trained: Trained, trained_home: Home, tmp_path: Path) -> Callable[..., Outcome]:
    def evaluate(labels: Callable[[float, int], int], *options: Any) -> Outcome:
        file = deliver_labels(trained, tmp_path / "labels.csv", labels)
        assert run_command("ingest", file, home=trained_home).code == 0
        return run_command("evaluate", *options, "--json", home=trained_home)

    return evaluate


def test_labels_that_bear_a_version_out_say_that_it_keeps_its_promise(evaluated: Callable[..., Outcome]) -> None:
    told = evaluated(lambda probability, place: int(probability > 0.5) if place % 10 else place // 10 % 2).json
    assert told["outcomes"] > 350
    assert told["version_1_auc"] > 0.85
    assert told["advice"].startswith("version 1 keeps its promise: AUC 0.")


def test_labels_that_belie_the_champion_advise_training_and_roll_back_by_rule(
    evaluated: Callable[..., Outcome], trained_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turned(probability: float, place: int) -> int:
        return int(probability < 0.5) if place % 4 else place // 4 % 2

    advice = evaluated(turned).json["advice"]
    assert advice.startswith("version 1 has decayed: AUC 0.")
    assert advice.endswith("; train again with the newest labels")
    told = run_command("evaluate", "--roll-back-below", "0.6", "--json", home=trained_home).json["advice"]
    assert told.endswith(
        "but it could not be rolled back: version 1 is the first in Production; there is nothing to roll back to"
    )
    # once there is a former champion, the rule goes back to it
    registry = Registry(trained_home)
    first = registry.client.get_model_version("junk_leads", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained_home.mlflow_uri)
    registry.register(first.run_id, first.source, dict(first.tags))
    registry.promote("2", "production")
    registry.promote("1", "production")
    told = run_command("evaluate", "--roll-back-below", "0.6", "--json", home=trained_home).json["advice"]
    assert told.startswith("rolled back to version 2: AUC 0.")
    assert registry.champion_version() == "2"
    assert registry.history()[-2]["who"] == "the rule roll_back_below"
    with dg.DagsterInstance.from_config(str(trained_home.dagster)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("champion"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert (metadata["model_version"].value, metadata["who"].value) == ("2", "the rule roll_back_below")


def test_there_is_nothing_to_evaluate_before_anything_was_scored(home: Home) -> None:
    assert run_command("evaluate", home=home).failures == [
        "nothing has been scored yet; run `junk-leads score FILE` first"
    ]


# Retraining


def test_new_labels_are_those_that_the_newest_version_was_not_trained_on() -> None:
    assert new_labels({"a": 100, "b": 50}, {"a": 100}) == 50
    assert new_labels({"a": 120}, {"a": 100, "gone": 30}) == 20
    assert new_labels({}, {}) == 0


def test_the_schedule_is_off_and_retrains_when_enough_labels_have_come(trained_home: Home) -> None:
    assert retraining.default_status == dg.DefaultScheduleStatus.STOPPED
    with platform(trained_home) as found:
        resources = {
            "home": HomeResource(root=str(trained_home.root)),
            "warehouse": Warehouse(path=str(trained_home.warehouse)),
        }
        with dg.build_schedule_context(instance=found.instance, resources=resources) as context:
            skipped = retraining.evaluate_tick(context)
            assert skipped.skip_message == "0 newly labelled leads of 5,000 have come"
            found.registry.client.set_model_version_tag("junk_leads", "1", "drops", "{}")
            (request,) = retraining.evaluate_tick(context).run_requests
            assert request.asset_selection == [dg.AssetKey(name) for name in TRAINING_ASSETS[1:]]  # all is counted
            assert "dagster/asset_partition_range_start" not in request.tags
            with connect(trained_home.warehouse) as con:
                con.execute("DELETE FROM table_drops WHERE table_name = 'lead_counts'")
            (request,) = retraining.evaluate_tick(context).run_requests
        assert request.asset_selection == [dg.AssetKey(name) for name in TRAINING_ASSETS]
        assert request.tags["dagster/asset_partition_range_start"] == "history"
        assert request.tags["dagster/asset_partition_range_end"] == "history"
