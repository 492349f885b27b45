"""The registered model: raw leads in, predictions out, the encoder inside.

What lives here: MLflow's face of `steps/scoring/`, logged as code (no pickle). What does not: the steps, which are the
graph's own, so that any MLflow client scores a raw lead as the graph does, to the bit.
"""

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from junk_leads.reference import lead_schema
from junk_leads.steps.scoring.scoring import PREDICTED, score_raw_leads
from junk_leads.stores.model_files import load_scoring_model

SCHEMA = lead_schema()


class RawLeadModel(PythonModel):  # type: ignore[misc]
    """Scores raw leads: a frame with the columns of the lead schema, as text or numbers; missing ones are null."""

    def load_context(self, context: Any) -> None:
        """Verify and load the version's files."""
        folder = Path(context.artifacts["settings"]).parent
        hashes = Path(context.artifacts["hashes"]).read_text(encoding="utf-8")
        self.model = load_scoring_model(folder, "registered", hashes)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Probability, predicted flag, score, grade and reasons, a row for each lead, in the same order."""
        frame = model_input.reset_index(drop=True)
        missing = ", ".join(f"'{token}'" for token in SCHEMA.null_tokens)
        cells = [
            f'TRY_CAST(CASE WHEN CAST("{column.name}" AS VARCHAR) IN ({missing}) THEN NULL ELSE "{column.name}" END '
            f'AS {column.type}) AS "{column.name}"'
            if column.name in frame.columns
            else f'NULL::{column.type} AS "{column.name}"'
            for column in SCHEMA.columns
        ]
        with duckdb.connect() as con:
            con.register("frame", frame.assign(lead_number=range(len(frame))))
            leads = con.sql(f"SELECT '' AS drop, lead_number, {', '.join(cells)} FROM frame")
            scored = score_raw_leads(con, leads, self.model, SCHEMA)
        predicted: pd.DataFrame = scored.select(list(PREDICTED)).to_pandas()
        return predicted


set_model(RawLeadModel())
