"""The inference pipeline's last steps: predictions and their summary, as tables and as files for people.

What lives here: the assets predictions and prediction_summary. What does not: scoring itself (`steps/scoring/`).
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from junk_leads.defs.assets import INFERENCE_PIPELINE, declared, freshness, lineage
from junk_leads.defs.checks import evaluate, plain_failures, publish
from junk_leads.defs.expectations import load_suite
from junk_leads.defs.io_managers import Warehouse
from junk_leads.defs.resources import HomeResource
from junk_leads.reference import model_settings
from junk_leads.steps.leads import accounting
from junk_leads.steps.leads.reading import delivered_rows
from junk_leads.steps.pages.summary import percentages_line, summarise, summary_markdown, summary_text
from junk_leads.steps.scoring.scoring import score_features, write_scored_file
from junk_leads.stores.warehouse import rows_of

GROUP = INFERENCE_PIPELINE


@dg.asset(**declared("predictions", GROUP, {"duckdb", "lightgbm"}, deps=["champion"], **freshness()))
def predictions(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
    encoded_features: duckdb.DuckDBPyRelation,
) -> Iterator[Any]:
    """Predictions: one row for each cleaned lead, by the model in Production (the champion).

    Probability of completing the application, the predicted flag (1 genuine, 0 junk), score 1 to 99, grade A to
    D, and the strongest reasons. Also written as `predictions/<drop>.csv` with every delivered column.
    """
    drop = context.partition_key
    with plain_failures():
        con = warehouse.connection()
        model = home.registry.champion()
        con.execute(
            "CREATE OR REPLACE TEMP TABLE staged_predictions (drop VARCHAR, lead_number BIGINT, probability DOUBLE, "
            "predicted_flag TINYINT, score TINYINT, grade VARCHAR, reasons VARCHAR, model_version VARCHAR)"
        )
        for piece in score_features(con, encoded_features, model):  # noqa: B007  DuckDB finds it by this name
            con.execute("INSERT INTO staged_predictions BY NAME SELECT * FROM piece")
        scored = con.table("staged_predictions")
        results = predictions_checks(con, scored, accounting.count(encoded_features))
        made_from = {"probability": [("encoded_features", f) for f in model.encoder.features]}
        target = home.home.predictions / f"{drop}.csv"
        metadata = {
            "model_version": model.version,
            "file": dg.MetadataValue.path(str(target)),
            "dagster/column_lineage": lineage(made_from),
        }
        yield from publish(scored, results, metadata)
        con = warehouse.connection()
        about = _about_drop(con, drop)
        # the file that these leads came from: a newer delivery of the drop may wait, or have been refused
        path = next(d.path for d in home.ledger.deliveries() if (d.drop, d.content) == (drop, about["content"]))
        delivered = delivered_rows(con, path)
        write_scored_file(con, target, tuple(about["header"]), delivered, rows_of(con, "predictions", [drop]))
        warehouse.release()


def predictions_checks(
    con: duckdb.DuckDBPyConnection, scored: duckdb.DuckDBPyRelation, leads: int
) -> list[dg.AssetCheckResult]:
    """The checks of predictions for this many cleaned leads."""
    rows = accounting.count(scored)
    distinct = con.sql("SELECT count(DISTINCT probability) FROM scored").fetchall()[0][0]
    account = accounting.one_row(
        con,
        rows_unaccounted=abs(leads - rows),
        distinct_probabilities=distinct if rows >= accounting.TELLING_DROP else 2,
    )
    return evaluate(load_suite("predictions"), {"rows": scored, "account": account})


@dg.asset(**declared("prediction_summary", GROUP, {"duckdb"}))
def prediction_summary(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
    predictions: duckdb.DuckDBPyRelation,
) -> Iterator[Any]:
    """Summary of a drop's predictions: one row with the percentages of 1s and 0s, grades, rows and model.

    Also written as `predictions/<drop>.summary.txt`.
    """
    drop = context.partition_key
    with plain_failures():
        con = warehouse.connection()
        about = _about_drop(con, drop)
        counts = {name: about[name] for name in ("drop", "rows_read", "rows_rejected")}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        figures = summarise(predictions, {**counts, "scored_at": now})
        model = home.registry.load(figures["model_version"] or home.registry.champion_version())
        results = prediction_summary_checks(con, figures, model.settings["share_of_ones"])
        row = con.sql("SELECT " + ", ".join(f"? AS {name}" for name in figures), params=list(figures.values()))
        _write(home.home.predictions / f"{drop}.summary.txt", summary_text(figures))
        yield from publish(row, results, {"summary": dg.MetadataValue.md(summary_markdown(figures))})
        with home.home.percentages.open("a", encoding="utf-8") as log:
            log.write(percentages_line(figures))


def prediction_summary_checks(
    con: duckdb.DuckDBPyConnection, figures: dict[str, Any], usual_share_of_ones: float
) -> list[dg.AssetCheckResult]:
    """The checks of prediction_summary; `usual_share_of_ones` is that of the model's own hold-out."""
    leads = figures["lead_count"]
    shares = figures["share_of_ones"] + figures["share_of_zeros"]
    distance = abs(figures["share_of_ones"] - usual_share_of_ones) / model_settings()["share_of_ones_band"]
    account = accounting.one_row(
        con,
        shares_unaccounted=abs(shares - 1) if leads else 0,
        distance_in_bands=distance if leads >= accounting.TELLING_DROP else 0,
    )
    return evaluate(load_suite("prediction_summary"), {"account": account})


def _about_drop(con: duckdb.DuckDBPyConnection, drop: str) -> dict[str, Any]:
    """What `delivered_drops` says of a drop."""
    rows = con.table("delivered_drops").filter(duckdb.ColumnExpression("drop") == duckdb.ConstantExpression(drop))
    return dict(zip(rows.columns, rows.fetchall()[0], strict=True))


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
