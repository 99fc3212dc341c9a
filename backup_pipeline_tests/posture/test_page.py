"""The page in a real browser: it asks no network, and takes no name for markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from backup_pipeline.posture.coverage import cover
from backup_pipeline.posture.markup import Html, el
from backup_pipeline.posture.model import DatasetPosture, Posture
from backup_pipeline.posture.page import page
from backup_pipeline.posture.tier import LockFacts, Point, Proof, TierPosture
from backup_pipeline_tests.posture.test_judging import AWAY, HERE, NOW, judge_copies, tier

CHROMIUM = Path("/usr/bin/chromium")
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
EVIL = "a<script>alert(1)<b>&amp;"
LONG = "warehouse/" + "very_long_name_without_any_place_to_break_" * 4


def history(days: int) -> list[Point]:
    return [
        Point(
            (NOW - timedelta(days=age)).date(),
            NOW - timedelta(days=age),
            1000 * (days - age),
            10 * age,
            age,
            2.5,
            9 if age == 3 else 10,
            10,
        )
        for age in range(days, 0, -1)
    ]


def everything() -> Posture:
    """A posture with all that a page can show."""
    today = NOW.date()
    due = [today - timedelta(days=age) for age in range(29, 0, -1)]
    good = Proof(NOW - timedelta(days=2), ok=True, coverage=0.05, whole_s=1800.0)
    bad = Proof(NOW - timedelta(days=1), ok=False, errors=3, coverage=1.0)
    first = tier(
        newest_id="ab" * 16,
        newest_day=today,
        newest_bytes=123_456_789,
        due=due,
        missing_days=due[-3:-1],
        late_days=due[4:6],
        trend=history(29),
        entries=290,
        good_entries=289,
        rto_s=3600.0,
        drilled=good,
        verified=good,
        flags=[EVIL],
    )
    away: dict[str, Any] = {**AWAY, "lock": LockFacts("compliance", 90, NOW + timedelta(days=9))}
    tiers: list[TierPosture] = [
        first,
        replace(first, tier="cloud", verified=bad, incomplete=2, **away),
        replace(first, tier="offsite", newest=None, age_s=9e5, fresh=False, lock=LockFacts()),
        tier("away", newest=None, age_s=None, fresh=False, error=EVIL, reachable=False),
    ]
    datasets: list[DatasetPosture] = []
    for key in (EVIL, LONG, "vision/a"):
        own = [replace(one, dataset=key) for one in tiers]
        datasets.append(DatasetPosture(key, "default", own, judge_copies(HERE, own, NOW)))
    graph = {"raw": [], LONG: ["raw"], EVIL: [LONG], "tmp": []}
    coverage = cover(graph, {"vision/a"}, exempt={"tmp": EVIL}, at=NOW)
    return Posture(
        NOW, 30, "UTC", datasets, plan="/srv/backup.yaml", deployment=None, coverage=coverage
    )


class _Elements(HTMLParser):
    """Collects the tags of a page, and its tables' rows."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


def test_names_and_messages_are_text_and_never_markup() -> None:
    written = page(everything())
    elements = _Elements()
    elements.feed(written)
    assert "script" not in elements.tags
    assert "b" in elements.tags, "the parser sees what there is"
    assert "<script" not in written
    assert written.count("a&lt;script&gt;alert(1)&lt;b&gt;&amp;amp;") >= 6
    names = {name for name, _ in elements.attributes}
    assert not {name for name in names if name.startswith("on")} | (names & {"src", "href"})
    assert not re.search(r"url\(|@import|https?://", written)


def test_markup_escapes_whatever_is_not_markup() -> None:
    made = el("td", '<i>"', Html("<b>x</b>"), data_label='"><script>', class_=None)
    assert made == ('<td data-label="&quot;&gt;&lt;script&gt;">&lt;i&gt;&quot;<b>x</b></td>')


def test_an_empty_plan_and_a_first_day_have_a_page_too() -> None:
    assert "nothing to protect" in page(Posture(NOW, 30, "UTC", []))
    new = tier(newest=None, age_s=60.0, next_run=None)
    one = DatasetPosture("a", "default", [new], judge_copies(HERE, [new], NOW))
    assert "no good one yet" in page(Posture(NOW, 30, "UTC", [one]))


# -- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield opened
        opened.close()


CONTRAST = """
() => {
  const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.getClientRects().length || element.closest("svg")) continue;
    const style = getComputedStyle(element);
    const a = light(parse(style.color)), b = light(behind(element));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5 || parseFloat(style.fontSize) < 11)
      poor.push([element.textContent.slice(0, 30), ratio, style.fontSize]);
  }
  return poor;
}
"""

OUTSIDE = """
() => [...document.querySelectorAll("body *")].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width && box.right > innerWidth + 0.5 && !element.closest("thead");
}).map(element => element.tagName + ": " + element.textContent.slice(0, 40))
"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_reads_well_in_a_browser(
    browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    file = tmp_path / "posture.html"
    file.write_text(page(everything()), encoding="utf-8")
    said: list[str] = []
    asked: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(file.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate(OUTSIDE) == []
    assert tab.evaluate(CONTRAST) == []
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 24)"
    assert dark == (scheme == "dark")
    assert tab.get_by_role("heading", name="What needs a person").is_visible()
    assert tab.get_by_role("rowheader", name=re.compile("local")).count() == 3
    assert tab.get_by_role("img", name=re.compile("27 of 29 due days are good")).count() == 9
    context.close()
    assert (said, asked) == ([], [file.as_uri()])
