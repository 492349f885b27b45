"""The registry: versions of the model in MLflow, their stages and their history.

What lives here: registering, loading with its hash verified, promoting, archiving, rolling back. What does
not: training (`steps/learning/training.py`) and who may promote (the gate). MLflow is imported late: it takes seconds.

A stage is an alias (`production`, `staging`) or the tag `archived`; setting an alias is one write, so there is
one champion at any moment. Every transition is written down as a tag of the registered model.
"""

import getpass
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from junk_leads.errors import NoChampion, RegistryError
from junk_leads.home import Home
from junk_leads.steps.scoring.scoring import ScoringModel
from junk_leads.steps.watching.profiles import Profile
from junk_leads.stores.mlflow_store import (
    Registered,
    RegisteredModel,
    alias_of,
    asked_model,
    client_of,
    downloaded,
    plain_errors,
    registered_model,
)
from junk_leads.stores.model_files import load_profile, load_scoring_model, refuse_changed_folder
from junk_leads.stores.telling.alerting import Alert, alert

if TYPE_CHECKING:
    from mlflow import MlflowClient

DROPS_FILE = "drops.json"  # of a version's run
_LONGEST_TAG = 5_000
MODEL = "junk_leads"
MLFLOW_UI = "http://127.0.0.1:5000"
STAGES = ("staging", "production", "archived")
PRODUCTION, STAGING, ARCHIVED = "production", "staging", "archived"
JUDGED = "judged"  # the run's folder with the model of the temporal split
REGISTERED = "registered"
_TRANSITION = "transition."
_PENDING = "pending_transition"  # what a transition is about to write, until all of it is written

Announce: TypeAlias = Callable[[Mapping[str, Any]], None]


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
    """The registered model of one home.

    `announce` is told of each transition into Production or out of it, as the history has it, after it was made.
    """

    def __init__(self, home: Home, announce: Announce | None = None) -> None:
        self.home = home
        self._announce = announce

    @property
    def client(self) -> "MlflowClient":
        """MLflow's client of this home, its store initialised once, under a lock."""
        with plain_errors():
            return client_of(self.home.mlflow_uri, self.home.root)

    def versions(self) -> list[Version]:
        """Every version, newest first."""
        model = self._model()
        return [self._version(found, model) for found in model.versions.values()]

    def register(self, run_id: str, model_uri: str, tags: dict[str, str]) -> str:
        """Register a logged model as the next version; returns its number.

        A version of the same files whose training was killed after it was registered is that version.
        """
        client = self.client
        with plain_errors():
            import mlflow

            mlflow.set_tracking_uri(self.home.mlflow_uri)  # where MLflow looks for what was logged
            if not client.search_registered_models(f"name = '{MODEL}'"):
                client.create_registered_model(MODEL, description="Tells junk leads from genuine ones")
            known = self._left_behind(tags)
            version = known or str(client.create_model_version(MODEL, model_uri, run_id, tags=tags).version)
            if not any((event["version"], event["to"]) == (version, REGISTERED) for event in self.history()):
                told = _event(version, "", REGISTERED, "trained")
                key = f"{_TRANSITION}{time.time_ns():020d}"
                client.set_registered_model_tag(MODEL, key, json.dumps(told, ensure_ascii=False))
            return version

    def _left_behind(self, tags: Mapping[str, str]) -> str | None:
        """The version with the same files that a training registered before it was killed; None when there is none."""
        model = self._model()
        for found in model.versions.values():
            if found.tags.get("files_sha256") == tags.get("files_sha256", ""):
                status = self.client.get_run(found.run_id).info.status
                if status in ("KILLED", "FAILED") and not _stage(found, model):
                    return found.version
        return None

    def describe_version(self, version: str, text: str) -> None:
        """Give a version its description, Markdown, as MLflow's UI shows it."""
        client = self.client
        with plain_errors():
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
        found = self._found(version)
        return load_scoring_model(self._folder(found), version, found.tags.get("files_sha256", ""))

    def profile(self, version: str) -> Profile | None:
        """The profile of the leads that a version learned from, verified; None when it was registered without one.

        Raises RegistryError as `load` does.
        """
        found = self._found(version)
        return load_profile(self._folder(found), version, found.tags.get("files_sha256", ""))

    def _folder(self, found: Registered) -> Path:
        """Where the files of a version are, after all that was logged with them was verified."""
        folder = found.model_files
        if folder is None:
            client = self.client
            with plain_errors():
                folder = downloaded(client.get_logged_model(found.model_id).artifact_location)
        refuse_changed_folder(folder, found.version, found.tags.get("folder_sha256", ""))
        return folder / "artifacts"

    def load_judged(self, version: str) -> ScoringModel:
        """The model that a version was judged by: trained the same way without the leads of its temporal hold-out.

        Raises RegistryError as `load` does.
        """
        found = self._found(version)
        return load_scoring_model(self._logged(found, JUDGED), version, found.tags.get("judged_sha256", ""))

    def evaluation(self, version: str) -> dict[str, Any]:
        """What a version's training reported: splits, weeks, slices, tenths, grades."""
        return self._told(self._found(version), "evaluation.json")

    def version(self, version: str) -> Version:
        """One version. Raises RegistryError when there is none of this number."""
        model = self._model()
        return self._version(self._found(version, model), model)

    def run_url(self, run_id: str) -> str:
        """Where MLflow's UI shows a run."""
        with plain_errors():
            experiment = self.client.get_run(run_id).info.experiment_id
        return f"{os.environ.get('JUNK_LEADS_MLFLOW_UI', MLFLOW_UI)}/#/experiments/{experiment}/runs/{run_id}"

    def promote(
        self, version: str, to: str, *, why: str = "", by: str = "", evidence: Mapping[str, Any] | None = None
    ) -> None:
        """Move a version to `staging`, `production` or `archived`; who leaves its place to it is archived.

        The gate stands before it (`promotion.py`); `evidence` is what it saw, kept in the history. A transition that
        was cut off before is completed first.
        """
        if to not in STAGES:
            raise RegistryError(f"there is no stage {to!r}; stages are {', '.join(STAGES)}")
        self.complete()
        model = self._model()
        found = self._found(version, model)
        stage = _stage(found, model)
        if stage == to:
            return
        if to == PRODUCTION:
            self.load(version).booster.num_trees()  # a damaged or unusable version never becomes champion
        former = None if to == ARCHIVED else self._alias(to)
        told = {**self._of_version(found), **(evidence or {})}
        events = [_event(version, stage, to, why, by, told)]
        if former is not None:
            events.append(_event(former, to, ARCHIVED, f"version {version} took its place", by))
        announced = {**events[0], "encoder_id": found.tags.get("encoder_id", "")}
        self._carry_out({"key": time.time_ns(), "events": events, "announced": announced})

    def is_cut_off(self) -> bool:
        """Whether a transition was cut off between its writes."""
        return _PENDING in self._tags()

    def complete(self) -> dict[str, Any] | None:
        """Complete a transition that was cut off between its writes; returns its event, None when there is none."""
        pending = self._tags().get(_PENDING)
        with plain_errors():
            transition = json.loads(pending or "null")
        return self._carry_out(transition) if transition else None

    def _carry_out(self, transition: Mapping[str, Any]) -> dict[str, Any]:
        """Make a transition; done again from any of its writes on, it ends the same. Returns its event.

        In this order: what is to be done is noted (`_PENDING`), the history, the stages, Dagster is told, the note is
        deleted. When the store refuses a write before the new stage stands, nothing is left of it.
        """
        client, events = self.client, transition["events"]
        keys = [f"{_TRANSITION}{transition['key'] + number:020d}" for number in range(len(events))]
        event: dict[str, Any] = events[0]
        with plain_errors():
            try:
                client.set_registered_model_tag(MODEL, _PENDING, json.dumps(transition, ensure_ascii=False))
                for key, told in zip(keys, events, strict=True):
                    client.set_registered_model_tag(MODEL, key, json.dumps(told, ensure_ascii=False))
                if event["to"] != ARCHIVED:
                    client.set_registered_model_alias(MODEL, event["to"], event["version"])
            except Exception:
                for key in (*keys, _PENDING):
                    client.delete_registered_model_tag(MODEL, key)
                raise
            for told in events:
                tags = client.get_model_version(MODEL, told["version"]).tags
                if told["to"] == ARCHIVED:
                    client.set_model_version_tag(MODEL, told["version"], ARCHIVED, "true")
                elif ARCHIVED in tags:
                    client.delete_model_version_tag(MODEL, told["version"], ARCHIVED)
            for alias in (PRODUCTION, STAGING):
                if alias != event["to"] and self._alias(alias) == event["version"]:
                    client.delete_registered_model_alias(MODEL, alias)
        if self._announce is not None and PRODUCTION in (event["from"], event["to"]):
            self._announce(transition["announced"])
        with plain_errors():
            client.delete_registered_model_tag(MODEL, _PENDING)
        return event

    def rollback(self, *, why: str = "", by: str = "") -> str:
        """Put the version that was in Production before the champion back; returns it. Again: the one before that.

        A rollback that was cut off before is completed, and no other made.
        """
        completed = self.complete()
        if completed is not None and completed.get("rollback"):
            return str(completed["version"])
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
        told = f"version {former} is in production again, in place of version {current} ({why})"
        alert(self.home, Alert("champion rolled back", f"rollback:{time.time_ns()}", told))
        return former

    def history(self) -> list[dict[str, Any]]:
        """Every transition, oldest first: when, version, from, to, who, why."""
        events = sorted((key, value) for key, value in self._tags().items() if key.startswith(_TRANSITION))
        with plain_errors():
            return [json.loads(value) for _, value in events]

    def _tags(self) -> Mapping[str, str]:
        return self._model().tags

    def _model(self) -> RegisteredModel:
        """The registered model: as MLflow's tables hold it, or as MLflow tells where they cannot be read."""
        known = registered_model(self.home.root, MODEL)
        if known is not None:
            return known
        client = self.client
        with plain_errors():
            return asked_model(client, MODEL)

    @staticmethod
    def _of_version(found: Registered) -> dict[str, Any]:
        """What the history keeps of a version: its data's fingerprint and its metrics."""
        metrics = json.loads(found.tags.get("metrics", "{}"))
        told = {name: metrics[name] for name in ("random_auc", "temporal_auc") if name in metrics}
        fingerprint = found.tags.get("data_fingerprint")
        return {**({"data_fingerprint": fingerprint} if fingerprint else {}), **({"metrics": told} if told else {})}

    def _alias(self, alias: str) -> str | None:
        # a sensor asks this every few seconds: MLflow takes seconds to import, and is asked where its table is another
        known, version = alias_of(self.home.root, MODEL, alias)
        return version if known else self._model().aliases.get(alias)

    def _found(self, version: str, model: RegisteredModel | None = None) -> Registered:
        versions = (model or self._model()).versions
        if version not in versions:
            there = ", ".join(versions) or "none"
            raise RegistryError(f"there is no version {version!r} of {MODEL}; versions are: {there}")
        return versions[version]

    def _version(self, found: Registered, model: RegisteredModel) -> Version:
        tags = found.tags
        with plain_errors():
            return Version(
                found.version,
                _stage(found, model),
                datetime.fromtimestamp(found.created / 1000, UTC).isoformat(timespec="seconds"),
                found.run_id,
                tags.get("encoder_id", ""),
                json.loads(tags.get("metrics", "{}")),
                tags.get("data_fingerprint", ""),
                self._drops(found),
                float(tags.get("newest_lead", "nan")),
                float(tags.get("holdout_from", "nan")),
            )

    def _drops(self, found: Registered) -> dict[str, int]:
        """The drops that a version learned from, with their leads: as its tag tells, or the file that it names."""
        told = found.tags.get("drops", "{}")
        return self._told(found, told) if told == DROPS_FILE else dict(json.loads(told))

    def _told(self, found: Registered, file: str) -> dict[str, Any]:
        """What a JSON file tells that was logged with a version's training."""
        path = self._logged(found, file)
        with plain_errors():
            return dict(json.loads(path.read_text(encoding="utf-8")))

    def _logged(self, found: Registered, name: str) -> Path:
        """A file or folder that was logged with a version's training."""
        if found.run_files is not None and (found.run_files / name).exists():
            return found.run_files / name
        with plain_errors():
            return downloaded(f"runs:/{found.run_id}/{name}", self.home.mlflow_uri)


def _stage(found: Registered, model: RegisteredModel) -> str:
    for alias in (PRODUCTION, STAGING):
        if model.aliases.get(alias) == found.version:
            return alias
    return ARCHIVED if ARCHIVED in found.tags else ""


def drops_tag(drops: Mapping[str, int]) -> str:
    """What a version's tag tells of its drops; MLflow takes 100,000 characters, and thousands of drops are more."""
    told = json.dumps(dict(drops))
    return told if len(told) <= _LONGEST_TAG else DROPS_FILE


def _event(
    version: str, before: str, after: str, why: str, by: str = "", evidence: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A transition as the history holds it."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": version,
        "from": before,
        "to": after,
        "who": by or _who(),
        "why": why,
        **(evidence or {}),
    }


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
