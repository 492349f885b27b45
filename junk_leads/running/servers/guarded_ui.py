"""Dagster's web UI, answering only to its own names: a page of another site cannot speak to it by a name of its own.

What lives here: `dagster dev` as `junk-leads ui` starts it, whose web server refuses requests under another Host header
(as MLflow's does), web sockets too. What does not: starting and stopping the servers (`serving.py`).

    python -m junk_leads.running.servers.guarded_ui dev ...     Dagster's own arguments follow
"""

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

HOSTS_VARIABLE = "JUNK_LEADS_ALLOWED_HOSTS"
_ITSELF = "junk_leads.running.servers.guarded_ui"
_OWN = ("127.0.0.1", "localhost")


def allowed_hosts(arguments: list[str]) -> list[str]:
    """The names that a server with these arguments answers to."""
    return answered_names(*(after for before, after in pairwise(arguments) if before in ("-h", "--host")))


def answered_names(*listening: str) -> list[str]:
    """The names that are answered to: this machine's own, those to listen on, and those of the setting."""
    more = (name.strip() for name in os.environ.get(HOSTS_VARIABLE, "").split(","))
    return list(dict.fromkeys(name for name in (*_OWN, *listening, *more) if name))


def _serve(hosts: list[str]) -> None:
    """Dagster's web server with the guard before it; the arguments are its own."""
    from dagster_webserver.cli import main
    from dagster_webserver.webserver import DagsterWebserver
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    unguarded = DagsterWebserver.build_middleware

    def guarded(self: Any) -> list[Middleware]:
        guard = Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
        return [guard, *unguarded(self)]

    DagsterWebserver.build_middleware = guarded  # type: ignore[method-assign]
    main()  # type: ignore[no-untyped-call]


def _develop() -> None:
    """`dagster dev`, whose web server is this module's."""
    from dagster._cli import main
    from dagster_shared.ipc import open_ipc_subprocess as start

    def started(parts: Sequence[str], **given: Any) -> Any:
        return start([_ITSELF if part == "dagster_webserver" else part for part in parts], **given)

    vars(sys.modules["dagster._cli.dev"])["open_ipc_subprocess"] = started
    main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    _develop() if sys.argv[1:2] == ["dev"] else _serve(allowed_hosts(sys.argv))
