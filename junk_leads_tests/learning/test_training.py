"""Training: what is refused, what leaks are found, and that the same data gives the same model."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from junk_leads.errors import TrainingRefused
from junk_leads.reference import model_settings
from junk_leads.steps.leads.cleaning import normalise
from junk_leads.steps.leads.counting import count_leads
from junk_leads.steps.leads.encoding import LEVEL_COLUMNS, Encoder, encode
from junk_leads.steps.leads.generating import write_leads
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.kinds import kinds_of_leads
from junk_leads.steps.leads.levels import learn_significant_levels
from junk_leads.steps.leads.reading import read_leads
from junk_leads.steps.learning.evaluation import evaluate
from junk_leads.steps.learning.leaks import auc_of_values, leaking_columns, leaking_delivered
from junk_leads.steps.learning.training import (
    LabelledFeatures,
    Recipe,
    features_side_by_side,
    labelled_features,
    refuse_unfit,
    train_booster,
)
from junk_leads.steps.learning.validation import Aim
from junk_leads_tests.conftest import SCHEMA, leads_of, rows_as_dicts

Make = Callable[..., duckdb.DuckDBPyRelation]
ENCODER = Encoder.of_levels({"first_platform_c": ("Level0", "Level3"), "city_mapped": ("delhi",)})
RECIPE = Recipe({**model_settings()["lightgbm"], "num_leaves": 7}, rounds=10)
ADAPTING = replace(RECIPE, adapting={"rounds": 20, "window_days": 600, "half_life_days": 400})


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
    return LabelledFeatures.of_table(pa.table({**values, **columns}), labels, np.arange(rows))


# Labelled leads


def test_only_labelled_leads_are_learned_from_and_those_alike_are_counted(
    con: duckdb.DuckDBPyConnection, leads: Make
) -> None:
    a = leads({"total_leads_droppped": 3}, {"app_complete_flag": None}, {"total_leads_droppped": 4}, drop="a")
    b = leads({"total_leads_droppped": 3, "created_date": "2021-07-01 23:59:59"}, {"app_complete_flag": 0}, drop="b")
    data = labelled_features(con, counted(con, b.union(a)), ENCODER)
    assert data.names == ENCODER.features
    told = zip(data.days, data.column("total_leads_droppped"), data.labels, data.counts, strict=True)
    assert [tuple(map(int, row)) for row in told] == [(18_809, 1, 0, 1), (18_809, 3, 1, 2), (18_809, 4, 1, 1)]
    assert (data.leads, data.genuine, data.share) == (4, 3, 0.75)


def test_features_of_counted_leads_are_those_of_the_leads_one_by_one(
    con: duckdb.DuckDBPyConnection, leads: Make
) -> None:
    cells = [
        {"first_platform_c": level, "city_mapped": city, "syllabus": n, "careers": 2 * n, "app_complete_flag": n % 2}
        for n, (level, city) in enumerate(product(["Level0", "Level3", "Level9", None], ["delhi", "pune", None]))
    ]
    cleaned = normalise(con, leads(*cells, *cells[:5]), SCHEMA)
    groups = group_interactions(con, cleaned)
    one_by_one = rows_as_dicts(encode(con, cleaned, groups, ENCODER))
    data = labelled_features(con, count_leads(con, cleaned, groups), ENCODER)
    mine = Counter(
        {
            (*map(int, data.kinds[kind]), int(label)): int(n)
            for kind, label, n in zip(data.kind, data.labels, data.counts, strict=True)
        }
    )
    assert mine == Counter((*(row[f] for f in ENCODER.features), row["app_complete_flag"]) for row in one_by_one)


def test_leads_of_two_encoders_stand_side_by_side_row_for_row(con: duckdb.DuckDBPyConnection, leads: Make) -> None:
    other = Encoder.of_levels({"first_platform_c": ("Level9",), "city_mapped": ("pune", "delhi")})
    cells = [
        {"first_platform_c": level, "city_mapped": city, "app_complete_flag": label}
        for level, city, label in product(["Level0", "Level3", "Level9"], ["delhi", "pune"], [0, 1])
    ]
    one, two = features_side_by_side(con, counted(con, leads(*cells, *cells[:3])), [ENCODER, other])
    for values in ("labels", "days", "counts"):
        assert getattr(one, values).tolist() == getattr(two, values).tolist()
    delhi = one.column("city_mapped_delhi").tolist()
    assert delhi == two.column("city_mapped_delhi").tolist()
    assert (one.column("first_platform_c_others") == two.column("first_platform_c_Level9")).all()
    assert sum(delhi) > 3
    alone = labelled_features(con, counted(con, leads(*cells, *cells[:3])), other)
    assert alone.leads == two.leads == 15


def test_however_leads_were_delivered_and_counted_they_teach_the_same_bytes(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    write_leads(tmp_path / "leads.csv", 3_000, seed=3)
    raw = read_leads(con, tmp_path / "leads.csv", SCHEMA).leads.select("'whole' AS drop, *")
    raw.create("whole")
    parted = con.sql(
        "SELECT * REPLACE ('part ' || (hash(lead_number) % 3) AS drop) FROM whole ORDER BY hash(lead_number)"
    )
    parted.create("parted")
    found = []
    for table in ("whole", "parted"):
        counts = counted(con, con.table(table))
        encoder = Encoder.of_table(learn_significant_levels(con, counts, LEVEL_COLUMNS))
        found.append((encoder.id, labelled_features(con, counts, encoder)))
    (one_id, one), (two_id, two) = found
    assert con.sql("SELECT count(DISTINCT drop) FROM parted").fetchall() == [(3,)]
    assert (one_id, one.fingerprint) == (two_id, two.fingerprint)
    aim = Aim(0.02)
    settings = {"grades": {"A": 0.7, "B": 0.5, "C": 0.25}, "share": 0.2, "seed": 1}
    made = [evaluate(data, encoder, ADAPTING, aim, **settings) for data in (one, two)]
    texts = {learned.booster.model_to_string() for m in made for learned in (m.model,)}
    assert len(texts) == 1
    assert made[0].report.as_dict() == made[1].report.as_dict()
    assert made[0].judged.as_settings() == made[1].judged.as_settings()


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


def test_taking_leads_keeps_their_features_labels_and_days() -> None:
    data = some_data()
    wanted = np.zeros(len(data.counts), dtype=int)
    wanted[[3, 7, 300]] = 1
    taken = data.take(wanted)
    for name in ENCODER.features:
        assert taken.column(name).tolist() == data.column(name)[[3, 7, 300]].tolist()
    assert (taken.labels.tolist(), taken.days.tolist()) == (data.labels[[3, 7, 300]].tolist(), [3, 7, 300])


def test_leads_without_their_days_are_as_many_of_each_kind_and_label() -> None:
    data = some_data()
    told = data.undated()
    assert len(told.counts) < len(data.counts)
    assert (told.leads, told.genuine) == (data.leads, data.genuine)
    for one, two in zip(told.weighted_rows(), data.weighted_rows(), strict=True):
        assert one.tolist() == two.tolist()


def test_a_model_is_not_fed_features_of_another_encoder() -> None:
    booster = train_booster(some_data(), RECIPE)
    renamed = replace(some_data(), names=tuple(f"{name}_" for name in ENCODER.features))
    with pytest.raises(TrainingRefused) as refused:
        renamed.predicted_by(booster)
    assert str(refused.value) == "these features are of another encoder than the model's own; encode them with its own"


# Refusals


@pytest.mark.parametrize(
    ("ones", "zeros"), [(0, 0), (500, 499), (119, 5000), (5000, 119), (1000, 0), (0, 1000)], ids=lambda n: str(n)
)
def test_too_few_labelled_leads_or_too_few_of_a_class_are_refused(ones: int, zeros: int) -> None:
    with pytest.raises(TrainingRefused) as refused:
        refuse_unfit(labelled(ones, zeros), minimum_labelled=1000, minimum_per_class=120)
    assert str(refused.value) == (
        f"{ones + zeros:,} labelled leads ({ones:,} genuine, {zeros:,} junk) are too few to train on; expected at "
        "least 1,000 with 120 of each class; ingest more labelled drops"
    )


@pytest.mark.parametrize(("ones", "zeros"), [(120, 880), (880, 120)])
def test_just_enough_labelled_leads_are_not_refused(ones: int, zeros: int) -> None:
    refuse_unfit(labelled(ones, zeros), minimum_labelled=1000, minimum_per_class=120)


def labelled(ones: int, zeros: int) -> LabelledFeatures:
    """So many leads of one kind and day."""
    both, nought = np.array([1, 0], dtype=np.int8), np.zeros(2, dtype=np.int64)
    return LabelledFeatures(("x",), np.zeros((1, 1)), nought, both, nought, np.array([ones, zeros]))


# Leaks


def test_features_that_tell_only_something_of_the_label_are_no_leak() -> None:
    assert leaking_columns(some_data(), ENCODER, leak_auc=0.99) == {}


@pytest.mark.parametrize("copy", [lambda labels: labels, lambda labels: 1 - labels, lambda labels: labels * 7 + 2])
def test_a_count_that_copies_the_label_is_found(copy: Callable[[np.ndarray], np.ndarray]) -> None:
    data = some_data()
    leak = {"syllabus_interaction": copy(data.labels.astype(np.int32))}
    assert leaking_columns(some_data(**leak), ENCODER, leak_auc=0.99) == {"syllabus_interaction": 1.0}


def test_fault_39_a_delivered_column_that_copies_the_label_is_found_inside_its_group(
    con: duckdb.DuckDBPyConnection,
) -> None:
    interactions = SCHEMA.with_role("interaction")
    rows = [
        {"app_complete_flag": n % 2, interactions[3]: 40 + n % 2, interactions[4]: n % 7, interactions[5]: 3 * (n % 2)}
        for n in range(400)
    ]
    leads = leads_of(con, *rows, {"app_complete_flag": None, interactions[3]: 40})
    found = leaking_delivered(con, leads, leak_auc=0.99)
    assert found == {interactions[3]: 1.0, interactions[5]: 1.0}
    assert leaking_delivered(con, leads.filter("app_complete_flag = 1"), leak_auc=0.99) == {}


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


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_how_well_a_column_tells_labels_apart_is_the_auc_that_scikit_learn_finds(values: list[tuple[int, int]]) -> None:
    genuine, junk = np.array(values, dtype=float).T + 0.0
    assume(genuine.sum() and junk.sum())
    everyone = genuine + junk
    shares = np.divide(genuine, everyone, out=np.zeros(len(everyone)), where=everyone > 0)
    weights = np.concatenate([genuine, junk])
    expected = roc_auc_score(np.repeat([1, 0], len(shares)), np.tile(shares, 2), sample_weight=weights)
    assert auc_of_values(everyone, genuine) == pytest.approx(expected, abs=1e-12)


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
    recipe = replace(RECIPE, lightgbm={**RECIPE.lightgbm, "min_data_in_leaf": 0, "min_sum_hessian_in_leaf": 1.0})
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
    turned = replace(data, labels=np.where(data.days < 1_500, data.labels, 1 - data.labels))
    booster = train_booster(turned, ADAPTING)
    newest = turned.take(np.where(turned.days >= 1_500, turned.counts, 0))
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
