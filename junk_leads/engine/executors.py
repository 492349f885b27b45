"""Where work on shards is done: a function over a list, in this process or elsewhere.

What lives here: the one method that an executor has, the executor of this process, and how the refusal of a shard
comes back from wherever it happened. What does not: Dask (`cluster.py`), the functions (`on_shards.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from junk_leads.errors import DropRefused, JunkLeadsError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Does work on shards."""

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """The results of the work on each item, in the order of the items.

        Raises the refusal of the first item that was refused; ClusterUnavailable when the work cannot be done.
        """


class InProcess:
    """Does the work here, one item after the other."""

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """See Executor."""
        return [work(item) for item in items]


@dataclass(frozen=True)
class Refusal:
    """An expected error, as it is sent between processes."""

    kind: type[JunkLeadsError]
    fields: dict[str, Any]
    text: str

    @classmethod
    def of(cls, error: JunkLeadsError) -> "Refusal":
        """The refusal that an error is."""
        return cls(type(error), error.as_dict() if isinstance(error, DropRefused) else {}, str(error))

    def error(self) -> JunkLeadsError:
        """The error again."""
        return DropRefused(**self.fields) if self.fields else self.kind(self.text)


@dataclass(frozen=True)
class Guarded:
    """Work whose expected errors are results, so that no process between takes them for its own."""

    work: Callable[[Any], Any]

    def __call__(self, item: Any) -> Any:
        """The result of the work, or its Refusal."""
        try:
            return self.work(item)
        except JunkLeadsError as error:
            return Refusal.of(error)
