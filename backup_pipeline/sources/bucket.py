"""Listing and reading what others have stored in an S3 bucket, whatever its keys are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from importlib import import_module
from typing import Any, Final

from backup_pipeline.engine.errors import ObjectMissing, SourceError, StoreError, StoreUnavailable
from backup_pipeline.engine.store.again import repeat
from backup_pipeline.engine.store.s3 import BULK_TIMEOUT
from backup_pipeline.engine.store.s3_errors import (
    code_of,
    explain,
    is_past_the_end,
    no_answer,
    no_credentials,
    translate,
)
from backup_pipeline.engine.store.s3_settings import S3Settings
from backup_pipeline.sources.base import UNREADABLE, VANISHED, Unreadable
from backup_pipeline.sources.properties import HEADERS, VERSION, own_pairs, tag_pairs
from backup_pipeline.sources.versions import Version, in_order

__all__ = ["Bucket", "Listed", "Part", "Replaced", "is_refusal"]

_READ_ATTEMPTS: Final = 3
_CONNECTIONS: Final = 32
# obstore costs a sixth of boto3's processor time per request, but has no notion of some keys.
_PLAIN = re.compile(r"(?!\.{1,2}(?:/|$))[^\x00-\x1f\x7f-\x9f\\{}^%`\[\]\"<>~#|*?/]+")
# Refusals that say nothing of the other objects; any other refusal ends the reading.
_OF_ONE_OBJECT: Final = ("403", "AccessDenied", "InvalidObjectState")
_PROPERTIES: Final = frozenset({*HEADERS, "Content-Type", "Storage-Class"})
_LINE = re.compile(rb"<(?:\w+:)?(Version|DeleteMarker)[ >]")
_ASKED_AT: Final = frozenset(10**power for power in range(9))
# What servers say that have no lifecycle rules at all, or none for this bucket.
_NO_RULES: Final = ("NoSuchLifecycleConfiguration", "NotImplemented")


def is_refusal(error: SourceError) -> bool:
    """Whether the credentials may not ask what was asked; not so of a server out of reach."""
    cause: Any = error.__cause__
    return getattr(cause, "response", None) is not None and _status(cause) == 403


class Replaced(Exception):
    """The key holds other bytes now than those that were asked for."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One key of a listing.

    Attributes:
        key: The whole key.
        size: Length in bytes.
        modified_ns: When it was written, in nanoseconds since 1970.
        etag: Without quotes.
        version_id: Which version, where it was asked for.
        reason: Why it cannot be read, where that is known already.
    """

    key: str
    size: int
    modified_ns: int
    etag: str
    version_id: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Some bytes of one version of an object.

    Attributes:
        content: The bytes.
        size: Length of the whole object.
        modified_ns: When that version was written.
        etag: Without quotes.
        content_type: Media type.
        metadata: User metadata, and other properties by their names in a manifest; sorted.
    """

    content: memoryview
    size: int
    modified_ns: int
    etag: str
    content_type: str | None
    metadata: tuple[tuple[str, str], ...]


class Bucket:
    """A bucket as a source reads it; threads may share it.

    Args:
        settings: Bucket, server and credentials; the prefix is only shown in messages.
        page_size: Keys per page of a listing; None leaves it to the server.
        tags: Whether to read tags too, at a request more for each object that is read.

    Attributes:
        version_of: Gives the id of the version of a key to read; None reads what is there now.
    """

    def __init__(
        self, settings: S3Settings, *, page_size: int | None = None, tags: bool = False
    ) -> None:
        self.settings = settings
        self.tags = tags
        self.version_of: Callable[[str], str | None] = lambda _: None
        self._page_size = page_size
        self._whole = S3Settings.read(settings.bucket, "", _options(settings), {}, free_prefix=True)
        self._obstore = self._whole.client(BULK_TIMEOUT)
        self._boto3: Any = None
        self._vanished = 0

    def pages(self, prefix: str, *, after: str = "") -> Iterator[list[Listed]]:
        """List all keys that begin with ``prefix``, page by page, in the server's order.

        Args:
            prefix: What they begin with.
            after: Only keys that come after this one.

        Raises:
            SourceError: The bucket cannot be listed.
        """
        for page in self._paged(
            "list_objects_v2", prefix, **({"StartAfter": after} if after else {})
        ):
            yield [_listed(found) for found in page.get("Contents", ())]

    def version_pages(self, prefix: str) -> Iterator[list[Version]]:
        """List all versions and delete markers, page by page, newest first within a key.

        Raises:
            SourceError: They cannot be listed.
        """
        for page in self._paged("list_object_versions", prefix):
            versions = [_version(found) for found in page.get("Versions", ())]
            markers = [_version(found) for found in page.get("DeleteMarkers", ())]
            yield in_order(versions, markers, page["Kinds"])

    def versioning(self) -> str | None:
        """``Enabled``, ``Suspended``, or None where it never was on.

        Raises:
            SourceError: The bucket cannot be asked.
        """
        return self._asked(self._client().get_bucket_versioning).get("Status")

    def lifecycle_rules(self) -> list[Mapping[str, Any]]:
        """The rules by which the bucket deletes by itself.

        Raises:
            SourceError: The bucket cannot be asked.
        """
        errors = import_module("botocore.exceptions")
        try:
            return self._asked(self._client().get_bucket_lifecycle_configuration)["Rules"]
        except SourceError as error:
            cause = error.__cause__
            if isinstance(cause, errors.ClientError) and _code(cause) in _NO_RULES:
                return []
            raise

    def _asked(self, question: Any) -> Any:
        errors = import_module("botocore.exceptions")
        try:
            return question(Bucket=self.settings.bucket)
        except (errors.ClientError, errors.BotoCoreError) as error:
            raise _as_source_error(self._explained("", error)) from error

    def _paged(self, listing: str, prefix: str, **more: str) -> Iterator[Mapping[str, Any]]:
        paging = {"PageSize": self._page_size} if self._page_size else {}
        pages = (
            self._client()
            .get_paginator(listing)
            .paginate(Bucket=self.settings.bucket, Prefix=prefix, PaginationConfig=paging, **more)
        )
        errors = import_module("botocore.exceptions")
        try:
            yield from pages
        except (errors.ClientError, errors.BotoCoreError) as error:
            raise _as_source_error(self._explained("", error)) from error

    def newest(self, key: str) -> Listed:
        """Describe what a key holds now.

        Raises:
            Unreadable: It is gone, or refused.
        """
        try:
            found = self._client().head_object(Bucket=self.settings.bucket, Key=key)
        except Exception as error:
            raise self._unreadable(key, error) from error
        return Listed(
            key, found["ContentLength"], _nanoseconds(found["LastModified"]), _bare(found["ETag"])
        )

    def read(self, key: str, etag: str, offset: int, length: int | None) -> Part:
        """Read some bytes of exactly that version.

        Args:
            key: The key.
            etag: Which version, without quotes; empty: whichever there is.
            offset: First byte.
            length: How many; None reads all, and goes with offset 0.

        Raises:
            Replaced: The key holds another version now.
            Unreadable: It is gone, or refused.
            SourceError: The server does not answer; nothing else could be read either.
        """
        span = None if length is None else (offset, offset + length)
        version = self.version_of(key)
        try:
            if all(_PLAIN.fullmatch(segment) for segment in key.split("/")):
                part = self._read_plain(key, etag, span, version)
            else:
                part = self._read_odd(key, etag, span, version)
            return part if offset else self._with_more(part, key, version)
        except Replaced:
            raise
        except Exception as error:
            raise self._unreadable(key, error) from error

    def _with_more(self, part: Part, key: str, version: str | None) -> Part:
        """With its version and tags; asked for with the first bytes only."""
        more = [(VERSION, version)] if version is not None else []
        if self.tags:
            wanted = {"Bucket": self.settings.bucket, "Key": key}
            if version is not None:
                wanted["VersionId"] = version
            more += tag_pairs(self._client().get_object_tagging(**wanted)["TagSet"])
        return replace(part, metadata=tuple(sorted((*part.metadata, *more)))) if more else part

    def _read_plain(
        self, key: str, etag: str, span: tuple[int, int] | None, version: str | None
    ) -> Part:
        import obstore
        from obstore.exceptions import PreconditionError

        options: Any = {"if_match": f'"{etag}"'} if etag else {}
        if span is not None:
            options["range"] = span
        if version is not None:
            options["version"] = version

        def get() -> tuple[Any, memoryview]:
            found = obstore.get(self._obstore, key, options=options)
            return found, memoryview(found.bytes())

        try:
            found, content = repeat(get)
        except PreconditionError as error:
            raise Replaced from error
        except Exception as error:
            if is_past_the_end(error):
                raise Replaced from error
            raise
        attributes: Mapping[str, str] = found.attributes
        return Part(
            content,
            found.meta["size"],
            _nanoseconds(found.meta["last_modified"]),
            _bare(found.meta["e_tag"] or etag),
            attributes.get("Content-Type"),
            _pairs(
                {name: attributes[name] for name in attributes if name not in _PROPERTIES},
                attributes,
            ),
        )

    def _read_odd(
        self, key: str, etag: str, span: tuple[int, int] | None, version: str | None
    ) -> Part:
        errors = import_module("botocore.exceptions")
        options = {"Bucket": self.settings.bucket, "Key": key}
        if etag:
            options["IfMatch"] = f'"{etag}"'
        if span is not None:
            options["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        if version is not None:
            options["VersionId"] = version
        for attempt in range(1, _READ_ATTEMPTS + 1):
            try:
                found = self._client().get_object(**options)
                content = memoryview(found["Body"].read())
                break
            except errors.ClientError as error:
                if _status(error) in (412, 416):
                    raise Replaced from error
                raise
            except (errors.IncompleteReadError, errors.ReadTimeoutError, errors.HTTPClientError):
                if attempt == _READ_ATTEMPTS:
                    raise
        whole = found.get("ContentRange", "").rpartition("/")[2]
        return Part(
            content,
            int(whole) if whole else found["ContentLength"],
            _nanoseconds(found["LastModified"]),
            _bare(found["ETag"]),
            found.get("ContentType"),
            _pairs(
                found["Metadata"], {name: found.get(name.replace("-", ""), "") for name in HEADERS}
            ),
        )

    def _client(self) -> Any:
        if self._boto3 is None:
            errors = import_module("botocore.exceptions")
            try:
                self._boto3 = self.settings.boto3_client(max_pool_connections=_CONNECTIONS)
            except errors.BotoCoreError as error:
                raise _as_source_error(self._explained("", error)) from error
            self._boto3.meta.events.register("after-call.s3.ListObjectVersions", _note_kinds)
        return self._boto3

    def _unreadable(self, key: str, error: Exception) -> Exception:
        """Return what to raise: the object's own trouble, or the end of all reading."""
        if isinstance(error, SourceError):
            return error
        ours = self._explained(key, error)
        if isinstance(ours, ObjectMissing):
            return self._gone_with_the_bucket() or Unreadable(VANISHED, "it is gone")
        if isinstance(ours, StoreUnavailable) and _code(error) not in _OF_ONE_OBJECT:
            return _as_source_error(ours)
        return Unreadable(UNREADABLE, ours.message.partition(f"{key}: ")[2] or ours.message)

    def _gone_with_the_bucket(self) -> SourceError | None:
        """What to raise if an object is gone because all are: not every server says so itself."""
        self._vanished += 1
        if self._vanished not in _ASKED_AT:
            return None
        try:
            self._asked(partial(self._client().list_objects_v2, MaxKeys=1))
        except SourceError as error:
            code = _code(error.__cause__) if error.__cause__ is not None else None
            return error if code == "NoSuchBucket" else None
        return None

    def _explained(self, key: str, error: Exception) -> StoreError:
        errors = import_module("botocore.exceptions")
        if isinstance(error, errors.ClientError):
            answer: Any = error
            code = _code(error)
            status = _status(error)
            if status == 404 and code != "NoSuchBucket" and key:
                return ObjectMissing(f"{self.settings.url}: {key} is not there")
            message = answer.response["Error"].get("Message")
            return explain(self.settings, key, status, code, message)
        if isinstance(error, (errors.NoCredentialsError, errors.PartialCredentialsError)):
            return no_credentials(self.settings)
        if isinstance(error, errors.BotoCoreError):
            return no_answer(self.settings, " ".join(str(error).split()))
        return translate(self.settings, key, error)


def _options(settings: S3Settings) -> dict[str, Any]:
    names = (
        "region",
        "endpoint",
        "addressing",
        "access_key_id",
        "secret_access_key",
        "session_token",
        "profile",
    )
    return {name: getattr(settings, name) for name in names}


def _pairs(metadata: Mapping[str, str], headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted([*metadata.items(), *own_pairs(headers)]))


def _note_kinds(http_response: Any, parsed: dict[str, Any], **_: Any) -> None:
    """Keep in which order versions and delete markers stand; boto3 gives two lists."""
    kinds = _LINE.findall(http_response.content)
    parsed["Kinds"] = "".join("V" if kind == b"Version" else "M" for kind in kinds)


def _version(found: Mapping[str, Any]) -> Version:
    etag = found.get("ETag")
    return Version(
        found["Key"],
        found["VersionId"],
        _nanoseconds(found["LastModified"]),
        found.get("Size", 0),
        None if etag is None else _bare(etag),
        found["IsLatest"],
    )


def _listed(found: Mapping[str, Any]) -> Listed:
    return Listed(
        found["Key"], found["Size"], _nanoseconds(found["LastModified"]), _bare(found["ETag"])
    )


def _bare(etag: str) -> str:
    return etag.strip('"')


def _nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000) * 1_000_000


def _status(error: Any) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _code(error: Any) -> str | None:
    """Return the server's own code for a refusal that boto3 or obstore reports."""
    response: Mapping[str, Any] | None = getattr(error, "response", None)
    return response["Error"].get("Code") if response else code_of(error)


def _as_source_error(error: StoreError) -> SourceError:
    return SourceError(error.message, error.hint)
