"""The floor: plain DuckDB -> Arrow -> LightGBM in one script, the least that the work can cost.

What lives here: the same tables and the same model as the product, without checks, events, versions, drops,
or any care for a bad file. What does not: anything the product uses; `junk_leads` never imports it, and of
the product it reads the two mapping files only.
"""

import csv
from pathlib import Path

import duckdb
import lightgbm as lgb
import numpy as np
import pyarrow as pa
from measuring import REFERENCE, Levels, Stopwatch, arguments, print_result
from sklearn.metrics import roc_auc_score

LABEL = "app_complete_flag"
COUNTS = ["total_leads_droppped", "referred_lead"]
LEVEL_COLUMNS = ["first_platform_c", "first_utm_medium_c", "first_utm_source_c"]
PARAMETERS = {"objective": "binary", "verbose": -1}
ROUNDS = 100


def interaction_groups() -> dict[str, str]:
    """Group of each interaction column, in the order of the file."""
    with (REFERENCE / "interaction_groups.csv").open(encoding="utf-8") as file:
        return {row["interaction"]: row["interaction_group"] for row in csv.DictReader(file)}


def quoted(values: list[str]) -> str:
    """The values as SQL literals with commas between."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)


def read(db: duckdb.DuckDBPyConnection, leads_csv: Path) -> int:
    """CSV -> `leads`, all columns typed (by position). Returns the rows delivered."""
    types = {"created_date": "TIMESTAMP"} | dict.fromkeys(["city_mapped", *LEVEL_COLUMNS], "VARCHAR")
    types |= dict.fromkeys([*COUNTS, *interaction_groups()], "INTEGER") | {LABEL: "TINYINT"}
    db.execute(f"create table leads as from read_csv('{leads_csv}', header = true, columns = {types})")
    return len(db.table("leads"))


def clean(db: duckdb.DuckDBPyConnection) -> int:
    """`leads` -> `cleaned`: trimmed, nulls 0, exact duplicates dropped, tier. Returns the leads kept."""
    text = [f"trim({column}) as {column}" for column in ["city_mapped", *LEVEL_COLUMNS]]
    counts = [f'coalesce("{column}", 0) as "{column}"' for column in [*COUNTS, *interaction_groups()]]
    db.execute(f"""
        create table cleaned as
        select lead.*, coalesce(tier, 3)::tinyint as city_tier
        from (select distinct created_date, {", ".join(text + counts)}, {LABEL} from leads) as lead
        left join read_csv('{REFERENCE / "city_tiers.csv"}') as tiers on city_mapped = city
    """)
    return len(db.table("cleaned"))


def learn_significant_levels(db: duckdb.DuckDBPyConnection) -> Levels:
    """The 90 % rule of the published way, over all delivered leads: the level that crosses is not kept."""
    rule = """
        select level from (select trim({0}) as level, count(*) as n from leads group by all)
        where level is not null
        qualify 10 * sum(n) over (order by n desc, level) <= 9 * (select count(*) from leads)
        order by n desc, level
    """
    return {c: [level for (level,) in db.execute(rule.format(c)).fetchall()] for c in LEVEL_COLUMNS}


def group(db: duckdb.DuckDBPyConnection, levels: Levels) -> None:
    """`cleaned` -> `grouped`: minor levels to "others", the interactions summed into their groups."""
    level = "case when {0} in ({1}) then {0} else 'others' end as {0}"
    mapped = [level.format(column, quoted(levels[column])) for column in LEVEL_COLUMNS]
    groups = interaction_groups()
    sums = [
        " + ".join(f'"{column}"' for column in groups if groups[column] == name) + f" as {name}"
        for name in sorted(set(groups.values()))
    ]
    db.execute(f"""
        create table grouped as
        select created_date, city_tier, {", ".join(mapped + COUNTS)}, {LABEL}, {", ".join(sums)} from cleaned
    """)


def encode(db: duckdb.DuckDBPyConnection, levels: Levels) -> tuple[pa.Table, pa.ChunkedArray]:
    """`grouped` -> features (counts and one-hot TINYINT) and labels, as Arrow."""
    hot = [f'(city_tier = {tier})::tinyint as "city_tier_{tier}"' for tier in (1, 2, 3)]
    for column in LEVEL_COLUMNS:
        known = [*levels[column], "others"]
        hot += [f'({column} = {quoted([level])})::tinyint as "{column}_{level}"' for level in known]
    table = db.sql(f"select {', '.join(COUNTS + hot)}, {LABEL} from grouped").to_arrow_table()
    return table.drop_columns(LABEL), table[LABEL]


def train(features: pa.Table, labels: pa.ChunkedArray) -> lgb.Booster:
    """Default LightGBM, 100 rounds, on all the leads it is given."""
    return lgb.train(PARAMETERS, lgb.Dataset(features, labels), num_boost_round=ROUNDS)


def predict(db: duckdb.DuckDBPyConnection, model: lgb.Booster, features: pa.Table) -> None:
    """Features -> `predictions`, in the order of `grouped`."""
    db.register("probabilities", pa.table({"probability": model.predict(features)}))
    db.execute("create table predictions as select *, (probability > 0.5)::int as flag from probabilities")


def held_out_auc(features: pa.Table, labels: pa.ChunkedArray) -> float:
    """AUC on 30 % of the leads, at random, of a model that never saw them."""
    is_held_out = np.random.default_rng(0).random(len(labels)) < 0.3
    model = train(features.filter(~is_held_out), labels.filter(pa.array(~is_held_out)))
    held_out = model.predict(features.filter(is_held_out))
    return float(roc_auc_score(labels.to_numpy()[is_held_out], held_out))


def main() -> None:
    """Runs it all on one CSV of labelled leads and prints what it took."""
    leads_csv, workdir, levels = arguments(__doc__ or "")
    database, watch = workdir / "floor.duckdb", Stopwatch()
    database.unlink(missing_ok=True)
    with duckdb.connect(database) as db:
        with watch.step("read"):
            rows = read(db, leads_csv)
        with watch.step("clean"):
            kept = clean(db)
        with watch.step("group"):
            levels = levels or learn_significant_levels(db)
            group(db, levels)
        with watch.step("encode"):
            features, labels = encode(db, levels)
        with watch.step("train"):
            model = train(features, labels)
        with watch.step("predict"):
            predict(db, model, features)
    print_result(watch, rows=rows, kept=kept, auc=held_out_auc(features, labels))


if __name__ == "__main__":
    main()
