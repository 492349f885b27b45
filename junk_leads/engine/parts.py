"""The parts of a table in shards: one Parquet file for each shard, on storage that all workers see.

What lives here: writing a part so that it is there whole or not at all, and the parts as one relation. What does not:
which parts a table of the warehouse has (`stores/warehouse.py`).

A part is called `first_lead=<n>/part-<shard>.parquet`: its lead numbers are counted from n. So a shard can be read
before anybody knows how many leads come before it, and its part is then renamed, not written anew.
"""

import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb

from junk_leads.errors import StorageUnavailable
from junk_leads.steps.sql import literal


@dataclass(frozen=True)
class Part:
    """The rows of one table that are of one shard; those of raw leads are numbered from `first_lead` + 1."""

    shard: int
    path: str
    rows: int
    first_lead: int = 0


@contextmanager
def worker_connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory for one task: one thread, as the executor has others; what does not fit goes to disk."""
    with tempfile.TemporaryDirectory(prefix="junk-leads-") as folder, duckdb.connect() as con:
        con.execute("SET threads = 1")
        con.execute(f"SET temp_directory = {literal(folder)}")
        yield con


def path_of_part(folder: str, shard: int, first_lead: int = 0) -> str:
    """Where a part is below the folder of its table."""
    return os.path.join(folder, f"first_lead={first_lead}", f"part-{shard:05}.parquet")


def write_part(con: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation, path: str) -> int:
    """Write a relation as a part, under its name only when it is whole; returns its rows.

    A task that is done twice, because its worker was thought dead, writes two files, of which one stays.
    """
    part = f"{path}.{uuid.uuid4().hex}.being-written"
    rows = relation  # noqa: F841  named in the SQL below
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        written = con.execute(f"COPY (SELECT * FROM rows) TO {literal(part)} (FORMAT parquet)").fetchall()[0][0]
        os.replace(part, path)
    except (OSError, duckdb.IOException) as error:
        raise StorageUnavailable(
            f"{path} cannot be written ({str(error).splitlines()[0][:200]}); nothing was changed: every worker must be "
            "able to write there"
        ) from error
    return int(written)


def number_part(part: Part, folder: str, first_lead: int) -> Part:
    """The part with its lead numbers counted from `first_lead`: renamed, at once."""
    target = path_of_part(folder, part.shard, first_lead)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.replace(part.path, target)
    return Part(part.shard, target, part.rows, first_lead)


def sql_of_parts(paths: Sequence[str]) -> str:
    """SQL for the rows of these parts; at least one."""
    files = ", ".join(map(literal, paths))
    return (
        "SELECT * EXCLUDE (first_lead) REPLACE (lead_number + first_lead AS lead_number) "
        f"FROM read_parquet([{files}], hive_partitioning = true, hive_types = {{'first_lead': BIGINT}})"
    )


def read_parts(con: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> duckdb.DuckDBPyRelation:
    """The rows of these parts, as a relation; raises StorageUnavailable when a file is not there."""
    missing = next((path for path in paths if not os.path.exists(path)), None)
    if missing is not None:
        raise StorageUnavailable(
            f"{missing} is gone, which holds rows of a table; bring its storage back, or deliver the drop again"
        )
    return con.sql(sql_of_parts(paths))
