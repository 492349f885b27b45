"""The servers: Dagster's web UI and daemon, and MLflow's UI, as child processes; and that of scores, in this one.

What lives here: starting them on one address, and stopping all of what they start. What does not: what they show and
answer (`http_service.py`).
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.running.doctor import first_look
from junk_leads.running.guarded_ui import answered_names
from junk_leads.running.instance import opened_instance
from junk_leads.stores.registry import Registry


def serve(home: Home, *, host: str, port: int, mlflow_port: int, tell: Callable[[str], None]) -> None:
    """Serve until interrupted, or until one of the servers ends; raises JunkLeadsError in the latter case."""
    home.prepare()
    assert Registry(home).client  # makes MLflow's store, once
    with opened_instance(home):
        pass  # and so Dagster's, before its servers start side by side
    for finding in first_look(home):
        tell(f"something is wrong: {finding.what}; {finding.do}")
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home.dagster),
        "JUNK_LEADS_HOME": str(home.root),
        "JUNK_LEADS_MLFLOW_UI": f"http://{host}:{mlflow_port}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes that nothing here asks for
    }
    commands = {
        "runs": ["junk_leads.running.warm", str(home.root)],
        "Dagster": [
            "junk_leads.running.guarded_ui",
            "dev",
            "-m",
            "junk_leads.definitions",
            "-h",
            host,
            "-p",
            str(port),
        ],
        "MLflow": [
            *("mlflow", "server", "--backend-store-uri", home.mlflow_uri, "--host", host, "--port", str(mlflow_port)),
            *("--artifacts-destination", home.mlartifacts.as_uri(), "--workers", "1"),
        ],
    }
    # also SIGINT, which a script's background job would have the servers ignore
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, _stop_once)
    servers = {
        # a session of its own, so that everything a server starts is stopped with it
        name: subprocess.Popen([sys.executable, "-m", *command], env=environment, start_new_session=True)
        for name, command in commands.items()
    }
    tell(f"Dagster http://{host}:{port}   MLflow http://{host}:{mlflow_port}   (Ctrl-C stops both)")
    try:
        while True:
            for name, server in servers.items():
                if server.poll() is not None and name == "runs":
                    tell(f"the process that starts runs at once ended with code {server.returncode}; they start slower")
                    del servers[name]
                    break
                if server.poll() is not None:
                    raise JunkLeadsError(
                        f"{name}'s server ended with code {server.returncode}; is its port taken? "
                        "choose others with --port and --mlflow-port"
                    )
            time.sleep(0.5)
    except KeyboardInterrupt:
        tell("stopping")
    finally:
        for server in servers.values():
            _stop(server)


def serve_scores(home: Home, *, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Serve scores until interrupted; raises JunkLeadsError when nothing is in production, or the port is taken."""
    import uvicorn

    from junk_leads.running.http_service import TOKEN_VARIABLE, application

    home.prepare()
    Registry(home).champion_version()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise JunkLeadsError(
                f"{host}:{port} cannot be listened on ({error.strerror or error}); choose another with --port or --host"
            ) from error
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        app = application(home, hosts=answered_names(host), token=token)
        asked = "with a bearer token" if token else f"without a token (set {TOKEN_VARIABLE} to ask for one)"
        tell(f"scores http://{host}:{port}/score, {asked}; its page http://{host}:{port}/docs   (Ctrl-C stops it)")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        server.run(sockets=[listening])


def _stop_once(*_: object) -> None:
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)  # told twice to stop, nothing is left behind either
    raise KeyboardInterrupt


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """End a server and what it started; asked first, so that a run under way can say that it was ended."""
    for sign, patience in ((signal.SIGINT, 20.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        try:
            os.killpg(server.pid, sign)
            while time.monotonic() < deadline:
                server.poll()  # it is this process that must take note of its end
                os.killpg(server.pid, 0)
                time.sleep(0.1)
        except ProcessLookupError:
            return
