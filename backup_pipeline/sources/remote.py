"""Files behind a protocol without conditional reads: looked at before and after they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final

from backup_pipeline.sources.base import Details

__all__ = ["CLOCK_TOLERANCE_NS", "CheckedReader", "Look", "NothingReader"]

CLOCK_TOLERANCE_NS: Final = 300 * 1_000_000_000
"""Servers tell times to the second, by clocks of their own: what was modified less than five
minutes before a scan is read once more by the next, so that clocks may differ by as much."""


@dataclass(frozen=True, slots=True)
class Look:
    """What tells one state of a file from another.

    Attributes:
        size: Bytes; None where the protocol does not say.
        mtime_ns: When it was written, in ns since 1970.
        etag: Of the content, where there is one.
    """

    size: int | None
    mtime_ns: int | None = None
    etag: str | None = None


class CheckedReader:
    """Reads a stream to its end, and compares the file's state with that at the beginning.

    Args:
        stream: The content.
        look: Looks at the file as it is now.
        before: What that said when the stream was opened.
        mark: Further values for the manifest's row.
        explain: Turns an error of the protocol into one of a source.
    """

    def __init__(
        self,
        stream: BinaryIO,
        look: Callable[[], Look],
        before: Look,
        mark: Mapping[str, int | str | None],
        explain: Callable[[Exception], Exception],
    ) -> None:
        self._stream = stream
        self._look = look
        self._before = before
        self._mark = mark
        self._explain = explain
        self._read = 0

    def read_into(self, buffer: memoryview) -> int:
        """Fill the buffer; 0 at the end."""
        try:
            content = self._stream.read(len(buffer))
        except Exception as error:
            raise self._explain(error) from error
        buffer[: len(content)] = content
        self._read += len(content)
        return len(content)

    def finish(self) -> Details:
        """Close, and tell what was read."""
        before = self._before
        try:
            after = self._look()
            self._stream.close()
        except FileNotFoundError:
            after = None  # read to its end, then gone: the bytes are those that were listed
            self._stream.close()
        except Exception as error:
            raise self._explain(error) from error
        steady = after in (None, before) and before.size in (None, self._read)
        seen = {"mtime_ns": before.mtime_ns, "etag": before.etag}
        return Details(steady=steady, size=self._read, mark={**self._mark, **seen})


class NothingReader:
    """What has no bytes: a folder, or a link.

    Args:
        details: What is known of it.
    """

    def __init__(self, details: Details | None = None) -> None:
        self._details = details or Details()

    def read_into(self, buffer: memoryview) -> int:
        """There is nothing."""
        return 0

    def finish(self) -> Details:
        """What is known of it."""
        return self._details
