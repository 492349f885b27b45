"""What a check found, in a sentence: how many of how many, of which column, what is wrong; and no lead's data."""

import duckdb
import pytest

from junk_leads.defs.expectations.suites import Expectation, Suite, load_suite
from junk_leads.defs.expectations.validating import validate
from junk_leads.steps.pages.card import few
from junk_leads.steps.pages.sentences import figure, found_sentence, percent


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.0, "0 %"),
        (0.0001, "under 0.1 %"),
        (0.0034, "0.3 %"),
        (0.02, "2 %"),
        (0.02006, "2 %"),
        (0.2, "20 %"),
        (0.6667, "67 %"),
        (0.9999, "over 99 %"),
        (1.0, "100 %"),
    ],
)
def test_a_share_is_rounded_and_never_to_nothing_or_to_all(share: float, told: str) -> None:
    assert percent(share) == told


@pytest.mark.parametrize(("value", "told"), [(200.0, "200"), (1_000_000, "1,000,000"), (0.123456, "0.123"), (-1, "-1")])
def test_a_figure_is_rounded(value: float, told: str) -> None:
    assert figure(value) == told


def found(con: duckdb.DuckDBPyConnection, kind: str, rows: str = "[1, NULL, 3, 300]", **kwargs: object) -> str:
    """What one expectation says of a column `x` of these values, or of the table."""
    frame = con.sql(f"SELECT unnest({rows}) AS x")
    column = {} if "_table_" in kind else {"column": "x"}
    return found_sentence(validate((Expectation("c", kind, {**column, **kwargs}),), {"rows": frame}))


BETWEEN = "expect_column_values_to_be_between"


@pytest.mark.parametrize(
    ("kind", "kwargs", "told"),
    [
        ("expect_column_values_to_not_be_null", {}, "1 of 4 values of x are missing (25 %)"),
        (BETWEEN, {"min_value": 2}, "1 of 3 values of x are below 2 (33 %)"),
        (BETWEEN, {"max_value": 250}, "1 of 3 values of x are above 250 (33 %)"),
        (BETWEEN, {"min_value": 0, "max_value": 2}, "2 of 3 values of x are not from 0 to 2 (67 %)"),
        (BETWEEN, {"min_value": 3, "max_value": 3}, "2 of 3 values of x are not 3 (67 %)"),
        ("expect_column_values_to_be_in_set", {"value_set": [1, 3]}, "1 of 3 values of x are not one of 1, 3 (33 %)"),
        ("expect_column_values_to_be_unique", {}, "as expected"),
        ("expect_table_row_count_to_be_between", {"min_value": 9}, "4 rows"),
        ("expect_table_columns_to_match_set", {"column_set": ["x", "y"]}, "lacks y"),
        ("expect_table_columns_to_match_set", {"column_set": ["y"]}, "lacks y; has also x"),
        (
            "expect_table_columns_to_match_ordered_list",
            {"column_list": ["y"]},
            "1 columns are not where, or what, they should be",
        ),
        (BETWEEN, {"min_value": 0}, "as expected"),
    ],
)
def test_every_kind_of_expectation_says_what_it_found(
    con: duckdb.DuckDBPyConnection, kind: str, kwargs: dict[str, object], told: str
) -> None:
    assert found(con, kind, **kwargs) == told


def test_texts_that_are_not_as_expected_are_counted_and_not_shown(con: duckdb.DuckDBPyConnection) -> None:
    told = found(con, "expect_column_values_to_match_regex", "['a secret name', 'b']", regex="^b$")
    assert told == "1 of 2 values of x are not written as they should be (50 %)"


def test_an_account_says_its_own_words(con: duckdb.DuckDBPyConnection) -> None:
    suite = load_suite("encoded_features", {f"most_others:{name}": 0.23 for name in ("first_platform_c",)})
    expectation = next(e for e in suite.expectations if e.kwargs.get("column") == "first_platform_c" and e.told)
    evidence = validate((expectation,), {"others": con.sql("SELECT 0.34::DOUBLE AS first_platform_c")})
    assert found_sentence(evidence) == (
        "34 % of the leads have a platform that the model does not know, 23 % at most were expected"
    )


def test_every_account_of_one_row_has_words_of_its_own() -> None:
    for asset in ("raw_leads", "cleaned_leads", "encoded_features", "predictions", "prediction_summary", "outcomes"):
        for expectation in load_suite(asset).expectations:
            if expectation.on in ("account", "others"):
                assert expectation.told, (asset, expectation)


def test_errors_are_told_before_warnings_each_once_and_three_at_most(con: duckdb.DuckDBPyConnection) -> None:
    def e(severity: str, **kwargs: float) -> Expectation:
        return Expectation("c", BETWEEN, {"column": "x", **kwargs}, severity=severity)

    rows = (e("WARN", max_value=1), e("ERROR", min_value=2), *(e("WARN", max_value=2 + n) for n in range(4)))
    suite = Suite("t", {"c": "S."}, (*rows, e("ERROR", min_value=2)))
    told = found_sentence(validate(suite.expectations, {"rows": con.sql("SELECT unnest([1, 2, 300]) AS x")}))
    assert told == (
        "1 of 3 values of x are below 2 (33 %); 2 of 3 values of x are above 1 (67 %); "
        "1 of 3 values of x are above 2 (33 %); and 3 more"
    )


def test_of_very_many_names_the_last_are_told() -> None:
    names = [f"drop{number:05}" for number in range(10_000)]
    assert few(names[:20]) == ", ".join(names[:20])
    assert few(names).endswith("drop09998, drop09999 and 9,980 others")
    assert len(few(names)) < 300
