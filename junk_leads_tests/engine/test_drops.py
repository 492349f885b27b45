"""A drop in shards equals the same leads in one file: rows, numbers, repeats, rejections, counts, what checks see."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from junk_leads.defs.expectations.suites import load_suite
from junk_leads.engine import drops
from junk_leads.engine.executors import InProcess
from junk_leads.engine.parts import Part, read_parts
from junk_leads.engine.shards import content_of_shard, find_shards, shards_of
from junk_leads.engine.tallies import Tally
from junk_leads.errors import DropRefused, StorageUnavailable
from junk_leads.steps.leads import accounting
from junk_leads.steps.leads.cleaning import clean
from junk_leads.steps.leads.counting import count_leads
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.reading import Reading, read_leads
from junk_leads_tests.conftest import SCHEMA
from junk_leads_tests.engine.leads_in_shards import dirty_lines, write_shards

HERE = InProcess()
LEADS = 900
KINDS = ("csv", "csv.gz", "parquet")


@dataclass
class Both:
    """The same leads read as one file, and in shards."""

    con: duckdb.DuckDBPyConnection
    whole: Reading
    raw: duckdb.DuckDBPyRelation
    read: drops.ReadDrop
    folder: Path

    def rows(self, parts: list[Part]) -> pa.Table:
        return sorted_table(read_parts(self.con, [part.path for part in parts]))


def sorted_table(relation: duckdb.DuckDBPyRelation) -> pa.Table:
    return relation.order("lead_number").to_arrow_table()


def read(con: duckdb.DuckDBPyConnection, folder: Path, to: Path) -> drops.ReadDrop:
    urls = find_shards(str(folder))
    shards = shards_of(urls, HERE.map(content_of_shard, urls))
    looks = load_suite("raw_leads").looks
    return drops.read_drop(con, HERE, shards, drop="d", folder=str(to / "raw"), looks=looks)


@pytest.fixture
def both(con: duckdb.DuckDBPyConnection, tmp_path: Path, request: pytest.FixtureRequest) -> Both:
    header, rows = dirty_lines(tmp_path, LEADS)
    (tmp_path / "whole.csv").write_text(header + "".join(rows), encoding="utf-8")
    kinds = getattr(request, "param", ("csv",) * 3)
    if "parquet" in kinds:  # which holds no row that is no row
        rows[-1] = rows[0]
        (tmp_path / "whole.csv").write_text(header + "".join(rows), encoding="utf-8")
    folder = write_shards(tmp_path / "d", header, rows, kinds)
    whole = read_leads(con, tmp_path / "whole.csv", SCHEMA)
    raw = whole.leads.select(duckdb.ConstantExpression("d").alias("drop"), duckdb.StarExpression())
    return Both(con, whole, raw, read(con, folder, tmp_path), tmp_path)


@pytest.mark.parametrize("both", [("csv",) * 3, ("csv",), KINDS, ("csv.gz",) * 7], indirect=True)
def test_shards_are_read_as_one_file_of_all_is(both: Both) -> None:
    assert both.rows(both.read.table.parts).equals(sorted_table(both.raw))
    whole = both.whole
    assert (both.read.header, both.read.ignored, both.read.labelled) == (whole.header, whole.ignored, whole.labelled)
    assert (both.read.rows_read, both.read.rows_rejected) == (whole.rows_read, whole.rows_rejected)
    assert whole.rows_read == LEADS


def test_rejected_rows_keep_the_lines_and_numbers_of_one_file(both: Both) -> None:
    rejected = sorted_table(both.read.rejected).to_pylist()
    assert rejected == sorted_table(both.whole.rejected).to_pylist()
    assert [(row["line"], row["lead_number"]) for row in rejected] == [(303, 302), (901, 900)]


def test_lines_are_counted_where_records_have_several_and_the_last_has_no_end(
    con: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    header, rows = dirty_lines(tmp_path, 30)
    rows[2] = '"2021-07-01\n00:00:00"' + rows[2][rows[2].index(",") :]  # rejected, on two lines
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "a.csv").write_text(header.replace("\n", "\r\n") + "".join(rows[:10]).rstrip("\n"), encoding="utf-8")
    (folder / "b.csv").write_text(header + "".join(rows[10:]), encoding="utf-8")
    (tmp_path / "whole.csv").write_text(header + "".join(rows), encoding="utf-8")
    whole = read_leads(con, tmp_path / "whole.csv", SCHEMA)
    found = read(con, folder, tmp_path).rejected
    assert [line for (line,) in found.select("line").order("line").fetchall()] == [4, 14]
    assert sorted_table(found).to_pylist() == sorted_table(whole.rejected).to_pylist()


@pytest.mark.parametrize("both", [("csv",) * 3, KINDS], indirect=True)
def test_equal_leads_in_different_shards_are_one(both: Both) -> None:
    made, repeats = drops.clean_drop(
        both.con, HERE, both.read.table.parts, codes={}, folder=str(both.folder / "cleaned"), looks={}
    )
    cleaned = sorted_table(clean(both.con, both.raw, SCHEMA))
    assert both.rows(made.parts).equals(cleaned)
    assert repeats == both.raw.count("*").fetchall()[0][0] - len(cleaned) >= 3
    assert {5, 306, 608}.isdisjoint(cleaned["lead_number"].to_pylist())


def test_a_hash_that_two_leads_share_does_not_make_them_one(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    def same_for_all(con: duckdb.DuckDBPyConnection, normalised: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        return con.sql("SELECT drop, lead_number, 7::UBIGINT AS row_hash FROM normalised")

    expected = sorted_table(clean(both.con, both.raw, SCHEMA))
    monkeypatch.setattr("junk_leads.engine.on_shards.row_hashes", same_for_all)
    made, _ = drops.clean_drop(
        both.con, HERE, both.read.table.parts, codes={}, folder=str(both.folder / "cleaned"), looks={}
    )
    assert both.rows(made.parts).equals(expected)


def test_groups_and_counts_add_up_to_those_of_one_file(both: Both) -> None:
    made, _ = drops.clean_drop(
        both.con, HERE, both.read.table.parts, codes={}, folder=str(both.folder / "cleaned"), looks={}
    )
    grouped = drops.group_drop(both.con, HERE, made.parts, folder=str(both.folder / "groups"), looks={})
    counted = drops.count_drop(both.con, HERE, made.parts, grouped.parts)
    cleaned = clean(both.con, both.raw, SCHEMA)
    groups = group_interactions(both.con, cleaned)
    assert both.rows(grouped.parts).equals(sorted_table(groups))
    alone = count_leads(both.con, cleaned, groups)
    assert (counted.columns, counted.types) == (alone.columns, alone.types)
    assert sorted(counted.fetchall(), key=str) == sorted(alone.fetchall(), key=str)


def test_renamed_codes_are_put_back_in_every_shard(both: Both) -> None:
    codes = {"first_platform_c": {"Level0": "Level7"}}
    made, _ = drops.clean_drop(
        both.con, HERE, both.read.table.parts, codes=codes, folder=str(both.folder / "cleaned"), looks={}
    )
    platforms = both.rows(made.parts)["first_platform_c"].to_pylist()
    assert "Level0" not in platforms
    assert "Level7" in platforms


def test_checks_see_of_shards_what_they_see_of_one_file(both: Both) -> None:
    looks = load_suite("raw_leads").looks
    frames = {
        "rows": accounting.narrow_rows(both.con, both.whole.leads, SCHEMA),
        "interactions": accounting.counted_interactions(both.con, both.whole.leads, SCHEMA),
    }
    for name, frame in frames.items():
        alone, added = Tally.of(frame, looks[name]), both.read.table.tallies[name]
        assert (added.columns, len(added)) == (alone.columns, len(alone))
        for column in looks[name]:
            assert added.values[column].to_pylist() == alone.values[column].to_pylist(), column


# What is refused


def refusal(con: duckdb.DuckDBPyConnection, folder: Path, to: Path) -> DropRefused:
    with pytest.raises(DropRefused) as refused:
        read(con, folder, to)
    return refused.value


def test_a_refused_shard_refuses_the_drop_and_is_named(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    header, rows = dirty_lines(tmp_path, 30)
    folder = write_shards(tmp_path / "d", header, rows)
    (folder / "part-1.csv").write_bytes(b"PK\x03\x04 no leads")
    refused = refusal(con, folder, tmp_path)
    assert "shard 'part-1.csv': the file is a zip archive" in str(refused)
    assert refused.where.startswith("part-1.csv")


def test_shards_with_different_headers_are_refused(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    header, rows = dirty_lines(tmp_path, 30)
    folder = write_shards(tmp_path / "d", header, rows)
    other = folder / "part-2.csv"
    lines = other.read_text(encoding="utf-8").splitlines()
    other.write_text("\n".join([lines[0] + ",more", *(line + ",1" for line in lines[1:])]), encoding="utf-8")
    assert "shard 'part-2.csv' has another header than 'part-0.csv' (has more)" in str(refusal(con, folder, tmp_path))


def test_a_shard_that_appears_twice_is_refused(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    header, rows = dirty_lines(tmp_path, 30)
    folder = write_shards(tmp_path / "d", header, rows)
    (folder / "copy.csv").write_bytes((folder / "part-1.csv").read_bytes())
    refused = refusal(con, folder, tmp_path)
    assert "the shards 'copy.csv' and 'part-1.csv' have the same content" in str(refused)


@pytest.mark.parametrize("asked", ["empty", "empty/*.csv"])
def test_a_folder_or_pattern_without_files_is_refused(tmp_path: Path, asked: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(DropRefused, match=r"there is no file named .csv, .csv.gz or .parquet in"):
        find_shards(str(tmp_path / asked))


def test_what_is_no_parquet_is_refused(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    header, rows = dirty_lines(tmp_path, 30)
    folder = write_shards(tmp_path / "d", header, rows)
    (folder / "part-3.parquet").write_text("no Parquet", encoding="utf-8")
    assert "shard 'part-3.parquet': the file is not Parquet" in str(refusal(con, folder, tmp_path))


def test_a_shard_that_changed_after_it_was_delivered_is_refused(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    header, rows = dirty_lines(tmp_path, 30)
    folder = write_shards(tmp_path / "d", header, rows)
    urls = find_shards(str(folder))
    shards = shards_of(urls, HERE.map(content_of_shard, urls))
    (folder / "part-2.csv").write_text(header, encoding="utf-8")
    with pytest.raises(DropRefused, match=r"shard 'part-2.csv': it changed after it was delivered"):
        drops.read_drop(con, HERE, shards, drop="d", folder=str(tmp_path / "raw"), looks={})


def test_storage_that_vanished_is_told_in_one_line(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    header, rows = dirty_lines(tmp_path, 30)
    folder = write_shards(tmp_path / "d", header, rows)
    urls = find_shards(str(folder))
    shards = shards_of(urls, HERE.map(content_of_shard, urls))
    folder.rename(tmp_path / "gone")
    with pytest.raises(StorageUnavailable, match=r"cannot be read .No such file or directory.; nothing was changed"):
        drops.read_drop(con, HERE, shards, drop="d", folder=str(tmp_path / "raw"), looks={})


def test_a_storage_that_nothing_here_knows_is_told_in_one_line() -> None:
    with pytest.raises(StorageUnavailable, match="the storage of 'nowhere://leads' cannot be read"):
        find_shards("nowhere://leads")


def test_what_the_library_behind_a_storage_raises_is_told_in_one_line() -> None:
    class Unreachable(MemoryFileSystem):
        protocol = "unreachable"

        def info(self, path: str, **_: object) -> dict[str, object]:
            raise RuntimeError(f"no endpoint answers for {path}\nfor long")  # as s3fs, whose errors are no OSError

        isdir = exists = info

    fsspec.register_implementation("unreachable", Unreachable, clobber=True)
    with pytest.raises(
        StorageUnavailable, match=r"cannot be read .no endpoint answers for [^\n]*; nothing was changed"
    ):
        find_shards("unreachable://leads")


def test_shards_on_storage_that_is_not_local_are_fetched(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    header, rows = dirty_lines(tmp_path, 30)
    memory = fsspec.filesystem("memory")
    for at in range(2):
        memory.pipe(f"/leads/s{at}.csv", (header + "".join(rows[at * 15 : at * 15 + 15])).encode())
    try:
        urls = find_shards("memory://leads/*.csv")
        shards = shards_of(urls, HERE.map(content_of_shard, urls))
        found = drops.read_drop(con, HERE, shards, drop="d", folder=str(tmp_path / "raw"), looks={})
    finally:
        memory.rm("/leads", recursive=True)
    assert found.rows_read == 30
