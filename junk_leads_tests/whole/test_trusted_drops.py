"""A drop under renamed codes from end to end: blocked, put right or scored all the same, and what everybody is told."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from junk_leads.errors import RegistryError
from junk_leads.home import Home
from junk_leads.reference import lead_schema
from junk_leads.running.launching import platform
from junk_leads.steps.leads.generating import write_leads
from junk_leads.steps.watching.profiles import CODES
from junk_leads.stores.drops.code_maps import CodeMaps
from junk_leads.stores.ledger import Ledger
from junk_leads.stores.model_files import PROFILE_FILE, files_sha256, load_profile
from junk_leads.stores.registry import Registry
from junk_leads_tests.conftest import Outcome, Trained, copied_home, run_command
from junk_leads_tests.whole.test_pipelines import query

pytestmark = pytest.mark.xdist_group("trusted drops")

WHY = "the agency's call is at noon"


def renamed_copy(source: Path, known: Path, target: Path, both: int = 300) -> Path:
    """Unlabelled leads and the first of the history's, their codes delivered under others: all of every column move."""
    rows: list[dict[str, str]] = []
    for path, most in ((source, None), (known, both)):
        with path.open(newline="", encoding="utf-8") as file:
            rows += list(csv.DictReader(file))[:most]
    rng = np.random.default_rng(1)
    for column in CODES:
        codes = sorted({row[column] for row in rows} - {""})
        other = dict(zip(codes, map(str, rng.permutation(codes)), strict=True))
        for row in rows:
            row[column] = other.get(row[column], row[column])
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lead_schema().required, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return target


@dataclass(frozen=True)
class Story:
    """What each command said of the drop `renamed`, and what was there after it."""

    home: Home
    blocked: Outcome
    kept_of_blocked: dict[str, Any]
    proposed: Outcome
    accepted: Outcome
    listed: Outcome
    scored: Outcome
    header_of_scored: list[str]
    cleaned: dict[str, Any]
    undone: Outcome
    all_the_same: Outcome
    again_blocked: Outcome


@pytest.fixture(scope="module")
def story(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("renamed")
    home = copied_home(trained.home, folder / "home")
    write_leads(folder / "new.csv", 1_200, seed=7, labelled=False)
    file = renamed_copy(folder / "new.csv", trained.history, folder / "renamed.csv")

    def command(*arguments: Any) -> Outcome:
        return run_command(*arguments, home=home)

    blocked = command("score", file)
    kept = {
        "delivery": Ledger(home).newest("renamed").status,
        "history": query(home, "SELECT state FROM drop_history WHERE drop = 'renamed'"),
        "cleaned": query(home, "SELECT count(*) > 1400 FROM cleaned_leads WHERE drop = 'renamed'"),
        "encoded": query(home, "SELECT count(*) FROM encoded_features WHERE drop = 'renamed'"),
        "predicted": query(home, "SELECT count(*) FROM predictions WHERE drop = 'renamed'"),
        "former": query(home, "SELECT count(*) > 300 FROM predictions WHERE drop = 'new'"),
        "files": sorted(path.name for path in home.predictions.glob("*.*") if path.suffix in (".csv", ".txt")),
        "quarantine": list(home.quarantine.iterdir()),
    }
    proposed = command("codes", "propose", "renamed", "--json")
    accepted = command("codes", "accept", "renamed", "--by", "Asha", "--why", "asked the agency", "--json")
    listed = command("codes", "--json")
    scored = command("score", "renamed", "--json")
    with (home.predictions / "renamed.csv").open(newline="", encoding="utf-8") as csv_file:
        header = next(csv.reader(csv_file))
    with platform(home) as found:
        event = found.instance.fetch_materializations(dg.AssetKey("cleaned_leads"), limit=1).records[0]
        materialized = event.asset_materialization
        assert materialized is not None
        cleaned = {name: value.value for name, value in materialized.metadata.items()}
    undone = command("codes", "undo", "renamed", "--by", "Ravi")
    again = command("score", "renamed")
    all_the_same = command("score", "renamed", "--accept-drift", "--why", WHY, "--json")
    return Story(home, blocked, kept, proposed, accepted, listed, scored, header, cleaned, undone, all_the_same, again)


def test_a_blocked_drop_is_told_in_one_line_with_the_two_ways_on(story: Story) -> None:
    assert story.blocked.code == 1
    assert story.blocked.out == ""
    (line,) = story.blocked.failures
    assert line.startswith(
        "renamed.csv: drop renamed is not scored: platform, medium and source look renamed: the same"
    )
    assert line.endswith(
        "; put the codes back (junk-leads codes propose renamed), or score it all the same "
        "(junk-leads score renamed --accept-drift --why REASON)"
    )


def test_a_blocked_drop_is_kept_and_nothing_is_said_of_its_leads(story: Story) -> None:
    assert story.kept_of_blocked == {
        "delivery": "accepted",
        "history": [("blocked",)],
        "cleaned": [(True,)],
        "encoded": [(0,)],
        "predicted": [(0,)],
        "former": [(True,)],
        "files": ["new.call_list.csv", "new.csv", "new.summary.txt"],
        "quarantine": [],
    }


def test_its_codes_are_proposed_as_a_table_that_can_be_reviewed(story: Story) -> None:
    told = story.proposed.json
    assert (story.proposed.code, told["columns"]) == (0, list(CODES))
    assert told["known_leads"] > 250
    assert all(told["psi_after"][column] < told["psi_before"][column] for column in CODES)
    assert Path(told["file"]) == story.home.reports / "renamed.codes.csv"
    assert Path(told["file"]).read_text().startswith("column,delivered,becomes,leads,because,confidence,leads_behind,")


def test_an_accepted_map_is_kept_with_who_and_why_and_the_drop_is_scored_as_any_other(story: Story) -> None:
    assert (story.accepted.code, story.accepted.json["who"], story.accepted.json["why"]) == (
        0,
        "Asha",
        "asked the agency",
    )
    assert [found["id"] for found in story.listed.json["code_maps"]] == [story.accepted.json["id"]]
    assert story.scored.code == 0
    (drop,) = story.scored.json["drops"]
    assert (drop["drop"], drop["warnings"]) == ("renamed", [])
    assert "warning" not in story.header_of_scored
    assert story.cleaned["code_map"] == story.accepted.json["id"]
    assert story.cleaned["code_map_accepted_by"] == "Asha"


def test_a_map_that_is_taken_back_leaves_the_drop_blocked_as_before(story: Story) -> None:
    assert story.undone.code == 0
    assert story.again_blocked.code == 1
    assert "look renamed" in story.again_blocked.failures[0]
    (kept,) = CodeMaps(story.home).all()
    assert kept.undone.endswith("by Ravi")


def test_a_drop_that_is_scored_all_the_same_carries_its_warning_everywhere(story: Story) -> None:
    assert story.all_the_same.code == 0
    warning = story.all_the_same.json["drops"][0]["warnings"][0]
    assert warning.startswith("scored although it cannot be trusted: platform, medium and source look renamed")
    assert warning.endswith(f": {WHY})")
    summary = (story.home.predictions / "renamed.summary.txt").read_text()
    assert summary.splitlines()[0] == f"WARNING: {warning}"
    with (story.home.predictions / "renamed.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["warning"].startswith(warning) for row in rows} == {True}
    (kept,) = CodeMaps(story.home).accepted_drifts()
    assert (kept["drop_key"], kept["model_version"], kept["why"]) == ("renamed", "1", WHY)
    assert "look renamed" in kept["reason"]


def test_the_checks_in_the_ui_say_what_they_found(story: Story) -> None:
    with platform(story.home) as found:
        checks = [dg.AssetCheckKey(dg.AssetKey("encoded_features"), name) for name in CHECKS]
        records = found.instance.event_log_storage.get_latest_asset_check_execution_by_key(checks)
        results = {}
        for key, record in records.items():
            assert record.event is not None
            assert record.event.dagster_event is not None
            results[key.name] = record.event.dagster_event.asset_check_evaluation_data
    assert {name: result.passed for name, result in results.items()} == dict.fromkeys(CHECKS, False)
    assert {result.severity for result in results.values()} == {dg.AssetCheckSeverity.WARN}
    assert "known before" in str(results["known_leads_carry_known_codes"].metadata["found"].value)
    figures = results["columns_go_together_as_in_training"].metadata["figures"].value
    assert figures["contradicting"] > figures["contradicting_expected"] + 0.08


CHECKS = ("columns_go_together_as_in_training", "known_leads_carry_known_codes", "shares_stand_as_in_training")


@pytest.mark.long
def test_the_job_in_the_ui_accepts_and_takes_back_as_the_commands_do(story: Story) -> None:
    with platform(story.home) as found:
        config = {"action": "ACCEPT", "drop": "renamed", "why": "in the UI", "source": "renamed"}
        found.launch("accept_codes", ops={"code_maps": {"config": config}})
        held = CodeMaps(story.home).holding("renamed_again", "renamed_again.csv")
        assert held is not None
        assert (held.why, held.source) == ("in the UI", "renamed*")
        assert query(story.home, "SELECT count(*) > 100 FROM code_maps WHERE undone = ''") == [(True,)]
        found.launch("accept_codes", ops={"code_maps": {"config": {"action": "UNDO", "drop": "renamed"}}})
    assert CodeMaps(story.home).holding("renamed", "renamed.csv") is None


def test_what_cannot_be_done_is_one_plain_line(
    story: Story, tmp_path: Path, junk_leads: Callable[..., Outcome]
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("a,b\n1,2\n")
    cases = {
        ("codes", "propose", "nobody"): "drop 'nobody' was never delivered; put its file into",
        ("codes", "accept", "nobody"): "drop 'nobody' was never delivered; put its file into",
        ("codes", "undo", "new"): "no code map holds for drop 'new'; look at `junk-leads codes`",
        ("codes", "accept", "new", "--map", bad): "bad.csv is no code map: it lacks the column column, delivered,",
        ("codes", "accept", "new"): "the map renames no code; there is nothing to accept",
        ("score", tmp_path / "nothing"): "nothing'; check the name",
    }
    for arguments, line in cases.items():
        outcome = run_command(*arguments, home=story.home)
        assert (outcome.code, len(outcome.failures)) == (1, 1), arguments
        assert line in outcome.failures[0], arguments
    without = run_command("score", "renamed", "--accept-drift", home=story.home)
    assert without.code == 2
    assert run_command("codes", "propose", "new", home=story.home).out == (
        "no code of new looks renamed; nothing is proposed\n"
    )


def test_the_profile_travels_with_the_model_and_is_verified(trained: Trained) -> None:
    registry = Registry(trained.home)
    profile = registry.profile("1")
    assert profile is not None
    assert profile.leads == sum(registry.version("1").drops.values())
    assert PROFILE_FILE in registry.client.get_model_version("junk_leads", "1").tags["files_sha256"]


def test_a_model_of_before_has_no_profile_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    for name in ("model.txt", "encoder.json", "settings.json"):
        (tmp_path / name).write_text(name)
    of_before = files_sha256(tmp_path)
    assert PROFILE_FILE not in of_before
    assert load_profile(tmp_path, "1", of_before) is None
    (tmp_path / PROFILE_FILE).write_text("{}")
    with pytest.raises(RegistryError, match="the files of version 1 are not those that were registered"):
        load_profile(tmp_path, "1", of_before)
    with_profile = files_sha256(tmp_path)
    (tmp_path / PROFILE_FILE).unlink()
    with pytest.raises(RegistryError, match="the files of version 1 are not those that were registered"):
        load_profile(tmp_path, "1", with_profile)
