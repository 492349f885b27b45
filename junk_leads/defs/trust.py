"""Whether a drop can be trusted, as Dagster shows and keeps it.

What lives here: the three checks of it, the row of `drop_trust`, and scoring all the same. What does not: the verdict
(`steps/watching/trust.py`) and where its figures come from (`stores/drops/trusting.py`).
"""

import json
from dataclasses import dataclass
from typing import Any

import dagster as dg
import duckdb

from junk_leads.defs.checks import inert
from junk_leads.defs.resources import HomeResource
from junk_leads.errors import DropNotTrusted
from junk_leads.steps.watching.trust import BLOCKS, KNOWN, NOTES, SHARES, TOGETHER, Verdict
from junk_leads.stores.drops.trusting import BesideTraining

ASSET = "encoded_features"
SENTENCES = {
    TOGETHER: "Platform, medium and source go together as they did in the champion's training: nothing looks renamed.",
    KNOWN: "Leads that stood in former drops carry the codes that they had there.",
    SHARES: "Shares of levels, cities, hours and counts stand as in training, and the model knows the leads' levels.",
}


def trust_specs(partitions: dg.PartitionsDefinition[str]) -> list[dg.AssetCheckSpec]:
    """The specs of the three checks, kept for each drop."""
    return [
        dg.AssetCheckSpec(name, asset=ASSET, description=sentence, blocking=name != SHARES, partitions_def=partitions)
        for name, sentence in SENTENCES.items()
    ]


@dataclass(frozen=True)
class Accepting:
    """Somebody's decision to score a drop that cannot be trusted."""

    why: str
    by: str
    run_id: str


@dataclass(frozen=True)
class Trust:
    """What is told and kept of a verdict; `refused` is why the drop must not be scored, empty when it may be."""

    results: list[dg.AssetCheckResult]
    row: duckdb.DuckDBPyRelation
    metadata: dict[str, Any]
    refused: str


def trust_of(
    con: duckdb.DuckDBPyConnection,
    home: HomeResource,
    drop: str,
    beside: BesideTraining,
    accepting: Accepting | None,
) -> Trust:
    """The verdict on a drop, told as checks; scoring all the same is noted.

    Raises DropNotTrusted when somebody wants that without a reason.
    """
    if accepting is not None and not accepting.why.strip():
        raise DropNotTrusted("a drop is scored although it cannot be trusted only for a reason; give it as `why`")
    delivery = home.ledger.newest(drop)
    code_map = home.code_maps.holding(drop, delivery.file_name)
    verdict = beside.verdict()
    warnings, metadata = list(verdict.warnings), _metadata(verdict, code_map.id if code_map else "none")
    refused = ""
    if verdict.blocks and accepting is not None:
        who = home.code_maps.note_drift(
            drop,
            delivery.content,
            version=beside.version,
            reason=verdict.reason,
            why=accepting.why,
            by=accepting.by,
            run_id=accepting.run_id,
        )
        warnings.insert(
            0, f"scored although it cannot be trusted: {verdict.reason} (accepted by {who}: {accepting.why})"
        )
        metadata |= {"drift_accepted_by": inert(who), "drift_accepted_why": inert(accepting.why)}
    elif verdict.blocks:
        refused = (
            f"drop {drop} is not scored: {verdict.reason}; put the codes back (junk-leads codes propose {drop}), or "
            f"score it all the same (junk-leads score {drop} --accept-drift --why REASON)"
        )
    results = [_result(check, verdict, metadata, accepting is not None) for check in SENTENCES]
    psi = {name.removeprefix("psi:"): value for name, value in verdict.figures.items() if name.startswith("psi:")}
    row = con.sql(
        "SELECT ? AS drop, ? AS model_version, ?::VARCHAR[] AS warnings, ?::VARCHAR[] AS notes, ? AS blocked, "
        "? AS code_map, ? AS accepted_why, map_from_entries(list_zip(?::VARCHAR[], ?::DOUBLE[])) AS psi, ? AS shares",
        params=[
            drop,
            beside.version,
            [" ".join(warning.split()) for warning in warnings],
            list(verdict.notes),
            verdict.reason,
            code_map.id if code_map else "",
            accepting.why if accepting and verdict.blocks else "",
            list(psi),
            list(psi.values()),
            json.dumps(beside.shares(), ensure_ascii=False) if psi else "",
        ],
    )
    return Trust(results, row, metadata, refused)


def _metadata(verdict: Verdict, code_map: str) -> dict[str, Any]:
    figures = {name: round(value, 4) for name, value in verdict.figures.items()}
    return {"code_map": code_map, "figures": figures}


def _result(check: str, verdict: Verdict, metadata: dict[str, Any], is_accepted: bool) -> dg.AssetCheckResult:
    found = verdict.of_check(check)
    blocks = any(finding.weight == BLOCKS for finding in found)
    failed = [finding for finding in found if finding.weight != NOTES]
    grave = blocks and not is_accepted
    told = inert("; ".join(finding.sentence for finding in found), 1500) or "nothing of the kind"
    return dg.AssetCheckResult(
        asset_key=ASSET,
        check_name=check,
        passed=not failed,
        severity=dg.AssetCheckSeverity.WARN if failed and not grave else dg.AssetCheckSeverity.ERROR,
        description=f"{told}. Expected: {SENTENCES[check]}" if failed else SENTENCES[check],
        metadata={"found": told, "expected": SENTENCES[check], **metadata, "refuses": grave},
    )
