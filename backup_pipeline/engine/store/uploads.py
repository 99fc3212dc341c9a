"""Storing objects for others in an S3 bucket: with all their properties, and checked afterwards."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlencode

from backup_pipeline.engine.store.s3_errors import explain, no_answer, no_credentials
from backup_pipeline.engine.store.s3_settings import S3Settings

__all__ = ["Refused", "Stored", "Uploads", "Wanted"]

PART_BYTES: Final = 64 << 20
"""Larger ones are stored in parts of this size."""

_MOST_PARTS: Final = 10_000
_CONNECTIONS: Final = 32
_OF_ONE_KEY: Final = ("KeyTooLongError", "InvalidURI", "MetadataTooLarge", "InvalidTag")


class Refused(Exception):
    """One object could not be stored, or is not what was sent."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an object is to have.

    Attributes:
        size: Its bytes.
        content_type: Media type.
        headers: ``Cache-Control`` and others.
        tags: By name.
        metadata: The user's, by name.
    """

    size: int
    content_type: str | None
    headers: Mapping[str, str]
    tags: Mapping[str, str]
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as the server says that it holds it.

    Attributes:
        etag: Without quotes.
        compared: What was compared: ``sha256``, ``md5``, or ``bytes`` where it was read back.
    """

    etag: str
    compared: str


class Uploads:
    """A prefix that objects are stored below; threads may share it.

    Args:
        settings: The bucket, and the prefix.
    """

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self.prefix = f"{settings.prefix}/" if settings.prefix else ""
        self._client: Any = settings.boto3_client(max_pool_connections=_CONNECTIONS)
        self._present: dict[str, tuple[int, str]] | None = None
        self._lock = threading.Lock()

    def present(self) -> Mapping[str, tuple[int, str]]:
        """Size and etag of what was below the prefix at first, by key.

        Raises:
            StoreError: The bucket cannot be listed.
        """
        with self._lock:
            if self._present is None:
                self._present = dict(self._listing())
            return self._present

    def has_properties(self, key: str, wanted: Wanted) -> bool:
        """Whether a key that is there has the properties that are wanted."""
        found = self._ask(self._client.head_object, Key=key)
        same = found["Metadata"] == dict(wanted.metadata) and all(
            found.get(name.replace("-", "")) == value for name, value in wanted.headers.items()
        )
        if wanted.content_type is not None:
            same = same and found.get("ContentType") == wanted.content_type
        if not same or not wanted.tags:
            return same
        tags = self._ask(self._client.get_object_tagging, Key=key)["TagSet"]
        return {tag["Key"]: tag["Value"] for tag in tags} == dict(wanted.tags)

    def store(self, key: str, file: Path | None, wanted: Wanted) -> Stored:
        """Store a file, or nothing, under a key and compare what the server then holds.

        Raises:
            Refused: The server takes no such object, or holds another than was sent.
            StoreError: The bucket cannot be written to.
        """
        more: dict[str, Any] = {
            name.replace("-", ""): text for name, text in wanted.headers.items()
        }
        if wanted.content_type is not None:
            more["ContentType"] = wanted.content_type
        if wanted.metadata:
            more["Metadata"] = dict(wanted.metadata)
        if wanted.tags:
            more["Tagging"] = urlencode(dict(wanted.tags))
        if file is None:
            return self._checked(key, self._whole(key, b"", more), 0, *_digests(b""))
        if wanted.size <= PART_BYTES:
            content = file.read_bytes()
            etag = self._whole(key, content, more)
            return self._checked(key, etag, len(content), *_digests(content))
        with file.open("rb") as stream:
            part_bytes = max(PART_BYTES, -(-wanted.size // _MOST_PARTS))
            return self._in_parts(key, stream, part_bytes, more)

    def _whole(self, key: str, content: bytes, more: Mapping[str, Any]) -> str:
        sha256, _ = _digests(content)
        checksum = base64.b64encode(sha256).decode()
        put = self._ask(
            self._client.put_object, Key=key, Body=content, ChecksumSHA256=checksum, **more
        )
        return put["ETag"].strip('"')

    def _in_parts(
        self, key: str, stream: BinaryIO, part_bytes: int, more: Mapping[str, Any]
    ) -> Stored:
        whole, etags, size = hashlib.sha256(), b"", 0
        parts: list[dict[str, Any]] = []
        upload = self._ask(self._client.create_multipart_upload, Key=key, **more)["UploadId"]
        try:
            while content := stream.read(part_bytes):
                number = len(parts) + 1
                md5 = hashlib.md5(content, usedforsecurity=False).digest()
                put = self._ask(
                    self._client.upload_part,
                    Key=key,
                    UploadId=upload,
                    PartNumber=number,
                    Body=content,
                    ContentMD5=base64.b64encode(md5).decode(),
                )
                parts.append({"ETag": put["ETag"], "PartNumber": number})
                whole.update(content)
                etags, size = etags + md5, size + len(content)
            done = self._ask(
                self._client.complete_multipart_upload,
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
            )
        except BaseException:
            with suppress(Exception):  # what stopped the upload says more
                self._ask(self._client.abort_multipart_upload, Key=key, UploadId=upload)
            raise
        md5 = hashlib.md5(etags, usedforsecurity=False).hexdigest()
        etag = done["ETag"].strip('"')
        return self._checked(key, etag, size, whole.digest(), f"{md5}-{len(parts)}")

    def _checked(self, key: str, etag: str, size: int, sha256: bytes, md5: str) -> Stored:
        """Compare what the server holds with what was sent, by the best that it says."""
        found = self._ask(self._client.head_object, Key=key, ChecksumMode="ENABLED")
        now = found["ETag"].strip('"')
        if found["ContentLength"] != size or now != etag:
            raise Refused("it was replaced by somebody else while it was restored")
        said = found.get("ChecksumSHA256")
        if said is not None and "-" not in said:
            if base64.b64decode(said) != sha256:
                raise Refused("the server holds other bytes than were sent")
            return Stored(etag, "sha256")
        if now == md5:
            return Stored(etag, "md5")
        # An etag is no digest under some encryptions: then the bytes themselves tell.
        if self._ask(self._digest, Key=key) != sha256:
            raise Refused("the server holds other bytes than were sent")
        return Stored(etag, "bytes")

    def _digest(self, **words: Any) -> bytes:
        held = hashlib.sha256()
        for piece in self._client.get_object(**words)["Body"].iter_chunks(1 << 20):
            held.update(piece)
        return held.digest()

    def _listing(self) -> Any:
        token: dict[str, str] = {}
        while True:
            page = self._ask(self._client.list_objects_v2, Prefix=self.prefix, **token)
            for one in page.get("Contents", ()):
                yield one["Key"], (one["Size"], one["ETag"].strip('"'))
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _ask(self, question: Any, **words: Any) -> Any:
        errors = import_module("botocore.exceptions")
        try:
            return question(Bucket=self.settings.bucket, **words)
        except errors.ClientError as error:
            status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
            code = error.response["Error"].get("Code")
            message = error.response["Error"].get("Message")
            if code in _OF_ONE_KEY or (status == 400 and "Key" in words):
                raise Refused(f"{self.settings.place} refuses it: {code}: {message}") from error
            key = words.get("Key", "")
            raise explain(self.settings, key, status, code, message) from error
        except (errors.NoCredentialsError, errors.PartialCredentialsError) as error:
            raise no_credentials(self.settings) from error
        except errors.ParamValidationError as error:
            raise Refused(" ".join(str(error).split())) from error
        except errors.BotoCoreError as error:
            raise no_answer(self.settings, " ".join(str(error).split())) from error


def _digests(content: bytes) -> tuple[bytes, str]:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return hashlib.sha256(content).digest(), md5
