"""The inference pipeline's last steps: predictions and their summary, as tables and as files for people.

What lives here: the assets predictions and prediction_summary. What does not: scoring itself (`steps/scoring/`).
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import duckdb
from pydantic import Field

from junk_leads.capacity import refuse_without_room
from junk_leads.defs.assets import INFERENCE_PIPELINE, declared, freshness, lineage
from junk_leads.defs.assets.reports import begin_call_list
from junk_leads.defs.checks import evaluate, inert, plain_failures, publish, timed
from junk_leads.defs.expectations.suites import load_suite
from junk_leads.defs.io_managers import Warehouse
from junk_leads.defs.resources import EngineResource, HomeResource
from junk_leads.engine.drops import MadeTable, score_drop, write_scored_drop
from junk_leads.engine.table_parts import Output, Stored, count_of, parts_of, relation_of
from junk_leads.reference import model_settings
from junk_leads.steps.leads import accounting
from junk_leads.steps.leads.reading import delivered_rows
from junk_leads.steps.pages.summary import Meaning, percentages_line, summarise, summary_markdown, summary_text
from junk_leads.steps.scoring.scored_file import write_scored_file
from junk_leads.steps.scoring.scoring import explain_features, score_features
from junk_leads.stores.drops.trusting import warnings_of
from junk_leads.stores.making import write_whole
from junk_leads.stores.warehouse import by_kind_of, has_table, rows_of, stored_of

GROUP = INFERENCE_PIPELINE
LOOKS = load_suite("predictions").looks


class ScoredFiles(dg.Config):
    """Which files are written of a drop's predictions besides the CSV."""

    parquet: bool = Field(default=False, description="The same rows for programs, predictions/<drop>.parquet.")


@dg.asset(**declared("predictions", GROUP, {"duckdb", "lightgbm"}, deps=["champion"], **freshness()))
def predictions(
    context: dg.AssetExecutionContext,
    config: ScoredFiles,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
    engine: EngineResource,
    encoded_features: duckdb.DuckDBPyRelation,
) -> Iterator[Any]:
    """Predictions: one row for each cleaned lead, by the model in Production (the champion).

    Probability of completing the application, the predicted flag (1 kept for calling, 0 set aside), score 1 to 99,
    grade A to D, and the strongest reasons; what is behind those, in log-odds, is the table `reasons`. Also written as
    `predictions/<drop>.csv` with every delivered column, and a column `warning` when something about the drop warns.
    """
    drop = context.partition_key
    with plain_failures(), engine.making("predictions", drop) as work:
        home.ledger.refuse_refused(drop)
        con = warehouse.connection()
        about = _about_drop(con, drop)
        # the file that these leads came from: a newer delivery of the drop may wait, or have been refused
        delivery = home.ledger.of_content(drop, about["content"])
        refuse_without_room(home.home.root, delivery.path, scored=True)
        model = home.registry.champion()
        parts = parts_of(con, "encoded_features", drop)
        scored: Output
        explained: Stored
        if parts:
            folders = {"folder": work.folder, "reasons_folder": work.beside("reasons")}
            scored, explained = score_drop(con, work, parts, model, **folders, looks=LOOKS)
        else:
            features = by_kind_of(con, "encoded_features", drop)
            scored = score_features(con, features, model)
            explained = explain_features(con, features)
        results = predictions_checks(con, scored, accounting.count(encoded_features))
        header, warning, parquet = tuple(about["header"]), "; ".join(warnings_of(con, drop)), config.parquet
        if isinstance(scored, duckdb.DuckDBPyRelation):
            begin_call_list(context, con, home, scored, about["content"], header, warning, delivery)
        made_from = {"probability": [("encoded_features", f) for f in model.encoder.features]}
        target = home.home.predictions / f"{drop}.csv"
        metadata = {
            "model_version": model.version,
            "file": dg.MetadataValue.path(str(target)),
            "dagster/column_lineage": lineage(made_from),
        }
        yield from publish({"predictions": scored, "reasons": explained}, results, metadata)
        con = warehouse.connection()
        told = rows_of(con, "predictions", [drop])
        if isinstance(scored, MadeTable):
            write_scored_drop(
                work,
                engine.shards(delivery),
                scored.parts,
                parts_of(con, "raw_leads", drop),
                target,
                header=header,
                warning=warning,
                folder=f"{work.folder}.scored",
                parquet=parquet,
            )
        else:
            if warning:
                told = told.select(duckdb.StarExpression(), duckdb.ConstantExpression(warning).alias("warning"))
            delivered = delivered_rows(delivery.path, in_lines=not parquet)
            write_scored_file(target, header, delivered, told, parquet=parquet)
        warehouse.pass_on()


@timed
def predictions_checks(con: duckdb.DuckDBPyConnection, scored: Output, leads: int) -> list[dg.AssetCheckResult]:
    """The checks of predictions for this many cleaned leads."""
    rows, told = count_of(scored), relation_of(con, scored)  # noqa: F841  named in the SQL below
    distinct = con.sql("SELECT count(DISTINCT probability) FROM told").fetchall()[0][0]
    seen = scored.tallies["rows"] if isinstance(scored, MadeTable) else scored
    account = accounting.one_row(
        con,
        rows_unaccounted=abs(leads - rows),
        distinct_probabilities=distinct if rows >= accounting.TELLING_DROP else 2,
    )
    return evaluate(load_suite("predictions"), {"account": account, "rows": seen})


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
        home.ledger.refuse_refused(drop)
        con = warehouse.connection()
        about = _about_drop(con, drop)
        counts = {name: about[name] for name in ("drop", "rows_read", "rows_rejected")}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        figures = summarise(predictions, {**counts, "scored_at": now})
        model = home.registry.load(figures["model_version"] or home.registry.champion_version())
        meaning, others = Meaning.of(model), _share_of_other_times(con, drop)
        results = prediction_summary_checks(con, figures, model.settings["share_of_ones"], others)
        row = con.sql("SELECT " + ", ".join(f"? AS {name}" for name in figures), params=list(figures.values()))
        warnings = warnings_of(con, drop)
        write_whole(home.home.predictions / f"{drop}.summary.txt", summary_text(figures, meaning, warnings))
        told = summary_markdown(figures, meaning, [inert(warning, 1500) for warning in warnings])
        yield from publish(row, results, {"summary": dg.MetadataValue.md(told)})
        with home.home.percentages.open("a", encoding="utf-8") as log:
            log.write(percentages_line(figures))


@timed
def prediction_summary_checks(
    con: duckdb.DuckDBPyConnection,
    figures: dict[str, Any],
    usual_share_of_ones: float,
    share_of_other_times: float = 0.0,
) -> list[dg.AssetCheckResult]:
    """The checks of prediction_summary; `usual_share_of_ones` is that of the model's own hold-out.

    `share_of_other_times` of the leads are of a time that the model knows nothing of.
    """
    leads = figures["lead_count"]
    shares = figures["share_of_ones"] + figures["share_of_zeros"]
    distance = abs(figures["share_of_ones"] - usual_share_of_ones) / model_settings()["share_of_ones_band"]
    account = accounting.one_row(
        con,
        shares_unaccounted=abs(shares - 1) if leads else 0,
        distance_in_bands=distance if leads >= accounting.TELLING_DROP else 0,
        share_of_other_times=share_of_other_times,
    )
    return evaluate(load_suite("prediction_summary"), {"account": account})


def _share_of_other_times(con: duckdb.DuckDBPyConnection, drop: str) -> float:
    """The share of a drop's leads created before any labelled lead, or more than a year after the last."""
    if not has_table(con, "lead_counts"):
        return 0.0
    cleaned = rows_of(con, "cleaned_leads", [drop])  # noqa: F841  named in the SQL below
    found = con.sql(
        "WITH taught AS "
        "(SELECT min(created_day) AS first, max(created_day) + INTERVAL 1 YEAR AS last FROM lead_counts) "
        "SELECT coalesce(avg((created_date::DATE NOT BETWEEN first AND last)::TINYINT), 0) "
        "FROM cleaned, taught WHERE first IS NOT NULL"
    ).fetchall()
    return float(found[0][0])


def _about_drop(con: duckdb.DuckDBPyConnection, drop: str) -> dict[str, Any]:
    """What `delivered_drops` says of a drop."""
    rows = stored_of(con, "delivered_drops", drop)
    return dict(zip(rows.columns, rows.fetchall()[0], strict=True))
