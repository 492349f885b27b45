"""The guard of servers: when the process that started them is killed, they are stopped all the same.

What lives here: stopping servers with all that they started, and the process that does so when its input ends. What
does not: which servers there are (`serving.py`).

    python -m junk_leads.running.servers.guard      process ids on its input, a line each; once more when it has ended
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable

_PATIENCE = ((signal.SIGINT, 20.0), (signal.SIGKILL, 5.0))  # seconds that what is told to end is given


def stop(leaders: Iterable[int], reap: Callable[[], object] = lambda: None) -> None:
    """End processes that lead a session each, and what they started; asked first, so that a run can say that it ended.

    `reap` takes note of the ends of those that are children of this process.
    """
    left = list(leaders)
    for sign, patience in _PATIENCE:
        left = [leader for leader in left if _signalled(leader, sign)]
        deadline = time.monotonic() + patience
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            reap()
            left = [leader for leader in left if _signalled(leader, 0)]


def _signalled(leader: int, sign: int) -> bool:
    """Signal all that a process leads; whether any of them is left."""
    try:
        os.killpg(leader, sign)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Wait until nobody can write to the input any more, then stop what was named there and has not ended."""
    leaders: set[int] = set()
    for line in sys.stdin:
        leaders ^= {int(line)}  # a number whose process has ended can become another's
    stop(leaders)


if __name__ == "__main__":
    main()
