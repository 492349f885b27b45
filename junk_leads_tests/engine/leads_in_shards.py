"""Leads as one file, and the same leads in shards: what the tests of the engine start from."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from junk_leads.engine.shards import content_of_shard, find_shards, shards_of, write_manifest
from junk_leads.steps.leads.generating import write_leads


def dirty_lines(folder: Path, leads: int) -> tuple[str, list[str]]:
    """A header and the lines of generated leads, of which some repeat far apart and some are rejected."""
    write_leads(folder / "generated.csv", leads, seed=1)
    header, *rows = (folder / "generated.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    third = leads // 3
    rows[third + 5] = rows[2 * third + 7] = rows[2]  # the same lead in each of three shards
    rows[4] = rows[3]
    rows[third + 1] = "no,lead\n"
    rows[-1] = rows[-1].replace("2021-", "1821-", 1)
    return header, rows


def write_shards(folder: Path, header: str, rows: Sequence[str], kinds: Sequence[str] = ("csv",) * 3) -> Path:
    """Write the lines into as many shards as kinds are named: csv, csv.gz or parquet."""
    folder.mkdir(parents=True)
    edges = [len(rows) * at // len(kinds) for at in range(len(kinds) + 1)]
    for at, kind in enumerate(kinds):
        text = header + "".join(rows[edges[at] : edges[at + 1]])
        path = folder / f"part-{at}.{kind}"
        if kind == "csv.gz":
            path.write_bytes(gzip.compress(text.encode()))
        elif kind == "parquet":
            parquet.write_table(typed(text, header), path)
        else:
            path.write_text(text, encoding="utf-8")
    return folder


def typed(text: str, header: str) -> pa.Table:
    """CSV text as a program would keep it: dates as timestamps, numbers as numbers, what is missing as null."""
    return csv.read_csv(pa.BufferReader(text.encode()), convert_options=csv.ConvertOptions(strings_can_be_null=True))


def manifest_of(folder: Path, path: Path) -> Path:
    """The manifest of a folder's shards."""
    urls = find_shards(str(folder))
    write_manifest(path, shards_of(urls, [content_of_shard(url) for url in urls]))
    return path
