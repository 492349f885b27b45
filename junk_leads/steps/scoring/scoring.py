"""Scoring: from features to probability, flag, score, grade and reasons, and the files for people.

What lives here: a model as it scores (booster, encoder, settings) and the scored CSV. What does not: where a
model is kept (`registry.py`) and how features are made (`encoding.py`). Scoring never learns.
"""

import csv
import io
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import cycle, repeat, takewhile
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, TypeVar

import duckdb
import numpy as np
import pyarrow as pa

from junk_leads.capacity import memory_limit
from junk_leads.errors import RegistryError
from junk_leads.reference import LeadSchema
from junk_leads.steps.boosting import Booster
from junk_leads.steps.leads.cleaning import normalise
from junk_leads.steps.leads.encoding import Encoder, encode_kinds
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.kinds import ByKind, matrix_of
from junk_leads.steps.learning.calibration import Calibration, correct_base_rate
from junk_leads.steps.learning.grading import grade_of, score_of
from junk_leads.steps.scoring.reasons import contributions, reasons_of
from junk_leads.steps.sql import literal, quoted

Made = TypeVar("Made")
PREDICTED = ("probability", "predicted_flag", "score", "grade", "reasons")
PREDICTED_TYPES = dict(
    zip((*PREDICTED, "model_version"), (pa.float64(), pa.int8(), pa.int8(), *[pa.string()] * 3), strict=True)
)
LEADS_AT_ONCE = 100_000  # of a scored file
KINDS_AT_ONCE = 100_000  # that are predicted and explained
IDENTITY = ("drop", "lead_number")
FORMULA_STARTS = "=+-@\t\r"


@dataclass(frozen=True)
class ScoringModel:
    """A registered version as it scores: what was learned together travels together."""

    version: str
    booster: Booster
    encoder: Encoder
    settings: Mapping[str, Any]

    @property
    def threshold(self) -> float:
        """The probability, with the training's share of genuine leads, from which a lead is predicted genuine."""
        return float(self.settings["threshold"])

    @property
    def grades(self) -> Mapping[str, float]:
        """The least probability, with the training's share of genuine leads, of grades A, B and C."""
        found: Mapping[str, float] = self.settings["grades"]
        return found

    @cached_property
    def conversions(self) -> dict[str, float]:
        """How often leads of each sort apply, as people are told (see `reasons.conversions`)."""
        rates: Mapping[str, float] = self.settings["conversions"]
        return dict(zip(rates, self.tell(np.array(list(rates.values()))).tolist(), strict=True))

    def predict(self, kinds: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, shape (k,), of kinds of leads (k x f, the encoder's features in their order).

        They are as in the training's sample, with its share of genuine leads.
        """
        if not len(kinds):
            return np.zeros(0)
        calibration = Calibration(**self.settings["calibration"])
        return calibration.apply(self.booster.predict(kinds))

    def tell(self, probabilities: np.ndarray) -> np.ndarray:
        """The probabilities that people are told: corrected for the platform's true share, where that is set."""
        return correct_base_rate(probabilities, self.settings["share_of_genuine"], self.settings["true_share"])


def score_features(con: duckdb.DuckDBPyConnection, features: ByKind, model: ScoringModel) -> duckdb.DuckDBPyRelation:
    """Predictions: drop, lead_number, probability, predicted_flag, score, grade, reasons, model_version.

    Raises RegistryError when a lead's features are of another encoder than the model's own. Each kind of lead is
    predicted and explained once, and joined to its leads inside DuckDB, whatever their number; the relation reads TEMP
    tables of `con`, the next call's of the same connection replace them.
    """
    leads = features.leads
    foreign = leads.filter(duckdb.ColumnExpression("encoder_id") != duckdb.ConstantExpression(model.encoder.id))
    found = foreign.select("encoder_id").limit(1).fetchall()
    if found:
        raise RegistryError(
            f"encoded_features are of encoder {found[0][0]}, version {model.version} takes {model.encoder.id} only; "
            f"materialise encoded_features for the champion first"
        )
    _predict_kinds(con, model, features.kinds)
    return con.sql(
        f"SELECT drop, lead_number, {', '.join(PREDICTED_TYPES)} FROM leads JOIN predicted_kinds USING (kind)"
    )


@dataclass(frozen=True)
class _Begun:
    """Kinds that a thread predicts with a version before they are asked for; alone when somebody waits for them."""

    version: str
    kinds: pa.Table
    waited_for: Event
    made: "Future[pa.Table]"


_begun: _Begun | None = None


def predict_ahead(con: duckdb.DuckDBPyConnection, kinds: duckdb.DuckDBPyRelation, model: ScoringModel) -> None:
    """Begin to predict kinds of leads in a thread, for `score_features` to take what it made of the same ones.

    What is done meanwhile, checks above all, leaves a processor idle. Nothing is begun where there is no second one,
    where memory is limited, or for more kinds than are predicted at once.
    """
    global _begun
    _begun = None
    if (os.cpu_count() or 1) < 2 or memory_limit() is not None:
        return
    found = _kinds_from(con, kinds, model, 0)
    if len(found) < KINDS_AT_ONCE:
        waited_for, pool = Event(), ThreadPoolExecutor(1)
        features = matrix_of(found, model.encoder.features)
        made = pool.submit(predict_kinds, features, model, others_work=lambda: not waited_for.is_set())
        pool.shutdown(wait=False)
        _begun = _Begun(model.version, found, waited_for, made)


def _predicted(kinds: pa.Table, model: ScoringModel) -> pa.Table:
    """What is predicted of kinds, and why: what was made of them ahead, if it was of just these."""
    global _begun
    begun, _begun = _begun, None
    if begun is None or begun.version != model.version or not begun.kinds.equals(kinds):
        return predict_kinds(matrix_of(kinds, model.encoder.features), model)
    begun.waited_for.set()
    return begun.made.result()


def _kinds_from(
    con: duckdb.DuckDBPyConnection, kinds: duckdb.DuckDBPyRelation, model: ScoringModel, first: int
) -> pa.Table:
    """The features of the next kinds that are predicted at once, in their order."""
    return con.sql(
        f"SELECT kind, {', '.join(map(quoted, model.encoder.features))} FROM kinds WHERE kind >= ? AND kind < ?",
        params=[first, first + KINDS_AT_ONCE],
    ).to_arrow_table()


def _predict_kinds(con: duckdb.DuckDBPyConnection, model: ScoringModel, kinds: duckdb.DuckDBPyRelation) -> None:
    """Fill `predicted_kinds` and `explained_kinds` with what is predicted of each of these kinds, and why."""
    con.execute(
        "CREATE OR REPLACE TEMP TABLE predicted_kinds (kind BIGINT, probability DOUBLE, predicted_flag TINYINT, "
        "score TINYINT, grade VARCHAR, reasons VARCHAR, model_version VARCHAR)"
    )
    ((last,),) = kinds.aggregate("coalesce(max(kind), 0)").fetchall()
    for first in range(0, last + 1, KINDS_AT_ONCE):
        piece = _kinds_from(con, kinds, model, first)
        told = _predicted(piece, model).add_column(0, "kind", piece["kind"])  # noqa: F841  DuckDB finds it by name
        con.execute(f"INSERT INTO predicted_kinds BY NAME SELECT kind, {', '.join(PREDICTED_TYPES)} FROM told")
        # made of the first piece, which may have no kinds: the columns are the model's
        made = "INSERT INTO explained_kinds BY NAME" if first else "CREATE OR REPLACE TEMP TABLE explained_kinds AS"
        con.execute(f"{made} SELECT * EXCLUDE ({', '.join(PREDICTED)}) FROM told")


def explain_features(con: duckdb.DuckDBPyConnection, features: ByKind) -> ByKind:
    """What spoke for the leads that `score_features` has just predicted, and against them, in log-odds.

    drop, lead_number, model_version, base, each original column, and log_odds, the booster's raw score, which they sum
    to. The relations read TEMP tables of `con`, as that of the predictions does.
    """
    kinds = features.kinds.select("drop", "kind")  # noqa: F841  named in the SQL below
    return ByKind(
        features.leads.select(*IDENTITY, "kind"), con.sql("SELECT * FROM kinds JOIN explained_kinds USING (kind)")
    )


def predict_kinds(
    kinds: np.ndarray, model: ScoringModel, *, others_work: Callable[[], bool] = lambda: False
) -> pa.Table:
    """What is predicted of each of k kinds of leads (k x f), and what spoke for it (`contributions`).

    The columns of PREDICTED_TYPES, then base, the contributions by original column and log_odds.
    """
    probabilities = model.predict(kinds)
    explained = contributions(model.booster, model.encoder, kinds, others_work=others_work)
    columns = {
        "probability": model.tell(probabilities),
        "predicted_flag": (probabilities >= model.threshold).astype(np.int8),
        "score": score_of(probabilities),
        "grade": grade_of(probabilities, model.grades),
        "reasons": reasons_of(explained, model.encoder, model.conversions, kinds),
        "model_version": [model.version] * len(kinds),
        "base": explained.base,
        **{name: explained.values[:, place] for place, name in enumerate(explained.columns)},
        "log_odds": explained.base + explained.values.sum(axis=1),
    }
    return pa.table(
        {name: pa.array(values, PREDICTED_TYPES.get(name, pa.float64())) for name, values in columns.items()}
    )


def score_raw_leads(
    con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, model: ScoringModel, schema: LeadSchema
) -> pa.Table:
    """Predictions for raw leads (drop, lead_number and the typed raw columns), each lead by itself, in their order.

    Makes them by the same steps as the graph, without dropping duplicates, so each row gets one.
    """
    cleaned = normalise(con, leads, schema)
    features = encode_kinds(con, cleaned, group_interactions(con, cleaned), model.encoder)
    return score_features(con, features, model).order("drop, lead_number").to_arrow_table()


def write_scored_file(
    path: Path,
    header: tuple[str, ...],
    delivered: Iterable[pa.RecordBatch],
    predictions: duckdb.DuckDBPyRelation,
    *,
    parquet: bool = False,
    threads: int = 2,
) -> int:
    """Write the scored CSV whole or not at all: the delivered columns, then what was predicted.

    `delivered` comes in batches, in order: lead_number and the columns of `header` as text; one row is written for
    each of `predictions` (drop, lead_number, probability, ... model_version), in order of lead number. Cells that a
    spreadsheet would run as a formula are given a leading apostrophe. With `parquet` the same rows, every cell as
    delivered, are written beside it for programs, under the same name with `.parquet`. Of some `threads` each puts
    rows into CSV, while one more reads the next. Returns the rows written.
    """
    told = [*IDENTITY, *(name for name in predictions.columns if name not in IDENTITY)]
    part, columnar = path.with_suffix(".part"), path.with_suffix(".parquet.part")
    bodies = [path.with_suffix(f".body{number}") for number in range(threads + 1)]
    written = 0
    with ExitStack() as stack:
        for left in (*bodies, part, columnar):
            stack.callback(left.unlink, missing_ok=True)
        file = stack.enter_context(part.open("wb"))
        heading = io.StringIO()
        csv.writer(heading).writerow([*map(inert_cell, header), *told])  # its own line end: \r in a name is quoted
        file.write(heading.getvalue().removesuffix("\r\n").encode() + b"\n")
        predictions = predictions.select(*told)
        schema = predictions.limit(0).to_arrow_table().schema
        tables = stack.enter_context(_Columnar(columnar, header, schema)) if parquet else None
        reading = stack.enter_context(closing(_meanwhile(repeat(partial(next, _joined(delivered), None)), 1)))
        pieces = (_beside(cells, predictions) for cells in takewhile(lambda c: c is not None, reading))
        calls = (partial(_write_rows, rows, body) for rows, body in zip(pieces, cycle(bodies), strict=False))
        for rows, body in stack.enter_context(closing(_meanwhile(calls, threads))):
            with body.open("rb") as more:
                shutil.copyfileobj(more, file)
            if tables is not None:
                tables.write(rows)
            written += len(rows)
        file.close()
        if tables is None:
            path.with_suffix(".parquet").unlink(missing_ok=True)  # it would tell of former predictions
        else:
            tables.close()
            os.replace(columnar, path.with_suffix(".parquet"))
        os.replace(part, path)
    return written


def join_scored_files(paths: Sequence[Path], target: Path, *, parquet: bool = False) -> None:
    """Join scored files of one drop, in their order, whole or not at all; with `parquet` those beside them too."""
    part, columnar = target.with_suffix(".part"), target.with_suffix(".parquet.part")
    try:
        with part.open("wb") as file:
            for number, path in enumerate(paths):
                with path.open("rb") as rows:
                    if number:
                        rows.seek(_heading_bytes(rows))
                    shutil.copyfileobj(rows, file, 1 << 20)
        if parquet:
            _join_parquet([path.with_suffix(".parquet") for path in paths], columnar)
            os.replace(columnar, target.with_suffix(".parquet"))
        else:
            target.with_suffix(".parquet").unlink(missing_ok=True)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
        columnar.unlink(missing_ok=True)


def _heading_bytes(rows: BinaryIO) -> int:
    """Where the first row begins; a delivered name may hold line ends, inside quotes."""
    heading = rows.readline()
    while heading.count(b'"') % 2:
        heading += rows.readline()
    return len(heading)


def _join_parquet(paths: Sequence[Path], target: Path) -> None:
    from pyarrow import parquet

    with parquet.ParquetWriter(target, parquet.read_schema(paths[0]), compression="zstd") as writer:
        for path in paths:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches():
                    writer.write_batch(batch)


def _joined(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches joined to tables of some hundred thousand rows: as many as are well joined and written at once."""
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        kept.append(batch)
        if sum(map(len, kept)) >= LEADS_AT_ONCE:
            yield pa.Table.from_batches(kept)
            kept = []
    if sum(map(len, kept)):
        yield pa.Table.from_batches(kept)


def _beside(cells: pa.Table, predictions: duckdb.DuckDBPyRelation) -> pa.Table:
    """Delivered cells (`d0`, `d1`...) with what is predicted of their leads beside them (`p0`, `p1`...).

    Both are in order of lead numbers; a row for each of the leads that are in both.
    """
    numbers = cells["lead_number"].to_numpy()
    within = f"lead_number BETWEEN {numbers[0]} AND {numbers[-1]}"
    predicted = predictions.filter(within).order("lead_number").to_arrow_table()
    place = np.searchsorted(numbers, predicted["lead_number"].to_numpy())
    there = numbers[place] == predicted["lead_number"].to_numpy()
    delivered, predicted = cells.drop_columns("lead_number").take(place[there]), predicted.filter(there)
    return pa.table(
        {
            **{f"d{n}": column for n, column in enumerate(delivered.columns)},
            **{f"p{n}": column for n, column in enumerate(predicted.columns)},
        }
    )


def _meanwhile(calls: Iterable[Callable[[], Made]], threads: int) -> Generator[Made]:
    """What calls give, in their order; so many threads make the next ones while one is used."""
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[Made]] = deque()
        for call in calls:
            under_way.append(pool.submit(call))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _write_rows(rows: pa.Table, body: Path) -> tuple[pa.Table, Path]:
    """Write rows of the scored CSV in their order, which one thread of DuckDB keeps; returns what it was given."""
    shown = [_inert_sql(name) if name.startswith("d") else name for name in rows.column_names]
    with duckdb.connect() as con:
        con.execute("SET threads = 1")
        con.execute(f"COPY (SELECT {', '.join(shown)} FROM rows) TO {literal(str(body))} (FORMAT csv, HEADER false)")
    return rows, body


class _Columnar:
    """A Parquet file written in pieces, its first columns named as delivered (made unique where they are not)."""

    def __init__(self, path: Path, header: tuple[str, ...], told: pa.Schema) -> None:
        from pyarrow import parquet

        names = [name or f"column_{place}" for place, name in enumerate(header, 1)]
        twice = {name for name in names if names.count(name) > 1} | set(told.names)
        texts = [f"{name}_{place}" if name in twice else name for place, name in enumerate(names, 1)]
        self.schema = pa.schema([*((name, pa.string()) for name in texts), *told])
        self.writer = parquet.ParquetWriter(path, self.schema, compression="zstd")

    def __enter__(self) -> "_Columnar":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, rows: pa.Table) -> None:
        """Add rows: the delivered columns, then what was predicted."""
        self.writer.write_table(rows.rename_columns(self.schema.names).cast(self.schema))

    def close(self) -> None:
        """Finish the file."""
        self.writer.close()


def inert_cell(value: str) -> str:
    """A delivered cell that no spreadsheet takes for a formula."""
    return f"'{value}" if value and value[0] in FORMULA_STARTS else value


def _inert_sql(cell: str) -> str:
    starts = ", ".join(str(ord(start)) for start in FORMULA_STARTS)
    return f"CASE WHEN ord({cell}) IN ({starts}) THEN '''' || {cell} ELSE nullif({cell}, '') END AS {cell}"
