"""The yardsticks of `make bench` do what they say: the published way is exact, the floor makes its table.

What lives here: both scripts run as processes, on the reference cases (kept beside the checkout, never in
it) and on ten leads written out below. What does not: how fast they are.
"""

import io
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED = CHECKOUT.parent / "shared" / "data"
GROUPS = CHECKOUT / "junk_leads" / "reference" / "interaction_groups.csv"
TABLE_OF_CASE = {
    "loaded": "loaded_data",
    "city_tier": "city_tier_mapped",
    "categories": "categorical_variables_mapped",
    "interactions": "interactions_mapped",
}
needs_cases = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no reference cases beside the checkout: {SHARED}")

# Platform: A and B are exactly 90 %, so kept. Medium: m1 alone is. Source: s3 crosses 90 %, so it is not.
LEADS = """
created_date,city_mapped,first_platform_c,first_utm_medium_c,first_utm_source_c,total_leads_droppped,referred_lead,app_complete_flag,syllabus,syllabus_expand,careers,emi_plans_clicked
2021-07-01 00:00:01,pune,A,m1,s1,1.0,0.0,1,,,,
2021-07-01 00:00:02,pune,A,m1,s1,,,0,,,,
2021-07-01 00:00:03,agra,A,m1,s1,2.0,1.0,1,3.0,,2.0,
2021-07-01 00:00:04,atlantis,A,Long Tail,s1,1.0,0.0,0,,,,
2021-07-01 00:00:05,,A,m1,s1,1.0,0.0,1,1.0,4.0,,
2021-07-01 00:00:06,ranchi,A,m1,s2,1.0,0.0,0,,,,
2021-07-01 00:00:07,atlantis,B,m1,s2,1.0,0.0,1,,,,
2021-07-01 00:00:07,atlantis,B,m1,s2,1.0,0.0,1,,,,
2021-07-01 00:00:08,pune,B,m1,s3,1.0,0.0,0,,,,7.0
2021-07-01 00:00:09,pune,C,m1,s3,1.0,0.0,1,,,,
"""
GROUPED = """
created_date,city_tier,first_platform_c,first_utm_medium_c,first_utm_source_c,total_leads_droppped,referred_lead,app_complete_flag,assistance_interaction,career_interaction,payment_interaction,social_interaction,syllabus_interaction
2021-07-01 00:00:01,1,A,m1,s1,1,0,1,0,0,0,0,0
2021-07-01 00:00:02,1,A,m1,s1,0,0,0,0,0,0,0,0
2021-07-01 00:00:03,2,A,m1,s1,2,1,1,0,2,0,0,3
2021-07-01 00:00:04,3,A,others,s1,1,0,0,0,0,0,0,0
2021-07-01 00:00:05,3,A,m1,s1,1,0,1,0,0,0,0,5
2021-07-01 00:00:06,3,A,m1,s2,1,0,0,0,0,0,0,0
2021-07-01 00:00:07,3,B,m1,s2,1,0,1,0,0,0,0,0
2021-07-01 00:00:08,1,B,m1,others,1,0,0,0,0,7,0,0
2021-07-01 00:00:09,1,others,m1,others,1,0,1,0,0,0,0,0
"""
FEATURES = """
total_leads_droppped,referred_lead,city_tier_1.0,city_tier_2.0,city_tier_3.0,first_platform_c_A,first_platform_c_B,first_platform_c_others,first_utm_medium_c_m1,first_utm_medium_c_others,first_utm_source_c_s1,first_utm_source_c_s2,first_utm_source_c_others
1,0,1,0,0,1,0,0,1,0,1,0,0
0,0,1,0,0,1,0,0,1,0,1,0,0
2,1,0,1,0,1,0,0,1,0,1,0,0
1,0,0,0,1,1,0,0,0,1,1,0,0
1,0,0,0,1,1,0,0,1,0,1,0,0
1,0,0,0,1,1,0,0,1,0,0,1,0
1,0,0,0,1,0,1,0,1,0,0,1,0
1,0,1,0,0,0,1,0,1,0,0,0,1
1,0,1,0,0,0,0,1,1,0,0,0,1
"""


def run(script: str, leads: Path, workdir: Path, *options: str | Path) -> dict[str, Any]:
    """Runs a yardstick in a process of its own and returns what it printed."""
    command = [sys.executable, CHECKOUT / "benchmarks" / script, leads, workdir, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def as_pandas_reads(table: pd.DataFrame) -> pd.DataFrame:
    """The table written to CSV and read back, so that one value has one form."""
    return pd.read_csv(io.StringIO(table.to_csv(index=False)))


def published_table(workdir: Path, table: str) -> pd.DataFrame:
    """A table that the published way left behind."""
    with closing(sqlite3.connect(workdir / "published.sqlite")) as connection:
        return as_pandas_reads(pd.read_sql(f"select * from {table}", connection))


def floor_table(workdir: Path, table: str) -> pd.DataFrame:
    """A table that the floor left behind."""
    with duckdb.connect(workdir / "floor.duckdb", read_only=True) as db:
        return as_pandas_reads(db.table(table).df())


def assert_same_rows(actual: pd.DataFrame, expected: pd.DataFrame) -> None:
    """The same columns in the same order and the same rows in any order; 1 and 1.0 are the same."""
    frames = [frame.sort_values(list(expected.columns), ignore_index=True) for frame in (actual, expected)]
    pd.testing.assert_frame_equal(*frames, check_dtype=False)


def write_leads(csv: Path, text: str = LEADS) -> Path:
    """The leads as a CSV of the raw schema: 37 interaction columns, the label last."""
    leads = pd.read_csv(io.StringIO(text))
    columns = [*leads.columns[:7], *pd.read_csv(GROUPS)["interaction"], "app_complete_flag"]
    leads.reindex(columns=columns).to_csv(csv, index=False)
    return csv


@pytest.fixture(scope="module")
def on_cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which both yardsticks have worked on the reference cases."""
    workdir = tmp_path_factory.mktemp("cases")
    for script in ("published_way.py", "floor.py"):
        run(script, SHARED / "cases/input.csv", workdir, "--levels", SHARED / "significant_levels.json")
    return workdir


@needs_cases
@pytest.mark.parametrize("case", TABLE_OF_CASE)
def test_the_published_way_reproduces_the_reference_case(case: str, on_cases: Path) -> None:
    expected = pd.read_csv(SHARED / "cases" / f"expected_{case}.csv")
    assert_same_rows(published_table(on_cases, TABLE_OF_CASE[case]), expected)


@needs_cases
def test_the_floor_reproduces_the_reference_case(on_cases: Path) -> None:
    assert_same_rows(floor_table(on_cases, "grouped"), pd.read_csv(SHARED / "cases/expected_interactions.csv"))


@pytest.mark.parametrize(
    ("script", "read_table", "table"),
    [("published_way.py", published_table, "interactions_mapped"), ("floor.py", floor_table, "grouped")],
)
def test_ten_leads_are_cleaned_mapped_and_grouped(
    script: str, read_table: Callable[[Path, str], pd.DataFrame], table: str, tmp_path: Path
) -> None:
    printed = run(script, write_leads(tmp_path / "leads.csv"), tmp_path)

    assert_same_rows(read_table(tmp_path, table), pd.read_csv(io.StringIO(GROUPED)))
    assert (printed["rows"], printed["kept"]) == (10, 9)
    assert printed["peak_memory_mb"] > 0
    steps = [step for step in printed["seconds"] if step not in ("data_pipeline", "all")]
    assert steps[-3:] == ["encode", "train", "predict"]
    assert printed["seconds"]["all"] == pytest.approx(sum(printed["seconds"][s] for s in steps), abs=0.01)


def test_the_published_way_encodes_and_predicts_every_lead(tmp_path: Path) -> None:
    leads = write_leads(tmp_path / "leads.csv")
    for _ in range(2):
        run("published_way.py", leads, tmp_path)

    assert_same_rows(published_table(tmp_path, "features"), pd.read_csv(io.StringIO(FEATURES)))
    assert list(published_table(tmp_path, "model_input").columns) == GROUPED.split(",")[1:8]
    assert len(published_table(tmp_path, "predictions")) == 9
    assert (tmp_path / "prediction_shares.txt").read_text().count("Name: proportion") == 2


def test_only_the_published_way_merges_leads_that_differ_in_unlisted_city_and_interactions(
    tmp_path: Path,
) -> None:
    other = LEADS.replace("00:07,atlantis,B,m1,s2,1.0,0.0,1,,,,", "00:07,lemuria,B,m1,s2,1.0,0.0,1,,,5.0,", 1)
    leads = write_leads(tmp_path / "leads.csv", other)

    assert run("published_way.py", leads, tmp_path)["kept"] == 9
    assert run("floor.py", leads, tmp_path)["kept"] == 10


# Trials by repetition


def tortured(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, CHECKOUT / "benchmarks" / "torture.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_trial_is_done_as_often_as_told_and_counted() -> None:
    done = tortured("creations_killed", "--times", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"creations_killed: 3 times, 0 failed, \d+ s\n", done.stdout)


def test_a_trial_that_there_is_not_is_told_with_those_there_are() -> None:
    done = tortured("patience")
    assert done.returncode == 2
    assert "there is no trial 'patience'; trials are evaluations, trainings, first_starts, " in done.stderr


def test_three_hundred_odd_files_are_read_or_refused_with_every_row_accounted_for() -> None:
    done = tortured("fuzz", "--times", "300", "--seed", "2")
    assert done.returncode == 0, done.stdout
    assert re.fullmatch(r"fuzz: 300 times, 0 failed, \d+ s\n", done.stdout)


@pytest.mark.long
def test_fault_46_four_processes_that_ingest_at_once_on_a_fresh_home_all_succeed() -> None:
    done = tortured("first_starts", "--times", "1")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.startswith("first_starts: 1 times, 0 failed, ")


def test_the_cost_of_a_command_is_that_of_all_that_it_starts() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import measuring, json; "
        "held = 'x = bytearray(150_000_000); import time; time.sleep(0.6)'; "
        "print(json.dumps(measuring.tree_cost([sys.executable, '-c', 'import subprocess, sys; "
        'subprocess.run([sys.executable, "-c", sys.argv[1]])\', held], {})))'
    )
    done = subprocess.run(
        [sys.executable, "-c", code, CHECKOUT / "benchmarks"], capture_output=True, text=True, check=True
    )
    seconds, processor, memory = json.loads(done.stdout)
    assert seconds >= 0.6
    assert processor > 0
    assert 150 < memory < 400


@pytest.mark.long
def test_growth_is_told_of_each_command_and_size() -> None:
    command = [sys.executable, CHECKOUT / "benchmarks" / "bench.py", "--growth", "--rounds", "1", "--rows", "2500"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split()[:2] for line in done.stdout.splitlines()]
    assert [name for name, *leads in filter(None, lines) if leads == ["2,500"]] == [
        "ingest",
        "train",
        "promote",
        "score",
    ]


@pytest.mark.long
def test_a_home_of_many_drops_costs_what_it_is_told_to() -> None:
    command = [
        sys.executable,
        CHECKOUT / "benchmarks" / "bench_drops.py",
        "--drops",
        "3",
        "6",
        "--leads",
        "3000",
        "--rounds",
        "1",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert list(figures) == ["3", "6"]
    assert all(cost > 0 for costs in figures.values() for cost in costs.values())
