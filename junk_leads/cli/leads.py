"""Commands about leads: into the warehouse, scored, profiled, generated, and the whole way once.

What lives here: parsing and telling. What does not: the work (`running/launching.py`).
"""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from junk_leads.cli.speaking import FILES, Files, Json, OneDrop, Scheduler, answer, answer_each, named, opened_platform


class FileFormat(StrEnum):
    """How scored leads are written: the CSV always, Parquet beside it when asked for."""

    csv = "csv"
    parquet = "parquet"


def ingest(files: Files, one_drop: OneDrop = False, scheduler: Scheduler = None, as_json: Json = False) -> None:
    """Read, check and clean CSV files into the warehouse: the data pipeline."""
    asked = files if one_drop else named(files)
    with opened_platform(scheduler, checking=True) as platform, platform.among(len(asked)) as each:
        answer_each(asked, each.ingest, _ingested, as_json=as_json)


def _ingested(drop: dict[str, Any]) -> str:
    return (
        f"{drop['drop']}: {drop['rows_read']:,} rows read, {drop['kept']:,} kept, {drop['duplicates']:,} duplicates, "
        f"{drop['rejected']:,} rejected, {'labelled' if drop['labelled'] else 'unlabelled'}"
    )


def score(
    files: Annotated[list[str], typer.Argument(help=f"{FILES} Or accepted drops.")],
    out: Annotated[Path | None, typer.Option(help="Also copy the scored CSVs and summaries here.")] = None,
    file_format: Annotated[
        FileFormat, typer.Option("--format", help="parquet: the same rows for programs too, beside the CSV.")
    ] = FileFormat.csv,
    accept_drift: Annotated[
        bool, typer.Option("--accept-drift", help="Also a drop that cannot be trusted; give the reason with --why.")
    ] = False,
    why: Annotated[str, typer.Option(help="The reason for --accept-drift, kept.")] = "",
    top: Annotated[int | None, typer.Option(min=1, help="At most so many leads on the call list (10,000).")] = None,
    grade: Annotated[str | None, typer.Option(help="Leads of these grades only on the call list, like A,B.")] = None,
    one_drop: OneDrop = False,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Score CSV files, or accepted drops again, with the model in Production: the inference pipeline."""
    if accept_drift != bool(why.strip()):
        raise typer.BadParameter("--accept-drift and its reason, --why REASON, go together")
    accepting = why if accept_drift else None
    call_list = {**({"top": top} if top else {}), **({"grades": _grades(grade)} if grade is not None else {})}
    asked = files if one_drop else named(files)
    with opened_platform(scheduler, checking=True) as platform, platform.among(len(asked)) as each:
        platform.registry.champion_version()
        answer_each(
            asked,
            lambda file: each.score(
                file, out, parquet=file_format is FileFormat.parquet, accept_drift=accepting, call_list=call_list
            ),
            _scored,
            as_json=as_json,
        )


def _grades(text: str) -> list[str]:
    grades = [grade.strip().upper() for grade in text.split(",")]
    if not set(grades) <= set("ABCD"):
        raise typer.BadParameter(f"{text!r} names no grades; they are A, B, C and D, like --grade A,B")
    return grades


def _scored(drop: dict[str, Any]) -> str:
    return (
        f"{drop['drop']}: {drop['rows']:,} leads scored by version {drop['model_version']}, {_shares(drop)}\n"
        f"  call list   {drop['call_list']}\n  report      {drop['report']}\n"
        f"  all leads   {drop['predictions']}\n  summary     {drop['summary']}"
        + (f"\n  parquet     {drop['parquet']}" if "parquet" in drop else "")
        + "".join(f"\n  WARNING: {line}" for line in drop["warnings"])
    )


def _shares(drop: dict[str, Any]) -> str:
    from junk_leads.steps.pages.summary import ONES, ZEROS

    zeros = 1 - drop["share_of_ones"] if drop["rows"] else 0
    return f"{drop['share_of_ones']:.2%} 1s ({ONES}) and {zeros:.2%} 0s ({ZEROS})"


def profile(drop: Annotated[str, typer.Argument(help="An accepted drop.")], as_json: Json = False) -> None:
    """Write a page about every column of a drop's raw leads, below reports/; needs the extra `profile`."""
    with opened_platform() as platform:
        page = platform.profile(drop)
    answer(as_json, {"drop": drop, "profile": str(page)}, f"{page}")


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

    if out.exists() and not out.is_file():  # a device would be replaced too
        what = "a folder" if out.is_dir() else "no regular file"
        raise typer.BadParameter(f"{out} is {what}; name a file", param_hint="--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_leads(out, rows, seed=seed, labelled=not unlabelled, start=start.date(), days=days)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    answer(as_json, {"file": str(out), "rows": rows, "labelled": not unlabelled}, f"{rows:,} leads in {out}")


def demo(
    rows: Annotated[int, typer.Option(min=2000, help="Labelled leads to generate.")] = 5_000, as_json: Json = False
) -> None:
    """Generate samples, train, promote and score: the whole way once, and where its results are."""
    with opened_platform(checking=True) as platform:
        content = platform.demonstrate(rows)
    scored = content["scored"]
    made = "trained and promoted" if content["trained"] else "in production already"
    text = (
        f"{content['ingested']['kept']:,} labelled leads ingested, version {content['version']} "
        f"(AUC {content['auc']:.3f}) {made}\n"
        f"{scored['rows']:,} new leads scored: {_shares(scored)}\n\n"
        f"call list      {scored['call_list']}\nreport         {scored['report']}\n"
        f"scored leads   {scored['predictions']}\nsummary        {scored['summary']}\n"
        "next           junk-leads ui        (the asset graph, checks and models in a browser)\n"
        "               junk-leads score YOUR.csv"
    )
    answer(as_json, content, text)
