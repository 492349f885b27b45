"""Code maps: renamed codes that people accept, and take back.

What lives here: the asset code_maps, whose materialisation is how a map is accepted or undone. What does not: proposing
and applying a map (`steps/watching/codes.py`), keeping it (`stores/drops/code_maps.py`).
"""

from enum import Enum
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
from pydantic import Field

from junk_leads.defs.assets import DATA_PIPELINE, OWNERS
from junk_leads.defs.checks import inert, plain_failures
from junk_leads.defs.io_managers import Warehouse
from junk_leads.defs.resources import HomeResource
from junk_leads.stores.drops.code_maps import CodeMap, read_codes, write_codes
from junk_leads.stores.drops.trusting import propose_codes


class CodesAction(Enum):
    """What is asked for."""

    LIST = "list"
    ACCEPT = "accept"
    UNDO = "undo"


class CodesConfig(dg.Config):
    """What becomes of the code map of a drop.

    To accept: the map in `map_file`, else in the drop's reviewed `reports/<drop>.codes.csv`, else as proposed; for all
    drops whose file name matches `source`, if that is given.
    """

    action: CodesAction = CodesAction.LIST
    drop: str = ""
    map_file: str = ""
    source: str = ""
    by: str = ""
    why: str = Field(default="", description="Kept with the map.")


@dg.asset(
    name="code_maps",
    group_name=DATA_PIPELINE,
    kinds={"duckdb"},
    owners=OWNERS,
    io_manager_key="warehouse",
)
def code_maps(
    context: dg.AssetExecutionContext,
    config: CodesConfig,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
) -> dg.Output[duckdb.DuckDBPyRelation]:
    """Code maps: one row for each renamed code of each accepted map; cleaned_leads puts the codes back.

    Materialise it with a drop to accept its map (that of `junk-leads codes propose`, or any other) or to take it back,
    then score the drop again.
    """
    with plain_failures():
        con, store = warehouse.connection(), home.code_maps
        changed: CodeMap | None = None
        if config.action is CodesAction.ACCEPT:
            file_name = home.ledger.newest(config.drop).file_name
            codes = _codes(con, home, config)
            changed = store.accept(config.drop, file_name, codes, source=config.source, by=config.by, why=config.why)
        elif config.action is CodesAction.UNDO:
            changed = store.undo(config.drop, home.ledger.newest(config.drop).file_name, by=config.by)
        maps = store.all()
        metadata: dict[str, Any] = {"maps_that_hold": sum(found.holds for found in maps)}
        if changed is not None:
            told = {"drop": changed.drop, "code_map": changed.id, "who": changed.who, "why": inert(changed.why)}
            metadata |= {"action": config.action.value, "source": inert(changed.source), **told}
        return dg.Output(_table(con, maps), metadata=metadata)


def _codes(con: duckdb.DuckDBPyConnection, home: HomeResource, config: CodesConfig) -> dict[str, dict[str, str]]:
    if config.map_file:
        return read_codes(Path(config.map_file))
    reviewed = home.home.reports / f"{config.drop}.codes.csv"
    if not reviewed.exists():
        write_codes(reviewed, propose_codes(con, home.registry, config.drop))
    return read_codes(reviewed)


def _table(con: duckdb.DuckDBPyConnection, maps: list[CodeMap]) -> duckdb.DuckDBPyRelation:
    rows = [
        (
            *(found.number, found.id, found.drop, found.source, column, delivered, becomes),
            *(found.who, found.why, found.accepted, found.undone),
        )
        for found in maps
        for column, pairs in found.codes.items()
        for delivered, becomes in pairs.items()
    ]
    con.execute(
        "CREATE OR REPLACE TEMP TABLE staged_code_maps (map_number BIGINT, id VARCHAR, drop VARCHAR, source VARCHAR, "
        "column_name VARCHAR, delivered VARCHAR, becomes VARCHAR, who VARCHAR, why VARCHAR, accepted VARCHAR, "
        "undone VARCHAR)"
    )
    if rows:
        columns = [list(column) for column in zip(*rows, strict=True)]
        con.execute(f"INSERT INTO staged_code_maps SELECT {', '.join(['unnest(?)'] * len(columns))}", columns)
    return con.table("staged_code_maps")
