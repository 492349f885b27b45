"""What is done on one shard, wherever that is: the steps of the graph on a part of a drop.

What lives here: functions of a shard or of its parts, each a task of its own that opens its own database, writes a
part and returns what is small: counts, tallies, where the part is. What does not: the steps (`steps/`), and what is
made of the results of all shards (`drops.py`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from junk_leads.engine.parts import Part, path_of_part, read_parts, worker_connection, write_part
from junk_leads.engine.shards import Shard, as_local_file
from junk_leads.engine.tallies import Looks, Tally
from junk_leads.errors import DropRefused
from junk_leads.reference import lead_schema
from junk_leads.steps.leads import accounting
from junk_leads.steps.leads.cleaning import normalise, row_hashes
from junk_leads.steps.leads.counting import count_leads
from junk_leads.steps.leads.encoding import IDENTITY, Encoder, encode_kinds
from junk_leads.steps.leads.interactions import group_interactions
from junk_leads.steps.leads.kinds import kinds_in
from junk_leads.steps.leads.reading import delivered_rows, read_leads
from junk_leads.steps.leads.splitting import count_lines, opened
from junk_leads.steps.scoring.scored_file import write_scored_file
from junk_leads.steps.scoring.scoring import ScoringModel, explain_features, score_features
from junk_leads.steps.watching.codes import Codes, apply_codes

Numbered = tuple[int, Shard]
LooksByFrame = dict[str, Looks]  # what the checks of a table look at, by the name of the frame


@dataclass(frozen=True)
class ReadShard:
    """A shard as it was read: `leads` is its part, numbered from 1; `rejected` as in Reading, by the shard's lines."""

    leads: Part
    rejected: pa.Table
    header: tuple[str, ...]
    ignored: tuple[str, ...]
    labelled: bool
    rows_read: int
    rows_rejected: int
    tallies: dict[str, Tally]


@dataclass(frozen=True)
class MadePart:
    """A part that was made, and the tallies of its frames."""

    part: Part
    tallies: dict[str, Tally]


@dataclass(frozen=True)
class EncodedPart:
    """A part of features, its tallies, and how many of its leads have levels that the encoder does not know."""

    part: Part
    tallies: dict[str, Tally]
    others: dict[str, int]


@dataclass(frozen=True)
class ScoredPart:
    """A part of predictions, its tallies, and the part of the contributions behind them."""

    part: Part
    tallies: dict[str, Tally]
    reasons: Part


def read_shard(numbered: Numbered, *, drop: str, folder: str, looks: LooksByFrame) -> ReadShard:
    """Read a shard and write its leads as a part; raises DropRefused naming the shard."""
    number, shard = numbered
    schema = lead_schema()
    with worker_connection() as con, named(shard), as_local_file(shard) as path:
        reading = read_leads(con, path, schema)
        leads = reading.leads.select(duckdb.ConstantExpression(drop).alias("drop"), duckdb.StarExpression())
        place = path_of_part(folder, number)
        frames = {
            "rows": accounting.narrow_rows(con, reading.leads, schema),
            "interactions": accounting.counted_interactions(con, reading.leads, schema),
        }
        return ReadShard(
            Part(number, place, write_part(con, leads, place)),
            reading.rejected.to_arrow_table(),
            reading.header,
            reading.ignored,
            reading.labelled,
            reading.rows_read,
            reading.rows_rejected,
            _tallies(frames, looks),
        )


def count_data_lines(numbered: Numbered) -> int:
    """The physical lines of a shard below its header."""
    _, shard = numbered
    with as_local_file(shard) as path, opened(path) as delivered:
        lines, last = 0, b"\n"
        for block in delivered.blocks:
            lines, last = lines + count_lines(block), block or last
        return lines + (not last.endswith((b"\n", b"\r")))


def hash_part(raw: Part, *, codes: Codes, folder: str) -> Part:
    """Write the row hashes of a part of raw leads, cleaned, in their order."""
    with worker_connection() as con:
        hashed = row_hashes(con, _cleaned(con, read_parts(con, [raw.path]), codes)).order("row_hash")
        place = path_of_part(folder, raw.shard)
        return Part(raw.shard, place, write_part(con, hashed, place))


def find_meeting(between: tuple[int, int], *, paths: Sequence[str]) -> pa.Array:
    """The lead numbers of all shards whose hashes lie between these, both included, and meet another's."""
    first, last = between
    with worker_connection() as con:
        hashed = read_parts(con, paths).filter(f"row_hash BETWEEN {first}::UBIGINT AND {last}::UBIGINT")  # noqa: F841
        met = con.sql(
            "SELECT lead_number FROM hashed WHERE row_hash IN "
            "(SELECT row_hash FROM hashed GROUP BY row_hash HAVING count(*) > 1)"
        )
        return met.to_arrow_table()["lead_number"].combine_chunks()


def take_cleaned(part_and_numbers: tuple[Part, pa.Array], *, codes: Codes) -> pa.Table:
    """The leads of these numbers in a part of raw leads, cleaned."""
    raw, numbers = part_and_numbers
    with worker_connection() as con:
        wanted = pa.table({"lead_number": numbers})  # noqa: F841  named in the SQL below
        rows = read_parts(con, [raw.path])  # noqa: F841  named in the SQL below
        leads = con.sql("SELECT * FROM rows SEMI JOIN wanted USING (lead_number)")
        return _cleaned(con, leads, codes).to_arrow_table()


def clean_part(part_and_repeats: tuple[Part, pa.Array], *, codes: Codes, folder: str, looks: LooksByFrame) -> MadePart:
    """Write the cleaned leads of a part of raw leads, but for the leads of these numbers, which are repeats."""
    raw, repeats = part_and_repeats
    schema = lead_schema()
    with worker_connection() as con:
        repeated = pa.table({"lead_number": repeats})  # noqa: F841  named in the SQL below
        rows = read_parts(con, [raw.path])
        kept = con.sql("SELECT * FROM rows ANTI JOIN repeated USING (lead_number)") if len(repeats) else rows
        cleaned = _cleaned(con, kept, codes)  # noqa: F841  named in the SQL below
        con.execute("CREATE TEMP TABLE cleaned_rows AS SELECT * FROM cleaned ORDER BY lead_number")
        table = con.table("cleaned_rows")
        frames = {
            "rows": accounting.narrow_rows(con, table, schema),
            "interactions": accounting.counted_interactions(con, table, schema),
        }
        return _made(con, table, raw.shard, folder, frames, looks)


def group_part(cleaned: Part, *, folder: str, looks: LooksByFrame) -> MadePart:
    """Write the interaction groups of a part of cleaned leads."""
    with worker_connection() as con:
        leads = read_parts(con, [cleaned.path])
        grouped = group_interactions(con, leads)  # noqa: F841  named in the SQL below
        con.execute("CREATE TEMP TABLE grouped_rows AS SELECT * FROM grouped")
        groups = con.table("grouped_rows")
        frames = {"rows": groups, "differences": accounting.sum_differences(con, groups, leads, lead_schema())}
        return _made(con, groups, cleaned.shard, folder, frames, looks)


def count_part(cleaned_and_groups: tuple[Part, Part]) -> pa.Table:
    """The counts of the labelled leads in a part, as `lead_counts` has them."""
    with worker_connection() as con:
        leads, groups = (read_parts(con, [part.path]) for part in cleaned_and_groups)
        return count_leads(con, leads, groups).to_arrow_table()


def encode_part(
    cleaned_and_groups: tuple[Part, Part], *, encoder: Encoder, folder: str, looks: LooksByFrame
) -> EncodedPart:
    """Write the features of a part of cleaned leads."""
    with worker_connection() as con:
        leads, groups = (read_parts(con, [part.path]) for part in cleaned_and_groups)
        features = encode_kinds(con, leads, groups, encoder)
        encoded = features.rows(con)  # noqa: F841  named in the SQL below
        con.execute("CREATE TEMP TABLE encoded_rows AS SELECT * FROM encoded ORDER BY lead_number")
        rows = con.table("encoded_rows")
        frames = {"rows": accounting.block_sums(con, features, encoder)}
        made = _made(con, rows, cleaned_and_groups[0].shard, folder, frames, looks)
        return EncodedPart(made.part, made.tallies, accounting.count_others(rows, encoder))


def score_part(
    encoded: Part, *, model: ScoringModel, folder: str, reasons_folder: str, looks: LooksByFrame
) -> ScoredPart:
    """Write what a model predicts of a part of features, and what spoke for it."""
    with worker_connection() as con:
        features = kinds_in(con, read_parts(con, [encoded.path]), IDENTITY)
        scored = score_features(con, features, model)  # noqa: F841  named in the SQL below
        con.execute("CREATE TEMP TABLE scored_rows AS SELECT * FROM scored ORDER BY lead_number")
        rows, place = con.table("scored_rows"), path_of_part(reasons_folder, encoded.shard)
        made = _made(con, rows, encoded.shard, folder, {"rows": rows}, looks)
        explained = write_part(con, explain_features(con, features).rows(con).order("lead_number"), place)
        return ScoredPart(made.part, made.tallies, Part(encoded.shard, place, explained))


def write_scored_shard(
    shard_and_part: tuple[Shard, Part], *, header: tuple[str, ...], warning: str, folder: str, parquet: bool
) -> str:
    """Write the scored file of a shard, as that of a drop is; returns its path."""
    shard, predictions = shard_and_part
    path = Path(folder) / f"part-{predictions.shard:05}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with worker_connection() as con:
        told = read_parts(con, [predictions.path])
        if warning:
            told = told.select(duckdb.StarExpression(), duckdb.ConstantExpression(warning).alias("warning"))
        con.execute("CREATE TEMP TABLE told_rows AS SELECT * FROM told")
        delivered = delivered_of_shard(shard, predictions.first_lead)
        write_scored_file(path, header, delivered, con.table("told_rows"), parquet=parquet, threads=1)
    return str(path)


def delivered_of_shard(shard: Shard, first_lead: int) -> Iterator[pa.RecordBatch]:
    """Every delivered cell of a shard as raw text, as `delivered_rows` gives those of a file; leads count from this."""
    with named(shard), as_local_file(shard) as local:
        for batch in delivered_rows(local):
            yield batch.set_column(0, "lead_number", pc.add(batch["lead_number"], first_lead))


def _cleaned(con: duckdb.DuckDBPyConnection, leads: duckdb.DuckDBPyRelation, codes: Codes) -> duckdb.DuckDBPyRelation:
    return normalise(con, apply_codes(con, leads, codes), lead_schema())


def _made(
    con: duckdb.DuckDBPyConnection,
    rows: duckdb.DuckDBPyRelation,
    shard: int,
    folder: str,
    frames: dict[str, duckdb.DuckDBPyRelation],
    looks: LooksByFrame,
) -> MadePart:
    place = path_of_part(folder, shard)
    return MadePart(Part(shard, place, write_part(con, rows, place)), _tallies(frames, looks))


def _tallies(frames: dict[str, duckdb.DuckDBPyRelation], looks: LooksByFrame) -> dict[str, Tally]:
    return {name: Tally.of(frame, looks.get(name, {})) for name, frame in frames.items()}


@contextmanager
def named(shard: Shard) -> Iterator[None]:
    """What refuses a shard refuses its drop, and names the shard."""
    try:
        yield
    except DropRefused as refused:
        what, where = f"shard {shard.name!r}: {refused.what}", f"{shard.name}, {refused.where}"
        raise DropRefused(what, where=where, expected=refused.expected, do=refused.do) from refused
