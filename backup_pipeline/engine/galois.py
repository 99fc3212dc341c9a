"""Reed-Solomon erasure code over GF(256): parity blocks, and lost blocks from what is left.

The field is that of the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11D) with the generator 2. Parity
block i of k data blocks is the sum over j of c(i, j) * data block j, byte by byte, with the Cauchy
matrix c(i, j) = 1 / ((k + i) xor j): every square part of it can be inverted, so any k of the
k + m blocks give the others (Blömer et al., An XOR-Based Erasure-Resilient Coding Scheme, 1995).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

__all__ = ["MOST_BLOCKS", "parity_of", "recover"]

MOST_BLOCKS = 256
_POLYNOMIAL = 0x11D
_LANES = 8  # coefficients that one look into a table multiplies by
_SLICE_BYTES = 16_384  # of a block at once: its products then stay in the processor's cache

Blocks: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"


def _tables() -> tuple[list[int], list[int]]:
    exp, log, value = [0] * 510, [0] * 256, 1
    for power in range(255):
        exp[power] = exp[power + 255] = value
        log[value] = power
        value <<= 1
        if value & 0x100:
            value ^= _POLYNOMIAL
    return exp, log


_EXP, _LOG = _tables()


def _multiply(one: int, other: int) -> int:
    return _EXP[_LOG[one] + _LOG[other]] if one and other else 0


def _inverse(value: int) -> int:
    return _EXP[255 - _LOG[value]]


# Row c holds c * v for every byte v.
_PRODUCTS = np.array([[_multiply(c, v) for v in range(256)] for c in range(256)], np.uint8)


def _coefficient(count: int, parity: int, data: int) -> int:
    return _inverse((count + parity) ^ data)


def parity_of(data: Blocks, count: int) -> Blocks:
    """The parity blocks of some data blocks.

    Args:
        data: One block in each row.
        count: How many; with the data blocks 256 at most.
    """
    assert len(data) + count <= MOST_BLOCKS
    matrix = [[_coefficient(len(data), i, j) for j in range(len(data))] for i in range(count)]
    return _combine(matrix, data)


def recover(data: Blocks, lost: Sequence[int], parity: Mapping[int, Blocks]) -> None:
    """Put lost data blocks right, in place.

    Args:
        data: One block in each row; what is in the lost ones does not matter.
        lost: Numbers of the lost blocks.
        parity: At least as many good parity blocks, by number.
    """
    if not lost:
        return
    count, chosen = len(data), list(parity)[: len(lost)]
    assert len(chosen) == len(lost), "there are not enough parity blocks"
    data[list(lost)] = 0
    matrix = [[_coefficient(count, i, j) for j in range(count)] for i in chosen]
    sums = np.stack([parity[i] for i in chosen]) ^ _combine(matrix, data)
    unknown = [[_coefficient(count, i, j) for j in lost] for i in chosen]
    data[list(lost)] = _combine(_inverted(unknown), sums)


def _combine(matrix: Sequence[Sequence[int]], rows: Blocks) -> Blocks:
    """The product of a matrix with rows of bytes."""
    size = rows.shape[1]
    out = np.zeros((len(matrix), size), np.uint8)
    for first in range(0, len(matrix), _LANES):
        part = matrix[first : first + _LANES]
        tables = _lane_tables(part)
        for at in range(0, size, _SLICE_BYTES):
            piece = rows[:, at : at + _SLICE_BYTES]
            total = np.zeros(piece.shape[1], np.uint64)
            product = np.empty_like(total)
            for table, row in zip(tables, piece, strict=True):
                np.take(table, row, out=product, mode="clip")
                np.bitwise_xor(total, product, out=total)
            lanes = total.view(np.uint8).reshape(-1, _LANES)
            out[first : first + len(part), at : at + _SLICE_BYTES] = lanes.T[: len(part)]
    return out


def _lane_tables(matrix: Sequence[Sequence[int]]) -> Any:
    """For each column a table from a byte to its products with the column's coefficients."""
    coefficients = np.array(matrix, np.uint8)
    lanes = np.zeros((coefficients.shape[1], 256, _LANES), np.uint8)
    lanes[:, :, : len(matrix)] = _PRODUCTS[coefficients].transpose(1, 2, 0)
    return lanes.view(np.uint64)[:, :, 0]


def _inverted(matrix: Sequence[Sequence[int]]) -> list[list[int]]:
    """The inverse of a small matrix, by Gauss and Jordan."""
    size = len(matrix)
    rows = [
        [*row, *(int(number == other) for other in range(size))]
        for number, row in enumerate(matrix)
    ]
    for column in range(size):
        pivot = next(number for number in range(column, size) if rows[number][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        factor = _inverse(rows[column][column])
        rows[column] = [_multiply(factor, value) for value in rows[column]]
        for number in range(size):
            factor = rows[number][column]
            if number != column and factor:
                rows[number] = [
                    value ^ _multiply(factor, other)
                    for value, other in zip(rows[number], rows[column], strict=True)
                ]
    return [row[size:] for row in rows]
