"""The tables after each step of the data pipeline, against cases that others wrote and against our own.

The reference cases are 100 leads with the expected table after each step of the published way. Their tables drop the
city once it is mapped, tell counts as floats and missing interactions as nothing; leads are matched by their date.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from junk_leads.reference import INTERACTION_GROUPS
from junk_leads.steps.leads.cleaning import clean
from junk_leads.steps.leads.encoding import Encoder, map_levels
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.reading import read_leads
from junk_leads_tests.conftest import SCHEMA, SHARED, rows_as_dicts

INTERACTIONS = SCHEMA.with_role("interaction")
LEVELS = SCHEMA.with_role("level")
COUNTS = ("total_leads_droppped", "referred_lead")
KEPT = ("total_leads_droppped", "referred_lead", "app_complete_flag")

Table = dict[str, dict[str, Any]]


class Tables:
    """Our tables of one CSV after each step, by the leads' date."""

    def __init__(self, con: duckdb.DuckDBPyConnection, path: Path, levels: dict[str, tuple[str, ...]]) -> None:
        reading = read_leads(con, path, SCHEMA)
        assert (reading.rows_rejected, reading.labelled) == (0, True)
        raw = reading.leads.select("'d' AS drop, *")
        cleaned = clean(con, raw, SCHEMA)
        encoder = Encoder.of_levels(levels)
        self.loaded = rows_as_dicts(raw)
        self.cleaned = by_date(rows_as_dicts(cleaned))
        self.categories = by_date(rows_as_dicts(map_levels(con, cleaned, encoder)))
        self.groups = by_date(rows_as_dicts(cleaned.join(group_interactions(con, cleaned), "drop, lead_number")))


def by_date(rows: list[dict[str, Any]]) -> Table:
    table = {str(row["created_date"]): row for row in rows}
    assert len(table) == len(rows)
    return table


def parts(table: Table, *names: str) -> Table:
    return {date: {name: row[name] for name in names} for date, row in table.items()}


def zeros(table: Table, *names: str) -> Table:
    """The table with 0 where one of these columns has nothing."""
    return {date: {**row, **{name: row[name] or 0 for name in names}} for date, row in table.items()}


# The cases that others wrote

CASES = SHARED / "cases"
reference = pytest.mark.skipif(not CASES.exists(), reason=f"the reference cases are not here ({CASES})")


def expected(name: str) -> Table:
    """An expected table: numbers as numbers, nothing as None."""
    with (CASES / f"expected_{name}.csv").open(newline="") as file:
        return by_date([{k: _value(k, cell) for k, cell in row.items()} for row in csv.DictReader(file)])


def _value(name: str, cell: str) -> Any:
    if cell == "":
        return None
    return cell if name in (*LEVELS, "city_mapped", "created_date") else int(float(cell))


@pytest.fixture
def ours(con: duckdb.DuckDBPyConnection) -> Tables:
    levels = json.loads((SHARED / "significant_levels.json").read_text())
    return Tables(con, CASES / "input.csv", {column: tuple(levels[column]) for column in LEVELS})


@reference
def test_the_loaded_table_is_the_reference_table(ours: Tables) -> None:
    columns = [name for name in SCHEMA.names if name != "created_date"]
    assert parts(zeros(by_date(ours.loaded), *COUNTS), *columns) == parts(expected("loaded"), *columns)
    assert len(ours.loaded) == 100


@reference
def test_the_city_tiers_are_the_reference_tiers(ours: Tables) -> None:
    columns = ("city_tier", *LEVELS, *KEPT)
    assert parts(ours.cleaned, *columns) == parts(expected("city_tier"), *columns)
    assert parts(ours.cleaned, *INTERACTIONS) == parts(zeros(expected("city_tier"), *INTERACTIONS), *INTERACTIONS)


@reference
def test_the_categories_are_the_reference_categories(ours: Tables) -> None:
    columns = ("city_tier", *LEVELS, *KEPT)
    assert parts(ours.categories, *columns) == parts(expected("categories"), *columns)


@reference
def test_the_interaction_groups_are_the_reference_groups(ours: Tables) -> None:
    columns = ("city_tier", *KEPT, *INTERACTION_GROUPS)
    assert parts(ours.groups, *columns) == parts(expected("interactions"), *columns)
    assert parts(ours.categories, *LEVELS) == parts(expected("interactions"), *LEVELS)


# Ten leads of our own, with what the reference cases lack: interactions, duplicates and odd texts

SIGNIFICANT = {
    "first_platform_c": ("Level0", "Level3"),
    "first_utm_medium_c": ("Level0", "Level6"),
    "first_utm_source_c": ("Level0", "Level2", "Level16"),
}
HEADER = ("created_date", "city_mapped", *LEVELS, *COUNTS, "careers", "chat_clicked", "emi_plans_clicked")
HEADER += ("social_referral_click", "syllabus", "syllabus_expand", "app_complete_flag")
DELIVERED = """\
2021-07-01 00:00:01,mumbai,Level0,Level0,Level0,1.0,0.0,,,,,,,1
2021-07-01 00:00:02,ghazipur,Level3,Level6,Level16,2.0,1.0,1.0,2.0,3.0,4.0,5.0,6.0,0
2021-07-01 00:00:03,,Level8,Level43,Level14,,,,,,,,,0
2021-07-01 00:00:04,Navi Mumbai,level0,LEVEL0,Level2 ,0.0,0.0,,,,,1.0,,1
2021-07-01 00:00:05,NA,null,NULL,,15.0,0.0,,7.0,,,,,0
2021-07-01 00:00:01,mumbai,Level0,Level0,Level0,1.0,0.0,,,,,,,1
2021-07-01 00:00:01,MUMBAI ,Level0,Level0,Level0,1,0,0,,,,,,1
2021-07-01 00:00:06,agra,Level0,Level0,Level0,1.0,0.0,,,2.0,,,,1
2021-07-01 00:00:07,pune,others,Others,Level999,1.0,0.0,2.0,,,,,3.0,0
2021-07-01 00:00:08,mumbai,Level3,Level6,Level2,3.0,0.0,,,,1.0,,,1
"""
# date, tier, city missing, platform, medium, source, dropped, referred, label, then the five groups
EXPECTED = """\
1 1 0 Level0 Level0 Level0 1 0 1 0 0 0 0 0
2 3 0 Level3 Level6 Level16 2 1 0 2 1 3 4 11
3 3 1 others others others 0 0 0 0 0 0 0 0
4 3 0 Level0 Level0 Level2 0 0 1 0 0 0 0 1
5 3 1 others others others 15 0 0 7 0 0 0 0
6 2 0 Level0 Level0 Level0 1 0 1 0 0 2 0 0
7 1 0 others others others 1 0 0 0 2 0 0 3
8 1 0 Level3 Level6 Level2 3 0 1 0 0 0 1 0
"""


@pytest.fixture
def own(con: duckdb.DuckDBPyConnection, write_csv: Callable[..., Path]) -> Tables:
    absent = [name for name in SCHEMA.names if name not in HEADER]
    rows = [dict(zip(HEADER, line.split(","), strict=True)) for line in DELIVERED.splitlines()]
    path = write_csv("ten.csv", *({**row, **dict.fromkeys(absent, "")} for row in rows))
    return Tables(con, path, SIGNIFICANT)


def test_ten_leads_come_out_of_every_step_as_written_down(own: Tables) -> None:
    categories = own.categories
    found = [
        (
            int(date[-2:]),
            own.cleaned[date]["city_tier"],
            own.cleaned[date]["is_city_missing"],
            *(categories[date][column] for column in LEVELS),
            *(own.cleaned[date][column] for column in KEPT),
            *(own.groups[date][group] for group in INTERACTION_GROUPS),
        )
        for date in own.cleaned
    ]
    assert [" ".join(map(str, row)) for row in sorted(found)] == EXPECTED.splitlines()


def test_ten_leads_are_loaded_as_delivered(own: Tables) -> None:
    told = [(row["city_mapped"], row["first_utm_source_c"], row["total_leads_droppped"]) for row in own.loaded]
    assert told == [
        ("mumbai", "Level0", 1),
        ("ghazipur", "Level16", 2),
        (None, "Level14", None),
        ("Navi Mumbai", "Level2 ", 0),
        (None, None, 15),
        ("mumbai", "Level0", 1),
        ("MUMBAI ", "Level0", 1),
        ("agra", "Level0", 1),
        ("pune", "Level999", 1),
        ("mumbai", "Level2", 3),
    ]
    assert [row["syllabus"] for row in own.loaded] == [None, 5, None, 1, None, None, None, None, None, None]
