"""Accepted code maps: which holds for which drop, who and why, and a map as people write it."""

from pathlib import Path

import pytest

from junk_leads.errors import CodesRefused
from junk_leads.home import Home
from junk_leads.steps.watching.codes import Proposal, Renamed
from junk_leads.stores.drops.code_maps import CodeMaps, read_codes, write_codes

PLATFORM, MEDIUM = "first_platform_c", "first_utm_medium_c"
CODES = {PLATFORM: {"Level1": "Level0"}}


def test_a_map_holds_for_its_drop_until_it_is_taken_back(home: Home) -> None:
    maps = CodeMaps(home)
    made = maps.accept("july", "july.csv", CODES, by="Asha", why="asked the agency")
    assert (made.who, made.why, made.holds, made.codes) == ("Asha", "asked the agency", True, CODES)
    assert maps.holding("july", "july.csv") == made
    assert maps.holding("august", "august.csv") is None
    maps.undo("july", "july.csv", by="Ravi")
    assert maps.holding("july", "july.csv") is None
    (kept,) = CodeMaps(home).all()
    assert kept.undone.endswith("by Ravi")
    with pytest.raises(CodesRefused, match="no code map holds for drop 'july'; look at `junk-leads codes`"):
        maps.undo("july", "july.csv")


def test_a_map_of_a_source_holds_for_every_file_that_matches_and_a_drops_own_goes_first(home: Home) -> None:
    maps = CodeMaps(home)
    general = maps.accept("agency_1", "agency_1.csv", CODES, source="agency_")
    assert general.source == "agency_*"
    assert maps.holding("agency_2", "agency_2.csv") == general
    assert maps.holding("other", "other.csv") is None
    own = maps.accept("agency_2", "agency_2.csv", {MEDIUM: {"Level9": "Level3"}})
    assert maps.holding("agency_2", "agency_2.csv") == own
    assert maps.holding("agency_1", "agency_1.csv") == general
    newer = maps.accept("agency_1", "agency_1.csv", CODES, source="agency_[12].csv")
    assert maps.holding("agency_1", "agency_1.csv") == newer
    assert maps.holding("agency_3", "agency_3.csv") == general


def test_an_empty_map_and_a_source_that_is_not_the_drops_are_refused(home: Home) -> None:
    with pytest.raises(CodesRefused, match="the map renames no code"):
        CodeMaps(home).accept("july", "july.csv", {PLATFORM: {}})
    with pytest.raises(CodesRefused, match=r"file name 'july.csv' of drop 'july' does not match the source 'agency\*'"):
        CodeMaps(home).accept("july", "july.csv", CODES, source="agency")
    assert CodeMaps(home).all() == []


def test_who_scored_a_drop_all_the_same_is_kept(home: Home) -> None:
    CodeMaps(home).note_drift("july", "sha", version="3", reason="looks renamed", why="no time", by="Asha", run_id="r")
    (kept,) = CodeMaps(home).accepted_drifts()
    told = {name: kept[name] for name in ("drop_key", "content", "model_version", "reason", "who", "why", "run_id")}
    assert list(told.values()) == ["july", "sha", "3", "looks renamed", "Asha", "no time", "r"]


def change(delivered: str, becomes: str, *, column: str = PLATFORM, shared: bool = False) -> Renamed:
    return Renamed(column, delivered, becomes, 10, "known leads", 0.9, 7, shared)


def test_a_proposal_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    changes = (
        change("Level1", "Level0", shared=True),
        change("=cmd|' /c calc'!a0", "Level0", shared=True),
        change('Comma, "quoted"', "Level3"),
        change("Level5", "Others"),
        change("Level6", "Others"),
        change("Level7", "Level7"),
        change("Level9", "Level3", column=MEDIUM),
    )
    path = tmp_path / "july.codes.csv"
    proposal = Proposal(changes, {}, {}, 7)
    write_codes(path, proposal)
    assert "\n=cmd" not in path.read_text()
    assert f"{PLATFORM},'=cmd" in path.read_text()
    assert read_codes(path) == proposal.codes
    assert "Level7" not in proposal.codes[PLATFORM]


def test_levels_are_read_as_keys_and_nothing_under_becomes_leaves_a_code_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text(f"column,delivered,becomes\n{PLATFORM}, level4 ,LEVEL0\n{PLATFORM},Level8,\n", encoding="utf-8-sig")
    assert read_codes(path) == {PLATFORM: {"Level4": "Level0"}}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "map.csv is no code map: it lacks the column column, delivered, becomes; begin with the one of"),
        (b"created_date,city_mapped\n1,2\n", "map.csv is no code map: it lacks the column column, delivered, becomes"),
        (b"column,delivered,becomes\ncity_mapped,delhi,pune\n", "line 2 of map.csv names no column of codes; they are"),
        (b"column,delivered,becomes\nfirst_platform_c,,A\n", "line 2 of map.csv has nothing under delivered"),
        (
            b"column,delivered,becomes\nfirst_platform_c,A,B\nfirst_platform_c,a,C\n",
            "line 3 of map.csv maps a code of first_platform_c again that line 2 maps; keep one",
        ),
        (
            b"column,delivered,becomes,shared\nfirst_platform_c,A,C,\nfirst_platform_c,B,C,\n",
            "line 3 of map.csv makes a code of first_platform_c the same as another line does; if two",
        ),
        (b"column,delivered,becomes\n\xff\xfe\n", "map.csv is not a CSV in UTF-8; begin with the one of"),
        (b'column,delivered,becomes\nfirst_platform_c,"A,B\n', "map.csv is not a CSV in UTF-8"),
        (b"column,delivered,becomes\nfirst_platform_c\n", "line 2 of map.csv has nothing under delivered"),
    ],
)
def test_a_file_that_is_no_map_is_refused_in_one_line(tmp_path: Path, text: bytes, why: str) -> None:
    path = tmp_path / "map.csv"
    path.write_bytes(text)
    with pytest.raises(CodesRefused) as refused:
        read_codes(path)
    assert str(refused.value).startswith(why)
    assert "\n" not in str(refused.value)


def test_a_map_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CodesRefused, match="cannot be read"):
        read_codes(tmp_path / "none.csv")
    with pytest.raises(CodesRefused, match="cannot be read"):
        read_codes(tmp_path)
    large = tmp_path / "large.csv"
    large.write_bytes(b"x" * 5_000_001)
    with pytest.raises(CodesRefused, match="too large for a code map"):
        read_codes(large)
