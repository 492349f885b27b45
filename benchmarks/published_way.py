"""The published way: pandas and sqlite3, each step reading one table and overwriting another.

What lives here: how public projects have told junk leads from genuine ones so far, step for step, their
weaknesses kept. It is one side of `make bench` and an oracle in tests. What does not: anything the product
uses; `junk_leads` never imports it, and of the product it reads the two mapping files only.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import lightgbm as lgb
import pandas as pd
from measuring import REFERENCE, Levels, Stopwatch, arguments, print_result
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

LABEL = "app_complete_flag"
FILLED = ["total_leads_droppped", "referred_lead"]
LEVEL_COLUMNS = ["first_platform_c", "first_utm_medium_c", "first_utm_source_c"]
KEY = ["created_date", "city_tier", *LEVEL_COLUMNS, *FILLED, LABEL]
SIGNIFICANT_PERCENT = 90
Data = TypeVar("Data", pd.DataFrame, pd.Series)


def read(database: Path, table: str) -> pd.DataFrame:
    """A whole table."""
    with closing(sqlite3.connect(database)) as connection:
        return pd.read_sql(f"select * from {table}", connection)


def write(database: Path, table: str, frame: pd.DataFrame) -> None:
    """Overwrites a table."""
    with closing(sqlite3.connect(database)) as connection:
        frame.to_sql(table, connection, if_exists="replace", index=False)


def nulls_to_zero(data: Data) -> Data:
    """`fillna(0)` as it was published: an all-null column of sqlite, an object one, becomes numbers."""
    with pd.option_context("future.no_silent_downcasting", True):
        return data.fillna(0).infer_objects()


def learn_significant_levels(leads_csv: Path) -> Levels:
    """Per column the most frequent levels whose cumulative share stays at or below 90 % of all leads.

    The level that crosses 90 % is not kept. Among equal counts the names decide. In the published way a
    person did this once in a notebook; the steps only know the lists.
    """
    leads = pd.read_csv(leads_csv, usecols=LEVEL_COLUMNS)
    levels: Levels = {}
    for column in LEVEL_COLUMNS:
        counts = leads[column].value_counts().sort_index().sort_values(ascending=False, kind="stable")
        levels[column] = list(counts.index[counts.cumsum() * 100 <= SIGNIFICANT_PERCENT * len(leads)])
    return levels


def load(database: Path, leads_csv: Path) -> int:
    """CSV -> `loaded_data`: nulls of two columns filled with 0. Returns the rows delivered."""
    leads = pd.read_csv(leads_csv)
    leads[FILLED] = leads[FILLED].fillna(0)
    write(database, "loaded_data", leads)
    return len(leads)


def map_city_tiers(database: Path) -> None:
    """`loaded_data` -> `city_tier_mapped`: the city's tier, 3 where it is not listed, for the city."""
    tiers = pd.read_csv(REFERENCE / "city_tiers.csv").set_index("city")["tier"].to_dict()
    leads = read(database, "loaded_data")
    leads["city_tier"] = leads["city_mapped"].map(tiers).fillna(3)
    write(database, "city_tier_mapped", leads.drop(columns="city_mapped"))


def map_categories(database: Path, levels: Levels) -> None:
    """`city_tier_mapped` -> `categorical_variables_mapped`: levels not in the lists become "others"."""
    leads = read(database, "city_tier_mapped")
    for column in LEVEL_COLUMNS:
        is_significant = leads[column].isin(levels[column])
        significant, minor = leads[is_significant], leads[~is_significant].copy()
        minor[column] = "others"
        leads = pd.concat([minor, significant])
    write(database, "categorical_variables_mapped", leads)


def map_interactions(database: Path) -> int:
    """`categorical_variables_mapped` -> `interactions_mapped`, `model_input`. Returns the leads kept.

    Duplicates are sought after the mappings, so leads that differ only in an unlisted city or a minor level
    are one; and the pivot adds up leads that differ in their interactions only.
    """
    groups = pd.read_csv(REFERENCE / "interaction_groups.csv")
    leads = read(database, "categorical_variables_mapped").drop_duplicates()
    key = [column for column in KEY if column in leads.columns]
    long = leads.melt(id_vars=key, var_name="interaction", value_name="count")
    long["count"] = nulls_to_zero(long["count"])
    long = long.merge(groups, on="interaction", how="left").drop(columns="interaction")
    wide = long.pivot_table(values="count", index=key, columns="interaction_group", aggfunc="sum")
    wide = wide.reset_index()
    write(database, "interactions_mapped", wide)
    not_features = ["created_date", *groups["interaction_group"].unique()]
    write(database, "model_input", wide.drop(columns=not_features))
    return len(wide)


def encode_features(database: Path, levels: Levels) -> None:
    """`model_input` -> `features`, `target`: one-hot into a frame with a fixed list of columns."""
    leads = read(database, "model_input")
    encoded = {"city_tier": ["1.0", "2.0", "3.0"]} | {c: [*levels[c], "others"] for c in LEVEL_COLUMNS}
    fixed = FILLED + [f"{column}_{level}" for column, known in encoded.items() for level in known]
    dummies = pd.concat([pd.get_dummies(leads[c], prefix=c) for c in encoded], axis=1)
    features = pd.DataFrame(columns=fixed)
    for feature in fixed:
        if feature in leads.columns:
            features[feature] = leads[feature]
        elif feature in dummies.columns:
            features[feature] = dummies[feature]
    write(database, "features", nulls_to_zero(features))
    write(database, "target", leads[[LABEL]])


def train(database: Path) -> tuple[lgb.LGBMClassifier, float]:
    """`features`, `target` -> a model of default LightGBM and its AUC, on a split at random."""
    features, target = read(database, "features"), read(database, "target")[LABEL]
    x_train, x_test, y_train, y_test = train_test_split(features, target, test_size=0.3, random_state=0)
    model = lgb.LGBMClassifier(random_state=42, verbose=-1).fit(x_train, y_train)
    probabilities = pd.DataFrame(model.predict_proba(x_test))[1]
    return model, float(roc_auc_score(y_test, probabilities))


def predict(database: Path, model: lgb.LGBMClassifier, shares_txt: Path) -> None:
    """`features` -> `predictions`; the percentages of 1s and 0s are appended to a text file."""
    predictions = pd.DataFrame({"predicted_flag": model.predict(read(database, "features"))})
    write(database, "predictions", predictions)
    with shares_txt.open("a", encoding="utf-8") as file:
        file.write(f"{predictions.value_counts(normalize=True)}\n")


def main() -> None:
    """Runs the three pipelines on one CSV of labelled leads and prints what they took."""
    leads_csv, workdir, levels = arguments(__doc__ or "")
    database, watch = workdir / "published.sqlite", Stopwatch()
    database.unlink(missing_ok=True)
    levels = levels or learn_significant_levels(leads_csv)
    with watch.step("load"):
        rows = load(database, leads_csv)
    with watch.step("city_tier"):
        map_city_tiers(database)
    with watch.step("categories"):
        map_categories(database, levels)
    with watch.step("interactions"):
        kept = map_interactions(database)
    with watch.step("encode"):
        encode_features(database, levels)
    with watch.step("train"):
        model, auc = train(database)
    with watch.step("predict"):
        predict(database, model, workdir / "prediction_shares.txt")
    print_result(watch, rows=rows, kept=kept, auc=auc)


if __name__ == "__main__":
    main()
