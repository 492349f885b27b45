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
"""

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from junk_leads.reference import lead_schema, read_text

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 20
ROWS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Expectation:
    """One expectation of a suite file, for one column where it has one."""

    check: str
    type: str
    kwargs: Mapping[str, Any]
    on: str = "rows"
    severity: str = "ERROR"
    blocking: bool = False


@dataclass(frozen=True)
class Evidence:
    """What one expectation found.

    `observed` is the observed value of a table expectation, and what there is of a column: its range where
    a range is expected, else the number of values. `unexpected_count`, `unexpected_share` (0 to 1, of the
    values looked at) and up to 20 `examples` are those of a column expectation.
    """

    expectation: Expectation
    passed: bool
    observed: Any = None
    element_count: int = 0
    unexpected_count: int = 0
    unexpected_share: float = 0.0
    examples: tuple[Any, ...] = ()


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


def validate(
    expectations: tuple[Expectation, ...], frames: Mapping[str, "Callable[[], Iterator[pd.DataFrame]]"]
) -> list[Evidence]:
    """Run expectations over the frames they name, each frame delivered in pieces of many rows.

    Column expectations add up over the pieces; a table expectation (columns, row count) sees the
    frame's columns and its whole length. Returns the evidence in the order of `expectations`.
    """
    found: dict[int, Evidence] = {}
    for name in {e.on for e in expectations}:
        mine = [e for e in expectations if e.on == name]
        for e, evidence in zip(mine, _validate_frame(mine, frames[name]()), strict=True):
            found[id(e)] = evidence
    return [found[id(e)] for e in expectations]


def _validate_frame(expectations: list[Expectation], pieces: "Iterator[pd.DataFrame]") -> list[Evidence]:
    import pandas as pd

    by_column = [e for e in expectations if "_table_" not in e.type]
    by_table = [e for e in expectations if "_table_" in e.type]
    results: dict[int, list[dict[str, Any]]] = {id(e): [] for e in expectations}
    ranges: dict[str, list[float]] = {e.kwargs["column"]: [] for e in by_column if e.type.endswith("_be_between")}
    columns: list[str] = []
    length = 0
    for piece in pieces:
        columns, length = list(piece.columns), length + len(piece)
        for e, result in zip(by_column, _run(by_column, piece), strict=True):
            results[id(e)].append(result)
        for name, ends in ranges.items():
            ends += [float(end) for end in (piece[name].min(), piece[name].max()) if pd.notna(end)]
    heads, lengths = pd.DataFrame(columns=columns), pd.DataFrame(index=pd.RangeIndex(length))
    for frame, mine in (
        (lengths, [e for e in by_table if "row_count" in e.type]),
        (heads, [e for e in by_table if "row_count" not in e.type]),
    ):
        for e, result in zip(mine, _run(mine, frame), strict=True):
            results[id(e)].append(result)
    return [_evidence(e, results[id(e)], ranges.get(e.kwargs.get("column", ""), [])) for e in expectations]


def _evidence(expectation: Expectation, results: list[dict[str, Any]], ends: list[float]) -> Evidence:
    if "_table_" in expectation.type or not results:
        result: dict[str, Any] = results[0] if results else {"success": True, "result": {}}
        found = result["result"]
        observed = found.get("details", {}).get("mismatched") or found.get("observed_value")
        return Evidence(expectation, bool(result["success"]), observed)
    elements = sum(r["result"].get("element_count", 0) for r in results)
    missing = sum(r["result"].get("missing_count", 0) or 0 for r in results)
    unexpected = sum(r["result"].get("unexpected_count", 0) for r in results)
    looked_at = max(elements - missing, 0)
    share = unexpected / looked_at if looked_at else 0.0
    examples = [x for r in results for x in r["result"].get("partial_unexpected_list", [])][:EXAMPLES]
    mostly = float(expectation.kwargs.get("mostly", 1.0))
    observed = f"{looked_at:,} values"
    if ends and expectation.type.endswith("_be_between"):
        observed = " to ".join(f"{end:,.10g}" for end in dict.fromkeys((min(ends), max(ends))))
    passed = all(r["success"] for r in results) if len(results) == 1 else 1.0 - share >= mostly
    return Evidence(expectation, bool(passed), observed, elements, unexpected, share, tuple(examples))


def _run(expectations: list[Expectation], frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Great Expectations' own results on one frame held in memory, as JSON values."""
    if not expectations:
        return []
    gx = _great_expectations()
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    batch = context.data_sources.pandas_default.read_dataframe(frame)
    suite = gx.ExpectationSuite(
        name="suite",
        expectations=[
            ExpectationConfiguration(type=e.type, kwargs=dict(e.kwargs), meta={"row": row}).to_domain_obj()
            for row, e in enumerate(expectations)
        ],
    )
    result = batch.validate(
        suite, result_format={"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES}
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


def _great_expectations() -> Any:
    """Great Expectations, imported late (3 s) and told not to call home."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own imports of marshmallow
        import great_expectations
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    return great_expectations
