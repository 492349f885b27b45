"""The 90 % rule: which levels are significant."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junk_leads.steps.leads.encoding import LEVEL_COLUMNS
from junk_leads.steps.leads.levels import MOST_LEVELS, learn_significant_levels

Learn = Callable[..., list[tuple[object, ...]]]


@pytest.fixture
def learn(con: duckdb.DuckDBPyConnection) -> Learn:
    """Learns of leads told as counts by level: `learn({"A": 9, None: 1})` gives the table's rows."""

    def of(counts: Mapping[str | None, int], **options: float) -> list[tuple[object, ...]]:
        leads = con.sql(
            "SELECT unnest(repeat([level], n::INTEGER)) AS platform FROM (SELECT unnest(?) AS level, unnest(?) AS n)",
            params=[list(counts), list(counts.values())],
        )
        return learn_significant_levels(con, counted(leads), ("platform",), **options).fetchall()

    return of


def counted(leads: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Leads one by one, as counts of one."""
    return leads.select("*, 1 AS lead_count")


def levels(rows: list[tuple[object, ...]]) -> list[object]:
    return [row[1] for row in rows]


def test_the_most_frequent_levels_are_kept_while_they_make_up_no_more_than_ninety_percent(learn: Learn) -> None:
    assert learn({"C": 10, "A": 60, "D": 5, "B": 25}) == [
        ("platform", "A", 1, 60, 0.6, 0.6),
        ("platform", "B", 2, 25, 0.25, 0.85),
    ]


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        ({"A": 90, "B": 5, "C": 5}, "A"),
        ({"A": 60, "B": 30, "C": 10}, "AB"),
        ({"A": 3, "B": 3, "C": 3, "D": 1}, "ABC"),
        ({"A": 30, "B": 30, "C": 30, "D": 10}, "ABC"),
        ({"A": 7, "B": 1, "C": 1, "D": 1}, "ABC"),
        ({"A": 899_999, "B": 2, "C": 99_999}, "A"),
    ],
)
def test_ninety_percent_exactly_is_kept_and_nothing_beyond(learn: Learn, counts: dict[str, int], kept: str) -> None:
    assert levels(learn(counts)) == list(kept)


def test_the_most_frequent_level_is_kept_even_beyond_ninety_percent(learn: Learn) -> None:
    assert levels(learn({"A": 99, "B": 1})) == ["A"]


def test_leads_without_a_level_do_not_count(learn: Learn) -> None:
    assert learn({"A": 9, "B": 1, None: 90}) == [("platform", "A", 1, 9, 0.9, 0.9)]


def test_levels_of_equal_count_are_taken_by_name(learn: Learn) -> None:
    assert levels(learn({"b": 1, "a": 1, "d": 1, "c": 1}, reach=0.5)) == ["a", "b"]


def test_counted_leads_teach_what_the_leads_one_by_one_do(con: duckdb.DuckDBPyConnection, learn: Learn) -> None:
    found = con.sql("SELECT unnest(['A', 'B', 'A', 'C', NULL]) AS platform, unnest([40, 25, 20, 10, 7]) AS lead_count")
    assert learn_significant_levels(con, found, ("platform",)).fetchall() == learn({"A": 60, "B": 25, "C": 10, None: 7})


def test_one_level_alone_is_significant(learn: Learn) -> None:
    assert learn({"A": 3}) == [("platform", "A", 1, 3, 1.0, 1.0)]


def test_a_column_without_any_level_has_no_rows(learn: Learn) -> None:
    assert learn({None: 3}) == []
    assert learn({}) == []


def test_fifty_thousand_levels_are_kept_to_a_bounded_number_in_bounded_time(
    con: duckdb.DuckDBPyConnection,
) -> None:
    leads = con.sql("SELECT 'level ' || (range % 50000) AS platform FROM range(100000)")
    started = time.monotonic()
    rows = learn_significant_levels(con, counted(leads), ("platform",)).fetchall()
    assert time.monotonic() - started < 20
    assert len(rows) == MOST_LEVELS
    assert [row[2] for row in rows] == list(range(1, MOST_LEVELS + 1))


def test_each_column_is_learned_by_itself_and_typed(con: duckdb.DuckDBPyConnection) -> None:
    columns = ", ".join(f"'{column[0:12]}' AS {column}" for column in LEVEL_COLUMNS)
    table = learn_significant_levels(con, counted(con.sql(f"SELECT {columns} FROM range(3)")), LEVEL_COLUMNS)
    assert table.columns == ["feature", "level", "rank", "lead_count", "share", "cumulative_share"]
    assert list(map(str, table.types)) == ["VARCHAR", "VARCHAR", "INTEGER", "BIGINT", "DOUBLE", "DOUBLE"]
    assert [row[:4] for row in table.fetchall()] == [(column, column[0:12], 1, 3) for column in sorted(LEVEL_COLUMNS)]


def test_levels_of_any_characters_are_kept_as_they_are(learn: Learn) -> None:
    odd = ["it's", 'so "called"', "{a}", "a b", "😀", "x;y", "<b>", "\\"]
    assert levels(learn(dict.fromkeys(odd, 10), reach=1.0)) == sorted(odd)


DATABASE = duckdb.connect()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["A", "B", "C", "D", None]), max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_leads_does_not_matter_and_the_rule_holds(values: list[str | None], random: object) -> None:
    shuffled = sorted(values, key=lambda _: random.random())  # type: ignore[attr-defined]
    found = []
    for order in (values, shuffled):
        leads = DATABASE.sql("SELECT unnest(?::VARCHAR[]) AS platform", params=[order])
        found.append(learn_significant_levels(DATABASE, counted(leads), ("platform",)).fetchall())
    assert found[0] == found[1]
    total = sum(value is not None for value in values)
    for _, _, _, _, share, cumulative in found[0]:
        assert 0 < share <= cumulative <= 1
    counts = [row[3] for row in found[0]]
    assert counts == sorted(counts, reverse=True)
    assert len(counts) == bool(total) or 10 * sum(counts) <= 9 * total
    left = sorted(Counter(filter(None, values)).values(), reverse=True)[len(counts) :]
    assert not left or 10 * (sum(counts) + left[0]) > 9 * total
