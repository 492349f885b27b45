"""Renamed codes: which code of a drop was which before, and putting the former ones back.

What lives here: proposing a map of codes, from leads known before and from profiles; applying one. What does not: how
levels are told by their company (`aligning.py`), whether a drop can be trusted (`trust.py`), keeping maps (`stores/`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np

from junk_leads.reference import trust_settings
from junk_leads.steps.leads.cleaning import level_key
from junk_leads.steps.sql import quoted
from junk_leads.steps.watching.aligning import Aligner, Alignment
from junk_leads.steps.watching.drift import stability_index
from junk_leads.steps.watching.known_leads import KnownLeads
from junk_leads.steps.watching.profiles import CODES, NONE_GIVEN, ONE_OF_THE_RARE, Profile

KNOWN, COMPANY, UNTOLD = "known leads", "company and shares", "cannot tell"

Codes = Mapping[str, Mapping[str, str]]  # by column: delivered code -> the code that the model knows


@dataclass(frozen=True)
class Renamed:
    """What is proposed for one delivered code: what it `becomes`, why, how surely, and the leads behind it.

    `because` is `KNOWN`, `COMPANY` or `UNTOLD`; a code that cannot be told becomes `ONE_OF_THE_RARE` where its own
    name means something else to the model, and is left as it is where it means nothing.
    """

    column: str
    delivered: str
    becomes: str
    leads: int
    because: str
    confidence: float  # 0 to 1
    leads_behind: int  # known leads for `KNOWN`, the drop's own otherwise
    shared: bool = False  # whether another delivered code becomes the same


@dataclass(frozen=True)
class Proposal:
    """The codes that look renamed; none for a drop whose codes stand. PSI by column, over the levels of the model."""

    renamed: tuple[Renamed, ...]
    psi_before: Mapping[str, float]
    psi_after: Mapping[str, float]
    known: int  # leads known before

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that look renamed."""
        return tuple(column for column in CODES if any(change.column == column for change in self.renamed))

    @property
    def codes(self) -> dict[str, dict[str, str]]:
        """The map itself, without the codes that stay as they are."""
        found: dict[str, dict[str, str]] = {}
        for change in self.renamed:
            if change.becomes != change.delivered:
                found.setdefault(change.column, {})[change.delivered] = change.becomes
        return found


def propose(trained: Profile, drop: Profile, known: KnownLeads, significant: Mapping[str, Sequence[str]]) -> Proposal:
    """Which codes of a drop were renamed since the model was trained; `significant` are the levels that it tells apart.

    Leads known before decide where there are enough of them, for a code or a whole column; the rest is told by company
    and share, one to one. A column in which nothing speaks for a renaming is left alone.
    """
    settings = trust_settings()["codes"]
    if not drop.leads or not trained.leads:
        return Proposal((), {}, {}, known.leads)
    told = _told_by_known_leads(known, significant, settings)
    standing = frozenset(column for column in CODES if _stands(column, known, settings))
    surely = frozenset(column for column in CODES if _is_renamed(column, known, settings))
    fixed = {column: told.get(column, {}) for column in surely}
    aligner = Aligner(trained, drop)
    exact = {column: {now: change.becomes for now, change in changes.items()} for column, changes in fixed.items()}
    merged = frozenset(column for column, changes in fixed.items() if _merges(list(changes.values()), settings))
    kept = standing
    while True:
        found = aligner.align(kept, exact, merged)
        unsure = [column for column in CODES if column not in kept | surely]
        still = kept | {c for c in unsure if not _moves(c, found, drop, significant[c], settings)}
        if still == kept:
            break
        kept = still
    changes: list[Renamed] = []
    for column in CODES:
        if column not in kept:
            changes += _changes(
                column, trained, drop, found, fixed.get(column, {}), significant[column], merged, settings
            )
    proposal = Proposal(tuple(changes), {}, {}, known.leads)
    psi = [_psi(trained, drop, codes, significant) for codes in ({}, proposal.codes)]
    return Proposal(proposal.renamed, psi[0], psi[1], known.leads)


def _merges(changes: list[Renamed], settings: Mapping[str, Any]) -> bool:
    """Whether two codes became one beyond doubt: several known leads behind each."""
    sure = [change for change in changes if change.leads_behind >= settings["least_behind_merged"]]
    return any(change.shared for change in _shared(sure))


def _stands(column: str, known: KnownLeads, settings: Mapping[str, Any]) -> bool:
    """Whether the leads known before carry their codes of old, and are enough to say so."""
    enough = known.leads - known.by_chance >= settings["least_known_leads"]
    return enough and known.chance_share <= 0.5 and known.changed_share(column) <= settings["least_changed_share"]


def _is_renamed(column: str, known: KnownLeads, settings: Mapping[str, Any]) -> bool:
    enough = known.leads - known.by_chance >= settings["least_known_leads"]
    return enough and known.chance_share <= 0.5 and known.changed_share(column) > settings["least_changed_share"]


def _told_by_known_leads(
    known: KnownLeads, significant: Mapping[str, Sequence[str]], settings: Mapping[str, Any]
) -> dict[str, dict[str, Renamed]]:
    """By column the codes that leads known before tell: enough of them, and nearly all the same."""
    found: dict[str, dict[str, Renamed]] = {}
    for column, pairs in known.codes.items():
        became: dict[str, dict[str, int]] = {}
        for (now, then), leads in pairs.items():
            became.setdefault(now, {})[then] = leads
        for now, counts in became.items():
            total, then = sum(counts.values()), max(counts, key=lambda name: (counts[name], name))
            rare = sum(leads for name, leads in counts.items() if name not in significant[column])
            if counts[then] < settings["least_agreeing_share"] * total and rare >= counts[then]:
                then, counts = ONE_OF_THE_RARE, {ONE_OF_THE_RARE: rare}
            agreeing = counts[then]
            by_chance = ((known.by_chance + 1) / (known.leads + 1)) ** agreeing
            if now == NONE_GIVEN or then == NONE_GIVEN or by_chance > settings["most_chance"]:
                continue
            if agreeing >= settings["least_agreeing_share"] * total:
                confidence = agreeing / (total + 0.5)
                told = Renamed(column, now, then, 0, KNOWN, confidence, total)
                found.setdefault(column, {})[now] = told
    return _with_sharing_told(found)


def _with_sharing_told(found: dict[str, dict[str, Renamed]]) -> dict[str, dict[str, Renamed]]:
    """Says of each code whether another becomes the same."""
    return {
        column: dict(zip(changes, _shared(list(changes.values())), strict=True)) for column, changes in found.items()
    }


def _shared(changes: list[Renamed]) -> list[Renamed]:
    count: dict[str, int] = {}
    for change in changes:
        count[change.becomes] = count.get(change.becomes, 0) + 1
    return [_with(c, shared=c.becomes != ONE_OF_THE_RARE and count[c.becomes] > 1) for c in changes]


def _with(change: Renamed, **values: Any) -> Renamed:
    return Renamed(**{**change.__dict__, **values})


def _moves(
    column: str, found: Alignment, drop: Profile, significant: Sequence[str], settings: Mapping[str, Any]
) -> bool:
    """Whether the leads of a column are far likelier under other codes than under their own.

    One rare level for another does not count: the model does not tell them apart.
    """
    sort_of = {level: n for n, level in enumerate(significant)}
    sorts = np.array([*(sort_of.get(level, -1) for level in found.known[column]), -1])
    as_delivered = found.identity(column)
    chosen = np.where(sorts[found.maps[column]] == sorts[as_delivered], as_delivered, found.maps[column])
    gain = found.likelihood_of(column, chosen) - found.likelihood_of(column, as_delivered)
    leads = np.array([drop.levels[column][level] for level in found.delivered[column]])
    moved = leads[chosen != as_delivered].sum()
    enough = moved >= settings["least_moved_share"] * max(drop.leads, 1)
    return bool(enough and gain >= settings["least_gain"] * max(drop.leads, 1))


def _changes(
    column: str,
    trained: Profile,
    drop: Profile,
    found: Alignment,
    told: Mapping[str, Renamed],
    significant: Sequence[str],
    merged: frozenset[str],
    settings: Mapping[str, Any],
) -> list[Renamed]:
    """What becomes of each code of a renamed column, most frequent first."""
    names = found.known[column]
    likely, surely, roughly = _confidences(found, column, significant, column in merged)
    place = {level: n for n, level in enumerate(found.delivered[column])}
    changes = []
    for level, leads in drop.levels[column].items():
        if level in (NONE_GIVEN, ONE_OF_THE_RARE):
            continue
        if level in told:
            changes.append(_with(told[level], leads=leads))
            continue
        row = place.get(level)
        sure = settings["least_confidence"]
        becomes = None if row is None or likely[row] < 0 else names[likely[row]]
        if row is not None and becomes is not None and surely[row] >= sure:
            changes.append(Renamed(column, level, becomes, leads, COMPANY, float(surely[row]), leads))
        elif row is not None and becomes not in significant and roughly[row] >= sure:
            changes.append(Renamed(column, level, ONE_OF_THE_RARE, leads, COMPANY, float(roughly[row]), leads))
        else:
            becomes = ONE_OF_THE_RARE if level in trained.levels[column] else level
            confidence = 0.0 if row is None else float(surely[row])
            changes.append(Renamed(column, level, becomes, leads, UNTOLD, confidence, leads))
    return _shared(changes)


def _confidences(
    found: Alignment, column: str, significant: Sequence[str], merged: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each delivered code: its level's place, how surely it is that level, and how surely one of its sort.

    Levels that are not significant are of one sort. Sure is what no exchange with another code, and no other level,
    would make nearly as likely.
    """
    scores, chosen = found.scores[column], found.maps[column]
    rows = np.arange(len(scores))
    sort_of = {level: n for n, level in enumerate(significant)}
    sorts = np.array([sort_of.get(level, -1) for level in found.known[column]])
    own = np.where(chosen >= 0, scores[rows, chosen], found.new[column])
    exchanged = own[:, None] + own[None, :] - scores[:, chosen] - scores[:, chosen].T
    exchanged[:, chosen < 0] = exchanged[chosen < 0, :] = np.inf
    np.fill_diagonal(exchanged, np.inf)
    free = np.arange(scores.shape[1]) if merged else np.setdiff1d(np.arange(scores.shape[1]), chosen[chosen >= 0])
    moved = own[:, None] - scores[:, free]
    moved[free[None, :] == chosen[:, None]] = np.inf
    if merged:
        exchanged[:] = np.inf
    own_sort = np.where(chosen >= 0, sorts[chosen], -1)
    margins = []
    for same_sort_counts in (True, False):
        by_exchange = exchanged if same_sort_counts else np.where(own_sort[:, None] == own_sort, np.inf, exchanged)
        by_move = moved if same_sort_counts else np.where(own_sort[:, None] == sorts[free], np.inf, moved)
        margins.append(np.minimum(by_exchange.min(axis=1, initial=np.inf), by_move.min(axis=1, initial=np.inf)))
    # halved: what tells levels apart is not independent of each other
    surely, roughly = (1 / (1 + np.exp(-np.clip(margin, -50, 50) / 2)) for margin in margins)
    return chosen, surely, roughly


def _psi(trained: Profile, drop: Profile, codes: Codes, significant: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """PSI by column over the model's levels, with a map applied to the drop."""
    found = {}
    for column in CODES:
        before, after = (
            by_sort(profile, column, mapped, significant[column])
            for profile, mapped in ((trained, {}), (drop, codes.get(column, {})))
        )
        found[column] = stability_index(before, after)
    return found


def by_sort(profile: Profile, column: str, codes: Mapping[str, str], significant: Sequence[str]) -> np.ndarray:
    """The leads of each significant level, and of all others."""
    place = {level: n for n, level in enumerate(significant)}
    found = np.zeros(len(significant) + 1)
    for level, leads in profile.levels[column].items():
        found[place.get(codes.get(level, level), len(significant))] += leads
    found[-1] += profile.leads - found.sum()
    return found


def apply_codes(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, codes: Codes
) -> duckdb.DuckDBPyRelation:
    """Raw leads with renamed codes put back; the same leads when there are none.

    Codes are levels as `level_key` writes them. One that is not in the map stays as it was delivered.
    """
    mapped = {column: dict(pairs) for column, pairs in codes.items() if pairs}
    if not mapped:
        return leads
    replaced, joins = [], []
    for number, (column, pairs) in enumerate(mapped.items()):
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE code_map_{number} AS SELECT unnest(?) AS delivered, unnest(?) AS becomes",
            [list(pairs), list(pairs.values())],
        )
        key = level_key(f"leads.{quoted(column)}")
        replaced.append(f"coalesce(code_map_{number}.becomes, leads.{quoted(column)}) AS {quoted(column)}")
        joins.append(f"LEFT JOIN code_map_{number} ON {key} = code_map_{number}.delivered")
    return con.sql(f"SELECT leads.* REPLACE ({', '.join(replaced)}) FROM leads {' '.join(joins)}")
