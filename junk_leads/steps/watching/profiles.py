"""Profiles: what a set of leads is like, told in counts, small enough to travel with a model.

What lives here: making a profile inside DuckDB, and its JSON. What does not: holding one profile against another
(`trust.py`), and what codes were renamed to (`codes.py`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb
import numpy as np

from junk_leads.reference import INTERACTION_GROUPS, OTHERS, city_tiers
from junk_leads.steps.leads.counting import KIND_COLUMNS
from junk_leads.steps.leads.encoding import LEVEL_COLUMNS
from junk_leads.steps.sql import quoted

CODES = LEVEL_COLUMNS[:3]  # platform, medium, source: the columns whose levels are codes
# What a lead keeps when its codes are renamed.
STEADY = ("city_mapped", "hour", "total_leads_droppped", "referred_lead", "has_interactions")
NONE_GIVEN = ""  # stands for a missing level or city
ONE_OF_THE_RARE = OTHERS.capitalize()  # as `level_key` writes it: what a code map calls a level that nobody tells apart
UNLISTED = "(unlisted)"  # stands for every city without a published tier
MOST_SHARES = 5  # values of a column that are told
MOST_COMBINATIONS = 20_000
MOST_LEVELS = 2_000  # of each column
LEAST_COMPANY = 10  # leads; of a rarer level it is not told what it goes with
_MOST_COUNTED = {"total_leads_droppped": 9, "referred_lead": 2}  # counts of this many and more are told together

Combination = tuple[str, str, str]
Shares = Mapping[str, Sequence[tuple[str, float, float]]]  # by column: values, their shares then and now


@dataclass(frozen=True)
class Profile:
    """Counts of leads by what they are; levels as delivered, `NONE_GIVEN` where there is none.

    `levels` holds the leads of each level by column, `combinations` those of each (platform, medium, source), both
    most frequent first and without the rarest: `cut_leads` are in combinations left out. `steady` holds the leads of
    each value of the columns that a renaming leaves alone; `company`, by column and steady column, the same for each
    level of at least `LEAST_COMPANY` leads (levels x values, in the order of `levels` and `steady`).
    """

    leads: int
    levels: Mapping[str, Mapping[str, int]]
    combinations: Mapping[Combination, int]
    cut_leads: int
    steady: Mapping[str, Mapping[str, int]]
    company: Mapping[str, Mapping[str, np.ndarray]]

    @cached_property
    def share_seen_once(self) -> float:
        """The share of leads that are alone in their combination, or cut.

        So many more leads of the same origin come in combinations not seen before (Good and Turing).
        """
        alone = sum(1 for leads in self.combinations.values() if leads == 1)
        return (alone + self.cut_leads) / max(self.leads, 1)

    def share_in_combinations_below(self, leads: int) -> float:
        """The share of leads in combinations that fewer leads than this have, themselves not counted."""
        few = sum(n for n in self.combinations.values() if n <= leads)
        return (few + self.cut_leads) / max(self.leads, 1)

    def to_json(self) -> str:
        """The profile as JSON text; the same profile gives the same text."""
        place = {column: {level: n for n, level in enumerate(levels)} for column, levels in self.levels.items()}
        flat = [
            [*(place[column][level] for column, level in zip(CODES, combination, strict=True)), leads]
            for combination, leads in self.combinations.items()
        ]
        content = {
            "leads": self.leads,
            "levels": {column: list(levels.items()) for column, levels in self.levels.items()},
            "combinations": flat,
            "cut_leads": self.cut_leads,
            "steady": {column: list(values.items()) for column, values in self.steady.items()},
            "company": {
                column: {steady: matrix.tolist() for steady, matrix in beside.items()}
                for column, beside in self.company.items()
            },
        }
        return json.dumps(content, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Profile":
        """The profile that `to_json` wrote."""
        content: dict[str, Any] = json.loads(text)
        levels = {column: dict(pairs) for column, pairs in content["levels"].items()}
        names = [list(levels[column]) for column in CODES]
        combinations = {(names[0][p], names[1][m], names[2][s]): n for p, m, s, n in content["combinations"]}
        steady = {column: dict(pairs) for column, pairs in content["steady"].items()}
        company = {
            column: {name: _matrix(rows, len(steady[name])) for name, rows in beside.items()}
            for column, beside in content["company"].items()
        }
        return cls(content["leads"], levels, combinations, content["cut_leads"], steady, company)


def _matrix(rows: list[list[int]], width: int) -> np.ndarray:
    return np.array(rows, dtype=np.int64).reshape(len(rows), width)


def all_shares_beside(then: Profile, now: Profile) -> Shares:
    """The shares of each column that drift is told of, as `shares_beside` has them."""
    return {column: shares_beside(then, now, column, MOST_SHARES) for column in (*CODES, *STEADY)}


def shares_beside(then: Profile, now: Profile, column: str, most: int) -> list[tuple[str, float, float]]:
    """The most frequent values of a column, with their shares in both profiles; all others together, if any, last."""
    was, is_now = (
        {value: n / max(profile.leads, 1) for value, n in {**profile.levels, **profile.steady}[column].items()}
        for profile in (then, now)
    )
    values = sorted({*was, *is_now}, key=lambda value: (-max(was.get(value, 0.0), is_now.get(value, 0.0)), value))
    shown = values if len(values) <= most + 1 else values[:most]
    rows = [(value, was.get(value, 0.0), is_now.get(value, 0.0)) for value in shown]
    if len(shown) < len(values):
        rest_was, rest_is = (max(1 - sum(shares.get(value, 0.0) for value in shown), 0.0) for shares in (was, is_now))
        rows.append((ONE_OF_THE_RARE, rest_was, rest_is))
    return rows


def as_counts(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, groups: duckdb.DuckDBPyRelation
) -> duckdb.DuckDBPyRelation:
    """Cleaned leads and their interaction groups, labelled or not, in the form of `lead_counts`: each lead counts 1."""
    kind = ", ".join(map(quoted, KIND_COLUMNS))
    return con.sql(f"SELECT {kind}, 1 AS lead_count FROM leads JOIN groups USING (drop, lead_number)")


def profile_of(
    con: duckdb.DuckDBPyConnection, counts: duckdb.DuckDBPyRelation, leads: duckdb.DuckDBPyRelation
) -> Profile:
    """The profile of leads: of their counts (`KIND_COLUMNS`, `lead_count`), which do not tell their hours, and of each.

    Counts of several drops, put together, are counts again.
    """
    listed = con.sql("SELECT unnest(?) AS listed_city", params=[list(city_tiers())])  # noqa: F841  named in the SQL
    codes = ", ".join(f"coalesce({quoted(name)}, '{NONE_GIVEN}') AS {quoted(name)}" for name in CODES)
    least = ", ".join(f"least({name}, {most}) AS {name}" for name, most in _MOST_COUNTED.items())
    con.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE profiled_counts AS
        SELECT {codes}, {least}, ({" + ".join(INTERACTION_GROUPS)} > 0) AS has_interactions,
            CASE WHEN city_mapped IS NULL THEN '{NONE_GIVEN}' ELSE coalesce(listed_city, '{UNLISTED}') END
                AS city_mapped,
            sum(lead_count) AS leads
        FROM counts LEFT JOIN listed ON city_mapped = listed_city
        GROUP BY ALL
        """
    )
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE profiled_hours AS "
        f"SELECT {codes}, hour(created_date) AS hour, count(*) AS leads FROM leads GROUP BY ALL"
    )
    ((everyone,),) = con.sql("SELECT coalesce(sum(leads), 0)::BIGINT FROM profiled_counts").fetchall()
    levels = {column: _counted(con, column, MOST_LEVELS) for column in CODES}
    names = ", ".join(map(quoted, CODES))
    rows = con.sql(
        f"SELECT {names}, sum(leads)::BIGINT AS n FROM profiled_counts GROUP BY ALL "
        f"ORDER BY n DESC, {names} LIMIT {MOST_COMBINATIONS}"
    ).fetchall()
    combinations = {
        (p, m, s): n
        for p, m, s, n in rows
        if all(level in levels[column] for column, level in zip(CODES, (p, m, s), strict=True))
    }
    steady = {column: dict(sorted(_counted(con, column, None).items())) for column in STEADY}
    company: dict[str, dict[str, np.ndarray]] = {}
    for column in CODES:
        frequent = [level for level, n in levels[column].items() if n >= LEAST_COMPANY]
        company[column] = {name: _beside(con, column, frequent, name, list(steady[name])) for name in STEADY}
    return Profile(everyone, levels, combinations, everyone - sum(combinations.values()), steady, company)


def _counts_by(column: str) -> str:
    """The table that tells how many leads have which value of a column."""
    return "profiled_hours" if column == "hour" else "profiled_counts"


def _counted(con: duckdb.DuckDBPyConnection, column: str, most: int | None) -> dict[str, int]:
    """The leads of each value of a column, most frequent first."""
    limit = "" if most is None else f"LIMIT {most}"
    name = quoted(column)
    rows = con.sql(
        f"SELECT {name}::VARCHAR AS value, sum(leads)::BIGINT AS n FROM {_counts_by(column)} GROUP BY ALL "
        f"ORDER BY n DESC, value {limit}"
    ).fetchall()
    return dict(rows)


def _beside(
    con: duckdb.DuckDBPyConnection, column: str, levels: list[str], steady: str, values: list[str]
) -> np.ndarray:
    """The leads of each of these levels by the value of a steady column, levels x values."""
    matrix = np.zeros((len(levels), len(values)), dtype=np.int64)
    row_of, place_of = ({name: n for n, name in enumerate(names)} for names in (levels, values))
    found = con.sql(
        f"SELECT {quoted(column)}, {quoted(steady)}::VARCHAR, sum(leads)::BIGINT FROM {_counts_by(steady)} GROUP BY ALL"
    ).fetchall()
    for level, value, leads in found:
        if level in row_of:
            matrix[row_of[level], place_of[value]] = leads
    return matrix
