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
from typing import TYPE_CHECKING, Any

import numpy as np

from junk_leads.reference import lead_schema
from junk_leads.registry import BOOSTER_FILE, ENCODER_FILE, SETTINGS_FILE, Registry, files_sha256, mlflow_quiet
from junk_leads.steps.encoding import Encoder
from junk_leads.steps.evaluation import Report
from junk_leads.steps.plots import plot_holdout, plot_importance

if TYPE_CHECKING:
    import lightgbm as lgb

# What scoring a raw lead needs; the code itself travels with the model.
_REQUIREMENTS = ("duckdb", "filelock", "lightgbm", "mlflow", "numpy", "pandas", "pyarrow", "pyyaml")


@dataclass(frozen=True)
class Training:
    """What a training made and measured; `holdout` is (labels, probabilities) of the split that is plotted."""

    booster: "lgb.Booster"
    encoder: Encoder
    settings: Mapping[str, Any]
    parameters: Mapping[str, Any]
    report: Report
    drops: Mapping[str, int]
    fingerprint: str
    holdout: tuple[np.ndarray, np.ndarray]


def log_training(mlflow: Any, registry: Registry, training: Training) -> tuple[str, str, dict[str, bytes]]:
    """Log a training into the active MLflow run and register its model.

    `mlflow` is dagster-mlflow's resource. Returns the version, the run's id, and the plots by file name.
    """
    with mlflow_quiet():
        run_id = mlflow.active_run().info.run_id
        mlflow.log_params({**training.parameters, "data_fingerprint": training.fingerprint})
        mlflow.log_params({"encoder_id": training.encoder.id, "features": len(training.encoder.features)})
        mlflow.log_metrics(training.report.values())
        mlflow.log_dict(training.report.as_dict(), "evaluation.json")
        mlflow.log_text(training.report.as_markdown(), "evaluation.md")
        mlflow.log_dict(dict(training.drops), "drops.json")
        mlflow.log_text(training.encoder.to_json(), "encoder.json")
        plots = plot_holdout(*training.holdout, training.settings["threshold"])
        gains = training.booster.feature_importance("gain")
        plots["feature_importance.png"] = plot_importance(training.encoder.features, gains)
        mlflow.log_dict(dict(zip(training.encoder.features, map(float, gains), strict=True)), "feature_importance.json")
        with tempfile.TemporaryDirectory() as folder:
            for name, png in plots.items():
                (Path(folder) / name).write_bytes(png)
            mlflow.log_artifacts(folder, "plots")
        model_uri, hashes = _log_model(mlflow, training)
        mlflow.set_tag("files_sha256", hashes)
        version = registry.register(
            run_id,
            model_uri,
            {
                "encoder_id": training.encoder.id,
                "files_sha256": hashes,
                "data_fingerprint": training.fingerprint,
                "metrics": json.dumps({k: round(v, 6) for k, v in training.report.values().items()}),
            },
        )
    return version, run_id, plots


def _log_model(mlflow: Any, training: Training) -> tuple[str, str]:
    """Log the model as code with its three files; returns its URI and the files' hashes."""
    from mlflow.models import ModelSignature

    package = Path(str(files("junk_leads")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training.booster.save_model(folder / BOOSTER_FILE)
        (folder / ENCODER_FILE).write_text(training.encoder.to_json(), encoding="utf-8")
        (folder / SETTINGS_FILE).write_text(json.dumps(dict(training.settings), indent=1), encoding="utf-8")
        hashes = files_sha256(folder)
        inputs, outputs = _schemas()
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(package / "scoring_model.py"),
            artifacts={
                "booster": str(folder / BOOSTER_FILE),
                "encoder": str(folder / ENCODER_FILE),
                "settings": str(folder / SETTINGS_FILE),
            },
            code_paths=[str(package)],
            signature=ModelSignature(inputs=inputs, outputs=outputs),
            input_example=_example(),
            pip_requirements=[f"{name}=={installed(name)}" for name in _REQUIREMENTS],
        )
    return logged.model_uri, hashes


def _schemas() -> tuple[Any, Any]:
    from mlflow.types import ColSpec, DataType, Schema

    numbers = {"INTEGER": DataType.double, "TIMESTAMP": DataType.string, "VARCHAR": DataType.string}
    schema = lead_schema()
    inputs = [ColSpec(numbers[c.type], c.name, required=False) for c in schema.columns if c.role != "label"]
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
