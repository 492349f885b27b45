"""The Dagster instance of a home: its storage made whole, by one process at a time.

What lives here: making and opening it. What does not: its settings (`reference/dagster.yaml`) and what runs on it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import dagster as dg
from alembic.script import ScriptDirectory
from dagster import DagsterError
from dagster._check import CheckError
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy.exc import DBAPIError
from yaml import YAMLError

from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.stores.making import alone, make_whole

# Dagster reads the 90 files of its migrations for each SQLite file it opens, six to eleven times in a command: here
# once in a process for each of the settings that they are read with, of which it has one for each storage.
ScriptDirectory.from_config = lru_cache(maxsize=8)(ScriptDirectory.from_config)  # type: ignore[method-assign]

_CANNOT_OPEN = (
    OSError,
    DBAPIError,
    DagsterError,
    CheckError,
    YAMLError,
    UnicodeDecodeError,
    ImportError,
    AttributeError,
)


@contextmanager
def opened_instance(home: Home) -> Iterator[dg.DagsterInstance]:
    """The instance of a command, made if it is not there; the home's folders are.

    What a command prints goes where it prints it, and is not kept for the UI unless `dagster.yaml` says where: Dagster
    would show it by four more processes, which an interrupt makes tell of themselves.

    Dagster by itself, started by several processes at once or killed meanwhile, can leave a storage that never works
    again. Raises JunkLeadsError when its files cannot be made or opened, as on a full disk.
    """
    try:
        with alone(home.root):
            make_whole(home.dagster / "history", _make)  # the folders that Dagster keeps its SQLite files in
            make_whole(home.dagster / "schedules", lambda folder: SqliteScheduleStorage.from_local(str(folder)))
            settings = _settings(home)
            instance = dg.DagsterInstance.from_ref(settings)
            _find_named(settings)
    except _CANNOT_OPEN as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise JunkLeadsError(
            f"Dagster's storage in {home.dagster} cannot be made or opened ({first}); check dagster.yaml there, "
            "the disk and rights, or restore a backup"
        ) from error
    with instance:
        yield instance


def _settings(home: Home) -> InstanceRef:
    told = InstanceRef.from_dir(str(home.dagster))
    if told.compute_logs_data.class_name != LocalComputeLogManager.__name__:
        return told
    none = ConfigurableClassData(NoOpComputeLogManager.__module__, NoOpComputeLogManager.__name__, "{}")
    return told._replace(compute_logs_data=none)


def _find_named(settings: InstanceRef) -> None:
    """Find what starts runs and queues them, by the names that the settings give; Dagster does when it needs them."""
    for found in (settings.run_launcher_data, settings.run_coordinator_data):
        if found is not None:
            getattr(import_module(found.module_name), found.class_name)


def _make(folder: Path) -> None:
    """Have Dagster make all its storage, in this folder and beside it."""
    (folder.parent / "dagster.yaml").touch()  # without one it tells at length where it stores
    with dg.DagsterInstance.from_config(str(folder.parent)):
        pass
