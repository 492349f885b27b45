"""Cleaning: texts become keys, nulls their defaults, exact duplicates go, cities get their tier."""

from collections.abc import Callable
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junk_leads.reference import city_tiers
from junk_leads.steps.leads import accounting
from junk_leads.steps.leads.cleaning import clean, normalise
from junk_leads_tests.conftest import SCHEMA, leads_of, rows_as_dicts

Make = Callable[..., duckdb.DuckDBPyRelation]
INTERACTIONS = SCHEMA.with_role("interaction")


def cleaned(con: duckdb.DuckDBPyConnection, raw: duckdb.DuckDBPyRelation) -> list[dict[str, Any]]:
    return rows_as_dicts(clean(con, raw, SCHEMA))


def kept(con: duckdb.DuckDBPyConnection, raw: duckdb.DuckDBPyRelation) -> list[int]:
    return [row["lead_number"] for row in cleaned(con, raw)]


def dropped(con: duckdb.DuckDBPyConnection) -> list[int]:
    return [row["lead_number"] for row in rows_as_dicts(con.table("duplicate_leads"))]


def test_a_cleaned_lead_has_the_raw_columns_and_its_tier(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    made = clean(con, leads({}), SCHEMA)
    rest = [name for name in SCHEMA.names if name not in ("created_date", "city_mapped")]
    assert made.columns == [
        *("drop", "lead_number", "created_date", "city_mapped", "city_tier", "is_city_missing"),
        *rest,
    ]
    kinds = dict(zip(made.columns, map(str, made.types), strict=True))
    assert (kinds["city_tier"], kinds["is_city_missing"], kinds["created_date"]) == ("TINYINT", "TINYINT", "TIMESTAMP")
    assert {kinds[name] for name in (*INTERACTIONS, "total_leads_droppped", "referred_lead")} == {"INTEGER"}


def test_missing_counts_are_0_and_missing_texts_stay_missing(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    none = dict.fromkeys(SCHEMA.names[1:])
    (row,) = cleaned(con, leads(none))
    assert {row[name] for name in (*INTERACTIONS, "total_leads_droppped", "referred_lead")} == {0}
    texts = ("city_mapped", "first_platform_c", "first_utm_medium_c", "first_utm_source_c", "app_complete_flag")
    assert [row[name] for name in texts] == [None] * 5
    assert (row["city_tier"], row["is_city_missing"]) == (3, 1)


def test_counts_that_are_there_stay_as_they_are(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    (row,) = cleaned(con, leads({"total_leads_droppped": 7, "referred_lead": 1, "syllabus": 2_000_000_000}))
    assert (row["total_leads_droppped"], row["referred_lead"], row["syllabus"]) == (7, 1, 2_000_000_000)


@pytest.mark.parametrize("text", ["", " ", "\u00a0", "\u200b", "\ufeff \u2060", "\u3000\t"])
def test_a_city_of_nothing_visible_is_missing(con: duckdb.DuckDBPyConnection, leads: Make, text: str) -> None:
    (row,) = cleaned(con, leads({"city_mapped": text}))
    assert (row["city_mapped"], row["city_tier"], row["is_city_missing"]) == (None, 3, 1)


def test_every_listed_city_has_its_tier_and_any_other_3(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    cities = [*city_tiers(), "atlantis", "mumbai suburb"]
    found = {row["city_mapped"]: row["city_tier"] for row in cleaned(con, leads(*({"city_mapped": c} for c in cities)))}
    assert found == {**city_tiers(), "atlantis": 3, "mumbai suburb": 3}


SAME_CITY = [
    "navi mumbai",
    "Navi Mumbai",
    " NAVI\tMUMBAI ",
    "navi \u00a0 mumbai",
    "na\u200bvi mumbai\ufeff",
    "navi\u3000mumbai",
]
SAME_CITY += ["\u2066navi mumbai\u2069", "navi\x0bmumbai", "navi\nmumbai\x85", "\u061cnavi mumbai", "na\u00advi mumbai"]


@pytest.mark.parametrize("text", SAME_CITY)
def test_case_blanks_and_invisible_characters_make_no_other_city(
    con: duckdb.DuckDBPyConnection, leads: Make, text: str
) -> None:
    (row,) = cleaned(con, leads({"city_mapped": text}))
    assert row["city_mapped"] == "navi mumbai"


@pytest.mark.parametrize("text", ["S\u00e3o", "Sa\u0303o", "sa\u200b\u0303O", " S\u00c3O "])
def test_composed_and_decomposed_letters_are_the_same(con: duckdb.DuckDBPyConnection, leads: Make, text: str) -> None:
    (row,) = cleaned(con, leads({"city_mapped": text, "first_platform_c": text}))
    assert (row["city_mapped"], row["first_platform_c"]) == ("s\u00e3o", "S\u00e3o")


@pytest.mark.parametrize("column", SCHEMA.with_role("level"))
@pytest.mark.parametrize("text", ["Level12", "level12", " LEVEL12 ", "le\u200bvel12"])
def test_a_level_is_told_in_sentence_case(con: duckdb.DuckDBPyConnection, leads: Make, column: str, text: str) -> None:
    (row,) = cleaned(con, leads({column: text}))
    assert row[column] == "Level12"


@pytest.mark.parametrize("text", ['It\'s "so"', "{a}: [b], c", "A;b--", "😀 x", "-1", "100 %"])
def test_a_level_keeps_its_other_characters(con: duckdb.DuckDBPyConnection, leads: Make, text: str) -> None:
    (row,) = cleaned(con, leads({"first_utm_source_c": text}))
    assert row["first_utm_source_c"] == text


# Duplicates


def test_of_exact_duplicates_the_first_is_kept(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    other = {"syllabus": 1}
    assert kept(con, leads({}, other, {}, {}, other, {"syllabus": 2})) == [1, 2, 6]
    assert dropped(con) == [3, 4, 5]


def test_leads_that_are_equal_after_cleaning_are_duplicates(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    missing = {"city_mapped": None, "syllabus": None}
    assert kept(con, leads({"city_mapped": "Pune "}, {"city_mapped": "pune"}, missing, {**missing, "syllabus": 0})) == [
        1,
        3,
    ]


def test_leads_that_differ_in_any_column_are_no_duplicates(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    texts = dict.fromkeys(SCHEMA.with_role("city", "level"), "elsewhere")
    other = {**dict.fromkeys(SCHEMA.names, 5), **texts, "created_date": "2021-07-01 00:08:16", "app_complete_flag": 0}
    assert kept(con, leads({}, *({name: other[name]} for name in SCHEMA.names))) == list(range(1, 47))


def test_a_lead_that_is_in_another_drop_too_is_kept(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    both = leads({}, {}, drop="a").union(leads({}, drop="b"))
    assert [(row["drop"], row["lead_number"]) for row in cleaned(con, both)] == [("a", 1), ("b", 1)]


def test_no_leads_are_cleaned_to_no_leads(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    assert cleaned(con, leads()) == []
    assert dropped(con) == []


def test_cleaning_leaves_its_input_unchanged(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    raw = leads({"city_mapped": " PUNE "}, {})
    before = raw.fetchall()
    clean(con, raw, SCHEMA).fetchall()
    assert raw.fetchall() == before


# Properties

DATABASE = duckdb.connect()
TEXTS = st.none() | st.sampled_from(["Delhi", "delhi ", "Level0", "level0"]) | st.text(max_size=5)
LEADS = st.lists(
    st.fixed_dictionaries(
        {
            "city_mapped": TEXTS,
            "first_platform_c": TEXTS,
            "syllabus": st.sampled_from([None, 0, 1]),
            "app_complete_flag": st.sampled_from([0, 1]),
        }
    ),
    max_size=8,
)


@settings(max_examples=12, deadline=None)
@given(LEADS)
def test_leads_delivered_are_kept_or_duplicates(delivered: list[dict[str, Any]]) -> None:
    raw = leads_of(DATABASE, *delivered)
    found = clean(DATABASE, raw, SCHEMA)
    numbers = [row["lead_number"] for row in rows_as_dicts(found)]
    assert len(numbers) + accounting.count(DATABASE.table("duplicate_leads")) == len(delivered)
    assert sorted(numbers + dropped(DATABASE)) == list(range(1, len(delivered) + 1))
    values = [tuple(row.values())[2:] for row in rows_as_dicts(found)]
    assert len(set(values)) == len(values)


@settings(max_examples=12, deadline=None)
@given(LEADS)
def test_cleaning_what_is_clean_changes_nothing(delivered: list[dict[str, Any]]) -> None:
    once = clean(DATABASE, leads_of(DATABASE, *delivered), SCHEMA)
    again = rows_as_dicts(once)
    assert rows_as_dicts(normalise(DATABASE, leads_of(DATABASE, *again), SCHEMA).select("* EXCLUDE (lead_number)")) == [
        {name: value for name, value in row.items() if name != "lead_number"} for row in again
    ]


@settings(max_examples=8, deadline=None)
@given(LEADS.filter(lambda leads: len(leads) < 5))
def test_a_lead_is_cleaned_alone_as_it_is_among_others(delivered: list[dict[str, Any]]) -> None:
    together = rows_as_dicts(normalise(DATABASE, leads_of(DATABASE, *delivered), SCHEMA))
    for row, cells in zip(together, delivered, strict=True):
        (alone,) = rows_as_dicts(normalise(DATABASE, leads_of(DATABASE, cells), SCHEMA))
        assert {**alone, "lead_number": row["lead_number"]} == row
