"""Where a plan's bytes and secrets are: stores, sources, scratch and keys, as references."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic_core import PydanticCustomError

from backup_pipeline.cost.prices import StoragePrices
from backup_pipeline.engine.errors import KeyMissing, UsageError
from backup_pipeline.plan.content import is_mapping
from backup_pipeline.plan.references import Reference, resolve_references
from backup_pipeline.plan.schema import check_store_url

__all__ = ["KeySpec", "Lock", "ScratchSpec", "SourceSpec", "StoreSpec"]


@dataclass(frozen=True, slots=True)
class Lock:
    """How the store refuses deletion, and for how long."""

    mode: Literal["compliance", "governance"]
    days: int


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Where a dataset is read from.

    Attributes:
        kind: Kind of source that reads it: ``files`` or ``objects``, or a kind of a later version.
        options: What that source takes; references stand as written. ``{day}`` may stand in them.
        installed: Whether this version can read it.
        by_day: Whether the place names a day.
        written_kind: The kind as the plan names it, such as ``day_paths``.
    """

    kind: str
    options: Mapping[str, Any]
    installed: bool = True
    by_day: bool = False
    written_kind: str = ""

    @property
    def place(self) -> str:
        """The path or URL as written, for messages; never a secret."""
        where = self.options.get("path") or self.options.get("url") or self.options.get("key")
        if is_mapping(where):
            named = "env" if "env" in where else "file"
            return f"{{{named}: {where[named]}}}"
        return str(where) if where else self.kind

    def resolved(self, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Returns the options with references replaced by what they refer to.

        Raises:
            UsageError: A value that is referred to is not there.
        """
        variables = os.environ if environ is None else environ
        return resolve_references(dict(self.options), variables, f"source {self.kind}")


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """A store as the plan declares it; secrets are references.

    Attributes:
        settings: Region, endpoint, credentials, addressing.
        prices: What it costs; None where the plan does not say.
        media: What kind of medium it is on; None where the plan does not say.
        site: Where it is; None where the plan does not say.
    """

    name: str
    url: str | Reference
    settings: Mapping[str, str | Reference] = field(default_factory=dict[str, "str | Reference"])
    lock: Lock | None = None
    prices: StoragePrices | None = None
    media: str | None = None
    site: str | None = None

    @property
    def display_url(self) -> str:
        """The URL for people; a reference is shown by its name."""
        return self.url if isinstance(self.url, str) else f"{{{self.url}}}"

    def url_in(self, environ: Mapping[str, str] | None = None) -> str:
        """Returns the URL.

        Raises:
            UsageError: The variable or file that holds it is not there, or what it holds is no
                store's URL.
        """
        if isinstance(self.url, str):
            return self.url
        url = self.url.resolve(_environ(environ), f"the url of store {self.name}")
        try:
            check_store_url(url)
        except PydanticCustomError as error:
            context = error.context or {}
            message = f"store {self.name} ({self.url}): {context.get('message')}"
            raise UsageError(message, context.get("suggestion")) from None
        if "://" not in url and not url.startswith("/"):
            message = f"store {self.name} ({self.url}): the path is not absolute"
            raise UsageError(message, "write it from / on")
        return url

    def options(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """Returns what ``engine.store.open_store`` takes, references resolved.

        Raises:
            UsageError: A value that is referred to is not there.
        """
        url = self.url_in(environ)
        if not url.startswith("s3://"):
            # A region or credentials may remain from before an environment changed the url.
            return {"url": url}
        options = {"url": url}
        for key, value in self.settings.items():
            what = f"{key} of store {self.name}"
            literal = isinstance(value, str)
            options[key] = value if literal else value.resolve(_environ(environ), what)
        return options


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A key as the plan names it: where the secret is, never the secret."""

    name: str
    kind: Literal["passphrase", "key_file"]
    reference: Reference

    def resolve(
        self, environ: Mapping[str, str] | None = None
    ) -> tuple[Literal["passphrase", "key_file"], bytes]:
        """Fetches the secret: the passphrase, or the content of the key file.

        Raises:
            KeyMissing: It is not there; the message says how to give it.
        """
        reference = self.reference
        found: bytes | None
        if reference.file is not None and self.kind == "key_file":
            found = reference.read()
        else:
            text = reference.find(_environ(environ))
            found = None if text is None else text.encode("utf-8", "surrogateescape")
        if not found:
            gone = "is not set" if reference.env else "is missing or empty"
            raise KeyMissing(
                f"key {self.name} of the plan is needed, but {reference} {gone}",
                self._how_to_give(),
            )
        return self.kind, found

    def _how_to_give(self) -> str:
        what = "the passphrase" if self.kind == "passphrase" else "the key file's content"
        if self.reference.env:
            return (
                f"export {self.reference.env}=… with {what}; keep a copy outside this machine,"
                " for without it no backup can be restored"
            )
        return f"put {what} there, readable by this user only"


@dataclass(frozen=True, slots=True)
class ScratchSpec:
    """Where drills restore to, and how much room they may take."""

    url: str | Reference
    max_bytes: int | None = None

    def path(self, environ: Mapping[str, str] | None = None) -> Path:
        """Returns the directory.

        Raises:
            UsageError: The variable that names it is not set, or it names no local directory.
        """
        url = self.url
        text = url if isinstance(url, str) else url.resolve(_environ(environ), "the scratch url")
        if text.startswith("file://"):
            text = unquote(urlsplit(text).path)
        if "://" in text or not text.startswith("/"):
            raise UsageError(f"scratch {text} is no local directory", "write file:///srv/restore")
        return Path(text)


def _environ(environ: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if environ is None else environ
