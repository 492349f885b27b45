"""The labelled drops as Dagster knows them: partitions of their own, so that the UI shows which drops train.

What lives here: their partitions, keeping those in step with the warehouse, and what a run of training has to make of
them. What does not: which drops are labelled (`stores/drops/labelled.py`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg
import duckdb

from junk_leads.stores.drops.labelled import labelled_drops, uncounted

LOOKED_AT = "junk_leads/looked_at"  # the tag of a run of training
LABELLED_DROPS = dg.DynamicPartitionsDefinition(name="labelled_drops")


def keep_labelled_drops(instance: dg.DagsterInstance, con: duckdb.DuckDBPyConnection) -> None:
    """Make the partitions those of the accepted labelled drops: add what is new, drop what is labelled no longer."""
    name = str(LABELLED_DROPS.name)
    labelled, known = labelled_drops(con), set(instance.get_dynamic_partitions(name))
    for gone in known.difference(labelled):
        instance.delete_dynamic_partition(name, gone)
    new = [drop for drop in labelled if drop not in known]
    if new:
        instance.add_dynamic_partitions(name, new)
        instance.add_dynamic_partitions("drops", new)  # known already, unless Dagster's store is newer than the home


def to_train(
    instance: dg.DagsterInstance, con: duckdb.DuckDBPyConnection, assets: Sequence[str]
) -> tuple[list[dg.AssetKey], dict[str, str]]:
    """What a run that makes these assets, `lead_counts` first, has to make, and the tags of its partitions.

    Counts are made of the drops from the first to the last that have none of their present leads; when all have,
    of none.
    """
    looked = {LOOKED_AT: datetime.now(UTC).isoformat()}
    keep_labelled_drops(instance, con)
    new = set(uncounted(con))
    ordered = [drop for drop in instance.get_dynamic_partitions(str(LABELLED_DROPS.name)) if drop in new]
    if not ordered:
        return [dg.AssetKey(asset) for asset in assets[1:]], looked
    tags = {"dagster/asset_partition_range_start": ordered[0], "dagster/asset_partition_range_end": ordered[-1]}
    return [dg.AssetKey(asset) for asset in assets], {**tags, **looked}


def looked_at(run: dg.DagsterRun) -> datetime | None:
    """When it was looked which drops a run of training has to count; None for a run that somebody put together."""
    told = run.tags.get(LOOKED_AT)
    return datetime.fromisoformat(told) if told else None
