"""What to read from where, by the names that people give: a plan, or one store and its key."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.errors import UsageError

if TYPE_CHECKING:
    from backup_pipeline.engine.keys import Secret

__all__ = ["PASSPHRASE_VARIABLE", "PLAN_VARIABLE", "plan_file", "secrets_of", "store_options"]

PLAN_VARIABLE = "BACKUP_PLAN"
PASSPHRASE_VARIABLE = "BACKUP_PASSPHRASE"
DEFAULT_PLAN = "backup.yaml"


def plan_file(named: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """The plan's file: as named, or in BACKUP_PLAN, or ./backup.yaml.

    Raises:
        UsageError: There is none.
    """
    found = named or environ.get(PLAN_VARIABLE)
    if found is None and Path(DEFAULT_PLAN).is_file():
        found = DEFAULT_PLAN
    if found is None:
        raise UsageError(
            "no plan is given",
            f"give --plan FILE, set {PLAN_VARIABLE}, or run where {DEFAULT_PLAN} is; to read"
            " a store without a plan, give --store URL",
        )
    return found


def store_options(
    store: str, endpoint: str | None = None, region: str | None = None
) -> dict[str, Any]:
    """A store that was named by a URL or a path, as ``open_store`` takes it."""
    url = store if "://" in store else str(Path(store).absolute())
    options = {"url": url, "endpoint": endpoint, "region": region}
    return {name: value for name, value in options.items() if value is not None}


def secrets_of(
    key_file: str | None, encryption: str | None, environ: Mapping[str, str] = os.environ
) -> Sequence[Secret]:
    """The keys to try on a store that has no plan.

    Args:
        key_file: A file that holds its key.
        encryption: ``none`` if it was made without encryption.
        environ: Where BACKUP_PASSPHRASE may be.

    Raises:
        UsageError: The key file cannot be read.
    """
    from backup_pipeline.engine.keys import PLAINTEXT, Passphrase, parse_key_file

    passphrase = environ.get(PASSPHRASE_VARIABLE)
    if encryption == "none":
        return [PLAINTEXT]
    found: list[Secret] = []
    if key_file is not None:
        try:
            text = Path(key_file).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {key_file}: {error.strerror}") from None
        found.append(parse_key_file(text, key_file))
    if passphrase:
        found.append(Passphrase(os.fsencode(passphrase)))
    return found or [PLAINTEXT]
