"""Experiments: the leaderboard of learners.

What lives here: the asset experiment_leaderboard with its checks. What does not: the learners, fitting and measuring
(`steps/learning/experimenting.py`, `steps/learning/tuning.py`), tracking (`tracking.py`).
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
from pydantic import Field

from junk_leads.defs.assets import EXPERIMENT, declared
from junk_leads.defs.checks import evaluate, plain_failures, publish, timed
from junk_leads.defs.expectations.suites import load_suite
from junk_leads.defs.io_managers import Warehouse
from junk_leads.defs.resources import HomeResource
from junk_leads.reference import model_settings
from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.learning.experimenting import learners, try_learner
from junk_leads.steps.learning.training import labelled_features, refuse_unfit
from junk_leads.steps.learning.tuning import Budget
from junk_leads.steps.pages.leaderboard import as_markdown, leaderboard
from junk_leads.steps.pages.plots import as_markdown_image
from junk_leads.stores.drops.labelled import learned_once
from junk_leads.stores.tracking import log_leaderboard, log_learner

PROGRESS = logging.getLogger("junk_leads.progress")  # what a person at a terminal is told meanwhile


class ExperimentConfig(dg.Config):
    """What a run may say about an experiment: which learners (all without any names), and how long tuning searches."""

    learners: list[str] = Field(default_factory=list)
    seconds: float = Field(default=model_settings()["experiment"]["seconds"], gt=0)
    trials: int = Field(default=model_settings()["experiment"]["trials"], ge=1)


@dg.asset(**declared("experiment_leaderboard", EXPERIMENT, {"lightgbm", "scikitlearn", "mlflow"}, by_drop=False))
def experiment_leaderboard(
    context: dg.AssetExecutionContext,
    config: ExperimentConfig,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
    mlflow: dg.ResourceParam[Callable[[], Any]],
    significant_levels: duckdb.DuckDBPyRelation,
    lead_counts: duckdb.DuckDBPyRelation,
) -> Iterator[Any]:
    """Leaderboard: one row for each learner of the last experiment, ranked by AUC on the last leads by time.

    All learn from the same leads and are measured on the same leads, which tuning has not seen either. Each is a run
    in MLflow under the experiment's. It registers nothing: `junk-leads train --tuned` trains with the best LightGBM's
    parameters.
    """
    settings = model_settings()

    def progress(line: str) -> None:
        context.log.info(line)
        PROGRESS.info(line)

    with plain_failures():
        chosen, tracking = learners(config.learners), mlflow()
        encoder = Encoder.of_table(significant_levels)
        con = warehouse.connection()
        data = labelled_features(con, learned_once(con, lead_counts), encoder)
        warehouse.release()  # others may have the warehouse while learners learn
        least = {name: settings[name] for name in ("minimum_labelled", "minimum_per_class")}
        refuse_unfit(data, **least)
        budget = Budget(config.seconds, config.trials)
        share, seed = settings["holdout_share"], settings["lightgbm"]["seed"]
        tried, run_ids = [], {}
        for number, learner in enumerate(chosen, start=1):
            progress(f"{learner.title}: {number} of {len(chosen)}")
            try_it = partial(try_learner, learner, data, budget, share=share, seed=seed, progress=progress)
            found, run_ids[learner.name] = log_learner(tracking, learner, try_it)
            tried.append(found)
            progress(f"{learner.title}: AUC {found.metrics['temporal_auc']} by time, {found.fit_seconds:.1f} s to fit")
        rows = [{**row, "labelled_leads": data.leads} for row in leaderboard(tried, run_ids)]
        about = {"labelled_leads": data.leads, "data_fingerprint": data.fingerprint, "encoder_id": encoder.id}
        parent, plots = log_leaderboard(
            tracking, rows, tried, {**about, "seconds": budget.seconds, "trials": budget.trials}
        )
        table = warehouse.connection().from_arrow(pa.Table.from_pylist(rows))
        told = {
            "leaderboard": dg.MetadataValue.md(as_markdown(rows)),
            "plot": dg.MetadataValue.md(as_markdown_image("AUC of each learner", plots["leaderboard.png"])),
            "mlflow_run": dg.MetadataValue.url(home.registry.run_url(parent)),
            "mlflow_run_id": parent,
            "encoder_id": encoder.id,
        }
        yield from publish(table, experiment_leaderboard_checks(table), told)


@timed
def experiment_leaderboard_checks(table: duckdb.DuckDBPyRelation) -> list[dg.AssetCheckResult]:
    """The checks of a leaderboard."""
    best = table.aggregate("max(temporal_auc) AS best_auc")
    return evaluate(load_suite("experiment_leaderboard"), {"rows": table, "account": best})
