"""The assets, by what they are about; the name of an asset is the name of its table.

What lives here: what every asset shares. What does not: rules (`steps/`), storing (`io_managers.py`).
"""

import warnings
from typing import Any

import dagster as dg

from junk_leads.defs.checks import check_specs
from junk_leads.defs.io_managers import POOL

# backfill policies are beta in Dagster 1.13; without one, training from the UI would be a run for each drop
warnings.filterwarnings("ignore", message="Parameter `backfill_policy`", category=dg.BetaWarning)

OWNERS = ["team:lead-quality"]
# the UI lists groups by name: numbered, they stand in the order in which leads pass through them
DATA_PIPELINE, TRAINING_PIPELINE, INFERENCE_PIPELINE = "1_data_pipeline", "2_training_pipeline", "3_inference_pipeline"
EVALUATION, EXPERIMENT = "4_evaluation", "5_experiment"
DROPS = dg.DynamicPartitionsDefinition(name="drops")


def declared(name: str, group: str, kinds: set[str], *, by_drop: bool = True, **more: Any) -> dict[str, Any]:
    """What an asset's declaration shares with the others: storage, pool, owners, the checks of its suite."""
    return {
        "name": name,
        "group_name": group,
        "kinds": kinds,
        "owners": OWNERS,
        "io_manager_key": "warehouse",
        "pool": POOL,
        "partitions_def": DROPS if by_drop else None,
        "check_specs": more.pop("check_specs", None) or check_specs(name),
        **more,
    }


def lineage(deps: dict[str, list[tuple[str, str]]]) -> dg.TableColumnLineage:
    """Column lineage: for each column the (asset, column) pairs that it is made from."""
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(dg.AssetKey(asset), of) for asset, of in made_from]
            for column, made_from in deps.items()
        }
    )
