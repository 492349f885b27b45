"""Scoring: a lead's probability is its own, whoever it comes with and whichever way it comes to the model.

The model is the one of the trained home. What features a lead has is tested in `test_encoding.py`.
"""

import csv
import io
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from junk_leads.capacity import MEMORY_VARIABLE
from junk_leads.reference import INTERACTION_GROUPS, level_names
from junk_leads.steps.leads.cleaning import clean, normalise
from junk_leads.steps.leads.encoding import IDENTITY, LEVEL_COLUMNS, encode, encode_kinds
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.kinds import MARK, distinct_rows, kinds_in, kinds_of_leads, sorts
from junk_leads.steps.leads.reading import read_leads
from junk_leads.steps.learning.calibration import Calibration
from junk_leads.steps.learning.grading import GRADES, grade_of, score_of
from junk_leads.steps.scoring import scored_file, scoring
from junk_leads.steps.scoring.reasons import (
    LEAST_CONTRIBUTION,
    LONGEST,
    SEPARATOR,
    STRONGEST,
    Contributions,
    _worded,
    contributions,
    how_many_apply,
    reasons_of,
)
from junk_leads.steps.scoring.scored_file import FORMULA_STARTS, write_scored_file
from junk_leads.steps.scoring.scoring import (
    PREDICTED,
    ScoringModel,
    explain_features,
    predict_ahead,
    score_features,
    score_raw_leads,
)
from junk_leads.stores.mlflow_store import mlflow_quiet
from junk_leads.stores.registry import Registry
from junk_leads.stores.warehouse import connect, rows_of
from junk_leads_tests.conftest import DELIVERED, SCHEMA, Trained, leads_of

pytestmark = pytest.mark.xdist_group("scoring properties")

Predictions = dict[int, tuple[Any, ...]]


@pytest.fixture(scope="module")
def model(trained: Trained) -> ScoringModel:
    return Registry(trained.home).load("1")


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@dataclass(frozen=True)
class Delivered:
    """The drop `new`: its cells as delivered, and what the graph predicted of each lead, by lead number."""

    header: list[str]
    rows: list[list[str]]
    predicted: Predictions

    def probabilities(self, leads: Sequence[int]) -> list[float]:
        return [self.predicted[lead][0] for lead in leads]


@pytest.fixture(scope="module")
def new(trained: Trained) -> Delivered:
    with trained.new.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    with duckdb.connect(str(trained.home.warehouse), read_only=True) as con:
        told = con.sql(f"SELECT lead_number, {', '.join(PREDICTED)} FROM predictions WHERE drop = 'new'").fetchall()
    return Delivered(header, rows, {row[0]: row[1:] for row in told})


# Whoever a lead comes with


def scored(
    con: duckdb.DuckDBPyConnection, model: ScoringModel, raw: duckdb.DuckDBPyRelation
) -> dict[tuple[str, int], float]:
    """Probabilities by (drop, lead number), by the steps of the graph, reasons left out: they take long."""
    cleaned = clean(con, raw, SCHEMA)
    encoded = encode(con, cleaned, group_interactions(con, cleaned), model.encoder).to_arrow_table()
    kinds, kind = kinds_of_leads([encoded], model.encoder.features)
    probabilities = model.tell(model.predict(kinds))[kind]
    leads = zip(encoded["drop"].to_pylist(), encoded["lead_number"].to_pylist(), strict=True)
    return dict(zip(leads, probabilities.tolist(), strict=True))


def raw_leads(con: duckdb.DuckDBPyConnection, path: Path, table: list[list[str]]) -> duckdb.DuckDBPyRelation:
    """Raw leads of a delivered file with these cells, the header first; the file's stem is the drop."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(table)
    return read_leads(con, path, SCHEMA).leads.select(f"'{path.stem}' AS drop, *")


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.integers(0, 398), min_size=1, max_size=25, unique=True),
    st.lists(st.integers(1, 24), max_size=2),
    st.permutations(range(44)),
)
def test_a_lead_keeps_its_probability_in_any_file_at_any_line_and_with_columns_in_any_order(
    model: ScoringModel,
    database: duckdb.DuckDBPyConnection,
    new: Delivered,
    tmp_path_factory: pytest.TempPathFactory,
    places: list[int],
    cuts: list[int],
    columns: list[int],
) -> None:
    folder, everyone = tmp_path_factory.mktemp("drops"), list(new.predicted)
    leads = [everyone[place] for place in places]
    bounds = [0, *sorted(cut for cut in cuts if cut < len(leads)), len(leads)]
    drops = {f"d{n}": leads[first:end] for n, (first, end) in enumerate(itertools.pairwise(bounds))}
    files = []
    for drop, of_drop in drops.items():
        table = [new.header, *(new.rows[lead - 1] for lead in of_drop)]
        files.append(raw_leads(database, folder / f"{drop}.csv", [[row[at] for at in columns] for row in table]))
    raw = files[0]
    for other in files[1:]:
        raw = raw.union(other)
    found = scored(database, model, raw)
    expected = {
        (drop, line): new.predicted[lead][0] for drop, of_drop in drops.items() for line, lead in enumerate(of_drop, 1)
    }
    assert found == expected


LEVELS = st.sampled_from([None, "Level0", " level1 ", "LEVEL3", "Level99", "it's", "🎓", "=1+1"])
COUNTS = st.none() | st.integers(0, 3) | st.sampled_from([99_999, 2**31 - 1])
ODD = st.fixed_dictionaries(
    {
        "created_date": st.sampled_from(["2021-07-01 00:00:00", "2022-02-28 23:59:59", "2099-12-31 12:00:00"]),
        "city_mapped": st.sampled_from([None, "mumbai", "Navi  Mumbai", "zürich", "others"]),
        **dict.fromkeys(LEVEL_COLUMNS[:3], LEVELS),
        **dict.fromkeys(("total_leads_droppped", "syllabus", "careers", "whatsapp_chat_click"), COUNTS),
        "referred_lead": st.sampled_from([None, 0, 1]),
        "app_complete_flag": st.none(),
    }
)


@settings(max_examples=8, deadline=None)
@given(st.lists(ODD, min_size=2, max_size=4))
def test_even_an_odd_lead_has_alone_the_probability_it_has_among_others(
    model: ScoringModel, database: duckdb.DuckDBPyConnection, delivered: list[dict[str, Any]]
) -> None:
    together = scored(database, model, leads_of(database, *delivered))
    for lead, probability in together.items():
        alone = scored(database, model, leads_of(database, delivered[lead[1] - 1]))
        assert list(alone.values()) == [probability]
        assert 0 < probability < 1


def test_a_lead_alone_has_the_whole_prediction_that_the_graph_gave_it_in_its_drop(
    model: ScoringModel, database: duckdb.DuckDBPyConnection, new: Delivered, tmp_path: Path
) -> None:
    for lead in (min(new.predicted), max(new.predicted)):
        raw = raw_leads(database, tmp_path / f"{lead}.csv", [new.header, new.rows[lead - 1]])
        (alone,) = score_raw_leads(database, raw, model, SCHEMA).to_pylist()
        assert tuple(alone[name] for name in PREDICTED) == new.predicted[lead]
        assert (alone["drop"], alone["lead_number"], alone["model_version"]) == (str(lead), 1, "1")


def test_raw_leads_are_scored_each_by_itself_duplicates_too(
    model: ScoringModel, database: duckdb.DuckDBPyConnection
) -> None:
    twice = score_raw_leads(
        database, leads_of(database, {}, {"first_platform_c": "Level3"}, {}), model, SCHEMA
    ).to_pylist()
    assert [row["lead_number"] for row in twice] == [1, 2, 3]
    assert twice[0] == {**twice[2], "lead_number": 1}
    assert twice[0]["probability"] != twice[1]["probability"]


def test_no_raw_leads_have_no_predictions(model: ScoringModel, database: duckdb.DuckDBPyConnection) -> None:
    assert score_raw_leads(database, leads_of(database, {}).limit(0), model, SCHEMA).num_rows == 0


# Whichever way a lead comes to the model


@pytest.fixture(scope="module")
def client(trained: Trained) -> Iterator[Callable[[pd.DataFrame], list[tuple[Any, ...]]]]:
    """Predicts with the champion as any MLflow client does, which loads it by name."""
    with mlflow_quiet():  # what it is told at its import holds for all of this process
        import mlflow

    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend("")  # MLflow puts the model's own code on the path: taken off again
        mlflow.set_tracking_uri(trained.home.mlflow_uri)
        loaded = mlflow.pyfunc.load_model("models:/junk_leads@production")
        mlflow.set_tracking_uri(before)
        yield lambda frame: list(loaded.predict(frame)[list(PREDICTED)].itertuples(index=False, name=None))


Client = Callable[[pd.DataFrame], list[tuple[Any, ...]]]


def test_an_mlflow_client_predicts_of_texts_what_the_graph_predicted_to_the_bit(client: Client, new: Delivered) -> None:
    predicted = client(pd.DataFrame(new.rows, columns=new.header))
    assert {lead: predicted[lead - 1] for lead in new.predicted} == new.predicted


def test_an_mlflow_client_predicts_the_same_of_numbers_in_any_order_of_columns_and_under_any_index(
    client: Client, new: Delivered
) -> None:
    leads = list(new.predicted)[:20]
    text = io.StringIO("\n".join(",".join(row) for row in (new.header, *(new.rows[lead - 1] for lead in leads))))
    frame = pd.read_csv(text)
    assert sum(kind == np.float64 for kind in frame.dtypes) == 39
    frame = frame[list(reversed(frame.columns))].set_index(pd.Index([7] * 20)).assign(drop="x", note="=1")
    assert client(frame) == [new.predicted[lead] for lead in leads]


REQUIRED = [column.name for column in SCHEMA.columns if column.role not in ("interaction", "label")]


def test_an_interaction_that_an_mlflow_client_leaves_out_counts_as_none(client: Client) -> None:
    frame = pd.DataFrame([DELIVERED] * 2)[REQUIRED].assign(first_platform_c=["Level0", "Level3"])
    none = frame.assign(**dict.fromkeys(SCHEMA.with_role("interaction")))
    assert client(frame.assign(syllabus=[0.0, None])) == client(frame) == client(none)


def test_an_mlflow_client_that_leaves_out_what_a_lead_needs_is_refused(client: Client) -> None:
    with pytest.raises(Exception, match=r"Model is missing inputs \['city_mapped'"):
        client(pd.DataFrame([{"created_date": "2021-07-01 00:00:00", "first_platform_c": "Level0"}]))


def test_mlflows_own_server_scores_csv_and_json_as_the_graph_does(trained: Trained, new: Delivered) -> None:
    with mlflow_quiet():
        import mlflow
        from mlflow.pyfunc.scoring_server import init
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend("")
        mlflow.set_tracking_uri(trained.home.mlflow_uri)
        server = TestClient(init(mlflow.pyfunc.load_model("models:/junk_leads@production")))
        mlflow.set_tracking_uri(before)
    leads = list(new.predicted)[:20]
    text = "\n".join(",".join(row) for row in (new.header, *(new.rows[lead - 1] for lead in leads)))
    as_csv = server.post("/invocations", content=text, headers={"content-type": "text/csv"})
    records = [
        {name: cell or None for name, cell in zip(new.header, new.rows[lead - 1], strict=True)} for lead in leads
    ]
    as_json = server.post("/invocations", json={"dataframe_records": records})
    for answer in (as_csv, as_json):
        assert answer.status_code == 200, answer.text
        assert [tuple(row.values()) for row in answer.json()["predictions"]] == [new.predicted[lead] for lead in leads]
    lacking = server.post("/invocations", json={"dataframe_records": [{"created_date": "2021-07-01 00:00:00"}]})
    assert lacking.status_code == 400
    assert "missing inputs" in lacking.text


def test_what_is_missing_in_a_file_is_missing_in_the_same_texts_of_an_mlflow_client(
    client: Client, model: ScoringModel, database: duckdb.DuckDBPyConnection, new: Delivered, tmp_path: Path
) -> None:
    city = new.header.index("city_mapped")
    rows = [[*new.rows[0][:city], token, *new.rows[0][city + 1 :]] for token in SCHEMA.null_tokens]
    raw = raw_leads(database, tmp_path / "tokens.csv", [new.header, *rows])
    read = score_raw_leads(database, raw, model, SCHEMA)["probability"].to_pylist()
    assert [row[0] for row in client(pd.DataFrame(rows, columns=new.header))] == read


def test_an_mlflow_client_may_give_counts_as_whole_numbers(client: Client) -> None:
    counts = ["total_leads_droppped", "referred_lead", "syllabus"]
    frame = pd.DataFrame([DELIVERED])[REQUIRED].assign(total_leads_droppped=1, referred_lead=0, syllabus=2)
    # MLflow takes int64 for no double, which it may not fit
    assert client(frame.astype(dict.fromkeys(counts, "int32"))) == client(frame.astype(dict.fromkeys(counts, float)))


# From probability to score, grade and reasons

PROBABILITIES = arrays.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1))


@settings(max_examples=15, deadline=None)
@given(PROBABILITIES)
def test_scores_are_1_to_99_and_rise_with_probability(probabilities: np.ndarray) -> None:
    scores = score_of(np.sort(probabilities)).tolist()
    assert scores == sorted(scores)
    assert 1 <= scores[0] <= scores[-1] <= 99
    assert np.abs(score_of(probabilities) - probabilities * 100).max() <= 1


@settings(max_examples=15, deadline=None)
@given(PROBABILITIES, st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3, unique=True))
def test_a_grade_begins_at_its_least_probability_and_never_falls_as_probability_rises(
    probabilities: np.ndarray, bounds: list[float]
) -> None:
    least = dict(zip(GRADES, sorted(bounds, reverse=True), strict=False))
    grades = grade_of(np.sort(probabilities), least).tolist()
    assert grades == sorted(grades, reverse=True)
    for grade, below, bound in zip(GRADES, GRADES[1:], least.values(), strict=False):
        assert grade_of(np.array([bound, np.nextafter(bound, 0)]), least).tolist() == [grade, below]


@dataclass(frozen=True)
class Kinds:
    """The kinds of leads in the drop `new`, and the kind of each of its leads."""

    kinds: np.ndarray
    kind: np.ndarray


@pytest.fixture(scope="module")
def kinds(model: ScoringModel, database: duckdb.DuckDBPyConnection, trained: Trained) -> Kinds:
    leads = read_leads(database, trained.new, SCHEMA).leads.select("'new' AS drop, *")
    cleaned = normalise(database, leads, SCHEMA)
    encoded = encode(database, cleaned, group_interactions(database, cleaned), model.encoder)
    return Kinds(*kinds_of_leads([encoded.order("lead_number").to_arrow_table()], model.encoder.features))


def test_contributions_and_their_base_sum_to_the_log_odds_of_the_trees(model: ScoringModel, kinds: Kinds) -> None:
    told = contributions(model.booster, model.encoder, kinds.kinds)
    assert told.values.shape == (len(kinds.kinds), len(told.columns))
    assert set(told.columns) == {
        *("total_leads_droppped", "referred_lead", "is_city_missing", "city_tier"),
        *LEVEL_COLUMNS,
        *INTERACTION_GROUPS,
    }
    raw = np.asarray(model.booster.predict(kinds.kinds, raw_score=True))
    assert raw.std() > 0.5
    np.testing.assert_allclose(told.values.sum(axis=1) + told.base, raw, rtol=0, atol=1e-6)
    assert np.ptp(told.base) == 0


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32])
@pytest.mark.parametrize("columns", [1, 5, 20])
def test_distinct_rows_are_the_first_of_each_in_the_order_of_their_last_columns(dtype: type, columns: int) -> None:
    rng = np.random.default_rng(columns)
    least, most = {bool: (0, 1), np.int8: (-128, 127), np.uint8: (7, 9), np.int32: (-(2**31), 2**31 - 1)}[dtype]
    values = rng.choice(np.array([least, most], dtype=dtype), (500, columns), p=[0.9, 0.1])
    first, place = distinct_rows(values)
    assert np.array_equal(values[first][place], values)
    assert len(first) == len(np.unique(values, axis=0))
    assert all(number == np.flatnonzero(place == kind)[0] for kind, number in enumerate(first))
    if (np.log2(float(most) - least + 1) * columns) < 63:  # a number holds a row
        assert np.lexsort(values[first].T).tolist() == list(range(len(first)))


@pytest.mark.parametrize("have_numbers", [True, False])
def test_contributions_tree_by_tree_are_those_of_all_trees_at_once(
    model: ScoringModel, kinds: Kinds, have_numbers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not have_numbers:  # as of trees with more splits than a number has bits
        monkeypatch.setattr("junk_leads.steps.leads.kinds._one_number", lambda rows: None)
    tree_by_tree = contributions(model.booster, model.encoder, kinds.kinds)
    monkeypatch.setattr("junk_leads.steps.scoring.reasons.FEW_KINDS", len(kinds.kinds))
    at_once = contributions(model.booster, model.encoder, kinds.kinds)
    assert tree_by_tree.columns == at_once.columns
    np.testing.assert_allclose(tree_by_tree.values, at_once.values, rtol=0, atol=1e-9)
    np.testing.assert_allclose(tree_by_tree.base, at_once.base, rtol=0, atol=1e-9)


def test_the_table_of_reasons_sums_to_the_log_odds_of_each_lead(trained: Trained, model: ScoringModel) -> None:
    with connect(trained.home.warehouse) as con:
        told = rows_of(con, "predictions", ["new"]).order("lead_number").fetchnumpy()
        reasons = con.sql("FROM reasons WHERE drop = 'new' ORDER BY lead_number").fetchnumpy()
    assert reasons.pop("lead_number").tolist() == told["lead_number"].tolist()
    assert set(reasons.pop("model_version")) == {"1"}
    log_odds = reasons.pop("log_odds")
    np.testing.assert_allclose(sum(v for name, v in reasons.items() if name != "drop"), log_odds, rtol=0, atol=1e-6)
    calibration = Calibration(**model.settings["calibration"])
    probabilities = calibration.apply(1 / (1 + np.exp(-log_odds)))
    np.testing.assert_allclose(probabilities, told["probability"], rtol=0, atol=1e-6)


def reasons(model: ScoringModel, kinds: np.ndarray) -> list[str]:
    told = contributions(model.booster, model.encoder, kinds)
    return reasons_of(told, model.encoder, model.conversions, kinds)


CITY = re.compile(r"(no city given|a tier \d city|.*, tier \d)( \(|$)")


def test_reasons_are_short_few_and_tell_the_city_once(model: ScoringModel, kinds: Kinds) -> None:
    found = reasons(model, kinds.kinds)
    for text in found:
        told = text.split(" | ")
        assert 1 <= len(told) == len(set(told))
        assert all(len(reason) <= LONGEST and reason.startswith(("for: ", "against: ")) for reason in told)
        assert max(sum(reason.startswith(side) for reason in told) for side in ("for: ", "against: ")) <= STRONGEST
        assert sum(bool(CITY.match(reason.partition(": ")[2])) for reason in told) <= 1
    assert any(len(text.split(" | ")) > STRONGEST for text in found)


def chosen_for_one(weights: list[float], texts: list[tuple[tuple[str, bool], tuple[str, bool]]]) -> str:
    """The reasons of one kind, one after the other; of each topic the weight, and a text against and one for."""
    strongest_first = sorted(zip(weights, texts, strict=True), key=lambda topic: -abs(topic[0]))
    found: list[str] = []
    for weight, text in strongest_first:
        reason, is_borne_out = text[bool(weight > 0)]
        side = reason.partition(":")[0]
        if abs(weight) >= LEAST_CONTRIBUTION and is_borne_out and sum(r.startswith(side) for r in found) < STRONGEST:
            found.append(reason)
    weight, text = strongest_first[0]
    return SEPARATOR.join(found or [text[bool(weight > 0)][0]])


@pytest.mark.parametrize("scale", [1.0, -1.0, 0.1, 0.01, 0.0])
def test_reasons_of_many_kinds_are_those_of_each_by_itself(model: ScoringModel, kinds: Kinds, scale: float) -> None:
    odd = kinds.kinds.copy()
    odd[:3, model.encoder.features.index("total_leads_droppped")] = (-1, 0, 10**6)
    found = contributions(model.booster, model.encoder, odd)
    told = Contributions(found.values * scale, found.columns, found.base)
    alike = {column: sorts(column, model.encoder, odd) for column in told.columns}
    city = ("city_mapped", "city_tier", "is_city_missing")
    topics = [city, *((column,) for column in told.columns if column not in city)]
    topics.sort(key=lambda topic: min(map(told.columns.index, topic)))  # of equal weights the first comes first
    expected = []
    for row, values in enumerate(told.values):
        weights = [sum(values[told.columns.index(column)] for column in topic) for topic in topics]
        sorts_of = [{column: alike[column][0][alike[column][1][row]] for column in topic} for topic in topics]
        expected.append(chosen_for_one(weights, [_worded(sort, model.conversions) for sort in sorts_of]))
    assert reasons_of(told, model.encoder, model.conversions, odd) == expected
    assert [alike["total_leads_droppped"][0][place] for place in alike["total_leads_droppped"][1][:3]] == [
        "-1",
        "0",
        "5",
    ]


def test_the_strongest_reason_comes_first_and_leads_of_its_sort_bear_it_out(model: ScoringModel, kinds: Kinds) -> None:
    told = contributions(model.booster, model.encoder, kinds.kinds)
    everyone = model.conversions["all"]
    for row, text in zip(told.values, reasons(model, kinds.kinds), strict=True):
        platform = row[told.columns.index("first_platform_c")]
        for reason in text.split(" | "):
            side, _, subject = reason.partition(": ")
            if subject.startswith("platform"):
                assert side == ("for" if platform > 0 else "against")
        for reason in text.split(" | ")[1:]:  # the first may be all there is
            share = re.search(r"\((\d+) in (\d+) apply\)", reason)
            if share:
                rate = int(share[1]) / int(share[2])
                assert rate > everyone - 0.06 if reason.startswith("for") else rate < everyone + 0.06


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (0.0, "under 1 in 200 apply"),
        (0.083, "1 in 12 apply"),
        (0.1, "1 in 10 apply"),
        (0.33, "1 in 3 apply"),
        (0.5, "1 in 2 apply"),
        (0.68, "2 in 3 apply"),
        (0.71, "7 in 10 apply"),
        (0.9, "9 in 10 apply"),
        (0.95, "19 in 20 apply"),
        (1.0, "over 19 in 20 apply"),
    ],
)
def test_a_share_is_said_as_people_say_it(rate: float, words: str) -> None:
    assert how_many_apply(rate) == words


def test_a_level_is_called_by_the_name_that_reference_data_gives_it(
    model: ScoringModel, kinds: Kinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = "\n".join(reasons(model, kinds.kinds))
    assert level_names() == {}
    names = {("first_platform_c", "level0"): "Google", ("first_utm_source_c", "level0"): "x" * 80}
    monkeypatch.setattr("junk_leads.steps.scoring.reasons.level_names", lambda: names)
    named = "\n".join(reasons(model, kinds.kinds))
    assert before.count("platform Level0 (") == named.count("platform Google (") > 0
    assert f"source {'x' * 30}" in named
    assert max(len(reason) for text in named.split("\n") for reason in text.split(" | ")) == LONGEST


def test_reasons_are_the_same_each_time_and_in_any_company(model: ScoringModel, kinds: Kinds, new: Delivered) -> None:
    told = reasons(model, kinds.kinds)
    assert reasons(model, kinds.kinds) == told
    by_lead = {lead: told[kinds.kind[lead - 1]] for lead in new.predicted}
    assert by_lead == {lead: row[-1] for lead, row in new.predicted.items()}
    assert reasons(model, kinds.kinds[[9, 3, 9]]) == [told[9], told[3], told[9]]


# The scored file

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
RISKY = st.builds("{}{}".format, st.sampled_from(FORMULA_STARTS), CELL)


def as_written(folder: Path, con: duckdb.DuckDBPyConnection, header: list[str], rows: list[list[str]]) -> Any:
    """The scored file of delivered rows, of which the last alone was accepted, as a CSV reader finds it."""
    columns: dict[str, list[Any]] = {"lead_number": list(range(1, len(rows) + 1))}
    columns |= {f"c{place}": [row[place] for row in rows] for place in range(len(header))}
    predicted = {"drop": ["d"], "lead_number": [len(rows)], "probability": [0.1 + 0.2], "model_version": ["1"]}
    path, told = folder / "d.csv", con.from_arrow(pa.table(predicted))
    assert write_scored_file(path, tuple(header), pa.table(columns).to_batches(max_chunksize=1), told) == 1
    assert [child.name for child in folder.iterdir()] == ["d.csv"]
    of_cells = path.read_bytes()
    plain = [",".join(row) if not set('",\r\n') & set("".join(row)) else None for row in rows]
    columns["line"] = pa.array(plain, pa.string())
    assert write_scored_file(path, tuple(header), pa.table(columns).to_batches(max_chunksize=1), told) == 1
    assert path.read_bytes() == of_cells
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def inert(cell: str) -> str:
    return f"'{cell}" if cell.startswith(tuple(FORMULA_STARTS)) else cell


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda width: st.lists(
            st.lists(
                CELL | RISKY | st.sampled_from(['"', "\r\n", ",", "'=", " a ", "#"]), min_size=width, max_size=width
            ),
            min_size=2,
            max_size=4,
        )
    )
)
def test_the_scored_file_holds_every_delivered_cell_and_no_formula(
    database: duckdb.DuckDBPyConnection, tmp_path_factory: pytest.TempPathFactory, table: list[list[str]]
) -> None:
    header, rows = [name.replace("\r", "\n") for name in table[0]], table[1:]
    assert as_written(tmp_path_factory.mktemp("scored"), database, header, rows) == [
        [*map(inert, header), "drop", "lead_number", "probability", "model_version"],
        [*map(inert, rows[-1]), "d", str(len(rows)), "0.30000000000000004", "1"],
    ]


@pytest.mark.parametrize(
    ("cells", "drop", "parquet", "as_lines"),
    [
        (["a", "b - c"], "d", False, 2),
        (["a", "-b"], "d", False, 1),
        (["a", "b#"], "d", False, 1),
        (["=a", "=b"], "d", False, 0),
        (["a", "b"], "d\ne", False, 0),
        (["a", "b"], "d", True, 0),
    ],
)
def test_a_piece_is_written_in_the_lines_that_it_was_where_they_may_stay_as_they_are(
    con: duckdb.DuckDBPyConnection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cells: list[str],
    drop: str,
    parquet: bool,
    as_lines: int,
) -> None:
    pieces, own = [], scored_file._put_before
    monkeypatch.setattr(scored_file, "_put_before", lambda lines, body: (pieces.append(len(lines)), own(lines, body)))
    monkeypatch.setattr(scored_file, "LEADS_AT_ONCE", 1)
    delivered = pa.table(
        {
            "lead_number": [1, 2],
            "c0": cells,
            "c1": ["", " "],
            "line": [f"{c},{b}" for c, b in zip(cells, ["", " "], strict=True)],
        }
    )
    told = con.from_arrow(pa.table({"drop": [drop] * 2, "lead_number": [1, 2], "probability": [0.25, None]}))
    assert write_scored_file(tmp_path / "d.csv", ("x", "y"), delivered.to_batches(1), told, parquet=parquet) == 2
    assert pieces == [1] * as_lines
    with (tmp_path / "d.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert rows == [[inert(cells[0]), "", drop, "1", "0.25"], [inert(cells[1]), " ", drop, "2", ""]]

    none = pa.nulls(2, pa.string())
    in_lines = delivered.set_column(1, "c0", none).set_column(2, "c1", none)  # the same, told in lines alone
    written = (tmp_path / "d.csv").read_bytes()
    assert write_scored_file(tmp_path / "d.csv", ("x", "y"), in_lines.to_batches(1), told, parquet=parquet) == 2
    assert (tmp_path / "d.csv").read_bytes() == written


def test_a_column_whose_name_has_a_carriage_return_keeps_it(
    database: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    assert as_written(tmp_path, database, ["my\rnote"], [["a"]])[0][0] == "my\rnote"


def test_the_same_rows_are_written_for_programs_as_delivered_and_typed(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    header = ("note", "", "note", "score")
    delivered = pa.table({"lead_number": [1, 2], **{f"c{n}": ["=1+1", "b"] for n in range(4)}}).to_batches(1)
    predicted = con.from_arrow(pa.table({"drop": ["d", "d"], "lead_number": [1, 2], "probability": [0.25, 0.5]}))
    assert write_scored_file(tmp_path / "d.csv", header, delivered, predicted, parquet=True) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.csv", "d.parquet"]
    found = con.read_parquet(str(tmp_path / "d.parquet"))
    assert found.columns == ["note_1", "column_2", "note_3", "score", "drop", "lead_number", "probability"]
    assert found.fetchall() == [("=1+1",) * 4 + ("d", 1, 0.25), ("b",) * 4 + ("d", 2, 0.5)]

    write_scored_file(tmp_path / "d.csv", header, delivered, predicted)
    assert [path.name for path in tmp_path.iterdir()] == ["d.csv"]  # the Parquet file would tell of former predictions


def test_of_very_many_rows_each_accepted_one_stands_in_its_place_beside_its_own_prediction(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    numbers = np.arange(1, 400_001)
    table = pa.table({"lead_number": numbers, "c0": np.char.add("=", numbers.astype(str))})
    con.execute(
        "CREATE TABLE told AS SELECT 'd' AS drop, range AS lead_number, range / 2 AS probability "
        "FROM range(1, 400001) WHERE range % 3 != 0 ORDER BY hash(range)"
    )
    written = write_scored_file(tmp_path / "d.csv", ("note",), table.to_batches(50_000), con.table("told"))
    lines = (tmp_path / "d.csv").read_text().splitlines()[1:]
    assert written == len(lines)
    assert lines == [f"'={n},d,{n},{n / 2}" for n in range(1, 400_001) if n % 3]


def test_without_leads_both_files_have_their_columns_and_no_row(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    predicted = con.from_arrow(pa.table({"drop": ["d"], "lead_number": [1], "probability": [0.25]})).limit(0)
    assert write_scored_file(tmp_path / "d.csv", ("note",), [], predicted, parquet=True) == 0
    assert (tmp_path / "d.csv").read_text() == "note,drop,lead_number,probability\n"
    assert con.read_parquet(str(tmp_path / "d.parquet")).columns == ["note", "drop", "lead_number", "probability"]


def test_a_scored_file_that_fails_halfway_leaves_the_former_one_and_nothing_else(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from pa.table({"lead_number": [1], "c0": ["a"]}).to_batches()
        raise OSError("gone")

    (tmp_path / "d.csv").write_text("former")
    predicted = con.from_arrow(pa.table({"drop": ["d"], "lead_number": [1], "probability": [0.25]}))
    with pytest.raises(OSError, match="gone"):
        write_scored_file(tmp_path / "d.csv", ("note",), broken(), predicted, parquet=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"d.csv": "former"}


@pytest.mark.parametrize("mark", ["", MARK, "0::UBIGINT"], ids=["of codes", "of rows", "of rows, all of one hash"])
def test_leads_in_pieces_of_any_size_and_kinds_however_found_have_the_predictions_they_have(
    model: ScoringModel, trained: Trained, new: Delivered, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    monkeypatch.setattr(scoring, "KINDS_AT_ONCE", 7)
    with duckdb.connect() as con:
        leads = read_leads(con, trained.new, SCHEMA).leads.select("'new' AS drop, *")
        if mark:
            monkeypatch.setattr("junk_leads.steps.leads.kinds.MARK", mark)
            cleaned = normalise(con, leads, SCHEMA)
            rows = encode(con, cleaned, group_interactions(con, cleaned), model.encoder)
            told = score_features(con, kinds_in(con, rows, IDENTITY), model).to_arrow_table().to_pylist()
        else:
            told = score_raw_leads(con, leads, model, SCHEMA).to_pylist()
    found = {row["lead_number"]: tuple(row[name] for name in PREDICTED) for row in told}
    assert {lead: found[lead] for lead in new.predicted} == new.predicted


@pytest.fixture
def kinds_at(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """In which thread how many kinds are predicted, one tuple for each call."""
    calls, own = [], scoring.predict_kinds

    def predict(kinds: np.ndarray, model: ScoringModel, **options: Any) -> pa.Table:
        calls.append((threading.current_thread().name, len(kinds)))
        return own(kinds, model, **options)

    monkeypatch.setattr(scoring, "predict_kinds", predict)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return calls


def predicted_after(model: ScoringModel, trained: Trained, ahead: Callable[..., object]) -> tuple[list[Any], list[Any]]:
    """Predictions and reasons of the new leads, after something was done with their kinds."""
    with duckdb.connect() as con:
        cleaned = normalise(con, read_leads(con, trained.new, SCHEMA).leads.select("'new' AS drop, *"), SCHEMA)
        features = encode_kinds(con, cleaned, group_interactions(con, cleaned), model.encoder)
        ahead(con, features.kinds)
        told = score_features(con, features, model).order("lead_number").fetchall()
        return told, explain_features(con, features).rows(con).order("lead_number").fetchall()


def test_what_a_thread_predicts_ahead_is_what_is_predicted_and_it_is_predicted_once(
    model: ScoringModel, trained: Trained, kinds_at: list[tuple[str, int]]
) -> None:
    expected = predicted_after(model, trained, lambda *_: None)
    ((here, many),) = kinds_at
    kinds_at.clear()
    for _ in range(3):
        assert predicted_after(model, trained, lambda con, kinds: predict_ahead(con, kinds, model)) == expected
    assert [count for _, count in kinds_at] == [many] * 3
    assert here not in {thread for thread, _ in kinds_at}


@pytest.mark.parametrize(
    "ahead",
    [
        lambda con, kinds, model: predict_ahead(con, kinds.filter("kind > 0"), model),
        lambda con, kinds, model: predict_ahead(con, kinds, replace(model, version="another")),
        lambda con, kinds, model: predict_ahead(
            con, kinds.select("* REPLACE ((1 - is_city_missing)::UTINYINT AS is_city_missing)"), model
        ),
    ],
    ids=["fewer kinds", "another version", "other features"],
)
def test_what_was_predicted_ahead_of_others_is_not_taken(
    model: ScoringModel, trained: Trained, kinds_at: list[tuple[str, int]], ahead: Callable[..., None]
) -> None:
    expected = predicted_after(model, trained, lambda *_: None)
    assert predicted_after(model, trained, lambda con, kinds: ahead(con, kinds, model)) == expected
    assert len(kinds_at) == 3


@pytest.mark.parametrize(
    "why",
    [
        lambda patch: patch.setenv(MEMORY_VARIABLE, "2GB"),
        lambda patch: patch.setattr(os, "cpu_count", lambda: 1),
        lambda patch: patch.setattr(scoring, "KINDS_AT_ONCE", 7),
    ],
    ids=["memory is limited", "one core", "many kinds"],
)
def test_nothing_is_predicted_ahead_where_it_gains_nothing(
    model: ScoringModel, trained: Trained, kinds_at: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch, why: Any
) -> None:
    why(monkeypatch)
    predicted_after(model, trained, lambda con, kinds: predict_ahead(con, kinds, model))
    assert {thread for thread, _ in kinds_at} == {threading.current_thread().name}


def test_what_goes_wrong_ahead_goes_wrong_when_it_is_asked_for(
    model: ScoringModel, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise MemoryError("no room for reasons")

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(scoring, "contributions", broken)
    with pytest.raises(MemoryError, match="no room for reasons"):
        predicted_after(model, trained, lambda con, kinds: predict_ahead(con, kinds, model))
