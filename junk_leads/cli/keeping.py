"""Commands that keep a home well: whether its stores agree, a backup of it, and one made of a backup.

What lives here: parsing and telling. What does not: the work (`running/doctor.py`, `running/backups.py`).
"""

from pathlib import Path
from typing import Annotated

import typer

from junk_leads.capacity import told
from junk_leads.cli.speaking import Json, answer, opened_platform
from junk_leads.home import Home


def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can safely be mended.")] = False,
    as_json: Json = False,
) -> None:
    """Compare ledger, tables, partitions, runs, models and files; exit code 1 when something is wrong."""
    from junk_leads.running.doctor import examine, mend

    with opened_platform() as platform:
        findings = examine(platform)
        mended = mend(findings) if repair else [(finding, "not mended") for finding in findings]
    lines = [
        f"mended: {finding.what}"
        if not problem
        else f"wrong: {finding.what}; {finding.do}" + (f" ({problem})" if repair and finding.mend else "")
        for finding, problem in mended
    ]
    told_findings = [{"what": finding.what, "do": finding.do, "mended": not problem} for finding, problem in mended]
    answer(as_json, {"findings": told_findings}, "\n".join(lines) or "all is well")
    if any(problem for _, problem in mended):
        raise typer.Exit(1)


def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, outside the home.")],
    as_json: Json = False,
) -> None:
    """Copy the whole home, while it is in use: leads, tables, models, runs."""
    from junk_leads.running.backups import back_up

    made = back_up(Home.from_environment(), folder)
    content = {"backup": str(made.folder), "files": made.files, "bytes": made.size}
    answer(as_json, content, f"{made.files:,} files, {told(made.size)}, in {made.folder}")


def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder made by backup.")], as_json: Json = False
) -> None:
    """Make the home of a backup, where there is none; every file is checked first."""
    from junk_leads.running.backups import restore as restored

    home = Home.from_environment()
    made = restored(home, folder)
    content = {"home": str(home.root), "files": made.files, "bytes": made.size}
    answer(as_json, content, f"{home.root} is restored: {made.files:,} files, {told(made.size)}")
