"""The leaderboard of an experiment: its rows, and how people read them.

What lives here: ranking learners that were tried, as rows, as Markdown, as text. What does not: trying them
(`experimenting.py`) and the plot (`plots.py`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from junk_leads.steps.learning.experimenting import Tried


def leaderboard(tried: Sequence[Tried], run_ids: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """One row for each learner, the one with the best AUC on the last leads by time first.

    Each metric comes with the bounds of its 95 % interval (`_low`, `_high`); `parameters` are JSON, of LightGBM those
    that a training takes. `run_ids` are MLflow's, by learner.
    """
    ranked = sorted(tried, key=lambda found: -found.metrics["temporal_auc"].value)
    rows = []
    for rank, found in enumerate(ranked, start=1):
        row: dict[str, Any] = {"rank": rank, "learner": found.learner.name, "title": found.learner.title}
        row |= {"library": found.learner.library, **found.figures()}
        row |= {"trials": len(found.trials), "parameters": json.dumps(found.parameters, sort_keys=True)}
        rows.append({**row, "run_id": (run_ids or {}).get(found.learner.name)})
    return rows


HEAD = (
    *("rank", "learner", "AUC by time", "95 %", "AUC at random", "avg precision", "Brier", "log loss"),
    *("calibration", "tune s", "fit s", "predict s"),
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the leaderboard as people read it, under `HEAD`; all but the AUC at random are of the last leads."""
    return [
        str(row["rank"]),
        row["title"],
        f"{row['temporal_auc']:.4f}",
        f"{row['temporal_auc_low']:.4f} to {row['temporal_auc_high']:.4f}",
        f"{row['random_auc']:.4f}",
        f"{row['temporal_average_precision']:.4f}",
        f"{row['temporal_brier']:.4f}",
        f"{row['temporal_log_loss']:.4f}",
        f"{row['temporal_calibration_error']:.4f}",
        f"{row['tune_seconds']:.1f}" if row["trials"] else "",
        f"{row['fit_seconds']:.1f}",
        f"{row['predict_seconds']:.2f}",
    ]


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The leaderboard as a Markdown table."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|---" + "|---:" * (len(HEAD) - 2) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows)])


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The leaderboard as aligned text; numbers to the right."""
    table = [list(HEAD), *map(cells, rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 1 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    )
