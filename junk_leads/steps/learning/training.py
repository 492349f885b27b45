"""Training: from counted labelled leads to a LightGBM booster.

What lives here: the training set, its refusals, and fitting. What does not: measuring a model
(`evaluation.py`), tracking it (`registry.py`) and making features (`encoding.py`).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from junk_leads.errors import TrainingRefused
from junk_leads.reference import lead_schema
from junk_leads.steps.boosting import Booster, fit
from junk_leads.steps.leads.encoding import Encoder, code_counts
from junk_leads.steps.leads.kinds import kinds_of_leads


@dataclass(frozen=True)
class LabelledFeatures:
    """Labelled leads, counted: r rows of leads of one kind, day and label.

    `names` are the f features, `kinds` (k x f, whole numbers) the kinds, `kind` (r) which of them a row is, `labels`
    (r, 0 or 1), `days` (r, whole days since 1970), `counts` (r, whole numbers) how many leads a row is. The order of
    rows depends on the leads alone, not on how they came.
    """

    names: tuple[str, ...]
    kinds: np.ndarray
    kind: np.ndarray
    labels: np.ndarray
    days: np.ndarray
    counts: np.ndarray

    @classmethod
    def of_table(cls, features: pa.Table, labels: np.ndarray, days: np.ndarray) -> "LabelledFeatures":
        """The leads of a table with one column for each feature (n x f), their labels (n,) and days (n,)."""
        names = tuple(features.column_names)
        return cls.of_leads(names, *kinds_of_leads([features], names), labels, days)

    @classmethod
    def of_leads(
        cls, names: tuple[str, ...], kinds: np.ndarray, kind: np.ndarray, labels: np.ndarray, days: np.ndarray
    ) -> "LabelledFeatures":
        """N leads one by one: the kind, label and day of each have shape (n,)."""
        leads = np.stack([days, kind, labels], axis=1).astype(np.int64)
        rows, counts = np.unique(leads, axis=0, return_counts=True)
        return cls(names, kinds, rows[:, 1], rows[:, 2].astype(np.int8), rows[:, 0], counts)

    @property
    def leads(self) -> int:
        """How many leads they are."""
        return int(self.counts.sum())

    @property
    def genuine(self) -> int:
        """How many of them are genuine."""
        return int(self.counts[self.labels == 1].sum())

    @property
    def share(self) -> float:
        """The share of them that is genuine, 0 to 1."""
        return self.genuine / max(self.leads, 1)

    def column(self, feature: str) -> np.ndarray:
        """One feature of every row, shape (r,)."""
        values: np.ndarray = self.kinds[self.kind, self.names.index(feature)]
        return values

    def take(self, counts: np.ndarray) -> "LabelledFeatures":
        """So many leads of each row, shape (r,); rows of which none is taken are left out."""
        kept = np.flatnonzero(counts)
        rows = {name: getattr(self, name)[kept] for name in ("kind", "labels", "days")}
        return replace(self, **rows, counts=counts[kept])

    def undated(self) -> "LabelledFeatures":
        """The leads in rows of kind and label alone; the days of all are the newest."""
        told, place = np.unique(self.kind * 2 + self.labels, return_inverse=True)
        counts = np.bincount(place, self.counts).astype(np.int64)
        labels, days = (told % 2).astype(np.int8), np.full(len(told), self.days.max(initial=0))
        return replace(self, kind=told // 2, labels=labels, days=days, counts=counts)

    def predicted_by(self, booster: Booster, **options: Any) -> np.ndarray:
        """A booster's probabilities of each row, shape (r,); each kind is predicted once.

        Raises TrainingRefused for a booster that was taught other features than these.
        """
        if tuple(booster.feature_name()) != self.names:
            raise TrainingRefused(
                "these features are of another encoder than the model's own; encode them with its own"
            )
        return self.predicted_with(lambda kinds: booster.predict(kinds, **options))

    def predicted_with(self, predict: Callable[[np.ndarray], Any]) -> np.ndarray:
        """Probabilities of each row, shape (r,), from a function that gives those of kinds (k x f)."""
        present = np.flatnonzero(np.bincount(self.kind, minlength=len(self.kinds)))
        if not len(present):
            return np.zeros(0)
        probabilities = np.zeros(len(self.kinds))
        probabilities[present] = np.asarray(predict(self.kinds[present]))
        told: np.ndarray = probabilities[self.kind]
        return told

    def weighted_rows(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The leads as rows of a kind and label with their number, or joint weight: (m x f), (m,), (m,).

        `weights` (r,) are those of a lead of each row. Fitted on these, a model is as fitted on the leads, many times
        as fast.
        """
        joint = np.bincount(
            self.kind * 2 + self.labels,
            self.counts if weights is None else self.counts * weights,
            minlength=2 * len(self.kinds),
        )
        told = np.flatnonzero(np.bincount(self.kind * 2 + self.labels, minlength=len(joint)))
        return self.kinds[told // 2], told % 2, joint[told]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every kind, day and label with its count, 16 hexadecimal digits."""
        digest = hashlib.sha256(",".join(self.names).encode())
        for values in (self.kinds, self.kind, self.labels, self.days, self.counts):
            digest.update(np.ascontiguousarray(values, dtype=np.int64).tobytes())
        return digest.hexdigest()[:16]


def labelled_features(
    con: duckdb.DuckDBPyConnection, counts: duckdb.DuckDBPyRelation, encoder: Encoder
) -> LabelledFeatures:
    """The leads of `lead_counts` with the features of an encoder."""
    return features_side_by_side(con, counts, [encoder])[0]


def features_side_by_side(
    con: duckdb.DuckDBPyConnection, counts: duckdb.DuckDBPyRelation, encoders: Sequence[Encoder]
) -> list[LabelledFeatures]:
    """The leads of `lead_counts` with the features of each of several encoders, row for row the same leads."""
    rows, *features = code_counts(con, counts, encoders)
    told = rows.to_arrow_table()
    labels, days, leads = (told[name].to_numpy() for name in (lead_schema().label, "created_day", "lead_count"))
    found = []
    for number, (encoder, relation) in enumerate(zip(encoders, features, strict=True)):
        table = relation.to_arrow_table()
        kinds = np.stack([table[name].to_numpy().astype(np.int32) for name in encoder.features], axis=1)
        kind = told[f"kind_{number}"].to_numpy()
        found.append(LabelledFeatures(encoder.features, kinds, kind, labels.astype(np.int8), days, leads))
    return found


def refuse_unfit(data: LabelledFeatures, *, minimum_labelled: int, minimum_per_class: int) -> None:
    """Raise TrainingRefused when there are too few labelled leads, or too few of a class."""
    ones, zeros = data.genuine, data.leads - data.genuine
    if data.leads < minimum_labelled or min(ones, zeros) < minimum_per_class:
        raise TrainingRefused(
            f"{data.leads:,} labelled leads ({ones:,} genuine, {zeros:,} junk) are too few to train on; expected at "
            f"least {minimum_labelled:,} with {minimum_per_class:,} of each class; ingest more labelled drops"
        )


@dataclass(frozen=True)
class Recipe:
    """How a booster is trained: LightGBM's own parameters and rounds, then the rounds that adapt it.

    Channels drift, and yesterday's leads tell more of tomorrow's: adapting trees are added on the leads of the last
    `window_days`, each lead's weight halved every `half_life_days` of age (in whole days), with LightGBM parameters of
    their own. More of a `rising` feature never lowers a probability.
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
    return train_boosters(data, recipe)[1]


def train_boosters(data: LabelledFeatures, recipe: Recipe) -> tuple[Booster, Booster]:
    """`train_booster`'s without and with the trees that adapt it; the same one of a recipe that has none."""
    lightgbm = {**recipe.lightgbm, "monotone_constraints": [int(name in recipe.rising) for name in data.names]}
    plain = fit(*data.weighted_rows(), data.names, lightgbm, recipe.rounds)
    if not recipe.adapting["rounds"]:
        return plain, plain
    age = data.days.max() - data.days
    last = data.take(np.where(age < recipe.adapting["window_days"], data.counts, 0))
    weights = 0.5 ** ((data.days.max() - last.days) / recipe.adapting["half_life_days"])
    parameters = {**lightgbm, **recipe.adapting.get("lightgbm", {})}
    rows = last.weighted_rows(weights / np.average(weights, weights=last.counts))
    return plain, fit(*rows, data.names, parameters, recipe.adapting["rounds"], after=plain)
