"""Synthetic leads, as real as the published counts of 240,000 real ones allow.

What lives here: drawing leads batch by batch from `reference/lead_statistics.*`, and writing them as the CSV
that the platform ships. What does not: where the statistics come from (`benchmarks/make_lead_statistics.py`)
and reading a delivered file (`reading`). A batch depends on the seed, the window and its number
only, so memory stays flat.
"""

import gzip
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pyarrow import csv as arrow_csv

from junk_leads.reference import OTHERS, city_tiers, interaction_groups, lead_schema, read_text
from junk_leads.steps.leads.arrow import ARROW_TYPES

FIRST_DAY = date(2021, 7, 1)  # of the real leads
REAL_DAYS = 229
BATCH_ROWS = 50_000

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]


class Urns:
    """Weighted urns: `draw` takes one item out of the urn that each row names.

    weights: (urns, items), not negative; an item of weight 0 is never drawn.
    """

    def __init__(self, weights: Floats) -> None:
        self.items = weights.shape[1]
        self.cumulative = np.concatenate([[0.0], np.cumsum(weights)])

    def draw(self, rng: np.random.Generator, urns: Integers) -> Integers:
        """The index of the item drawn for each row, shape (rows,)."""
        low, high = (self.cumulative[(urns + i) * self.items] for i in (0, 1))
        point = np.minimum(low + rng.random(len(urns)) * (high - low), np.nextafter(high, 0))
        items: Integers = np.searchsorted(self.cumulative, point, side="right") - 1 - urns * self.items
        return items


@dataclass(frozen=True)
class Level:
    """How platform, medium or source is drawn: from the cell, and where that says OTHERS, from the rare ones."""

    codes: Integers  # (cells,), into names
    names: tuple[str, ...]
    others: int  # code of OTHERS; the rare names come after it
    rare: Urns  # one urn

    @classmethod
    def of(cls, cells: list[str], rare: dict[str, float]) -> "Level":
        """Learn the level's names from the cells and its rare names with their counts."""
        kept = sorted(set(cells) - {OTHERS})
        code = {name: code for code, name in enumerate([*kept, OTHERS])}
        names = (*code, *rare)
        return cls(np.array([code[name] for name in cells]), names, len(kept), Urns(np.array([[*rare.values()]])))

    def draw(self, rng: np.random.Generator, cell: Integers) -> pa.Array:
        """The level of each row, as text."""
        code, rare = self.codes[cell], self.rare.draw(rng, np.zeros_like(cell))
        return pa.array(self.names).take(pa.array(np.where(code == self.others, self.others + 1 + rare, code)))


@dataclass(frozen=True)
class Statistics:
    """What leads are drawn from. A cell is month x tier x platform x medium x source x count x referred.

    Arrays of the cells have shape (cells,). A twin is a second label of a lead, drawn like the first and never
    seen: hour and weekday hang on it, for they tell of the lead's channel and not of the lead.
    """

    facts: dict[str, Any]  # lead_statistics.yaml
    months: tuple[str, ...]
    cells: Urns  # by month
    tier: Integers
    levels: dict[str, Level]
    leads_dropped: Integers
    referred: Integers
    log_odds: Floats  # of the conversion
    missing_city: Floats  # (cells, labels)
    cities: tuple[str, ...]
    city: Urns  # by tier and label
    hour: Urns  # by twin


def _table(name: str) -> pa.Table:
    packed = files("junk_leads").joinpath("reference", name).read_bytes()
    return arrow_csv.read_csv(pa.BufferReader(gzip.decompress(packed)))


@cache
def lead_statistics() -> Statistics:
    """The statistics in `reference/`, ready to draw from."""
    facts: dict[str, Any] = yaml.safe_load(read_text("lead_statistics.yaml"))
    cells, cities = _table("lead_statistics.cells.csv.gz"), _table("lead_statistics.cities.csv.gz")
    month = np.array(cells["month"].to_pylist())
    months = tuple(np.unique(month).tolist())
    conversion, tier = cells["conversion"].to_numpy(), cells["city_tier"].to_numpy()

    missing = facts["missing_city"]
    junk = np.where(conversion < missing["dead_below"], missing["junk_in_dead_cells"], missing["junk_elsewhere"])
    missing_city = np.stack([junk, np.full(len(tier), missing["genuine"])], axis=1) * (tier == 3)[:, None]

    city_tier = np.array([city_tiers().get(city, 3) for city in cities["city"].to_pylist()])
    genuine = cities["conversion"].to_numpy()
    city = [(city_tier == t) * cities["n"].to_numpy() * share for t in (1, 2, 3) for share in (1 - genuine, genuine)]

    return Statistics(
        facts=facts,
        months=months,
        cells=Urns(np.stack([(month == name) * cells["n"].to_numpy() for name in months])),
        tier=tier,
        levels={name: Level.of(cells[name].to_pylist(), rare) for name, rare in facts["rare_levels"].items()},
        leads_dropped=cells["total_leads_droppped"].to_numpy(),
        referred=cells["referred_lead"].to_numpy(),
        log_odds=np.log(conversion / (1 - conversion)),
        missing_city=missing_city,
        cities=tuple(cities["city"].to_pylist()),
        city=Urns(np.stack(city)),
        hour=Urns(np.array(facts["hours"])),
    )


@dataclass(frozen=True)
class Calendar:
    """The asked window: how many leads each month of the real calendar gives it, and on which of its days."""

    start: date
    month: Urns  # one urn
    day: Urns  # by month and twin; days of the window, from 0
    drift: Floats  # (days,), what a day adds to the log odds; nothing on average over a month

    @classmethod
    def of(cls, start: date, days: int, seed: int) -> "Calendar":
        """The window of `days` days; its batch number is 0, the leads' are from 1."""
        statistics, rng = lead_statistics(), _rng(seed, 0)
        facts, spread = statistics.facts, statistics.facts["daily_spread"]
        first = np.datetime64(FIRST_DAY)
        names, lengths = np.unique((first + np.arange(REAL_DAYS)).astype("M8[M]"), return_counts=True)
        real = first + (np.datetime64(start) - first + np.arange(days)) % np.timedelta64(REAL_DAYS, "D")
        at = np.searchsorted(names, real.astype("M8[M]"))
        volume = (np.array([facts["months"][str(name)] for name in names]) / lengths)[at]
        # January and February share their cells: the published counts by cell do not part them.
        month = np.minimum(at, len(statistics.months) - 1)
        by_month = (month == np.arange(len(statistics.months))[:, None]).astype(np.float64)
        weekday = np.array(facts["weekdays"])[:, (start.weekday() + np.arange(days)) % 7]
        daily = by_month[:, None] * weekday * volume * np.exp(rng.normal(0, spread["volume"], days))
        drift = rng.normal(0, spread["conversion"], days)
        drift -= (np.bincount(month, drift) / np.maximum(np.bincount(month), 1))[month]
        return cls(start, Urns((by_month @ volume)[None]), Urns(daily.reshape(-1, days)), drift)


def _rng(seed: int, batch: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((seed, batch)))


def _interactions(rng: np.random.Generator, rows: int) -> dict[str, pa.Array]:
    """The interaction columns: nearly all empty; a lead with any has several, and their sizes go together."""
    facts = lead_statistics().facts["interactions"]
    groups = interaction_groups()
    share = np.array([facts["columns"][name] for name in groups]) / facts["with_any"]
    median, mean, largest = np.array([facts["groups"][group] for group in groups.values()]).T
    leads = np.flatnonzero(rng.random(rows) < facts["with_any"] / facts["leads"])
    filled = rng.random((len(leads), len(groups))) < share
    only = rng.choice(len(groups), len(leads), p=share / share.sum())
    filled[np.arange(len(leads)), only] |= ~filled.any(axis=1)
    # Log-normal with the group's median and mean; half of its variance is the lead's, half the column's.
    size = (rng.normal(size=(len(leads), 1)) + rng.normal(size=filled.shape)) / np.sqrt(2)
    values = np.rint(median * np.exp(size * np.sqrt(2 * np.log(mean / median)))).clip(1, largest)
    columns = {}
    for at, name in enumerate(groups):
        value, empty = np.zeros(rows), np.ones(rows, dtype=bool)
        value[leads], empty[leads] = values[:, at], ~filled[:, at]
        columns[name] = pa.array(value, mask=empty)
    return columns


def _batch(seed: int, number: int, calendar: Calendar) -> pa.RecordBatch:
    """Batch `number` (from 1) of labelled leads, always of BATCH_ROWS rows."""
    statistics, rng = lead_statistics(), _rng(seed, number)
    month = calendar.month.draw(rng, np.zeros(BATCH_ROWS, dtype=np.int64))
    cell = statistics.cells.draw(rng, month)
    twin = (statistics.log_odds[cell] + rng.logistic(size=BATCH_ROWS) > 0).astype(np.int64)
    day = calendar.day.draw(rng, month * 2 + twin)
    second = (day * 24 + statistics.hour.draw(rng, twin)) * 3600 + rng.integers(3600, size=BATCH_ROWS)
    label = (statistics.log_odds[cell] + calendar.drift[day] + rng.logistic(size=BATCH_ROWS) > 0).astype(np.int64)
    missing = rng.random(BATCH_ROWS) < statistics.missing_city[cell, label]
    city = statistics.city.draw(rng, (statistics.tier[cell] - 1) * 2 + label)
    # No leads dropped is how a lead counts that came without both numbers.
    unknown = statistics.leads_dropped[cell] == 0
    columns = {
        "created_date": pa.array(np.datetime64(calendar.start, "s") + second.astype("m8[s]")),
        "city_mapped": pa.array(statistics.cities).take(pa.array(city, mask=missing)),
        "total_leads_droppped": pa.array(statistics.leads_dropped[cell], mask=unknown),
        "referred_lead": pa.array(statistics.referred[cell], mask=unknown),
        "app_complete_flag": pa.array(label),
        **{name: level.draw(rng, cell) for name, level in statistics.levels.items()},
        **_interactions(rng, BATCH_ROWS),
    }
    schema = pa.schema([(column.name, ARROW_TYPES[column.type]) for column in lead_schema().columns])
    batch = pa.RecordBatch.from_arrays([columns[f.name].cast(f.type) for f in schema], schema=schema)
    row = np.arange(BATCH_ROWS)
    twice = rng.random(BATCH_ROWS) < statistics.facts["duplicate_share"]
    earlier = (rng.random(BATCH_ROWS) * row).astype(np.int64)
    return batch.take(pa.array(np.where(twice, earlier, row)))


def generate_leads(
    rows: int, *, seed: int, labelled: bool = True, start: date = FIRST_DAY, days: int = REAL_DAYS
) -> Iterator[pa.RecordBatch]:
    """Draw leads, in batches of the lead schema: 45 columns, without the label 44, typed as in `raw_leads`.

    The window is `days` days from `start`. Its day D is drawn as the real day that lies a whole number of 229
    days from D: 2021-07-01 to 2022-02-14 come out as they were, drift included, and the days before and after
    repeat them; a week's window has that week's leads and no more. Rows are in no order.
    Asking for more rows only adds to them, and leaving out the label changes nothing else.
    The same seed gives the same leads, on one version of NumPy.

    Raises ValueError for rows below 0, days below 1, a seed below 0, or a window outside the schema's dates.
    """
    schema = lead_schema()
    for name, value, least in (("rows", rows, 0), ("days", days, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be {least} or more")
    if not (schema.earliest_date <= start and days <= (schema.latest_date - start).days):
        raise ValueError(
            f"{days} days from {start} reach outside {schema.earliest_date} to {schema.latest_date}; "
            "choose another start or fewer days"
        )
    return _generate(rows, seed, labelled, Calendar.of(start, days, seed))


def _generate(rows: int, seed: int, labelled: bool, calendar: Calendar) -> Iterator[pa.RecordBatch]:
    for number, first in enumerate(range(0, rows, BATCH_ROWS), start=1):
        batch = _batch(seed, number, calendar).slice(0, rows - first)
        yield batch if labelled else batch.drop_columns([lead_schema().label])


def write_leads(
    path: Path, rows: int, *, seed: int, labelled: bool = True, start: date = FIRST_DAY, days: int = REAL_DAYS
) -> None:
    """Write `generate_leads` as the platform ships leads: CSV, counts as `1.0`, empty where none.

    The file appears under its name only when it is complete; one that stood there is replaced.
    Raises ValueError as `generate_leads`, and OSError when the folder cannot be written.
    """
    batches = generate_leads(rows, seed=seed, labelled=labelled, start=start, days=days)
    names = lead_schema().names if labelled else lead_schema().required
    text = pa.schema([(name, pa.string()) for name in names])
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    options = arrow_csv.WriteOptions(include_header=False, quoting_style="none")
    try:
        with open(unfinished, "wb") as file:
            file.write((",".join(names) + "\n").encode())
            with arrow_csv.CSVWriter(file, text, write_options=options) as writer:
                for batch in batches:
                    writer.write_batch(_as_shipped(batch, text))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _as_shipped(batch: pa.RecordBatch, text: pa.Schema) -> pa.RecordBatch:
    """Every value as the text that the platform writes."""
    roles = {column.name: column.role for column in lead_schema().columns}
    columns = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if roles[name] == "date":
            column = pc.strftime(column.cast(pa.timestamp("s")), format=lead_schema().date_format)
        elif roles[name] in ("count", "interaction"):
            column = pc.binary_join_element_wise(column.cast(pa.string()), "0", ".")
        columns.append(column.cast(pa.string()))
    return pa.RecordBatch.from_arrays(columns, schema=text)
