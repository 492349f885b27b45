"""Faults as people meet them: every one has a test by name, and those of a file are delivered by the command line.

What lives here: docs/faults.md held against the tests there are, and what concerns a whole process. What does not: the
many ways a row or file can be wrong, which stand with the step that finds them (`leads/`).
"""

import ast
import csv
import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from junk_leads.home import Home
from junk_leads.reference import lead_schema
from junk_leads.steps.leads.generating import write_leads
from junk_leads.stores.warehouse import connect
from junk_leads_tests.conftest import Outcome, leads_of, run_command

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "docs" / "faults.md"
SCHEMA = lead_schema()


def test_every_fault_has_tests_and_they_are_there() -> None:
    rows = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 79))
    there = {
        node.name
        for file in (CHECKOUT / "junk_leads_tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    for number, shown in rows:
        named = re.findall(r"`(test_\w+)`", shown)
        assert named, number
        assert set(named) <= there, number


def test_fault_30_a_text_written_in_any_way_is_one_key(con: duckdb.DuckDBPyConnection) -> None:
    from junk_leads.steps.leads.cleaning import clean

    ways = (
        "São Tomé",
        "são tomé",
        " SÃO  TOMÉ ",
        "Sa\u0303o Tome\u0301",
        "São\u200b Tomé",
        "\ufeffSão\u00a0Tomé",
        "São\u2060 Tomé",
    )
    level = ("Level0", "LEVEL0", " level0 ", "Level\u200b0", "\u200fLevel0", "level0\u00a0", "LeVeL0")
    rows = [
        {"city_mapped": city, "first_platform_c": platform, "total_leads_droppped": number}
        for number, (city, platform) in enumerate(zip(ways, level, strict=True))
    ]
    cleaned = clean(con, leads_of(con, *rows), SCHEMA)
    assert cleaned.select("city_mapped").distinct().fetchall() == [("são tomé",)]
    assert cleaned.select("first_platform_c").distinct().fetchall() == [("Level0",)]


READ = """
import resource, sys, duckdb; from pathlib import Path
from junk_leads.reference import lead_schema; from junk_leads.steps.leads.reading import read_leads
con = duckdb.connect(sys.argv[2], config={"memory_limit": "100MB", "threads": 1})
rows = read_leads(con, Path(sys.argv[1]), lead_schema()).rows_read
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.long
def test_fault_13_memory_does_not_grow_with_the_rows_of_a_file(tmp_path: Path) -> None:
    few, many = tmp_path / "few.csv", tmp_path / "many.csv"
    write_leads(few, 50_000, seed=1)
    head, *rows = few.read_bytes().splitlines(keepends=True)
    many.write_bytes(head + b"".join(rows) * 20)
    used = {}
    for path in (few, many):
        done = subprocess.run(
            [sys.executable, "-c", READ, path, tmp_path / f"{path.stem}.duckdb"],
            capture_output=True,
            text=True,
            check=True,
        )
        rows_read, used[path] = map(int, done.stdout.split()[-2:])
    assert rows_read == 1_000_000
    assert used[many] < used[few] + 200  # MB: what DuckDB may use, and a piece of the file


# Files, one home, one command


def odd_files(folder: Path) -> dict[str, str]:
    """Files with a fault each, written into a folder: their names, and how the line that refuses each begins."""
    good = folder / "good.csv"
    write_leads(good, 200, seed=3)
    text = good.read_text(encoding="utf-8")
    head, *lines = text.splitlines(keepends=True)
    at = SCHEMA.names.index("syllabus")
    bad_rows = [",".join(["x" if place == at else cell for place, cell in enumerate(row.split(","))]) for row in lines]
    _, *rest = head.split(",")
    files: dict[str, tuple[bytes, str]] = {
        "1 empty.csv": (b"", "the file is empty (0 bytes)"),
        "4 latin.csv": (
            text.encode() + "São,\n".encode("latin-1"),
            "the file is not UTF-8: line 202 looks like Latin-1",
        ),
        "4 wide.csv": (text.encode("utf-16"), "the file is UTF-16 text"),
        "5 book.csv": (b"PK\x03\x04[Content_Types].xml", "the file is an Excel workbook (XLSX)"),
        "5 page.csv": (b"<html><table></table></html>", "the file is an HTML or XML page"),
        "6 semicolons.csv": (
            text.replace(",", ";").encode(),
            "the header is on line 1 and its columns are separated by semicolons",
        ),
        "6 preamble.csv": (f"Leads of July\n{text}".encode(), "the header is on line 2"),
        "6 headless.csv": ("".join(lines).encode(), "the first line is not the header of a lead file"),
        "7 twice.csv": (
            text.replace(head, ",".join(["CITY_MAPPED", *rest]), 1).encode(),
            "columns 1 and 2 have the same name",
        ),
        "9 lacking.csv": (text.replace(head, ",".join(["made", *rest]), 1).encode(), "the header lacks created_date"),
        "12 bomb.csv.gz": (
            gzip.compress(text.encode() + lines[0].encode() * 1_500_000),
            "the .gz file inflates to over",
        ),
        "12 cut.csv.gz": (
            gzip.compress(text.encode())[:-20],
            "the file is named .gz but does not hold whole gzip data",
        ),
        "23 bad.csv": (
            (head + "".join(bad_rows)).encode(),
            "raw_leads was not stored: has_few_rejected_rows: 200 of 200 rows rejected: syllabus is not a number, "
            "first in line 2; mend the file and deliver it again",
        ),
        "x 'n' \n😀.csv": (b"\x00\x01\x02" * 300, "the file is binary data"),
        "p.parquet": (text.encode(), "the file is not Parquet with a column for each field of a lead"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "16 pipe.csv")
    (folder / "16 link.csv").symlink_to(good)
    (folder / "16 folder.csv").mkdir()
    told = {name: begins for name, (_, begins) in files.items()}
    return {
        **told,
        "16 link.csv": "'16 link.csv' is not a regular file",
        "16 pipe.csv": "'16 pipe.csv' is not a regular file",
    }


@pytest.mark.long
def test_faults_1_to_23_every_bad_file_is_refused_in_one_line_and_the_good_one_beside_it_is_taken(
    tmp_path: Path, home: Home, junk_leads: Callable[..., Outcome]
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    refused = odd_files(folder)
    outcome = junk_leads("ingest", *(folder / name for name in (*refused, "good.csv")))
    assert outcome.code == 1
    assert len(outcome.failures) == len(refused)
    for name, begins in refused.items():
        (line,) = [line for line in outcome.failures if " ".join(begins.split()) in line]
        assert line.startswith((" ".join(name.split()), begins)), name
        assert ";" in line, name  # what to do
    assert outcome.out.startswith("good: 200 rows read, ")
    reasons = [json.loads(path.read_text(encoding="utf-8")) for path in home.quarantine.rglob("reason.json")]
    assert len(reasons) == len(refused) - 2  # a pipe and a link were not delivered at all
    assert all(reason["what"] and reason["where"] and reason["do"] for reason in reasons)
    with connect(home.warehouse) as con:
        assert con.sql("SELECT DISTINCT drop FROM raw_leads").fetchall() == [("good",)]
    with (
        (home.quarantine / next(p.name for p in home.quarantine.iterdir() if p.name.startswith("23")))
        .joinpath("rejected_rows.csv")
        .open(newline="", encoding="utf-8") as file
    ):
        assert len(list(csv.DictReader(file))) == 200
    assert run_command("doctor", home=home).code == 0
