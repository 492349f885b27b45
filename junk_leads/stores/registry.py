"""The registry: versions of the model in MLflow, their stages and their history.

What lives here: registering, loading with its hash verified, promoting, archiving, rolling back. What does
not: training (`steps/learning/training.py`) and who may promote (the gate). MLflow is imported late: it takes seconds.

A stage is an alias (`production`, `staging`) or the tag `archived`; setting an alias is one write, so there is
one champion at any moment. Every transition is written down as a tag of the registered model.
"""

import getpass
import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from junk_leads.errors import JunkLeadsError, NoChampion, RegistryError
from junk_leads.home import Home
from junk_leads.steps.leads.encoding import Encoder, reference_id
from junk_leads.steps.scoring.scoring import ScoringModel

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MODEL = "junk_leads"
EXPERIMENT = "junk_leads"
MLFLOW_UI = "http://127.0.0.1:5000"
STAGES = ("staging", "production", "archived")
PRODUCTION, STAGING, ARCHIVED = "production", "staging", "archived"
BOOSTER_FILE, ENCODER_FILE, SETTINGS_FILE = "model.txt", "encoder.json", "settings.json"
HASHES_FILE = "sha256.json"
JUDGED = "judged"  # the run's folder with the model of the temporal split
_TRANSITION = "transition."


@dataclass(frozen=True)
class Version:
    """One registered version; times are seconds, as of its newest lead and of the first lead of its hold-out."""

    version: str
    stage: str
    created: str
    run_id: str
    encoder_id: str
    metrics: dict[str, float]
    data_fingerprint: str
    drops: dict[str, int]
    newest_lead: float
    holdout_from: float


class Registry:
    """The registered model of one home."""

    def __init__(self, home: Home) -> None:
        self.home = home

    @property
    def client(self) -> "MlflowClient":
        """MLflow's client of this home, its store initialised once, under a lock."""
        with _plain_errors():
            return _client(self.home.mlflow_uri, self.home.root)

    def versions(self) -> list[Version]:
        """Every version, newest first."""
        client = self.client
        with _plain_errors():
            found = client.search_model_versions(f"name = '{MODEL}'")
            return sorted((self._version(v) for v in found), key=lambda v: -int(v.version))

    def register(self, run_id: str, model_uri: str, tags: dict[str, str]) -> str:
        """Register a logged model as the next version; returns its number."""
        client = self.client
        with _plain_errors():
            import mlflow

            mlflow.set_tracking_uri(self.home.mlflow_uri)  # where MLflow looks for what was logged
            if not client.search_registered_models(f"name = '{MODEL}'"):
                client.create_registered_model(MODEL, description="Tells junk leads from genuine ones")
            made = client.create_model_version(MODEL, model_uri, run_id, tags=tags)
            with self._noted(str(made.version), "", "registered", "trained"):
                return str(made.version)

    def describe_version(self, version: str, text: str) -> None:
        """Give a version its description, Markdown, as MLflow's UI shows it."""
        client = self.client
        with _plain_errors():
            client.update_model_version(MODEL, version, text)

    def champion(self) -> ScoringModel:
        """The model in Production, verified. Raises NoChampion when there is none."""
        return self.load(self.champion_version())

    def champion_version(self) -> str:
        """The version in Production. Raises NoChampion when there is none."""
        version = self.champion_version_or_none()
        if version is None:
            raise NoChampion(
                "no model is in Production yet; run `junk-leads train`, then "
                "`junk-leads models promote VERSION --to production`"
            )
        return version

    def champion_version_or_none(self) -> str | None:
        """The version in Production, None when there is none."""
        return self._alias(PRODUCTION)

    def load(self, version: str) -> ScoringModel:
        """A version as it scores, its files checked against the hashes they were registered with.

        Raises RegistryError for a version that does not exist, a damaged file, or other reference tables.
        """
        client = self.client
        found = self._found(version)
        with _plain_errors():
            logged = client.get_logged_model(found.source.rsplit("/", 1)[-1])
            folder = _downloaded(f"{logged.artifact_location}/artifacts")
        return load_scoring_model(folder, version, found.tags.get("files_sha256", ""))

    def load_judged(self, version: str) -> ScoringModel:
        """The model that a version was judged by: trained the same way without the leads of its temporal hold-out.

        Raises RegistryError as `load` does.
        """
        found = self._found(version)
        with _plain_errors():
            folder = _downloaded(f"runs:/{found.run_id}/{JUDGED}", self.home.mlflow_uri)
        return load_scoring_model(folder, version, found.tags.get("judged_sha256", ""))

    def evaluation(self, version: str) -> dict[str, Any]:
        """What a version's training reported: splits, weeks, slices, tenths, grades."""
        found = self._found(version)
        with _plain_errors():
            file = _downloaded(f"runs:/{found.run_id}/evaluation.json", self.home.mlflow_uri)
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return content

    def version(self, version: str) -> Version:
        """One version. Raises RegistryError when there is none of this number."""
        return self._version(self._found(version))

    def run_url(self, run_id: str) -> str:
        """Where MLflow's UI shows a run."""
        with _plain_errors():
            experiment = self.client.get_run(run_id).info.experiment_id
        return f"{os.environ.get('JUNK_LEADS_MLFLOW_UI', MLFLOW_UI)}/#/experiments/{experiment}/runs/{run_id}"

    def promote(
        self, version: str, to: str, *, why: str = "", by: str = "", evidence: Mapping[str, Any] | None = None
    ) -> None:
        """Move a version to `staging`, `production` or `archived`; who leaves its place to it is archived.

        The gate stands before it (`promotion.py`); `evidence` is what it saw, kept in the history.
        """
        if to not in STAGES:
            raise RegistryError(f"there is no stage {to!r}; stages are {', '.join(STAGES)}")
        client, found = self.client, self._found(version)
        stage = self._stage(found)
        if stage == to:
            return
        if to == PRODUCTION:
            self.load(version)  # a damaged or unusable version never becomes champion
        with _plain_errors():
            former = None if to == ARCHIVED else self._alias(to)
            if former is not None:
                client.set_model_version_tag(MODEL, former, ARCHIVED, "true")
            with self._noted(version, stage, to, why, by, {**self._of_version(found), **(evidence or {})}):
                if to == ARCHIVED:
                    client.set_model_version_tag(MODEL, version, ARCHIVED, "true")
                else:
                    client.set_registered_model_alias(MODEL, to, version)
                    client.delete_model_version_tag(MODEL, version, ARCHIVED) if ARCHIVED in found.tags else None
                for alias in (PRODUCTION, STAGING):
                    if alias != to and self._alias(alias) == version:
                        client.delete_registered_model_alias(MODEL, alias)
            if former is not None:
                with self._noted(former, to, ARCHIVED, f"version {version} took its place", by):
                    pass

    def rollback(self, *, why: str = "", by: str = "") -> str:
        """Put the version that was in Production before the champion back; returns it. Again: the one before that."""
        current = self.champion_version()
        champions: list[str] = []
        for event in self.history():
            if event["to"] != PRODUCTION:
                continue
            if event.get("rollback"):
                champions = champions[: champions.index(event["version"]) + 1]
            else:
                champions.append(event["version"])
        before = champions[: len(champions) - champions[::-1].index(current) - 1] if current in champions else []
        former = next((v for v in reversed(before) if v != current), None)
        if former is None:
            raise RegistryError(f"version {current} is the first in Production; there is nothing to roll back to")
        why = why or f"rolled back from version {current}"
        self.promote(former, PRODUCTION, why=why, by=by, evidence={"rollback": True})
        return former

    def history(self) -> list[dict[str, Any]]:
        """Every transition, oldest first: when, version, from, to, who, why."""
        client = self.client
        with _plain_errors():
            found = client.search_registered_models(f"name = '{MODEL}'")
            tags = found[0].tags if found else {}
        events = sorted((key, value) for key, value in tags.items() if key.startswith(_TRANSITION))
        return [json.loads(value) for _, value in events]

    @contextmanager
    def _noted(
        self,
        version: str,
        before: str,
        after: str,
        why: str,
        by: str = "",
        evidence: Mapping[str, Any] | None = None,
    ) -> Iterator[None]:
        """Note a transition before it is made, so that none is made without; and not when making it fails."""
        event = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": version,
            "from": before,
            "to": after,
            "who": by or _who(),
            "why": why,
            **(evidence or {}),
        }
        key = f"{_TRANSITION}{time.time_ns():020d}"
        self.client.set_registered_model_tag(MODEL, key, json.dumps(event, ensure_ascii=False))
        try:
            yield
        except Exception:
            self.client.delete_registered_model_tag(MODEL, key)
            raise

    @staticmethod
    def _of_version(found: "ModelVersion") -> dict[str, Any]:
        """What the history keeps of a version: its data's fingerprint and its metrics."""
        metrics = json.loads(found.tags.get("metrics", "{}"))
        told = {name: metrics[name] for name in ("random_auc", "temporal_auc") if name in metrics}
        fingerprint = found.tags.get("data_fingerprint")
        return {**({"data_fingerprint": fingerprint} if fingerprint else {}), **({"metrics": told} if told else {})}

    def _alias(self, alias: str) -> str | None:
        client = self.client
        with _plain_errors():
            found = client.search_registered_models(f"name = '{MODEL}'")
            version = found[0].aliases.get(alias) if found else None
            return None if version is None else str(version)

    def _found(self, version: str) -> "ModelVersion":
        client = self.client
        with _plain_errors():
            known = [str(v.version) for v in client.search_model_versions(f"name = '{MODEL}'")]
        if version not in known:
            there = ", ".join(known) or "none"
            raise RegistryError(f"there is no version {version!r} of {MODEL}; versions are: {there}")
        return client.get_model_version(MODEL, version)

    def _stage(self, found: "ModelVersion") -> str:
        for alias in (PRODUCTION, STAGING):
            if self._alias(alias) == str(found.version):
                return alias
        return ARCHIVED if ARCHIVED in found.tags else ""

    def _version(self, found: "ModelVersion") -> Version:
        tags = self.client.get_model_version(MODEL, found.version).tags
        created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(timespec="seconds")
        metrics = json.loads(tags.get("metrics", "{}"))
        return Version(
            str(found.version),
            self._stage(found),
            created,
            found.run_id,
            tags.get("encoder_id", ""),
            metrics,
            tags.get("data_fingerprint", ""),
            json.loads(tags.get("drops", "{}")),
            float(tags.get("newest_lead", "nan")),
            float(tags.get("holdout_from", "nan")),
        )


def _downloaded(uri: str, tracking_uri: str | None = None) -> Path:
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(uri, tracking_uri=tracking_uri))


def files_sha256(folder: Path) -> str:
    """The hashes of a model's files, as the registry keeps them in a tag."""
    names = (BOOSTER_FILE, ENCODER_FILE, SETTINGS_FILE)
    return json.dumps({name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names})


def load_scoring_model(folder: Path, version: str, expected_sha256: str = "") -> ScoringModel:
    """The model in a folder of its three files, verified before LightGBM reads it.

    LightGBM ends the whole process on a damaged file, so the hashes come first.
    """
    import lightgbm as lgb

    try:
        found = files_sha256(folder)
    except OSError as error:
        raise RegistryError(f"version {version} lacks the file {error.filename}; roll back or train again") from error
    if expected_sha256 and found != expected_sha256:
        raise RegistryError(
            f"the files of version {version} are not those that were registered (SHA-256 differs); "
            f"roll back to another version or restore {folder}"
        )
    encoder = Encoder.from_json((folder / ENCODER_FILE).read_text(encoding="utf-8"))
    if encoder.reference != reference_id():
        raise RegistryError(
            f"version {version} was trained with other city tiers or interaction groups than this program has; "
            f"train again, or use the program it was trained with"
        )
    settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    booster = lgb.Booster(model_file=str(folder / BOOSTER_FILE))
    return ScoringModel(version, booster, encoder, settings)


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
def _plain_errors() -> Iterator[None]:
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
def _client(uri: str, root: Path) -> "MlflowClient":
    from mlflow import MlflowClient

    store = root / "mlflow.db"
    if store.exists() and not (store.is_file() and store.read_bytes()[:16] in (b"", b"SQLite format 3\0")):
        # MLflow would try to open it for minutes
        raise RegistryError(
            f"{store} is no SQLite file; nothing was changed: restore it from a backup, or move it away"
        )
    # processes that start at once on a new file corrupt its migration
    with FileLock(root / "mlflow.lock", timeout=300):
        client = MlflowClient(uri, registry_uri=uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            client.create_experiment(EXPERIMENT, artifact_location=(root / "mlartifacts").as_uri())
    return client


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # KeyError before Python 3.13
        return "unknown"


def describe(version: Version) -> dict[str, Any]:
    """A version as `models --json` prints it."""
    return {
        "version": version.version,
        "stage": version.stage,
        "created": version.created,
        "metrics": version.metrics,
        "run_id": version.run_id,
        "encoder_id": version.encoder_id,
    }
