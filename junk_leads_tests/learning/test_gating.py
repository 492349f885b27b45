"""The gate: a worse or equal model never takes the champion's place, a better one does, and none at a slice's cost."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from junk_leads.steps.learning.gating import Rules, difference_in_auc, judge

RULES = Rules(
    lowest_auc=0.6,
    least_gain=0.001,
    most_slice_loss=0.01,
    most_calibration_loss=0.01,
    least_leads=500,
    least_slice=300,
)
LEADS = 6_000
TRIALS = 40


def expit(values: np.ndarray) -> np.ndarray:
    told: np.ndarray = 1 / (1 + np.exp(-values))
    return told


def trial(seed: int, noise: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, a challenger's and a champion's probabilities with noise of their own, and a tier for each lead."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1.5, LEADS)
    labels = (rng.random(LEADS) < expit(truth)).astype(np.int8)
    challenger, champion = (expit(np.round(truth + rng.normal(0, scale, LEADS), 1)) for scale in noise)
    return labels, challenger, champion, rng.integers(1, 4, LEADS)


def tiers(tier: np.ndarray) -> dict[str, np.ndarray]:
    return {f"city_tier_{number}": tier == number for number in (1, 2, 3)}


def test_a_model_that_is_worse_by_half_a_point_of_auc_is_rejected_every_time() -> None:
    rejected, differences = 0, []
    for seed in range(TRIALS):
        labels, worse, champion, tier = trial(seed, (0.41, 0.3))
        differences.append(roc_auc_score(labels, worse) - roc_auc_score(labels, champion))
        rejected += not judge(labels, worse, champion, tiers(tier), RULES).passed
    assert np.mean(differences) == pytest.approx(-0.005, abs=0.0005)
    assert rejected >= 0.95 * TRIALS
    assert rejected == TRIALS


def test_an_equal_model_never_displaces_the_champion() -> None:
    for seed in range(TRIALS):
        labels, equal, champion, tier = trial(seed, (0.4, 0.4))
        assert not judge(labels, equal, champion, tiers(tier), RULES).passed
        assert not judge(labels, champion, champion, tiers(tier), RULES).passed


def test_a_model_that_is_clearly_better_passes() -> None:
    passed = 0
    for seed in range(TRIALS):
        labels, better, champion, tier = trial(seed, (0.0, 0.7))
        passed += judge(labels, better, champion, tiers(tier), RULES).passed
    assert passed == TRIALS


def test_a_model_that_is_better_overall_but_worse_on_one_tier_is_caught() -> None:
    for seed in range(TRIALS):
        labels, better, champion, tier = trial(seed, (0.0, 1.0))
        noise = np.random.default_rng(1_000 + seed).normal(0, 1.1, LEADS).round(1)
        spoiled = np.where(tier == 2, expit(np.log(champion / (1 - champion)) + noise), better)
        verdict = judge(labels, spoiled, champion, tiers(tier), RULES)
        assert roc_auc_score(labels, spoiled) > roc_auc_score(labels, champion)
        assert any(told.startswith("its AUC is surely smaller for city_tier_2: -0.0") for told in verdict.objections)


def test_every_other_objection_is_told() -> None:
    labels, better, champion, _ = trial(1, (0.0, 0.7))
    older = judge(labels, better, champion, {}, RULES, is_as_recent=False)
    assert older.objections == ("its newest lead is older than the champion's; train it on newer leads too",)
    few = judge(labels[:400], better[:400], champion[:400], {}, RULES)
    assert few.objections == ("there are only 400 leads to compare on, of 500 expected",)
    unsure = judge(labels, better**3, champion, {}, RULES)
    assert [told[:34] for told in unsure.objections] == ["its calibration error is larger by"]
    poor = judge(labels, 1 - better, champion, {}, RULES)
    assert [told[:15] for told in poor.objections] == ["its AUC 0.1882 ", "its AUC is not ", "its calibration"]


def test_what_is_no_probability_is_not_judged() -> None:
    labels, better, champion, _ = trial(1, (0.0, 0.7))
    for wrong in (np.where(labels == 1, np.nan, better), (better > 0.5).astype(float)):
        with pytest.raises(ValueError, match=r"^probabilities "):
            judge(labels, wrong, champion, {}, RULES)


def test_a_difference_in_auc_is_exact_and_its_bounds_are_three_standard_errors_away() -> None:
    labels, one, other, _ = trial(1, (0.2, 0.6))
    found = difference_in_auc(labels, one, other)
    assert found.value == pytest.approx(roc_auc_score(labels, one) - roc_auc_score(labels, other))
    repeated = [
        roc_auc_score(labels, one) - roc_auc_score(labels, other)
        for labels, one, other, _ in (trial(seed, (0.2, 0.6)) for seed in range(100))
    ]
    assert (found.high - found.low) / 6 == pytest.approx(np.std(repeated), rel=0.25)
    assert difference_in_auc(labels, one, one).high == 0


def test_a_verdict_tells_itself_in_one_line() -> None:
    labels, better, champion, tier = trial(1, (0.0, 0.7))
    text = judge(labels, better, champion, tiers(tier), RULES).as_text()
    assert text.startswith("passes the gate (challenger_auc 0.8")
    assert text.endswith(", on 6,000 leads)")
    assert (
        judge(labels, champion, champion, {}, RULES)
        .as_text()
        .startswith(
            "does not pass: its AUC is not surely larger by 0.001: +0.0000 (+0.0000 to +0.0000) (challenger_auc 0."
        )
    )
