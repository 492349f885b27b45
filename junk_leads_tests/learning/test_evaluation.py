"""Evaluation: leads held out in time or at random, and measures that refuse what is no probability."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from junk_leads.steps.learning.evaluation import random_split, temporal_split
from junk_leads.steps.learning.metrics import gains, grade_table, measure
from junk_leads.steps.learning.training import LabelledFeatures
from junk_leads.steps.pages import plots

LABELS = np.array([0, 0, 1, 1, 0, 1, 1, 0])
PROBABILITIES = np.array([0.1, 0.4, 0.35, 0.8, 0.4, 0.9, 0.4, 0.6])
SWAPPED = "labels must be 0 or 1: are labels and probabilities swapped?"


def created_on(days: list[int], labels: list[int] | None = None) -> LabelledFeatures:
    rows = len(days)
    found = np.arange(rows) % 2 if labels is None else np.array(labels)
    return LabelledFeatures.of_table(pa.table({"x": np.arange(rows)}), found.astype(np.int8), np.array(days))


# What is held out


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=60), st.sampled_from([0.1, 0.2, 0.5]))
def test_a_temporal_split_tests_on_days_after_those_it_trains_on_as_near_to_its_share_as_days_are(
    days: list[int], share: float
) -> None:
    data = created_on(days)
    split = temporal_split(data, share)
    assert (split.train + split.test).tolist() == data.counts.tolist()
    train, test = data.take(split.train), data.take(split.test)
    if len(set(days)) == 1:  # nothing is before: a random share is tested
        assert abs(test.leads - share * len(days)) <= 1
        return
    assert train.days.max() < test.days.min()
    every_cut = [sum(day > last for day in days) for last in sorted(set(days))[:-1]]
    assert abs(test.leads - share * len(days)) == pytest.approx(min(abs(n - share * len(days)) for n in every_cut))


def test_the_order_of_delivery_does_not_matter_to_a_temporal_split() -> None:
    one, two = created_on([50, 10, 40, 20, 30], [0] * 5), created_on([10, 20, 30, 40, 50], [0] * 5)
    for data in (one, two):
        split = temporal_split(data, 0.4)
        assert (split.name, sorted(data.take(split.train).days)) == ("temporal", [10, 20, 30])
        assert sorted(data.take(split.test).days) == [40, 50]


def test_a_random_split_is_the_same_each_time_and_keeps_the_share_of_genuine_leads() -> None:
    data = created_on([0] * 100, [1] * 30 + [0] * 70)
    split, again = random_split(data, 0.2, seed=7), random_split(data, 0.2, seed=7)
    assert (split.train.tolist(), split.test.tolist()) == (again.train.tolist(), again.test.tolist())
    assert (split.train + split.test).tolist() == data.counts.tolist()
    test = data.take(split.test)
    assert (test.genuine, test.leads) == (6, 20)
    assert random_split(data, 0.2, seed=8).test.tolist() != split.test.tolist()


# What cannot be measured


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        (PROBABILITIES, LABELS, SWAPPED),
        (LABELS, LABELS, "probabilities are all 0 or 1: measure probabilities, not predicted labels"),
        (LABELS, PROBABILITIES >= 0.5, "probabilities are all 0 or 1: measure probabilities, not predicted labels"),
        (LABELS, PROBABILITIES * 2, "probabilities must be numbers from 0 to 1"),
        (LABELS, PROBABILITIES - 0.2, "probabilities must be numbers from 0 to 1"),
        (LABELS, np.where(LABELS == 1, math.nan, 0.5), "probabilities must be numbers from 0 to 1"),
        (np.where(LABELS == 1, math.nan, 0), PROBABILITIES, SWAPPED),
        (LABELS * 2, PROBABILITIES, SWAPPED),
        (LABELS, PROBABILITIES[:3], "(8,) labels and (3,) probabilities cannot be measured"),
        (LABELS[:0], PROBABILITIES[:0], "(0,) labels and (0,) probabilities cannot be measured"),
    ],
    ids=[
        "swapped arguments",
        "the labels themselves",
        "hard labels",
        "above 1",
        "below 0",
        "no number",
        "a missing label",
        "another label",
        "another length",
        "nothing",
    ],
)
def test_what_is_no_label_or_no_probability_is_not_measured(
    labels: np.ndarray, probabilities: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the whole message is asserted
        measure(labels, probabilities, 0.5)
    assert str(refused.value) == message


# What is measured


def test_measures_are_those_of_scikit_learn() -> None:
    flags = PROBABILITIES >= 0.4
    found = {name: interval.value for name, interval in measure(LABELS, PROBABILITIES, 0.4).items()}
    assert {name: found[name] for name in ("auc", "brier", "log_loss", "accuracy", "precision", "recall", "f1")} == (
        pytest.approx(
            {
                "auc": metrics.roc_auc_score(LABELS, PROBABILITIES),
                "brier": metrics.brier_score_loss(LABELS, PROBABILITIES),
                "log_loss": metrics.log_loss(LABELS, PROBABILITIES),
                "accuracy": metrics.accuracy_score(LABELS, flags),
                "precision": metrics.precision_score(LABELS, flags),
                "recall": metrics.recall_score(LABELS, flags),
                "f1": metrics.f1_score(LABELS, flags),
            }
        )
    )
    assert found["average_precision"] == pytest.approx(metrics.average_precision_score(LABELS, PROBABILITIES))
    assert found["share_of_ones"] == 6 / 8


def test_what_is_drawn_is_what_scikit_learn_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[tuple[str, list[float], list[float]]]] = {}

    def curve(across: str, up: str, lines: list[tuple[str, list[float], list[float]]], **_: Any) -> bytes:
        drawn[across] = lines
        return b""

    monkeypatch.setattr(plots, "_curve", curve)
    counts = np.arange(1, len(LABELS) + 1)
    made = plots.plot_holdout(LABELS, PROBABILITIES, counts, 0.4)
    assert made["confusion_matrix.png"].startswith(b"\x89PNG")
    roc, precision = drawn["share of junk kept for calling"], drawn["recall"]
    weights = {"sample_weight": counts}
    alarms, kept, _ = metrics.roc_curve(LABELS, PROBABILITIES, drop_intermediate=False, **weights)
    assert roc[0][0] == f"model (AUC {metrics.roc_auc_score(LABELS, PROBABILITIES, **weights):.2f})"
    assert (roc[0][1], roc[0][2]) == (pytest.approx(alarms), pytest.approx(kept))
    up, recall, _ = metrics.precision_recall_curve(LABELS, PROBABILITIES, **weights)
    average = metrics.average_precision_score(LABELS, PROBABILITIES, **weights)
    assert precision[0][0] == f"model (average precision {average:.2f})"
    assert (precision[0][1], precision[0][2]) == (pytest.approx(recall[::-1]), pytest.approx(up[::-1]))
    assert precision[1][2][0] == pytest.approx((counts * LABELS).sum() / counts.sum())


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0])), min_size=2, max_size=30
    ).filter(lambda leads: len({label for label, _ in leads}) == 2 and any(0 < p < 1 for _, p in leads))
)
def test_auc_and_average_precision_are_exact_for_probabilities_that_meet(leads: list[tuple[int, float]]) -> None:
    labels, probabilities = (np.array(values) for values in zip(*leads, strict=True))
    found = measure(labels, probabilities, 0.5, resamples=2)
    assert found["auc"].value == pytest.approx(metrics.roc_auc_score(labels, probabilities))
    assert found["average_precision"].value == pytest.approx(metrics.average_precision_score(labels, probabilities))


def test_leads_of_one_class_have_no_auc_that_could_pass_for_a_number() -> None:
    assert math.isnan(measure(np.ones(4), np.array([0.1, 0.2, 0.3, 0.4]), 0.5)["auc"].value)


def counted(leads: int = 40_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities and how many leads each pair is; 3,000 different probabilities."""
    rng = np.random.default_rng(2)
    probabilities = rng.integers(1, 3_000, leads) / 3_000
    labels = (rng.random(leads) < probabilities).astype(int)
    cells, counts = np.unique(np.stack([labels, probabilities]), axis=1, return_counts=True)
    return cells[0].astype(int), cells[1], counts


def test_counted_leads_measure_as_the_leads_one_by_one_do() -> None:
    labels, probabilities, counts = counted()
    each = np.repeat(labels, counts), np.repeat(probabilities, counts)
    assert measure(labels, probabilities, 0.4, counts) == measure(*each, 0.4)
    grades = {"A": 0.7, "B": 0.5, "C": 0.25}
    one = np.ones(len(each[0]), dtype=int)
    assert grade_table(labels, probabilities, counts, grades) == grade_table(*each, one, grades)
    for told, alone in zip(gains(labels, probabilities, counts), gains(*each, one), strict=True):
        assert told == pytest.approx(alone)


def test_bounds_of_very_many_probabilities_are_about_those_of_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, probabilities, counts = counted()
    quick = measure(labels, probabilities, 0.4, counts, resamples=400)
    monkeypatch.setattr("junk_leads.steps.learning.metrics.MOST_BINS", 10**9)
    whole = measure(labels, probabilities, 0.4, counts, resamples=400)
    for name, found in whole.items():
        assert quick[name].value == found.value, name
        width = found.high - found.low
        assert (quick[name].low, quick[name].high) == pytest.approx((found.low, found.high), abs=0.35 * width), name


def test_the_best_tenths_hold_the_most_genuine_leads_and_all_of_them_together_all() -> None:
    table = gains(*counted())
    conversions = [row["conversion"] for row in table]
    assert conversions == sorted(conversions, reverse=True)
    assert [row["part"] for row in table] == list(range(1, 11))
    assert table[-1]["gain"] == pytest.approx(1)
    assert np.mean([row["lift"] for row in table]) == pytest.approx(1)
