"""The jobs: declarations only.

What lives here: which assets each pipeline materialises, with a description. What does not: anything that runs.
"""

import dagster as dg

DATA_ASSETS = ("raw_leads", "cleaned_leads", "interaction_groups")
TRAINING_ASSETS = ("lead_counts", "significant_levels", "lightgbm_model")
EXPERIMENT_ASSETS = ("lead_counts", "significant_levels", "experiment_leaderboard")
INFERENCE_ASSETS = (*DATA_ASSETS, "encoded_features", "predictions", "prediction_summary")

data_pipeline = dg.define_asset_job(
    "data_pipeline",
    selection=list(DATA_ASSETS),
    description="A drop's file into the warehouse: read, checked, cleaned, interactions grouped. Partition: the drop.",
)

training_pipeline = dg.define_asset_job(
    "training_pipeline",
    selection=list(TRAINING_ASSETS),
    description=(
        "Counts the leads of new labelled drops, learns the significant levels of all, trains LightGBM and registers "
        "a version. Partitions: the range from the first to the last new labelled drop, in one run."
    ),
)

experiment = dg.define_asset_job(
    "experiment",
    selection=list(EXPERIMENT_ASSETS),
    description=(
        "Compares learners, tuned LightGBM among them, on the leads that a training learns from; each is an MLflow run "
        "under one parent. Registers nothing. Partitions: as of the training pipeline."
    ),
)

inference_pipeline = dg.define_asset_job(
    "inference_pipeline",
    selection=[*INFERENCE_ASSETS, "drop_report"],
    description=(
        "A drop's file into predictions: the data pipeline, then scoring by the champion, the call list and the "
        "report. Partition: the drop."
    ),
)

evaluation = dg.define_asset_job(
    "evaluation",
    selection=["outcomes"],
    description="Predictions beside the labels that came later: how each version fared, and what to do about it.",
)

accept_codes = dg.define_asset_job(
    "accept_codes",
    selection=["code_maps"],
    description=(
        "Accepts the code map of a drop whose codes look renamed, or takes it back: name the drop and the action in "
        "the run's config. Then run inference_pipeline for the drop."
    ),
)

JOBS = [data_pipeline, training_pipeline, experiment, inference_pipeline, evaluation, accept_codes]
