"""Makes `junk_leads/reference/lead_statistics.*` from the facts known of the 240,000 real leads.

    python benchmarks/make_lead_statistics.py FACTS_FOLDER

What lives here: reading the facts (counts that public notebooks printed; no lead is among them), smoothing,
and closing the gaps that they leave. What does not: drawing leads (`junk_leads/steps/leads/generating.py`).
The facts are not part of the project; this script is kept to say where each number comes from.
"""

import gzip
import re
import sys
from itertools import dropwhile, takewhile
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

LEVELS = ["first_platform_c", "first_utm_medium_c", "first_utm_source_c"]
CELL = ["city_tier", *LEVELS, "total_leads_droppped", "referred_lead"]
OUT = Path(__file__).parents[1] / "junk_leads" / "reference"
TARGET_SHARE = 0.9  # the rule that made `others`: the most frequent levels up to this share were kept
SAMPLE = 24_991  # the raw sample in which cities and rare levels were counted

# Tier-3 junk without a city, measured on the real history: far more where almost nobody converts.
MISSING_SHARE_IN_DEAD_CELLS, MISSING_SHARE_ELSEWHERE, DEAD_BELOW = 0.322, 0.117, 0.05

# 90 stems and 40 endings, as Indian place names have them, make 3,600 small towns. As 90 + 1 and 40 share no
# divisor, stepping through both at once meets every pair.
STEMS = (
    "ram shiv raj gopal kishan lal sri deva hari mohan indra chandra surya nara madho bala kala nila dhan "
    "moti sona ratan mani jaya vijay ajit balram bhim arjun kesh govind jag jai laxmi lokh maha man "
    "mangal mirza mukund nand narayan nav nur om pad palan panch param prem prit push rag rai rampa rang "
    "rati rod rud sadar saha sam sang sant sara shah shanti sher sid singh sita soma sukh sultan sundar "
    "taj tara tej thaku tiru uda ujja uma vallabh vara veer venkat vish yam zafar"
)
ENDINGS = (
    "pur nagar garh abad ganj gaon patti kot wada palli puram pet halli kheda pura wadi tola bad vali "
    "kheri sarai mandi giri patna kunda konda gudem palem khand dih bagh chak danga hat kulam mangalam "
    "pada para samudram ur"
)


def table(facts: str, heading: str) -> pd.DataFrame:
    """The first Markdown table after a heading, as text."""
    lines = facts[facts.index(heading) :].splitlines()
    rows = takewhile(lambda line: line.startswith("|"), dropwhile(lambda line: not line.startswith("|"), lines))
    names, _, *values = ([cell.strip() for cell in row[1:-1].split("|")] for row in rows)
    return pd.DataFrame(values, columns=names)


def block(facts: str, heading: str) -> dict[str, int]:
    """The first fenced block of `name count` lines after a heading."""
    text = facts[facts.index(heading) :].split("```")[1]
    return {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", text, flags=re.MULTILINE)}


def shrunk(cells: pd.DataFrame, keys: list[str], weight: float, towards: pd.Series | float) -> pd.Series:
    """Conversion of each cell's group, drawn towards a wider one as if `weight` leads of it were added."""
    sums = cells.groupby(keys)[["n", "pos"]].transform("sum")
    smooth: pd.Series = (sums["pos"] + weight * towards) / (sums["n"] + weight)
    return smooth


def joint_cells(folder: Path) -> pd.DataFrame:
    """Month x tier x platform x medium x source x leads dropped x referred, with n and smoothed conversion.

    The monthly facts end in December; what they lack of the totals is January and February, kept as one.
    """
    monthly = pd.read_csv(folder / "joint_counts_6_features_by_month.csv")
    total = pd.read_csv(folder / "joint_counts_6_features.csv").set_index(CELL)
    rest = total.sub(monthly.groupby(CELL)[["n", "pos"]].sum(), fill_value=0)
    rest = rest[rest["n"] > 0].reset_index().assign(month="2022-01")
    cells = pd.concat([monthly, rest], ignore_index=True)
    numbers = ["city_tier", "total_leads_droppped", "referred_lead", "n", "pos"]
    cells = cells.astype(dict.fromkeys(numbers, "int64")).sort_values(["month", *CELL])
    channel = [*LEVELS, "few", "referred_lead"]
    cells["few"] = cells["total_leads_droppped"].clip(upper=2)
    mean = cells["pos"].sum() / cells["n"].sum()
    towards = shrunk(cells, ["month", *channel], 2, shrunk(cells, channel, 1, mean))
    cells["conversion"] = shrunk(cells, ["month", *CELL], 2, towards).round(3).clip(0.001, 0.999)
    return cells[["month", *CELL, "n", "conversion"]]


def missing_city(cells: pd.DataFrame, rows: int, conversion: float) -> dict[str, float]:
    """Share of tier-3 leads without a city, such that as many are missing and convert as in the facts."""
    tier3 = cells[cells["city_tier"] == 3]
    genuine = (tier3["n"] * tier3["conversion"]).sum()
    junk = tier3["n"] * (1 - tier3["conversion"])
    dead = tier3["conversion"] < DEAD_BELOW
    expected = MISSING_SHARE_IN_DEAD_CELLS * junk[dead].sum() + MISSING_SHARE_ELSEWHERE * junk[~dead].sum()
    scale = rows * (1 - conversion) / expected
    return {
        "genuine": round(float(rows * conversion / genuine), 5),
        "junk_in_dead_cells": round(float(MISSING_SHARE_IN_DEAD_CELLS * scale), 4),
        "junk_elsewhere": round(float(MISSING_SHARE_ELSEWHERE * scale), 4),
        "dead_below": DEAD_BELOW,
    }


def power_tail(first_rank: int, last_rank: int, largest: float, total: float) -> np.ndarray:
    """Counts falling as a power of the rank from `largest`, the exponent found for them to sum to `total`."""
    rank = np.arange(first_rank, last_rank + 1) / first_rank
    low, high = 0.0, 6.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (largest / rank**middle).sum() > total else (low, middle)
    return largest / rank**low


def rare_levels(facts: str, feature: str, levels: int) -> dict[str, float]:
    """Relative counts of the levels behind `others`, under names that the significant ones leave free.

    The sample names its levels otherwise than the full file, so only its counts by rank are taken. The rule
    stopped before the first rare level: its count is above the gap to 90 % and below that of the last kept.
    """
    kept = table(facts, f"### {feature}\n").set_index(feature)["n"].astype(int)
    kept, others = kept.drop("others"), kept["others"]
    full = kept.sum() + others
    top = table(facts, f"### raw {feature}: top 60")["n"].astype(int)
    ranks = [*top[len(kept) :], *power_tail(61, levels, top.iloc[-1], SAMPLE - top.sum())]
    counts = np.array(ranks, dtype=float) * others / sum(ranks)
    gap = TARGET_SHARE * full - kept.sum()
    first = max(counts[0], (gap + kept.min()) / 2)
    counts[1:] *= (others - first) / counts[1:].sum()
    counts[0] = first
    free = (name for i in range(10 * levels) if (name := f"Level{i}") not in kept.index)
    return {name: max(round(float(n), 1), 0.1) for name, n in zip(free, counts, strict=False)}


def by_twin(clock: pd.DataFrame, cells: pd.DataFrame) -> list[list[float]]:
    """Weights of the hours (or weekdays) by twin, such that each converts as counted.

    Hours say next to nothing that the channel does not say: so a lead of a cell with conversion p comes at an
    hour in proportion to 1 + tilt * (p - mean). Linear in p, that is the mixture of its values at 0 and 1 which
    a twin makes: a second label, never seen, drawn from the cell's conversion.
    """
    mean = np.average(cells["conversion"], weights=cells["n"])
    spread = np.average((cells["conversion"] - mean) ** 2, weights=cells["n"])
    n, tilt = clock["n"].astype(float), (clock["conv"].astype(float) - mean) / spread
    weights = [n / n.mean() * (1 + tilt * (twin - mean)) for twin in (0, 1)]
    return [(w / w.mean()).clip(lower=0).round(4).tolist() for w in weights]


def cities(facts: str) -> pd.DataFrame:
    """Cities with their leads in a sample of 24,991 and conversion.

    After the 59 counted ones come towns whose leads fall as a power of their rank, so that a sample has about
    1,400 cities, 700 of them once: the other listed ones, then composed names. As with the counted cities, the
    conversion spreads as a sample of that size makes it.
    """
    counted = table(facts, "### raw city_mapped: top 60").set_index("city_mapped").drop("")[["n", "conv"]]
    counted = counted.astype(float)
    missing, missing_conversion, genuine = 954, 0.0451, 12_499
    rest = SAMPLE - missing - counted["n"].sum()
    mean = (genuine - missing * missing_conversion - (counted["n"] * counted["conv"]).sum()) / rest
    stems, endings = STEMS.split(), ENDINGS.split()
    pairs = range(len(stems) * len(endings))
    composed = [stems[i % len(stems)] + endings[(i // len(stems) + i) % len(endings)] for i in pairs]
    names = pd.Index([*pd.read_csv(OUT / "city_tiers.csv")["city"], *composed]).unique()
    names = names.difference(counted.index, sort=False)
    n = 34.5 * (60 / np.arange(60, 60 + len(names))) ** 1.41
    noise = np.random.default_rng(0).normal(size=len(n)) * np.sqrt(mean * (1 - mean) / np.maximum(n, 1))
    towns = pd.DataFrame({"n": n.round(2), "conv": (mean + noise).clip(0.05, 0.95).round(3)}, index=names)
    return pd.concat([counted, towns]).rename_axis("city").set_axis(["n", "conversion"], axis=1)


def write_packed(name: str, frame: pd.DataFrame) -> None:
    """Write a table into the package, the same bytes every time."""
    with open(OUT / name, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(frame.to_csv(index=False, lineterminator="\n").encode())


def main(folder: Path) -> None:
    """Write the three files of the table."""
    facts = (folder / "full_data_facts.md").read_text(encoding="utf-8")
    cells = joint_cells(folder)
    write_packed("lead_statistics.cells.csv.gz", cells)
    write_packed("lead_statistics.cities.csv.gz", cities(facts).reset_index())

    platforms = block(facts, "### first_platform_c, all 49 levels")
    kept = set(table(facts, "### first_platform_c\n")["first_platform_c"])
    nulls = block(facts, "### Null counts of every raw column")
    groups = table(facts, "### grouped interaction columns").set_index("index").astype(float)
    months = table(facts, "### by month")
    sections = {
        "Leads by calendar month (the cells hold January and February 2022 as one).": {
            "months": {key: int(n) for key, n in zip(months["key"], months["n"], strict=True)}
        },
        "Weights of hours (UTC) and of weekdays (from Monday), by twin; see by_twin in the script.": {
            "hours": by_twin(table(facts, "### by hour"), cells),
            "weekdays": by_twin(table(facts, "### by day of week"), cells),
        },
        "How far volume (log) and conversion (log odds) move from day to day besides; found by trial, for\n"
        "# their spread by day to be as counted: 235 of 1,044 leads, and 5.2 percentage points.": {
            "daily_spread": {"volume": 0.17, "conversion": 0.24}
        },
        "Share of tier-3 leads that come without a city; dead cells convert less than dead_below.": {
            "missing_city": missing_city(cells, 9403, 0.0451)
        },
        "What stands behind `others`, relative counts. Platforms are the real ones; of the others\n"
        "# only the counts by rank are known.": {
            "rare_levels": {
                "first_platform_c": {k: n for k, n in platforms.items() if k not in kept},
                "first_utm_medium_c": rare_levels(facts, "first_utm_medium_c", 364),
                "first_utm_source_c": rare_levels(facts, "first_utm_source_c", 123),
            }
        },
        "Leads with a value in each interaction column, and with any; median, mean and largest sum of a\n"
        "# group where there is one.": {
            "interactions": {
                "leads": 240_000,
                "with_any": 187,
                "columns": {k: 240_000 - n for k, n in list(nulls.items())[7:-2]},
                "groups": {
                    str(g): [float(x) for x in (r["median_of_nonzero"], r["mean_of_nonzero"], r["max"])]
                    for g, r in groups.iterrows()
                },
            }
        },
        "Share of leads that are delivered twice (1,036 of 240,000 were).": {"duplicate_share": 0.0043},
    }
    text = "# Made by benchmarks/make_lead_statistics.py from counts published of 240,000 real leads.\n"
    for comment, section in sections.items():
        dumped = yaml.safe_dump(section, sort_keys=False, default_flow_style=None, width=110)
        if dumped.startswith("{"):  # a lone scalar is dumped in braces
            dumped = dumped.strip("{}\n") + "\n"
        text += f"\n# {comment}\n{dumped}"
    (OUT / "lead_statistics.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
