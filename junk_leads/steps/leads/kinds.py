"""Kinds of leads: leads with the same features, which any model treats alike.

What lives here: tables by kind, finding the kinds among leads, and what those of a kind are in a column. Many leads
are of few kinds (191,171 leads of 2021 are of 19,676), so models are fitted, applied and explained by kind, and what
they share is held once. What does not: the features themselves (`encoding.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from junk_leads.steps.sql import quoted

if TYPE_CHECKING:
    from junk_leads.steps.leads.encoding import Encoder

MOST_COUNTED = 5  # counts of this many and more are told together
MARK = "hash({})"  # of what makes a kind


@dataclass(frozen=True)
class ByKind:
    """A table with a row for each lead, what leads of a kind share held once.

    `leads` has a row for each lead: what is its own, `drop` first, and its `kind`; `kinds` one for each kind of a drop:
    `drop`, `kind` and what they share. No two kinds of one object share a number, whatever their drops.
    """

    leads: duckdb.DuckDBPyRelation
    kinds: duckdb.DuckDBPyRelation

    def rows(self, con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        """One row for each lead: what is its own, then what is its kind's."""
        leads, kinds = self.leads, self.kinds  # noqa: F841  named in the SQL below
        return con.sql(rows_of_kinds("leads", "kinds"))


def rows_of_kinds(leads: str, kinds: str) -> str:
    """SQL for one row for each lead, of two tables as those of `ByKind`."""
    return (
        f"SELECT l.* EXCLUDE (kind), k.* EXCLUDE (drop, kind) FROM {quoted(leads)} AS l "
        f"JOIN {quoted(kinds)} AS k ON l.drop = k.drop AND l.kind = k.kind"
    )


def kinds_in(
    con: duckdb.DuckDBPyConnection, rows: duckdb.DuckDBPyRelation, own: Sequence[str], name: str = "leads"
) -> ByKind:
    """The kinds among leads, one row for each, of which the columns `own`, `drop` among them, are each lead's own.

    The relations read TEMP tables of `con`, which the next call with this `name` replaces.
    """
    mine = [column for column in own if column in rows.columns]
    shared = ["drop", *(quoted(column) for column in rows.columns if column not in mine)]
    kind, leads_own = ", ".join(shared), ", ".join(f"l.{quoted(column)}" for column in mine)
    mark, leads, kinds = MARK.format(kind), quoted(f"{name}_of_kinds"), quoted(f"kinds_of_{name}")
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {kinds} AS SELECT {mark} AS mark, {kind} FROM (SELECT DISTINCT {kind} FROM rows)"
    )
    found, marks = con.execute(f"SELECT count(*), count(DISTINCT mark) FROM {kinds}").fetchall()[0]
    # two kinds of one hash are as good as never met; if they are, all that they share tells them apart
    alike = ["mark"] if found == marks else ["mark", *shared]
    same = " AND ".join(f"l.{column} IS NOT DISTINCT FROM k.{column}" for column in alike)
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {leads} AS SELECT {leads_own}, kind "
        f"FROM (SELECT *, {mark} AS mark FROM rows) AS l JOIN (SELECT *, rowid AS kind FROM {kinds}) AS k ON {same}"
    )
    return ByKind(
        con.sql(f"SELECT * FROM {leads}"), con.sql(f"SELECT drop, rowid AS kind, * EXCLUDE (drop, mark) FROM {kinds}")
    )


def kinds_of_leads(pieces: Iterable[pa.Table], features: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The k kinds among n leads that come in pieces, and the kind of each lead.

    Takes tables with the columns `features`, all of whole numbers, the same types in every piece. Returns the kinds
    (k x f, int32), which depend on the set of leads alone and not on their order, and (n,) places in them.
    """
    kinds, known, places = np.zeros((0, len(features)), dtype=np.int32), None, []
    for piece in pieces:
        if not piece.num_rows:
            continue
        columns = [np.ascontiguousarray(piece[feature].to_numpy()) for feature in features]
        rows = np.hstack([column.view(np.uint8).reshape(len(column), -1) for column in columns])
        first, place = distinct_rows(rows)
        found = rows[first]
        values = np.stack([column[first] for column in columns], axis=1).astype(np.int32)
        if known is None:
            known, kinds, places = found, values, [place]
            continue
        both = np.vstack([known, found])
        first, moved = distinct_rows(both)
        kinds = np.vstack([kinds, values])[first]
        places = [moved[: len(known)][former] for former in places] + [moved[len(known) :][place]]
        known = both[first]
    return kinds, np.concatenate(places) if places else np.zeros(0, dtype=np.int64)


def matrix_of(table: pa.Table, features: Sequence[str]) -> np.ndarray:
    """The columns `features` of a table of n rows, (n x f, int32)."""
    return np.stack([table[feature].to_numpy() for feature in features], axis=1).astype(np.int32)


def distinct_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a matrix (n x c, c may be 0) differ from each other, and which of those each of n rows is."""
    if not values.shape[1]:
        return np.zeros(min(1, len(values)), dtype=np.int64), np.zeros(len(values), dtype=np.int64)
    keys = _one_number(values)
    if keys is None:
        values = np.ascontiguousarray(values)
        keys = values.view(np.dtype((np.void, values.dtype.itemsize * values.shape[1]))).ravel()
        _, first, place = np.unique(keys, return_index=True, return_inverse=True)
        return first, place
    place, distinct = pd.factorize(keys, sort=True)  # by hashing: many times as fast as by sorting
    first = np.empty(len(distinct), dtype=np.int64)
    first[place[::-1]] = np.arange(len(keys))[::-1]  # of rows alike the first is assigned last, and stays
    return first, place


def _one_number(values: np.ndarray) -> np.ndarray | None:
    """A whole number for each row, the same for the same rows only; None when 63 bits do not hold them."""
    if not len(values):
        return None
    values = values.view(np.int8) if values.dtype == bool else values
    least = values.min(axis=0).astype(np.int64)
    sizes = values.max(axis=0).astype(np.int64) - least + 1
    if np.log2(sizes.astype(float)).sum() >= 63:
        return None
    numbers = np.zeros(len(values), dtype=np.int64)
    for column, smallest, size in zip(values.T[::-1], least[::-1], sizes[::-1], strict=True):
        numbers *= size
        numbers += column - smallest if smallest else column
    return numbers


def sorts(column: str, encoder: "Encoder", kinds: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The sorts of k kinds of leads in a column, its levels, tiers or counts by name, and which each kind is (k,)."""
    place = {feature: number for number, feature in enumerate(encoder.features)}
    if column in encoder.blocks:
        block = encoder.blocks[column]
        levels = encoder.levels.get(column)
        told = [*levels, ""] if levels is not None else [name.rsplit("_", 1)[-1] for name in block]
        found, which = np.unique(np.argmax(kinds[:, [place[f] for f in block]], axis=1), return_inverse=True)
        names = [told[number] for number in found]
    else:
        found, which = np.unique(np.minimum(kinds[:, place[column]], MOST_COUNTED), return_inverse=True)
        names = list(map(str, found.tolist()))
    in_order, places = np.unique(np.array(names, dtype=str), return_inverse=True)
    return in_order.tolist(), places[which]
