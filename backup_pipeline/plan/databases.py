"""The kinds of source that read databases, as a plan declares them."""

from __future__ import annotations

from typing import Final

from backup_pipeline.plan.sourcekind import Option, SourceKind

__all__ = ["DATABASES"]

_LOAD_POSTGRES: Final = "backup_pipeline.sources.postgres_load:load"

DATABASES: Final = (
    SourceKind(
        "postgres",
        "backup_pipeline.sources.postgres:open_postgres",
        {
            "dsn": Option(needed=True),
            "password": Option(),
            "schemas": Option("texts"),
            "include": Option("texts"),
            "exclude": Option("texts"),
            "large_objects": Option("flag"),
            "pg_dump": Option("path"),
        },
        main="dsn",
        extra="postgres",
        loads={"postgresql": _LOAD_POSTGRES, "postgres": _LOAD_POSTGRES},
    ),
    SourceKind(
        "sqlite",
        "backup_pipeline.sources.sqlite:open_sqlite",
        {"path": Option("path", needed=True)},
        main="path",
    ),
    SourceKind(
        "duckdb",
        "backup_pipeline.sources.duckdb_file:open_duckdb",
        {"path": Option("path", needed=True)},
        main="path",
        extra="duckdb",
    ),
)
