"""The checks: for every expectation of every suite a clean input that passes and a dirty one that fires it.

Also the evidence that a person reads, and the rule that an output is stored only when its blocking checks pass.
"""

import dataclasses
import html
import json
import math
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import duckdb
import numpy as np
import pyarrow as pa
import pytest

from junk_leads.defs.assets import experiments, features, leads, model, outcomes, predictions
from junk_leads.defs.checks import check_specs, evaluate, evidence_table, inert, plain_failures, publish, refusal, timed
from junk_leads.defs.expectations.asking import EXAMPLES
from junk_leads.defs.expectations.suites import Expectation, Suite, load_suite
from junk_leads.defs.expectations.validating import Evidence, validate
from junk_leads.errors import DropRefused, TrainingRefused
from junk_leads.steps.leads import accounting
from junk_leads.steps.leads.cleaning import clean
from junk_leads.steps.leads.counting import count_leads
from junk_leads.steps.leads.encoding import IDENTITY, Encoder, encode
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.kinds import kinds_in
from junk_leads.steps.leads.reading import read_leads
from junk_leads.steps.learning.experimenting import METRICS, SPLITS
from junk_leads.steps.learning.training import LabelledFeatures
from junk_leads.stores.ledger import Delivery
from junk_leads_tests.conftest import SCHEMA, leads_of

Results = list[dg.AssetCheckResult]

SUITES = sorted(
    file.name.removesuffix(".json") for file in files("junk_leads").joinpath("reference/expectations").iterdir()
)
BETWEEN = "expect_column_values_to_be_between"
NOT_NULL = "expect_column_values_to_not_be_null"
IN_SET = "expect_column_values_to_be_in_set"
REGEX = "expect_column_values_to_match_regex"
COLUMNS = "expect_table_columns_to_match_set"
ORDERED_COLUMNS = "expect_table_columns_to_match_ordered_list"
ROW_COUNT = "expect_table_row_count_to_be_between"

ENCODER = Encoder.of_levels({"first_platform_c": ("Level0",), "city_mapped": ("delhi",)})
SECONDS = ("tune_seconds", "fit_seconds", "predict_seconds")
FIGURES = {"lead_count": 200, "share_of_ones": 0.5, "share_of_zeros": 0.5}


def day(days: int) -> str:
    return (datetime.now() + timedelta(days=days)).isoformat(" ", "seconds")


class Inputs:
    """Inputs of every `*_checks` function, clean unless told: `replace` is SQL for columns of the checked relation."""

    def __init__(self, con: duckdb.DuckDBPyConnection, write_csv: Callable[..., Path]) -> None:
        self.con, self.write_csv = con, write_csv

    def _dirty(self, relation: duckdb.DuckDBPyRelation, replace: str) -> duckdb.DuckDBPyRelation:
        return relation.select(f"* REPLACE ({replace})") if replace else relation

    def raw(self, *rows: dict[str, Any], replace: str = "", **options: Any) -> Results:
        """A CSV of these leads, read; `replace` makes its relation dirtier than reading would let it be."""
        reading = read_leads(self.con, self.write_csv("drop.csv", *(rows or [{}] * 3), **options), SCHEMA)
        reading = dataclasses.replace(reading, leads=self._dirty(reading.leads, replace))
        return leads.raw_leads_checks(self.con, reading)

    def refused(self, header: str) -> Results:
        """The result of a file with this header that could not be read."""
        path = self.write_csv("drop.csv")
        path.write_text(header + "\n")
        try:
            read_leads(self.con, path, SCHEMA)
        except DropRefused as refused:
            return [leads._refused_result(Delivery(1, "d", "sha", "drop.csv", path, "waiting", 1, ""), refused)]
        raise AssertionError("the file was not refused")

    def cleaned(self, replace: str = "", *, delivered: int = 2, duplicates: int = 0) -> Results:
        made = clean(self.con, leads_of(self.con, {}, {"syllabus": 2}), SCHEMA)
        return leads.cleaned_leads_checks(self.con, self._dirty(made, replace), delivered, duplicates)

    def grouped(self, replace: str = "", *, keep: str = "true") -> Results:
        cleaned = clean(self.con, leads_of(self.con, {}, {"syllabus": 2, "careers": 1}), SCHEMA)
        made = group_interactions(self.con, cleaned).filter(keep)
        return leads.interaction_groups_checks(self.con, self._dirty(made, replace), cleaned)

    def encoded(
        self,
        replace: str = "",
        *,
        columns: str = "*",
        encoder: Encoder = ENCODER,
        leads: int = 2,
        usual: float | None = None,
    ) -> Results:
        cleaned = clean(self.con, leads_of(self.con, {}, {"syllabus": 2}), SCHEMA)
        made = encode(self.con, cleaned, group_interactions(self.con, cleaned), encoder)
        made = self._dirty(made, replace).select(columns)
        others = accounting.count_others(made, ENCODER)
        usually = None if usual is None else dict.fromkeys(ENCODER.levels, usual)
        return features.encoded_features_checks(
            self.con, kinds_in(self.con, made, IDENTITY), ENCODER, leads, others, usually
        )

    def counted(self, replace: str = "", *, leads: int = 3) -> Results:
        """The checks of a kind of three leads and no other."""
        cleaned = clean(self.con, leads_of(self.con, *({"created_date": f"2021-07-0{n}"} for n in (1, 2, 3))), SCHEMA)
        made = count_leads(self.con, cleaned, group_interactions(self.con, cleaned))
        return features.lead_counts_checks(self.con, self._dirty(made, replace), leads)

    def levels(self, replace: str = "", *, rows: int = 2) -> Results:
        made = self.con.sql(
            f"SELECT 'city_mapped' AS feature, 'c' || range AS level, range::INTEGER AS rank, 9 AS lead_count, "
            f"0.45::DOUBLE AS share, (0.45 * least(range, 2))::DOUBLE AS cumulative_share FROM range(1, {rows + 1})"
        )
        levels = self._dirty(made, replace)
        return evaluate(features.load_suite("significant_levels"), {"rows": levels, "blocks": features._reach(levels)})

    def predicted(self, replace: str = "", *, rows: int = 100, leads: int = 100) -> Results:
        made = self.con.sql(
            "SELECT 'd' AS drop, range AS lead_number, (range / 100)::DOUBLE AS probability, 1 AS predicted_flag, "
            "50 AS score, 'B' AS grade, 'City given' AS reasons, '1' AS model_version "
            f"FROM range({rows})"
        )
        return predictions.predictions_checks(self.con, self._dirty(made, replace), leads)

    def summary(self, *, of_other_times: float = 0.0, **figures: float) -> Results:
        return predictions.prediction_summary_checks(self.con, {**FIGURES, **figures}, 0.5, of_other_times)

    def outcomes(self, replace: str = "", *, times: int = 1) -> Results:
        made = self.con.sql(
            "SELECT 'd' AS drop, range AS lead_number, 0.5::DOUBLE AS probability, 1::TINYINT AS app_complete_flag "
            f"FROM range(3), range({times}) AS again(n)"
        )
        return outcomes.outcomes_checks(self.con, self._dirty(made, replace))

    def compared(self, replace: str = "", *, rows: int = 6) -> Results:
        metrics = [f"{split}_{metric}" for split in SPLITS for metric in METRICS]
        cells = ", ".join(f"0.7::DOUBLE AS {name}" for name in (*metrics, *SECONDS))
        made = self.con.sql(f"SELECT {cells}, '{{}}' AS parameters, 'a run' AS run_id FROM range({rows})")
        return experiments.experiment_leaderboard_checks(self._dirty(made, replace))

    def trained(
        self, *, rows: int = 1000, ones: int = 500, leak: str = "", future: int = 0, **metrics: float
    ) -> Results:
        """The checks of a model; `leak` copies the label, `future` leads are of next week."""
        created = np.where(np.arange(rows) < future, (date.today() - date(1970, 1, 1)).days + 7, np.arange(rows))
        labels = np.array([1] * ones + [0] * (rows - ones), dtype=np.int8)
        values = dict.fromkeys(ENCODER.features, np.zeros(rows, dtype=np.int8))
        table = pa.table({**values, **({leak: labels} if leak else {})})
        data = LabelledFeatures.of_table(table, labels, created)
        found = {"random_auc": 0.8, "temporal_auc": 0.8, **metrics}
        config = model.TrainingConfig()
        return [*model.data_checks(data, ENCODER, config), model._floor(found, config.lowest_auc)]


@pytest.fixture
def inputs(con: duckdb.DuckDBPyConnection, write_csv: Callable[..., Path]) -> Inputs:
    return Inputs(con, write_csv)


CLEAN: dict[str, Callable[[Inputs], Results]] = {
    "raw_leads": lambda i: i.raw(),
    "cleaned_leads": lambda i: i.cleaned(),
    "interaction_groups": lambda i: i.grouped(),
    "lead_counts": lambda i: i.counted(),
    "significant_levels": lambda i: i.levels(),
    "encoded_features": lambda i: i.encoded(),
    "predictions": lambda i: i.predicted(),
    "prediction_summary": lambda i: i.summary(),
    "outcomes": lambda i: i.outcomes(),
    "experiment_leaderboard": lambda i: i.compared(),
    "lightgbm_model": lambda i: i.trained(),
}


class Dirty(NamedTuple):
    """An input that makes one expectation (of a check, on a column, of a severity) fail."""

    asset: str
    check: str
    type: str
    column: str
    severity: str
    results: Callable[[Inputs], Results]


MANY = [{"created_date": f"2021-07-01 00:{n // 60:02}:{n % 60:02}"} for n in range(200)]
TEXTS = SCHEMA.with_role("city", "level")
WITHOUT_CITY = tuple(name for name in SCHEMA.names if name != "city_mapped")
DIRTY = [
    *(
        Dirty("raw_leads", *row)
        for row in (
            ("has_every_required_column", COLUMNS, "", "ERROR", lambda i: i.refused(",".join(WITHOUT_CITY))),
            ("has_no_unknown_column", COLUMNS, "", "WARN", lambda i: i.raw(columns=(*SCHEMA.names, "utm_term"))),
            ("has_leads", ROW_COUNT, "", "WARN", lambda i: i.raw({"syllabus": "none"})),
            (
                *("has_few_rejected_rows", BETWEEN, "rejected_share", "ERROR"),
                lambda i: i.raw(*MANY[:98], *[{"syllabus": "x"}] * 2),
            ),
            (
                *("has_few_rejected_rows", BETWEEN, "rows_rejected", "WARN"),
                lambda i: i.raw(*MANY[:199], {"syllabus": "x"}),
            ),
            (
                *("every_lead_is_typed", NOT_NULL, "lead_number", "ERROR"),
                lambda i: i.raw(replace="NULL::BIGINT AS lead_number"),
            ),
            (
                *("every_lead_is_typed", NOT_NULL, "created_date", "ERROR"),
                lambda i: i.raw(replace="NULL::TIMESTAMP AS created_date"),
            ),
            (
                *("counts_are_plausible", BETWEEN, "total_leads_droppped", "ERROR"),
                lambda i: i.raw(replace="-1 AS total_leads_droppped"),
            ),
            ("counts_are_plausible", BETWEEN, "referred_lead", "ERROR", lambda i: i.raw(replace="-1 AS referred_lead")),
            ("counts_are_plausible", BETWEEN, "value", "ERROR", lambda i: i.raw(replace="-1 AS syllabus")),
            (
                *("counts_are_plausible", BETWEEN, "total_leads_droppped", "WARN"),
                lambda i: i.raw({"total_leads_droppped": "100001"}),
            ),
            ("counts_are_plausible", BETWEEN, "value", "WARN", lambda i: i.raw({"syllabus": "100001"})),
            (
                *("flags_are_0_or_1", IN_SET, "app_complete_flag", "ERROR"),
                lambda i: i.raw(replace="2 AS app_complete_flag"),
            ),
            ("flags_are_0_or_1", IN_SET, "referred_lead", "ERROR", lambda i: i.raw(replace="2 AS referred_lead")),
            ("dates_are_plausible", BETWEEN, "days_before_tomorrow", "WARN", lambda i: i.raw({"created_date": day(2)})),
            (
                *("dates_are_plausible", BETWEEN, "days_after_2010", "ERROR"),
                lambda i: i.raw(replace="TIMESTAMP '2009-12-31' AS created_date"),
            ),
            *(
                ("few_values_are_missing", NOT_NULL, name, "WARN", lambda i, name=name: i.raw({}, {name: ""}))
                for name in ("city_mapped", "first_utm_source_c", "total_leads_droppped")
            ),
            *(
                ("levels_are_well_formed", REGEX, name, "WARN", lambda i, name=name, text=text: i.raw({name: text}))
                for name, text in zip(TEXTS, ("a\x1bb", "level\n", "l" * 201, "\tlevel"), strict=True)
            ),
        )
    ),
    *(
        Dirty("cleaned_leads", *row)
        for row in (
            *(
                ("has_no_missing_values", NOT_NULL, name, "ERROR", lambda i, name=name: i.cleaned(f"NULL AS {name}"))
                for name in ("lead_number", "is_city_missing", "referred_lead")
            ),
            (
                *("has_no_missing_values", NOT_NULL, "created_date", "ERROR"),
                lambda i: i.cleaned("NULL::TIMESTAMP AS created_date"),
            ),
            (
                *("has_no_missing_values", BETWEEN, "missing_interactions", "ERROR"),
                lambda i: i.cleaned("NULL::INTEGER AS syllabus"),
            ),
            ("has_no_missing_values", BETWEEN, "value", "ERROR", lambda i: i.cleaned("-1 AS syllabus")),
            ("every_city_has_a_tier", IN_SET, "city_tier", "ERROR", lambda i: i.cleaned("4 AS city_tier")),
            ("every_city_has_a_tier", IN_SET, "is_city_missing", "ERROR", lambda i: i.cleaned("2 AS is_city_missing")),
            *(
                ("texts_are_keys", REGEX, name, "ERROR", lambda i, sql=f"'{text}' AS {name}": i.cleaned(sql))
                for name, text in zip(TEXTS, ("", " level", "level\n", "level "), strict=True)
            ),
            ("rows_are_accounted_for", BETWEEN, "rows_unaccounted", "ERROR", lambda i: i.cleaned(delivered=3)),
            ("has_few_duplicates", BETWEEN, "duplicate_share", "WARN", lambda i: i.cleaned(delivered=3, duplicates=1)),
        )
    ),
    *(
        Dirty("interaction_groups", *row)
        for row in (
            *(
                ("has_no_missing_values", NOT_NULL, name, "ERROR", lambda i, name=name: i.grouped(f"NULL AS {name}"))
                for name in ("drop", "lead_number", "social_interaction", "syllabus_interaction")
            ),
            (
                *("sums_are_not_negative", BETWEEN, "payment_interaction", "ERROR"),
                lambda i: i.grouped("-1 AS payment_interaction"),
            ),
            (
                *("sums_add_up", BETWEEN, "difference", "ERROR"),
                lambda i: i.grouped("syllabus_interaction + 1 AS syllabus_interaction"),
            ),
            ("sums_add_up", BETWEEN, "difference", "ERROR", lambda i: i.grouped("0 AS career_interaction")),
            (
                *("rows_are_accounted_for", BETWEEN, "rows_unaccounted", "ERROR"),
                lambda i: i.grouped(keep="lead_number = 1"),
            ),
        )
    ),
    *(
        Dirty("lead_counts", *row)
        for row in (
            ("leads_are_accounted_for", BETWEEN, "leads_unaccounted", "ERROR", lambda i: i.counted(leads=4)),
            ("counts_are_counts", BETWEEN, "lead_count", "ERROR", lambda i: i.counted("0 AS lead_count")),
            ("counts_are_counts", IN_SET, "app_complete_flag", "ERROR", lambda i: i.counted("2 AS app_complete_flag")),
        )
    ),
    *(
        Dirty("significant_levels", *row)
        for row in (
            ("levels_cover_most_leads", BETWEEN, "reached", "WARN", lambda i: i.levels(rows=1)),
            ("levels_cover_most_leads", BETWEEN, "level_count", "ERROR", lambda i: i.levels(rows=201)),
            ("shares_are_shares", BETWEEN, "lead_count", "ERROR", lambda i: i.levels("0 AS lead_count")),
            ("shares_are_shares", BETWEEN, "share", "ERROR", lambda i: i.levels("1.1 AS share")),
            ("shares_are_shares", BETWEEN, "cumulative_share", "ERROR", lambda i: i.levels("-0.1 AS cumulative_share")),
        )
    ),
    *(
        Dirty("encoded_features", *row)
        for row in (
            (
                *("has_the_columns_of_the_model", ORDERED_COLUMNS, "", "ERROR"),
                lambda i: i.encoded(encoder=Encoder.of_levels({"city_mapped": ("pune",)})),
            ),
            (
                *("has_the_columns_of_the_model", ORDERED_COLUMNS, "", "ERROR"),
                lambda i: i.encoded(columns="* EXCLUDE (career_interaction), career_interaction"),
            ),
            ("has_the_columns_of_the_model", ORDERED_COLUMNS, "", "ERROR", lambda i: i.encoded(columns="*, 1 AS more")),
            (
                *("is_of_the_consumers_encoder", IN_SET, "encoder_id", "ERROR"),
                lambda i: i.encoded("'other' AS encoder_id"),
            ),
            ("is_of_the_consumers_encoder", NOT_NULL, "encoder_id", "ERROR", lambda i: i.encoded("NULL AS encoder_id")),
            *(
                (
                    *("one_hot_blocks_sum_to_one", BETWEEN, column, "ERROR"),
                    lambda i, feature=block[-1]: i.encoded(f"5 AS {feature}"),
                )
                for column, block in ENCODER.blocks.items()
            ),
            *(
                (
                    *("others_are_as_in_training", BETWEEN, column, "WARN"),
                    lambda i, feature=ENCODER.blocks[column][-1]: i.encoded(
                        f"1::TINYINT AS {feature}", leads=100, usual=0.89
                    ),
                )
                for column in ENCODER.levels
            ),
            (
                *("has_no_missing_values", BETWEEN, "missing_features", "ERROR"),
                lambda i: i.encoded("NULL::TINYINT AS city_tier_1"),
            ),
            (
                *("has_no_missing_values", BETWEEN, "smallest_feature", "ERROR"),
                lambda i: i.encoded("-1 AS total_leads_droppped"),
            ),
            ("rows_are_accounted_for", BETWEEN, "rows_unaccounted", "ERROR", lambda i: i.encoded(leads=3)),
        )
    ),
    *(
        Dirty("predictions", *row)
        for row in (
            ("every_lead_has_one", BETWEEN, "rows_unaccounted", "ERROR", lambda i: i.predicted(leads=101)),
            (
                *("probabilities_are_probabilities", NOT_NULL, "probability", "ERROR"),
                lambda i: i.predicted("'nan'::DOUBLE AS probability"),
            ),
            (
                *("probabilities_are_probabilities", BETWEEN, "probability", "ERROR"),
                lambda i: i.predicted("1.01 AS probability"),
            ),
            (
                *("probabilities_are_not_constant", BETWEEN, "distinct_probabilities", "ERROR"),
                lambda i: i.predicted("0.5 AS probability"),
            ),
            ("scores_and_grades_are_valid", BETWEEN, "score", "ERROR", lambda i: i.predicted("100 AS score")),
            ("scores_and_grades_are_valid", IN_SET, "grade", "ERROR", lambda i: i.predicted("'E' AS grade")),
            (
                *("scores_and_grades_are_valid", IN_SET, "predicted_flag", "ERROR"),
                lambda i: i.predicted("2 AS predicted_flag"),
            ),
            ("scores_and_grades_are_valid", NOT_NULL, "reasons", "ERROR", lambda i: i.predicted("NULL AS reasons")),
            (
                *("scores_and_grades_are_valid", NOT_NULL, "model_version", "ERROR"),
                lambda i: i.predicted("NULL AS model_version"),
            ),
        )
    ),
    Dirty(
        *("prediction_summary", "shares_add_up", BETWEEN, "shares_unaccounted", "ERROR"),
        lambda i: i.summary(share_of_ones=0.4),
    ),
    Dirty(
        *("prediction_summary", "dates_follow_training", BETWEEN, "share_of_other_times", "WARN"),
        lambda i: i.summary(of_other_times=0.02),
    ),
    Dirty(
        *("prediction_summary", "share_of_ones_is_as_in_training", BETWEEN, "distance_in_bands", "WARN"),
        lambda i: i.summary(share_of_ones=0.3, share_of_zeros=0.7),
    ),
    Dirty(
        *("outcomes", "every_scored_lead_has_one_outcome", BETWEEN, "outcomes_too_many", "ERROR"),
        lambda i: i.outcomes(times=2),
    ),
    Dirty(
        *("outcomes", "outcomes_are_labels", IN_SET, "app_complete_flag", "ERROR"),
        lambda i: i.outcomes("2::TINYINT AS app_complete_flag"),
    ),
    Dirty(
        *("outcomes", "outcomes_are_labels", BETWEEN, "probability", "ERROR"),
        lambda i: i.outcomes("1.5::DOUBLE AS probability"),
    ),
    *(
        Dirty("experiment_leaderboard", *row)
        for row in (
            (
                *("metrics_are_numbers_in_range", NOT_NULL, "temporal_auc", "ERROR"),
                lambda i: i.compared("'nan'::DOUBLE AS temporal_auc"),
            ),
            (
                *("metrics_are_numbers_in_range", BETWEEN, "random_brier", "ERROR"),
                lambda i: i.compared("1.1 AS random_brier"),
            ),
            (
                *("metrics_are_numbers_in_range", BETWEEN, "temporal_log_loss", "ERROR"),
                lambda i: i.compared("'inf'::DOUBLE AS temporal_log_loss"),
            ),
            (
                *("learners_were_timed_and_tracked", BETWEEN, "fit_seconds", "ERROR"),
                lambda i: i.compared("-1.0 AS fit_seconds"),
            ),
            (
                *("learners_were_timed_and_tracked", NOT_NULL, "run_id", "ERROR"),
                lambda i: i.compared("NULL AS run_id"),
            ),
            ("compares_at_least_six_learners", ROW_COUNT, "", "WARN", lambda i: i.compared(rows=5)),
            (
                *("the_best_tells_leads_apart", BETWEEN, "best_auc", "WARN"),
                lambda i: i.compared("0.59 AS temporal_auc"),
            ),
        )
    ),
]  # fmt: skip

MODEL_DIRTY: dict[str, list[tuple[Callable[[Inputs], Results], str]]] = {
    "has_enough_labelled_leads": [
        (
            lambda i: i.trained(rows=999),
            "999 labelled leads (500 genuine, 499 junk) are too few to train on; expected at least 1,000 with 120 of "
            "each class; ingest more labelled drops",
        ),
        (
            lambda i: i.trained(ones=0),
            "1,000 labelled leads (0 genuine, 1,000 junk) are too few to train on; expected at least 1,000 with 120 of "
            "each class; ingest more labelled drops",
        ),
    ],
    "no_lead_is_from_the_future": [
        (
            lambda i: i.trained(future=3),
            "3 labelled leads were created after today, when their outcome could not be known; correct created_date, "
            "and ingest their drops again",
        )
    ],
    "no_column_copies_the_label": [
        (
            lambda i: i.trained(leak="syllabus_interaction"),
            "alone tells the label: syllabus_interaction (AUC 1.000); take the column out of the labelled drops, or "
            "deliver what it was before the outcome was known",
        )
    ],
    "auc_is_above_the_floor": [
        (
            lambda i: i.trained(temporal_auc=0.55),
            "hold-out AUC is 0.550, expected at least 0.6; look at the data before training again",
        ),
        (
            lambda i: i.trained(random_log_loss=math.nan),
            "random_log_loss of the hold-out cannot be measured, expected numbers; look at the data before training "
            "again",
        ),
    ],
}


class Row(NamedTuple):
    """A row of the evidence table, as it reads once rendered."""

    passed: str
    expectation: str
    column: str
    expected: str
    observed: str
    unexpected: str
    share: str
    examples: str


def evidence(result: dg.AssetCheckResult) -> list[Row]:
    lines = str(result.metadata["evidence"].value).splitlines()
    return [Row(*(html.unescape(cell.strip()) for cell in line.split("|")[1:-1])) for line in lines[2:]]


def told(type: str) -> str:
    return type.removeprefix("expect_").replace("_", " ")


def of_check(results: Results, check: str) -> dg.AssetCheckResult:
    (found,) = (result for result in results if result.check_name == check)
    return found


# Every check


@pytest.mark.parametrize("asset", CLEAN)
def test_a_clean_input_passes_every_check(inputs: Inputs, asset: str) -> None:
    results = CLEAN[asset](inputs)
    assert {result.check_name: result.passed for result in results} == dict.fromkeys(
        model.CHECKS if asset == "lightgbm_model" else load_suite(asset).descriptions, True
    )
    assert refusal(results) is None
    for row in (row for result in results if "evidence" in result.metadata for row in evidence(result)):
        assert row.observed
        assert (row.passed, row.unexpected, row.share, row.examples) == ("yes", "0", "0 %", "")


@pytest.mark.parametrize("case", DIRTY, ids=lambda case: f"{case.asset}-{case.check}-{case.column}-{case.severity}")
def test_a_dirty_input_fires_its_check(inputs: Inputs, monkeypatch: pytest.MonkeyPatch, case: Dirty) -> None:
    def of_one_check(asset: str, facts: dict[str, Any] | None = None) -> Suite:
        suite = load_suite(asset, facts)
        return dataclasses.replace(suite, expectations=suite.of_check(case.check))

    for module in (
        leads,
        features,
        experiments,
        predictions,
    ):  # the other checks have their own cases: this is for speed
        monkeypatch.setattr(module, "load_suite", of_one_check)
    result = of_check(case.results(inputs), case.check)
    assert not result.passed
    failed = [row for row in evidence(result) if row.passed.startswith("**no**")]
    assert f"**no** ({case.severity})" in [
        row.passed for row in failed if row.expectation == told(case.type) and case.column in ("", row.column)
    ]
    assert result.severity is dg.AssetCheckSeverity["ERROR" if any("ERROR" in row.passed for row in failed) else "WARN"]
    assert result.metadata["failed_expectations"].value == len(failed)
    blocking = load_suite(case.asset).is_blocking(case.check)
    assert result.metadata["refuses"].value is (blocking and result.severity is dg.AssetCheckSeverity.ERROR)


@pytest.mark.parametrize(
    ("check", "place"), [(check, place) for check, cases in MODEL_DIRTY.items() for place in range(len(cases))]
)
def test_leads_or_metrics_that_make_no_model_fire_its_check(inputs: Inputs, check: str, place: int) -> None:
    results, message = MODEL_DIRTY[check][place]
    result = of_check(results(inputs), check)
    assert (result.passed, result.description) == (False, message)
    assert result.metadata["refuses"].value is True


def test_every_expectation_of_every_suite_has_an_input_that_fires_it() -> None:
    fired = {(case.asset, case.check, case.type, case.column, case.severity) for case in DIRTY}
    never = []
    for asset in SUITES:
        content = json.loads(files("junk_leads").joinpath(f"reference/expectations/{asset}.json").read_text())
        facts = {"consumer:blocks": tuple(ENCODER.blocks)}
        for entry, rows in _expanded(content["expectations"], asset, facts):
            severity = entry.get("severity", "ERROR")
            names = {(asset, entry["check"], entry["type"], row.kwargs.get("column", ""), severity) for row in rows}
            if not names & fired:
                never.append((asset, entry))
    assert never == []


def _expanded(
    entries: list[dict[str, Any]], asset: str, facts: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], list[Expectation]]]:
    rows = list(load_suite(asset, facts).expectations)
    for entry in entries:
        same = (entry["check"], entry["type"], entry.get("severity", "ERROR"), set(entry.get("kwargs", {})))
        yield entry, [r for r in rows if (r.check, r.type, r.severity, set(r.kwargs) - {"column"}) == same]


def test_every_check_has_a_test_and_every_test_a_check() -> None:
    checks_of_suites = {(asset, check) for asset in SUITES for check in load_suite(asset).descriptions}
    assert {(case.asset, case.check) for case in DIRTY} == checks_of_suites
    assert set(MODEL_DIRTY) == set(model.CHECKS)
    assert set(CLEAN) == {*SUITES, "lightgbm_model"}


@pytest.mark.parametrize("asset", SUITES)
def test_every_expectation_belongs_to_a_check_that_is_told_in_a_sentence(asset: str) -> None:
    suite = load_suite(asset)
    assert {expectation.check for expectation in suite.expectations} == set(suite.descriptions)
    assert all(text[0].isupper() and text.endswith(".") for text in suite.descriptions.values())
    specs = {spec.name: spec for spec in check_specs(asset)}
    assert {name: spec.description for name, spec in specs.items()} == suite.descriptions
    assert {name for name, spec in specs.items() if spec.blocking} == {
        expectation.check for expectation in suite.expectations if expectation.blocking
    }


# What is clean after all


@pytest.mark.parametrize(
    "results",
    [
        lambda i: i.predicted("0.5 AS probability", rows=99, leads=99),
        lambda i: i.summary(lead_count=99, share_of_ones=0, share_of_zeros=1),
        lambda i: i.summary(lead_count=0, share_of_ones=0, share_of_zeros=0),
        lambda i: i.summary(share_of_ones=0.36, share_of_zeros=0.64),
        lambda i: i.raw({"created_date": day(0)}),
        lambda i: i.raw(*[{}] * 99, {"first_platform_c": ""}),
        lambda i: i.raw(columns=SCHEMA.required),
        lambda i: i.raw(columns=("", *SCHEMA.names[::-1])),
        lambda i: i.cleaned(delivered=40, duplicates=38),
    ],
    ids=[
        "a small drop scored all alike",
        "a small drop of 0s",
        "no leads",
        "a share of 1s within its band",
        "a lead of today",
        "one level in a hundred missing",
        "no label",
        "columns in another order and an unnamed one",
        "all but few leads are duplicates",
    ],
)
def test_what_is_unusual_but_right_refuses_nothing(inputs: Inputs, results: Callable[[Inputs], Results]) -> None:
    found = results(inputs)
    assert refusal(found) is None
    assert [r.check_name for r in found if not r.passed and r.check_name != "has_few_duplicates"] == []


def test_a_file_of_a_header_only_is_told_but_not_refused(inputs: Inputs) -> None:
    path = inputs.write_csv("empty.csv")
    found = leads.raw_leads_checks(inputs.con, read_leads(inputs.con, path, SCHEMA))
    assert [result.check_name for result in found if not result.passed] == ["has_leads"]
    assert refusal(found) is None


def test_no_leads_pass_every_other_check(inputs: Inputs) -> None:
    none = clean(inputs.con, leads_of(inputs.con), SCHEMA)
    groups = group_interactions(inputs.con, none)
    encoded = encode(inputs.con, none, groups, ENCODER)
    others = accounting.count_others(encoded, ENCODER)
    found = [
        *leads.cleaned_leads_checks(inputs.con, none, 0, 0),
        *leads.interaction_groups_checks(inputs.con, groups, none),
        *features.encoded_features_checks(inputs.con, kinds_in(inputs.con, encoded, IDENTITY), ENCODER, 0, others),
        *inputs.predicted(rows=0, leads=0),
    ]
    assert [result.check_name for result in found if not result.passed] == []


# A file that could not be read


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (",".join(WITHOUT_CITY), "the header lacks city_mapped"),
        (",".join((*SCHEMA.names, "careers")), "columns 13 and 46 have the same name, upper and lower case being one"),
        (",".join((*SCHEMA.names, "")) + ",".join(["x"] * 1000), "the header has 1,045 columns"),
        ("a,b", "the first line is not the header of a lead file"),
        ("", "the first line is not the header of a lead file"),
        (",".join(SCHEMA.names).replace("city", "City"), "the header lacks city_mapped (delivered as City_mapped)"),
    ],
)
def test_a_refused_file_fires_the_check_of_its_schema_and_says_why(inputs: Inputs, header: str, what: str) -> None:
    (result,) = inputs.refused(header)
    assert (result.check_name, result.passed) == ("has_every_required_column", False)
    assert result.metadata["refused_what"].value == what
    assert result.metadata["refuses"].value is True
    assert "evidence" in result.metadata


def test_a_check_that_failed_says_what_was_found_then_what_was_expected(inputs: Inputs) -> None:
    result = of_check(inputs.raw(*MANY[:98], *[{"total_leads_droppped": "many"}] * 2), "has_few_rejected_rows")
    found = "2 of 100 rows rejected: total_leads_droppped is not a number, first in line 100"
    expected = "No row is rejected; up to 1 % is a warning, more refuses the drop."
    assert result.description == f"{found}. Expected: {expected}"
    assert (result.metadata["found"].value, result.metadata["expected"].value) == (found, expected)
    assert refusal([result]) == f"has_few_rejected_rows: {found}"


def test_a_check_that_passed_says_what_was_expected(inputs: Inputs) -> None:
    result = of_check(inputs.raw(), "has_few_rejected_rows")
    assert result.description == "No row is rejected; up to 1 % is a warning, more refuses the drop."
    assert result.metadata["found"].value == "none of 3 rows rejected"


def test_several_reasons_of_rejection_are_counted_each(inputs: Inputs) -> None:
    rows = [{"syllabus": "x"}, {"syllabus": "y"}, {"created_date": "soon"}, {}]
    result = of_check(inputs.raw(*rows), "has_few_rejected_rows")
    assert result.metadata["found"].value == (
        "3 of 4 rows rejected: 2 syllabus is not a number, first in line 2; "
        "1 created_date is not a date written as %Y-%m-%d %H:%M:%S, first in line 4"
    )


@pytest.mark.parametrize("case", DIRTY, ids=lambda case: f"{case.asset}-{case.check}-{case.column}-{case.severity}")
def test_what_was_found_is_a_sentence_without_an_example(inputs: Inputs, case: Dirty) -> None:
    result = of_check(case.results(inputs), case.check)
    found = str(result.metadata["found"].value)
    assert found not in ("", "as expected")
    assert "\n" not in found
    texts = [e.strip("'") for row in evidence(result) for e in row.examples.split(", ") if len(e) > 6]
    assert [text for text in texts if text in found] == []


# Evidence


def test_evidence_tells_expectation_observed_value_unexpected_count_share_and_examples(inputs: Inputs) -> None:
    rows = [{"syllabus": "1"}, {"total_leads_droppped": "100001.0"}, {"total_leads_droppped": ""}, {}]
    result = of_check(inputs.raw(*rows), "counts_are_plausible")
    fired = evidence(result)[0]
    assert fired == Row(
        "**no** (WARN)",
        "column values to be between",
        "total_leads_droppped",
        "max_value 100000",
        "1 to 100,001",
        "1",
        "33 %",
        "100001.0",
    )
    assert result.metadata["unexpected_count"].value == 1
    assert result.metadata["unexpected_share"].value == pytest.approx(1 / 3)
    assert (result.metadata["failed_expectations"].value, result.metadata["expectations"].value) == (1, 6)


def test_evidence_has_twenty_examples_at_most(inputs: Inputs) -> None:
    rows = [{"total_leads_droppped": str(100_001 + n)} for n in range(50)]
    fired = evidence(of_check(inputs.raw(*rows), "counts_are_plausible"))[0]
    assert (fired.unexpected, len(fired.examples.split(", "))) == ("50", EXAMPLES)


def test_failed_rows_come_first(inputs: Inputs) -> None:
    passed = [row.passed for row in evidence(of_check(inputs.raw({"syllabus": "100001"}), "counts_are_plausible"))]
    assert passed == ["**no** (WARN)", "yes", "yes", "yes", "yes", "yes"]


def test_columns_that_do_not_match_are_named(inputs: Inputs) -> None:
    (missing,) = evidence(of_check(inputs.refused(",".join(WITHOUT_CITY)), "has_every_required_column"))
    assert "'city_mapped'" in missing.observed
    (unknown,) = evidence(of_check(inputs.raw(columns=(*SCHEMA.names, "utm_term")), "has_no_unknown_column"))
    assert "'utm_term'" in unknown.observed
    (reordered,) = evidence(of_check(inputs.encoded(columns="*, 1 AS more"), "has_the_columns_of_the_model"))
    assert "'more'" in reordered.observed


SUITE = Suite(
    "t",
    {"c": "Sentence."},
    (
        Expectation("c", NOT_NULL, {"column": "x", "mostly": 0.5}),
        Expectation("c", BETWEEN, {"column": "x", "min_value": 2}),
        Expectation("c", ROW_COUNT, {"min_value": 5, "max_value": 5}),
        Expectation("c", COLUMNS, {"column_set": ["x"], "exact_match": True}),
    ),
)


def test_what_is_found_in_distinct_values_is_counted_in_rows(con: duckdb.DuckDBPyConnection) -> None:
    frame = con.sql("SELECT unnest([1, NULL, 3, NULL, 1]::INTEGER[]) AS x")
    (found,) = evaluate(SUITE, {"rows": frame})
    assert [(r.passed, r.observed, r.unexpected, r.share, r.examples) for r in evidence(found)] == [
        ("**no** (ERROR)", "1 to 3", "2", "67 %", "1.0"),
        ("yes", "5 values", "2", "40 %", "None"),
        ("yes", "5", "0", "0 %", ""),
        ("yes", "['x']", "0", "0 %", ""),
    ]


def test_what_is_looked_up_for_checks_is_among_what_they_cost(con: duckdb.DuckDBPyConnection) -> None:
    @timed
    def slow_checks(seconds: float) -> list[dg.AssetCheckResult]:
        time.sleep(seconds)
        return evaluate(SUITE, {"rows": con.sql("SELECT 1 AS x")}) * 2

    told = [result.metadata["seconds"].value for result in slow_checks(0.2)]
    assert len(told) == 2
    assert sum(told) >= 0.2


@pytest.mark.parametrize("seed", range(3))
def test_columns_asked_together_are_found_as_they_are_when_asked_one_by_one(
    con: duckdb.DuckDBPyConnection, seed: int
) -> None:
    """Nulls, values too small and too large, and none at all, by chance in columns of which the same is expected."""
    chance = np.random.default_rng(seed)
    names = [f"c{number}" for number in range(8)]
    cells = [
        chance.choice([None, -1, 0, 1, 7, 10], 40, p=p)
        for p in ([0, 0, 0.4, 0.3, 0.2, 0.1], [0.1, 0.05, 0.3, 0.3, 0.2, 0.05], [1, 0, 0, 0, 0, 0])
    ]
    columns = [pa.array(cells[chance.integers(3)].tolist(), pa.int64()) for _ in names]
    rows = con.from_arrow(pa.Table.from_arrays(columns, names))
    expectations = tuple(
        Expectation("c", type_, {"column": name, **kwargs})
        for name in names
        for type_, kwargs in (
            ("expect_column_values_to_be_between", {"min_value": 0, "max_value": 7}),
            ("expect_column_values_to_not_be_null", {"mostly": 0.5}),
        )
    )
    together = validate(expectations, {"rows": rows})
    assert together == [one for e in expectations for one in validate((e,), {"rows": rows})]
    assert {found.passed for found in together} == {True, False}


def test_checks_of_frames_that_are_not_at_hand_are_left_out() -> None:
    found = evaluate(load_suite("raw_leads"), {"header": SCHEMA.names})
    assert [result.check_name for result in found] == ["has_every_required_column"]


def test_an_expectation_that_cannot_run_is_an_error_and_no_passed_check(con: duckdb.DuckDBPyConnection) -> None:
    missing = (Expectation("c", BETWEEN, {"column": "absent", "min_value": 1}),)
    with pytest.raises(ValueError, match=r"^c: expect_column_values_to_be_between could not run: .*absent"):
        validate(missing, {"rows": con.sql("SELECT 1 AS x")})


@pytest.mark.parametrize(
    ("leads", "usual", "passed"), [(100, 0.89, False), (100, 0.91, True), (99, 0.1, True), (100, None, True)]
)
def test_levels_that_the_model_does_not_know_are_told_when_there_are_many_more_than_in_training(
    inputs: Inputs, leads: int, usual: float | None, passed: bool
) -> None:
    results = inputs.encoded("1::TINYINT AS city_mapped_others", leads=leads, usual=usual)
    (city,) = (row for row in evidence(of_check(results, "others_are_as_in_training")) if row.column == "city_mapped")
    assert (city.passed == "yes", city.observed) == (passed, "1")


# Values are inert


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a|b", "a&#124;b"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("[click](http://e)", "&#91;click](http://e)"),
        ("![x][y]", "!&#91;x]&#91;y]"),
        ("`code`", "&#96;code&#96;"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("one\n\n| two |\r\n# three", "one &#124; two &#124; # three"),
        ("**bold** ~~gone~~ \\|", "&#42;&#42;bold&#42;&#42; &#126;&#126;gone&#126;&#126; &#92;&#124;"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_any_value_stays_text_in_markdown(value: str, shown: str) -> None:
    assert inert(value) == shown


def test_lead_data_in_evidence_cannot_break_out_of_its_cell(inputs: Inputs) -> None:
    evil = "a\x1b|<script>[x](y)\n| injected | row |"
    result = of_check(inputs.raw({"city_mapped": evil}), "levels_are_well_formed")
    lines = str(result.metadata["evidence"].value).splitlines()
    assert len(lines) == 2 + 4
    assert all(line.count("|") == 9 for line in lines)
    assert not any(mark in "\n".join(lines) for mark in ("<", "[", "\x1b"))


def test_of_a_text_evidence_tells_shape_and_length_alone(inputs: Inputs) -> None:
    result = of_check(inputs.raw({"city_mapped": "Herr Grün 12" + "\x1b"}), "levels_are_well_formed")
    told = str(result.metadata["evidence"].value)
    assert "Herr" not in told
    assert "aaaa aaaa 99" in told
    assert "(13 characters)" in told


def test_column_names_of_a_file_are_inert_too(inputs: Inputs) -> None:
    result = of_check(inputs.raw(columns=(*SCHEMA.names, "<b>|x|[y](z)")), "has_no_unknown_column")
    lines = str(result.metadata["evidence"].value).splitlines()
    assert len(lines) == 3
    assert all(line.count("|") == 9 and "<" not in line and "[" not in line for line in lines)


def test_a_table_of_evidence_has_a_row_for_each_expectation() -> None:
    expectation = Expectation("c", BETWEEN, {"column": "x", "min_value": 0}, severity="WARN")
    table = evidence_table(
        [Evidence(expectation, True, "0 to 9"), Evidence(expectation, False, "-1", 4, 1, 0.25, (-1,))]
    )
    assert table.splitlines()[2:] == [
        "| **no** (WARN) | column values to be between | x | min_value 0 | -1 | 1 | 25 % | -1 |",
        "| yes | column values to be between | x | min_value 0 | 0 to 9 | 0 | 0 % |  |",
    ]


# What a blocking check does


def result(name: str, *, refuses: bool) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key="t", check_name=name, passed=not refuses, description=f"{name} told.", metadata={"refuses": refuses}
    )


def test_an_output_whose_checks_pass_is_stored_before_they_are_told() -> None:
    told = list(publish("rows", [result("a", refuses=False)], {"x": 1}))
    assert isinstance(told[0], dg.Output)
    assert told[0].value == "rows"
    assert told[0].metadata["x"].value == 1
    assert [r.check_name for r in told[1:] if isinstance(r, dg.AssetCheckResult)] == ["a"]


def test_an_output_that_a_check_refuses_is_not_stored_and_every_check_is_told() -> None:
    told: list[Any] = []
    results = [result("a", refuses=True), result("b", refuses=False), result("c", refuses=True)]
    with pytest.raises(dg.Failure) as failure:
        told.extend(publish("rows", results))
    assert [r.check_name for r in told if isinstance(r, dg.AssetCheckResult)] == ["a", "b", "c"]
    assert len(told) == 3
    assert failure.value.description == "t was not stored: a: a told.; c: c told."
    assert failure.value.allow_retries is False


def test_an_expected_error_fails_a_step_with_its_own_line() -> None:
    with pytest.raises(dg.Failure) as failure, plain_failures():
        raise TrainingRefused("too few leads; ingest more")
    assert failure.value.description == "too few leads; ingest more"
    with pytest.raises(KeyError), plain_failures():
        raise KeyError("a defect is no expected error")
