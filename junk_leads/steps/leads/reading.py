"""From a delivered CSV to typed leads and rejected rows, in a TEMP table of DuckDB.

What lives here: which columns a delivery must have and what their values may be. Blocks of lines that are
good throughout are read by Arrow; any other is read value by value, which tells what is wrong with a row.
Both give the same leads. What does not: CSV itself (`splitting.py`), and the cleaning of text and nulls.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import compress, count
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from junk_leads.errors import DropRefused
from junk_leads.reference import Column, LeadSchema, lead_schema
from junk_leads.steps.leads.arrow import ARROW_TYPES
from junk_leads.steps.leads.splitting import DO, Delivered, Record, TextRows, batches, opened, parse

LONGEST_RAW = 10_000  # characters of a rejected record that are kept
QUICK_DATE_FORMAT = "%Y-%m-%d %H:%M:%S"  # the one that Arrow reads and writes of itself
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars", ":": "colons"}
REJECTION = {"line": pa.int64(), "column_name": pa.string(), "reason": pa.string(), "raw": pa.string()}
_serial = count(1)


@dataclass(frozen=True)
class Reading:
    """A file read: `rows_read` data rows, each of them either in `leads` or in `rejected`.

    leads: lead_number BIGINT, then the 45 schema columns, typed; missing is NULL, other text is as delivered.
    rejected: lead_number BIGINT, line BIGINT (the header is on line 1), column_name (NULL: the whole row),
        reason, raw (the record's text, cut at 10,000 characters), VARCHAR; one row per rejected data row.
    header: the columns as delivered. ignored: those outside the schema that have a name.
    table: the TEMP table behind both relations, for the caller to drop when done with them.
    """

    leads: duckdb.DuckDBPyRelation
    rejected: duckdb.DuckDBPyRelation
    header: tuple[str, ...]
    ignored: tuple[str, ...]
    labelled: bool
    rows_read: int
    rows_rejected: int
    table: str


def check_file(path: Path, schema: LeadSchema | None = None) -> None:
    """Raise DropRefused if the file's kind, its first megabyte or its header is enough to refuse it."""
    with opened(path) as delivered:
        _places(delivered, schema or lead_schema())


def read_header(path: Path, schema: LeadSchema | None = None) -> tuple[str, ...]:
    """The columns as delivered, the right ones or not; reads a megabyte at most.

    Raises DropRefused when the first line is not the header of a lead file.
    """
    with opened(path) as delivered:
        _recognise(delivered, schema or lead_schema())
        return delivered.header


def read_leads(con: duckdb.DuckDBPyConnection, path: Path, schema: LeadSchema) -> Reading:
    """Read a delivered CSV (or .csv.gz, .parquet) into a TEMP table of `con`; see Reading for the shapes.

    lead_number counts every data row from 1 in file order, the rejected ones too; blank lines are no rows.
    Raises DropRefused when the file as a whole cannot be accepted; no table is left then.
    """
    with opened(path) as delivered:
        places = _places(delivered, schema)
        rows = _TypedRows(len(delivered.header), places, schema)
        table = _load(con, rows.schema, batches(delivered, rows))
    rows_read, rows_rejected = con.execute(f"SELECT count(*), count(reason) FROM {table}").fetchall()[0]
    columns = ", ".join(f'"{name}"' for name in schema.names)
    return Reading(
        leads=con.sql(f"SELECT lead_number, {columns} FROM {table} WHERE reason IS NULL"),
        rejected=con.sql(f"SELECT lead_number, {', '.join(REJECTION)} FROM {table} WHERE reason IS NOT NULL"),
        header=delivered.header,
        ignored=tuple(name for name in delivered.header if name.strip() and name.strip() not in places),
        labelled=schema.label in places,
        rows_read=rows_read,
        rows_rejected=rows_rejected,
        table=table,
    )


class RecordReader:
    """Reads leads from cells by column name, text or numbers, as a file of the same text would be read."""

    def __init__(self, schema: LeadSchema) -> None:
        self._columns = [(column, _Meaning(column, schema)) for column in schema.columns if column.role != "label"]

    def read(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        """One lead, typed; columns that are left out are missing, those that the schema does not know are left.

        Raises ValueError naming the column when a value is refused, without telling it.
        """
        lead: dict[str, Any] = {}
        for column, meaning in self._columns:
            value = cells.get(column.name)
            if value is None and column.empty != "reject":
                continue
            if isinstance(value, bool) or not isinstance(value, (str, int, float, type(None))):
                raise ValueError(f"{column.name} is neither text, a number nor null")
            if isinstance(value, (int, float)) and column.type in ("VARCHAR", "TIMESTAMP"):
                raise ValueError(f"{column.name} is a number; expected text or null")
            text = "" if value is None else value if isinstance(value, str) else repr(value)
            lead[column.name] = meaning[text]
            if text in meaning.faults:
                raise ValueError(f"{column.name} {meaning.faults[text]}")
        return lead


def delivered_rows(path: Path, *, in_lines: bool = False) -> Iterator[pa.RecordBatch]:
    """Every delivered cell as raw text: lead_number BIGINT, c0, c1, ... VARCHAR in the header's order, and `line`.

    That is the whole row as delivered, where it is these cells with commas between them, else null; when `in_lines`
    these cells are null then (see `splitting.in_cells`). One row per data row that splits into as many fields as the
    header, rejected for its values or not, under the lead_number of `read_leads` and in its order, some megabytes at a
    time. Columns go by place: delivered names may be empty, or clash in DuckDB. Raises DropRefused as `read_leads`
    does, save for the columns.
    """
    with opened(path) as delivered:
        _recognise(delivered, lead_schema())
        yield from batches(delivered, TextRows(len(delivered.header), in_lines=in_lines))


def _recognise(delivered: Delivered, schema: LeadSchema) -> list[str]:
    """The header's names in lower case, without the blanks around; raises DropRefused if it is no header."""
    folded = [name.strip().casefold() for name in delivered.header]
    if set(schema.names).isdisjoint(folded):
        raise _no_header(delivered.head, schema)
    return folded


def _places(delivered: Delivered, schema: LeadSchema) -> dict[str, int]:
    """Where in the header each schema column stands; raises DropRefused unless that is clear for all."""
    folded = _recognise(delivered, schema)
    names = [name.strip() for name in delivered.header]
    for name, times in Counter(filter(None, folded)).items():
        if times > 1:
            twice = " and ".join(str(place) for place, other in enumerate(folded, 1) if other == name)
            raise DropRefused(
                f"columns {twice} have the same name, upper and lower case being one",
                where="line 1",
                expected="each column once",
                do="remove or rename the column that should not be there",
            )
    respelled = {name: names[folded.index(name)] for name in schema.names if name in set(folded) - set(names)}
    missing = [name for name in schema.required if name not in names and name not in respelled]
    if missing or respelled:
        wrong = [f"{name} (delivered as {other})" for name, other in respelled.items()]
        raise DropRefused(
            f"the header lacks {', '.join(missing + wrong)}",
            where="line 1",
            expected="every column under exactly its own name, in lower case",
            do="add or rename the columns and deliver the file again",
        )
    return {name: names.index(name) for name in schema.names if name in names}


def _no_header(head: Sequence[str], schema: LeadSchema) -> DropRefused:
    """The refusal of a file whose first line is no header, with what can be seen of the real one."""
    what = "the first line is not the header of a lead file"
    for number, line in enumerate(head, 1):
        for delimiter, plural in DELIMITERS.items():
            cells = {cell.strip(' \t\r\n"').casefold() for cell in line.split(delimiter)}
            if 2 * len(cells & set(schema.names)) > len(schema.names):
                what = f"the header is on line {number} and its columns are separated by {plural}"
    expected = f"line 1 to name the columns, separated by commas: {', '.join(schema.required)}"
    return DropRefused(what, where="line 1", expected=expected, do=DO)


def _load(con: duckdb.DuckDBPyConnection, schema: pa.Schema, stream: Iterator[pa.RecordBatch]) -> str:
    """Stream batches into a new TEMP table and return its name.

    An error ends the stream early, not the statement: the caller gets it as it was raised, and a transaction
    that was open on `con` can go on.
    """
    table = f"reading_{next(_serial)}"
    errors: list[Exception] = []

    def guarded() -> Iterator[pa.RecordBatch]:
        try:
            yield from stream
        except Exception as error:
            errors.append(error)

    con.register(f"{table}_stream", pa.RecordBatchReader.from_batches(schema, guarded()))
    try:
        con.execute(f"CREATE TEMP TABLE {table} AS FROM {table}_stream")
    finally:
        con.unregister(f"{table}_stream")
    if errors:
        con.execute(f"DROP TABLE {table}")
        raise errors[0]
    return table


class _TypedRows:
    """Rows as the lead schema reads them: typed leads and rejections (the columns of REJECTION)."""

    def __init__(self, width: int, places: dict[str, int], schema: LeadSchema) -> None:
        self.width, self.places, self.lead_schema = width, places, schema
        kinds = {column.name: ARROW_TYPES[column.type] for column in schema.columns}
        self.schema = pa.schema({"lead_number": pa.int64()} | kinds | REJECTION)
        numbers = {name for name, kind in kinds.items() if pa.types.is_integer(kind)}
        self.kinds = {at: pa.float64() if name in numbers else pa.string() for name, at in places.items()}

    def quick(self, data: bytes) -> Sequence[pa.Array] | None:
        schema = self.lead_schema
        batch = parse(data, self.width, self.kinds, schema.null_tokens)
        if batch is None or schema.date_format != QUICK_DATE_FORMAT:
            return None
        columns = [pa.nulls(len(batch), field.type) for field in self.schema][1:]
        for at, column in enumerate(schema.columns):
            if column.name in self.places:
                columns[at] = _good_values(batch[str(self.places[column.name])], column, schema)
                if columns[at] is None:
                    return None
        return columns

    def careful(self, records: list[Record], lines: list[str], number: int, line: int) -> Iterator[pa.RecordBatch]:
        faults: dict[int, tuple[str | None, str]] = {}
        faults.update((i, (None, record.fault)) for i, record in enumerate(records) if record.fault)
        whole = [i for i, record in enumerate(records) if record.fault is None]
        cells = list(zip(*(records[i].fields for i in whole), strict=True)) or [()] * self.width
        leads: dict[str, Sequence[Any]] = {}
        for column in self.lead_schema.columns:
            texts = cells[self.places[column.name]] if column.name in self.places else ()
            meaning = _Meaning(column, self.lead_schema)
            leads[column.name] = list(map(meaning.__getitem__, texts)) or [None] * len(whole)
            if not meaning.faults.keys().isdisjoint(texts):
                for i, text in zip(whole, texts, strict=True):
                    if text in meaning.faults:
                        faults.setdefault(i, (column.name, meaning.faults[text]))
        leads["lead_number"] = [number + i for i in whole]
        if faults:
            good = [i not in faults for i in whole]
            leads = {name: list(compress(values, good)) for name, values in leads.items()}
            yield self._batch(_rejections(faults, records, lines, number, line))
        if leads["lead_number"]:
            yield self._batch(leads)

    def _batch(self, columns: dict[str, Sequence[Any]]) -> pa.RecordBatch:
        """A batch of these columns; all others of the schema are null."""
        given = {name: pa.array(values, self.schema.field(name).type) for name, values in columns.items()}
        rows = len(columns["lead_number"])
        arrays = [given[field.name] if field.name in given else pa.nulls(rows, field.type) for field in self.schema]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def _rejections(
    faults: dict[int, tuple[str | None, str]], records: list[Record], lines: list[str], number: int, line: int
) -> dict[str, Sequence[Any]]:
    """The columns of the rejected rows; `faults` has column and reason by the place of a faulty record."""
    at = sorted(faults)
    return {
        "lead_number": [number + i for i in at],
        "line": [line + records[i].start for i in at],
        "column_name": [faults[i][0] for i in at],
        "reason": [faults[i][1] for i in at],
        "raw": ["".join(lines[slice(*records[i][:2])]).rstrip("\r\n")[:LONGEST_RAW] for i in at],
    }


def _largest(column: Column, schema: LeadSchema) -> int:
    return schema.largest_count if column.largest is None else min(column.largest, schema.largest_count)


def _good_values(cells: pa.Array, column: Column, schema: LeadSchema) -> pa.Array | None:
    """The cells of a column in its type, or None unless _Meaning would take every one of them."""
    if column.empty == "reject" and cells.null_count:
        return None
    try:
        values, good = cells, True
        if column.type == "VARCHAR":
            good = (pc.max(pc.utf8_length(cells)).as_py() or 0) <= schema.longest_text
        elif column.type == "TIMESTAMP":
            values = cells.cast(pa.timestamp("s"))
            first, last = pc.min_max(cells).as_py().values()
            good = values.cast(pa.string()).equals(cells) and (
                first is None or (str(schema.earliest_date) <= first and last < str(schema.latest_date))
            )
        else:
            values = cells.cast(ARROW_TYPES[column.type])
            smallest, largest = pc.min_max(values).as_py().values()
            good = smallest is None or (smallest >= 0 and largest <= _largest(column, schema))
        return values.cast(ARROW_TYPES[column.type]) if good else None
    except pa.ArrowInvalid:
        return None


class _Meaning(dict[str, Any]):
    """The value of each distinct text of a column, found when first met; `faults` has the bad and why."""

    def __init__(self, column: Column, schema: LeadSchema) -> None:
        super().__init__(dict.fromkeys(schema.null_tokens))
        self.faults = dict.fromkeys(schema.null_tokens, "is missing") if column.empty == "reject" else {}
        self.column, self.schema = column, schema
        self.read = {"TIMESTAMP": self._moment, "VARCHAR": self._text}.get(column.type, self._whole_number)

    def __missing__(self, text: str) -> Any:
        try:
            self[text] = self.read(text)
        except ValueError as fault:
            self.faults[text], self[text] = str(fault), None
        return self[text]

    def _moment(self, text: str) -> datetime:
        """A parser may be lenient (the ISO one is only there for speed): the format must give the text back."""
        form, first, end = self.schema.date_format, self.schema.earliest_date, self.schema.latest_date
        for parser in (datetime.fromisoformat, lambda text: datetime.strptime(text, form)):
            try:
                moment = parser(text)
            except ValueError:
                continue
            if moment.strftime(form) == text:
                if first <= moment.date() < end:
                    return moment
                raise ValueError(f"is not a date from {first} to before {end}")
        raise ValueError(f"is not a date written as {form}")

    def _text(self, text: str) -> str:
        if len(text) > self.schema.longest_text:
            raise ValueError(f"is longer than {self.schema.longest_text} characters")
        return text

    def _whole_number(self, text: str) -> int:
        """'1', '1.0' and '1e2' are whole numbers, blanks around them are not looked at."""
        bare, largest = text.strip(" \t"), _largest(self.column, self.schema)
        if not NUMBER.fullmatch(bare):
            raise ValueError("is not a number")
        number = float(bare)
        if number < 0:
            raise ValueError("is negative")
        if number > largest:
            raise ValueError(f"is larger than {largest}")
        if number != int(number):
            raise ValueError("is not a whole number")
        return int(number)
