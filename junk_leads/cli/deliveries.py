"""Commands about deliveries: what became of each, what the checks found, its report, and one lead.

What lives here: parsing and telling. What does not: the work (`running/telling.py`, `running/launching.py`).
"""

from typing import Annotated

import typer

from junk_leads.cli.speaking import Json, answer, opened_platform
from junk_leads.home import Home


def drops(as_json: Json = False) -> None:
    """What became of every delivery, oldest first: the first place to look."""
    from junk_leads.running.telling import told_history
    from junk_leads.steps.pages.history import history_lines

    rows = told_history(Home.from_environment().prepare())
    plain = [{**row, "delivered_at": row["delivered_at"].isoformat(timespec="seconds")} for row in rows]
    answer(as_json, {"drops": plain}, history_lines(rows) or "nothing was delivered yet")


def checks(
    drop: Annotated[str | None, typer.Argument(help="One drop; all of them unless told.")] = None,
    as_html: Annotated[bool, typer.Option("--html", help="Also write reports/checks.html, a page over all.")] = False,
    as_json: Json = False,
) -> None:
    """What every check found and what it expected, by drop; refused drops too."""
    from junk_leads.running.telling import told_checks, write_checks_page
    from junk_leads.steps.pages.findings import findings_lines

    home = Home.from_environment().prepare()
    told = told_checks(home, drop)
    text = findings_lines(told) or "nothing was delivered yet"
    page = {"page": str(write_checks_page(home))} if as_html else {}
    answer(as_json, {"drops": told, **page}, "\n".join([text, *page.values()]))


def report(
    drop: Annotated[str | None, typer.Argument(help="A scored drop; an index over all of them unless told.")] = None,
    as_json: Json = False,
) -> None:
    """Write the report and call list of a scored drop again, or an index over all reports."""
    with opened_platform() as platform:
        if drop is not None:
            page = str(platform.report(drop))
            answer(as_json, {"drop": drop, "report": page}, page)
            return
        rows, index = platform.report_index()
    lines = [
        f"{row['drop']}: {row['leads']:,} leads, {row['ones']:.2%} 1s, about {row['expected']:,.0f} applications"
        + (f", {row['warnings']} warnings" if row["warnings"] else "")
        for row in rows
    ]
    answer(as_json, {"drops": rows, "index": str(index)}, "\n".join([*lines, str(index)]))


def explain(
    drop: Annotated[str, typer.Argument(help="A scored drop.")],
    lead_number: Annotated[int, typer.Argument(min=1, help="The lead's number in it.")],
    as_json: Json = False,
) -> None:
    """One lead: its probability, what spoke for and against it with figures, and how the leads most like it fared."""
    from junk_leads.steps.pages.summary import ONES, ZEROS
    from junk_leads.steps.scoring.reasons import SEPARATOR

    with opened_platform() as platform:
        told = platform.explain(drop, lead_number)
    predicted = told["prediction"]
    lines = [
        f"lead {lead_number} of {drop}: {predicted['probability']:.1%}, score {predicted['score']}, grade "
        f"{predicted['grade']}, {ONES if predicted['predicted_flag'] else ZEROS} "
        f"(version {predicted['model_version']})",
        *(f"  {reason}" for reason in predicted["reasons"].split(SEPARATOR)),
        "",
        "log-odds by column, before calibration",
        f"  {told['base']:+.3f}  where all leads begin",
        *(f"  {value:+.3f}  {column}" for column, value in told["contributions"].items() if value),
        f"  {told['log_odds']:+.3f}  together",
        "",
        "the labelled leads most like it",
        *(
            f"  {'applied' if lead['label'] else 'did not'}  lead {lead['lead_number']} of {lead['drop']}, "
            f"{lead['created']}, {lead['distance']:.2f} apart"
            for lead in told["alike"]
        ),
    ]
    if told["alike"]:
        lines.append(f"  {sum(lead['label'] for lead in told['alike'])} of {len(told['alike'])} applied")
    answer(as_json, {"drop": drop, "lead_number": lead_number, **told}, "\n".join(lines))
