"""Objects below an S3 prefix as they were at the end of a past day, by their versions."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import DayUnavailable, SourceError, UsageError
from backup_pipeline.sources.base import Source
from backup_pipeline.sources.bucket import Listed, is_refusal
from backup_pipeline.sources.objects import ObjectsSource
from backup_pipeline.sources.versions import Moment, Version, expired_by_rule

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PastObjects"]

_PAGE = 1000


class PastObjects(ObjectsSource):
    """What a versioned bucket held below a prefix when a day ended; made by ``as_of``.

    Consistency: exactly the versions that were the newest at one instant, each read by its id.
    Refused is what cannot be proved: versioning off or suspended, nothing that shows that it was
    on by then, something written since without a version, a lifecycle rule that may have deleted
    what was replaced since. A version that somebody deleted by its id leaves no trace: whoever
    may do that can change what a past day seems to have been.
    """

    def go_back_to(self, day: date) -> None:
        """Choose the day, and ask the bucket whether it keeps what was there then.

        Raises:
            DayUnavailable: It does not.
            SourceError: The server does not answer.
        """
        self._day = day
        self._ends_at = self.end_of(day)
        self._sworn = _is_sworn(self._options, day)
        self._paths: Any = None
        self._versions: Any = None
        self._bucket.version_of = self._version_of
        try:
            status = self._bucket.versioning()
            rules = self._bucket.lifecycle_rules()
        except SourceError as error:
            if not is_refusal(error):
                raise
            raise DayUnavailable(
                f"{super().describe()} does not say whether it keeps versions: {error.message}",
                "grant s3:GetBucketVersioning and s3:GetLifecycleConfiguration",
            ) from error
        if status != "Enabled":
            raise self._unavailable(f"versioning is {'suspended' if status else 'off'}")
        days = expired_by_rule(rules, self._prefix, self._ends_at, datetime.now(UTC))
        if days is not None:
            first = datetime.now(self.zone).date() - timedelta(days=days)
            raise self._unavailable(
                f"a lifecycle rule deletes versions {days} days after they were replaced",
                f"days from about {first} on can be had",
            )

    def describe(self) -> str:
        """The prefix as a URL, and the day."""
        return f"{super().describe()} as of {self._day}"

    def as_of(self, day: date) -> Source:
        """Another day of the same prefix."""
        past = PastObjects(self._options, exclude=self._exclude_globs, page_size=self._page_size)
        past.zone = self.zone
        past.go_back_to(day)
        return past

    def scan(self) -> Iterator[pa.RecordBatch]:
        """Every object that was there, in ascending order of path.

        Raises:
            DayUnavailable: What was there then cannot be known, or nothing was there.
            SourceError: The versions cannot be listed.
        """
        import pyarrow as pa

        batches = list(super().scan())
        self._paths = [batch.column("path") for batch in batches]
        self._versions = [batch.column("version_id") for batch in batches]
        for batch in batches:
            # Ids are no marks: the plain listings that this is compared with have none.
            columns = [
                pa.nulls(len(batch), pa.string()) if name == "version_id" else batch.column(name)
                for name in batch.schema.names
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=batch.schema)

    def _pages(self) -> Iterator[list[Listed]]:
        self._base, found = self._folder, False
        for page in self._chosen(self._folder):
            found = True
            yield page
        if not found and self._prefix and not self._prefix.endswith("/"):
            self._base = self._prefix[: self._prefix.rfind("/") + 1]
            for page in self._chosen(self._prefix):
                single = [listed for listed in page if listed.key == self._prefix]
                found = found or bool(single)
                yield single
        if not found:
            raise self._unavailable("nothing was there")

    def _chosen(self, prefix: str) -> Iterator[list[Listed]]:
        """What was there below a prefix, in pages."""
        # First, so that every key of it is older than the listing of versions that must have it.
        now = array("Q", (_short(one.key) for page in self._bucket.pages(prefix) for one in page))
        moment, listed = Moment(self._ends_at), array("Q")
        rows: list[Listed] = []
        for version, reason in moment.choose(self._lines(prefix, listed)):
            rows.append(
                Listed(
                    version.key,
                    version.size,
                    version.modified_ns,
                    version.etag or "",
                    version.version_id,
                    reason,
                )
            )
            if len(rows) == _PAGE:
                yield rows
                rows = []
        if not now and not listed:
            return
        doubt = moment.doubt(self._sworn)
        if doubt is None and not _all_among(now, listed):
            doubt = "the server's listing of versions leaves out objects that are there"
        if doubt is not None:
            raise self._unavailable(
                doubt,
                "if you know that all versions since some day are there, say"
                " `versions_kept_since: DAY`",
            )
        if rows:
            yield rows

    def _lines(self, prefix: str, listed: array[int]) -> Iterator[Version]:
        last = None
        for page in self._bucket.version_pages(prefix):
            for line in page:
                if line.key != last:
                    listed.append(_short(line.key))
                    last = line.key
                yield line

    def _version_of(self, key: str) -> str | None:
        """The id of the version that was chosen for a key."""
        path = self._path(Listed(key, 1, 0, ""))
        for paths, versions in zip(self._paths, self._versions, strict=True):
            if len(paths) and path <= paths[-1].as_py():
                found = bisect_left(range(len(paths)), path, key=lambda at: paths[at].as_py())
                return versions[found].as_py()
        return None

    def _unavailable(self, reason: str, hint: str | None = None) -> DayUnavailable:
        return DayUnavailable(
            f"{super().describe()} cannot say how it was on {self._day}: {reason}", hint
        )


def _is_sworn(options: Mapping[str, Any], day: date) -> bool:
    """Whether the plan says that all versions since then are there."""
    since = options.get("versions_kept_since")
    if since in (None, ""):
        return False
    try:
        return date.fromisoformat(str(since)) <= day
    except ValueError:
        raise UsageError(
            f"versions_kept_since: {since!r} is no day", "write it as 2026-11-22"
        ) from None


def _short(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")


def _all_among(some: Iterable[int], others: Iterable[int]) -> bool:
    import numpy as np

    wanted, there = (np.array(one, np.uint64) for one in (some, others))
    return bool(np.isin(wanted, there).all())
