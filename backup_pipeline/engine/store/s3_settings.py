"""Where an S3 store is and who may use it: options, AWS environment variables and AWS files."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from backup_pipeline.engine.errors import UsageError
from backup_pipeline.engine.store.whole_answers import insist_on_whole_answers

if TYPE_CHECKING:
    from obstore.store import S3Store as Client

__all__ = ["CONNECT_TIMEOUT", "FIRST_PAUSE", "RETRIES", "RETRY_WINDOW", "S3Settings"]

CONNECT_TIMEOUT: Final = timedelta(seconds=5)
"""How long one attempt to reach the server may take."""

RETRIES: Final = 5
"""How often a request is repeated, after growing, jittered pauses, before it has failed."""

FIRST_PAUSE: Final = timedelta(milliseconds=100)
"""How long the first pause is on average."""

RETRY_WINDOW: Final = timedelta(seconds=60)
"""No request is repeated later than this after it was first sent."""

_OPTIONS: Final = (
    "access_key_id",
    "addressing",
    "endpoint",
    "profile",
    "region",
    "secret_access_key",
    "session_token",
)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX_SEGMENT = re.compile(r"(?!\.{1,2}$)[\w .=+@:,!$&'();-]+", re.ASCII)
_PREFIX_LIMIT: Final = 400


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Everything that is needed to talk to one bucket.

    Attributes:
        bucket: The bucket's name.
        prefix: What all names begin with in the bucket; no slash at either end, may be empty.
        region: Region to sign for; None leaves it to the AWS profile.
        endpoint: URL of the server; None means AWS.
        addressing: Whether the bucket stands in the path or in the host's name.
        access_key_id: With the next, credentials that were given outright.
        secret_access_key: See above; in no message and no ``repr``.
        session_token: Goes with temporary credentials.
        profile: Named profile of the AWS files.
    """

    bucket: str
    prefix: str = ""
    region: str | None = None
    endpoint: str | None = None
    addressing: Literal["path", "virtual"] = "path"
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None

    @classmethod
    def read(
        cls,
        bucket: str,
        path: str,
        options: Mapping[str, Any],
        environ: Mapping[str, str] = os.environ,
        *,
        free_prefix: bool = False,
    ) -> S3Settings:
        """Read a store's options and, for what they leave open, the AWS environment variables.

        Args:
            bucket: The URL's host.
            path: The URL's path.
            options: ``region``, ``endpoint``, ``addressing``, ``profile`` and credentials.
            environ: Environment variables.
            free_prefix: Take the path as it is; for reading what others have stored.

        Raises:
            UsageError: An option, the bucket's name or the prefix cannot be right.
        """
        given = {name: str(value) for name, value in options.items() if value not in (None, "")}
        prefix = unquote(path).removeprefix("/") if free_prefix else unquote(path).strip("/")
        url = f"s3://{bucket}/{prefix}"
        _check_options(url, given)
        if not _BUCKET.fullmatch(bucket):
            raise UsageError(
                f"{url}: {bucket!r} is no name of a bucket", "write s3://bucket/prefix"
            )
        if prefix and not free_prefix:
            _check_prefix(url, prefix)
        endpoint = given.get("endpoint") or environ.get("AWS_ENDPOINT_URL_S3")
        endpoint = endpoint or environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            _check_endpoint(url, endpoint)
        explicit = "access_key_id" in given
        keys = _credentials(given, environ) if explicit or "profile" not in given else {}
        profile = None if keys else given.get("profile") or environ.get("AWS_PROFILE")
        region = given.get("region") or environ.get("AWS_REGION")
        region = region or environ.get("AWS_DEFAULT_REGION")
        if region is None and endpoint:
            region = "us-east-1"
        return cls(
            bucket=bucket,
            prefix=prefix,
            region=region,
            endpoint=endpoint.rstrip("/") if endpoint else None,
            addressing=_addressing(url, given.get("addressing"), bucket, endpoint),
            profile=profile,
            **keys,
        )

    @property
    def url(self) -> str:
        """The store as shown in messages."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def place(self) -> str:
        """The server as shown in messages."""
        return self.endpoint or f"AWS {self.region or 'S3'}"

    def client(self, timeout: timedelta) -> Client:
        """Return an obstore client of this prefix.

        Args:
            timeout: Longest time that one request and its answer may take.
        """
        from obstore.store import S3Store as Client

        config: dict[str, Any] = {
            "virtual_hosted_style_request": self.addressing == "virtual",
            "conditional_put": "etag",
            "skip_signature": False,
            "unsigned_payload": False,
            "checksum_algorithm": "sha256",
            # One DELETE each: a bulk answer is "200 OK" with the refusals inside.
            "disable_bulk_delete": True,
        }
        if self.region:
            config["region"] = self.region
        if self.endpoint:
            # Both, because AWS_ENDPOINT_URL_S3 would otherwise outrank what the plan says.
            config["endpoint"] = config["aws_endpoint_url_s3"] = self._endpoint_of_bucket()
        provider = self._credential_provider()
        if provider is not None:
            config["credential_provider"] = provider
        return Client(
            self.bucket,
            prefix=self.prefix or None,
            client_options={
                "allow_http": (self.endpoint or "").startswith("http://"),
                "connect_timeout": CONNECT_TIMEOUT,
                "timeout": timeout,
            },
            retry_config={
                "max_retries": RETRIES,
                "retry_timeout": RETRY_WINDOW,
                # Its first pause would always be the same; those after it are drawn by chance.
                "backoff": {"init_backoff": FIRST_PAUSE * random.uniform(0.5, 1.5)},
            },
            **config,
        )

    def boto3_client(self, **config: Any) -> Any:
        """Return a boto3 client, for what obstore does not do; boto3 takes half a second to load.

        Args:
            **config: Further settings for ``botocore.config.Config``.
        """
        settings = import_module("botocore.config").Config(
            s3={"addressing_style": self.addressing},
            connect_timeout=CONNECT_TIMEOUT.total_seconds(),
            retries={"mode": "standard", "total_max_attempts": RETRIES},
            **config,
        )
        session = import_module("boto3").Session(profile_name=self.profile)
        client = session.client(
            "s3",
            region_name=self.region or session.region_name or "us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            aws_session_token=self.session_token,
            config=settings,
        )
        insist_on_whole_answers(client, RETRIES, FIRST_PAUSE.total_seconds())
        return client

    def _endpoint_of_bucket(self) -> str:
        assert self.endpoint is not None
        if self.addressing == "path":
            return self.endpoint
        parts = urlsplit(self.endpoint)
        return urlunsplit(parts._replace(netloc=f"{self.bucket}.{parts.netloc}"))

    def _credential_provider(self) -> Any:
        if self.access_key_id is not None:
            # A provider, because obstore would otherwise join these keys with an
            # AWS_SESSION_TOKEN that belongs to other ones.
            credential = {
                "access_key_id": self.access_key_id,
                "secret_access_key": self.secret_access_key,
                "token": self.session_token,
                "expires_at": None,
            }
            return lambda: credential
        if self.profile is None and not _aws_files_exist():
            return None  # web identity, container or instance: obstore asks for them itself
        # boto3 has no types, and takes half a second to load: for profiles and SSO only.
        boto3, errors = import_module("boto3"), import_module("botocore.exceptions")
        provider = import_module("obstore.auth.boto3").Boto3CredentialProvider
        try:
            return provider(boto3.Session(profile_name=self.profile))
        except (errors.BotoCoreError, ValueError) as error:
            if self.profile is None:
                return None
            raise UsageError(
                f"{self.url}: AWS profile {self.profile!r} gives no credentials: {error}",
                "see `aws configure list-profiles`, or `aws sso login` for a profile with SSO",
            ) from error


def _check_options(url: str, given: Mapping[str, str]) -> None:
    unknown = sorted(set(given) - set(_OPTIONS))
    if unknown:
        raise UsageError(
            f"{url}: unknown option {', '.join(unknown)}", f"known: {', '.join(_OPTIONS)}"
        )
    if ("access_key_id" in given) != ("secret_access_key" in given):
        raise UsageError(
            f"{url}: access_key_id and secret_access_key go together", "give both or neither"
        )


def _check_prefix(url: str, prefix: str) -> None:
    good = all(_PREFIX_SEGMENT.fullmatch(segment) for segment in prefix.split("/"))
    if not good or len(prefix) > _PREFIX_LIMIT:
        raise UsageError(
            f"{url}: this prefix cannot be used",
            f"use at most {_PREFIX_LIMIT} letters, digits and - _ . = between single slashes",
        )


def _check_endpoint(url: str, endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise UsageError(
            f"{url}: endpoint is no http or https address", "write https://s3.example.com:9000"
        )


def _addressing(
    url: str, given: str | None, bucket: str, endpoint: str | None
) -> Literal["path", "virtual"]:
    if given == "path" or given == "virtual":
        return given
    if given is not None:
        raise UsageError(f"{url}: addressing {given!r} is not known", "write path or virtual")
    # AWS is leaving paths behind; certificates do not cover buckets with dots.
    return "virtual" if endpoint is None and "." not in bucket else "path"


def _credentials(given: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str | None]:
    if "access_key_id" in given:
        names = ("access_key_id", "secret_access_key", "session_token")
        return {name: given.get(name) for name in names}
    access_key_id = environ.get("AWS_ACCESS_KEY_ID")
    secret_access_key = environ.get("AWS_SECRET_ACCESS_KEY")
    if not access_key_id or not secret_access_key:
        return {}
    return {
        "access_key_id": access_key_id,
        "secret_access_key": secret_access_key,
        "session_token": environ.get("AWS_SESSION_TOKEN") or None,
    }


def _aws_files_exist() -> bool:
    places = (
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        ("AWS_CONFIG_FILE", "~/.aws/config"),
    )
    return any(Path(os.environ.get(name, usual)).expanduser().is_file() for name, usual in places)
