"""A model is only fed features of its own encoder: retraining moves no score, and rolling back gives scores back.

One story, told once: version 1 scored a drop; version 2 is trained on newer levels, waits, is promoted, and is rolled
back. After each step the same drop is scored again, and what the warehouse and the scored file hold is kept.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.running.launching import platform
from junk_leads.steps.leads.generating import write_leads
from junk_leads.steps.scoring.scoring import PREDICTED
from junk_leads.stores.registry import Registry
from junk_leads_tests.conftest import Trained, copied_home
from junk_leads_tests.whole.test_pipelines import materialise, query

pytestmark = pytest.mark.xdist_group("the rule that matters")

NEWER = {"first_platform_c": ("Level0", "Level900"), "city_mapped": ("mumbai", "new mumbai")}


@dataclass(frozen=True)
class Moment:
    """What is held of the drop `new` at a moment: its predictions by lead, its scored file, whose they are."""

    rows: dict[int, tuple[Any, ...]]
    file: bytes
    version: str
    encoder_id: str

    @classmethod
    def of(cls, home: Home) -> "Moment":
        told = f"SELECT lead_number, {', '.join(PREDICTED)} FROM predictions WHERE drop = 'new'"
        ((version,),) = query(home, "SELECT DISTINCT model_version FROM predictions WHERE drop = 'new'")
        ((encoder_id,),) = query(home, "SELECT DISTINCT encoder_id FROM encoded_features WHERE drop = 'new'")
        rows = {row[0]: row[1:] for row in query(home, told)}
        return cls(rows, (home.predictions / "new.csv").read_bytes(), version, encoder_id)


@dataclass(frozen=True)
class Story:
    """The moments, and what was refused on the way."""

    home: Home
    encoder_ids: dict[str, str]
    by_first: Moment
    while_second_waits: Moment
    second_promoted: Moment
    by_second: Moment
    rolled_back: Moment
    refused_training_features: str
    refused_former_features: str


@pytest.fixture(scope="module")
def story(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    home = copied_home(trained.home, folder / "home")
    newer = leads_of_newer_levels(folder / "newer.csv")
    with platform(home) as found:
        by_first = Moment.of(home)
        found.process(newer, "data_pipeline")
        second = found.train({"rounds": 30})["model_version"]

        with pytest.raises(JunkLeadsError) as training_features:
            materialise(found, "history", "predictions")
        found.process(trained.new, "inference_pipeline")
        while_second_waits = Moment.of(home)

        found.registry.promote(second, "production", why="newer levels", by="a test")
        with pytest.raises(JunkLeadsError) as former_features:
            materialise(found, "new", "predictions")
        second_promoted = Moment.of(home)
        materialise(found, "new", "encoded_features", "predictions")
        materialise(found, "newer", "encoded_features")
        by_second = Moment.of(home)

        assert found.registry.rollback(by="a test") == "1"
        materialise(found, "new", "encoded_features", "predictions")
        rolled_back = Moment.of(home)
        encoder_ids = {version.version: version.encoder_id for version in found.registry.versions()}
    return Story(
        home,
        encoder_ids,
        by_first,
        while_second_waits,
        second_promoted,
        by_second,
        rolled_back,
        str(training_features.value),
        str(former_features.value),
    )


def leads_of_newer_levels(path: Path) -> Path:
    """A labelled drop where one platform and one city have another name than in `history`."""
    write_leads(path, 3_000, seed=9)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.update({column: new for column, (old, new) in NEWER.items() if row[column] == old})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_training_on_newer_levels_makes_another_encoder(story: Story) -> None:
    registry = Registry(story.home)
    first, second = (registry.load(version).encoder for version in ("1", "2"))
    assert first.id != second.id
    assert story.encoder_ids == {"1": first.id, "2": second.id}
    for column, (_, level) in NEWER.items():
        assert level in second.levels[column]
        assert level not in first.levels[column]


def test_training_another_model_moves_no_score_of_the_champion_by_a_bit(story: Story) -> None:
    assert len(story.by_first.rows) == 399
    assert len({row[0] for row in story.by_first.rows.values()}) > 100
    assert story.by_first.version == "1"
    assert story.while_second_waits == story.by_first


def test_promoting_alone_changes_nothing_that_was_scored(story: Story) -> None:
    assert story.second_promoted == story.by_first


def test_a_promoted_version_scores_with_its_own_encoder(story: Story) -> None:
    assert story.by_second.version == "2"
    assert story.by_second.encoder_id == story.encoder_ids["2"]
    assert story.by_second.rows.keys() == story.by_first.rows.keys()
    same = [lead for lead, row in story.by_second.rows.items() if row[0] == story.by_first.rows[lead][0]]
    assert len(same) < 10
    assert story.by_second.file != story.by_first.file


def test_rolling_back_gives_the_scores_back_to_the_bit(story: Story) -> None:
    assert story.rolled_back == story.by_first


def test_training_leaves_no_features_that_the_champion_could_be_fed(story: Story) -> None:
    assert story.refused_training_features == (
        "encoded_features does not hold drop 'history': it was refused or not materialised yet; look into quarantine/ "
        "for its reason, or materialise encoded_features for it first"
    )
    assert query(story.home, "SELECT count(*) FROM predictions WHERE drop = 'history'") == [(0,)]
    assert not (story.home.predictions / "history.csv").exists()


def test_features_made_for_a_former_champion_are_refused_by_the_new_one(story: Story) -> None:
    assert story.refused_former_features == (
        f"encoded_features are of encoder {story.encoder_ids['1']}, version 2 takes {story.encoder_ids['2']} only; "
        "materialise encoded_features for the champion first"
    )


def test_rows_of_one_encoder_hold_nothing_in_the_columns_of_another(story: Story) -> None:
    registry = Registry(story.home)
    own = {version: set(registry.load(version).encoder.features) for version in ("1", "2")}
    for version, other in (("1", "2"), ("2", "1")):
        foreign = own[other] - own[version]
        assert foreign
        empty = " AND ".join(f'"{feature}" IS NULL' for feature in sorted(foreign))
        full = " AND ".join(f'"{feature}" IS NOT NULL' for feature in sorted(own[version]))
        counts = f"SELECT count(*), count(*) FILTER ({empty}), count(*) FILTER ({full}) FROM encoded_features"
        ((rows, without_foreign, with_own),) = query(
            story.home, f"{counts} WHERE encoder_id = '{story.encoder_ids[version]}'"
        )
        assert rows == without_foreign == with_own > 0
