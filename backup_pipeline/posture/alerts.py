"""Tells receivers, through apprise, what is news to them; one that is down is told next time."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import BackupError, UsageError
from backup_pipeline.plan.cadence import local_day
from backup_pipeline.posture.conditions import Condition
from backup_pipeline.posture.telling import message, news

if TYPE_CHECKING:
    from backup_pipeline.plan import Alerts, Plan

__all__ = ["AlertFailed", "Delivery", "plan_name", "send", "tell"]

Send = Callable[[str, str, str], None]
State = Mapping[str, Any]

_PIECES = re.compile(r"[/:@?&=,+#]+")
_LEAST_SECRET = 6


class AlertFailed(BackupError):
    """A receiver was not told; it will be next time."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of telling all receivers.

    Attributes:
        state: What each receiver knows now, to be kept for the next time.
        done: One sentence for each receiver that was told something.
        failures: Why others were not told.
    """

    state: State
    done: Sequence[str]
    failures: Sequence[AlertFailed]


def plan_name(plan: Plan) -> str:
    """How messages name a plan: its deployment, or its file."""
    from pathlib import PurePath

    return plan.deployment or (PurePath(plan.file).stem if plan.file else "all datasets")


def tell(
    plan: Plan,
    found: Sequence[Condition],
    state: State,
    *,
    environ: Mapping[str, str],
    now: datetime | None = None,
    deliver: Send | None = None,
) -> Delivery:
    """Tell each receiver of a plan what is new to it and what is over.

    Each has its own account of what it was told, so one that was down misses nothing, and hears
    nothing twice that others heard.

    Args:
        plan: Names the receivers, by reference, and what they want to know.
        found: Everything that needs a person now.
        state: As the last delivery left it; empty at first.
        environ: Where references are looked up.
        now: The present (UTC).
        deliver: Takes a URL, a title and a text; default: ``send``.
    """
    alerts, now = plan.alerts, now or datetime.now(UTC)
    if alerts is None:
        return Delivery(state, (), ())
    wanted = [one for one in found if one.kind in alerts.about]
    accounts: dict[str, Any] = {}
    done: list[str] = []
    failures: list[AlertFailed] = []
    for receiver, reference in _receivers(alerts):
        told = _account(state, receiver)
        said = news(told, wanted, now, today=local_day(now, plan.zone))
        accounts[receiver] = said.told
        if not said:
            continue
        title, text = message(said, plan_name(plan))
        try:
            url = reference.resolve(environ, "the URL of a receiver of alerts")
            (deliver or send)(url, title, text)
        except (AlertFailed, UsageError) as error:
            accounts[receiver] = told
            failures.append(
                AlertFailed(
                    f"{receiver} was not told ({title}): {error.message}",
                    error.hint or "it is told next time",
                )
            )
        else:
            done.append(f"{receiver} was told: {title}")
    return Delivery({"version": 1, "receivers": accounts}, done, failures)


def _receivers(alerts: Alerts) -> Iterator[tuple[str, Any]]:
    for reference in dict.fromkeys(alerts.to):
        yield str(reference), reference


def _account(state: State, receiver: str) -> Mapping[str, Any]:
    accounts: Any = state.get("receivers", {})
    found: Any = accounts.get(receiver, {}) if isinstance(accounts, Mapping) else {}
    if not isinstance(found, Mapping):
        return {}
    return {str(key): said for key, said in found.items() if isinstance(said, Mapping)}


def send(url: str, title: str, text: str) -> None:
    """Send one message through apprise; its URL is never repeated, for it holds secrets.

    Raises:
        AlertFailed: It was not taken, or nobody was there.
        UsageError: apprise is not installed, or knows no such URL.
    """
    with _overheard() as words, warnings.catch_warnings():
        # It tries what is deprecated where that is still there.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            import apprise
        except ImportError:
            raise UsageError(
                "alerts need apprise, which is not installed",
                "pip install 'backup-pipeline[alerts]'",
            ) from None
        receiver = apprise.Apprise()
        known = receiver.add(url)
        try:
            taken = known and receiver.notify(
                title=title, body=text, body_format=apprise.NotifyFormat.TEXT
            )
        except Exception as error:
            words.append(f"{type(error).__name__}: {error}")
            taken = False
    if not known:
        raise UsageError(
            "apprise knows no such URL",
            "write it as https://github.com/caronc/apprise says: slack://…, mailto://…, json://…",
        )
    if not taken:
        said = f": {_without_secrets(words[-1], url)}" if words else ""
        raise AlertFailed(f"the message was not taken{said}", "it is told next time")


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """What apprise says of a failure, which it only logs."""
    words: list[str] = []

    class _Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            words.append(record.getMessage())

    logger, ear = logging.getLogger("apprise"), _Ear(logging.WARNING)
    passed_on = logger.propagate
    logger.addHandler(ear)
    logger.propagate = False
    try:
        yield words
    finally:
        logger.removeHandler(ear)
        logger.propagate = passed_on


def _without_secrets(words: str, url: str) -> str:
    for piece in sorted(_PIECES.split(url), key=len, reverse=True):
        if len(piece) >= _LEAST_SECRET:
            words = words.replace(piece, "…")
    return words
