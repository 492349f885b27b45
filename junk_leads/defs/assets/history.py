"""What became of every delivery, in the catalogue.

What lives here: the declaration of `drop_history`. What does not: making it, which follows every run (`after_runs.py`).
"""

import dagster as dg

from junk_leads.defs.assets import EVALUATION, OWNERS

drop_history = dg.AssetSpec(
    "drop_history",
    deps=["raw_leads", "rejected_leads", "prediction_summary", "outcomes"],
    group_name=EVALUATION,
    owners=OWNERS,
    kinds={"duckdb"},
    description=(
        "Drop history: one row for each delivery, refused ones too, oldest first; the first place to look. When and "
        "from which file, rows read, kept, duplicate, rejected and known from other drops, share of 1s, grades, model "
        "version, PSI by column, warnings, code map, the AUC on labels that came later, and the state: accepted, "
        "scored, refused (by the checks of raw_leads), blocked (by a later one), replaced (by a newer file of its "
        "name), waiting or failed, with the reason. Made anew after every run; `junk-leads drops` shows the same."
    ),
)
