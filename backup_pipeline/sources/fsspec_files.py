"""Files behind any protocol that fsspec speaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

import fsspec

from backup_pipeline.engine.errors import SourceError, UsageError
from backup_pipeline.sources.base import SKIPPED, UNREADABLE, VANISHED, Reader, Unreadable
from backup_pipeline.sources.exclusion import excluder
from backup_pipeline.sources.listing import Item, ListedSource
from backup_pipeline.sources.remote import CLOCK_TOLERANCE_NS, CheckedReader, Look, NothingReader

__all__ = ["FsspecSource", "open_fsspec"]

_ETAGS: Final = ("etag", "ETag", "e_tag", "md5Hash", "content_md5", "generation", "checksum")
_TIMES: Final = ("mtime", "LastModified", "last_modified", "modified", "updated", "timeModified")
# Names the protocols that fsspec does not speak well enough, why, and what to do instead.
_REFUSED: Final = {
    **dict.fromkeys(
        ("ftp", "ftps"),
        (
            "fsspec takes a listing that an FTP server refuses for an empty folder, so files would"
            " be missed in silence",
            "use sftp:// if the server speaks it, or mount it and name the path",
        ),
    ),
    **dict.fromkeys(
        ("sftp", "ssh"),
        (
            "sftp:// has a source of its own",
            "write `sftp: {url: sftp://host/path}` in place of fsspec",
        ),
    ),
}


class FsspecSource(ListedSource):
    """Everything below a URL, or the one file there.

    Consistency: each file by itself; what tells its state is compared before and after it is read.
    A change shows by the protocol's etag, or by size and time of writing; a protocol that tells
    neither is refused, for changes would go unnoticed. Files that were modified less than five
    minutes before a scan are read once more by the next.

    Args:
        options: ``url``, and ``options``: what fsspec takes for that protocol.
        exclude: Globs over paths relative to the URL; what they match is left out.

    Raises:
        UsageError: fsspec cannot open it, or does not speak its protocol well enough.
    """

    kind = "fsspec"
    clock_granularity_ns = CLOCK_TOLERANCE_NS

    def __init__(self, options: Mapping[str, Any], *, exclude: Sequence[str] = ()) -> None:
        self._url = str(options.get("url", ""))
        more = dict(options.get("options") or {})
        self._refuse(more.get("target_protocol"))
        try:
            self._fs, root = fsspec.core.url_to_fs(self._url, use_listings_cache=False, **more)
        except ImportError as error:
            raise UsageError(
                f"{self.describe()}: {error}", "install what fsspec asks for, then try again"
            ) from error
        except Exception as error:
            reason = " ".join((str(error) or type(error).__name__).split())
            raise UsageError(
                f"{self.describe()} cannot be opened: {reason}",
                "check the url, and that `options` has what fsspec takes for its protocol",
            ) from error
        self._root = str(root).rstrip("/")
        self._base = self._root
        self._exclude = excluder(exclude)

    def describe(self) -> str:
        """The URL."""
        return self._url.partition("?")[0]

    def items(self) -> Iterable[Item]:
        """Every file and empty folder, sorted.

        Raises:
            SourceError: It is not there, or tells nothing by which a change shows.
        """
        found: list[Item] = []
        self._fs.invalidate_cache()
        try:
            top = self._fs.info(self._root)
            if top["type"] == "directory":
                self._base = self._root
                self._walk("", found)
            else:
                self._base, _, name = self._root.rpartition("/")
                found.append(self._item(name, top))
        except Exception as error:
            raise self._ended(error) from error
        return sorted(found, key=lambda item: item.path.encode())

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> Reader:
        """Open one entry of the last scan.

        Raises:
            Unreadable: It cannot be opened, or is gone.
        """
        if type == "directory":
            return NothingReader()
        place = self._place(path.decode())
        try:
            before = self._look(place)
            stream: Any = self._fs.open(place, "rb")
        except Exception as error:
            raise self._explain(error) from error
        return CheckedReader(stream, lambda: self._look(place), before, {}, self._explain)

    def stream(self, path: str) -> Any:
        """The bytes of a file; ``open`` is what the engine uses."""
        return self._fs.open(self._place(path), "rb")

    def _refuse(self, target: Any) -> None:
        links = [link.partition("://")[0] for link in self._url.split("::")]
        for protocol in (*links, target):
            if protocol in _REFUSED:
                why, hint = _REFUSED[protocol]
                raise UsageError(f"{self.describe()} cannot be backed up: {why}", hint)

    def _walk(self, folder: str, found: list[Item]) -> None:
        try:
            entries = self._fs.ls(self._place(folder), detail=True)
        except PermissionError as error:
            if not folder:
                raise
            reason = f"its folder cannot be listed: {error.strerror or error}"
            found.append(Item(folder, type="directory", state=UNREADABLE, reason=reason))
            return
        kept = 0
        for info in entries:
            name = self._name(folder, str(info["name"]))
            path = f"{folder}/{name}" if folder else name
            if not name or (self._exclude is not None and self._exclude(path.encode())):
                continue
            kept += 1
            if info.get("islink") and info["type"] == "directory":
                reason = "it links to a folder"
                found.append(Item(path, type="symlink", state=SKIPPED, reason=reason))
            elif info["type"] == "directory":
                self._walk(path, found)
            else:
                found.append(self._item(path, info))
        if folder and not kept:
            found.append(Item(folder, type="directory"))

    def _name(self, folder: str, listed: str) -> str:
        """The name of what a folder lists; empty for the mark of the folder itself in a bucket.

        Raises:
            SourceError: It lies elsewhere, so that walking on might never end.
        """
        place = self._place(folder)
        for bare in (str, self._fs._strip_protocol):
            above, inside = bare(place).strip("/"), bare(listed).strip("/")
            if inside == above and listed.endswith("/"):
                return ""
            if inside != above and inside.rpartition("/")[0] == above:
                return inside.rpartition("/")[2]
        raise SourceError(
            f"{self.describe()} cannot be listed: its folder {place} lists {listed}, which does not"
            " lie in it",
            "unpack or mount it, and name the path",
        )

    def _item(self, path: str, info: Mapping[str, Any]) -> Item:
        try:
            look = self._state(self._place(path), info)
        except (PermissionError, FileNotFoundError) as error:
            return Item(path, state=UNREADABLE, reason=str(error))
        return Item(path, look.size or 0, etag=look.etag, mtime_ns=look.mtime_ns)

    def _look(self, place: str) -> Look:
        self._fs.invalidate_cache()
        return self._state(place, self._fs.info(place))

    def _state(self, place: str, info: Mapping[str, Any]) -> Look:
        """What tells the state of a file, by as few requests as will do."""
        for more in (lambda: info, lambda: self._fs.info(place), lambda: self._modified(place)):
            said = {**info, **more()}
            etag = next((str(said[name]) for name in _ETAGS if said.get(name)), None)
            mtime_ns = next((_ns(said[name]) for name in _TIMES if said.get(name)), None)
            if etag is not None or mtime_ns is not None:
                return Look(said.get("size"), mtime_ns, etag)
        raise SourceError(
            f"{self.describe()}: the protocol tells neither etags nor times of writing, so changes"
            " would go unnoticed",
            "mount it, or copy it to where there are times",
        )

    def _modified(self, place: str) -> dict[str, Any]:
        try:
            return {"modified": self._fs.modified(place)}
        except NotImplementedError:
            return {}

    def _place(self, path: str) -> str:
        return f"{self._base}/{path}" if path else self._base

    def _explain(self, error: Exception) -> Exception:
        if isinstance(error, (SourceError, Unreadable)):
            return error
        if isinstance(error, FileNotFoundError):
            return Unreadable(VANISHED, "it is gone")
        if isinstance(error, (ConnectionError, TimeoutError)):
            return self._ended(error)
        return Unreadable(UNREADABLE, str(error) or type(error).__name__)

    def _ended(self, error: Exception) -> Exception:
        if isinstance(error, (SourceError, UsageError)):
            return error
        if isinstance(error, FileNotFoundError):
            return SourceError(f"{self.describe()} is not there", "check the url in the plan")
        reason = " ".join((str(error) or type(error).__name__).split())
        return SourceError(f"{self.describe()} cannot be read: {reason}", "check the options")


def _ns(moment: Any) -> int | None:
    """A time as protocols say it: a datetime, seconds, or ISO text."""
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return None
    if isinstance(moment, datetime):
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1_000_000) * 1000
    return round(float(moment) * 1_000_000) * 1000 if isinstance(moment, (int, float)) else None


def open_fsspec(
    options: Mapping[str, Any], *, exclude: Sequence[str] = (), day: date | None = None
) -> FsspecSource:
    """Open what a plan names."""
    return FsspecSource(options, exclude=exclude)
