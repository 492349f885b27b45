"""Synthetic leads, as real as the published counts of 240,000 real ones allow.

What lives here: drawing leads batch by batch from `reference/lead_statistics.*`, and writing them as the CSV
that the platform ships. What does not: where the statistics come from (`benchmarks/make_lead_statistics.py`)
and reading a delivered file (`reading`). A batch depends on the seed and its number only, so memory stays flat.
"""

import gzip
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from pyarrow import csv as arrow_csv

from junk_leads.reference import OTHERS, city_tiers, interaction_groups, lead_schema, read_text
from junk_leads.steps.reading import ARROW_TYPES

FIRST_DAY = date(2021, 7, 1)  # of the real leads
REAL_DAYS = 229
BATCH_ROWS = 50_000
LEVELS = ("first_platform_c", "first_utm_medium_c", "first_utm_source_c")
GOLDEN_RATIO = 0.6180339887498949

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
        return np.searchsorted(self.cumulative, point, side="right") - 1 - urns * self.items


@dataclass(frozen=True)
class Statistics:
    """What leads are drawn from. A cell is month x tier x platform x medium x source x count x referred.

    Arrays of the cells have shape (cells,). A twin is a second, unseen label of a lead, drawn from its cell's
    conversion like the first: hour and weekday hang on it, for they tell of the channel and not of the lead.
    """

    months: tuple[str, ...]
    month_leads: dict[str, int]
    cells: Urns  # by month
    tier: Integers
    level_codes: tuple[Integers, ...]  # of platform, medium and source, into level_names
    level_names: tuple[tuple[str, ...], ...]
    rare_levels: tuple[Urns, ...]  # the names after OTHERS, which comes last in the cells
    leads_dropped: Integers
    referred: Integers
    conversion: Floats
    missing_city: Floats  # (cells, labels)
    cities: tuple[str, ...]
    city: Urns  # by tier and label
    hour: Urns  # by twin
    weekday: Floats  # (twins, weekdays), 1 on average
    daily_spread: float
    interactions: dict[str, Any]
    duplicate_share: float


@cache
def lead_statistics() -> Statistics:
    """The statistics in `reference/`, ready to draw from."""
    facts: dict[str, Any] = yaml.safe_load(read_text("lead_statistics.yaml"))
    packed = files("junk_leads").joinpath("reference", "lead_statistics.csv.gz").read_bytes()
    table = arrow_csv.read_csv(pa.BufferReader(gzip.decompress(packed)))
    n, conversion, tier = (table[name].to_numpy() for name in ("n", "conversion", "city_tier"))
    months = np.array(table["month"].to_pylist())
    names = tuple(np.unique(months).tolist())

    missing = facts["missing_city"]
    junk = np.where(
        conversion < missing["dead_below"], missing["junk_in_dead_cells"], missing["junk_elsewhere"]
    )
    shares = np.stack([junk, np.full(len(n), missing["genuine"])], axis=1)
    cities, city = _cities(facts)
    levels = [_levels(table[name].to_pylist(), facts["rare_levels"][name]) for name in LEVELS]
    mean = float(np.average(conversion, weights=n))
    spread = float(np.average((conversion - mean) ** 2, weights=n))
    weekday = _by_twin(facts["weekdays"], mean, spread)
    return Statistics(
        months=names,
        month_leads=facts["months"],
        cells=Urns(np.stack([np.where(months == name, n, 0) for name in names])),
        tier=tier,
        level_codes=tuple(codes for codes, _, _ in levels),
        level_names=tuple(names for _, names, _ in levels),
        rare_levels=tuple(urns for _, _, urns in levels),
        leads_dropped=table["total_leads_droppped"].to_numpy(),
        referred=table["referred_lead"].to_numpy(),
        conversion=conversion,
        missing_city=np.where(tier[:, None] == 3, shares, 0),
        cities=cities,
        city=city,
        hour=Urns(_by_twin(facts["hours"], mean, spread)),
        weekday=weekday / weekday.mean(axis=1, keepdims=True),
        daily_spread=facts["daily_spread"],
        interactions=facts["interactions"],
        duplicate_share=facts["duplicate_share"],
    )


def _by_twin(clock: dict[str, list[float]], mean: float, spread: float) -> Floats:
    """Weights by twin and hour (or weekday), such that each converts as counted.

    A lead of conversion p comes at an hour in proportion to 1 + tilt * (p - mean). That is linear in p, so it is
    the mixture of its values at 0 and 1 that a twin of conversion p makes.
    """
    tilt = (np.array(clock["conversion"]) - mean) / spread
    return np.stack([np.maximum(np.array(clock["n"]) * (1 + tilt * (twin - mean)), 0) for twin in (0, 1)])


def _levels(levels: list[str], rare: dict[str, float]) -> tuple[Integers, tuple[str, ...], Urns]:
    """Codes of the cells' levels, the names of the codes with the rare ones at the end, and the rare ones' urn."""
    names = (*sorted(set(levels) - {OTHERS}), OTHERS)
    codes = {name: code for code, name in enumerate(names)}
    return np.array([codes[level] for level in levels]), (*names, *rare), Urns(np.array([[*rare.values()]]))


def _cities(facts: dict[str, Any]) -> tuple[tuple[str, ...], Urns]:
    """City names, and their urns by tier and label (junk of tier 1, genuine of tier 1, junk of tier 2, ...).

    After the counted cities come towns whose sizes fall as a power of their rank: the listed ones, then names
    composed of stem and ending. Their conversion spreads as much as it would in a sample of their size.
    """
    counted: dict[str, list[float]] = facts["cities"]
    towns = facts["towns"]
    stems, endings = towns["stems"], towns["endings"]
    steps = range(len(stems) * len(endings))
    composed = (stems[k % len(stems)] + endings[(k // len(stems) + k) % len(endings)] for k in steps)
    names = [name for name in dict.fromkeys(chain(city_tiers(), composed)) if name not in counted]
    rank = np.arange(len(names))
    leads = towns["largest"] * (len(counted) / (len(counted) + rank)) ** towns["exponent"]
    mean = towns["conversion"]
    noise = (2 * (rank * GOLDEN_RATIO % 1) - 1) * np.sqrt(3 * mean * (1 - mean) / np.maximum(leads, 1))
    n, rate = np.array([*counted.values(), *zip(leads, np.clip(mean + noise, 0.05, 0.95), strict=True)]).T
    cities = (*counted, *names)
    tier = np.array([city_tiers().get(city, 3) for city in cities])
    return cities, Urns(np.stack([(tier == t) * n * share for t in (1, 2, 3) for share in (1 - rate, rate)]))


@dataclass(frozen=True)
class Calendar:
    """The asked window: how many leads each month of the real calendar gives it, and on which of its days."""

    start: date
    month: Urns  # one urn
    day: Urns  # by month and twin; days of the window, from 0

    @classmethod
    def of(cls, start: date, days: int, seed: int) -> "Calendar":
        """The window of `days` days; its batch number is 0, the leads' are from 1."""
        facts = lead_statistics()
        first = np.datetime64(FIRST_DAY)
        names, lengths = np.unique((first + np.arange(REAL_DAYS)).astype("M8[M]"), return_counts=True)
        real = first + (np.datetime64(start) - first + np.arange(days)) % np.timedelta64(REAL_DAYS, "D")
        at = np.searchsorted(names, real.astype("M8[M]"))
        volume = (np.array([facts.month_leads[str(name)] for name in names]) / lengths)[at]
        # January and February share their cells: the published counts by cell do not part them.
        month = np.minimum(at, len(facts.months) - 1)
        by_month = (month == np.arange(len(facts.months))[:, None]).astype(np.float64)
        weekday = facts.weekday[:, (start.weekday() + np.arange(days)) % 7]
        spread = np.exp(_rng(seed, 0).normal(0, facts.daily_spread, days))
        daily = by_month[:, None] * weekday * volume * spread
        return cls(start, Urns((by_month @ volume)[None]), Urns(daily.reshape(-1, days)))


def _rng(seed: int, batch: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((seed, batch)))


def _interactions(rng: np.random.Generator, rows: int) -> dict[str, pa.Array]:
    """The interaction columns: nearly all empty; a lead with any has several, and their sizes go together."""
    facts = lead_statistics().interactions
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
    facts, rng = lead_statistics(), _rng(seed, number)
    one = np.zeros(BATCH_ROWS, dtype=np.int64)
    month = calendar.month.draw(rng, one)
    cell = facts.cells.draw(rng, month)
    label, twin = (rng.random((2, BATCH_ROWS)) < facts.conversion[cell]).astype(np.int64)
    hour = calendar.day.draw(rng, month * 2 + twin) * 24 + facts.hour.draw(rng, twin)
    second = hour * 3600 + rng.integers(3600, size=BATCH_ROWS)
    missing = rng.random(BATCH_ROWS) < facts.missing_city[cell, label]
    city = facts.city.draw(rng, (facts.tier[cell] - 1) * 2 + label)
    # No leads dropped is how a lead counts that came without both numbers.
    unknown = facts.leads_dropped[cell] == 0
    columns = {
        "created_date": pa.array(np.datetime64(calendar.start, "s") + second.astype("m8[s]")),
        "city_mapped": pa.array(facts.cities).take(pa.array(city, mask=missing)),
        "total_leads_droppped": pa.array(facts.leads_dropped[cell], mask=unknown),
        "referred_lead": pa.array(facts.referred[cell], mask=unknown),
        "app_complete_flag": pa.array(label),
        **_interactions(rng, BATCH_ROWS),
    }
    for name, codes, names, rare in zip(
        LEVELS, facts.level_codes, facts.level_names, facts.rare_levels, strict=True
    ):
        others = len(names) - rare.items - 1
        code = codes[cell]
        columns[name] = pa.array(names).take(
            pa.array(np.where(code == others, others + 1 + rare.draw(rng, one), code))
        )
    schema = pa.schema([(column.name, ARROW_TYPES[column.type]) for column in lead_schema().columns])
    batch = pa.RecordBatch.from_arrays([columns[f.name].cast(f.type) for f in schema], schema=schema)
    row = np.arange(BATCH_ROWS)
    twice = rng.random(BATCH_ROWS) < facts.duplicate_share
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
    """Write `generate_leads` as the platform ships leads: CSV, counts as `1.0`, empty where there is no value.

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
