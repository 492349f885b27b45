"""The data pipeline: leads as delivered, cleaned, and their interactions in groups.

What lives here: the assets raw_leads, cleaned_leads and interaction_groups, with what their checks look at.
What does not: the steps themselves (`steps/`) and the expectations (`reference/expectations/`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import duckdb

from junk_leads.defs.assets import DATA_PIPELINE, declared, lineage
from junk_leads.defs.checks import check_result, evaluate, plain_failures, publish, refusal, stage
from junk_leads.defs.expectations import Evidence, Frame, load_suite
from junk_leads.defs.io_managers import Warehouse
from junk_leads.defs.labelled_drops import keep_labelled_drops
from junk_leads.defs.resources import HomeResource
from junk_leads.errors import DropRefused
from junk_leads.reference import interaction_groups as groups_of_interactions
from junk_leads.reference import lead_schema
from junk_leads.steps.leads import accounting
from junk_leads.steps.leads.cleaning import clean
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.reading import Reading, read_header, read_leads
from junk_leads.stores.ledger import Delivery, content_of
from junk_leads.stores.warehouse import holds, take_back

SCHEMA = lead_schema()
GROUP = DATA_PIPELINE
_MEND = "mend the file and deliver it again"


@dg.asset(**declared("raw_leads", GROUP, {"duckdb", "csv"}))
def raw_leads(
    context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse], home: HomeResource
) -> Iterator[Any]:
    """Leads as delivered: one row for each lead of a drop, typed, with `drop` and `lead_number` (from 1, file order).

    Made from the drop's newest file by column name. A row with a value that cannot be (text in a count, an
    impossible date, a label other than 0 or 1) goes to the table `rejected_leads` with its line and reason;
    a file that cannot be read goes to `quarantine/` with a `reason.json`, and former rows stay.
    """
    drop = context.partition_key
    with plain_failures():
        delivery = home.ledger.newest(drop)
        try:
            reading, results = _read(warehouse.connection(), delivery)
        except DropRefused as refused:
            _refuse(home, warehouse, delivery, refused)
            yield _refused_result(delivery, refused)
            raise
        reason = refusal(results)
        if reason is not None:
            _refuse(home, warehouse, delivery, DropRefused(reason, where="rows", do=_mend(reading)))
        drop_value = duckdb.ConstantExpression(drop).alias("drop")
        outputs = {
            "raw_leads": reading.leads.select(drop_value, duckdb.StarExpression()),
            "rejected_leads": reading.rejected.select(drop_value, duckdb.StarExpression()),
            "delivered_drops": _delivered(warehouse.connection(), delivery, reading),
        }
        yield from publish(outputs, results, {"content": delivery.content, **_metadata(delivery, reading)})


def _refuse(home: HomeResource, warehouse: Warehouse, delivery: Delivery, refused: DropRefused) -> None:
    """Refuse a delivery: the drop's former one is back in the tables before the file goes to `quarantine/`."""
    take_back(warehouse.connection(), delivery.drop)
    home.ledger.refuse(delivery, refused)


def _refuse_changed(delivery: Delivery) -> None:
    if content_of(delivery.path) != delivery.content:
        raise DropRefused(
            f"{delivery.file_name!r} changed while it was being read", do="deliver it again when it is complete"
        )


def _on_its_way(home: HomeResource, warehouse: Warehouse, drop: str) -> Delivery | None:
    """The delivery that raw_leads holds of a drop, when it is the newest and neither accepted nor refused yet."""
    delivery = home.ledger.newest(drop)
    held = holds(warehouse.connection(), "raw_leads").get(drop)
    return delivery if delivery.content == held and delivery.status == "waiting" else None


@contextmanager
def _refusing(home: HomeResource, warehouse: Warehouse, drop: str) -> Iterator[None]:
    """What fails after raw_leads for the drop's own fault refuses its delivery, as if it had failed there.

    Whatever else fails (the disk, a lock) leaves the delivery as it is, to be tried again.
    """
    try:
        yield
    except (DropRefused, duckdb.DataError) as error:
        delivery, refused = _on_its_way(home, warehouse, drop), error
        if not isinstance(refused, DropRefused):  # DuckDB's own words hold the value
            refused = DropRefused(
                f"a value of drop {drop!r} cannot be computed with ({type(error).__name__})",
                where="rows",
                expected="counts whose sums are numbers that can be stored",
                do=_MEND,
            )
        if delivery is not None:
            _refuse(home, warehouse, delivery, refused)
        raise refused from error


def _judge(home: HomeResource, warehouse: Warehouse, drop: str, results: list[dg.AssetCheckResult]) -> None:
    """Refuse the delivery of a drop whose rows failed a blocking check after raw_leads."""
    reason, delivery = refusal(results), _on_its_way(home, warehouse, drop)
    if reason is not None and delivery is not None:
        _refuse(home, warehouse, delivery, DropRefused(reason, where="rows", do=_MEND))


def _read(con: duckdb.DuckDBPyConnection, delivery: Delivery) -> tuple[Reading, list[dg.AssetCheckResult]]:
    _refuse_changed(delivery)
    reading = read_leads(con, delivery.path, SCHEMA)
    return reading, raw_leads_checks(con, reading)


def raw_leads_checks(con: duckdb.DuckDBPyConnection, reading: Reading) -> list[dg.AssetCheckResult]:
    """The checks of raw_leads, over a file as read."""
    frames: dict[str, Frame] = {
        "header": _named(reading.header),
        "known_header": _named((*SCHEMA.names, *reading.ignored)),
        "account": accounting.one_row(
            con,
            rows_rejected=reading.rows_rejected,
            rejected_share=reading.rows_rejected / max(reading.rows_read, 1),
        ),
        "rows": accounting.narrow_rows(con, reading.leads, SCHEMA),
        "interactions": accounting.counted_interactions(con, reading.leads, SCHEMA),
    }
    return evaluate(load_suite("raw_leads"), frames)


def _named(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(filter(None, names))


def _refused_result(delivery: Delivery, refused: DropRefused) -> dg.AssetCheckResult:
    """A file that could not be read, told by the check that guards the schema."""
    suite = load_suite("raw_leads")
    try:
        header = read_header(delivery.path)
    except (DropRefused, OSError):
        header = ()
    results = evaluate(suite, {"header": _named(header)})
    if results[0].passed:  # the columns are there: something else is wrong with the file
        expectation = suite.of_check("has_every_required_column")[0]
        results = [check_result(suite, expectation.check, [Evidence(expectation, False, str(refused))])]
    told = {f"refused_{key}": dg.MetadataValue.text(value) for key, value in refused.as_dict().items() if value}
    return results[0]._replace(metadata={**results[0].metadata, **told})


def _mend(reading: Reading) -> str:
    """What to do about rejected rows, naming where they are but not what they hold."""
    told = reading.rejected.aggregate("column_name, reason, count(*) AS n, min(line) AS line").order("n DESC").limit(3)
    rows = [
        f"{n} rows: {column or 'row'} {reason} (first in line {line})" for column, reason, n, line in told.fetchall()
    ]
    return f"{_MEND}: {'; '.join(rows)}" if rows else _MEND


def _delivered(con: duckdb.DuckDBPyConnection, delivery: Delivery, reading: Reading) -> duckdb.DuckDBPyRelation:
    """One row about the file behind a drop: its table is `delivered_drops`."""
    return con.sql(
        "SELECT ? AS drop, ? AS file_name, ? AS content, ?::VARCHAR[] AS header, ?::BOOLEAN AS labelled, "
        "?::BIGINT AS rows_read, ?::BIGINT AS rows_rejected",
        params=[
            delivery.drop,
            delivery.file_name,
            delivery.content,
            list(reading.header),
            reading.labelled,
            reading.rows_read,
            reading.rows_rejected,
        ],
    )


def _metadata(delivery: Delivery, reading: Reading) -> dict[str, Any]:
    return {
        "file": delivery.file_name,
        "labelled": reading.labelled,
        "rows_read": reading.rows_read,
        "rows_rejected": reading.rows_rejected,
        "ignored_columns": len(reading.ignored),
    }


@dg.asset(**declared("cleaned_leads", GROUP, {"duckdb"}))
def cleaned_leads(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
    raw_leads: duckdb.DuckDBPyRelation,
) -> Iterator[Any]:
    """Cleaned leads: one row for each lead of a drop that is not an exact duplicate of an earlier one.

    Texts are keys (case, blanks and invisible characters do not matter), missing counts are 0, the city has
    its tier (1 to 3, unlisted cities 3) and `is_city_missing` keeps the fact that none was given.
    """
    drop = context.partition_key
    with plain_failures(), _refusing(home, warehouse, drop):
        con = warehouse.connection()
        cleaned = stage(con, "cleaned_leads", clean(con, raw_leads, SCHEMA))
        duplicates = accounting.count(con.table("duplicate_leads"))
        results = cleaned_leads_checks(con, cleaned, accounting.count(raw_leads), duplicates)
        _judge(home, warehouse, drop, results)
        made_from = {name: [("raw_leads", name)] for name in SCHEMA.names}
        made_from |= {name: [("raw_leads", "city_mapped")] for name in ("city_tier", "is_city_missing")}
        metadata = {"duplicates": duplicates, "dagster/column_lineage": lineage(made_from)}
        yield from publish(cleaned, results, metadata)


def cleaned_leads_checks(
    con: duckdb.DuckDBPyConnection, cleaned: duckdb.DuckDBPyRelation, delivered: int, duplicates: int
) -> list[dg.AssetCheckResult]:
    """The checks of cleaned_leads; `delivered` leads came in, `duplicates` were dropped."""
    account = accounting.one_row(
        con,
        rows_unaccounted=abs(delivered - duplicates - accounting.count(cleaned)),
        duplicate_share=duplicates / max(delivered, 1),
    )
    frames: dict[str, Frame] = {
        "rows": accounting.narrow_rows(con, cleaned, SCHEMA),
        "interactions": accounting.counted_interactions(con, cleaned, SCHEMA),
        "account": account,
    }
    return evaluate(load_suite("cleaned_leads"), frames)


@dg.asset(**declared("interaction_groups", GROUP, {"duckdb"}))
def interaction_groups(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
    cleaned_leads: duckdb.DuckDBPyRelation,
) -> Iterator[Any]:
    """Interactions in groups: one row for each cleaned lead, the 37 columns summed into assistance, career,
    payment, social and syllabus interactions by the reference table.

    With them a drop is accepted, and its file goes to `archive/`.
    """
    drop = context.partition_key
    with plain_failures(), _refusing(home, warehouse, drop):
        con = warehouse.connection()
        groups = stage(con, "interaction_groups", group_interactions(con, cleaned_leads))
        results = interaction_groups_checks(con, groups, cleaned_leads)
        _judge(home, warehouse, drop, results)
        delivery = _on_its_way(home, warehouse, drop)
        if delivery is not None:
            _refuse_changed(delivery)
        made_from: dict[str, list[tuple[str, str]]] = {}
        for interaction, group in groups_of_interactions().items():
            made_from.setdefault(group, []).append(("cleaned_leads", interaction))
        yield from publish(groups, results, {"dagster/column_lineage": lineage(made_from)})
        if delivery is not None:
            home.ledger.accept(delivery)
        keep_labelled_drops(context.instance, warehouse.connection())  # stored, the drop is accepted or refused
        warehouse.release()


def interaction_groups_checks(
    con: duckdb.DuckDBPyConnection, groups: duckdb.DuckDBPyRelation, leads: duckdb.DuckDBPyRelation
) -> list[dg.AssetCheckResult]:
    """The checks of interaction_groups, made from these cleaned leads."""
    unaccounted = abs(accounting.count(groups) - accounting.count(leads))
    frames: dict[str, Frame] = {
        "rows": groups,
        "differences": accounting.sum_differences(con, groups, leads, SCHEMA),
        "account": accounting.one_row(con, rows_unaccounted=unaccounted),
    }
    return evaluate(load_suite("interaction_groups"), frames)
