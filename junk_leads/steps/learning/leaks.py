"""Columns that copy the label: what is known only once a lead has applied, and would not be there to score by.

What lives here: how well one column by itself tells the labels apart. What does not: who is told of one that does
(`defs/assets/model.py`).
"""

import duckdb
import numpy as np

from junk_leads.reference import lead_schema
from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.leads.kinds import distinct_rows
from junk_leads.steps.learning.metrics import area_under_curve
from junk_leads.steps.learning.training import LabelledFeatures
from junk_leads.steps.sql import quoted


def leaking_columns(data: LabelledFeatures, encoder: Encoder, *, leak_auc: float) -> dict[str, float]:
    """The columns that alone tell the label, with their AUC: by one feature, or by a block's levels."""
    found: dict[str, float] = {}
    leads, ones = (
        np.bincount(data.kind, weights, len(data.kinds)) for weights in (data.counts, data.counts * data.labels)
    )
    places = {feature: place for place, feature in enumerate(data.names)}
    for column, features in (
        {f: (f,) for f, source in encoder.sources.items() if source == f} | encoder.blocks
    ).items():
        # each level or value stands for its share of genuine leads, so that their order does not matter
        _, sort = distinct_rows(data.kinds[:, [places[feature] for feature in features]])
        auc = auc_of_values(np.bincount(sort, leads), np.bincount(sort, ones))
        if auc >= leak_auc:
            found[column] = auc
    return found


def leaking_delivered(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, *, leak_auc: float
) -> dict[str, float]:
    """The delivered counts of cleaned, labelled leads that alone tell the label, with their AUC.

    Summed into a group, or counted up to a most, a column that copies the label would be seen no more. Of very many
    leads some 200,000 are looked at, the same ones each time.
    """
    schema, most = lead_schema(), 200_000
    label, found = quoted(schema.label), {}
    rows = int(leads.aggregate("count(*)").fetchall()[0][0])
    every = max(-(-rows // most), 1)
    looked_at = leads.filter(f"hash(drop, lead_number) % {every} = 0")  # noqa: F841  named in the SQL below
    columns = schema.with_role("count", "interaction")
    con.execute(
        "CREATE OR REPLACE TEMP TABLE delivered_counts AS SELECT "
        f"{', '.join(map(quoted, columns))}, {label} FROM looked_at WHERE {label} IS NOT NULL"
    )
    for column in columns:
        counted = con.execute(
            f"SELECT count(*), sum({label}) FROM delivered_counts GROUP BY {quoted(column)}"
        ).fetchnumpy()
        everyone, genuine = (np.asarray(values, dtype=float) for values in counted.values())
        if 0 < genuine.sum() < everyone.sum():
            auc = auc_of_values(everyone, genuine)
            if auc >= leak_auc:
                found[column] = auc
    return found


def auc_of_values(everyone: np.ndarray, genuine: np.ndarray) -> float:
    """The AUC of a column whose values have so many leads (v,), and genuine ones (v,), by their shares of genuine."""
    shares = np.divide(genuine, everyone, out=np.zeros(len(everyone)), where=everyone > 0)
    _, place = np.unique(shares, return_inverse=True)  # values of one share are not told apart
    return float(area_under_curve(np.bincount(place, genuine), np.bincount(place, everyone - genuine)))
