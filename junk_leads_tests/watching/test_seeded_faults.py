"""Faults seeded into drops for docs/what-a-drop-tells.md: 20 of them, each of its own, three of them run here.

All are run by `python benchmarks/seeded_faults.py FOLDER`.
"""

import re
import sys
from pathlib import Path

import pytest

from junk_leads.home import Home
from junk_leads.running.launching import platform
from junk_leads.steps.leads.generating import write_leads
from junk_leads_tests.conftest import Trained

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT / "benchmarks"))
from seeded_faults import DAYS, FAULTS, ROWS, START, read, seed, told_of  # noqa: E402  found beside the tests

PAGE = CHECKOUT / "docs" / "what-a-drop-tells.md"


def test_each_fault_makes_a_drop_of_its_own_the_same_each_time(trained: Trained, tmp_path: Path) -> None:
    history, made = read(trained.history), set()
    for number, fault in enumerate(FAULTS):
        first = seed(fault, tmp_path, history, number).read_bytes()
        assert seed(fault, tmp_path, history, number).read_bytes() == first
        honest = tmp_path / "honest.csv"
        write_leads(honest, ROWS, seed=100 + number, labelled=fault.job == "train", start=START, days=DAYS)
        assert first != honest.read_bytes(), fault.name
        made.add(first)
    assert len(made) == len({fault.name for fault in FAULTS}) == 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.mark.long
def test_an_honest_drop_is_told_nothing_of_and_one_with_a_fault_what_is_wrong(
    trained: Trained, trained_home: Home, folder: Path
) -> None:
    history = read(trained.history)
    honest = folder / "honest.csv"
    write_leads(honest, ROWS, seed=900, labelled=False, start=START, days=DAYS)
    with platform(trained_home) as ready:
        assert told_of(ready, honest) == {}
        for name in ("a month from another year", "three columns renamed", "30 % of leads known from the history"):
            number, fault = next((n, fault) for n, fault in enumerate(FAULTS) if fault.name == name)
            told = told_of(ready, seed(fault, folder, history, number))
            assert set(fault.caught_by) & set(told), (name, told)


def test_the_page_has_every_fault_and_says_what_catches_it() -> None:
    rows = re.findall(r"^\| (.+?) \| (yes|\*\*no\*\*) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, *_ in rows] == [fault.name for fault in FAULTS]
    for fault, (_, caught, told) in zip(FAULTS, rows, strict=True):
        assert caught == "yes", fault.name
        assert any(f"`{check}`" in told for check in fault.caught_by), fault.name
