"""Suites of expectations, kept as data.

What lives here: reading a suite file (`reference/expectations/`), and what a suite looks at. What does not: how its
expectations run (`validating.py`), and asset checks made of it (`../checks.py`).

A suite file is a list of expectations. Each has Great Expectations' own `type` and `kwargs`, and
  check     the asset check it is a row of; a check is a predicate
  on        the frame it looks at, `rows` unless told
  columns   instead of kwargs.column: names, or `role:<role>,...`, one expectation for each
            (a name or value like `consumer:blocks` stands for a fact that is only known at run time)
  severity  ERROR (the default) or WARN;  blocking  a failure stops the asset from being stored
  told      what to say of values that are not as expected: {n} of {of}, {percent}, {most_percent}; n is the value
            itself of an account of one row
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from junk_leads.reference import lead_schema, read_text

if TYPE_CHECKING:
    from junk_leads.engine.on_shards import LooksByFrame


@dataclass(frozen=True)
class Expectation:
    """One expectation of a suite file, for one column where it has one."""

    check: str
    type: str
    kwargs: Mapping[str, Any]
    on: str = "rows"
    severity: str = "ERROR"
    blocking: bool = False
    told: str = ""


@dataclass(frozen=True)
class Suite:
    """The expectations on one asset. `descriptions` tells each check in a sentence."""

    asset: str
    descriptions: Mapping[str, str]
    expectations: tuple[Expectation, ...]

    def of_check(self, check: str) -> tuple[Expectation, ...]:
        """The expectations that are the rows of one check."""
        return tuple(e for e in self.expectations if e.check == check)

    def is_blocking(self, check: str) -> bool:
        """Whether a failure of the check stops the asset from being stored."""
        return any(e.blocking for e in self.of_check(check))

    @property
    def looks(self) -> "LooksByFrame":
        """What it looks at: of each frame the columns, and whether only at which values are missing."""
        return looks_of(self.expectations)


def load_suite(asset: str, facts: Mapping[str, Any] | None = None) -> Suite:
    """The suite of an asset from `reference/expectations/<asset>.json`.

    `facts` gives values for the suite's `<who>:<what>` names; those of the lead schema are known.
    """
    content = json.loads(read_text(f"expectations/{asset}.json"))
    schema = lead_schema()
    known = {"schema:required": schema.required, "schema:all": schema.names, **(facts or {})}
    expectations = tuple(e for entry in content["expectations"] for e in _expanded(entry, known))
    return Suite(asset, content["checks"], expectations)


def _expanded(entry: dict[str, Any], facts: Mapping[str, Any]) -> Iterator[Expectation]:
    columns = entry.pop("columns", [None])
    if isinstance(columns, str):
        role, _, roles = columns.partition(":")
        columns = lead_schema().with_role(*roles.split(",")) if role == "role" else facts.get(columns, [columns])
    given = {k: _fact(value, facts) for k, value in entry.pop("kwargs", {}).items()}
    for column in columns:
        yield Expectation(**entry, kwargs={**given, **({"column": column} if column else {})})


def _fact(value: Any, facts: Mapping[str, Any]) -> Any:
    value = facts.get(value, value) if isinstance(value, str) else value
    return list(value) if isinstance(value, tuple) else value


def looks_of(expectations: Sequence[Expectation]) -> "LooksByFrame":
    """What expectations look at, as `Suite.looks`."""
    looks: LooksByFrame = {}
    for e in expectations:
        if column := e.kwargs.get("column"):
            of_frame = looks.setdefault(e.on, {})
            of_frame[column] = of_frame.get(column, True) and e.type.endswith("_not_be_null")
    return looks
