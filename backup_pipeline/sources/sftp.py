"""Files on an SFTP server."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import paramiko

from backup_pipeline.engine.errors import SourceError, UsageError
from backup_pipeline.sources.base import SKIPPED, UNREADABLE, VANISHED, Details, Reader, Unreadable
from backup_pipeline.sources.exclusion import excluder
from backup_pipeline.sources.listing import Item, ListedSource
from backup_pipeline.sources.remote import CLOCK_TOLERANCE_NS, CheckedReader, Look, NothingReader

__all__ = ["SftpSource", "open_sftp"]

_PORT: Final = 22
_TIMEOUT_S: Final = 15.0
_SILENCE_S: Final = 90.0
_PIECE_BYTES: Final = 32 << 10
_WINDOW_PIECES: Final = 128
_LOST: Final = (paramiko.SSHException, ConnectionError, TimeoutError, EOFError)


class SftpSource(ListedSource):
    """Everything below ``sftp://host/path``, or the one file there.

    Consistency: each file by itself; size and time are compared before and after it is read, and
    one that changed meanwhile is read again. SFTP tells times to the second and has no etags: files
    that were modified less than five minutes before a scan are read once more by the next. Links
    are kept as links. The server's key must be known: in the user's ``known_hosts``, or in a file
    of its kind that the plan names.

    Args:
        options: ``url``; ``user``, ``password``, ``key_file``, ``key_passphrase``, ``known_hosts``.
        exclude: Globs over paths relative to the directory; what they match is left out.

    Raises:
        UsageError: The URL or a file that is named cannot be right.
    """

    kind = "sftp"
    clock_granularity_ns = CLOCK_TOLERANCE_NS

    def __init__(self, options: Mapping[str, Any], *, exclude: Sequence[str] = ()) -> None:
        parts = urlsplit(str(options.get("url", "")))
        if parts.scheme != "sftp" or not parts.hostname or parts.query or parts.password:
            raise UsageError(
                f"source {parts.scheme}://{parts.hostname or ''}{parts.path} is no SFTP directory",
                "write sftp://host/path, and name the password as {env: NAME}",
            )
        self._host, self._port = parts.hostname, parts.port or _PORT
        self._options = options
        self._user = str(options.get("user") or parts.username or "") or None
        self._root = unquote(parts.path).rstrip("/") or "/"
        self._exclude = excluder(exclude)
        self._ssh: paramiko.SSHClient | None = None
        self._sftp: paramiko.SFTPClient | None = None
        self._base = self._root

    def describe(self) -> str:
        """The directory as a URL, without the user."""
        port = "" if self._port == _PORT else f":{self._port}"
        return f"sftp://{self._host}{port}{self._root}"

    def items(self) -> Iterable[Item]:
        """Every file, link and empty folder, sorted.

        Raises:
            SourceError: The server cannot be reached, or the directory is not there.
        """
        sftp, found = self._connected(), list[Item]()
        try:
            top = sftp.stat(self._root)
            if stat.S_ISDIR(top.st_mode or 0):
                self._base = self._root
                self._walk(sftp, "", found)
            else:
                self._base, _, name = self._root.rpartition("/")
                found.append(_item(name, top))
        except Exception as error:
            raise self._ended(error) from error
        return sorted(found, key=lambda item: item.path.encode("utf-8", "surrogateescape"))

    def open(self, path: bytes, type: str, *, etag: str | None = None) -> Reader:
        """Open one entry of the last scan.

        Raises:
            Unreadable: It cannot be opened, or is gone.
            SourceError: The connection is lost.
        """
        if type == "directory":
            return NothingReader()
        sftp, place = self._connected(), f"{self._base}/{path.decode()}"
        try:
            if type == "symlink":
                target = sftp.readlink(place) or ""
                return NothingReader(Details(link_target=target.encode(), size=0))
            file = sftp.open(place, "rb")
            found = file.stat()
        except Exception as error:
            raise self._explain(error) from error
        mode = {"mode": stat.S_IMODE(found.st_mode)} if found.st_mode is not None else {}
        look: Callable[[], Look] = lambda: _look(file.stat())  # noqa: E731
        stream: Any = _Windows(file, found.st_size or 0)
        return CheckedReader(stream, look, _look(found), mode, self._explain)

    def stream(self, path: str) -> Any:
        """The bytes of a file; ``open`` is what the engine uses."""
        return self._connected().open(f"{self._base}/{path}", "rb")

    def close(self) -> None:
        """End the connection."""
        ssh, self._ssh, self._sftp = self._ssh, None, None
        if ssh is not None:
            ssh.close()

    def _walk(self, sftp: paramiko.SFTPClient, folder: str, found: list[Item]) -> None:
        place = f"{self._base}/{folder}" if folder else self._base
        try:
            entries = sftp.listdir_attr(place)
        except PermissionError as error:
            if not folder:
                raise
            reason = f"its folder cannot be listed: {error.strerror or error}"
            found.append(Item(folder, type="directory", state=UNREADABLE, reason=reason))
            return
        kept = 0
        for entry in entries:
            path = f"{folder}/{entry.filename}" if folder else entry.filename
            if self._exclude is not None and self._exclude(path.encode()):
                continue
            kept += 1
            if stat.S_ISDIR(entry.st_mode or 0):
                self._walk(sftp, path, found)
            else:
                found.append(_item(path, entry))
        if folder and not kept:
            found.append(Item(folder, type="directory"))

    def _connected(self) -> paramiko.SFTPClient:
        if self._sftp is None:
            try:
                self._sftp = self._connect()
            except Exception as error:
                self.close()
                raise self._ended(error) from error
        return self._sftp

    def _connect(self) -> paramiko.SFTPClient:
        options = self._options
        self._ssh = ssh = paramiko.SSHClient()
        if options.get("known_hosts"):
            try:
                ssh.load_host_keys(str(Path(str(options["known_hosts"])).expanduser()))
            except OSError as error:
                raise UsageError(
                    f"cannot read known_hosts {options['known_hosts']}: {error.strerror}"
                ) from error
        else:
            ssh.load_system_host_keys()
        ssh.set_missing_host_key_policy(paramiko.RejectPolicy())
        own = bool(options.get("password") or options.get("key_file"))
        ssh.connect(
            self._host,
            self._port,
            username=self._user,
            password=options.get("password"),
            key_filename=str(Path(str(options["key_file"])).expanduser())
            if options.get("key_file")
            else None,
            passphrase=options.get("key_passphrase"),
            timeout=_TIMEOUT_S,
            banner_timeout=_TIMEOUT_S,
            auth_timeout=_TIMEOUT_S,
            allow_agent=not own,
            look_for_keys=not own,
        )
        sftp = ssh.open_sftp()
        channel = sftp.get_channel()
        if channel is not None:
            channel.settimeout(_SILENCE_S)
        return sftp

    def _explain(self, error: Exception) -> Exception:
        """The file's own trouble, or the end of all reading."""
        if isinstance(error, (SourceError, Unreadable)):
            return error
        transport = self._ssh.get_transport() if self._ssh is not None else None
        if isinstance(error, _LOST) or transport is None or not transport.is_active():
            return self._ended(error)
        if isinstance(error, FileNotFoundError):
            return Unreadable(VANISHED, "it is gone")
        return Unreadable(UNREADABLE, str(error) or type(error).__name__)

    def _ended(self, error: Exception) -> Exception:
        if isinstance(error, (SourceError, UsageError)):
            return error
        where = self.describe()
        if isinstance(error, paramiko.BadHostKeyException):
            return SourceError(
                f"{where}: the server has another key than known_hosts says",
                "find out why before anything else: somebody may stand in between",
            )
        if isinstance(error, paramiko.AuthenticationException):
            return SourceError(f"{where}: access refused: {error}", "check user, password and key")
        if isinstance(error, paramiko.SSHException) and "known_hosts" in str(error):
            return SourceError(
                f"{where}: the server's key is not known",
                "compare it, then add it: ssh-keyscan HOST >> ~/.ssh/known_hosts",
            )
        if isinstance(error, FileNotFoundError):
            return SourceError(f"{where} is not there", "check the url in the plan")
        reason = str(error) or type(error).__name__
        return SourceError(f"{where} cannot be read: {reason}", "try again once it is in reach")


class _Windows(io.RawIOBase):
    """A file read in windows of many requests each, of which none waits for the one before.

    Args:
        file: The file.
        size: Its bytes.
    """

    def __init__(self, file: paramiko.SFTPFile, size: int) -> None:
        self._file = file
        self._size = size
        self._at = 0
        self._held = b""

    def read(self, size: int = -1) -> bytes:
        """At most as many bytes; none at the end."""
        if not self._held:
            self._held = self._window()
        found, self._held = self._held[:size], self._held[size:]
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        super().close()

    def _window(self) -> bytes:
        end = min(self._size, self._at + _PIECE_BYTES * _WINDOW_PIECES)
        if self._at >= end:
            # What was appended meanwhile is seen by the look afterwards; here it only ends.
            return b""
        wanted = [(at, min(_PIECE_BYTES, end - at)) for at in range(self._at, end, _PIECE_BYTES)]
        content = b"".join(self._file.readv(wanted))
        self._at = end
        return content


def _item(path: str, entry: Any) -> Item:
    mode, mtime_ns = entry.st_mode or 0, (entry.st_mtime or 0) * 1_000_000_000
    if stat.S_ISLNK(mode):
        return Item(path, 0, mtime_ns=mtime_ns, type="symlink")
    if stat.S_ISREG(mode) or not stat.S_IFMT(mode):
        return Item(path, entry.st_size or 0, mtime_ns=mtime_ns)
    reason = "it is a device, a pipe or a socket"
    return Item(path, 0, mtime_ns=mtime_ns, type="unknown", state=SKIPPED, reason=reason)


def _look(entry: Any) -> Look:
    return Look(entry.st_size, (entry.st_mtime or 0) * 1_000_000_000)


def open_sftp(
    options: Mapping[str, Any], *, exclude: Sequence[str] = (), day: date | None = None
) -> SftpSource:
    """Open the directory that a plan names."""
    return SftpSource(options, exclude=exclude)
