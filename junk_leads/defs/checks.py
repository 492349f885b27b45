"""Suites as asset checks: the factory, and the evidence a person reads in the UI.

What lives here: from a suite to `AssetCheckSpec`s, from evidence to `AssetCheckResult`s, and the rule
that an output is stored only when its blocking checks pass. What does not: the expectations
themselves (`reference/expectations/`), how they run (`expectations.py`), and facts about models, which
are plain checks beside their asset.

Checks run inside the step that makes the asset, on what is about to be stored: rows that fail a
blocking check never reach the table, so a refused drop stays refused for whoever asks later.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import dagster as dg
import duckdb

from junk_leads.capacity import failures_told
from junk_leads.defs.expectations.suites import Suite, load_suite
from junk_leads.defs.expectations.validating import Evidence, Frame, validate
from junk_leads.defs.recovery import skip_checks
from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.steps.pages.sentences import found_sentence, percent
from junk_leads.stores.ledger import Ledger
from junk_leads.stores.telling.findings import Finding, Findings

Given = ParamSpec("Given")
STAGED_ROWS = 2_000_000  # most that are written to a temporary table before they are stored


def check_specs(asset: str, partitions: dg.PartitionsDefinition[str] | None = None) -> list[dg.AssetCheckSpec]:
    """One spec for each check of the asset's suite, with its sentence as description.

    `partitions` are the asset's: the state of a check is then kept for each of them, one drop's beside the others'.
    """
    suite = load_suite(asset)
    return [
        dg.AssetCheckSpec(
            name, asset=asset, description=sentence, blocking=suite.is_blocking(name), partitions_def=partitions
        )
        for name, sentence in suite.descriptions.items()
    ]


def timed(
    checks: Callable[Given, list[dg.AssetCheckResult]],
) -> Callable[Given, list[dg.AssetCheckResult]]:
    """Checks that say what they cost: to each its part of the seconds, what is looked up for them among it."""

    @wraps(checks)
    def made(*args: Given.args, **kwargs: Given.kwargs) -> list[dg.AssetCheckResult]:
        started = time.perf_counter()
        results = checks(*args, **kwargs)
        seconds = dg.MetadataValue.float((time.perf_counter() - started) / max(len(results), 1))
        return [result._replace(metadata={**result.metadata, "seconds": seconds}) for result in results]

    return made


@timed
def evaluate(
    suite: Suite, frames: Mapping[str, Frame], found: Mapping[str, str] | None = None
) -> list[dg.AssetCheckResult]:
    """Run a suite over named frames, a result for each check.

    `found` has better words than the evidence's own, by check, for what was found. Checks that look only at frames that
    are not at hand are left out.
    """
    expectations = tuple(e for e in suite.expectations if e.on in frames)
    evidence = validate(expectations, frames)
    checks = dict.fromkeys(e.check for e in expectations)
    return [
        check_result(suite, check, [x for x in evidence if x.expectation.check == check], (found or {}).get(check))
        for check in checks
    ]


def check_result(suite: Suite, check: str, evidence: list[Evidence], found: str | None = None) -> dg.AssetCheckResult:
    """One check's result: failed when a row failed, ERROR when a failed row is an ERROR.

    A check that failed says first what was found, then what was expected.
    """
    failed = [x for x in evidence if not x.passed]
    errors = [x for x in failed if x.expectation.severity == "ERROR"]
    severity = dg.AssetCheckSeverity.ERROR if errors or not failed else dg.AssetCheckSeverity.WARN
    worst = max(failed or evidence, key=lambda x: x.unexpected_share)
    expected, found = suite.descriptions[check], found or found_sentence(evidence)
    return dg.AssetCheckResult(
        asset_key=suite.asset,
        check_name=check,
        passed=not failed,
        severity=severity,
        description=f"{found}. Expected: {expected}" if failed else expected,
        metadata={
            "found": found,
            "expected": expected,
            "evidence": dg.MetadataValue.md(evidence_table(evidence)),
            "unexpected_count": sum(x.unexpected_count for x in evidence),
            "unexpected_share": float(worst.unexpected_share),
            "failed_expectations": len(failed),
            "expectations": len(evidence),
            "refuses": bool([x for x in errors if x.expectation.blocking]),
        },
    )


def evidence_table(evidence: list[Evidence]) -> str:
    """The evidence as a Markdown table, failed rows first; values are escaped, so they stay inert."""
    lines = [
        "| passed | expectation | column | expected | observed | unexpected | share | examples |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for x in sorted(evidence, key=lambda x: x.passed):
        kwargs = {k: v for k, v in x.expectation.kwargs.items() if k != "column"}
        column = x.expectation.kwargs.get("column") or ", ".join(x.expectation.kwargs.get("column_list", []))
        passed = "yes" if x.passed else f"**no** ({x.expectation.severity})"
        cells = [
            x.expectation.type.removeprefix("expect_").replace("_", " "),
            column,
            ", ".join(f"{k} {v}" for k, v in kwargs.items()),
            "" if x.observed is None else x.observed,
            x.unexpected_count,
            percent(x.unexpected_share),
            ", ".join(map(shown_example, x.examples)),
        ]
        lines.append("| " + " | ".join([passed, *(inert(str(cell)) for cell in cells)]) + " |")
    return "\n".join(lines)


def shown_example(value: Any) -> str:
    """An example as Dagster's store may keep it: of a text its shape and length, as it may be a lead's own words.

    The texts themselves stand in `rejected_leads` and in the tables.
    """
    if not isinstance(value, str):
        return repr(value)
    shape = re.sub(r"\d", "9", re.sub(r"[^\W\d_]", "a", value))
    told = shape if len(shape) <= 20 else f"{shape[:20]}…"
    return f"{told!r} ({len(value)} characters)"


def inert(text: str, longest: int = 300) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    text = " ".join(text.split())
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    for character, entity in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "&#124;"),
        ("[", "&#91;"),
        ("`", "&#96;"),
        ("*", "&#42;"),
        ("~", "&#126;"),
        ("\\", "&#92;"),
    ):
        text = text.replace(character, entity)
    return text


def refusal(results: list[dg.AssetCheckResult]) -> str | None:
    """Why an output must not be stored, in one line, or None when every blocking check passed."""
    failed = [r for r in results if r.metadata["refuses"].value]
    if not failed:
        return None
    return "; ".join(f"{r.check_name}: {found_by(r)}" for r in failed)


def found_by(result: dg.AssetCheckResult | dg.AssetCheckEvaluation) -> str:
    """What a check found, in its own words."""
    found = result.metadata.get("found")
    return str(found.value) if found else (result.description or "")


def stage(
    con: duckdb.DuckDBPyConnection, name: str, relation: duckdb.DuckDBPyRelation, rows: int = 0
) -> duckdb.DuckDBPyRelation:
    """Compute a relation once, as a temporary table: what is checked is what is stored.

    A relation of so many `rows` that writing them twice costs more than computing them for each look is left as it is;
    it must give the same rows each time.
    """
    if rows > STAGED_ROWS:
        return relation
    output = relation  # noqa: F841  DuckDB finds it by this name
    con.execute(f'CREATE OR REPLACE TEMP TABLE "staged_{name}" AS SELECT * FROM output')
    return con.table(f"staged_{name}")


def publish(
    value: Any,
    results: list[dg.AssetCheckResult],
    metadata: Mapping[str, Any] | None = None,
    data_version: str | None = None,
) -> Iterator[dg.Output[Any] | dg.AssetCheckResult]:
    """Store an output and tell its checks; when a blocking one failed, tell them and store nothing.

    Outputs of the same `data_version` are the same to what is made of them, whenever they were made. Raises
    dagster.Failure with one plain line in the latter case.
    """
    reason = refusal(results)
    if reason is None:
        # the output goes first, so that the checks are told of this materialisation
        told = [r.metadata["seconds"].value for r in results if "seconds" in r.metadata]
        spent = sum(seconds for seconds in told if isinstance(seconds, float))
        told_version = None if data_version is None else dg.DataVersion(data_version)
        metadata = {**(metadata or {}), "checks_seconds": spent}
        yield dg.Output(value, metadata=metadata, data_version=told_version)
    yield from tell(results)
    if reason is not None:
        key = results[0].asset_key
        name = key.to_user_string() if key else "the output"
        raise dg.Failure(f"{name} was not stored: {reason}", allow_retries=False)


def tell(results: Sequence[dg.AssetCheckResult]) -> Iterator[dg.AssetCheckResult]:
    """Tell Dagster of checks, with the drop that they are about, and keep what they found beside the ledger."""
    context = _running()
    if context is not None:
        drop = context.partition_key if context.has_partition_key else ""
        if drop:
            results = [r._replace(metadata={"drop": dg.MetadataValue.text(drop), **r.metadata}) for r in results]
        home = _home(context)
        deliveries = Ledger(home).deliveries_of(drop) if drop else []
        content = deliveries[-1].content if deliveries else ""
        Findings(home).note([_finding(r, drop, content, context.run.run_id) for r in results])
        with _looked_up_once(context.instance):
            yield from results
    else:
        yield from results


@contextmanager
def _looked_up_once(instance: dg.DagsterInstance) -> Iterator[None]:
    """Have the materialisation that checks are about looked up once, not by Dagster for each of them (4 ms)."""
    look_up, found = instance.fetch_materializations, dict[str, Any]()

    def once(*args: Any, **kwargs: Any) -> Any:
        asked = repr((args, kwargs))
        if asked not in found:
            found[asked] = look_up(*args, **kwargs)
        return found[asked]

    vars(instance)["fetch_materializations"] = once
    try:
        yield
    finally:
        vars(instance).pop("fetch_materializations", None)


def _running() -> dg.AssetExecutionContext | None:
    """The context of the step that is running; none where a check is called as a function."""
    try:
        return dg.AssetExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return None


def _home(context: dg.AssetExecutionContext) -> Home:
    return Home(Path(context.resources.warehouse.path).parent)


def _finding(result: dg.AssetCheckResult, drop: str, content: str, run_id: str) -> Finding:
    metadata = {name: found.value for name, found in result.metadata.items()}
    figures: Any = metadata.get("figures") or {}
    return Finding(
        drop=drop,
        content=content,
        asset=result.asset_key.to_user_string() if result.asset_key else "",
        check=str(result.check_name),
        passed=bool(result.passed),
        severity=result.severity.value,
        refuses=bool(metadata.get("refuses", not result.passed and result.severity is dg.AssetCheckSeverity.ERROR)),
        found=found_by(result),
        expected=str(metadata.get("expected", "")),
        psi={name.removeprefix("psi:"): value for name, value in figures.items() if name.startswith("psi:")},
        run_id=run_id,
    )


@contextmanager
def plain_failures() -> Iterator[None]:
    """An expected error fails the step with its one line; checks that the run never came to are skipped, not failed."""
    try:
        with failures_told():
            yield
    except (JunkLeadsError, dg.Failure) as error:
        context = _running()
        if context is not None:
            skip_checks(context.instance, context.run.run_id)
        if isinstance(error, dg.Failure):
            raise
        raise dg.Failure(str(error), allow_retries=False) from error
