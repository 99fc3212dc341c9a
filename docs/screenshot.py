"""Takes the README's pictures: of the running demo (``make ui`` first), or of a posture's page.

python docs/screenshot.py
backup-pipeline status --html posture.html && python docs/screenshot.py posture.html
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

TARGET = Path(__file__).parent / "images" / "asset-graph.png"
PAGE_TARGET = TARGET.with_name("posture.png")
PAGE_HEIGHT = 1180
DEFAULT_URL = "http://127.0.0.1:3000"
LINEAGE = "/assets/demo/model?view=lineage&lineageScope=neighbors&lineageDepth=2"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SETTLE_MS = 6000


def main(url: str) -> None:
    """Open the model's lineage and store what is seen.

    Args:
        url: Where Dagster's UI answers.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("chromium is not installed: apt-get install chromium brings it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1500, "height": 820})
        page.goto(f"{url}/asset-groups")
        page.wait_for_timeout(SETTLE_MS)
        greeting = page.get_by_text("Skip", exact=True)
        if greeting.count():
            greeting.first.click()
        page.get_by_text("Hide navigation").click()
        page.goto(url + LINEAGE)
        page.get_by_text("partitions").first.wait_for()
        page.wait_for_timeout(SETTLE_MS)
        page.mouse.move(700, 790)
        TARGET.parent.mkdir(exist_ok=True)
        page.screenshot(path=TARGET)
        browser.close()
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


def of_page(file: Path) -> None:
    """Store what is seen first of a posture's page.

    Args:
        file: What ``backup-pipeline status --html`` wrote.
    """
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": PAGE_HEIGHT})
        page.goto(file.resolve().as_uri())
        page.screenshot(path=PAGE_TARGET)
        browser.close()
    print(f"{PAGE_TARGET}: {PAGE_TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    given = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_URL
    if given.endswith(".html"):
        of_page(Path(given))
    else:
        main(given)
