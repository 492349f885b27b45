"""Reading a delivered CSV: what is refused, what is rejected and why, and what comes out typed."""

import csv
import gzip
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import duckdb
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow.parquet import write_table

from junk_leads.errors import DropRefused, JunkLeadsError
from junk_leads.reference import lead_schema
from junk_leads.steps.leads import arrow, reading, splitting
from junk_leads.steps.leads.arrow import ARROW_TYPES
from junk_leads.steps.leads.reading import RecordReader, check_file, delivered_rows, read_header, read_leads

SCHEMA = lead_schema()
HEADER = ",".join(SCHEMA.names)
GOOD = {"created_date": "2021-07-01 00:08:15", "city_mapped": "delhi", "app_complete_flag": "1"}
SECRET = "Asha-9812345678"  # stands for a lead's data, which no message may hold
SHARED = Path(__file__).parents[3] / "shared" / "data"
DO = "export the leads again as comma-separated UTF-8 text and deliver that"
NO_HEADER = f"; expected line 1 to name the columns, separated by commas: {', '.join(SCHEMA.required)}; {DO}"


def connect() -> duckdb.DuckDBPyConnection:
    """A database that works in the test's own thread, where coverage sees it."""
    return duckdb.connect(config={"threads": 1})


def line(**cells: str) -> str:
    """One CSV line of a good lead with these cells, as raw text, in the place of its own."""
    values = GOOD | cells
    return ",".join(values.get(name, "") for name in SCHEMA.names)


def text(*lines: str, header: str = HEADER, end: str = "\n") -> str:
    return end.join((header, *lines)) + end


@pytest.fixture
def deliver(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str | bytes, name: str = "drop.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


class Result:
    """A reading, fetched: leads as dicts by lead_number, rejections as tuples."""

    def __init__(self, path: Path, con: duckdb.DuckDBPyConnection | None = None) -> None:
        self.reading = read_leads(con or connect(), path, SCHEMA)
        leads = self.reading.leads.order("lead_number")
        self.rows = leads.fetchall()
        self.leads = {row[0]: dict(zip(leads.columns[1:], row[1:], strict=True)) for row in self.rows}
        self.rejected = self.reading.rejected.order("lead_number").fetchall()

    @property
    def everything(self) -> tuple[Any, ...]:
        return self.rows, self.rejected, self.reading.rows_read, self.reading.rows_rejected


@contextmanager
def careful_way_only() -> Iterator[None]:
    with mock.patch.object(splitting, "_is_plain", return_value=False):
        yield


# What comes out


def test_a_lead_is_typed_by_the_schema_and_missing_values_stay_null(deliver: Callable[..., Path]) -> None:
    cells = {
        "total_leads_droppped": "3.0",
        "syllabus": "1e2",
        "first_platform_c": "NA",
        "city_mapped": " Delhi\t",
    }
    result = Result(deliver(text(line(**cells))))
    lead = result.leads[1]
    assert lead["created_date"] == datetime(2021, 7, 1, 0, 8, 15)
    assert (lead["total_leads_droppped"], lead["syllabus"], lead["app_complete_flag"]) == (3, 100, 1)
    assert (lead["first_platform_c"], lead["referred_lead"], lead["career_coach"]) == (None, None, None)
    assert lead["city_mapped"] == " Delhi\t"
    assert (result.reading.labelled, result.reading.rows_read, result.reading.rows_rejected) == (True, 1, 0)


def test_a_header_alone_gives_empty_typed_relations(deliver: Callable[..., Path]) -> None:
    for content in (HEADER, HEADER + "\r\n", HEADER + "\n\n \n"):
        result = Result(deliver(content))
        assert (result.rows, result.rejected, result.reading.rows_read) == ([], [], 0)
        assert result.reading.leads.columns == ["lead_number", *SCHEMA.names]
        types = [str(kind) for kind in result.reading.leads.types]
        assert types == ["BIGINT", *(column.type for column in SCHEMA.columns)]
        assert result.reading.rejected.columns == ["lead_number", "line", "column_name", "reason", "raw"]
        assert [str(kind) for kind in result.reading.rejected.types] == ["BIGINT"] * 2 + ["VARCHAR"] * 3


def test_columns_are_found_by_name_in_any_order_beside_others(deliver: Callable[..., Path]) -> None:
    plain = Result(deliver(text(line(), line(syllabus="2"))))
    names = ["", "note", *reversed(SCHEMA.names)]
    rows = [{**GOOD, "": "0", "note": "call, back"}, {**GOOD, "syllabus": "2", "": "1", "note": 'a "b"\r\nc'}]
    out = io.StringIO()
    writer = csv.DictWriter(out, [f" {name} " if name else "" for name in names])
    writer.writeheader()
    writer.writerows({f" {name} " if name else "": value for name, value in row.items()} for row in rows)
    shuffled = Result(deliver("\ufeff" + out.getvalue()))
    assert shuffled.everything == plain.everything
    assert shuffled.reading.header == tuple(f" {name} " if name else "" for name in names)
    assert shuffled.reading.ignored == (" note ",)
    assert plain.reading.ignored == ()


def test_a_file_without_the_label_is_unlabelled_and_its_label_is_null(deliver: Callable[..., Path]) -> None:
    for cell in ("plain", '"quoted"'):
        body = line(city_mapped=cell, app_complete_flag="").removesuffix(",")
        result = Result(deliver(text(body, header=HEADER.removesuffix(",app_complete_flag"))))
        assert not result.reading.labelled
        assert result.leads[1]["app_complete_flag"] is None
        assert result.leads[1]["city_mapped"] == cell.strip('"')


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_line_ends_and_a_byte_order_mark_change_nothing(deliver: Callable[..., Path], end: str, bom: str) -> None:
    lines = (line(), line(city_mapped="pune"), "TOTAL", line(syllabus="x"), line(city_mapped="goa"))
    assert Result(deliver(bom + text(*lines, end=end))).everything == Result(deliver(text(*lines))).everything


def test_mixed_line_ends_and_a_missing_last_one_change_nothing(deliver: Callable[..., Path]) -> None:
    mixed = f"{HEADER}\r\n{line()}\r{line(city_mapped='pune')}\n{line(city_mapped='goa')}"
    plain = text(line(), line(city_mapped="pune"), line(city_mapped="goa"))
    assert Result(deliver(mixed)).everything == Result(deliver(plain)).everything


def test_embedded_line_ends_quotes_and_commas_are_kept_exactly(deliver: Callable[..., Path]) -> None:
    city = 'New\r\n"Delhi",\nIndia\r'
    quoted = '"' + city.replace('"', '""') + '"'
    result = Result(deliver(text(line(), line(city_mapped=quoted), line(city_mapped='5" goa'), "TOTAL")))
    assert [lead["city_mapped"] for lead in result.leads.values()] == ["delhi", city, '5" goa']
    assert result.rejected == [(4, 8, None, "has 1 fields where the header has 45", "TOTAL")]


def test_blank_lines_are_no_rows_but_count_as_lines(deliver: Callable[..., Path]) -> None:
    result = Result(deliver(text(line(), "", " \t", line(syllabus="x"), "", line(), "", "")))
    assert list(result.leads) == [1, 3]
    assert [row[:4] for row in result.rejected] == [(2, 5, "syllabus", "is not a number")]
    assert Result(deliver(text(line(), "", line(), "", ""))).reading.rows_read == 2


def test_an_open_transaction_survives_a_refusal_and_no_table_is_left(deliver: Callable[..., Path]) -> None:
    con = duckdb.connect()
    con.execute("BEGIN")
    con.execute("CREATE TABLE mine AS SELECT 1")
    with pytest.raises(DropRefused):
        read_leads(con, deliver(text(line(), header=HEADER).encode() + b"\xe9\n"), SCHEMA)
    con.execute("COMMIT")
    assert con.execute("SHOW TABLES").fetchall() == [("mine",)]


def test_the_table_behind_a_reading_can_be_dropped_and_nothing_else_is_left(
    deliver: Callable[..., Path],
) -> None:
    con = duckdb.connect()
    con.execute("SET enable_external_access = false")
    con.execute(f"DROP TABLE {Result(deliver(text(line())), con).reading.table}")
    assert con.execute("SHOW TABLES").fetchall() == []


# Rows that are rejected

NO_DATE = "is not a date written as %Y-%m-%d %H:%M:%S"
OUT_OF_RANGE = "is not a date from 2010-01-01 to before 2100-01-01"
BAD_QUOTE = "has a quote that is not closed, or closed inside a field"
TOO_LONG = "has a field of over 131,072 characters (JUNK_LEADS_LONGEST_FIELD)"
REJECTED = {
    "text in a count": ({"syllabus": SECRET}, "syllabus", "is not a number"),
    "part of a count": ({"syllabus": "1.5"}, "syllabus", "is not a whole number"),
    "a negative count": ({"syllabus": "-1"}, "syllabus", "is negative"),
    "inf": ({"syllabus": "inf"}, "syllabus", "is not a number"),
    "NaN": ({"syllabus": "NaN"}, "syllabus", "is not a number"),
    "1e400": ({"syllabus": "1e400"}, "syllabus", "is larger than 2147483647"),
    "beyond 32 bits": ({"syllabus": "2147483648"}, "syllabus", "is larger than 2147483647"),
    "beyond 64 bits": ({"syllabus": "9" * 30}, "syllabus", "is larger than 2147483647"),
    "a hexadecimal count": ({"syllabus": "0x10"}, "syllabus", "is not a number"),
    "a count with an underscore": ({"syllabus": "1_0"}, "syllabus", "is not a number"),
    "a count in other digits": ({"syllabus": "\N{ARABIC-INDIC DIGIT ONE}"}, "syllabus", "is not a number"),
    "a blank count": ({"syllabus": " "}, "syllabus", "is not a number"),
    "a null token with blanks": ({"syllabus": " NA"}, "syllabus", "is not a number"),
    "another null": ({"syllabus": "None"}, "syllabus", "is not a number"),
    "a flag of 2": ({"referred_lead": "2"}, "referred_lead", "is larger than 1"),
    "a missing date": ({"created_date": ""}, "created_date", "is missing"),
    "a date that is NA": ({"created_date": "NA"}, "created_date", "is missing"),
    "30 February": ({"created_date": "2021-02-30 00:00:00"}, "created_date", NO_DATE),
    "hour 24": ({"created_date": "2021-02-03 24:00:00"}, "created_date", NO_DATE),
    "a date with a T": ({"created_date": "2021-02-03T00:00:00"}, "created_date", NO_DATE),
    "a date alone": ({"created_date": "2021-02-03"}, "created_date", NO_DATE),
    "a date with short parts": ({"created_date": "2021-2-3 0:0:0"}, "created_date", NO_DATE),
    "an ambiguous date": ({"created_date": "03/02/2021 00:00"}, "created_date", NO_DATE),
    "a date with a blank": ({"created_date": "2021-02-03 00:00:00 "}, "created_date", NO_DATE),
    "year 0": ({"created_date": "0000-01-01 00:00:00"}, "created_date", NO_DATE),
    "year 9999": ({"created_date": "9999-12-31 00:00:00"}, "created_date", OUT_OF_RANGE),
    "the first day too late": ({"created_date": "2100-01-01 00:00:00"}, "created_date", OUT_OF_RANGE),
    "the last second too early": ({"created_date": "2009-12-31 23:59:59"}, "created_date", OUT_OF_RANGE),
    "a missing label": ({"app_complete_flag": ""}, "app_complete_flag", "is missing"),
    "label 2": ({"app_complete_flag": "2"}, "app_complete_flag", "is larger than 1"),
    "label -1": ({"app_complete_flag": "-1"}, "app_complete_flag", "is negative"),
    "label yes": ({"app_complete_flag": "yes"}, "app_complete_flag", "is not a number"),
    "a long text": ({"city_mapped": "é" * 1001}, "city_mapped", "is longer than 1000 characters"),
    "a cell with a NUL": ({"city_mapped": "del\0hi"}, None, "holds a NUL byte"),
    "a cell too many": ({"city_mapped": "delhi,india"}, None, "has 46 fields where the header has 45"),
    "an opening quote": ({"city_mapped": '"delhi'}, None, BAD_QUOTE),
    "a quote inside a field": ({"city_mapped": '"del"hi'}, None, BAD_QUOTE),
    "a field of 3 MB": ({"city_mapped": "x" * 3_000_000}, None, TOO_LONG),
    "a quoted field of 3 MB": ({"city_mapped": f'"{"x" * 3_000_000}"'}, None, TOO_LONG),
}  # fmt: skip


@pytest.mark.parametrize("case", REJECTED)
def test_a_faulty_row_is_rejected_alone_with_line_column_and_reason(deliver: Callable[..., Path], case: str) -> None:
    cells, column, reason = REJECTED[case]
    faulty = line(**cells)
    result = Result(deliver(text(line(), faulty, line(city_mapped="pune"), line(city_mapped="goa"))))
    assert result.rejected == [(2, 3, column, reason, faulty[:10_000])]
    assert {number: lead["city_mapped"] for number, lead in result.leads.items()} == {
        1: "delhi",
        3: "pune",
        4: "goa",
    }
    assert (result.reading.rows_read, result.reading.rows_rejected) == (4, 1)


@pytest.mark.parametrize("row", ["TOTAL,24991", "TOTAL" + "," * 44, HEADER, "a", "," * 44, "\x1a"])
def test_what_is_no_lead_below_the_header_is_rejected(deliver: Callable[..., Path], row: str) -> None:
    result = Result(deliver(text(line(), row)))
    assert (list(result.leads), [r[0] for r in result.rejected]) == ([1], [2])
    reason = "is missing" if row == "," * 44 else NO_DATE
    ragged = f"has {row.count(',') + 1} fields where the header has 45"
    assert result.rejected[0][3] == (reason if row.count(",") == 44 else ragged)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        *[("1", 1), ("1.0", 1), ("1.", 1), ("1e2", 100), ("+1", 1), ("01", 1), ("-0", 0), (" 2\t", 2), (".5e1", 5)],
        *[("NA", None), ("null", None), ("NULL", None), ("2147483647", 2147483647)],
    ],
)
def test_a_whole_number_is_read_however_it_is_written(
    deliver: Callable[..., Path], cell: str, value: int | None
) -> None:
    path = deliver(text(line(syllabus=cell)))
    assert Result(path).leads[1]["syllabus"] == value
    with careful_way_only():
        assert Result(path).leads[1]["syllabus"] == value


@pytest.mark.parametrize(("date", "is_good"), [("01/07/2021", True), ("1/7/2021", False), ("2021-07-01", False)])
def test_another_date_format_of_the_schema_is_held_to_as_exactly(
    deliver: Callable[..., Path], date: str, is_good: bool
) -> None:
    schema = replace(SCHEMA, date_format="%d/%m/%Y")
    result = read_leads(connect(), deliver(text(line(created_date=date))), schema)
    dates = [(datetime(2021, 7, 1),)] if is_good else []
    assert result.leads.select("created_date").fetchall() == dates
    reasons = [] if is_good else [("is not a date written as %d/%m/%Y",)]
    assert result.rejected.select("reason").fetchall() == reasons


def test_the_first_faulty_column_is_the_one_that_is_named(deliver: Callable[..., Path]) -> None:
    result = Result(deliver(text(line(syllabus="x", referred_lead="7", app_complete_flag=""))))
    assert [row[2:4] for row in result.rejected] == [("referred_lead", "is larger than 1")]


def test_a_fault_far_down_a_long_file_is_found_and_costs_nothing_else(deliver: Callable[..., Path]) -> None:
    lines = [line(total_leads_droppped=str(number)) for number in range(1, 40_001)]
    lines[30_000 - 1] = line(syllabus="x")
    lines[35_000 - 1] = line(city_mapped='"open')
    result = Result(deliver(text(*lines)))
    assert [row[:3] for row in result.rejected] == [(30_000, 30_001, "syllabus"), (35_000, 35_001, None)]
    assert all(lead["total_leads_droppped"] == number for number, lead in result.leads.items())
    assert len(result.leads) == 39_998


@pytest.mark.parametrize("block", [64, 1000, 1 << 20])
def test_an_unclosed_quote_never_takes_the_rows_below_it(
    deliver: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(splitting, "BLOCK_BYTES", block)
    lines = [line() for _ in range(50)]
    lines[10] = line(city_mapped='"open')
    lines[20] = line(city_mapped='close"')  # with line 10, a record of the right width, but with rows inside
    lines[30] = line(city_mapped='"kept\nwhole, and ""quoted"""')
    lines[40] = line(city_mapped='"open to the end')
    result = Result(deliver(text(*lines)))
    assert [row[0] for row in result.rejected] == [11, 41]
    assert result.leads[21]["city_mapped"] == 'close"'
    assert result.leads[31]["city_mapped"] == 'kept\nwhole, and "quoted"'
    assert len(result.leads) == 48


def test_a_field_that_is_too_long_costs_its_record_alone_whole_lines_and_all(deliver: Callable[..., Path]) -> None:
    long = '"' + "a, b\n" * 40_000 + '"'  # 200,000 characters on 40,000 lines
    result = Result(deliver(text(line(), line(city_mapped=long), line(city_mapped='"two\nlines"'))))
    assert [row[:4] for row in result.rejected] == [(2, 3, None, TOO_LONG)]
    assert (list(result.leads), result.reading.rows_read) == ([1, 3], 3)


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("JUNK_LEADS_LONGEST_FIELD", "8", "has a field of over 8 characters (JUNK_LEADS_LONGEST_FIELD)"),
        ("JUNK_LEADS_LONGEST_FIELD", "0", "has a field of over 0 characters (JUNK_LEADS_LONGEST_FIELD)"),
        ("JUNK_LEADS_LONGEST_LINE", "50", "expected at most 50 bytes (JUNK_LEADS_LONGEST_LINE sets another cap)"),
        ("JUNK_LEADS_MOST_COLUMNS", "44", "expected at most 44 columns (JUNK_LEADS_MOST_COLUMNS sets another cap)"),
        ("JUNK_LEADS_MOST_COLUMNS", "many", "JUNK_LEADS_MOST_COLUMNS is 'many', which is no number"),
    ],
)
def test_a_cap_is_a_setting_that_its_refusal_names(
    deliver: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, setting: str, value: str, told: str
) -> None:
    monkeypatch.setattr(splitting, "BLOCK_BYTES", 64)
    path = deliver(text(line(), line(city_mapped="neither")))
    assert Result(path).rejected == []
    monkeypatch.setenv(setting, value)
    try:
        reasons = [row[3] for row in Result(path).rejected]
    except JunkLeadsError as refused:
        reasons = [str(refused)]
    assert reasons
    assert all(told in reason for reason in reasons)


# Files that are refused


def xlsx() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as book:
        book.writestr("[Content_Types].xml", "<Types/>")
    return out.getvalue()


BODY = text(line(city_mapped=SECRET))
KIND = "; expected CSV text in UTF-8; " + DO
REFUSED: dict[str, tuple[bytes, str]] = {
    "0 bytes": (b"", f"the file is empty (0 bytes); {DO}"),
    "UTF-16": (BODY.encode("utf-16"), f"the file is UTF-16 text{KIND}"),
    "UTF-16 without a mark": (BODY.encode("utf-16-be"), f"the file is UTF-16 text{KIND}"),
    "UTF-32": (BODY.encode("utf-32"), f"the file is UTF-32 text{KIND}"),
    "UTF-32 without a mark": (BODY.encode("utf-32-le"), f"the file is UTF-32 text{KIND}"),
    "Latin-1": (
        BODY.encode() + line(city_mapped="São Paulo").encode("latin-1"),
        "the file is not UTF-8: line 3 looks like Latin-1, Windows-1252 or another 8-bit encoding; "
        f"expected UTF-8; {DO}",
    ),
    "XLSX": (xlsx(), f"the file is an Excel workbook (XLSX){KIND}"),
    "XLS": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
        f"the file is an old Excel workbook (XLS){KIND}",
    ),
    "zip": (b"PK\x03\x04" + bytes(30), f"the file is a zip archive{KIND}"),
    "gzip": (gzip.compress(BODY.encode()), f"the file is gzip data{KIND}"),
    "PDF": (b"%PDF-1.7\n", f"the file is a PDF document{KIND}"),
    "Parquet": (b"PAR1\x15\x04", f"the file is a Parquet file that is not named .parquet{KIND}"),
    "HTML": (b"\n <!DOCTYPE html><table>", f"the file is an HTML or XML page{KIND}"),
    "zeros": (bytes(5000), f"the file is binary data{KIND}"),
    "other bytes": (b"\n" + bytes(range(1, 256)) * 8, f"the file is binary data{KIND}"),
    "semicolons": (
        BODY.replace(",", ";").encode(),
        f"the header is on line 1 and its columns are separated by semicolons{NO_HEADER}",
    ),
    "tabs": (
        BODY.replace(",", "\t").encode(),
        f"the header is on line 1 and its columns are separated by tabs{NO_HEADER}",
    ),
    "quoted semicolons": (
        "\r\n".join(";".join(f' "{cell}"' for cell in row.split(",")) for row in BODY.splitlines()).encode(),
        f"the header is on line 1 and its columns are separated by semicolons{NO_HEADER}",
    ),
    "a preamble": (
        f"Leads of {SECRET}\n\n{BODY}".encode(),
        f"the header is on line 3 and its columns are separated by commas (line 1){NO_HEADER}",
    ),
    "no header": (
        line(city_mapped=SECRET).encode(),
        f"the first line is not the header of a lead file (line 1){NO_HEADER}",
    ),
    "a blank line": (b"\n", f"the first line is not the header of a lead file (line 1){NO_HEADER}"),
    "a lone mark": (b"\xef\xbb\xbf", f"the first line is not the header of a lead file (line 1){NO_HEADER}"),
    "JSON": (b'[{"created_date": 1}]', f"the first line is not the header of a lead file (line 1){NO_HEADER}"),
    "a missing column": (
        BODY.replace("city_mapped,", "city,").replace("syllabus,", "s,").encode(),
        "the header lacks city_mapped, download_syllabus, syllabus (line 1); expected every column under exactly its "
        "own name, in lower case; add or rename the columns and deliver the file again",
    ),
    "another case": (
        BODY.replace("city_mapped", "City_Mapped").encode(),
        "the header lacks city_mapped (delivered as City_Mapped) (line 1); expected every column under exactly its "
        "own name, in lower case; add or rename the columns and deliver the file again",
    ),
    "the label in another case": (
        BODY.replace("app_complete_flag", "APP_COMPLETE_FLAG").encode(),
        "the header lacks app_complete_flag (delivered as APP_COMPLETE_FLAG) (line 1); expected every column under "
        "exactly its own name, in lower case; add or rename the columns and deliver the file again",
    ),
    "a column twice": (
        text(header=HEADER + ",careers").encode(),
        "columns 13 and 46 have the same name, upper and lower case being one (line 1); expected each column once; "
        "remove or rename the column that should not be there",
    ),
    "a column twice but for case": (
        text(header="Careers ," + HEADER).encode(),
        "columns 1 and 14 have the same name, upper and lower case being one (line 1); expected each column once; "
        "remove or rename the column that should not be there",
    ),
    "an open quote in the header": (
        text(line(), header='"' + HEADER).encode(),
        f"the quotes in the header do not pair up (line 1); {DO}",
    ),
    "too many columns": (
        text(header=HEADER + ",x" * 1000).encode(),
        f"the header has 1,045 columns (line 1); expected at most 1,000 columns "
        f"(JUNK_LEADS_MOST_COLUMNS sets another cap); {DO}",
    ),
    "an endless line": (
        (HEADER + "\n").encode() + b"x" * 10_000_000,
        "a line is longer than 8,388,608 bytes; expected at most 8,388,608 bytes "
        f"(JUNK_LEADS_LONGEST_LINE sets another cap); {DO}",
    ),
}


def test_what_is_just_large_enough_is_taken_the_quick_way_and_the_careful_way(deliver: Callable[..., Path]) -> None:
    longest, largest = "é" * SCHEMA.longest_text, str(reading._largest(SCHEMA.columns[10], SCHEMA))
    path = deliver(text(line(city_mapped=longest, **{SCHEMA.columns[10].name: largest}), line(referred_lead="1")))
    quick = Result(path).everything
    assert quick[3] == 0
    with careful_way_only():
        assert Result(path).everything == quick
    assert (quick[0][0][2], quick[0][0][11], quick[0][1][7]) == (longest, int(largest), 1)


# A lead by its names


def test_a_record_is_read_as_a_file_of_the_same_text_is() -> None:
    read = RecordReader(SCHEMA).read
    given = {"created_date": "2021-07-01 00:08:15", "city_mapped": "pune", "referred_lead": 1, "careers": " 2 "}
    assert read({**given, "note": "left", "app_complete_flag": "1", "syllabus": 1e2, "first_utm_source_c": None}) == {
        "created_date": datetime(2021, 7, 1, 0, 8, 15),
        "city_mapped": "pune",
        "referred_lead": 1,
        "careers": 2,
        "syllabus": 100,
    }


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"careers": True}, "careers is neither text, a number nor null"),
        ({"careers": [1]}, "careers is neither text, a number nor null"),
        ({"city_mapped": 5}, "city_mapped is a number; expected text or null"),
        ({"created_date": 1.5}, "created_date is a number; expected text or null"),
        ({"created_date": None}, "created_date is missing"),
        ({"careers": 1.5}, "careers is not a whole number"),
        ({"careers": SECRET}, "careers is not a number"),
    ],
)
def test_a_record_that_cannot_be_is_refused_by_its_columns_name(cells: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$") as refused:
        RecordReader(SCHEMA).read({"created_date": "2021-07-01 00:08:15", **cells})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_no_lead_csv_is_refused_with_what_it_is(deliver: Callable[..., Path], case: str) -> None:
    content, message = REFUSED[case]
    con = connect()
    with pytest.raises(DropRefused) as refused:
        read_leads(con, deliver(content), SCHEMA)
    assert str(refused.value) == message
    assert SECRET not in str(refused.value.as_dict())
    assert con.execute("SHOW TABLES").fetchall() == []


def test_the_header_can_be_read_before_the_columns_are_judged(deliver: Callable[..., Path]) -> None:
    path = deliver("\ufeff,created_date,note\n")
    assert read_header(path) == ("", "created_date", "note")
    with pytest.raises(DropRefused, match="the header lacks city_mapped, first_platform_c, "):
        check_file(path)
    check_file(deliver(BODY))
    assert read_header(deliver(BODY)) == SCHEMA.names


@pytest.mark.parametrize("read", [check_file, read_header])
def test_the_checks_before_reading_refuse_what_is_no_csv(
    deliver: Callable[..., Path], read: Callable[[Path], object]
) -> None:
    with pytest.raises(DropRefused, match="the file is an Excel workbook"):
        read(deliver(xlsx()))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.symlink_to("/etc/hostname"), "a symbolic link"),
        (os.mkfifo, "a named pipe"),
        (Path.mkdir, "a directory"),
    ],
)
def test_what_is_not_a_regular_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], object], kind: str
) -> None:
    make(tmp_path / "drop.csv")
    with pytest.raises(DropRefused) as refused:
        check_file(tmp_path / "drop.csv")
    assert str(refused.value) == f"the path is {kind}; expected a regular file; deliver the file itself"


def test_a_device_is_refused_at_once() -> None:
    with pytest.raises(DropRefused, match="the path is a device or a socket; expected a regular file"):
        check_file(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("absent.csv", "No such file or directory"),
        ("x" * 300, "File name too long"),
        ("a\0b", "its name is not a file's"),
    ],
)
def test_a_file_that_cannot_be_opened_is_refused_with_the_reason(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(DropRefused) as refused:
        check_file(tmp_path / name)
    assert str(refused.value) == f"the file cannot be opened: {why}; check its name and permissions"


@pytest.mark.parametrize(
    "name",
    [
        *("x[1].csv", "y*.csv", "z?.csv", "*.csv.gz", 'it\'s "so".csv', "a;b--.csv", "new\nline.csv", "😀.csv"),
        *("https:x.csv", "é" * 125),
    ],
)
def test_only_the_named_file_is_read_whatever_its_name(deliver: Callable[..., Path], name: str) -> None:
    for other in ("x1.csv", "yy.csv", "zz.csv", "y.csv.gz"):
        deliver(text(line(city_mapped="other")), other)
    content = text(line(city_mapped="mine")).encode()
    result = Result(deliver(gzip.compress(content) if name.endswith(".gz") else content, name))
    assert [lead["city_mapped"] for lead in result.leads.values()] == ["mine"]


def test_a_file_with_too_many_rows_that_do_not_split_is_refused(
    deliver: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deliver(text(line(), *["TOTAL"] * 3, line(syllabus="x")))
    monkeypatch.setenv("JUNK_LEADS_MOST_DAMAGED", "3")
    assert Result(path).reading.rows_rejected == 4
    monkeypatch.setenv("JUNK_LEADS_MOST_DAMAGED", "2")
    with pytest.raises(DropRefused) as refused:
        Result(path)
    assert str(refused.value) == (
        "over 2 rows do not split into the columns of the header; expected at most 2 rows "
        f"(JUNK_LEADS_MOST_DAMAGED sets another cap); {DO}"
    )


# gzip


def test_a_gzip_file_is_read_as_its_content(deliver: Callable[..., Path]) -> None:
    content = text(line(), "TOTAL", line(city_mapped='"a\nb"'))
    zipped = gzip.compress(content.encode()[:700]) + gzip.compress(content.encode()[700:])
    assert Result(deliver(zipped, "drop.csv.gz")).everything == Result(deliver(content)).everything
    assert read_header(deliver(zipped, "drop.CSV.GZ")) == SCHEMA.names


@pytest.mark.parametrize("damage", ["cut", "flipped", "no gzip"])
def test_a_damaged_gzip_file_is_refused(deliver: Callable[..., Path], damage: str) -> None:
    zipped = bytearray(gzip.compress(BODY.encode()))
    if damage == "flipped":
        zipped[len(zipped) // 2] ^= 255
    content = {"cut": bytes(zipped[:-20]), "flipped": bytes(zipped), "no gzip": BODY.encode()}[damage]
    with pytest.raises(DropRefused) as refused:
        read_leads(connect(), deliver(content, "drop.csv.gz"), SCHEMA)
    assert str(refused.value) == f"the file is named .gz but does not hold whole gzip data; {DO}"


def test_a_gzip_bomb_is_refused_at_its_cap(deliver: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitting, "INFLATED_FREE", 1 << 20)
    bomb = deliver(gzip.compress(text().encode() + (line() + "\n").encode() * 100_000), "bomb.csv.gz")
    largest = (1 << 20) + 100 * bomb.stat().st_size
    with pytest.raises(DropRefused) as refused:
        read_leads(connect(), bomb, SCHEMA)
    assert str(refused.value) == (
        f"the .gz file inflates to over {largest:,} bytes; expected at most 17,179,869,184 bytes "
        "(JUNK_LEADS_INFLATED_LARGEST sets another cap), and at most 100 times its size "
        "(JUNK_LEADS_INFLATED_RATIO sets another cap); deliver the CSV uncompressed, or in parts"
    )


# Parquet


GOOD_LEAD = {**GOOD, "created_date": datetime.fromisoformat(GOOD["created_date"]), "app_complete_flag": 1}


def parquet(deliver: Callable[..., Path], table: Any, name: str = "drop.parquet", **how: Any) -> Path:
    out = io.BytesIO()
    write_table(table, out, **how)
    return deliver(out.getvalue(), name)


def typed(*rows: dict[str, Any]) -> pa.Table:
    """Leads as a program would write them: moments, counts and nulls."""
    kinds = {column.name: ARROW_TYPES[column.type] for column in SCHEMA.columns}
    return pa.Table.from_pylist([{**GOOD_LEAD, **row} for row in rows], schema=pa.schema(kinds))


def test_a_parquet_file_is_read_as_the_csv_that_it_stands_for(deliver: Callable[..., Path]) -> None:
    odd = 'New\r\n"Delhi", ='
    rows: list[dict[str, Any]] = [{}, {"city_mapped": odd, "syllabus": 3}, {"city_mapped": ""}, {"syllabus": -1}] * 700
    table = typed(*rows)
    assert table.num_rows > 2 * arrow.PARQUET_ROWS
    quoted = '"' + odd.replace('"', '""') + '"'
    lines = (line(), line(city_mapped=quoted, syllabus="3"), line(city_mapped=""), line(syllabus="-1"))
    expected = Result(deliver(text(*(lines * 700))))
    result = Result(parquet(deliver, table))
    assert result.leads == expected.leads
    assert [row[0] for row in result.rejected] == [row[0] for row in expected.rejected]
    assert {row[2:4] for row in result.rejected} == {("syllabus", "is negative")}
    assert read_header(parquet(deliver, table)) == SCHEMA.names
    coded = table.set_column(1, "city_mapped", table["city_mapped"].dictionary_encode())
    assert Result(parquet(deliver, coded)).everything == result.everything


@pytest.mark.parametrize("damage", ["cut", "flipped", "no Parquet", "nested", "empty"])
def test_what_is_no_parquet_of_leads_is_refused(deliver: Callable[..., Path], damage: str) -> None:
    path = parquet(deliver, typed({}, {"city_mapped": SECRET}))
    whole = path.read_bytes()
    content = {
        "cut": whole[:-20],
        "flipped": whole[:10] + bytes(byte ^ 255 for byte in whole[10:-8]) + whole[-8:],
        "no Parquet": BODY.encode(),
        "nested": parquet(deliver, typed({}).append_column("nested", [[[1, 2]]]), "n.parquet").read_bytes(),
        "empty": b"",
    }[damage]
    with pytest.raises(DropRefused) as refused:
        read_leads(connect(), deliver(content, "drop.parquet"), SCHEMA)
    assert str(refused.value) == (
        "the file is not Parquet with a column for each field of a lead; export the leads again"
    )


@pytest.mark.parametrize("stored", [True, False])
def test_a_parquet_bomb_is_refused_before_it_is_written_out(deliver: Callable[..., Path], stored: bool) -> None:
    text_once = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), ["x" * 1_000_000])  # 20 GB of text
    bomb = parquet(deliver, typed(*[{}] * 20_000).set_column(1, "city_mapped", text_once), store_schema=stored)
    assert bomb.stat().st_size < 2_000_000
    with pytest.raises(DropRefused, match=r"the \.parquet file inflates to over [\d,]+ bytes; expected at most 17"):
        read_leads(connect(), bomb, SCHEMA)


# Delivered cells


@pytest.mark.parametrize("quote", ["", '"'])
def test_every_delivered_cell_comes_back_unchanged_under_its_lead_number(
    deliver: Callable[..., Path], quote: str
) -> None:
    header = f",{HEADER},Note,note2"
    lines = (
        f"0,{line(city_mapped=f' {quote}x{quote}'.strip())},NA, a ",
        "TOTAL",
        f"7,{line(syllabus='x')},é,1.0",
    )
    path = deliver(text(*lines, header=header))
    rows = connect().from_arrow(pa.Table.from_batches(delivered_rows(path)))
    assert rows.columns == ["lead_number", *(f"c{place}" for place in range(48)), "line"]
    assert [str(kind) for kind in rows.types] == ["BIGINT"] + ["VARCHAR"] * 49
    expected = list(csv.reader([lines[0], lines[2]]))
    assert rows.fetchall() == [(1, *expected[0], None), (3, *expected[1], None)]
    assert list(Result(path).leads) == [1]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_row_of_plain_cells_comes_with_the_whole_line_that_it_was(deliver: Callable[..., Path], end: str) -> None:
    lines = [line(city_mapped=" Zürich "), line(syllabus="x", city_mapped="#=1"), line()]
    path = deliver(text(lines[0], "", *lines[1:], end=end).removesuffix(end))
    rows = [row for batch in delivered_rows(path) for row in batch.to_pylist()]
    assert [row.pop("line") for row in rows] == lines
    assert [",".join(list(row.values())[1:]) for row in rows] == lines


@pytest.mark.parametrize("cell", ['"x"', '"a,b"', "a\1b"])
def test_a_row_is_no_line_where_its_cells_are_not_what_stands_between_commas(
    deliver: Callable[..., Path], cell: str
) -> None:
    (row,) = pa.Table.from_batches(delivered_rows(deliver(text(line(city_mapped=cell))))).to_pylist()
    assert row["line"] is None
    assert row["c1"] == cell.strip('"')


# Properties

COUNTS = st.sampled_from([*["", "0", "1.0", "1", "+1", "NA", "null", " 1", "-0", "01.00", "1e0"] * 2, "2", "x"])
FREE_TEXT = st.text(st.characters(exclude_characters='",\r\n\0', exclude_categories=["Cs"]), max_size=6)
CELLS = {
    "created_date": st.datetimes(datetime(2009, 12, 1), datetime(2100, 1, 31)).map(
        lambda d: str(d.replace(microsecond=0))
    ),
    "city_mapped": FREE_TEXT | st.just("NULL"),
    "first_platform_c": FREE_TEXT,
    "syllabus": COUNTS,
    "referred_lead": COUNTS,
    "app_complete_flag": st.sampled_from(["0", "1", "1.0"]),
}
LEADS = st.lists(st.fixed_dictionaries(CELLS), max_size=4)


DATABASE = connect()  # one for all examples of the properties


def read_bytes(content: bytes) -> tuple[Any, ...]:
    with TemporaryDirectory() as folder:
        path = Path(folder, "drop.csv")
        path.write_bytes(content)
        result = Result(path, DATABASE)
        DATABASE.execute(f"DROP TABLE {result.reading.table}")
        return result.everything


@settings(max_examples=60, deadline=None)
@given(leads=LEADS)
def test_the_quick_way_and_the_careful_way_give_identical_results(leads: list[dict[str, str]]) -> None:
    content = text(*(line(**lead) for lead in leads)).encode()
    quick = read_bytes(content)
    with careful_way_only():
        assert read_bytes(content) == quick


@settings(max_examples=60, deadline=None)
@given(st.text("0123456789.eE+-_ xinfa\t", max_size=6), st.sampled_from(["syllabus", "created_date"]))
@example("1" * 400, "syllabus")
@example("2021-07-01 00:08:15", "created_date")
@example("2021-07-01 00:08:60", "created_date")
def test_whatever_the_quick_way_takes_for_a_value_the_careful_way_takes_too(cell: str, name: str) -> None:
    column = next(column for column in SCHEMA.columns if column.name == name)
    rows = reading._TypedRows(2, {name: 0}, SCHEMA)
    columns = rows.quick(f"{cell},\n".encode())
    if columns is not None:
        meaning = reading._Meaning(column, SCHEMA)
        assert columns[SCHEMA.names.index(name)].to_pylist() == [meaning[cell]]
        assert cell not in meaning.faults


PIECES = st.sampled_from(
    [
        *(line(), line(city_mapped='"a\nb"'), line(syllabus="x"), line().replace(",", '","')),
        *(",", '"', '""', '",', '"\n', "\n", "\r", "\r\n", "\0", "é", "TOTAL", "," * 44, " ", "\ufeff", "a"),
        "2021-07-01 00:08:15",
    ]
)


@settings(max_examples=100, deadline=None)
@given(body=st.lists(PIECES, max_size=30).map("".join), noise=st.binary(max_size=3), block=st.integers(1, 200))
@example(body=f"{line()}\n\ufeff{line()}", noise=b"", block=100)  # a block that begins with a byte order mark
def test_every_row_of_any_file_is_accounted_for_whatever_the_size_of_blocks(
    body: str, noise: bytes, block: int
) -> None:
    content = text(body).encode() + noise
    try:
        result = read_bytes(content)
    except DropRefused as refused:
        assert "is not UTF-8" in str(refused) or "binary data" in str(refused)  # noqa: PT017 (both ends are right)
        return
    leads, rejected, rows_read, rows_rejected = result
    numbers = sorted([row[0] for row in leads] + [row[0] for row in rejected])
    assert numbers == list(range(1, rows_read + 1))
    assert len(rejected) == rows_rejected
    assert all(row[1] >= 2 and row[3] for row in rejected)
    with mock.patch.object(splitting, "BLOCK_BYTES", block):
        assert read_bytes(content) == result


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with pytest.raises(DropRefused):
        read_bytes(content)


@settings(max_examples=150, deadline=None)
@given(body=st.lists(PIECES, max_size=30).map("".join), columns=st.sampled_from([1, 45]), block=st.integers(1, 400))
@example(body=f"{line()}\n \n{line()}\n", columns=45, block=400)  # a line of blanks is no row
@example(body=f"{line()},\n{line()[:-1]}\n", columns=45, block=4000)  # one comma too many, then one too few
def test_cells_that_are_told_in_their_lines_alone_are_those_that_are_told_themselves(
    body: str, columns: int, block: int
) -> None:
    header = HEADER if columns == 45 else "city_mapped"
    with TemporaryDirectory() as folder, mock.patch.object(splitting, "BLOCK_BYTES", block):
        path = Path(folder, "drop.csv")
        path.write_text(text(body, header=header), encoding="utf-8", newline="")
        try:
            whole = pa.Table.from_batches(delivered_rows(path), splitting.TextRows(columns).schema)
        except DropRefused:
            with pytest.raises(DropRefused):
                list(delivered_rows(path, in_lines=True))
            return
        told = pa.Table.from_batches(delivered_rows(path, in_lines=True), whole.schema)
    assert splitting.in_cells(told).to_pylist() == whole.to_pylist()
    assert told["line"].to_pylist() == whole["line"].to_pylist()
    assert [row["c0"] is None for row in told.to_pylist()] == [one is not None for one in whole["line"].to_pylist()]


# Real leads


@pytest.mark.skipif(not SHARED.exists(), reason="the real leads are not here (../shared/data)")
@pytest.mark.parametrize(
    ("name", "rows", "labelled"),
    [("leads_history_2021.csv.gz", 191_171, True), ("leads_new_as_shipped.csv", 24_991, False)],
)
def test_the_real_leads_are_read_without_a_rejection(name: str, rows: int, labelled: bool) -> None:
    result = read_leads(duckdb.connect(), SHARED / name, SCHEMA)
    assert (result.rows_read, result.rows_rejected, result.labelled) == (rows, 0, labelled)
    assert result.ignored == ()
    assert result.leads.aggregate("min(lead_number), max(lead_number), count(*)").fetchall() == [(1, rows, rows)]
