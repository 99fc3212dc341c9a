"""Holding boto3 to whole answers.

Where the connection ends within the head of an answer, or between the head and its body, boto3
takes the answer for one that says nothing: a listing for empty, a page for the last one. Here it
is asked for again, and an error if it stays so.
"""

from __future__ import annotations

import random
from importlib import import_module
from typing import Any

__all__ = ["insist_on_whole_answers"]

_NEVER_LEFT_OUT = {"ETag": "ETag", "ContentLength": "Content-Length"}
"""Headers, by botocore's names, that S3 gives wherever an operation's answer may have them."""


def insist_on_whole_answers(client: Any, most_attempts: int, first_pause_s: float) -> None:
    """Let a client ask again for answers that broke off, and then fail.

    Args:
        client: A boto3 client for S3; its calls then raise ``ResponseStreamingError`` too.
        most_attempts: How often a request is made at most.
        first_pause_s: How long the first pause is on average, in seconds; each next is twice that.
    """

    def ask_again(response: Any, operation: Any, attempts: int, **_: Any) -> float | None:
        if response is None or attempts >= most_attempts or _is_whole(response[0], operation):
            return None
        return random.uniform(0.5, 1.5) * first_pause_s * 2 ** (attempts - 1)

    # Before the client's own: the first that has an opinion decides.
    client.meta.events.register_first("needs-retry.s3", ask_again)
    client.meta.events.register_first("after-call.s3", _refuse)


def _refuse(http_response: Any, model: Any, **_: Any) -> None:
    if not _is_whole(http_response, model):
        error = import_module("botocore.exceptions").ResponseStreamingError
        raise error(error=f"the answer to {model.name} broke off")


def _is_whole(answer: Any, operation: Any) -> bool:
    """Whether an answer has what the answers to its operation always have."""
    said: dict[str, Any] = operation.output_shape.members if operation.output_shape else {}
    good = answer.status_code < 300
    in_head = {name for name, member in said.items() if "location" in member.serialization}
    if good and any(
        _NEVER_LEFT_OUT[one] not in answer.headers for one in in_head & _NEVER_LEFT_OUT.keys()
    ):
        return False
    if operation.has_streaming_output or operation.http["method"] == "HEAD":
        return True
    if good and not answer.content:
        return in_head == said.keys()
    return len(answer.content) >= int(answer.headers.get("Content-Length") or 0)
