"""A home can be moved, or restored elsewhere: it scores to the bit, trains, compares and rolls back as before.

What lives here: one home that has moved twice and is not where it was. What does not: copies of a home, which every
other test of pipelines works on.
"""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from junk_leads.home import Home
from junk_leads.stores.ledger import Ledger
from junk_leads.stores.mlflow_store import client_of
from junk_leads.stores.registry import Registry
from junk_leads_tests.conftest import Trained, copied_home, run_command

pytestmark = pytest.mark.xdist_group("home")


@dataclass(frozen=True)
class Moved:
    home: Home
    former: Home
    before: bytes  # the scored file, as it was before the move
    new: Path


@pytest.fixture(scope="module")
def moved(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Moved:
    folder = tmp_path_factory.mktemp("moved")
    former = copied_home(trained.home, folder / "here")
    assert Registry(former).versions()[0].version == "1"  # a home that was used here
    before = (former.predictions / "new.csv").read_bytes()
    (folder / "far away, 100 %").mkdir()
    home = Home(folder / "far away, 100 %" / "there")
    shutil.move(former.root, home.root)
    return Moved(home, former, before, trained.new)


def test_fault_65_a_moved_home_scores_to_the_bit(moved: Moved) -> None:
    (moved.home.predictions / "new.csv").unlink()
    scored = run_command("score", moved.new, home=moved.home)
    assert (scored.code, scored.failures) == (0, [])
    assert (moved.home.predictions / "new.csv").read_bytes() == moved.before


def test_a_moved_home_knows_its_files(moved: Moved) -> None:
    for delivery in Ledger(moved.home).deliveries():
        assert delivery.path.is_relative_to(moved.home.root)
        assert delivery.path.is_file()
    with closing(sqlite3.connect(moved.home.ledger)) as db:
        noted = [path for (path,) in db.execute("SELECT path FROM deliveries")]
    assert noted
    assert all(path.startswith("archive/") for path in noted)


@pytest.mark.long
def test_a_moved_home_trains_compares_promotes_and_rolls_back(moved: Moved) -> None:
    trained = run_command("train", "--rounds", "60", "--json", home=moved.home)
    assert (trained.code, trained.failures) == (0, [])
    compared = run_command("models", "compare", "2", "1", home=moved.home)
    assert (compared.code, compared.failures) == (0, [])
    forced = ("--to", "production", "--force", "--why", "a test")
    assert run_command("models", "promote", "2", *forced, home=moved.home).code == 0
    assert run_command("models", "rollback", home=moved.home).code == 0
    registry = Registry(moved.home)
    assert registry.champion_version() == "1"
    bits = [registry.load(version).booster.model_to_string() for version in ("1", "2")]
    assert bits[0] == bits[1]  # the same leads and rounds, before and after the move


def test_any_client_of_mlflow_finds_what_was_logged_before_the_move(moved: Moved) -> None:
    import mlflow

    client = Registry(moved.home).client
    version = client.get_model_version("junk_leads", "1")
    assert {file.path for file in client.list_artifacts(version.run_id)} >= {"evaluation.json", "judged", "plots"}
    uri = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(moved.home.mlflow_uri)
    try:
        assert mlflow.pyfunc.load_model("models:/junk_leads/1").unwrap_python_model().model.version == "registered"
    finally:
        mlflow.set_tracking_uri(uri)
    assert not moved.former.root.exists()


def test_no_table_of_mlflow_says_where_the_home_was(moved: Moved) -> None:
    assert Registry(moved.home).client
    with closing(sqlite3.connect(moved.home.root / "mlflow.db")) as db:
        text = "\n".join(db.iterdump())
    assert str(moved.former.root) not in text
    assert f"{moved.home.mlartifacts.as_uri()}/" in text


def test_a_copy_leaves_the_home_that_it_was_made_of_as_it_is(trained: Trained, tmp_path: Path) -> None:
    def locations(home: Home) -> str:
        return str(Registry(home).client.get_experiment_by_name("junk_leads").artifact_location)

    copy = copied_home(trained.home, tmp_path / "copy")
    assert locations(copy) == copy.mlartifacts.as_uri()
    assert locations(trained.home) == trained.home.mlartifacts.as_uri()
    assert all(delivery.path.is_relative_to(copy.root) for delivery in Ledger(copy).deliveries())


def test_a_home_under_another_name_is_no_other_home(trained: Trained, tmp_path: Path) -> None:
    copy = copied_home(trained.home, tmp_path / "copy")
    assert Registry(copy).client
    (tmp_path / "link").symlink_to(copy.root)
    linked = Home(tmp_path / "link")
    client = client_of(linked.mlflow_uri, linked.root)
    assert client.get_experiment_by_name("junk_leads").artifact_location == copy.mlartifacts.as_uri()
    assert Registry(linked).champion().version == "1"


@pytest.mark.parametrize(
    "below",
    [
        "archive/history-0123.csv",
        "quarantine/history-0123/history.csv",
        "incoming/archive.csv",
        "incoming/.handed/a.csv",
    ],
)
def test_a_ledger_that_notes_places_in_full_follows_the_home(
    below: str, home: Home, tmp_path: Path, write_csv: Callable[..., Path]
) -> None:
    ledger = Ledger(home)
    delivery = ledger.deliver(home.incoming / "a.csv", "content")
    with closing(sqlite3.connect(home.ledger)) as db, db:
        db.execute("UPDATE deliveries SET path = ?", [f"/srv/archive/of/{tmp_path.name}/data/{below}"])
    assert ledger.newest(delivery.drop).path == home.root / below
