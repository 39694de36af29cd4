"""Kinds of numbers, as files hold them: read exactly, and rounded to once.

A kind is a name such as "float32", "bfloat16" or "uint4". `raw` is the array of a file: numpy's
type where it has one, uint16 for bfloat16, bytes for two numbers of 4 bits, the lower one first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from goldfold.golden.errors import GoldenError

FLOATS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
"""Binary digits of a number's significand."""
_LEAST = {"float64": -1074, "float32": -149, "float16": -24, "bfloat16": -133}
"""Exponents of the least numbers above zero."""
INTEGERS = tuple(f"{sign}int{bits}" for bits in (64, 32, 16, 8, 4) for sign in ("", "u"))
KINDS = (*FLOATS, *INTEGERS, "bool")
ALIGNED = 1 << 16
"""Bytes of the widest gap that a writer leaves between two constants, to begin one at a page."""


def bits(kind: str) -> int:
    """Returns the bits of one number. Raises GoldenError for a kind that is not known."""
    if kind not in KINDS:
        raise GoldenError(f"{kind[:40]!r} is no kind of numbers that is read here")
    return 8 if kind == "bool" else int("".join(c for c in kind if c.isdigit()))


def holder(kind: str) -> np.dtype:
    """Returns numpy's type for the raw numbers of a kind, little-endian."""
    width = bits(kind)
    if kind == "bfloat16":
        return np.dtype("<u2")
    return np.dtype(np.uint8 if width == 4 else kind).newbyteorder("<")


def size_of(kind: str, shape: Sequence[int]) -> int:
    """Returns the bytes of an array; rows of 4 bits follow each other without a gap."""
    return (math.prod(shape) * bits(kind) + 7) // 8


def widen(raw: np.ndarray, kind: str, shape: Sequence[int]) -> np.ndarray:
    """Returns the numbers of a raw array, exactly, in a type of numpy's, as `shape`."""
    if bits(kind) == 4:
        both = np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1)[: math.prod(shape)]
        signed = kind == "int4"
        numbers = ((both ^ 8).astype(np.int8) - np.int8(8)) if signed else both
        return numbers.reshape(shape)
    if kind == "bfloat16":
        return (raw.astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return raw.reshape(shape)


def narrow(value: np.ndarray, kind: str) -> np.ndarray:
    """Returns the raw numbers of a kind, each rounded once to the nearest, ties to even; what is
    beyond a floating kind's range becomes infinite. Raises GoldenError for an integer beyond its
    kind's range. Numbers of 4 bits are packed."""
    if kind == "bfloat16":
        return _to_bfloat16(value)
    if kind in FLOATS:
        with np.errstate(over="ignore", invalid="ignore"):
            return value.astype(holder(kind), copy=False)
    if kind == "bool":
        return value.astype(bool)
    whole = value if value.dtype.kind in "iub" else np.rint(value)
    low, high = limits(kind)
    if whole.size and not (whole.min() >= low and whole.max() <= high):
        raise GoldenError(f"a number is beyond the range of {kind}")
    if bits(kind) > 4:
        return whole.astype(holder(kind), copy=False)
    return pack_nibbles(whole.reshape(-1))


def rounded(value: np.ndarray, kind: str) -> np.ndarray:
    """Rounds once to the numbers of a kind. Raises GoldenError for an integer beyond its range."""
    if bits(kind) > 4:
        return widen(narrow(value, kind), kind, value.shape)
    low, high = limits(kind)
    if value.size and not (value.min() >= low and value.max() <= high):
        raise GoldenError(f"a number is beyond the range of {kind}")
    return np.rint(value).astype(np.int8)


def limits(kind: str) -> tuple[int, int]:
    """Returns the least and the largest integer of a kind."""
    width = bits(kind)
    return (0, (1 << width) - 1) if kind[0] == "u" else (-1 << (width - 1), (1 << (width - 1)) - 1)


def pack_nibbles(numbers: np.ndarray) -> np.ndarray:
    """Returns two numbers of 4 bits per byte along the last axis, the lower half first."""
    if numbers.shape[-1] % 2:
        tail = np.zeros((*numbers.shape[:-1], 1), numbers.dtype)
        numbers = np.concatenate([numbers, tail], axis=-1)
    codes = numbers.astype(np.int8, copy=False).view(np.uint8) & 15
    return codes[..., ::2] | codes[..., 1::2] << 4


def riders(width: int, bits: int) -> int:
    """Numbers of a row of `packed` that lie in the upper bits of others: one of 5 bits in two of
    three bits, one of 6 in three of two, one of 7 in seven of one."""
    if bits not in (5, 6, 7):
        raise GoldenError(f"packed has {bits} bits, and 5, 6 and 7 have a layout")
    return width // (-(-bits // (8 - bits)) + 1)


def pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Returns the bytes, as int8, of rows of signed integers.

    The first numbers of a row have a byte each, and its lower bits hold n + 2^(bits−1). The others
    ride: the first pieces of all of them, their lowest bits, lie above the first bytes, one each,
    the second pieces above those that follow. A byte is signed, so 2^(spare−1) is taken from a
    piece, which turns its highest bit over.
    """
    ride, spare = riders(numbers.shape[-1], bits), 8 - bits
    codes = numbers.astype(np.int16) + (1 << (bits - 1))
    carried = codes.shape[-1] - ride
    held = codes[..., :carried].copy()
    for piece in range(-(-bits // spare)):
        value = (codes[..., carried:] >> spare * piece & ((1 << spare) - 1)) - (1 << (spare - 1))
        held[..., piece * ride : (piece + 1) * ride] += value << bits
    return held.astype(np.int8)


def unpack(held: np.ndarray, width: int, bits: int) -> np.ndarray:
    """Undoes `pack`, for rows of `width` numbers."""
    ride, spare = riders(width, bits), 8 - bits
    wide = held.astype(np.int16)
    above, codes = wide >> bits, wide & ((1 << bits) - 1)
    rest = np.zeros((*held.shape[:-1], ride), np.int16)
    for piece in range(-(-bits // spare)):
        value = above[..., piece * ride : (piece + 1) * ride] + (1 << (spare - 1))
        rest |= value << spare * piece
    return (np.concatenate([codes, rest], axis=-1) - (1 << (bits - 1))).astype(np.int8)


def unit(value: np.ndarray, kind: str) -> np.ndarray:
    """Returns the unit in the last place of a floating kind at each number, in float64."""
    _, exponent = np.frexp(np.abs(value).astype(np.float64))
    return np.ldexp(1.0, np.maximum(exponent - FLOATS[kind], _LEAST[kind]))


def _to_bfloat16(value: np.ndarray) -> np.ndarray:
    """Rounds once from any type: float32 is cut by hand, a wider type is first rounded to odd,
    which keeps on which side of a tie it lies."""
    if value.dtype == np.float64 or value.dtype.kind in "iu":
        wide = value.astype(np.float64)
        with np.errstate(over="ignore"):
            single = wide.astype(np.float32)
        word = single.view(np.uint32)
        inexact = np.isfinite(wide) & (single != wide)
        # To odd: the neighbour towards zero, with the last digit set where anything was cut off.
        away = inexact & (np.abs(single) > np.abs(wide))
        word = np.where(away, word - 1, word) | inexact.astype(np.uint32)
    else:
        word = np.ascontiguousarray(value.astype(np.float32, copy=False)).view(np.uint32)
    rounded = (word + np.uint32(0x7FFF) + (word >> 16 & 1)) >> 16
    return np.where(np.isnan(value), np.uint32(0x7FC0), rounded).astype("<u2")
