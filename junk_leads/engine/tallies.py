"""What the checks of a table in shards look at: the distinct values of its columns, counted by shard and added up.

What lives here: the tally of a frame. What does not: how a column is counted (`steps/leads/accounting.py`) and what is
expected of it (`reference/expectations/`, by way of `defs/expectations.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from junk_leads.steps.leads.accounting import count, distinct_values

Looks = dict[str, bool]  # the columns that are looked at; True: only at whether they are missing


@dataclass(frozen=True)
class Tally:
    """A frame told by the distinct values of the columns that are looked at (`value`, `row_count` each)."""

    columns: tuple[str, ...]
    length: int
    values: Mapping[str, pa.Table]

    @classmethod
    def of(cls, relation: duckdb.DuckDBPyRelation, looks: Looks) -> "Tally":
        """The tally of a relation, for these looks at it."""
        columns = tuple(relation.columns)
        values = distinct_values(relation, {column: only for column, only in looks.items() if column in columns})
        rows = [int(pc.sum(table["row_count"]).as_py() or 0) for table in values.values()]
        return cls(columns, rows[0] if rows else count(relation), values)

    def __len__(self) -> int:
        return self.length


def add_up(con: duckdb.DuckDBPyConnection, tallies: Sequence[Tally], looks: Looks) -> Tally:
    """The tally of all rows from those of their parts."""
    values = {}
    for column in tallies[0].values:
        found = pa.concat_tables([tally.values[column] for tally in tallies])  # noqa: F841  named in the SQL below
        differing = "value IS NULL" if looks[column] else "value"
        values[column] = con.sql(
            "SELECT any_value(value) AS value, sum(row_count)::BIGINT AS row_count "
            f"FROM found GROUP BY {differing} ORDER BY value"
        ).to_arrow_table()
    return Tally(tallies[0].columns, sum(map(len, tallies)), values)
