"""Great Expectations suites kept as data, and their validation.

What lives here: reading a suite file, running it over frames, and its evidence as plain values.
What does not: Dagster (see `checks.py`, which makes asset checks of suites) and any rule itself
(see `reference/expectations/`).

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
import logging
import os
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import duckdb
import numpy as np

from junk_leads.engine.on_shards import LooksByFrame
from junk_leads.engine.tallies import Tally
from junk_leads.reference import lead_schema, read_text

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 20

Seen: TypeAlias = Tally | tuple[str, ...]  # what is looked at of rows, or columns
Frame: TypeAlias = duckdb.DuckDBPyRelation | Seen


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
class Evidence:
    """What one expectation found.

    `observed` is the observed value of a table expectation, and what there is of a column: its range where
    a range is expected, else the number of values. `unexpected_count`, `unexpected_share` (0 to 1, of the
    values looked at, `looked_at`) and up to 20 different `examples` are those of a column expectation; `value` is the
    one number of an account of one row.
    """

    expectation: Expectation
    passed: bool
    observed: Any = None
    element_count: int = 0
    unexpected_count: int = 0
    unexpected_share: float = 0.0
    examples: tuple[Any, ...] = ()
    looked_at: int = 0
    value: float | None = None


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


def validate(expectations: tuple[Expectation, ...], frames: Mapping[str, Frame]) -> list[Evidence]:
    """Run expectations over the frames they name; returns the evidence in the order of `expectations`.

    A column's expectations see each distinct value once, and what they find is counted in rows, so rows stay inside
    DuckDB, however many they are; a table's (columns, row count) see its columns and its length.
    """
    found: dict[int, Evidence] = {}
    columns = []
    looks = _looks(expectations)
    seen = {
        name: Tally.of(frame, looks.get(name, {})) if isinstance(frame, duckdb.DuckDBPyRelation) else frame
        for name, frame in frames.items()
    }
    for name, column in dict.fromkeys((e.on, e.kwargs.get("column")) for e in expectations):
        mine = [e for e in expectations if (e.on, e.kwargs.get("column")) == (name, column)]
        if column:
            columns.append(_Column(mine, *_distinct_values(seen[name], column)))
        else:
            found |= {id(e): evidence for e, evidence in zip(mine, _of_table(mine, seen[name]), strict=True)}
    alike: dict[Hashable, list[_Column]] = {}
    for one in columns:
        alike.setdefault(one.asked(), []).append(one)
    for group in alike.values():
        for one, passed in zip(group, _passed(group), strict=True):
            found |= {id(e): x for e, x in zip(one.expectations, _of_column(one, passed), strict=True)}
    return [found[id(e)] for e in expectations]


@dataclass(frozen=True)
class _Column:
    """A column's d distinct values as a frame of it, how many rows have each (d,), and what is expected of it."""

    expectations: list[Expectation]
    values: "pd.DataFrame"
    rows: "np.ndarray[Any, Any]"

    def asked(self) -> Hashable:
        """What is asked of which kind of values: columns that have it in common are asked at once."""
        if not self.values.columns.size:
            return id(self)  # the column is not there: it is Great Expectations that says so
        what = [
            (e.type, {k: v for k, v in e.kwargs.items() if k not in ("column", "mostly")}) for e in self.expectations
        ]
        return json.dumps([str(self.values.dtypes.iloc[0]), what], default=str)


def _passed(alike: Sequence[_Column]) -> list[list[bool]]:
    """Whether each expectation of each of these columns is met by all of its values.

    What is expected of every value is met by those of all columns when it is met by those of each. So they are asked
    together first, and each by itself where that failed.
    """
    import pandas as pd

    first = alike[0]
    if len(alike) > 1:
        (name,) = first.values.columns
        together = pd.concat([one.values.set_axis([name], axis=1) for one in alike], ignore_index=True)
        if all(found["success"] for found in _run(first.expectations, together, "BOOLEAN_ONLY")):
            return [[True] * len(one.expectations) for one in alike]
    return [[bool(f["success"]) for f in _run(one.expectations, one.values, "BOOLEAN_ONLY")] for one in alike]


def looks_of(suite: Suite) -> LooksByFrame:
    """What a suite looks at: of each frame the columns, and whether only at which values are missing."""
    return _looks(suite.expectations)


def _looks(expectations: Sequence[Expectation]) -> LooksByFrame:
    looks: LooksByFrame = {}
    for e in expectations:
        if column := e.kwargs.get("column"):
            of_frame = looks.setdefault(e.on, {})
            of_frame[column] = of_frame.get(column, True) and e.type.endswith("_not_be_null")
    return looks


def _of_table(expectations: list[Expectation], frame: Seen) -> Iterator[Evidence]:
    import pandas as pd

    columns, length = (frame, 0) if isinstance(frame, tuple) else (frame.columns, len(frame))
    heads, lengths = pd.DataFrame(columns=columns), pd.DataFrame(index=pd.RangeIndex(length))
    for e in expectations:
        (found,) = _run([e], lengths if "row_count" in e.type else heads, "COMPLETE")
        observed = found["result"].get("details", {}).get("mismatched") or found["result"].get("observed_value")
        yield Evidence(e, bool(found["success"]), observed)


def _of_column(one: _Column, passed: Sequence[bool]) -> Iterator[Evidence]:
    values, rows = one.values, one.rows
    for e, is_met in zip(one.expectations, passed, strict=True):
        result: dict[str, Any] = {}
        if not is_met:  # the few that are told in full are asked again: to know all is twice as dear
            result = _run([e], values, "COMPLETE")[0]["result"]
        column = values[e.kwargs["column"]]
        is_there = column.notna().to_numpy() | e.type.endswith("_not_be_null")
        looked_at = int(rows[is_there].sum())
        unexpected = int(rows[result.get("unexpected_index_list") or []].sum())
        share = unexpected / max(looked_at, 1)
        observed = f"{looked_at:,} values"
        value = None
        if e.type.endswith("_be_between") and looked_at:
            ends = (float(column.min()), float(column.max()))
            observed = " to ".join(f"{end:,.10g}" for end in dict.fromkeys(ends))
            value = ends[0] if len(rows) == 1 and looked_at == 1 else None
        passes = 1.0 - share >= float(e.kwargs.get("mostly", 1.0))
        examples = tuple(result.get("partial_unexpected_list", ()))
        yield Evidence(e, passes, observed, int(rows.sum()), unexpected, share, examples, looked_at, value)


def _distinct_values(frame: Seen, column: str) -> tuple["pd.DataFrame", "np.ndarray[Any, Any]"]:
    """A column's d distinct values, a missing one last, as a frame of that column, and how many rows have each (d,)."""
    import pandas as pd

    if isinstance(frame, tuple) or column not in frame.values:
        return pd.DataFrame(columns=[]), np.zeros(0, dtype=np.int64)  # it is Great Expectations that says so
    table = frame.values[column]
    return table.select(["value"]).to_pandas().set_axis([column], axis=1), table["row_count"].to_numpy()


def _run(expectations: list[Expectation], frame: "pd.DataFrame", told: str) -> list[dict[str, Any]]:
    """Great Expectations' own results on one frame held in memory, as JSON values.

    `told` is its result format. How many rows must be as expected (`mostly`) is not its to say: it sees no rows.
    """
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


def warm_up() -> None:
    """Import Great Expectations and make its context, which the first validation would wait for."""
    import pandas as pd
    from great_expectations import ExpectationSuite  # noqa: F401

    _batches().get_batch(batch_parameters={"dataframe": pd.DataFrame()})


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
