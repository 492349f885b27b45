"""How well the product tells junk from genuine beside the published way, on the same leads and splits, in one run.

What lives here: both models on a random and a temporal split, side by side. What does not: speed (`bench.py`).

    python benchmarks/bench_quality.py [LABELLED.csv] [--rows 190000]     without a file, on generated leads
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import lightgbm as lgb
import numpy as np

from junk_leads.defs.assets.model import TrainingConfig
from junk_leads.reference import model_settings
from junk_leads.steps.leads.counting import count_leads
from junk_leads.steps.leads.encoding import COUNT_COLUMNS, LEVEL_COLUMNS, Encoder
from junk_leads.steps.leads.levels import learn_significant_levels
from junk_leads.steps.learning.evaluation import evaluate, random_split, temporal_split
from junk_leads.steps.learning.metrics import Interval, measure
from junk_leads.steps.learning.training import LabelledFeatures, labelled_features
from junk_leads.steps.scoring.reasons import contributions, reasons_of

METRICS = ("auc", "average_precision", "brier", "log_loss", "calibration_error", "genuine_lost", "junk_removed")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=190_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data, encoder = _learned_from(given.file or _generated(Path(name), given.rows), Path(name))
    settings, config = model_settings(), TrainingConfig()
    seed, share = settings["lightgbm"]["seed"], settings["holdout_share"]
    start = time.perf_counter()
    made = evaluate(data, encoder, config.recipe(), config.aim(), grades=settings["grades"], share=share, seed=seed)
    seconds = time.perf_counter() - start
    print(f"{data.leads:,} labelled leads of {len(data.kinds):,} kinds, {data.share:.1%} genuine\n")
    print(f"{'':34}{'published':>30}{'product':>30}")
    for split in (random_split(data, share, seed), temporal_split(data, share)):
        published = _published(data.take(split.train), data.take(split.test), encoder)
        ours = made.report.splits[split.name]
        for metric in METRICS:
            print(f"{f'{split.name} {metric}':34}{published[metric]!s:>30}{ours[metric]!s:>30}")
    print("(published: its six columns, LightGBM's defaults, the threshold that loses 2 % of its own training leads)")
    print("\ngrade      share  conversion   (product, temporal)")
    for grade in made.report.grades:
        print(f"{grade['grade']:6}{grade['share']:10.1%}{grade['conversion'] or 0:12.3f}")
    kept = made.model.booster.num_trees() > config.recipe().rounds
    print(f"\nadapting trees kept: {kept}; calibration: {made.model.calibration.kind}; all of it in {seconds:.1f} s")
    again = evaluate(data, encoder, config.recipe(), config.aim(), grades=settings["grades"], share=share, seed=seed)
    same = again.model.booster.model_to_string() == made.model.booster.model_to_string()
    print(f"learned again, the same bytes: {same}")
    _print_base_rate(data, encoder, config, share, seed)
    start = time.perf_counter()
    kinds = np.unique(data.take(temporal_split(data, share).test).kind)
    told = contributions(made.model.booster, encoder, data.kinds[kinds])
    reasons_of(told, encoder, {}, data.kinds[kinds])
    print(f"reasons of the leads held out by time ({len(kinds):,} kinds) in {time.perf_counter() - start:.1f} s")


def _generated(folder: Path, rows: int) -> Path:
    path = folder / "generated.csv"
    subprocess.run(
        [sys.executable, "-m", "junk_leads.cli", "generate", "--rows", str(rows), "--out", str(path)], check=True
    )
    return path


def _learned_from(file: Path, folder: Path) -> tuple[LabelledFeatures, Encoder]:
    """The features of a labelled file, by the product's own pipeline."""
    import os

    environment = {**os.environ, "JUNK_LEADS_HOME": str(folder / "home")}
    subprocess.run([sys.executable, "-m", "junk_leads.cli", "ingest", str(file)], check=True, env=environment)
    with duckdb.connect(str(folder / "home" / "warehouse.duckdb"), read_only=True) as con:
        counts = count_leads(con, con.table("cleaned_leads"), con.table("interaction_groups"))
        encoder = Encoder.of_table(learn_significant_levels(con, counts, LEVEL_COLUMNS))
        return labelled_features(con, counts, encoder), encoder


def _published(train: LabelledFeatures, test: LabelledFeatures, encoder: Encoder) -> dict[str, Interval]:
    """The published model: tier, platform, medium and source levels and the two counts, LightGBM's defaults."""
    blocks = [encoder.blocks[name] for name in ("city_tier", *LEVEL_COLUMNS[:3])]
    names = [*COUNT_COLUMNS, *(feature for block in blocks for feature in block)]
    places = [encoder.features.index(name) for name in names]
    matrices = [np.repeat(data.kinds[data.kind][:, places], data.counts, axis=0) for data in (train, test)]
    labels = [np.repeat(data.labels, data.counts) for data in (train, test)]
    booster = lgb.train(
        {"objective": "binary", "verbosity": -1, "seed": 1, "num_threads": 1}, lgb.Dataset(matrices[0], labels[0])
    )
    known, told = (np.asarray(booster.predict(matrix)) for matrix in matrices)
    return measure(labels[1], told, float(np.quantile(known[labels[0] == 1], model_settings()["junk_budget"])))


def _print_base_rate(
    data: LabelledFeatures, encoder: Encoder, config: TrainingConfig, share: float, seed: int, true_share: float = 0.115
) -> None:
    corrected = TrainingConfig(true_conversion=true_share)
    made = evaluate(
        data, encoder, config.recipe(), corrected.aim(), grades=model_settings()["grades"], share=share, seed=seed
    )
    means = {split: found["corrected_mean"].value for split, found in made.report.splits.items()}
    told = ", ".join(f"{mean:.2%} ({split})" for split, mean in means.items())
    print(f"mean probability corrected for a true conversion of {true_share:.1%}: {told}")


if __name__ == "__main__":
    main()
