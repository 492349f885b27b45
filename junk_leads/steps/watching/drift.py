"""Drift: how much leads of one time differ from those of another.

What lives here: the population stability index (PSI), of counts and of each column. What does not: whether a model
suffers from it (`evaluation.py`), nor whether a drop can be trusted (`trust.py`).
"""

import numpy as np

from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.leads.kinds import sorts
from junk_leads.steps.learning.training import LabelledFeatures

_LEAST_SHARE = 1e-4  # stands for none, which has no logarithm


def drift(data: LabelledFeatures, encoder: Encoder, since: int) -> dict[str, float]:
    """The population stability index of each original column, between the leads since a day (1970 is 0) and the others.

    Below 0.1 is usually called stable, above 0.25 a shift. The largest comes first.
    """
    is_since = data.days >= since
    outside, inside = (np.bincount(data.kind, data.counts * when, len(data.kinds)) for when in (~is_since, is_since))
    found = {}
    for column in dict.fromkeys(encoder.sources.values()):
        _, place = sorts(column, encoder, data.kinds)
        found[column] = stability_index(*(np.bincount(place, weights) for weights in (outside, inside)))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def stability_index(before: np.ndarray, after: np.ndarray) -> float:
    """The population stability index of two counts of leads by the same values, both of shape (values,)."""
    was, now = (np.maximum(leads / max(leads.sum(), 1), _LEAST_SHARE) for leads in (before, after))
    return float(((now - was) * np.log(now / was)).sum())
