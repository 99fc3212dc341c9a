"""Mistakes in consistent sets."""

from __future__ import annotations

from backup_pipeline_tests.plan.mistakes import Mistake

HEAD = """\
start: 2026-11-22
stores: {local: file:///srv/backups, other: file:///srv/other}
policies:
  default: {tiers: [{name: local}]}
  hourly: {tiers: [{name: local, every: hour}]}
  late: {tiers: [{name: local, at: "03:00"}]}
  elsewhere: {tiers: [{name: other, store: other}]}
  both: {tiers: [{name: local}, {name: other, from: source}]}
datasets:
  - {assets: [vision/images, vision/model, vision], source: "/data/{asset}"}
  - {asset: fast, source: /data/fast, policy: hourly}
  - {asset: later, source: /data/later, policy: late}
  - {asset: twice, source: /data/twice, policy: both}
  - {asset: away, source: /data/away, policy: elsewhere}
  - {asset: sliced, source: {day_paths: "/data/{day}"}, holds: slice}
"""


def one(lines: str) -> str:
    """A plan with a set of these keys, one a line."""
    return HEAD + "sets:\n  champion:\n" + "".join(f"    {line}\n" for line in lines.splitlines())


def second(member: str) -> str:
    """A plan with a set of which this is the second member."""
    return one(f"members:\n  - vision/images\n  - {member} #!")


BOTH = "members: [vision/images, vision/model]\n"
AT = "sets.champion"
MISTAKES = [
    Mistake(
        "a member that is no dataset",
        second("vision/modle"),
        f"{AT}.members[1]",
        "no dataset 'vision/modle'",
        "'vision/model'",
    ),
    Mistake(
        "a member named twice",
        second("vision/images"),
        f"{AT}.members[1]",
        "is in it already",
        "once",
    ),
    Mistake(
        "a member of another set",
        HEAD + "sets:\n  a: {members: [vision/images, vision/model]}\n"
        "  b: {members: [away, vision/model]} #!",
        "sets.b.members[1]",
        "in set 'a' already",
        "one set",
    ),
    Mistake("a set of one", one("members: [vision/images] #!"), f"{AT}.members", "two members"),
    Mistake("a set of none", one("members: [] #!"), f"{AT}.members", "two members"),
    Mistake(
        "members are missing",
        HEAD + "sets:\n  champion: {retries: 2} #!\n",
        f"{AT}.members",
        "'members' is missing",
    ),
    Mistake("another cadence", second("fast"), f"{AT}.members[1]", "every hour", "same first tier"),
    Mistake("another hour", second("later"), f"{AT}.members[1]", "at 03:00", "same first tier"),
    Mistake("another first tier", second("away"), f"{AT}.members[1]", "tier 'other'", "same"),
    Mistake(
        "a later tier that reads by itself",
        second("twice"),
        f"{AT}.members[1]",
        "tier 'other' of 'twice' reads the source by itself",
        "let later tiers copy",
    ),
    Mistake("slices beside a whole", second("sliced"), f"{AT}.members[1]", "holds slice", "holds"),
    Mistake(
        "a folder inside another",
        one("members:\n  - vision/images #!\n  - vision"),
        f"{AT}.members[0]",
        "into the folder of 'vision'",
    ),
    Mistake(
        "a command for a shell",
        one(BOTH + "freeze: systemctl stop writers #!\nthaw: [/bin/true]"),
        f"{AT}.freeze",
        "no shell",
        "write a list",
    ),
    Mistake(
        "an empty command",
        one(BOTH + "freeze: [] #!\nthaw: [/bin/true]"),
        f"{AT}.freeze",
        "not a program",
        "write a list",
    ),
    Mistake(
        "freeze without thaw",
        one(BOTH + "freeze: [/bin/true] #!"),
        f"{AT}.freeze",
        "thaw, which is missing",
        "thaw: [",
    ),
    Mistake(
        "thaw without freeze",
        one(BOTH + "thaw: [/bin/true] #!"),
        f"{AT}.thaw",
        "freeze, which is missing",
    ),
    Mistake(
        "a time-out without hooks",
        one(BOTH + "hook_timeout: 5 minutes #!"),
        f"{AT}.hook_timeout",
        "no hooks",
    ),
    Mistake(
        "a time-out without a unit",
        one(BOTH + "freeze: [/bin/true]\nthaw: [/bin/true]\nhook_timeout: 5 #!"),
        f"{AT}.hook_timeout",
        "has no unit",
        "5",
    ),
    Mistake("retries below none", one(BOTH + "retries: -1 #!"), f"{AT}.retries", "below 0"),
    Mistake(
        "an unknown key of a set",
        one(BOTH + "datasets: [a] #!"),
        f"{AT}.datasets",
        "unknown key",
        "members",
    ),
    Mistake(
        "a set without a proper name",
        HEAD + "sets:\n  9: {members: [vision/images, vision/model]} #!\n",
        "sets.9",
        "not a name",
    ),
]
