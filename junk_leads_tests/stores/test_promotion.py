"""Promotion: into Production only through the gate, or by force with a reason; and versions side by side.

One story, told once: version 1 is in Production; version 2 is worse; it is forced in; version 3 is better.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import dagster as dg
import numpy as np
import pytest

from junk_leads.home import Home
from junk_leads.running.launching import platform
from junk_leads.steps.leads.generating import write_leads
from junk_leads.stores.promotion import Comparison, compare, plots
from junk_leads.stores.registry import Registry
from junk_leads.stores.warehouse import connect
from junk_leads_tests.conftest import Outcome, Trained, copied_home, run_command
from junk_leads_tests.whole.test_pipelines import query

MODEL = dg.AssetKey("lightgbm_model")


@dataclass(frozen=True)
class Story:
    """What the commands said, by what was asked for, and the registry at the end."""

    home: Home
    said: dict[str, Outcome]
    stages: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def story(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Story:
    home = copied_home(trained.home, tmp_path_factory.mktemp("promotion") / "home")
    said: dict[str, Outcome] = {}
    stages: dict[str, dict[str, str]] = {}

    def say(name: str, *arguments: str) -> None:
        said[name] = run_command(*arguments, "--json", home=home)
        stages[name] = {version.version: version.stage for version in Registry(home).versions()}

    promote = ("models", "promote", "2", "--to", "production")
    say("worse", "train", "--rounds", "1", "--param", "num_leaves=2")
    say("refused", *promote)
    say("compared", "models", "compare", "2", "1")
    say("without a reason", *promote, "--force")
    say("forced", *promote, "--force", "--why", "a trial")
    say("better", "train", "--rounds", "60")
    say("passed", "models", "promote", "3", "--to", "production", "--why", "surely better")
    say("again", "models", "promote", "3", "--to", "production")
    say("history", "models", "history")
    return Story(home, said, stages)


def test_a_worse_version_is_refused_with_what_speaks_against_it_and_the_champion_stays(story: Story) -> None:
    refused = story.said["refused"]
    assert refused.code == 1
    (line,) = refused.failures
    assert line.startswith("version 2 stays out of Production: its AUC is not surely larger by 0.001: -0.")
    assert line.endswith("; see `junk-leads models compare 2 1`, or promote it all the same with --force --why REASON")
    assert story.stages["refused"] == {"2": "", "1": "production"}


def test_two_versions_are_shown_side_by_side_with_plots_and_the_gates_verdict(story: Story) -> None:
    told = story.said["compared"].json
    assert (told["versions"], told["passed"]) == (["2", "1"], False)
    folder = story.home.reports / "versions-2-and-1"
    assert told["report"] == str(folder)
    assert {path.name for path in folder.iterdir()} == {
        *("comparison.md", "roc_curve.png", "reliability.png", "junk_budget.png")
    }
    page = (folder / "comparison.md").read_text(encoding="utf-8")
    assert page.startswith(
        "# Versions 2 and 1\n\n|  | version 2 | version 1 |\n| --- | --- | --- |\n| stage | - | production |"
    )
    assert "| drops | history | history |" in page
    rows = [line[2:-2].split(" | ") for line in page.splitlines() if line.startswith("| ")]
    known = Registry(story.home).version("2")
    report = Registry(story.home).evaluation("2")["splits"]
    metrics = ("auc", "average_precision", "brier", "calibration_error", "genuine_lost", "junk_removed")
    assert [name for name, *_ in rows[2:]] == [
        *("stage", "created", "newest lead", "labelled leads", "drops", "data fingerprint", "encoder"),
        *(f"{split} {metric}" for split in report for metric in metrics),
    ]
    mine = {name: first for name, first, _ in rows[2:]}
    assert mine["created"] == known.created
    assert mine["newest lead"] == date.fromtimestamp(known.newest_lead).isoformat()
    assert mine["labelled leads"] == f"{sum(known.drops.values()):,}"
    assert (mine["data fingerprint"], mine["encoder"]) == (known.data_fingerprint, known.encoder_id)
    value, low, high = report["temporal"]["auc"]
    assert mine["temporal auc"] == f"{value:.4f} ({low:.4f} to {high:.4f})"
    assert f"On the same leads, version 2 {told['gate']}." in page


def test_force_needs_a_reason(story: Story) -> None:
    assert story.said["without a reason"].code == 2
    assert story.stages["without a reason"] == {"2": "", "1": "production"}


def test_what_is_forced_past_the_gate_is_kept_in_the_history_with_the_reason_and_the_verdict(story: Story) -> None:
    assert story.said["forced"].code == 0
    assert story.stages["forced"] == {"2": "production", "1": "archived"}
    (event,) = [event for event in story.said["history"].json["history"] if event.get("forced")]
    assert (event["version"], event["to"], event["why"], event["champion"]) == ("2", "production", "a trial", "1")
    assert event["gate"].startswith("does not pass: its AUC is not surely larger")
    assert set(event["metrics"]) == {"random_auc", "temporal_auc"}
    assert len(event["data_fingerprint"]) == 16


def test_a_surely_better_version_passes_and_the_former_champion_is_archived(story: Story) -> None:
    told = story.said["passed"].json
    assert (told["version"], told["stage"]) == ("3", "production")
    assert told["gate"].startswith("passes the gate (challenger_auc 0.")
    assert story.stages["passed"] == {"3": "production", "2": "archived", "1": "archived"}
    assert story.said["again"].json["gate"] is None  # it is there already
    assert story.stages["again"] == story.stages["passed"]


def test_a_training_tells_how_its_version_stands_beside_the_champion(story: Story) -> None:
    with platform(story.home) as found:
        (record,) = found.instance.fetch_materializations(MODEL, limit=1).records
        (first,) = found.instance.fetch_materializations(MODEL, limit=1, ascending=True).records
    assert record.asset_materialization is not None
    assert first.asset_materialization is not None
    told = record.asset_materialization.metadata
    assert str(told["gate"].value).startswith("beside version 2 it passes the gate")
    assert str(first.asset_materialization.metadata["gate"].value).startswith("nobody is in Production")
    card = str(told["model_card"].value)
    for part in ("# Model card: version 3", "## Data", "## Drift", "## Limits", "a junk budget of 2.0% of the genuine"):
        assert part in card
    assert Registry(story.home).client.get_model_version("junk_leads", "3").description == card


@pytest.mark.long
def test_a_champion_speaks_as_it_serves_of_leads_newer_than_all_it_learned_from(
    trained_home: Home, junk_leads: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory
) -> None:
    newer = tmp_path_factory.mktemp("newer") / "newer.csv"
    write_leads(newer, 2_500, seed=5, start=date(2022, 6, 1), days=60)
    assert junk_leads("ingest", newer).code == 0
    assert junk_leads("train", "--rounds", "40").code == 0
    registry = Registry(trained_home)
    one, two = registry.version("1"), registry.version("2")
    assert one.newest_lead < two.holdout_from
    with connect(trained_home.warehouse) as con:
        served = compare(con, registry, "2", "1")
        twins = compare(con, registry, "1", "2")
    (leads,) = query(
        trained_home,
        "SELECT count(*) FROM cleaned_leads WHERE app_complete_flag IS NOT NULL AND epoch(created_date) >= "
        f"{two.holdout_from!r}",
    )[0]
    assert served.counts.sum() == leads >= len(served.labels)
    assert served.is_as_recent
    assert not twins.is_as_recent
    assert twins.verdict().objections == ("its newest lead is older than the champion's; train it on newer leads too",)
    assert not np.array_equal(served.champion, served.challenger)


def test_costs_and_the_true_conversion_travel_with_a_version_and_its_card_tells_of_them(
    trained_home: Home, junk_leads: Callable[..., Outcome]
) -> None:
    aim = ("--cost-of-contact", "1", "--value-of-application", "20", "--true-conversion", "0.115")
    assert junk_leads("train", "--rounds", "20", *aim).code == 0
    registry = Registry(trained_home)
    two, model = registry.version("2"), registry.load("2")
    card = registry.client.get_model_version("junk_leads", "2").description
    assert "where contacting gains most at 1 a contact and 20 an application" in card
    assert "genuine leads to the platform's 11.5%" in card
    assert "expected_gain.png" in str([a.path for a in registry.client.list_artifacts(two.run_id, "plots")])
    told = model.tell(np.array([0.2, model.settings["share_of_genuine"], 0.8]))
    assert told[1] == pytest.approx(0.115)
    assert (np.diff(told) > 0).all()
    assert told[2] < 0.5


def test_fault_47_a_promotion_that_was_cut_off_is_completed_by_asking_for_it_again(
    trained_home: Home, junk_leads: Callable[..., Outcome]
) -> None:
    registry = Registry(trained_home)
    event = {"version": "1", "from": "", "to": "production", "when": "", "who": "", "why": "cut off"}
    pending = json.dumps({"key": 1, "events": [event], "announced": event})
    registry.client.set_registered_model_tag("junk_leads", "pending_transition", pending)
    assert registry.champion_version() == "1"  # its last writes are what is missing
    assert junk_leads("models", "promote", "1", "--to", "production").code == 0
    assert not registry.is_cut_off()
    assert event in registry.history()


def test_where_no_labelled_lead_is_left_there_is_nothing_to_compare_and_nothing_to_draw(trained_home: Home) -> None:
    registry = Registry(trained_home)
    with connect(trained_home.warehouse) as con:
        con.execute("DELETE FROM table_drops WHERE drop = 'history'")
        comparison = compare(con, registry, "1", "1")
    assert len(comparison.labels) == 0
    assert not comparison.verdict().passed
    assert plots(comparison, ("1", "1")) == {}


@pytest.mark.parametrize("is_as_recent", [True, False])
def test_a_version_that_learned_from_older_leads_than_the_champion_is_objected_to_however_good_it_is(
    is_as_recent: bool,
) -> None:
    chance = np.random.default_rng(1)
    labels = np.repeat([0, 1], 1_000)
    good, bad = (np.clip(labels * lift + chance.uniform(0.1, 0.5, len(labels)), 0, 1) for lift in (0.4, 0.02))
    comparison = Comparison(labels, np.ones_like(labels), good, bad, {}, is_as_recent)
    older = "its newest lead is older than the champion's; train it on newer leads too"
    assert (older in comparison.verdict().objections) is not is_as_recent
