"""Expectations run over frames, and their evidence as plain values.

What lives here: from frames to the distinct values that are asked about, and from answers to evidence. What does not:
Great Expectations itself (`asking.py`), Dagster (`../checks.py` makes asset checks of evidence), and any rule
(`reference/expectations/`).
"""

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import duckdb
import numpy as np

from junk_leads.defs.expectations.asking import ask, ask_ahead
from junk_leads.defs.expectations.suites import Expectation, looks_of
from junk_leads.engine.tallies import Tally

if TYPE_CHECKING:
    import pandas as pd

Seen: TypeAlias = Tally | tuple[str, ...]  # what is looked at of rows, or columns
Frame: TypeAlias = duckdb.DuckDBPyRelation | Seen
Waiting: TypeAlias = Callable[[], Iterator[tuple[Expectation, "Evidence"]]]  # for the answers


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


def validate(expectations: tuple[Expectation, ...], frames: Mapping[str, Frame]) -> list[Evidence]:
    """Run expectations over the frames they name; returns the evidence in the order of `expectations`.

    A column's expectations see each distinct value once, and what they find is counted in rows, so rows stay inside
    DuckDB, however many they are; a table's (columns, row count) see its columns and its length. What is asked of a
    frame is answered while the next one is looked at.
    """
    looks = looks_of(expectations)
    under_way: list[Waiting] = []
    for name, frame in frames.items():
        mine = [e for e in expectations if e.on == name]
        seen = Tally.of(frame, looks.get(name, {})) if isinstance(frame, duckdb.DuckDBPyRelation) else frame
        alike: dict[Hashable, list[_Column]] = {}
        side_by_side: list[_Column] = []
        for column in dict.fromkeys(e.kwargs.get("column") for e in mine):
            of_column = [e for e in mine if e.kwargs.get("column") == column]
            if column:
                one = _Column(of_column, *_distinct_values(seen, column))
                (side_by_side if len(seen) == 1 else alike.setdefault(one.asked(), [])).append(one)
            else:
                under_way.append(_of_table(of_column, seen))
        under_way.extend(map(_of_columns, alike.values()))
        if side_by_side:
            under_way.append(_of_one_row(side_by_side))
    found = {id(e): evidence for given in under_way for e, evidence in given()}
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


def _of_columns(alike: Sequence[_Column]) -> Waiting:
    """Ask whether each expectation of each of these columns is met by all of its values; then there is the evidence.

    What is expected of every value is met by those of all columns when it is met by those of each. So they are asked
    together first, and each by itself where that failed.
    """
    import pandas as pd

    first, values = alike[0], alike[0].values
    if len(alike) > 1:
        values = pd.concat([one.values.set_axis(values.columns, axis=1) for one in alike], ignore_index=True)
    together = ask_ahead(first.expectations, values, "BOOLEAN_ONLY")

    def evidence() -> Iterator[tuple[Expectation, Evidence]]:
        found = together()
        if len(alike) == 1 or all(answer["success"] for answer in found):
            answers = [found] * len(alike)
        else:
            each = [ask_ahead(one.expectations, one.values, "BOOLEAN_ONLY") for one in alike]
            answers = [answer() for answer in each]
        for one, of_one in zip(alike, answers, strict=True):
            passed = [bool(answer["success"]) for answer in of_one]
            yield from zip(one.expectations, _of_column(one, passed), strict=True)

    return evidence


def _of_one_row(columns: Sequence[_Column]) -> Waiting:
    """Ask at once what is expected of the columns of one row, an account as a rule: most of an answer is its frame."""
    import pandas as pd

    row = pd.concat([one.values for one in columns], axis=1)
    together = ask_ahead([e for one in columns for e in one.expectations], row, "BOOLEAN_ONLY")

    def evidence() -> Iterator[tuple[Expectation, Evidence]]:
        answers = iter(together())
        for one in columns:
            passed = [bool(next(answers)["success"]) for _ in one.expectations]
            yield from zip(one.expectations, _of_column(one, passed), strict=True)

    return evidence


def _of_table(expectations: list[Expectation], frame: Seen) -> Waiting:
    import pandas as pd

    columns, length = (frame, 0) if isinstance(frame, tuple) else (frame.columns, len(frame))
    # of numbers, for Great Expectations hashes what it is given: 223 empty columns take 0.10 s as objects, 0.03 so
    heads, lengths = pd.DataFrame(columns=columns, dtype="int8"), pd.DataFrame(index=pd.RangeIndex(length))
    answers = [ask_ahead([e], lengths if "row_count" in e.type else heads, "COMPLETE") for e in expectations]

    def evidence() -> Iterator[tuple[Expectation, Evidence]]:
        for e, answer in zip(expectations, answers, strict=True):
            (found,) = answer()
            observed = found["result"].get("details", {}).get("mismatched") or found["result"].get("observed_value")
            yield e, Evidence(e, bool(found["success"]), observed)

    return evidence


def _of_column(one: _Column, passed: Sequence[bool]) -> Iterator[Evidence]:
    values, rows = one.values, one.rows
    for e, is_met in zip(one.expectations, passed, strict=True):
        result: dict[str, Any] = {}
        if not is_met:  # the few that are told in full are asked again: to know all is twice as dear
            result = ask([e], values, "COMPLETE")[0]["result"]
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
