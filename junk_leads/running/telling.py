"""What became of deliveries and what checks found, put together for people.

What lives here: what the commands `drops` and `checks` answer; nothing is launched. What does not: how it is shown
(`steps/pages/`).
"""

from pathlib import Path
from typing import Any

from junk_leads.defs.expectations.suites import load_suite
from junk_leads.defs.jobs import DATA_ASSETS, INFERENCE_ASSETS
from junk_leads.errors import DropUnknown
from junk_leads.home import Home
from junk_leads.steps.pages.findings import findings_page
from junk_leads.stores.making import write_whole
from junk_leads.stores.telling.findings import Finding, Findings
from junk_leads.stores.telling.history import collect_history
from junk_leads.stores.warehouse import connect

NO_DROP = "(all drops)"  # checks of what is made of many drops at once


def told_history(home: Home) -> list[dict[str, Any]]:
    """The rows of `drop_history` as they are now."""
    if home.warehouse.exists():
        with connect(home.warehouse) as con:
            return collect_history(home, con)
    return collect_history(home, None)


def told_checks(home: Home, drop: str | None = None) -> list[dict[str, Any]]:
    """What the checks found of the newest delivery of each drop, or of one; those that did not run are skipped.

    Raises DropUnknown for a drop that was never delivered.
    """
    newest = {row["drop"]: row for row in told_history(home)}
    of_all = Findings(home).of({"": ""}) if drop is None else []
    if drop is not None:
        if drop not in newest:
            raise DropUnknown(f"drop {drop!r} was never delivered; `junk-leads drops` lists those that were")
        newest = {drop: newest[drop]}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in newest}
    for finding in Findings(home).of({name: row["content"] for name, row in newest.items()}):
        found[finding.drop].append(_told(finding))
    told = [
        {"drop": name, "state": row["state"], "reason": row["reason"], "checks": [*found[name], *_skipped(found[name])]}
        for name, row in newest.items()
    ]
    if of_all:
        told.append({"drop": NO_DROP, "state": "", "reason": None, "checks": [_told(finding) for finding in of_all]})
    return told


def _told(finding: Finding) -> dict[str, Any]:
    return {
        "asset": finding.asset,
        "check": finding.check,
        "state": finding.state,
        "found": finding.found,
        "expected": finding.expected,
        "run": finding.run_id,
    }


def write_checks_page(home: Home) -> Path:
    """Write `reports/checks.html`, one page over all drops; returns it."""
    page = home.reports / "checks.html"
    write_whole(page, findings_page(told_checks(home)))
    return page


def _skipped(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The checks of a refused drop that never ran: the rest of the asset that was refused, and those after it."""
    refused = next((check["asset"] for check in found if check["state"] == "refuses"), None)
    if refused not in INFERENCE_ASSETS:
        return []
    pipeline = DATA_ASSETS if refused in DATA_ASSETS else INFERENCE_ASSETS
    ran = {(check["asset"], check["check"]) for check in found}
    return [
        {
            "asset": asset,
            "check": check,
            "state": "skipped",
            "found": f"not evaluated: the drop was refused at {refused}",
            "expected": expected,
            "run": "",
        }
        for asset in pipeline[pipeline.index(refused) :]
        for check, expected in load_suite(asset).descriptions.items()
        if (asset, check) not in ran
    ]
