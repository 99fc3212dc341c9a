"""How content looks, from a few of its bytes: orderly, random or blank, and what it begins with.

Sixteen bytes from each of eight places tell ciphertext from most else, by how many pairs of these
128 are equal: ``128 x 127 / 2 / 256`` = 32 of random bytes, with a deviation of 5.6; some 70 of
double precision numbers, 150 of single precision ones, 130 of base64, and 500 of English text.
Content that was compressed before looks random, too; its first bytes tell whether it is what its
name says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backup_pipeline.engine.crypto import Buffer

__all__ = [
    "BLANK",
    "HEADS_OF_SUFFIX",
    "ORDERLY",
    "RANDOM",
    "TEXT_SUFFIXES",
    "UNKNOWN",
    "head_of",
    "look_of",
    "looks_of",
]

UNKNOWN, ORDERLY, RANDOM, BLANK = range(4)
"""What the two lowest bits of a look say; blank is one value all over, such as zeros."""

_RUNS, _RUN_BYTES = 8, 16
_SAMPLE_BYTES = _RUNS * _RUN_BYTES
_SHORT_SAMPLE_BYTES = 64  # of content below _SAMPLE_BYTES; of still shorter content nothing is said
# Means and 3.5 deviations: 31.8 + 3.5 x 5.6, and 7.9 + 3.5 x 2.8.
_MOST_PAIRS = {_SAMPLE_BYTES: 51, _SHORT_SAMPLE_BYTES: 17}

_HEADS = {
    "jpeg": "ffd8ff",
    "png": "89504e47",
    "gif": "47494638",
    "zip": "504b0304",
    "empty zip": "504b0506",
    "gzip": "1f8b",
    "parquet": "50415231",
    "npy": "934e554d",
    "hdf5": "89484446",
    "pdf": "25504446",
    "zstd": "28b52ffd",
    "bzip2": "425a68",
    "xz": "fd377a58",
    "sqlite": "53514c69",
    "arrow": "4152524f",
    "feather": "46454131",
    "orc": "4f5243",
    "avro": "4f626a01",
    "riff": "52494646",
    "tiff": "49492a00",
    "big-endian tiff": "4d4d002a",
    "flac": "664c6143",
    "ogg": "4f676753",
    "gguf": "47475546",
    "pickle 2": "8002",
    "pickle 3": "8003",
    "pickle 4": "8004",
    "pickle 5": "8005",
}
_CODES = {name: code for code, name in enumerate(_HEADS, 1)}
_PICKLES = ("pickle 2", "pickle 3", "pickle 4", "pickle 5")
_ZIPS = ("zip", "empty zip")
_SUFFIXES: dict[str, Sequence[str]] = {
    "jpg jpeg": ("jpeg",),
    "png": ("png",),
    "gif": ("gif",),
    "zip npz jar docx xlsx pptx keras": _ZIPS,
    "pt pth": (*_ZIPS, *_PICKLES),
    "pkl pickle": _PICKLES,
    "gz tgz": ("gzip",),
    "parquet": ("parquet",),
    "npy": ("npy",),
    "h5 hdf5": ("hdf5",),
    "pdf": ("pdf",),
    "zst": ("zstd",),
    "bz2": ("bzip2",),
    "xz": ("xz",),
    "sqlite sqlite3": ("sqlite",),
    "arrow": ("arrow",),
    "feather": ("arrow", "feather"),
    "orc": ("orc",),
    "avro": ("avro",),
    "webp wav avi": ("riff",),
    "tif tiff": ("tiff", "big-endian tiff"),
    "flac": ("flac",),
    "ogg": ("ogg",),
    "gguf": ("gguf",),
}
HEADS_OF_SUFFIX: dict[bytes, frozenset[int]] = {
    suffix.encode(): frozenset(_CODES[name] for name in names)
    for suffixes, names in _SUFFIXES.items()
    for suffix in suffixes.split()
}
"""Which heads content has whose name ends so, the suffix in lower case and without its dot."""

TEXT_SUFFIXES = frozenset(
    b"csv tsv json jsonl ndjson geojson txt md rst xml html svg yaml yml toml ini cfg log sql py r"
    b" ipynb srt vtt".split()
)
"""Whose name ends so never looks random, in whatever language it is written."""


def _tables() -> list[tuple[int, Any, Any]]:
    """For each length of a head: the mask of its bytes, the heads sorted, and their codes."""
    tables: list[tuple[int, Any, Any]] = []
    for length in (2, 3, 4):
        heads = sorted(
            (int(text.ljust(8, "0"), 16), _CODES[name])
            for name, text in _HEADS.items()
            if len(text) == 2 * length
        )
        mask = 0xFFFFFFFF ^ ((1 << 8 * (4 - length)) - 1)
        values, codes = zip(*heads, strict=True)
        tables.append((mask, np.array(values, np.uint32), np.array(codes, np.uint8)))
    return tables


_TABLES = _tables()


def look_of(look: Any) -> Any:
    """Whether it is ``ORDERLY``, ``RANDOM``, ``BLANK``, or ``UNKNOWN``; one or an array of them."""
    return look & 3


def head_of(look: Any) -> Any:
    """Which head it has; 0 is none that is known."""
    return look >> 2


def looks_of(content: Buffer, sizes: Sequence[int], *, most: int | None = None) -> Any:
    """How pieces of content look that stand one behind the other: an array of bytes.

    Args:
        content: Holds them.
        sizes: Bytes of each.
        most: How many are looked at, evenly spread; nothing is said of the others.
    """
    size = np.array(sizes, np.int64)
    start = np.cumsum(size) - size
    if most is None or len(size) <= most:
        return _looks(content, start, size)
    looks = np.zeros(len(size), np.uint8)
    chosen = np.arange(most) * len(size) // most
    looks[chosen] = _looks(content, start[chosen], size[chosen])
    return looks


def _looks(content: Buffer, start: Any, size: Any) -> Any:
    """How pieces look that start there and have these sizes."""
    raw = np.frombuffer(content, np.uint8)
    looks = np.zeros(len(size), np.uint8)
    long = np.flatnonzero(size >= _SAMPLE_BYTES)
    if len(long):
        step = (size[long] - _RUN_BYTES)[:, None] * np.arange(_RUNS) // (_RUNS - 1)
        windows = np.lib.stride_tricks.sliding_window_view(raw, _RUN_BYTES)
        samples = windows[start[long][:, None] + step]
        looks[long] = _judge(samples.reshape(len(long), _SAMPLE_BYTES))
    short = np.flatnonzero((size >= _SHORT_SAMPLE_BYTES) & (size < _SAMPLE_BYTES))
    if len(short):
        looks[short] = _judge(raw[start[short][:, None] + np.arange(_SHORT_SAMPLE_BYTES)])
    some = np.flatnonzero(size >= 4)
    if len(some):
        looks[some] |= _heads(raw[start[some][:, None] + np.arange(4)]) << 2
    return looks


def _judge(samples: Any) -> Any:
    """What rows of sampled bytes look like."""
    rows, width = samples.shape
    cells = samples + np.arange(rows, dtype=np.int32)[:, None] * 256
    counts = np.bincount(cells.ravel(), minlength=rows * 256).reshape(rows, 256)
    squares = np.einsum("ij,ij->i", counts, counts)
    looks = np.where((squares - width) // 2 <= _MOST_PAIRS[width], RANDOM, ORDERLY)
    looks[squares == width * width] = BLANK
    return looks.astype(np.uint8)


def _heads(first: Any) -> Any:
    """Codes of heads, from rows of four bytes."""
    words = np.ascontiguousarray(first).view(">u4")[:, 0].astype(np.uint32)
    codes = np.zeros(len(words), np.uint8)
    for mask, heads, named in _TABLES:
        masked = words & np.uint32(mask)
        at = np.minimum(np.searchsorted(heads, masked), len(heads) - 1)
        codes = np.where(heads[at] == masked, named[at], codes)
    return codes
