"""What a salesperson reads: the call list, the report, one lead explained; and what cannot be asked for."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from junk_leads.defs.assets import reports
from junk_leads.defs.expectations import asking
from junk_leads.home import Home
from junk_leads.steps.watching.trust import TITLES
from junk_leads.stores.warehouse import connect
from junk_leads_tests.conftest import DELIVERED, SCHEMA, Outcome, Trained, copied_home, run_command

pytestmark = pytest.mark.xdist_group("home")

Table = list[dict[str, str]]
OWN = ["rank", "score", "grade", "probability", "why", "city", "channel", "created", "flag", "lead_number"]


def read(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def scored(trained: Trained) -> Table:
    return read(trained.home.predictions / "new.csv")


def test_the_call_list_is_every_lead_in_the_order_to_call_with_its_delivered_cells(
    trained: Trained, scored: Table
) -> None:
    with (trained.home.predictions / "new.call_list.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == [*OWN, *(name for name in SCHEMA.names if name != SCHEMA.label)]
    ordered = sorted(scored, key=lambda row: (-float(row["probability"]), int(row["lead_number"])))
    assert [row[9] for row in rows] == [row["lead_number"] for row in ordered]
    for rank, (row, lead) in enumerate(zip(rows, ordered, strict=True), 1):
        told = dict(zip(OWN, row[: len(OWN)], strict=True))
        assert told["rank"] == str(rank)
        assert (told["score"], told["grade"], told["flag"]) == (lead["score"], lead["grade"], lead["predicted_flag"])
        assert float(told["probability"]) == round(100 * float(lead["probability"]), 1)
        assert lead["reasons"].startswith(told["why"])
        assert len(told["why"].split(" | ")) <= 3
        assert row[len(OWN) :] == [lead[name] for name in header[len(OWN) :]]


def test_the_workbook_holds_the_same_list_a_summary_and_what_each_column_is(trained: Trained) -> None:
    book = openpyxl.load_workbook(trained.home.predictions / "new.call_list.xlsx")
    assert book.sheetnames == ["Call list", "Summary", "Columns"]
    sheet = book["Call list"]
    assert sheet.freeze_panes == "E2"
    assert sheet.auto_filter.ref.startswith("A1:")
    listed = read(trained.home.predictions / "new.call_list.csv")
    assert sheet.max_row == len(listed) + 1
    first = [cell.value for cell in sheet[2]][: len(OWN)]
    assert [str(first[0]), first[2], str(first[9])] == [listed[0][name] for name in ("rank", "grade", "lead_number")]
    assert sheet["C2"].fill.fgColor.rgb == "FFC6EFCE"
    assert {cell.data_type for row in sheet.iter_rows() for cell in row if cell.value is not None} <= {"s", "n", "d"}
    summary = {row[0].value: row[1].value for row in book["Summary"].iter_rows()}
    assert summary["can it be believed"].startswith(("These scores", "Believe"))
    assert re.match(r"\d+ leads; in the model's hold-out \d+% apply \(\d+% to \d+%\)", summary["grade A"])
    columns = {row[0].value for row in book["Columns"].iter_rows()}
    assert columns >= {*OWN, "city_mapped"}


@pytest.fixture
def told_beside(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What of the call list the process beside is told to do, in a command that has one."""
    told: list[str] = []

    def beside(call: Any) -> Callable[[], Any]:
        told.append(call.func.__name__)
        return asking.beside(call)

    monkeypatch.setattr(reports, "beside", beside)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.delitem(sys.modules, "great_expectations", raising=False)
    return told


def sheets(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {sheet.title: list(sheet.iter_rows(values_only=True)) for sheet in openpyxl.load_workbook(path)}


def test_a_run_that_will_report_has_its_list_written_beside_all_that_it_does_until_then(
    trained_home: Home, trained: Trained, told_beside: list[str]
) -> None:
    book = trained_home.predictions / "new.call_list.xlsx"
    assert run_command("score", trained.new, home=trained_home).code == 0
    assert told_beside == ["begin_workbook", "end_workbook"]
    begun = sheets(book)
    assert [str(row[0]) for row in begun["Call list"][1:]] == [row["rank"] for row in read(book.with_suffix(".csv"))]

    told_beside.clear()
    sys.modules.pop("great_expectations", None)
    book.unlink()
    assert run_command("report", "new", home=trained_home).code == 0
    assert told_beside == ["write_workbook"]  # nothing was begun
    assert sheets(book) == begun

    told_beside.clear()
    sys.modules.pop("great_expectations", None)
    assert run_command("score", "new", "--top", 7, "--format", "parquet", home=trained_home).code == 0
    assert told_beside == ["begin_workbook", "end_workbook"]
    assert sheets(book)["Call list"] == begun["Call list"][:8]
    assert not list(trained_home.predictions.glob("*.part"))


@pytest.mark.parametrize("when", ["the drop is another by then", "its process is lost"])
def test_a_list_that_was_begun_in_vain_is_written_anew(
    trained_home: Home, trained: Trained, told_beside: list[str], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    own = reports.believed

    def believed(*given: Any) -> Any:
        model, found = own(*given)
        if when == "its process is lost":
            assert asking._worker is not None
            asking._worker.close()
            return model, found
        return model, replace(found, warnings=("another drop",))

    monkeypatch.setattr(reports, "believed", believed)
    assert run_command("score", trained.new, home=trained_home).code == 0
    lost = when == "its process is lost"
    assert told_beside == ["begin_workbook", "end_workbook" if lost else "write_workbook"]
    book = sheets(trained_home.predictions / "new.call_list.xlsx")
    assert len(book["Call list"]) == 1 + len(read(trained_home.predictions / "new.csv"))
    assert ("warning" in book["Call list"][0]) == (not lost)
    assert {row[10] for row in book["Call list"][1:]} == {"another drop"} or lost


HOSTILE = [
    "=1+1",
    "+cmd",
    "@SUM(A1)",
    "-2",
    "\tx",
    "<script>alert(1)</script>",
    "{{ 7*7 }}",
    "https://evil.example.com",
    "<r>runs & of rich text</r>",
    '<r><t>a</t></r></is></c><c r="ZZ9"><f>1+1</f></c><c r="ZZ9" t="inlineStr"><is><r><t>b</t></r>',
]


@pytest.fixture(scope="module")
def hostile(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a scored drop whose texts are formulas and markup."""
    folder = tmp_path_factory.mktemp("hostile")
    path = folder / "odd.csv"
    columns = [*(name for name in SCHEMA.names if name != SCHEMA.label), "=phone"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        good = {name: value for name, value in DELIVERED.items() if name != SCHEMA.label}
        for number, text in enumerate(HOSTILE * 20):
            texts = {"city_mapped": text, "first_platform_c": text, "=phone": text}
            writer.writerow({**good, "careers": number, "total_leads_droppped": number % 5, **texts})
    home = copied_home(trained.home, folder / "home")
    assert run_command("score", path, "--accept-drift", "--why", "a test", home=home).code == 0
    return home


def test_whatever_was_delivered_no_cell_of_the_call_list_runs(hostile: Home) -> None:
    book = openpyxl.load_workbook(hostile.predictions / "odd.call_list.xlsx")
    cells = [cell for sheet in book for row in sheet.iter_rows() for cell in row if cell.value is not None]
    assert {cell.data_type for cell in cells} <= {"s", "n", "d"}
    assert [cell for cell in cells if cell.hyperlink] == []
    assert {"=1+1", *(f"'{text}" for text in HOSTILE if text.startswith("<r>"))} <= {cell.value for cell in cells}
    assert book["Call list"].max_column < openpyxl.utils.column_index_from_string("ZZ")
    with (hostile.predictions / "odd.call_list.csv").open(newline="") as file:
        starts = {cell[:1] for row in csv.reader(file) for cell in row}
    assert not starts & set("=+-@\t")


def test_whatever_was_delivered_is_text_in_the_report(hostile: Home) -> None:
    page = (hostile.reports / "odd.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page.lower()
    assert "7*7" in page
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?https?:", page)  # the network is asked for nothing


def test_the_call_list_can_be_limited(trained_home: Home, scored: Table, junk_leads: Callable[..., Outcome]) -> None:
    done = junk_leads("score", "new", "--top", "5", "--grade", "b,C", "--json")
    assert done.code == 0
    listed = read(Path(done.json["drops"][0]["call_list"]).with_suffix(".csv"))
    ordered = sorted(scored, key=lambda row: (-float(row["probability"]), int(row["lead_number"])))
    assert [row["lead_number"] for row in listed] == [
        row["lead_number"] for row in ordered if row["grade"] in ("B", "C")
    ][:5]
    refused = junk_leads("score", "new", "--grade", "E")
    assert refused.code == 2


def test_the_workbook_opens_in_libreoffice(trained: Trained, tmp_path: Path) -> None:
    office = shutil.which("soffice")
    if office is None:
        pytest.skip("LibreOffice is not installed")
    profile = f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    book = trained.home.predictions / "new.call_list.xlsx"
    asked = [office, profile, "--headless", "--convert-to", "csv", "--outdir", str(tmp_path), str(book)]
    subprocess.run(asked, check=True, capture_output=True, timeout=180)
    shown = read(tmp_path / "new.call_list.csv")
    listed = read(trained.home.predictions / "new.call_list.csv")
    assert [row["lead_number"] for row in shown] == [row["lead_number"] for row in listed]
    assert [float(row["probability"]) for row in shown] == [float(row["probability"]) for row in listed]


# The report


def test_the_report_tells_in_order_what_people_ask(trained: Trained, scored: Table) -> None:
    page = (trained.home.reports / "new.html").read_text(encoding="utf-8")
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert titles == [
        *("Can it be believed?", "Whom to call first", "What came in", "Scores and grades", "1s and 0s", "Channels"),
        *("Moved since training", "The model", "What to do next"),
    ]
    best = sorted(scored, key=lambda row: (-float(row["probability"]), int(row["lead_number"])))[:20]
    assert re.findall(r'"who">lead ([\d,]*\d)', page) == [row["lead_number"] for row in best]
    assert f"<b>{len(scored)}</b>leads kept" in page
    expected = sum(float(row["probability"]) for row in scored)
    assert f'<td class="n">{expected:,.0f}</td>' in page
    assert len(page.encode()) < 100_000


def test_what_moved_is_drawn_with_the_shares_of_the_drop(trained: Trained, scored: Table) -> None:
    page = (trained.home.reports / "new.html").read_text(encoding="utf-8")
    titles = re.findall(r"<figcaption.*?>(.+?): ([\d.]+)</figcaption>", page)
    assert {title for title, _ in titles} == set(TITLES.values())
    indexes = [float(index) for _, index in titles]
    assert indexes == sorted(indexes, reverse=True)
    (told,) = re.findall(r'aria-label="Share in training and now, by platform: (.+?)\."', page)
    now = {name: int(share) for name, share in re.findall(r"(\w+) \d+ %, now (\d+) %", told)}
    platforms = Counter(row["first_platform_c"].capitalize() for row in scored)
    shown = {name: share for name, share in now.items() if name != "Others"}
    assert len(shown) == 5
    assert shown == {name: round(100 * platforms[name] / len(scored)) for name in shown}
    assert sum(now.values()) in range(97, 104)  # each is rounded


def test_the_shares_of_a_drop_that_a_former_program_encoded_are_those_it_would_have_kept(trained_home: Home) -> None:
    page = trained_home.reports / "new.html"
    before = page.read_text(encoding="utf-8")
    with connect(trained_home.warehouse) as con:
        ((kept,),) = con.sql("SELECT shares FROM drop_trust WHERE drop = 'new'").fetchall()
        assert set(json.loads(kept)) == set(TITLES)
        con.execute("ALTER TABLE drop_trust DROP COLUMN shares")
    assert run_command("report", "new", home=trained_home).code == 0
    assert page.read_text(encoding="utf-8") == before
    page.unlink()
    assert run_command("score", "new", home=trained_home).code == 0  # the column comes back
    with connect(trained_home.warehouse) as con:
        assert con.sql("SELECT shares FROM drop_trust WHERE drop = 'new'").fetchall() == [(kept,)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as found:
        started = found.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("drop", ["new", "odd", "index"])
def test_pages_read_well_by_axe_and_fit_their_screen(
    drop: str, width: int, scheme: Any, browser: Any, hostile: Home
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    if drop == "index":
        assert run_command("report", home=hostile).code == 0
    asked: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    try:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: asked.append("a dialog"))
        page.goto((hostile.reports / f"{drop}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert [violation["id"] for violation in Axe().run(page).response["violations"]] == []
        if drop == "index":
            page.click("text=odd")
            assert page.title() == "odd: whom to call"
    finally:
        context.close()
    assert [url for url in asked if not url.startswith("file:")] == []


def test_the_report_prints_on_a4(browser: Any, trained: Trained, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto((trained.home.reports / "new.html").as_uri())
    printed = page.pdf(format="A4", print_background=True)
    page.close()
    pages = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert 1 <= pages <= 6


def test_the_index_lists_scored_drops_and_what_is_not_scored_is_refused(
    hostile: Home, tmp_path: Path, junk_leads: Callable[..., Outcome], trained: Trained
) -> None:
    told = run_command("report", "--json", home=hostile)
    assert {row["drop"] for row in told.json["drops"]} == {"new", "odd"}
    assert 'href="odd.html"' in Path(told.json["index"]).read_text()
    again = run_command("report", "odd", home=hostile)
    assert (again.code, again.out.strip()) == (0, str(hostile.reports / "odd.html"))
    for drop, line in (("history", "prediction_summary does not hold drop 'history'"), ("x", "drop 'x' was never")):
        refused = run_command("report", drop, home=trained.home)
        assert refused.code == 1
        assert refused.failures[0].startswith(line)
    empty = junk_leads("report")  # in a home where nothing was delivered
    assert empty.code == 0
    assert "Nothing was scored yet" in Path(empty.out.strip()).read_text()


@pytest.mark.long
def test_a_drop_of_no_lead_of_one_or_of_one_grade_has_its_report_and_call_list(
    trained_home: Home, write_csv: Callable[..., Path], junk_leads: Callable[..., Outcome]
) -> None:
    columns = tuple(name for name in SCHEMA.names if name != SCHEMA.label)
    files = [write_csv(f"rows{rows}.csv", *[{}] * rows, columns=columns) for rows in (0, 1)]
    alike = [{"created_date": f"2021-07-01 00:00:{second:02d}"} for second in range(30)]
    done = junk_leads("score", *files, write_csv("alike.csv", *alike, columns=columns), "--json")
    assert (done.code, done.failures) == (0, [])
    of_one_grade = read(trained_home.predictions / "alike.call_list.csv")
    assert (len(of_one_grade), len({row["grade"] for row in of_one_grade})) == (30, 1)
    assert "alike: whom to call" in (trained_home.reports / "alike.html").read_text()
    for rows in (0, 1):
        assert len(read(trained_home.predictions / f"rows{rows}.call_list.csv")) == rows
        page = (trained_home.reports / f"rows{rows}.html").read_text()
        assert ("There is nothing to believe" in page) == (rows == 0)
        book = openpyxl.load_workbook(trained_home.predictions / f"rows{rows}.call_list.xlsx")
        assert book["Call list"].max_row == rows + 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_one_plain_line_and_leaves_the_former_files(trained_home: Home) -> None:
    folders = (trained_home.predictions, trained_home.reports)
    parts = [folders[0] / "new.call_list.xlsx.part", folders[0] / "new.call_list.csv.part", folders[1] / "new.part"]
    for part in parts:
        before = {path: path.read_bytes() for folder in folders for path in folder.glob("new.*")}
        part.symlink_to("/dev/full")
        failed = run_command("report", "new", home=trained_home)
        part.unlink(missing_ok=True)
        assert failed.code == 1
        (line,) = failed.failures
        assert line.startswith("the disk is full, or cannot be written"), part
        assert line.endswith("free some space and run it again")
        assert {path for folder in folders for path in folder.glob("new.*")} == set(before)
        assert before[trained_home.reports / "new.html"] == (trained_home.reports / "new.html").read_bytes()
    assert run_command("report", "new", home=trained_home).code == 0


# One lead


def test_one_lead_is_explained_with_figures_and_the_leads_most_like_it(trained: Trained, scored: Table) -> None:
    lead = scored[10]
    told = run_command("explain", "new", lead["lead_number"], "--json", home=trained.home).json
    assert told["prediction"]["probability"] == float(lead["probability"])
    assert told["prediction"]["reasons"] == lead["reasons"]
    assert abs(told["base"] + sum(told["contributions"].values()) - told["log_odds"]) < 1e-6
    weights = [abs(value) for value in told["contributions"].values()]
    assert weights == sorted(weights, reverse=True)
    assert len(told["alike"]) == 10
    assert {one["drop"] for one in told["alike"]} == {"history"}
    distances = [one["distance"] for one in told["alike"]]
    assert distances == sorted(distances)
    text = run_command("explain", "new", lead["lead_number"], home=trained.home).out
    assert text.startswith(
        f"lead {lead['lead_number']} of new: {float(lead['probability']):.1%}, score {lead['score']}"
    )
    assert f"{sum(one['label'] for one in told['alike'])} of 10 applied" in text


def test_a_lead_or_drop_that_is_not_there_is_one_plain_line(trained: Trained) -> None:
    for arguments, line in (
        (("new", "99999"), "drop 'new' has no scored lead 99999; its leads are numbered 1 to "),
        (("history", "1"), "predictions does not hold drop 'history'"),
        (("nowhere", "1"), "drop 'nowhere' was never delivered"),
    ):
        refused = run_command("explain", *arguments, "--json", home=trained.home)
        assert refused.code == 1
        assert json.loads(refused.out)["error"].startswith(line)
        assert refused.failures[0].startswith(line)
    assert run_command("explain", "new", "0", home=trained.home).code == 2
