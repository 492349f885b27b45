"""The registry: stages, their history, rolling back, and what it refuses, on a copy of MLflow's own store.

Versions 2 and 3 are version 1 registered again: the registry moves versions, it does not look into models.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from junk_leads.defs.resources import _end_left_runs
from junk_leads.errors import NoChampion, RegistryError
from junk_leads.home import Home
from junk_leads.stores import registry as registry_module
from junk_leads.stores.mlflow_store import EXPERIMENT, asked_model, mlflow_quiet, registered_model
from junk_leads.stores.model_files import BOOSTER_FILE, ENCODER_FILE, SETTINGS_FILE, files_sha256, folder_sha256
from junk_leads.stores.registry import DROPS_FILE, MODEL, STAGES, Registry, describe, drops_tag
from junk_leads_tests.conftest import Trained, copied_home

pytestmark = pytest.mark.xdist_group("registry")

NOTHING_IN_PRODUCTION = (
    "no model is in Production yet; run `junk-leads train`, then `junk-leads models promote VERSION --to production`"
)


@pytest.fixture(scope="module")
def three_versions(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with MLflow's store alone: version 1 in Production, 2 and 3 registered after it. To copy."""
    with mlflow_quiet():  # what it is told at its import holds for all of this process
        import mlflow

    home = copied_home(trained.home, tmp_path_factory.mktemp("three versions") / "home")
    shutil.rmtree(home.dagster)
    home.warehouse.unlink()
    registry, before = Registry(home), mlflow.get_tracking_uri()
    first = registry.client.get_model_version(MODEL, "1")
    mlflow.set_tracking_uri(home.mlflow_uri)  # as a training run does: MLflow looks up there what is registered
    try:
        assert [registry.register(first.run_id, first.source, dict(first.tags)) for _ in range(2)] == ["2", "3"]
    finally:
        mlflow.set_tracking_uri(before)
    return home


@pytest.fixture
def registry(three_versions: Home, tmp_path: Path) -> Registry:
    """The registry of a copy, for a test to change."""
    return Registry(copied_home(three_versions, tmp_path / "copy"))


def stages(registry: Registry) -> dict[str, str]:
    return {version.version: version.stage for version in registry.versions()}


def transitions(registry: Registry) -> list[tuple[str, str, str]]:
    return [(event["version"], event["from"], event["to"]) for event in registry.history()]


def model_folder(registry: Registry) -> Path:
    """Where the files of the registered model are."""
    (folder,) = (path.parent for path in (registry.home.mlartifacts / "models").rglob(BOOSTER_FILE))
    return folder


# Stages


def test_versions_are_listed_newest_first_with_what_is_known_of_them(registry: Registry) -> None:
    third, second, first = registry.versions()
    assert (third.version, second.version, first.version) == ("3", "2", "1")
    assert (third.stage, second.stage, first.stage) == ("", "", "production")
    assert datetime.fromisoformat(first.created) <= datetime.fromisoformat(second.created) <= datetime.now(UTC)
    assert 0.75 < first.metrics["random_auc"] < 1
    assert first.encoder_id == registry.champion().encoder.id
    assert registry.client.get_run(first.run_id).info.status == "FINISHED"


def test_what_is_told_of_a_version_is_what_its_training_noted(registry: Registry) -> None:
    client = registry.client
    noted = client.get_model_version(MODEL, "1")
    one = asdict(registry.version("1"))
    assert one == {
        "version": "1",
        "stage": "production",
        "created": datetime.fromtimestamp(noted.creation_timestamp // 1000, UTC).isoformat(),
        "run_id": noted.run_id,
        "encoder_id": noted.tags["encoder_id"],
        "metrics": json.loads(noted.tags["metrics"]),
        "data_fingerprint": noted.tags["data_fingerprint"],
        "drops": json.loads(noted.tags["drops"]),
        "newest_lead": float(noted.tags["newest_lead"]),
        "holdout_from": float(noted.tags["holdout_from"]),
    }
    assert list(one["drops"]) == ["history"]
    assert 0 < one["holdout_from"] < one["newest_lead"] < datetime.now().timestamp()
    shown = describe(registry.version("1"))
    assert shown == {name: one[name] for name in ("version", "stage", "created", "metrics", "run_id", "encoder_id")}
    for tag in noted.tags:
        client.delete_model_version_tag(MODEL, "2", tag)
    assert repr(registry.version("2")) == repr(
        replace(
            registry.version("1"),
            version="2",
            stage="",
            created=registry.version("2").created,
            encoder_id="",
            metrics={},
            data_fingerprint="",
            drops={},
            newest_lead=float("nan"),
            holdout_from=float("nan"),
        )
    )


def test_the_first_version_makes_the_model_that_it_is_one_of(registry: Registry) -> None:
    first = registry.client.get_model_version(MODEL, "1")
    registry.client.delete_registered_model(MODEL)
    assert registry.champion_version_or_none() is None
    assert registry.register(first.run_id, first.source, {"files_sha256": "one"}) == "1"
    assert registry.client.get_registered_model(MODEL).description == "Tells junk leads from genuine ones"
    assert transitions(registry) == [("1", "", "registered")]
    assert registry.client.get_model_version(MODEL, "1").tags == {"files_sha256": "one"}


def test_a_run_is_shown_where_mlflows_ui_is(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    run = registry.version("1").run_id
    page = f"/#/experiments/{registry.client.get_run(run).info.experiment_id}/runs/{run}"
    monkeypatch.delenv("JUNK_LEADS_MLFLOW_UI", raising=False)
    assert registry.run_url(run) == registry_module.MLFLOW_UI + page
    monkeypatch.setenv("JUNK_LEADS_MLFLOW_UI", "http://models.example.com:1")
    assert registry.run_url(run) == f"http://models.example.com:1{page}"


def test_drops_are_a_tag_as_long_as_mlflow_takes_it(registry: Registry) -> None:
    longest = registry_module._LONGEST_TAG
    just = {"x" * (longest - len(json.dumps({"": 1}))): 1}
    assert json.loads(drops_tag(just)) == just
    assert drops_tag({name + "x": count for name, count in just.items()}) == DROPS_FILE
    registry.client.set_model_version_tag(MODEL, "2", "drops", drops_tag(just))
    assert registry.version("2").drops == just


def test_thousands_of_drops_are_more_than_a_tag_takes(registry: Registry) -> None:
    drops = {f"a drop with a name of some length {number:06}": number for number in range(10_000)}
    assert drops_tag(drops) == DROPS_FILE
    few = registry.version("1").drops
    assert few
    assert json.loads(drops_tag(few)) == few
    registry.client.set_model_version_tag(MODEL, "2", "drops", DROPS_FILE)
    assert registry.version("2").drops == few  # the runs of both have the same file


def test_promoting_to_production_archives_the_former_champion(registry: Registry) -> None:
    registry.promote("2", "production")
    assert stages(registry) == {"3": "", "2": "production", "1": "archived"}
    assert registry.champion().version == registry.champion_version() == "2"


def test_a_version_goes_through_staging_to_production_and_leaves_staging(registry: Registry) -> None:
    registry.promote("2", "staging")
    assert stages(registry) == {"3": "", "2": "staging", "1": "production"}
    registry.promote("2", "production")
    assert stages(registry) == {"3": "", "2": "production", "1": "archived"}


def test_what_is_announced_is_each_transition_into_production_or_out_of_it(registry: Registry) -> None:
    told: list[dict[str, Any]] = []
    announcing = Registry(registry.home, lambda event: told.append(dict(event)))
    announcing.promote("2", "staging")
    assert told == []
    announcing.promote("2", "production")
    announcing.promote("2", "archived")
    events = [e for e in registry.history() if e["version"] == "2" and "production" in (e["from"], e["to"])]
    assert told == [{**event, "encoder_id": registry.version("2").encoder_id} for event in events]
    assert [event["to"] for event in told] == ["production", "archived"]


def test_an_archived_version_comes_back(registry: Registry) -> None:
    registry.promote("2", "archived")
    assert stages(registry) == {"3": "", "2": "archived", "1": "production"}
    registry.promote("2", "staging")
    assert stages(registry)["2"] == "staging"
    registry.promote("2", "archived")
    registry.promote("2", "production")
    assert stages(registry) == {"3": "", "2": "production", "1": "archived"}


@pytest.mark.parametrize("to", ["archived", "staging"])
def test_a_champion_that_is_moved_away_leaves_no_champion(to: str, registry: Registry) -> None:
    registry.promote("1", to)
    assert stages(registry)["1"] == to
    for asked in (registry.champion_version, registry.champion, registry.rollback):
        with pytest.raises(NoChampion) as refused:
            asked()
        assert str(refused.value) == NOTHING_IN_PRODUCTION


def test_moving_a_version_to_the_stage_it_is_in_changes_and_notes_nothing(registry: Registry) -> None:
    before = registry.history()
    registry.promote("1", "production", why="again")
    assert (stages(registry)["1"], registry.history()) == ("production", before)


def test_whatever_is_promoted_there_is_one_champion_at_most_and_history_tells_every_stage(registry: Registry) -> None:
    moves = "2 production, 3 staging, 3 production, 1 production, 3 archived, 2 staging, 2 production, 2 archived"
    for version, to in (move.split() for move in moves.split(", ")):
        registry.promote(version, to)
        now = stages(registry)
        assert now[version] == to
        assert list(now.values()).count("production") == ((version, to) != ("2", "archived"))
        told = {version: after.replace("registered", "") for version, _, after in transitions(registry)}
        assert told == now


def test_history_tells_of_a_version_that_another_took_the_place_of_in_staging(registry: Registry) -> None:
    registry.promote("2", "staging")
    registry.promote("3", "staging")
    left = [(before, after) for version, before, after in transitions(registry) if version == "2"][-1]
    assert left == ("staging", stages(registry)["2"])


# History


def test_history_tells_when_which_version_from_to_who_and_why(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    start = datetime.now(UTC).replace(microsecond=0)
    registry.promote("3", "staging")
    registry.promote("3", "production", why="more AUC\n— „seen“ 🎓", by="bob")
    registry.rollback(why="complaints")
    events = registry.history()
    moments = [datetime.fromisoformat(event.pop("when")) for event in events]
    told = [(event.pop("data_fingerprint", None), event.pop("metrics", None)) for event in events]
    assert [data is not None and set(metrics) == {"random_auc", "temporal_auc"} for data, metrics in told] == [
        event["to"] in ("staging", "production") for event in events
    ]
    assert events[-2].pop("rollback")
    assert moments == sorted(moments)
    assert start <= moments[-5] <= moments[-1] <= datetime.now(UTC)
    keys = ("version", "from", "to", "who", "why")
    assert events[1] == dict(zip(keys, ("1", "", "production", "a test", "the first"), strict=True))
    assert [(event["version"], event["to"], event["why"]) for event in events[2:4]] == [
        ("2", "registered", "trained"),
        ("3", "registered", "trained"),
    ]
    assert events[4:] == [
        dict(zip(keys, event, strict=True))
        for event in (
            ("3", "", "staging", "ann", ""),
            ("3", "staging", "production", "bob", "more AUC\n— „seen“ 🎓"),
            ("1", "production", "archived", "bob", "version 3 took its place"),
            ("1", "archived", "production", "ann", "complaints"),
            ("3", "production", "archived", "ann", "version 1 took its place"),
        )
    ]


def test_a_user_without_a_name_promotes_all_the_same(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54_321)  # as in a container that runs as any user
    registry.promote("2", "staging")
    assert registry.history()[-1]["who"] == "unknown"


# Rolling back


def test_rolling_back_puts_the_former_champion_back(registry: Registry) -> None:
    registry.promote("2", "production")
    assert registry.rollback(by="ann") == "1"
    assert stages(registry) == {"3": "", "2": "archived", "1": "production"}
    assert registry.history()[-2] == {
        **registry.history()[-2],
        "version": "1",
        "to": "production",
        "who": "ann",
        "why": "rolled back from version 2",
    }
    (told,) = registry.home.alerts.read_text(encoding="utf-8").splitlines()
    assert told.split("  ", 1)[1] == (
        "champion rolled back: version 1 is in production again, in place of version 2 (rolled back from version 2)"
    )


def test_rolling_back_again_goes_one_champion_further_back_until_the_first(registry: Registry) -> None:
    registry.promote("2", "production")
    registry.promote("3", "production")
    assert [registry.rollback(), registry.rollback()] == ["2", "1"]
    with pytest.raises(
        RegistryError, match=r"^version 1 is the first in Production; there is nothing to roll back to$"
    ):
        registry.rollback()


def test_the_first_champion_is_not_rolled_back(registry: Registry) -> None:
    with pytest.raises(RegistryError) as refused:
        registry.rollback()
    assert str(refused.value) == "version 1 is the first in Production; there is nothing to roll back to"
    assert stages(registry)["1"] == "production"


def test_rolling_back_to_a_version_that_was_deleted_is_refused_and_the_champion_stays(registry: Registry) -> None:
    registry.promote("2", "production")
    registry.client.delete_model_version(MODEL, "1")
    with pytest.raises(RegistryError) as refused:
        registry.rollback()
    assert str(refused.value) == f"there is no version '1' of {MODEL}; versions are: 3, 2"
    assert stages(registry) == {"3": "", "2": "production"}


def test_when_the_champion_itself_was_deleted_there_is_none(registry: Registry) -> None:
    registry.client.delete_model_version(MODEL, "1")
    with pytest.raises(NoChampion) as refused:
        registry.champion()
    assert str(refused.value) == NOTHING_IN_PRODUCTION
    registry.promote("2", "production")
    assert stages(registry) == {"3": "", "2": "production"}


# What is refused


def test_a_stage_that_does_not_exist_is_refused(registry: Registry) -> None:
    before = transitions(registry)
    for stage in ("Production", "prod", ""):
        with pytest.raises(RegistryError) as refused:
            registry.promote("2", stage)
        assert str(refused.value) == f"there is no stage {stage!r}; stages are {', '.join(STAGES)}"
    assert transitions(registry) == before


def test_the_champion_is_asked_of_mlflow_where_its_table_is_another(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("junk_leads.stores.registry.alias_of", lambda *_: (False, None))
    assert registry.champion_version() == "1"
    registry.promote("1", "archived")
    assert registry.champion_version_or_none() is None


def everything_told(registry: Registry) -> Any:
    """All that is asked of the registry without changing it."""
    numbers = ("1", "2", "3")
    return (
        [(describe(version), version) for version in registry.versions()],
        registry.history(),
        registry.champion_version(),
        [registry.evaluation(number) for number in numbers],
        [registry.load(number).booster.model_to_string() for number in numbers],
        [registry.load_judged(number).booster.model_to_string() for number in numbers],
        [profile and profile.to_json() for profile in map(registry.profile, numbers)],
        registry.is_cut_off(),
    )


def test_mlflows_tables_tell_what_mlflow_tells(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.promote("2", "staging")
    registry.promote("3", "archived")
    registry.client.set_model_version_tag(MODEL, "3", "drops", DROPS_FILE)  # which its run holds
    registry.client.set_registered_model_alias(MODEL, "of_somebody", "3")
    read = registered_model(registry.home.root, MODEL)
    assert read is not None
    asked = asked_model(registry.client, MODEL)
    assert (read.tags, read.aliases, list(read.versions)) == (asked.tags, asked.aliases, list(asked.versions))
    for number, version in read.versions.items():
        assert replace(version, model_files=None, run_files=None) == asked.versions[number]
        assert version.model_files is not None
        assert version.run_files is not None
    told = everything_told(registry)
    monkeypatch.setattr("junk_leads.stores.registry.registered_model", lambda *_: None)
    assert everything_told(registry) == told


def test_nothing_is_imported_that_takes_seconds_to_tell_of_versions_and_of_the_champion(registry: Registry) -> None:
    assert registry.client  # which finds that the home is a copy at another place
    code = (
        "import sys\nfrom junk_leads.home import Home\nfrom junk_leads.stores.registry import Registry\n"
        "registry = Registry(Home.from_environment())\n"
        "print(len(registry.versions()), registry.champion().encoder.id, registry.profile('1').leads > 0)\n"
        "print([name for name in ('mlflow', 'lightgbm', 'sklearn') if name in sys.modules])"
    )
    environment = {**os.environ, "JUNK_LEADS_HOME": str(registry.home.root)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"3 {registry.champion().encoder.id} True", "[]"]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE logged_models RENAME TO models_that_were_logged",
        "UPDATE experiments SET artifact_location = 's3://elsewhere/junk_leads'",
        "INSERT INTO registered_models (name, workspace) VALUES ('junk_leads', 'another')",
    ],
    ids=["other tables", "files elsewhere", "two of a name"],
)
def test_tables_that_tell_something_else_are_not_read_but_mlflow_is_asked(change: str, registry: Registry) -> None:
    assert registry.client
    with closing(sqlite3.connect(registry.home.root / "mlflow.db")) as db, db:
        db.execute(change)
    assert registered_model(registry.home.root, MODEL) is None


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ("UPDATE model_version_tags SET value = '{' WHERE key = 'metrics'", Registry.versions),
        ("UPDATE model_version_tags SET value = '1v' WHERE key = 'newest_lead'", Registry.versions),
        ("UPDATE registered_model_tags SET value = '{'", Registry.history),
        (
            "INSERT INTO registered_model_tags (key, value, name) VALUES ('pending_transition', '{', 'junk_leads')",
            Registry.complete,
        ),
    ],
    ids=["metrics", "newest lead", "history", "transition"],
)
def test_damage_in_what_mlflow_holds_is_one_line(
    change: str, asked: Callable[[Registry], Any], registry: Registry
) -> None:
    assert registry.client
    with closing(sqlite3.connect(registry.home.root / "mlflow.db")) as db, db:
        db.execute(change)
    with pytest.raises(
        RegistryError, match=r"^the model registry did not answer \(.*\); nothing was changed: check mlf"
    ):
        asked(registry)


def test_files_that_are_gone_or_not_on_this_machine_are_asked_of_mlflow_which_says_so(registry: Registry) -> None:
    folder = model_folder(registry).parent
    shutil.move(folder, registry.home.root / "elsewhere")
    with pytest.raises(RegistryError, match=r"^the model registry did not answer \(.*nothing was changed"):
        registry.load("2")
    with closing(sqlite3.connect(registry.home.root / "mlflow.db")) as db, db:
        db.execute("UPDATE model_versions SET source = NULL WHERE version = 3")
    with pytest.raises(RegistryError, match=r"^the model registry did not answer \(.*nothing was changed"):
        registry.load("3")
    evaluation = next((registry.home.root / "mlartifacts").rglob("evaluation.json"))
    evaluation.unlink()
    with pytest.raises(RegistryError, match=r"^the model registry did not answer \(.*nothing was changed"):
        registry.evaluation("2")


@pytest.mark.parametrize("version", ["4", "02", "", "2' OR name = 'x"])
def test_a_version_that_does_not_exist_is_refused(version: str, registry: Registry) -> None:
    before = stages(registry)
    message = f"there is no version {version!r} of {MODEL}; versions are: 3, 2, 1"
    for to in STAGES:
        with pytest.raises(RegistryError) as refused:
            registry.promote(version, to)
        assert str(refused.value) == message
    with pytest.raises(RegistryError) as refused:
        registry.load(version)
    assert str(refused.value) == message
    assert stages(registry) == before


@pytest.mark.parametrize(
    "name",
    [BOOSTER_FILE, ENCODER_FILE, SETTINGS_FILE, "../MLmodel", "../scoring_model.py", "../code/junk_leads/errors.py"],
)
def test_a_version_with_a_damaged_file_is_not_loaded_nor_promoted_and_the_champion_stays(
    name: str, registry: Registry
) -> None:
    folder = model_folder(registry)
    damaged = bytearray((folder / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    assert registry.profile("2") is not None
    (folder / name).write_bytes(damaged)
    for asked in (
        lambda: registry.load("2"),
        lambda: registry.profile("2"),
        lambda: registry.promote("2", "production"),
    ):
        with pytest.raises(RegistryError) as refused:
            asked()
        assert str(refused.value) == (
            "the files of version 2 are not those that were registered (SHA-256 differs); roll back to another version "
            f"or restore {folder.parent}"
        )
    assert stages(registry) == {"3": "", "2": "", "1": "production"}


def test_a_version_without_one_of_its_files_is_not_promoted_and_the_champion_stays(registry: Registry) -> None:
    missing = model_folder(registry) / ENCODER_FILE
    missing.unlink()
    with pytest.raises(RegistryError, match="the files of version 2 are not those that were registered"):
        registry.promote("2", "production")
    assert stages(registry) == {"3": "", "2": "", "1": "production"}


@pytest.mark.parametrize("tag", ["files_sha256", "folder_sha256"])
@pytest.mark.parametrize("emptied", [False, True], ids=["deleted", "emptied"])
def test_a_version_without_its_hashes_is_not_loaded_nor_promoted(emptied: bool, tag: str, registry: Registry) -> None:
    if emptied:
        registry.client.set_model_version_tag(MODEL, "2", tag, "")
    else:
        registry.client.delete_model_version_tag(MODEL, "2", tag)
    for asked in (
        lambda: registry.load("2"),
        lambda: registry.profile("2"),
        lambda: registry.promote("2", "production"),
    ):
        with pytest.raises(
            RegistryError, match="version 2 was registered without the hashes of its files, or they were"
        ):
            asked()
    assert stages(registry) == {"3": "", "2": "", "1": "production"}


def test_a_model_that_was_loaded_by_mlflow_itself_is_unchanged(registry: Registry) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registry.home.mlflow_uri)
    try:
        mlflow.pyfunc.load_model(f"models:/{MODEL}/2")
    finally:
        mlflow.set_tracking_uri(before)
    assert registry.load("2").version == "2"


def test_a_version_of_other_reference_tables_is_not_promoted_and_the_champion_stays(registry: Registry) -> None:
    folder = model_folder(registry)
    other = replace(registry.load("2").encoder, reference="0" * 16)
    (folder / ENCODER_FILE).write_text(other.to_json(), encoding="utf-8")
    registry.client.set_model_version_tag(MODEL, "2", "files_sha256", files_sha256(folder))
    registry.client.set_model_version_tag(MODEL, "2", "folder_sha256", folder_sha256(folder.parent))
    with pytest.raises(RegistryError) as refused:
        registry.promote("2", "production")
    assert str(refused.value) == (
        "version 2 was trained with other city tiers or interaction groups than this program has; train again, or use "
        "the program it was trained with"
    )
    assert stages(registry) == {"3": "", "2": "", "1": "production"}


# Killed between two writes


class Killed(BaseException):
    """Ends a transition as -9 does: nothing after it is done."""


WRITES = (
    *("set_registered_model_tag", "set_registered_model_alias", "set_model_version_tag"),
    *("delete_registered_model_tag", "delete_registered_model_alias", "delete_model_version_tag"),
)


def killed_at(monkeypatch: pytest.MonkeyPatch, nth: int, *, after: bool) -> None:
    """Kill at the nth write to MLflow's store from now on, before it or after it."""
    from mlflow import MlflowClient

    done = iter(range(1, 1_000))

    def make(write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            is_nth = next(done) == nth
            if is_nth and not after:
                raise Killed
            written = write(*given, **named)
            if is_nth:
                raise Killed
            return written

        return counted

    for name in WRITES:
        monkeypatch.setattr(MlflowClient, name, make(getattr(MlflowClient, name)))


def what_stands(registry: Registry) -> tuple[dict[str, str], list[tuple[str, str, str]], set[str]]:
    pending = set(registry.client.get_registered_model(MODEL).tags)
    return stages(registry), transitions(registry), {tag for tag in pending if not tag.startswith("transition.")}


@pytest.mark.parametrize(
    ("what", "after"),
    [
        ("promote", False),
        ("rollback", True),
        pytest.param("promote", True, marks=pytest.mark.long),
        pytest.param("rollback", False, marks=pytest.mark.long),
    ],
)
def test_fault_47_a_transition_killed_at_any_write_ends_as_an_uninterrupted_one_when_it_is_run_again(
    what: str, after: bool, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.promote("2", "staging")
    if what == "rollback":
        registry.promote("2", "production")

    def move(home: Home, told: list[str]) -> None:
        again = Registry(home, lambda event: told.append(event["version"]))
        if what == "promote":
            again.promote("2", "production")
        else:
            assert again.rollback() == "1"

    whole = copied_home(registry.home, tmp_path / "whole")
    move(whole, [])
    expected, kills = what_stands(Registry(whole)), 0
    assert not expected[2]
    for nth in range(1, 50):
        home, told = copied_home(registry.home, tmp_path / f"killed {nth}"), list[str]()
        with monkeypatch.context() as killing:
            killed_at(killing, nth, after=after)
            try:
                move(home, told)
            except Killed:
                kills += 1
            else:
                break
        if what_stands(Registry(home)) != expected:  # after the last write all of it is done
            move(home, told)
        assert what_stands(Registry(home)) == expected, f"killed {'after' if after else 'before'} write {nth}"
        assert told
    assert kills >= 7


def test_fault_47_a_training_killed_after_registering_does_not_register_its_model_twice(registry: Registry) -> None:
    left = registry.client.get_model_version(MODEL, "3")
    registry.client.set_terminated(left.run_id, "KILLED")
    assert registry.register(left.run_id, left.source, dict(left.tags)) == "3"
    assert transitions(registry).count(("3", "", "registered")) == 1
    registry.client.set_terminated(left.run_id, "FINISHED")  # trained again on purpose, it is another version
    assert registry.register(left.run_id, left.source, dict(left.tags)) == "4"


def test_fault_47_a_run_of_mlflow_ends_with_the_run_of_dagster_that_was_killed(registry: Registry) -> None:
    client = registry.client
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    with dg.DagsterInstance.ephemeral() as instance:
        alive = instance.create_run_for_job(
            dg.GraphDefinition(name="training").to_job(), status=dg.DagsterRunStatus.STARTED
        )
        runs = [
            client.create_run(experiment.experiment_id, tags={"dagster_run_id": of}).info.run_id
            for of in ("of a run that is gone", alive.run_id)
        ]
        _end_left_runs(registry, instance)
        assert [client.get_run(run).info.status for run in runs] == ["KILLED", "RUNNING"]
        client.set_terminated(runs[1], "FINISHED")  # the last that is written before Dagster's own record
        _end_left_runs(registry, instance)
        assert client.get_run(runs[1]).info.status == "FINISHED"
        instance.report_run_failed(alive)
        _end_left_runs(registry, instance)
        assert client.get_run(runs[1]).info.status == "KILLED"


# A registry that does not answer


def refuse_writes(registry: Registry, table: str) -> None:
    """Make MLflow's store fail at new rows of a table, as it does when its disk is full."""
    with closing(sqlite3.connect(registry.home.root / "mlflow.db")) as db, db:
        db.execute(f"CREATE TRIGGER refused BEFORE INSERT ON {table} BEGIN INSERT INTO full VALUES (1); END")


def test_a_damaged_store_is_one_plain_line_and_stays_as_it_is(registry: Registry) -> None:
    store = registry.home.root / "mlflow.db"
    store.write_bytes(b"not a database" * 1_000)
    message = f"{store} is no SQLite file; nothing was changed: restore it from a backup, or move it away"
    for asked in (
        registry.versions,
        registry.history,
        registry.champion,
        registry.rollback,
        lambda: registry.promote("2", "production"),
    ):
        with pytest.raises(RegistryError) as refused:
            asked()
        assert str(refused.value) == message
    assert store.read_bytes() == b"not a database" * 1_000


def test_a_folder_in_the_place_of_the_store_is_told_at_once(home: Home) -> None:
    store = home.root / "mlflow.db"
    store.mkdir()
    with pytest.raises(RegistryError) as refused:
        Registry(home).versions()
    assert str(refused.value) == (
        f"{store} is no SQLite file; nothing was changed: restore it from a backup, or move it away"
    )


def test_a_store_that_refuses_to_write_is_one_plain_line_and_the_champion_stays(registry: Registry) -> None:
    before = registry.history()
    refuse_writes(registry, "registered_model_aliases")
    with pytest.raises(RegistryError) as refused:
        registry.promote("2", "staging")
    assert str(refused.value) == (
        "the model registry did not answer ((sqlite3.OperationalError) no such table: main.full); nothing was "
        "changed: check mlflow.db and try again"
    )
    assert (stages(registry), registry.history()) == ({"3": "", "2": "", "1": "production"}, before)


def test_a_transition_that_cannot_be_noted_is_not_made(registry: Registry) -> None:
    registry.versions()
    refuse_writes(registry, "registered_model_tags")
    with pytest.raises(RegistryError, match="nothing was changed"):
        registry.promote("2", "production")
    assert stages(registry) == {"3": "", "2": "", "1": "production"}


def test_a_store_that_refuses_to_write_puts_no_traceback_before_a_person(
    registry: Registry, capfd: pytest.CaptureFixture[str]
) -> None:
    refuse_writes(registry, "registered_model_aliases")
    with pytest.raises(RegistryError):
        registry.promote("2", "staging")
    assert "Traceback" not in capfd.readouterr().err
