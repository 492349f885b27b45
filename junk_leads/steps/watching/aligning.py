"""Which level of one profile is which level of another, told by what it goes with and how frequent it is.

What lives here: the assignment that makes a drop's leads likeliest under the training profile. What does not: which
columns are renamed at all, and what a person is told (`codes.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from junk_leads.steps.watching.profiles import CODES, NONE_GIVEN, STEADY, Profile

MOST_ALIGNED = 500  # levels of a column; the rarer ones are a lead or two
_ROUNDS = 8  # of assigning the columns in turn; it settles after three or four
_SPREAD = 20.0  # leads' worth of the overall company that a level's own is mixed with
_PAIR_SPREAD = 5.0  # the same for the pairs of other levels
_BY_CHANCE = 0.02  # share of leads whose levels are put together at random
_SURPRISE = 20.0  # how unlikely a new level is, as a log
_NEVER = -1e7  # a new level while none is looked for
_LEAST = 1e-9  # stands for a combination that cannot be

Map = np.ndarray  # for each level of a drop's column the place of its level in the training profile, -1 for none


@dataclass(frozen=True)
class Alignment:
    """Maps by column between the levels `delivered` and `known`, and the log likelihood that made them.

    `scores[column]`, of the columns that were not kept, is (delivered x known): the log likelihood of the leads of the
    one if it were the other, with the other columns as they were mapped. The level `NONE_GIVEN` is itself.
    """

    delivered: Mapping[str, tuple[str, ...]]
    known: Mapping[str, tuple[str, ...]]
    maps: Mapping[str, Map]
    scores: Mapping[str, np.ndarray]
    new: Mapping[str, np.ndarray]  # by column and delivered level: the same if it were a level nobody knew
    likelihood: float  # mean log likelihood of a lead

    def identity(self, column: str) -> Map:
        """The map of a column that leaves every code as it is."""
        place = {level: n for n, level in enumerate(self.known[column])}
        return np.array([place.get(level, -1) for level in self.delivered[column]], dtype=np.int64)

    def likelihood_of(self, column: str, chosen: Map) -> float:
        """The log likelihood of a column's leads under a map."""
        scores = self.scores[column]
        return float(np.where(chosen >= 0, scores[np.arange(len(scores)), chosen], self.new[column]).sum())


class Aligner:
    """Two profiles, ready to be aligned."""

    def __init__(self, trained: Profile, drop: Profile) -> None:
        self.trained, self.drop = trained, drop
        self.delivered = {column: tuple(drop.levels[column])[:MOST_ALIGNED] for column in CODES}
        self.known = {column: tuple(trained.levels[column])[:MOST_ALIGNED] for column in CODES}
        self.shares = {
            column: (np.array([trained.levels[column][level] for level in self.known[column]]) + 0.5)
            / max(trained.leads, 1)
            for column in CODES
        }
        self.rows = {"now": self._combinations(drop, self.delivered), "then": self._combinations(trained, self.known)}
        self.alone = {column: self._alone(column) for column in CODES}

    def align(
        self,
        kept: frozenset[str] = frozenset(),
        fixed: Mapping[str, Mapping[str, str]] | None = None,
        merged: frozenset[str] = frozenset(),
    ) -> Alignment:
        """The likeliest maps, with the columns `kept` left as they are and `fixed` codes (by column) as told.

        One to one, but for the columns `merged`, in which several delivered levels may be one known level.
        """
        starts = [self._settled(kept, fixed or {}, merged, alone) for alone in (True, False)]
        return max(starts, key=lambda alignment: alignment.likelihood)

    def _settled(
        self, kept: frozenset[str], fixed: Mapping[str, Mapping[str, str]], merged: frozenset[str], alone: bool
    ) -> Alignment:
        """Maps that no column would change for the others' sake; begun with each column alone, or as delivered."""
        scores, new = (dict.fromkeys(CODES, found) for found in (np.zeros((0, 0)), np.zeros(0)))
        blank = Alignment(self.delivered, self.known, {}, scores, new, 0.0)
        maps: dict[str, Map] = {}
        for column in CODES:
            told = self.alone[column]
            begun = alone and column not in kept
            maps[column] = self._assigned(column, told, fixed, merged, False) if begun else blank.identity(column)
        # new levels come last: before the columns fit together, everything looks new
        for may_be_new in (False, True):
            for _ in range(_ROUNDS):
                former = dict(maps)
                for column in (column for column in CODES if column not in kept):
                    told = self.alone[column] + self._together(column, maps)
                    scores[column], new[column] = told[:, :-1], told[:, -1]
                    maps[column] = self._assigned(column, told, fixed, merged, may_be_new)
                if all(np.array_equal(former[column], maps[column]) for column in CODES):
                    break
        return Alignment(self.delivered, self.known, maps, scores, new, self._likelihood(maps))

    def _assigned(
        self,
        column: str,
        told: np.ndarray,
        fixed: Mapping[str, Mapping[str, str]],
        merged: frozenset[str],
        may_be_new: bool,
    ) -> Map:
        """The map of the largest likelihood; a delivered level without a known one, or likelier a new one, gets -1."""
        place = {level: n for n, level in enumerate(self.known[column])}
        certain = {NONE_GIVEN: NONE_GIVEN, **fixed.get(column, {})}
        chosen = np.full(len(told), -1, dtype=np.int64)
        open_rows = []
        for row, level in enumerate(self.delivered[column]):
            if level in certain:
                chosen[row] = place.get(certain[level], -1)
            else:
                open_rows.append(row)
        better = told[open_rows, :-1] - told[open_rows, -1:]  # than a new level
        if NONE_GIVEN in place:
            better[:, place[NONE_GIVEN]] = -np.inf
        if column in merged:
            best = better.argmax(axis=1)
            chosen[open_rows] = np.where((better.max(axis=1) > 0) | (not may_be_new), best, -1)
            return chosen
        free = np.setdiff1d(np.arange(len(place)), [*chosen[chosen >= 0], place.get(NONE_GIVEN, -1)])
        chosen[open_rows] = _one_to_one(better[:, free], free, 0.0 if may_be_new else _NEVER)
        return chosen

    def _combinations(self, profile: Profile, names: Mapping[str, tuple[str, ...]]) -> np.ndarray:
        """Combinations of a profile as places in the levels, and their leads: rows x 4."""
        place = {column: {level: n for n, level in enumerate(levels)} for column, levels in names.items()}
        rows = [
            [*(place[column].get(level, -1) for column, level in zip(CODES, combination, strict=True)), leads]
            for combination, leads in profile.combinations.items()
        ]
        found = np.array(rows, dtype=np.int64).reshape(-1, 4)
        return found[(found[:, :3] >= 0).all(axis=1)]

    def _alone(self, column: str) -> np.ndarray:
        """The log likelihood of each delivered level as each known one, by its share and its steady company.

        The last column is that of a new level: its own share, the company of all leads.
        """
        leads = np.array([self.drop.levels[column][level] for level in self.delivered[column]], dtype=float)
        as_new = leads * np.log(leads / max(self.drop.leads, 1)) - _SURPRISE
        scores = np.column_stack([leads[:, None] * np.log(self.shares[column])[None, :], as_new])
        for name in STEADY:
            values = list(dict.fromkeys([*self.trained.steady[name], *self.drop.steady[name]]))
            then = _company(self.trained, column, name, self.known[column], values)
            now = _company(self.drop, column, name, self.delivered[column], values)
            overall = np.array([self.trained.steady[name].get(value, 0) + 0.5 for value in values])
            overall /= overall.sum()
            chances = (then + _SPREAD * overall) / (then.sum(axis=1, keepdims=True) + _SPREAD)
            scores += now @ np.log(np.vstack([chances, overall])).T
        return scores

    def _together(self, column: str, maps: Mapping[str, Map]) -> np.ndarray:
        """The same by the levels that each comes with in the other two columns, as these are mapped now."""
        own = CODES.index(column)
        first, second = (n for n in range(3) if n != own)
        width = len(self.known[CODES[second]])
        then, now = self.rows["then"], self.rows["now"]
        pairs, place_then = np.unique(then[:, first] * width + then[:, second], return_inverse=True)
        mapped = [maps[CODES[n]][now[:, n]] for n in (first, second)]
        wanted = mapped[0] * width + mapped[1]
        place_now = np.minimum(np.searchsorted(pairs, wanted), max(len(pairs) - 1, 0))
        there = (mapped[0] >= 0) & (mapped[1] >= 0) & (pairs[place_now] == wanted)
        if not there.any():
            return np.zeros((len(self.delivered[column]), len(self.known[column]) + 1))
        seen, place = np.unique(place_now[there], return_inverse=True)
        leads = np.bincount(then[:, own], then[:, 3], minlength=len(self.known[column]))
        overall = np.bincount(place_then, then[:, 3])[seen] / leads.sum()
        wide = np.full(len(pairs), -1)
        wide[seen] = np.arange(len(seen))
        kept = wide[place_then] >= 0  # the pairs that the drop does not have count for nothing
        counts_then, counts_now = (np.zeros((rows, len(seen))) for rows in (len(leads), len(self.delivered[column])))
        np.add.at(counts_then, (then[kept, own], wide[place_then[kept]]), then[kept, 3])
        np.add.at(counts_now, (now[there, own], place), now[there, 3])
        chances = (counts_then + _PAIR_SPREAD * overall) / (leads[:, None] + _PAIR_SPREAD)
        found: np.ndarray = counts_now @ np.log(np.vstack([chances, overall])).T
        return found

    def _likelihood(self, maps: Mapping[str, Map]) -> float:
        """The mean log likelihood of the drop's combinations, put into known codes, and of their steady company."""
        then = {(p, m, s): n for p, m, s, n in self.rows["then"].tolist()}
        now = self.rows["now"]
        mapped = np.stack([maps[column][now[:, n]] for n, column in enumerate(CODES)], axis=1)
        apart = np.prod(
            [np.where(mapped[:, n] < 0, _LEAST, self.shares[c][mapped[:, n]]) for n, c in enumerate(CODES)], 0
        )
        together = np.array([then.get((p, m, s), 0) for p, m, s in mapped.tolist()]) / max(self.trained.leads, 1)
        joint = float((now[:, 3] * np.log((1 - _BY_CHANCE) * together + _BY_CHANCE * apart + _LEAST)).sum())
        for column in CODES:
            rows = np.arange(len(maps[column]))
            joint += float(self.alone[column][rows, maps[column]].sum())  # -1, for none, is the new level's
        return joint / max(self.drop.leads, 1)


def _company(profile: Profile, column: str, name: str, levels: tuple[str, ...], values: list[str]) -> np.ndarray:
    """The leads of each level by the values of a steady column: levels x values, none for a rare level."""
    found = np.zeros((len(levels), len(values)))
    counted = profile.company[column][name]
    places = [values.index(value) for value in profile.steady[name]]
    rows = min(len(levels), len(counted))  # both hold a column's levels most frequent first
    found[:rows, places] = counted[:rows]
    return found


def _one_to_one(better: np.ndarray, names: np.ndarray, without: float) -> Map:
    """The one-to-one choice of columns (named) with the largest sum; -1 for a row that takes `without` instead."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(
        np.hstack([better, np.full((len(better), len(better)), without)]), maximize=True
    )
    chosen = np.full(len(better), -1, dtype=np.int64)
    taken = columns < len(names)
    chosen[rows[taken]] = names[columns[taken]]
    return chosen
