"""How surely a drop that cannot be trusted is told from one that can, and how well renamed codes are put back.

What lives here: the calibration behind `docs/renamed-codes.md`: generated drops, honest and renamed, and, with real
files, their slices, weeks and months. What does not: the rules (`steps/watching/`) and their settings
(`reference/trust.yaml`).

    python benchmarks/bench_trust.py [--history LABELLED.csv] [--new NEW.csv] [--trials 50]
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from junk_leads.reference import lead_schema
from junk_leads.steps.leads.cleaning import clean
from junk_leads.steps.leads.encoding import LEVEL_COLUMNS, Encoder
from junk_leads.steps.leads.generating import generate_leads
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.levels import learn_significant_levels
from junk_leads.steps.leads.reading import read_leads
from junk_leads.steps.watching.codes import Proposal, apply_codes, propose
from junk_leads.steps.watching.known_leads import KnownLeads, known_leads
from junk_leads.steps.watching.profiles import CODES, NONE_GIVEN, Profile, as_counts, profile_of
from junk_leads.steps.watching.trust import Verdict, judge

TAUGHT = 60_000  # generated leads that the others are held against
COLUMNS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))  # platform, medium, source
OVERLAPS = (0.0, 0.05, 0.5)

Renaming = dict[str, dict[str, str]]  # by column: true code -> the code that it is delivered under
Leads = duckdb.DuckDBPyRelation


@dataclass(frozen=True)
class Taught:
    """Cleaned leads that a model would have learned from, their profile and their significant levels."""

    leads: Leads
    profile: Profile
    significant: Mapping[str, Sequence[str]]


def taught(con: duckdb.DuckDBPyConnection, leads: Leads) -> Taught:
    """What a model that learned from these cleaned leads knows."""
    levels = learn_significant_levels(con, leads.select("*, 1 AS lead_count"), LEVEL_COLUMNS)
    return Taught(leads, profile(con, leads), Encoder.of_table(levels).levels)


def profile(con: duckdb.DuckDBPyConnection, leads: Leads) -> Profile:
    """The profile of cleaned leads."""
    return profile_of(con, as_counts(con, leads, group_interactions(con, leads)), leads)


def cleaned(con: duckdb.DuckDBPyConnection, raw: Leads, name: str) -> Leads:
    """Raw leads (the lead schema's columns), cleaned into a table of this name."""
    leads = raw.select(f"'{name}' AS drop, row_number() OVER () AS lead_number, *")
    made = clean(con, leads, lead_schema())  # noqa: F841  named in the SQL below
    con.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM made")
    return con.table(name)


def generated(rows: int, seed: int) -> pa.Table:
    """Generated raw leads."""
    return pa.Table.from_batches(list(generate_leads(max(rows, 1), seed=seed))).slice(0, rows)


def permuted(known: Taught, columns: Sequence[int], rng: np.random.Generator, *, significant: bool = False) -> Renaming:
    """Codes of these columns put in another order: all that are known, or only those that the model tells apart."""
    renaming = {}
    for column in (CODES[n] for n in columns):
        names = known.significant[column] if significant else known.profile.levels[column]
        told = [name for name in names if name != NONE_GIVEN]
        renaming[column] = dict(zip(told, map(str, rng.permutation(told)), strict=True))
    return renaming


def verdict(con: duckdb.DuckDBPyConnection, known: Taught, leads: Leads) -> Verdict:
    """The verdict on cleaned leads."""
    return judge(known.profile, profile(con, leads), known_leads(con, leads, known.leads), known.significant)


@dataclass(frozen=True)
class Trial:
    """A drop under renamed codes, the verdict on it and what is proposed for it."""

    verdict: Verdict
    proposal: Proposal
    restored: dict[str, float]  # by column the share of leads whose level, as the model tells levels apart, is right


def trial(
    con: duckdb.DuckDBPyConnection,
    known: Taught,
    drop: pa.Table,
    renaming: Renaming,
) -> Trial:
    """Deliver raw leads under renamed codes, judge them, and put the codes back."""
    delivered = cleaned(con, apply_codes(con, con.from_arrow(drop), renaming), "delivered")
    found, leads = profile(con, delivered), known_leads(con, delivered, known.leads)
    proposal = propose(known.profile, found, leads, known.significant)
    return Trial(
        judge(known.profile, found, leads, known.significant), proposal, _restored(known, found, renaming, proposal)
    )


def _restored(known: Taught, found: Profile, renaming: Renaming, proposal: Proposal) -> dict[str, float]:
    shares = {}
    for column in CODES:
        truth = {delivered: true for true, delivered in renaming.get(column, {}).items()}
        told, right = proposal.codes.get(column, {}), 0
        for level, leads in found.levels[column].items():
            sorts = [
                name if name in known.significant[column] else None
                for name in (truth.get(level, level), told.get(level, level))
            ]
            right += leads if sorts[0] == sorts[1] else 0
        shares[column] = right / max(found.leads, 1)
    return shares


def overlapping(drop: pa.Table, history: pa.Table, share: float, rng: np.random.Generator) -> pa.Table:
    """A drop of which this share stands in the history too."""
    both = int(len(drop) * share)
    again = history.take(pa.array(rng.choice(len(history), both, replace=False)))
    return pa.concat_tables([drop.slice(0, len(drop) - both), again])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--history", type=Path, help="real labelled leads")
    parser.add_argument("--new", type=Path, help="real leads under renamed codes")
    parser.add_argument("--trials", type=int, default=50, help="generated drops for each line about renamed ones")
    given = parser.parse_args()
    with duckdb.connect() as con:
        if given.history:
            _real(con, given.history, given.new)
        history = generated(TAUGHT, 1)
        known = taught(con, cleaned(con, con.from_arrow(history), "history"))
        _generated(con, known, given.trials)
        _repaired(con, known, history, max(1, given.trials // 10))
        _timed(con)


def _count(name: str, found: Sequence[Verdict]) -> None:
    blocked, warned = (sum(one.blocks for one in found), sum(bool(one.warnings) for one in found))
    untold = sum(bool(one.notes) for one in found)
    print(f"{name:52}{len(found):6}{blocked:9}{warned:8}{untold:12}", flush=True)


def _heading(title: str) -> None:
    print(f"\n{title:52}{'drops':>6}{'blocked':>9}{'warned':>8}{'cannot tell':>12}")


def _real(con: duckdb.DuckDBPyConnection, history: Path, new: Path | None) -> None:
    _heading("real leads, held against")
    leads = cleaned(con, read_leads(con, history, lead_schema()).leads, "real")
    ((first, last),) = con.sql("SELECT min(created_date)::DATE, max(created_date)::DATE FROM leads").fetchall()
    slices = [(f"hash(lead_number) % 20 <> {n}", f"hash(lead_number) % 20 = {n}") for n in range(20)]
    weeks = [
        (
            f"created_date < DATE '{first}' + {7 * n}",
            f"created_date::DATE - DATE '{first}' BETWEEN {7 * n} AND {7 * n + 6}",
        )
        for n in range((last - first).days // 7 - 19, (last - first).days // 7 + 1)
    ]
    first_weeks = [
        (
            f"created_date < DATE '{first}' + {7 * n}",
            f"created_date::DATE - DATE '{first}' BETWEEN {7 * n} AND {7 * n + 6}",
        )
        for n in range((last - first).days // 7 - 19)
    ]
    month = f"date_diff('month', DATE '{first}', created_date)"
    months = [(f"{month} < {n}", f"{month} = {n}") for n in range(date_months(first, last) + 1)]
    for name, pairs in (
        ("20 random slices, the rest", slices),
        ("20 last weeks, all before", weeks),
        ("the weeks before them, all before", first_weeks),
        ("months, all before", months),
    ):
        _count(name, [verdict(con, taught(con, leads.filter(before)), leads.filter(then)) for before, then in pairs])
    if new is None:
        return
    known, shipped = taught(con, leads), cleaned(con, read_leads(con, new, lead_schema()).leads, "shipped")
    _heading(f"{new.name}, all history")
    _count("whole", [verdict(con, known, shipped)])
    _count("its thirds", [verdict(con, known, shipped.filter(f"hash(lead_number) % 3 = {n}")) for n in range(3)])
    for size in (100, 200, 1000):
        parts = [shipped.order(f"hash(lead_number + {n}), lead_number").limit(size) for n in range(0, 200_000, 10_000)]
        _count(f"a random {size:,} of it, 20 times", [verdict(con, known, part) for part in parts])
    found = profile(con, shipped)
    for name, leads_known in (
        ("known leads", known_leads(con, shipped, known.leads)),
        ("profiles alone", KnownLeads()),
    ):
        proposal = propose(known.profile, found, leads_known, known.significant)
        told = ", ".join(f"{c} {proposal.psi_before[c]:.3f} to {proposal.psi_after[c]:.3f}" for c in proposal.columns)
        print(f"PSI before and after the proposal from {name}: {told}")


def date_months(first: date, last: date) -> int:
    """Months between the months of two dates."""
    return (last.year - first.year) * 12 + last.month - first.month


def _generated(con: duckdb.DuckDBPyConnection, known: Taught, trials: int) -> None:
    rng = np.random.default_rng(1)
    _heading(f"generated leads, {TAUGHT:,} others")
    for size in (1000, 5000):
        drops = [cleaned(con, con.from_arrow(generated(size, 100 + n)), f"drop_{n}") for n in range(20)]
        _count(f"honest, {size:,} leads", [verdict(con, known, drop) for drop in drops])
    for size in (1000, 250):
        for significant in (False, True):
            for count in (1, 2, 3):
                chosen = [columns for columns in COLUMNS if len(columns) == count]
                found = []
                for n in range(trials):
                    renaming = permuted(known, chosen[n % len(chosen)], rng, significant=significant)
                    drop = apply_codes(con, con.from_arrow(generated(size, 1000 + n)), renaming)
                    found.append(verdict(con, known, cleaned(con, drop, "delivered")))
                which = "significant codes" if significant else "all codes"
                _count(f"{which} of {count} columns permuted, {size:,} leads", found)


def _repaired(con: duckdb.DuckDBPyConnection, known: Taught, history: pa.Table, trials: int) -> None:
    rng = np.random.default_rng(2)
    print("\nshare of leads whose codes are restored          trials    mean   least   columns left alone")
    for size in (1000, 5000):
        for overlap in OVERLAPS:
            shares, alone, left = [], 0, 0
            for n in range(trials):
                for columns in COLUMNS:
                    drop = overlapping(generated(size, 5000 + n), history, overlap, rng)
                    made = trial(con, known, drop, permuted(known, columns, rng))
                    shares += [made.restored[CODES[column]] for column in columns]
                    left += 3 - len(columns)
                    alone += sum(CODES[n] not in made.proposal.columns for n in range(3) if n not in columns)
            name = f"{size:,} leads, {overlap:.0%} of them known"
            print(f"{name:48}{len(shares):7}{np.mean(shares):8.2%}{min(shares):8.2%}   {alone} of {left}", flush=True)
    proposed = [trial(con, known, generated(1000 if n % 2 else 5000, 3000 + n), {}).proposal.columns for n in range(40)]
    print(f"honest drops with any proposal: {sum(map(bool, proposed))} of {len(proposed)}")


def _timed(con: duckdb.DuckDBPyConnection) -> None:
    known = taught(con, cleaned(con, con.from_arrow(generated(240_000, 1)), "large"))
    drop = cleaned(con, con.from_arrow(generated(240_000, 2)), "drop_large")
    start = time.perf_counter()
    found = profile(con, drop)
    profiled = time.perf_counter()
    leads = known_leads(con, drop, known.leads)
    matched = time.perf_counter()
    judge(known.profile, found, leads, known.significant)
    done = time.perf_counter()
    print(
        f"\n240,000 leads: profile {profiled - start:.2f} s, known leads {matched - profiled:.2f} s, verdict with PSI "
        f"{done - matched:.2f} s; the profile is {len(known.profile.to_json()) / 1000:.0f} kB"
    )


if __name__ == "__main__":
    main()
