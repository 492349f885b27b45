"""Training: what is refused, what leaks are found, and that the same data gives the same model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from junk_leads.errors import TrainingRefused
from junk_leads.reference import model_settings
from junk_leads.steps.leads.cleaning import normalise
from junk_leads.steps.leads.counting import count_leads
from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.kinds import kinds_of_leads
from junk_leads.steps.learning.training import (
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
ADAPTING = replace(RECIPE, adapting={"rounds": 20, "window_days": 1, "half_life_days": 0.005})


def counted(con: duckdb.DuckDBPyConnection, raw: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    cleaned = normalise(con, raw, SCHEMA)
    return count_leads(con, cleaned, group_interactions(con, cleaned))


def some_data(rows: int = 400, seed: int = 1, **columns: np.ndarray) -> LabelledFeatures:
    """Leads whose platform and drop count tell something of the label, but not all; `columns` replaces features."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=rows).astype(np.int8)
    values = {name: np.zeros(rows, dtype=np.int8) for name in ENCODER.features}
    level = np.where(rng.random(rows) < 0.8, labels, 1 - labels)
    values["first_platform_c_Level0"] = (level == 1).astype(np.int8)
    values["first_platform_c_Level3"] = (level == 0).astype(np.int8)
    values["total_leads_droppped"] = (rng.poisson(1 + labels)).astype(np.int32)
    return LabelledFeatures.of_table(pa.table({**values, **columns}), labels, np.arange(rows, dtype=float))


# Labelled leads


def test_only_labelled_leads_are_learned_from_in_order_of_drop_and_lead_number(
    con: duckdb.DuckDBPyConnection, leads: Make
) -> None:
    a = leads({"total_leads_droppped": 3}, {"app_complete_flag": None}, {"total_leads_droppped": 4}, drop="a")
    b = leads({"total_leads_droppped": 5, "app_complete_flag": 0, "created_date": "1970-01-02 00:00:01"}, drop="b")
    data = labelled_features(con, counted(con, b.union(a)).order("total_leads_droppped DESC"), ENCODER)
    assert data.names == ENCODER.features
    assert data.column("total_leads_droppped").tolist() == [3, 4, 5]
    assert data.labels.tolist() == [1, 1, 0]
    assert data.created.tolist()[2] == 86_401
    assert len(data) == 3


def test_leads_with_the_same_features_are_one_kind_whatever_their_order_and_pieces() -> None:
    rows = [[1, 300], [0, 5], [1, 300], [0, 7], [0, 5], [1, 5]]
    table = pa.table({"x": pa.array([r[0] for r in rows], pa.int8()), "y": pa.array([r[1] for r in rows], pa.int32())})
    whole, whole_kind = kinds_of_leads([table], ("x", "y"))
    assert len(whole) == 4
    assert whole[whole_kind].tolist() == rows
    for pieces in ([table[:2], table[2:3], table[3:3], table[3:]], [table[4:], table[:4]]):
        kinds, kind = kinds_of_leads(pieces, ("x", "y"))
        assert kinds.tolist() == whole.tolist()
        assert kinds[kind].tolist() == [
            row for piece in pieces for row in map(list, zip(*piece.to_pydict().values(), strict=True))
        ]
    assert [len(found) for found in kinds_of_leads([], ("x",))] == [0, 0]


def test_taking_leads_keeps_their_features_labels_and_order() -> None:
    data = some_data()
    taken = data.take(np.array([7, 3, 300]))
    for name in ENCODER.features:
        assert taken.column(name).tolist() == data.column(name)[[7, 3, 300]].tolist()
    assert (taken.labels.tolist(), taken.created.tolist()) == (data.labels[[7, 3, 300]].tolist(), [7.0, 3.0, 300.0])


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
    probabilities = data.predicted_by(booster)
    assert probabilities[data.labels == 1].mean() > probabilities[data.labels == 0].mean() + 0.2


def test_kinds_weighted_by_their_leads_teach_what_the_leads_teach() -> None:
    import lightgbm as lgb

    data = some_data(2_000)
    recipe = replace(RECIPE, lightgbm={**RECIPE.lightgbm, "min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 1.0})
    rows = lgb.Dataset(data.kinds[data.kind], label=data.labels, params={"verbosity": -1})
    each = np.asarray(lgb.train(dict(recipe.lightgbm), rows, recipe.rounds).predict(data.kinds[data.kind]))
    assert data.predicted_by(train_booster(data, recipe)) == pytest.approx(each, abs=1e-6)


def test_training_leaves_its_data_unchanged() -> None:
    data = some_data()
    before = data.fingerprint
    train_booster(data, ADAPTING)
    assert data.fingerprint == before


def test_adapting_trees_come_last_and_turn_the_model_to_the_newest_leads() -> None:
    data = some_data(2_000)
    turned = replace(data, labels=np.where(data.created < 1_500, data.labels, 1 - data.labels))
    booster = train_booster(turned, ADAPTING)
    newest = turned.take(np.arange(1_500, 2_000))
    assert booster.num_trees() == RECIPE.rounds + 20
    before = newest.predicted_by(booster, num_iteration=RECIPE.rounds)
    assert before.tolist() == newest.predicted_by(train_booster(turned, RECIPE)).tolist()
    auc = roc_auc_score(newest.labels, newest.predicted_by(booster))
    assert auc > 0.7 > 0.5 > roc_auc_score(newest.labels, before)


def test_more_of_a_rising_feature_never_lowers_a_probability() -> None:
    data = some_data()
    falling = replace(data, labels=1 - data.labels)
    drops = ENCODER.features.index("total_leads_droppped")
    for recipe, rises in ((RECIPE, False), (replace(RECIPE, rising=("total_leads_droppped",)), True)):
        kinds = np.repeat(falling.kinds[:1], 6, axis=0)
        kinds[:, drops] = range(6)
        told = np.asarray(train_booster(falling, recipe).predict(kinds))
        assert bool((np.diff(told) >= 0).all()) is rises


def test_what_a_recipe_sets_is_told_by_name() -> None:
    told = Recipe({"num_leaves": 7}, 10, ("x",), {"rounds": 2, "lightgbm": {"lambda_l2": 3.0}}).as_parameters()
    assert told == {"num_leaves": 7, "rounds": 10, "rising": "x", "adapting_rounds": 2, "adapting_lambda_l2": 3.0}
