"""Scoring: from features to probability, flag, score, grade and reasons, and the files for people.

What lives here: a model as it scores (booster, encoder, settings) and the scored CSV. What does not: where a
model is kept (`registry.py`) and how features are made (`encoding.py`). Scoring never learns.
"""

import csv
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from junk_leads.errors import RegistryError
from junk_leads.reference import LeadSchema
from junk_leads.steps.boosting import Booster
from junk_leads.steps.leads.cleaning import normalise
from junk_leads.steps.leads.encoding import Encoder, encode
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.kinds import kinds_of_leads
from junk_leads.steps.learning.calibration import Calibration, correct_base_rate
from junk_leads.steps.learning.grading import grade_of, score_of
from junk_leads.steps.scoring.reasons import reasons_of
from junk_leads.steps.sql import quoted

PREDICTED = ("probability", "predicted_flag", "score", "grade", "reasons")
PREDICTED_TYPES = dict(
    zip((*PREDICTED, "model_version"), (pa.float64(), pa.int8(), pa.int8(), *[pa.string()] * 3), strict=True)
)
LEADS_AT_ONCE = 100_000
IDENTITY = ("drop", "lead_number")
FORMULA_STARTS = "=+-@\t\r"


@dataclass(frozen=True)
class ScoringModel:
    """A registered version as it scores: what was learned together travels together."""

    version: str
    booster: Booster
    encoder: Encoder
    settings: Mapping[str, Any]

    @property
    def threshold(self) -> float:
        """The probability, with the training's share of genuine leads, from which a lead is predicted genuine."""
        return float(self.settings["threshold"])

    @property
    def grades(self) -> Mapping[str, float]:
        """The least probability, with the training's share of genuine leads, of grades A, B and C."""
        found: Mapping[str, float] = self.settings["grades"]
        return found

    def predict(self, kinds: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, shape (k,), of kinds of leads (k x f, the encoder's features in their order).

        They are as in the training's sample, with its share of genuine leads.
        """
        if not len(kinds):
            return np.zeros(0)
        calibration = Calibration(**self.settings["calibration"])
        return calibration.apply(self.booster.predict(kinds))

    def tell(self, probabilities: np.ndarray) -> np.ndarray:
        """The probabilities that people are told: corrected for the platform's true share, where that is set."""
        return correct_base_rate(probabilities, self.settings["share_of_genuine"], self.settings["true_share"])


def score_features(
    con: duckdb.DuckDBPyConnection, encoded: duckdb.DuckDBPyRelation, model: ScoringModel
) -> Iterator[pa.Table]:
    """Predictions in pieces: drop, lead_number, probability, predicted_flag, score, grade, reasons, version.

    Takes `encoded_features`; raises RegistryError when a row is of another encoder than the model's own.
    """
    foreign = encoded.filter(duckdb.ColumnExpression("encoder_id") != duckdb.ConstantExpression(model.encoder.id))
    found = foreign.select("encoder_id").limit(1).fetchall()
    if found:
        raise RegistryError(
            f"encoded_features are of encoder {found[0][0]}, version {model.version} takes {model.encoder.id} only; "
            f"materialise encoded_features for the champion first"
        )
    told: list[pa.Table] = []
    kinds, kind = kinds_of_leads(_pieces(con, encoded, model.encoder, told), model.encoder.features)
    predicted = _predicted(kinds, model)
    if not told:
        told = [encoded.limit(0).select(*IDENTITY).to_arrow_table()]
    first = 0
    for identities in told:
        table = predicted.take(pa.array(kind[first : first + len(identities)]))
        for place, name in enumerate(IDENTITY):
            table = table.add_column(place, name, identities[name])
        yield table
        first += len(identities)


def _pieces(
    con: duckdb.DuckDBPyConnection, encoded: duckdb.DuckDBPyRelation, encoder: Encoder, told: list[pa.Table]
) -> Iterator[pa.Table]:
    """The features in pieces, in order of drop and lead number; `told` gets the identities of each."""
    columns = ", ".join((*IDENTITY, *(quoted(feature) for feature in encoder.features)))
    for drop, most in con.sql("SELECT drop, max(lead_number) FROM encoded GROUP BY drop ORDER BY drop").fetchall():
        for first in range(0, most + 1, LEADS_AT_ONCE):
            piece = con.sql(
                f"SELECT {columns} FROM encoded WHERE drop = ? AND lead_number >= ? AND lead_number < ? "
                "ORDER BY lead_number",
                params=[drop, first, first + LEADS_AT_ONCE],
            ).to_arrow_table()
            told.append(piece.select(list(IDENTITY)))
            yield piece


def _predicted(kinds: np.ndarray, model: ScoringModel) -> pa.Table:
    """What is predicted of each of k kinds of leads; each is predicted and explained once, however many leads it is."""
    probabilities = model.predict(kinds)
    columns = {
        "probability": model.tell(probabilities),
        "predicted_flag": (probabilities >= model.threshold).astype(np.int8),
        "score": score_of(probabilities),
        "grade": grade_of(probabilities, model.grades),
        "reasons": reasons_of(model.booster, model.encoder, model.settings["conversions"], kinds),
        "model_version": [model.version] * len(kinds),
    }
    return pa.table({name: pa.array(values, PREDICTED_TYPES[name]) for name, values in columns.items()})


def score_raw_leads(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, model: ScoringModel, schema: LeadSchema
) -> pa.Table:
    """Predictions for raw leads (drop, lead_number and the typed raw columns), each lead by itself.

    Makes them by the same steps as the graph, without dropping duplicates, so each row gets one.
    """
    cleaned = normalise(con, leads, schema)
    encoded = encode(con, cleaned, group_interactions(con, cleaned), model.encoder)
    return pa.concat_tables([*score_features(con, encoded, model)])


def write_scored_file(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    header: tuple[str, ...],
    delivered: duckdb.DuckDBPyRelation,
    predictions: duckdb.DuckDBPyRelation,
) -> int:
    """Write the scored CSV whole or not at all: the delivered columns, then what was predicted.

    `delivered` holds lead_number and the columns of `header` as text; one row is written for each of
    `predictions` (drop, lead_number, probability, ... model_version), in order of lead number. Cells that a
    spreadsheet would run as a formula are given a leading apostrophe. Returns the rows written.
    """
    texts = [name for name in delivered.columns if name != "lead_number"]
    told = [*IDENTITY, *(name for name in predictions.columns if name not in IDENTITY)]
    cells = [_inert_sql(f"d.{quoted(name)}") for name in texts] + [f"p.{name}" for name in told]
    body, part = path.with_suffix(".body"), path.with_suffix(".part")
    target = str(body).replace("'", "''")
    scored = predictions  # noqa: F841  by this name in the SQL below: a table called predictions would go before it
    con.execute(
        f"COPY (SELECT {', '.join(f'{cell} AS c{n}' for n, cell in enumerate(cells))} "
        "FROM scored AS p JOIN delivered AS d ON p.lead_number = d.lead_number ORDER BY p.lead_number) "
        f"TO '{target}' (FORMAT csv, HEADER false)"
    )
    with part.open("wb") as file, body.open("rb") as rows:
        heading = io.StringIO()
        csv.writer(heading).writerow([*map(inert_cell, header), *told])  # its own line end: \r in a name is quoted
        file.write(heading.getvalue().removesuffix("\r\n").encode() + b"\n")
        shutil.copyfileobj(rows, file)
    os.replace(part, path)
    body.unlink()
    return len(predictions)


def inert_cell(value: str) -> str:
    """A delivered cell that no spreadsheet takes for a formula."""
    return f"'{value}" if value and value[0] in FORMULA_STARTS else value


def _inert_sql(cell: str) -> str:
    starts = ", ".join(f"chr({ord(start)})" for start in FORMULA_STARTS)
    return f"CASE WHEN left({cell}, 1) IN ({starts}) THEN '''' || {cell} ELSE nullif({cell}, '') END"
