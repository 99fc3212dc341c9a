"""Bounds of a Parquet file, from the headers of its pages, before anything in it is unfolded.

A few stored bytes may claim to be gigabytes, and be: zeros compress a thousandfold, and a run of
equal values is as short as one. A file's own summary need not say so, hence the pages are walked.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import DamageError

__all__ = ["MOST_IDLE_VALUES", "MOST_UNFOLDED_BYTES", "MOST_UNFOLDING", "Span", "check_pages"]

MOST_UNFOLDED_BYTES = 256 << 20
"""So much a row group may unfold to, however few bytes it is stored in, and beyond it"""
MOST_UNFOLDING = 4096
"""so many times its stored bytes: more than identical chunk ids, the densest there is, reach."""
MOST_IDLE_VALUES = 1 << 20
"""So many values a column of a row group may have beyond its rows and what its bytes can hold."""
_IDENTITY, _IDENTITY_BYTES = "chunks.list.element.id", 32
_LEAST_VALUE_BYTES = 4  # of text in a list, as it is written plainly
_MOST_DEPTH = 12
_END_BYTES = 8  # the footer's length, and the magic

Span: TypeAlias = "tuple[bytes, bytes] | None"
"""The first and the last path of a row group, where it says."""
_Fields: TypeAlias = dict[int, Any]  # number of each field of a struct to its value
_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY = 1, 2, 3, (4, 5, 6), 7, 8
_LISTS, _STRUCT = (9, 10), 12


def check_pages(content: Buffer, name: str) -> list[Span]:
    """Refuse a file that would unfold to more than one of this format does.

    The footer is read here and not by pyarrow, which ends the process over some that are damaged.

    Args:
        content: The whole file.
        name: Whose it is, for messages.

    Returns:
        What each row group spans.

    Raises:
        DamageError: It claims too much, or its pages are not where it says.
    """
    whole = memoryview(content).cast("B")
    try:
        footer = len(whole) - _END_BYTES
        footer -= int.from_bytes(whole[footer : footer + 4], "little")
        if footer < 0:
            raise ValueError("the footer is not in the file")
        said, _ = _struct(whole, footer, 0)
        groups = said[4]
        spans = [_check_group(whole, group) for group in groups]
        if sum(group[3] for group in groups) != said[3]:
            raise ValueError("its row groups have other rows than it says")
    except (IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DamageError(f"segment {name} is not readable: {error!r}") from None
    return spans


def _check_group(whole: memoryview, group: _Fields) -> Span:
    unfolded: dict[str, int] = {}
    values: dict[str, int] = {}
    span: Span = None
    stored, rows = 0, int(group[3])
    for chunk in group[1]:
        column: _Fields = chunk[3]
        path = b".".join(column[3]).decode()
        unfolded[path], values[path] = _walk(whole, column, path)
        stored += column[7]
        bounds = column.get(12, {})
        if path == "path" and 5 in bounds and 6 in bounds:
            span = bytes(bounds[6]), bytes(bounds[5])
    if sum(unfolded.values()) > MOST_UNFOLDED_BYTES + MOST_UNFOLDING * stored:
        raise ValueError(f"{stored} bytes claim to unfold to {sum(unfolded.values())}")
    most = rows + MOST_IDLE_VALUES
    chunks = most + unfolded.get(_IDENTITY, 0) // _IDENTITY_BYTES
    for path, count in values.items():
        listed = path.startswith("chunks.")
        if count > (chunks if listed else most + unfolded[path] // _LEAST_VALUE_BYTES):
            raise ValueError(f"{path} claims {count} values")
    if not 0 <= rows <= MOST_IDLE_VALUES + unfolded.get("path", 0):
        raise ValueError(f"a row group claims {rows} rows")
    return span


def _walk(whole: memoryview, column: _Fields, path: str) -> tuple[int, int]:
    """Bytes that the pages of a column chunk unfold to, and the values in them."""
    claimed, size = int(column[5]), int(column[7])
    if claimed == 0:
        return 0, 0  # whatever is there, no page of it is read
    at = int(column[9])
    if 0 < column.get(11, 0) < at:
        at = int(column[11])  # words come first
    end = at + size
    if not 0 < at <= end <= len(whole):
        raise ValueError(f"{path} is not in the file")
    unfolded = values = 0
    while at < end:
        header, at = _struct(whole, at, 0)
        raw, stored = header[2], header[3]
        if raw < 0 or stored < 0:
            raise ValueError(f"{path} has a page of no size")
        at += stored
        unfolded += raw
        if _values_in(header.get(7)) > raw:
            raise ValueError(f"{path} has more words than bytes of them")
        values += _values_in(header.get(5)) + _values_in(header.get(8))
    if at != end or values != claimed:
        raise ValueError(f"{path} has other pages than it says")
    return unfolded, values


def _values_in(page: _Fields | None) -> int:
    """How many values a page's own header says; none where there is no such page."""
    count = int(page[1]) if page is not None else 0
    if count < 0:
        raise ValueError("a page holds less than nothing")
    return count


def _struct(whole: memoryview, at: int, depth: int) -> tuple[_Fields, int]:
    """A struct in Thrift's compact protocol, and where it ends."""
    if depth > _MOST_DEPTH:
        raise ValueError("a header is nested too deeply")
    fields: _Fields = {}
    field = 0
    while begin := whole[at]:
        at += 1
        kind = begin & 15
        if begin >> 4:
            field += begin >> 4
        else:
            field, at = _integer(whole, at)
        if kind in (_TRUE, _FALSE):
            fields[field] = kind == _TRUE
        else:
            fields[field], at = _value(whole, at, kind, depth)
    return fields, at + 1


def _value(whole: memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """A value of a kind, and where it ends."""
    if kind in _INTEGERS:
        return _integer(whole, at)
    if kind == _STRUCT:
        return _struct(whole, at, depth + 1)
    if kind == _BINARY:
        size, at = _varint(whole, at)
        return bytes(whole[at : at + size]), at + size
    if kind in _LISTS:
        return _list(whole, at, depth)
    if kind in (_TRUE, _FALSE, _BYTE):
        return whole[at], at + 1
    if kind == _DOUBLE:
        return None, at + 8
    raise ValueError("a header holds what none does")


def _list(whole: memoryview, at: int, depth: int) -> tuple[list[Any], int]:
    begin, at = whole[at], at + 1
    count = begin >> 4
    if count == 15:
        count, at = _varint(whole, at)
    if depth > _MOST_DEPTH or count > len(whole) - at:
        raise ValueError("a header holds an impossible list")
    found: list[Any] = []
    for _ in range(count):
        one, at = _value(whole, at, begin & 15, depth + 1)
        found.append(one)
    return found, at


def _varint(whole: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := whole[at]) > 127:
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if shift > 63:
            raise ValueError("a header holds an endless number")
    return value | byte << shift, at + 1


def _integer(whole: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(whole, at)
    return (value >> 1) ^ -(value & 1), at
