"""Whether a snapshot is suspicious: its measure against limits and what the dataset is like.

A pure decision. Each share has a limit: the plan's own; or, while the dataset is little known, one
that is wide; or, once it is known, one and a half times the most that was ever seen of it, and
never less than a narrow one. docs/how-to/anomalies.md tells why for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from statistics import median
from typing import Any

from backup_pipeline.engine.measure import Measure
from backup_pipeline.engine.profile import EXPLAINED, MILLION, UNEXPLAINED, Profile

__all__ = ["KNOWN_DAYS", "RULES", "Explained", "Finding", "Gate", "Rule", "judge"]

KNOWN_DAYS = 14
"""Days of measures before a dataset is known: two of each weekday."""

MARGIN = 1.5
"""How far above the most that was seen a share has to be."""

DEVIATIONS = 6 * 1.4826
"""Six deviations of a normal distribution, in medians of absolute differences."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one share is judged.

    Attributes:
        unknown: The least limit while the dataset is little known.
        known: The least limit afterwards.
        excused: Who may explain it: ``materialization`` (a person may as well), ``person``, or
            nobody: None.
        says: What happened, with ``{files}`` and ``{suffix}``.
        count: The count that has the examples.
    """

    unknown: float
    known: float
    excused: str | None
    says: str
    count: str


RULES: Mapping[str, Rule] = {
    "incompressible": Rule(
        0.02, 0.01, None, "{files} compressed before and look random now", "turned"
    ),
    "misnamed": Rule(
        0.02, 0.01, None, "{files} hold other things now than their names say", "misnamed"
    ),
    "blank": Rule(
        0.01, 0.001, None, "{files} hold nothing but zeros, or one other value, now", "blank"
    ),
    "opaque": Rule(0.5, 0.03, "materialization", "{files} changed to what looks random", "opaque"),
    "deleted": Rule(0.15, 0.05, "materialization", "{files} are gone", "deleted"),
    "renamed": Rule(0.1, 0.05, "materialization", "{files} have new names{suffix}", "renamed"),
    "shrunk": Rule(
        0.1,
        0.01,
        "materialization",
        "{files} kept less than 70 % of their size",
        "shrunk",
    ),
    "cut": Rule(
        0.01,
        0.001,
        "materialization",
        "one of {files} that kept less than 70 % of their size",
        "shrunk",
    ),
    "fell": Rule(0.4, 0.4, "person", "all files together are smaller than before", "shrunk"),
    "changed": Rule(0.5, 0.25, "materialization", "{files} changed", "changed"),
}
"""By the share's name, the most telling first."""

SLICE_FELL = Rule(0.4, 0.4, "person", "the slice is smaller than others of its weekday", "shrunk")
SLICE_RANDOM = Rule(0.5, 0.02, None, "{files} look random", "random")
SLICES_LIKE = 2
"""How many slices of the same weekday it takes to compare with them alone."""

BIG_BLANK_BYTES = 64 * 1024
"""One file of this size that became blank is enough where that never happened before."""


@dataclass(frozen=True, slots=True)
class Explained:
    """Why a dataset changed more than it is used to.

    Attributes:
        by: ``materialization`` of the dataset's own asset, or a ``person``.
        reason: In words.
    """

    by: str
    reason: str

    def excuses(self, rule: Rule) -> bool:
        """Whether a finding by this rule is explained."""
        return rule.excused is not None and self.by in (rule.excused, "person")


@dataclass(frozen=True, slots=True)
class Gate:
    """What a run's measure is judged by.

    Attributes:
        limits: Shares that the plan fixed, by rule.
        explained: Why much may have changed; None where nobody said.
        slices: Whether each day's data stands for itself, and is compared with other days' sizes.
        off: Whether the plan has the gate switched off; it is measured all the same.
    """

    limits: Mapping[str, float] = field(default_factory=dict[str, float])
    explained: Explained | None = None
    slices: bool = False
    off: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why a snapshot is suspicious.

    Attributes:
        rule: Its name.
        share: What was measured.
        limit: What it exceeds.
        says: In words.
        examples: Some paths.
    """

    rule: str
    share: float
    limit: float
    says: str
    examples: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Fields by name."""
        return {
            "rule": self.rule,
            "share_ppm": round(self.share * MILLION),
            "limit_ppm": round(self.limit * MILLION),
            "says": self.says,
            "examples": list(self.examples),
        }


def judge(measure: Measure, profile: Profile, gate: Gate, day: date) -> list[Finding]:
    """Why a snapshot is suspicious; nothing where it is not.

    Args:
        measure: What changed.
        profile: What the dataset is like, this snapshot not among it.
        gate: Limits, and what is explained.
        day: The day that the snapshot stands for.
    """
    if gate.off:
        return []
    if gate.slices:
        return _judge_slice(measure, profile, gate, day)
    if not measure.files_before:
        return []
    found: list[Finding] = []
    for name, rule in RULES.items():
        share, limit = measure.shares()[name], _limit(name, rule, profile, gate)
        if limit is not None and share > limit and _is_telling(name, measure, profile, gate):
            found.append(_finding(name, rule, share, limit, measure))
    return found or _big_blank(measure, profile, gate)


def _limit(name: str, rule: Rule, profile: Profile, gate: Gate) -> float | None:
    """What a share may be; None where it is explained, and it is not known how much is usual."""
    # What upstream explains is held against what upstream explained before.
    sorts = (UNEXPLAINED, EXPLAINED)
    if rule.excused is not None:
        sorts = (EXPLAINED,) if gate.explained is not None else (UNEXPLAINED,)
    seen = profile.shares(name, sorts)
    said = gate.explained
    if said is not None and said.excuses(rule):
        vague = len(seen) < KNOWN_DAYS or name in gate.limits
        if vague or said.by == "person":
            return None
    if name in gate.limits:
        return gate.limits[name]
    least = rule.known if len(seen) >= KNOWN_DAYS else rule.unknown
    return max(least, MARGIN * max(seen, default=0.0), _usual(seen))


def _usual(seen: Sequence[float]) -> float:
    """The median and six deviations."""
    if not seen:
        return 0.0
    middle = median(seen)
    return middle + DEVIATIONS * median(abs(one - middle) for one in seen)


def _is_telling(name: str, measure: Measure, profile: Profile, gate: Gate) -> bool:
    """Whether a share says what it seems to: a dataset whose names never told the truth cannot
    begin to lie."""
    if name != "misnamed" or name in gate.limits:
        return True
    return measure.shares()["unlike"] > 0.01 + MARGIN * max(profile.shares("unlike"), default=0.0)


def _big_blank(measure: Measure, profile: Profile, gate: Gate) -> list[Finding]:
    if measure.largest_blank_bytes < BIG_BLANK_BYTES or "blank" in gate.limits:
        return []
    if any(profile.shares("blank")):
        return []
    return [_finding("blank", RULES["blank"], measure.shares()["blank"], 0.0, measure)]


def _judge_slice(measure: Measure, profile: Profile, gate: Gate, day: date) -> list[Finding]:
    """A slice has nothing before it; it is held against the sizes and looks of other slices."""
    found: list[Finding] = []
    like = profile.on_weekday("bytes", day.weekday())
    if len(like) < SLICES_LIKE:
        like = profile.shares("bytes")
        like = like if len(like) >= KNOWN_DAYS // 2 else []
    least = min(like, default=0.0)
    fell = 1 - measure.bytes / MILLION / least if least else 0.0
    limit = gate.limits.get("fell", SLICE_FELL.known)
    excused = gate.explained is not None and gate.explained.excuses(SLICE_FELL)
    if fell > limit and not excused:
        found.append(_finding("fell", SLICE_FELL, fell, limit, measure))
    seen, share = profile.shares("random"), measure.shares()["random"]
    limit = SLICE_RANDOM.known if len(seen) >= KNOWN_DAYS else SLICE_RANDOM.unknown
    limit = gate.limits.get("incompressible", max(limit, MARGIN * max(seen, default=0.0)))
    if seen and share > limit:
        found.append(_finding("incompressible", SLICE_RANDOM, share, limit, measure))
    return found


def _finding(name: str, rule: Rule, share: float, limit: float, measure: Measure) -> Finding:
    count: int = getattr(measure, rule.count)
    of = f" of {measure.files_before:,}" if measure.files_before else ""
    said = rule.says.format(
        files=f"{count:,}{of} {'file' if max(count, measure.files_before) == 1 else 'files'}",
        suffix=f", most of them .{measure.suffix}" if measure.suffix else "",
    )
    sized = abs(share - count / max(1, measure.files_before)) > 1e-9
    beyond = f"{share:.1%}{' of the bytes' if sized else ''}, and the limit is {limit:.1%}"
    return Finding(name, share, limit, f"{said}: {beyond}", measure.examples.get(rule.count, ()))
