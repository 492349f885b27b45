"""Launching the jobs in this process: what the command line, the demo and the tests share.

What lives here: one run of a job with its failure told in one line, and the account of drops afterwards. What does
not: parsing and printing (`cli/`), the jobs themselves (`defs/jobs.py`).
"""

import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from junk_leads.capacity import failures_told, refuse_without_room
from junk_leads.defs.after_runs import after_runs, renew_history
from junk_leads.defs.checks import found_by
from junk_leads.defs.jobs import EXPERIMENT_ASSETS, TRAINING_ASSETS
from junk_leads.defs.labelled_drops import to_train
from junk_leads.defs.recovery import HELD_FROM_START, fail_dead_runs, hold
from junk_leads.defs.resources import OfHome
from junk_leads.engine.cluster import executor_of
from junk_leads.engine.shards import MANIFEST, is_sharded
from junk_leads.errors import DropUnknown, JunkLeadsError
from junk_leads.home import SCHEDULER_VARIABLE, Home
from junk_leads.running.dagster_store import kept_open
from junk_leads.running.doctor import first_look
from junk_leads.running.instance import opened_instance
from junk_leads.steps.boosting import refuse_unknown_parameters
from junk_leads.steps.leads.generating import write_leads
from junk_leads.steps.learning.experimenting import learners
from junk_leads.steps.learning.gating import Verdict
from junk_leads.steps.pages.drop_report import index_page
from junk_leads.steps.pages.profiling import refuse_without_profiler, write_profile
from junk_leads.steps.watching.codes import Proposal
from junk_leads.stores import promotion
from junk_leads.stores.drops.code_maps import CodeMap, write_codes
from junk_leads.stores.drops.labelled import labelled_drops
from junk_leads.stores.drops.reporting import lead_facts, scored_drops
from junk_leads.stores.drops.trusting import propose_codes, warnings_of
from junk_leads.stores.ledger import Delivery, hand_over, hand_over_shards
from junk_leads.stores.making import write_whole
from junk_leads.stores.mlflow_store import mlflow_quiet
from junk_leads.stores.registry import PRODUCTION
from junk_leads.stores.warehouse import connect, has_table, rows_of

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Platform(OfHome):
    """A home with its definitions and Dagster instance, ready to launch jobs."""

    home: Home
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    progress: Progress
    follows: bool = True  # whether each run is told of, and what follows it done at once

    @contextmanager
    def among(self, drops: int) -> Iterator["Platform"]:
        """The platform for a number of drops: the history, which is of all drops, is renewed once, after the last."""
        if drops < 2:
            yield self
            return
        try:
            yield replace(self, follows=False)
        finally:
            with self._told_if_not_renewed():
                renew_history(self.home, self.instance)

    @failures_told()
    def launch(
        self,
        job: str,
        *,
        drop: str | None = None,
        tags: Mapping[str, str] | None = None,
        ops: Mapping[str, Any] | None = None,
        selection: Sequence[dg.AssetKey] | None = None,
    ) -> None:
        """Run a job, or a selection of its assets; raises JunkLeadsError with the first failed step's line."""
        config: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        if ops:
            config["ops"] = dict(ops)
        if self.follows:
            self.progress(f"{job}{f' of {drop}' if drop else ''}")
        with hold(self.home.running_lock), mlflow_quiet(), signals_noted() as signals:
            result = self.definitions.resolve_job_def(job).execute_in_process(
                instance=self.instance,
                partition_key=drop,
                tags={**HELD_FROM_START, **(tags or {})},
                asset_selection=selection,
                run_config=config,
                raise_on_error=False,
            )
        if self.follows or not result.success:
            with self._told_if_not_renewed():
                after_runs(self.home, self.instance, [result.run_id], failed=not result.success)
        if {signal.SIGINT, signal.SIGTERM} & set(signals):
            raise KeyboardInterrupt
        if not result.success:
            raise JunkLeadsError(failure_line(result.all_events, result.run_id))
        for check in result.get_asset_check_evaluations():
            if not check.passed:
                where = f"{check.asset_key.to_user_string()}, {check.check_name}"
                self.progress(f"a check warns ({where}): {found_by(check)}; expected: {_expected(check)}")

    @contextmanager
    def _told_if_not_renewed(self) -> Iterator[None]:
        try:
            with failures_told():
                yield
        except JunkLeadsError as error:  # the run is done: what follows it follows the next one
            self.progress(f"the history was not renewed ({error})")

    def _hand_over(self, asked: str | Path, *, scored: bool) -> Delivery:
        """Hand a file over, or the shards that a folder, a pattern or an address names."""
        if is_sharded(str(asked)):
            with executor_of(os.environ.get(SCHEDULER_VARIABLE, "")) as executor:
                return hand_over_shards(self.home, self.ledger, str(asked), executor)
        file = Path(asked)
        if file.is_file():
            refuse_without_room(self.home.root, file, scored=scored)
        return hand_over(self.home, self.ledger, file)

    def process(self, file: str | Path, job: str, ops: Mapping[str, Any] | None = None) -> Delivery:
        """Hand a file over and run a job on its drop; returns its delivery. Raises JunkLeadsError.

        A folder, a pattern or an address (s3://...) is one drop in shards.
        """
        delivery = self._hand_over(file, scored=job == "inference_pipeline")
        self.instance.add_dynamic_partitions("drops", [delivery.drop])
        try:
            self.launch(job, drop=delivery.drop, ops=ops)
        except JunkLeadsError as error:
            raise JunkLeadsError(
                f"{delivery.file_name.removesuffix(MANIFEST)}: {self._line_of_failure(delivery.drop, str(error))}"
            ) from error
        for known in self.rows(
            "SELECT * FROM known_leads WHERE drop = ? AND known_leads > 0", "known_leads", [delivery.drop]
        ):
            self.progress(
                f"{known['known_leads']:,} of the leads of {delivery.drop} were delivered in other drops too, "
                f"{known['known_labelled_leads']:,} of them labelled; all are kept"
            )
        return self.ledger.newest(delivery.drop)

    def _line_of_failure(self, drop: str, line: str) -> str:
        """The line that refuses a drop, with what to do and where its file is; any other failure's as it is."""
        delivery = self.ledger.newest(drop)
        if delivery.status != "refused":
            return line
        told = json.loads((delivery.path.parent / "reason.json").read_text(encoding="utf-8"))
        what_to_do = "" if told["do"] in line else f"; {told['do']}"
        return f"{line}{what_to_do} (the file and its reason are in {delivery.path.parent})"

    def ingest(self, file: str | Path) -> dict[str, Any]:
        """Run the data pipeline on a file; returns the account of its drop. Raises JunkLeadsError."""
        return self.account(self.process(file, "data_pipeline").drop)

    def score(
        self,
        file: str | Path,
        out: Path | None = None,
        *,
        parquet: bool = False,
        accept_drift: str | None = None,
        call_list: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run the inference pipeline on a file, or again on an accepted drop that is named instead of one.

        Returns the drop's figures and where its results are; they are copied into the folder `out` as well. `parquet`
        asks for a Parquet file beside the CSV. With a reason in `accept_drift` a drop that cannot be trusted is scored
        all the same. `call_list` is which leads are on the call list (`top`, `grades`). Raises JunkLeadsError.
        """
        ops: dict[str, Any] = {"predictions": {"config": {"parquet": True}}} if parquet else {}
        if call_list:
            ops["drop_report"] = {"config": dict(call_list)}
        if accept_drift:
            ops["encoded_features"] = {"config": {"accept_drift": True, "why": accept_drift}}
        drop = self._accepted(file)
        if drop is None:
            drop = self.process(file, "inference_pipeline", ops).drop
        else:
            self.launch("inference_pipeline", drop=drop, ops=ops)
        with connect(self.home.warehouse) as con:
            (figures,) = _dictionaries(con, "SELECT * FROM prediction_summary WHERE drop = ?", [drop])
            warnings = warnings_of(con, drop)
        predictions, reports = self.home.predictions, self.home.reports
        files = {
            "predictions": predictions / f"{drop}.csv",
            "summary": predictions / f"{drop}.summary.txt",
            "call_list": predictions / f"{drop}.call_list.xlsx",
            "report": reports / f"{drop}.html",
            **({"parquet": predictions / f"{drop}.parquet"} if parquet else {}),
        }
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            for path in (*files.values(), predictions / f"{drop}.call_list.csv"):
                shutil.copyfile(path, out / path.name)
            files = {name: out / path.name for name, path in files.items()}
        return {
            "drop": drop,
            "rows": figures["lead_count"],
            "share_of_ones": figures["share_of_ones"],
            "model_version": figures["model_version"],
            **{name: str(path) for name, path in files.items()},
            "warnings": warnings,
        }

    def report(self, drop: str) -> Path:
        """Write the call list and the report of a scored drop again; returns the report's page."""
        self.ledger.newest(drop)
        with connect(self.home.warehouse) as con:
            rows_of(con, "prediction_summary", [drop])
        self.launch("inference_pipeline", drop=drop, selection=[dg.AssetKey("drop_report")])
        return self.home.reports / f"{drop}.html"

    def report_index(self) -> tuple[list[dict[str, Any]], Path]:
        """Write `reports/index.html`, over the reports of all scored drops; returns its rows, newest first, and it."""
        rows: list[dict[str, Any]] = []
        if self.home.warehouse.exists():
            with connect(self.home.warehouse) as con:
                rows = scored_drops(con)
        for row in rows:
            page = f"{row['drop']}.html"
            row["page"] = page if (self.home.reports / page).exists() else ""
        index = self.home.reports / "index.html"
        write_whole(index, index_page(rows))
        return rows, index

    def explain(self, drop: str, lead_number: int) -> dict[str, Any]:
        """What there is to tell of one scored lead (see `lead_facts`)."""
        self.ledger.newest(drop)
        with connect(self.home.warehouse) as con:
            return lead_facts(con, self.registry, drop, lead_number)

    def _accepted(self, asked: str | Path) -> str | None:
        """The accepted drop that is meant when there is no such file; None when there is, or no such drop."""
        file = Path(asked)
        if file.exists() or file.is_symlink() or is_sharded(str(asked)):
            return None
        try:
            newest = self.ledger.newest(str(file))
        except DropUnknown:
            return None
        if newest.status != "accepted":
            raise JunkLeadsError(
                f"the newest delivery of drop {newest.drop!r} is {newest.status}, not accepted; name a file to score"
            )
        return newest.drop

    def propose_codes(self, drop: str) -> tuple[Proposal, Path | None]:
        """The codes of an accepted drop that look renamed, and the CSV to review below `reports/`, if there are any."""
        self.ledger.newest(drop)
        with connect(self.home.warehouse) as con:
            proposal = propose_codes(con, self.registry, drop)
        path = self.home.reports / f"{drop}.codes.csv"
        if not proposal.columns:
            path.unlink(missing_ok=True)
            return proposal, None
        write_codes(path, proposal)
        return proposal, path

    def accept_codes(
        self, drop: str, *, map_file: Path | None = None, source: str = "", by: str = "", why: str = ""
    ) -> CodeMap:
        """Accept a code map for a drop; returns it. Raises JunkLeadsError."""
        given = str(map_file.absolute()) if map_file else ""
        config = {"action": "ACCEPT", "drop": drop, "map_file": given, "source": source, "by": by, "why": why}
        self.launch("accept_codes", ops={"code_maps": {"config": config}})
        return self.code_maps.all()[-1]

    def undo_codes(self, drop: str, *, by: str = "") -> CodeMap:
        """Take back the code map that holds for a drop; returns it. Raises JunkLeadsError."""
        file_name = self.ledger.newest(drop).file_name
        held = self.code_maps.holding(drop, file_name)
        self.launch("accept_codes", ops={"code_maps": {"config": {"action": "UNDO", "drop": drop, "by": by}}})
        assert held is not None
        return held

    def demonstrate(self, rows: int) -> dict[str, Any]:
        """The whole way once on generated leads, `rows` of them labelled; what is there already is not made again."""
        sample = self.home.root / "sample"
        sample.mkdir(exist_ok=True)
        history, new = sample / "sample_history.csv", sample / "sample_new.csv"
        for path, count, seed in ((history, rows, 1), (new, rows // 10, 2)):
            if not path.exists():
                self.progress(f"generating {path.name}")
                write_leads(path, count, seed=seed, labelled=path is history)
        ingested, version = self.ingest(history), self.registry.champion_version_or_none()
        trained = version is None
        if version is None:
            version = str(self.train({})["model_version"])
            self.promote(version, PRODUCTION, why="demo")
        auc = self.registry.version(version).metrics["random_auc"]
        scored = self.score(new)
        return {"ingested": ingested, "version": version, "trained": trained, "auc": auc, "scored": scored}

    def train(self, overrides: Mapping[str, Any], *, tuned: bool = False) -> dict[str, Any]:
        """Train on all accepted labelled drops; returns the row of `lightgbm_model`.

        When `tuned`, with the parameters of the last experiment's best LightGBM, over which `overrides` go.
        """
        if tuned:
            title, found = self.tuned()
            self.progress(f"with the parameters of: {title}")
            lightgbm = {**found["lightgbm"], **overrides.get("lightgbm", {})}
            overrides = {**found, **overrides, "lightgbm": lightgbm}
        refuse_unknown_parameters(overrides.get("lightgbm", {}))  # before anything is encoded
        self._launch_on_labelled("training_pipeline", TRAINING_ASSETS, overrides)
        return self.rows("SELECT * FROM lightgbm_model")[0]

    def experiment(self, overrides: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Compare learners on all accepted labelled drops; returns the rows of `experiment_leaderboard`."""
        learners(overrides.get("learners", ()))  # a name that there is not is refused before anything is encoded
        self._launch_on_labelled("experiment", EXPERIMENT_ASSETS, overrides)
        return self._leaderboard()

    def tuned(self) -> tuple[str, dict[str, Any]]:
        """The best LightGBM of the last leaderboard: its title, and its parameters as `train` takes them.

        Raises JunkLeadsError when there is no leaderboard yet, or none with a LightGBM.
        """
        rows = self._leaderboard()
        if not rows:
            raise JunkLeadsError("there is no leaderboard yet; run `junk-leads experiment` first")
        best = next((row for row in rows if row["library"] == "lightgbm"), None)
        if best is None:
            raise JunkLeadsError("the last leaderboard has no LightGBM; run `junk-leads experiment` with all learners")
        return best["title"], best["parameters"]

    def _leaderboard(self) -> list[dict[str, Any]]:
        rows = self.rows("SELECT * FROM experiment_leaderboard ORDER BY rank", "experiment_leaderboard")
        return [{**row, "parameters": json.loads(row["parameters"])} for row in rows]

    def _launch_on_labelled(self, job: str, assets: Sequence[str], overrides: Mapping[str, Any]) -> None:
        with connect(self.home.warehouse) as con:
            if not labelled_drops(con):
                raise JunkLeadsError(
                    "there are no labelled drops to train on; ingest a CSV that has app_complete_flag (at least "
                    "1,000 leads with 120 of each class)"
                )
            selection, tags = to_train(self.instance, con, assets)
        ops = {assets[-1]: {"config": dict(overrides)}} if overrides else None
        self.launch(job, tags=tags, ops=ops, selection=selection)

    def promote(self, version: str, to: str, *, why: str = "", force: bool = False) -> Verdict | None:
        """Move a version to a stage, into Production through the gate; returns the gate's verdict if it was asked."""
        if to != PRODUCTION:
            self.registry.promote(version, to, why=why)
            return None
        with connect(self.home.warehouse) as con:
            return promotion.promote(con, self.registry, version, why=why, force=force)

    def compare(self, version: str, other: str) -> tuple[str, Path, Verdict]:
        """Compare two versions; returns the page, the folder that it and its plots are in, and the gate's verdict."""
        versions = (self.registry.version(version), self.registry.version(other))
        with connect(self.home.warehouse) as con:
            comparison = promotion.compare(con, self.registry, version, other)
        verdict = comparison.verdict()
        text = promotion.compared(self.registry, versions, verdict)
        folder = self.home.reports / f"versions-{version}-and-{other}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparison.md").write_text(text, encoding="utf-8")
        for name, png in promotion.plots(comparison, (version, other)).items():
            (folder / name).write_bytes(png)
        return text, folder, verdict

    def evaluate(self, roll_back_below: float | None = None) -> dict[str, Any]:
        """Compare predictions with the labels that came later; returns the advice, and each version's AUC."""
        ops = {"outcomes": {"config": {"roll_back_below": roll_back_below}}} if roll_back_below is not None else None
        self.launch("evaluation", ops=ops)
        event = self.instance.get_latest_materialization_event(dg.AssetKey("outcomes"))
        assert event is not None
        assert event.asset_materialization is not None
        return {name: found.value for name, found in event.asset_materialization.metadata.items()}

    def profile(self, drop: str) -> Path:
        """Write the data profile of an accepted drop's raw leads below `reports/`; returns the page.

        Raises JunkLeadsError without the extra `profile`, DropUnknown for a drop that was not accepted.
        """
        refuse_without_profiler()
        page = self.home.reports / f"{drop}.profile.html"
        with connect(self.home.warehouse) as con:
            leads = rows_of(con, "raw_leads", [drop]).df()
        self.progress(f"profile of {drop}, {len(leads):,} leads")
        write_profile(leads, f"Raw leads of {drop}", page)
        link = {"profile": dg.MetadataValue.url(page.as_uri())}
        self.instance.report_runless_asset_event(dg.AssetObservation("raw_leads", partition=drop, metadata=link))
        return page

    def account(self, drop: str) -> dict[str, Any]:
        """What became of a drop's rows: read, kept, duplicates, rejected."""
        rows = self.rows(
            "SELECT drop, rows_read, rows_rejected, labelled, "
            "(SELECT row_count FROM table_drops AS h WHERE h.table_name = 'cleaned_leads' AND h.drop = d.drop) AS kept "
            "FROM delivered_drops d WHERE drop = ?",
            "cleaned_leads",
            [drop],
        )
        row = rows[0]
        return {
            "drop": drop,
            "rows_read": row["rows_read"],
            "kept": row["kept"],
            "duplicates": row["rows_read"] - row["rows_rejected"] - row["kept"],
            "rejected": row["rows_rejected"],
            "labelled": row["labelled"],
        }

    def rows(self, sql: str, table: str | None = None, parameters: Iterable[Any] = ()) -> list[dict[str, Any]]:
        """Rows of the warehouse as dictionaries; none when `table` is not there yet."""
        with connect(self.home.warehouse) as con:
            if table and not has_table(con, table):
                return []
            return _dictionaries(con, sql, parameters)


def _dictionaries(con: duckdb.DuckDBPyConnection, sql: str, parameters: Iterable[Any]) -> list[dict[str, Any]]:
    found = con.execute(sql, list(parameters))
    names = [column[0] for column in found.description or []]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """The signals that came meanwhile, told in the end, whatever was made of them.

    Dagster and DuckDB make a failure of a step of an interrupt that falls into it. Dagster also leaves SIGTERM as
    SIGINT is, which a script's background job ignores.
    """
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # no other hears of signals
        yield noted
        return
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        former = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        ended_by = signal.getsignal(signal.SIGTERM)
        try:
            yield noted
        finally:
            signal.set_wakeup_fd(former)
            signal.signal(signal.SIGTERM, ended_by or signal.SIG_DFL)
            with suppress(BlockingIOError):
                noted.extend(reading.recv(4096))


@contextmanager
def platform(home: Home, progress: Progress = lambda line: None) -> Iterator[Platform]:
    """The platform of a home, its folders and instance put in place."""
    from junk_leads.definitions import build_defs

    home.prepare()
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    with failures_told(), opened_instance(home) as instance, kept_open():
        dead = fail_dead_runs(instance, home)
        for run_id in dead:
            progress(f"run {run_id} had ended with its process and is marked as failed")
        if dead:
            after_runs(home, instance, dead, failed=True)
        for finding in first_look(home):
            progress(f"something is wrong: {finding.what}; {finding.do}")
        yield Platform(home, build_defs(home), instance, progress)


def _expected(check: dg.AssetCheckEvaluation) -> str:
    expected = check.metadata.get("expected")
    return str(expected.value) if expected else "it to pass"


def failure_line(events: Iterable[dg.DagsterEvent], run_id: str) -> str:
    """The first failed step's reason in one line, without a traceback.

    An expected error tells itself; of others the line names the step, the error's kind and the run to look at.
    """
    for event in events:
        if not event.is_step_failure:
            continue
        failure = event.step_failure_data
        if failure.user_failure_data is not None and failure.user_failure_data.description:
            return failure.user_failure_data.description
        error = failure.error
        while error is not None:
            if error.cls_name in _EXPECTED:
                return error.message.split(": ", 1)[-1].strip()
            cause = error.cause or error.context
            if cause is None:
                first = error.message.strip().splitlines()[0][:300]
                return f"step {event.step_key} failed ({first}); look at run {run_id} in the UI"
            error = cause
    return f"run {run_id} failed; look at it in the UI"


def _kinds(kind: type[JunkLeadsError]) -> Iterator[str]:
    yield kind.__name__
    for child in kind.__subclasses__():
        yield from _kinds(child)


_EXPECTED = frozenset(_kinds(JunkLeadsError))
