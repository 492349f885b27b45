"""What follows every run: somebody is told of a failure, and the history of drops is renewed.

What lives here: what is done after a run, by the command line in its own process, or by two sensors for runs of the UI
and of `incoming/`. What does not: how an alert reaches people (`stores/telling/alerting.py`) and what the history says
(`stores/telling/history.py`).
"""

import json
import threading
from collections.abc import Sequence
from typing import Literal

import dagster as dg

from junk_leads.defs.recovery import HELD_FROM_START, skip_checks
from junk_leads.defs.resources import HomeResource
from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.steps.pages.history import as_image, history_markdown, history_plot
from junk_leads.steps.watching.history import BLOCKED
from junk_leads.stores.telling.alerting import Alert, alert
from junk_leads.stores.telling.findings import Findings
from junk_leads.stores.telling.history import collect_history, store_history
from junk_leads.stores.telling.published import publish_tables
from junk_leads.stores.warehouse import connect

SECONDS = 10  # between two looks for runs that ended
AT_ONCE = 1_000  # most runs that one look takes
_PARTITION = "dagster/partition"
_RENEWING = threading.Lock()  # the sensors of runs that ended well and badly look in threads of one process


def after_runs(
    home: Home, instance: dg.DagsterInstance, run_ids: Sequence[str], *, failed: bool, wait_seconds: float = 20.0
) -> None:
    """Do what follows runs that have ended, all well or all badly; doing it twice is as doing it once.

    Failures are told first, so that nothing that goes wrong afterwards keeps them back. Whether they `failed` is asked
    for, as Dagster stores that a run has ended before it changes the run's status.
    Raises WarehouseUnavailable when another process holds the warehouse for too long.
    """
    if failed:
        rows = collect_history(home, None)
        refused = {f.run_id: f.content for f in Findings(home).unusual() if f.refuses}
        runs = [run for run in map(instance.get_run_by_id, run_ids) if run]
        alert(home, *(_failure(run, rows, refused.get(run.run_id)) for run in runs))
        for run in runs:
            skip_checks(instance, run.run_id)
    renew_history(home, instance, wait_seconds=wait_seconds)


def renew_history(home: Home, instance: dg.DagsterInstance, *, wait_seconds: float = 20.0) -> list[dict[str, object]]:
    """Collect the history anew, store it and show it in the catalogue; returns its rows.

    One thread of a process at a time: the warehouse keeps out other processes alone.
    """
    if not home.warehouse.exists():
        return collect_history(home, None)
    with _RENEWING, connect(home.warehouse, wait_seconds=wait_seconds) as con:
        rows = collect_history(home, con)
        store_history(con, rows)
        publish_tables(home, con)
    states = [str(row["state"]) for row in rows]
    told = {state: states.count(state) for state in dict.fromkeys(states)}
    metadata = {
        "deliveries": dg.MetadataValue.md(history_markdown(rows)),
        "plot": dg.MetadataValue.md(as_image(history_plot(rows), "share of 1s and of rejected rows by delivery")),
        "dagster/row_count": dg.MetadataValue.int(len(rows)),
        **{f"{state}_deliveries": dg.MetadataValue.int(count) for state, count in told.items()},
    }
    instance.report_runless_asset_event(dg.AssetMaterialization("drop_history", metadata=metadata))
    return rows


def _failure(run: dg.DagsterRun, rows: Sequence[dict[str, object]], refused: str | None) -> Alert:
    """An alert of the delivery of a run's drop, when it was refused or blocked, else of the run.

    It is the one with the content that the run `refused`, or the newest.
    """
    drop = run.tags.get(_PARTITION, "")
    of_drop = (row for row in reversed(rows) if row["drop"] == drop and refused in (None, row["content"]))
    delivery = next(of_drop, None)
    if delivery is not None and delivery["state"] in ("refused", BLOCKED):
        event = f"{delivery['state']}:{drop}:{delivery['content']}"
        text = f"{drop} ({delivery['file_name']}): {delivery['reason']}"
        return Alert(f"drop {delivery['state']}", event, text)
    of = f" of drop {drop}" if drop else ""
    return Alert("run failed", f"failed:{run.run_id}", f"{run.job_name}{of}; look at run {run.run_id} in the UI")


def _after(
    context: dg.SensorEvaluationContext,
    home: Home,
    ended: Literal[dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS],
) -> dg.SkipReason:
    """Do what follows all runs that ended so since the last look, of which Dagster's own sensors take one at a time.

    What goes wrong is tried again at the next look. A command does what follows the runs that it made.
    """
    since = json.loads(context.cursor)["record_id"] if context.cursor else 0
    events = context.instance.fetch_run_status_changes(
        dg.RunStatusChangeRecordsFilter(ended, after_storage_id=since), limit=AT_ONCE, ascending=True
    ).records
    failed = ended is dg.DagsterEventType.RUN_FAILURE
    run_ids = [event.run_id for event in events]
    if not failed and run_ids:
        runs = context.instance.get_runs(dg.RunsFilter(run_ids=run_ids))
        run_ids = [run.run_id for run in runs if not HELD_FROM_START.items() <= run.tags.items()]
    try:
        if run_ids:
            after_runs(home, context.instance, run_ids, failed=failed)
    except JunkLeadsError as error:
        return dg.SkipReason(str(error))
    if events:
        context.update_cursor(json.dumps({"record_id": events[-1].storage_id}))
    return dg.SkipReason(f"runs that ended, in the history now: {len(run_ids)}" if run_ids else "no run has ended")


@dg.sensor(
    name="failure_sensor",
    minimum_interval_seconds=SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="After runs that failed: an alert, checks that did not run are skipped, drop_history is renewed.",
)
def failure_sensor(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SkipReason:
    """After runs that failed."""
    return _after(context, home.home, dg.DagsterEventType.RUN_FAILURE)


@dg.sensor(
    name="success_sensor",
    minimum_interval_seconds=SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="After runs that succeeded: drop_history is renewed.",
)
def success_sensor(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SkipReason:
    """After runs that succeeded."""
    return _after(context, home.home, dg.DagsterEventType.RUN_SUCCESS)
