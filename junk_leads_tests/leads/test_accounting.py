"""What checks look at of a table, against a plain count of its rows."""

import random
from collections import Counter

import duckdb

from junk_leads.steps.leads.accounting import distinct_values


def test_the_distinct_values_of_columns_are_those_of_a_plain_count() -> None:
    chance = random.Random(5)
    values: dict[str, list[object]] = {
        "text": [None, "", "b", "B", "ß"],
        "number": [None, -1, 0, 2**40],
        "row_count": [None, 0.5, float("inf")],  # a name that the result has too
        'a "name"': [None, True],
        "always": ["x"],
    }
    rows = [tuple(chance.choice(among) for among in values.values()) for _ in range(500)]
    con = duckdb.connect()
    con.execute('CREATE TABLE t (text VARCHAR, number BIGINT, row_count DOUBLE, "a ""name""" BOOLEAN, always VARCHAR)')
    con.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows)
    found = distinct_values(con.table("t"), {name: name == "always" for name in values})
    for column, among in zip(zip(*rows, strict=True), values, strict=True):
        counted = Counter(True if among == "always" else value for value in column)
        ordered = sorted((pair for pair in counted.items() if pair[0] is not None), key=lambda pair: pair[0])
        told = [*ordered, *((None, counted[None]) for _ in range(None in counted))]
        assert [(row["value"], row["row_count"]) for row in found[among].to_pylist()] == told, among


def test_of_no_columns_and_of_no_rows_there_are_no_values() -> None:
    nothing = duckdb.connect().sql("SELECT 1 AS x WHERE false")
    assert distinct_values(nothing, {}) == {}
    assert distinct_values(nothing, {"x": False})["x"].num_rows == 0
