"""Commands about models: trained, compared, in which stage, and how they fared.

What lives here: parsing and telling. What does not: the work (`running/launching.py`, `stores/registry.py`).
"""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from junk_leads.cli.speaking import Json, Scheduler, answer, opened_platform, opened_registry, progress_told

app = typer.Typer(help="The versions of the model and their stages.", add_completion=False)


class Stage(StrEnum):
    """The stages of a version."""

    staging = "staging"
    production = "production"
    archived = "archived"


def train(
    rounds: Annotated[int | None, typer.Option(min=1, help="Boosting rounds.")] = None,
    param: Annotated[list[str] | None, typer.Option(help="A LightGBM parameter, NAME=VALUE; repeatable.")] = None,
    minimum_labelled: Annotated[int | None, typer.Option(min=2, help="Least labelled leads to train on.")] = None,
    junk_budget: Annotated[
        float | None, typer.Option(min=0, max=0.99, help="Share of genuine leads the flag may lose.")
    ] = None,
    true_conversion: Annotated[
        float | None, typer.Option(min=0.0001, max=0.9999, help="The platform's true share of genuine leads.")
    ] = None,
    cost_of_contact: Annotated[float | None, typer.Option(min=0, help="Set the flag where contacting pays.")] = None,
    value_of_application: Annotated[float | None, typer.Option(min=0.0001, help="In the same currency.")] = None,
    tuned: Annotated[
        bool, typer.Option("--tuned", help="With the parameters of the last experiment's best LightGBM; others win.")
    ] = False,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Train on all accepted labelled drops and register a version: the training pipeline."""
    given = {
        "rounds": rounds,
        "minimum_labelled": minimum_labelled,
        "junk_budget": junk_budget,
        "true_conversion": true_conversion,
        "cost_of_contact": cost_of_contact,
        "value_of_application": value_of_application,
    }
    overrides: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if param:
        overrides["lightgbm"] = dict(_parameter(text) for text in param)
    with opened_platform(scheduler, checking=True) as platform:
        row = platform.train(overrides, tuned=tuned)
    metrics = {name: value for name, value in row.items() if isinstance(value, float)}
    content = {
        "version": row["model_version"],
        "run_id": row["run_id"],
        "encoder_id": row["encoder_id"],
        "rows": row["labelled_leads"],
        "metrics": metrics,
    }
    text = (
        f"version {row['model_version']} registered, trained on {row['labelled_leads']:,} labelled leads\n"
        f"hold-out AUC {metrics['random_auc']:.4f} (random split), {metrics['temporal_auc']:.4f} (last leads by time)\n"
        f"of the last leads by time the flag removes {metrics['temporal_junk_removed']:.1%} of the junk and loses "
        f"{metrics['temporal_genuine_lost']:.1%} of the genuine\n"
        f"promote it with: junk-leads models promote {row['model_version']} --to production"
    )
    answer(as_json, content, text)


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--param")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def experiment(
    seconds: Annotated[float | None, typer.Option(min=0.001, help="How long LightGBM is tuned.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Most trials of tuning in that time.")] = None,
    learner: Annotated[list[str] | None, typer.Option(help="Only this learner, NAME; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Compare learners on all accepted labelled drops: a leaderboard, each learner a run in MLflow."""
    given = {"seconds": seconds, "trials": trials, "learners": learner}
    with opened_platform(checking=True) as platform, progress_told():
        rows = platform.experiment({name: value for name, value in given.items() if value is not None})
    from junk_leads.steps.pages.leaderboard import as_text

    text = (
        f"{as_text(rows)}\n"
        f"{rows[0]['labelled_leads']:,} labelled leads; all but the AUC at random on the last leads by time"
    )
    if any(row["library"] == "lightgbm" for row in rows):
        text += "\ntrain with the best LightGBM's parameters: junk-leads train --tuned"
    answer(as_json, {"leaderboard": rows}, text)


def evaluate(
    roll_back_below: Annotated[
        float | None, typer.Option(min=0.01, max=0.99, help="Roll a champion back whose AUC is surely below.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare predictions with the labels that came later, in any drop: decay over time, and what to do."""
    with opened_platform(checking=True) as platform:
        told = platform.evaluate(roll_back_below)
    aucs = {name: value for name, value in told.items() if name.startswith("version_")}
    content = {"outcomes": told["dagster/row_count"], "advice": told["advice"], **aucs}
    answer(as_json, content, f"{told['fared']}\n\n{told['dagster/row_count']:,} outcomes")


@app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: Json = False) -> None:
    """List the versions of the model, newest first."""
    if context.invoked_subcommand:
        return
    from junk_leads.stores.registry import describe

    versions = opened_registry().versions()
    lines = [
        f"{v.version:>4}  {v.stage or '-':<10}  {v.created}  "
        f"AUC {v.metrics.get('random_auc', 0):.4f} random, {v.metrics.get('temporal_auc', 0):.4f} temporal"
        for v in versions
    ]
    answer(as_json, {"versions": [describe(v) for v in versions]}, "\n".join(lines) or "no versions yet")


@app.command()
def promote(
    version: str,
    to: Annotated[Stage, typer.Option(help="The stage to move it to.")],
    why: Annotated[str, typer.Option(help="The reason, kept in the history.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Past the gate; give the reason with --why.")] = False,
    as_json: Json = False,
) -> None:
    """Move a version to a stage; into production only through the gate, beside the champion, who is then archived."""
    if force and not why:
        raise typer.BadParameter("--force needs a reason: add --why REASON")
    with opened_platform() as platform:
        verdict = platform.promote(version, to.value, why=why, force=force)
    content = {"version": version, "stage": to.value, "gate": verdict.as_text() if verdict else None}
    told = f"\nit {verdict.as_text()}" if verdict else ""
    answer(as_json, content, f"version {version} is in {to.value}{told}")


@app.command()
def compare(
    version: Annotated[str, typer.Argument(help="The challenger.")],
    other: Annotated[str, typer.Argument(help="The champion, or any other version.")],
    as_json: Json = False,
) -> None:
    """Two versions side by side: data, metrics, the gate's verdict on the same leads, with plots, below reports/."""
    with opened_platform() as platform:
        text, folder, verdict = platform.compare(version, other)
    content = {"versions": [version, other], "passed": verdict.passed, "gate": verdict.as_text(), "report": str(folder)}
    answer(as_json, content, f"{text}\nplots and this page in {folder}")


@app.command()
def rollback(
    why: Annotated[str, typer.Option(help="The reason, kept in the history.")] = "", as_json: Json = False
) -> None:
    """Put the former champion back."""
    with opened_platform() as platform:
        version = platform.registry.rollback(why=why)
    answer(as_json, {"version": version, "stage": "production"}, f"version {version} is in production again")


@app.command()
def history(as_json: Json = False) -> None:
    """Every transition: when, which version, from, to, who, why, its data, its metrics, and what the gate said."""
    events = opened_registry().history()
    lines = [
        f"{e['when']}  version {e['version']}: {e['from'] or 'new'} -> {e['to']}  by {e['who']}"
        + (f"  ({e['why']})" if e["why"] else "")
        + (f"  data {e['data_fingerprint']}" if "data_fingerprint" in e else "")
        + "".join(f"  {name} {value:.4f}" for name, value in e.get("metrics", {}).items())
        + ("  FORCED" if e.get("forced") else "")
        + (f"  gate: {e['gate']}" if "gate" in e else "")
        for e in events
    ]
    answer(as_json, {"history": events}, "\n".join(lines) or "no transitions yet")
