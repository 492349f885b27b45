"""Reasons: why a lead got its probability, in plain words.

What lives here: a model's contributions by original column, and their wording. What does not: the
probability itself (`scoring.py`).
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from junk_leads.reference import INTERACTION_GROUPS
from junk_leads.steps.encoding import Encoder

if TYPE_CHECKING:
    from junk_leads.steps.scoring import ScoringModel
    from junk_leads.steps.training import LabelledFeatures

STRONGEST = 3  # reasons for a lead, and as many against it
_MOST_COUNTED = 5  # counts of this many and more are told together
# How often leads of a kind apply, by the log-odds between them and all leads.
_FREQUENCIES = (
    (-2.2, "almost never apply"),
    (-1.0, "rarely apply"),
    (-0.15, "apply less than most"),
    (0.15, "apply about as often as most"),
    (1.0, "apply more than most"),
    (2.2, "often apply"),
    (math.inf, "nearly always apply"),
)
_BLOCKS = {
    "first_platform_c": ("Came through platform {}", "Came through a rare platform"),
    "first_utm_medium_c": ("Came by medium {}", "Came by a rare medium"),
    "first_utm_source_c": ("Came from source {}", "Came from a rare source"),
    "city_mapped": ("Lives in {}", "Lives in a rare city, or gave none"),
    "city_tier": ("Lives in a tier {} city", ""),
}


def _kinds_of_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of rows (n x f) that differ from each other, and for each of n rows which of those it is."""
    matrix = np.ascontiguousarray(matrix)
    rows = matrix.view(np.dtype((np.void, matrix.dtype.itemsize * matrix.shape[1]))).ravel()
    _, kinds, kind_of_row = np.unique(rows, return_index=True, return_inverse=True)
    return kinds, kind_of_row


def _matrix(features: pa.Table) -> np.ndarray:
    return np.stack([column.to_numpy() for column in features.columns], axis=1)


def contributions(model: "ScoringModel", features: pa.Table) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Contributions to the log-odds by original column: (n x c), the c columns, and the base (n,).

    They are LightGBM's own (TreeSHAP), which are dear: each tree explains only the leads that differ in the features
    it looks at. The columns' contributions and the base sum to the model's raw score.
    """
    matrix = _matrix(features)
    sources = [model.encoder.sources[feature] for feature in model.encoder.features]
    columns = tuple(dict.fromkeys(sources))
    column_of_feature = np.array([columns.index(source) for source in sources])
    grouped, base = np.zeros((len(matrix), len(columns))), np.zeros(len(matrix))
    for number, tree in enumerate(model.booster.dump_model()["tree_info"]):
        looked_at = np.array(sorted(_features_of(tree["tree_structure"])), dtype=int)
        if len(looked_at):
            kinds, kind_of_row = _kinds_of_rows(matrix[:, looked_at])
        else:  # a tree of one leaf
            kinds, kind_of_row = np.zeros(1, dtype=int), np.zeros(len(matrix), dtype=int)
        raw = np.asarray(
            model.booster.predict(matrix[kinds], pred_contrib=True, start_iteration=number, num_iteration=1)
        )
        for place in looked_at:
            grouped[:, column_of_feature[place]] += raw[kind_of_row, place]
        base += raw[kind_of_row, -1]
    return grouped, columns, base


def _features_of(node: Mapping[str, Any]) -> set[int]:
    """The features that a tree looks at, by their place."""
    if "split_feature" not in node:
        return set()
    return {node["split_feature"], *_features_of(node["left_child"]), *_features_of(node["right_child"])}


def conversions(data: "LabelledFeatures", encoder: Encoder) -> dict[str, float]:
    """How often labelled leads of each kind apply, 0 to 1, by `_kinds`'s names, and of `all`.

    A model carries them, so that reasons can tell how leads like this one fare.
    """
    found = {"all": float(data.labels.mean())}
    for column in dict.fromkeys(encoder.sources.values()):
        kinds = np.array(_kinds(column, encoder, data.features))
        names, place = np.unique(kinds, return_inverse=True)
        rates = np.bincount(place, weights=data.labels) / np.bincount(place)
        found |= {f"{column}: {name}": round(float(rate), 6) for name, rate in zip(names, rates, strict=True)}
    return found


def reasons_of(model: "ScoringModel", features: pa.Table) -> list[str]:
    """For each of n leads its strongest reasons, three for it and three against it where they exist.

    Leads with the same features have the same reasons, and are many: each kind is explained once.
    """
    if not features.num_rows:
        return []
    kinds, kind_of_lead = _kinds_of_rows(_matrix(features))
    told = _reasons_of_kinds(model, features.take(pa.array(kinds)))
    return [told[kind] for kind in kind_of_lead]


def _reasons_of_kinds(model: "ScoringModel", features: pa.Table) -> list[str]:
    grouped, columns, _ = contributions(model, features)
    rates: Mapping[str, float] = model.settings.get("conversions", {})
    names = {column: _kinds(column, model.encoder, features) for column in columns}
    wording = {
        (column, name): tuple(_worded(column, name, rates, speaks_for) for speaks_for in (False, True))
        for column in columns
        for name in set(names[column])
    }
    order = np.argsort(-np.abs(grouped), axis=1, kind="stable")
    reasons = []
    for row, places in enumerate(order):
        sides: tuple[list[str], list[str]] = ([], [])
        for place in places:
            share = float(grouped[row, place])
            side = sides[bool(share > 0)]
            if share and len(side) < STRONGEST:
                side.append(wording[columns[place], names[columns[place]][row]][bool(share > 0)])
        heads = ("Against: ", "For: ")
        told = [f"{heads[side]}{'; '.join(sides[side])}" for side in (True, False) if sides[side]]
        reasons.append(". ".join(told) or "Nothing speaks for or against this lead")
    return reasons


def _kinds(column: str, encoder: Encoder, features: pa.Table) -> list[str]:
    """What each lead is in a column: its level or tier, or its count."""
    if column in encoder.blocks:
        block = encoder.blocks[column]
        levels = encoder.levels.get(column)
        names = [*levels, ""] if levels is not None else [name.rsplit("_", 1)[-1] for name in block]
        places = np.argmax(np.stack([features[feature].to_numpy() for feature in block]), axis=0)
        return [names[place] for place in places]
    counts = np.minimum(features[column].to_numpy(), _MOST_COUNTED)
    return [str(count) for count in counts]


def _worded(column: str, name: str, rates: Mapping[str, float], speaks_for: bool) -> str:
    """One reason; how such leads fare is told when it explains the side that the reason is on."""
    subject = _subject(column, name)
    rate, everyone = rates.get(f"{column}: {name}"), rates.get("all")
    if rate is None or everyone is None:
        return subject
    distance = _log_odds(rate) - _log_odds(everyone)
    if (distance > 0) != speaks_for:
        return f"{subject}, which with the rest of this lead speaks {'for' if speaks_for else 'against'} it"
    return f"{subject}; such leads {next(words for bound, words in _FREQUENCIES if distance < bound)}"


def _subject(column: str, name: str) -> str:
    if column in _BLOCKS:
        known, rare = _BLOCKS[column]
        return known.format(name) if name else rare
    if column == "is_city_missing":
        return "Gave a city" if name == "0" else "Gave no city"
    if column == "referred_lead":
        return "Was not referred by anybody" if name == "0" else "Was referred by somebody"
    count = f"{name} or more" if name == str(_MOST_COUNTED) else name
    if column in INTERACTION_GROUPS:
        topic = column.removesuffix("_interaction")
        return f"No {topic} interactions" if name == "0" else f"{count} {topic} interactions"
    return f"Left {count} lead{'' if name == '1' else 's'} on the platform"


def _log_odds(rate: float) -> float:
    bounded = min(max(rate, 1e-4), 1 - 1e-4)
    return math.log(bounded / (1 - bounded))
