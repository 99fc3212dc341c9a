"""What an S3 server's refusals mean, each as one clear line and what to do next."""

from __future__ import annotations

import re
from typing import Final

from backup_pipeline.engine.errors import ObjectMissing, StoreError, StoreUnavailable
from backup_pipeline.engine.store.s3_settings import S3Settings

__all__ = [
    "code_of",
    "explain",
    "is_lost_answer",
    "is_past_the_end",
    "is_timeout",
    "no_answer",
    "no_credentials",
    "translate",
]

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_CAUSE = re.compile(r"(?:ConnectError\(\s*\"|message: \")([^\"]+)\"")
_HINTS: Final = {
    "InvalidAccessKeyId": "check the access key id (AWS_ACCESS_KEY_ID or the store's options)",
    "SignatureDoesNotMatch": "check the secret access key and the region",
    "ExpiredToken": "get new credentials; for SSO, `aws sso login`",
    "InvalidToken": "get new credentials; a session token must go with its own access key",
    "RequestTimeTooSkewed": "set this machine's clock right; it is too far from the server's",
    "AccessDenied": "check the credentials, and that they may get, put and list under the prefix",
    "AuthorizationHeaderMalformed": "check the region",
    "PermanentRedirect": "check the region; the bucket is in another one",
    "InvalidObjectState": "the object is in cold storage; restore it there first",
}
_NO_BUCKET = "create the bucket, or correct the url; a backup never makes buckets"


def translate(settings: S3Settings, name: str, error: Exception) -> StoreError:
    """Return the error of our own for one that obstore raised.

    Args:
        settings: Which store.
        name: The name that was asked for, or "" for the store as a whole.
        error: What obstore raised.
    """
    text = str(error)
    code = code_of(error)
    if isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
        return ObjectMissing(f"{_where(settings, name)} is not there")
    if "169.254." in text or "metadata" in text.split("\n", 1)[0]:
        return no_credentials(settings)
    status = _find(_STATUS, text)
    if status is None:
        return no_answer(settings, _reason(error))
    return explain(settings, name, int(status), code, _find(_MESSAGE, text))


def explain(
    settings: S3Settings, name: str, status: int, code: str | None, message: str | None
) -> StoreError:
    """Return the error for a server's refusal.

    Args:
        settings: Which store.
        name: The name that was asked for, or "" for the store as a whole.
        status: HTTP status.
        code: The server's own code, such as ``AccessDenied``.
        message: What the server says about it.
    """
    where = _where(settings, name)
    if code == "NoSuchBucket":
        return StoreUnavailable(
            f"{settings.url}: there is no bucket {settings.bucket!r} at {settings.place}",
            _NO_BUCKET,
        )
    reason = " ".join(filter(None, (code, message))) or f"status {status}"
    if status in (401, 403) or code in _HINTS:
        return StoreUnavailable(
            f"{where}: access refused by {settings.place}: {reason}",
            _HINTS.get(code or "", _HINTS["AccessDenied"]),
        )
    if status >= 500 or status == 429:
        return StoreUnavailable(
            f"{where}: {settings.place} fails: {reason}", "try again later; nothing was harmed"
        )
    return StoreError(f"{where}: {settings.place} answered {reason}")


def no_answer(settings: S3Settings, reason: str) -> StoreUnavailable:
    """Return the error for a server that could not be reached or fell silent."""
    return StoreUnavailable(
        f"{settings.url}: {settings.place} did not answer ({reason})",
        "check the endpoint and the network, then try again",
    )


def no_credentials(settings: S3Settings) -> StoreUnavailable:
    """Return the error for credentials that are nowhere."""
    return StoreUnavailable(
        f"{settings.url}: no credentials were found",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile",
    )


def _where(settings: S3Settings, name: str) -> str:
    return f"{settings.url}: {name}" if name else settings.url


def code_of(error: Exception) -> str | None:
    """Return the server's own code for a refusal that obstore raised."""
    return _find(_CODE, str(error))


def is_lost_answer(error: Exception) -> bool:
    """Tell whether a request may have been carried out although no answer came.

    A connection that was never made is no such case: it was tried often enough already.
    """
    text = str(error)
    return _find(_STATUS, text) is None and "kind: Connect" not in text


def is_past_the_end(error: Exception) -> bool:
    """Tell whether a range was refused because it begins behind the last byte."""
    return _find(_STATUS, str(error)) == "416"


def is_timeout(error: Exception) -> bool:
    """Tell whether an answer was waited for until the time was up."""
    text = str(error)
    return "kind: Timeout" in text or "TimedOut" in text


def _find(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found.group(1) if found else None


def _reason(error: Exception) -> str:
    if is_timeout(error):
        return "timed out"
    text = str(error)
    cause = _find(_CAUSE, text)
    return cause or text.split("\n", 1)[0].rpartition(" - ")[2]
