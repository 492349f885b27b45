"""The champion: the version in Production, as the asset graph shows it.

What lives here: the asset champion, which no run makes, and telling Dagster of a promotion or a rollback. What does
not: stages (`stores/registry.py`) and who may promote (`stores/promotion.py`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from junk_leads.defs.assets import OWNERS, TRAINING_PIPELINE
from junk_leads.errors import RegistryError
from junk_leads.stores.registry import PRODUCTION, Registry

CHAMPION = "champion"

champion = dg.AssetSpec(
    CHAMPION,
    deps=["lightgbm_model"],
    group_name=TRAINING_PIPELINE,
    kinds={"lightgbm", "mlflow"},
    owners=OWNERS,
    description=(
        "The champion: the version in Production, which scores. No run makes it: it changes when somebody promotes a "
        "version or rolls back, or when the rule in `outcomes` does; each such event says which version, who and why."
    ),
)


def announcer(instance: dg.DagsterInstance) -> Callable[[Mapping[str, Any]], None]:
    """What tells Dagster's store of a transition into Production or out of it, as the registry's history has it."""

    def announce(event: Mapping[str, Any]) -> None:
        try:
            instance.report_runless_asset_event(champion_event(event))
        except Exception as error:
            raise RegistryError(
                f"version {event['version']} is in stage {event['to']} now, but the asset graph could not be told "
                f"({type(error).__name__}); check the disk and Dagster's store"
            ) from error

    return announce


def champion_event(event: Mapping[str, Any]) -> dg.AssetMaterialization:
    """The asset's event of a transition: version, metrics, who and why. A version's data version is always the same,
    so that rolling back to it makes what it scored fresh again.
    """
    version = str(event["version"]) if event["to"] == PRODUCTION else "none"
    told = {
        key: event[key] for key in ("when", "from", "to", "who", "why", "data_fingerprint", "gate") if event.get(key)
    }
    return dg.AssetMaterialization(
        asset_key=CHAMPION,
        description=f"version {event['version']}: {event['from'] or 'new'} to {event['to']}",
        metadata={"model_version": version, **told, **event.get("metrics", {})},
        tags={"dagster/data_version": "-".join([version, *filter(None, [event.get("encoder_id")])])},
    )


def tell_of_champion(instance: dg.DagsterInstance, registry: Registry, version: str) -> None:
    """Tell Dagster who the champion is when it does not know: promoted in MLflow itself, or before it was told."""
    event = instance.get_latest_materialization_event(dg.AssetKey(CHAMPION))
    if event is not None and event.asset_materialization is not None:
        known = event.asset_materialization.metadata.get("model_version")
        if known is not None and known.value == version:
            return
    transitions = [e for e in registry.history() if e["version"] == version and e["to"] == PRODUCTION]
    found = registry.version(version)
    unnoted = {"version": version, "from": "", "to": PRODUCTION, "encoder_id": found.encoder_id}
    announcer(instance)(transitions[-1] if transitions else unnoted)
