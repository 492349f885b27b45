"""The training pipeline's last step: the model.

What lives here: the asset lightgbm_model and its checks, which are facts about models and so plain code. What does
not: fitting, measuring, tracking (`steps/learning/training.py`, `steps/learning/evaluation.py`, `tracking.py`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg
import duckdb
import numpy as np
from pydantic import Field

from junk_leads.defs.assets import TRAINING_PIPELINE, declared
from junk_leads.defs.checks import plain_failures, publish
from junk_leads.defs.io_managers import Warehouse
from junk_leads.defs.resources import HomeResource
from junk_leads.errors import TrainingRefused
from junk_leads.reference import model_settings
from junk_leads.steps.boosting import refuse_unknown_parameters
from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.learning.evaluation import Report, evaluating
from junk_leads.steps.learning.leaks import leaking_columns, leaking_delivered
from junk_leads.steps.learning.training import LabelledFeatures, Recipe, labelled_features, refuse_unfit
from junk_leads.steps.learning.tuning import recipe_of
from junk_leads.steps.learning.validation import Aim
from junk_leads.steps.pages.plots import as_markdown_image, plot_training
from junk_leads.steps.scoring.reasons import conversions
from junk_leads.stores.drops.labelled import labelled_drops, learned_once
from junk_leads.stores.drops.trusting import training_profile
from junk_leads.stores.promotion import compare
from junk_leads.stores.tracking import Logged, Training, log_training
from junk_leads.stores.warehouse import rows_of

CHECKS = {
    "has_enough_labelled_leads": "There are enough labelled leads, and enough of each class, to learn from.",
    "no_lead_is_from_the_future": "No labelled lead was created after today: its outcome could not be known.",
    "no_column_copies_the_label": "No single column tells the label (AUC below 0.99): one that does has leaked it.",
    "auc_is_above_the_floor": "On leads held out, the AUC is above the floor, and every metric is a number.",
}


class TrainingConfig(dg.Config):
    """What a run may say about training; what it leaves out is `reference/model_params.yaml`'s."""

    lightgbm: dict[str, Any] = Field(default_factory=dict)
    rounds: int = Field(default=model_settings()["rounds"], ge=1)
    adapting: dict[str, Any] = Field(default_factory=dict)
    junk_budget: float = Field(default=model_settings()["junk_budget"], ge=0, lt=1)
    true_conversion: float | None = Field(default=model_settings()["true_conversion"], gt=0, lt=1)
    cost_of_contact: float | None = Field(default=model_settings()["cost_of_contact"], ge=0)
    value_of_application: float | None = Field(default=model_settings()["value_of_application"], gt=0)
    minimum_labelled: int = model_settings()["minimum_labelled"]
    minimum_per_class: int = model_settings()["minimum_per_class"]
    lowest_auc: float = model_settings()["lowest_auc"]

    def recipe(self) -> Recipe:
        """How the booster is trained. Raises TrainingRefused for a parameter that LightGBM does not have."""
        refuse_unknown_parameters([*self.lightgbm, *self.adapting.get("lightgbm", {})])
        settings = model_settings()
        adapting = {**settings["adapting"], **self.adapting}
        given = {"lightgbm": self.lightgbm, "rounds": self.rounds, "adapting": adapting}
        return recipe_of(given, settings["rising"])

    def aim(self) -> Aim:
        """What the flag is for. Raises TrainingRefused for a cost without a value, or the other way round."""
        costs = {"cost_of_contact": self.cost_of_contact, "value_of_application": self.value_of_application}
        given = {name: value for name, value in costs.items() if value is not None}
        if len(given) == 1:
            raise TrainingRefused(
                f"{next(iter(given))} alone sets no threshold; give both cost_of_contact and value_of_application"
            )
        return Aim(self.junk_budget, self.true_conversion, given or None)


@dg.asset(
    **declared(
        "lightgbm_model",
        TRAINING_PIPELINE,
        {"lightgbm", "mlflow"},
        by_drop=False,
        check_specs=[
            dg.AssetCheckSpec(name, asset="lightgbm_model", description=text, blocking=True)
            for name, text in CHECKS.items()
        ],
    )
)
def lightgbm_model(
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
    mlflow: dg.ResourceParam[Callable[[], Any]],
    significant_levels: duckdb.DuckDBPyRelation,
    lead_counts: duckdb.DuckDBPyRelation,
) -> Iterator[Any]:
    """The model: LightGBM trained on all accepted labelled drops, registered in MLflow as a new version.

    One row: its version, run, encoder, the leads it learned from and its hold-out metrics, measured from probabilities
    on leads it had not seen. It scores nothing until it is promoted to Production.
    """
    with plain_failures(), ExitStack() as stack:
        con = warehouse.connection()
        settings, recipe, aim = model_settings(), config.recipe(), config.aim()
        encoder = Encoder.of_table(significant_levels)
        counts = learned_once(con, lead_counts)
        data = labelled_features(con, counts, encoder)
        split = {"share": settings["holdout_share"], "seed": recipe.lightgbm["seed"]}
        evaluation = stack.enter_context(evaluating(data, recipe, aim, **split))
        tracking = mlflow()  # imported, and the leads looked at, while another process fits
        delivered = int(lead_counts.aggregate("coalesce(sum(lead_count), 0)").fetchall()[0][0])
        labelled = rows_of(con, "cleaned_leads", labelled_drops(con))
        copies = leaking_delivered(con, labelled, leak_auc=model_settings()["leak_auc"])
        fitness = data_checks(data, encoder, config, copies)
        if not all(result.passed for result in fitness):
            yield from publish(None, fitness)
        evaluated = evaluation.evaluated(encoder, settings["grades"])
        plots = evaluation.learning.beside(partial(plot_training, evaluated, encoder.features))
        metrics = evaluated.report.values()
        results = [*fitness, _floor(metrics, config.lowest_auc)]
        if not results[-1].passed:
            yield from publish(None, results)
        counted = counts.aggregate("drop, sum(lead_count)::BIGINT")
        drops = dict(sorted(counted.fetchall()))
        training = Training(
            evaluated,
            data,
            encoder,
            {
                **aim.as_settings(),
                "grades": settings["grades"],
                "share_of_ones": metrics["temporal_share_of_ones"],
                "conversions": conversions(data, encoder),
                "grade_conversions": evaluated.report.grades,
                "shares_of_others": {
                    column: float(np.average(data.column(encoder.blocks[column][-1]), weights=data.counts))
                    for column in encoder.levels
                },
            },
            recipe.as_parameters(),
            drops,
            training_profile(con, counts, list(drops)),
            plots,
        )
        logged = log_training(tracking, home.registry, training)
        row = _row(con, logged.version, logged.run_id, encoder, data.leads, metrics)
        again = {"labelled_leads_delivered_again": delivered - data.leads}
        told = {**again, "gate": _gate(con, home, logged.version), **_metadata(home, logged, evaluated.report)}
        yield from publish(row, results, told)


def data_checks(
    data: LabelledFeatures, encoder: Encoder, config: TrainingConfig, copies: Mapping[str, float] | None = None
) -> list[dg.AssetCheckResult]:
    """Whether these labelled leads make a model: enough of them, and no column that copies the label.

    `copies` are delivered columns found to do so, with their AUC; features are looked at here.
    """
    told = {"labelled_leads": data.leads, "genuine": data.genuine, "junk": data.leads - data.genuine}
    try:
        refuse_unfit(data, minimum_labelled=config.minimum_labelled, minimum_per_class=config.minimum_per_class)
    except TrainingRefused as refused:
        return [_result("has_enough_labelled_leads", False, str(refused), told)]
    tomorrow = np.datetime64(datetime.now(UTC).date() + timedelta(days=1))  # the platform's clock may be ahead
    future = int(data.counts[data.days > tomorrow.astype("datetime64[D]").astype(int)].sum())
    leaks = {**leaking_columns(data, encoder, leak_auc=model_settings()["leak_auc"]), **(copies or {})}
    named = ", ".join(f"{column} (AUC {auc:.3f})" for column, auc in leaks.items())
    return [
        _result("has_enough_labelled_leads", True, "", told),
        _result(
            "no_lead_is_from_the_future",
            not future,
            f"{future:,} labelled leads were created after today, when their outcome could not be known; correct "
            "created_date, and ingest their drops again",
            {"leads_from_the_future": future},
        ),
        _result(
            "no_column_copies_the_label",
            not leaks,
            f"alone tells the label: {named}; take the column out of the labelled drops, or deliver what it was "
            "before the outcome was known",
            {"leaking_columns": named},
        ),
    ]


def _floor(metrics: Mapping[str, float], lowest_auc: float) -> dg.AssetCheckResult:
    aucs = [metrics[f"{split}_auc"] for split in ("random", "temporal")]
    no_numbers = [name for name, value in metrics.items() if not np.isfinite(value)]
    why = f"hold-out AUC is {min(aucs):.3f}, expected at least {lowest_auc:g}"
    if no_numbers:
        why = f"{', '.join(no_numbers)} of the hold-out cannot be measured, expected numbers"
    passed = not no_numbers and min(aucs) >= lowest_auc
    why += "; look at the data before training again"
    told = {name: value for name, value in metrics.items() if name not in no_numbers}
    return _result("auc_is_above_the_floor", passed, why, {"lowest_auc": lowest_auc, **told})


def _result(check: str, passed: bool, why: str, told: Mapping[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key="lightgbm_model",
        check_name=check,
        passed=passed,
        description=CHECKS[check] if passed else why,
        metadata={**told, "refuses": not passed},
    )


def _row(
    con: duckdb.DuckDBPyConnection,
    version: str,
    run_id: str,
    encoder: Encoder,
    rows: int,
    metrics: Mapping[str, float],
) -> duckdb.DuckDBPyRelation:
    cells = ", ".join(f"{value!r}::DOUBLE AS {name}" for name, value in metrics.items())
    return con.sql(
        f"SELECT ? AS model_version, ? AS run_id, ? AS encoder_id, ?::BIGINT AS labelled_leads, {cells}",
        params=[version, run_id, encoder.id, rows],
    )


def _gate(con: duckdb.DuckDBPyConnection, home: HomeResource, version: str) -> str:
    champion = home.registry.champion_version_or_none()
    if champion is None:
        return "nobody is in Production: the first version needs no comparison"
    return f"beside version {champion} it {compare(con, home.registry, version, champion).verdict().as_text()}"


def _metadata(home: HomeResource, logged: Logged, report: Report) -> dict[str, Any]:
    pictures = "\n\n".join(as_markdown_image(name, png) for name, png in logged.plots.items())
    return {
        "model_version": logged.version,
        "model_card": dg.MetadataValue.md(logged.card),
        "plots": dg.MetadataValue.md(pictures),
        "mlflow_run": dg.MetadataValue.url(home.registry.run_url(logged.run_id)),
        "mlflow_run_id": logged.run_id,
        **report.values(),
    }
