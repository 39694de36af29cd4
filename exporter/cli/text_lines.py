"""Texts from standard input, a line each, and embeddings into a .npy file: both as streams."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from goldfold.exporter.errors import UsageError
from goldfold.exporter.system.writing import write_file


def lines() -> Iterator[str]:
    """Yields the lines of standard input without their ends, of LF or CR LF, and without a byte
    order mark at the beginning. Raises UsageError, naming the line, for bytes that are no text."""
    if sys.stdin is None:
        raise UsageError("standard input is closed; give the texts, or open it")
    encoding = getattr(sys.stdin, "encoding", None) or "utf-8"
    for number, raw in enumerate(getattr(sys.stdin, "buffer", sys.stdin), 1):
        try:
            line = raw.decode(encoding) if isinstance(raw, bytes) else raw
        except UnicodeDecodeError:
            raise UsageError(f"line {number} of standard input is not {encoding}") from None
        line = line.removeprefix("\ufeff") if number == 1 else line
        yield line.removesuffix("\n").removesuffix("\r")


def save(file: Path, parts: Iterable[np.ndarray], nothing: np.ndarray) -> None:
    """Write the rows of all `parts` as one array into a .npy file, of which only one part is in
    memory at a time; the file is there when it is whole. `nothing` has no rows, and the type and
    width of the others. Raises OutputError, and what `parts` raises."""
    failed: list[Exception] = []

    def write(opened: BinaryIO) -> None:
        begun = opened.tell()
        _header(opened, nothing, 0)
        count = 0
        try:
            for part in parts:
                opened.write(np.ascontiguousarray(part).data)
                count += len(part)
        except ValueError as error:  # the source's, which is no fault of the file
            failed.append(error)
            raise
        opened.seek(begun)
        _header(opened, nothing, count)  # as long as the first one: numpy leaves room for 21 digits
        opened.seek(0, 2)

    try:
        write_file(file, write)
    except Exception:
        if failed:
            raise failed[0] from None
        raise


def _header(opened: BinaryIO, nothing: np.ndarray, count: int) -> None:
    described = np.lib.format.header_data_from_array_1_0(nothing)
    described["shape"] = (count, *nothing.shape[1:])
    np.lib.format.write_array_header_1_0(opened, described)
