"""Tables for people: published whole as Parquet, and read while the warehouse is held."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from junk_leads.home import Home
from junk_leads.stores.telling import published
from junk_leads.stores.telling.published import publish_tables
from junk_leads.stores.warehouse import connect
from junk_leads_tests.conftest import Outcome, Trained

pytestmark = pytest.mark.xdist_group("home")

HOLDING = """
import sys, time
from pathlib import Path
from junk_leads.stores.warehouse import connect
with connect(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_fault_69_a_reader_reads_the_published_tables_while_a_run_holds_the_warehouse(trained: Trained) -> None:
    tables = trained.home.root / "tables"
    with subprocess.Popen([sys.executable, "-c", HOLDING, trained.home.warehouse], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            with duckdb.connect() as con:
                read = dict(
                    con.execute(f"SELECT lead_number, probability FROM '{tables}/predictions.parquet'").fetchall()
                )
                drops = con.execute(f"SELECT drop, state FROM '{tables}/drop_history.parquet' ORDER BY ALL").fetchall()
        finally:
            holder.kill()
    with connect(trained.home.warehouse) as con:
        stored = dict(con.execute("SELECT lead_number, probability FROM predictions").fetchall())
    assert read == stored
    assert drops == [("history", "accepted"), ("new", "scored")]


def test_a_table_is_published_anew_when_it_has_changed_and_only_then(
    trained_home: Home, junk_leads: Callable[..., Outcome]
) -> None:
    with connect(trained_home.warehouse) as con:
        assert not {path.stem for path in publish_tables(trained_home, con)} & set(published.BY_DROP)
    assert junk_leads("score", "new").code == 0
    file = trained_home.root / "tables" / "prediction_summary.parquet"
    with duckdb.connect() as con:
        (at,) = con.execute(f"SELECT max(scored_at) FROM '{file}'").fetchall()[0]
    with connect(trained_home.warehouse) as con:
        assert con.execute("SELECT max(scored_at) FROM prediction_summary").fetchall() == [(at,)]


def test_a_file_is_replaced_whole_or_not_at_all(trained_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in (trained_home.root / "tables").glob("*.parquet")}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(published.os, "replace", full)
    with connect(trained_home.warehouse) as con, pytest.raises(OSError, match="No space left"):
        publish_tables(trained_home, con)
    assert {path: path.read_bytes() for path in Path(trained_home.root / "tables").glob("*")} == before
