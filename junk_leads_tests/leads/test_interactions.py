"""The 37 kinds of interaction, summed into groups."""

from collections import Counter
from collections.abc import Callable

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from junk_leads.reference import INTERACTION_GROUPS, interaction_groups
from junk_leads.steps.leads.cleaning import normalise
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads_tests.conftest import SCHEMA, leads_of, rows_as_dicts

Make = Callable[..., duckdb.DuckDBPyRelation]


def grouped(con: duckdb.DuckDBPyConnection, raw: duckdb.DuckDBPyRelation) -> list[dict[str, int]]:
    return rows_as_dicts(group_interactions(con, normalise(con, raw, SCHEMA)))


def test_the_reference_table_has_37_interactions_in_five_groups() -> None:
    assert Counter(interaction_groups().values()) == {
        "assistance_interaction": 9,
        "career_interaction": 11,
        "payment_interaction": 4,
        "social_interaction": 2,
        "syllabus_interaction": 11,
    }
    assert set(interaction_groups()) == set(SCHEMA.with_role("interaction"))


def test_a_lead_without_interactions_has_five_zeros(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    assert grouped(con, leads({})) == [{"drop": "d", "lead_number": 1, **dict.fromkeys(INTERACTION_GROUPS, 0)}]


def test_each_interaction_counts_for_its_own_group(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    rows = grouped(con, leads(*({interaction: 3} for interaction in interaction_groups())))
    assert [{name: row[name] for name in INTERACTION_GROUPS} for row in rows] == [
        {**dict.fromkeys(INTERACTION_GROUPS, 0), group: 3} for group in interaction_groups().values()
    ]


def test_sums_of_the_largest_counts_do_not_overflow(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    largest = dict.fromkeys(SCHEMA.with_role("interaction"), 2**31 - 1)
    (row,) = grouped(con, leads(largest))
    sizes = Counter(interaction_groups().values())
    assert {name: row[name] for name in INTERACTION_GROUPS} == {n: size * (2**31 - 1) for n, size in sizes.items()}
    assert list(map(str, group_interactions(con, leads(largest)).types)) == ["VARCHAR", *["BIGINT"] * 6]


def test_every_lead_keeps_its_identity(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    both = leads({"syllabus": 1}, {}, drop="a").union(leads({}, drop="b"))
    assert [(row["drop"], row["lead_number"], row["syllabus_interaction"]) for row in grouped(con, both)] == [
        ("a", 1, 1),
        ("a", 2, 0),
        ("b", 1, 0),
    ]


DATABASE = duckdb.connect()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(SCHEMA.with_role("interaction")), st.integers(0, 9)), max_size=4))
def test_the_sums_add_up_to_the_37_columns_lead_by_lead(delivered: list[dict[str, int]]) -> None:
    rows = grouped(DATABASE, leads_of(DATABASE, *delivered))
    assert [sum(row[group] for group in INTERACTION_GROUPS) for row in rows] == [sum(d.values()) for d in delivered]
