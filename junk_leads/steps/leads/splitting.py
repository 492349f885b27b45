"""From a delivered file to rows of text: the part of reading that knows CSV but no lead schema.

What lives here: opening a path safely, telling what is not UTF-8 CSV, blocks of whole lines, the header,
and two ways through a block. The quick way hands plain lines to Arrow; the careful way splits any others and
keeps an unclosed quote from eating the rows below it. A file is one stream of blocks: memory is bounded.
What does not: which columns there must be and what their values may be (see `reading.py`).
"""

import codecs
import csv
import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from junk_leads.capacity import Cap
from junk_leads.errors import DropRefused
from junk_leads.steps.leads.arrow import parquet_as_csv

SUFFIXES = (".csv", ".csv.gz", ".parquet")  # of files of leads
NAMED = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
BLOCK_BYTES = 1 << 20  # read at a time; a block ends at its last whole line
LONGEST_LINE = Cap("JUNK_LEADS_LONGEST_LINE", 8 << 20, "bytes")  # a longer one refuses the file
# A quoted record that goes on for longer counts as unclosed, and a longer field rejects its row.
LONGEST_RECORD = Cap("JUNK_LEADS_LONGEST_RECORD", 1 << 20, "characters")
LONGEST_FIELD = Cap("JUNK_LEADS_LONGEST_FIELD", 1 << 17, "characters")
MOST_COLUMNS = Cap("JUNK_LEADS_MOST_COLUMNS", 1_000, "columns")
MOST_DAMAGED = Cap("JUNK_LEADS_MOST_DAMAGED", 500_000, "rows")  # that do not split; more refuse the file
# What a compressed file may inflate to, and how many times its own size, past what is free.
INFLATED_LARGEST = Cap("JUNK_LEADS_INFLATED_LARGEST", 16 << 30, "bytes")
INFLATED_RATIO = Cap("JUNK_LEADS_INFLATED_RATIO", 100, "times its size")
CAPS = (LONGEST_LINE, LONGEST_RECORD, LONGEST_FIELD, MOST_COLUMNS, MOST_DAMAGED, INFLATED_LARGEST, INFLATED_RATIO)
INFLATED_FREE = 64 << 20  # bytes
LINE = "line"  # the column of whole lines
_NO_TEXT = b"\1"  # a byte that hardly any text holds
REREADS = 16  # a block whose damaged quotes ask for more readings than this refuses the file

SIGNATURES = (
    (b"\xff\xfe\0\0", "UTF-32 text"),
    (b"\0\0\xfe\xff", "UTF-32 text"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (XLS)"),
    (b"%PDF", "a PDF document"),
    (b"PAR1", "a Parquet file that is not named .parquet"),
)
WIDE_ENCODINGS = ("UTF-32-LE", "UTF-32-BE", "UTF-16-LE", "UTF-16-BE")
CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\f\r"))
UNFINISHED = "unexpected end of data"  # what the csv module says of a quote still open at the end
BAD_QUOTE = "has a quote that is not closed, or closed inside a field"
DO = "export the leads again as comma-separated UTF-8 text and deliver that"


class Record(NamedTuple):
    """A data record: `lines[start:end]` of its block, split into fields, or the fault that rejects it."""

    start: int
    end: int
    fields: list[str]
    fault: str | None


@dataclass(frozen=True)
class Delivered:
    """An open delivery: its header as delivered (no BOM), its first lines, and the blocks that follow.

    `first_line` is the physical line (from 1) on which the first block begins.
    """

    header: tuple[str, ...]
    head: list[str]
    first_line: int
    blocks: Iterator[bytes]


@contextmanager
def opened(path: Path) -> Iterator[Delivered]:
    """Open a delivered CSV, `.gz` inflated on the way and `.parquet` written out, and split off its header.

    Raises DropRefused for what is not a regular file, is empty, too large inflated, not UTF-8 or not CSV;
    the faults of later blocks are raised as `blocks` gets there.
    """
    with _regular_file(path) as file:
        blocks = _blocks(_chunks(file, path.suffix.lower()))
        first = next(blocks).removeprefix(codecs.BOM_UTF8)
        lines = lines_of(first, 1)
        reader = csv.reader(lines, strict=True)
        try:
            header = tuple(next(reader, ()))
        except csv.Error as error:
            raise DropRefused("the quotes in the header do not pair up", where="line 1", do=DO) from error
        if len(header) > MOST_COLUMNS.value:
            most = str(MOST_COLUMNS)
            raise DropRefused(f"the header has {len(header):,} columns", where="line 1", expected=most, do=DO)
        used = len("".join(lines[: reader.line_num]).encode())
        yield Delivered(header, lines[:20], reader.line_num + 1, chain([first[used:]], blocks))


class Rows(Protocol):
    """What to make of rows of `width` cells: batches of `schema`, whose first column is lead_number."""

    width: int
    schema: pa.Schema

    def quick(self, data: bytes) -> Sequence[pa.Array] | None:
        """The columns after lead_number of a plain block, or None unless every row of it is good."""

    def careful(self, records: list[Record], lines: list[str], number: int, line: int) -> Iterator[pa.RecordBatch]:
        """Batches of the records, the first of which is lead `number`; lines[0] is physical line `line`."""


def batches(delivered: Delivered, rows: Rows) -> Iterator[pa.RecordBatch]:
    """Take each block the quick way or else the careful one; a record left open joins the next block.

    Leads are numbered from 1 in file order, whether good or not; blank lines are no rows. Raises DropRefused.
    """
    number, line, rest, damaged = 1, delivered.first_line, b"", 0
    for block in chain(delivered.blocks, [b""]):
        data = rest + block
        columns = rows.quick(data) if _is_plain(data, line) else None
        if columns is not None:
            numbers = pa.array(np.arange(number, number + len(columns[0])))
            yield pa.RecordBatch.from_arrays([numbers, *columns], schema=rows.schema)
            number, line, rest = number + len(numbers), line + count_lines(data), b""
        else:
            lines = lines_of(data, line)
            records, used = split(lines, rows.width, final=not block)
            damaged += sum(record.fault is not None for record in records)
            if damaged > MOST_DAMAGED.value:
                raise DropRefused(
                    f"over {MOST_DAMAGED.value:,} rows do not split into the columns of the header",
                    expected=str(MOST_DAMAGED),
                    do=DO,
                )
            yield from rows.careful(records, lines, number, line)
            number, line, rest = number + len(records), line + used, "".join(lines[used:]).encode()


def parse(
    data: bytes, width: int, kinds: dict[int, pa.DataType], nulls: Sequence[str], delimiter: str = ","
) -> pa.RecordBatch | None:
    """The columns at these places of a plain block, named by place, as Arrow converts them.

    None if there is no row, a line is ragged or a cell does not convert.
    """
    names = [str(place) for place in range(width)]
    convert = arrow_csv.ConvertOptions(
        column_types={names[place]: kind for place, kind in kinds.items()},
        include_columns=[names[place] for place in kinds],
        null_values=nulls,
        strings_can_be_null=True,
    )
    whole = arrow_csv.ReadOptions(column_names=names, block_size=len(data) + 1)
    unquoted = arrow_csv.ParseOptions(delimiter=delimiter, quote_char=False, double_quote=False)
    try:
        table = arrow_csv.read_csv(pa.BufferReader(data), whole, unquoted, convert)
    except pa.ArrowInvalid:
        return None
    return table.combine_chunks().to_batches()[0] if len(table) else None


class TextRows:
    """Rows as the raw text of every delivered column, c0, c1, ...; those that do not split are left out.

    Last the whole `line` of a row, where it is these texts with commas between them, and null where it may not be.
    When `in_lines` the texts of a row that has one are null (`in_cells` splits it), which saves most of the work.
    """

    def __init__(self, width: int, *, in_lines: bool = False) -> None:
        self.width, self.in_lines = width, in_lines
        names = [*(f"c{place}" for place in range(width)), LINE]
        self.schema = pa.schema({"lead_number": pa.int64()} | dict.fromkeys(names, pa.string()))

    def quick(self, data: bytes) -> Sequence[pa.Array] | None:
        """See Rows."""
        found = None if _NO_TEXT in data else parse(data, 1, {0: pa.string()}, nulls=(), delimiter=_NO_TEXT.decode())
        lines = None if found is None else found.column(0)
        if self.in_lines and lines is not None and (_commas(lines) == self.width - 1).all():
            return [*[pa.nulls(len(lines), pa.string())] * self.width, lines]
        cells = _cells(data, self.width)
        return None if cells is None else [*cells, pa.nulls(len(cells[0]), pa.string()) if lines is None else lines]

    def careful(self, records: list[Record], lines: list[str], number: int, line: int) -> Iterator[pa.RecordBatch]:
        """See Rows."""
        kept = [(number + i, *record.fields) for i, record in enumerate(records) if record.fault is None]
        if kept:
            columns = [*(pa.array(cells) for cells in zip(*kept, strict=True)), pa.nulls(len(kept), pa.string())]
            yield pa.RecordBatch.from_arrays(columns, schema=self.schema)


def in_cells(rows: pa.Table) -> pa.Table:
    """Rows of TextRows, each line split of those whose texts were left out."""
    names = [name for name in rows.column_names if name not in ("lead_number", LINE)]
    return pa.Table.from_batches([_split(batch, names) for batch in rows.to_batches()], rows.schema)


def _split(batch: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
    lines = batch[LINE]
    if not len(batch) or lines.null_count or batch[names[0]].null_count < len(batch):
        return batch
    cells = _cells("\n".join(lines.to_pylist()).encode(), len(names))
    assert cells is not None
    return pa.RecordBatch.from_arrays([batch["lead_number"], *cells, lines], schema=batch.schema)


def _cells(data: bytes, width: int) -> Sequence[pa.Array] | None:
    batch = parse(data, width, dict.fromkeys(range(width), pa.string()), nulls=())
    return None if batch is None else batch.columns


def _commas(lines: pa.Array) -> np.ndarray:
    """How many commas stand in each line."""
    _, ends, text = lines.buffers()
    places = np.frombuffer(ends, np.int32)[lines.offset : lines.offset + len(lines) + 1]
    commas = np.flatnonzero(np.frombuffer(text or b"", np.uint8) == ord(","))
    return np.diff(np.searchsorted(commas, places))


def _is_plain(data: bytes, line: int) -> bool:
    """Whether each line of a block is one record, made of what stands between its commas.

    Raises DropRefused when the block is not UTF-8.
    """
    if not data.isascii():
        as_text(data, line)
    if b'"' in data or b"\0" in data or data.startswith(codecs.BOM_UTF8):  # Arrow would take the mark away
        return False
    window = max(LONGEST_FIELD.value // 2, 1)  # a line without an end in one may hold a field that is too long
    return all(data.find(b"\n", at, at + window) >= 0 for at in range(0, len(data) - window, window))


def lines_of(data: bytes, first_line: int) -> list[str]:
    r"""The physical lines of whole lines of UTF-8, each with its own end (\n, \r\n or \r)."""
    return list(io.StringIO(as_text(data, first_line), newline=""))


def as_text(data: bytes, first_line: int) -> str:
    """Decode UTF-8; raises DropRefused with the line, counted from `first_line`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = first_line + count_lines(data[: error.start])
        raise DropRefused(
            f"the file is not UTF-8: line {line} looks like Latin-1, Windows-1252 or another 8-bit encoding",
            where=f"line {line}",
            expected="UTF-8",
            do=DO,
        ) from error


def count_lines(data: bytes) -> int:
    r"""How many line ends (\n, \r\n or \r) stand in `data`."""
    lone = data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else 0
    return data.count(b"\n") + lone


def split(lines: list[str], width: int, *, final: bool) -> tuple[list[Record], int]:
    """Split lines into records of `width` fields, and tell how many lines were used up.

    Every line end outside quotes ends a record; blank lines are no records. A quoted record that does not
    come out right costs its first line alone: splitting starts afresh on the next one. Unless `final`, a
    record still open at the end is left for the next call, together with the lines that follow here.
    """
    records: list[Record] = []
    longest, longest_field = LONGEST_RECORD.value, LONGEST_FIELD.value
    csv.field_size_limit(max(longest, longest_field))  # a field that is too long is read, for where its record ends
    budget = REREADS * max(BLOCK_BYTES, sum(map(len, lines)))
    has_nul = any("\0" in line for line in lines)
    start = 0
    while start < len(lines):
        base, fault = start, BAD_QUOTE
        reader = csv.reader(map(lines.__getitem__, range(base, len(lines))), strict=True)
        try:
            for fields in reader:
                end = base + reader.line_num
                if end - start > 1 and _swallows_rows(fields, lines[start:end], width):
                    break
                if len(fields) > 1 or lines[start].strip(" \t\r\n"):
                    of_record = _fault(fields, width, has_nul, longest_field)
                    records.append(Record(start, end, [] if of_record else fields, of_record))
                start = end
            else:
                break
        except csv.Error as error:
            unfinished = str(error) == UNFINISHED and not final
            if unfinished and sum(map(len, lines[start:])) <= longest:
                break
            if base + reader.line_num == start + 1 and str(error).startswith("field larger"):
                fault = _too_long()
        budget -= sum(map(len, lines[start + 1 : base + reader.line_num]))
        if budget < 0:
            raise DropRefused("the quotes in the file do not pair up in too many places", do=DO)
        records.append(Record(start, start + 1, [], fault))
        start += 1
    return records, start


def _swallows_rows(fields: list[str], lines: list[str], width: int) -> bool:
    """Whether a record of several lines is none, but an unclosed quote with at least one whole row in it."""
    if len(fields) != width:  # no row, unless one of its lines is
        return any(line.count(",") >= width - 1 for line in lines)
    return width - 1 in (line.count(",") for line in lines[1:-1] if '"' not in line)


def _too_long() -> str:
    return f"has a field of over {LONGEST_FIELD.value:,} characters ({LONGEST_FIELD.variable})"


def _fault(fields: list[str], width: int, has_nul: bool, longest_field: int) -> str | None:
    if max(map(len, fields), default=0) > longest_field:
        return _too_long()
    if has_nul and any("\0" in field for field in fields):
        return "holds a NUL byte"
    return None if len(fields) == width else f"has {len(fields)} fields where the header has {width}"


def _regular_file(path: Path) -> BinaryIO:
    """Open without following a link and without waiting for a FIFO's writer."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        _refuse_irregular(os.lstat(path).st_mode)
        file = open(path, "rb", opener=lambda name, _: os.open(name, flags))  # noqa: SIM115 (the caller closes)
        _refuse_irregular(os.fstat(file.fileno()).st_mode)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "its name is not a file's"
        raise DropRefused(f"the file cannot be opened: {why}", do="check its name and permissions") from error
    return file


def _refuse_irregular(mode: int) -> None:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a named pipe", stat.S_IFDIR: "a directory"}
    if not stat.S_ISREG(mode):
        kind = kinds.get(stat.S_IFMT(mode), "a device or a socket")
        raise DropRefused(f"the path is {kind}", expected="a regular file", do="deliver the file itself")


def _chunks(file: BinaryIO, suffix: str) -> Iterator[bytes]:
    """The bytes of the CSV in a file named so; raises DropRefused when there are none, or too many inflated."""
    compressed = suffix in (".gz", ".parquet")
    largest = min(INFLATED_LARGEST.value, INFLATED_FREE + INFLATED_RATIO.value * os.fstat(file.fileno()).st_size)
    size = 0
    try:
        for chunk in parquet_as_csv(file, largest) if suffix == ".parquet" else _read(file, zipped=suffix == ".gz"):
            if not size:
                _refuse_disguised(chunk)
            size += len(chunk)
            if compressed and size > largest:
                raise OverflowError
            yield chunk
    except OverflowError as error:
        raise DropRefused(
            f"the {suffix} file inflates to over {largest:,} bytes",
            expected=f"{INFLATED_LARGEST}, and {INFLATED_RATIO}",
            do="deliver the CSV uncompressed, or in parts",
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DropRefused("the file is named .gz but does not hold whole gzip data", do=DO) from error
    if not size:
        raise DropRefused("the file is empty (0 bytes)", do=DO)


def _read(file: BinaryIO, *, zipped: bool) -> Iterator[bytes]:
    source = gzip.GzipFile(fileobj=file) if zipped else file
    while chunk := source.read(BLOCK_BYTES):
        yield chunk


def _blocks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut chunks into blocks of whole lines; a line end split over two chunks stays whole."""
    pending, longest = b"", LONGEST_LINE.value
    for chunk in chunks:
        pending += chunk
        cut = max(pending.rfind(b"\n"), pending.rfind(b"\r", 0, -1)) + 1
        if cut:
            yield pending[:cut]
            pending = pending[cut:]
        if len(pending) > longest:
            raise DropRefused(f"a line is longer than {longest:,} bytes", expected=str(LONGEST_LINE), do=DO)
    if pending:
        yield pending


def _refuse_disguised(head: bytes) -> None:
    """Refuse, naming it, what is not 8-bit text by the look of its first chunk."""
    kind = next((kind for prefix, kind in SIGNATURES if head.startswith(prefix)), None)
    if kind == "a zip archive" and b"[Content_Types].xml" in head:
        kind = "an Excel workbook (XLSX)"
    elif kind is None and head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"<"):
        kind = "an HTML or XML page"
    elif kind is None and b"\0" in re.split(rb"[\r\n]", head, maxsplit=1)[0]:
        texts = ((name[:6], head[:40].decode(name, "replace")) for name in WIDE_ENCODINGS)
        wide = (f"{name} text" for name, text in texts if text.isascii() and text.isprintable())
        kind = next(wide, "binary data")
    elif kind is None and len(head.translate(None, CONTROL_BYTES)) < 0.98 * len(head):
        kind = "binary data"
    if kind:
        raise DropRefused(f"the file is {kind}", expected="CSV text in UTF-8", do=DO)
