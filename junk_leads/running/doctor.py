"""The doctor: whether the stores of a home agree with each other, and mending what can safely be mended.

What lives here: what is compared (settings, ledger, tables, partitions, runs, models, files), each as a finding with
what to do, and the short comparison that stands at every start. What does not: what a run does about a drop (it
stores, then accepts: `defs/assets/leads.py`), and backups (`running/backups.py`).

Mending runs the data pipeline again on files that are in `archive/` but not in the tables, notes partitions and
transitions that a killed process left, and deletes parts of files that nobody will finish. It never deletes a lead.
"""

import logging
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import duckdb

from junk_leads.capacity import failures_told, memory_limit, told
from junk_leads.engine.shards import MANIFEST
from junk_leads.engine.table_parts import SUFFIX, has_table, parts_of, table_of_rows, tables_in
from junk_leads.errors import DropRefused, JunkLeadsError
from junk_leads.home import Home
from junk_leads.steps.leads.splitting import CAPS
from junk_leads.steps.pages.sentences import MOST_NAMES, listed
from junk_leads.steps.sql import quoted
from junk_leads.stores.ledger import Delivery, Ledger, content_of
from junk_leads.stores.telling.alerting import webhook
from junk_leads.stores.warehouse import HOLDINGS, LAST, RESTORE, connect, holds, patience_seconds

if TYPE_CHECKING:
    from junk_leads.running.launching import Platform

LEFT_SECONDS = 3600.0  # after which nobody works on a part of a file any more
LEAST_FREE = 10**9  # bytes
_FILES_AT_ONCE = 8  # that a disk is asked for
_TELL_SECONDS = 10.0
_log = logging.getLogger(__name__)
_COUNTS = [dg.AssetKey("lead_counts")]
# Which pipeline makes a table again; the others are made of all drops, by the next training.
_PIPELINES = {
    **dict.fromkeys(("raw_leads", "cleaned_leads", "interaction_groups"), "data_pipeline"),
    **dict.fromkeys(("encoded_features", "predictions", "prediction_summary"), "inference_pipeline"),
    "lead_counts": "training_pipeline",
}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: what, what to do, and how the doctor mends it, where that is safe."""

    what: str
    do: str
    mend: Callable[[], None] | None = None


def first_look(home: Home) -> list[Finding]:
    """The short comparison of every start: whether the tables hold what the ledger says, and as many rows as noted.

    Takes milliseconds; while a run holds the warehouse, which it does after such a look of its own, nothing is said.
    """
    if not home.warehouse.exists() or not home.ledger.exists():
        return []
    try:
        with failures_told(), connect(home.warehouse, wait_seconds=0.0) as con:
            return [*_lost_rows(con, thorough=False), *_not_held(home, con, None)]
    except JunkLeadsError:
        return []  # whoever needs it is told then


def wrong_settings() -> Iterator[str]:
    """What is wrong with the settings that are read when they are needed; the others are read at every start."""
    caps = [partial(getattr, cap, "value") for cap in CAPS]
    reading: list[Callable[[], object]] = [memory_limit, patience_seconds, webhook, *caps]
    for read in reading:
        try:
            read()
        except JunkLeadsError as error:
            yield str(error)


def examine(platform: "Platform") -> list[Finding]:
    """Everything that is wrong with a home, the gravest first. Reads every archived file and model once."""
    found: list[Finding] = []
    for look in (_settings, _databases, _tables, _deliveries, _partitions, _models, _results, _left_over):
        try:
            with failures_told():
                found.extend(look(platform))
        except JunkLeadsError as error:
            if str(error) not in [finding.what for finding in found]:  # a setting that every look needs
                found.append(Finding(str(error), RESTORE))
    return found


def mend(findings: Sequence[Finding]) -> list[tuple[Finding, str]]:
    """Mend what can be; returns each finding with what became of it: empty when it is mended, else why it is not."""
    became = []
    for finding in findings:
        problem = "" if finding.mend else "not mended"
        try:
            if finding.mend:
                finding.mend()
        except JunkLeadsError as error:
            problem = str(error)
        became.append((finding, problem))
    return became


def _settings(platform: "Platform") -> Iterator[Finding]:
    """Settings that are read when they are needed, and a disk that is nearly full."""
    yield from (Finding(problem, "set it so, or not at all") for problem in wrong_settings())
    free = shutil.disk_usage(platform.home.root).free
    if free < LEAST_FREE:
        yield Finding(f"the disk of {platform.home.root} has {told(free)} left", "free some space")


def _databases(platform: "Platform") -> Iterator[Finding]:
    """SQLite files whose own check fails; of very many (Dagster has one for each run) it is told how far this is."""
    home = platform.home
    files = [home.ledger, home.root / "mlflow.db", *sorted(home.dagster.rglob("*.db"))]
    last, pool = time.monotonic(), ThreadPoolExecutor(_FILES_AT_ONCE)
    try:
        for number, (path, answer) in enumerate(zip(files, pool.map(_own_check, files), strict=True)):
            if time.monotonic() - last > _TELL_SECONDS:
                last = time.monotonic()
                _log.warning("%s of %s database files are looked through", f"{number:,}", f"{len(files):,}")
            if answer != "ok" and path.exists():
                yield Finding(f"the database {path} is damaged ({' '.join(answer.split())[:150]})", RESTORE)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt waits for those under way alone


def _own_check(path: Path) -> str:
    """What SQLite says of a file of its own: ok, or what is wrong."""
    try:
        # for writing too: what a killed process left in a journal is taken back by whoever opens the file next
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=10)) as db:
            return str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        return str(error)


def _tables(platform: "Platform") -> Iterator[Finding]:
    """Rows that are not there, and accepted drops that no table holds."""
    home = platform.home
    if not home.warehouse.exists():
        accepted = _accepted(home)
        if accepted:
            yield _missing_drops(accepted, platform)
        return
    with connect(home.warehouse) as con:
        yield from _unreadable(con)
        lost = list(_lost_rows(con, thorough=True, platform=platform))
        absent = list(_not_held(home, con, platform))
        unknown = sorted(set(holds(con, "raw_leads")) - {d.drop for d in Ledger(home).deliveries()})
    yield from [*lost, *absent]
    if unknown:
        yield Finding(
            f"the tables hold {_names(unknown)}, which the ledger knows nothing of",
            "deliver their files again, or restore the ledger from a backup",
        )


def _unreadable(con: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """Tables of which some block cannot be read; all of them are read."""
    for table in sorted(tables_in(con)):
        try:
            con.execute(f"SELECT max(hash(t)) FROM {quoted(table)} AS t").fetchall()
        except duckdb.Error as error:
            yield Finding(f"the table {table} cannot be read ({str(error).splitlines()[0][:150]})", RESTORE)


def _lost_rows(
    con: duckdb.DuckDBPyConnection, *, thorough: bool, platform: "Platform | None" = None
) -> Iterator[Finding]:
    """Tables with another number of rows than was stored: of all drops, or `thorough`ly drop by drop."""
    tables = con.execute(f"SELECT table_name, sum(row_count) FROM {HOLDINGS} GROUP BY ALL ORDER BY ALL").fetchall()
    for table, noted in tables:
        if not has_table(con, table):
            if noted:
                yield Finding(f"the table {table} is gone, {noted:,} rows were stored in it", RESTORE)
            continue
        if has_table(con, table + SUFFIX):
            yield from _lost_parts(con, table)
            continue
        if not thorough:
            ((rows,),) = con.execute(f"SELECT count(*) FROM {quoted(table_of_rows(con, table))}").fetchall()
            if rows != noted:
                yield Finding(f"{table} has {rows:,} rows, {noted:,} were stored", "run `junk-leads doctor --repair`")
            continue
        drops = con.execute(
            f"SELECT h.drop FROM {HOLDINGS} AS h LEFT JOIN "
            f"(SELECT drop, count(*) AS rows_there FROM {quoted(table)} GROUP BY drop) AS t USING (drop) "
            "WHERE table_name = ? AND coalesce(rows_there, 0) != row_count ORDER BY drop",
            [table],
        ).fetchall()
        named = [str(drop) for (drop,) in drops]
        if named:
            yield Finding(
                f"{table} lacks rows of {_names(named)}, or has more than were stored",
                "run `junk-leads doctor --repair`, which makes them again from archive/",
                _again(platform, named, _PIPELINES[table]) if platform and table in _PIPELINES else None,
            )


def _lost_parts(con: duckdb.DuckDBPyConnection, table: str) -> Iterator[Finding]:
    for (drop,) in con.execute(f"SELECT DISTINCT drop FROM {quoted(table + SUFFIX)} ORDER BY drop").fetchall():
        gone = [part.path for part in parts_of(con, table, drop) if not Path(part.path).is_file()]
        if gone:
            yield Finding(
                f"{len(gone):,} parts of {table} of drop {drop!r} are gone, the first is {gone[0]}",
                "bring the storage back, or deliver the drop's shards again",
            )


def _not_held(home: Home, con: duckdb.DuckDBPyConnection, platform: "Platform | None") -> Iterator[Finding]:
    held = holds(con, LAST)
    missing = [delivery for delivery in _accepted(home) if held.get(delivery.drop) != delivery.content]
    if missing:
        yield _missing_drops(missing, platform)


def _missing_drops(missing: Sequence[Delivery], platform: "Platform | None") -> Finding:
    names = [delivery.drop for delivery in missing]
    return Finding(
        f"the ledger has {_names(names)} as accepted, the tables do not hold what was delivered",
        "run `junk-leads doctor --repair`, which makes them again from archive/",
        _again(platform, names) if platform else None,
    )


def _accepted(home: Home) -> list[Delivery]:
    """The newest delivery of each drop, where it was accepted."""
    newest = {delivery.drop: delivery for delivery in Ledger(home).deliveries()}
    return [delivery for delivery in newest.values() if delivery.status == "accepted"]


def _again(platform: "Platform | None", drops: Sequence[str], job: str = "data_pipeline") -> Callable[[], None]:
    """Run a pipeline again on these drops, whose files are in the archive; raises JunkLeadsError when one fails."""

    def run() -> None:
        assert platform is not None
        failed = []
        with platform.among(len(drops)) as each:
            for drop in drops:
                platform.instance.add_dynamic_partitions("drops", [drop])
                try:
                    each.launch(job, drop=drop, selection=_COUNTS if job == "training_pipeline" else None)
                except JunkLeadsError as error:
                    failed.append(f"{drop}: {error}")
        if failed:
            raise JunkLeadsError("; ".join(failed))

    return run


def _deliveries(platform: "Platform") -> Iterator[Finding]:
    """Delivered files that are not where the ledger has them, or not what was delivered; files it does not know."""
    home, known = platform.home, set()
    for delivery in Ledger(home).deliveries():
        known.add(delivery.path)
        if delivery.status not in ("accepted", "waiting"):
            continue
        name = f"the file of drop {delivery.drop!r} ({delivery.status})"
        if not delivery.path.exists():
            yield Finding(f"{name} is gone from {delivery.path}", "deliver it again, or restore it from a backup")
            continue
        try:
            changed = not delivery.path.name.endswith(MANIFEST) and content_of(delivery.path) != delivery.content
        except DropRefused:
            changed = True
        if changed:
            yield Finding(f"{name} is not what was delivered: {delivery.path}", "deliver it again")
        elif delivery.status == "waiting" and delivery.path.parent == home.handed:
            yield Finding(
                f"{name} waits for a run that was cut off",
                "score or ingest it again",
                _again(platform, [delivery.drop]),
            )
    strange = sorted(path.name for path in home.archive.glob("*") if path not in known)
    if strange:
        yield Finding(
            f"archive/ has files that the ledger does not know: {_names(strange)}", "deliver them, or move them"
        )


def _partitions(platform: "Platform") -> Iterator[Finding]:
    """Accepted drops that are no partition of the graph."""
    known = set(platform.instance.get_dynamic_partitions("drops"))
    missing = [delivery.drop for delivery in _accepted(platform.home) if delivery.drop not in known]
    if missing:
        yield Finding(
            f"the graph has no partition for {_names(missing)}",
            "run `junk-leads doctor --repair`",
            lambda: platform.instance.add_dynamic_partitions("drops", missing),
        )


def _models(platform: "Platform") -> Iterator[Finding]:
    """A transition that was cut off, and versions whose files are not those that were registered."""
    registry = platform.registry
    if not (platform.home.root / "mlflow.db").exists():
        return

    def complete() -> None:
        registry.complete()

    if registry.is_cut_off():
        yield Finding(
            "a promotion was cut off between its writes",
            "run `junk-leads doctor --repair`, or promote again",
            complete,
        )
    for version in registry.versions():
        try:
            registry.load(version.version)
        except JunkLeadsError as error:
            yield Finding(str(error), "roll back, train again, or restore a backup")


def _results(platform: "Platform") -> Iterator[Finding]:
    """Scored drops whose files for people are gone."""
    home = platform.home
    if not home.warehouse.exists():
        return
    with connect(home.warehouse) as con:
        scored, delivered = holds(con, "predictions"), holds(con, "raw_leads")
    gone = [
        drop
        for drop, content in scored.items()
        if delivered.get(drop) == content and not (home.predictions / f"{drop}.csv").exists()
    ]
    if gone:
        do = f"run `junk-leads score {' '.join(gone[:MOST_NAMES])}`"
        yield Finding(f"the scored files of {_names(gone)} are gone from predictions/", do)


def _left_over(platform: "Platform") -> Iterator[Finding]:
    """Parts of files that a killed process left."""
    home, old = platform.home, time.time() - LEFT_SECONDS
    folders = (home.handed, home.predictions, home.reports, home.archive, home.root / "tables")
    left = [path for folder in folders for path in folder.glob("*.part") if path.stat().st_mtime < old]
    if left:

        def delete() -> None:
            for path in left:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

        names = _names([path.name for path in left])
        yield Finding(f"parts of files that were never finished: {names}", "run `junk-leads doctor --repair`", delete)


def _names(names: Sequence[str]) -> str:
    return listed([repr(name) for name in names])
