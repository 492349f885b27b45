"""Training: from labelled features to a LightGBM booster.

What lives here: the training set, its refusals, and fitting. What does not: measuring a model
(`evaluation.py`), tracking it (`registry.py`) and making features (`encoding.py`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa

from junk_leads.errors import TrainingRefused
from junk_leads.steps.encoding import Encoder

if TYPE_CHECKING:
    import lightgbm as lgb


@dataclass(frozen=True)
class LabelledFeatures:
    """n labelled leads: `features` (n x f, small integers), `labels` (n, 0 or 1), `created` (n, seconds)."""

    features: pa.Table
    labels: np.ndarray
    created: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "LabelledFeatures":
        """The leads at these row numbers, in their order."""
        return LabelledFeatures(self.features.take(pa.array(rows)), self.labels[rows], self.created[rows])

    @property
    def fingerprint(self) -> str:
        """A hash of every value and of the order of rows and columns, 16 hexadecimal digits."""
        digest = hashlib.sha256(",".join(self.features.column_names).encode())
        for column in self.features.columns:
            digest.update(np.ascontiguousarray(column.to_numpy()).tobytes())
        for values in (self.labels, self.created):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]


def labelled_features(
    con: duckdb.DuckDBPyConnection, encoded: duckdb.DuckDBPyRelation, encoder: Encoder
) -> LabelledFeatures:
    """The labelled leads of `encoded_features`, in order of drop and lead number.

    Raises TrainingRefused when a row is of another encoder.
    """
    labelled = encoded.filter("app_complete_flag IS NOT NULL")
    others = labelled.filter(f"encoder_id IS DISTINCT FROM '{encoder.id}'")
    if others.limit(1).fetchall():
        raise TrainingRefused(
            f"encoded_features holds features of another encoder than {encoder.id}; "
            f"run the whole training pipeline, which encodes with the encoder it has just learned"
        )
    columns = ", ".join(f'"{feature}"' for feature in encoder.features)
    table = con.sql(
        f"SELECT {columns}, app_complete_flag AS label_, epoch(created_date) AS created_ FROM labelled "
        "ORDER BY drop, lead_number"
    ).to_arrow_table()
    return LabelledFeatures(
        table.drop_columns(["label_", "created_"]).combine_chunks(),
        table["label_"].to_numpy().astype(np.int8),
        table["created_"].to_numpy(),
    )


def refuse_unfit(labels: np.ndarray, *, minimum_labelled: int, minimum_per_class: int) -> None:
    """Raise TrainingRefused when there are too few labelled leads, or too few of a class."""
    ones = int(labels.sum())
    zeros = len(labels) - ones
    if len(labels) < minimum_labelled or min(ones, zeros) < minimum_per_class:
        raise TrainingRefused(
            f"{len(labels):,} labelled leads ({ones:,} genuine, {zeros:,} junk) are too few to train on; expected at "
            f"least {minimum_labelled:,} with {minimum_per_class:,} of each class; ingest more labelled drops"
        )


def leaking_columns(data: LabelledFeatures, encoder: Encoder, *, leak_auc: float) -> dict[str, float]:
    """The columns that alone tell the label, with their AUC: by one feature, or by a block's levels."""
    from sklearn.metrics import roc_auc_score

    found: dict[str, float] = {}
    blocks = {f: (f,) for f, source in encoder.sources.items() if source == f} | encoder.blocks
    for column, features in blocks.items():
        values = sum(
            (place + 1) * data.features[feature].to_numpy().astype(np.int64) for place, feature in enumerate(features)
        )
        # each value stands for its share of genuine leads, so that the order of levels does not matter
        distinct, inverse = np.unique(values, return_inverse=True)
        if len(distinct) > 1:
            genuine = np.bincount(inverse, weights=data.labels) / np.bincount(inverse)
            auc = float(roc_auc_score(data.labels, genuine[inverse]))
            if auc >= leak_auc:
                found[column] = auc
    return found


@dataclass(frozen=True)
class Recipe:
    """How a booster is trained: LightGBM's own parameters, rounds, and how leads lose weight with age.

    A lead's weight is `least_weight` plus the rest halved every `half_life_days` of age (0: all weigh the same),
    because channels drift and yesterday's leads tell more of tomorrow's.
    """

    lightgbm: Mapping[str, Any]
    rounds: int
    half_life_days: float = 0.0
    least_weight: float = 0.0

    def weights(self, created: np.ndarray) -> np.ndarray | None:
        """The weights of leads created at these seconds, shape (n,), of mean 1; None when all are the same."""
        if not self.half_life_days:
            return None
        age_days = (created.max() - created) / 86_400
        weights = self.least_weight + (1 - self.least_weight) * 0.5 ** (age_days / self.half_life_days)
        return np.asarray(weights / weights.mean())

    def as_parameters(self) -> dict[str, Any]:
        """Everything that was set, by name, as tracking shows it."""
        ours = {"rounds": self.rounds, "half_life_days": self.half_life_days, "least_weight": self.least_weight}
        return {**self.lightgbm, **ours}


def train_booster(data: LabelledFeatures, recipe: Recipe) -> "lgb.Booster":
    """A LightGBM booster trained on all of `data`.

    The same data and recipe give the same bytes of model.
    """
    import lightgbm as lgb

    weights = recipe.weights(data.created)
    dataset = lgb.Dataset(data.features, label=data.labels, weight=weights, params={"verbosity": -1})
    return lgb.train(dict(recipe.lightgbm), dataset, num_boost_round=recipe.rounds)
