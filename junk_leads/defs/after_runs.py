"""What follows every run: somebody is told of a failure, and the history of drops is renewed.

What lives here: what is done after a run, by the command line in its own process, or by two sensors for runs of the UI
and of `incoming/`. What does not: how an alert reaches people (`stores/telling/alerting.py`) and what the history says
(`stores/telling/history.py`).
"""

import threading

import dagster as dg

from junk_leads.defs.recovery import skip_checks
from junk_leads.defs.resources import HomeResource
from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.steps.pages.history import as_image, history_markdown, history_plot
from junk_leads.steps.watching.history import BLOCKED
from junk_leads.stores.telling.alerting import alert
from junk_leads.stores.telling.history import collect_history, store_history
from junk_leads.stores.telling.published import publish_tables
from junk_leads.stores.warehouse import connect

SECONDS = 10  # between two looks for runs that ended
_PARTITION = "dagster/partition"
_RENEWING = threading.Lock()  # the sensors of runs that ended well and badly look in threads of one process


def after_run(
    home: Home, instance: dg.DagsterInstance, run_id: str, *, failed: bool, wait_seconds: float = 20.0
) -> None:
    """Do what follows a run that has ended; doing it twice is as doing it once.

    A failure is told first, so that nothing that goes wrong afterwards keeps it back. Whether it `failed` is asked for,
    as Dagster stores that a run has ended before it changes the run's status.
    Raises WarehouseUnavailable when another process holds the warehouse for too long.
    """
    run = instance.get_run_by_id(run_id)
    if run is None:
        return
    if failed:
        _tell_of_failure(home, run)
        skip_checks(instance, run_id)
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


def _tell_of_failure(home: Home, run: dg.DagsterRun) -> None:
    """One alert: of the drop, when it was refused or blocked, else of the run."""
    drop = run.tags.get(_PARTITION, "")
    rows = collect_history(home, None) if drop else []
    delivery = next((row for row in reversed(rows) if row["drop"] == drop), None)
    if delivery is not None and delivery["state"] in ("refused", BLOCKED):
        event = f"{delivery['state']}:{drop}:{delivery['content']}"
        alert(home, f"drop {delivery['state']}", event, f"{drop} ({delivery['file_name']}): {delivery['reason']}")
        return
    of = f" of drop {drop}" if drop else ""
    alert(home, "run failed", f"failed:{run.run_id}", f"{run.job_name}{of}; look at run {run.run_id} in the UI")


def _after(context: dg.RunStatusSensorContext, home: HomeResource, *, failed: bool) -> dg.SkipReason:
    run_id = context.dagster_run.run_id
    try:
        after_run(home.home, context.instance, run_id, failed=failed)
    except JunkLeadsError as error:  # the next run's end, or the next command, renews the history
        return dg.SkipReason(str(error))
    return dg.SkipReason(f"the history holds what became of run {run_id}")


@dg.run_failure_sensor(
    name="failure_sensor",
    minimum_interval_seconds=SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="After a run that failed: an alert, its checks that did not run are skipped, drop_history is renewed.",
)
def failure_sensor(context: dg.RunFailureSensorContext, home: HomeResource) -> dg.SkipReason:
    """After a run that failed."""
    return _after(context, home, failed=True)


@dg.run_status_sensor(
    name="success_sensor",
    run_status=dg.DagsterRunStatus.SUCCESS,
    minimum_interval_seconds=SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="After a run that succeeded: drop_history is renewed.",
)
def success_sensor(context: dg.RunStatusSensorContext, home: HomeResource) -> dg.SkipReason:
    """After a run that succeeded."""
    return _after(context, home, failed=False)
