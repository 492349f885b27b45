"""The warm process: one that has imported what runs need, and forks a process for each run, which starts at once.

What lives here: that process, and asking it. What does not: when it is asked (`launcher.py`), and who starts and ends
it (`serving.py`). A run's process is asked for what any launcher of Dagster's asks for, `dagster api execute_run`; it
saves the 3 s of a new Python and the 5 to 8 s of imports. The process itself never opens a store nor starts a thread,
so that there is nothing to share by mistake.

    python -m junk_leads.running.warm HOME
"""

import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from junk_leads.capacity import collect_garbage_rarely, importing
from junk_leads.home import Home

SOCKET = "runs.sock"
ANSWER_SECONDS = 5.0
LARGEST_REQUEST = 1 << 20  # bytes


def ask(folder: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the warm process of a Dagster folder answers; None when there is none, or it does not answer in time."""
    with suppress(OSError, ValueError), _address(folder) as address, socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(ANSWER_SECONDS)
        asked.connect(address)
        asked.sendall(json.dumps(request).encode() + b"\n")
        answer = asked.makefile("rb").readline()
        return dict(json.loads(answer)) if answer else None
    return None


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """The socket's name, a short one however long the folder's is: the system takes 100 characters."""
    plain = str(folder / SOCKET)
    if len(os.fsencode(plain)) <= 100 or not Path("/proc/self/fd").is_dir():
        yield plain
        return
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{number}/{SOCKET}"
    finally:
        os.close(number)


def warm_up() -> None:
    """Import what a run imports, and resolve its jobs."""
    import dagster._cli  # `dagster api execute_run` is what a run's process calls
    import dagster._cli.api  # noqa: F401
    import sqlalchemy.dialects.sqlite  # noqa: F401
    import xlsxwriter  # noqa: F401
    from pyarrow import csv, parquet  # noqa: F401

    import junk_leads.running.dagster_store  # noqa: F401
    from junk_leads.definitions import defs
    from junk_leads.defs.expectations.asking import warm_up as expectations_ready
    from junk_leads.steps import boosting
    from junk_leads.stores.mlflow_store import mlflow_quiet

    with mlflow_quiet():
        import mlflow  # noqa: F401
        from mlflow.artifacts import download_artifacts  # noqa: F401
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: F401

        boosting.warm_up()
        expectations_ready()
        defs.resolve_all_job_defs()


def _print_into_files_alone() -> None:
    """Keep what a run prints for the UI as Dagster does, without the four processes that print it here once more."""
    from dagster._core.execution.compute_logs import redirect_to_file
    from dagster._core.storage import local_compute_log_manager
    from dagster._utils import ensure_file

    @contextmanager
    def kept(stream: TextIO, path: str) -> Iterator[None]:
        ensure_file(path)
        with redirect_to_file(stream, path):
            yield

    vars(local_compute_log_manager)["mirror_stream_to_file"] = kept


class WarmProcess:
    """The process's life: it listens, forks, and notes which of its children have ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: dict[str, int] = {}  # run id -> process id, of the runs under way

    def serve(self) -> None:
        """Answer until told to end by SIGINT or SIGTERM; runs under way are told too."""
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, _end)
        with suppress(FileNotFoundError):
            (self.folder / SOCKET).unlink()  # of a process that was killed
        with _address(self.folder) as address, socket.socket(socket.AF_UNIX) as listening:
            mask = os.umask(0o177)  # for its owner alone
            try:
                listening.bind(address)
            finally:
                os.umask(mask)
            listening.listen(64)
            listening.settimeout(0.5)
            try:
                while True:
                    self._reap()
                    with suppress(TimeoutError):
                        self._answer(listening, listening.accept()[0])
            finally:
                with suppress(FileNotFoundError):
                    (self.folder / SOCKET).unlink()

    def _answer(self, listening: socket.socket, asking: socket.socket) -> None:
        with asking:
            asking.settimeout(ANSWER_SECONDS)
            try:
                request = json.loads(asking.makefile("rb").readline(LARGEST_REQUEST))
                if "execute" in request:
                    answer = {"pid": self._fork(request["run_id"], request["execute"], (listening, asking))}
                else:
                    answer = {"terminated": self._interrupt(request["terminate"])}
                asking.sendall(json.dumps(answer).encode() + b"\n")
            except (OSError, ValueError, KeyError, TypeError):
                return  # who asked is gone, or asked for nothing that there is

    def _fork(self, run_id: str, arguments: Sequence[str], sockets: Sequence[socket.socket]) -> int:
        child = os.fork()
        if child:
            self.runs[run_id] = child
            return child
        code, printed = 1, os.fdopen(os.dup(2), "w", buffering=1)
        try:
            for open_socket in sockets:
                open_socket.close()
            for sign in (signal.SIGINT, signal.SIGTERM):
                signal.signal(sign, signal.default_int_handler)
            with open(os.devnull, "wb") as nothing:  # its events say it all; what its steps print is kept for the UI
                for stream in (1, 2):
                    os.dup2(nothing.fileno(), stream)
            from dagster._cli import main

            from junk_leads.running.dagster_store import keep_open

            keep_open()
            _print_into_files_alone()
            sys.argv = ["dagster", *arguments]
            main()  # type: ignore[no-untyped-call]
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException as error:  # told to end, or what Dagster could not tell in the run's own record
            traceback.print_exception(error, file=printed)
        finally:
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _interrupt(self, run_id: str) -> bool:
        self._reap()
        if run_id not in self.runs:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.runs[run_id], signal.SIGINT)
        return True

    def _reap(self) -> None:
        for run_id, child in list(self.runs.items()):
            with suppress(ChildProcessError):
                if not os.waitpid(child, os.WNOHANG)[0]:
                    continue
            del self.runs[run_id]


def _end(*_: object) -> None:
    raise SystemExit(0)


def main() -> None:
    """Warm up and serve a home's runs."""
    home = Home(Path(sys.argv[1]).absolute())
    os.environ["JUNK_LEADS_HOME"], os.environ["DAGSTER_HOME"] = str(home.root), str(home.dagster)
    collect_garbage_rarely()  # the forked do too
    with importing():
        warm_up()
        gc.collect()
    gc.freeze()  # what is shared with the forked stays shared
    WarmProcess(home.dagster).serve()


if __name__ == "__main__":
    main()
