"""Encoding: a lead's features are its own, whoever it comes with, and belong to one encoder."""

import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junk_leads.reference import INTERACTION_GROUPS
from junk_leads.steps.leads.cleaning import clean, normalise
from junk_leads.steps.leads.encoding import IDENTITY, LEVEL_COLUMNS, Encoder, encode, encode_kinds, map_levels
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.levels import learn_significant_levels
from junk_leads.steps.learning.training import LabelledFeatures
from junk_leads_tests.conftest import SCHEMA, leads_of, rows_as_dicts

Make = Callable[..., duckdb.DuckDBPyRelation]
SOME = Encoder.of_levels(
    {
        "first_platform_c": ("Level0", "Level3"),
        "first_utm_medium_c": ("Level1",),
        "first_utm_source_c": ("Level2", "Level0"),
        "city_mapped": ("delhi", "navi mumbai"),
    }
)
ODD = ["it's", 'so "called"', "{a}: [b]", "a b", "😀", "x;y--", "<b>", "\\", "others", "Others", "level" * 100, "a,b"]


def encoded(con: duckdb.DuckDBPyConnection, raw: duckdb.DuckDBPyRelation, encoder: Encoder) -> duckdb.DuckDBPyRelation:
    cleaned = normalise(con, raw, SCHEMA)
    return encode(con, cleaned, group_interactions(con, cleaned), encoder)


def features(con: duckdb.DuckDBPyConnection, raw: duckdb.DuckDBPyRelation, encoder: Encoder = SOME) -> Any:
    """The features of each lead that are not 0, by name."""
    rows = rows_as_dicts(encoded(con, raw, encoder))
    return [{name: row[name] for name in encoder.features if row[name]} for row in rows]


# The encoder


def test_features_stand_in_one_documented_order() -> None:
    assert SOME.features == (
        *("total_leads_droppped", "referred_lead", "is_city_missing"),
        *("city_tier_1", "city_tier_2", "city_tier_3"),
        *("first_platform_c_Level0", "first_platform_c_Level3", "first_platform_c_others"),
        *("first_utm_medium_c_Level1", "first_utm_medium_c_others"),
        *("first_utm_source_c_Level2", "first_utm_source_c_Level0", "first_utm_source_c_others"),
        *("city_mapped_delhi", "city_mapped_navi_mumbai_5ec47f8d", "city_mapped_others"),
        *("assistance_interaction", "career_interaction", "payment_interaction"),
        *("social_interaction", "syllabus_interaction"),
    )


def test_an_encoder_comes_back_from_its_text() -> None:
    again = Encoder.from_json(SOME.to_json())
    assert (again, again.id, again.to_json()) == (SOME, SOME.id, SOME.to_json())
    assert json.loads(SOME.to_json())["features"] == list(SOME.features)


def test_an_encoder_whose_text_was_changed_is_refused() -> None:
    text = SOME.to_json().replace("Level3", "Level4")
    with pytest.raises(ValueError, match=rf"^encoder {SOME.id} does not match its content \(id [0-9a-f]{{16}}\)$"):
        Encoder.from_json(text)


def test_any_other_content_has_another_id() -> None:
    levels = dict(SOME.levels)
    others = [
        Encoder.of_levels({**levels, "first_platform_c": ("Level3", "Level0")}),
        Encoder.of_levels({**levels, "first_platform_c": ("Level0",)}),
        Encoder.of_levels({**levels, "first_utm_medium_c": ()}),
        Encoder(levels, "other reference tables"),
    ]
    assert len({SOME.id, *(encoder.id for encoder in others)}) == 5
    assert Encoder.of_levels(dict(reversed(levels.items()))).id == SOME.id


def test_an_encoder_is_what_its_table_says(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    cleaned = clean(con, leads(*({"created_date": f"2021-07-0{n}"} for n in range(1, 6))), SCHEMA)
    encoder = Encoder.of_table(learn_significant_levels(con, cleaned.select("*, 1 AS lead_count"), LEVEL_COLUMNS))
    assert encoder.levels == {
        "first_platform_c": ("Level0",),
        "first_utm_medium_c": ("Level1",),
        "first_utm_source_c": ("Level2",),
        "city_mapped": ("delhi",),
    }


def test_every_feature_knows_the_column_it_is_made_from() -> None:
    assert SOME.sources["first_platform_c_others"] == "first_platform_c"
    assert SOME.sources["city_tier_2"] == "city_tier"
    assert SOME.sources["career_interaction"] == "career_interaction"
    assert tuple(SOME.sources) == SOME.features


@pytest.mark.parametrize("column", LEVEL_COLUMNS)
def test_no_two_features_have_the_same_name_not_even_but_for_case(column: str) -> None:
    names = [name.lower() for name in Encoder.of_levels({column: tuple(ODD)}).features]
    assert len(set(names)) == len(names)
    assert all(name.isascii() and len(name) < 100 for name in names)


# Features


def test_a_lead_is_encoded_as_documented(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    assert features(con, leads({"total_leads_droppped": 4, "referred_lead": 1, "syllabus": 2, "careers": 3})) == [
        {
            "total_leads_droppped": 4,
            "referred_lead": 1,
            "city_tier_3": 1,
            "first_platform_c_Level0": 1,
            "first_utm_medium_c_Level1": 1,
            "first_utm_source_c_Level2": 1,
            "city_mapped_delhi": 1,
            "career_interaction": 3,
            "syllabus_interaction": 2,
        }
    ]


def test_a_level_that_is_new_minor_or_missing_is_others(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    new = {"first_platform_c": "Level99", "first_utm_medium_c": None, "first_utm_source_c": "", "city_mapped": None}
    assert features(con, leads({**new, "total_leads_droppped": 0})) == [
        {
            "is_city_missing": 1,
            "city_tier_3": 1,
            "first_platform_c_others": 1,
            "first_utm_medium_c_others": 1,
            "first_utm_source_c_others": 1,
            "city_mapped_others": 1,
        }
    ]


def test_a_level_in_another_spelling_is_the_same_level(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    (usual, odd) = features(
        con,
        leads({"city_mapped": "navi mumbai"}, {"city_mapped": " Navi\u200b MUMBAI", "first_platform_c": "LEVEL0 "}),
    )
    assert usual == odd
    assert usual["city_mapped_navi_mumbai_5ec47f8d"] == 1


def test_features_are_small_integers_after_the_identity(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    made = encoded(con, leads({"created_date": "2021-07-01 08:00:00", "app_complete_flag": None}), SOME)
    assert tuple(made.columns) == (*IDENTITY, *SOME.features)
    kinds = dict(zip(made.columns, map(str, made.types), strict=True))
    one_hot = {feature for block in SOME.blocks.values() for feature in block}
    assert {kinds[feature] for feature in one_hot | {"is_city_missing"}} == {"TINYINT"}
    assert {kinds[feature] for feature in (*INTERACTION_GROUPS, "total_leads_droppped")} == {"INTEGER"}
    (row,) = made.fetchall()
    assert (row[0], row[1], row[2], str(row[3]), row[4]) == ("d", 1, SOME.id, "2021-07-01 08:00:00", None)


def test_a_sum_beyond_an_integer_is_the_largest_integer(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    (row,) = features(con, leads({"syllabus": 2**31 - 1, "syllabus_expand": 2**31 - 1}))
    assert row["syllabus_interaction"] == 2**31 - 1


def test_no_leads_have_typed_features_all_the_same(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    assert encoded(con, leads(), SOME).columns == encoded(con, leads({}), SOME).columns


@pytest.mark.parametrize("column", LEVEL_COLUMNS)
def test_levels_with_quotes_braces_blanks_and_emoji_work(
    con: duckdb.DuckDBPyConnection, leads: Make, column: str
) -> None:
    cleaned = clean(con, leads(*({column: level} for level in ODD)), SCHEMA)
    counts = cleaned.select("*, 1 AS lead_count")
    encoder = Encoder.of_table(learn_significant_levels(con, counts, LEVEL_COLUMNS, reach=1.0))
    encode(con, cleaned, group_interactions(con, cleaned), encoder).create("features")
    assert tuple(con.table("features").columns) == (*IDENTITY, *encoder.features)
    rows = rows_as_dicts(con.table("features"))
    told = [[name for name in encoder.blocks[column] if row[name]] for row in rows]
    assert all(len(names) == 1 for names in told)
    assert len({names[0] for names in told}) == len({level.lower() for level in ODD})


def test_fifty_thousand_levels_give_a_bounded_number_of_features(con: duckdb.DuckDBPyConnection) -> None:
    leads = con.sql("SELECT 'city ' || range AS city_mapped, 1 AS lead_count FROM range(50000)")
    encoder = Encoder.of_table(learn_significant_levels(con, leads, ("city_mapped",)))
    assert len(encoder.blocks["city_mapped"]) == 201


def test_leads_without_groups_are_left_out(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    """So that the check of rows fires, instead of features being made up."""
    cleaned = normalise(con, leads({}, {}), SCHEMA)
    assert encode(con, cleaned, group_interactions(con, cleaned.filter("lead_number = 1")), SOME).fetchall() != []
    assert len(encode(con, cleaned, group_interactions(con, cleaned.filter("lead_number = 1")), SOME)) == 1


def test_a_lead_whose_kind_lacks_something_has_features_that_lack_it(
    con: duckdb.DuckDBPyConnection, leads: Make
) -> None:
    """So that the check of missing features fires, instead of the lead being left out."""
    cleaned = normalise(con, leads({}, {}), SCHEMA).select("* REPLACE (nullif(lead_number, 2)::TINYINT AS city_tier)")
    made = rows_as_dicts(encode(con, cleaned, group_interactions(con, cleaned), SOME).order("lead_number"))
    assert [row["city_tier_1"] for row in made] == [1, None]


def test_features_are_held_once_for_leads_that_are_alike(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    cells = [{"syllabus": n % 2, "city_mapped": city} for n, city in enumerate(["delhi", "goa", "delhi", "ooty"])]
    cleaned = normalise(con, leads(*cells, drop="a").union(leads(*cells[::-1], drop="b")), SCHEMA)
    made = encode_kinds(con, cleaned, group_interactions(con, cleaned), SOME)
    kinds = dict(made.leads.select("drop || lead_number, kind").fetchall())
    assert [kinds[f"a{n}"] for n in (1, 2, 3, 4)] == [kinds[f"a{n}"] for n in (3, 4, 1, 2)]
    assert [kinds[f"b{n}"] for n in (1, 2, 3, 4)] == [kinds[f"a{n}"] + 2 for n in (4, 3, 2, 1)]
    assert sorted(made.kinds.select("kind").fetchall()) == [(0,), (1,), (2,), (3,)]


def test_features_of_few_leads_are_joined_as_fast_as_they_are_made(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    """DuckDB planned that join for 70 times as long, of few leads and many levels."""
    cities = tuple(f"city {n}" for n in range(160))
    cells = [{"city_mapped": cities[n % 160], "syllabus": n, "total_leads_droppped": n % 9} for n in range(400)]
    cleaned = normalise(con, leads(*cells), SCHEMA)
    encoder = Encoder.of_levels({**SOME.levels, "city_mapped": cities})
    begun = time.process_time()
    made = encode_kinds(con, cleaned, group_interactions(con, cleaned), encoder)
    half = time.process_time()
    assert made.rows(con).to_arrow_table().num_rows == 400
    assert time.process_time() - half < 10 * (half - begun)


def test_minor_levels_are_told_as_others(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    cleaned = normalise(con, leads({}, {"first_platform_c": None, "city_mapped": "ooty"}), SCHEMA)
    mapped = [[row[column] for column in LEVEL_COLUMNS] for row in rows_as_dicts(map_levels(con, cleaned, SOME))]
    assert mapped == [["Level0", "Level1", "Level2", "delhi"], ["others", "Level1", "Level2", "others"]]


# Properties

DATABASE = duckdb.connect()
LEVELS = st.sampled_from([None, "Level0", "Level1", "level2 ", "Level3", "Level99", "it's"])
CELLS = st.fixed_dictionaries(
    {
        "city_mapped": st.sampled_from([None, "delhi", "Navi Mumbai", "ooty"]),
        "first_platform_c": LEVELS,
        "first_utm_medium_c": LEVELS,
        "first_utm_source_c": LEVELS,
        "total_leads_droppped": st.integers(0, 9),
        "syllabus": st.none() | st.integers(0, 9),
        "careers": st.none() | st.integers(0, 9),
    }
)


@st.composite
def deliveries(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Leads that their date tells apart."""
    cells = draw(st.lists(CELLS, min_size=1, max_size=5))
    return [{**lead, "created_date": f"2021-07-01 00:00:{n:02}"} for n, lead in enumerate(cells)]


def by_date(*drops: Sequence[dict[str, Any]]) -> dict[Any, tuple[Any, ...]]:
    """The features of leads delivered in these drops, by date."""
    raw = leads_of(DATABASE, *drops[0], drop="0")
    for number, drop in enumerate(drops[1:], 1):
        raw = raw.union(leads_of(DATABASE, *drop, drop=str(number)))
    cleaned = clean(DATABASE, raw, SCHEMA)
    made = encode(DATABASE, cleaned, group_interactions(DATABASE, cleaned), SOME)
    return {row["created_date"]: tuple(row[f] for f in SOME.features) for row in rows_as_dicts(made)}


@settings(max_examples=10, deadline=None)
@given(deliveries(), st.data())
def test_shuffling_leads_or_splitting_a_drop_changes_no_features(
    delivered: list[dict[str, Any]], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(delivered))
    cut = data.draw(st.integers(0, len(delivered)))
    assert by_date(shuffled[:cut], shuffled[cut:]) == by_date(delivered)


@settings(max_examples=8, deadline=None)
@given(deliveries(), st.integers(0, 4))
def test_a_lead_alone_has_the_features_it_has_in_its_drop(delivered: list[dict[str, Any]], place: int) -> None:
    together = by_date(delivered)
    alone = by_date([delivered[place % len(delivered)]])
    assert alone.items() <= together.items()


@settings(max_examples=8, deadline=None)
@given(deliveries(), st.randoms(use_true_random=False))
def test_shuffling_columns_changes_no_features(delivered: list[dict[str, Any]], rng: random.Random) -> None:
    columns = [*SCHEMA.names]
    rng.shuffle(columns)
    raw = leads_of(DATABASE, *delivered)
    shuffled = raw.select("drop", "lead_number", *(duckdb.ColumnExpression(name) for name in columns))
    assert features(DATABASE, shuffled) == features(DATABASE, raw)


@settings(max_examples=10, deadline=None)
@given(deliveries())
def test_in_each_block_exactly_one_feature_is_1(delivered: list[dict[str, Any]]) -> None:
    for row in rows_as_dicts(encoded(DATABASE, leads_of(DATABASE, *delivered), SOME)):
        for block in SOME.blocks.values():
            assert sorted(row[feature] for feature in block) == [0] * (len(block) - 1) + [1]


def test_a_fingerprint_tells_leads_and_columns_apart_and_not_the_order_of_leads(
    con: duckdb.DuckDBPyConnection, leads: Make
) -> None:
    table = encoded(con, leads({}, {"syllabus": 1}), SOME).order("lead_number").to_arrow_table()
    table = table.select(list(SOME.features))
    labels, days = np.array([0, 1], dtype=np.int8), np.array([1, 2])
    same = LabelledFeatures.of_table(table, labels, days)
    others = [
        same.take(np.array([1, 0])),
        same.take(np.array([1, 2])),
        LabelledFeatures.of_table(table.select(list(reversed(SOME.features))), labels, days),
        LabelledFeatures.of_table(table, labels[::-1], days),
        LabelledFeatures.of_table(table, labels, days + 1),
    ]
    turned = LabelledFeatures.of_table(table.take([1, 0]), labels[::-1], days[::-1])
    assert same.take(np.array([1, 1])).fingerprint == same.fingerprint == turned.fingerprint
    assert len({same.fingerprint, *(data.fingerprint for data in others)}) == 6
