"""What there is to tell of a scored drop, and of one of its leads, collected from the warehouse and the registry.

What lives here: reading it. What does not: the pages made of it (`steps/pages/`) and the figures of the summary
(`steps/pages/summary.py`).
"""

import json
from datetime import UTC, datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from junk_leads.engine.table_parts import with_parts
from junk_leads.errors import DropUnknown, JunkLeadsError
from junk_leads.reference import lead_schema, level_names, model_settings, trust_settings
from junk_leads.steps.leads.encoding import IDENTITY, Encoder, encode
from junk_leads.steps.leads.kinds import matrix_of
from junk_leads.steps.pages.call_list import BEST_FIRST, CHANNEL
from junk_leads.steps.pages.drop_report import CALLED, SHOWN, Believed, DropFacts
from junk_leads.steps.pages.summary import Meaning
from junk_leads.steps.scoring.reasons import city_name, contributions
from junk_leads.steps.scoring.scoring import ScoringModel
from junk_leads.steps.sql import quoted
from junk_leads.steps.watching.profiles import (
    CODES,
    NONE_GIVEN,
    ONE_OF_THE_RARE,
    UNLISTED,
    Profile,
    Shares,
    all_shares_beside,
    as_counts,
    profile_of,
)
from junk_leads.stores.drops.labelled import labelled_drops
from junk_leads.stores.registry import Registry
from junk_leads.stores.warehouse import has_table, rows_of, stored_of

LEAST_OF_CHANNEL = 10  # leads, and half a per cent of the drop, without which a channel is not told of
MOST_ALIKE = 8  # pairs of city names
MOST_SIMILAR = 10  # labelled leads
MOST_LOOKED_AT = 200_000  # labelled leads, for those


def believed(con: duckdb.DuckDBPyConnection, registry: Registry, drop: str) -> tuple[ScoringModel, Believed]:
    """The model that scored a drop, and whether its scores can be believed. Raises DropUnknown when there are none."""
    figures = _only(rows_of(con, "prediction_summary", [drop]))
    figures = {name: 0.0 if value is None else value for name, value in figures.items()}  # of a former version
    model = registry.load(figures["model_version"] or registry.champion_version())
    known = stored_of(con, "known_leads", drop).fetchall()
    figures |= dict(zip(("known_leads", "known_labelled_leads"), known[0][1:] if known else (0, 0), strict=True))
    trust = _only(stored_of(con, "drop_trust", drop)) if has_table(con, "drop_trust") else {}
    return model, Believed(
        figures=figures,
        meaning=Meaning.of(model),
        warnings=trust.get("warnings", ()),
        notes=trust.get("notes", ()),
        blocked=trust.get("blocked", ""),
        code_map=trust.get("code_map", ""),
        moved=trust.get("psi", {}),
        shares=json.loads(trust.get("shares") or "{}"),  # none of a former version
    )


def drop_facts(con: duckdb.DuckDBPyConnection, registry: Registry, model: ScoringModel, found: Believed) -> DropFacts:
    """What a report tells of a drop, given what `believed` found."""
    figures, drop = found.figures, found.figures["drop"]
    told = rows_of(con, "predictions", [drop])  # noqa: F841  named in the SQL below
    leads = rows_of(con, "cleaned_leads", [drop])  # noqa: F841  named in the SQL below
    con.execute(
        "CREATE OR REPLACE TEMP TABLE reported_leads AS SELECT lead_number, probability, predicted_flag, score, grade, "
        f"city_mapped AS city, {CHANNEL} AS channel, created_date, is_city_missing "
        "FROM told JOIN leads USING (drop, lead_number)"
    )
    best = con.sql(
        f"WITH best AS (SELECT * FROM reported_leads ORDER BY {BEST_FIRST} LIMIT {SHOWN}) "
        f"SELECT row_number() OVER (ORDER BY {BEST_FIRST}) AS rank, lead_number, probability, score, "
        "grade, reasons, city, channel, strftime(created_date, '%Y-%m-%d %H:%M') AS created "
        "FROM best JOIN (SELECT lead_number, reasons FROM told) USING (lead_number) ORDER BY rank"
    )
    usual, band = model.settings["share_of_ones"], model_settings()["share_of_ones_band"]
    shares = found.shares or _shares(con, drop, registry.profile(model.version)) if found.moved else {}
    return DropFacts(
        **vars(found) | {"shares": _with_names(shares)},
        missing_cities=_one(con, "SELECT coalesce(avg(is_city_missing::INTEGER), 0) FROM reported_leads"),
        unknown=_shares_of_others(con, drop, model.encoder),
        alike=_alike_cities(con, model.encoder),
        best=_rows(best),
        scores=_scores(con),
        called=_called(con, figures["lead_count"]),
        channels=_channels(con, figures["lead_count"]),
        usual_psi=trust_settings()["psi"],
        band=(max(0.0, usual - band), min(1.0, usual + band)),
        model=_about_model(registry, model),
    )


def lead_facts(con: duckdb.DuckDBPyConnection, registry: Registry, drop: str, number: int) -> dict[str, Any]:
    """What there is to tell of one scored lead; raises DropUnknown, or JunkLeadsError for a lead that is not there.

    `prediction` is its row of predictions, `contributions` its log-odds by column, the strongest first, and `alike` the
    labelled leads most alike: those with the least distance between their contributions as this model sees them.
    """
    predictions = rows_of(con, "predictions", [drop])
    row = predictions.filter(f"lead_number = {number}")
    if not row.limit(1).fetchall():
        least, most = predictions.aggregate("min(lead_number), max(lead_number)").fetchall()[0]
        raise JunkLeadsError(
            f"drop {drop!r} has no scored lead {number}"
            + (f"; its leads are numbered {least} to {most}" if least else "; it has no leads")
            + ", without those rejected or dropped as duplicates"
        )
    prediction = _only(row)
    told = _only(_reasons_of(con, drop).filter(f"lead_number = {number}"))
    plain = {*IDENTITY, "model_version", "base", "log_odds"}
    by_column = {name: value for name, value in told.items() if name not in plain and value is not None}
    ordered = dict(sorted(by_column.items(), key=lambda item: -abs(item[1])))
    model = registry.load(prediction["model_version"])
    return {
        "prediction": prediction,
        "base": told["base"],
        "log_odds": told["log_odds"],
        "contributions": ordered,
        "alike": _most_alike(con, model, drop, number),
    }


def _reasons_of(con: duckdb.DuckDBPyConnection, drop: str) -> duckdb.DuckDBPyRelation:
    if not has_table(con, "reasons"):
        raise DropUnknown(f"drop {drop!r} was scored by a former program; run `junk-leads score {drop}` again first")
    return with_parts(con, "reasons", stored_of(con, "reasons", drop), [drop])


def _rows(relation: duckdb.DuckDBPyRelation) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = relation.to_arrow_table().to_pylist()
    return rows


def _most_alike(con: duckdb.DuckDBPyConnection, model: ScoringModel, drop: str, number: int) -> list[dict[str, Any]]:
    """The labelled leads of other drops most like a lead, the nearest first: drop, lead_number, created, label.

    Kinds of leads are as near as what speaks for and against them is, column by column (log-odds): leads that differ
    only where the model sees no difference are the same to it. Of very many the newest are looked at.
    """
    drops, label = [name for name in labelled_drops(con) if name != drop], quoted(lead_schema().label)
    if not drops:
        return []
    leads, groups = rows_of(con, "cleaned_leads", drops), rows_of(con, "interaction_groups", drops)
    leads = leads.filter(f"{label} IS NOT NULL").order("created_date DESC, drop, lead_number").limit(MOST_LOOKED_AT)
    encoded = encode(con, leads, groups, model.encoder)  # noqa: F841  named in the SQL below
    features = ", ".join(map(quoted, model.encoder.features))
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE looked_at AS SELECT drop, lead_number, created_date, {label} AS label, "
        f"{features} FROM encoded"
    )
    con.execute(f"CREATE OR REPLACE TEMP TABLE kinds_looked_at AS SELECT DISTINCT {features} FROM looked_at")
    own = rows_of(con, "encoded_features", [drop]).filter(f"lead_number = {number}").select(features)
    others = con.table("kinds_looked_at").order("rowid")
    kinds = np.concatenate([matrix_of(found.to_arrow_table(), model.encoder.features) for found in (own, others)])
    told = contributions(model.booster, model.encoder, kinds).values
    distance = np.abs(told[1:] - told[0]).sum(axis=1)
    nearest = pa.table({"kind": np.argsort(distance, kind="stable"), "distance": np.sort(distance)})
    nearest = nearest.slice(0, MOST_SIMILAR)
    return _rows(
        con.sql(
            f"SELECT drop, lead_number, strftime(created_date, '%Y-%m-%d %H:%M') AS created, label, distance "
            f"FROM nearest JOIN (SELECT rowid AS kind, * FROM kinds_looked_at) USING (kind) "
            f"JOIN looked_at USING ({features}) ORDER BY distance, created_date DESC, drop, lead_number "
            f"LIMIT {MOST_SIMILAR}"
        )
    )


def _about_model(registry: Registry, model: ScoringModel) -> dict[str, str]:
    version = registry.version(model.version)
    newest = datetime.fromtimestamp(version.newest_lead, UTC) if np.isfinite(version.newest_lead) else None
    told = {
        "Version": f"{version.version}, trained {version.created[:10]}",
        "Learned from": f"{sum(version.drops.values()):,} labelled leads"
        + (f", the newest of {newest:%Y-%m-%d}" if newest else ""),
    }
    if {"random_auc", "temporal_auc"} <= version.metrics.keys():
        told["How well it tells them apart"] = (
            f"AUC {version.metrics['temporal_auc']:.3f} on the newest leads, {version.metrics['random_auc']:.3f} on a "
            "random part (0.5 is a coin, 1 is perfect)"
        )
    told["Limits"] = (
        "it ranks leads, and promises nothing of a single one; of channels and cities that it has not seen it knows "
        "little, and yesterday's outcomes say less of leads a year away"
    )
    return told


def _shares_of_others(con: duckdb.DuckDBPyConnection, drop: str, encoder: Encoder) -> dict[str, float]:
    features = {column: encoder.blocks[column][-1] for column in CODES}
    encoded = rows_of(con, "encoded_features", [drop])
    shares = encoded.aggregate(", ".join(f"coalesce(avg({quoted(name)}), 0)" for name in features.values())).fetchall()
    return dict(zip(features, shares[0], strict=True))


def _shares(con: duckdb.DuckDBPyConnection, drop: str, trained: Profile | None) -> Shares:
    """The shares of a drop that a former version encoded, which did not keep them."""
    if trained is None:
        return {}
    leads = rows_of(con, "cleaned_leads", [drop])
    return all_shares_beside(
        trained, profile_of(con, as_counts(con, leads, rows_of(con, "interaction_groups", [drop])), leads)
    )


def _with_names(shares: Shares) -> Shares:
    return {
        column: [(_value_name(column, value), was, is_now) for value, was, is_now in rows]
        for column, rows in shares.items()
    }


def _value_name(column: str, value: str) -> str:
    """A value of a profile as people say it."""
    known = {NONE_GIVEN: "none given", UNLISTED: "unlisted", ONE_OF_THE_RARE: ONE_OF_THE_RARE}
    if value in known:
        return known[value]
    if column == "city_mapped":
        return city_name(value)
    if column == "hour":
        return f"{value} h"
    if column == "referred_lead":
        return {"0": "no", "1": "yes"}.get(value, "more than once")
    return {"true": "some", "false": "none"}.get(value, level_names().get((column, value.casefold()), value))


def _alike_cities(con: duckdb.DuckDBPyConnection, encoder: Encoder) -> list[tuple[str, int, str, int]]:
    """Pairs of city names of the drop that differ by so few letters that one is likely the other, misspelt."""
    known = [city for city in encoder.levels["city_mapped"] if len(city) >= 6]
    rows = con.execute(
        f"""
        WITH cities AS (SELECT city, count(*) AS n FROM reported_leads WHERE length(city) >= 6 GROUP BY ALL)
        SELECT a.city, a.n, b.city, b.n FROM cities AS a JOIN cities AS b
        ON (a.n, a.city) < (b.n, b.city) AND left(a.city, 1) = left(b.city, 1)
            AND abs(length(a.city) - length(b.city)) <= 1
            AND damerau_levenshtein(a.city, b.city) <= CASE WHEN length(b.city) >= 10 THEN 2 ELSE 1 END
        WHERE list_contains(?::VARCHAR[], b.city) ORDER BY a.n DESC, a.city, b.city LIMIT {MOST_ALIKE}
        """,
        [known],
    ).fetchall()
    return [(str(a), int(n), str(b), int(m)) for a, n, b, m in rows]


def _scores(con: duckdb.DuckDBPyConnection) -> list[int]:
    counted = dict(con.sql("SELECT score // 10, count(*) FROM reported_leads GROUP BY ALL").fetchall())
    return [int(counted.get(tens, 0)) for tens in range(10)]


def _called(con: duckdb.DuckDBPyConnection, leads: int) -> list[float]:
    """The applications expected among the best shares of the leads."""
    counted = con.sql(
        "SELECT probability, count(*) AS leads FROM reported_leads GROUP BY ALL ORDER BY ALL DESC"
    ).fetchnumpy()
    of_best = np.cumsum(counted["leads"]), np.cumsum(counted["leads"] * counted["probability"])
    reached, expected = (np.concatenate([[0], values]) for values in of_best)
    return [float(np.interp(round(share * leads), reached, expected)) for share in CALLED]


def _channels(con: duckdb.DuckDBPyConnection, leads: int) -> list[dict[str, Any]]:
    least = max(LEAST_OF_CHANNEL, round(0.005 * leads))
    return _rows(
        con.sql(
            "SELECT channel, count(*) AS leads, sum(probability) AS expected, sum(1 - predicted_flag)::BIGINT AS zeros "
            f"FROM reported_leads GROUP BY ALL HAVING count(*) >= {least} "
            "ORDER BY expected / leads DESC, leads DESC, channel"
        )
    )


def _only(relation: duckdb.DuckDBPyRelation) -> dict[str, Any]:
    """The one row of a relation."""
    rows = relation.fetchall()
    if not rows:
        raise DropUnknown("the drop is not scored; run `junk-leads score` for it first")
    return dict(zip(relation.columns, rows[0], strict=True))


def _one(con: duckdb.DuckDBPyConnection, sql: str) -> float:
    return float(con.sql(sql).fetchall()[0][0])


def scored_drops(con: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """The scored drops, the newest first: drop, scored_at, leads, ones (share), expected (applications), warnings."""
    if not has_table(con, "prediction_summary"):
        return []
    warned = "0"
    if has_table(con, "drop_trust"):
        warned = "coalesce((SELECT max(len(warnings)) FROM drop_trust AS t WHERE t.drop = s.drop), 0)"
    return _rows(
        con.sql(
            "SELECT drop, scored_at, lead_count AS leads, share_of_ones AS ones, "
            f"applications_of_ones + applications_of_zeros AS expected, {warned} AS warnings "
            "FROM prediction_summary AS s ORDER BY scored_at DESC, drop"
        )
    )
