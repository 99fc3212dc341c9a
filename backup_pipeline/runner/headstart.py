"""A head start: the key of a plan's first store is derived while the plan is still being checked.

Deriving a key takes longer than all else that a short verb does, by intent, and needs none of
Python's lock. What is begun here is a guess: if it was right, opening the store finds it done; if
not, opening the store says what is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from backup_pipeline.engine.errors import BackupError

__all__ = ["begin_deriving"]

_DEFAULT_KEYS = {"main": {"passphrase": {"env": "BACKUP_PASSPHRASE"}}}
_NOT_AS_EXPECTED = (AttributeError, KeyError, OSError, StopIteration, TypeError, ValueError)


def begin_deriving(
    content: Mapping[str, Any], folder: Path, environ: Mapping[str, str] = os.environ
) -> None:
    """Begin to derive the key of a plan's first store, if that is a local one with a passphrase.

    Args:
        content: The plan as it was read, not checked yet.
        folder: What relative paths in it are relative to.
        environ: Where the passphrase is looked up.
    """
    with suppress(BackupError, *_NOT_AS_EXPECTED):
        spec = next(iter(content["stores"].values()))
        url = spec if isinstance(spec, str) else spec["url"]
        key = next(iter(content.get("keys", _DEFAULT_KEYS).values()))
        passphrase = environ[key["passphrase"]["env"]]
        local = url.startswith("file://") or "://" not in url
        if local and passphrase and content.get("encryption") != "none":
            _begin(url if "://" in url else str(folder / url), passphrase)


def _begin(url: str, passphrase: str) -> None:
    from backup_pipeline.engine.documents import STORE_NAME
    from backup_pipeline.engine.format.document import decode_descriptor
    from backup_pipeline.engine.keys import KeyEncryptionKey, Passphrase
    from backup_pipeline.engine.store import open_store

    descriptor = decode_descriptor(open_store(url).get(STORE_NAME), STORE_NAME)
    if descriptor.kdf is not None:
        KeyEncryptionKey.begin(Passphrase(os.fsencode(passphrase)), descriptor.kdf)
