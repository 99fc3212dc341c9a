"""Kinds of source that are named by a URL of another system than S3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from backup_pipeline.plan.dayform import day_problem
from backup_pipeline.plan.references import has_url_password
from backup_pipeline.plan.sourcekind import Option, SourceKind
from backup_pipeline.plan.values import mistake

__all__ = ["SCHEMES", "URL_KINDS"]

SCHEMES: Mapping[str, str] = {
    "s3": "objects",
    "gs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "sftp": "sftp",
}
"""Which kind reads a URL that stands alone, by its scheme."""


def _check(name: str, example: str) -> Callable[[Mapping[str, Any]], None]:
    schemes = tuple(scheme for scheme, kind in SCHEMES.items() if kind == name)

    def check(options: Mapping[str, Any]) -> None:
        url = options["url"]
        if not isinstance(url, str):
            return
        if has_url_password(url):
            raise mistake(
                "a URL in the plan holds no credentials", "write {env: NAME} as an option"
            )
        scheme, mark, rest = url.partition("://")
        if not mark or not rest.strip("/") or (schemes and scheme not in schemes):
            raise mistake(f"source {name} cannot read '{url}'", f"write {example}")
        problem = day_problem(url)
        if problem is not None:
            raise mistake(*problem)

    return check


URL_KINDS = (
    SourceKind(
        "gcs",
        "backup_pipeline.sources.cloud:open_gcs",
        {
            "url": Option(needed=True),
            "service_account_file": Option("path"),
            "service_account_key": Option(),
        },
        main="url",
        slices=True,
        excludes=True,
        check=_check("gcs", "gs://bucket/prefix"),
    ),
    SourceKind(
        "azure",
        "backup_pipeline.sources.cloud:open_azure",
        {
            "url": Option(needed=True),
            **dict.fromkeys(("account", "account_key", "sas_token", "endpoint"), Option()),
            **dict.fromkeys(("tenant_id", "client_id", "client_secret"), Option()),
        },
        main="url",
        slices=True,
        excludes=True,
        check=_check("azure", "az://container/prefix"),
    ),
    SourceKind(
        "sftp",
        "backup_pipeline.sources.sftp:open_sftp",
        {
            "url": Option(needed=True),
            **dict.fromkeys(("user", "password", "key_passphrase"), Option()),
            **dict.fromkeys(("key_file", "known_hosts"), Option("path")),
        },
        main="url",
        slices=True,
        excludes=True,
        extra="sftp",
        check=_check("sftp", "sftp://host/path"),
    ),
    SourceKind(
        "fsspec",
        "backup_pipeline.sources.fsspec_files:open_fsspec",
        {"url": Option(needed=True), "options": Option("mapping")},
        main="url",
        slices=True,
        excludes=True,
        check=_check("fsspec", "protocol://…, as fsspec takes it"),
    ),
)
