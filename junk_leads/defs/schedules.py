"""The schedule that retrains when enough newly labelled leads have come; off until somebody switches it on.

What lives here: the decision, and its thin shell. What does not: training (`assets/model.py`).
"""

from collections.abc import Mapping

import dagster as dg
import duckdb

from junk_leads.defs.io_managers import Warehouse
from junk_leads.defs.jobs import TRAINING_ASSETS, training_pipeline
from junk_leads.defs.labelled_drops import to_train
from junk_leads.defs.resources import HomeResource
from junk_leads.reference import lead_schema, model_settings
from junk_leads.stores.drops.labelled import labelled_drops
from junk_leads.stores.warehouse import rows_of


def new_labels(labelled: Mapping[str, int], trained_on: Mapping[str, int]) -> int:
    """How many labelled leads (by drop) are more than the newest version was trained on."""
    return sum(max(count - trained_on.get(drop, 0), 0) for drop, count in labelled.items())


def labelled_leads(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """The labelled leads of each drop that has any."""
    drops = labelled_drops(con)
    if not drops:
        return {}
    rows = rows_of(con, "cleaned_leads", drops).filter(f"{lead_schema().label} IS NOT NULL")
    return dict(rows.aggregate("drop, count(*)").order("drop").fetchall())


@dg.schedule(
    cron_schedule="0 3 * * *",
    job=training_pipeline,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Trains a new version when enough newly labelled leads have come. It promotes nothing.",
)
def retraining(
    context: dg.ScheduleEvaluationContext, home: HomeResource, warehouse: dg.ResourceParam[Warehouse]
) -> dg.RunRequest | dg.SkipReason:
    """One training over all labelled drops, or why there is none."""
    try:
        labelled = labelled_leads(warehouse.connection())
        selection, tags = to_train(context.instance, warehouse.connection(), TRAINING_ASSETS)
    finally:
        warehouse.release()
    versions = home.registry.versions()
    new, enough = new_labels(labelled, versions[0].drops if versions else {}), model_settings()["retrain_after"]
    if new < enough:
        return dg.SkipReason(f"{new:,} newly labelled leads of {enough:,} have come")
    return dg.RunRequest(run_key=f"{len(versions)}:{new}", tags=tags, asset_selection=selection)
