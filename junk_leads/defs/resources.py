"""What assets are given besides their inputs: the home, with its ledger and registry.

What lives here: a thin resource over a home and its stores, and dagster-mlflow's, imported late.
What does not: the warehouse (`io_managers.py`).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import dagster as dg
from pydantic import PrivateAttr

from junk_leads.defs.assets.champion import announcer
from junk_leads.engine.making import Making, making
from junk_leads.engine.shards import MANIFEST, Shard, read_manifest
from junk_leads.home import Home
from junk_leads.stores.drops.code_maps import CodeMaps
from junk_leads.stores.ledger import Delivery, Ledger
from junk_leads.stores.mlflow_store import EXPERIMENT, mlflow_quiet
from junk_leads.stores.registry import Registry


class HasHome(Protocol):
    """Whatever holds a home and the Dagster instance that belongs to it."""

    @property
    def home(self) -> Home:
        """The folders."""
        ...

    @property
    def instance(self) -> dg.DagsterInstance | None:
        """The instance, where there is one."""
        ...


class OfHome:
    """Gives whatever holds a home its stores."""

    @property
    def ledger(self: HasHome) -> Ledger:
        """Which file became which drop."""
        return Ledger(self.home)

    @property
    def code_maps(self: HasHome) -> CodeMaps:
        """Which renamed codes people put back, and which drops they scored all the same."""
        return CodeMaps(self.home)

    @property
    def registry(self: HasHome) -> Registry:
        """The versions of the model; Dagster is told when one comes into Production or leaves it."""
        return Registry(self.home, announcer(self.instance) if self.instance else None)


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
    def instance(self) -> dg.DagsterInstance | None:
        """The instance of the run."""
        return self._instance


class EngineResource(dg.ConfigurableResource[Any]):
    """Where drops in shards are worked on: in this process, or on the Dask cluster of a scheduler.

    `tables` is the folder of the parts of their tables, which every worker must see under the same name.
    """

    scheduler: str = ""
    tables: str

    def takes(self, delivery: Delivery) -> bool:
        """Whether a delivery is worked on by shards: one in shards, and with a cluster every one."""
        return bool(self.scheduler) or delivery.path.name.endswith(MANIFEST)

    def shards(self, delivery: Delivery) -> list[Shard]:
        """The shards of a delivery; a single file is the one shard of its drop. Raises DropRefused."""
        if delivery.path.name.endswith(MANIFEST):
            return read_manifest(delivery.path)
        return [Shard(str(delivery.path), delivery.path.stat().st_size, delivery.content)]

    def making(self, table: str, drop: str) -> AbstractContextManager[Making]:
        """What is needed to make a table's parts of a drop."""
        return making(self.scheduler, Path(self.tables), table, drop)


def mlflow_resource(home: Home) -> dg.ResourceDefinition:
    """dagster-mlflow's tracking resource for this home, when it is called; MLflow is only imported then."""

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
    def tracking(context: dg.InitResourceContext) -> Iterator[Callable[[], Any]]:
        """What begins an MLflow run for this Dagster run, and gives dagster-mlflow's resource; when it is called."""
        with mlflow_quiet(), ExitStack() as stack:

            @cache
            def begun() -> Any:
                _end_left_runs(Registry(home), context.instance)  # makes the store once, under its lock
                from dagster_mlflow import mlflow_tracking

                stack.callback(_end_run, context)
                return stack.enter_context(contextmanager(mlflow_tracking.resource_fn)(context))

            yield begun

    return tracking


def _end_left_runs(registry: Registry, instance: dg.DagsterInstance | None) -> None:
    """End MLflow's runs that are still under way though their run of Dagster is over: its process was killed.

    The last one that finished may have been killed too, after MLflow was told and before Dagster was.
    """
    client = registry.client
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None or instance is None:
        return
    where = [experiment.experiment_id]
    for run in client.search_runs(where, "attributes.status = 'RUNNING'"):
        of = instance.get_run_by_id(run.data.tags.get("dagster_run_id", ""))
        if of is None or of.is_finished:
            client.set_terminated(run.info.run_id, "KILLED")
    for run in client.search_runs(where, "attributes.status = 'FINISHED' AND tags.dagster_run_id != ''", max_results=1):
        of = instance.get_run_by_id(run.data.tags["dagster_run_id"])
        if of is not None and of.status is dg.DagsterRunStatus.FAILURE:
            client.set_terminated(run.info.run_id, "KILLED")


def _end_run(context: dg.InitResourceContext) -> None:
    """End MLflow's run as Dagster's ended; dagster-mlflow leaves it running, in the way of this process's next one."""
    import mlflow

    assert context.instance
    failures = context.instance.get_records_for_run(
        str(context.run_id), of_type=dg.DagsterEventType.STEP_FAILURE, limit=1
    )
    mlflow.end_run("FAILED" if failures.records else "FINISHED")
