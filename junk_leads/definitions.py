"""The code location: everything Dagster is told, from one function that takes overrides.

What lives here: putting assets, jobs, the sensor and resources together. What does not: any of them.
"""

import os
from collections.abc import Mapping
from typing import Any

import dagster as dg

from junk_leads.defs.after_runs import failure_sensor, success_sensor
from junk_leads.defs.assets import (
    champion,
    codes,
    experiments,
    features,
    history,
    leads,
    model,
    outcomes,
    predictions,
    reports,
)
from junk_leads.defs.io_managers import Warehouse
from junk_leads.defs.jobs import JOBS
from junk_leads.defs.resources import EngineResource, HomeResource, mlflow_resource
from junk_leads.defs.schedules import retraining
from junk_leads.defs.sensors import make_incoming_sensor
from junk_leads.home import SCHEDULER_VARIABLE, Home, number_setting


def build_defs(home: Home | None = None, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The definitions for a home (that of the environment unless told), with resources replaced as given."""
    home = home or Home.from_environment()
    interval = int(number_setting("JUNK_LEADS_SENSOR_SECONDS", 5))
    return dg.Definitions(
        assets=dg.load_assets_from_modules(
            [leads, codes, features, model, champion, experiments, predictions, reports, outcomes, history],
            include_specs=True,
        ),
        jobs=JOBS,
        sensors=[
            make_incoming_sensor(
                interval_seconds=interval,
                settle_seconds=number_setting("JUNK_LEADS_SETTLE_SECONDS", 3),
                watch_seconds=max(interval - 0.7, 0.0),  # ended when the daemon looks for what is due
                stale_minutes=number_setting("JUNK_LEADS_STALE_MINUTES", 60),
            ),
            failure_sensor,
            success_sensor,
        ],
        schedules=[retraining],
        resources={
            "home": HomeResource(root=str(home.root)),
            "engine": EngineResource(scheduler=os.environ.get(SCHEDULER_VARIABLE, ""), tables=str(home.tables)),
            "warehouse": Warehouse(path=str(home.warehouse)),
            "mlflow": mlflow_resource(home),
            **(resources or {}),
        },
        executor=dg.in_process_executor,
    )


defs = build_defs()
