"""The data pipeline: leads as delivered, cleaned, and their interactions in groups.

What lives here: the assets raw_leads, cleaned_leads and interaction_groups, with what their checks look at.
What does not: the steps themselves (`steps/`) and the expectations (`reference/expectations/`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import dagster as dg
import duckdb

from junk_leads.capacity import refuse_without_room
from junk_leads.defs.assets import DATA_PIPELINE, DROPS, OWNERS, declared, freshness, lineage
from junk_leads.defs.checks import (
    check_result,
    evaluate,
    found_by,
    inert,
    plain_failures,
    publish,
    refusal,
    stage,
    tell,
    timed,
)
from junk_leads.defs.expectations.suites import load_suite
from junk_leads.defs.expectations.validating import Evidence, Frame
from junk_leads.defs.io_managers import Warehouse, describe
from junk_leads.defs.labelled_drops import keep_labelled_drops
from junk_leads.defs.resources import EngineResource, HomeResource
from junk_leads.engine.drops import MadeTable, ReadDrop, clean_drop, group_drop, read_drop
from junk_leads.engine.making import Making
from junk_leads.engine.table_parts import Output, count_of, parts_of, relation_of
from junk_leads.errors import DropRefused, DropUnknown, JunkLeadsError
from junk_leads.reference import interaction_groups as groups_of_interactions
from junk_leads.reference import lead_schema
from junk_leads.steps.leads import accounting
from junk_leads.steps.leads.cleaning import clean
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.reading import Reading, read_header, read_leads
from junk_leads.steps.pages.rejections import rejections_sentence, write_rejected_rows
from junk_leads.steps.watching.codes import apply_codes
from junk_leads.steps.watching.overlap import count_known_leads
from junk_leads.stores.drops.code_maps import CodeMap
from junk_leads.stores.ledger import Delivery, content_of
from junk_leads.stores.warehouse import content_held, has_table, rows_of, store, stored_of, take_back

SCHEMA = lead_schema()
GROUP = DATA_PIPELINE
REJECTED_SHOWN = 50  # rows in the catalogue; all are in the table
Read: TypeAlias = Reading | ReadDrop
_MEND = "mend the file and deliver it again"


@dg.asset(**declared("raw_leads", GROUP, {"duckdb", "csv"}, **freshness()))
def raw_leads(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
    engine: EngineResource,
) -> Iterator[Any]:
    """Leads as delivered: one row for each lead of a drop, typed, with `drop` and `lead_number` (from 1, file order).

    Made from the drop's newest file by column name. A row with a value that cannot be (text in a count, an
    impossible date, a label other than 0 or 1) goes to the table `rejected_leads` with its line and reason;
    a file that cannot be read goes to `quarantine/` with a `reason.json`, and former rows stay.
    """
    drop = context.partition_key
    with plain_failures(), engine.making("raw_leads", drop) as work:
        try:
            delivery = home.ledger.newest(drop)
        except DropUnknown:
            context.instance.delete_dynamic_partition("drops", drop)  # made up in the UI: it does not stay
            raise
        try:
            _refuse_changed(home, delivery)
            refuse_without_room(home.home.root, delivery.path, scored=False)
            reading, results = _read(warehouse.connection(), delivery, engine, work)
        except DropRefused as refused:
            _refuse(home, warehouse, delivery, refused)
            yield from tell([_refused_result(delivery, refused)])
            raise
        drop_value = duckdb.ConstantExpression(drop).alias("drop")
        rejected = reading.rejected.select(drop_value, duckdb.StarExpression())
        if refusal(results) is not None:
            _refuse(home, warehouse, delivery, _refusal_of_rows(results), reading)
        outputs = {
            "raw_leads": reading.table
            if isinstance(reading, ReadDrop)
            else reading.leads.select(drop_value, duckdb.StarExpression()),
            "rejected_leads": rejected,
            "delivered_drops": _delivered(warehouse.connection(), delivery, reading),
        }
        yield from publish(outputs, results, {"content": delivery.content, **_metadata(delivery, reading)})
        yield _rejections(drop, stored_of(warehouse.connection(), "rejected_leads", drop))
        warehouse.pass_on()


rejected_leads = dg.AssetSpec(
    "rejected_leads",
    deps=["raw_leads"],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"duckdb", "csv"},
    partitions_def=DROPS,
    description=(
        "Rejected rows: one row for each row of a drop that could not be read as a lead, with `drop`, `lead_number`, "
        "`line` (the header is on line 1), `column_name` (null: the whole row), `reason` and `raw`, the row's text. "
        "Made beside raw_leads. Rows of a drop that was refused stand in the table `refused_rows`, and as "
        "`rejected_rows.csv` beside the `reason.json` in quarantine/, until a mended file is accepted."
    ),
)


def _rejections(drop: str, rejected: duckdb.DuckDBPyRelation, refused: Path | None = None) -> dg.AssetMaterialization:
    """The rejected rows of a drop, as the catalogue shows them; `refused` is their CSV when the drop was refused."""
    table = "rejected_leads" if refused is None else "refused_rows"
    where = {"table": table, "state": "accepted" if refused is None else "refused"}
    file = {} if refused is None else {"file": dg.MetadataValue.path(str(refused))}
    rows = accounting.count(rejected)
    return dg.AssetMaterialization(
        "rejected_leads", partition=drop, metadata={**where, **file, **describe(rejected, rows, REJECTED_SHOWN)}
    )


def _refusal_of_rows(results: list[dg.AssetCheckResult]) -> DropRefused:
    """What `reason.json` tells of a drop that checks refused: what each found, and what it expected."""
    refusing = [result for result in results if result.metadata["refuses"].value]
    rejected = any(result.check_name == "has_few_rejected_rows" for result in refusing)
    return DropRefused(
        "; ".join(f"{result.check_name}: {found_by(result)}" for result in refusing),
        where="rows",
        expected=" ".join(str(result.metadata["expected"].value) for result in refusing).rstrip("."),
        do=f"{_MEND}; every rejected row is in rejected_rows.csv beside this reason" if rejected else _MEND,
    )


def _refuse(
    home: HomeResource,
    warehouse: Warehouse,
    delivery: Delivery,
    refused: DropRefused,
    reading: Read | None = None,
) -> None:
    """Refuse a delivery: the drop's former one is back in the tables before the file goes to `quarantine/`.

    Its rejected rows are kept, apart from those of accepted drops: of `reading`, or of raw_leads where that had passed.
    """
    con, drop = warehouse.connection(), delivery.drop
    outputs = {}
    if reading is not None:
        rejected = reading.rejected.select(duckdb.ConstantExpression(drop).alias("drop"), duckdb.StarExpression())
        outputs = {"refused_rows": rejected, "refused_drops": _delivered(con, delivery, reading)}
    elif content_held(con, "raw_leads", drop) == delivery.content:
        tables = {"refused_rows": "rejected_leads", "refused_drops": "delivered_drops"}
        outputs = {name: stage(con, name, stored_of(con, table, drop)) for name, table in tables.items()}
    take_back(con, drop)
    folder = home.ledger.refuse(delivery, refused)
    if outputs:
        write_rejected_rows(outputs["refused_rows"], folder / "rejected_rows.csv")
        store(con, outputs, [drop], delivery.content)
        kept = stored_of(con, "refused_rows", drop)
        dg.AssetExecutionContext.get().log_event(_rejections(drop, kept, folder / "rejected_rows.csv"))


def _refuse_changed(home: HomeResource, delivery: Delivery) -> None:
    """Raise when the file is not what was delivered: one in `incoming/` is the next delivery, to be read by itself."""
    if content_of(delivery.path) != delivery.content:
        if delivery.path.parent == home.home.incoming:
            raise JunkLeadsError(
                f"another {delivery.file_name!r} took its place while it was being read, and comes next"
            )
        raise DropRefused(
            f"{delivery.file_name!r} changed while it was being read", do="deliver it again when it is complete"
        )


def _on_its_way(home: HomeResource, warehouse: Warehouse, drop: str) -> Delivery | None:
    """The delivery that raw_leads holds of a drop, when it is the newest and neither accepted nor refused yet."""
    delivery = home.ledger.newest(drop)
    held = content_held(warehouse.connection(), "raw_leads", drop)
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
    delivery = _on_its_way(home, warehouse, drop) if refusal(results) is not None else None
    if delivery is not None:
        _refuse(home, warehouse, delivery, _refusal_of_rows(results))


def _read(
    con: duckdb.DuckDBPyConnection, delivery: Delivery, engine: EngineResource, work: Making
) -> tuple[Read, list[dg.AssetCheckResult]]:
    reading: Read
    if engine.takes(delivery):
        looks, shards = load_suite("raw_leads").looks, engine.shards(delivery)
        reading = read_drop(con, work, shards, drop=delivery.drop, folder=work.folder, looks=looks)
    else:
        reading = read_leads(con, delivery.path, SCHEMA)
    return reading, raw_leads_checks(con, reading)


@timed
def raw_leads_checks(con: duckdb.DuckDBPyConnection, reading: Read) -> list[dg.AssetCheckResult]:
    """The checks of raw_leads, over a file as read, or the shards of a drop."""
    frames: dict[str, Frame] = {
        "header": _named(reading.header),
        "known_header": _named((*SCHEMA.names, *reading.ignored)),
        "account": accounting.one_row(
            con,
            rows_rejected=reading.rows_rejected,
            rejected_share=reading.rows_rejected / max(reading.rows_read, 1),
        ),
        **_frames(con, reading.table if isinstance(reading, ReadDrop) else reading.leads),
    }
    found = {"has_few_rejected_rows": rejections_sentence(reading.rejected, reading.rows_read)}
    return evaluate(load_suite("raw_leads"), frames, found)


def _frames(con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation | MadeTable) -> dict[str, Frame]:
    """What the checks look at of leads, raw or cleaned."""
    if isinstance(leads, MadeTable):
        return dict(leads.tallies)
    return {
        "rows": accounting.narrow_rows(con, leads, SCHEMA),
        "interactions": accounting.counted_interactions(con, leads, SCHEMA),
    }


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
    # the refusal itself is what was found, whichever expectation tells it
    expected = refused.expected or suite.descriptions[str(results[0].check_name)]
    results[0] = results[0]._replace(
        description=f"{refused.what}. Expected: {expected}",
        metadata={
            **results[0].metadata,
            "found": dg.MetadataValue.text(refused.what),
            "expected": dg.MetadataValue.text(expected),
        },
    )
    told = {f"refused_{key}": dg.MetadataValue.text(value) for key, value in refused.as_dict().items() if value}
    return results[0]._replace(metadata={**results[0].metadata, **told})


def _delivered(con: duckdb.DuckDBPyConnection, delivery: Delivery, reading: Read) -> duckdb.DuckDBPyRelation:
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


def _metadata(delivery: Delivery, reading: Read) -> dict[str, Any]:
    return {
        "file": delivery.file_name,
        "labelled": reading.labelled,
        "rows_read": reading.rows_read,
        "rows_rejected": reading.rows_rejected,
        "ignored_columns": len(reading.ignored),
    }


@dg.asset(**declared("cleaned_leads", GROUP, {"duckdb"}, deps=["code_maps"]))
def cleaned_leads(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
    engine: EngineResource,
    raw_leads: duckdb.DuckDBPyRelation,
) -> Iterator[Any]:
    """Cleaned leads: one row for each lead of a drop that is not an exact duplicate of an earlier one.

    Texts are keys (case, blanks and invisible characters do not matter), missing counts are 0, the city has
    its tier (1 to 3, unlisted cities 3) and `is_city_missing` keeps the fact that none was given. Renamed codes are
    put back by the code map that holds for the drop, if any.
    """
    drop = context.partition_key
    with plain_failures(), _refusing(home, warehouse, drop), engine.making("cleaned_leads", drop) as work:
        con = warehouse.connection()
        code_map = home.code_maps.holding(drop, home.ledger.newest(drop).file_name)
        codes = code_map.codes if code_map else {}
        parts = parts_of(con, "raw_leads", drop)
        cleaned: Output
        if parts:
            looks = load_suite("cleaned_leads").looks
            cleaned, duplicates = clean_drop(con, work, parts, codes=codes, folder=work.folder, looks=looks)
        else:
            cleaned = clean(con, apply_codes(con, raw_leads, codes), SCHEMA)
            duplicates = accounting.count(con.table("duplicate_leads"))
        results = cleaned_leads_checks(con, cleaned, accounting.count(raw_leads), duplicates)
        _judge(home, warehouse, drop, results)
        made_from = {name: [("raw_leads", name)] for name in SCHEMA.names}
        made_from |= {name: [("raw_leads", "city_mapped")] for name in ("city_tier", "is_city_missing")}
        known = _known_leads(con, relation_of(con, cleaned), context.partition_key)
        metadata = {
            "duplicates": duplicates,
            **known,
            "dagster/column_lineage": lineage(made_from),
            **_told_of(code_map),
        }
        values = [context.partition_key, *known.values()]
        known_leads = con.sql(
            "SELECT ? AS drop, ?::BIGINT AS known_leads, ?::BIGINT AS known_labelled_leads", params=values
        )
        yield from publish({"cleaned_leads": cleaned, "known_leads": known_leads}, results, metadata)


def _known_leads(con: duckdb.DuckDBPyConnection, cleaned: duckdb.DuckDBPyRelation, drop: str) -> dict[str, int]:
    """How many of a drop's leads were delivered in other drops before, and in labelled ones; they are kept."""
    found = (0, 0)
    if has_table(con, "cleaned_leads"):
        others = rows_of(con, "cleaned_leads").filter(
            duckdb.ColumnExpression("drop") != duckdb.ConstantExpression(drop)
        )
        found = count_known_leads(con, cleaned, others, SCHEMA)
    return {"known_leads": found[0], "known_labelled_leads": found[1]}


def _told_of(code_map: CodeMap | None) -> dict[str, Any]:
    """What the metadata say of an applied code map."""
    if code_map is None:
        return {"code_map": "none"}
    codes = {inert(column): len(pairs) for column, pairs in code_map.codes.items()}
    return {"code_map": code_map.id, "codes_put_back": codes, "code_map_accepted_by": code_map.who}


@timed
def cleaned_leads_checks(
    con: duckdb.DuckDBPyConnection, cleaned: Output, delivered: int, duplicates: int
) -> list[dg.AssetCheckResult]:
    """The checks of cleaned_leads; `delivered` leads came in, `duplicates` were dropped."""
    account = accounting.one_row(
        con,
        rows_unaccounted=abs(delivered - duplicates - count_of(cleaned)),
        duplicate_share=duplicates / max(delivered, 1),
    )
    frames: dict[str, Frame] = {"account": account, **_frames(con, cleaned)}
    return evaluate(load_suite("cleaned_leads"), frames)


@dg.asset(**declared("interaction_groups", GROUP, {"duckdb"}))
def interaction_groups(
    context: dg.AssetExecutionContext,
    warehouse: dg.ResourceParam[Warehouse],
    home: HomeResource,
    engine: EngineResource,
    cleaned_leads: duckdb.DuckDBPyRelation,
) -> Iterator[Any]:
    """Interactions in groups: one row for each cleaned lead, the 37 columns summed into assistance, career,
    payment, social and syllabus interactions by the reference table.

    With them a drop is accepted, and its file goes to `archive/`.
    """
    drop = context.partition_key
    with plain_failures(), _refusing(home, warehouse, drop), engine.making("interaction_groups", drop) as work:
        con = warehouse.connection()
        parts = parts_of(con, "cleaned_leads", drop)
        groups: Output
        if parts:
            groups = group_drop(con, work, parts, folder=work.folder, looks=load_suite("interaction_groups").looks)
        else:
            groups = stage(con, "interaction_groups", group_interactions(con, cleaned_leads))
        results = interaction_groups_checks(con, groups, cleaned_leads)
        _judge(home, warehouse, drop, results)
        delivery = _on_its_way(home, warehouse, drop)
        if delivery is not None:
            _refuse_changed(home, delivery)
        made_from: dict[str, list[tuple[str, str]]] = {}
        for interaction, group in groups_of_interactions().items():
            made_from.setdefault(group, []).append(("cleaned_leads", interaction))
        yield from publish(groups, results, {"dagster/column_lineage": lineage(made_from)})
        if delivery is not None:
            home.ledger.accept(delivery)
            con = warehouse.connection()
            if has_table(con, "refused_rows"):  # what was refused of this drop before is mended
                store(con, {"refused_rows": con.table("refused_rows").limit(0)}, [drop], delivery.content)
        keep_labelled_drops(context.instance, warehouse.connection())  # stored, the drop is accepted or refused
        warehouse.pass_on()


@timed
def interaction_groups_checks(
    con: duckdb.DuckDBPyConnection, groups: Output, leads: duckdb.DuckDBPyRelation
) -> list[dg.AssetCheckResult]:
    """The checks of interaction_groups, made from these cleaned leads."""
    unaccounted = abs(count_of(groups) - accounting.count(leads))
    seen: dict[str, Frame] = (
        dict(groups.tallies)
        if isinstance(groups, MadeTable)
        else {"rows": groups, "differences": accounting.sum_differences(con, groups, leads, SCHEMA)}
    )
    frames: dict[str, Frame] = {"account": accounting.one_row(con, rows_unaccounted=unaccounted), **seen}
    return evaluate(load_suite("interaction_groups"), frames)
