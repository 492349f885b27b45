"""MLflow's own store in a home: made once, quiet, its errors told in one line.

What lives here: the client and what every use of MLflow shares. What does not: versions and stages (`registry.py`),
what is logged (`tracking.py`). MLflow is imported late: it takes seconds.
"""

import logging
import os
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse
from urllib.request import url2pathname

from junk_leads.errors import JunkLeadsError, RegistryError
from junk_leads.stores.making import alone, make_whole

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "junk_leads"
_LOCATIONS = (  # where MLflow's tables say where files are
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


@contextmanager
def mlflow_quiet() -> Iterator[None]:
    """MLflow's own chatter (deprecations, hints, alembic's log) kept from a person's terminal."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what goes wrong is told once, in one line, by who asked
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Whatever goes wrong in MLflow, as a RegistryError in one line."""
    with mlflow_quiet():
        try:
            yield
        except JunkLeadsError:
            raise
        except Exception as error:
            first = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise RegistryError(
                f"the model registry did not answer ({first}); nothing was changed: check mlflow.db and try again"
            ) from error


@lru_cache(maxsize=8)
def client_of(uri: str, root: Path) -> "MlflowClient":
    """MLflow's client of the store below a home, which is made once, and follows the home. Raises RegistryError."""
    from mlflow import MlflowClient

    store = root / "mlflow.db"
    if store.exists() and not (store.is_file() and store.read_bytes()[:16] in (b"", b"SQLite format 3\0")):
        # MLflow would try to open it for minutes
        raise RegistryError(
            f"{store} is no SQLite file; nothing was changed: restore it from a backup, or move it away"
        )
    # processes that start at once on a new file corrupt its migration, and so does a newer MLflow's on a former one
    with alone(root):
        make_whole(store, _make)
        _follow(store, root / "mlartifacts")
        client = MlflowClient(uri, registry_uri=uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            client.create_experiment(EXPERIMENT, artifact_location=(root / "mlartifacts").as_uri())
    return client


def alias_of(root: Path, model: str, alias: str) -> tuple[bool, str | None]:
    """Whether MLflow's table of aliases could be read as it stands in a home, and the version with this alias, if any.

    Reads the one row without MLflow; what MLflow writes there is the truth, also for what is asked here.
    """
    query = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
    if not (root / "mlflow.db").exists():
        return True, None
    try:
        with closing(sqlite3.connect(f"{(root / 'mlflow.db').as_uri()}?mode=ro", uri=True, timeout=10)) as db:
            rows = db.execute(query, [model, alias]).fetchall()
    except sqlite3.Error:
        return False, None
    return len(rows) < 2, str(rows[0][0]) if rows else None


def _make(path: Path) -> None:
    """Make MLflow's store in a file: its tracking and its registry."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{path}"
    MlflowClient(uri, registry_uri=uri).search_registered_models()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # nothing of it stays in a file beside it


def _follow(store: Path, artifacts: Path) -> None:
    """Have MLflow look for files below the home that its store is in, where the home was moved or restored elsewhere.

    MLflow keeps where each file is in full. Where our experiment's files are says where the home was.
    """
    with closing(sqlite3.connect(store, timeout=60)) as db, db:
        found = db.execute("SELECT artifact_location FROM experiments WHERE name = ?", [EXPERIMENT]).fetchone()
        if found is None or found[0] == artifacts.as_uri() or _is_same(found[0], artifacts):
            return
        for table, column in _LOCATIONS:
            db.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                [artifacts.as_uri(), len(found[0]) + 1, found[0], len(found[0]) + 1, f"{found[0]}/"],
            )


def _is_same(uri: str, folder: Path) -> bool:
    """Whether a location is this folder under another name: a link, or another mount."""
    try:
        return os.path.samefile(url2pathname(urlparse(uri).path), folder)
    except OSError:
        return False


def downloaded(uri: str, tracking_uri: str | None = None) -> Path:
    """Where the files of an artifact are on this machine."""
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(uri, tracking_uri=tracking_uri))
