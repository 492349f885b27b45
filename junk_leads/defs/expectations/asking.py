"""Asking Great Expectations: in this process, or in one beside it that imports it meanwhile.

What lives here: one question to it, that process, the worker, and what else it does. What does not: what is expected
(`suites.py`), and what the answers mean (`validating.py`).

Importing Great Expectations takes as long as all else that a short command does (3 s). So a command that will ask
starts a worker first, which imports it on another core; question and answer are pickled through a pipe. The worker has
no store and no file open, and ends when the pipe is closed, however that came about. A command whose worker is lost
asks in its own process.

    python -m junk_leads.defs.expectations.asking FILE-DESCRIPTOR
"""

import logging
import os
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Lock, Thread
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from junk_leads.capacity import has_room_beside, importing

if TYPE_CHECKING:
    import pandas as pd

    from junk_leads.defs.expectations.suites import Expectation

Made = TypeVar("Made")
Results: TypeAlias = list[dict[str, Any]]

EXAMPLES = 20
# Half of what Great Expectations imports, which no expectation of a suite uses: charts, distributions and schemas of
# JSON, which the worker imports when they are first used, and databases, which are extras of it.
LATER, LEFT_OUT = ("altair", "jsonschema", "scipy.stats"), ("google", "sqlalchemy")
_alone = Lock()
_worker: Connection | None = None
_under_way: deque[list[Any]] = deque()  # for each thing that it was told to make, in order, where that is put


@contextmanager
def worker_beside() -> Iterator["subprocess.Popen[bytes] | None"]:
    """Have a worker asked instead of this process, which has not imported Great Expectations yet; gives its process.

    There is none on a machine of one core, which would import twice what both need, nor where the memory of this
    process is limited, nor when the system has no process to give.
    """
    global _worker
    imported = "great_expectations" in sys.modules
    process = _started() if not imported and has_room_beside() else None
    try:
        yield process
    finally:
        _worker = None
        if process is not None:
            process.kill()
            process.wait()


def _started() -> "subprocess.Popen[bytes] | None":
    global _worker
    _under_way.clear()
    quiet = subprocess.DEVNULL  # who reads what this command writes need not wait for the worker's end
    with suppress(OSError):
        worker, its_end = Pipe()
        with its_end:
            command = [sys.executable, "-P", "-m", __name__, str(its_end.fileno())]
            process = subprocess.Popen(command, pass_fds=[its_end.fileno()], stdin=quiet, stdout=quiet, stderr=quiet)
        _worker = worker
        return process
    return None


def ask(expectations: Sequence["Expectation"], frame: "pd.DataFrame", told: str) -> Results:
    """Great Expectations' own results on one frame held in memory, as JSON values, in the order of `expectations`.

    `told` is its result format. How many rows must be as expected (`mostly`) is not its to say: it sees no rows. Raises
    ValueError for an expectation that could not run.
    """
    return ask_ahead(expectations, frame, told)()


def ask_ahead(expectations: Sequence["Expectation"], frame: "pd.DataFrame", told: str) -> Callable[[], Results]:
    """Ask as `ask` does; what is returned waits for the answer, so that more can be asked or done meanwhile."""
    return beside(partial(_ask_here, expectations, frame, told))


def beside(call: Callable[[], Made]) -> Callable[[], Made]:
    """Have the worker make something, after what it was told before; what is returned waits for it and gives it.

    `call` and what it makes can be pickled. Where there is no worker, or it does not answer, it is made here.
    """
    made: list[Made] = []
    if not _told_worker(lambda worker: worker.send(call)):
        return call
    _under_way.append(made)

    def given() -> Made:
        while not made and _told_worker(lambda worker: _under_way[0].append(worker.recv())):
            _under_way.popleft()
        return made[0] if made else call()

    return given


def _told_worker(tell: Callable[[Connection], None]) -> bool:
    """Whether there is a worker and it could be told something; one that was killed, or could not answer, is none."""
    global _worker
    if _worker is not None:
        try:
            tell(_worker)
        except (EOFError, OSError):  # what is wrong then is told here
            _worker = None
    return has_worker()


def has_worker() -> bool:
    """Whether something can be made beside this process."""
    return _worker is not None


def warm_up() -> None:
    """Import Great Expectations and make its context, which the first question would wait for; no thread is begun."""
    import pandas as pd
    from great_expectations import ExpectationSuite  # noqa: F401

    _batches().get_batch(batch_parameters={"dataframe": pd.DataFrame()})


def _ask_here(expectations: Sequence["Expectation"], frame: "pd.DataFrame", told: str) -> Results:
    batch = _batches().get_batch(batch_parameters={"dataframe": frame})
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    suite = ExpectationSuite(
        name="suite",
        expectations=[
            ExpectationConfiguration(
                type=e.type, kwargs={k: v for k, v in e.kwargs.items() if k != "mostly"}, meta={"row": row}
            ).to_domain_obj()
            for row, e in enumerate(expectations)
        ],
    )
    with _configured_once():
        result = batch.validate(
            suite, result_format={"result_format": told, "partial_unexpected_count": EXAMPLES}
        ).to_json_dict()
    by_row = {r["expectation_config"]["meta"]["row"]: r for r in result["results"]}
    for row, r in by_row.items():
        info = r.get("exception_info", {})
        # of one expectation, or of each metric that it needs
        for raised in (info, *(metric for metric in info.values() if isinstance(metric, dict))):
            if raised.get("raised_exception"):
                message = raised["exception_message"]
                raise ValueError(f"{expectations[row].check}: {expectations[row].type} could not run: {message}")
    return [by_row[row] for row in range(len(expectations))]


@contextmanager
def _configured_once() -> Iterator[None]:
    """Have an expectation's configuration made once, which Great Expectations makes anew 40 times for each answer.

    One thread at a time: what is put in the place of its property is put back.
    """
    from great_expectations.expectations.expectation import Expectation

    known: dict[int, tuple[Expectation, Any]] = {}  # with the expectation, so that no other one gets its id

    def configuration(expectation: Expectation) -> Any:
        if id(expectation) not in known:
            known[id(expectation)] = expectation, made_anew.fget(expectation)
        return known[id(expectation)][1]

    with _alone:
        made_anew: Any = Expectation.configuration
        Expectation.configuration = property(configuration)
        try:
            yield
        finally:
            Expectation.configuration = made_anew


@cache
def _batches() -> Any:
    """Great Expectations, imported late (3 s) and told not to call home, ready to take frames."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own imports of marshmallow
        import great_expectations
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = great_expectations.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("leads").add_dataframe_asset("frame")
    return asset.add_batch_definition_whole_dataframe("whole")


def _import_later(name: str) -> None:
    """Have a module imported when something of it is first used; importlib's LazyLoader does when it is named."""
    stand_in = ModuleType(name)

    def used(attribute: str) -> Any:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(import_module(name), attribute)

    stand_in.__getattr__ = used  # type: ignore[method-assign]
    sys.modules[name] = stand_in


def main() -> None:
    """Do what is asked through the pipe until it is closed, or a question has no answer."""
    for name in LATER:
        _import_later(name)
    sys.modules |= dict.fromkeys(LEFT_OUT)  # type: ignore[arg-type]  # as if they were not installed
    with importing():
        warm_up()
        _answer_once()
    asking, calls = Connection(int(sys.argv[1])), SimpleQueue[Callable[[], Any] | None]()
    Thread(target=_take, args=(asking, calls), daemon=True).start()
    with suppress(OSError):
        for call in iter(calls.get, None):
            asking.send(call())


def _answer_once() -> None:
    """Answer something: the first answer takes five times as long as the next ones, and begins a thread."""
    import pandas as pd

    from junk_leads.defs.expectations.suites import Expectation

    there = Expectation("there", "expect_column_values_to_not_be_null", {"column": "value"})
    _ask_here([there], pd.DataFrame({"value": [0]}), "BOOLEAN_ONLY")


def _take(asking: Connection, calls: "SimpleQueue[Callable[[], Any] | None]") -> None:
    """Take what is asked as soon as it comes: who asks more than the pipe holds, unanswered, is not kept waiting."""
    try:
        with suppress(EOFError, OSError):
            while True:
                calls.put(asking.recv())
    finally:  # also when what is asked is not understood
        calls.put(None)


if __name__ == "__main__":
    main()
