"""What a check found, in a sentence that people read: how many of how many, of which column, and what is wrong.

What lives here: from evidence to words and rounded figures. What does not: examples, which are a lead's data and stand
in the table of evidence alone (`defs/checks.py`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

MOST_TOLD = 3  # findings of one check
MOST_NAMES = 5
LONGEST_NAME = 60  # characters of a delivered column's name, which may be anything
# what a terminal does not show but obeys, what turns the direction of writing round, and bytes that are no text
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Text that holds words of other people's (names of files and columns), as any terminal may be given it.

    What is not seen stands there by its escape; line ends and tabs stay.
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Expectation(Protocol):
    """What was expected: Great Expectations' type and kwargs, of which frame, how grave, and words of its own."""

    @property
    def type(self) -> str: ...  # noqa: D102
    @property
    def kwargs(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def on(self) -> str: ...  # noqa: D102
    @property
    def severity(self) -> str: ...  # noqa: D102
    @property
    def told(self) -> str: ...  # noqa: D102


class Evidence(Protocol):
    """What one expectation found; see `defs/expectations.py`."""

    @property
    def expectation(self) -> Expectation: ...  # noqa: D102
    @property
    def passed(self) -> bool: ...  # noqa: D102
    @property
    def observed(self) -> Any: ...  # noqa: D102
    @property
    def looked_at(self) -> int: ...  # noqa: D102
    @property
    def unexpected_count(self) -> int: ...  # noqa: D102
    @property
    def unexpected_share(self) -> float: ...  # noqa: D102
    @property
    def value(self) -> float | None: ...  # noqa: D102


def percent(share: float) -> str:
    """A share, 0 to 1, as people write it: `20 %`, `0.3 %`, and never 0 or 100 for what is a little more or less."""
    hundredths = share * 100
    if 0 < hundredths < 0.05:
        return "under 0.1 %"
    if 99.5 <= hundredths < 100:
        return "over 99 %"
    told = f"{hundredths:.0f}" if hundredths >= 10 else f"{hundredths:.1f}".removesuffix(".0")
    return f"{told} %"


def figure(value: float) -> str:
    """A number as people write it: whole ones in full, others to three digits."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.3g}"


def found_sentence(evidence: Sequence[Evidence]) -> str:
    """What the expectations of one check found, errors before warnings; without a lead's data."""
    failed = sorted((x for x in evidence if not x.passed), key=lambda x: x.expectation.severity != "ERROR")
    if not failed:
        return "as expected"
    told = list(dict.fromkeys(_found(x) for x in failed))
    more = f"; and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    return "; ".join(told[:MOST_TOLD]) + more


def _found(x: Evidence) -> str:
    kwargs, kind = x.expectation.kwargs, x.expectation.type.removeprefix("expect_")
    if x.expectation.told:
        return x.expectation.told.format(
            n=figure(x.unexpected_count if x.value is None else x.value),
            percent=percent(x.unexpected_share if x.value is None else x.value),
            of=figure(x.looked_at),
            most_percent=percent(kwargs.get("max_value") or 0),
        )
    if kind.startswith("table_columns"):
        return _columns(x.observed)
    if kind.startswith("table_row_count"):
        return f"{figure(float(x.observed))} rows"
    column = "interaction counts" if x.expectation.on == "interactions" else str(kwargs["column"])
    if x.looked_at == 1 and x.value is not None:
        return f"{column} is {figure(x.value)}"
    share = percent(x.unexpected_share)
    return f"{x.unexpected_count:,} of {x.looked_at:,} values of {column} {_fault(kind, kwargs)} ({share})"


def _fault(kind: str, kwargs: Mapping[str, Any]) -> str:
    if kind.endswith("not_be_null"):
        return "are missing"
    if kind.endswith("be_between"):
        least, most = kwargs.get("min_value"), kwargs.get("max_value")
        if least is None or most is None:
            return f"are below {figure(least)}" if least is not None else f"are above {figure(most or 0)}"
        return f"are not {figure(least)}" if least == most else f"are not from {figure(least)} to {figure(most)}"
    if kind.endswith("be_in_set"):
        return f"are not one of {', '.join(map(str, kwargs['value_set'][:MOST_NAMES]))}"
    return "are not written as they should be" if "regex" in kind else "are not as expected"


def _columns(observed: Any) -> str:
    """How a table's columns differ from those expected, from Great Expectations' account of it or its message."""
    if isinstance(observed, Mapping):
        told = [f"{word} {_names(observed[key])}" for key, word in _DIFFERENCES if observed.get(key)]
        return "; ".join(told) or "the columns are others"
    if isinstance(observed, Sequence) and not isinstance(observed, str):
        return f"{len(observed)} columns are not where, or what, they should be"
    return str(observed)


_DIFFERENCES = (("missing", "lacks"), ("unexpected", "has also"))


def _names(names: Sequence[str]) -> str:
    return listed([str(name)[:LONGEST_NAME] for name in names])


def listed(names: Sequence[str]) -> str:
    """The first MOST_NAMES of some names, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")
