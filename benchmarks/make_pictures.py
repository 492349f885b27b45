"""Make the pictures of docs/for-sales.md from a home with a scored drop, on screens and paper as people see them.

    python benchmarks/make_pictures.py DROP [--out docs/pictures]     (of the home that JUNK_LEADS_HOME names)

Needs Chromium, LibreOffice and pdftoppm. The pictures are of generated leads: run `make run` first.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Browser, sync_playwright

from junk_leads.home import Home

SCREENS = {"report-laptop": (1000, 1150), "report-phone": (390, 1250)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Pictures of what people see of a scored drop.")
    parser.add_argument("drop")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    given = parser.parse_args()
    home = Home.from_environment()
    given.out.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as found, tempfile.TemporaryDirectory() as folder:
        browser = found.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        pictures_of_report(browser, home, given.drop, given.out, Path(folder))
        picture_of_call_list(home, given.drop, given.out, Path(folder))
        picture_of_service(browser, given.out)
        browser.close()


def pictures_of_report(browser: Browser, home: Home, drop: str, out: Path, folder: Path) -> None:
    """The report on a laptop, on a phone and printed (its first sheet)."""
    for name, (width, height) in SCREENS.items():
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto((home.reports / f"{drop}.html").as_uri())
        page.screenshot(path=out / f"{name}.png")
        if name == "report-laptop":
            page.pdf(path=folder / "report.pdf", format="A4", print_background=True)
        page.close()
    first_sheet(folder / "report.pdf", out / "report-print.png", 60)


def picture_of_call_list(home: Home, drop: str, out: Path, folder: Path) -> None:
    """The first sheet of the workbook, as LibreOffice shows it."""
    workbook = home.predictions / f"{drop}.call_list.xlsx"
    profile = f"-env:UserInstallation={(folder / 'profile').as_uri()}"
    asked = ["soffice", profile, "--headless", "--convert-to", "pdf", "--outdir", str(folder), str(workbook)]
    subprocess.run(asked, check=True, capture_output=True, timeout=180)
    first_sheet(folder / f"{drop}.call_list.pdf", out / "call-list.png", 75)


def first_sheet(printed: Path, picture: Path, dots: int) -> None:
    """The first page of a PDF as a picture."""
    subprocess.run(
        ["pdftoppm", "-r", str(dots), "-png", "-singlefile", str(printed), str(picture.with_suffix(""))], check=True
    )


def picture_of_service(browser: Browser, out: Path) -> None:
    """The page of the HTTP service, with what /score takes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = subprocess.Popen([sys.executable, "-m", "junk_leads.cli", "serve", "--port", str(port)])
    try:
        for _ in range(100):
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.3)
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.goto(f"http://127.0.0.1:{port}/docs")
        page.screenshot(path=out / "service.png")
        page.close()
    finally:
        service.terminate()
        service.wait(30)


if __name__ == "__main__":
    main()
