"""What a kind of source is to a plan: its options, what it can do, and what opens it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.plan.content import is_list, is_mapping
from backup_pipeline.plan.problems import one_of
from backup_pipeline.plan.references import is_reference
from backup_pipeline.plan.values import mistake

__all__ = ["ENTRY_POINTS", "Option", "SourceKind", "foreign_kind", "foreign_names", "local_path"]

ENTRY_POINTS = "backup_pipeline.sources"
"""The group of entry points through which other packages bring kinds of source."""

Form = Literal["text", "path", "texts", "number", "flag", "mapping", "any"]
_FORMS: Mapping[Form, tuple[Callable[[Any], bool], str]] = {
    "text": (lambda value: isinstance(value, str) or is_reference(value), "text"),
    "path": (lambda value: isinstance(value, str) or is_reference(value), "text"),
    "texts": (
        lambda value: is_list(value) and all(isinstance(one, str) for one in value),
        "a list of texts",
    ),
    "number": (
        lambda value: isinstance(value, int) and not isinstance(value, bool),
        "a whole number",
    ),
    "flag": (lambda value: isinstance(value, bool), "true or false"),
    "mapping": (lambda value: is_mapping(value) and not is_reference(value), "a mapping"),
    "any": (lambda value: True, "a value"),
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a kind of source.

    Attributes:
        form: What may stand there. A text may be a reference, such as ``{env: NAME}``; a path may
            be written as a ``file://`` URL.
        needed: Whether it has to be given.
    """

    form: Form = "text"
    needed: bool = False


@dataclass(frozen=True, slots=True)
class SourceKind:
    """A kind of source, as the plan checks it and as a run opens it.

    Attributes:
        name: What the plan calls it.
        opens: ``module:callable``; called with the options as a mapping and, by name, ``exclude``
            (globs) and ``day`` (the slice's day, or None); returns a ``Source``.
        options: By name. The options of a plan are checked against them.
        main: The option that a mere text stands for, as in ``{delta: /lake/orders}``.
        slices: Whether it can tell one day's part from the rest (``holds: slice``).
        excludes: Whether its entries are paths that ``exclude`` can leave out.
        per_asset: Whether several assets may share its options: it knows them apart by itself.
        extra: What brings the packages that it needs: ``pip install 'backup-pipeline[extra]'``.
        check: Looks at the options as written, and raises what ``mistake`` makes.
        loads: By scheme of a URL, ``module:callable`` that loads a restored copy into a system;
            called with the directory, the URL and, by name, ``report``.
    """

    name: str
    opens: str
    options: Mapping[str, Option] = field(default_factory=dict[str, Option])
    main: str | None = None
    slices: bool = False
    excludes: bool = False
    per_asset: bool = False
    extra: str | None = None
    check: Callable[[Mapping[str, Any]], None] | None = None
    loads: Mapping[str, str] = field(default_factory=dict[str, str])

    def parse(self, written: Any) -> dict[str, Any]:
        """Reads the options as a plan writes them.

        Raises:
            PydanticCustomError: They are not what this kind takes.
        """
        if isinstance(written, str) or is_reference(written):
            if self.main is None:
                raise mistake(f"source {self.name} takes a mapping", self._example())
            written = {self.main: written}
        if not is_mapping(written):
            raise mistake(f"source {self.name} takes a mapping", self._example())
        for key, value in written.items():
            if key not in self.options:
                known = tuple(self.options)
                raise mistake(f"unknown key '{key}' in source {self.name}", one_of(key, known))
            fits, wanted = _FORMS[self.options[key].form]
            if not fits(value):
                tail = ", or {env: NAME}" if wanted == "text" else ""
                raise mistake(
                    f"{key} of source {self.name} is not {wanted}", f"write {wanted}{tail}"
                )
        for key, option in self.options.items():
            if option.needed and key not in written:
                raise mistake(f"source {self.name} needs {key}", self._example())
        if self.check is not None:
            self.check(written)
        return {
            key: local_path(value)
            if self.options[key].form == "path" and isinstance(value, str)
            else value
            for key, value in written.items()
        }

    def _example(self) -> str:
        needed = [key for key, option in self.options.items() if option.needed]
        return f"write {{{self.name}: {{{', '.join(f'{key}: …' for key in needed or ['…'])}}}}}"


def local_path(text: str) -> str:
    """The path that a text or a ``file://`` URL names.

    Raises:
        PydanticCustomError: The URL has no absolute path.
    """
    if not text.startswith("file://"):
        return text
    path = text[len("file://") :]
    if not path.startswith("/"):
        raise mistake(f"'{text}' has no absolute path", f"did you mean 'file:///{path}'?")
    return path


@cache
def foreign_names() -> tuple[str, ...]:
    """Names of the kinds that other installed packages bring, in order."""
    return tuple(sorted({one.name for one in entry_points(group=ENTRY_POINTS)}))


@cache
def foreign_kind(name: str) -> SourceKind | None:
    """The kind of this name that another installed package brings; None where there is none.

    Raises:
        UsageError: Two packages bring it, or what is brought is no kind of source.
    """
    found = list(entry_points(group=ENTRY_POINTS, name=name))
    if not found:
        return None
    if len({one.value for one in found}) > 1:
        values = " and ".join(sorted({one.value for one in found}))
        raise UsageError(f"two packages bring source {name}: {values}", "uninstall one of them")
    try:
        kind: Any = found[0].load()
    except Exception as error:
        raise UsageError(
            f"source {name} cannot be loaded from {found[0].value}: {error}",
            "update or reinstall the package that brings it",
        ) from error
    if not isinstance(kind, SourceKind) or kind.name != name:
        raise UsageError(
            f"{found[0].value} is no SourceKind named {name}",
            "update the package that brings it",
        )
    return kind
