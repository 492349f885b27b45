"""When labels come later: predictions beside what became of the leads.

What lives here: the asset outcomes, its checks, and the rule that rolls a decayed champion back. What does not: finding
and measuring outcomes (`steps/watching/outcomes.py`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import duckdb
from pydantic import Field

from junk_leads.defs.assets import EVALUATION, declared
from junk_leads.defs.checks import check_specs, evaluate, plain_failures, publish, stage, timed
from junk_leads.defs.expectations.suites import load_suite
from junk_leads.defs.io_managers import Warehouse
from junk_leads.defs.resources import HomeResource
from junk_leads.errors import JunkLeadsError, RegistryError
from junk_leads.reference import lead_schema, model_settings
from junk_leads.steps.leads import accounting
from junk_leads.steps.watching.outcomes import Fared, how_versions_fared, match_outcomes, outcomes_markdown
from junk_leads.stores.registry import Registry
from junk_leads.stores.warehouse import has_table, rows_of

KEEPS = "champion_keeps_its_promise"


class OutcomesConfig(dg.Config):
    """The rule: below this AUC on outcomes, surely, the champion is rolled back; None never does."""

    roll_back_below: float | None = Field(default=model_settings()["roll_back_below"], gt=0, lt=1)


@dg.asset(
    **declared(
        "outcomes",
        EVALUATION,
        {"duckdb", "mlflow"},
        by_drop=False,
        deps=["predictions", "cleaned_leads"],
        check_specs=[
            *check_specs("outcomes"),
            dg.AssetCheckSpec(
                KEEPS,
                asset="outcomes",
                description="On leads whose labels came later, the champion's AUC is not surely below what its "
                "training reported.",
            ),
        ],
    )
)
def outcomes(
    context: dg.AssetExecutionContext,
    config: OutcomesConfig,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
) -> Iterator[Any]:
    """Outcomes: one row for each scored lead whose label has since been delivered, in any drop.

    How each version fared over time stands beside what its training promised. A champion that has decayed is told so,
    with the advice to train again, and is rolled back when a rule says so.
    """
    with plain_failures():
        con = warehouse.connection()
        if not has_table(con, "predictions"):
            raise JunkLeadsError("nothing has been scored yet; run `junk-leads score FILE` first")
        registry = home.registry
        versions = registry.versions()
        trained_on = {version.version: list(version.drops) for version in versions}
        scored, cleaned = rows_of(con, "predictions"), rows_of(con, "cleaned_leads")
        found = stage(con, "outcomes", match_outcomes(con, scored, cleaned, trained_on, lead_schema()))
        scorers = {str(row[0]) for row in found.select("model_version").distinct().fetchall()}
        promised = {
            version.version: _bounds(registry.evaluation(version.version))
            for version in versions
            if version.version in scorers
        }
        fared = how_versions_fared(found, promised)
        champion = registry.champion_version_or_none()
        advice = _advise(registry, fared.get(champion or ""), config.roll_back_below)
        results = [*outcomes_checks(con, found), keeps_its_promise(fared.get(champion or ""))]
        told = {"advice": advice, "fared": dg.MetadataValue.md(outcomes_markdown(fared) + f"\n\n{advice}")}
        yield from publish(found, results, {**told, **_numbers(fared)})


@timed
def outcomes_checks(con: duckdb.DuckDBPyConnection, found: duckdb.DuckDBPyRelation) -> list[dg.AssetCheckResult]:
    """The checks of outcomes."""
    leads = accounting.count(found.select("drop, lead_number").distinct())
    account = accounting.one_row(con, outcomes_too_many=accounting.count(found) - leads)
    return evaluate(load_suite("outcomes"), {"rows": found, "account": account})


def _bounds(report: Mapping[str, Any]) -> tuple[float, float]:
    _, low, high = report["splits"]["temporal"]["auc"]
    return low, high


def _advise(registry: Registry, fared: Fared | None, roll_back_below: float | None) -> str:
    """What to do about the champion; rolls it back when the rule says so."""
    if fared is None:
        return "too few outcomes of leads that the champion scored have come to judge it"
    auc = fared.metrics["auc"]
    if roll_back_below is not None and auc.high < roll_back_below:
        why = f"AUC {auc} on {fared.leads:,} outcomes is below {roll_back_below:g}"
        try:
            return f"rolled back to version {registry.rollback(why=why, by='the rule roll_back_below')}: {why}"
        except RegistryError as error:
            return f"{why}, but it could not be rolled back: {error}"
    if fared.has_decayed:
        return (
            f"version {fared.version} has decayed: AUC {auc} on {fared.leads:,} outcomes, its training said "
            f"{fared.promised_auc[0]:.4f} to {fared.promised_auc[1]:.4f}; train again with the newest labels"
        )
    return f"version {fared.version} keeps its promise: AUC {auc} on {fared.leads:,} outcomes"


def keeps_its_promise(fared: Fared | None) -> dg.AssetCheckResult:
    """The check of the champion; it warns, for what is stored is right either way."""
    told = {} if fared is None else {"auc": fared.metrics["auc"].value, "promised_from": fared.promised_auc[0]}
    return dg.AssetCheckResult(
        asset_key="outcomes",
        check_name=KEEPS,
        passed=fared is None or not fared.has_decayed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={**told, "refuses": False},
    )


def _numbers(fared: Mapping[str, Fared]) -> dict[str, float]:
    return {f"version_{version}_auc": told.metrics["auc"].value for version, told in fared.items()}
