"""What became of every delivery: one row for each, the newest last.

What lives here: the row, and the state that it tells. What does not: where the facts are kept
(`stores/telling/history.py`) and how they are shown (`steps/pages/history.py`).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

WAITING, FAILED, REFUSED, BLOCKED = "waiting", "failed", "refused", "blocked"
ACCEPTED, SCORED, REPLACED = "accepted", "scored", "replaced"

HISTORY = pa.schema(
    {
        "drop": pa.string(),
        "delivery": pa.int64(),
        "delivered_at": pa.timestamp("us"),
        "file_name": pa.string(),
        "state": pa.string(),
        "reason": pa.string(),
        "labelled": pa.bool_(),
        "rows_read": pa.int64(),
        "kept": pa.int64(),
        "duplicates": pa.int64(),
        "rejected": pa.int64(),
        "known_leads": pa.int64(),
        "known_labelled_leads": pa.int64(),
        "share_of_ones": pa.float64(),
        "grade_a": pa.int64(),
        "grade_b": pa.int64(),
        "grade_c": pa.int64(),
        "grade_d": pa.int64(),
        "model_version": pa.string(),
        "psi": pa.string(),
        "warnings": pa.string(),
        "code_map": pa.string(),
        "outcomes": pa.int64(),
        "outcome_auc": pa.float64(),
        "content": pa.string(),
    }
)
_NOTHING = dict.fromkeys(HISTORY.names)


def history_row(
    delivery: Mapping[str, Any],
    figures: Mapping[str, Any] | None,
    former: Mapping[str, Any] | None,
    *,
    is_newest_accepted: bool,
    blocked: str,
    warnings: Sequence[str],
    psi: Mapping[str, float] | None,
) -> dict[str, Any]:
    """One delivery's row, with the columns of HISTORY.

    `delivery`: number, drop, content, file_name, status, reason, at (UTC). `figures` are those that the tables hold of
    this content; without them the `former` row keeps what was known of it. `blocked` is why a later step refused it,
    `warnings` what was found unusual, `psi` how far the shares of each column moved. In the table both are JSON.
    """
    known: dict[str, Any] = {**_NOTHING, **(former or {}), **(figures or {})}
    at: datetime = delivery["at"]
    state, reason = str(delivery["status"]), str(delivery["reason"])
    if state == ACCEPTED:
        if not is_newest_accepted:
            state = REPLACED
        elif blocked:
            state, reason = BLOCKED, blocked
        elif known["model_version"] is not None:
            state = SCORED
    if known["kept"] is not None:
        known["duplicates"] = known["rows_read"] - known["rejected"] - known["kept"]
    return {
        **known,
        "drop": delivery["drop"],
        "delivery": delivery["number"],
        "delivered_at": at.replace(tzinfo=None),
        "file_name": delivery["file_name"],
        "state": state,
        "reason": reason or None,
        "warnings": list(warnings),
        "psi": dict(psi) if psi else known["psi"],
        "content": delivery["content"],
    }
