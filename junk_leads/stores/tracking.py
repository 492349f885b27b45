"""Tracking in MLflow: parameters, metrics, plots, the model and what belongs to it.

What lives here: logging one training run and its model, the model's signature, and the learners of an experiment as
runs under one parent. What does not: fitting and measuring (`steps/`) and stages (`registry.py`).
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from importlib.resources import files
from pathlib import Path
from typing import Any

from junk_leads.reference import lead_schema
from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.learning.evaluation import Evaluated
from junk_leads.steps.learning.experimenting import Learner, Tried
from junk_leads.steps.learning.training import LabelledFeatures
from junk_leads.steps.learning.tuning import trials_as_dicts
from junk_leads.steps.learning.validation import Learned
from junk_leads.steps.pages.card import model_card
from junk_leads.steps.pages.leaderboard import as_markdown
from junk_leads.steps.pages.plots import plot_leaderboard, plot_side_by_side
from junk_leads.steps.pages.report import report_markdown
from junk_leads.steps.watching.profiles import Profile
from junk_leads.stores.mlflow_store import downloaded, mlflow_quiet
from junk_leads.stores.model_files import (
    BOOSTER_FILE,
    ENCODER_FILE,
    HASHES_FILE,
    PROFILE_FILE,
    SETTINGS_FILE,
    files_sha256,
    folder_sha256,
)
from junk_leads.stores.registry import DROPS_FILE, JUDGED, Registry, drops_tag

DAY = 86_400  # seconds
# What scoring a raw lead needs; the code itself travels with the model.
_REQUIREMENTS = ("duckdb", "filelock", "lightgbm", "mlflow", "numpy", "pandas", "pyarrow", "pyyaml")


@dataclass(frozen=True)
class Training:
    """What a training made and measured.

    `settings` is what the model carries besides what was learned, `plots` gives its plots by file name.
    """

    evaluated: Evaluated
    data: LabelledFeatures
    encoder: Encoder
    settings: Mapping[str, Any]
    parameters: Mapping[str, Any]
    drops: Mapping[str, int]
    profile: Profile
    plots: Callable[[], dict[str, bytes]]


@dataclass(frozen=True)
class Logged:
    """A training that was logged: its version, run, plots by file name, and model card."""

    version: str
    run_id: str
    plots: dict[str, bytes]
    card: str


def log_training(mlflow: Any, registry: Registry, training: Training) -> Logged:
    """Log a training into the active MLflow run and register its model; `mlflow` is dagster-mlflow's resource."""
    evaluated, encoder, report = training.evaluated, training.encoder, training.evaluated.report
    fingerprint = training.data.fingerprint
    gains = evaluated.model.booster.feature_importance("gain")
    with mlflow_quiet(), tempfile.TemporaryDirectory() as name:
        run_id = mlflow.active_run().info.run_id
        mlflow.log_params({**training.parameters, "data_fingerprint": fingerprint, "encoder_id": encoder.id})
        mlflow.log_params({"features": len(encoder.features), "calibration": evaluated.model.calibration.kind})
        mlflow.log_metrics({**report.values(), "threshold": evaluated.model.threshold})
        for step, found in enumerate(report.weeks.values()):
            mlflow.log_metrics({f"week_{metric}": x.value for metric, x in found.items()}, step=step)
        mlflow.log_dict(report.as_dict(), "evaluation.json")
        mlflow.log_text(report_markdown(report), "evaluation.md")
        mlflow.log_dict(dict(training.drops), DROPS_FILE)
        mlflow.log_text(encoder.to_json(), "encoder.json")
        mlflow.log_dict(dict(zip(encoder.features, map(float, gains), strict=True)), "feature_importance.json")
        folder = Path(name)
        judged_hashes = _write_model(folder / "judged", evaluated.judged, training)
        mlflow.log_artifacts(str(folder / "judged"), JUDGED)
        hashes = _write_model(folder / "model", evaluated.model, training, training.profile)
        model_uri = _log_model(mlflow, folder / "model")
        logged = downloaded(model_uri, registry.home.mlflow_uri)
        mlflow.set_tag("files_sha256", hashes)
        plots = training.plots()
        _log_plots(mlflow, plots)
        version = registry.register(
            run_id,
            model_uri,
            {
                "encoder_id": encoder.id,
                "files_sha256": hashes,
                "folder_sha256": folder_sha256(logged),
                "judged_sha256": judged_hashes,
                "data_fingerprint": fingerprint,
                "drops": drops_tag(training.drops),
                "newest_lead": repr(float(training.data.days.max()) * DAY),
                "holdout_from": repr(float(evaluated.holdout.days.min()) * DAY),
                "metrics": json.dumps({k: round(v, 6) for k, v in report.values().items()}),
            },
        )
        card = model_card(
            version,
            evaluated,
            training.data,
            encoder,
            drops=training.drops,
            parameters=training.parameters,
            aim=training.settings,
        )
        mlflow.log_text(card, "model_card.md")
        registry.describe_version(version, card)
    return Logged(version, run_id, plots, card)


def log_learner(mlflow: Any, learner: Learner, try_it: Callable[[], Tried]) -> tuple[Tried, str]:
    """Try a learner within a run of its own under the active one; returns how it fared and the run.

    Logs parameters, metrics with their bounds, seconds, trials of tuning, plots and LightGBM's model as text.
    """
    with mlflow_quiet(), mlflow.start_run(run_name=learner.name, nested=True) as run:
        mlflow.set_tags({"learner": learner.name, "library": learner.library})
        tried = try_it()
        mlflow.log_params(_flat(tried.parameters))
        mlflow.log_metrics(tried.figures())
        for trial in tried.trials:
            if trial.log_loss is not None:
                mlflow.log_metric("trial_log_loss", trial.log_loss, step=trial.number)
        if tried.trials:
            mlflow.log_dict({"trials": trials_as_dicts(tried.trials)}, "trials.json")
        _log_plots(mlflow, plot_side_by_side({learner.title: (tried.labels, tried.probabilities, tried.counts)}))
        if tried.booster is not None:
            mlflow.log_text(tried.booster.model_to_string(), BOOSTER_FILE)
        return tried, str(run.info.run_id)


def log_leaderboard(
    mlflow: Any, rows: Sequence[Mapping[str, Any]], tried: Sequence[Tried], about: Mapping[str, Any]
) -> tuple[str, dict[str, bytes]]:
    """Log the leaderboard of an experiment into the active run; returns the run and the plots by file name.

    `about` is what was the same for all: the leads, the encoder, the budget.
    """
    plots = {"leaderboard.png": plot_leaderboard(rows)}
    plots |= plot_side_by_side(
        {found.learner.title: (found.labels, found.probabilities, found.counts) for found in tried}
    )
    with mlflow_quiet():
        mlflow.log_params(dict(about))
        mlflow.log_metrics({"learners": len(rows), "best_temporal_auc": rows[0]["temporal_auc"]})
        mlflow.set_tag("best_learner", rows[0]["learner"])
        mlflow.log_dict({"leaderboard": list(rows)}, "leaderboard.json")
        mlflow.log_text(as_markdown(rows), "leaderboard.md")
        _log_plots(mlflow, plots)
        return str(mlflow.active_run().info.run_id), plots


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Parameters by one name each: LightGBM's own as they are, the others' with what they belong to."""
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, prefix if name == "lightgbm" else f"{prefix}{name}_")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _log_plots(mlflow: Any, plots: Mapping[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        for file, png in plots.items():
            Path(name, file).write_bytes(png)
        mlflow.log_artifacts(name, "plots")


def _write_model(folder: Path, learned: Learned, training: Training, profile: Profile | None = None) -> str:
    """Write a model's files and their hashes, which are returned; the profile is of all leads it learned from."""
    folder.mkdir()
    if profile is not None:
        (folder / PROFILE_FILE).write_text(profile.to_json(), encoding="utf-8")
    learned.booster.save_model(folder / BOOSTER_FILE)
    (folder / ENCODER_FILE).write_text(training.encoder.to_json(), encoding="utf-8")
    settings = {**training.settings, **learned.as_settings()}
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")
    hashes = files_sha256(folder)
    (folder / HASHES_FILE).write_text(hashes, encoding="utf-8")
    return hashes


def _log_model(mlflow: Any, folder: Path) -> str:
    """Log the model of a folder as code with its files; returns its URI."""
    from mlflow.models import ModelSignature

    package = Path(str(files("junk_leads")))
    inputs, outputs = _schemas()
    logged = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(package / "stores" / "scoring_model.py"),
        artifacts={
            "booster": str(folder / BOOSTER_FILE),
            "encoder": str(folder / ENCODER_FILE),
            "settings": str(folder / SETTINGS_FILE),
            "profile": str(folder / PROFILE_FILE),
            "hashes": str(folder / HASHES_FILE),
        },
        code_paths=[str(package)],
        signature=ModelSignature(inputs=inputs, outputs=outputs),
        input_example=_example(),
        pip_requirements=[f"{name}=={installed(name)}" for name in _REQUIREMENTS],
    )
    return str(logged.model_uri)


def _schemas() -> tuple[Any, Any]:
    from mlflow.types import ColSpec, DataType, Schema

    schema = lead_schema()
    # counts are doubles: missing ones are none of MLflow's whole numbers
    inputs = [
        ColSpec(
            DataType.string if column.type in ("VARCHAR", "TIMESTAMP") else DataType.double,
            column.name,
            required=column.name in schema.needed,
        )
        for column in schema.columns
        if column.role != "label"
    ]
    outputs = [
        ColSpec(DataType.double, "probability"),
        ColSpec(DataType.integer, "predicted_flag"),
        ColSpec(DataType.integer, "score"),
        ColSpec(DataType.string, "grade"),
        ColSpec(DataType.string, "reasons"),
    ]
    return Schema(inputs), Schema(outputs)


def _example() -> Any:
    """One invented lead with every column that a delivered one has."""
    import pandas as pd

    known = {
        "created_date": "2021-07-01 09:30:00",
        "city_mapped": "pune",
        "total_leads_droppped": 1.0,
        "referred_lead": 0.0,
    }
    row: dict[str, Any] = {}
    for column in lead_schema().columns:
        if column.role != "label":
            row[column.name] = known.get(column.name, "Level0" if column.role == "level" else 0.0)
    return pd.DataFrame([row])
