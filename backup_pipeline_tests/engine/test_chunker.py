"""Chunks: where content is cut depends on the content alone, and an insertion costs little."""

from __future__ import annotations

import random

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.engine.chunker import (
    CHUNK_LEAST_BYTES,
    CHUNK_MOST_BYTES,
    PROBE_BYTES,
    Chunker,
    Compressor,
    decompress,
)
from backup_pipeline.engine.errors import DamageError

MIB = 1 << 20
SEED = 77


def cut_in_buffers(content: bytes, buffer_bytes: int) -> list[tuple[int, int]]:
    """Cut as a large file is: what a buffer leaves over goes before the next bytes."""
    chunker, found, begin, end = Chunker(SEED), list[tuple[int, int]](), 0, 0
    while True:
        end = min(len(content), begin + buffer_bytes)
        last = end == len(content)
        pieces = list(chunker.cut(memoryview(content)[begin:end], last=last))
        found.extend((begin + start, size) for start, size in pieces)
        begin += sum(size for _, size in pieces)
        if last:
            return found


def mixed(size: int, seed: int) -> bytes:
    """Noise, text and zeros by turns."""
    chance, out = random.Random(seed), bytearray()
    while len(out) < size:
        length = chance.randrange(1, MIB)
        kind = chance.randrange(3)
        out += (
            chance.randbytes(length)
            if kind == 0
            else bytes(length)
            if kind == 1
            else b"some text, over and over\n" * (length // 25)
        )
    return bytes(out[:size])


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(0, 7 * MIB),
    buffer_bytes=st.integers(CHUNK_MOST_BYTES + 1, 5 * MIB),
    seed=st.integers(0, 99),
)
def test_where_the_buffers_end_does_not_matter(size: int, buffer_bytes: int, seed: int) -> None:
    content = mixed(size, seed)
    whole = list(Chunker(SEED).cut(memoryview(content), last=True))
    assert cut_in_buffers(content, buffer_bytes) == whole
    assert [start for start, _ in whole] == [
        sum(n for _, n in whole[:i]) for i in range(len(whole))
    ]
    assert sum(length for _, length in whole) == size
    assert all(CHUNK_LEAST_BYTES <= length <= CHUNK_MOST_BYTES for _, length in whole[:-1])


@pytest.mark.parametrize("inserted", [1, 1000, 300_000])
def test_an_insertion_at_the_front_leaves_most_chunks_as_they_were(inserted: int) -> None:
    content = random.Random(3).randbytes(24 * MIB)
    changed = random.Random(4).randbytes(inserted) + content
    sets: list[dict[bytes, int]] = []
    for one in (content, changed):
        pieces = cut_in_buffers(one, 4 * MIB)
        sets.append({blake3(one[at : at + size]).digest(): size for at, size in pieces})
    kept = sum(size for identity, size in sets[1].items() if identity in sets[0])
    assert kept / len(content) > 0.9


def test_another_dataset_is_cut_elsewhere() -> None:
    content = memoryview(random.Random(3).randbytes(8 * MIB))
    one, other = (dict(Chunker(seed).cut(content, last=True)) for seed in (1, 2))
    assert len(one.keys() & other.keys()) <= 2


@pytest.mark.parametrize(
    "size", [0, 1, PROBE_BYTES, 8 * PROBE_BYTES - 1, 8 * PROBE_BYTES, 300_001, MIB]
)
@pytest.mark.parametrize("kind", ["zeros", "noise", "noise then text"])
def test_what_is_compressed_unfolds_to_the_same_and_is_never_longer(size: int, kind: str) -> None:
    noise = random.Random(5).randbytes(size)
    content = {"zeros": bytes(size), "noise": noise}.get(
        kind, noise[: size // 2] + bytes(size // 2)
    )
    packed = bytes(Compressor().compress(memoryview(content)))
    assert len(packed) <= len(content)
    assert kind != "zeros" or size < 100 or len(packed) < size / 10
    opener = zstandard.ZstdDecompressor()
    assert bytes(decompress(packed, len(content), opener)) == content


def test_a_frame_that_does_not_unfold_as_it_says_is_damage() -> None:
    opener = zstandard.ZstdDecompressor()
    packed = zstandard.compress(bytes(100_000))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100_000))
    bomb = zstandard.compress(bytes(50 * MIB))
    for content, raw in (
        (packed, 99_999),
        (packed[:-1], 100_000),
        (b"no zstd at all", 100_000),
        (b"", 5),
        (unsized, 100_000),
        (bomb, 100_000),
    ):
        with pytest.raises(DamageError):
            decompress(content, raw, opener)
