"""Training: from labelled features to a LightGBM booster.

What lives here: the training set, its refusals, and fitting. What does not: measuring a model
(`evaluation.py`), tracking it (`registry.py`) and making features (`encoding.py`).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from junk_leads.errors import TrainingRefused
from junk_leads.steps.boosting import Booster, fit
from junk_leads.steps.leads.encoding import Encoder, encode_counts
from junk_leads.steps.leads.kinds import distinct_rows, kinds_of_leads

LEADS_AT_ONCE = 100_000


@dataclass(frozen=True)
class LabelledFeatures:
    """n labelled leads, held by kind: leads with the same features are told once.

    `names` are the f features, `kinds` (k x f, whole numbers) the kinds, `kind` (n) which of them each lead is,
    `labels` (n, 0 or 1), `created` (n, seconds).
    """

    names: tuple[str, ...]
    kinds: np.ndarray
    kind: np.ndarray
    labels: np.ndarray
    created: np.ndarray

    @classmethod
    def of_table(cls, features: pa.Table, labels: np.ndarray, created: np.ndarray) -> "LabelledFeatures":
        """The leads of a table with one column for each feature (n x f)."""
        names = tuple(features.column_names)
        return cls(names, *kinds_of_leads([features], names), labels, created)

    def __len__(self) -> int:
        return len(self.labels)

    def column(self, feature: str) -> np.ndarray:
        """One feature of every lead, shape (n,)."""
        values: np.ndarray = self.kinds[self.kind, self.names.index(feature)]
        return values

    def take(self, rows: np.ndarray) -> "LabelledFeatures":
        """The leads at these row numbers, in their order."""
        return LabelledFeatures(self.names, self.kinds, self.kind[rows], self.labels[rows], self.created[rows])

    def predicted_by(self, booster: Booster, **options: Any) -> np.ndarray:
        """A booster's probabilities, shape (n,); each kind is predicted once."""
        return self.predicted_with(lambda kinds: booster.predict(kinds, **options))

    def predicted_with(self, predict: Callable[[np.ndarray], Any]) -> np.ndarray:
        """Probabilities of the leads, shape (n,), from a function that gives those of kinds (k x f)."""
        present, place = np.unique(self.kind, return_inverse=True)
        if not len(present):
            return np.zeros(0)
        probabilities: np.ndarray = np.asarray(predict(self.kinds[present]))[place]
        return probabilities

    def weighted_rows(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The leads as r rows of a kind and label with their number, or joint weight: (r x f), (r,), (r,).

        `weights` (n,) are those of the leads. Fitted on these, a model is as fitted on the leads, many times as fast.
        """
        told, place = np.unique(self.kind * 2 + self.labels, return_inverse=True)
        return self.kinds[told // 2], told % 2, np.bincount(place, weights=weights)

    @property
    def fingerprint(self) -> str:
        """A hash of every value and of the order of rows and columns, 16 hexadecimal digits."""
        digest = hashlib.sha256(",".join(self.names).encode())
        for values in (self.kinds, self.kind, self.labels, self.created):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]


def labelled_features(
    con: duckdb.DuckDBPyConnection, counts: duckdb.DuckDBPyRelation, encoder: Encoder
) -> LabelledFeatures:
    """The leads of `lead_counts`, in order of drop and lead number, with the features of this encoder."""
    encoded = encode_counts(con, counts, encoder)  # noqa: F841  named in the SQL below
    columns = ", ".join(f'"{feature}"' for feature in encoder.features)
    rows = con.sql(
        f"SELECT {columns}, app_complete_flag AS label_, epoch(created_date) AS created_, lead_count AS count_ "
        "FROM encoded ORDER BY drop, first_lead"
    )
    told: list[pa.Table] = []

    def pieces() -> Iterator[pa.Table]:
        for batch in rows.to_arrow_reader(LEADS_AT_ONCE):
            piece = pa.Table.from_batches([batch])
            told.append(piece.select(["label_", "created_", "count_"]))
            yield piece

    kinds, kind = kinds_of_leads(pieces(), encoder.features)
    labels, created, leads = (
        np.concatenate([np.zeros(0), *(piece[name].to_numpy() for piece in told)])
        for name in ("label_", "created_", "count_")
    )
    each = np.repeat(np.arange(len(kind)), leads.astype(np.int64))
    return LabelledFeatures(encoder.features, kinds, kind[each], labels.astype(np.int8)[each], created[each])


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
    leads, ones = (np.bincount(data.kind, weights, len(data.kinds)) for weights in (None, data.labels))
    places = {feature: place for place, feature in enumerate(data.names)}
    for column, features in (
        {f: (f,) for f, source in encoder.sources.items() if source == f} | encoder.blocks
    ).items():
        # each level or value stands for its share of genuine leads, so that their order does not matter
        _, sort = distinct_rows(data.kinds[:, [places[feature] for feature in features]])
        everyone, genuine = np.bincount(sort, leads), np.bincount(sort, ones)
        shares = np.divide(genuine, everyone, out=np.zeros(len(everyone)), where=everyone > 0)
        labels = np.repeat([1, 0], len(shares))
        auc = roc_auc_score(labels, np.tile(shares, 2), sample_weight=np.concatenate([genuine, everyone - genuine]))
        if auc >= leak_auc:
            found[column] = float(auc)
    return found


@dataclass(frozen=True)
class Recipe:
    """How a booster is trained: LightGBM's own parameters and rounds, then the rounds that adapt it.

    Channels drift, and yesterday's leads tell more of tomorrow's: adapting trees are added on the leads of the last
    `window_days`, each lead's weight halved every `half_life_days` of age, with LightGBM parameters of their own.
    More of a `rising` feature never lowers a probability.
    """

    lightgbm: Mapping[str, Any]
    rounds: int
    rising: tuple[str, ...] = ()
    adapting: Mapping[str, Any] = field(default_factory=lambda: {"rounds": 0})

    def as_parameters(self) -> dict[str, Any]:
        """Everything that was set, by name, as tracking shows it."""
        own = {f"adapting_{name}": value for name, value in self.adapting.items() if name != "lightgbm"}
        theirs = {f"adapting_{name}": value for name, value in self.adapting.get("lightgbm", {}).items()}
        return {**self.lightgbm, "rounds": self.rounds, "rising": ", ".join(self.rising), **own, **theirs}


def train_booster(data: LabelledFeatures, recipe: Recipe) -> Booster:
    """A LightGBM booster trained on all of `data`: `recipe.rounds` trees, then those that adapt it.

    The same data and recipe give the same bytes of model. Leads of a kind with the same label are one row of their
    joint weight, which makes the same sums of gradients five times as fast; `min_sum_hessian_in_leaf`, not a count of
    rows, keeps leaves from being too small.
    """
    lightgbm = {**recipe.lightgbm, "monotone_constraints": [int(name in recipe.rising) for name in data.names]}
    booster = fit(*data.weighted_rows(), data.names, lightgbm, recipe.rounds)
    if not recipe.adapting["rounds"]:
        return booster
    age_days = (data.created.max() - data.created) / 86_400
    last = np.flatnonzero(age_days < recipe.adapting["window_days"])
    weights = 0.5 ** (age_days[last] / recipe.adapting["half_life_days"])
    parameters = {**lightgbm, **recipe.adapting.get("lightgbm", {})}
    rows = data.take(last).weighted_rows(weights / weights.mean())
    return fit(*rows, data.names, parameters, recipe.adapting["rounds"], after=booster)
