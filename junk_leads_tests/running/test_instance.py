"""The Dagster instance of a home is made once, whole, whoever starts at once and whoever is killed meanwhile."""

import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from alembic.script import Script, ScriptDirectory
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager

from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.running.instance import opened_instance

STARTED = """
import resource, signal, sys
from pathlib import Path
from junk_leads.home import Home
from junk_leads.running.instance import opened_instance

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
home, size = Home(Path(sys.argv[1])), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
home.prepare()
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
with opened_instance(home) as instance:
    instance.add_dynamic_partitions("drops", [sys.argv[3]])
"""


def started(home: Home, name: str, size: int = 1 << 30) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", STARTED, str(home.root), str(size), name]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_fault_46_processes_that_start_at_once_on_a_fresh_home_share_one_instance(tmp_path: Path) -> None:
    home = Home(tmp_path / "fresh")
    processes = [started(home, f"drop{number}") for number in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [(process.communicate()[1], process.returncode) for process in processes]
    assert ended == [("", 0)] * 4
    with opened_instance(home) as instance:
        assert set(instance.get_dynamic_partitions("drops")) == {f"drop{number}" for number in range(4)}


def test_fault_47_an_instance_killed_at_its_creation_is_made_by_the_next_one(home: Home) -> None:
    process = started(home, "never", size=30_000)
    process.communicate("go\n")
    assert process.returncode == -signal.SIGXFSZ
    with opened_instance(home) as instance:
        assert instance.get_runs() == []
        assert instance.get_dynamic_partitions("drops") == []
        assert instance.get_latest_materialization_event(dg.AssetKey("raw_leads")) is None


def test_fault_72_a_full_disk_is_one_plain_line(home: Home) -> None:
    code = (
        STARTED.replace("SIG_DFL", "SIG_IGN")
        .replace("with opened", "try:\n  with opened")
        .replace("    instance.add", "      instance.add")
    )
    code += "\nexcept Exception as error:\n  print(type(error).__name__, error)"
    command = [sys.executable, "-c", code, str(home.root), "8192", "never"]
    done = subprocess.run(command, input="go\n", capture_output=True, text=True, timeout=120)
    said = f"JunkLeadsError Dagster's storage in {home.dagster} cannot be made or opened ("
    ready, told = done.stdout.splitlines()
    assert (done.returncode, ready) == (0, "ready")
    assert told.startswith(said)
    assert told.endswith("); check dagster.yaml there, the disk and rights, or restore a backup")
    with opened_instance(home) as instance:  # there is room again
        assert instance.get_runs() == []


def test_the_owners_settings_are_kept(home: Home) -> None:
    settings = home.dagster / "dagster.yaml"
    settings.write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    for _ in range(2):
        with opened_instance(home.prepare()):
            pass
    assert settings.read_text(encoding="utf-8") == "telemetry:\n  enabled: false\n"


@pytest.mark.parametrize(
    ("settings", "kept"), [("", "NoOp"), ("compute_logs: {module: __main__, class: Own}\n", "Own")]
)
def test_what_a_command_prints_is_kept_only_where_the_settings_say_so(
    home: Home, settings: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "Own", type("Own", (NoOpComputeLogManager,), {}), raising=False)
    with (home.dagster / "dagster.yaml").open("a", encoding="utf-8") as file:
        file.write(settings)
    with opened_instance(home) as instance:
        assert type(instance.compute_log_manager).__name__.startswith(kept)


@pytest.mark.parametrize(
    "settings",
    [
        b"\xa3 settings in another encoding",
        b"run_launcher:\n  module: bunk_leads.running.launcher\n  class: WarmRunLauncher\n",
        b"run_launcher:\n  module: junk_leads.running.launcher\n  class: WarmRun",
        b"telemetry: [",
        b"telemetri:\n  enabled: false\n",
    ],
    ids=["encoding", "module", "class", "form", "name"],
)
def test_settings_that_are_damaged_are_one_plain_line_before_anything_runs(home: Home, settings: bytes) -> None:
    (home.dagster / "dagster.yaml").write_bytes(settings)
    told = r"cannot be made or opened \([^\n]+\); check dagster\.yaml there, the disk and rights, or restore a backup$"
    with pytest.raises(JunkLeadsError, match=told), opened_instance(home):
        pass


def test_dagsters_migrations_are_read_once_in_a_process_and_give_the_versions_they_gave(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def versions(instance: dg.DagsterInstance) -> list[object]:
        storages = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
        return [storage.alembic_version() for storage in storages if storage is not None]

    with opened_instance(home) as instance:
        told = versions(instance)
    with monkeypatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", ScriptDirectory.from_config.__wrapped__)  # type: ignore[attr-defined]
        with opened_instance(home) as instance:
            assert versions(instance) == told
    assert all(of_files == of_dagster != () for of_files, of_dagster in told)  # type: ignore[misc]
    monkeypatch.setattr(Script, "_from_path", None)  # reading one more would fail
    with opened_instance(home) as instance:
        assert versions(instance) == told
