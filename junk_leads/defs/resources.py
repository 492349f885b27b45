"""What assets are given besides their inputs: the home, with its ledger and registry.

What lives here: a thin resource over a home and its stores, and dagster-mlflow's, imported late.
What does not: the warehouse (`io_managers.py`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from junk_leads.defs.assets.champion import announcer
from junk_leads.home import Home
from junk_leads.stores.mlflow_store import EXPERIMENT, mlflow_quiet
from junk_leads.stores.of_home import OfHome
from junk_leads.stores.registry import Announce, Registry


class HomeResource(OfHome, dg.ConfigurableResource[Any]):
    """The home of one machine: folders, ledger of deliveries, registry of models."""

    root: str
    _instance: dg.DagsterInstance | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Keep the instance, which is told when the champion changes."""
        self._instance = context.instance

    @property
    def home(self) -> Home:
        """The folders."""
        return Home(Path(self.root))

    @property
    def announce(self) -> Announce | None:
        """Tells Dagster when a version comes into Production or leaves it; a run knows whom to tell."""
        return announcer(self._instance) if self._instance else None


def mlflow_resource(home: Home) -> dg.ResourceDefinition:
    """dagster-mlflow's tracking resource for this home; MLflow is only imported by runs that train."""

    @dg.resource(
        config_schema={
            "experiment_name": dg.Field(str, default_value=EXPERIMENT),
            "mlflow_tracking_uri": dg.Field(str, default_value=home.mlflow_uri),
            "parent_run_id": dg.Field(dg.Noneable(str), default_value=None, is_required=False),
            "mlflow_run_id": dg.Field(dg.Noneable(str), default_value=None, is_required=False),
            "env": dg.Field(dict, default_value={}),
            "env_to_tag": dg.Field(dg.Noneable(list), default_value=None, is_required=False),
            "extra_tags": dg.Field(dict, default_value={}),
        }
    )
    def tracking(context: dg.InitResourceContext) -> Iterator[Any]:
        """An MLflow run for this Dagster run."""
        with mlflow_quiet():
            assert Registry(home).client  # makes the store once, under its lock
            from dagster_mlflow import mlflow_tracking

            yield from mlflow_tracking.resource_fn(context)
            _end_run(context)

    return tracking


def _end_run(context: dg.InitResourceContext) -> None:
    """End MLflow's run as Dagster's ended; dagster-mlflow leaves it running, in the way of this process's next one."""
    import mlflow

    assert context.instance
    failures = context.instance.get_records_for_run(
        str(context.run_id), of_type=dg.DagsterEventType.STEP_FAILURE, limit=1
    )
    mlflow.end_run("FAILED" if failures.records else "FINISHED")
