"""A drop in shards through the steps: each step on every shard, and its results combined.

What lives here: for each table of the graph the tasks that make its parts, and what only all shards together can tell:
numbers of leads and lines, equal leads, counts that add up. What does not: the tasks (`on_shards.py`), where they are
done (`executors.py`) and where it is noted which parts a table has (`stores/warehouse.py`).
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from junk_leads.engine import on_shards
from junk_leads.engine.executors import Executor
from junk_leads.engine.on_shards import LooksByFrame, ReadShard
from junk_leads.engine.parts import Part, number_part
from junk_leads.engine.shards import Shard
from junk_leads.engine.tallies import Tally, add_up
from junk_leads.errors import DropRefused
from junk_leads.steps.leads.cleaning import repeated_leads
from junk_leads.steps.leads.counting import add_up_counts
from junk_leads.steps.leads.encoding import Encoder
from junk_leads.steps.leads.reading import REJECTION
from junk_leads.steps.scoring.scored_file import join_scored_files
from junk_leads.steps.scoring.scoring import ScoringModel
from junk_leads.steps.watching.codes import Codes

MOST_RANGES = 64  # of hashes, each of which is one task
HASHES = 1 << 64


@dataclass(frozen=True)
class MadeTable:
    """A table of a drop in parts, and the tallies that its checks look at."""

    parts: list[Part]
    tallies: dict[str, Tally]

    @property
    def rows(self) -> int:
        """How many rows all parts have."""
        return sum(part.rows for part in self.parts)


@dataclass(frozen=True)
class ReadDrop:
    """A drop as its shards were read: what Reading says of a file, its leads in parts."""

    table: MadeTable
    rejected: duckdb.DuckDBPyRelation
    header: tuple[str, ...]
    ignored: tuple[str, ...]
    labelled: bool
    rows_read: int
    rows_rejected: int


def read_drop(
    con: duckdb.DuckDBPyConnection,
    executor: Executor,
    shards: Sequence[Shard],
    *,
    drop: str,
    folder: str,
    looks: LooksByFrame,
) -> ReadDrop:
    """Read every shard; leads and lines are numbered as in one file of all, the header of the first above them.

    Raises DropRefused, naming the shard, when one is refused or has another header than the first.
    """
    numbered = list(enumerate(shards))
    read = executor.map(partial(on_shards.read_shard, drop=drop, folder=folder, looks=looks), numbered)
    first = read[0]
    for shard, other in zip(shards, read, strict=True):
        if other.header != first.header:
            raise DropRefused(
                f"shard {shard.name!r} has another header than {shards[0].name!r} ({_difference(first, other)})",
                where=f"{shard.name}, line 1",
                expected="the same columns in the same order in every shard",
                do="deliver shards of one export",
            )
    before = [0, *accumulate(shard.rows_read for shard in read)]
    parts = [number_part(shard.leads, folder, before[at]) for at, shard in enumerate(read)]
    lines = [0] * len(read)
    if any(shard.rows_rejected for shard in read[1:]):
        lines = [0, *accumulate(executor.map(on_shards.count_data_lines, numbered[:-1]))]
    return ReadDrop(
        MadeTable(parts, _added_up(con, [shard.tallies for shard in read], looks)),
        con.from_arrow(pa.concat_tables([_renumbered(shard, before[at], lines[at]) for at, shard in enumerate(read)])),
        first.header,
        first.ignored,
        first.labelled,
        before[-1],
        sum(shard.rows_rejected for shard in read),
    )


def clean_drop(
    con: duckdb.DuckDBPyConnection,
    executor: Executor,
    raw: Sequence[Part],
    *,
    codes: Codes,
    folder: str,
    looks: LooksByFrame,
) -> tuple[MadeTable, int]:
    """Clean every part; of leads that are equal, in whichever shards they are, the first stays. Also the repeats."""
    repeats = _repeats(con, executor, raw, codes, folder)
    work = partial(on_shards.clean_part, codes=codes, folder=folder, looks=looks)
    made = executor.map(work, list(zip(raw, repeats, strict=True)))
    table = MadeTable([one.part for one in made], _added_up(con, [one.tallies for one in made], looks))
    return table, sum(map(len, repeats))


def group_drop(
    con: duckdb.DuckDBPyConnection, executor: Executor, cleaned: Sequence[Part], *, folder: str, looks: LooksByFrame
) -> MadeTable:
    """Sum the interactions of every part in groups."""
    made = executor.map(partial(on_shards.group_part, folder=folder, looks=looks), list(cleaned))
    return MadeTable([one.part for one in made], _added_up(con, [one.tallies for one in made], looks))


def count_drop(
    con: duckdb.DuckDBPyConnection, executor: Executor, cleaned: Sequence[Part], groups: Sequence[Part]
) -> duckdb.DuckDBPyRelation:
    """The counts of a drop's labelled leads, those of its parts added up."""
    counted = pa.concat_tables(executor.map(on_shards.count_part, _paired(cleaned, groups)))
    return add_up_counts(con, con.from_arrow(counted))


def encode_drop(
    con: duckdb.DuckDBPyConnection,
    executor: Executor,
    cleaned: Sequence[Part],
    groups: Sequence[Part],
    encoder: Encoder,
    *,
    folder: str,
    looks: LooksByFrame,
) -> tuple[MadeTable, dict[str, int]]:
    """Encode every part; also how many leads have a level that the encoder does not know, by column."""
    work = partial(on_shards.encode_part, encoder=encoder, folder=folder, looks=looks)
    made = executor.map(work, _paired(cleaned, groups))
    others = {column: sum(one.others[column] for one in made) for column in encoder.levels}
    return MadeTable([one.part for one in made], _added_up(con, [one.tallies for one in made], looks)), others


def score_drop(
    con: duckdb.DuckDBPyConnection,
    executor: Executor,
    encoded: Sequence[Part],
    model: ScoringModel,
    *,
    folder: str,
    reasons_folder: str,
    looks: LooksByFrame,
) -> tuple[MadeTable, MadeTable]:
    """Predict every part; also what spoke for the leads, and against them."""
    work = partial(on_shards.score_part, model=model, folder=folder, reasons_folder=reasons_folder, looks=looks)
    made = executor.map(work, list(encoded))
    scored = MadeTable([one.part for one in made], _added_up(con, [one.tallies for one in made], looks))
    return scored, MadeTable([one.reasons for one in made], {})


def write_scored_drop(
    executor: Executor,
    shards: Sequence[Shard],
    predictions: Sequence[Part],
    raw: Sequence[Part],
    target: Path,
    *,
    header: tuple[str, ...],
    warning: str,
    folder: str,
    parquet: bool,
) -> None:
    """Write the scored files of all shards, and join them to that of the drop."""
    first_leads = {part.shard: part.first_lead for part in raw}
    told = [replace(part, first_lead=first_leads[part.shard]) for part in predictions]
    write = partial(on_shards.write_scored_shard, header=header, warning=warning, folder=folder, parquet=parquet)
    try:
        written = executor.map(write, [(shards[part.shard], part) for part in told])
        join_scored_files([Path(path) for path in written], target, parquet=parquet)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def delivered_of_shards(shards: Sequence[Shard], raw: Sequence[Part]) -> Iterator[pa.RecordBatch]:
    """Every delivered cell of a drop in shards as raw text, as `delivered_rows` gives those of a file, here."""
    for part in raw:
        yield from on_shards.delivered_of_shard(shards[part.shard], part.first_lead)


def _paired(cleaned: Sequence[Part], groups: Sequence[Part]) -> list[tuple[Part, Part]]:
    of_shard = {part.shard: part for part in groups}
    return [(part, of_shard[part.shard]) for part in cleaned]


def _added_up(
    con: duckdb.DuckDBPyConnection, tallies: Sequence[dict[str, Tally]], looks: LooksByFrame
) -> dict[str, Tally]:
    return {name: add_up(con, [each[name] for each in tallies], looks.get(name, {})) for name in tallies[0]}


def _renumbered(read: ReadShard, leads_before: int, lines_before: int) -> pa.Table:
    """A shard's rejected rows, numbered as in one file of all shards."""
    rows = read.rejected
    rows = rows.set_column(0, "lead_number", pc.add(rows["lead_number"], leads_before))
    return rows.set_column(1, "line", pc.add(rows["line"], lines_before)).select(["lead_number", *REJECTION])


def _difference(first: ReadShard, other: ReadShard) -> str:
    lacks = [name for name in first.header if name not in other.header]
    more = [name for name in other.header if name not in first.header]
    told = [*(f"lacks {name}" for name in lacks[:3]), *(f"has {name}" for name in more[:3])]
    return ", ".join(told) or "the columns stand in another order"


def _repeats(
    con: duckdb.DuckDBPyConnection, executor: Executor, raw: Sequence[Part], codes: Codes, folder: str
) -> list[pa.Array]:
    """The lead numbers of each part that repeat a lead before them, in whichever part that is.

    Hashes find the leads that may be equal, range by range of hashes over all parts; these few are compared here in
    every column.
    """
    aside = f"{folder}.hashes"
    try:
        hashed = executor.map(partial(on_shards.hash_part, codes=codes, folder=aside), list(raw))
        ranges = min(len(raw), MOST_RANGES)
        edges = [HASHES * at // ranges for at in range(ranges + 1)]
        between = [(first, following - 1) for first, following in pairwise(edges)]
        find = partial(on_shards.find_meeting, paths=[part.path for part in hashed])
        numbers = pa.concat_arrays(executor.map(find, between))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    if not len(numbers):
        return [numbers] * len(raw)
    split = _by_part(raw, numbers)
    take = partial(on_shards.take_cleaned, codes=codes)
    taken = executor.map(take, [pair for pair in zip(raw, split, strict=True) if len(pair[1])])
    suspects = con.from_arrow(pa.concat_tables(taken))
    repeats = repeated_leads(con, suspects).to_arrow_table()["lead_number"].combine_chunks()
    return _by_part(raw, repeats)


def _by_part(raw: Sequence[Part], numbers: pa.Array) -> list[pa.Array]:
    """These lead numbers, those of each part apart."""
    sorted_numbers = np.sort(numbers.to_numpy())
    edges = np.searchsorted(sorted_numbers, [part.first_lead for part in raw], side="right")
    return [pa.array(found) for found in np.split(sorted_numbers, edges[1:])]
