"""A drop beside the leads that the champion learned from.

What lives here: getting both out of the warehouse and the registry, for the verdict and for a proposal of codes. What
does not: the verdict and the proposal themselves (`steps/watching/`).
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import duckdb

from junk_leads.errors import CodesRefused, DropUnknown
from junk_leads.reference import lead_schema
from junk_leads.steps.leads.cleaning import normalise
from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.watching.codes import Proposal, propose
from junk_leads.steps.watching.known_leads import KnownLeads, known_leads
from junk_leads.steps.watching.profiles import Profile, Shares, all_shares_beside, as_counts, profile_of
from junk_leads.steps.watching.trust import Verdict, judge
from junk_leads.stores.drops.labelled import repeated_leads
from junk_leads.stores.registry import Registry
from junk_leads.stores.warehouse import has_table, rows_of


@dataclass(frozen=True)
class BesideTraining:
    """A drop's profile and known leads, with the profile behind a version and the levels that it tells apart."""

    version: str
    trained: Profile | None
    drop: Profile
    known: KnownLeads
    significant: Mapping[str, Sequence[str]]

    def shares(self) -> Shares:
        """The most frequent values of each column that drift is told of, with their shares in both."""
        return {} if self.trained is None else all_shares_beside(self.trained, self.drop)

    def verdict(self) -> Verdict:
        """Whether the drop can be trusted."""
        return judge(self.trained, self.drop, self.known, self.significant)


def beside_training(
    con: duckdb.DuckDBPyConnection,
    registry: Registry,
    version: str,
    encoder: Encoder,
    drop: str,
    leads: duckdb.DuckDBPyRelation,
    groups: duckdb.DuckDBPyRelation,
) -> BesideTraining:
    """The cleaned leads of a drop and their interaction groups beside what a version of this encoder was taught."""
    profile = profile_of(con, as_counts(con, leads, groups), leads)
    before = [name for name in registry.version(version).drops if name != drop]
    known = KnownLeads()
    if before:
        # the only drop that it learned from may be gone, or be delivered anew: no lead is known then
        with suppress(DropUnknown):
            known = known_leads(con, leads, rows_of(con, "cleaned_leads", before))
    return BesideTraining(version, registry.profile(version), profile, known, encoder.levels)


def training_profile(con: duckdb.DuckDBPyConnection, counts: duckdb.DuckDBPyRelation, drops: Sequence[str]) -> Profile:
    """The profile of the labelled leads of these drops, each lead once, as `counts` have them (`learned_once`)."""
    leads, repeated = rows_of(con, "cleaned_leads", drops), repeated_leads(con)
    leads = leads.filter(f"{lead_schema().label} IS NOT NULL")
    if repeated is not None:
        leads = con.sql("SELECT * FROM leads ANTI JOIN repeated USING (drop, lead_number)")
    return profile_of(con, counts, leads)


def warnings_of(con: duckdb.DuckDBPyConnection, drop: str) -> list[str]:
    """What warned when a drop was last encoded for the champion, the gravest first."""
    if not has_table(con, "drop_trust"):
        return []
    rows = con.execute("SELECT warnings FROM drop_trust WHERE drop = ?", [drop]).fetchall()
    return list(rows[0][0]) if rows else []


def propose_codes(con: duckdb.DuckDBPyConnection, registry: Registry, drop: str) -> Proposal:
    """The codes of an accepted drop, as delivered, that look renamed since the champion was trained.

    Raises DropUnknown for a drop that was not accepted, NoChampion, CodesRefused for a champion without a profile.
    """
    version = registry.champion_version()
    encoder = registry.load(version).encoder
    leads = normalise(con, rows_of(con, "raw_leads", [drop]), lead_schema())
    con.execute("CREATE OR REPLACE TEMP TABLE delivered_leads AS SELECT * FROM leads")
    leads = con.table("delivered_leads")
    found = beside_training(con, registry, version, encoder, drop, leads, group_interactions(con, leads))
    if found.trained is None:
        raise CodesRefused(
            f"version {version} was registered without a profile of its leads, so that nothing can be told from it; "
            "train again and promote the new version"
        )
    return propose(found.trained, found.drop, found.known, found.significant)
