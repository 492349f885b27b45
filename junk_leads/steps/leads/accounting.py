"""The facts about a table that its checks look at: accounts of rows, sums, missing values.

What lives here: one-row accounts and narrow relations made of a table for its suite, and the distinct values of
columns, which are all that a suite looks at. What does not: what is expected of them (`reference/expectations/`).
"""

from collections.abc import Mapping

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from junk_leads.reference import INTERACTION_GROUPS, LeadSchema
from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.leads.kinds import ByKind
from junk_leads.steps.sql import quoted

TELLING_DROP = 100  # leads; the shares of a smaller drop tell little


def narrow_rows(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, schema: LeadSchema
) -> duckdb.DuckDBPyRelation:
    """Every lead without its 37 interactions, of which it tells how many are missing.

    Adds `missing_interactions`, `days_before_tomorrow` and `days_after_2010`.
    """
    interactions = schema.with_role("interaction")
    columns = [quoted(c) for c in leads.columns if c not in interactions]
    missing = " + ".join(f"({quoted(name)} IS NULL)::TINYINT" for name in interactions)
    return con.sql(
        f"SELECT {', '.join(columns)}, {missing} AS missing_interactions, "
        "date_diff('day', created_date, current_date + 1) AS days_before_tomorrow, "
        f"date_diff('day', DATE '{schema.earliest_date}', created_date) AS days_after_2010 FROM leads"
    )


def counted_interactions(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, schema: LeadSchema
) -> duckdb.DuckDBPyRelation:
    """Every count of an interaction that is there and not 0, one in some thousands: `interaction`, `value`."""
    names = [quoted(name) for name in schema.with_role("interaction")]
    any_there = " OR ".join(f"{name} <> 0" for name in names)
    return con.sql(
        f"UNPIVOT (SELECT {', '.join(names)} FROM leads WHERE {any_there}) "
        f"ON {', '.join(names)} INTO NAME interaction VALUE value"
    ).filter("value <> 0")


def one_row(con: duckdb.DuckDBPyConnection, **counts: float) -> duckdb.DuckDBPyRelation:
    """An account of one row, a column for each count."""
    cells = ", ".join(f"{float(value)!r}::DOUBLE AS {name}" for name, value in counts.items())
    return con.sql(f"SELECT {cells}")


def sum_differences(
    con: duckdb.DuckDBPyConnection,
    groups: duckdb.DuckDBPyRelation,
    leads: duckdb.DuckDBPyRelation,
    schema: LeadSchema,
) -> duckdb.DuckDBPyRelation:
    """For each lead with any interaction, by how much its groups differ from its 37 columns."""
    single = " + ".join(f"coalesce({quoted(name)}, 0)::BIGINT" for name in schema.with_role("interaction"))
    grouped = " + ".join(INTERACTION_GROUPS)
    return con.sql(
        f"SELECT drop, lead_number, coalesce({grouped}, 0) - coalesce({single}, 0) AS difference "
        "FROM groups FULL JOIN leads USING (drop, lead_number) "
        f"WHERE coalesce({grouped}, 0) <> 0 OR coalesce({single}, 0) <> 0"
    )


def block_sums(con: duckdb.DuckDBPyConnection, features: ByKind, encoder: Encoder) -> duckdb.DuckDBPyRelation:
    """For each lead its encoder id, the sum of each one-hot block, missing features and the smallest one."""
    sums = ", ".join(
        f"{' + '.join(f'{quoted(f)}::SMALLINT' for f in block)} AS {quoted(column)}"
        for column, block in encoder.blocks.items()
    )
    plain = [f for f, source in encoder.sources.items() if f == source]
    everything = " + ".join(quoted(f) for f in encoder.features)
    leads, kinds = features.leads, features.kinds  # noqa: F841  named in the SQL below
    return con.sql(
        f"SELECT encoder_id, s.* EXCLUDE (drop, kind) FROM leads JOIN (SELECT drop, kind, {sums}, "
        f"({everything} IS NULL)::TINYINT AS missing_features, "
        f"least({', '.join(map(quoted, plain))}) AS smallest_feature FROM kinds) AS s USING (drop, kind)"
    )


def count_others(encoded: duckdb.DuckDBPyRelation, encoder: Encoder) -> dict[str, int]:
    """How many leads have a level that is missing or not the encoder's, by column of levels."""
    cells = (f"coalesce(sum({quoted(encoder.blocks[column][-1])}), 0)::BIGINT" for column in encoder.levels)
    return dict(zip(encoder.levels, encoded.aggregate(", ".join(cells)).fetchall()[0], strict=True))


def count(relation: duckdb.DuckDBPyRelation) -> int:
    """The number of rows."""
    return int(relation.count("*").fetchall()[0][0])


def distinct_values(relation: duckdb.DuckDBPyRelation, looks: Mapping[str, bool]) -> dict[str, pa.Table]:
    """The distinct values of the columns looked at, a missing one last: `value` and `row_count`, how many rows have it.

    Of a column with True it is looked at only whether a value is missing: true stands for all that are there. The rows
    are read once, however many the columns.
    """
    if not looks:
        return {}
    names = [f"c{number}" for number in range(len(looks))]
    cells = (
        f"CASE WHEN {quoted(column)} IS NOT NULL THEN true END AS {name}"
        if missing_only
        else f"{quoted(column)} AS {name}"
        for name, (column, missing_only) in zip(names, looks.items(), strict=True)
    )
    found = (
        relation.select(", ".join(cells))
        .aggregate(
            f"grouping({', '.join(names)}) AS others, count(*) AS row_count, {', '.join(names)}",
            f"GROUPING SETS ({', '.join(f'({name})' for name in names)})",
        )
        .order(", ".join(names))
        .to_arrow_table()
    )
    # `others` has a bit for each column that a row of the result is not about, that of the last is the lowest
    all_of_them = (1 << len(names)) - 1
    return {
        column: found.filter(pc.equal(found["others"], all_of_them - (1 << place)))
        .select([name, "row_count"])
        .rename_columns(["value", "row_count"])
        for column, name, place in zip(looks, names, reversed(range(len(names))), strict=True)
    }
