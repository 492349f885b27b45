"""The ledger: which file means which drop, and where a file goes when it is done with."""

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from junk_leads.errors import DropRefused, DropUnknown, JunkLeadsError
from junk_leads.home import Home
from junk_leads.stores.ledger import Ledger, content_of, drop_key, hand_over

REFUSED = DropRefused("the header lacks city_mapped", where="line 1", expected="every column", do="add it")


@pytest.fixture
def ledger(home: Home) -> Ledger:
    return Ledger(home)


@pytest.fixture
def incoming(home: Home) -> Callable[..., Path]:
    def put(name: str, content: str = "one") -> Path:
        path = home.incoming / name
        path.write_text(content)
        return path

    return put


# Keys


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("leads-2021-07.csv", "leads-2021-07"),
        ("Leads_07.v2.CSV", "Leads_07.v2"),
        ("leads.csv.gz", "leads"),
        ("leads.CSV.GZ", "leads"),
        ("leads-20210701.csv", "leads-20210701"),
        ("leads.txt", "leads.txt"),
        ("x[1].csv", "x-1--"),
        ("it's; --.csv", "it-s--"),
        ("../../etc/passwd.csv", "etc-passwd--"),
        ("two\nlines.csv", "two-lines--"),
        ("😀.csv", "drop--"),
        ("https://example.org/leads.csv", "https-example.org-leads--"),
        (".csv", "drop--"),
        ("...csv", "drop--"),
        ("-rf.csv", "rf--"),
        ("é" * 125 + ".csv", "drop--"),
        ("x" * 251 + ".csv", "x" * 80 + "--"),
        ("\udcff.csv", "drop--"),
    ],
)
def test_a_file_name_becomes_a_key_of_safe_characters(name: str, key: str) -> None:
    found = drop_key(name)
    assert re.fullmatch(re.escape(key) + ("[0-9a-f]{12}" if key.endswith("--") else ""), found)


STEMS = st.text(st.sampled_from("ab-. é\n/0123456789abcdef"), max_size=12) | st.text(max_size=100)


@given(STEMS, STEMS)
@example("a b", "a-b")
@example("a b", "a_b")
@example("x" * 81, "x" * 82)
@example("", "drop")
def test_two_names_never_mean_the_same_drop(one: str, other: str) -> None:
    if one != other:
        assert drop_key(f"{one}.csv") != drop_key(f"{other}.csv")


@given(STEMS)
@example("a b")
def test_a_name_that_looks_like_the_key_of_another_does_not_mean_its_drop(stem: str) -> None:
    key = drop_key(f"{stem}.csv")
    assert drop_key(f"{key}.csv") == key if key == stem else drop_key(f"{key}.csv") != key


# Handing over


def test_a_file_that_is_handed_over_is_copied_and_never_changed(home: Home, ledger: Ledger, tmp_path: Path) -> None:
    mine = tmp_path / "july.csv"
    mine.write_text("leads")
    before = mine.stat()
    delivery = hand_over(home, ledger, mine)
    assert (delivery.drop, delivery.file_name, delivery.status) == ("july", "july.csv", "waiting")
    assert delivery.path.parent == home.handed
    assert delivery.path.read_text() == "leads"
    ledger.accept(delivery)
    assert mine.read_text() == "leads"
    assert (mine.stat().st_mtime_ns, mine.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert list(home.handed.iterdir()) == []


@pytest.mark.parametrize("name", ["july.csv.gz", "JULY.CSV.GZ"])
def test_a_compressed_file_stays_named_as_one(home: Home, ledger: Ledger, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"zipped")
    delivery = hand_over(home, ledger, tmp_path / name)
    assert delivery.path.name.endswith(".csv.gz")
    ledger.accept(delivery)
    assert ledger.newest(delivery.drop).path.name.endswith(".csv.gz")


def test_files_of_one_name_from_two_folders_are_two_deliveries_of_one_drop(
    home: Home, ledger: Ledger, tmp_path: Path
) -> None:
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "july.csv").write_text(folder)
        paths.append(hand_over(home, ledger, tmp_path / folder / "july.csv").path)
    assert [path.read_text() for path in paths] == ["a", "b"]
    assert [(d.drop, d.path) for d in ledger.deliveries()] == [("july", paths[0]), ("july", paths[1])]


@pytest.mark.parametrize(
    "make",
    [lambda path: path.symlink_to("/etc/hostname"), os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nowhere")],
    ids=["link", "pipe", "folder", "broken link"],
)
def test_what_is_not_a_regular_file_is_refused_without_opening_it(
    home: Home, ledger: Ledger, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "july.csv")
    with pytest.raises(
        DropRefused, match=r"^'july.csv' is not a regular file; deliver the file itself, not a link or folder$"
    ):
        hand_over(home, ledger, tmp_path / "july.csv")
    assert ledger.deliveries() == []


def test_a_file_that_is_not_there_is_refused(home: Home, ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(DropRefused) as refused:
        hand_over(home, ledger, tmp_path / "absent.csv")
    assert str(refused.value) == f"there is no file '{tmp_path}/absent.csv'; check the name"


def test_a_name_that_is_not_utf_8_can_be_handed_over_and_refused(home: Home, ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.csv")
    path.write_text("leads")
    delivery = hand_over(home, ledger, path)
    assert delivery.file_name == "caf?.csv"
    folder = ledger.refuse(delivery, REFUSED)
    assert json.loads((folder / "reason.json").read_text())["file"] == "caf?.csv"


# Deliveries


def test_the_same_content_twice_is_one_delivery(ledger: Ledger, incoming: Callable[..., Path]) -> None:
    started = time.time()
    first = ledger.deliver(incoming("july.csv"), "sha-1")
    ledger.accept(first)
    again = ledger.deliver(incoming("july.csv"), "sha-1")
    assert started <= first.updated <= again.updated <= time.time()
    assert ledger.deliveries() == [again]
    assert (again.status, again.attempts) == ("waiting", 2)


def test_the_newest_delivery_of_a_drop_is_the_one_that_counts(ledger: Ledger, incoming: Callable[..., Path]) -> None:
    path = incoming("july.csv")
    for content in ("sha-1", "sha-2"):
        ledger.deliver(path, content)
    ledger.deliver(incoming("june.csv"), "sha-1")
    assert ledger.newest("july").content == "sha-2"
    ledger.deliver(path, "sha-1")  # the former content comes back
    assert ledger.newest("july").content == "sha-1"
    assert [(d.drop, d.content) for d in ledger.deliveries()] == [
        ("july", "sha-2"),
        ("june", "sha-1"),
        ("july", "sha-1"),
    ]


def test_what_waits_where_another_file_is_put_is_replaced_and_nothing_else_is(
    ledger: Ledger, incoming: Callable[..., Path], tmp_path: Path
) -> None:
    path = incoming("july.csv")
    ledger.accept(ledger.deliver(path, "sha-1"))
    ledger.refuse(ledger.deliver(incoming("july.csv"), "sha-2"), REFUSED)
    ledger.deliver(incoming("june.csv"), "sha-3")
    ledger.deliver(tmp_path / "elsewhere.csv", "sha-4", name="july.csv")
    ledger.deliver(incoming("july.csv"), "sha-5")
    ledger.deliver(path, "sha-6")
    told = {"accepted": "", "refused": str(REFUSED), "waiting": ""}
    told["replaced"] = "another file took its place before it was read"
    states = ["accepted", "refused", "waiting", "waiting", "replaced", "waiting"]
    assert [(d.status, d.reason) for d in ledger.deliveries()] == [(state, told[state]) for state in states]
    ledger.deliver(path, "sha-5")  # it comes back
    assert [(d.content, d.status, d.attempts) for d in ledger.deliveries()[-2:]] == [
        ("sha-6", "replaced", 1),
        ("sha-5", "waiting", 2),
    ]


def test_a_drop_that_was_never_delivered_says_where_to_put_it(home: Home, ledger: Ledger) -> None:
    with pytest.raises(DropUnknown) as unknown:
        ledger.newest("july")
    assert str(unknown.value) == f"drop 'july' was never delivered; put its file into {home.incoming}"


def test_deliveries_made_at_once_are_all_noted(home: Home, incoming: Callable[..., Path]) -> None:
    path = incoming("x.csv")
    threads = [
        threading.Thread(target=lambda n=n: Ledger(home).deliver(path, f"sha-{n}", name=f"drop{n}.csv"))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deliveries = Ledger(home).deliveries()
    assert {d.drop for d in deliveries} == {f"drop{n}" for n in range(20)}
    assert len({d.number for d in deliveries}) == 20


def test_a_damaged_ledger_is_named_and_left_as_it_is(home: Home) -> None:
    home.ledger.write_bytes(b"no database" * 100)
    with pytest.raises(JunkLeadsError) as error:
        Ledger(home)
    assert str(error.value) == (
        f"the ledger {home.ledger} cannot be used (file is not a database); nothing was changed: restore it from a "
        "backup, or move it away and deliver the files again"
    )
    assert home.ledger.read_bytes() == b"no database" * 100


# What becomes of a file


def test_an_accepted_file_moves_to_the_archive(home: Home, ledger: Ledger, incoming: Callable[..., Path]) -> None:
    path = incoming("july.csv", "leads")
    content = content_of(path)
    ledger.accept(ledger.deliver(path, content))
    accepted = ledger.newest("july")
    assert accepted.status == "accepted"
    assert accepted.path == home.archive / f"july-{content[:12]}.csv"
    assert accepted.path.read_text() == "leads"
    assert not path.exists()


def test_accepting_twice_ends_as_accepting_once(ledger: Ledger, incoming: Callable[..., Path]) -> None:
    delivery = ledger.deliver(incoming("july.csv", "leads"), "sha-1")
    ledger.accept(delivery)
    ledger.accept(delivery)
    assert ledger.newest("july").path.read_text() == "leads"


def test_a_refused_file_moves_to_quarantine_with_its_reason(
    home: Home, ledger: Ledger, incoming: Callable[..., Path]
) -> None:
    path = incoming("july.csv", "leads")
    folder = ledger.refuse(ledger.deliver(path, "0123456789abcdef"), REFUSED)
    assert folder == home.quarantine / "july-0123456789ab"
    assert sorted(file.name for file in folder.iterdir()) == ["july.csv", "reason.json"]
    text = (folder / "reason.json").read_text(encoding="utf-8")
    reason = json.loads(text)
    assert len(text.splitlines()) == len(reason) + 2  # for people: a line for each
    assert datetime.fromisoformat(reason.pop("when")).tzinfo is not None
    assert reason == {
        "file": "july.csv",
        "drop": "july",
        "what": "the header lacks city_mapped",
        "where": "line 1",
        "expected": "every column",
        "do": "add it",
    }
    refused = ledger.newest("july")
    assert (refused.status, refused.path) == ("refused", folder / "july.csv")
    assert refused.reason == "the header lacks city_mapped (line 1); expected every column; add it"
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("leads.v2.csv", "leads.v2.csv"),
        ("leads.2021-07.CSV", "leads.2021-07.csv"),
        ("leads.csv.gz", "leads.csv.gz"),
        ("leads.a\nb.csv", drop_key("leads.a\nb.csv") + ".csv"),
    ],
)
def test_a_refused_file_is_named_after_its_drop(
    ledger: Ledger, incoming: Callable[..., Path], name: str, kept: str
) -> None:
    ledger.refuse(ledger.deliver(incoming(name), "sha-1"), REFUSED)
    assert ledger.newest(drop_key(name)).path.name == kept


def test_a_file_that_is_gone_is_refused_all_the_same(ledger: Ledger, incoming: Callable[..., Path]) -> None:
    path = incoming("july.csv")
    delivery = ledger.deliver(path, "sha-1")
    path.unlink()
    folder = ledger.refuse(delivery, REFUSED)
    assert [file.name for file in folder.iterdir()] == ["reason.json"]
    assert ledger.newest("july").status == "refused"


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.gz", ".csv.gz"), ("a.CSV.GZ", ".csv.gz"), ("a.Parquet", ".parquet"), ("a", ".csv"), ("a.txt", ".csv")],
)
def test_a_file_that_is_handed_over_is_read_as_its_name_says(
    home: Home, ledger: Ledger, tmp_path: Path, name: str, suffix: str
) -> None:
    file = tmp_path / name
    file.write_text("one")
    assert hand_over(home, ledger, file).path.name.endswith(f"{content_of(file)[:12]}{suffix}")


def test_the_content_of_a_file_that_is_gone_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DropRefused) as refused:
        content_of(tmp_path / "july.csv")
    assert refused.value.as_dict() == {
        "what": "'july.csv' is not there any more",
        "where": "file",
        "expected": "",
        "do": "deliver it again",
    }


@pytest.mark.parametrize(
    ("there", "here", "found"),
    [(True, True, "here"), (False, True, "here"), (False, False, "here"), (True, False, "there")],
)
def test_a_file_noted_in_full_by_a_former_version_is_looked_for_below_the_home_first(
    home: Home, ledger: Ledger, tmp_path: Path, there: bool, here: bool, found: str
) -> None:
    former = tmp_path / "former" / "archive" / "july.csv"
    for path, exists in ((former, there), (home.archive / "july.csv", here)):
        path.parent.mkdir(parents=True, exist_ok=True)
        if exists:
            path.touch()
    ledger.deliver(former, "sha-1")  # outside the home, it is noted in full
    assert ledger.newest("july").path == {"here": home.archive / "july.csv", "there": former}[found]


def test_a_content_that_was_never_delivered_is_told(ledger: Ledger, incoming: Callable[..., Path]) -> None:
    file = incoming("july.csv")
    delivered = ledger.deliver(file, content_of(file))
    assert ledger.of_content("july", delivered.content) == delivered
    with pytest.raises(DropUnknown, match="drop 'july' was never delivered with this content; deliver its file again"):
        ledger.of_content("july", "another")


@pytest.mark.parametrize("lost", ["nothing", "the reason", "the folder"])
def test_a_refused_file_is_resolved_when_a_mended_one_is_accepted_whatever_became_of_its_folder(
    ledger: Ledger, incoming: Callable[..., Path], lost: str
) -> None:
    for _ in range(2):  # refused, mended; and refused again for the same content, and mended again
        file = incoming("july.csv", "bad")
        folder = ledger.refuse(ledger.deliver(file, content_of(file)), DropRefused("it is bad", do="mend it"))
        if lost == "the reason":
            (folder / "reason.json").unlink()
        elif lost == "the folder":
            shutil.rmtree(folder)
        mended = incoming("july.csv", "good")
        ledger.accept(ledger.deliver(mended, content_of(mended)))
        assert not folder.exists()
        resolved = ledger.home.resolved / folder.name
        assert [d.path.parent for d in ledger.deliveries_of("july") if d.status == "refused"] == [resolved]
        assert resolved.exists() == (lost != "the folder")
        if lost == "nothing":
            reason = json.loads((resolved / "reason.json").read_text(encoding="utf-8"))
            assert datetime.fromisoformat(reason["resolved"].pop("when")).tzinfo is not None
            assert (reason["what"], reason["resolved"]) == ("it is bad", {"by": ledger.newest("july").content})
        else:
            assert not (resolved / "reason.json").exists()


def test_what_is_stored_of_a_drop_is_not_used_while_its_newest_delivery_is_refused(
    home: Home, ledger: Ledger, incoming: Callable[..., Path]
) -> None:
    ledger.accept(ledger.deliver(incoming("july.csv"), "sha-1"))
    ledger.refuse_refused("july")
    folder = ledger.refuse(ledger.deliver(incoming("july.csv", "two"), "sha-2"), REFUSED)
    with pytest.raises(DropRefused) as refused:
        ledger.refuse_refused("july")
    assert str(refused.value) == (
        "the newest delivery of drop 'july' was refused, and what is stored is of a former one; "
        f"mend the file and deliver it again (its reason.json is in {folder})"
    )
    ledger.deliver(incoming("july.csv", "three"), "sha-3")
    ledger.refuse_refused("july")  # it waits, and may be good


def test_a_file_moves_to_another_disk_as_well(
    home: Home, ledger: Ledger, incoming: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_disk(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", another_disk)
    path = incoming("july.csv", "leads")
    os.utime(path, (1, 1))
    ledger.accept(ledger.deliver(path, "0123456789abcdef"))
    moved = ledger.newest("july").path
    assert (moved, moved.read_text(), moved.stat().st_mtime) == (home.archive / "july-0123456789ab.csv", "leads", 1)
    assert [*home.incoming.glob("july*"), *home.archive.iterdir()] == [moved]


@pytest.mark.parametrize("status", ["accepted", "refused"])
def test_killed_before_the_ledger_knows_the_file_is_where_it_was_and_the_same_again_settles_it(
    home: Home, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(home)
    path = home.incoming / "july.csv"
    path.write_text("a\n")
    delivery = ledger.deliver(path, content_of(path))

    def settle() -> None:
        ledger.accept(delivery) if status == "accepted" else ledger.refuse(delivery, DropRefused("no", do="mend it"))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killing:
        killing.setattr(Ledger, "settle", killed)
        with pytest.raises(KeyboardInterrupt):
            settle()
    assert path.read_text() == "a\n"
    assert ledger.newest("july").status == "waiting"
    settle()
    found = ledger.newest("july")
    assert (found.status, found.path.read_text(), path.exists()) == (status, "a\n", False)
    assert not [*home.root.rglob("*.part")]
