"""Renamed codes are told and put back: trials on generated leads, small versions of `bench_trust.py`."""

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from benchmarks.bench_trust import Taught, cleaned, generated, overlapping, permuted, profile, taught, trial
from junk_leads.steps.watching.codes import apply_codes, propose
from junk_leads.steps.watching.known_leads import KnownLeads
from junk_leads.steps.watching.profiles import CODES, ONE_OF_THE_RARE
from junk_leads_tests.conftest import leads_of, rows_as_dicts

History = tuple[duckdb.DuckDBPyConnection, pa.Table, Taught]


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    """A connection, generated raw leads and what a model learns from them."""
    with duckdb.connect() as con:
        raw = generated(30_000, 1)
        yield con, raw, taught(con, cleaned(con, con.from_arrow(raw), "history"))


@pytest.mark.parametrize(("overlap", "least"), [(0.0, 0.98), (0.05, 0.985), (0.5, 0.99)])
def test_permuted_codes_are_restored_and_columns_that_stand_are_left_alone(
    history: History, overlap: float, least: float
) -> None:
    con, raw, known = history
    rng, leads = np.random.default_rng(7), generated(21_000, 400)
    shares = []
    for seed, columns in enumerate([(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]):
        drop = overlapping(leads.slice(3000 * seed, 3000), raw, overlap, rng)
        made = trial(con, known, drop, permuted(known, columns, rng))
        assert made.proposal.columns == tuple(CODES[n] for n in columns)
        shares += [made.restored[CODES[n]] for n in columns]
    assert np.mean(shares) >= least


@pytest.mark.long
def test_nothing_is_proposed_for_forty_honest_drops(history: History) -> None:
    con, _, known = history
    leads = generated(24_000, 500)
    for number in range(40):
        drop = profile(con, cleaned(con, con.from_arrow(leads.slice(600 * number, 600)), "honest"))
        assert propose(known.profile, drop, KnownLeads(), known.significant).renamed == ()


def test_a_proposal_says_why_how_surely_and_by_how_many_leads(history: History) -> None:
    con, raw, known = history
    renaming = {"first_platform_c": {"Level0": "Level3", "Level3": "Level0"}}
    drop = overlapping(generated(2000, 600), raw, 0.3, np.random.default_rng(1))
    made = trial(con, known, drop, renaming)
    assert made.proposal.codes["first_platform_c"]["Level3"] == "Level0"
    told = {change.delivered: change for change in made.proposal.renamed}
    assert told["Level3"].because == "known leads"
    assert told["Level3"].leads_behind > 100
    assert told["Level3"].confidence > 0.9
    assert made.proposal.psi_after["first_platform_c"] < 0.02 < made.proposal.psi_before["first_platform_c"]
    rest = [change for change in made.proposal.renamed if change.because == "cannot tell"]
    assert all(change.confidence < 0.7 for change in rest)
    assert sum(change.leads for change in made.proposal.renamed) <= 2000


def test_two_codes_may_have_been_one_where_known_leads_say_so(history: History) -> None:
    con, raw, known = history
    drop = overlapping(generated(2000, 601), raw, 0.5, np.random.default_rng(2))
    split = con.from_arrow(drop).select(
        "* REPLACE (CASE WHEN first_platform_c = 'Level0' AND minute(created_date) < 30 THEN 'Level0b' "
        "WHEN first_platform_c = 'Level0' THEN 'Level0a' ELSE first_platform_c END AS first_platform_c)"
    )
    made = trial(con, known, split.to_arrow_table(), {})
    pair = {c.delivered: (c.becomes, c.shared) for c in made.proposal.renamed if c.delivered.startswith("Level0")}
    assert (pair["Level0a"], pair["Level0b"]) == (("Level0", True), ("Level0", True))


def test_a_map_is_applied_by_key_and_touches_nothing_else(con: duckdb.DuckDBPyConnection) -> None:
    leads = leads_of(con, {"first_platform_c": " level7 "}, {"first_platform_c": "Level8"}, {"first_platform_c": None})
    changed = apply_codes(con, leads, {"first_platform_c": {"Level7": "It's", "Level1": "Level8"}})
    before, after = rows_as_dicts(leads), rows_as_dicts(changed)
    assert [row["first_platform_c"] for row in after] == ["It's", "Level8", None]
    assert changed.columns == leads.columns
    for row in (*before, *after):
        del row["first_platform_c"]
    assert after == before
    assert apply_codes(con, leads, {"first_platform_c": {}}) is leads


def test_a_swap_is_applied_at_once(con: duckdb.DuckDBPyConnection) -> None:
    leads = leads_of(con, {"first_utm_medium_c": "A"}, {"first_utm_medium_c": "B"})
    swapped = apply_codes(con, leads, {"first_utm_medium_c": {"A": "B", "B": "A"}})
    assert [row["first_utm_medium_c"] for row in rows_as_dicts(swapped)] == ["B", "A"]
    assert ONE_OF_THE_RARE == "Others"
