"""Objects in Google Cloud Storage and Azure Blob Storage, read as those below an S3 prefix are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from backup_pipeline.engine.errors import DayUnavailable, SourceError, UsageError
from backup_pipeline.engine.store.again import ATTEMPTS, is_broken_off, pause, repeat
from backup_pipeline.sources.base import UNREADABLE, VANISHED, Source, Unreadable
from backup_pipeline.sources.bucket import Listed, Part, Replaced
from backup_pipeline.sources.objects import ObjectsSource
from backup_pipeline.sources.properties import HEADERS, own_pairs

__all__ = ["CloudBucket", "CloudSource", "open_azure", "open_gcs"]

_PAGE: Final = 1000
_PROPERTIES: Final = frozenset({*HEADERS, "Content-Type", "Storage-Class"})
_CLIENT: Final[Mapping[str, Any]] = {
    "connect_timeout": timedelta(seconds=5),
    "timeout": timedelta(minutes=5),
}
_RETRIES: Final[Mapping[str, Any]] = {"max_retries": 5, "retry_timeout": timedelta(seconds=60)}
_ABSENT: Final = re.compile(r"status code: 404")
_REFUSED: Final = re.compile(r"status code: 40[13]")
# Refusals of the credentials themselves, which no other object would be spared.
_NO_ENTRY: Final = ("AuthenticationFailed", "InvalidAuthenticationInfo", "AccountIsDisabled")


class CloudBucket:
    """A bucket or container as a source reads it; threads may share it.

    Args:
        store: An obstore store of the whole bucket.
        place: How messages call it, such as ``gs://bucket``.
    """

    def __init__(self, store: Any, place: str) -> None:
        self._store = store
        self._place = place

    def pages(self, prefix: str) -> Iterator[list[Listed]]:
        """List all keys below a prefix that ends in a slash, or the one key of that name.

        Raises:
            SourceError: It cannot be listed.
        """
        import obstore

        try:
            if prefix and not prefix.endswith("/"):
                yield [_listed(repeat(lambda: obstore.head(self._store, prefix)))]
                return
            yield from self._pages(prefix)
        except Exception as error:
            if isinstance(error, FileNotFoundError) and prefix and not prefix.endswith("/"):
                yield []
                return
            if isinstance(error, FileNotFoundError) or _ABSENT.search(str(error)):
                raise SourceError(
                    f"{self._place} does not exist", "check the url in the plan"
                ) from error
            raise self._failed(error) from error

    def _pages(self, prefix: str) -> Iterator[list[Listed]]:
        """All pages; where one breaks off, the listing goes on behind the one before it."""
        import obstore

        last: str | None = None
        broken = 0
        while True:
            try:
                listing = obstore.list(self._store, prefix or None, offset=last, chunk_size=_PAGE)
                for page in listing:
                    yield [_listed(found) for found in page]
                    last, broken = page[-1]["path"], 0
                return
            except Exception as error:
                broken += 1
                if broken == ATTEMPTS or not is_broken_off(error):
                    raise
            pause(broken - 1)

    def newest(self, key: str) -> Listed:
        """Describe what a key holds now.

        Raises:
            Unreadable: It is gone, or refused.
        """
        import obstore

        try:
            return _listed(obstore.head(self._store, key))
        except Exception as error:
            raise self._unreadable(error) from error

    def read(self, key: str, etag: str, offset: int, length: int | None) -> Part:
        """Read some bytes of exactly that version; as ``Bucket.read``."""
        import obstore
        from obstore.exceptions import PreconditionError

        options: Any = {"if_match": etag}
        if length is not None:
            options["range"] = (offset, offset + length)

        def get() -> tuple[Any, memoryview]:
            found = obstore.get(self._store, key, options=options)
            return found, memoryview(found.bytes())

        try:
            found, content = repeat(get)
        except PreconditionError as error:
            raise Replaced from error
        except Exception as error:
            if "416" in str(error) or "InvalidRange" in str(error):
                raise Replaced from error
            raise self._unreadable(error) from error
        given: Mapping[str, str] = found.attributes
        own = [(name, given[name]) for name in given if name not in _PROPERTIES]
        listed = _listed(found.meta)
        return Part(
            content,
            listed.size,
            listed.modified_ns,
            listed.etag,
            given.get("Content-Type"),
            tuple(sorted([*own, *own_pairs({name: given[name] for name in given})])),
        )

    def _unreadable(self, error: Exception) -> Exception:
        """The object's own trouble, or the end of all reading."""
        from obstore.exceptions import PermissionDeniedError

        text = str(error)
        if isinstance(error, FileNotFoundError) and "ContainerNotFound" not in text:
            return Unreadable(VANISHED, "it is gone")
        if isinstance(error, PermissionDeniedError) and not any(one in text for one in _NO_ENTRY):
            return Unreadable(UNREADABLE, f"access refused: {_first_line(text)}")
        return self._failed(error)

    def _failed(self, error: Exception) -> SourceError:
        from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

        if isinstance(error, SourceError):
            return error
        text = _first_line(str(error))
        if (
            "169.254." in text or "metadata.google" in text
        ):  # asked of the machine, as a last resort
            return SourceError(
                f"{self._place}: no credentials were found",
                "name them in the source's options, or in the environment",
            )
        refused = isinstance(error, (PermissionDeniedError, UnauthenticatedError))
        if refused or _REFUSED.search(str(error)):
            return SourceError(
                f"{self._place}: access refused: {text}",
                "check the credentials, and that they may list and read there",
            )
        return SourceError(f"{self._place} cannot be read: {text}", "try again later")


class CloudSource(ObjectsSource):
    """Everything below a prefix of a bucket in another cloud than AWS.

    Consistency: each object by itself, and each is read in one version only (``If-Match``), as on
    S3. Change marks are etag, size and time of writing. Past versions cannot be listed here, so a
    past day cannot be had. Keys that make no path end the run with an error.

    Args:
        store: An obstore store of the whole bucket.
        place: How messages call the bucket.
        prefix: What keys begin with.
        exclude: Globs over paths relative to the prefix.
    """

    supports_as_of = False

    def __init__(
        self, store: Any, place: str, prefix: str, *, kind: str, exclude: Sequence[str] = ()
    ) -> None:
        self.kind = kind
        self._place = place
        self._read_from(CloudBucket(store, place), prefix, exclude)

    def describe(self) -> str:
        """The prefix as a URL."""
        return f"{self._place}/{self._prefix}"

    def as_of(self, day: date) -> Source:
        """A listing has only the present."""
        raise DayUnavailable(
            f"{self.describe()} only has its present state, not that of {day}",
            "back it up on the day itself, or say `late: accept` to store its present state",
        )


def open_gcs(
    options: Mapping[str, Any], *, exclude: Sequence[str] = (), day: date | None = None
) -> CloudSource:
    """Open a prefix in Google Cloud Storage.

    Without an account of its own: what ``GOOGLE_APPLICATION_CREDENTIALS`` names, ``gcloud auth
    application-default login``, or the machine's own.
    """
    from obstore.store import GCSStore

    bucket, prefix = _places(options, ("gs", "gcs"), "gs://bucket/prefix")
    named = {
        "service_account_file": "service_account",
        "service_account_key": "service_account_key",
    }
    config = {named[name]: options[name] for name in named if options.get(name)}
    place = f"gs://{bucket}"
    store = _made(GCSStore, place, bucket, config, {})
    return CloudSource(store, place, prefix, kind="gcs", exclude=exclude)


def open_azure(
    options: Mapping[str, Any], *, exclude: Sequence[str] = (), day: date | None = None
) -> CloudSource:
    """Open a prefix in Azure Blob Storage.

    Without credentials of its own: what ``AZURE_…`` variables name, or the machine's own.
    """
    from obstore.store import AzureStore

    container, prefix = _places(options, ("az", "abfs", "abfss"), "az://container/prefix")
    named = {
        "account": "account_name",
        "account_key": "account_key",
        "sas_token": "sas_key",
        "tenant_id": "tenant_id",
        "client_id": "client_id",
        "client_secret": "client_secret",
        "endpoint": "endpoint",
    }
    config = {named[name]: options[name] for name in named if options.get(name)}
    client = {"allow_http": str(options.get("endpoint", "")).startswith("http://")}
    place = f"az://{container}"
    store = _made(AzureStore, place, container, config, client)
    return CloudSource(store, place, prefix, kind="azure", exclude=exclude)


def _made(
    kind: Any, place: str, bucket: str, config: Mapping[str, Any], client: Mapping[str, Any]
) -> Any:
    options = {**_CLIENT, **client}
    try:
        return kind(bucket, config=config, client_options=options, retry_config=dict(_RETRIES))
    except Exception as error:
        raise UsageError(
            f"{place} cannot be opened: {_first_line(str(error))}",
            "check the source's options, and where its credentials come from",
        ) from error


def _places(options: Mapping[str, Any], schemes: Sequence[str], example: str) -> tuple[str, str]:
    """Bucket and prefix of a URL."""
    url = str(options.get("url", ""))
    parts = urlsplit(url)
    if parts.scheme not in schemes or not parts.netloc or parts.query or parts.username:
        raise UsageError(
            f"source {parts.scheme}://{parts.hostname or ''}{parts.path} is none of these",
            f"write {example}",
        )
    return parts.netloc, unquote(parts.path).removeprefix("/")


def _listed(found: Mapping[str, Any]) -> Listed:
    moment = round(found["last_modified"].timestamp() * 1000) * 1_000_000
    return Listed(found["path"], found["size"], moment, found["e_tag"] or "")


def _first_line(text: str) -> str:
    return " ".join(text.split("\n", 1)[0].split())[:300]
