"""The command line: parse, call, print.

What lives here: the commands and how they speak. What does not: the work, which is the same jobs that the sensor and
the UI launch (`launching.py`). Exit codes: 0 done, 1 refused or failed (one plain line on stderr), 2 wrong usage.
"""

import atexit
import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home

if TYPE_CHECKING:
    from junk_leads.running.launching import Platform
    from junk_leads.stores.registry import Registry

app = typer.Typer(
    help="Tell junk leads from genuine ones. Everything is kept below JUNK_LEADS_HOME (default: data/).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The versions of the model and their stages.", add_completion=False)
app.add_typer(models_app, name="models")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Files = Annotated[list[Path], typer.Argument(help="CSV files (also .csv.gz); copied, never moved or changed.")]


class Stage(StrEnum):
    """The stages of a version."""

    staging = "staging"
    production = "production"
    archived = "archived"


def tell(line: str) -> None:
    """Progress, on stderr."""
    typer.echo(f"… {line}", err=True)


@contextmanager
def _platform() -> Iterator["Platform"]:
    from junk_leads.running.launching import platform

    with platform(Home.from_environment(), tell) as found:
        yield found


def _registry() -> "Registry":
    """The registry alone, for commands that launch nothing."""
    from junk_leads.stores.registry import Registry

    return Registry(Home.from_environment().prepare())


def _print(as_json: bool, content: dict[str, Any], text: str) -> None:
    typer.echo(json.dumps(content, ensure_ascii=False) if as_json else text)


def _each(files: list[Path], work: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Do the work for every file, whatever becomes of the others; returns results and refusals."""
    done, refused = [], []
    for file in files:
        try:
            done.append(work(file))
        except JunkLeadsError as error:
            refused.append(str(error))
    return done, refused


def _finish(refused: list[str]) -> None:
    for line in refused:
        typer.echo(f"junk-leads: {line}", err=True)
    if refused:
        raise typer.Exit(1)


@app.command()
def ingest(files: Files, as_json: Json = False) -> None:
    """Read, check and clean CSV files into the warehouse: the data pipeline."""
    with _platform() as platform:
        done, refused = _each(files, lambda file: platform.account(platform.process(file, "data_pipeline").drop))
    lines = [
        f"{d['drop']}: {d['rows_read']:,} rows read, {d['kept']:,} kept, {d['duplicates']:,} duplicates, "
        f"{d['rejected']:,} rejected, {'labelled' if d['labelled'] else 'unlabelled'}"
        for d in done
    ]
    if done or as_json:
        _print(as_json, {"drops": done}, "\n".join(lines))
    _finish(refused)


@app.command()
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
    with _platform() as platform:
        if tuned:
            title, found = platform.tuned()
            tell(f"with the parameters of: {title}")
            overrides = {**found, **overrides, "lightgbm": {**found["lightgbm"], **overrides.get("lightgbm", {})}}
        row = platform.train(overrides)
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
    _print(as_json, content, text)


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--param")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@app.command()
def experiment(
    seconds: Annotated[float | None, typer.Option(min=0.001, help="How long LightGBM is tuned.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Most trials of tuning in that time.")] = None,
    learner: Annotated[list[str] | None, typer.Option(help="Only this learner, NAME; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Compare learners on all accepted labelled drops: a leaderboard, each learner a run in MLflow."""
    given = {"seconds": seconds, "trials": trials, "learners": learner}
    with _platform() as platform, _progress_told():
        rows = platform.experiment({name: value for name, value in given.items() if value is not None})
    from junk_leads.steps.pages.leaderboard import as_text

    text = (
        f"{as_text(rows)}\n"
        f"{rows[0]['labelled_leads']:,} labelled leads; all but the AUC at random on the last leads by time"
    )
    if any(row["library"] == "lightgbm" for row in rows):
        text += "\ntrain with the best LightGBM's parameters: junk-leads train --tuned"
    _print(as_json, {"leaderboard": rows}, text)


@contextmanager
def _progress_told() -> Iterator[None]:
    """What a job tells while it runs, on stderr."""
    import logging

    logger, handler = logging.getLogger("junk_leads.progress"), logging.Handler()
    handler.emit = lambda record: tell(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@app.command()
def score(
    files: Files,
    out: Annotated[Path | None, typer.Option(help="Also copy the scored CSVs and summaries here.")] = None,
    as_json: Json = False,
) -> None:
    """Score CSV files with the model in Production: the inference pipeline."""
    with _platform() as platform:
        platform.registry.champion_version()
        done, refused = _each(files, lambda file: _score(platform, file, out))
    lines = [
        f"{d['drop']}: {d['rows']:,} leads scored by version {d['model_version']}, "
        f"{d['share_of_ones']:.2%} 1s and {1 - d['share_of_ones'] if d['rows'] else 0:.2%} 0s\n"
        f"  {d['predictions']}\n  {d['summary']}"
        for d in done
    ]
    if done or as_json:
        _print(as_json, {"drops": done}, "\n".join(lines))
    _finish(refused)


def _score(platform: "Platform", file: Path, out: Path | None) -> dict[str, Any]:
    import shutil

    drop = platform.process(file, "inference_pipeline").drop
    figures = platform.rows("SELECT * FROM prediction_summary WHERE drop = ?", parameters=[drop])[0]
    written = [platform.home.predictions / f"{drop}.csv", platform.home.predictions / f"{drop}.summary.txt"]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        written = [Path(shutil.copyfile(path, out / path.name)) for path in written]
    return {
        "drop": drop,
        "rows": figures["lead_count"],
        "share_of_ones": figures["share_of_ones"],
        "model_version": figures["model_version"],
        "predictions": str(written[0]),
        "summary": str(written[1]),
    }


@app.command()
def profile(drop: Annotated[str, typer.Argument(help="An accepted drop.")], as_json: Json = False) -> None:
    """Write a page about every column of a drop's raw leads, below reports/; needs the extra `profile`."""
    with _platform() as platform:
        page = platform.profile(drop)
    _print(as_json, {"drop": drop, "profile": str(page)}, f"{page}")


@app.command()
def generate(
    rows: Annotated[int, typer.Option(min=0, help="How many leads.")],
    out: Annotated[Path, typer.Option(help="The CSV to write.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 1,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Without app_complete_flag.")] = False,
    start: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="First day.")] = datetime(2021, 7, 1),
    days: Annotated[int, typer.Option(min=1, help="How many days.")] = 229,
    as_json: Json = False,
) -> None:
    """Write synthetic leads, as real as the published facts allow."""
    from junk_leads.steps.leads.generating import write_leads

    if out.is_dir():
        raise typer.BadParameter(f"{out} is a folder; name a file", param_hint="--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_leads(out, rows, seed=seed, labelled=not unlabelled, start=start.date(), days=days)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    _print(as_json, {"file": str(out), "rows": rows, "labelled": not unlabelled}, f"{rows:,} leads in {out}")


@app.command()
def demo(
    rows: Annotated[int, typer.Option(min=2000, help="Labelled leads to generate.")] = 5_000, as_json: Json = False
) -> None:
    """Generate samples, train, promote and score: the whole way once, and where its results are."""
    from junk_leads.steps.leads.generating import write_leads

    with _platform() as platform:
        sample = platform.home.root / "sample"
        sample.mkdir(exist_ok=True)
        history, new = sample / "sample_history.csv", sample / "sample_new.csv"
        for path, count, seed in ((history, rows, 1), (new, rows // 10, 2)):
            if not path.exists():
                tell(f"generating {path.name}")
                write_leads(path, count, seed=seed, labelled=path is history)
        account = platform.account(platform.process(history, "data_pipeline").drop)
        version, made = platform.registry.champion_version_or_none(), "in production already"
        if version is None:
            version, made = platform.train({})["model_version"], "trained and promoted"
            platform.promote(version, "production", why="demo")
        auc = platform.registry.version(version).metrics["random_auc"]
        scored = _score(platform, new, None)
    content = {"ingested": account, "version": version, "auc": auc, "scored": scored}
    text = (
        f"{account['kept']:,} labelled leads ingested, version {version} (AUC {auc:.3f}) {made}\n"
        f"{scored['rows']:,} new leads scored: {scored['share_of_ones']:.2%} 1s, "
        f"{1 - scored['share_of_ones']:.2%} 0s\n\n"
        f"scored leads   {scored['predictions']}\nsummary        {scored['summary']}\n"
        "next           junk-leads ui        (the asset graph, checks and models in a browser)\n"
        "               junk-leads score YOUR.csv"
    )
    _print(as_json, content, text)


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: Json = False) -> None:
    """List the versions of the model, newest first."""
    if context.invoked_subcommand:
        return
    from junk_leads.stores.registry import describe

    versions = _registry().versions()
    lines = [
        f"{v.version:>4}  {v.stage or '-':<10}  {v.created}  "
        f"AUC {v.metrics.get('random_auc', 0):.4f} random, {v.metrics.get('temporal_auc', 0):.4f} temporal"
        for v in versions
    ]
    _print(as_json, {"versions": [describe(v) for v in versions]}, "\n".join(lines) or "no versions yet")


@models_app.command()
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
    with _platform() as platform:
        verdict = platform.promote(version, to.value, why=why, force=force)
    content = {"version": version, "stage": to.value, "gate": verdict.as_text() if verdict else None}
    told = f"\nit {verdict.as_text()}" if verdict else ""
    _print(as_json, content, f"version {version} is in {to.value}{told}")


@models_app.command()
def compare(
    version: Annotated[str, typer.Argument(help="The challenger.")],
    other: Annotated[str, typer.Argument(help="The champion, or any other version.")],
    as_json: Json = False,
) -> None:
    """Two versions side by side: data, metrics, the gate's verdict on the same leads, with plots, below reports/."""
    with _platform() as platform:
        text, folder, verdict = platform.compare(version, other)
    content = {"versions": [version, other], "passed": verdict.passed, "gate": verdict.as_text(), "report": str(folder)}
    _print(as_json, content, f"{text}\nplots and this page in {folder}")


@models_app.command()
def rollback(
    why: Annotated[str, typer.Option(help="The reason, kept in the history.")] = "", as_json: Json = False
) -> None:
    """Put the former champion back."""
    version = _registry().rollback(why=why)
    _print(as_json, {"version": version, "stage": "production"}, f"version {version} is in production again")


@models_app.command()
def history(as_json: Json = False) -> None:
    """Every transition: when, which version, from, to, who, why, its data, its metrics, and what the gate said."""
    events = _registry().history()
    lines = [
        f"{e['when']}  version {e['version']}: {e['from'] or 'new'} -> {e['to']}  by {e['who']}"
        + (f"  ({e['why']})" if e["why"] else "")
        + (f"  data {e['data_fingerprint']}" if "data_fingerprint" in e else "")
        + "".join(f"  {name} {value:.4f}" for name, value in e.get("metrics", {}).items())
        + ("  FORCED" if e.get("forced") else "")
        + (f"  gate: {e['gate']}" if "gate" in e else "")
        for e in events
    ]
    _print(as_json, {"history": events}, "\n".join(lines) or "no transitions yet")


@app.command()
def evaluate(
    roll_back_below: Annotated[
        float | None, typer.Option(min=0.01, max=0.99, help="Roll a champion back whose AUC is surely below.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare predictions with the labels that came later, in any drop: decay over time, and what to do."""
    with _platform() as platform:
        told = platform.evaluate(roll_back_below)
    aucs = {name: value for name, value in told.items() if name.startswith("version_")}
    content = {"outcomes": told["dagster/row_count"], "advice": told["advice"], **aucs}
    _print(as_json, content, f"{told['fared']}\n\n{told['dagster/row_count']:,} outcomes")


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Dagster's UI.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow's UI.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Dagster's web UI and daemon, and MLflow's UI, until interrupted."""
    from junk_leads.running.serving import serve

    serve(Home.from_environment(), host=host, port=port, mlflow_port=mlflow_port, tell=tell)


def main() -> None:
    """Run a command; an expected error is one line on stderr and exit code 1."""
    # millions of objects that stay come with the libraries: looking through them again and again is 1 s of 15
    gc.set_threshold(100_000, 50, 100)
    try:
        app()
    except JunkLeadsError as error:
        typer.echo(f"junk-leads: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        typer.echo(
            f"junk-leads: {error.strerror or error}: {error.filename or ''}; check the disk and rights", err=True
        )
        sys.exit(1)


def program() -> None:
    """Run a command as a process of its own, which ends at once: taking apart what the libraries built takes 2 s."""
    code: object = 1

    def leave() -> None:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)

    atexit.register(leave)  # registered first, it is called last
    try:
        main()
    except SystemExit as ended:
        code = ended.code
        raise


if __name__ == "__main__":
    program()
