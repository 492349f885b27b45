"""Experiments: learners on the same leads, tuning, the leaderboard, and adopting what was found."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from junk_leads.errors import TrainingRefused
from junk_leads.home import Home
from junk_leads.reference import learner_settings, model_settings
from junk_leads.running.launching import platform
from junk_leads.steps.learning import experimenting
from junk_leads.steps.learning.evaluation import evaluate
from junk_leads.steps.learning.experimenting import METRICS, Tried, learners, splits, try_learner
from junk_leads.steps.learning.training import LabelledFeatures
from junk_leads.steps.learning.tuning import Budget, own_recipe, tune
from junk_leads.steps.learning.validation import Aim
from junk_leads.steps.pages.leaderboard import as_markdown, as_text, leaderboard
from junk_leads.steps.pages.plots import plot_leaderboard
from junk_leads_tests.conftest import Outcome
from junk_leads_tests.learning.test_validation import ENCODER, some_leads
from junk_leads_tests.whole.test_pipelines import MATERIALISED, query

CLI = Callable[..., Outcome]
QUICK = Budget(seconds=600, trials=2)  # the number of trials ends it, so every machine finds the same
SHARE, SEED = model_settings()["holdout_share"], model_settings()["lightgbm"]["seed"]


def tried(name: str, data: LabelledFeatures, budget: Budget = QUICK) -> Tried:
    (learner,) = learners([name])
    return try_learner(learner, data, budget, share=SHARE, seed=SEED)


@pytest.fixture(scope="module")
def leads() -> LabelledFeatures:
    return some_leads(3_000)


@pytest.fixture(scope="module")
def everyone(leads: LabelledFeatures) -> list[Tried]:
    return [tried(learner.name, leads) for learner in learners()]


# Learners


def test_the_learners_asked_for_are_there_and_every_one_is_told_by_its_title() -> None:
    names = [learner.name for learner in learners()]
    assert {
        *("product", "tuned", "lightgbm", "histogram_boosting", "random_forest", "extra_trees"),
        *("logistic_regression", "naive_bayes"),
    } <= set(names)
    assert len({learner.title for learner in learners()}) == len(names)
    assert [learner.name for learner in learners(["naive_bayes", "product"])] == ["product", "naive_bayes"]


def test_a_learner_that_there_is_not_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(TrainingRefused) as refused:
        learners(["naive_bayes", "perceptron"])
    assert str(refused.value) == f"there is no learner 'perceptron'; learners are {', '.join(learner_settings())}"


def test_every_learner_learns_and_who_cannot_tell_leads_apart_ranks_last(everyone: list[Tried]) -> None:
    rows = leaderboard(everyone)
    assert [row["rank"] for row in rows] == list(range(1, len(everyone) + 1))
    assert rows[-1]["learner"] == "same_for_all"
    assert (rows[-1]["temporal_auc"], rows[-1]["random_auc"]) == (0.5, 0.5)
    aucs = [row["temporal_auc"] for row in rows]
    assert aucs == sorted(aucs, reverse=True)
    assert aucs[-2] > 0.7


def test_a_row_has_every_metric_with_its_interval_seconds_and_parameters(everyone: list[Tried]) -> None:
    for row in leaderboard(everyone, {"product": "a run"}):
        for split in ("temporal", "random"):
            for metric in METRICS:
                low, value, high = (row[f"{split}_{metric}{bound}"] for bound in ("_low", "", "_high"))
                assert np.isfinite([low, value, high]).all()
                assert low <= high
        assert row["fit_seconds"] > 0 < row["predict_seconds"]
        assert json.loads(row["parameters"])
        assert row["run_id"] == ("a run" if row["learner"] == "product" else None)
        assert row["trials"] == (2 if row["learner"] == "tuned" else 0)


def test_all_are_measured_on_the_same_leads_that_none_has_learned_from(
    everyone: list[Tried], leads: LabelledFeatures
) -> None:
    held_out = leads.take(splits(leads, SHARE, SEED)["temporal"].test)
    for found in everyone:
        assert found.labels.tolist() == held_out.labels.tolist()
        assert found.counts.tolist() == held_out.counts.tolist()
        assert found.probabilities.shape == held_out.labels.shape


def test_the_products_line_is_what_a_training_reports(everyone: list[Tried], leads: LabelledFeatures) -> None:
    grades, aim = model_settings()["grades"], Aim(model_settings()["junk_budget"])
    report = evaluate(leads, ENCODER, own_recipe(), aim, grades=grades, share=SHARE, seed=SEED).report.values()
    (own,) = (found for found in everyone if found.learner.name == "product")
    assert {name: found.value for name, found in own.metrics.items()} == {name: report[name] for name in own.metrics}


def test_kinds_with_weights_teach_an_estimator_what_the_leads_one_by_one_do(leads: LabelledFeatures) -> None:
    from sklearn.naive_bayes import BernoulliNB

    temporal = splits(leads, SHARE, SEED)["temporal"]
    train, test = leads.take(temporal.train), leads.take(temporal.test)
    each = np.repeat(np.arange(len(train.counts)), train.counts)
    fitted = BernoulliNB().fit(train.kinds[train.kind[each]], train.labels[each])
    one_by_one = fitted.predict_proba(test.kinds[test.kind])[:, 1]
    assert tried("naive_bayes", leads).probabilities == pytest.approx(one_by_one)


# Tuning


def test_the_same_number_of_trials_finds_the_same_and_no_worse_than_the_start(leads: LabelledFeatures) -> None:
    told: list[str] = []
    (one, trials), (two, _) = (tune(leads, Budget(600, 4), seed=7, progress=told.append) for _ in range(2))
    assert one == two
    losses = [trial.log_loss for trial in trials]
    assert len(losses) == 4
    assert min(loss for loss in losses if loss is not None) <= (losses[0] or 0)
    assert trials[0].parameters["num_leaves"] == model_settings()["lightgbm"]["num_leaves"]
    assert {"num_leaves", "learning_rate", "min_sum_hessian_in_leaf", "lambda_l2", "feature_fraction"} <= set(
        one["lightgbm"]
    )
    assert told[0].startswith("tuning LightGBM: log loss 0.")


def test_a_budget_in_seconds_ends_tuning(leads: LabelledFeatures) -> None:
    _, trials = tune(leads, Budget(0.001, 1_000), seed=7)
    assert len(trials) == 1


def test_the_labels_of_leads_held_out_by_either_split_never_influence_tuning(
    leads: LabelledFeatures, everyone: list[Tried]
) -> None:
    parts = splits(leads, SHARE, SEED)
    seen = np.where(parts["temporal"].train > 0, parts["random"].train, 0)
    assert 0 < seen.sum() < parts["random"].train.sum()
    assert (np.minimum(seen, parts["temporal"].test) == 0).all()
    assert (seen + parts["random"].test <= leads.counts).all()
    asked: list[LabelledFeatures] = []

    def noting(data: LabelledFeatures, *_: object, **__: object) -> None:
        asked.append(data)
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experimenting, "tune", noting)
        with pytest.raises(InterruptedError):
            tried("tuned", leads)
    assert asked[0].fingerprint == leads.take(seen).fingerprint
    # and the same leads give the same parameters
    (found,) = (found for found in everyone if found.learner.tuned)
    assert tune(leads.take(seen), QUICK, seed=SEED)[0] == found.parameters


# The leaderboard, as people read it


def test_the_leaderboard_reads_as_an_aligned_table_as_markdown_and_as_a_plot(everyone: list[Tried]) -> None:
    rows = leaderboard(everyone)
    lines = as_text(rows).splitlines()
    assert len(lines) == len(rows) + 1
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:2] == ["rank", "learner"]
    assert [line.split()[0] for line in lines[1:]] == [str(row["rank"]) for row in rows]
    marked = as_markdown(rows).splitlines()
    assert len({line.count("|") for line in marked}) == 1
    assert f"| 1 | {rows[0]['title']} | {rows[0]['temporal_auc']:.4f} |" in marked[2]
    assert plot_leaderboard(rows).startswith(b"\x89PNG")


# The job, and adopting what it found


@pytest.mark.xdist_group("home")
def test_an_experiment_is_a_table_runs_under_one_parent_and_parameters_to_train_with(
    junk_leads: CLI, trained_home: Home
) -> None:
    from mlflow import MlflowClient

    nothing = junk_leads("train", "--tuned")
    assert (nothing.code, nothing.failures) == (
        1,
        ["there is no leaderboard yet; run `junk-leads experiment` first"],
    )
    strange = junk_leads("experiment", "--learner", "perceptron")
    assert strange.code == 1
    assert strange.failures[0].startswith("there is no learner 'perceptron'; learners are product, tuned, lightgbm, ")

    named = [part for name in ("tuned", "naive_bayes", "same_for_all") for part in ("--learner", name)]
    done = junk_leads("experiment", "--trials", 2, "--seconds", 600, *named, "--json")
    assert (done.code, done.failures) == (0, [])
    rows = done.json["leaderboard"]
    assert list(done.json) == ["leaderboard"]
    assert [row["learner"] for row in rows] == ["tuned", "naive_bayes", "same_for_all"]
    for told in ("… LightGBM, tuned: 1 of 3", "… tuning LightGBM: log loss", "… naive Bayes: AUC 0."):
        assert told in done.err

    # the table
    stored = query(trained_home, "SELECT rank, learner, run_id, labelled_leads FROM experiment_leaderboard ORDER BY 1")
    assert stored == [(row["rank"], row["learner"], row["run_id"], row["labelled_leads"]) for row in rows]
    assert query(trained_home, "SELECT sum(lead_count) FROM lead_counts") == [(rows[0]["labelled_leads"],)]

    # MLflow
    client = MlflowClient(trained_home.mlflow_uri)
    runs = {row["learner"]: client.get_run(row["run_id"]) for row in rows}
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs.values()}
    assert {run.info.status for run in (client.get_run(parent), *runs.values())} == {"FINISHED"}
    assert {"leaderboard.json", "leaderboard.md", "plots"} <= {f.path for f in client.list_artifacts(parent)}
    tuned = runs["tuned"]
    assert {"model.txt", "trials.json", "plots"} == {f.path for f in client.list_artifacts(tuned.info.run_id)}
    assert {"plots"} == {f.path for f in client.list_artifacts(runs["naive_bayes"].info.run_id)}
    assert runs["naive_bayes"].data.params == {"alpha": "1.0"}
    assert tuned.data.metrics["temporal_auc"] == rows[0]["temporal_auc"]
    assert {"fit_seconds", "predict_seconds", "temporal_auc_low"} <= set(tuned.data.metrics)
    assert len(client.get_metric_history(tuned.info.run_id, "trial_log_loss")) == 2

    # Dagster
    with platform(trained_home) as found:
        (record,) = found.instance.get_records_for_run(
            found.instance.get_runs(limit=1)[0].run_id, of_type=MATERIALISED
        ).records[-1:]
    assert record.asset_materialization
    metadata = record.asset_materialization.metadata
    assert str(metadata["leaderboard"].value).splitlines()[2].startswith("| 1 | LightGBM, tuned | 0.")
    assert "](data:image/png;base64," in str(metadata["plot"].value)
    assert str(metadata["mlflow_run"].value).endswith(f"/runs/{parent}")

    # adopting: what the next training is told, and what a person says besides wins
    told = rows[0]["parameters"]
    trained = junk_leads("train", "--tuned", "--param", "lambda_l1=0.5", "--param", "num_leaves=5", "--json")
    assert (trained.code, trained.failures) == (0, [])
    assert "… with the parameters of: LightGBM, tuned" in trained.err
    assert trained.json["version"] == "2"
    params = client.get_run(trained.json["run_id"]).data.params
    expected = {**told["lightgbm"], "rounds": told["rounds"], "lambda_l1": 0.5, "num_leaves": 5}
    assert {name: params[name] for name in expected} == {name: str(value) for name, value in expected.items()}

    # a leaderboard without LightGBM, as a person reads it, has nothing to adopt
    read = junk_leads("experiment", "--learner", "naive_bayes")
    lines = read.out.splitlines()
    assert lines[0].split()[:5] == ["rank", "learner", "AUC", "by", "time"]
    assert lines[1].split()[:3] == ["1", "naive", "Bayes"]
    assert lines[2].startswith(f"{rows[0]['labelled_leads']:,} labelled leads; ")
    nothing = junk_leads("train", "--tuned")
    assert nothing.failures == ["the last leaderboard has no LightGBM; run `junk-leads experiment` with all learners"]


def test_without_labelled_drops_there_is_nothing_to_compare(junk_leads: CLI, home: Home) -> None:
    refused = junk_leads("experiment")
    assert refused.code == 1
    assert refused.failures[0].startswith("there are no labelled drops to train on; ")
