"""The Dask cluster: the work of shards on the workers of a scheduler.

What lives here: connecting within seconds or saying why not, waiting for results without waiting for ever, and the
check that the workers run the same releases, without which equal results are luck. What does not: the work. Dask is
imported here only, when a cluster is asked for.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from junk_leads.engine.executors import Executor, Guarded, InProcess, Item, Refusal, Result
from junk_leads.errors import ClusterUnavailable

PATIENCE_SECONDS = 8.0  # for a scheduler that does not answer, and for a cluster that has no workers left
RETRIES = 2  # of a task that failed for a reason that is not the shard's
SAME = ("junk-leads", "duckdb", "lightgbm", "numpy", "pyarrow")  # releases that must be equal for equal results


@contextmanager
def executor_of(scheduler: str) -> Iterator[Executor]:
    """The executor of a scheduler's address (tcp://HOST:PORT); without one, of this process.

    Raises ClusterUnavailable within seconds when nobody answers there, when there are no workers, or other releases.
    """
    if not scheduler:
        yield InProcess()
        return
    try:
        import dask
        import distributed
    except ImportError as error:
        raise ClusterUnavailable(
            f"the scheduler {scheduler} needs Dask, which is not installed; pip install 'junk-leads[dask]', or leave "
            "--scheduler out"
        ) from error
    for name in ("distributed", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what is wrong is told in one line, by us
    timeouts = {"distributed.comm.timeouts.connect": PATIENCE_SECONDS, "distributed.comm.retry.count": 0}
    with dask.config.set(timeouts):
        try:
            client = distributed.Client(scheduler, timeout=PATIENCE_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise ClusterUnavailable(
                f"no Dask scheduler answers at {scheduler!r}; nothing was changed: check the address "
                "(tcp://HOST:PORT) and that it runs"
            ) from error
        try:
            _refuse_other_releases(client, scheduler)
            yield _Cluster(client, scheduler)
        finally:
            client.close(timeout=1)


def releases() -> dict[str, str]:
    """The releases of this process that decide about results."""
    return {name: version(name) for name in SAME}


here = releases  # of this process, where releases() is asked of the workers


def _refuse_other_releases(client: Any, scheduler: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not client.nthreads():
        if time.monotonic() > deadline:
            raise ClusterUnavailable(
                f"the scheduler {scheduler} has no workers; nothing was changed: start some (dask worker {scheduler})"
            )
        time.sleep(0.1)
    own = here()
    for address, there in client.run(releases, on_error="return").items():
        if isinstance(there, Exception):
            raise ClusterUnavailable(f"the worker {address} cannot import junk-leads; install it there ({there})")
        other = [f"{name} {there[name]} (here {own[name]})" for name in SAME if there[name] != own[name]]
        if other:
            raise ClusterUnavailable(
                f"the worker {address} has {', '.join(other)}; install the same releases there, or results would differ"
            )


class _Cluster:
    """Does the work on the workers; a task whose worker dies is done again on another."""

    def __init__(self, client: Any, scheduler: str) -> None:
        self.client, self.scheduler = client, scheduler

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """See Executor."""
        if not items:
            return []
        futures = self.client.map(Guarded(work), list(items), pure=False, retries=RETRIES)
        try:
            self._wait(futures)
            results = self.client.gather(futures)
        except ClusterUnavailable:
            raise
        except Exception as error:  # whatever it was, a person is told one line
            why = (str(error).strip().splitlines() or [""])[0][:200]
            raise ClusterUnavailable(
                f"the cluster at {self.scheduler} did not finish ({type(error).__name__}: {why}); nothing was changed: "
                "look at its workers' logs and try again"
            ) from error
        refused = next((result for result in results if isinstance(result, Refusal)), None)
        if refused is not None:
            raise refused.error()
        return list(results)

    def _wait(self, futures: Sequence[Any]) -> None:
        """Until all are done; raises ClusterUnavailable when the scheduler or all workers have been gone for long."""
        import distributed

        last_well = time.monotonic()
        while True:
            try:
                with self.client.as_current():
                    distributed.wait(futures, timeout=1)
                return
            except TimeoutError:
                gone = self._what_is_gone()
            except Exception:
                gone = "is gone"
            if gone is None:
                last_well = time.monotonic()
            elif gone == "is gone" or time.monotonic() - last_well > PATIENCE_SECONDS:
                raise ClusterUnavailable(
                    f"the scheduler {self.scheduler} {gone}; nothing was changed: start it and try again"
                )

    def _what_is_gone(self) -> str | None:
        if self.client.status != "running":
            return "does not answer any more"
        try:
            return None if self.client.nthreads() else "has no workers any more"
        except Exception:
            return "does not answer any more"
