"""The command line: exit codes, what goes to stdout and what to stderr, and what the README says of it.

What the pipelines themselves make is tested in `test_pipelines.py`.
"""

import csv
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any

import duckdb
import pytest
import typer
from typer.core import TyperGroup

from junk_leads import cli
from junk_leads.cli.speaking import answer_each, named
from junk_leads.defs.after_runs import renew_history
from junk_leads.defs.assets import leads
from junk_leads.home import Home
from junk_leads.running import launching
from junk_leads.steps.leads.generating import write_leads
from junk_leads.stores.ledger import Ledger
from junk_leads.stores.warehouse import RESTORE
from junk_leads_tests.conftest import DELIVERED, SCHEMA, Outcome, Trained, copied_home, run_command

pytestmark = pytest.mark.xdist_group("cli")

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
MAKEFILE = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
NO_CHAMPION = (
    "no model is in Production yet; run `junk-leads train`, then `junk-leads models promote VERSION --to production`"
)

UNWRITTEN = "what was asked for is done, but its result cannot be written here ([Errno 28] No space left on device)"


def plain(text: str) -> str:
    """What Typer draws in a box or in colours, as one line."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯─│]", " ", text).split())


def state_of(path: Path) -> tuple[bytes, int, int]:
    return path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode


# What the README says

COMMANDS: Any = typer.main.get_command(cli.app)


def commands_under(group: Any, *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that name it, groups too."""
    for name, command in group.commands.items():
        yield (*above, name), command
        if isinstance(command, TyperGroup):
            yield from commands_under(command, *above, name)


def options_of(command: Any) -> set[str]:
    own = {text for parameter in command.params for text in parameter.opts if text.startswith("--")}
    return own.union(*map(options_of, command.commands.values())) if isinstance(command, TyperGroup) else own


def table() -> dict[str, str]:
    """The README's table of commands: each command's row by its name."""
    rows = re.findall(r"^\| `junk-leads ([a-z]+)", README, re.MULTILINE)
    lines = [line for line in README.splitlines() if line.startswith("| `junk-leads ")]
    return dict(zip(rows, lines, strict=True))


def code_lines() -> list[str]:
    """The commands in the README's code blocks, without their comments."""
    blocks = re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("junk-leads ", "make "))]


def test_the_readme_tells_of_every_command_and_of_no_other() -> None:
    shown = plain(run_command("--help").out)
    assert set(table()) == set(COMMANDS.commands)
    for name in table():
        assert f" {name} " in shown
    for names, _ in commands_under(COMMANDS.commands["models"]):
        assert f"`{names[0]}" in table()["models"]


def test_every_option_in_the_readme_is_one_of_its_command() -> None:
    for name, row in table().items():
        assert set(re.findall(r"--[a-z-]+", row)) <= options_of(COMMANDS.commands[name]), name


def test_every_command_in_the_code_blocks_of_the_readme_is_one() -> None:
    assert len(code_lines()) > 5
    for line in code_lines():
        program, *words = line.split()
        if program == "make":
            assert f"\n{words[0]}:" in MAKEFILE, line
            continue
        command: Any = COMMANDS
        while isinstance(command, TyperGroup) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert not isinstance(command, TyperGroup) or not words, line
        command.make_context(line, words)  # raises for what it does not take


def test_every_command_and_option_says_what_it_does() -> None:
    for names, command in commands_under(COMMANDS):
        assert command.help, names
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or parameter.help, (names, parameter.name)


def test_every_command_that_ends_has_json() -> None:
    without = {names for names, command in commands_under(COMMANDS) if "--json" not in options_of(command)}
    assert without == {("serve",), ("ui",)}


# Wrong usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("frobnicate", "No such command 'frobnicate'."),
        ("ingest", "Missing argument 'files'."),
        ("score x.csv --quick", "No such option: --quick"),
        ("train --param bad", "Invalid value for --param: 'bad' is not NAME=VALUE"),
        ("train --param =3", "Invalid value for --param: '=3' is not NAME=VALUE"),
        ("train --rounds 0", "Invalid value for '--rounds': Input should be greater than or equal to 1"),
        ("models promote 1 --to prod", "'prod' is not one of 'staging', 'production', 'archived'."),
        ("models promote", "Missing argument 'version'."),
        ("models demote 1", "No such command 'demote'."),
        ("generate --rows -1 --out x.csv", "Invalid value for '--rows': Input should be greater than or equal to 0"),
        ("generate --rows 3", "Missing option '--out'."),
        ("generate --rows 3 --out x.csv --start july", "'july' does not match the formats '%Y-%m-%d'."),
        (
            "generate --rows 3 --out x.csv --start 1999-01-01",
            "229 days from 1999-01-01 reach outside 2010-01-01 to 2100-01-01; choose another start or fewer days",
        ),
        ("ui --port 0", "Invalid value for '--port': Input should be greater than or equal to 1"),
    ],
)
def test_wrong_usage_ends_with_2_says_why_and_does_nothing(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = run_command(*arguments.split())
    assert (wrong.code, wrong.out) == (2, "")
    assert message in plain(wrong.err)
    assert list(tmp_path.iterdir()) == []


# A home where nothing has happened yet


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("untouched") / "home")


@pytest.mark.parametrize(
    ("command", "line", "content"),
    [("models", "no versions yet", {"versions": []}), ("models history", "no transitions yet", {"history": []})],
)
def test_an_empty_registry_is_no_failure(command: str, line: str, content: Any, untouched: Home) -> None:
    assert run_command(*command.split(), home=untouched) == Outcome(0, f"{line}\n", "")
    listed = run_command(*command.split(), "--json", home=untouched)
    assert (listed.code, listed.json, listed.err) == (0, content, "")


def test_without_a_champion_nothing_is_scored_rolled_back_or_promoted(untouched: Home, trained: Trained) -> None:
    refused = run_command("score", trained.new, "--json", home=untouched)
    assert (refused.code, refused.json, refused.failures) == (1, {"error": NO_CHAMPION}, [NO_CHAMPION])
    assert not list(untouched.predictions.iterdir())
    assert run_command("models", "rollback", home=untouched) == Outcome(1, "", f"junk-leads: {NO_CHAMPION}\n")
    assert run_command("models", "promote", "1", "--to", "staging", home=untouched) == Outcome(
        1, "", "junk-leads: there is no version '1' of junk_leads; versions are: none\n"
    )


@pytest.mark.parametrize("below", ["", "further/below"])
def test_a_home_that_cannot_be_made_is_one_plain_line(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    home = Home(tmp_path / "file" / below)
    for command in (("models",), ("ingest", "x.csv"), ("train", "--json")):
        refused = run_command(*command, home=home)
        line = f"Not a directory: {home.handed}; check the disk and rights"
        assert (refused.code, refused.err) == (1, f"junk-leads: {line}\n")
        assert refused.out == (json.dumps({"error": line}) + "\n" if "--json" in command else "")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_damaged_warehouse_is_one_plain_line_and_stays_as_it_is(home: Home, trained: Trained) -> None:
    home.warehouse.write_bytes(b"not a database" * 1_000)
    refused = run_command("ingest", trained.new, home=home)
    assert (refused.code, refused.out) == (1, "")
    (line,) = refused.failures
    assert line.startswith(f"new.csv: the warehouse {home.warehouse} ")
    assert line.endswith(f"nothing was changed: {RESTORE}")
    assert home.warehouse.read_bytes() == b"not a database" * 1_000


# Files on the command line


@dataclass(frozen=True)
class Handed:
    """A command `ingest` for good files and bad ones, and what each regular file was before and after."""

    outcome: Outcome
    folder: Path
    home: Home
    before: dict[str, tuple[bytes, int, int]]
    after: dict[str, tuple[bytes, int, int]]


@pytest.fixture(scope="module")
def handed(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Handed:
    folder = tmp_path_factory.mktemp("handed")
    home = copied_home(trained.home, folder / "home")
    columns = [name for name in SCHEMA.names if name != SCHEMA.label]
    for name, shown, rows in (("good.csv", columns, 3), ("bad.csv", columns[:-1], 2)):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            leads = [[DELIVERED.get(column, "") for column in shown] for _ in range(rows)]
            csv.writer(file, lineterminator="\n").writerows([shown, *leads])
    (folder / "zipped.csv.gz").write_bytes(gzip.compress((folder / "good.csv").read_bytes()))
    (folder / "folder.csv").mkdir()
    files = [folder / name for name in ("bad.csv", "good.csv", "nowhere.csv", "folder.csv", "zipped.csv.gz")]
    before = {path.name: state_of(path) for path in files if path.is_file()}
    outcome = run_command("ingest", *files, home=home)
    after = {path.name: state_of(path) for path in files if path.is_file()}
    return Handed(outcome, folder, home, before, after)


def test_what_can_be_ingested_is_and_what_cannot_is_one_line_each_and_exit_code_1(handed: Handed) -> None:
    assert handed.outcome.code == 1
    assert handed.outcome.out.splitlines() == [
        f"{drop}: 3 rows read, 1 kept, 2 duplicates, 0 rejected, unlabelled" for drop in ("good", "zipped")
    ]
    bad, nowhere, folder = handed.outcome.failures
    assert bad.startswith(
        "bad.csv: the header lacks whatsapp_chat_click (line 1); expected every column under exactly its own"
    )
    assert nowhere == f"there is no file '{handed.folder / 'nowhere.csv'}'; check the name"
    assert folder.startswith(f"there is no file named .csv, .csv.gz or .parquet in '{handed.folder / 'folder.csv'}'; ")


def test_files_named_on_the_command_line_are_never_moved_or_changed(handed: Handed) -> None:
    assert sorted(handed.before) == ["bad.csv", "good.csv", "zipped.csv.gz"]
    assert handed.after == handed.before
    assert not list(handed.home.handed.iterdir())


def test_a_scored_file_is_copied_to_where_it_is_asked_for(handed: Handed, trained: Trained) -> None:
    out = handed.folder / "a" / "b"
    scored = run_command("score", trained.new, "--out", out, home=handed.home)
    assert (scored.code, scored.failures) == (0, [])
    first, *paths = scored.out.splitlines()
    share = r"\d\d\.\d\d%"
    assert re.fullmatch(
        rf"new: 399 leads scored by version 1, {share} 1s \(kept for calling\) and {share} 0s \(set aside\)", first
    )
    names = ("new.call_list.xlsx", "new.html", "new.csv", "new.summary.txt")
    assert [path.split()[-1] for path in paths] == [str(out / name) for name in names]
    assert (out / "new.csv").read_bytes() == (handed.home.predictions / "new.csv").read_bytes()


# One JSON object


@pytest.fixture(scope="module")
def told(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Commands with --json, one after the other in one home, by their words."""
    folder = tmp_path_factory.mktemp("told")
    home = copied_home(trained.home, folder / "home")
    commands = (
        f"generate --rows 5 --out {folder / 'few.csv'} --unlabelled",
        f"ingest {folder / 'few.csv'}",
        f"score {folder / 'few.csv'}",
        "train --rounds 10 --param num_leaves=7 --param extra_trees=true",
        "models promote 2 --to staging --why smaller",
        "models",
        "models history",
        "models rollback",
    )
    return {re.split(" -| [/12]", line)[0]: run_command(*line.split(), "--json", home=home) for line in commands}


KEYS = {
    "generate": {"file", "rows", "labelled"},
    "ingest": {"drops"},
    "score": {"drops"},
    "train": {"version", "run_id", "encoder_id", "rows", "metrics"},
    "models promote": {"version", "stage"},
    "models": {"versions"},
    "models history": {"history"},
}


@pytest.mark.parametrize("command", KEYS)
def test_json_is_one_object_on_stdout_and_progress_is_on_stderr(command: str, told: dict[str, Outcome]) -> None:
    outcome = told[command]
    assert (outcome.code, outcome.failures) == (0, [])
    (line,) = outcome.out.splitlines()
    assert json.loads(line).keys() >= KEYS[command]
    progress = {"ingest": "data_pipeline of few", "score": "inference_pipeline of few", "train": "training_pipeline"}
    known = "… 5 of the leads of few were delivered in other drops too, 5 of them labelled; all are kept"
    told_of = {"ingest": [known], "score": [known]}.get(command, [])
    assert outcome.err.splitlines() == ([f"… {progress[command]}", *told_of] if command in progress else [])


def test_json_of_drops_tells_each_of_them(told: dict[str, Outcome]) -> None:
    (ingested,), (scored,) = (told[command].json["drops"] for command in ("ingest", "score"))
    assert ingested.keys() >= {"drop", "rows_read", "kept", "duplicates", "rejected", "labelled"}
    assert scored.keys() >= {"drop", "rows", "share_of_ones", "model_version", "predictions", "summary"}
    assert (ingested["rows_read"], scored["rows"], scored["model_version"]) == (5, ingested["kept"], "1")


def test_json_of_a_training_is_the_version_that_json_of_models_lists_first(told: dict[str, Outcome]) -> None:
    made, (newest, first) = told["train"].json, told["models"].json["versions"]
    assert newest.keys() >= {"version", "stage", "created", "metrics"}
    assert (made["version"], newest["version"], newest["stage"]) == ("2", "2", "staging")
    assert (newest["run_id"], newest["encoder_id"]) == (made["run_id"], made["encoder_id"])
    assert newest["metrics"]["random_auc"] == pytest.approx(made["metrics"]["random_auc"], abs=1e-6)
    assert (first["version"], first["stage"]) == ("1", "production")
    assert 5_000 < made["rows"] <= 6_000


def test_json_of_history_tells_why(told: dict[str, Outcome]) -> None:
    last = told["models history"].json["history"][-1]
    assert (last["version"], last["to"], last["why"]) == ("2", "staging", "smaller")


def test_what_is_refused_tells_its_error_in_json_too(told: dict[str, Outcome]) -> None:
    refused = told["models rollback"]
    (line,) = refused.failures
    assert (refused.code, refused.json) == (1, {"error": line})
    assert line == "version 1 is the first in Production; there is nothing to roll back to"


# Generated leads


def test_the_same_seed_generates_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / "sub" / name for name in ("a.csv", "b.csv", "c.csv")]
    for path, seed in zip(files, (7, 7, 8), strict=True):
        done = run_command("generate", "--rows", 1_000, "--seed", seed, "--out", path)
        assert done == Outcome(0, f"1,000 leads in {path}\n", "")
    same, again, other = (path.read_bytes() for path in files)
    assert same == again != other
    write_leads(tmp_path / "d.csv", 1_000, seed=7)
    assert (tmp_path / "d.csv").read_bytes() == same


def test_unlabelled_leads_are_generated_for_the_asked_days_without_the_label(tmp_path: Path) -> None:
    window = ("--start", "2022-03-01", "--days", 2)
    for path, more in ((tmp_path / "a.csv", ()), (tmp_path / "b.csv", ("--unlabelled",))):
        assert run_command("generate", "--rows", 50, "--out", path, *window, *more).code == 0
    with (tmp_path / "a.csv").open(newline="") as one, (tmp_path / "b.csv").open(newline="") as other:
        labelled, unlabelled = list(csv.DictReader(one)), list(csv.DictReader(other))
    assert [
        {**row, SCHEMA.label: lead[SCHEMA.label]} for row, lead in zip(unlabelled, labelled, strict=True)
    ] == labelled
    assert SCHEMA.label not in unlabelled[0]
    assert {row["created_date"][:10] for row in unlabelled} == {"2022-03-01", "2022-03-02"}


def test_leads_that_cannot_be_written_are_one_plain_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused = run_command("generate", "--rows", 5, "--out", tmp_path / "file" / "leads.csv")
    assert refused == Outcome(1, "", f"junk-leads: File exists: {tmp_path / 'file'}; check the disk and rights\n")


# As it is installed


def test_the_installed_command_keeps_everything_in_data_of_the_current_folder(tmp_path: Path, trained: Trained) -> None:
    program = Path(sys.executable).parent / "junk-leads"
    ours = ("JUNK_LEADS_HOME", "DAGSTER_HOME", "MLFLOW_TRACKING_URI")
    environment = {name: value for name, value in environ.items() if name not in ours}

    def run(*arguments: Any) -> Outcome:
        done = subprocess.run(
            [program, *map(str, arguments)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    shown = run("--help")
    assert (shown.code, shown.err) == (0, "")
    assert "Tell junk leads from genuine ones." in plain(shown.out)
    assert list(tmp_path.iterdir()) == []

    done = run("ingest", trained.new, "nowhere.csv")
    assert (done.code, done.failures) == (1, ["there is no file 'nowhere.csv'; check the name"])
    assert done.out == "new: 400 rows read, 399 kept, 1 duplicates, 0 rejected, unlabelled\n"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert {"warehouse.duckdb", "ledger.db", "archive", "dagster"} <= {
        path.name for path in (tmp_path / "data").iterdir()
    }


# Many files at once


def test_a_pattern_that_no_shell_took_apart_names_its_files_and_a_name_with_brackets_itself(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "x[1].csv", "x1.csv"):
        (tmp_path / name).touch()
    assert [path.name for path in named([tmp_path / "[ab].csv"])] == ["a.csv", "b.csv"]
    assert [path.name for path in named([tmp_path / "x[1].csv"])] == ["x[1].csv"]
    assert named([tmp_path / "gone.csv"]) == [tmp_path / "gone.csv"]


def test_a_pattern_of_no_file_is_one_plain_line_and_nothing_is_made(tmp_path: Path) -> None:
    for command in ("ingest", "score"):
        done = run_command(command, tmp_path / "*.csv", home=Home(tmp_path / "home"))
        assert (done.code, done.out) == (1, "")
        assert done.failures == [f"there is no file like '{tmp_path}/*.csv'; check the folder and the pattern"]
    assert not (tmp_path / "home").exists()


@pytest.mark.long
def test_many_files_are_ingested_by_one_command_and_the_history_is_renewed_once(
    home: Home, write_csv: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from junk_leads.running import launching

    renewed = []
    monkeypatch.setattr(launching, "renew_history", lambda *told: renewed.append(renew_history(*told)))
    files = [write_csv(f"day{n}.csv", {"city_mapped": f"city {n}"}) for n in range(3)]
    done = run_command("ingest", files[0].parent / "day*.csv", "--json")
    assert (done.code, done.failures) == (0, [])
    assert [(drop["drop"], drop["kept"]) for drop in done.json["drops"]] == [(f"day{n}", 1) for n in range(3)]
    assert [[row["drop"] for row in rows] for rows in renewed] == [["day0", "day1", "day2"]]
    assert "data_pipeline of" not in done.err


def test_a_pipe_or_device_is_not_replaced_by_generated_leads(
    junk_leads: Callable[..., Outcome], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = junk_leads("generate", "--rows", 2, "--out", tmp_path / "pipe")
    assert done.code == 2
    assert "is no regular file; name a file" in " ".join(done.err.replace("│", " ").split())
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_fault_76_where_nothing_can_be_written_or_read_the_work_is_done_and_what_cannot_be_told_is_told(
    home: Home, write_csv: Callable[..., Path]
) -> None:
    accepted = "1 rows read, 1 kept, 0 duplicates, 0 rejected, labelled"
    missing = "junk-leads: there is no file 'missing.csv'; check the name"
    for count, (drop, streams, code, told) in enumerate(
        (
            ("march", "<&- >&-", 0, ["… data_pipeline of march"]),  # no store is opened in a closed stream's place
            ("april", "<&- 2>&-", 0, [f"april: {accepted}"]),
            ("may", "2>/dev/full", 0, [f"may: {accepted}"]),
            ("june", "2>&1 >/dev/full", 1, ["… data_pipeline of june", f"junk-leads: {UNWRITTEN}"]),
            ("august", "--json 2>&1 >/dev/full", 1, ["… data_pipeline of august", f"junk-leads: {UNWRITTEN}"]),
            ("july", "missing.csv 2>&1 >/dev/full", 1, [missing, f"junk-leads: {UNWRITTEN}"]),
        )
    ):
        done = in_shell(f"ingest {write_csv(f'{drop}.csv', {'total_leads_droppped': count})} {streams}", home)
        assert (done.returncode, (done.stdout + done.stderr).splitlines()) == (code, told)
        assert Ledger(home).newest(drop).status == "accepted"
    unwritten = in_shell("drops --json 2>&1 >/dev/full", home)
    assert (unwritten.returncode, unwritten.stdout, unwritten.stderr) == (1, f"junk-leads: {UNWRITTEN}\n", "")


def in_shell(command: str, home: Home) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", "-c", f"{sys.executable} -m junk_leads.cli {command}"],
        env={**environ, "JUNK_LEADS_HOME": str(home.root)},
        capture_output=True,
        text=True,
    )


def test_fault_74_a_name_that_a_terminal_would_obey_is_shown_and_not_obeyed(
    junk_leads: Callable[..., Outcome], home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "a\x1b[2Jred\u202egnp.csv"
    file.write_text("total_leads_droppped\n1\n", encoding="utf-8")
    refused = junk_leads("ingest", file)
    assert refused.code == 1
    (line,) = refused.failures
    assert line.startswith(r"a\x1b[2Jred\u202egnp.csv: the header lacks ")
    assert r"(a\x1b[2Jred\u202egnp.csv): the header lacks " in home.alerts.read_text(encoding="utf-8")
    told = junk_leads("drops").out + refused.err + home.alerts.read_text(encoding="utf-8")
    assert not {"\x1b", "\u202e"} & set(told)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("sign", "as_json"), [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, False)], ids=str
)
def test_fault_73_ctrl_c_is_one_line_and_the_same_command_again_goes_on(
    junk_leads: Callable[..., Outcome],
    home: Home,
    write_csv: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    sign: signal.Signals,
    as_json: bool,
) -> None:
    files = [write_csv(f"day{n}.csv", {"total_leads_droppped": n}) for n in range(3)]
    clean, cleaned = leads.clean, []

    def clean_and_be_interrupted(*given: Any, **more: Any) -> Any:
        cleaned.append(given)
        if len(cleaned) == 2:  # in the middle of the second file
            os.kill(os.getpid(), sign)
        return clean(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(leads, "clean", clean_and_be_interrupted)
        done = junk_leads("ingest", *files, *(["--json"] if as_json else []))
    line = "interrupted; what was finished is kept, what was under way was not stored: run the same command again"
    assert (done.code, done.failures) == (130, [line])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert done.json == {"error": line} if as_json else done.out.startswith("day0: 1 rows read")
    assert "Traceback" not in done.err
    assert [(d.drop, d.status) for d in Ledger(home).deliveries()] == [("day0", "accepted"), ("day1", "waiting")]

    again = junk_leads("ingest", *files)
    assert (again.code, again.failures) == (0, [])
    assert {(d.drop, d.status) for d in Ledger(home).deliveries()} == {(f"day{n}", "accepted") for n in range(3)}
    assert junk_leads("doctor").code == 0


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("command", ["ingest", "drops"])
def test_fault_73_ctrl_c_is_one_line_also_in_a_query_after_a_run_or_without_one(
    junk_leads: Callable[..., Outcome],
    write_csv: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    file = write_csv("day.csv", {"total_leads_droppped": 1})

    def query_for_seconds(*_: object, **__: object) -> None:
        interrupting = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        interrupting.start()
        try:
            with duckdb.connect() as con:
                con.execute("SELECT sum(hash(a.range + b.range)) FROM range(20000) a, range(20000) b")
        finally:
            interrupting.join()

    monkeypatch.setattr(launching, "after_runs", query_for_seconds)
    monkeypatch.setattr("junk_leads.running.telling.told_history", query_for_seconds)
    done = junk_leads("ingest", file) if command == "ingest" else junk_leads("drops")
    line = "interrupted; what was finished is kept, what was under way was not stored: run the same command again"
    assert (done.code, done.failures) == (130, [line])
    assert "Traceback" not in done.err


def test_on_a_terminal_many_files_are_one_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, out = Terminal(), io.StringIO()
    with redirect_stderr(terminal), redirect_stdout(out):
        answer_each(["a", "b"], lambda one: {"drop": one}, lambda drop: drop["drop"], as_json=True)
    assert json.loads(out.getvalue()) == {"drops": [{"drop": "a"}, {"drop": "b"}]}
    assert "drops" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()
