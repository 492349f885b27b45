"""The assets, by what they are about; the name of an asset is the name of its table.

What lives here: what every asset shares. What does not: rules (`steps/`), storing (`io_managers.py`).
"""

import os
import warnings
from datetime import timedelta
from typing import Any

import dagster as dg

from junk_leads.defs.checks import check_specs
from junk_leads.errors import JunkLeadsError

# backfill policies are beta in Dagster 1.13; without one, training from the UI would be a run for each drop
warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=dg.BetaWarning)
# and checks by partition a preview; without them a drop that warns would be hidden by the next one that passes
warnings.filterwarnings("ignore", message="Parameter `partitions_def`", category=dg.PreviewWarning)
warnings.filterwarnings(
    "ignore", message="Specifying a partitions_def on an AssetCheckSpec", category=dg.PreviewWarning
)

OWNERS = ["team:lead-quality"]
# the UI lists groups by name: numbered, they stand in the order in which leads pass through them
DATA_PIPELINE, TRAINING_PIPELINE, INFERENCE_PIPELINE = "1_data_pipeline", "2_training_pipeline", "3_inference_pipeline"
EVALUATION, EXPERIMENT = "4_evaluation", "5_experiment"
_SHORTEST_FRESHNESS = timedelta(hours=0.1)
DROPS = dg.DynamicPartitionsDefinition(name="drops")


def freshness() -> dict[str, Any]:
    """The freshness policy of what every delivery makes anew; none until JUNK_LEADS_FRESH_HOURS is set.

    After half that time without a delivery the UI warns, after all of it the asset is overdue.
    """
    hours = os.environ.get("JUNK_LEADS_FRESH_HOURS")
    if not hours:
        return {}
    try:
        window = timedelta(hours=float(hours))
    except (ValueError, OverflowError):
        window = timedelta(0)
    if window < _SHORTEST_FRESHNESS:
        raise JunkLeadsError(f"JUNK_LEADS_FRESH_HOURS is {hours!r}; it takes a number of hours, 0.1 or more")
    return {"freshness_policy": dg.FreshnessPolicy.time_window(fail_window=window, warn_window=window / 2)}


def declared(name: str, group: str, kinds: set[str], *, by_drop: bool = True, **more: Any) -> dict[str, Any]:
    """What an asset's declaration shares with the others: storage, owners, the checks of its suite."""
    partitions = more.pop("partitions_def", DROPS if by_drop else None)
    # a run takes one drop, whose checks are kept beside the others'; of labelled drops it takes many at once
    checked_by = partitions if partitions is DROPS else None
    specs = more.pop("check_specs", None)
    return {
        "name": name,
        "group_name": group,
        "kinds": kinds,
        "owners": OWNERS,
        "io_manager_key": "warehouse",
        "partitions_def": partitions,
        "check_specs": check_specs(name, checked_by) if specs is None else specs,
        **more,
    }


def will_make(context: dg.AssetExecutionContext, asset: str) -> bool:
    """Whether this run makes this asset as well."""
    return dg.AssetKey(asset) in context.job_def.asset_layer.selected_asset_keys


def lineage(deps: dict[str, list[tuple[str, str]]]) -> dg.TableColumnLineage:
    """Column lineage: for each column the (asset, column) pairs that it is made from."""
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(dg.AssetKey(asset), of) for asset, of in made_from]
            for column, made_from in deps.items()
        }
    )
