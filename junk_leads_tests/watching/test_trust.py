"""A drop that contradicts what the model was taught is told from one that only moved.

Small versions of `benchmarks/bench_trust.py`, and what a verdict says.
"""

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from benchmarks.bench_trust import Taught, cleaned, generated, overlapping, permuted, profile, taught, verdict
from junk_leads.reference import lead_schema, trust_settings
from junk_leads.steps.leads.reading import read_leads
from junk_leads.steps.watching import known_leads as known_leads_module
from junk_leads.steps.watching.codes import apply_codes, propose
from junk_leads.steps.watching.known_leads import KnownLeads, known_leads
from junk_leads.steps.watching.profiles import CODES, Profile, shares_beside
from junk_leads.steps.watching.trust import judge
from junk_leads_tests.conftest import SHARED

History = tuple[duckdb.DuckDBPyConnection, pa.Table, Taught]


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    """A connection, generated raw leads and what a model learns from them."""
    with duckdb.connect() as con:
        raw = generated(20_000, 1)
        yield con, raw, taught(con, cleaned(con, con.from_arrow(raw), "history"))


def test_no_honest_drop_is_blocked_or_warned_about(history: History) -> None:
    con, _, known = history
    leads = generated(20_000, 100)
    for first in range(0, 20_000, 1000):
        found = verdict(con, known, cleaned(con, con.from_arrow(leads.slice(first, 1000)), "honest"))
        assert (found.reason, found.warnings, found.notes) == ("", (), ()), first


@pytest.mark.parametrize("columns", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_drops_under_permuted_codes_are_blocked_from_a_thousand_leads_on(
    history: History, columns: tuple[int, ...]
) -> None:
    con, _, known = history
    rng = np.random.default_rng(sum(columns))
    for seed in range(2):
        renaming = permuted(known, columns, rng)
        drop = cleaned(con, apply_codes(con, con.from_arrow(generated(1000, 200 + seed)), renaming), "renamed")
        assert verdict(con, known, drop).blocks


def test_known_leads_under_other_codes_block_by_themselves(history: History) -> None:
    con, raw, known = history
    drop = overlapping(generated(1000, 300), raw, 0.2, np.random.default_rng(3))
    # two codes changed places: too few leads to contradict how columns go together
    renaming = {"first_platform_c": {"Level0": "Level3", "Level3": "Level0"}}
    found = verdict(con, known, cleaned(con, apply_codes(con, con.from_arrow(drop), renaming), "renamed"))
    (finding,) = found.of_check("known_leads_carry_known_codes")
    assert finding.weight == "blocks"
    assert "platform looks renamed: the same shares stand under other names (platform Level" in finding.sentence
    assert "leads known before" in finding.sentence


@pytest.mark.parametrize("few", [1_000_000, 0])
def test_known_leads_under_their_own_codes_speak_for_the_drop(
    history: History, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("junk_leads.steps.watching.known_leads._FEW_LEADS", few)  # where leads are looked for
    con, raw, known = history
    drop = cleaned(con, con.from_arrow(overlapping(generated(500, 301), raw, 0.5, np.random.default_rng(3))), "again")
    found = known_leads(con, drop, known.leads)
    assert (found.leads, found.changed_share()) == (pytest.approx(250, abs=8), pytest.approx(0, abs=0.02))
    assert not verdict(con, known, drop).blocks


def test_leads_alike_by_chance_are_not_taken_for_known(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    con, raw, known = history
    # so many leads in ten minutes of every day that some share second, tier and counts with another
    seconds = pa.array(np.datetime64("2021-09-01", "s") + np.arange(1000) % 600)
    column = raw.schema.get_field_index("created_date")
    dense = [table.set_column(column, "created_date", seconds) for table in (raw.slice(0, 1000), generated(1000, 302))]
    first, drop = (
        cleaned(con, con.from_arrow(table), name) for table, name in zip(dense, ("first_day", "new_drop"), strict=True)
    )
    days = [first.select(f"* REPLACE (created_date + to_days({n}) AS created_date)") for n in (-1, 0, 1)]
    before = days[0].union(days[1]).union(days[2])
    found = known_leads(con, drop, before)
    assert found.leads > 30
    assert found.chance_share > 0.5
    # of very many leads it is seen by some of them that so many agree by chance
    for name, few in (("_FEW_LEADS", 0), ("_TELLING", 1)):
        monkeypatch.setattr(f"junk_leads.steps.watching.known_leads.{name}", few)
    looked_at: list[tuple[str, ...]] = []
    matched = known_leads_module._matched
    monkeypatch.setattr(known_leads_module, "_matched", lambda *given: looked_at.append(given[-1]) or matched(*given))
    assert known_leads(con, drop, before) == found
    assert looked_at == [("city_tier", "is_city_missing"), ("city_mapped",)]
    assert not judge(known.profile, profile(con, drop), found, known.significant).of_check(
        "known_leads_carry_known_codes"
    )


def test_a_platform_that_nobody_knew_warns_first_and_does_not_block(history: History) -> None:
    con, _, known = history
    drop = con.from_arrow(generated(1000, 303)).select(
        "* REPLACE (CASE WHEN hour(created_date) < 12 THEN 'Newcomer' ELSE first_platform_c END AS first_platform_c)"
    )
    found = verdict(con, known, cleaned(con, drop, "newcomer"))
    assert not found.blocks
    assert "of these leads come with a platform that the model does not know" in found.warnings[0]
    assert found.warnings[0].endswith("were expected: their scores tell less")


def test_codes_replaced_by_ones_nobody_knew_block_while_all_else_stands_still(history: History) -> None:
    con, _, known = history
    renaming = {"first_platform_c": {"Level0": "Web", "Level3": "App", "Level7": "Phone"}}
    drop = apply_codes(con, con.from_arrow(generated(2000, 304)), renaming)
    found = verdict(con, known, cleaned(con, drop, "replaced"))
    assert "platform looks renamed" in found.reason
    assert (
        "codes of platform that are new in place of others, while cities, hours and counts stand still" in found.reason
    )


def test_moved_shares_warn_with_their_figures(history: History) -> None:
    con, _, known = history
    drop = con.from_arrow(generated(3000, 305)).filter("first_platform_c <> 'Level0' OR hour(created_date) = 3")
    found = verdict(con, known, cleaned(con, drop, "moved"))
    assert not found.blocks
    assert any(line.startswith("shares moved since training (PSI: platform ") for line in found.warnings)


@pytest.mark.parametrize(("rows", "why"), [(0, "the drop has 0 leads"), (150, "the drop has 1")])
def test_too_few_leads_are_not_judged_and_it_says_so(history: History, rows: int, why: str) -> None:
    con, _, known = history
    renaming = permuted(known, (0, 1, 2), np.random.default_rng(4))
    drop = cleaned(con, apply_codes(con, con.from_arrow(generated(rows, 306)), renaming), "few")
    found = verdict(con, known, drop)
    assert (found.blocks, found.warnings) == (False, ())
    assert found.notes[0].startswith(f"whether this drop can be trusted cannot be told: {why}")
    assert found.notes[0].endswith(f"{trust_settings()['least_leads']} are needed to tell")


def test_a_model_without_a_profile_or_taught_by_few_leads_says_that_it_cannot_tell(history: History) -> None:
    con, _, known = history
    drop = profile(con, cleaned(con, con.from_arrow(generated(500, 307)), "any_drop"))
    without = judge(None, drop, KnownLeads(), known.significant)
    assert without.notes[0].endswith("registered without a profile of its leads: train again, and it can be told")
    few = judge(drop, drop, KnownLeads(), known.significant)
    assert "the model learned from 4" in few.notes[0]
    assert not few.blocks
    assert not without.blocks


def test_a_profile_comes_back_from_its_json_as_it_was(history: History) -> None:
    _, _, known = history
    again = Profile.from_json(known.profile.to_json())
    assert again.to_json() == known.profile.to_json()
    assert again.combinations == known.profile.combinations
    assert len(known.profile.to_json()) < 250_000


def test_the_most_frequent_values_stand_beside_each_other_and_the_rest_together() -> None:
    then, now = (
        Profile(leads, {"source": levels}, {}, 0, {"hour": {"9": leads}}, {})
        for leads, levels in ((100, {"a": 60, "b": 30, "c": 6, "d": 4}), (10, {"b": 5, "e": 5}))
    )
    assert shares_beside(then, now, "source", 2) == [
        ("a", 0.6, 0.0),
        ("b", 0.3, 0.5),
        ("Others", pytest.approx(0.1), pytest.approx(0.5)),
    ]
    assert shares_beside(then, now, "source", 4) == [
        ("a", 0.6, 0.0),
        ("b", 0.3, 0.5),
        ("e", 0.0, 0.5),
        ("c", 0.06, 0.0),
        ("d", 0.04, 0.0),
    ]
    assert shares_beside(then, now, "hour", 2) == [("9", 1.0, 1.0)]


def test_a_profile_that_was_cut_expects_what_it_cut(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    con, _, known = history
    monkeypatch.setattr("junk_leads.steps.watching.profiles.MOST_COMBINATIONS", 300)
    cut = profile(con, known.leads)
    assert len(cut.combinations) == 300
    assert cut.cut_leads == cut.leads - sum(cut.combinations.values())
    drop = cleaned(con, con.from_arrow(generated(1000, 308)), "uncut")
    assert not judge(cut, profile(con, drop), KnownLeads(), known.significant).blocks


def test_messages_hold_codes_as_one_plain_line(history: History) -> None:
    con, _, known = history
    renaming = {"first_platform_c": {"Level0": "We\nb" + "x" * 90, "Level3": "App", "Level7": "Phone"}}
    drop = cleaned(con, apply_codes(con, con.from_arrow(generated(2000, 309)), renaming), "odd")
    reason = verdict(con, known, drop).reason
    assert "\n" not in reason
    assert "x" * 40 not in reason


# The real leads

real = pytest.mark.skipif(not SHARED.exists(), reason=f"the real leads are not here ({SHARED})")


@real
def test_the_shipped_file_and_parts_of_it_are_blocked_and_its_codes_put_back() -> None:
    with duckdb.connect() as con:
        paths = [SHARED / name for name in ("leads_history_2021.csv.gz", "leads_new_as_shipped.csv")]
        leads = [
            cleaned(con, read_leads(con, path, lead_schema()).leads, name)
            for path, name in zip(paths, ("history", "shipped"), strict=True)
        ]
        known, shipped = taught(con, leads[0]), leads[1]
        parts = [shipped, *(shipped.filter(f"lead_number % 3 = {n}") for n in range(3))]
        parts.append(shipped.order("hash(lead_number), lead_number").limit(1000))
        for part in parts:
            found = verdict(con, known, part)
            assert found.reason.startswith("platform, medium and source look renamed: the same shares stand under")
        matched = known_leads(con, shipped, known.leads)
        proposal = propose(known.profile, profile(con, shipped), matched, known.significant)
        assert set(proposal.columns) == set(CODES)
        assert max(proposal.psi_after.values()) <= 0.02 < min(proposal.psi_before.values())
        mended = cleaned(
            con, apply_codes(con, shipped.select("* EXCLUDE (drop, lead_number)"), proposal.codes), "mended"
        )
        assert not verdict(con, known, mended).blocks


@real
def test_weeks_of_the_real_history_are_not_blocked_by_what_came_before_them() -> None:
    with duckdb.connect() as con:
        leads = cleaned(con, read_leads(con, SHARED / "leads_history_2021.csv.gz", lead_schema()).leads, "history")
        for week in (1, 2, 4, 7, 13, 25):
            start = f"TIMESTAMP '2021-07-01' + to_days({7 * week})"
            before, then = f"created_date < {start}", f"created_date >= {start} AND created_date < {start} + to_days(7)"
            assert not verdict(con, taught(con, leads.filter(before)), leads.filter(then)).blocks, week
