"""A posture as one self-contained HTML page, good enough to hand to an auditor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from zoneinfo import ZoneInfo

from backup_pipeline import __version__
from backup_pipeline.engine.progress import human_bytes
from backup_pipeline.plan.cadence import local_day
from backup_pipeline.posture.conditions import Condition, Kind, conditions
from backup_pipeline.posture.copies import Copies
from backup_pipeline.posture.coverage import Coverage
from backup_pipeline.posture.markup import Html, el, join
from backup_pipeline.posture.meanings import meanings
from backup_pipeline.posture.model import Posture
from backup_pipeline.posture.sheets import pill, set_sheet, tier_sheet
from backup_pipeline.posture.style import STYLE
from backup_pipeline.posture.trends import charts, trend_sheet
from backup_pipeline.posture.words import share

__all__ = ["page"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The page asks for nothing, and a browser is told to refuse if it did."""

MOST_NEEDS = 200
MOST_ASSETS = 500

_KIND_WORDS: dict[Kind, tuple[str, str]] = {
    "rpo_missed": ("bad", "✕ RPO broken"),
    "failed": ("bad", "✕ failed"),
    "at_risk": ("warn", "! RPO at risk"),
    "missed_day": ("warn", "! missed day"),
}


def page(posture: Posture) -> str:
    """The page: no script, no request to anywhere, everything escaped.

    Args:
        posture: What it shows.
    """
    found = conditions(posture)
    name = posture.deployment or (PurePath(posture.plan).stem if posture.plan else "all datasets")
    title = f"Backup posture of {name}, {posture.at:%Y-%m-%d %H:%M} UTC"
    head = el(
        "head",
        Html('<meta charset="utf-8">'),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="generator", content=f"backup-pipeline {__version__}"),
        el("title", title),
        el("style", Html(STYLE)),
    )
    body = el(
        "body",
        _header(posture, name),
        el(
            "main",
            _verdict(posture, found),
            _figures(posture),
            _needs(found),
            charts(posture),
            tier_sheet(posture),
            set_sheet(posture),
            _copies_sheet(posture),
            trend_sheet(posture),
            _coverage_sheet(posture.coverage),
            meanings(posture),
        ),
        _footer(posture),
    )
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'


def _header(posture: Posture, name: str) -> Html:
    zone = ZoneInfo(posture.timezone)
    facts = [
        ("As of", f"{posture.at:%Y-%m-%d %H:%M} UTC"),
        ("Days of", posture.timezone),
        ("Window", f"{posture.days} days, from {local_day(posture.begins, zone)}"),
        ("Plan", posture.plan or "given as content"),
        ("Encryption", "none" if posture.encryption == "none" else "AES-256-GCM, every byte"),
    ]
    return el(
        "header",
        el("p", "Backup posture", class_="eyebrow"),
        el("h1", name),
        el(
            "p",
            "How well each dataset is protected in each of its tiers, and how that is known. Every"
            " figure comes from the logs in the backup stores themselves, read when this page was"
            " made; what nothing shows is said to be unknown, and counts as not met.",
            class_="lead",
        ),
        el(
            "dl",
            *(el("div", el("dt", term), el("dd", says)) for term, says in facts),
            class_="facts",
        ),
    )


def _verdict(posture: Posture, found: Sequence[Condition]) -> Html:
    counts = Counter(one.kind for one in found)
    tiers = len(posture.tiers)
    if not tiers:
        kind, mark, first, more = "warn", "!", "There is nothing to protect", "the plan is empty"
    elif counts["rpo_missed"] or counts["failed"]:
        kind, mark = "bad", "✕"
        missed = posture.summary["rpo_missed"]
        first = (
            f"{missed} of {tiers} tiers do not keep their RPO"
            if missed
            else "Every tier keeps its RPO, and something failed"
        )
        more = "What needs a person is listed below, the worst first."
    elif found:
        kind, mark = "warn", "!"
        first = f"All {tiers} tiers keep their RPO; {len(found)} things need a look"
        more = "They are listed below."
    else:
        kind, mark, first = "good", "✓", f"All {tiers} tiers keep their RPO"
        more = "No day of the last week is missing, and nothing that was looked at has failed."
    return el(
        "div",
        el("div", mark, class_="mark", aria_hidden="true"),
        el("div", el("strong", first), el("span", more)),
        class_=f"verdict {kind}",
        role="status",
    )


def _figures(posture: Posture) -> Html:
    said = posture.summary
    datasets, tiers = said["datasets"], said["tiers"]

    def of(number: int, all_: int) -> Html:
        return join(f"{number:,}", el("small", f" of {all_:,}"))

    figures: list[tuple[str, object, str]] = [
        (
            "Datasets protected",
            of(said["datasets_protected"], datasets),
            "a good snapshot within the RPO in every tier",
        ),
        ("Tiers within RPO", of(tiers - said["rpo_missed"], tiers), "age of the newest good one"),
        (
            "Good snapshots",
            of(said["good_days"], said["due_days"]),
            f"of those due by now; {said['late_days']} stored late",
        ),
        ("I = N_good / N_total", share(posture.integrity), "entries read whole, of all listed"),
        ("Hold 3-2-1-1-0", of(said["copies_met"], datasets), "copies, by all five figures"),
        (
            "Protected now",
            human_bytes(said["bytes"]),
            f"{human_bytes(said['stored_bytes'])} stored, in all tiers",
        ),
    ]
    if posture.coverage is not None:
        bare = len(posture.coverage.unprotected)
        figures.append(
            ("Unprotected assets", of(bare, posture.coverage.assets), "in the asset graph")
        )
    return el(
        "dl",
        *(
            el("div", el("dt", term), el("dd", number), el("dd", why, class_="why"))
            for term, number, why in figures
        ),
        class_="figures",
    )


def _needs(found: Sequence[Condition]) -> Html | None:
    if not found:
        return None
    rows = [
        el(
            "li",
            el("div", pill(*_KIND_WORDS[one.kind])),
            el("div", el("b", one.subject), el("span", one.says, class_="says")),
        )
        for one in found[:MOST_NEEDS]
    ]
    if found[MOST_NEEDS:]:
        rows.append(el("li", "", f"and {len(found) - MOST_NEEDS} more, in status --json"))
    return join(el("h2", "What needs a person"), el("ul", *rows, class_="needs"))


# -- copies


_RULES = {
    "copies": "3 copies",
    "media": "2 kinds of media",
    "offsite": "1 off site",
    "locked": "1 locked",
    "errors": "0 errors",
}


def _copies_sheet(posture: Posture) -> Html:
    rows = [
        el(
            "tr",
            el("th", one.key, scope="row", role="rowheader"),
            *_copies_cells(one.copies),
            role="row",
        )
        for one in posture.datasets
    ]
    heads = [el("th", word, scope="col", role="columnheader") for word in _RULES.values()]
    table = el(
        "table",
        el(
            "caption",
            "Three copies, the dataset itself being one; on two kinds of media; one of them off"
            " site; one that its store refuses to delete; no error at the last verification.",
        ),
        el(
            "thead",
            el("tr", el("th", "Dataset", scope="col", role="columnheader"), *heads, role="row"),
            role="rowgroup",
        ),
        el("tbody", *rows, role="rowgroup"),
        role="table",
    )
    return join(
        el("h2", "Copies, against 3-2-1-1-0"),
        el("div", table, class_="sheet"),
    )


def _copies_cells(copies: Copies) -> list[Html]:
    cells: list[Html] = []
    for rule in copies.rules:
        number = "unknown" if rule.found is None else str(rule.found)
        mark = pill("good", f"✓ {number}") if rule.met else pill("bad", f"✕ {number}")
        if rule.found is None:
            mark = pill("soft", f"? {number}")
        says = el("span", rule.says, class_="sub")
        cells.append(el("td", el("div", mark, says), data_label=_RULES[rule.name], role="cell"))
    return cells


# -- coverage


def _coverage_sheet(coverage: Coverage | None) -> Html:
    title = el("h2", "Assets that no policy protects")
    if coverage is None:
        return join(
            title,
            el(
                "p",
                "Not known here: the asset graph is Dagster's. The asset backup/posture reports"
                " it, and this page shows what it last said where DAGSTER_HOME is set.",
                class_="note",
            ),
        )
    when = f", as Dagster knew it at {coverage.at:%Y-%m-%d %H:%M} UTC" if coverage.at else ""
    words = (
        f"{coverage.protected} of {coverage.assets} assets of the graph are datasets of the"
        f" plan{when}; {len(coverage.exempt)} are left out on purpose."
    )
    if not coverage.unprotected:
        return join(title, el("p", words, " No asset is unprotected.", class_="note"))
    rows = [
        el(
            "tr",
            el("th", one.asset, scope="row", role="rowheader"),
            el(
                "td",
                "not known" if one.downstream is None else str(one.downstream),
                data_label="Depend on it",
                class_="number",
                role="cell",
            ),
            el("td", el("div", _rebuildable(one.upstream)), data_label="If lost", role="cell"),
            role="row",
        )
        for one in coverage.unprotected[:MOST_ASSETS]
    ]
    left = len(coverage.unprotected) - MOST_ASSETS
    table = el(
        "table",
        el(
            "caption",
            "Those that most depends on come first."
            + (f" {left} more are in status --json." if left > 0 else ""),
        ),
        el(
            "thead",
            el(
                "tr",
                el("th", "Asset", scope="col", role="columnheader"),
                el(
                    "th",
                    "Assets that depend on it",
                    scope="col",
                    class_="number",
                    role="columnheader",
                ),
                el("th", "If it is lost", scope="col", role="columnheader"),
                role="row",
            ),
            role="rowgroup",
        ),
        el("tbody", *rows, role="rowgroup"),
        role="table",
    )
    left_out = [el("li", el("code", asset), f" {why}") for asset, why in coverage.exempt.items()]
    return join(
        title,
        el("p", words, class_="note"),
        el("div", table, class_="sheet"),
        el("ul", el("li", "Left out on purpose:"), *left_out, class_="key") if left_out else None,
    )


def _rebuildable(upstream: int | None) -> str:
    if upstream is None:
        return "its lineage is not known"
    if upstream == 0:
        return "gone: nothing in the graph makes it"
    return f"to be made again, from {upstream} {'asset' if upstream == 1 else 'assets'}"


def _footer(posture: Posture) -> Html:
    return el(
        "footer",
        f"Made by backup-pipeline {__version__} in {posture.took_s:.1f} s. This page is one file:"
        " it has no script and asks nothing of any network. To check it, run ",
        el("code", "backup-pipeline status --json"),
        " with the same plan, or ",
        el("code", "backup-pipeline snapshots"),
        " for every snapshot by its id.",
    )
