"""The doctor: disagreement between the stores of a home is told, mended where that is safe, and told at a start."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from junk_leads.home import Home
from junk_leads.running.doctor import first_look
from junk_leads.stores.ledger import Ledger
from junk_leads.stores.registry import Registry
from junk_leads.stores.warehouse import connect
from junk_leads_tests.conftest import Outcome, run_command

pytestmark = pytest.mark.xdist_group("home")


def sql(home: Home, *statements: str) -> None:
    with connect(home.warehouse) as con:
        for statement in statements:
            con.execute(statement)


def lose_rows(home: Home) -> None:
    sql(home, "DELETE FROM cleaned_leads WHERE drop = 'new' AND lead_number < 10")


def lose_predictions(home: Home) -> None:
    sql(home, "DELETE FROM predictions WHERE lead_number = 7")


def lose_counts(home: Home) -> None:
    sql(home, "DELETE FROM lead_counts WHERE app_complete_flag = 1")


def lose_a_drop(home: Home) -> None:  # as a write-ahead log that is lost with the drop's last transaction
    tables = ("interaction_groups", "table_drops")
    sql(home, *(f"DELETE FROM {t} WHERE drop = 'new'" for t in tables))


def lose_the_warehouse(home: Home) -> None:
    home.warehouse.unlink()


def cut_a_promotion_off(home: Home) -> None:
    registry = Registry(home)
    event = {"version": "1", "from": "production", "to": "staging", "when": "", "who": "", "why": ""}
    pending = json.dumps({"key": 1, "events": [event], "announced": event})
    registry.client.set_registered_model_tag("junk_leads", "pending_transition", pending)


def leave_a_part(home: Home) -> None:
    part = home.predictions / "new.part"
    part.write_text("half")
    os.utime(part, (1, 1))


def forget_a_partition(home: Home) -> None:
    with closing(sqlite3.connect(home.dagster / "history" / "runs" / "index.db")) as db, db:
        assert db.execute("DELETE FROM dynamic_partitions WHERE partition = 'new'").rowcount


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lose_rows, "cleaned_leads lacks rows of 'new', or has more than were stored"),
        (lose_predictions, "predictions lacks rows of 'new', or has more than were stored"),
        (lose_counts, "lead_counts lacks rows of 'history', or has more than were stored"),
        (lose_a_drop, "the ledger has 'new' as accepted, the tables do not hold what was delivered"),
        (lose_the_warehouse, "the ledger has 'history', 'new' as accepted, the tables do not hold what was delivered"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_can_safely_be_mended_is(
    harm: Callable[[Home], None], what: str, trained_home: Home, junk_leads: Callable[..., Outcome]
) -> None:
    harm(trained_home)
    mended = junk_leads("doctor", "--repair", "--json")
    assert (mended.code, mended.failures) == (0, [])
    assert [(one["what"], one["mended"]) for one in mended.json["findings"]] == [(what, True)]
    assert junk_leads("doctor").out == "all is well\n"


def test_what_a_killed_process_left_is_mended(trained_home: Home, junk_leads: Callable[..., Outcome]) -> None:
    for harm in (forget_a_partition, cut_a_promotion_off, leave_a_part):
        harm(trained_home)
    mended = junk_leads("doctor", "--repair")
    assert (mended.code, mended.out.splitlines()) == (
        0,
        [
            "mended: the graph has no partition for 'new'",
            "mended: a promotion was cut off between its writes",
            "mended: parts of files that were never finished: 'new.part'",
        ],
    )
    assert junk_leads("doctor").out == "all is well\n"


def test_a_folder_of_rows_that_a_killed_process_left_is_mended(
    trained_home: Home, junk_leads: Callable[..., Outcome]
) -> None:
    rows = trained_home.predictions / "new.call_list.x1.part"
    rows.mkdir()
    (rows / "tmp1").write_text("half")
    assert junk_leads("doctor").out == "all is well\n"  # somebody may be at it
    os.utime(rows, (1, 1))
    mended = junk_leads("doctor", "--repair")
    assert mended.out == "mended: parts of files that were never finished: 'new.call_list.x1.part'\n"
    assert not rows.exists()


def test_what_a_killed_process_left_in_a_journal_is_no_damage(
    trained_home: Home, junk_leads: Callable[..., Outcome], tmp_path: Path
) -> None:
    index, writing = trained_home.dagster / "history" / "runs" / "killed.db", tmp_path / "killed.db"
    with closing(sqlite3.connect(writing, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size = 1")  # what is written goes to the file before it is committed
        db.execute("CREATE TABLE t AS SELECT 1 AS x")
        db.execute("BEGIN")
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) INSERT INTO t SELECT i FROM n"
        )
        for end in ("", "-journal"):
            shutil.copyfile(f"{writing}{end}", f"{index}{end}")
    assert junk_leads("doctor").out == "all is well\n"
    with closing(sqlite3.connect(index)) as db:
        assert db.execute("SELECT count(*) FROM t").fetchall() == [(1,)]


def lose_a_file(home: Home) -> None:
    Ledger(home).newest("history").path.unlink()


def change_a_file(home: Home) -> None:
    with Ledger(home).newest("new").path.open("ab") as file:
        file.write(b"x")


def lose_a_scored_file(home: Home) -> None:
    (home.predictions / "new.csv").unlink()


def bring_a_stranger(home: Home) -> None:
    (home.archive / "stranger.csv").write_text("x")


def forget_a_drop(home: Home) -> None:
    with closing(sqlite3.connect(home.ledger)) as db, db:
        db.execute("DELETE FROM deliveries WHERE drop_key = 'new'")
    for path in home.archive.glob("new-*"):
        path.unlink()


def change_a_model(home: Home) -> None:
    (found,) = home.mlartifacts.rglob("MLmodel")
    with (found.parent / "artifacts" / "model.txt").open("ab") as file:
        file.write(b"x")


def test_what_cannot_be_mended_is_told_with_what_to_do(trained_home: Home, junk_leads: Callable[..., Outcome]) -> None:
    told = {
        lose_a_file: "the file of drop 'history' (accepted) is gone from ",
        change_a_file: "the file of drop 'new' (accepted) is not what was delivered: ",
        lose_a_scored_file: "the scored files of 'new' are gone from predictions/; run `junk-leads score new`",
        bring_a_stranger: "archive/ has files that the ledger does not know: 'stranger.csv'; ",
        change_a_model: "the files of version 1 are not those that were registered (SHA-256 differs); ",
    }
    for harm in told:
        harm(trained_home)
    found = junk_leads("doctor", "--repair")
    assert found.code == 1
    lines = found.out.splitlines()
    assert len(lines) == len(told)
    for start in told.values():
        assert [line.startswith(f"wrong: {start}") for line in lines].count(True) == 1, start


def test_of_many_database_files_it_is_told_how_far_it_is(
    trained_home: Home, junk_leads: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("junk_leads.running.doctor._TELL_SECONDS", -1.0)
    done = junk_leads("doctor")
    files = 2 + len(list(trained_home.dagster.rglob("*.db")))
    assert done.out == "all is well\n"
    assert done.err.splitlines() == [f"… {n} of {files} database files are looked through" for n in range(files)]


def test_files_of_runs_that_ended_may_be_deleted(trained_home: Home, junk_leads: Callable[..., Outcome]) -> None:
    evidence = junk_leads("checks", "new", "--json").json["drops"]
    files = list((trained_home.dagster / "history" / "runs").glob("*-*.db*"))
    assert len(files) == 3  # two drops and a training
    for file in files:
        file.unlink()
    assert junk_leads("doctor").out == "all is well\n"
    assert junk_leads("checks", "new", "--json").json["drops"] == evidence
    assert junk_leads("score", "new").code == 0


def test_drops_that_the_ledger_forgot_are_told(trained_home: Home, junk_leads: Callable[..., Outcome]) -> None:
    forget_a_drop(trained_home)
    found = junk_leads("doctor", "--json")
    assert found.code == 1
    assert [one["what"] for one in found.json["findings"]] == [
        "the tables hold 'new', which the ledger knows nothing of"
    ]


def test_at_every_start_rows_that_were_lost_are_told(trained_home: Home) -> None:
    assert first_look(trained_home) == []
    lose_a_drop(trained_home)
    told = run_command("models", "compare", "1", "1", home=trained_home)
    assert (
        "… something is wrong: the ledger has 'new' as accepted, the tables do not hold what was delivered; run "
        in (told.err)
    )
    lose_rows(trained_home)
    whats = [finding.what for finding in first_look(trained_home)]
    assert any("cleaned_leads has" in what and "were stored" in what for what in whats)


def test_a_start_does_not_wait_for_a_run_that_holds_the_warehouse(trained: object, home: Home) -> None:
    shutil.rmtree(home.root)
    assert first_look(home) == []  # nor does it need a home


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("JUNK_LEADS_MEMORY_LIMIT", "is 'lots', which is no amount of memory; write one like 8GB"),
        ("JUNK_LEADS_WEBHOOK", "is no address of http or https; write one like https://HOST/PATH"),
    ],
)
def test_a_setting_that_is_wrong_is_one_finding_however_many_looks_need_it(
    home: Home, junk_leads: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, setting: str, told: str
) -> None:
    connect(home.warehouse).close()
    monkeypatch.setenv(setting, "lots")
    done = junk_leads("doctor", "--json")
    assert done.code == 1
    assert [finding["what"] for finding in done.json["findings"]] == [f"{setting} {told}"]
