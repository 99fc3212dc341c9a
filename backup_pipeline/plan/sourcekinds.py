"""Which kinds of source a plan may name, and how a source is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any
from urllib.parse import urlsplit

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.plan.content import is_mapping
from backup_pipeline.plan.databases import DATABASES
from backup_pipeline.plan.dayform import day_problem, has_day
from backup_pipeline.plan.problems import one_of
from backup_pipeline.plan.references import has_url_password, is_reference
from backup_pipeline.plan.sourcekind import (
    Option,
    SourceKind,
    foreign_kind,
    foreign_names,
    local_path,
)
from backup_pipeline.plan.urlkinds import SCHEMES, URL_KINDS
from backup_pipeline.plan.values import mistake

__all__ = [
    "BUILT_IN",
    "LATER",
    "PLACEHOLDERS",
    "S3_OPTIONS",
    "escape_braces",
    "fill_asset",
    "find_kind",
    "parse_source",
    "placeholders",
    "source_url",
    "url_kind",
]

LATER = (
    "mlflow",
    "model",
    "kafka",
    "stream",
)
"""Kinds that a plan may name already; a run says that they are not installed."""

PLACEHOLDERS = ("asset", "day")

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_SECRETS = ("access_key_id", "secret_access_key", "session_token")
S3_OPTIONS = ("region", "endpoint", "profile", *_SECRETS, "addressing")
"""What says how a bucket is reached, for stores and sources alike."""

_S3_OPTIONS = {
    **{name: Option() for name in ("url", *S3_OPTIONS)},
    "tags": Option("flag"),
}


def find_kind(name: str) -> SourceKind | None:
    """The kind of source of this name: one of ours, or one that another package brings.

    Raises:
        UsageError: What another package brings cannot be used.
    """
    return BUILT_IN.get(name) or foreign_kind(name)


def parse_source(value: Any) -> dict[str, Any]:
    """Reads a source: a path, a URL, or ``{kind: options}``.

    Returns:
        One kind and its options, as a mapping with one key.
    """
    if isinstance(value, str):
        return _from_text(value)
    if not is_mapping(value):
        raise mistake("not a source", "write a path, an s3:// URL or {kind: options}")
    if len(value) != 1:
        kinds = _join(tuple(BUILT_IN))
        raise mistake("a source has exactly one kind", f"write {{kind: options}} with {kinds}")
    kind, written = next(iter(value.items()))
    found = _find(kind)
    if found is not None:
        return {kind: found.parse(_with_place(kind, written))}
    if kind not in LATER:
        known = (*BUILT_IN, *foreign_names(), *LATER)
        raise mistake(f"unknown kind of source '{kind}'", one_of(str(kind), known))
    return {kind: written if is_mapping(written) else {"value": written}}


def _find(name: object) -> SourceKind | None:
    try:
        return find_kind(name) if isinstance(name, str) and name else None
    except UsageError as error:
        raise mistake(error.message, error.hint) from None


def _with_place(kind: str, written: Any) -> Any:
    """Where a kind is at a path or at a URL, a mere text is one or the other."""
    if kind not in ("day_paths", "delta") or (is_mapping(written) and not is_reference(written)):
        return written
    url = isinstance(written, str) and source_url(written)
    return {"url" if url else "path": written}


def _from_text(text: str) -> dict[str, Any]:
    if not text.strip():
        raise mistake("not a source", "write a path or an s3:// URL")
    url = source_url(text)
    if has_day(text):
        _check_day(text)
        return {"day_paths": {"url": url} if url else {"path": local_path(text)}}
    return {url_kind(url): {"url": url}} if url else {"files": {"path": local_path(text)}}


def url_kind(url: Any) -> str:
    """The kind that reads a URL; where that stands elsewhere, the one that opens any."""
    return (
        SCHEMES.get(url.partition("://")[0].lower(), "objects")
        if isinstance(url, str)
        else "objects"
    )


def _check_day(text: str) -> None:
    problem = day_problem(text)
    if problem is not None:
        raise mistake(*problem)


def _check_path(options: Mapping[str, Any]) -> None:
    path = options["path"]
    if isinstance(path, str) and source_url(path) is not None:
        raise mistake("source files needs a path on this machine", "use {objects: {url: s3://…}}")


def _check_url(options: Mapping[str, Any]) -> None:
    url = options["url"]
    if isinstance(url, str) and (source_url(url) is None or url_kind(url) != "objects"):
        raise mistake("source objects needs an s3:// URL", "use {files: path} for a directory")
    since = options.get("versions_kept_since")
    if isinstance(since, str):
        try:
            date.fromisoformat(since)
        except ValueError:
            raise mistake(f"'{since}' is no day", "write versions_kept_since: 2026-11-22") from None


def _check_day_paths(options: Mapping[str, Any]) -> None:
    places = [options[key] for key in ("path", "url") if key in options]
    if len(places) != 1:
        raise mistake("source day_paths needs path or url")
    if isinstance(places[0], str):
        source_url(places[0])
        _check_day(places[0])
        if not has_day(places[0]):
            raise mistake(
                "day_paths needs {day} where the day stands", "such as /lake/events/day={day}"
            )


def _check_table(options: Mapping[str, Any]) -> None:
    places = [key for key in ("path", "url") if key in options]
    if len(places) != 1:
        raise mistake("source delta needs path or url", "write {delta: /lake/orders}")
    place = options[places[0]]
    if isinstance(place, str) and (source_url(place) is None) != (places == ["path"]):
        fitting = "url" if places == ["path"] else "path"
        raise mistake(f"{places[0]} of source delta is none", f"write {fitting}: {place}")
    if places == ["url"] and isinstance(place, str) and not place.lower().startswith("s3://"):
        raise mistake("source delta needs an s3:// URL", "or the path of a directory")


def _check_iceberg(options: Mapping[str, Any]) -> None:
    if ("table" in options) == ("metadata" in options):
        raise mistake(
            "source iceberg needs table or metadata",
            "write {iceberg: {table: shop.orders, catalog: {uri: …}}}",
        )
    alien = "properties" if "table" in options else "catalog"
    if alien in options:
        goes = "metadata" if alien == "properties" else "table"
        raise mistake(f"{alien} of source iceberg goes with {goes}", "remove it")


BUILT_IN: Mapping[str, SourceKind] = {
    kind.name: kind
    for kind in (
        *DATABASES,
        SourceKind(
            "files",
            "backup_pipeline.sources.files:open_files",
            {"path": Option("path", needed=True)},
            main="path",
            excludes=True,
            check=_check_path,
        ),
        SourceKind(
            "objects",
            "backup_pipeline.sources.objects:open_objects",
            {**_S3_OPTIONS, "url": Option(needed=True), "versions_kept_since": Option()},
            main="url",
            excludes=True,
            check=_check_url,
        ),
        SourceKind(  # is opened as files or as objects
            "day_paths",
            "",
            {"path": Option("path"), **_S3_OPTIONS},
            slices=True,
            excludes=True,
            check=_check_day_paths,
        ),
        SourceKind(
            "nats",
            "backup_pipeline.sources.nats:open_nats",
            {
                "url": Option(needed=True),
                "stream": Option(needed=True),
                **{name: Option() for name in ("user", "password", "token")},
                "credentials": Option("path"),
            },
            extra="nats",
            loads={"nats": "backup_pipeline.sources.nats:load_stream"},
        ),
        SourceKind(  # its places come from Dagster's event log
            "asset",
            "backup_pipeline.sources.asset:open_asset",
            {"key": Option(), "definitions": Option(), **{name: Option() for name in S3_OPTIONS}},
            main="key",
            slices=True,
            excludes=True,
            per_asset=True,
        ),
        *URL_KINDS,
        SourceKind(
            "delta",
            "backup_pipeline.sources.delta:open_delta",
            {"path": Option("path"), **_S3_OPTIONS},
            check=_check_table,
        ),
        SourceKind(
            "iceberg",
            "backup_pipeline.sources.iceberg:open_iceberg",
            {
                "table": Option(),
                "catalog": Option("any"),
                "metadata": Option("path"),
                "properties": Option("mapping"),
            },
            extra="iceberg",
            check=_check_iceberg,
            loads={"iceberg": "backup_pipeline.sources.iceberg_load:load"},
        ),
    )
}
"""The kinds of source that this package brings, by name."""


def source_url(text: str) -> str | None:
    """Returns the text where it is a URL of objects, None where it is a path.

    Raises:
        PydanticCustomError: It is a URL that no source reads.
    """
    if "://" not in text:
        return None
    if has_url_password(text):
        raise mistake("a URL in the plan holds no credentials", "use access_key_id: {env: NAME}")
    scheme = text.split("://", 1)[0].lower()
    if scheme == "file":
        return None
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise mistake(
            f"sources at {scheme}:// are not read by themselves",
            f"a path or {known} can be; {{fsspec: '{scheme}://…'}} reads what fsspec can",
        )
    if not urlsplit(text).netloc:
        raise mistake("the URL names no bucket", "write s3://bucket/prefix")
    return text


def placeholders(text: str) -> list[str]:
    """Lists the names in braces in a source's place; doubled braces are braces themselves."""
    return [match[1] for match in _PLACEHOLDER.finditer(text) if match[1] is not None]


def fill_asset(text: str, asset: str) -> str:
    """Puts a dataset's key in the place of ``{asset}`` and leaves ``{day}`` for the run."""

    def fill(match: re.Match[str]) -> str:
        if match[1] == "asset":
            return asset
        return {"{{": "{", "}}": "}"}.get(match[0], match[0])

    return _PLACEHOLDER.sub(fill, text)


def escape_braces(text: str) -> str:
    """Doubles the braces of a path, so that none of them is taken for a placeholder."""
    return text.replace("{", "{{").replace("}", "}}")


def _join(words: tuple[str, ...]) -> str:
    return ", ".join(words[:-1]) + " or " + words[-1]
