"""Which bucket a restore goes to, where it goes to one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from backup_pipeline.engine.errors import UsageError

if TYPE_CHECKING:
    from backup_pipeline.engine.store.s3_settings import S3Settings

__all__ = ["bucket_of"]


def bucket_of(to: str | Path, options: Mapping[str, str]) -> S3Settings | None:
    """The place in a bucket that a restore is to go to; None where it is a directory.

    Args:
        to: As the user wrote it.
        options: Region, endpoint and credentials; what is not among them the usual AWS chain says.

    Raises:
        UsageError: It is a URL, and none of S3.
    """
    if not isinstance(to, str) or "://" not in to:
        return None
    parts = urlsplit(to)
    if parts.scheme != "s3" or parts.query or parts.fragment or parts.username:
        raise UsageError(
            f"{parts.scheme}://{parts.hostname or ''}{parts.path} is no place to restore to",
            "give a directory, or s3://bucket/prefix",
        )
    from backup_pipeline.engine.store.s3_settings import S3Settings

    return S3Settings.read(parts.netloc, parts.path.rstrip("/"), options, free_prefix=True)
