"""The asset graph tells the truth about who scores: the champion between the model and what it scores, labelled drops,
and what Dagster itself calls unsynced.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from junk_leads.definitions import build_defs
from junk_leads.defs.assets.champion import announcer
from junk_leads.defs.jobs import TRAINING_ASSETS
from junk_leads.defs.labelled_drops import LOOKED_AT, to_train
from junk_leads.errors import JunkLeadsError, RegistryError
from junk_leads.home import Home
from junk_leads.running.launching import Platform, platform
from junk_leads.steps.leads.generating import write_leads
from junk_leads.stores.registry import Registry
from junk_leads.stores.warehouse import connect
from junk_leads_tests.conftest import Trained, copied_home
from junk_leads_tests.whole.test_pipelines import query, read_table, without, write

pytestmark = pytest.mark.xdist_group("asset graph")

MADE_BY_TRAINING = ("lead_counts", "significant_levels", "lightgbm_model", "champion")
STALE_STATUS = """
query Stale($key: AssetKeyInput!, $partition: String) {
  assetNodeOrError(assetKey: $key) { ... on AssetNode {
    staleStatus(partition: $partition)
    staleCauses(partition: $partition) { reason dependency { path } }
  } }
}
"""


def told_by_dagster(instance: dg.DagsterInstance, **assets: str | None) -> dict[str, str]:
    """What Dagster's GraphQL says of assets (each with a partition, or None): FRESH, STALE (`unsynced`) or MISSING."""
    from dagster._core.test_utils import in_process_test_workspace
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
    from dagster_graphql.test.utils import execute_dagster_graphql

    found = {}
    with in_process_test_workspace(instance, LoadableTargetOrigin(module_name="junk_leads.definitions")) as workspace:
        for asset, partition in assets.items():
            variables = {"key": {"path": [asset]}, "partition": partition}
            result = execute_dagster_graphql(workspace, STALE_STATUS, variables)
            assert not result.errors, result.errors
            found[asset] = result.data["assetNodeOrError"]["staleStatus"]
    return found


@dataclass(frozen=True)
class Story:
    """What Dagster said after each step, and the champion's events, oldest first."""

    home: Home
    before: dict[str, str]
    scored: dict[str, str]
    labelled: dict[str, str]
    trained: dict[str, str]
    promoted: dict[str, str]
    rolled_back: dict[str, str]
    partitions: dict[str, list[str]]
    counted: dict[str, int]
    nothing_new: tuple[list[dg.AssetKey], dict[str, str]]
    drops_of_the_second: dict[str, int]
    events: list[dict[str, Any]]


@pytest.fixture(scope="module")
def story(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """An unlabelled drop is scored, a labelled one trains version 2, which is promoted, rolled back and archived."""
    folder = tmp_path_factory.mktemp("graph")
    home = copied_home(trained.home, folder / "home")
    later, august = folder / "later.csv", folder / "august.csv"
    write_leads(later, 300, seed=7, labelled=False)
    write_leads(august, 1_500, seed=8)
    everything: dict[str, str | None] = {"lead_counts": "history", "predictions": "new", "encoded_features": "new"}
    everything |= dict.fromkeys(MADE_BY_TRAINING[1:])
    with platform(home) as found:
        partitions = {"before": list(found.instance.get_dynamic_partitions("labelled_drops"))}
        before = told_by_dagster(found.instance, **everything)
        found.process(later, "inference_pipeline")
        scored = told_by_dagster(found.instance, **everything)
        partitions["scored"] = list(found.instance.get_dynamic_partitions("labelled_drops"))
        found.process(august, "data_pipeline")
        labelled = told_by_dagster(found.instance, lead_counts="august")
        partitions["labelled"] = list(found.instance.get_dynamic_partitions("labelled_drops"))
        found.train({"rounds": 20})
        trained_again = told_by_dagster(found.instance, **everything)
        counted = materialised_of(found, "lead_counts")
        with connect(home.warehouse) as con:
            nothing_new = to_train(found.instance, con, TRAINING_ASSETS)
        found.promote("2", "production", why="newer leads", force=True)
        promoted = told_by_dagster(found.instance, **everything)
        found.registry.rollback(why="it was worse", by="a test")
        rolled_back = told_by_dagster(found.instance, **everything)
        found.registry.promote("1", "archived", why="the season is over", by="a test")
        drops = found.registry.version("2").drops
        found.process(write(august, without(read_table(august), "app_complete_flag")), "data_pipeline")
        partitions["unlabelled"] = list(found.instance.get_dynamic_partitions("labelled_drops"))
        records = found.instance.fetch_materializations(dg.AssetKey("champion"), limit=100).records
        events = [{k: v.value for k, v in r.asset_materialization.metadata.items()} for r in reversed(records)]
    return Story(
        home,
        before,
        scored,
        labelled,
        trained_again,
        promoted,
        rolled_back,
        partitions,
        counted,
        nothing_new,
        drops,
        events,
    )


def materialised_of(found: Platform, asset: str) -> dict[str, int]:
    """How often each partition of an asset was materialised."""
    records = found.instance.fetch_materializations(dg.AssetKey(asset), limit=1_000).records
    return dict(Counter(str(record.partition_key) for record in records))


def test_the_champion_stands_between_the_model_and_all_that_it_scores() -> None:
    graph = build_defs().resolve_asset_graph()

    def above(asset: str) -> set[str]:
        return {key.to_user_string() for key in graph.get(dg.AssetKey(asset)).parent_keys}

    assert above("champion") == {"lightgbm_model"}
    assert above("lightgbm_model") == {"lead_counts", "significant_levels"}
    assert above("significant_levels") == {"lead_counts"}
    assert above("lead_counts") == {"cleaned_leads", "interaction_groups"}
    assert above("encoded_features") == {"champion", "cleaned_leads", "interaction_groups"}
    assert above("predictions") == {"champion", "encoded_features"}
    assert graph.get(dg.AssetKey("champion")).is_external
    assert not graph.get(dg.AssetKey("champion")).is_partitioned


def test_groups_by_name_are_in_the_order_of_the_pipeline() -> None:
    groups = {spec.group_name for spec in build_defs().resolve_all_asset_specs()}
    assert sorted(str(group) for group in groups) == [
        "1_data_pipeline",
        "2_training_pipeline",
        "3_inference_pipeline",
        "4_evaluation",
        "5_experiment",
    ]


def test_scoring_an_unlabelled_drop_marks_nothing_as_unsynced(story: Story) -> None:
    assert set(story.before.values()) == {"FRESH"}
    assert story.scored == story.before


def test_a_new_labelled_drop_is_a_missing_partition_of_the_counts_until_a_training_counts_it(story: Story) -> None:
    assert story.labelled == {"lead_counts": "MISSING"}
    assert set(story.trained.values()) == {"FRESH"}  # training scores nothing again: version 1 is still the champion


def test_only_labelled_drops_are_partitions_of_the_counts(story: Story) -> None:
    assert story.partitions == {
        "before": ["history"],
        "scored": ["history"],
        "labelled": ["history", "august"],
        "unlabelled": ["history"],
    }


def test_a_training_counts_new_drops_only_and_learns_from_all(story: Story) -> None:
    assert story.counted == {"history": 1, "august": 1}
    selection, tags = story.nothing_new
    assert selection == [dg.AssetKey("significant_levels"), dg.AssetKey("lightgbm_model")]
    assert set(tags) == {LOOKED_AT}
    rows = query(story.home, "SELECT drop, count(*) FROM cleaned_leads WHERE drop IN ('history', 'august') GROUP BY 1")
    assert story.drops_of_the_second == dict(sorted(rows))


def test_a_promotion_makes_what_the_former_champion_scored_unsynced_and_rolling_back_undoes_that(story: Story) -> None:
    assert story.promoted == {**story.trained, "predictions": "STALE", "encoded_features": "STALE"}
    assert story.rolled_back == story.trained


def test_every_promotion_and_rollback_is_an_event_of_the_champion_with_version_metrics_who_and_why(
    story: Story,
) -> None:
    told = [(event["model_version"], event["who"], event["why"]) for event in story.events]
    me = Registry(story.home).history()[-4]["who"]
    assert told == [
        ("1", "a test", "the first"),
        ("2", me, "newer leads"),
        ("1", "a test", "it was worse"),
        ("none", "a test", "the season is over"),
    ]
    for event in story.events:
        assert 0.5 < event["temporal_auc"] < 1
        assert len(event["data_fingerprint"]) == 16
    assert "gate" in story.events[1]


@pytest.mark.long
def test_a_champion_that_was_promoted_elsewhere_is_told_of_when_it_scores(trained_home: Home, trained: Trained) -> None:
    with platform(trained_home) as found:
        found.instance.wipe_assets([dg.AssetKey("champion")])
        for _ in range(2):
            found.process(trained.new, "inference_pipeline")
        (record,) = found.instance.fetch_materializations(dg.AssetKey("champion"), limit=10).records
    assert record.asset_materialization
    assert record.asset_materialization.metadata["model_version"].value == "1"
    assert record.asset_materialization.metadata["why"].value == "the first"


def test_a_champion_that_dagster_cannot_be_told_of_is_told_in_one_line(home: Home) -> None:
    class Full:
        def report_runless_asset_event(self, event: dg.AssetMaterialization) -> None:
            raise OSError(28, "No space left on device")

    event = {"version": "3", "from": "", "to": "production", "who": "me", "why": ""}
    with pytest.raises(RegistryError) as told:
        announcer(Full())(event)  # type: ignore[arg-type]
    assert str(told.value) == (
        "version 3 is in stage production now, but the asset graph could not be told (OSError); check the disk and "
        "Dagster's store"
    )


def test_levels_are_not_learned_while_a_labelled_drop_is_not_counted(trained_home: Home, tmp_path: Path) -> None:
    august = tmp_path / "august.csv"
    write_leads(august, 200, seed=8)
    with platform(trained_home) as found:
        found.process(august, "data_pipeline")
        with pytest.raises(JunkLeadsError) as refused:
            found.launch("training_pipeline", selection=[dg.AssetKey("significant_levels")])
    assert str(refused.value) == (
        "the leads of august are labelled but not counted; run the whole training pipeline, which counts them first"
    )


def test_a_labelled_drop_that_comes_while_a_training_is_under_way_waits_for_the_next(
    trained_home: Home, tmp_path: Path
) -> None:
    august = tmp_path / "august.csv"
    write_leads(august, 200, seed=8)
    with platform(trained_home) as found:
        with connect(trained_home.warehouse) as con:
            _, tags = to_train(found.instance, con, TRAINING_ASSETS)
        found.process(august, "data_pipeline")
        found.launch("training_pipeline", tags=tags, selection=[dg.AssetKey("significant_levels")])
        with connect(trained_home.warehouse) as con:
            selection, tags = to_train(found.instance, con, TRAINING_ASSETS)
    assert dg.AssetKey("lead_counts") in selection
    assert tags["dagster/asset_partition_range_start"] == "august"
