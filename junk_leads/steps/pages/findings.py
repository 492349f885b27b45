"""What the checks found, for people: lines for the terminal, and one page over all drops.

What lives here: how findings are shown. What does not: where they are kept (`stores/telling/findings.py`).
"""

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem; color: #1c1c28; }
h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
.passed { color: #2b7a3f; } .warns { color: #8a6100; } .failed, .refuses { color: #b3261e; font-weight: 600; }
.skipped { color: #666; } p { margin: .2rem 0; }
"""


def findings_lines(drops: Sequence[Mapping[str, Any]]) -> str:
    """For each drop a line, then one for each check: its state, what was found and what was expected.

    `drops`: drop, state, reason, and `checks`: asset, check, state, found, expected.
    """
    lines = []
    for drop in drops:
        lines.append(f"{drop['drop']}  {drop['state']}" + (f": {drop['reason']}" if drop["reason"] else ""))
        for check in drop["checks"]:
            if check["state"] != "skipped":
                lines.append(f"  {check['state']:<8} {check['asset']}, {check['check']}")
                lines.append(f"           found     {check['found']}")
                lines += [f"           expected  {check['expected']}"] if check["expected"] else []
        skipped: dict[tuple[str, str], list[str]] = {}
        for check in drop["checks"]:
            if check["state"] == "skipped":
                skipped.setdefault((check["asset"], check["found"]), []).append(check["check"])
        lines += [f"  skipped  {asset}: {', '.join(names)}; {why}" for (asset, why), names in skipped.items()]
    return "\n".join(lines)


def findings_page(drops: Sequence[Mapping[str, Any]]) -> str:
    """One HTML page over all drops, those that something is wrong with first; it asks the network for nothing."""
    ordered = sorted(drops, key=lambda drop: all(c["state"] in ("passed", "skipped") for c in drop["checks"]))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Checks</title>",
        f"<style>{_STYLE}</style></head><body><h1>Checks of {len(drops):,} drops</h1><p>{now}</p>",
    ]
    for drop in ordered:
        reason = f"<p>{html.escape(drop['reason'])}</p>" if drop["reason"] else ""
        parts.append(f"<h2>{html.escape(drop['drop'])} <small>{html.escape(drop['state'])}</small></h2>{reason}")
        parts.append("<table><tr><th>state</th><th>asset</th><th>check</th><th>found</th><th>expected</th></tr>")
        for check in drop["checks"]:
            cells = "".join(
                f"<td>{html.escape(str(check[name]))}</td>" for name in ("asset", "check", "found", "expected")
            )
            parts.append(f"<tr><td class='{check['state']}'>{check['state']}</td>{cells}</tr>")
        parts.append("</table>")
    return "\n".join([*parts, "</body></html>\n"])
