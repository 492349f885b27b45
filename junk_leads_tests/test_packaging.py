"""What is shipped: the wheel, the pins, the code location, a command line that starts fast.

What lives here: facts about the package as a whole. What does not: its rooms (`test_architecture.py`) and what any of
its parts does.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import dagster as dg
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from junk_leads.definitions import build_defs
from junk_leads.home import Home

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "junk_leads"
PROJECT: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = {"dagster", "great_expectations", "lightgbm", "matplotlib", "mlflow", "optuna", "pandas", "sklearn"}
ASSETS = {  # and their groups: the names that tables, suites and people's scripts go by
    "raw_leads": "1_data_pipeline",
    "cleaned_leads": "1_data_pipeline",
    "interaction_groups": "1_data_pipeline",
    "lead_counts": "2_training_pipeline",
    "significant_levels": "2_training_pipeline",
    "encoded_features": "3_inference_pipeline",
    "champion": "2_training_pipeline",
    "lightgbm_model": "2_training_pipeline",
    "experiment_leaderboard": "5_experiment",
    "outcomes": "4_evaluation",
    "predictions": "3_inference_pipeline",
    "prediction_summary": "3_inference_pipeline",
}


def run(*command: object, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A process that must end with 0; neither PYTHONPATH nor the home of the test reaches it unless told."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "JUNK_LEADS_HOME")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env={**inherited, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


# The wheel, built from what git holds and installed where there is no checkout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", *files_in_git("junk_leads")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((CHECKOUT / name).read_bytes())
    try:
        isolated = Version(version("setuptools")) < Version("77")  # the oldest that pyproject.toml takes
    except PackageNotFoundError:
        isolated = True
    how = [] if isolated else ["--no-build-isolation"]
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *how, "-w", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@cache
def files_in_git(folder: str) -> tuple[str, ...]:
    """The files below a folder of the checkout that git holds, or would hold if they were added."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", folder, cwd=CHECKOUT)
    return tuple(name for name in listed.stdout.splitlines() if (CHECKOUT / name).exists())


def test_nothing_stands_at_the_top_of_the_checkout_that_was_left_there() -> None:
    documents = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md"}
    settings = {".gitignore", "Makefile", "constraints.txt", "pyproject.toml", "setup.cfg", "workspace.yaml"}
    assert {name for name in files_in_git(".") if "/" not in name} == documents | settings
    folders = {name.partition("/")[0] for name in files_in_git(".") if "/" in name}
    assert folders == {".ci", "benchmarks", "data", "docs", "junk_leads", "junk_leads_tests"}


def test_the_wheel_holds_every_file_of_the_package_and_no_other_package(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        held = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert sorted(held) == sorted(files_in_git("junk_leads"))
    assert {"junk_leads/py.typed", "junk_leads/reference/dagster.yaml", "junk_leads/reference/lead_schema.yaml"} <= {
        *held
    }


@pytest.mark.long
def test_the_installed_wheel_runs_the_demo_where_there_is_no_checkout(wheel: Path, tmp_path: Path) -> None:
    env, elsewhere = tmp_path / "env", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(sys.executable, "-m", "venv", "--without-pip", env, cwd=tmp_path)
    scripts = env / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    ours = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).stdout.strip()
    # dependencies from this environment; path files of folders named in a path file are not read, so an editable
    # install of this checkout stays out
    folders = [folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
    Path(ours, "dependencies.pth").write_text("\n".join(folders))
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        wheel,
        cwd=tmp_path,
    )
    which = run(python, "-c", "import junk_leads; print(junk_leads.__file__)", cwd=elsewhere).stdout.strip()
    assert Path(which) == Path(ours, "junk_leads", "__init__.py")

    done = run(scripts / "junk-leads", "demo", "--rows", 2000, "--json", cwd=elsewhere)
    scored = json.loads(done.stdout)["scored"]
    assert [path.name for path in elsewhere.iterdir()] == ["data"]
    assert Path(scored["predictions"]) == elsewhere / "data" / "predictions" / "sample_new.csv"
    assert len(Path(scored["predictions"]).read_text(encoding="utf-8").splitlines()) == 1 + 200
    assert "1s" in Path(scored["summary"]).read_text(encoding="utf-8")


def test_help_is_told_without_importing_what_takes_seconds(tmp_path: Path) -> None:
    code = (
        "import json, sys\nfrom junk_leads.cli import main\nsys.argv = ['junk-leads', '--help']\n"
        "try:\n    main()\nfinally:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    assert "ingest" in done.stdout
    assert HEAVY.isdisjoint(json.loads(done.stderr))


# The pins


@cache
def pins() -> dict[str, str]:
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(name): pinned for name, _, pinned in (line.partition("==") for line in lines)}


def test_constraints_are_names_and_versions_and_nothing_else() -> None:
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][0-9a-z.]*", line)] == []
    assert len(pins()) == len(lines)


def test_every_dependency_that_is_declared_is_pinned_to_a_version_it_allows() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    for text in (*project["dependencies"], *(text for extra in extras for text in extra)):
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins().get(canonicalize_name(requirement.name), "none")), text


def test_what_is_installed_is_what_is_pinned() -> None:
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["project"]["dependencies"]}
    installed = {}
    for name in pins():
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            assert name not in declared  # some are for other systems or Pythons
    assert {name: pins()[name] for name in installed} == installed


# The code location


def test_the_workspace_and_dagsters_own_settings_name_one_module() -> None:
    (entry,) = yaml.safe_load((CHECKOUT / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
    told = PROJECT["tool"]["dagster"]
    # the location is named after it everywhere, `junk-leads ui` too: what is switched on in one stays so in the other
    assert entry["python_module"] == {"module_name": told["module_name"]}
    assert PROJECT["tool"]["dg"]["project"]["code_location_target_module"] == told["module_name"]


def test_the_workspace_loads(home: Home) -> None:
    command = ("dagster", "definitions", "validate", "-w", CHECKOUT / "workspace.yaml")
    run(sys.executable, "-m", *command, cwd=home.root, JUNK_LEADS_HOME=str(home.root))


def test_every_asset_tells_what_it_is_and_keeps_its_name(home: Home) -> None:
    specs = {spec.key.to_user_string(): spec for spec in build_defs(home).resolve_all_asset_specs()}
    assert ASSETS.items() <= {name: spec.group_name for name, spec in specs.items()}.items()
    for name, spec in specs.items():
        assert spec.description, name
        assert spec.kinds, name
        assert spec.owners, name
        assert spec.group_name in ASSETS.values(), name


def test_every_job_keeps_its_name_and_runs_in_one_process(home: Home) -> None:
    definitions = build_defs(home)
    jobs = {job.name for job in definitions.jobs or ()}
    assert {group.partition("_")[2] for group in ASSETS.values()} <= jobs
    for name in (*jobs, "__ASSET_JOB"):  # the latter is what the UI launches for assets picked by hand
        assert definitions.resolve_job_def(name).executor_def is dg.in_process_executor, name
