"""The call list: the leads of a scored drop in the order to call them, as a workbook and as CSV.

What lives here: which leads and columns, and how they look. What does not: scores (`steps/scoring/`) and the page about
the drop (`drop_report.py`).

Every cell of the workbook is a number or plain text: a spreadsheet runs none of them, whatever was delivered.
"""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from junk_leads.steps.leads.splitting import LINE, in_cells
from junk_leads.steps.learning.grading import GRADES
from junk_leads.steps.scoring.reasons import SEPARATOR, STRONGEST, city_name
from junk_leads.steps.scoring.scored_file import inert_cell
from junk_leads.steps.watching.profiles import CODES

CHANNEL = f"concat_ws(' / ', {', '.join(CODES)})"  # SQL for how a cleaned lead came
BEST_FIRST = "probability DESC, lead_number"  # SQL for the order to call in
MOST_LEADS = 10_000  # of a call list, unless it is told how many
_MOST_ROWS = 1_048_575  # that a sheet holds below its header
_LONGEST_CELL = 32_767  # characters that a cell holds
_LINE = 15  # points
_WithList = tuple[Any, tuple[str, ...], TemporaryDirectory[str]]  # a workbook, its list's header, where its rows are
_begun: "tuple[Path, Future[_WithList]] | None" = None
_COLOURS = {"A": "#C6EFCE", "B": "#E2F0D9", "C": "#FFF2CC", "D": "#F4CCCC"}

COLUMNS = {
    "rank": (6, "1 is the lead to call first; leads of the same probability stand in the order they were delivered"),
    "score": (6, "1 to 99, the probability in hundredths as in the labelled leads"),
    "grade": (6, "A to D by probability; the sheet Summary tells how leads of each grade fared"),
    "probability": (11, "in per cent, that the lead completes its application"),
    "why": (60, "the strongest reasons, the strongest first; in brackets how leads like it fare"),
    "city": (16, "as it was understood; empty when none was given"),
    "channel": (30, "platform, medium and source"),
    "created": (17, "when the lead came in, the platform's clock"),
    "flag": (6, "1 kept for calling, 0 set aside: see the sheet Summary"),
    "lead_number": (13, "the lead's place among the data rows of its file, from 1"),
    "warning": (30, "what warns about the whole drop, if anything does"),
}


@dataclass(frozen=True)
class CallList:
    """The leads to call: the header and rows as written."""

    header: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]


def ranked_leads(
    con: duckdb.DuckDBPyConnection,
    predictions: duckdb.DuckDBPyRelation,
    leads: duckdb.DuckDBPyRelation,
    *,
    top: int = MOST_LEADS,
    grades: Sequence[str] = GRADES,
) -> list[tuple[Any, ...]]:
    """What is told of the best `top` leads of a drop that have one of these grades, the best first.

    `predictions` and cleaned `leads` are of the drop.
    """
    wanted = ", ".join(f"'{grade}'" for grade in grades)
    told, cleaned = predictions, leads  # noqa: F841  named in the SQL below
    rows: list[tuple[Any, ...]] = con.sql(
        f"""
        WITH best AS (SELECT * FROM told WHERE grade IN ({wanted}) ORDER BY {BEST_FIRST} LIMIT {min(top, _MOST_ROWS)})
        SELECT row_number() OVER (ORDER BY {BEST_FIRST}) AS rank, score, grade, probability, reasons,
            city_mapped, {CHANNEL}, created_date, predicted_flag, lead_number
        FROM best JOIN cleaned USING (drop, lead_number) ORDER BY rank
        """
    ).fetchall()
    return rows


def call_list(
    ranked: Sequence[tuple[Any, ...]],
    header: Sequence[str],
    delivered: Iterable[pa.RecordBatch],
    *,
    warning: str = "",
) -> CallList:
    """The call list of leads in the order of their ranks (`ranked_leads`), with all their delivered cells.

    `delivered` comes in batches, lead_number and the columns of `header` as text. Columns are those of COLUMNS
    (`warning` only when there is one), then the delivered ones.
    """
    cells = _cells_of([row[-1] for row in ranked], delivered)
    names = [name for name in COLUMNS if name != "warning" or warning]
    rows = []
    for rank, score, grade, probability, reasons, city, channels, created, flag, number in ranked:
        why = SEPARATOR.join(reasons.split(SEPARATOR)[:STRONGEST])
        shown = (rank, score, grade, round(100 * probability, 1), why, city_name(city) if city else "", channels)
        own = (*shown, created, flag, number, *([warning] if warning else ()))
        rows.append((*own, *cells[number]))
    return CallList((*names, *header), rows)


def _cells_of(numbers: Sequence[int], delivered: Iterable[pa.RecordBatch]) -> dict[int, tuple[str, ...]]:
    """The delivered cells of these leads."""
    wanted = pa.array(numbers, pa.int64())
    found: dict[int, tuple[str, ...]] = {}
    for batch in delivered:
        if len(found) == len(numbers):
            break
        kept = in_cells(pa.Table.from_batches([batch.filter(pc.is_in(batch["lead_number"], wanted))]))
        columns = [kept[name].to_pylist() for name in kept.schema.names if name != LINE]
        for number, *cells in zip(*columns, strict=True):
            found[number] = tuple(cell or "" for cell in cells)
    return found


def write_csv(path: Path, leads: CallList) -> None:
    """Write the call list as CSV, whole or not at all; cells that a spreadsheet would run begin with an apostrophe."""
    part = path.with_suffix(".csv.part")
    try:
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(map(inert_cell, leads.header))
            texts = (cell for cell in set(chain.from_iterable(leads.rows)) if isinstance(cell, str))
            running = {text: told for text in texts if (told := inert_cell(text)) != text}
            rows = ([running.get(cell, cell) for cell in row] for row in leads.rows) if running else leads.rows
            writer.writerows(rows)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_workbook(path: Path, leads: CallList, summary: Mapping[str, str]) -> None:
    """Write the call list as a workbook, whole or not at all: the list, the `summary`, and what each column is."""
    begin_workbook(path, leads)
    end_workbook(path, summary)


def begin_workbook(path: Path, leads: CallList) -> None:
    """Begin to write the list of a workbook in a thread, for `end_workbook` in the same process to make it whole."""
    global _begun
    pool = ThreadPoolExecutor(1)
    _begun = path, pool.submit(_with_list, path, leads)
    pool.shutdown(wait=False)


def end_workbook(path: Path, summary: Mapping[str, str]) -> bool:
    """Make the workbook whole that this process began; false when it began none for `path`."""
    global _begun
    begun, _begun = _begun, None
    if begun is None or begun[0] != path:
        return False
    book, header, rows = begun[1].result()
    with rows:
        try:
            book.set_properties({"title": "Call list", "subject": summary.get("drop", "")})
            _pairs_sheet(book, "Summary", summary)
            delivered = {name: "as it was delivered" for name in header if name not in COLUMNS}
            _pairs_sheet(book, "Columns", {name: text for name, (_, text) in COLUMNS.items()} | delivered)
            book.close()
            os.replace(_part_of(path), path)
        finally:
            _part_of(path).unlink(missing_ok=True)
    return True


def _with_list(path: Path, leads: CallList) -> _WithList:
    from xlsxwriter import Workbook

    rows = TemporaryDirectory(prefix=f"{path.stem}.", suffix=".part", dir=path.parent)
    # no text is taken for a formula, a number or a link, and rows go to disk as they come
    options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "tmpdir": rows.name}
    try:
        book = Workbook(str(_part_of(path)), options)
        _list_sheet(book, leads)
    except BaseException:
        rows.cleanup()
        raise
    return book, leads.header, rows


def _plain(text: str) -> str:
    """A text as a cell may hold it: XlsxWriter would write runs of rich text as they are, whatever is in them."""
    text = text[:_LONGEST_CELL]
    return f"'{text}"[:_LONGEST_CELL] if text.startswith("<r>") and text.endswith("</r>") else text


def _part_of(path: Path) -> Path:
    return path.with_suffix(".xlsx.part")


def _list_sheet(book: Any, leads: CallList) -> None:
    sheet = book.add_worksheet("Call list")
    head = book.add_format({"bold": True, "bg_color": "#1F3864", "font_color": "#FFFFFF", "text_wrap": True})
    plain = book.add_format({"valign": "top"})
    formats = {
        "probability": book.add_format({"num_format": '0.0" %"', "valign": "top"}),
        "created": book.add_format({"num_format": "yyyy-mm-dd hh:mm", "valign": "top"}),
        "why": book.add_format({"text_wrap": True, "valign": "top"}),
    }
    graded = {
        grade: book.add_format({"bg_color": colour, "bold": True, "align": "center", "valign": "top"})
        for grade, colour in _COLOURS.items()
    }
    own = [name for name in leads.header[: len(COLUMNS)] if name in COLUMNS]
    for place, name in enumerate(own):
        sheet.set_column(place, place, COLUMNS[name][0])
    sheet.set_column(len(own), max(len(leads.header) - 1, len(own)), 14)
    sheet.freeze_panes(1, 4)
    sheet.set_landscape()
    sheet.set_paper(9)  # A4
    sheet.fit_to_pages(1, 0)
    sheet.repeat_rows(0)
    sheet.print_area(0, 0, max(len(leads.rows), 1), len(own) - 1)  # the delivered columns are for the screen
    sheet.set_row(0, 2 * _LINE)
    for place, name in enumerate(leads.header):
        sheet.write_string(0, place, _plain(name), head)
    why = leads.header.index("why")
    for number, row in enumerate(leads.rows, 1):
        sheet.set_row(number, _LINE * -(-len(row[why]) // (COLUMNS["why"][0] + 2)))
        for place, value in enumerate(row):
            name = own[place] if place < len(own) else ""
            if isinstance(value, str):
                if value:
                    style = graded[value] if name == "grade" else formats.get(name, plain)
                    sheet.write_string(number, place, _plain(value), style)
            elif name == "created":
                sheet.write_datetime(number, place, value, formats[name])
            else:
                sheet.write_number(number, place, value, formats.get(name, plain))
    sheet.autofilter(0, 0, max(len(leads.rows), 1), len(leads.header) - 1)


def _pairs_sheet(book: Any, name: str, pairs: Mapping[str, str]) -> None:
    sheet = book.add_worksheet(name)
    sheet.set_column(0, 0, 34)
    sheet.set_column(1, 1, 100)
    bold, wrapped = book.add_format({"bold": True, "valign": "top"}), book.add_format({"text_wrap": True})
    for number, (key, text) in enumerate(pairs.items()):
        sheet.write_string(number, 0, _plain(key), bold)
        sheet.write_string(number, 1, _plain(text), wrapped)
