"""A drop that fails after raw_leads: for its own fault it ends as any refused drop, else it can be tried again.

What lives here: real drops through the data pipeline with checks or sums made stricter than they are. What does not:
refusals of the file itself (`test_pipelines.py`).
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from junk_leads.defs.assets import leads as assets
from junk_leads.defs.expectations.suites import Suite, load_suite
from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.running.launching import platform
from junk_leads.stores.incoming import IncomingFile, decide
from junk_leads.stores.ledger import Ledger, content_of
from junk_leads.stores.warehouse import connect
from junk_leads_tests.conftest import Outcome, run_command

TABLES = ("raw_leads", "rejected_leads", "delivered_drops", "cleaned_leads", "interaction_groups")
MEND = "mend the file and deliver it again"


def strict_suite(asset: str, facts: Any = None) -> Suite:
    """The suites, but that a drop with more than a few duplicates is refused."""
    suite = load_suite(asset, facts)
    return replace(
        suite,
        expectations=tuple(
            replace(e, blocking=e.blocking or e.check == "has_few_duplicates", severity="ERROR")
            for e in suite.expectations
        ),
    )


def small_sums(con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Interaction groups whose sums overflow at 100."""
    from junk_leads.steps.leads.interactions import group_interactions

    groups = group_interactions(con, leads)
    casts = ", ".join(f"CAST({name} AS DECIMAL(2, 0))::BIGINT AS {name}" for name in groups.columns[2:])
    return con.sql(f"SELECT drop, lead_number, {casts} FROM groups")


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def held_tables(home: Home, drop: str) -> dict[str, list[Any]]:
    with connect(home.warehouse) as con:
        return {
            table: con.execute(f"SELECT * FROM {table} WHERE drop = ? ORDER BY ALL", [drop]).fetchall()
            for table in TABLES
        } | {
            "table_drops": con.execute(
                "SELECT table_name, content, row_count, stored_at FROM table_drops WHERE drop = ? "
                "AND table_name NOT LIKE 'refused%' ORDER BY ALL",
                [drop],
            ).fetchall()
        }


Delivered = Callable[..., tuple[Outcome, Path]]


@pytest.fixture
def deliver(home: Home, write_csv: Callable[..., Path]) -> Delivered:
    """Ingests a drop `july`, a lead for each city and the first ones again as told; how it went, and the file."""

    def ingest(*cities: str, duplicates: int = 0, **cells: str) -> tuple[Outcome, Path]:
        rows = [
            {"city_mapped": city, "created_date": f"2021-07-01 00:00:{n:02d}", **cells} for n, city in enumerate(cities)
        ]
        path = write_csv("july.csv", *rows, *rows[:duplicates])
        return run_command("ingest", path, "--json", home=home), path

    return ingest


def refused_line(home: Home, outcome: Outcome, why: str) -> Path:
    """Exit code 1 and the one plain line; returns the folder in quarantine."""
    folder = Ledger(home).newest("july").path.parent
    assert outcome.code == 1
    what_to_do = "" if "deliver it again" in why else f"; {MEND}"
    assert outcome.failures == [f"july.csv: {why}{what_to_do} (the file and its reason are in {folder})"]
    assert outcome.json == {"drops": [], "error": outcome.failures[0]}
    assert folder.parent == home.quarantine
    return folder


DUPLICATES = "has_few_duplicates: 33 % of the leads are exact duplicates of others in the drop"


def test_fault_63_a_failed_check_of_cleaned_leads_refuses_the_drop(
    home: Home, deliver: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "load_suite", strict_suite)
    outcome, path = deliver("pune", "agra", duplicates=1)
    folder = refused_line(home, outcome, f"cleaned_leads was not stored: {DUPLICATES}")
    reason = json.loads((folder / "reason.json").read_text(encoding="utf-8"))
    assert (reason["what"], reason["where"]) == (DUPLICATES, "rows")
    assert reason["do"] == MEND
    assert (folder / "july.csv").read_bytes() == path.read_bytes()
    assert list(home.archive.iterdir()) == []
    assert list(home.handed.iterdir()) == []
    assert Ledger(home).newest("july").status == "refused"
    with connect(home.warehouse) as con:
        assert con.execute("SELECT count(*) FROM raw_leads").fetchall() == [(0,)]
        assert con.execute("SELECT * FROM table_drops WHERE table_name NOT LIKE 'refused%'").fetchall() == []


def test_fault_63_the_former_delivery_of_the_drop_is_back_in_every_table(
    home: Home, deliver: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deliver("delhi", "pune", "agra")[0].code == 0
    before = held_tables(home, "july")
    monkeypatch.setattr(assets, "load_suite", strict_suite)
    for _ in range(2):  # and the same file again is refused again
        outcome, _ = deliver("ranchi", "patna", duplicates=1)
        refused_line(home, outcome, f"cleaned_leads was not stored: {DUPLICATES}")
        assert held_tables(home, "july") == before
    assert deliver("ranchi", "patna")[0].json["drops"][0]["kept"] == 2  # mended, it replaces the former
    cities = {row[3] for row in held_tables(home, "july")["cleaned_leads"]}
    assert cities == {"ranchi", "patna"}
    with connect(home.warehouse) as con:
        assert con.execute("SELECT count(*) FROM former_raw_leads").fetchall() == [(0,)]


def test_fault_63_a_value_that_cannot_be_computed_with_refuses_the_drop_and_is_not_told(
    home: Home, deliver: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deliver("delhi", "pune", careers="7")[0].code == 0
    before = held_tables(home, "july")
    monkeypatch.setattr(assets, "group_interactions", small_sums)
    outcome, _ = deliver("delhi", "pune", "agra", careers="34567")
    folder = refused_line(
        home,
        outcome,
        "a value of drop 'july' cannot be computed with (ConversionException); expected counts whose sums are numbers "
        f"that can be stored; {MEND}",
    )
    assert "34567" not in outcome.err + (folder / "reason.json").read_text(encoding="utf-8")
    assert held_tables(home, "july") == before


def test_fault_63_the_sensor_says_refused_not_accepted_already(
    home: Home, deliver: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "load_suite", strict_suite)
    deliver("pune", "agra", duplicates=1)
    delivery = Ledger(home).newest("july")
    (decision,) = decide([IncomingFile("july.csv", 9, 0.0, content=delivery.content)], [delivery], {}, 99.0)
    assert (decision.action, decision.reason) == ("done", f"the same content was refused already: {delivery.reason}")


@pytest.mark.long
def test_what_is_not_the_drops_fault_leaves_it_to_be_tried_again(
    home: Home, deliver: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deliver("delhi", "pune")[0].code == 0
    before = held_tables(home, "july")
    with monkeypatch.context() as failing:
        failing.setattr(assets, "group_interactions", full_disk)
        outcome, _ = deliver("ranchi", "patna", "agra")
    delivery = Ledger(home).newest("july")
    assert outcome.code == 1
    assert "No space left on device" in outcome.failures[0]
    assert (delivery.status, delivery.path.parent) == ("waiting", home.handed)
    assert list(home.quarantine.iterdir()) == []
    monkeypatch.setattr(assets, "load_suite", strict_suite)
    outcome, _ = deliver("surat", "surat", duplicates=1)  # another, refused: what was accepted is back
    assert outcome.code == 1
    assert held_tables(home, "july") == before
    monkeypatch.undo()
    assert run_command("ingest", deliver("ranchi", "patna", "agra")[1], home=home).code == 0
    assert {row[3] for row in held_tables(home, "july")["cleaned_leads"]} == {"ranchi", "patna", "agra"}


def test_a_file_that_changes_until_it_is_accepted_is_refused(
    home: Home, deliver: Delivered, monkeypatch: pytest.MonkeyPatch
) -> None:
    from junk_leads.steps.leads.interactions import group_interactions

    def change_and_group(*given: Any) -> duckdb.DuckDBPyRelation:
        Ledger(home).newest("july").path.write_text("the next delivery")
        return group_interactions(*given)

    monkeypatch.setattr(assets, "group_interactions", change_and_group)
    outcome, _ = deliver("delhi", "pune")
    refused_line(home, outcome, "'july.csv' changed while it was being read; deliver it again when it is complete")
    with connect(home.warehouse) as con:
        assert con.execute("SELECT * FROM raw_leads").fetchall() == []


@pytest.mark.parametrize("when", ["before it is read", "before it is accepted"])
def test_a_file_in_incoming_whose_place_another_takes_is_let_go_and_the_other_comes_next(
    home: Home, write_csv: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    from junk_leads.steps.leads.interactions import group_interactions

    ledger, folder = Ledger(home), home.prepare().incoming
    path = write_csv("july.csv", {"city_mapped": "delhi"}, folder=folder)

    def take_its_place(*given: Any) -> Any:
        write_csv("july.csv", {"city_mapped": "pune"}, folder=folder)
        return group_interactions(*given) if given else None

    first = ledger.deliver(path, content_of(path))
    with platform(home) as opened:
        opened.instance.add_dynamic_partitions("drops", ["july"])
        with monkeypatch.context() as patch:
            if when == "before it is read":
                take_its_place()
            else:
                patch.setattr(assets, "group_interactions", take_its_place)
            with pytest.raises(JunkLeadsError, match=r"another 'july\.csv' took its place while it was being read"):
                opened.launch("data_pipeline", drop="july")
        assert path.exists()
        assert list(home.quarantine.iterdir()) == []
        second = ledger.deliver(path, content_of(path))  # as the sensor does, which sees new content
        opened.launch("data_pipeline", drop="july")
        doctor = run_command("doctor", home=home)
    assert [(d.content, d.status, d.reason) for d in ledger.deliveries()] == [
        (first.content, "replaced", "another file took its place before it was read"),
        (second.content, "accepted", ""),
    ]
    assert {row[3] for row in held_tables(home, "july")["cleaned_leads"]} == {"pune"}
    assert (doctor.code, path.exists()) == (0, False)


def test_a_file_that_is_taken_out_of_incoming_before_it_is_read_is_refused(
    home: Home, write_csv: Callable[..., Path]
) -> None:
    ledger, path = Ledger(home), write_csv("july.csv", {}, folder=home.prepare().incoming)
    ledger.deliver(path, content_of(path))
    path.unlink()
    with platform(home) as opened:
        opened.instance.add_dynamic_partitions("drops", ["july"])
        with pytest.raises(JunkLeadsError, match=r"'july\.csv' is not there any more; deliver it again"):
            opened.launch("data_pipeline", drop="july")
    assert ledger.newest("july").status == "refused"
    assert run_command("doctor", home=home).code == 0


def test_fault_62_odd_blanks_and_control_characters_make_no_other_city_and_refuse_nothing(
    home: Home, deliver: Delivered
) -> None:
    odd = ["\x1cdelhi", "delhi\u180e", "del\u034fhi", "delhi\ufe0f", "\u3164delhi", "\x01Delhi", "delhi\x1f"]
    outcome, _ = deliver("delhi", *odd)
    assert outcome.json["drops"] == [
        {"drop": "july", "rows_read": 8, "kept": 8, "duplicates": 0, "rejected": 0, "labelled": True}
    ]
    assert {row[3] for row in held_tables(home, "july")["cleaned_leads"]} == {"delhi"}
    assert Ledger(home).newest("july").status == "accepted"
