"""The IO manager: assets to and from tables of the warehouse, by name.

What lives here: Dagster's view of `warehouse.py`, one connection from output to output, and the
metadata that every stored table shows. What does not: transactions (`warehouse.py`) and checks
(`checks.py`).
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TypeAlias

import dagster as dg
import duckdb
from pydantic import PrivateAttr

from junk_leads.capacity import failures_told
from junk_leads.defs.checks import inert
from junk_leads.defs.recovery import hold
from junk_leads.engine.table_parts import Stored, relation_of
from junk_leads.errors import WarehouseUnavailable
from junk_leads.home import Home
from junk_leads.stores.warehouse import connect, is_waited_for, opened, rows_of, store

TURN_SECONDS = 1.0  # for so long a run may keep the warehouse from one output to the next
PREVIEW_ROWS = 5
PREVIEW_COLUMNS = 14

Tables: TypeAlias = Mapping[str, Stored]


class Warehouse(dg.ConfigurableIOManager):
    """Tables named as their assets, in one DuckDB file.

    An asset yields a relation of this connection, or several by table name (the first is the asset's
    own), and gets relations of its inputs: rows stay inside DuckDB. Rows of a partitioned asset carry
    their drop. Assets that need the connection itself ask for this resource.
    """

    path: str
    wait_seconds: float | None = None  # as JUNK_LEADS_WAIT_SECONDS says
    _connection: duckdb.DuckDBPyConnection | None = PrivateAttr(default=None)
    _opened_at: float = PrivateAttr(default=0.0)
    _lock: IO[bytes] | None = PrivateAttr(default=None)

    def connection(self) -> duckdb.DuckDBPyConnection:
        """The connection of this run's steps, opened when first asked for.

        Raises WarehouseUnavailable when another process holds the file for too long.
        """
        if self._connection is None:
            self._connection = connect(Path(self.path), wait_seconds=self.wait_seconds)
            self._opened_at = time.monotonic()
        return self._connection

    def release(self) -> None:
        """Close the connection, so that another process may have the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def pass_on(self) -> None:
        """Close the connection after an output, and let the file go to whom it was kept from for a turn.

        While nobody waits for it, the file stays open: to open it again costs 30 ms, and a checkpoint to close it.
        """
        if self._connection is None or time.monotonic() - self._opened_at < TURN_SECONDS:
            return
        if is_waited_for(Path(self.path)):
            self.release()
            return
        with self._connection:  # what it made for its output goes with it
            self._connection = opened(Path(self.path))

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Hold the lock that says that a run is alive."""
        path = Path(self.path).parent
        if path.is_dir():
            self._lock = hold(Home(path).running_lock)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Close what a failed step left open, and let go of the lock."""
        self.release()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def load_input(self, context: dg.InputContext) -> duckdb.DuckDBPyRelation:
        """The upstream table's rows: of the partitions asked for, or all."""
        drops = list(context.asset_partition_keys) if context.has_asset_partitions else None
        return rows_of(self.connection(), context.asset_key.path[-1], drops)

    def handle_output(self, context: dg.OutputContext, obj: Stored | Tables) -> None:
        """Replace what the tables hold of this output's partitions, in one transaction."""
        drops = list(context.asset_partition_keys) if context.has_asset_partitions else None
        table = context.asset_key.path[-1]
        outputs = obj if isinstance(obj, Mapping) else {table: obj}
        if next(iter(outputs), None) != table:
            raise WarehouseUnavailable(
                f"the output of {table} holds the tables {', '.join(outputs) or 'none'}; nothing was stored: "
                f"name its own table first"
            )
        content = (context.output_metadata or {}).get("content")
        with failures_told():
            stored = store(self.connection(), outputs, drops, None if content is None else str(content.value))
            context.add_output_metadata(describe(relation_of(self.connection(), outputs[table]), stored[table]))
            self.pass_on()


def describe(
    relation: duckdb.DuckDBPyRelation, row_count: int, shown: int = PREVIEW_ROWS
) -> dict[str, dg.MetadataValue]:
    """Row count, column schema and a preview, as Dagster shows them."""
    columns = [dg.TableColumn(name, str(kind)) for name, kind in zip(relation.columns, relation.types, strict=True)]
    return {
        "dagster/row_count": dg.MetadataValue.int(row_count),
        "dagster/column_schema": dg.MetadataValue.table_schema(dg.TableSchema(columns=columns)),
        "preview": dg.MetadataValue.md(preview(relation, shown)),
    }


def preview(relation: duckdb.DuckDBPyRelation, row_count: int = PREVIEW_ROWS) -> str:
    """The first rows as a Markdown table, every value inert."""
    shown = relation.columns[:PREVIEW_COLUMNS]
    rows = relation.limit(row_count).fetchall()
    lines = ["| " + " | ".join(map(inert, shown)) + " |", "|" + "---|" * len(shown)]
    for row in rows:
        cells = ("" if value is None else inert(str(value), 80) for value in row[: len(shown)])
        lines.append("| " + " | ".join(cells) + " |")
    hidden = len(relation.columns) - len(shown)
    return "\n".join(lines) + (f"\n\nand {hidden} more columns" if hidden > 0 else "")
