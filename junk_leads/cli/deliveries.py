"""Commands about deliveries: what became of each, and what the checks found.

What lives here: parsing and telling. What does not: the work (`running/telling.py`).
"""

from typing import Annotated

import typer

from junk_leads.cli.speaking import Json, answer
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
