"""A drop in shards through the graph of one machine: accounted for, refused whole, replaced by a file."""

import json
from pathlib import Path

import pytest

from junk_leads.engine.shards import name_of
from junk_leads.home import Home
from junk_leads.stores.warehouse import connect, rows_of
from junk_leads_tests.conftest import run_command
from junk_leads_tests.engine.leads_in_shards import dirty_lines, write_shards


def held(home: Home, table: str) -> list[tuple[object, ...]]:
    with connect(home.warehouse) as con:
        return rows_of(con, table, ["d"]).order("lead_number").fetchall()


def part_files(home: Home) -> list[Path]:
    return sorted(path for path in home.tables.glob("*/**/*") if path.is_file())  # not the published ones beside


@pytest.mark.long
def test_a_drop_in_shards_is_accounted_for_and_refused_or_replaced_as_a_whole(home: Home, tmp_path: Path) -> None:
    header, rows = dirty_lines(tmp_path, 600)
    folder = write_shards(tmp_path / "d", header, rows, ("csv", "csv.gz", "csv"))
    outcome = run_command("ingest", folder, "--json", home=home)
    assert outcome.code == 0, outcome.err
    (account,) = outcome.json["drops"]
    assert (account["drop"], account["rows_read"], account["labelled"]) == ("d", 600, True)
    assert account["rows_read"] == account["kept"] + account["duplicates"] + account["rejected"]
    assert (account["rejected"], len(held(home, "cleaned_leads"))) == (2, account["kept"])
    assert len(list(folder.iterdir())) == 3  # the shards stay where they are
    (archived,) = home.archive.glob("d-*.shards")
    assert len(json.loads(archived.read_text(encoding="utf-8"))["shards"]) == 3

    # the same shards again are made anew, and leave no files behind
    former, files = held(home, "cleaned_leads"), part_files(home)
    assert run_command("ingest", folder, home=home).code == 0
    assert held(home, "cleaned_leads") == former
    assert len(part_files(home)) == len(files) == 9

    # one bad shard: nothing of the drop is taken, what was there stays
    files = part_files(home)
    (folder / "part-2.csv").write_text("no leads at all\n1,2\n", encoding="utf-8")
    outcome = run_command("ingest", folder, home=home)
    assert outcome.code == 1
    (line,) = outcome.failures
    assert "shard 'part-2.csv': the first line is not the header of a lead file" in line
    assert (held(home, "cleaned_leads"), part_files(home)) == (former, files)
    (reason,) = home.quarantine.glob("d-*/reason.json")
    assert json.loads(reason.read_text(encoding="utf-8"))["where"] == "part-2.csv, line 1"

    # too many rejected rows, known only when all shards are read: refused too, and taken back
    (folder / "part-2.csv").write_text(header + "no,lead\n" * 20, encoding="utf-8")
    outcome = run_command("ingest", folder, home=home)
    assert outcome.code == 1
    assert "21 of 420 rows rejected" in outcome.failures[0]
    assert (held(home, "cleaned_leads"), part_files(home)) == (former, files)

    # a file of the same name takes the place of the shards
    alone = tmp_path / "d.csv"
    alone.write_text(header + "".join(rows[300:400]), encoding="utf-8")
    outcome = run_command("ingest", alone, "--json", home=home)
    assert outcome.code == 0, outcome.err
    assert len(held(home, "cleaned_leads")) == outcome.json["drops"][0]["kept"] == 100
    with connect(home.warehouse) as con:
        assert con.table("cleaned_leads_parts").fetchall() == []
        assert con.sql("SELECT count(*) FROM duckdb_views() WHERE view_name LIKE '% of d'").fetchall() == [(0,)]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (".", "inner"),
        ("./", "inner"),
        ("..", "outer"),
        ("../inner/", "inner"),
        ("*.csv", "inner"),
        ("../*.csv", "outer"),
        ("../*/*.csv", "outer"),
        ("july_*.csv", "inner july_*.csv"),
        ("s3://bucket/leads/", "leads"),
        ("s3://bucket/leads/*.parquet", "leads"),
    ],
)
def test_shards_are_called_as_their_folder_wherever_it_is_named_from(
    asked: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "outer" / "inner")
    assert name_of(asked) == name


def test_a_pattern_is_a_drop_for_each_file_or_the_shards_of_one(home: Home, tmp_path: Path) -> None:
    header, rows = dirty_lines(tmp_path, 90)
    good = [row for row in rows if row.startswith("20")]
    folder = write_shards(tmp_path / "d", header, good, ("csv", "csv"))
    outcome = run_command("ingest", f"{folder}/*.csv", "--one-drop", "--json", home=home)
    assert outcome.code == 0, outcome.err
    assert [drop["drop"] for drop in outcome.json["drops"]] == ["d"]
    assert outcome.json["drops"][0]["rows_read"] == len(good)
    outcome = run_command("ingest", f"{tmp_path}/none/*.csv", "--one-drop", home=home)
    assert outcome.code == 1
    assert outcome.failures == [
        f"there is no file named .csv, .csv.gz or .parquet in '{tmp_path}/none/*.csv'; check the name; quote a "
        "pattern, or the shell takes it apart"
    ]
