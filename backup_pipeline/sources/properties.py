"""What an object has besides its bytes, under the names by which a manifest keeps it.

A manifest has a column for the content type, and a list of names and values for the rest. Names of
user metadata are tokens of HTTP, which have no colon: a name that begins with one is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["HEADERS", "KEY", "TAG", "VERSION", "own_pairs", "split_pairs", "tag_pairs"]

HEADERS: Final = {
    "Cache-Control": ":cache-control",
    "Content-Disposition": ":content-disposition",
    "Content-Encoding": ":content-encoding",
    "Content-Language": ":content-language",
}
"""Headers that are kept, and the name of each in a manifest."""

TAG: Final = ":tag:"
"""What the name of a tag begins with; the tag's own follows."""

VERSION: Final = ":version-id"
"""Which version was read, where it was asked for by its id."""


KEY: Final = ":key"
"""The key below the prefix, where the path had to be another."""


def own_pairs(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """The headers that are kept, by the names of a manifest."""
    return [(ours, headers[name]) for name, ours in HEADERS.items() if headers.get(name)]


def tag_pairs(tags: Iterable[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Tags as S3 lists them, by the names of a manifest."""
    return [(f"{TAG}{tag['Key']}", tag["Value"]) for tag in tags]


def split_pairs(
    pairs: Iterable[tuple[str, str]],
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Headers, tags and user metadata out of what a manifest keeps of one object.

    Names of ours that are not known here are left out: a later version wrote them.
    """
    back = {ours: name for name, ours in HEADERS.items()}
    headers: dict[str, str] = {}
    tags: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for name, value in pairs:
        if name in back:
            headers[back[name]] = value
        elif name.startswith(TAG):
            tags[name.removeprefix(TAG)] = value
        elif not name.startswith(":"):
            metadata[name] = value
    return headers, tags, metadata
