"""The lead schema's types as Arrow's, and the CSV that a Parquet file stands for.

What lives here: how a typed lead is held in Arrow, read from a file or drawn. What does not: the schema itself
(`reference/lead_schema.yaml`).
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from junk_leads.errors import DropRefused

ARROW_TYPES = {
    "TIMESTAMP": pa.timestamp("us"),
    "VARCHAR": pa.string(),
    "INTEGER": pa.int32(),
    "TINYINT": pa.int8(),
}


def delivered_as_csv(path: Path, target: Path) -> Path:
    """Write the CSV that a Parquet file of leads stands for, so that both are read by the same rules; returns it.

    Moments are written as the schema's dates, whole numbers without a point, what is missing as an empty cell. Raises
    DropRefused for what is no Parquet, or has columns that are no cells of text.
    """
    from pyarrow import csv, parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = pa.schema([(name, pa.string()) for name in file.schema_arrow.names])
            with csv.CSVWriter(target, schema, write_options=csv.WriteOptions(quoting_style="needed")) as writer:
                for batch in file.iter_batches():
                    cells = [_as_text(column) for column in batch.columns]
                    writer.write_batch(pa.RecordBatch.from_arrays(cells, schema=schema))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DropRefused(
            "the file is not Parquet with a column for each field of a lead", do="export the leads again"
        ) from error
    return target


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
    return pc.fill_null(cells.cast(pa.string()), "")
