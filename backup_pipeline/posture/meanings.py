"""What each figure of the page means, and by what evidence it is known."""

from __future__ import annotations

from backup_pipeline.posture.conditions import MISSED_DAYS
from backup_pipeline.posture.markup import Html, el, join
from backup_pipeline.posture.model import Posture

__all__ = ["meanings"]


def meanings(posture: Posture) -> Html:
    """A list of terms, each with what it means and what shows it."""
    return join(
        el("h2", "What the figures mean"),
        el(
            "dl",
            *(join(el("dt", term), el("dd", says)) for term, says in _terms(posture)),
            class_="means",
        ),
    )


def _terms(posture: Posture) -> list[tuple[str, str]]:
    return [
        (
            "Evidence",
            "Each dataset in each tier has a log in its store: an append-only sequence of"
            " authenticated records, each naming the digest of the one before it. A snapshot is in"
            " it only once all that it refers to is durable. This page is read from those logs and"
            " from the plan; neither a scheduler's database nor any local file has a say.",
        ),
        (
            "Good snapshot",
            "One that holds every entry that its source listed. One that lacks some is stored and"
            " marked incomplete, and counts for nothing here.",
        ),
        (
            "RPO",
            "The tolerated loss, as the plan states it for a tier. It is kept while the newest"
            " good snapshot, by the time its source was read, is younger. A copy is as old as what"
            " it was copied from. It is at risk where it is kept now and breaks before the next"
            " scheduled run.",
        ),
        (
            "RTO",
            "The tolerated time of a restore, as the plan states it. What stands beside it is"
            " measured: the last drill restored a part, and the whole takes as long at the speed"
            " that this had.",
        ),
        (
            "Drill",
            "A real restore to a place of its own, compared byte for byte with what was recorded"
            " when the source was read, and timed.",
        ),
        (
            "Verified",
            "Stored bytes were read back and compared with their digests; the share says how many.",
        ),
        (
            "Days",
            f"Days of the last {posture.days} on which the plan wanted a snapshot, once the day is"
            " over and the run had its time. A day whose snapshot expired since was good. A day is"
            " late where present state was stored for a past day, and is marked so."
            f" A missing day asks for a person for {MISSED_DAYS} days.",
        ),
        (
            "I = N_good / N_total",
            "Of all entries (files, links, objects) that sources listed in the window's snapshots,"
            " the share that was read whole.",
        ),
        (
            "3-2-1-1-0",
            "Three copies, of which the dataset itself is one; on two kinds of media; one at"
            " another site than the dataset; one that its store refuses to delete; no errors at"
            " the last verification of any. A tier counts where it could be asked, its log is"
            " whole, and it holds a good snapshot. Media and site are what the store's URL shows,"
            " unless the plan names them.",
        ),
        (
            "Lock",
            "What the bucket itself says of its default retention, counted from the repository's"
            " first record: without its keys and its log nothing opens, so what protects the"
            " newest pack alone protects nothing.",
        ),
        (
            "Unprotected",
            "An asset in Dagster's graph that is no dataset of the plan, and how many others are"
            " made from it, near and far.",
        ),
    ]
