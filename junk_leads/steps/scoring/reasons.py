"""Reasons: why a lead got its probability, in a few plain words.

What lives here: a model's contributions by original column, and their wording. What does not: the
probability itself (`scoring.py`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from junk_leads.reference import INTERACTION_GROUPS, level_names
from junk_leads.steps.boosting import Booster
from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.leads.kinds import MOST_COUNTED, distinct_rows, sorts

if TYPE_CHECKING:
    from junk_leads.steps.learning.training import LabelledFeatures

STRONGEST = 3  # reasons for a lead, and as many against it
LONGEST = 60  # characters of a reason
SEPARATOR = " | "
FEW_KINDS = 16  # that are sooner explained by all trees at once than tree by tree
FEW_ROWS = 250  # that one thread explains by a tree sooner than several that wait for each other
LEAST_CONTRIBUTION = 0.05  # log-odds; what weighs less says nothing
LEAST_DISTANCE = 0.1  # log-odds between leads of a sort and all leads; what is nearer says nothing
LEAST_LEADS = 30  # labelled leads of a sort, without which nothing is said of how such leads fare
_CITY = ("city_mapped", "city_tier", "is_city_missing")  # what a lead says of its city is one reason
_LEVELS = {"first_platform_c": "platform", "first_utm_medium_c": "medium", "first_utm_source_c": "source"}


@dataclass(frozen=True)
class Contributions:
    """What speaks for k kinds of leads and against them, in log-odds.

    `values` (k x c) by original column, of which `columns` are the c names, and `base` (k,) sum to the raw score of
    the booster.
    """

    values: np.ndarray
    columns: tuple[str, ...]
    base: np.ndarray


def contributions(
    booster: Booster, encoder: Encoder, kinds: np.ndarray, *, others_work: Callable[[], bool] = lambda: False
) -> Contributions:
    """The contributions of each of k kinds of leads (k x f, the encoder's features in their order).

    They are LightGBM's own (TreeSHAP), which are dear: each tree explains only those of the kinds that it tells apart.
    While `others_work` beside it, one thread does.
    """
    columns = tuple(dict.fromkeys(encoder.sources[feature] for feature in encoder.features))
    if not len(kinds):
        return Contributions(np.zeros((0, len(columns))), columns, np.zeros(0))
    column = np.array([columns.index(encoder.sources[feature]) for feature in encoder.features])
    if len(kinds) <= FEW_KINDS:
        raw = booster.predict(kinds.astype(float), pred_contrib=True)
        few = np.zeros((len(columns), len(kinds)))
        np.add.at(few, column, raw[:, :-1].T)
        return Contributions(few.T, columns, raw[:, -1])
    by_feature, values = np.ascontiguousarray(kinds.T), kinds.astype(float)  # LightGBM would make them anew each time
    grouped, base = np.zeros((len(columns), len(kinds))), np.zeros(len(kinds))
    for number, tree in enumerate(booster.dump_model()["tree_info"]):
        features, thresholds = np.array(sorted(_splits_of(tree["tree_structure"]))).reshape(-1, 2).T
        looked_at = features.astype(int)
        first, place = distinct_rows((by_feature[looked_at] <= thresholds[:, None]).T)
        threads = 1 if len(first) < FEW_ROWS or others_work() else 0  # 0: as many as there are
        only = {"start_iteration": number, "num_iteration": 1, "num_threads": threads}
        raw = booster.predict(values[first], pred_contrib=True, **only).T
        looked_at = np.unique(looked_at)
        for name in np.unique(column[looked_at]):
            grouped[name] += raw[looked_at[column[looked_at] == name]].sum(axis=0)[place]
        base += raw[-1][place]
    return Contributions(grouped.T, columns, base)


def _splits_of(node: Mapping[str, Any]) -> set[tuple[int, float]]:
    """The features that a tree looks at, by their place, each with a threshold."""
    if "split_feature" not in node:
        return set()
    split = (node["split_feature"], node["threshold"])
    return {split, *_splits_of(node["left_child"]), *_splits_of(node["right_child"])}


def conversions(data: "LabelledFeatures", encoder: Encoder) -> dict[str, float]:
    """How often labelled leads of each sort apply, 0 to 1, by `sorts`'s names, and of `all`.

    Of sorts with fewer than LEAST_LEADS nothing is told. A model carries them, so that reasons can tell how leads like
    this one fare.
    """
    found = {"all": data.share}
    leads, genuine = (
        np.bincount(data.kind, weights, len(data.kinds)) for weights in (data.counts, data.counts * data.labels)
    )
    for column in dict.fromkeys(encoder.sources.values()):
        names, place = sorts(column, encoder, data.kinds)
        counts, ones = (np.bincount(place, weights) for weights in (leads, genuine))
        told = np.flatnonzero(counts >= LEAST_LEADS)
        found |= {f"{column}: {names[n]}": round(float(ones[n] / counts[n]), 6) for n in told}
    return found


def reasons_of(told: Contributions, encoder: Encoder, rates: Mapping[str, float], kinds: np.ndarray) -> list[str]:
    """The strongest reasons of each of k kinds of leads (k x f): at most three for it and three against it.

    Each has at most 60 characters and begins with `for: ` or `against: `; they are joined by ` | `, the strongest
    first. `rates` are the model's `conversions`. What weighs next to nothing is left out, and so is what leads of its
    sort do not bear out: where such leads apply as often as all, or the other way; when all is, the strongest stays.
    """
    topics = {column: ("city" if column in _CITY else column) for column in told.columns}
    found = {column: sorts(column, encoder, kinds) for column in told.columns}
    values, what = [], []  # of each topic: what it weighs, and the first of two texts about the kind's sort, (k,)
    texts: list[tuple[str, bool]] = []  # against and for each sort
    for topic in dict.fromkeys(topics.values()):
        columns = [column for column in told.columns if topics[column] == topic]
        values.append(told.values[:, [told.columns.index(column) for column in columns]].sum(axis=1))
        first, place = distinct_rows(np.stack([found[column][1] for column in columns], axis=1))
        what.append(len(texts) + 2 * place)
        for kind in first:
            sort = {column: names[places[kind]] for column, (names, places) in found.items() if column in columns}
            texts += _worded(sort, rates)
    weights = np.stack(values, axis=1)
    order = np.argsort(-np.abs(weights), axis=1, kind="stable")
    weights = np.take_along_axis(weights, order, axis=1)
    speaks_for = weights > 0
    said = np.take_along_axis(np.stack(what, axis=1), order, axis=1) + speaks_for
    is_borne_out = np.array([bears_out for _, bears_out in texts], dtype=bool)[said]
    is_told = (np.abs(weights) >= LEAST_CONTRIBUTION) & is_borne_out
    for side in (speaks_for, ~speaks_for):
        is_told &= ~side | (np.cumsum(is_told & side, axis=1) <= STRONGEST)
    is_told[~is_told.any(axis=1), 0] = True
    return [
        SEPARATOR.join(texts[text][0] for text, tell in zip(*row, strict=True) if tell)
        for row in zip(said.tolist(), is_told.tolist(), strict=True)
    ]


def _worded(sort: Mapping[str, str], rates: Mapping[str, float]) -> tuple[tuple[str, bool], tuple[str, bool]]:
    """A reason against and one for leads of a sort, each with whether such leads bear it out."""
    subject, key = _subject(sort)
    rate, everyone = rates.get(key), rates.get("all")
    if rate is None or everyone is None:
        return (_fitted("against", subject, ""), True), (_fitted("for", subject, ""), True)
    distance, told = _log_odds(rate) - _log_odds(everyone), f" ({how_many_apply(rate)})"
    return (
        (_fitted("against", subject, told), distance < -LEAST_DISTANCE),
        (_fitted("for", subject, told), distance > LEAST_DISTANCE),
    )


def _fitted(side: str, subject: str, told: str) -> str:
    room = LONGEST - len(f"{side}: {told}")
    subject = subject if len(subject) <= room else f"{subject[: room - 1]}…"
    return f"{side}: {subject}{told}"


def _subject(sort: Mapping[str, str]) -> tuple[str, str]:
    """What leads of a sort are, in words, and the name of how they fare."""
    if "city_mapped" in sort or "city_tier" in sort:
        return _city(sort)
    ((column, name),) = sort.items()
    key = f"{column}: {name}"
    if column in _LEVELS:
        kind = _LEVELS[column]
        return (f"{kind} {level_names().get((column, name.casefold()), name)}" if name else f"a rare {kind}"), key
    if column == "referred_lead":
        return ("not referred" if name == "0" else "referred"), key
    count = "no" if name == "0" else f"{name}+" if name == str(MOST_COUNTED) else name
    plural = "" if name == "1" else "s"
    if column in INTERACTION_GROUPS:
        return f"{count} {column.removesuffix('_interaction')} interaction{plural}", key
    return f"{count} lead{plural} dropped", key


def _city(sort: Mapping[str, str]) -> tuple[str, str]:
    city, tier = sort.get("city_mapped", ""), sort.get("city_tier", "")
    if sort.get("is_city_missing", "0") != "0":
        return "no city given", f"is_city_missing: {sort['is_city_missing']}"
    if not city:
        return f"a tier {tier} city", f"city_tier: {tier}"
    return f"{city_name(city)}, tier {tier}", f"city_mapped: {city}"


def city_name(city: str) -> str:
    """A city's key as people write it: `Mumbai`, `NCR`."""
    return city.upper() if len(city) <= 3 else city.title()


def how_many_apply(rate: float) -> str:
    """A share of leads that apply, 0 to 1, as people say it: `1 in 12 apply`, `2 in 3 apply`."""
    if rate < 0.005:
        return "under 1 in 200 apply"
    if rate > 0.95:
        return "over 19 in 20 apply"
    if rate < 0.1:
        return f"1 in {round(1 / rate)} apply"
    if rate > 0.93:
        return "19 in 20 apply"
    parts = [(round(rate * of), of) for of in (2, 3, 4, 5, 10)]
    part, of = min(parts, key=lambda found: round(abs(found[0] / found[1] - rate), 2))
    return f"{part} in {of} apply"


def _log_odds(rate: float) -> float:
    bounded = min(max(rate, 1e-4), 1 - 1e-4)
    return math.log(bounded / (1 - bounded))
