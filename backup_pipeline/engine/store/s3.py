"""A store under a prefix of an S3 bucket, at AWS or at any server that speaks S3."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError

from backup_pipeline.engine.errors import (
    ObjectExists,
    ObjectMissing,
    StoreError,
)
from backup_pipeline.engine.store.again import ATTEMPTS, pause, repeat
from backup_pipeline.engine.store.base import (
    Content,
    Store,
    StoredObject,
    check_name,
    check_prefix,
    check_range,
    pieces,
    short_read,
)
from backup_pipeline.engine.store.s3_errors import (
    is_lost_answer,
    is_past_the_end,
    is_timeout,
    no_answer,
    translate,
)
from backup_pipeline.engine.store.s3_settings import RETRY_WINDOW, S3Settings

if TYPE_CHECKING:
    from obstore.store import S3Store as Client

__all__ = ["BULK_TIMEOUT", "QUICK_TIMEOUT", "S3Store", "open_s3"]

QUICK_TIMEOUT: Final = timedelta(seconds=30)
"""Longest time for a request that moves little. A server that has fallen silent is asked again
within ``RETRY_WINDOW``, so it is given up after a minute and a half at most."""

BULK_TIMEOUT: Final = timedelta(minutes=5)
"""Longest time for a request that moves much: 32 MiB at 1 Mbit/s take 4.5 minutes. It is longer
than ``RETRY_WINDOW``, so a server that has fallen silent is given up after it."""

_QUICK_BYTES: Final = 256 << 10
_LIST_CHUNK: Final = 1000
_COMPARE_BYTES: Final = 1 << 20
_LEAST_YEAR_DAYS: Final = 365
_ALPHABET: Final = ".0123456789_abcdefghijklmnopqrstuvwxyz"
_BELOW_SLASH = re.compile(r"[.-]")
_Answer = TypeVar("_Answer")
# The types of its listings refer to a package that is optional and not needed.
_listings = cast("Any", obstore)


def open_s3(bucket: str, path: str, options: Mapping[str, Any]) -> S3Store:
    """Open the store that ``s3://bucket/path`` and its options describe."""
    return S3Store(S3Settings.read(bucket, path, options))


class S3Store(Store):
    """Names as keys below a prefix.

    ``If-None-Match: *`` makes ``put`` create only; a server that ignores it is found by ``probe``.
    The server checks a SHA-256 of every upload. Requests are repeated with growing, jittered
    pauses; a ``put`` too, since one that was carried out is recognized by its bytes.

    Args:
        settings: Bucket, prefix, server and credentials.
    """

    writers = 4  # a connection carries some 50 to 100 MB/s
    readers = 6

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self.url = settings.url
        self._quick: Client = settings.client(QUICK_TIMEOUT)
        self._bulk: Client = settings.client(BULK_TIMEOUT)
        self._bucket_seen = False

    def put(self, name: str, content: Content) -> None:
        check_name(name)
        views = pieces(content)
        begun_s = time.monotonic()
        for attempt in range(ATTEMPTS):
            try:
                self._write(name, views, "create")
                return
            except AlreadyExistsError:
                if self._holds(name, views):
                    return
            except (BaseError, OSError) as error:
                # Of a server that is silent, the answer was waited for long enough.
                late = time.monotonic() - begun_s > RETRY_WINDOW.total_seconds()
                silent = late and is_timeout(error)
                if silent or not is_lost_answer(error) or attempt == ATTEMPTS - 1:
                    raise translate(self.settings, name, error) from error
            pause(attempt)
        raise StoreError(f"{self.url}: {name} was made and deleted by others again and again")

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes | memoryview:
        check_name(name)
        check_range(offset, length)
        if length == 0:
            return self._read_nothing(name, offset)
        client = self._client_for(length)
        span: Any = {"offset": offset} if length is None else (offset, offset + length)
        options: Any = {} if offset == 0 and length is None else {"range": span}
        try:
            found = repeat(lambda: memoryview(obstore.get(client, name, options=options).bytes()))
        except (BaseError, OSError) as error:
            if not is_past_the_end(error):
                raise translate(self.settings, name, error) from error
            size_bytes = self.stat(name).size_bytes
            if length is None and offset == size_bytes:
                return b""
            raise short_read(self.url, name, offset, length or 0, size_bytes) from error
        if length is not None and len(found) != length:
            raise short_read(self.url, name, offset, length, offset + len(found))
        return found

    def stat(self, name: str) -> StoredObject:
        check_name(name)
        try:
            return _describe(obstore.head(self._quick, name))
        except FileNotFoundError as error:
            # The answer to HEAD has no body, so it cannot say that the bucket itself is missing.
            self._confirm_bucket()
            raise ObjectMissing(f"{self.url}: {name} is not there") from error
        except (BaseError, OSError) as error:
            raise translate(self.settings, name, error) from error

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[StoredObject]:
        check_prefix(prefix)
        found = self._try("", lambda: self._list_all(prefix, after or ""))
        # Some servers list a folder's contents before its siblings that sort ahead of "/".
        found.sort(key=lambda stored: stored.name)
        return iter(found)

    def list_names(self, prefix: str) -> list[str]:
        check_prefix(prefix, folder=True)
        listed = self._try(
            prefix, lambda: _listings.list_with_delimiter(self._quick, prefix.rstrip("/") or None)
        )
        files = (stored["path"] for stored in listed["objects"])
        start = len(prefix)
        return sorted({path[start:] for path in (*files, *listed["common_prefixes"])})

    def delete(self, name: str) -> None:
        check_name(name)
        try:
            repeat(lambda: obstore.delete(self._quick, name))
        except (BaseError, OSError) as error:
            ours = translate(self.settings, name, error)
            if not isinstance(ours, ObjectMissing):
                raise ours from error

    def heal(self, name: str, content: Content) -> None:
        check_name(name)
        views = pieces(content)
        self._try(name, lambda: self._write(name, views, "overwrite"))

    def now(self) -> datetime:
        # Any answer has a Date, refusals too; a client that is far out is refused and still told.
        url = self._try("", lambda: obstore.sign(self._quick, "HEAD", "now", timedelta(minutes=1)))
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=QUICK_TIMEOUT.total_seconds()) as answer:
                date = answer.headers["Date"]
        except urllib.error.HTTPError as error:
            date = error.headers["Date"]
            error.close()
        except (OSError, http.client.HTTPException) as error:
            raise no_answer(self.settings, str(error)) from error
        if date is None:
            raise StoreError(f"{self.url}: {self.settings.place} tells no time")
        return parsedate_to_datetime(date)

    def locks(self) -> bool | None:
        answer = self._object_lock()
        return None if answer is None else answer.get("ObjectLockEnabled") == "Enabled"

    def default_lock(self) -> tuple[str, int] | None:
        answer = self._object_lock() or {}
        rule = answer.get("Rule", {}).get("DefaultRetention", {})
        days = int(rule.get("Days") or 0) + int(rule.get("Years") or 0) * _LEAST_YEAR_DAYS
        mode = str(rule.get("Mode", "")).lower()
        return (mode, days) if days and answer.get("ObjectLockEnabled") == "Enabled" else None

    def _object_lock(self) -> dict[str, Any] | None:
        """The bucket's Object Lock settings, empty where it has none; None if it does not say."""
        errors = import_module("botocore.exceptions")
        client = self.settings.boto3_client()
        try:
            answer = client.get_object_lock_configuration(Bucket=self.settings.bucket)
        except errors.ClientError as error:
            missing = error.response["Error"]["Code"] == "ObjectLockConfigurationNotFoundError"
            return {} if missing else None
        except errors.BotoCoreError:
            return None
        finally:
            client.close()
        return answer["ObjectLockConfiguration"]

    def _client_for(self, length: int | None) -> Client:
        return self._quick if length is not None and length <= _QUICK_BYTES else self._bulk

    def _write(self, name: str, views: list[memoryview], mode: Any) -> None:
        client = self._client_for(sum(len(view) for view in views))
        body = views[0] if len(views) == 1 else views
        obstore.put(client, name, body, mode=mode, use_multipart=False)

    def _holds(self, name: str, views: list[memoryview]) -> bool:
        """Tell whether ``name`` is still there with these bytes; other bytes raise."""
        size_bytes = sum(len(view) for view in views)

        def compare() -> bool:
            result = obstore.get(self._bulk, name)
            return result.meta["size"] == size_bytes and _same(result.stream(_COMPARE_BYTES), views)

        try:
            same = repeat(compare)
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise translate(self.settings, name, error) from error
        if not same:
            raise ObjectExists(f"{self.url}: {name} already holds other bytes")
        return True

    def _read_nothing(self, name: str, offset: int) -> bytes:
        size_bytes = self.stat(name).size_bytes
        if offset > size_bytes:
            raise short_read(self.url, name, offset, 0, size_bytes)
        return b""

    def _list_all(self, prefix: str, after: str) -> list[StoredObject]:
        folder, _, beginning = prefix.rpartition("/")
        base = f"{folder}/" if folder else ""
        offset = max(_safe_offset(after), _safe_offset(prefix))
        found: list[StoredObject] = []
        listing = _listings.list(
            self._quick, folder or None, offset=offset or None, chunk_size=_LIST_CHUNK
        )
        for chunk in listing:
            for stored in chunk:
                name = stored["path"]
                if name > after and name.startswith(prefix):
                    found.append(_describe(stored))
            if not chunk:
                continue
            segment = chunk[-1]["path"][len(base) :].partition("/")[0]
            if segment > beginning and not segment.startswith(beginning):
                break
        return found

    def _confirm_bucket(self) -> None:
        if not self._bucket_seen:
            self._try("", lambda: next(iter(_listings.list(self._quick, "probe")), None))
            self._bucket_seen = True

    def _try(self, name: str, ask: Callable[[], _Answer]) -> _Answer:
        try:
            return repeat(ask)
        except (BaseError, OSError) as error:
            raise translate(self.settings, name, error) from error


def _safe_offset(name: str) -> str:
    """Return somewhat less than ``name``, from where every server lists all that is not less.

    Servers that keep folders list a folder's contents at its own name, hence not in the order of
    bytes behind a ``.`` or ``-``, and told to begin behind a folder's name they pass over its
    contents. So what is returned has no such character and, by its capital, is no one's name.
    """
    safe = _BELOW_SLASH.split(name)[0].rstrip("/")
    if not safe:
        return ""
    return f"{safe[:-1]}{_ALPHABET[_ALPHABET.index(safe[-1]) - 1]}Z"


def _describe(stored: Any) -> StoredObject:
    return StoredObject(stored["path"], stored["size"], stored["last_modified"])


def _same(chunks: Any, views: list[memoryview]) -> bool:
    waiting = iter(views)
    view = next(waiting, memoryview(b""))
    for chunk in chunks:
        rest = memoryview(chunk)
        while len(rest):
            if not len(view):
                view = next(waiting, memoryview(b""))
            count = min(len(rest), len(view))
            if count == 0 or rest[:count] != view[:count]:
                return False
            rest, view = rest[count:], view[count:]
    return True
