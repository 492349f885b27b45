"""The lead schema's types as Arrow's, and the CSV that a Parquet file stands for.

What lives here: how a typed lead is held in Arrow, read from a file or drawn. What does not: the schema itself
(`reference/lead_schema.yaml`).
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from junk_leads.errors import DropRefused

PARQUET_ROWS = 1_000  # written out at a time
PARQUET_PIECE = 64 << 20  # bytes of them
ARROW_TYPES = {
    "TIMESTAMP": pa.timestamp("us"),
    "VARCHAR": pa.string(),
    "INTEGER": pa.int32(),
    "TINYINT": pa.int8(),
}


def parquet_as_csv(file: BinaryIO, largest: int) -> Iterator[bytes]:
    """The CSV that a Parquet file of leads stands for, a thousand rows at a time, so that both are read by one rule.

    Moments are written as the schema's dates, whole numbers without a point, what is missing as an empty cell. No more
    than a piece of it is in memory, however few bytes of the file a long text needs. Raises DropRefused for what is no
    Parquet or has columns that are no cells of text, OverflowError for what says that it holds over `largest` bytes, or
    has a piece that is too large.
    """
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as found:
            if sum(found.metadata.row_group(at).total_byte_size for at in range(found.num_row_groups)) > largest:
                raise OverflowError
            texts = [field.name for field in found.schema_arrow if _is_text(field.type)]
            schema = pa.schema([(name, pa.string()) for name in found.schema_arrow.names])
            metadata = found.metadata
            yield _csv_of(schema.empty_table(), header=True)
        with parquet.ParquetFile(
            file, metadata=metadata, read_dictionary=texts
        ) as found:  # a text that is there often is there once
            for batch in found.iter_batches(batch_size=PARQUET_ROWS):
                if sum(map(_text_bytes, batch.columns)) > PARQUET_PIECE:
                    raise OverflowError
                cells = pa.RecordBatch.from_arrays([_as_text(column) for column in batch.columns], schema=schema)
                yield _csv_of(cells, header=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DropRefused(
            "the file is not Parquet with a column for each field of a lead", do="export the leads again"
        ) from error


def _csv_of(cells: Any, *, header: bool) -> bytes:
    from pyarrow import csv

    out = pa.BufferOutputStream()
    csv.write_csv(cells, out, csv.WriteOptions(include_header=header))
    return bytes(out.getvalue())


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary())


def _text_bytes(cells: pa.Array) -> int:
    """How many bytes the texts of a column are, written out."""
    if not pa.types.is_dictionary(cells.type):
        return int(cells.nbytes)
    return int(pc.sum(pc.binary_length(cells.dictionary).take(cells.indices)).as_py() or 0)


def _as_text(cells: pa.Array) -> pa.Array:
    """Cells as a CSV holds them."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if pa.types.is_timestamp(cells.type):
        whole = cells.cast(pa.timestamp("s"), safe=False)
        # a fraction of a second stays, to be rejected as in a CSV
        cells = whole if whole.cast(cells.type).equals(cells) else cells
    if pa.types.is_boolean(cells.type):
        cells = cells.cast(pa.int8())
    cells = cells.cast(pa.string())
    return pc.if_else(pc.equal(cells, ""), None, cells)  # both are an empty cell; an empty text would be quoted
