"""The page's main table: each dataset in each tier, with what shows how it stands."""

from __future__ import annotations

from datetime import date, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from backup_pipeline.engine.progress import human_bytes
from backup_pipeline.plan.cadence import local_day
from backup_pipeline.posture.conditions import at_risk
from backup_pipeline.posture.markup import Html, el, join
from backup_pipeline.posture.model import DatasetPosture, Posture
from backup_pipeline.posture.pictures import age_bar, day_strip
from backup_pipeline.posture.tier import Proof, TierPosture
from backup_pipeline.posture.words import duration, share

if TYPE_CHECKING:
    from backup_pipeline.runner.setstanding import SetStatus

__all__ = ["pill", "set_sheet", "tier_sheet"]

_COLUMNS = ("Tier", "RPO", "Days", "Newest good snapshot", "RTO", "Last drill", "Verified", "Lock")


def pill(kind: str, words: str) -> Html:
    """A word that stands out; its mark tells as much as its colour."""
    return el("span", words, class_=f"pill {kind}")


def tier_sheet(posture: Posture) -> Html:
    """All datasets × tiers."""
    first = local_day(posture.begins, ZoneInfo(posture.timezone))
    bodies = [_dataset(one, posture, first) for one in posture.datasets]
    heads = [el("th", word, scope="col", role="columnheader") for word in _COLUMNS]
    table = el(
        "table",
        el("caption", f"Each dataset in each of its tiers, over the last {posture.days} days."),
        el("thead", el("tr", *heads, role="row"), role="rowgroup"),
        *bodies,
        role="table",
    )
    return join(
        el("h2", "Datasets and tiers"),
        el("div", table, class_="sheet"),
        _key(posture),
    )


_SET_COLUMNS = ("Set", "Tier", "RPO", "Newest whole cut", "Days without one")


def set_sheet(posture: Posture) -> Html | None:
    """The consistent sets, each a cut of several datasets; None where there are none."""
    if not posture.sets:
        return None
    heads = [el("th", word, scope="col", role="columnheader") for word in _SET_COLUMNS]
    table = el(
        "table",
        el("caption", "A day counts for a set only if every member is in one whole cut of it."),
        el("thead", el("tr", *heads, role="row"), role="rowgroup"),
        el("tbody", *(_set(one) for one in posture.sets), role="rowgroup"),
        role="table",
    )
    return join(el("h2", "Consistent sets"), el("div", table, class_="sheet"))


def _set(one: SetStatus) -> Html:
    age, rpo = duration(max(0.0, one.age_s or 0.0)), duration(one.rpo_s or 0.0)
    mark = pill("good", "✓ kept") if one.fresh else pill("bad", "✕ broken")
    if one.error is not None:
        mark = join(pill("soft", "? unknown"), _sub(one.error))
    newest = one.newest
    cells = (
        one.tier,
        join(mark, _sub(f"{age} of {rpo}") if newest else None),
        "none" if newest is None else join(str(newest.day), _sub(newest.id[:12])),
        str(len(one.missing_days)),
    )
    return el(
        "tr",
        el("th", one.set, _sub(", ".join(one.members)), scope="row", role="rowheader"),
        *(
            el("td", el("div", cell), data_label=label, role="cell")
            for label, cell in zip(_SET_COLUMNS[1:], cells, strict=True)
        ),
        role="row",
    )


def _key(posture: Posture) -> Html:
    def mark(shape: str, kind: str) -> Html:
        return Html(
            f'<svg width="5" height="16" viewBox="0 0 5 16" aria-hidden="true">'
            f'<path d="{shape}" class="{kind}"/></svg>'
        )

    return el(
        "ul",
        el("li", f"Days, {posture.days} back until today:"),
        el("li", mark("M0 0h4v16h-4z", "good"), "good"),
        el("li", mark("M0 8h4v8h-4z", "late"), "stored late"),
        el("li", mark("M0.5 0.5h3v15h-3z", "missing"), "missing"),
        el("li", mark("M1 14h2v2h-2z", "none"), "none due, or not yet"),
        class_="key",
    )


def _dataset(dataset: DatasetPosture, posture: Posture, first: date) -> Html:
    copies = dataset.copies
    mark = pill("good" if copies.met else "soft", f"{'✓' if copies.met else '·'} {copies.figures}")
    heading = el(
        "tr",
        el("th", dataset.key, mark, colspan=len(_COLUMNS), scope="rowgroup", role="rowheader"),
        class_="group",
        role="row",
    )
    rows = [_tier(tier, posture, first) for tier in dataset.tiers]
    return el("tbody", heading, *rows, role="rowgroup")


def _tier(tier: TierPosture, posture: Posture, first: date) -> Html:
    cells = (
        _rpo(tier),
        _days(tier, first, posture.days),
        _newest(tier),
        _rto(tier),
        _proof(tier.drilled),
        _proof(tier.verified),
        _lock(tier, posture.at),
    )
    return el(
        "tr",
        el(
            "th",
            tier.tier,
            el("span", tier.store, class_="sub mono"),
            el("span", f"{tier.media}, {tier.site}", class_="sub"),
            scope="row",
            role="rowheader",
        ),
        *(
            el("td", el("div", cell), data_label=label, role="cell")
            for label, cell in zip(_COLUMNS[1:], cells, strict=True)
        ),
        role="row",
    )


def _sub(*words: object) -> Html:
    return el("span", *words, class_="sub")


def _rpo(tier: TierPosture) -> Html:
    if tier.error is not None:
        return join(pill("soft" if not tier.reachable else "bad", "? unknown"), _sub(tier.error))
    if tier.rpo_s is None:
        return pill("soft", "none set")
    margin = tier.margin_s or 0.0
    rpo = duration(tier.rpo_s)
    age = duration(max(0.0, tier.age_s or 0.0))
    old = f"{age} of {rpo}" if tier.newest else f"no good one yet; {rpo}"
    if not tier.fresh:
        return join(
            pill("bad", "✕ broken"),
            age_bar(tier),
            _sub(old),
            _sub(f"by {duration(-margin)}"),
        )
    risk = at_risk(tier) is not None
    mark = pill("warn", "! at risk") if risk else pill("good", "✓ kept")
    return join(mark, age_bar(tier), _sub(old), _sub(f"{duration(margin)} left"))


def _days(tier: TierPosture, first: date, days: int) -> Html:
    if not tier.reachable:
        return _sub("not known")
    words = f"{tier.good_days} of {tier.due_days} due"
    late = f", {len(tier.late_days)} late" if tier.late_days else ""
    return join(day_strip(tier, first, days), _sub(words + late))


def _newest(tier: TierPosture) -> Html:
    if tier.newest is None or tier.newest_id is None:
        return join("none")
    integrity = f"I = {share(tier.integrity)}"
    return join(
        str(tier.newest_day),
        _sub(f"{human_bytes(tier.newest_bytes)}, {integrity}"),
        el("span", tier.newest_id[:12], class_="sub mono"),
        _sub(pill("bad", f"✕ newest attempt lacks {tier.incomplete}")) if tier.incomplete else None,
        *(_sub(pill("warn", f"! {flag}")) for flag in tier.flags),
    )


def _rto(tier: TierPosture) -> Html:
    measured = tier.drilled.whole_s if tier.drilled else None
    limit = f"of {duration(tier.rto_s)}" if tier.rto_s is not None else "no RTO is set"
    if measured is None:
        return join(pill("soft", "? not measured") if tier.rto_s is not None else "–", _sub(limit))
    mark = {
        True: pill("good", "✓ kept"),
        False: pill("bad", "✕ missed"),
        None: pill("soft", "· measured"),
    }[tier.rto_met]
    return join(mark, _sub(f"{duration(measured)} {limit}"))


def _proof(proof: Proof | None) -> Html:
    if proof is None:
        return pill("soft", "? never")
    mark = pill("good", "✓ good") if proof.ok else pill("bad", f"✕ {proof.errors} errors")
    return join(
        mark,
        _sub(f"{proof.at:%Y-%m-%d}"),
        None if proof.coverage is None else _sub(f"{share(proof.coverage)} of it"),
    )


def _lock(tier: TierPosture, now: datetime) -> Html:
    lock = tier.lock
    if lock.until is not None and lock.days is not None:
        if lock.until > now:
            return join(
                pill("good", "✓ locked"), _sub(f"until {lock.until:%Y-%m-%d}"), _sub(lock.mode)
            )
        return join(
            pill("warn", "! in part"),
            _sub(f"{lock.days} days; the oldest records since {lock.until:%Y-%m-%d} no more"),
        )
    if lock.planned is not None:
        return join(pill("soft", "? asked for"), _sub(f"{lock.planned}, not shown"))
    return join(pill("soft", "· none"))
