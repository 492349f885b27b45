"""The jobs: declarations only.

What lives here: which assets each pipeline materialises, with a description. What does not: anything that runs.
"""

import warnings
from collections.abc import Collection, Sequence

import dagster as dg

from junk_leads.defs.assets.features import Consumer

DATA_ASSETS = ("raw_leads", "cleaned_leads", "interaction_groups")
TRAINING_ASSETS = ("significant_levels", "encoded_features", "lightgbm_model")
EXPERIMENT_ASSETS = ("significant_levels", "encoded_features", "experiment_leaderboard")
INFERENCE_ASSETS = (*DATA_ASSETS, "encoded_features", "predictions", "prediction_summary")

data_pipeline = dg.define_asset_job(
    "data_pipeline",
    selection=list(DATA_ASSETS),
    description="A drop's file into the warehouse: read, checked, cleaned, interactions grouped. Partition: the drop.",
)

TRAINING_CONFIG = {"encoded_features": {"config": {"consumer": Consumer.TRAINING.name}}}

training_pipeline = dg.define_asset_job(
    "training_pipeline",
    selection=list(TRAINING_ASSETS),
    config={"ops": TRAINING_CONFIG},
    description=(
        "Learns the significant levels of all accepted labelled drops, encodes them, trains LightGBM and registers a "
        "version. Partitions: the range from the first to the last labelled drop, in one run."
    ),
)

experiment = dg.define_asset_job(
    "experiment",
    selection=list(EXPERIMENT_ASSETS),
    config={"ops": TRAINING_CONFIG},
    description=(
        "Compares learners, tuned LightGBM among them, on the leads that a training learns from; each is an MLflow run "
        "under one parent. Registers nothing. Partitions: as of the training pipeline."
    ),
)

inference_pipeline = dg.define_asset_job(
    "inference_pipeline",
    selection=list(INFERENCE_ASSETS),
    description="A drop's file into predictions: the data pipeline, then scoring by the champion. Partition: the drop.",
)

evaluation = dg.define_asset_job(
    "evaluation",
    selection=["outcomes"],
    description="Predictions beside the labels that came later: how each version fared, and what to do about it.",
)

# encoded_features takes many drops in a run and the others one: a backfill of inference takes one, as it should
warnings.filterwarnings("ignore", message="Asset job inference_pipeline materializes assets with varying Backfill")

JOBS = [data_pipeline, training_pipeline, experiment, inference_pipeline, evaluation]


def drop_range(known: Sequence[str], drops: Collection[str]) -> dict[str, str]:
    """The tags that make one run of the partitions from the first to the last of `drops`, in the order of `known`."""
    ordered = [drop for drop in known if drop in drops]
    return {"dagster/asset_partition_range_start": ordered[0], "dagster/asset_partition_range_end": ordered[-1]}
