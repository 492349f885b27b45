"""The command line: parse, call, print.

What lives here: the commands by what they are about (`leads.py`, `codes.py`, `models.py`), and how they speak
(`speaking.py`). What does not: the work, which is the same jobs that the sensor and the UI launch (`running/`). Exit
codes: 0 done, 1 refused or failed (one plain line on stderr), 2 wrong usage, 130 interrupted.
"""

import atexit
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from junk_leads.capacity import collect_garbage_rarely
from junk_leads.cli import codes, deliveries, keeping, leads, models
from junk_leads.cli.speaking import Telling, answer, interruptible, refuse, tell
from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home

INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    help="Tell junk leads from genuine ones. Everything is kept below JUNK_LEADS_HOME (default: data/).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Dagster's UI.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow's UI.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Dagster's web UI and daemon, and MLflow's UI, until interrupted."""
    from junk_leads.running.servers.serving import serve

    serve(Home.from_environment(), host=host, port=port, mlflow_port=mlflow_port, tell=tell)


def serve(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Scores over HTTP until interrupted: POST /score, /health, /version, and its page at /docs."""
    from junk_leads.running.servers.serving import serve_scores

    serve_scores(Home.from_environment(), host=host, port=port, tell=tell)


for command in (
    *(leads.ingest, models.train, models.experiment, leads.score, leads.profile, leads.generate, leads.demo),
    *(deliveries.drops, deliveries.checks, deliveries.report, deliveries.explain, models.evaluate),
    *(keeping.doctor, keeping.backup, keeping.restore, ui, serve),
):
    app.command()(command)
app.add_typer(models.app, name="models")
app.add_typer(codes.app, name="codes")


def main() -> None:
    """Run a command; an expected error is one line on stderr and exit code 1, Ctrl-C one and 130."""
    collect_garbage_rarely()
    log = logging.getLogger("junk_leads")
    log.handlers, log.propagate = [Telling()], False
    code = 1
    try:
        with interruptible():
            app()
    except (SystemExit, KeyboardInterrupt) as ended:
        if isinstance(ended, SystemExit) and ended.code != INTERRUPTED:
            raise
        code = INTERRUPTED
        line = "interrupted; what was finished is kept, what was under way was not stored: run the same command again"
    except JunkLeadsError as error:
        line = str(error)
    except OSError as error:
        about = ": ".join(str(part) for part in (error.strerror or error, error.filename) if part)
        line = f"{about}; check the disk and rights"
    else:
        return
    refuse(line)
    if "--json" in sys.argv[1:]:
        with suppress(OSError, JunkLeadsError):  # which the line above told
            answer(True, {"error": line}, "")
    sys.exit(code)


def program() -> None:
    """Run a command as a process of its own, which ends at once: taking apart what the libraries built takes 2 s."""
    code: object = 1
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:  # closed by who started this: a store would be opened under its number
            setattr(sys, stream, Path(os.devnull).open(mode))  # noqa: SIM115  for as long as this process lives
    # what this starts finds modules where this does: a calendar.py of the folder it was started in is not Python's
    os.environ |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(sys.path)}

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
