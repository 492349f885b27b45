"""Scoring: from features to probability, flag, score, grade and reasons.

What lives here: a model as it scores (booster, encoder, settings). What does not: the scored file (`scored_file.py`),
where a model is kept (`registry.py`) and how features are made (`encoding.py`). Scoring never learns.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from threading import Event
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa

from junk_leads.capacity import has_room_beside
from junk_leads.errors import RegistryError
from junk_leads.reference import LeadSchema
from junk_leads.steps.boosting import Booster
from junk_leads.steps.leads.cleaning import normalise
from junk_leads.steps.leads.encoding import Encoder, encode_kinds
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.kinds import ByKind, matrix_of
from junk_leads.steps.learning.calibration import Calibration, correct_base_rate
from junk_leads.steps.learning.grading import grade_of, score_of
from junk_leads.steps.scoring.reasons import contributions, reasons_of
from junk_leads.steps.sql import quoted

Made = TypeVar("Made")
PREDICTED = ("probability", "predicted_flag", "score", "grade", "reasons")
PREDICTED_TYPES = dict(
    zip((*PREDICTED, "model_version"), (pa.float64(), pa.int8(), pa.int8(), *[pa.string()] * 3), strict=True)
)
KINDS_AT_ONCE = 100_000  # that are predicted and explained
IDENTITY = ("drop", "lead_number")


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

    @cached_property
    def conversions(self) -> dict[str, float]:
        """How often leads of each sort apply, as people are told (see `reasons.conversions`)."""
        rates: Mapping[str, float] = self.settings["conversions"]
        return dict(zip(rates, self.tell(np.array(list(rates.values()))).tolist(), strict=True))

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


def score_features(con: duckdb.DuckDBPyConnection, features: ByKind, model: ScoringModel) -> duckdb.DuckDBPyRelation:
    """Predictions: drop, lead_number, probability, predicted_flag, score, grade, reasons, model_version.

    Raises RegistryError when a lead's features are of another encoder than the model's own. Each kind of lead is
    predicted and explained once, and joined to its leads inside DuckDB, whatever their number; the relation reads TEMP
    tables of `con`, the next call's of the same connection replace them.
    """
    leads = features.leads
    foreign = leads.filter(duckdb.ColumnExpression("encoder_id") != duckdb.ConstantExpression(model.encoder.id))
    found = foreign.select("encoder_id").limit(1).fetchall()
    if found:
        raise RegistryError(
            f"encoded_features are of encoder {found[0][0]}, version {model.version} takes {model.encoder.id} only; "
            f"materialise encoded_features for the champion first"
        )
    _predict_kinds(con, model, features.kinds)
    return con.sql(
        f"SELECT drop, lead_number, {', '.join(PREDICTED_TYPES)} FROM leads JOIN predicted_kinds USING (kind)"
    )


@dataclass(frozen=True)
class _Begun:
    """Kinds that a thread predicts with a version before they are asked for; alone when somebody waits for them."""

    version: str
    kinds: pa.Table
    waited_for: Event
    made: "Future[pa.Table]"


_begun: _Begun | None = None


def predict_ahead(con: duckdb.DuckDBPyConnection, kinds: duckdb.DuckDBPyRelation, model: ScoringModel) -> None:
    """Begin to predict kinds of leads in a thread, for `score_features` to take what it made of the same ones.

    What is done meanwhile, checks above all, leaves a processor idle. Nothing is begun where there is no second one,
    where memory is limited, or for more kinds than are predicted at once.
    """
    global _begun
    _begun = None
    if not has_room_beside():
        return
    found = _kinds_from(con, kinds, model, 0)
    if len(found) < KINDS_AT_ONCE:
        waited_for, pool = Event(), ThreadPoolExecutor(1)
        features = matrix_of(found, model.encoder.features)
        made = pool.submit(predict_kinds, features, model, others_work=lambda: not waited_for.is_set())
        pool.shutdown(wait=False)
        _begun = _Begun(model.version, found, waited_for, made)


def _predicted(kinds: pa.Table, model: ScoringModel) -> pa.Table:
    """What is predicted of kinds, and why: what was made of them ahead, if it was of just these."""
    global _begun
    begun, _begun = _begun, None
    if begun is None or begun.version != model.version or not begun.kinds.equals(kinds):
        return predict_kinds(matrix_of(kinds, model.encoder.features), model)
    begun.waited_for.set()
    return begun.made.result()


def _kinds_from(
    con: duckdb.DuckDBPyConnection, kinds: duckdb.DuckDBPyRelation, model: ScoringModel, first: int
) -> pa.Table:
    """The features of the next kinds that are predicted at once, in their order."""
    return con.sql(
        f"SELECT kind, {', '.join(map(quoted, model.encoder.features))} FROM kinds WHERE kind >= ? AND kind < ?",
        params=[first, first + KINDS_AT_ONCE],
    ).to_arrow_table()


def _predict_kinds(con: duckdb.DuckDBPyConnection, model: ScoringModel, kinds: duckdb.DuckDBPyRelation) -> None:
    """Fill `predicted_kinds` and `explained_kinds` with what is predicted of each of these kinds, and why."""
    con.execute(
        "CREATE OR REPLACE TEMP TABLE predicted_kinds (kind BIGINT, probability DOUBLE, predicted_flag TINYINT, "
        "score TINYINT, grade VARCHAR, reasons VARCHAR, model_version VARCHAR)"
    )
    ((last,),) = kinds.aggregate("coalesce(max(kind), 0)").fetchall()
    for first in range(0, last + 1, KINDS_AT_ONCE):
        piece = _kinds_from(con, kinds, model, first)
        told = _predicted(piece, model).add_column(0, "kind", piece["kind"])  # noqa: F841  DuckDB finds it by name
        con.execute(f"INSERT INTO predicted_kinds BY NAME SELECT kind, {', '.join(PREDICTED_TYPES)} FROM told")
        # made of the first piece, which may have no kinds: the columns are the model's
        made = "INSERT INTO explained_kinds BY NAME" if first else "CREATE OR REPLACE TEMP TABLE explained_kinds AS"
        con.execute(f"{made} SELECT * EXCLUDE ({', '.join(PREDICTED)}) FROM told")


def explain_features(con: duckdb.DuckDBPyConnection, features: ByKind) -> ByKind:
    """What spoke for the leads that `score_features` has just predicted, and against them, in log-odds.

    drop, lead_number, model_version, base, each original column, and log_odds, the booster's raw score, which they sum
    to. The relations read TEMP tables of `con`, as that of the predictions does.
    """
    kinds = features.kinds.select("drop", "kind")  # noqa: F841  named in the SQL below
    return ByKind(
        features.leads.select(*IDENTITY, "kind"), con.sql("SELECT * FROM kinds JOIN explained_kinds USING (kind)")
    )


def predict_kinds(
    kinds: np.ndarray, model: ScoringModel, *, others_work: Callable[[], bool] = lambda: False
) -> pa.Table:
    """What is predicted of each of k kinds of leads (k x f), and what spoke for it (`contributions`).

    The columns of PREDICTED_TYPES, then base, the contributions by original column and log_odds.
    """
    probabilities = model.predict(kinds)
    explained = contributions(model.booster, model.encoder, kinds, others_work=others_work)
    columns = {
        "probability": model.tell(probabilities),
        "predicted_flag": (probabilities >= model.threshold).astype(np.int8),
        "score": score_of(probabilities),
        "grade": grade_of(probabilities, model.grades),
        "reasons": reasons_of(explained, model.encoder, model.conversions, kinds),
        "model_version": [model.version] * len(kinds),
        "base": explained.base,
        **{name: explained.values[:, place] for place, name in enumerate(explained.columns)},
        "log_odds": explained.base + explained.values.sum(axis=1),
    }
    return pa.table(
        {name: pa.array(values, PREDICTED_TYPES.get(name, pa.float64())) for name, values in columns.items()}
    )


def score_raw_leads(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, model: ScoringModel, schema: LeadSchema
) -> pa.Table:
    """Predictions for raw leads (drop, lead_number and the typed raw columns), each lead by itself, in their order.

    Makes them by the same steps as the graph, without dropping duplicates, so each row gets one.
    """
    cleaned = normalise(con, leads, schema)
    features = encode_kinds(con, cleaned, group_interactions(con, cleaned), model.encoder)
    return score_features(con, features, model).order("drop, lead_number").to_arrow_table()
