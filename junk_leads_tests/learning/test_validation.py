"""Validation and calibration: what a model learns from leads that its booster has not seen."""

from dataclasses import replace

import numpy as np
import pytest

from junk_leads.errors import TrainingRefused
from junk_leads.reference import model_settings
from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.learning.calibration import (
    Calibration,
    choose_calibration,
    correct_base_rate,
    expected_gain,
    fit_calibration,
    junk_budget_threshold,
    population_weights,
    quantiles,
)
from junk_leads.steps.learning.evaluation import evaluate, temporal_split
from junk_leads.steps.learning.training import LabelledFeatures, Recipe
from junk_leads.steps.learning.validation import Aim, drawn, learn, random_folds, weekly_folds
from junk_leads.steps.pages.report import report_markdown

ENCODER = Encoder.of_levels({"first_platform_c": ("Level0", "Level3")})
RECIPE = Recipe({**model_settings()["lightgbm"], "num_leaves": 7}, rounds=20)
ADAPTING = replace(RECIPE, adapting={"rounds": 20, "window_days": 25, "half_life_days": 5})
AIM = Aim(junk_budget=0.05)


def some_leads(count: int = 6_000, days: float = 60, seed: int = 1, *, turns: bool = False) -> LabelledFeatures:
    """Leads of two platforms, one of which applies three times as often; `turns` swaps them in the last two weeks."""
    rng = np.random.default_rng(seed)
    created = np.floor(np.sort(rng.random(count)) * days).astype(np.int64)
    level = rng.integers(2, size=count)
    drops = rng.poisson(1.5, size=count)
    good = np.where(turns & (created > days - 14), 1 - level, level)
    labels = (rng.random(count) < 1 / (1 + np.exp(1.6 - 2.2 * good - 0.4 * drops))).astype(np.int8)
    kinds = np.zeros((count, len(ENCODER.features)), dtype=np.int32)
    kinds[:, ENCODER.features.index("first_platform_c_Level0")] = level
    kinds[:, ENCODER.features.index("first_platform_c_Level3")] = 1 - level
    kinds[:, ENCODER.features.index("total_leads_droppped")] = drops
    found, kind = np.unique(kinds, axis=0, return_inverse=True)
    return LabelledFeatures.of_leads(ENCODER.features, found, kind, labels, created)


def overconfident(count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that are twice as sure as they should be."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1, count)
    return (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(np.int8), 1 / (1 + np.exp(-2 * logits))


# Folds


def test_weekly_folds_are_the_last_weeks_each_predicted_from_all_before_it() -> None:
    data = some_leads()
    folds = weekly_folds(data)
    assert [fold.name for fold in folds] == ["1970-02-02", "1970-02-09", "1970-02-16", "1970-02-23"]
    for number, fold in enumerate(folds):
        train, test = data.take(fold.train), data.take(fold.test)
        assert sorted(set(test.days)) == list(range(32 + 7 * number, 39 + 7 * number))
        assert sorted(set(train.days)) == list(range(32 + 7 * number))
        assert train.leads + test.leads == data.counts[data.days <= test.days.max()].sum()  # whole days, nobody lost


def test_leads_of_a_few_weeks_are_validated_by_eighths_of_them_cut_between_days() -> None:
    data = some_leads(days=24)
    folds = weekly_folds(data)
    assert [sorted(set(data.take(fold.test).days)) for fold in folds] == [
        [12, 13, 14],
        [15, 16, 17],
        [18, 19, 20],
        [21, 22, 23],
    ]


def test_a_fold_with_too_few_leads_of_a_class_is_left_out_and_without_any_random_ones_are_made() -> None:
    data = some_leads()
    of_one_day = replace(data, days=np.zeros(len(data.days), dtype=np.int64))
    late = replace(data, labels=np.where(data.days < 50, 1, data.labels).astype(np.int8))
    assert weekly_folds(of_one_day) == []
    assert [fold.name for fold in weekly_folds(late)] == ["1970-02-23"]
    learned = learn(of_one_day, RECIPE, [], AIM)
    assert learned.folds == ("fold 1", "fold 2", "fold 3")
    assert learned.counts.sum() == data.leads


def test_random_folds_part_the_leads_exactly_with_the_same_share_of_genuine_ones() -> None:
    data = some_leads()
    folds = random_folds(data)
    assert sum(fold.test for fold in folds).tolist() == data.counts.tolist()
    for fold in folds:
        assert (fold.train + fold.test).tolist() == data.counts.tolist()
        assert fold.test.min() >= 0
        test = data.take(fold.test)
        assert (test.leads, test.genuine) == pytest.approx((data.leads / 3, data.genuine / 3), abs=1)
    again = random_folds(data)
    assert [fold.test.tolist() for fold in folds] == [fold.test.tolist() for fold in again]


def test_leads_are_drawn_from_counts_as_they_would_be_one_by_one() -> None:
    counts, labels = np.array([50, 10, 40]), np.array([1, 1, 0])
    drawings = np.array([drawn(counts, labels, 0.5, np.random.default_rng(seed)) for seed in range(400)])
    assert (drawings[:, :2].sum(axis=1) == 30).all()
    assert (drawings[:, 2] == 20).all()
    assert (drawings <= counts).all()
    # hypergeometric: the mean, and the variance that drawing without replacement has
    assert drawings[:, 1].mean() == pytest.approx(5, abs=0.25)
    assert drawings[:, 1].var() == pytest.approx(30 * (1 / 6) * (5 / 6) * 30 / 59, rel=0.25)


# Calibration


@pytest.mark.parametrize("kind", ["platt", "beta"])
def test_calibration_makes_probabilities_mean_what_they_say_and_keeps_their_order(kind: str) -> None:
    labels, probabilities = overconfident()
    calibration = fit_calibration(kind, labels, probabilities)
    told = calibration.apply(probabilities)
    sure = probabilities > 0.9
    assert probabilities[sure].mean() - labels[sure].mean() > 0.1
    assert told[sure].mean() == pytest.approx(labels[sure].mean(), abs=0.02)
    assert (calibration.a, calibration.b) == pytest.approx((0.5, 0.5), abs=0.05)
    assert (np.diff(told[np.argsort(probabilities)]) >= 0).all()
    assert Calibration(**calibration.as_dict()).apply(probabilities).tolist() == told.tolist()


def test_what_needs_no_calibration_gets_none_and_what_does_gets_the_simplest_that_serves() -> None:
    labels, probabilities = overconfident()
    folds = np.arange(len(labels)) % 4
    right = 1 / (1 + np.exp(-np.log(probabilities / (1 - probabilities)) / 2))
    chosen, told = choose_calibration(labels, right, folds)
    assert (chosen, told.tolist()) == (Calibration(), right.tolist())
    chosen, told = choose_calibration(labels, probabilities, folds)
    assert chosen.kind == "platt"
    assert told == pytest.approx(right, abs=0.03)


def test_each_fold_is_calibrated_by_the_others() -> None:
    labels, probabilities = overconfident(4_000)
    folds = np.arange(len(labels)) % 2
    _, told = choose_calibration(labels, probabilities, folds)
    by_the_other = fit_calibration("platt", labels[folds == 1], probabilities[folds == 1])
    assert told[folds == 0].tolist() == by_the_other.apply(probabilities[folds == 0]).tolist()


@pytest.mark.parametrize("kind", ["platt", "beta"])
def test_a_calibration_is_that_of_a_logistic_regression_and_counted_leads_ask_for_the_same(kind: str) -> None:
    from sklearn.linear_model import LogisticRegression

    labels, probabilities = overconfident(3_000)
    probabilities = np.clip(probabilities.round(2), 0.01, 0.99)
    terms = np.stack([np.log(probabilities), -np.log1p(-probabilities)], axis=1)
    columns = terms if kind == "beta" else terms.sum(axis=1, keepdims=True)
    theirs = LogisticRegression(C=1e6, tol=1e-10, max_iter=1_000).fit(columns, labels)
    ours = fit_calibration(kind, labels, probabilities)
    assert (ours.a, ours.c) == pytest.approx((theirs.coef_[0][0], theirs.intercept_[0]), rel=1e-3, abs=1e-4)
    cells, counts = np.unique(np.stack([probabilities, labels]), axis=1, return_counts=True)
    counted = fit_calibration(kind, cells[1], cells[0], counts)
    assert (counted.a, counted.b, counted.c) == pytest.approx((ours.a, ours.b, ours.c), abs=1e-6)


@pytest.mark.parametrize("kind", ["platt", "beta"])
def test_a_calibration_that_would_turn_the_order_round_is_none(kind: str) -> None:
    labels, probabilities = overconfident(2_000)
    assert fit_calibration(kind, 1 - labels, probabilities) == Calibration()
    assert fit_calibration(kind, np.ones(2_000), probabilities) == Calibration()


# The true base rate


def test_corrected_probabilities_have_the_true_share_as_their_mean_over_the_platform() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(-2.5, 1.5, 400_000)
    everyone = (rng.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    true_share = float(everyone.mean())
    # a balanced sample, as labelled files are, and what a calibrated model says of it
    ones, zeros = np.flatnonzero(everyone == 1), np.flatnonzero(everyone == 0)
    sample = np.concatenate([ones, rng.choice(zeros, len(ones), replace=False)])
    labels = everyone[sample]
    probabilities = 1 / (1 + np.exp(-(logits[sample] + np.log((1 - true_share) / true_share))))
    told = correct_base_rate(probabilities, 0.5, true_share)
    weights = population_weights(labels, true_share)
    assert probabilities.mean() == pytest.approx(0.5, abs=0.01)
    assert np.average(told, weights=weights) == pytest.approx(true_share, abs=0.003)
    assert np.average(labels, weights=weights) == pytest.approx(true_share)
    assert (np.diff(told[np.argsort(probabilities)]) >= 0).all()


def test_without_a_true_share_nothing_is_corrected_or_weighted() -> None:
    probabilities = np.array([0.1, 0.9])
    assert correct_base_rate(probabilities, 0.5, None) is probabilities
    assert population_weights(np.array([0, 1]), None).tolist() == [1, 1]


# The flag


def test_the_threshold_of_a_junk_budget_loses_that_share_of_the_genuine_leads() -> None:
    labels, probabilities = overconfident()
    threshold = junk_budget_threshold(labels, probabilities, 0.02)
    assert (probabilities[labels == 1] < threshold).mean() == pytest.approx(0.02, abs=0.001)
    assert junk_budget_threshold(labels, probabilities, 0.0) == probabilities[labels == 1].min()


def test_quantiles_of_counted_values_are_those_of_the_values_repeated() -> None:
    rng = np.random.default_rng(1)
    values, counts, shares = rng.random(200), rng.integers(0, 30, 200), np.linspace(0, 1, 101)
    repeated = np.quantile(np.repeat(values, counts), shares)
    assert quantiles(values, counts, shares) == pytest.approx(repeated, abs=1e-12)


def test_contacting_pays_for_leads_worth_more_than_a_contact_costs() -> None:
    labels, probabilities = overconfident(100_000)
    right = 1 / (1 + np.exp(-np.log(probabilities / (1 - probabilities)) / 2))
    costs = {"cost_of_contact": 30.0, "value_of_application": 100.0}
    curve = expected_gain(labels, right, costs, None)
    best = max(curve, key=lambda point: point["gain"])
    assert best["threshold"] == pytest.approx(0.3, abs=0.05)
    assert best["gain"] == pytest.approx(
        float(((100.0 * labels - 30) * (right >= best["threshold"])).mean()),
    )
    assert (curve[0]["contacted"], curve[0]["genuine_lost"]) == (1, 0)
    assert (curve[-1]["contacted"], curve[-1]["gain"]) == pytest.approx((0, 0))
    # on a platform where fewer are genuine the same lead is worth contacting only when it is surer
    rare = max(expected_gain(labels, right, costs, 0.1), key=lambda point: point["gain"])
    assert rare["threshold"] > best["threshold"] + 0.2


def test_a_cost_alone_sets_no_threshold() -> None:
    from junk_leads.defs.assets.model import TrainingConfig

    with pytest.raises(TrainingRefused) as refused:
        TrainingConfig(cost_of_contact=1.0).aim()
    assert str(refused.value) == (
        "cost_of_contact alone sets no threshold; give both cost_of_contact and value_of_application"
    )


# Learning a whole model


def test_adapting_trees_are_kept_when_validation_says_that_they_help() -> None:
    turning, steady = some_leads(turns=True), some_leads()
    recipe = replace(ADAPTING, rounds=100)
    kept, dropped = (learn(data, recipe, weekly_folds(data), AIM) for data in (turning, steady))
    assert (kept.booster.num_trees(), dropped.booster.num_trees()) == (120, 100)
    again = learn(turning, recipe, random_folds(turning), AIM)  # leads of all times: the last tell no more of them
    assert again.booster.num_trees() == 100


def test_a_model_loses_about_its_budget_of_genuine_leads_it_has_not_seen() -> None:
    train, test = some_leads(), some_leads(seed=2)
    learned = learn(train, RECIPE, random_folds(train), Aim(junk_budget=0.1))
    genuine = test.labels == 1
    lost = np.average(learned.predict(test)[genuine] < learned.threshold, weights=test.counts[genuine])
    assert lost == pytest.approx(0.1, abs=0.03)


def test_the_same_leads_teach_the_same_model_to_the_byte() -> None:
    one, two = (learn(some_leads(), ADAPTING, weekly_folds(some_leads()), AIM) for _ in range(2))
    assert one.booster.model_to_string() == two.booster.model_to_string()
    assert (one.as_settings(), one.validation.tolist()) == (two.as_settings(), two.validation.tolist())


def test_what_is_reported_of_leads_held_out_does_not_depend_on_their_labels_in_training() -> None:
    data = some_leads()
    held_out = data.days >= data.take(temporal_split(data, 0.2).test).days.min()
    changed = replace(data, labels=np.where(held_out, 1 - data.labels, data.labels))
    one, two = (
        evaluate(leads, ENCODER, RECIPE, AIM, grades={"A": 0.7, "B": 0.5, "C": 0.25}, share=0.2, seed=1)
        for leads in (data, changed)
    )
    assert one.holdout.counts.tolist() == two.holdout.counts.tolist() == data.counts[held_out].tolist()
    assert one.probabilities.tolist() == two.probabilities.tolist()
    assert one.judged.as_settings() == two.judged.as_settings()
    temporal = [made.report.splits["temporal"]["auc"].value for made in (one, two)]
    assert sum(temporal) == pytest.approx(1)


def test_a_report_tells_every_split_week_slice_tenth_and_grade() -> None:
    aim = Aim(0.05, true_share=0.1, costs={"cost_of_contact": 1.0, "value_of_application": 5.0})
    data = some_leads()
    made = evaluate(data, ENCODER, RECIPE, aim, grades={"A": 0.7, "B": 0.5, "C": 0.25}, share=0.2, seed=1)
    report = made.report
    assert list(report.splits) == ["random", "temporal", "rolling"]
    assert list(report.weeks) == ["1970-02-02", "1970-02-09", "1970-02-16", "1970-02-23"]
    assert {"first_platform_c_Level0", "first_platform_c_Level3", "month_1970-02"} <= set(report.slices)
    conversions = [grade["conversion"] for grade in report.grades]
    assert conversions == sorted(conversions, reverse=True)
    assert sum(grade["share"] for grade in report.grades) == pytest.approx(1)
    assert report.splits["random"]["corrected_mean"].value == pytest.approx(0.1, abs=0.03)
    assert max(report.gain_curve, key=lambda point: point["gain"])["gain"] > 0
    for found in report.splits.values():
        assert all(x.low <= x.value <= x.high for name, x in found.items() if name == "auc")
    text = report_markdown(report)
    for told in ("| auc |", "1970-02-23", "first_platform_c_Level0", "tenth of the leads", "| D |"):
        assert told in text
