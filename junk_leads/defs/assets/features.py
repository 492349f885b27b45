"""From cleaned leads to features: what the encoder learns, and encoding for the champion.

What lives here: the assets lead_counts, significant_levels and encoded_features. What does not: counting, the rule and
the encoding (`steps/leads/counting.py`, `steps/leads/levels.py`, `steps/leads/encoding.py`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import duckdb
from pydantic import Field

from junk_leads.defs.assets import DROPS, INFERENCE_PIPELINE, TRAINING_PIPELINE, declared, lineage, will_make
from junk_leads.defs.assets.champion import tell_of_champion
from junk_leads.defs.checks import check_specs, evaluate, plain_failures, publish, stage, tell, timed
from junk_leads.defs.expectations.suites import load_suite
from junk_leads.defs.io_managers import Warehouse
from junk_leads.defs.labelled_drops import LABELLED_DROPS, looked_at
from junk_leads.defs.resources import EngineResource, HomeResource
from junk_leads.defs.trust import Accepting, trust_of, trust_specs
from junk_leads.engine.drops import MadeTable, encode_drop
from junk_leads.engine.table_parts import count_of, parts_of, relation_of
from junk_leads.errors import DropNotTrusted, TrainingRefused
from junk_leads.reference import INTERACTION_GROUPS, lead_schema, model_settings
from junk_leads.steps.leads import accounting
from junk_leads.steps.leads.counting import KIND_COLUMNS
from junk_leads.steps.leads.encoding import IDENTITY, LEVEL_COLUMNS, Encoder, encode_kinds
from junk_leads.steps.leads.kinds import ByKind
from junk_leads.steps.leads.levels import learn_significant_levels
from junk_leads.steps.scoring.scoring import predict_ahead
from junk_leads.stores.drops.labelled import counts_of, learned_once, uncounted
from junk_leads.stores.drops.trusting import beside_training
from junk_leads.stores.warehouse import rows_of


@dg.asset(
    **declared(
        "lead_counts",
        TRAINING_PIPELINE,
        {"duckdb"},
        partitions_def=LABELLED_DROPS,
        deps=[
            dg.AssetDep(name, partition_mapping=dg.IdentityPartitionMapping())
            for name in ("cleaned_leads", "interaction_groups")
        ],
    ),
    backfill_policy=dg.BackfillPolicy.single_run(),  # training takes all its new drops in one run
)
def lead_counts(
    context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse], engine: EngineResource
) -> Iterator[Any]:
    """Labelled leads, counted: one row for each kind, day of creation and label of a labelled drop.

    A kind is what models tell leads apart by: cleaned levels, tier, counts and interaction groups, before any encoder.
    All that is learned from leads is learned from these counts; a drop that is counted is not read again.
    """
    with plain_failures(), engine.making("lead_counts", "all") as work:
        con, drops = warehouse.connection(), list(context.partition_keys)
        anew = [drop for drop in uncounted(con) if drop in drops] or drops
        counts = stage(con, "lead_counts", counts_of(con, drops, anew, work))
        labelled = rows_of(con, "cleaned_leads", anew).filter(f"{lead_schema().label} IS NOT NULL")
        made_from = {name: [("cleaned_leads", name)] for name in (*KIND_COLUMNS, lead_schema().label)}
        made_from |= {"created_day": [("cleaned_leads", "created_date")]}
        made_from |= {name: [("interaction_groups", name)] for name in INTERACTION_GROUPS}
        metadata = {"drops_counted": len(anew), "dagster/column_lineage": lineage(made_from)}
        new = counts.filter(duckdb.ColumnExpression("drop").isin(*map(duckdb.ConstantExpression, anew)))
        yield from publish(counts, lead_counts_checks(con, new, accounting.count(labelled)), metadata)


@timed
def lead_counts_checks(
    con: duckdb.DuckDBPyConnection, counts: duckdb.DuckDBPyRelation, leads: int
) -> list[dg.AssetCheckResult]:
    """The checks of lead_counts, made of this many labelled cleaned leads."""
    counted = int(counts.aggregate("coalesce(sum(lead_count), 0)").fetchall()[0][0])
    account = accounting.one_row(con, leads_unaccounted=abs(leads - counted))
    return evaluate(load_suite("lead_counts"), {"rows": counts, "account": account})


@dg.asset(**declared("significant_levels", TRAINING_PIPELINE, {"duckdb"}, by_drop=False))
def significant_levels(
    context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse], lead_counts: duckdb.DuckDBPyRelation
) -> Iterator[Any]:
    """Significant levels: one row for each level of platform, medium, source and city that training keeps.

    The most frequent levels that together reach 90 % of the labelled leads; the rest become `others`. They are
    the content of the encoder that belongs to the next model, with count, share and cumulative share.
    """
    with plain_failures():
        con = warehouse.connection()
        levels = stage(
            con, "significant_levels", learn_significant_levels(con, learned_once(con, lead_counts), LEVEL_COLUMNS)
        )
        missing = uncounted(con, looked_at(context.run))  # of what came since the next training learns
        if missing:
            raise TrainingRefused(
                f"the leads of {', '.join(missing[:3])} are labelled but not counted; run the whole training pipeline, "
                "which counts them first"
            )
        if not accounting.count(levels):
            raise TrainingRefused(
                "there are no labelled leads to learn from; ingest a CSV that has app_complete_flag (at least "
                "1,000 leads with 120 of each class)"
            )
        results = evaluate(load_suite("significant_levels"), {"rows": levels, "blocks": _reach(levels)})
        encoder = Encoder.of_table(levels)
        yield from publish(levels, results, {"encoder_id": encoder.id}, data_version=encoder.id)


def _reach(levels: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    return levels.aggregate("feature, count(*) AS level_count, max(cumulative_share) AS reached", "feature")


class EncodingConfig(dg.Config):
    """Whether a drop that contradicts what the champion was taught is encoded all the same, and why."""

    accept_drift: bool = Field(default=False, description="Score a drop that cannot be trusted all the same.")
    why: str = Field(default="", description="Why it is scored all the same; kept.")
    by: str = ""


@dg.asset(
    **declared(
        "encoded_features",
        INFERENCE_PIPELINE,
        {"duckdb"},
        deps=["champion"],
        check_specs=[*check_specs("encoded_features", DROPS), *trust_specs(DROPS)],
    )
)
def encoded_features(
    context: dg.AssetExecutionContext,
    config: EncodingConfig,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
    engine: EngineResource,
    cleaned_leads: duckdb.DuckDBPyRelation,
    interaction_groups: duckdb.DuckDBPyRelation,
) -> Iterator[Any]:
    """Features: one row for each cleaned lead, exactly the columns that the champion takes.

    Minor levels are `others`, categories one-hot as small integers, counts and interaction groups as they
    are. Made by the champion's own encoder, whose id every row carries: a model refuses features of another one.
    A drop that contradicts what the champion was taught is refused here, unless somebody takes that upon them; what was
    found is kept in the table `drop_trust`.
    """
    drop = context.partition_key
    with plain_failures(), engine.making("encoded_features", drop) as work:
        home.ledger.refuse_refused(drop)
        con = warehouse.connection()
        model = home.registry.champion()
        tell_of_champion(context.instance, home.registry, model.version)
        encoder, leads = model.encoder, accounting.count(cleaned_leads)
        parts = parts_of(con, "cleaned_leads", drop)
        encoded: ByKind | MadeTable
        if parts:
            groups = parts_of(con, "interaction_groups", drop)
            looks = load_suite("encoded_features", _facts(encoder)).looks
            encoded, others = encode_drop(con, work, parts, groups, encoder, folder=work.folder, looks=looks)
        else:
            made = encode_kinds(con, cleaned_leads, interaction_groups, encoder)
            encoded = ByKind(stage(con, "encoded_leads", made.leads, leads), made.kinds)
            if will_make(context, "predictions"):
                predict_ahead(con, made.kinds, model)
            others = accounting.count_others(encoded.rows(con), encoder)
        usual_others = model.settings.get("shares_of_others")
        results = encoded_features_checks(con, encoded, encoder, leads, others, usual_others)
        metadata = {
            "encoder_id": encoder.id,
            "model_version": model.version,
            "features": len(encoder.features),
            "leads_with_others": others,
            "dagster/column_lineage": _lineage(encoder),
        }
        beside = beside_training(con, home.registry, model.version, encoder, drop, cleaned_leads, interaction_groups)
        accepting = Accepting(config.why, config.by, context.run.run_id) if config.accept_drift else None
        trust = trust_of(con, home, drop, beside, accepting)
        results += trust.results
        if trust.refused:
            yield from tell(results)
            raise DropNotTrusted(trust.refused)
        outputs = {"encoded_features": encoded, "drop_trust": trust.row}
        yield from publish(outputs, results, {**metadata, **trust.metadata})


@timed
def encoded_features_checks(
    con: duckdb.DuckDBPyConnection,
    encoded: ByKind | MadeTable,
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
        **_facts(encoder),
    }
    told = relation_of(con, encoded)
    rows = count_of(encoded if isinstance(encoded, MadeTable) else told)
    frames: dict[str, Any] = {
        "header": tuple(told.columns),
        "account": accounting.one_row(con, rows_unaccounted=abs(leads - rows)),
        "others": accounting.one_row(con, **{column: n / max(rows, 1) for column, n in others.items()}),
    }
    if isinstance(encoded, MadeTable):
        frames |= encoded.tallies
    elif set(encoder.features) <= set(told.columns):
        frames["rows"] = stage(con, "block_sums", accounting.block_sums(con, encoded, encoder))
    return evaluate(load_suite("encoded_features", facts), frames)


def _facts(encoder: Encoder) -> dict[str, Any]:
    """What the suite is told of the consumer of features."""
    return {
        "consumer:columns": (*IDENTITY, *encoder.features),
        "consumer:encoder_id": (encoder.id,),
        "consumer:blocks": tuple(encoder.blocks),
    }


def _lineage(encoder: Encoder) -> dg.TableColumnLineage:
    return lineage(
        {
            feature: [("interaction_groups" if source in INTERACTION_GROUPS else "cleaned_leads", source)]
            for feature, source in encoder.sources.items()
        }
    )
