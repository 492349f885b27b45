"""Tracking a training in MLflow: parameters, metrics, plots, the model and what belongs to it.

What lives here: logging one training run and its model, and the model's signature. What does not: fitting and
measuring (`steps/`) and stages (`registry.py`).
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from importlib.resources import files
from pathlib import Path
from typing import Any

from junk_leads.reference import lead_schema
from junk_leads.registry import (
    BOOSTER_FILE,
    ENCODER_FILE,
    HASHES_FILE,
    JUDGED,
    SETTINGS_FILE,
    Registry,
    files_sha256,
    mlflow_quiet,
)
from junk_leads.steps.card import model_card
from junk_leads.steps.encoding import Encoder
from junk_leads.steps.evaluation import Evaluated
from junk_leads.steps.plots import plot_evaluation, plot_importance
from junk_leads.steps.training import LabelledFeatures
from junk_leads.steps.validation import Learned

# What scoring a raw lead needs; the code itself travels with the model.
_REQUIREMENTS = ("duckdb", "filelock", "lightgbm", "mlflow", "numpy", "pandas", "pyarrow", "pyyaml")


@dataclass(frozen=True)
class Training:
    """What a training made and measured; `settings` is what the model carries besides what was learned."""

    evaluated: Evaluated
    data: LabelledFeatures
    encoder: Encoder
    settings: Mapping[str, Any]
    parameters: Mapping[str, Any]
    drops: Mapping[str, int]


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
    plots = plot_evaluation(evaluated, training.data)
    gains = evaluated.model.booster.feature_importance("gain")
    plots["feature_importance.png"] = plot_importance(encoder.features, gains)
    with mlflow_quiet(), tempfile.TemporaryDirectory() as name:
        run_id = mlflow.active_run().info.run_id
        mlflow.log_params({**training.parameters, "data_fingerprint": fingerprint, "encoder_id": encoder.id})
        mlflow.log_params({"features": len(encoder.features), "calibration": evaluated.model.calibration.kind})
        mlflow.log_metrics({**report.values(), "threshold": evaluated.model.threshold})
        for step, found in enumerate(report.weeks.values()):
            mlflow.log_metrics({f"week_{metric}": x.value for metric, x in found.items()}, step=step)
        mlflow.log_dict(report.as_dict(), "evaluation.json")
        mlflow.log_text(report.as_markdown(), "evaluation.md")
        mlflow.log_dict(dict(training.drops), "drops.json")
        mlflow.log_text(encoder.to_json(), "encoder.json")
        mlflow.log_dict(dict(zip(encoder.features, map(float, gains), strict=True)), "feature_importance.json")
        folder = Path(name)
        (folder / "plots").mkdir()
        for file, png in plots.items():
            (folder / "plots" / file).write_bytes(png)
        mlflow.log_artifacts(str(folder / "plots"), "plots")
        judged_hashes = _write_model(folder / "judged", evaluated.judged, training)
        mlflow.log_artifacts(str(folder / "judged"), JUDGED)
        hashes = _write_model(folder / "model", evaluated.model, training)
        model_uri = _log_model(mlflow, folder / "model")
        mlflow.set_tag("files_sha256", hashes)
        version = registry.register(
            run_id,
            model_uri,
            {
                "encoder_id": encoder.id,
                "files_sha256": hashes,
                "judged_sha256": judged_hashes,
                "data_fingerprint": fingerprint,
                "drops": json.dumps(dict(training.drops)),
                "newest_lead": repr(float(training.data.created.max())),
                "holdout_from": repr(float(training.data.created[evaluated.holdout].min())),
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


def _write_model(folder: Path, learned: Learned, training: Training) -> str:
    """Write a model's three files and their hashes, which are returned."""
    folder.mkdir()
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
        python_model=str(package / "scoring_model.py"),
        artifacts={
            "booster": str(folder / BOOSTER_FILE),
            "encoder": str(folder / ENCODER_FILE),
            "settings": str(folder / SETTINGS_FILE),
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
    from mlflow.types.schema import AnyType

    schema = lead_schema()
    # any type: a client may give counts as whole numbers, decimals or text, and dates as text or timestamps
    inputs = [ColSpec(AnyType(), column.name, required=False) for column in schema.columns if column.role != "label"]
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
