"""Commands about renamed codes: which maps there are, proposing one for a drop, accepting it, taking it back.

What lives here: parsing and telling. What does not: the work (`running/launching.py`).
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from junk_leads.cli.speaking import Json, answer, opened_platform
from junk_leads.home import Home

if TYPE_CHECKING:
    from junk_leads.steps.watching.codes import Proposal
    from junk_leads.stores.drops.code_maps import CodeMap

app = typer.Typer(help="Renamed codes of platform, medium and source: put back.", add_completion=False)

Drop = Annotated[str, typer.Argument(help="An accepted drop.")]
By = Annotated[str, typer.Option(help="Who decides; the user of this machine unless told.")]


@app.callback(invoke_without_command=True)
def codes(context: typer.Context, as_json: Json = False) -> None:
    """List the accepted code maps, newest first."""
    if context.invoked_subcommand:
        return
    from junk_leads.stores.drops.code_maps import CodeMaps

    maps = CodeMaps(Home.from_environment().prepare()).all()[::-1]
    content = {"code_maps": [found.as_dict() for found in maps]}
    answer(as_json, content, "\n".join(map(_line, maps)) or "no code map was accepted yet")


def _line(found: "CodeMap") -> str:
    scope = f"files {found.source}" if found.source else f"drop {found.drop}"
    count = ", ".join(f"{column} {len(pairs)}" for column, pairs in found.codes.items())
    state = f"taken back {found.undone}" if found.undone else "holds"
    why = f": {found.why}" if found.why else ""
    return f"{found.id}  {scope}  {count}  {state}; accepted {found.accepted} by {found.who}{why}"


@app.command()
def propose(drop: Drop, as_json: Json = False) -> None:
    """Which codes of a drop look renamed, and what they were; also as a CSV to review, below reports/."""
    with opened_platform() as platform:
        proposal, path = platform.propose_codes(drop)
    content: dict[str, Any] = {
        "drop": drop,
        "columns": list(proposal.columns),
        "codes": [asdict(change) for change in proposal.renamed],
        "psi_before": dict(proposal.psi_before),
        "psi_after": dict(proposal.psi_after),
        "known_leads": proposal.known,
        "file": str(path) if path else None,
    }
    answer(as_json, content, _table(drop, proposal, path))


def _table(drop: str, proposal: "Proposal", path: Path | None, longest: int = 30) -> str:
    if not proposal.columns:
        return f"no code of {drop} looks renamed; nothing is proposed"
    lines = []
    for column in proposal.columns:
        changes = [change for change in proposal.renamed if change.column == column]
        before, after = proposal.psi_before[column], proposal.psi_after[column]
        lines.append(f"{column}: PSI {before:.3f} as delivered, {after:.3f} with the codes put back")
        lines.append(f"  {'delivered':<22} {'becomes':<22} {'leads':>8}  {'sure':>5}  because of")
        lines += [
            f"  {_plain(change.delivered):<22} {_plain(change.becomes):<22} {change.leads:>8,}  "
            f"{change.confidence:>5.0%}  {change.because}"
            + (f" ({change.leads_behind:,})" if change.because == "known leads" else "")
            for change in changes[:longest]
        ]
        untold = sum(change.because == "cannot tell" for change in changes)
        if len(changes) > longest:
            lines.append(f"  and {len(changes) - longest} rarer codes")
        if untold:
            lines.append(f"  {untold} of {len(changes)} codes cannot be told")
    lines += [str(path), f"review it, then: junk-leads codes accept {drop}"]
    return "\n".join(lines)


def _plain(code: str) -> str:
    text = "".join(character if character.isprintable() else "?" for character in code)
    return text if len(text) <= 22 else text[:21] + "…"


@app.command()
def accept(
    drop: Drop,
    map_file: Annotated[
        Path | None, typer.Option("--map", help="A reviewed CSV; the drop's own below reports/ unless told.")
    ] = None,
    source: Annotated[
        str, typer.Option(help="For all drops whose file name begins so, or matches a pattern such as 'partner_*.csv'.")
    ] = "",
    by: By = "",
    why: Annotated[str, typer.Option(help="The reason, kept with the map.")] = "",
    as_json: Json = False,
) -> None:
    """Put the renamed codes of a drop back from now on; then score it again."""
    with opened_platform() as platform:
        found = platform.accept_codes(drop, map_file=map_file, source=source, by=by, why=why)
    answer(as_json, found.as_dict(), f"{_line(found)}\nnow: junk-leads score {drop}")


@app.command()
def undo(drop: Drop, by: By = "", as_json: Json = False) -> None:
    """Take back the code map that holds for a drop."""
    with opened_platform() as platform:
        found = platform.undo_codes(drop, by=by)
    answer(as_json, found.as_dict(), f"code map {found.id} of drop {found.drop} is taken back; score it again")
