"""From cleaned leads to features: what the encoder learns, and encoding.

What lives here: the assets significant_levels and encoded_features. What does not: the rule and the
encoding (`steps/leads/levels.py`, `steps/leads/encoding.py`).
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import dagster as dg
import duckdb

from junk_leads.defs.assets import declared, lineage
from junk_leads.defs.checks import evaluate, plain_failures, publish, stage
from junk_leads.defs.expectations import load_suite
from junk_leads.defs.io_managers import Warehouse
from junk_leads.defs.resources import HomeResource
from junk_leads.errors import TrainingRefused
from junk_leads.reference import INTERACTION_GROUPS, model_settings
from junk_leads.steps.leads import accounting
from junk_leads.steps.leads.encoding import IDENTITY, LEVEL_COLUMNS, Encoder, encode
from junk_leads.steps.leads.levels import learn_significant_levels
from junk_leads.stores.warehouse import rows_of


class Consumer(Enum):
    """Whose encoder the features are made with."""

    CHAMPION = "champion"
    TRAINING = "training"


class EncodingConfig(dg.Config):
    """Who takes the features: the champion (to score), or training (with the levels just learned)."""

    consumer: Consumer = Consumer.CHAMPION


@dg.asset(**declared("significant_levels", "training_pipeline", {"duckdb"}, by_drop=False))
def significant_levels(warehouse: dg.ResourceParam[Warehouse], cleaned_leads: duckdb.DuckDBPyRelation) -> Iterator[Any]:
    """Significant levels: one row for each level of platform, medium, source and city that training keeps.

    The most frequent levels that together reach 90 % of the labelled leads; the rest become `others`. They are
    the content of the encoder that belongs to the next model, with count, share and cumulative share.
    """
    with plain_failures():
        con = warehouse.connection()
        labelled = cleaned_leads.filter("app_complete_flag IS NOT NULL")
        levels = stage(con, "significant_levels", learn_significant_levels(con, labelled, LEVEL_COLUMNS))
        if not accounting.count(levels):
            raise TrainingRefused(
                "there are no labelled leads to learn from; ingest a CSV that has app_complete_flag (at least "
                "1,000 leads with 120 of each class)"
            )
        results = evaluate(load_suite("significant_levels"), {"rows": levels, "blocks": _reach(levels)})
        yield from publish(levels, results, {"encoder_id": Encoder.of_table(levels).id})


def _reach(levels: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    return levels.aggregate("feature, count(*) AS level_count, max(cumulative_share) AS reached", "feature")


@dg.asset(
    **declared("encoded_features", "training_pipeline", {"duckdb"}, deps=[significant_levels]),
    backfill_policy=dg.BackfillPolicy.single_run(),  # training takes all its drops in one run
)
def encoded_features(
    context: dg.AssetExecutionContext,
    config: EncodingConfig,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
    cleaned_leads: duckdb.DuckDBPyRelation,
    interaction_groups: duckdb.DuckDBPyRelation,
) -> Iterator[Any]:
    """Features: one row for each cleaned lead, exactly the columns that the consumer's model takes.

    Minor levels are `others`, categories one-hot as small integers, counts and interaction groups as they
    are. Made by the consumer's own encoder, whose id every row carries: the champion's to score, or the one
    just learned to train. A model refuses features of another encoder.
    """
    with plain_failures():
        con = warehouse.connection()
        if config.consumer is Consumer.TRAINING:
            encoder, usual_others = Encoder.of_table(rows_of(con, "significant_levels")), None
        else:
            model = home.registry.champion()
            encoder, usual_others = model.encoder, model.settings.get("shares_of_others")
        encoded = stage(con, "encoded_features", encode(con, cleaned_leads, interaction_groups, encoder))
        leads = accounting.count(cleaned_leads)
        others = accounting.count_others(encoded, encoder)
        results = encoded_features_checks(con, encoded, encoder, leads, others, usual_others)
        metadata = {
            "encoder_id": encoder.id,
            "consumer": config.consumer.value,
            "features": len(encoder.features),
            "leads_with_others": others,
            "dagster/column_lineage": _lineage(encoder),
        }
        yield from publish(encoded, results, metadata)


def encoded_features_checks(
    con: duckdb.DuckDBPyConnection,
    encoded: duckdb.DuckDBPyRelation,
    encoder: Encoder,
    leads: int,
    others: Mapping[str, int],
    usual_others: Mapping[str, float] | None = None,
) -> list[dg.AssetCheckResult]:
    """The checks of encoded_features for a consumer with this encoder; `leads` cleaned leads came in.

    `others` of them have a level that the encoder does not know, by column; `usual_others` are the shares that had one
    in the consumer's training, None while it is trained.
    """
    most = dict.fromkeys(encoder.levels, 1.0)
    if usual_others and leads >= accounting.TELLING_DROP:
        most = {column: min(1.0, share + model_settings()["others_band"]) for column, share in usual_others.items()}
    facts = {
        **{f"most_others:{column}": share for column, share in most.items()},
        "consumer:columns": (*IDENTITY, *encoder.features),
        "consumer:encoder_id": (encoder.id,),
        "consumer:blocks": tuple(encoder.blocks),
    }
    rows = accounting.count(encoded)
    frames: dict[str, Any] = {
        "header": tuple(encoded.columns),
        "account": accounting.one_row(con, rows_unaccounted=abs(leads - rows)),
        "others": accounting.one_row(con, **{column: n / max(rows, 1) for column, n in others.items()}),
    }
    if set(encoder.features) <= set(encoded.columns):
        frames["rows"] = accounting.block_sums(con, encoded, encoder)
    return evaluate(load_suite("encoded_features", facts), frames)


def _lineage(encoder: Encoder) -> dg.TableColumnLineage:
    return lineage(
        {
            feature: [("interaction_groups" if source in INTERACTION_GROUPS else "cleaned_leads", source)]
            for feature, source in encoder.sources.items()
        }
    )
