"""The scored file: every delivered cell of a lead with what was predicted of it, as CSV and as Parquet.

What lives here: writing it, a piece at a time, and what keeps a cell from being run as a formula. What does not: the
predictions (`scoring.py`) and reading what was delivered (`reading.py`).
"""

import csv
import io
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from itertools import cycle, repeat, takewhile
from pathlib import Path
from typing import BinaryIO, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from junk_leads.steps.leads import splitting
from junk_leads.steps.leads.splitting import LINE
from junk_leads.steps.scoring.scoring import IDENTITY
from junk_leads.steps.sql import literal

Made = TypeVar("Made")
LEADS_AT_ONCE = 100_000
FORMULA_STARTS = "=+-@\t\r"
_STARTS = "".join(f"\\x{ord(start):02x}" for start in FORMULA_STARTS)
_NO_LINE = f"(^|,)[{_STARTS}]|[#\\r]"  # such a cell is put out of action, or quoted by DuckDB


def write_scored_file(
    path: Path,
    header: tuple[str, ...],
    delivered: Iterable[pa.RecordBatch],
    predictions: duckdb.DuckDBPyRelation,
    *,
    parquet: bool = False,
    threads: int = 2,
) -> int:
    """Write the scored CSV whole or not at all: the delivered columns, then what was predicted.

    `delivered` comes in batches, in order: lead_number, the columns of `header` as text, and perhaps `line`, the row as
    it was delivered; one row is written for each of `predictions` (drop, lead_number, probability, ... model_version),
    in order of lead number. Cells that a
    spreadsheet would run as a formula are given a leading apostrophe. With `parquet` the same rows, every cell as
    delivered, are written beside it for programs, under the same name with `.parquet`. Of some `threads` each puts
    rows into CSV, while one more reads the next. Returns the rows written.
    """
    told = [*IDENTITY, *(name for name in predictions.columns if name not in IDENTITY)]
    part, columnar = path.with_suffix(".part"), path.with_suffix(".parquet.part")
    bodies = [path.with_suffix(f".body{number}") for number in range(threads + 1)]
    written = 0
    with ExitStack() as stack:
        for left in (*bodies, part, columnar):
            stack.callback(left.unlink, missing_ok=True)
        file = stack.enter_context(part.open("wb"))
        heading = io.StringIO()
        csv.writer(heading).writerow([*map(inert_cell, header), *told])  # its own line end: \r in a name is quoted
        file.write(heading.getvalue().removesuffix("\r\n").encode() + b"\n")
        predictions = predictions.select(*told)
        schema = predictions.limit(0).to_arrow_table().schema
        tables = stack.enter_context(_Columnar(columnar, header, schema)) if parquet else None
        reading = stack.enter_context(closing(_meanwhile(repeat(partial(next, _joined(delivered), None)), 1)))
        pieces = (
            _beside(cells, predictions, in_cells=parquet) for cells in takewhile(lambda c: c is not None, reading)
        )
        calls = (partial(_write_rows, rows, body) for rows, body in zip(pieces, cycle(bodies), strict=False))
        for rows, body in stack.enter_context(closing(_meanwhile(calls, threads))):
            with body.open("rb") as more:
                shutil.copyfileobj(more, file)
            if tables is not None:
                tables.write(rows)
            written += len(rows)
        file.close()
        if tables is None:
            path.with_suffix(".parquet").unlink(missing_ok=True)  # it would tell of former predictions
        else:
            tables.close()
            os.replace(columnar, path.with_suffix(".parquet"))
        os.replace(part, path)
    return written


def join_scored_files(paths: Sequence[Path], target: Path, *, parquet: bool = False) -> None:
    """Join scored files of one drop, in their order, whole or not at all; with `parquet` those beside them too."""
    part, columnar = target.with_suffix(".part"), target.with_suffix(".parquet.part")
    try:
        with part.open("wb") as file:
            for number, path in enumerate(paths):
                with path.open("rb") as rows:
                    if number:
                        rows.seek(_heading_bytes(rows))
                    shutil.copyfileobj(rows, file, 1 << 20)
        if parquet:
            _join_parquet([path.with_suffix(".parquet") for path in paths], columnar)
            os.replace(columnar, target.with_suffix(".parquet"))
        else:
            target.with_suffix(".parquet").unlink(missing_ok=True)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
        columnar.unlink(missing_ok=True)


def _heading_bytes(rows: BinaryIO) -> int:
    """Where the first row begins; a delivered name may hold line ends, inside quotes."""
    heading = rows.readline()
    while heading.count(b'"') % 2:
        heading += rows.readline()
    return len(heading)


def _join_parquet(paths: Sequence[Path], target: Path) -> None:
    from pyarrow import parquet

    with parquet.ParquetWriter(target, parquet.read_schema(paths[0]), compression="zstd") as writer:
        for path in paths:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches():
                    writer.write_batch(batch)


def _joined(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches joined to tables of some hundred thousand rows: as many as are well joined and written at once."""
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        kept.append(batch)
        if sum(map(len, kept)) >= LEADS_AT_ONCE:
            yield pa.Table.from_batches(kept)
            kept = []
    if sum(map(len, kept)):
        yield pa.Table.from_batches(kept)


def _beside(cells: pa.Table, predictions: duckdb.DuckDBPyRelation, *, in_cells: bool) -> pa.Table:
    """Delivered cells (`d0`, `d1`...) with what is predicted of their leads beside them (`p0`, `p1`...).

    Both are in order of lead numbers; a row for each of the leads that are in both. Unless it must be `in_cells`, what
    was delivered is one column, `line`, where all lines can be written as they are.
    """
    numbers = cells["lead_number"].to_numpy()
    within = f"lead_number BETWEEN {numbers[0]} AND {numbers[-1]}"
    predicted = predictions.filter(within).order("lead_number").to_arrow_table()
    place = np.searchsorted(numbers, predicted["lead_number"].to_numpy())
    there = numbers[place] == predicted["lead_number"].to_numpy()
    predicted = predicted.filter(there)
    as_they_are = not in_cells and _can_be_lines(cells, predicted)
    if not as_they_are and LINE in cells.column_names:
        cells = splitting.in_cells(cells)
    shown = [LINE] if as_they_are else [name for name in cells.column_names if name not in ("lead_number", LINE)]
    delivered = cells.select(shown).take(place[there])
    return pa.table(
        {
            **{LINE if as_they_are else f"d{n}": column for n, column in enumerate(delivered.columns)},
            **{f"p{n}": column for n, column in enumerate(predicted.columns)},
        }
    )


def _meanwhile(calls: Iterable[Callable[[], Made]], threads: int) -> Generator[Made]:
    """What calls give, in their order; so many threads make the next ones while one is used."""
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[Made]] = deque()
        for call in calls:
            under_way.append(pool.submit(call))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _can_be_lines(cells: pa.Table, predicted: pa.Table) -> bool:
    """Whether the rows of these cells are the lines that they were delivered in, with what was predicted behind.

    It holds where no cell would be run as a formula or is quoted by DuckDB, and no row has more than one line.
    """
    if LINE not in cells.column_names or cells[LINE].null_count or not cells.num_rows:
        return False
    texts = (column for column in predicted.columns if pa.types.is_string(column.type))
    return not (_any_like(cells[LINE], _NO_LINE) or any(_any_like(column.unique(), "[\\r\\n]") for column in texts))


def _any_like(texts: pa.Array | pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(texts, pattern)).as_py())


def _write_rows(rows: pa.Table, body: Path) -> tuple[pa.Table, Path]:
    """Write rows of the scored CSV in their order, which one thread of DuckDB keeps; returns what it was given."""
    shown = [_inert_sql(name) if name.startswith("d") else name for name in rows.column_names if name != LINE]
    with duckdb.connect() as con:
        con.execute("SET threads = 1")
        con.execute(f"COPY (SELECT {', '.join(shown)} FROM rows) TO {literal(str(body))} (FORMAT csv, HEADER false)")
    if LINE in rows.column_names:
        _put_before(rows[LINE], body)
    return rows, body


def _put_before(lines: pa.ChunkedArray, body: Path) -> None:
    """Put each of these lines, and a comma, before a line of a file."""
    told, large = body.read_bytes(), pa.large_string()
    ends = np.flatnonzero(np.frombuffer(told, np.uint8) == ord("\n")) + 1
    places = pa.py_buffer(np.concatenate([[0], ends]))
    behind = pa.LargeStringArray.from_buffers(len(ends), places, pa.py_buffer(told))
    with body.open("wb") as file:
        for joined in pc.binary_join_element_wise(lines.cast(large), behind, pa.scalar(",", large)).chunks:
            _, offsets, data = joined.buffers()
            first, last = np.frombuffer(offsets, np.int64)[[joined.offset, joined.offset + len(joined)]]
            file.write(memoryview(data)[first:last])


class _Columnar:
    """A Parquet file written in pieces, its first columns named as delivered (made unique where they are not)."""

    def __init__(self, path: Path, header: tuple[str, ...], told: pa.Schema) -> None:
        from pyarrow import parquet

        names = [name or f"column_{place}" for place, name in enumerate(header, 1)]
        twice = {name for name in names if names.count(name) > 1} | set(told.names)
        texts = [f"{name}_{place}" if name in twice else name for place, name in enumerate(names, 1)]
        self.schema = pa.schema([*((name, pa.string()) for name in texts), *told])
        self.writer = parquet.ParquetWriter(path, self.schema, compression="zstd")

    def __enter__(self) -> "_Columnar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, rows: pa.Table) -> None:
        """Add rows: the delivered columns, then what was predicted."""
        self.writer.write_table(rows.rename_columns(self.schema.names).cast(self.schema))

    def close(self) -> None:
        """Finish the file."""
        self.writer.close()


def inert_cell(value: str) -> str:
    """A delivered cell that no spreadsheet takes for a formula."""
    return f"'{value}" if value and value[0] in FORMULA_STARTS else value


def _inert_sql(cell: str) -> str:
    starts = ", ".join(str(ord(start)) for start in FORMULA_STARTS)
    return f"CASE WHEN ord({cell}) IN ({starts}) THEN '''' || {cell} ELSE nullif({cell}, '') END AS {cell}"
