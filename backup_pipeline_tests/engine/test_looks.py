"""What a few bytes tell of content."""

from __future__ import annotations

import base64
import gzip
import random

import numpy as np
import pytest

from backup_pipeline.engine.looks import (
    BLANK,
    HEADS_OF_SUFFIX,
    ORDERLY,
    RANDOM,
    UNKNOWN,
    head_of,
    look_of,
    looks_of,
)

RNG = random.Random(0)
NUMBERS = np.random.default_rng(0).normal(size=5000)
KINDS = {
    "nothing": (b"", UNKNOWN),
    "too short to tell": (RNG.randbytes(63), UNKNOWN),
    "short ciphertext": (RNG.randbytes(64), RANDOM),
    "ciphertext": (RNG.randbytes(3000), RANDOM),
    "text": (b"the quick brown fox jumps over the lazy dog; " * 40, ORDERLY),
    "short text": (b"the quick brown fox jumps over the lazy dog, and again and again", ORDERLY),
    "text of another alphabet": (("съешь ещё этих мягких булок " * 9).encode(), ORDERLY),
    "base64": (base64.b64encode(RNG.randbytes(3000)), ORDERLY),
    "single precision": (NUMBERS.astype("f4").tobytes(), ORDERLY),
    "zeros": (bytes(500), BLANK),
    "all ones": (b"\xff" * 500, BLANK),
    "compressed": (gzip.compress(RNG.randbytes(2000)), RANDOM),
}


def test_content_is_told_apart_wherever_it_stands() -> None:
    contents = [content for content, _ in KINDS.values()]
    looks = looks_of(b"".join(contents), [len(one) for one in contents])
    assert dict(zip(KINDS, look_of(looks).tolist(), strict=True)) == {
        kind: look for kind, (_, look) in KINDS.items()
    }


@pytest.mark.parametrize(("size", "rate"), [(64, 0.005), (128, 0.002), (2000, 0.002)])
def test_hardly_any_ciphertext_looks_orderly(size: int, rate: float) -> None:
    count = 20_000
    looks = look_of(looks_of(np.random.default_rng(1).bytes(size * count), [size] * count))
    assert (looks != RANDOM).mean() < rate


def test_no_weights_look_like_ciphertext() -> None:
    weights = np.random.default_rng(2).normal(size=2_000_000).astype("f4").tobytes()
    sizes = [4000] * (len(weights) // 4000)
    assert (look_of(looks_of(weights, sizes)) == RANDOM).mean() < 0.001


def test_content_is_known_by_how_it_begins() -> None:
    gzipped, picture, text = gzip.compress(b"x"), b"\xff\xd8\xff\xe1" + bytes(70), b"plain"
    looks = looks_of(gzipped + picture + text, [len(gzipped), len(picture), len(text)])
    heads = head_of(looks).tolist()
    assert heads[0] in HEADS_OF_SUFFIX[b"gz"] and heads[1] in HEADS_OF_SUFFIX[b"jpg"]
    assert heads[2] == 0
