"""Reasons: why a lead got its probability, in plain words.

What lives here: a model's contributions by original column, and their wording. What does not: the
probability itself (`scoring.py`).
"""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from junk_leads.reference import INTERACTION_GROUPS, OTHERS
from junk_leads.steps.encoding import Encoder

if TYPE_CHECKING:
    from junk_leads.steps.scoring import ScoringModel

STRONGEST = 3
_WORDS = {
    "first_platform_c": "Came through platform {level}",
    "first_utm_medium_c": "Reached by medium {level}",
    "first_utm_source_c": "Sent by source {level}",
    "city_mapped": "Lives in {level}",
    "city_tier": "Lives in a tier {level} city",
    "is_city_missing": "{level}",
    "total_leads_droppped": "Left the form {level} times before",
    "referred_lead": "{level}",
}


def contributions(model: "ScoringModel", features: pa.Table) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Contributions to the log-odds by original column: (n x c), the c columns, and the base (n,).

    The columns' contributions and the base sum to the model's raw score.
    """
    raw = np.asarray(model.booster.predict(features, pred_contrib=True, validate_features=True))
    sources = [model.encoder.sources[feature] for feature in model.encoder.features]
    columns = tuple(dict.fromkeys(sources))
    grouped = np.zeros((len(raw), len(columns)))
    for place, source in enumerate(sources):
        grouped[:, columns.index(source)] += raw[:, place]
    return grouped, columns, raw[:, -1]


def reasons_of(model: "ScoringModel", features: pa.Table) -> list[str]:
    """For each of n leads its three strongest reasons, as one text.

    Leads with the same features have the same reasons, and are many: each kind is explained once.
    """
    if not features.num_rows:
        return []
    matrix = np.stack([column.to_numpy() for column in features.columns], axis=1)
    rows = matrix.view(np.dtype((np.void, matrix.dtype.itemsize * matrix.shape[1]))).ravel()
    _, kinds, kind_of_lead = np.unique(rows, return_index=True, return_inverse=True)
    told = _reasons_of_kinds(model, features.take(pa.array(kinds)))
    return [told[kind] for kind in kind_of_lead]


def _reasons_of_kinds(model: "ScoringModel", features: pa.Table) -> list[str]:
    grouped, columns, _ = contributions(model, features)
    strongest = np.argsort(-np.abs(grouped), axis=1, kind="stable")[:, :STRONGEST]
    words = {column: _told(column, model.encoder, features) for column in columns}
    return [
        "; ".join(
            f"{words[columns[place]][row]} ({'speaks for' if grouped[row, place] > 0 else 'speaks against'} the lead)"
            for place in places
            if grouped[row, place]
        )
        for row, places in enumerate(strongest)
    ]


def _told(column: str, encoder: Encoder, features: pa.Table) -> list[str]:
    """A column's value of every lead, in words."""
    if column in encoder.blocks:
        block = encoder.blocks[column]
        places = np.argmax(np.stack([features[f].to_numpy() for f in block]), axis=0)
        levels = encoder.levels.get(column, ("1", "2", "3"))
        names = [*levels, f"none of its {len(levels)} common ones" if column in encoder.levels else OTHERS]
        template = _WORDS[column]
        wording = [template.format(level=name) for name in names]
        return [wording[place] for place in places]
    values = features[column].to_pylist()
    if column == "is_city_missing":
        return ["City not given" if value else "City given" for value in values]
    if column == "referred_lead":
        return ["Referred by somebody" if value else "Not referred by anybody" for value in values]
    if column in INTERACTION_GROUPS:
        return [f"{value} {column.removesuffix('_interaction')} interactions" for value in values]
    return [_WORDS[column].format(level=value) for value in values]
