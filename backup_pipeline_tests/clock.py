"""What the clock shows to every runner of a test's process, the command line's included."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import pytest

from backup_pipeline.runner import Runner

__all__ = ["set_clock"]


def set_clock(patch: pytest.MonkeyPatch, now: date) -> None:
    """Let it be this moment in UTC, or noon of this day, for as long as the patch lasts."""
    moment = now if isinstance(now, datetime) else datetime.combine(now, time(12))
    defaults = Runner.__init__.__kwdefaults__
    assert defaults is not None
    patch.setitem(defaults, "clock", lambda: moment.replace(tzinfo=UTC))
