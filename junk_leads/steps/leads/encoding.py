"""The encoder: all that training data taught about turning a cleaned lead into features.

What lives here: the encoder, its id, and applying it. What does not: learning levels (`levels.py`) and the
model (`training.py`). An encoder travels with the model trained with it; applying one never learns.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb

from junk_leads.reference import INTERACTION_GROUPS, OTHERS, city_tiers, interaction_groups, lead_schema
from junk_leads.steps.leads.kinds import ByKind
from junk_leads.steps.sql import literal, quoted

LEVEL_COLUMNS = ("first_platform_c", "first_utm_medium_c", "first_utm_source_c", "city_mapped")
COUNT_COLUMNS = ("total_leads_droppped", "referred_lead")
TIERS = (1, 2, 3)
IDENTITY = ("drop", "lead_number", "encoder_id", "created_date", "app_complete_flag")
_AS_THEY_ARE = ("city_tier", "is_city_missing", *COUNT_COLUMNS, *INTERACTION_GROUPS)  # a lead's kind besides its levels


@dataclass(frozen=True)
class Encoder:
    """Significant levels by column, and what follows from them.

    `reference` identifies the city tiers and interaction groups it was learned with.
    """

    levels: Mapping[str, tuple[str, ...]]
    reference: str

    @classmethod
    def of_levels(cls, levels: Mapping[str, tuple[str, ...]]) -> "Encoder":
        """The encoder of these significant levels and the package's own reference tables."""
        return cls({column: tuple(levels.get(column, ())) for column in LEVEL_COLUMNS}, reference_id())

    @classmethod
    def of_table(cls, significant_levels: duckdb.DuckDBPyRelation) -> "Encoder":
        """The encoder of a `significant_levels` table."""
        levels: dict[str, list[str]] = {}
        for feature, level in significant_levels.order("feature, rank").select("feature", "level").fetchall():
            levels.setdefault(feature, []).append(level)
        return cls.of_levels({feature: tuple(found) for feature, found in levels.items()})

    @classmethod
    def from_json(cls, text: str) -> "Encoder":
        """The encoder that `to_json` wrote; raises ValueError when its id does not fit its content."""
        content = json.loads(text)
        encoder = cls({k: tuple(v) for k, v in content["levels"].items()}, content["reference"])
        if encoder.id != content["id"]:
            raise ValueError(f"encoder {content['id']} does not match its content (id {encoder.id})")
        return encoder

    def to_json(self) -> str:
        """The encoder as JSON text; the same encoder gives the same text."""
        content = {"id": self.id, **self._content(), "features": list(self.features)}
        return json.dumps(content, indent=1, ensure_ascii=False)

    @cached_property
    def id(self) -> str:
        """A hash of the encoder's content, 16 hexadecimal digits."""
        text = json.dumps({**self._content(), "features": self.features}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _content(self) -> dict[str, Any]:
        return {"levels": {k: list(v) for k, v in self.levels.items()}, "reference": self.reference}

    @cached_property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """The features of each one-hot block, by column; exactly one of a block is 1 for every lead."""
        blocks = {"city_tier": tuple(f"city_tier_{tier}" for tier in TIERS)}
        for column, levels in self.levels.items():
            blocks[column] = (*(_feature(column, level) for level in levels), f"{column}_{OTHERS}")
        return blocks

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The model's features in their one order: counts, city missing, one-hot blocks, groups."""
        one_hot = (feature for block in self.blocks.values() for feature in block)
        return (*COUNT_COLUMNS, "is_city_missing", *one_hot, *INTERACTION_GROUPS)

    @cached_property
    def sources(self) -> dict[str, str]:
        """The cleaned or grouped column that each feature is made from."""
        made = {feature: column for column, block in self.blocks.items() for feature in block}
        return {feature: made.get(feature, feature) for feature in self.features}


def reference_id() -> str:
    """A hash of the package's city tiers and interaction groups."""
    text = json.dumps([city_tiers(), interaction_groups()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _feature(column: str, level: str) -> str:
    """A feature's name: readable, unique, and of characters that LightGBM and SQL take as they are."""
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", level)
    if safe == level and len(level) <= 60 and level.lower() != OTHERS:  # DuckDB's names differ by more than case
        return f"{column}_{level}"
    return f"{column}_{safe[:40]}_{hashlib.sha256(level.encode()).hexdigest()[:8]}"


def map_levels(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, encoder: Encoder
) -> duckdb.DuckDBPyRelation:
    """Cleaned leads with every level that is not significant, or missing, as `others`."""
    mapped = ", ".join(
        f'CASE WHEN list_contains({_list(encoder.levels[column])}, "{column}") THEN "{column}" '
        f"ELSE '{OTHERS}' END AS \"{column}\""
        for column in encoder.levels
    )
    return con.sql(f"SELECT * REPLACE ({mapped}) FROM leads")


def encode(
    con: duckdb.DuckDBPyConnection,
    leads: duckdb.DuckDBPyRelation,
    groups: duckdb.DuckDBPyRelation,
    encoder: Encoder,
) -> duckdb.DuckDBPyRelation:
    """Features: one row for each cleaned lead, `IDENTITY` and then `encoder.features` in order; as `encode_kinds`."""
    return encode_kinds(con, leads, groups, encoder).rows(con)


def encode_kinds(
    con: duckdb.DuckDBPyConnection,
    leads: duckdb.DuckDBPyRelation,
    groups: duckdb.DuckDBPyRelation,
    encoder: Encoder,
) -> ByKind:
    """Features by kind of lead, of cleaned leads and their interaction groups.

    Kinds are numbered by what they are. The relations read TEMP tables of `con`, which the next call replaces.
    """
    codes = ", ".join(f'{sql} AS "{column}"' for column, sql in _codes(encoder).items())
    coded = con.sql(f"SELECT * REPLACE ({codes}) FROM leads")  # noqa: F841  named in the SQL below
    alike = ("drop", *encoder.levels, *_AS_THEY_ARE)
    kind = ", ".join(map(quoted, alike))
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE coded_leads AS SELECT lead_number, created_date, app_complete_flag, {kind} "
        "FROM coded JOIN groups USING (drop, lead_number)"
    )
    _number_kinds(con, "coded_kinds", "coded_leads", kind, "kind")
    # written down: left to be computed in a join with few leads, DuckDB plans their 200 columns for seconds
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE encoded_kinds AS SELECT drop, kind, {_features(encoder)} FROM coded_kinds"
    )
    same = " AND ".join(f"l.{quoted(name)} IS NOT DISTINCT FROM k.{quoted(name)}" for name in alike)
    return ByKind(
        con.sql(
            f"SELECT l.drop, lead_number, '{encoder.id}' AS encoder_id, created_date, app_complete_flag, kind "
            f"FROM coded_leads AS l JOIN coded_kinds AS k ON {same}"
        ),
        con.table("encoded_kinds"),
    )


def code_counts(
    con: duckdb.DuckDBPyConnection, counts: duckdb.DuckDBPyRelation, encoders: Sequence[Encoder]
) -> list[duckdb.DuckDBPyRelation]:
    """Counted leads as several encoders tell them apart: rows that are alike to all of them, and each one's kinds.

    Takes `lead_counts`. The first relation holds the rows, in an order that depends on the leads alone: the place of
    each encoder's kind (`kind_0`, `kind_1`...), `created_day` (days since 1970), the label and `lead_count`. The others
    hold the features of each encoder's kinds, in the order of their places.
    """
    label = lead_schema().label
    mine = [{f"{column}_{n}": codes for column, codes in _codes(e).items()} for n, e in enumerate(encoders)]
    codes = ", ".join(f'{sql} AS "{name}"' for found in mine for name, sql in found.items())
    kind = ", ".join(
        f"least({name}, {2**31 - 1})::INTEGER AS {name}" if name in INTERACTION_GROUPS else name
        for name in _AS_THEY_ARE
    )
    con.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE coded_counts AS
        SELECT {codes}, {kind}, epoch(created_day)::BIGINT // 86400 AS created_day, {label},
            sum(lead_count)::BIGINT AS lead_count
        FROM counts GROUP BY ALL
        """
    )
    features, joins = [], []
    for number, (encoder, found) in enumerate(zip(encoders, mine, strict=True)):
        apart = ", ".join(quoted(name) for name in (*found, *_AS_THEY_ARE))
        _number_kinds(con, f"kinds_{number}", "coded_counts", apart, f"kind_{number}")
        joins.append(f"JOIN kinds_{number} USING ({apart})")
        renamed = ", ".join(f'"{name}" AS "{column}"' for column, name in zip(encoder.levels, found, strict=True))
        coded = con.sql(  # noqa: F841  named in the SQL below
            f"SELECT * EXCLUDE ({', '.join(map(quoted, found))}), {renamed} FROM kinds_{number}"
        )
        features.append(con.sql(f"SELECT {_features(encoder)} FROM coded ORDER BY kind_{number}"))
    places = ", ".join(f"kind_{number}" for number in range(len(encoders)))
    rows = con.sql(
        f"SELECT {places}, created_day, {label}, lead_count FROM coded_counts {' '.join(joins)} "
        f"ORDER BY created_day, {places}, {label}"
    )
    return [rows, *features]


def _number_kinds(con: duckdb.DuckDBPyConnection, kinds: str, rows: str, alike: str, place: str) -> None:
    """Fill the TEMP table `kinds` with what is `alike` in `rows`, once each, and its `place` by what it is, from 0."""
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {kinds} AS SELECT *, row_number() OVER (ORDER BY {alike}) - 1 AS {place} "
        f"FROM (SELECT DISTINCT {alike} FROM {rows})"
    )


def _codes(encoder: Encoder) -> dict[str, str]:
    """SQL for each column of levels as the place of its level, from 1; 0 of one that is missing or not known."""
    return {
        column: f'coalesce(list_position({_list(levels)}, "{column}"), 0)::SMALLINT'
        for column, levels in encoder.levels.items()
    }


def _features(encoder: Encoder) -> str:
    """SQL for the features of leads whose levels are codes: counts as INTEGER, one-hot columns as TINYINT 0 or 1,
    groups as INTEGER. A level never seen in training is `others`.
    """
    columns = [*COUNT_COLUMNS, "is_city_missing"]
    columns += [f"(city_tier = {tier})::TINYINT AS city_tier_{tier}" for tier in TIERS]
    for column, levels in encoder.levels.items():
        places = (*range(1, len(levels) + 1), 0)
        for place, feature in zip(places, encoder.blocks[column], strict=True):
            columns.append(f'("{column}" = {place})::TINYINT AS "{feature}"')
    columns += [f"least({group}, {2**31 - 1})::INTEGER AS {group}" for group in INTERACTION_GROUPS]
    return ", ".join(columns)


def _list(levels: tuple[str, ...]) -> str:
    return "[" + ", ".join(map(literal, levels)) + "]::VARCHAR[]"
