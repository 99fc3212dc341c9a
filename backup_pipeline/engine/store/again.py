"""Asking again where the connection ended within an answer.

obstore repeats requests that got no answer, and reads on where an object's bytes break off. It does
not ask again for listings and refusals that break off.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from obstore.exceptions import BaseError

from backup_pipeline.engine.store.s3_errors import is_timeout
from backup_pipeline.engine.store.s3_settings import FIRST_PAUSE

__all__ = ["ATTEMPTS", "is_broken_off", "pause", "repeat"]

ATTEMPTS: Final = 4
"""How often a write is begun whose answer is lost, or a request whose answer breaks off, each time
with ``RETRIES`` of its own."""

_Answer = TypeVar("_Answer")


def repeat(ask: Callable[[], _Answer]) -> _Answer:
    """What is answered; asked again where the answer breaks off.

    Args:
        ask: Makes the request; raises what obstore raises.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return ask()
        except (BaseError, OSError) as error:
            if not is_broken_off(error):
                raise
        pause(attempt)
    return ask()


def is_broken_off(error: Exception) -> bool:
    """Tell whether the connection ended within the body of an answer."""
    return "response body" in str(error).split("\n", 1)[0] and not is_timeout(error)


def pause(attempt: int) -> None:
    """Wait before the next attempt, by chance, and twice as long each time.

    Args:
        attempt: How many failed before the last one.
    """
    time.sleep(random.uniform(0.5, 1.0) * FIRST_PAUSE.total_seconds() * 2**attempt)
