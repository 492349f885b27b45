"""The servers: Dagster's web UI and daemon, and MLflow's UI, as child processes; and that of scores, in this one.

What lives here: starting them on one address, once for a home, until they are told to stop. What does not: stopping a
server with all that it started (`guard.py`), how Dagster fares (`health.py`), what is answered (`http_service.py`).
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.running.doctor import first_look, wrong_settings
from junk_leads.running.instance import opened_instance
from junk_leads.running.servers.guard import stop
from junk_leads.running.servers.guarded_ui import answered_names
from junk_leads.running.servers.health import DEFINITIONS, Health
from junk_leads.stores.making import taken
from junk_leads.stores.registry import Registry

_STOPPED_WITHIN = 60.0  # seconds in which the servers of a process that was killed are stopped by its guard


def serve(home: Home, *, host: str, port: int, mlflow_port: int, tell: Callable[[str], None]) -> None:
    """Serve until interrupted, or until one of the servers ends; raises JunkLeadsError in the latter case.

    A home is served once: two daemons would start each run twice. Raises JunkLeadsError when it is served already, and
    for a setting that the servers or their runs would refuse.
    """
    import junk_leads.definitions  # noqa: F401  reads settings, as the servers will

    for problem in wrong_settings():
        raise JunkLeadsError(problem)
    home.prepare()
    with _served_once(home, f"http://{host}:{port}", tell) as lock, home.servers_log.open("wb") as printed:
        _serve(home, lock, printed, host=host, port=port, mlflow_port=mlflow_port, tell=tell)


@contextmanager
def _served_once(home: Home, address: str, tell: Callable[[str], None]) -> Iterator[IO[str]]:
    """Be the one that serves a home; the servers of one that was killed are waited for, until they are stopped."""
    with (home.root / "serving.lock").open("a+", encoding="utf-8") as lock:
        started, told = time.monotonic(), False
        while not taken(lock):
            lock.seek(0)
            process, _, where = lock.read().strip().partition(" ")
            is_there = process.isdecimal() and _lives(int(process))
            if is_there or time.monotonic() - started > _STOPPED_WITHIN:
                raise JunkLeadsError(
                    f"the home {home.root} is served already, by process {process or 'unknown'}: open {where or 'it'}, "
                    "or stop that process first"
                )
            if not told:
                tell(f"process {process}, which served this home, was killed; waiting until its servers have stopped")
                told = True
            time.sleep(0.2)
        lock.truncate(0)
        lock.write(f"{os.getpid()} {address}")
        lock.flush()
        yield lock


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _serve(
    home: Home,
    lock: IO[str],
    printed: IO[bytes],
    *,
    host: str,
    port: int,
    mlflow_port: int,
    tell: Callable[[str], None],
) -> None:
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
            "junk_leads.running.servers.guarded_ui",
            *("dev", "-m", "junk_leads.definitions", "-h", host, "-p", str(port), "--log-level", "warning"),
        ],
        "MLflow": [
            *("mlflow", "server", "--backend-store-uri", home.mlflow_uri, "--host", host, "--port", str(mlflow_port)),
            *("--artifacts-destination", home.mlartifacts.as_uri(), "--workers", "1"),
        ],
    }
    _end_by_signals()
    guard = subprocess.Popen(
        [sys.executable, "-m", "junk_leads.running.servers.guard"],
        env=environment,
        stdin=subprocess.PIPE,
        stderr=printed,
        text=True,
        start_new_session=True,
    )
    assert guard.stdin is not None
    servers: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str) -> None:
        servers[name] = subprocess.Popen(
            [sys.executable, "-m", *commands[name]],
            env=environment,
            stdout=printed,
            stderr=printed,
            start_new_session=True,  # so that everything a server starts is stopped with it
            pass_fds=[lock.fileno()] if name == "Dagster" else [],  # while its daemon lives, the home is served
        )
        print(servers[name].pid, file=guard.stdin, flush=True)

    def end(name: str) -> None:
        stop([servers[name].pid], servers[name].poll)
        print(servers[name].pid, file=guard.stdin, flush=True)

    for name in commands:
        start(name)
    tell("starting Dagster and MLflow")
    ready = answering = f"Dagster http://{host}:{port}   MLflow http://{host}:{mlflow_port}   (Ctrl-C stops both)"
    logs = {log: _appended(log, 0)[1] for log in (home.alerts, home.percentages)}
    health = Health(host, port, home.servers_log)
    try:
        while True:
            if _is_gone(lock):
                raise JunkLeadsError(f"the home {home.root} was moved or deleted; start again where it is now")
            if ready and all(_answers(host, at) for at in (port, mlflow_port)):
                tell(ready)
                ready = ""
            for part, why in {} if ready else health.look().items():
                if part != DEFINITIONS:
                    tell(f"Dagster's {part} fails ({why}); run `junk-leads doctor`, and look into {home.servers_log}")
                    continue
                tell("Dagster's definitions are out of reach (killed, or the machine slept): starting it again")
                end("Dagster")
                start("Dagster")
                ready = answering
            for log, place in logs.items():
                lines, logs[log] = _appended(log, place)
                for line in lines:
                    tell(line)
            for name, server in servers.items():
                if server.poll() is not None and name == "runs":
                    tell(f"the process that starts runs at once ended with code {server.returncode}; they start slower")
                    del servers[name]
                    break
                if server.poll() is not None:
                    raise JunkLeadsError(
                        f"{name}'s server ended with code {server.returncode}; is its port taken? "
                        f"choose others with --port and --mlflow-port, or look into {home.servers_log}"
                    )
            time.sleep(0.5)
    except KeyboardInterrupt:
        tell("stopping")
    finally:
        stop([server.pid for server in servers.values()], lambda: [server.poll() for server in servers.values()])
        guard.kill()
        guard.wait()


def _is_gone(file: IO[str]) -> bool:
    """Whether an open file is not at its place any more, or another one is."""
    try:
        return not os.path.samestat(os.stat(file.name), os.fstat(file.fileno()))
    except OSError as error:
        return isinstance(error, (FileNotFoundError, NotADirectoryError))


def _answers(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _appended(log: Path, place: int) -> tuple[list[str], int]:
    """The whole lines that were added to a log after a place in it, and the place after them."""
    with suppress(FileNotFoundError), log.open("rb") as file:
        if place > file.seek(0, os.SEEK_END):  # it was begun anew
            place = 0
        file.seek(place)
        added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        return whole.decode(errors="replace").splitlines(), place + len(whole)
    return [], 0


def serve_scores(home: Home, *, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Serve scores until interrupted; raises JunkLeadsError when nothing is in production, or the port is taken."""
    import uvicorn

    from junk_leads.running.servers.http_service import TOKEN_VARIABLE, application

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
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        _end_by_signals()
        with suppress(KeyboardInterrupt):  # which the server raises as well, when it has stopped
            tell(f"scores http://{host}:{port}/score, {asked}; its page http://{host}:{port}/docs   (Ctrl-C stops it)")
            server.run(sockets=[listening])
        tell("stopped")


def _end_by_signals() -> None:
    """Have SIGTERM end this process as Ctrl-C does, and SIGINT also where a script's background job ignores it."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, _stop_once)


def _stop_once(*_: object) -> None:
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)  # told twice to stop, nothing is left behind either
    raise KeyboardInterrupt
