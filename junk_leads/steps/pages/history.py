"""What became of the deliveries, for people: lines for the terminal, a table and a plot for the UI.

What lives here: how rows of `drop_history` are shown. What does not: what they say (`steps/watching/history.py`).
"""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

MOST_SHOWN = 30  # deliveries in the UI; the table holds all
_WIDTH, _HEIGHT, _EDGE = 720, 160, 24
_LINES = (("share_of_ones", "#4f43dd", "share of 1s"), ("rejected_share", "#d24d3f", "share rejected"))
_MARKS = ("&", "<", ">", "|", "[", "`", "*", "~", "\\")


def history_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each delivery, oldest first, and below it what is wrong."""
    lines = []
    for row in rows:
        told = [f"{row['delivered_at']:%Y-%m-%d %H:%M}", f"{row['state']:<9}", row["drop"], *_counts(row)]
        lines.append("  ".join(told))
        if row["reason"]:
            lines.append(f"    {row['reason']}")
        lines += [f"    {warning}" for warning in row["warnings"]]
    return "\n".join(lines)


def _counts(row: Mapping[str, Any]) -> list[str]:
    told = []
    if row["rows_read"] is not None:
        told.append(f"{row['rows_read']:,} rows")
    for name, words in (("duplicates", "duplicates"), ("rejected", "rejected"), ("known_leads", "known already")):
        if row[name]:
            told.append(f"{row[name]:,} {words}")
    if row["known_labelled_leads"] and not row["labelled"]:
        told.append(f"{row['known_labelled_leads']:,} of them labelled")
    if row["share_of_ones"] is not None:
        told.append(f"{row['share_of_ones']:.1%} 1s by version {row['model_version']}")
    if row["outcome_auc"] is not None:
        told.append(f"AUC {row['outcome_auc']:.3f} on {row['outcomes']:,} outcomes")
    if row["code_map"]:
        told.append("codes mapped")
    return told


def history_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The newest deliveries as a Markdown table, newest first; every text inert."""
    head = ["delivered", "drop", "state", "rows", "rejected", "known", "1s", "model", "warnings", "reason"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in list(reversed(rows))[:MOST_SHOWN]:
        cells = [
            f"{row['delivered_at']:%Y-%m-%d %H:%M}",
            _inert(row["drop"]),
            str(row["state"]),
            _number(row["rows_read"]),
            _number(row["rejected"]),
            _number(row["known_leads"]),
            "" if row["share_of_ones"] is None else f"{row['share_of_ones']:.1%}",
            str(row["model_version"] or ""),
            _inert("; ".join(row["warnings"])),
            _inert(row["reason"] or ""),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    more = len(rows) - MOST_SHOWN
    return "\n".join(lines) + (f"\n\nand {more:,} older deliveries in the table" if more > 0 else "")


def history_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """The share of 1s and of rejected rows by delivery, oldest first, as an SVG; refused deliveries are crosses."""
    shown = list(rows)[-2 * MOST_SHOWN :]
    step = (_WIDTH - 2 * _EDGE) / max(len(shown) - 1, 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="#ffffff"/>'
    ]
    for share in (0.0, 0.5, 1.0):
        y = _height(share)
        parts.append(f'<line x1="{_EDGE}" x2="{_WIDTH - _EDGE}" y1="{y}" y2="{y}" stroke="#dddddd"/>')
        parts.append(f'<text x="0" y="{y + 4}" fill="#666666">{share:.0%}</text>')
    for place, (name, colour, words) in enumerate(_LINES):
        found = [_share(row, name) for row in shown]
        points = [(round(_EDGE + step * n, 1), _height(at)) for n, at in enumerate(found) if at is not None]
        line = " ".join(f"{x},{y}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in points]
        parts.append(f'<text x="{_EDGE + 110 * place}" y="12" fill="{colour}">{words}</text>')
    for n, row in enumerate(shown):
        if row["state"] in ("refused", "blocked"):
            x = round(_EDGE + step * n, 1)
            told = html.escape(f"{row['drop']}: {row['state']}")
            parts.append(f'<text x="{x - 4}" y="{_HEIGHT - 6}" fill="#d24d3f">✕<title>{told}</title></text>')
    return "".join(parts) + "</svg>"


def as_image(svg: str, words: str) -> str:
    """An SVG as a Markdown image that holds itself."""
    return f"![{words}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _share(row: Mapping[str, Any], name: str) -> float | None:
    if name == "rejected_share":
        return row["rejected"] / row["rows_read"] if row["rows_read"] else None
    share: float | None = row[name]
    return share


def _height(share: float) -> float:
    return round(_HEIGHT - _EDGE - share * (_HEIGHT - 2 * _EDGE), 1)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _inert(text: str) -> str:
    text = " ".join(text.split())[:300]
    for mark in _MARKS:
        text = text.replace(mark, f"&#{ord(mark)};")
    return text
