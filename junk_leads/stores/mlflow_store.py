"""MLflow's own store in a home: made once, quiet, its errors told in one line.

What lives here: the client, reading a registered model, and what every use of MLflow shares. What does not: versions
and stages (`registry.py`), what is logged (`tracking.py`). MLflow is imported late: it takes seconds. So what it wrote
is read from its tables as they stand, and asked of it where they are others than those known here.
"""

import logging
import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse
from urllib.request import url2pathname

from junk_leads.capacity import importing
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
_VERSIONS = """
SELECT v.version, v.creation_time, v.run_id, v.source, m.artifact_location, r.artifact_uri
FROM model_versions v
LEFT JOIN logged_models m ON v.source = 'models:/' || m.model_id AND m.lifecycle_stage = 'active'
LEFT JOIN runs r ON r.run_uuid = v.run_id
WHERE v.name = ? AND v.current_stage IS NOT 'Deleted_Internal' ORDER BY v.version DESC
"""


@dataclass(frozen=True)
class Registered:
    """A version as MLflow's registry holds it, made at `created` (ms since 1970).

    `model_files` and `run_files` say where the files of its logged model and of its run are, None when MLflow must be
    asked.
    """

    version: str
    created: int
    run_id: str
    model_id: str
    tags: Mapping[str, str]
    model_files: Path | None = None
    run_files: Path | None = None


@dataclass(frozen=True)
class RegisteredModel:
    """A model as MLflow's registry holds it: its tags, the version of each alias, its versions, the newest first."""

    tags: Mapping[str, str]
    aliases: Mapping[str, str]
    versions: Mapping[str, Registered]


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
    with importing():
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
    with suppress(sqlite3.Error), _tables(root) as db:
        rows = db.execute(query, [model, alias]).fetchall()
        return len(rows) < 2, str(rows[0][0]) if rows else None
    return False, None


def registered_model(root: Path, name: str) -> RegisteredModel | None:
    """A model as MLflow's tables in a home hold it, read without MLflow; None when MLflow must be asked.

    It must where the tables are others, cannot be read at this moment, or tell of files at another place.
    """
    if not (root / "mlflow.db").exists():
        return RegisteredModel({}, {}, {})
    with suppress(sqlite3.Error, TypeError, ValueError), _tables(root) as db:
        db.execute("BEGIN")  # all of it as it stood at one moment
        here = db.execute("SELECT artifact_location FROM experiments WHERE name = ?", [EXPERIMENT]).fetchone()
        several = db.execute("SELECT count(*) > 1 FROM registered_models WHERE name = ?", [name]).fetchone()[0]
        if here is None or several or not _is_at(str(here[0]), root / "mlartifacts"):
            return None
        tags: dict[str, dict[str, str]] = {}
        for number, key, value in db.execute(
            "SELECT version, key, value FROM model_version_tags WHERE name = ?", [name]
        ):
            tags.setdefault(str(number), {})[str(key)] = str(value)
        versions = {
            str(number): Registered(
                str(number),
                int(created),
                str(run),
                _model_id(source),
                tags.get(str(number), {}),
                _folder_here(model_files),
                _folder_here(run_files),
            )
            for number, created, run, source, model_files, run_files in db.execute(_VERSIONS, [name])
        }
        of_model = db.execute("SELECT key, value FROM registered_model_tags WHERE name = ?", [name])
        aliases = db.execute("SELECT alias, version FROM registered_model_aliases WHERE name = ?", [name])
        model_tags, numbers = ({str(key): str(value) for key, value in rows} for rows in (of_model, aliases))
        return RegisteredModel(model_tags, numbers, versions)
    return None


def asked_model(client: "MlflowClient", name: str) -> RegisteredModel:
    """A model as MLflow tells of it."""
    found = client.search_registered_models(f"name = '{name}'")
    if not found:
        return RegisteredModel({}, {}, {})
    told = sorted(
        client.search_model_versions(f"name = '{name}'", max_results=10_000), key=lambda version: -int(version.version)
    )
    versions = {
        str(v.version): Registered(str(v.version), v.creation_timestamp, v.run_id, _model_id(v.source), dict(v.tags))
        for v in told
    }
    return RegisteredModel(
        dict(found[0].tags), {alias: str(number) for alias, number in found[0].aliases.items()}, versions
    )


@contextmanager
def _tables(root: Path) -> Iterator[sqlite3.Connection]:
    """MLflow's tables in a home, to be read."""
    with closing(sqlite3.connect(f"{(root / 'mlflow.db').as_uri()}?mode=ro", uri=True, timeout=10)) as db:
        yield db


def _model_id(source: object) -> str:
    """The id of a logged model, from where a version says that it comes from."""
    return str(source or "").rsplit("/", 1)[-1]


def _folder_here(uri: object) -> Path | None:
    """The folder of this machine that a URI names; None when there is none."""
    folder = _path_of(str(uri or ""))
    return folder if str(uri).startswith("file:") and folder.is_dir() else None


def _path_of(uri: str) -> Path:
    """The path in a URI."""
    return Path(url2pathname(urlparse(uri).path))


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
        if found is None or _is_at(found[0], artifacts):
            return
        for table, column in _LOCATIONS:
            db.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                [artifacts.as_uri(), len(found[0]) + 1, found[0], len(found[0]) + 1, f"{found[0]}/"],
            )


def _is_at(uri: str, folder: Path) -> bool:
    """Whether a location is this folder, perhaps under another name: a link, or another mount."""
    try:
        return uri == folder.as_uri() or os.path.samefile(_path_of(uri), folder)
    except OSError:
        return False


def downloaded(uri: str, tracking_uri: str | None = None) -> Path:
    """Where the files of an artifact are on this machine."""
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(uri, tracking_uri=tracking_uri))
