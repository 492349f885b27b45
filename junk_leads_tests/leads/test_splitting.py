"""Splitting lines into records: what an odd quote costs, and that it costs no more than that."""

import csv
import io
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from junk_leads.errors import DropRefused
from junk_leads.steps.leads.splitting import BAD_QUOTE, _blocks, count_lines, lines_of, opened, split

FIELDS = st.text(st.sampled_from('ab",\r\n '), max_size=5)


def records(text: str, width: int, *, final: bool = True) -> list[tuple[int, list[str], str | None]]:
    found, _ = split(lines_of(text.encode(), 1), width, final=final)
    return [(record.start, record.fields, record.fault) for record in found]


@given(st.lists(st.lists(FIELDS, min_size=6, max_size=6), max_size=8))
def test_what_the_csv_module_writes_is_split_into_the_same_fields(rows: list[list[str]]) -> None:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows(rows)
    assert [fields for _, fields, _ in records(out.getvalue(), 6)] == rows


@given(st.text(st.sampled_from('ab",\r\n'), max_size=60))
def test_every_line_is_part_of_one_record_or_blank(text: str) -> None:
    lines = lines_of(text.encode(), 1)
    found, used = split(lines, 3, final=True)
    covered = [at for record in found for at in range(record.start, record.end)]
    assert used == len(lines)
    assert covered == sorted(set(covered))
    assert all(not lines[at].strip() for at in set(range(len(lines))) - set(covered))
    assert count_lines(text.encode()) in (len(lines), len(lines) - 1)


def test_a_damaged_record_costs_its_first_line_alone() -> None:
    assert records('1,"a\n2,b\n3,c\n', 2) == [
        (0, [], BAD_QUOTE),
        (1, ["2", "b"], None),
        (2, ["3", "c"], None),
    ]


def test_a_quote_that_swallows_a_whole_row_is_damage_even_where_the_width_comes_out_right() -> None:
    assert [fault for _, _, fault in records('1,"a\n2,b\n3",c\n', 2)] == [BAD_QUOTE, None, None]


def test_a_quote_that_takes_in_the_one_row_below_it_is_damage_too() -> None:
    assert records('1,"a\n2",b\n3,c\n', 2) == [(0, [], BAD_QUOTE), (1, ['2"', "b"], None), (2, ["3", "c"], None)]


def test_a_record_of_several_lines_that_has_too_few_fields_is_one() -> None:
    assert records('1,"a\nb"\n2,b,c\n', 3) == [
        (0, [], "has 2 fields where the header has 3"),
        (2, ["2", "b", "c"], None),
    ]


def test_a_record_that_is_open_at_the_end_is_left_for_the_next_block() -> None:
    lines = ["1,a\n", '2,"b\n', "c\n"]
    found, used = split(lines, 2, final=False)
    assert ([record.fields for record in found], used) == ([["1", "a"]], 1)
    found, used = split([*lines, 'd"\n'], 2, final=False)
    assert ([record.fields for record in found], used) == ([["1", "a"], ["2", "b\nc\nd"]], 4)


def test_a_record_that_stays_open_for_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUNK_LEADS_LONGEST_RECORD", "10")
    assert records('2,"b\n' + "c,d\n" * 5, 2, final=False)[:2] == [(0, [], BAD_QUOTE), (1, ["c", "d"], None)]


def test_quotes_that_ask_for_endless_reading_again_refuse_the_file_in_bounded_time() -> None:
    lines = ['a",",b\n'] * 150_000  # every line opens a quote that the next one closes and opens again
    started = time.process_time()
    with pytest.raises(DropRefused) as refused:
        split(lines, 1_000_000, final=True)
    assert str(refused.value) == (
        "the quotes in the file do not pair up in too many places; "
        "export the leads again as comma-separated UTF-8 text and deliver that"
    )
    assert time.process_time() - started < 10


def test_blocks_are_whole_lines_and_a_line_end_split_over_two_chunks_stays_whole() -> None:
    chunks = [b"a\rb\r", b"\nc\nd", b"d", b"\re\r\nf", b""]
    assert list(_blocks(iter(chunks))) == [b"a\r", b"b\r\nc\n", b"dd\re\r\n", b"f"]
    assert list(_blocks(iter([b"a\r"]))) == [b"a\r"]
    assert list(_blocks(iter([b"a\n", b"b\n"]))) == [b"a\n", b"b\n"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("a link", "the file cannot be opened: Too many levels of symbolic links; check its name and permissions"),
        ("a pipe", "the path is a named pipe; expected a regular file; deliver the file itself"),
    ],
)
def test_a_file_that_becomes_another_between_looking_and_opening_is_refused_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    file, path = tmp_path / "leads.csv", tmp_path / "july.csv"
    file.write_text("a\n")
    path.symlink_to(file) if kind == "a link" else os.mkfifo(path)
    seen = file.lstat()
    monkeypatch.setattr("os.lstat", lambda _: seen)
    with pytest.raises(DropRefused) as refused, opened(path):
        pass
    monkeypatch.undo()
    assert str(refused.value) == message
