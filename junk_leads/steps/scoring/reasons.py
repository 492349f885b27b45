"""Reasons: why a lead got its probability, in plain words.

What lives here: a model's contributions by original column, and their wording. What does not: the
probability itself (`scoring.py`).
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from junk_leads.reference import INTERACTION_GROUPS
from junk_leads.steps.boosting import Booster
from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.leads.kinds import MOST_COUNTED, distinct_rows, sorts

if TYPE_CHECKING:
    from junk_leads.steps.learning.training import LabelledFeatures

STRONGEST = 3  # reasons for a lead, and as many against it
# How often leads of a sort apply, by the log-odds between them and all leads.
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


def contributions(
    booster: Booster, encoder: Encoder, kinds: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Contributions to the log-odds by original column: (k x c), the c columns, and the base (k,).

    They are LightGBM's own (TreeSHAP), which are dear: each tree explains only those of the k kinds of leads (k x f)
    that it tells apart. The columns' contributions and the base sum to the booster's raw score.
    """
    columns = tuple(dict.fromkeys(encoder.sources[feature] for feature in encoder.features))
    column = np.array([columns.index(encoder.sources[feature]) for feature in encoder.features])
    by_feature, values = np.ascontiguousarray(kinds.T), kinds.astype(float)  # LightGBM would make them anew each time
    grouped, base = np.zeros((len(columns), len(kinds))), np.zeros(len(kinds))
    for number, tree in enumerate(booster.dump_model()["tree_info"]):
        features, thresholds = np.array(sorted(_splits_of(tree["tree_structure"]))).reshape(-1, 2).T
        looked_at = features.astype(int)
        first, place = distinct_rows((by_feature[looked_at] <= thresholds[:, None]).T)
        raw = booster.predict(values[first], pred_contrib=True, start_iteration=number, num_iteration=1)
        for feature in np.unique(looked_at):
            grouped[column[feature]] += raw[place, feature]
        base += raw[place, -1]
    return grouped.T, columns, base


def _splits_of(node: Mapping[str, Any]) -> set[tuple[int, float]]:
    """The features that a tree looks at, by their place, each with a threshold."""
    if "split_feature" not in node:
        return set()
    split = (node["split_feature"], node["threshold"])
    return {split, *_splits_of(node["left_child"]), *_splits_of(node["right_child"])}


def conversions(data: "LabelledFeatures", encoder: Encoder) -> dict[str, float]:
    """How often labelled leads of each sort apply, 0 to 1, by `sorts`'s names, and of `all`.

    A model carries them, so that reasons can tell how leads like this one fare.
    """
    found = {"all": data.share}
    leads, genuine = (
        np.bincount(data.kind, weights, len(data.kinds)) for weights in (data.counts, data.counts * data.labels)
    )
    for column in dict.fromkeys(encoder.sources.values()):
        names, place = np.unique(np.array(sorts(column, encoder, data.kinds)), return_inverse=True)
        counts, ones = (np.bincount(place, weights) for weights in (leads, genuine))
        rates = {f"{column}: {names[n]}": round(float(ones[n] / counts[n]), 6) for n in np.flatnonzero(counts)}
        found |= rates
    return found


def reasons_of(booster: Booster, encoder: Encoder, rates: Mapping[str, float], kinds: np.ndarray) -> list[str]:
    """The strongest reasons of each of k kinds of leads (k x f): three for it and three against it where they exist.

    The side that weighs more comes first. `rates` are the model's `conversions`.
    """
    if not len(kinds):
        return []
    grouped, columns, _ = contributions(booster, encoder, kinds)
    names = {column: sorts(column, encoder, kinds) for column in columns}
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
        first = bool(grouped[row].sum() > 0)  # the side that weighs more
        told = [f"{heads[side]}{'; '.join(sides[side])}" for side in (first, not first) if sides[side]]
        reasons.append(". ".join(told) or "Nothing speaks for or against this lead")
    return reasons


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
    count = f"{name} or more" if name == str(MOST_COUNTED) else name
    if column in INTERACTION_GROUPS:
        topic = column.removesuffix("_interaction")
        return f"No {topic} interactions" if name == "0" else f"{count} {topic} interactions"
    return f"Left {count} lead{'' if name == '1' else 's'} on the platform"


def _log_odds(rate: float) -> float:
    bounded = min(max(rate, 1e-4), 1 - 1e-4)
    return math.log(bounded / (1 - bounded))
