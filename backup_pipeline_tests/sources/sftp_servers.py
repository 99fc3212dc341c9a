"""SFTP servers for tests: paramiko's own in this process, and OpenSSH's where it is installed."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import paramiko

__all__ = ["Served", "serve_here"]


class Served:
    """A folder behind an SFTP server, for one key alone.

    Args:
        folder: Where keys and the served folder go.
        port: Where the server listens on 127.0.0.1.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.root = folder / "served"
        self.root.mkdir(mode=0o755)
        for name in ("host", "user", "other"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(make, check=True)
        shutil.copy(folder / "user.pub", folder / "authorized")
        key = " ".join((folder / "host.pub").read_text().split()[:2])
        (folder / "known").write_text(f"[127.0.0.1]:{port} {key}\n")

    def options(self, path: str = "", **more: str) -> dict[str, str]:
        """What a plan would say."""
        return {
            "url": f"sftp://127.0.0.1:{self.port}{self.root}{path}",
            "user": getpass.getuser(),
            "key_file": str(self.folder / "user"),
            "known_hosts": str(self.folder / "known"),
            **more,
        }


class _Door(paramiko.ServerInterface):
    def __init__(self, allowed: str) -> None:
        self._allowed = allowed

    def check_auth_publickey(self, username: str, key: Any) -> int:
        right = key.get_base64() == self._allowed
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"


class _Folder(paramiko.SFTPServerInterface):
    """The machine's own files, to be read."""

    def list_folder(self, path: str) -> Any:
        try:
            found = []
            for name in os.listdir(path):
                entry = paramiko.SFTPAttributes.from_stat(os.lstat(os.path.join(path, name)))
                entry.filename = name
                found.append(entry)
            return found
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    def stat(self, path: str) -> Any:
        return self._attributes(os.stat, path)

    def lstat(self, path: str) -> Any:
        return self._attributes(os.lstat, path)

    def readlink(self, path: str) -> Any:
        return os.readlink(path)

    def open(self, path: str, flags: int, attr: Any) -> Any:
        try:
            file = open(path, "rb")  # noqa: SIM115
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        handle: Any = paramiko.SFTPHandle(flags)
        handle.readfile = file
        handle.stat = lambda: paramiko.SFTPAttributes.from_stat(os.fstat(file.fileno()))
        return handle

    def _attributes(self, look: Any, path: str) -> Any:
        try:
            return paramiko.SFTPAttributes.from_stat(look(path))
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)


def serve_here(listener: socket.socket, served: Served) -> None:
    """Answer connections in threads until the listener is closed."""
    key = paramiko.Ed25519Key.from_private_key_file(str(served.folder / "host"))
    allowed = (served.folder / "authorized").read_text().split()[1]

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Folder)
            transport.start_server(event=threading.Event(), server=_Door(allowed))

    threading.Thread(target=run, name="sftp server", daemon=True).start()
