"""What a drop tells: 20 faults seeded into honest drops, and 20 honest drops, each scored as a person would.

What lives here: the faults, and a table of what catches each (docs/what-a-drop-tells.md). What does not: the checks.
Runs the jobs themselves, in a home of its own: python benchmarks/seeded_faults.py FOLDER
"""

import argparse
import csv
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from junk_leads.errors import JunkLeadsError
from junk_leads.home import Home
from junk_leads.running.launching import Platform, platform
from junk_leads.running.telling import told_checks, told_history
from junk_leads.steps.leads.generating import write_leads

ROWS = 1_000
START, DAYS = date(2022, 1, 20), 20  # of the drops, within what the history covers
LABEL = "app_complete_flag"
PLATFORM, MEDIUM, SOURCE, CITY = "first_platform_c", "first_utm_medium_c", "first_utm_source_c", "city_mapped"

Row = dict[str, str]
Change = Callable[[list[Row], list[str], random.Random, list[Row]], object]


@dataclass(frozen=True)
class Fault:
    """A fault: how it is seeded into the rows (or their columns, or the text), and what is to catch it.

    `caught_by` names checks, one of which has to tell of it; `job`: ingest or score, or train after it.
    """

    name: str
    change: Change
    caught_by: tuple[str, ...]
    job: str = "score"
    text: Callable[[str], str] = str


def _some(rows: list[Row], share: float, chance: random.Random) -> list[Row]:
    return chance.sample(rows, round(share * len(rows)))


def duplicate(rows: list[Row], _: list[str], chance: random.Random, __: list[Row]) -> None:
    rows += [dict(row) for row in _some(rows, 0.1, chance)]


def overlap(rows: list[Row], columns: list[str], chance: random.Random, history: list[Row]) -> None:
    for row, known in zip(_some(rows, 0.3, chance), chance.sample(history, len(rows)), strict=False):
        row.update({name: known[name] for name in columns})


def setting(column: str, value: str, share: float) -> Change:
    """A share of the leads gets this value in a column."""

    def change(rows: list[Row], _: list[str], chance: random.Random, __: list[Row]) -> None:
        for row in _some(rows, share, chance):
            row[column] = value

    return change


def renaming(*columns: str) -> Change:
    """The levels of columns are renamed, each to another one of the column."""

    def change(rows: list[Row], _: list[str], chance: random.Random, history: list[Row]) -> None:
        for column in columns:
            levels = sorted({row[column] for row in history if row[column]})
            others = levels[1:] + levels[:1]
            new = dict(zip(levels, others, strict=True))
            for row in rows:
                row[column] = new.get(row[column], row[column])

    return change


def moving(by: timedelta) -> Change:
    """Every lead is created earlier or later."""

    def change(rows: list[Row], _: list[str], __: random.Random, ___: list[Row]) -> None:
        for row in rows:
            row["created_date"] = str(datetime.fromisoformat(row["created_date"]) + by)

    return change


def swap(rows: list[Row], _: list[str], __: random.Random, ___: list[Row]) -> None:
    for row in rows:
        row[PLATFORM], row[MEDIUM] = row[MEDIUM], row[PLATFORM]


def leak(rows: list[Row], _: list[str], __: random.Random, ___: list[Row]) -> None:
    for row in rows:
        row["syllabus"] = row[LABEL]


def future(rows: list[Row], _: list[str], chance: random.Random, __: list[Row]) -> None:
    for row in _some(rows, 0.2, chance):
        row["created_date"] = f"{datetime.now() + timedelta(days=40):%Y-%m-%d} 12:00:00"


def without(column: str) -> Change:
    """A column is not delivered."""
    return lambda rows, columns, *_: columns.remove(column)


def with_more(rows: list[Row], columns: list[str], *_: object) -> None:
    columns.append("utm_term")
    for row in rows:
        row["utm_term"] = "x"


def nothing(*_: object) -> None:
    """The rows as they are."""


FAULTS = (
    Fault("another delimiter", nothing, ("has_every_required_column",), text=lambda text: text.replace(",", ";")),
    Fault("a required column missing", without(MEDIUM), ("has_every_required_column",)),
    Fault("an extra column", with_more, ("has_no_unknown_column",)),
    Fault(
        "20 % of rows with text in a count", setting("total_leads_droppped", "many", 0.2), ("has_few_rejected_rows",)
    ),
    Fault("the file cut in its last row", nothing, ("has_few_rejected_rows",), text=lambda text: text[:-60]),
    Fault("10 % duplicates", duplicate, ("has_few_duplicates",)),
    Fault("30 % of leads known from the history", overlap, ("known_leads",)),
    Fault("absurd counts", setting("total_leads_droppped", "250000", 0.02), ("counts_are_plausible",)),
    Fault("20 % of leads from the future", future, ("dates_are_plausible",)),
    Fault("cities missing in 40 %", setting(CITY, "", 0.4), ("few_values_are_missing",)),
    Fault("an unseen platform in 30 %", setting(PLATFORM, "Level999", 0.3), ("others_are_as_in_training",)),
    Fault("one column renamed", renaming(SOURCE), ("columns_go_together_as_in_training",)),
    Fault("two columns renamed", renaming(MEDIUM, SOURCE), ("columns_go_together_as_in_training",)),
    Fault("three columns renamed", renaming(PLATFORM, MEDIUM, SOURCE), ("columns_go_together_as_in_training",)),
    Fault("platform and medium swapped", swap, ("columns_go_together_as_in_training",)),
    Fault("a constant platform", setting(PLATFORM, "Level0", 1.0), ("shares_stand_as_in_training",)),
    Fault("hours shifted by 9", moving(timedelta(hours=9)), ("shares_stand_as_in_training",)),
    Fault("a month from another year", moving(timedelta(days=-1461)), ("dates_follow_training",)),
    Fault("a column that copies the label", leak, ("no_column_copies_the_label",), job="train"),
    Fault("labels of one class", setting(LABEL, "1", 1.0), ("has_enough_labelled_leads",), job="train"),
)


def read(path: Path) -> list[Row]:
    """The rows of a CSV."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def seed(fault: Fault, folder: Path, history: list[Row], number: int) -> Path:
    """Write a drop with a fault; the same number gives the same bytes."""
    path = folder / f"fault-{number:02}.csv"
    write_leads(path, ROWS, seed=100 + number, labelled=fault.job == "train", start=START, days=DAYS)
    rows = read(path)
    columns = list(rows[0])
    fault.change(rows, columns, random.Random(number), history)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    path.write_text(fault.text(path.read_text(encoding="utf-8")), encoding="utf-8")
    return path


def told_of(ready: Platform, path: Path, job: str = "score") -> dict[str, str]:
    """What the product says of a drop, by check: each finding that is not as expected, and leads known before."""
    drop = path.stem
    with suppress(JunkLeadsError):  # told by a check, or not at all
        ready.process(path, "data_pipeline" if job == "train" else "inference_pipeline")
    told = _unusual(ready.home, drop)
    row = next(row for row in told_history(ready.home) if row["drop"] == drop)
    if not row["labelled"] and row["known_labelled_leads"]:
        told["known_leads"] = f"told: {row['known_labelled_leads']:,} of the leads stand in labelled drops"
    return told


def _unusual(home: Home, drop: str | None) -> dict[str, str]:
    return {
        check["check"]: f"{check['state']}: {check['found']}"
        for found in told_checks(home, drop)
        for check in found["checks"]
        if check["state"] not in ("passed", "skipped")
    }


def made_home(folder: Path, rows: int = 20_000) -> tuple[Home, list[Row]]:
    """A home with a history, a model trained on it and promoted; and the history's rows."""
    home, history = Home(folder / "home"), folder / "history.csv"
    write_leads(history, rows, seed=1)
    with platform(home) as ready:
        ready.ingest(history)
        ready.promote(str(ready.train({})["model_version"]), "production", why="the first")
    return home, read(history)


def training_told(home: Home, path: Path, folder: Path) -> dict[str, str]:
    """What training says of a labelled drop alone, in a home of its own."""
    alone = Home(folder / f"alone-{path.stem}")
    with platform(alone) as ready:
        told_of(ready, path, "train")
        with suppress(JunkLeadsError):
            ready.train({"minimum_labelled": 500})
    return _unusual(alone, None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns 1 when a fault was not caught or an honest drop flagged."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="a folder to work in; it is emptied")
    parser.add_argument("--honest", type=int, default=20, help="how many honest drops")
    given = parser.parse_args(arguments)
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    home, history = made_home(given.folder)
    caught = flagged = 0
    print("| fault | caught | what is told |\n|---|---|---|")
    with platform(home) as ready:
        for number, fault in enumerate(FAULTS):
            path = seed(fault, given.folder, history, number)
            told = training_told(home, path, given.folder) if fault.job == "train" else told_of(ready, path)
            by = [name for name in fault.caught_by if name in told]
            caught += bool(by)
            said = "; ".join(f"`{name}` {told[name]}" for name in by) or f"not by {', '.join(fault.caught_by)}: {told}"
            print(f"| {fault.name} | {'yes' if by else '**no**'} | {said} |", flush=True)
        for number in range(given.honest):
            path = given.folder / f"honest-{number:02}.csv"
            write_leads(path, ROWS, seed=500 + number, labelled=False, start=START, days=DAYS)
            told = told_of(ready, path)
            flagged += bool(told)
            if told:
                print(f"honest drop {number} flagged: {told}", file=sys.stderr)
    print(f"\n{caught} of {len(FAULTS)} faults caught, {flagged} of {given.honest} honest drops flagged")
    return int(caught < len(FAULTS) or bool(flagged))


if __name__ == "__main__":
    sys.exit(main())
