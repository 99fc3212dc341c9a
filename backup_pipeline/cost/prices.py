"""What storage costs, as data with a date and a source.

List prices change, and differ by region and contract: look them up before you rely on them. All are
in US dollars, without taxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from types import MappingProxyType
from typing import Any

from backup_pipeline.cost.formulas import Cost, storage_cost
from backup_pipeline.engine.errors import UsageError

__all__ = ["DAYS_PER_MONTH", "PRICES", "StoragePrices", "Usage", "monthly_cost", "prices_of"]

GIB = 2**30
GB = 10**9
DAYS_PER_MONTH = 365.25 / 12


@dataclass(frozen=True, slots=True)
class StoragePrices:
    """What one kind of storage costs.

    Attributes:
        name: What it is called in a plan.
        source: Where the figures come from.
        as_of: When they were so.
        gb_bytes: What the seller calls a GB, in bytes.
        store_gb_month: For a GB over a month.
        write_1000: For 1,000 requests that write or list.
        read_1000: For 1,000 requests that read.
        retrieve_gb: For each GB that is read, besides the requests.
        egress_gb: For each GB that leaves the seller's network.
        least_age: For how long an object is paid for at least.
        least_object_bytes: The size that an object is paid for at least.
        object_overhead_bytes: What is paid for with each object besides its own bytes.
        wait: How long it takes until an object can be read.
        currency: What the figures are in.
    """

    name: str
    source: str
    as_of: date
    gb_bytes: int = GIB
    store_gb_month: float = 0.0
    write_1000: float = 0.0
    read_1000: float = 0.0
    retrieve_gb: float = 0.0
    egress_gb: float = 0.0
    least_age: timedelta = timedelta(0)
    least_object_bytes: int = 0
    object_overhead_bytes: int = 0
    wait: timedelta = timedelta(0)
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a month of backups does to a store.

    Attributes:
        stored_bytes: Held over the month, on average.
        objects: In which so much is stored, on average.
        writes: Requests that write or list.
        reads: Requests that read, by backups and verification.
        read_bytes: What these read.
        deleted_bytes: What is deleted.
        deleted_age: How old that is then.
        restored_bytes: What restores and drills read.
        restore_reads: In how many requests.
        egress: The share of what is restored that leaves the seller's network, from 0 to 1.
    """

    stored_bytes: float = 0.0
    objects: float = 0.0
    writes: float = 0.0
    reads: float = 0.0
    read_bytes: float = 0.0
    deleted_bytes: float = 0.0
    deleted_age: timedelta = timedelta(days=365)
    restored_bytes: float = 0.0
    restore_reads: float = 0.0
    egress: float = 1.0


def monthly_cost(prices: StoragePrices, usage: Usage) -> Cost:
    """What a month costs at the store: C_store, and the requests and bytes of backups and restores.

    What is deleted before the seller's least age is paid for until then, and what is smaller than
    the least size is paid for as if it were that large.
    """
    month = timedelta(days=DAYS_PER_MONTH)
    paid_bytes = max(usage.stored_bytes, usage.objects * prices.least_object_bytes)
    paid_bytes += usage.objects * prices.object_overhead_bytes
    early = max(prices.least_age - usage.deleted_age, timedelta(0)) / month
    unit, price = prices.gb_bytes, prices.store_gb_month
    store = storage_cost(paid_bytes, unit, price)
    store += storage_cost(usage.deleted_bytes, unit, price * early)
    backup = usage.writes / 1000 * prices.write_1000 + usage.reads / 1000 * prices.read_1000
    backup += storage_cost(usage.read_bytes, unit, prices.retrieve_gb)
    out = prices.retrieve_gb + usage.egress * prices.egress_gb
    restore = storage_cost(usage.restored_bytes, unit, out)
    restore += usage.restore_reads / 1000 * prices.read_1000
    return Cost(store, backup, restore)


_S3 = "Amazon S3 pricing, US East (N. Virginia), first tier of volume: aws.amazon.com/s3/pricing"
_DISK = (
    "an assumption: 25 $ a TB of hard disk over five years, twice for mirroring and three times"
    " for the machine and its power"
)
"""(25 / 1000 GB) / 60 months * 2 * 3 = 0.0025 $ for a GB and month."""


_S3_READ = date(2025, 6, 1)
_IA_LEAST = 128 * 1024
_ARCHIVE_OVERHEAD = 40 * 1024


def _s3(name: str, month: float, write: float, read: float, **more: Any) -> StoragePrices:
    return StoragePrices(
        name,
        _S3,
        _S3_READ,
        store_gb_month=month,
        write_1000=write,
        read_1000=read,
        egress_gb=0.09,
        **more,
    )


_ALL = (
    StoragePrices("local-disk", _DISK, _S3_READ, gb_bytes=GB, store_gb_month=0.0025),
    _s3("s3-standard", 0.023, 0.005, 0.0004),
    _s3(
        *("s3-standard-ia", 0.0125, 0.01, 0.001),
        retrieve_gb=0.01,
        least_age=timedelta(days=30),
        least_object_bytes=_IA_LEAST,
    ),
    _s3(
        *("s3-one-zone-ia", 0.01, 0.01, 0.001),
        retrieve_gb=0.01,
        least_age=timedelta(days=30),
        least_object_bytes=_IA_LEAST,
    ),
    _s3(
        *("s3-glacier-instant", 0.004, 0.02, 0.01),
        retrieve_gb=0.03,
        least_age=timedelta(days=90),
        least_object_bytes=_IA_LEAST,
    ),
    # A read of an archive is a request to bring it back and one to get it.
    _s3(
        *("s3-glacier-flexible", 0.0036, 0.03, 0.05 + 0.0004),
        retrieve_gb=0.01,
        least_age=timedelta(days=90),
        object_overhead_bytes=_ARCHIVE_OVERHEAD,
        wait=timedelta(hours=5),
    ),
    _s3(
        *("s3-deep-archive", 0.00099, 0.05, 0.10 + 0.0004),
        retrieve_gb=0.02,
        least_age=timedelta(days=180),
        object_overhead_bytes=_ARCHIVE_OVERHEAD,
        wait=timedelta(hours=12),
    ),
)

PRICES: Mapping[str, StoragePrices] = MappingProxyType({one.name: one for one in _ALL})
"""Built-in prices by name."""


def prices_of(name: str) -> StoragePrices:
    """Built-in prices by name.

    Raises:
        UsageError: There are none of that name.
    """
    try:
        return PRICES[name]
    except KeyError:
        raise UsageError(
            f"no prices are known of {name!r}", f"known: {', '.join(PRICES)}"
        ) from None
