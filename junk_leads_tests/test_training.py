"""Training: what is refused, what leaks are found, and that the same data gives the same model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from junk_leads.errors import TrainingRefused
from junk_leads.reference import model_settings
from junk_leads.steps.cleaning import normalise
from junk_leads.steps.encoding import Encoder, encode
from junk_leads.steps.interactions import group_interactions
from junk_leads.steps.training import (
    LabelledFeatures,
    Recipe,
    labelled_features,
    leaking_columns,
    refuse_unfit,
    train_booster,
)
from junk_leads_tests.conftest import SCHEMA

Make = Callable[..., duckdb.DuckDBPyRelation]
ENCODER = Encoder.of_levels({"first_platform_c": ("Level0", "Level3"), "city_mapped": ("delhi",)})
RECIPE = Recipe({**model_settings()["lightgbm"], "num_leaves": 7}, rounds=10)


def encoded(con: duckdb.DuckDBPyConnection, raw: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    cleaned = normalise(con, raw, SCHEMA)
    return encode(con, cleaned, group_interactions(con, cleaned), ENCODER)


def some_data(rows: int = 400, seed: int = 1, **columns: np.ndarray) -> LabelledFeatures:
    """Leads whose platform and drop count tell something of the label, but not all; `columns` replaces features."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=rows).astype(np.int8)
    values = {name: np.zeros(rows, dtype=np.int8) for name in ENCODER.features}
    level = np.where(rng.random(rows) < 0.8, labels, 1 - labels)
    values["first_platform_c_Level0"] = (level == 1).astype(np.int8)
    values["first_platform_c_Level3"] = (level == 0).astype(np.int8)
    values["total_leads_droppped"] = (rng.poisson(1 + labels)).astype(np.int32)
    return LabelledFeatures(pa.table({**values, **columns}), labels, np.arange(rows, dtype=float))


# Labelled leads


def test_only_labelled_leads_are_learned_from_in_order_of_drop_and_lead_number(
    con: duckdb.DuckDBPyConnection, leads: Make
) -> None:
    a = leads({"total_leads_droppped": 3}, {"app_complete_flag": None}, {"total_leads_droppped": 4}, drop="a")
    b = leads({"total_leads_droppped": 5, "app_complete_flag": 0, "created_date": "1970-01-02 00:00:01"}, drop="b")
    data = labelled_features(con, encoded(con, b.union(a)).order("total_leads_droppped DESC"), ENCODER)
    assert data.features.column_names == list(ENCODER.features)
    assert data.features["total_leads_droppped"].to_pylist() == [3, 4, 5]
    assert data.labels.tolist() == [1, 1, 0]
    assert data.created.tolist()[2] == 86_401
    assert len(data) == 3


def test_features_reach_lightgbm_as_small_integers(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    kinds = set(labelled_features(con, encoded(con, leads({})), ENCODER).features.schema.types)
    assert kinds == {pa.int8(), pa.int32()}


@pytest.mark.parametrize("other", ["'another'", "NULL"])
def test_features_of_another_encoder_or_of_none_are_refused(
    con: duckdb.DuckDBPyConnection, leads: Make, other: str
) -> None:
    mixed = encoded(con, leads({}, {})).select(
        f"* REPLACE (CASE lead_number WHEN 1 THEN encoder_id ELSE {other} END AS encoder_id)"
    )
    with pytest.raises(TrainingRefused) as refused:
        labelled_features(con, mixed, ENCODER)
    assert str(refused.value) == (
        f"encoded_features holds features of another encoder than {ENCODER.id}; run the whole training pipeline, which "
        "encodes with the encoder it has just learned"
    )


# Refusals


@pytest.mark.parametrize(
    ("ones", "zeros"), [(0, 0), (500, 499), (119, 5000), (5000, 119), (1000, 0), (0, 1000)], ids=lambda n: str(n)
)
def test_too_few_labelled_leads_or_too_few_of_a_class_are_refused(ones: int, zeros: int) -> None:
    labels = np.repeat(np.array([1, 0], dtype=np.int8), [ones, zeros])
    with pytest.raises(TrainingRefused) as refused:
        refuse_unfit(labels, minimum_labelled=1000, minimum_per_class=120)
    assert str(refused.value) == (
        f"{ones + zeros:,} labelled leads ({ones:,} genuine, {zeros:,} junk) are too few to train on; expected at "
        "least 1,000 with 120 of each class; ingest more labelled drops"
    )


@pytest.mark.parametrize(("ones", "zeros"), [(120, 880), (880, 120)])
def test_just_enough_labelled_leads_are_not_refused(ones: int, zeros: int) -> None:
    refuse_unfit(np.repeat([1, 0], [ones, zeros]), minimum_labelled=1000, minimum_per_class=120)


def test_the_counts_of_labels_do_not_overflow() -> None:
    labels = np.ones(100_000, dtype=np.int8)
    with pytest.raises(TrainingRefused, match=r"^100,000 labelled leads \(100,000 genuine, 0 junk\) are too few"):
        refuse_unfit(labels, minimum_labelled=1000, minimum_per_class=120)


# Leaks


def test_features_that_tell_only_something_of_the_label_are_no_leak() -> None:
    assert leaking_columns(some_data(), ENCODER, leak_auc=0.99) == {}


@pytest.mark.parametrize("copy", [lambda labels: labels, lambda labels: 1 - labels, lambda labels: labels * 7 + 2])
def test_a_count_that_copies_the_label_is_found(copy: Callable[[np.ndarray], np.ndarray]) -> None:
    data = some_data()
    leak = {"syllabus_interaction": copy(data.labels.astype(np.int32))}
    assert leaking_columns(some_data(**leak), ENCODER, leak_auc=0.99) == {"syllabus_interaction": 1.0}


def test_a_count_that_copies_nearly_every_label_is_found() -> None:
    labels = some_data().labels.astype(np.int32)
    labels[0] = 1 - labels[0]
    found = leaking_columns(some_data(syllabus_interaction=labels), ENCODER, leak_auc=0.99)
    assert list(found) == ["syllabus_interaction"]
    assert 0.99 <= found["syllabus_interaction"] < 1


def test_levels_that_together_copy_the_label_are_found_by_their_column() -> None:
    labels = some_data().labels
    ends = (np.arange(len(labels)) % 2).astype(np.int8)
    block = {  # three levels: one of junk only, two of genuine only
        "first_platform_c_Level0": (labels * ends).astype(np.int8),
        "first_platform_c_Level3": (1 - labels).astype(np.int8),
        "first_platform_c_others": (labels * (1 - ends)).astype(np.int8),
    }
    assert leaking_columns(some_data(**block), ENCODER, leak_auc=0.99) == {"first_platform_c": 1.0}


# Fitting


def test_the_same_data_gives_the_same_model_to_the_byte() -> None:
    assert train_booster(some_data(), RECIPE).model_to_string() == train_booster(some_data(), RECIPE).model_to_string()


def test_other_data_another_seed_or_other_parameters_give_another_model() -> None:
    recipes: list[dict[str, Any]] = [{}, {"rounds": 11}, {"lightgbm": {**RECIPE.lightgbm, "num_leaves": 3}}]
    texts = {train_booster(some_data(), replace(RECIPE, **more)).model_to_string() for more in recipes}
    texts.add(train_booster(some_data(seed=2), RECIPE).model_to_string())
    assert len(texts) == 4


def test_a_model_learns_from_features_by_name_and_order() -> None:
    data = some_data()
    booster = train_booster(data, RECIPE)
    assert booster.feature_name() == list(ENCODER.features)
    assert booster.num_trees() == RECIPE.rounds
    probabilities = np.asarray(booster.predict(data.features))
    assert probabilities[data.labels == 1].mean() > probabilities[data.labels == 0].mean() + 0.2


def test_training_leaves_its_data_unchanged() -> None:
    data = some_data()
    before = data.fingerprint
    train_booster(data, replace(RECIPE, half_life_days=10.0))
    assert data.fingerprint == before


def test_newer_leads_weigh_more_and_all_together_as_many_as_they_are() -> None:
    days = np.array([0.0, 10.0, 20.0]) * 86_400
    weights = Recipe({}, 1, half_life_days=10, least_weight=0.2).weights(days)
    assert weights is not None
    assert weights.mean() == pytest.approx(1)
    assert weights / weights[2] == pytest.approx([0.2 + 0.8 / 4, 0.2 + 0.8 / 2, 1])
    assert Recipe({}, 1).weights(days) is None
