"""Evaluation: leads held out in time or at random, and measures that refuse what is no probability."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from junk_leads.steps.learning.evaluation import random_split, temporal_split
from junk_leads.steps.learning.metrics import measure
from junk_leads.steps.learning.training import LabelledFeatures

LABELS = np.array([0, 0, 1, 1, 0, 1, 1, 0])
PROBABILITIES = np.array([0.1, 0.4, 0.35, 0.8, 0.4, 0.9, 0.4, 0.6])
SWAPPED = "labels must be 0 or 1: are labels and probabilities swapped?"


def created_at(created: list[float], labels: list[int] | None = None) -> LabelledFeatures:
    rows = len(created)
    found = np.arange(rows) % 2 if labels is None else np.array(labels)
    return LabelledFeatures.of_table(pa.table({"x": np.arange(rows)}), found.astype(np.int8), np.array(created))


# What is held out


@settings(deadline=None)
@given(st.lists(st.integers(0, 50).map(float), min_size=2, max_size=60), st.sampled_from([0.1, 0.2, 0.5]))
def test_a_temporal_split_tests_on_leads_no_older_than_those_it_trains_on(created: list[float], share: float) -> None:
    data = created_at(created)
    split = temporal_split(data, share)
    assert sorted([*split.train, *split.test]) == list(range(len(created)))
    assert len(split.train) == round(len(created) * (1 - share))
    train, test = data.created[split.train], data.created[split.test]
    assert not len(train) or not len(test) or train.max() <= test.min()
    assert (np.diff(train) >= 0).all()
    assert (np.diff(test) >= 0).all()


def test_the_order_of_delivery_does_not_matter_to_a_temporal_split() -> None:
    split = temporal_split(created_at([50.0, 10.0, 40.0, 20.0, 30.0]), 0.4)
    assert (split.name, split.train.tolist(), split.test.tolist()) == ("temporal", [1, 3, 4], [2, 0])


def test_a_random_split_is_the_same_each_time_and_keeps_the_share_of_genuine_leads() -> None:
    data = created_at([0.0] * 100, [1] * 30 + [0] * 70)
    split, again = random_split(data, 0.2, seed=7), random_split(data, 0.2, seed=7)
    assert (split.train.tolist(), split.test.tolist()) == (again.train.tolist(), again.test.tolist())
    assert sorted([*split.train, *split.test]) == list(range(100))
    assert (data.labels[split.test].sum(), len(split.test)) == (6, 20)
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
