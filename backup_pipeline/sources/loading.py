"""Loading a restored directory into a system, by the scheme of the system's URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.plan.sourcekind import SourceKind, foreign_kind, foreign_names
from backup_pipeline.plan.sourcekinds import BUILT_IN
from backup_pipeline.sources import load_named

__all__ = ["Loader", "find_loader"]

Loader = Callable[[str, Callable[[str], None]], dict[str, Any] | None]
"""Loads a directory; says by its second argument how far it is; returns what it did."""


def find_loader(url: str) -> Loader:
    """What loads a restored directory into the system at this URL.

    It is found before anything is restored, so that a mistyped URL costs nothing.

    Args:
        url: Such as ``postgresql://localhost/orders_restored``.

    Raises:
        UsageError: Nothing here loads into such a system, or what it needs is not installed.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    loads: dict[str, tuple[str, str | None]] = {}
    for kind in (*BUILT_IN.values(), *_foreign_kinds()):
        for name, target in kind.loads.items():
            loads.setdefault(name, (target, kind.extra))
    if scheme not in loads:
        known = ", ".join(f"{name}://…" for name in sorted(loads))
        # The URL is not repeated: it may hold a password.
        what = f"a system at {scheme}://" if scheme else "what is no URL"
        raise UsageError(
            f"nothing that is installed loads into {what}",
            f"--into takes {known}; without it the restore writes files only",
        )
    load = load_named(*loads[scheme])
    return lambda directory, report: load(directory, url, report=report)


def _foreign_kinds() -> Iterator[SourceKind]:
    for name in foreign_names():
        try:
            kind = foreign_kind(name)
        except UsageError:
            continue  # a broken package keeps no other kind from being loaded
        if kind is not None:
            yield kind
