"""Stores: bytes by name behind one contract, opened by URL."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.engine.store.base import Content, Piece, Probe, Store, StoredObject

if TYPE_CHECKING:
    from backup_pipeline.engine.store.memory import MemoryStore

__all__ = ["Content", "Piece", "Probe", "Store", "StoredObject", "open_store"]

_SUPPORTED = "supported: file:///path or a plain path, s3://bucket/prefix, memory://name"
_memory: dict[str, MemoryStore] = {}
_memory_lock = threading.Lock()


def open_store(spec: str | os.PathLike[str] | Mapping[str, Any]) -> Store:
    """Open the store that a URL or a mapping describes; nothing is read or written yet.

    Args:
        spec: ``file:///path`` or a plain path, ``s3://bucket/prefix``, ``memory://name``; or a
            mapping with ``url`` and, for S3, any of ``region``, ``endpoint``, ``access_key_id``,
            ``secret_access_key``, ``session_token``, ``profile`` and ``addressing`` (``path`` or
            ``virtual``). What is not given comes from the usual AWS environment variables and
            files.

    Raises:
        UsageError: The URL or an option is not one that is supported.
    """
    options: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {"url": os.fspath(spec)}
    text = str(options.pop("url", None) or "")
    if not text:
        raise UsageError("a store needs a url", _SUPPORTED)
    if "://" not in text:
        _refuse_options(text, options)
        return _open_local(text)
    parts = urlsplit(text)
    if parts.password or parts.username or parts.query or parts.fragment:
        raise UsageError(
            f"the url of store {parts.scheme}://{parts.hostname or ''}{parts.path} holds more than"
            " a place",
            "give credentials and settings as options of the store, never in its url",
        )
    if parts.scheme == "s3":
        from backup_pipeline.engine.store.s3 import open_s3

        return open_s3(parts.netloc, parts.path, options)
    _refuse_options(text, options)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise UsageError(
                f"store url {text} names no absolute path", "write file:///srv/backups"
            )
        return _open_local(unquote(parts.path))
    if parts.scheme == "memory":
        return _open_memory(f"{parts.netloc}{parts.path}")
    raise UsageError(f"stores of the kind {parts.scheme}:// are not known", _SUPPORTED)


def _open_local(path: str) -> Store:
    from backup_pipeline.engine.store.local import LocalStore

    return LocalStore(Path(path).expanduser())


def _open_memory(name: str) -> Store:
    from backup_pipeline.engine.store.memory import MemoryStore

    with _memory_lock:
        return _memory.setdefault(name, MemoryStore(name))


def _refuse_options(url: str, options: Mapping[str, Any]) -> None:
    given = sorted(key for key, value in options.items() if value is not None)
    if given:
        raise UsageError(f"store {url} takes no option {', '.join(given)}", "remove it")
