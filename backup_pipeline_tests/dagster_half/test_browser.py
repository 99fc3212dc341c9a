"""In a real browser: the asset graph, and the partitions of a backup."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from backup_pipeline_tests.dagster_half.live import LiveDagster
from backup_pipeline_tests.dagster_half.project import Project

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 45_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.xdist_group("dagster servers"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed"),
]


@pytest.fixture
def live(tmp_path: Path, dagster_home: Path) -> Iterator[tuple[LiveDagster, list[str]]]:
    """A web server over a plan with a good day, a missing one, and a failed one."""
    today = datetime.datetime.now(datetime.UTC).date()
    days = [str(today - datetime.timedelta(days=age)) for age in (3, 2, 1)]
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        one = Project(tmp_path, instance, now=f"{days[0]}T10:00:00", start=days[0])
        one.back_up("local", days[0])
        one.at(f"{days[2]}T10:00:00")
        one.write("vision/a", "new.bin", b"new" * 100_000)
        one.back_up("local", days[2])
        assert not one.back_up("local", days[1]).success
    plan = tmp_path / "backup.yaml"
    plan.write_text(yaml.safe_dump(one.document))
    definitions = Path(__file__).parent / "live_defs.py"
    environ = {"BACKUP_TEST_PLAN": str(plan)}
    with LiveDagster(dagster_home, definitions, environ, daemon=False) as dagster:
        yield dagster, days


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """A page of Debian's chromium, with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=str(CHROMIUM),
            args=FLAGS,
            viewport={"width": 1500, "height": 950},
        )
        browser.set_default_timeout(PATIENCE_MS)
        try:
            yield browser.new_page()
        finally:
            browser.close()


def skip_welcome(page: Any) -> None:
    """Close the community's pop-up, where it covers the page."""
    from playwright.sync_api import TimeoutError as NotThere

    try:
        page.get_by_role("button", name="Skip").click(timeout=4000)
    except NotThere:
        return


def test_the_asset_graph_and_a_backups_partitions_are_shown(
    live: tuple[LiveDagster, list[str]], page: Any
) -> None:
    from playwright.sync_api import expect

    dagster, days = live
    page.goto(f"{dagster.url}/locations/backups/asset-groups/backup/lineage")
    skip_welcome(page)
    for store in ("local", "cloud", "offsite"):
        expect(page.get_by_text(store, exact=True).first).to_be_visible()
    expect(page.get_by_text("50% filled (1 failed)")).to_be_visible()

    page.goto(f"{dagster.url}/assets/backup/local/vision/a?view=partitions&partition={days[2]}")
    for words in ("Failed (1)", "Materialized (2)", "Missing (1)"):
        expect(page.get_by_text(words)).to_be_visible()
    for day in days:
        expect(page.get_by_text(day, exact=True).first).to_be_visible()
    expect(page.get_by_text("backup/stored_bytes", exact=True)).to_be_visible()

    page.get_by_text("[Show Markdown]").first.click()
    picture = page.locator("img[src^='data:image/svg+xml']")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 100, "the picture is drawn"
