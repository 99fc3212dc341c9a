"""Where large content is cut, and what is worth compressing."""

from __future__ import annotations

from collections.abc import Iterator

import zstandard
from pyfastcdc import FastCDC

from backup_pipeline.engine.crypto import Buffer
from backup_pipeline.engine.errors import BackupError, DamageError

__all__ = [
    "CHUNK_MOST_BYTES",
    "SOLID_LIMIT_BYTES",
    "SOLID_TARGET_BYTES",
    "Chunker",
    "Compressor",
    "decompress",
]

CHUNK_LEAST_BYTES = 128 * 1024
CHUNK_NORMAL_BYTES = 256 * 1024  # FastCDC skips the least size first: chunks average 384 KiB
CHUNK_MOST_BYTES = 1024 * 1024
SOLID_LIMIT_BYTES = 384 * 1024  # files below this share frames with their neighbours
SOLID_TARGET_BYTES = 1024 * 1024
PROBE_BYTES = 16 * 1024
LEAST_GAIN = 0.05  # what a probe must save before a whole chunk is compressed


class Chunker:
    """Content-defined cutting (FastCDC) with a seed of the dataset's own.

    Raises:
        BackupError: The compiled part of pyfastcdc is missing; its fallback is 200 times slower.
    """

    def __init__(self, seed: int) -> None:
        if not FastCDC.__module__.startswith("pyfastcdc.cy"):
            raise BackupError(
                "pyfastcdc is installed without its compiled part",
                "reinstall it from a wheel: pip install --force-reinstall pyfastcdc",
            )
        self._cdc = FastCDC(
            CHUNK_NORMAL_BYTES,
            min_size=CHUNK_LEAST_BYTES,
            max_size=CHUNK_MOST_BYTES,
            seed=seed,
        )

    def cut(self, content: memoryview, *, last: bool) -> Iterator[tuple[int, int]]:
        """Offsets and lengths of the chunks of ``content``.

        Args:
            content: The bytes from the end of the previous chunk on.
            last: Whether the content ends here. If not, the rest that a later byte could still
                lengthen is not cut off: the caller puts it before what it reads next.
        """
        size = len(content)
        for chunk in self._cdc.cut_buf(content):
            end = chunk.offset + chunk.length
            if end == size and not last:
                return
            yield chunk.offset, chunk.length


def _compressor(strategy: int, **tables: int) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters(
        strategy=strategy,
        window_log=20,
        search_log=1,
        target_length=0,
        write_content_size=True,
        write_checksum=False,
        **tables,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


class Compressor:
    """zstd with a probe; one per thread."""

    def __init__(self) -> None:
        # Smaller tables than the levels' own: what they find less far back, they make up for by
        # lying in the processor's nearest cache. docs/performance.md has what this gives.
        self._zstd = _compressor(zstandard.STRATEGY_FAST, hash_log=13, chain_log=13, min_match=7)
        self._solid = _compressor(zstandard.STRATEGY_DFAST, hash_log=14, chain_log=13, min_match=5)

    def _worthwhile(self, content: memoryview) -> bool:
        size = len(content)
        if size < 8 * PROBE_BYTES:
            return True
        middle = size // 2
        spots = (0, middle, size - PROBE_BYTES)
        for start in spots:
            probe = content[start : start + PROBE_BYTES]
            if len(self._zstd.compress(probe)) < PROBE_BYTES * (1 - LEAST_GAIN):
                return True
        return False

    def compress(self, content: memoryview, *, solid: bool = False) -> Buffer:
        """The content compressed, or itself where that is not shorter.

        Args:
            content: What.
            solid: Whether these are many small files, for which a little more is done.
        """
        if not self._worthwhile(content):
            return content
        packed = (self._solid if solid else self._zstd).compress(content)
        return packed if len(packed) < len(content) else content


def decompress(content: Buffer, raw_bytes: int, decompressor: zstandard.ZstdDecompressor) -> Buffer:
    """The raw content of a frame that was opened.

    Raises:
        DamageError: It does not unfold to exactly ``raw_bytes``.
    """
    if len(content) == raw_bytes:
        return content
    try:
        declared = zstandard.frame_content_size(content)
        if declared != raw_bytes:
            raise DamageError(f"a frame unfolds to {declared} bytes, not to {raw_bytes}")
        return decompressor.decompress(content)
    except zstandard.ZstdError as error:
        raise DamageError(f"a frame does not unfold: {error}") from None
