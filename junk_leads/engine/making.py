"""Making the parts of one table: where they go, and who makes them.

What lives here: a folder of its own for each making, deleted when the making fails, and an executor that is connected
to when it is first needed. What does not: which parts a table has after all (`table_parts.py`).
"""

import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from junk_leads.engine.cluster import executor_of
from junk_leads.engine.executors import Executor, Item, Result


class Making:
    """The executor of a table's parts, and the folder that they go to."""

    def __init__(self, scheduler: str, folder: Path, stack: ExitStack) -> None:
        self._scheduler, self._stack = scheduler, stack
        self._executor: Executor | None = None
        self.folder = str(folder)

    def beside(self, table: str) -> str:
        """The folder of another table that is made together with this one."""
        drop, making = Path(self.folder).parts[-2:]
        return str(Path(self.folder).parents[2] / table / drop / making)

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """See Executor."""
        if self._executor is None:
            self._executor = self._stack.enter_context(executor_of(self._scheduler))
        return self._executor.map(work, items)


@contextmanager
def making(scheduler: str, tables: Path, table: str, drop: str) -> Iterator[Making]:
    """What is needed to make a table's parts of a drop; what was made stays only when nothing fails meanwhile."""
    folder = tables / table / drop / uuid.uuid4().hex
    with ExitStack() as stack:
        try:
            yield Making(scheduler, folder, stack)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
