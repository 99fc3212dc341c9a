"""Which kinds of source a plan may name, and how a source is written."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from backup_pipeline.plan.content import is_mapping
from backup_pipeline.plan.problems import one_of
from backup_pipeline.plan.references import has_url_password, is_reference
from backup_pipeline.plan.values import mistake

__all__ = [
    "INSTALLED",
    "LATER",
    "PLACEHOLDERS",
    "SLICING",
    "escape_braces",
    "fill_asset",
    "parse_source",
    "placeholders",
    "source_url",
]

INSTALLED = ("files", "objects", "day_paths")
"""Kinds that this version reads."""

LATER = (
    "postgres",
    "sqlite",
    "duckdb",
    "delta",
    "iceberg",
    "mlflow",
    "model",
    "nats",
    "kafka",
    "stream",
    "fsspec",
    "gcs",
    "azure",
    "sftp",
    "asset",
)
"""Kinds that a plan may name already; a run says that they are not installed."""

SLICING = ("day_paths", "nats", "kafka", "stream", "asset", "delta", "iceberg")
"""Kinds that can tell one day's part from the rest."""

PLACEHOLDERS = ("asset", "day")

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_OBJECT_KEYS = (
    "url",
    "region",
    "endpoint",
    "profile",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "addressing",
)
_KEYS = {"files": ("path",), "objects": _OBJECT_KEYS, "day_paths": ("path", *_OBJECT_KEYS)}


def parse_source(value: Any) -> dict[str, Any]:
    """Reads a source: a path, an ``s3://`` URL, or ``{kind: options}``.

    Returns:
        One kind and its options, as a mapping with one key.
    """
    if isinstance(value, str):
        return _from_text(value)
    if not is_mapping(value):
        raise mistake("not a source", "write a path, an s3:// URL or {kind: options}")
    keys = value
    if len(keys) != 1:
        raise mistake(
            "a source has exactly one kind", f"write {{kind: options}} with {_join(INSTALLED)}"
        )
    kind, written = next(iter(keys.items()))
    if kind not in INSTALLED and kind not in LATER:
        suggestion = one_of(kind, (*INSTALLED, *LATER))
        raise mistake(f"unknown kind of source '{kind}'", suggestion)
    if kind in LATER:
        return {kind: written if is_mapping(written) else {"value": written}}
    return {kind: _options(kind, written)}


def _from_text(text: str) -> dict[str, Any]:
    if not text.strip():
        raise mistake("not a source", "write a path or an s3:// URL")
    url = source_url(text)
    if "{day}" in text:
        return {"day_paths": {"url": url} if url else {"path": _local_path(text)}}
    return {"objects": {"url": url}} if url else {"files": {"path": _local_path(text)}}


def _options(kind: str, written: Any) -> dict[str, Any]:
    """Reads the options of a kind that this version reads."""
    if isinstance(written, str) or is_reference(written):
        key = "url" if kind == "objects" else "path"
        if kind == "day_paths" and isinstance(written, str) and source_url(written):
            key = "url"
        written = {key: written}
    if not is_mapping(written):
        raise mistake(f"'{kind}' takes {' or '.join(_KEYS[kind][:2])}")
    options = dict(written)
    for key, option in options.items():
        if key not in _KEYS[kind]:
            raise mistake(f"unknown key '{key}' in source {kind}", one_of(key, _KEYS[kind]))
        if not isinstance(option, str) and not is_reference(option):
            raise mistake(f"{key} of source {kind} is not text", "write text, or {env: NAME}")
    places = [key for key in ("path", "url") if key in options]
    if len(places) != 1:
        wanted = "path or url" if kind == "day_paths" else _KEYS[kind][0]
        raise mistake(f"source {kind} needs {wanted}")
    _check_place(kind, places[0], options)
    return options


def _check_place(kind: str, key: str, options: dict[str, Any]) -> None:
    place = options[key]
    if not isinstance(place, str):
        return
    url = source_url(place)
    if kind == "objects" and url is None:
        raise mistake("source objects needs an s3:// URL", "use {files: path} for a directory")
    if kind == "files" and url is not None:
        raise mistake("source files needs a path on this machine", "use {objects: {url: s3://…}}")
    if kind == "day_paths":
        options[key] = place
        if "{day}" not in place:
            raise mistake(
                "day_paths needs {day} where the day stands", "such as /lake/events/day={day}"
            )
    if key == "path":
        options["path"] = _local_path(place)


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
    if scheme != "s3":
        raise mistake(
            f"sources at {scheme}:// are not read yet", "a path or an s3:// URL can be read"
        )
    if not urlsplit(text).netloc:
        raise mistake("the URL names no bucket", "write s3://bucket/prefix")
    return text


def _local_path(text: str) -> str:
    if not text.startswith("file://"):
        return text
    path = text[len("file://") :]
    if not path.startswith("/"):
        raise mistake(f"'{text}' has no absolute path", f"did you mean 'file:///{path}'?")
    return path


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
