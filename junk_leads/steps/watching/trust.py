"""Whether a drop can be trusted: its leads held against what the model was taught.

What lives here: the verdict (stands, warns, blocks, or too few to tell) and its words. What does not: the profiles
(`profiles.py`), which code became which (`codes.py`), and what is done about it (`defs/`).

Shares move honestly, so moved shares warn. How the columns go together does not: leads whose codes contradict it, or
whose codes are not those that the same leads had before, block.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from junk_leads.reference import trust_settings
from junk_leads.steps.watching.codes import Proposal, by_sort, propose
from junk_leads.steps.watching.drift import stability_index
from junk_leads.steps.watching.known_leads import KnownLeads
from junk_leads.steps.watching.profiles import CODES, NONE_GIVEN, ONE_OF_THE_RARE, STEADY, Profile

BLOCKS, WARNS, NOTES = "blocks", "warns", "notes"
TITLES = {
    "first_platform_c": "platform",
    "first_utm_medium_c": "medium",
    "first_utm_source_c": "source",
    "city_mapped": "city",
    "hour": "hour",
    "total_leads_droppped": "leads dropped",
    "referred_lead": "referred",
    "has_interactions": "interactions",
}
TOGETHER = "columns_go_together_as_in_training"
KNOWN = "known_leads_carry_known_codes"
SHARES = "shares_stand_as_in_training"
_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """One thing found: its weight for the drop (`BLOCKS`, `WARNS`, `NOTES`), the check that it fails, its sentence."""

    weight: str
    check: str
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """What holding a drop against training found, the gravest first, with the figures behind it."""

    findings: tuple[Finding, ...]
    figures: Mapping[str, float]

    @property
    def blocks(self) -> bool:
        """Whether nobody should be called by this drop's scores."""
        return any(finding.weight == BLOCKS for finding in self.findings)

    @property
    def reason(self) -> str:
        """Why the drop is blocked, in one line; empty when it is not."""
        return "; ".join(self._sentences(BLOCKS))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What warns besides, the gravest first."""
        return tuple(self._sentences(WARNS))

    @property
    def notes(self) -> tuple[str, ...]:
        """What cannot be told, and why."""
        return tuple(self._sentences(NOTES))

    def of_check(self, check: str) -> tuple[Finding, ...]:
        """What a check found."""
        return tuple(finding for finding in self.findings if finding.check == check)

    def _sentences(self, weight: str) -> Iterator[str]:
        return (finding.sentence for finding in self.findings if finding.weight == weight)


def judge(
    trained: Profile | None, drop: Profile, known: KnownLeads, significant: Mapping[str, Sequence[str]]
) -> Verdict:
    """The verdict on a drop.

    `trained` is the profile of the leads behind the model (None for a model that was registered without one), `known`
    the drop's leads that stood in former drops, `significant` the levels that the model tells apart.
    """
    settings = trust_settings()
    if trained is None:
        return _untold("the model was registered without a profile of its leads: train again, and it can be told")
    if trained.leads < settings["least_trained"]:
        return _untold(
            f"the model learned from {trained.leads:,} leads; {settings['least_trained']:,} are needed to tell"
        )
    if drop.leads < settings["least_leads"]:
        return _untold(f"the drop has {drop.leads:,} leads; {settings['least_leads']:,} are needed to tell")
    figures = measure(trained, drop, known, significant)
    blocking = [*_other_codes(figures, known, settings), *_contradictions(figures, settings)]
    if blocking:
        proposal = propose(trained, drop, known, significant)
        blocking = [_with_names(finding, proposal, trained, drop) for finding in blocking[:1]] + blocking[1:]
    return Verdict((*blocking, *_at_risk(figures, drop, settings), *_moved(figures, settings)), figures)


def _untold(why: str) -> Verdict:
    note = f"whether this drop can be trusted cannot be told: {why}"
    return Verdict(tuple(Finding(NOTES, check, note) for check in (TOGETHER,)), {})


def measure(
    trained: Profile, drop: Profile, known: KnownLeads, significant: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """The figures of a verdict: shares of leads (0 to 1), and PSI by column with what chance alone would give."""
    settings = trust_settings()
    contradicting, little = _in_combinations(trained, drop, settings["little"])
    figures = {
        "leads": float(drop.leads),
        "contradicting": contradicting,
        "contradicting_expected": trained.share_seen_once,
        "little_known": little,
        "little_known_expected": trained.share_in_combinations_below(settings["little"]),
        "known_leads": max(0.0, known.leads - known.by_chance),
        "known_leads_with_other_codes": known.changed_share(),
        "known_leads_by_chance": known.chance_share,
    }
    for column in CODES:
        before, after = (by_sort(profile, column, {}, significant[column]) for profile in (trained, drop))
        _note_psi(figures, column, before, after)
        figures[f"replaced:{column}"] = _replaced(column, trained, drop, settings["replaced_times"])
        figures[f"unknown:{column}"] = float(after[-1] / max(drop.leads, 1))
        figures[f"unknown_expected:{column}"] = float(before[-1] / max(trained.leads, 1))
    for column in STEADY:
        values = list(dict.fromkeys([*trained.steady[column], *drop.steady[column]]))
        counts = [np.array([p.steady[column].get(value, 0) for value in values], float) for p in (trained, drop)]
        _note_psi(figures, column, *counts)
    return figures


def _note_psi(figures: dict[str, float], column: str, before: np.ndarray, after: np.ndarray) -> None:
    """The PSI, and what two samples of the same leads have on average (a chi square by their sizes)."""
    figures[f"psi:{column}"] = stability_index(before, after)
    values = int(((before + after) > 0).sum())
    figures[f"psi_by_chance:{column}"] = (values - 1) * (1 / max(before.sum(), 1) + 1 / max(after.sum(), 1))


def _moved_by(figures: Mapping[str, float], column: str) -> float:
    """PSI beyond chance."""
    return figures[f"psi:{column}"] - figures[f"psi_by_chance:{column}"]


def _in_combinations(trained: Profile, drop: Profile, little: int) -> tuple[float, float]:
    """The shares of leads in combinations of known codes that training never had, and of few leads or unknown codes."""
    contradicting = few = 0
    for combination, leads in drop.combinations.items():
        before = trained.combinations.get(combination, 0)
        known = all(
            level in trained.levels[column] and level != ONE_OF_THE_RARE
            for column, level in zip(CODES, combination, strict=True)
        )
        contradicting += leads if known and not before else 0
        few += leads if before < little and ONE_OF_THE_RARE not in combination else 0
    return contradicting / max(drop.leads, 1), few / max(drop.leads, 1)


def _replaced(column: str, trained: Profile, drop: Profile, times: float) -> float:
    """The share of leads that stand under codes many times as frequent as before, in place of codes that are gone."""
    before, after = trained.levels[column], drop.levels[column]
    appeared = vanished = 0.0
    for level in {*before, *after} - {ONE_OF_THE_RARE, NONE_GIVEN}:
        was, now = before.get(level, 0) / max(trained.leads, 1), after.get(level, 0) / max(drop.leads, 1)
        if now > times * was and after.get(level, 0) >= times:
            appeared += now
        if was > times * now and was * drop.leads >= 2 * times:  # enough to be missed
            vanished += was
    return min(appeared, vanished)


def _surely_above(share: float, leads: float, limit: float, settings: Mapping[str, Any]) -> bool:
    error = (share * (1 - share) / max(leads, 1)) ** 0.5
    return bool(share - settings["standard_errors"] * error > limit)


def _contradictions(figures: Mapping[str, float], settings: Mapping[str, Any]) -> list[Finding]:
    found = []
    share, expected = figures["contradicting"], figures["contradicting_expected"]
    if _surely_above(share, figures["leads"], expected + settings["contradiction"], settings):
        found.append(
            f"{share:.0%} of the leads carry platform, medium and source together as no lead did in training "
            f"({expected:.0%} were expected)"
        )
    steady = all(_moved_by(figures, column) < settings["steady"] for column in STEADY)
    for column in CODES:
        share = figures[f"replaced:{column}"]
        if steady and _surely_above(share, figures["leads"], settings["replaced"], settings):
            found.append(
                f"{share:.0%} of the leads stand under codes of {TITLES[column]} that are new in place of others, "
                "while cities, hours and counts stand still"
            )
    return [Finding(BLOCKS, TOGETHER, sentence) for sentence in found]


def _other_codes(figures: Mapping[str, float], known: KnownLeads, settings: Mapping[str, Any]) -> list[Finding]:
    share = figures["known_leads_with_other_codes"]
    enough = figures["known_leads"] >= settings["codes"]["least_known_leads"] and known.chance_share <= 0.5
    if not enough or not _surely_above(share, known.leads, settings["known_leads"], settings):
        return []
    by_column = ", ".join(
        f"{TITLES[column]} {known.changed_share(column):.0%}" for column in CODES if known.changed_share(column) >= 0.01
    )
    sentence = f"of {known.leads:,} leads known before {share:.0%} carry other codes now ({by_column})"
    return [Finding(BLOCKS, KNOWN, sentence)]


def _with_names(finding: Finding, proposal: Proposal, trained: Profile, drop: Profile) -> Finding:
    """The finding, opened by which columns look renamed, with the largest of the codes that moved."""
    if not proposal.columns:
        return finding
    titles = [TITLES[column] for column in proposal.columns]
    named = f"{', '.join(titles[:-1])} and {titles[-1]}" if len(titles) > 1 else titles[0]
    moved = sorted(
        (c for c in proposal.renamed if c.becomes not in (c.delivered, ONE_OF_THE_RARE) and not c.shared),
        key=lambda change: (-change.leads, change.column, change.delivered),
    )
    pairs = "; ".join(
        f"{TITLES[c.column]} {_code(c.becomes)}, {_share(trained, c.column, c.becomes):.0%}, is now "
        f"{_code(c.delivered)}, {_share(drop, c.column, c.delivered):.0%}"
        for c in moved[:_EXAMPLES]
    )
    same = f": the same shares stand under other names ({pairs})" if pairs else ""
    look = "look" if len(titles) > 1 else "looks"
    return Finding(finding.weight, finding.check, f"{named} {look} renamed{same}; {finding.sentence}")


def _code(level: str) -> str:
    text = " ".join("".join(character if character.isprintable() else " " for character in level).split())
    return text if len(text) <= 30 else text[:29] + "…"


def _share(profile: Profile, column: str, level: str) -> float:
    return profile.levels[column].get(level, 0) / max(profile.leads, 1)


def _at_risk(figures: Mapping[str, float], drop: Profile, settings: Mapping[str, Any]) -> list[Finding]:
    """What puts the scores themselves at risk: leads of which the model knows little."""
    found = []
    for column in CODES:
        share, most = figures[f"unknown:{column}"], figures[f"unknown_expected:{column}"] + settings["unknown"]
        if _surely_above(share, drop.leads, most, settings):
            found.append(
                f"{share:.0%} of these leads come with a {TITLES[column]} that the model does not know; "
                f"{most:.0%} at most were expected: their scores tell less"
            )
    share, most = figures["little_known"], figures["little_known_expected"] + settings["little_known"]
    if _surely_above(share, drop.leads, most, settings):
        found.append(
            f"{share:.0%} of these leads come in combinations of platform, medium and source of which the model knows "
            f"fewer than {settings['little']} leads; {most:.0%} at most were expected: their scores tell less"
        )
    return [Finding(WARNS, SHARES, sentence) for sentence in found]


def _moved(figures: Mapping[str, float], settings: Mapping[str, Any]) -> list[Finding]:
    """Shares that moved, in one sentence."""
    moved = {
        column: figures[f"psi:{column}"] for column in (*CODES, *STEADY) if _moved_by(figures, column) > settings["psi"]
    }
    if not moved:
        return []
    told = ", ".join(f"{TITLES[column]} {psi:.2f}" for column, psi in sorted(moved.items(), key=lambda x: -x[1]))
    return [Finding(WARNS, SHARES, f"shares moved since training (PSI: {told}; up to {settings['psi']:g} is usual)")]
