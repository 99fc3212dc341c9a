"""References to values that stand outside the plan, so that no secret stands in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.plan.content import is_list, is_mapping
from backup_pipeline.plan.problems import one_of
from backup_pipeline.plan.values import mistake

__all__ = [
    "Reference",
    "Secret",
    "Text",
    "has_url_password",
    "is_reference",
    "literal_secrets",
    "parse_reference",
    "parse_text",
    "resolve_references",
]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SECRET_KEY = re.compile(
    r"passw|passphrase|secret|token|private_?key|api_?key|account_?key|credential", re.I
)
_URL_PASSWORD = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*://[^/?#@]*:[^/?#@]+@")
_DSN_PASSWORD = re.compile(r"\b(password|pwd)\s*=\s*\S", re.I)


@dataclass(frozen=True, slots=True)
class Reference:
    """Names an environment variable or a file that holds a value.

    Attributes:
        env: The variable's name, or None.
        file: The file's absolute path, or None.
        default: What counts where the variable is not set; never for a secret.
    """

    env: str | None = None
    file: str | None = None
    default: str | None = None

    def __str__(self) -> str:
        return f"environment variable {self.env}" if self.env else f"file {self.file}"

    def find(self, environ: Mapping[str, str]) -> str | None:
        """Looks the value up; None where it is not there.

        Raises:
            UsageError: The file is there but cannot be read as text.
        """
        if self.env is not None:
            return environ.get(self.env) or self.default
        raw = self.read()
        if raw is None:
            return None
        try:
            return raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise UsageError(f"{self.file} is not UTF-8 text") from None

    def read(self) -> bytes | None:
        """Reads the file that is named; None where there is none.

        Raises:
            UsageError: It cannot be read.
        """
        try:
            return Path(self.file or "").read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"cannot read {self.file}: {error.strerror or error}") from None

    def resolve(self, environ: Mapping[str, str], what: str) -> str:
        """Looks the value up.

        Args:
            environ: The environment's variables.
            what: What the value is for, such as ``the url of store cloud``.

        Raises:
            UsageError: It is not there.
        """
        value = self.find(environ)
        if value is None or value == "":
            how = f"export {self.env}=…" if self.env else f"write it to {self.file}"
            gone = "is not set" if self.env else "is missing"
            raise UsageError(f"{self}, which holds {what}, {gone}", how)
        return value


def is_reference(value: Any) -> bool:
    """Tells whether a plain value is written as a reference."""
    if not is_mapping(value):
        return False
    keys = value
    named = isinstance(keys.get("env"), str) or isinstance(keys.get("file"), str)
    return named and set(keys) <= {"env", "file", "default"}


def parse_reference(value: Any, *, secret: bool = False) -> Reference:
    """Reads ``{env: NAME}``, ``{env: NAME, default: text}`` or ``{file: path}``."""
    allowed = ("env", "file") if secret else ("env", "file", "default")
    form = "write {env: NAME} or {file: path}"
    if not is_mapping(value):
        raise mistake("not a reference", form)
    keys = value
    for key in keys:
        if secret and key == "default":
            raise mistake("a secret cannot have a default in the plan", form)
        if key not in allowed:
            raise mistake(f"unknown key '{key}' in a reference", one_of(key, allowed))
    env, file, default = keys.get("env"), keys.get("file"), keys.get("default")
    if (env is None) == (file is None):
        raise mistake("a reference names either env or file", form)
    if env is not None and not (isinstance(env, str) and _VARIABLE.match(env)):
        raise mistake("env takes the name of an environment variable", "such as BACKUP_PASSPHRASE")
    if file is not None and not (isinstance(file, str) and file):
        raise mistake("file takes a path", "such as /etc/backup/passphrase")
    if default is not None and (file is not None or not isinstance(default, str)):
        raise mistake("default goes with env and is text", form)
    return Reference(env, file, default)


def parse_text(value: Any) -> str | Reference:
    """Reads text, or a reference to it."""
    if is_mapping(value):
        return parse_reference(value)
    if not isinstance(value, str) or not value.strip():
        raise mistake("not text", "write text, or {env: NAME}")
    return value


def _parse_secret(value: Any) -> Reference:
    # The value is never repeated in the message: it may be the secret itself.
    if not is_mapping(value):
        raise mistake(
            "a secret does not belong in the plan",
            "name where it is: {env: NAME} or {file: path}",
        )
    return parse_reference(value, secret=True)


def literal_secrets(options: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Finds secrets written out in a source's options, by their keys and by their form.

    Returns:
        The paths of the offending values; never the values.
    """
    if is_reference(options):
        reference = options
        last = str(path[-1]) if path else ""
        exposed = "default" in reference and _SECRET_KEY.search(last)
        return [path] if exposed else []
    found: list[tuple[str | int, ...]] = []
    if is_mapping(options):
        for key, value in options.items():
            found += literal_secrets(value, (*path, key))
    elif is_list(options):
        for index, value in enumerate(options):
            found += literal_secrets(value, (*path, index))
    elif isinstance(options, str):
        named = bool(path) and _SECRET_KEY.search(str(path[-1])) is not None
        if named or _URL_PASSWORD.match(options) or _DSN_PASSWORD.search(options):
            found.append(path)
    return found


def has_url_password(url: str) -> bool:
    """Tells whether a URL carries a password, as in ``scheme://user:password@host``."""
    return _URL_PASSWORD.match(url) is not None


def resolve_references(value: Any, environ: Mapping[str, str], what: str) -> Any:
    """Puts the values in the place of the references within plain content.

    Raises:
        UsageError: A value that is referred to is not there.
    """
    if is_reference(value):
        keys = value
        reference = Reference(keys.get("env"), keys.get("file"), keys.get("default"))
        return reference.resolve(environ, what)
    if is_mapping(value):
        items = value.items()
        return {key: resolve_references(item, environ, f"{key} of {what}") for key, item in items}
    if is_list(value):
        return [resolve_references(item, environ, what) for item in value]
    return value


Text = Annotated[str | Reference, PlainValidator(parse_text)]
Secret = Annotated[Reference, PlainValidator(_parse_secret)]
