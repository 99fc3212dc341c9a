"""The cost model's formulas, as pure functions with units.

C = C_store + C_backup + C_restore, S = D / T and I = N_good / N_total are of the document that
asked for this project; docs/cost.md tells of its worked example and where it slips.
"""

from __future__ import annotations

from dataclasses import dataclass

from backup_pipeline.engine.errors import UsageError

__all__ = [
    "Cost",
    "backup_cost",
    "integrity",
    "needed_speed",
    "restore_cost",
    "speed",
    "storage_cost",
    "window_needed",
]

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Cost:
    """C = C_store + C_backup + C_restore, all three over the same time and in one currency.

    Attributes:
        store: C_store, for keeping what is stored.
        backup: C_backup, for making backups.
        restore: C_restore, for getting data back.
    """

    store: float = 0.0
    backup: float = 0.0
    restore: float = 0.0

    @property
    def total(self) -> float:
        """C."""
        return self.store + self.backup + self.restore

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.store + other.store, self.backup + other.backup, self.restore + other.restore
        )

    def times(self, factor: float) -> Cost:
        """The same over a time that is longer by a factor."""
        return Cost(self.store * factor, self.backup * factor, self.restore * factor)


def storage_cost(stored_bytes: float, unit_bytes: float, unit_price: float) -> float:
    """C_store = (D / S) · P: what room for some data costs.

    Args:
        stored_bytes: D, the stored volume, in bytes.
        unit_bytes: S, what is bought at a time, in bytes: a device, or 10**9 for a GB.
        unit_price: P, the price of one of them, over the time that it is paid for.

    Raises:
        UsageError: A value is negative, or the unit is nothing.
    """
    _require(stored_bytes >= 0 and unit_price >= 0, "volume and price must not be negative")
    _require(unit_bytes > 0, "the unit of storage must be more than nothing")
    return stored_bytes / unit_bytes * unit_price


def backup_cost(backups: float, window_s: float, price_per_hour: float) -> float:
    """C_backup = F · T · P / 3600: what running backups costs.

    Args:
        backups: F, how many there are in the time that the cost is for.
        window_s: T, how long one takes, in seconds.
        price_per_hour: P, what an hour of the tool, its machine and its network costs.

    Raises:
        UsageError: A value is negative.
    """
    _require(min(backups, window_s, price_per_hour) >= 0, "none of it must be negative")
    return backups * window_s * price_per_hour / SECONDS_PER_HOUR


def restore_cost(duration_s: float, price_per_hour: float) -> float:
    """C_restore = T_restore · P_restore / 3600: what one restore costs.

    Args:
        duration_s: T_restore, in seconds.
        price_per_hour: P_restore, what an hour of it costs, people's time included if they wait.

    Raises:
        UsageError: A value is negative.
    """
    return backup_cost(1, duration_s, price_per_hour)


def speed(data_bytes: float, duration_s: float) -> float:
    """S = D / T, in bytes a second.

    Raises:
        UsageError: The duration is not more than nothing.
    """
    _require(duration_s > 0, "a speed needs a duration of more than nothing")
    return data_bytes / duration_s


def needed_speed(data_bytes: float, window_s: float) -> float:
    """The speed at which some data fits into a window, in bytes a second: S again."""
    return speed(data_bytes, window_s)


def window_needed(data_bytes: float, bytes_per_s: float) -> float:
    """T = D / S: how long some data takes at a speed, in seconds.

    Raises:
        UsageError: The speed is not more than nothing.
    """
    _require(bytes_per_s > 0, "a speed must be more than nothing")
    return data_bytes / bytes_per_s


def integrity(good: int, total: int) -> float:
    """I = N_good / N_total; 1 where there was nothing to be good or bad.

    Raises:
        UsageError: More are good than there are, or a number is negative.
    """
    _require(0 <= good <= total, f"{good} of {total} cannot be good")
    return good / total if total else 1.0


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UsageError(message, "see docs/cost.md for the units")
