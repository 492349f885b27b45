"""Pure steps: from relations or frames to relations or frames; no Dagster, MLflow or Great Expectations."""
