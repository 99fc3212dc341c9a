"""A table of plans with a mistake: each marks the line, and names the path and the message."""

from __future__ import annotations

from dataclasses import dataclass

MARK = "#!"


@dataclass(frozen=True)
class Mistake:
    """One plan with one mistake.

    Attributes:
        name: What is wrong, for the test's name.
        plan: The YAML, whose offending line ends with the mark.
        path: Where the mistake is reported.
        says: A part of the message.
        suggests: A part of the suggestion.
    """

    name: str
    plan: str
    path: str
    says: str
    suggests: str | None = None


HEAD = """\
start: 2026-11-22
stores: {local: file:///srv/backups, cloud: s3://bucket/prefix, offsite: s3://dr/prefix}
"""
ONE_STORE = """\
start: 2026-11-22
stores: {local: file:///srv/backups}
"""
DATASETS = """\
datasets: [{asset: vision/a, source: /data/a}]
"""
DEFAULT = """\
policies: {default: {tiers: [{name: local}]}}
"""


def top(lines: str) -> str:
    """A plan of one store with further top-level keys."""
    return ONE_STORE + lines + "\n" + DATASETS


def policy(lines: str, indent: int = 4) -> str:
    """A plan of three stores with this default policy."""
    body = "\n".join(" " * indent + line for line in lines.splitlines())
    return HEAD + "policies:\n  default:\n" + body + "\n" + DATASETS


def tier(fields: str, second: str | None = None) -> str:
    """A plan whose only tier, or second tier, has these fields."""
    tiers = "tiers:\n"
    if second is None:
        return policy(tiers + f"  - {{name: local, {fields}}} {MARK}")
    return policy(tiers + f"  - {{name: local, {fields}}}\n  - {{name: cloud, {second}}} {MARK}")


def dataset(lines: str) -> str:
    """A plan of one store with one dataset of these lines."""
    first, *rest = lines.splitlines()
    return ONE_STORE + "\n".join(["datasets:", f"  - {first}", *(f"    {line}" for line in rest)])
