"""Leads that stand in two deliveries, and which codes they carry in each.

What lives here: finding a drop's leads among those that a model learned from, by all but their codes and label. What
does not: what follows from it (`trust.py`, `codes.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb

from junk_leads.steps.leads.accounting import count
from junk_leads.steps.sql import quoted
from junk_leads.steps.watching.profiles import CODES, NONE_GIVEN, ONE_OF_THE_RARE

_CITY = ("city_mapped", "city_tier", "is_city_missing")
_COUNTS = ("total_leads_droppped", "referred_lead")
_FEW_LEADS = 1_000_000  # whose moments are fewer than what they keep from being read
_DAYS_APART = (-1, 1)  # leads that agree in all but the day are alike by chance alone
# SQL for the leads of a sixteenth of a day's seconds: all that are alike, and those alike but for the day, are of one.
_SOME_SECONDS = "hash(epoch(moment)::BIGINT % 86400) % 16 = 0"
_TELLING = 1_000  # leads found among those, of which the share by chance is told
_MOST_CHANCE = 0.1  # share of matches by chance from which the city itself has to agree, not its tier


@dataclass(frozen=True)
class KnownLeads:
    """Leads of a drop that were known before: `leads` of them, about `by_chance` of which are not the same lead.

    `codes`: by column the leads of each (code delivered, code known); `changed` leads carry another code in any column.
    """

    leads: int = 0
    by_chance: float = 0.0
    changed: int = 0
    codes: Mapping[str, Mapping[tuple[str, str], int]] = field(default_factory=dict)

    @property
    def chance_share(self) -> float:
        """About which share of the leads is matched by chance, 0 to 1."""
        return min(1.0, self.by_chance / self.leads) if self.leads else 0.0

    def changed_share(self, column: str | None = None) -> float:
        """The share of leads that carry another code, in a column or in any; what chance matches add is taken off."""
        if not self.leads:
            return 0.0
        of_column = self.codes.get(column or "", {})
        changed = self.changed if column is None else sum(n for pair, n in of_column.items() if _differ(*pair))
        return max(0.0, changed / self.leads - self.chance_share)


def _differ(now: str, then: str) -> bool:
    return now not in (then, ONE_OF_THE_RARE)


def known_leads(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, before: duckdb.DuckDBPyRelation
) -> KnownLeads:
    """The cleaned leads that stand among cleaned leads of `before`: the same second, city, counts and interactions.

    A lead counts when nothing else of its delivery looks like it. A city counts as its tier (some deliveries hold
    another city of the tier) while few leads agree by chance; of more than a million leads that is seen by those of
    some seconds of each day, all of them.
    """
    by_tier, by_city = ("city_tier", "is_city_missing"), ("city_mapped",)
    are_few = count(leads) <= _FEW_LEADS
    here, there = _meeting(con, leads, before, at_once=are_few)
    if not are_few:
        some = _matched(con, here.filter(_SOME_SECONDS), there.filter(_SOME_SECONDS), by_tier)
        if some.leads >= _TELLING and some.chance_share > _MOST_CHANCE:
            return _matched(con, here, there, by_city)
    found = _matched(con, here, there, by_tier)
    return _matched(con, here, there, by_city) if found.chance_share > _MOST_CHANCE else found


def _meeting(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, before: duckdb.DuckDBPyRelation, *, at_once: bool
) -> tuple[duckdb.DuckDBPyRelation, duckdb.DuckDBPyRelation]:
    """What is looked at of leads: of those whose moments meet, the same or just days apart, of most deliveries few.

    Of leads that are not looked at `at_once`: all, and those of `before` whose hours meet. Gives their moment, city,
    counts, interactions and codes; leads without a moment have no part in it.
    """
    plain = {"drop", "lead_number", "created_date", *_CITY, *CODES, *_COUNTS, "app_complete_flag"}
    names = [name for name in leads.columns if name not in plain]
    interactions = " + ".join(f"coalesce({quoted(name)}, 0)::BIGINT" for name in names) or "0"
    codes = [f"coalesce({quoted(name)}, '{NONE_GIVEN}') AS code_{n}" for n, name in enumerate(CODES)]
    moment = "created_date::TIMESTAMP"
    looked_at = (
        f"SELECT {moment} AS moment, {', '.join((*_CITY, *_COUNTS))}, {interactions} AS interactions, "
        f"{', '.join(codes)} FROM"
    )
    apart = f"(SELECT unnest([0, {', '.join(map(str, _DAYS_APART))}])::INTEGER AS days)"
    meets = f"{moment} IN (SELECT {moment} + to_days(days) FROM leads, {apart})"
    if not at_once:
        hour, then = f"date_trunc('hour', {moment})", f"date_trunc('hour', {moment} + to_days(days))"
        meets = f"{hour} IN (SELECT DISTINCT {then} FROM leads, {apart})"
    first, last = leads.aggregate(f"min({moment}), max({moment})").fetchall()[0]
    there = con.sql(
        f"{looked_at} before WHERE {meets} "
        f"AND {moment} BETWEEN ?::TIMESTAMP + to_days(?) AND ?::TIMESTAMP + to_days(?)",
        params=[first, min(_DAYS_APART), last, max(_DAYS_APART)],
    )
    if not at_once:
        return con.sql(f"{looked_at} leads WHERE created_date IS NOT NULL"), there
    there = _kept(con, "known_there", there)
    here = con.sql(f"{looked_at} leads WHERE {moment} IN (SELECT moment + to_days(days) FROM there, {apart})")
    return _kept(con, "known_here", here), there


def _matched(
    con: duckdb.DuckDBPyConnection,
    here: duckdb.DuckDBPyRelation,
    there: duckdb.DuckDBPyRelation,
    city: tuple[str, ...],
) -> KnownLeads:
    # two of one hash are as good as never met; a hash is of a type, and so are moments
    alike = f"* EXCLUDE ({', '.join((*_CITY, *_COUNTS))}, interactions), "
    alike += f"hash({', '.join(map(quoted, (*city, *_COUNTS)))}, interactions) AS alike"
    here, there = here.select(alike), there.select(alike)
    mark, lone = "hash(moment, alike)", "GROUP BY ALL HAVING count(*) = 1"
    tables = {
        "lone_leads": f"SELECT moment, alike FROM here {lone}",
        "lone_before": f"SELECT {mark} AS mark FROM there {lone}",
        "lone_in_both": f"SELECT {mark} AS mark FROM lone_leads SEMI JOIN lone_before ON mark = {mark}",
    }
    for name, made in tables.items():
        con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {made}")
    chance = 0
    for days in _DAYS_APART:
        ((n,),) = con.sql(
            f"SELECT count(*) FROM lone_leads JOIN lone_before ON mark = hash(moment + to_days({days}), alike)"
        ).fetchall()
        chance += n
    pairs = ", ".join(f"a.code_{n}, b.code_{n}" for n, _ in enumerate(CODES))
    alone = f"SEMI JOIN lone_in_both ON mark = {mark}"
    rows = con.sql(
        f"SELECT {pairs}, count(*) FROM (FROM here {alone}) a JOIN (FROM there {alone}) b USING (moment, alike) "
        "GROUP BY ALL"
    ).fetchall()
    found: dict[str, dict[tuple[str, str], int]] = {column: {} for column in CODES}
    changed = total = 0
    for *codes_of_both, n in rows:
        both = list(zip(codes_of_both[::2], codes_of_both[1::2], strict=True))
        total += n
        changed += n * any(_differ(*pair) for pair in both)
        for column, pair in zip(CODES, both, strict=True):
            found[column][pair] = found[column].get(pair, 0) + n
    return KnownLeads(total, chance / len(_DAYS_APART), changed, found)


def _kept(con: duckdb.DuckDBPyConnection, name: str, rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Rows that are read several times, in a TEMP table of this name."""
    con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM rows")
    return con.table(name)
