"""What people do with a scored drop: the call list and the report.

What lives here: the asset drop_report. What does not: what is on the pages (`steps/pages/`) and the figures
(`stores/drops/reporting.py`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
from pydantic import Field

from junk_leads.defs.assets import INFERENCE_PIPELINE, declared, will_make
from junk_leads.defs.checks import plain_failures
from junk_leads.defs.expectations.asking import beside, has_worker
from junk_leads.defs.io_managers import Warehouse
from junk_leads.defs.resources import EngineResource, HomeResource
from junk_leads.engine.drops import delivered_of_shards
from junk_leads.engine.table_parts import parts_of
from junk_leads.steps.leads.reading import delivered_rows
from junk_leads.steps.learning.grading import GRADES
from junk_leads.steps.pages.call_list import (
    MOST_LEADS,
    CallList,
    begin_workbook,
    call_list,
    end_workbook,
    ranked_leads,
    write_csv,
    write_workbook,
)
from junk_leads.steps.pages.drop_report import Believed, report_markdown, report_page, verdict
from junk_leads.steps.pages.summary import ONES, ZEROS
from junk_leads.stores.drops.reporting import believed, drop_facts
from junk_leads.stores.ledger import Delivery
from junk_leads.stores.making import write_whole
from junk_leads.stores.warehouse import rows_of, stored_of


class CallListConfig(dg.Config):
    """Which leads are on the call list."""

    top: int = Field(default=MOST_LEADS, ge=1, description="At most so many leads, the best ones.")
    grades: list[str] = Field(default=list(GRADES), description="Leads of these grades only.")


@dg.asset(
    **declared(
        "drop_report",
        INFERENCE_PIPELINE,
        {"html", "excel"},
        deps=["cleaned_leads", "predictions", "prediction_summary"],
        check_specs=[],
    )
)
def drop_report(
    context: dg.AssetExecutionContext,
    config: CallListConfig,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
    engine: EngineResource,
) -> dg.MaterializeResult[None]:
    """Report of a scored drop: whether its scores can be believed, whom to call first, what came in, and what to do.

    Written as `reports/<drop>.html`, with the call list beside the scored file: `predictions/<drop>.call_list.xlsx`
    and `.csv`. It has no table.
    """
    drop = context.partition_key
    with plain_failures():
        home.ledger.refuse_refused(drop)
        con = warehouse.connection()
        model, found = believed(con, home.registry, drop)
        header, content = stored_of(con, "delivered_drops", drop).select("header, content").fetchall()[0]
        predictions, warning = rows_of(con, "predictions", [drop]), "; ".join(found.warnings)
        about = _about_list(con, home, drop, predictions, content, warning, config)
        leads = _begun_list(about)
        begun = leads is not None
        if leads is None:
            delivery = home.ledger.of_content(drop, content)
            raw = parts_of(con, "raw_leads", drop)
            whole = delivered_rows(delivery.path, in_lines=True)  # read when it is asked for
            delivered = delivered_of_shards(engine.shards(delivery), raw) if raw else whole
            leads = about.listed(header, delivered)
        written = _writing(about.workbook, leads, _summary(found, len(leads.rows), config), begun=begun)
        page = home.home.reports / f"{drop}.html"
        try:
            facts = drop_facts(con, home.registry, model, found)
            warehouse.release()
            write_csv(about.workbook.with_suffix(".csv"), leads)
            write_whole(page, report_page(facts))
        finally:
            written()
        told: dict[str, Any] = {
            "report": dg.MetadataValue.md(report_markdown(facts)),
            "page": dg.MetadataValue.url(page.as_uri()),
            "call_list": dg.MetadataValue.path(str(about.workbook)),
            "leads_on_the_call_list": len(leads.rows),
        }
        return dg.MaterializeResult(metadata=told)


def begin_call_list(
    context: dg.AssetExecutionContext,
    con: duckdb.DuckDBPyConnection,
    home: HomeResource,
    predictions: duckdb.DuckDBPyRelation,
    content: str,
    header: Sequence[str],
    warning: str,
    delivery: Delivery,
) -> None:
    """Have the process beside write the list of the leads with these predictions, if this run will report of them.

    `drop_report` takes it where the list would be the same; writing it takes as long as all that is done until then.
    """
    global _begun
    _begun = None
    if not (has_worker() and will_make(context, "drop_report")):
        return
    run_config: Mapping[str, Any] = context.run.run_config
    asked = run_config.get("ops", {}).get("drop_report", {}).get("config", {})
    about = _about_list(con, home, delivery.drop, predictions, content, warning, CallListConfig(**asked))
    if len(about.ranked) <= MOST_LEADS:
        leads = about.listed(header, delivered_rows(delivery.path, in_lines=True))
        beside(partial(begin_workbook, about.workbook, leads))
        _begun = about, leads


@dataclass(frozen=True)
class _AboutList:
    """What a call list is made of, and where it is written."""

    workbook: Path
    content: str
    warning: str
    ranked: list[tuple[Any, ...]]

    def listed(self, header: Sequence[str], delivered: Iterable[pa.RecordBatch]) -> CallList:
        """The list, of the content's header and rows."""
        return call_list(self.ranked, header, delivered, warning=self.warning)


_begun: tuple[_AboutList, CallList] | None = None


def _about_list(
    con: duckdb.DuckDBPyConnection,
    home: HomeResource,
    drop: str,
    predictions: duckdb.DuckDBPyRelation,
    content: str,
    warning: str,
    config: CallListConfig,
) -> _AboutList:
    ranked = ranked_leads(con, predictions, rows_of(con, "cleaned_leads", [drop]), top=config.top, grades=config.grades)
    return _AboutList(home.home.predictions / f"{drop}.call_list.xlsx", content, warning, ranked)


def _begun_list(about: _AboutList) -> CallList | None:
    """The list that was begun, if it is of just this."""
    global _begun
    begun, _begun = _begun, None
    return begun[1] if begun is not None and begun[0] == about else None


def _writing(path: Path, leads: CallList, summary: Mapping[str, str], *, begun: bool) -> Callable[[], None]:
    """Have the workbook written; what is returned waits for it."""
    write = partial(write_workbook, path, leads, summary)
    if begun:
        ended = beside(partial(end_workbook, path, summary))
        return lambda: None if ended() else write()
    return beside(write) if len(leads.rows) <= MOST_LEADS else write  # more are not sent to another process


def _summary(facts: Believed, leads: int, config: CallListConfig) -> dict[str, str]:
    """The sheet Summary."""
    figures, meaning = facts.figures, facts.meaning
    told = {
        "drop": figures["drop"],
        "can it be believed": verdict(facts),
        **({"warnings": "\n".join(facts.warnings)} if facts.warnings else {}),
        "on this list": f"the best {leads:,} of {figures['lead_count']:,} leads"
        + ("" if set(config.grades) == set(GRADES) else f", grades {', '.join(config.grades)} only"),
        f"1s, {ONES}": f"{figures['share_of_ones']:.2%}, {figures['ones']:,} leads, about "
        f"{figures['applications_of_ones']:,.0f} applications",
        f"0s, {ZEROS}": f"{figures['share_of_zeros']:.2%}, {figures['zeros']:,} leads, about "
        f"{figures['applications_of_zeros']:,.0f} applications",
        "the flag": meaning.flag,
        "expected": meaning.base_rate,
    }
    for grade in GRADES:
        fared = meaning.of_grade(grade)
        told[f"grade {grade}"] = f"{figures[f'grade_{grade.lower()}']:,} leads" + (
            f"; in the model's hold-out {fared}" if fared else ""
        )
    return {**told, "model": f"version {figures['model_version']}", "scored at": str(figures["scored_at"])}
