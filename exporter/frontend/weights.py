"""Read and check safetensors files without loading them: header, extent, finiteness.

A safetensors file is `n` (8 bytes, little-endian), `n` bytes of JSON, then the tensors' bytes. The
header gives each tensor's dtype, shape and `[begin, end)` in that last part; the ranges tile it
with neither gap nor overlap. This check before any other reading turns a truncated download into
one sentence instead of a crash, or silence, half a minute later.

The helpers that read untrusted JSON and phrase a refusal are here too, below `source.py`, which
needs them for everything else in a model's folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from goldfold.exporter.errors import ModelError
from goldfold.exporter.system import names
from goldfold.exporter.system.files import TEXT_LIMIT, TOKENIZER_VALUES, read_bounded, values

JSON_LIMIT = 16 << 20
"""Maximum bytes of a JSON file, or of a safetensors header: the largest real ones have a tenth of
it. A tokenizer.json may have TEXT_LIMIT."""
JSON_VALUES = 1 << 21
"""Maximum number of values in a JSON file that is read here, or in a safetensors header: each takes
some ninety bytes in memory. A header has six per tensor."""

SCAN_BYTES = 1 << 18
"""Bytes that a finiteness scan holds at a time: the buffer stays in the L2 cache, which made the
scan three times as fast as with 64 MiB."""

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits per element, for each dtype that the format names."""

SPECIAL: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F32": (np.uint32, 0x7F80_0000),
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "C64": (np.uint32, 0x7F80_0000),
    "F8_E5M2": (np.uint8, 0x7C),
    "F8_E4M3": (np.uint8, 0x7F),
    "F8_E8M0": (np.uint8, 0xFF),
}
"""The word to read, and the bits that are all ones exactly in NaN and Inf (F4, F6 have neither)."""


@dataclass(frozen=True)
class Tensor:
    """The place of one tensor: `begin` and `end` are bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def refusal(text: str) -> ModelError:
    """Returns a `ModelError` of exactly one printable line, whatever the model's files put into
    `text`."""
    return ModelError(names.line(" ".join(text.split())))


def read_json(path: Path) -> Any:
    """Returns the JSON value in `path`; ModelError if it is missing, over its limit, not UTF-8 or
    not JSON."""
    try:
        raw = read_bounded(path, TEXT_LIMIT if path.name == "tokenizer.json" else JSON_LIMIT)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise refusal(f"{path}: {error.strerror}, which no model's JSON file is") from None
        raise refusal(f"{path}: cannot be read ({error.strerror}); fetch the model again") from None
    return _parse_json(raw, str(path))


def read_object(path: Path) -> dict[str, Any]:
    """Returns the value as `read_json` does, and raises ModelError unless it is a JSON object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise refusal(f"{path}: holds a JSON {type(value).__name__} where an object is expected")
    return value


def digest_file(path: Path) -> str:
    """Returns the sha256 of a file, in hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise refusal(f"{path}: cannot be read ({error.strerror}); fetch the model again") from None


def is_inside(relative: str) -> bool:
    """Returns whether a path written in a model's file stays below that file's folder, on any
    system."""
    posix, windows = PurePosixPath(relative), PureWindowsPath(relative)
    absolute = posix.is_absolute() or bool(windows.drive or windows.root)
    return not absolute and ".." not in windows.parts and "\0" not in relative


def read_header(path: Path) -> tuple[Tensor, ...]:
    """Returns the tensors of one safetensors file, in file order, without reading any of them.

    Raises:
        ModelError: the header is not one, a dtype is unknown, or the tensors do not tile the file.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise _damaged(path, f"its header should end at byte {8 + length} of {size}")
            if length > JSON_LIMIT:
                raise _damaged(path, f"its header claims {length} bytes")
            raw = file.read(length)
    except OSError as error:
        raise refusal(f"{path}: cannot be read ({error.strerror}); fetch the model again") from None
    header = _parse_json(raw, f"{path}: header")
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    tensors = [_read_entry(path, name, entry, 8 + length) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    expected = 8 + length
    for tensor in tensors:
        if tensor.begin != expected:
            word = "overlaps" if tensor.begin < expected else "leaves a gap after"
            raise _damaged(path, f"tensor {tensor.name!r} {word} the one before it")
        expected = tensor.end
    if expected != size:
        raise _damaged(path, f"its tensors end at byte {expected} and the file at byte {size}")
    return tuple(tensors)


def find_weights(folder: Path, transformer: bool = True) -> tuple[Path, ...]:
    """Returns the weight files that sentence-transformers would read for the module in `folder`.

    These are one safetensors file, or the index of a sharded set followed by its shards, every
    header checked; otherwise the same of pickled weights (`pytorch_model.bin`), unread. A
    `transformer`'s config.json may name another file, which other modules ignore.

    Raises:
        ModelError: there are none, a shard is missing, or a file is damaged.
    """
    single = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    config = folder / "config.json"
    named = None
    if transformer and config.is_file():
        named = read_object(config).get("transformers_weights")
    if named is not None:  # transformers then reads this one, whatever else is there
        ends = (".safetensors", ".safetensors.index.json")
        if not isinstance(named, str) or not is_inside(named) or not named.endswith(ends):
            raise refusal(
                f"{config}: transformers_weights is {named!r}, which is no safetensors file of "
                "this folder; correct it, or remove it"
            )
        single = index = folder / named
        if not single.is_file():
            raise refusal(f"{single}: missing, and {config} names it; fetch the model again")
    if single.is_file() and not single.name.endswith(".index.json"):
        read_header(single)
        return (single,)
    if index.is_file():
        return (index, *_find_shards(index, ".safetensors"))
    pickle = folder / "pytorch_model.bin"
    index = folder / "pytorch_model.bin.index.json"
    if pickle.is_file():
        return (pickle,)
    if index.is_file():
        return (index, *_find_shards(index, ".bin"))
    others = (".h5", ".msgpack", ".ot", ".onnx", ".pt", ".pth", ".pkl", ".gguf", ".safetensors")
    odd = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in others)
    instead = f", but {odd[0]}, which sentence-transformers does not load" if odd else ""
    raise refusal(
        f"{folder}: holds neither model.safetensors nor pytorch_model.bin{instead}; save the model "
        "again with SentenceTransformer(...).save(folder)"
    )


def scan_finite(paths: Sequence[Path], progress: Callable[[int, int], None] | None = None) -> None:
    """Read every floating-point tensor of `paths` once and refuse NaN and Inf.

    The scan reads through one 256 KiB buffer rather than a memory map: as fast, and neither the
    resident set nor the risk of a fault grows with the file. It stops at the first tensor with NaN
    or Inf.

    Args:
        paths: safetensors files.
        progress: called with (bytes read so far, bytes in all) after each tensor.

    Raises:
        ModelError: names the file, the tensor, how many values are not finite, the first's index.
    """
    work = [(path, tensor) for path in paths for tensor in read_header(path)]
    total = sum(tensor.end - tensor.begin for _, tensor in work)
    done = 0
    for path, tensor in work:
        if tensor.dtype in SPECIAL:
            count, first = _count_special(path, tensor)
            if count:
                raise refusal(_describe_special(path, tensor, count, first))
        done += tensor.end - tensor.begin
        if progress is not None:
            progress(done, total)


def _count_special(path: Path, tensor: Tensor) -> tuple[int, int]:
    """Returns how many words of `tensor` are NaN or Inf, and the flat index of the first (-1 if
    none)."""
    word, bits = SPECIAL[tensor.dtype]
    mask = word(bits)
    buffer = bytearray(SCAN_BYTES)
    window = memoryview(buffer)
    words: npt.NDArray[np.unsignedinteger[Any]] = np.frombuffer(buffer, word)
    masked = np.empty_like(words)
    count, first, seen = 0, -1, 0
    with path.open("rb", buffering=0) as file:
        file.seek(tensor.begin)
        left = tensor.end - tensor.begin
        while left:
            want = min(left, SCAN_BYTES)
            got = _fill(file, window[:want])
            if got < want:
                raise _damaged(path, f"it became shorter while tensor {tensor.name!r} was read")
            here = masked[: want // words.itemsize]
            np.bitwise_and(words[: want // words.itemsize], mask, out=here)
            # The mask is the greatest value possible, so the maximum alone decides the usual case.
            if here.max() == mask:
                special = here == mask
                if not count:
                    first = seen + int(special.argmax())
                count += int(special.sum())
            seen += here.size
            left -= want
    return count, first


def _fill(file: Any, window: memoryview) -> int:
    """Read until `window` is full or the file ends (a raw read may return less); returns the bytes
    read."""
    filled = 0
    while filled < len(window):
        got = file.readinto(window[filled:])
        if not got:
            break
        filled += got
    return filled


def _describe_special(path: Path, tensor: Tensor, count: int, first: int) -> str:
    # A complex number is two words; its index is that of the pair.
    element = first // 2 if tensor.dtype == "C64" else first
    index = [int(i) for i in np.unravel_index(element, tensor.shape)] if tensor.shape else []
    values = "value that is" if count == 1 else "values that are"
    return (
        f"{path}: tensor {tensor.name!r} holds {count} {values} NaN or Inf, the first at {index}; "
        "no embedding of this model can be trusted, fetch or train it again"
    )


def _read_entry(path: Path, name: str, entry: Any, start: int) -> Tensor:
    """Returns one header entry as a `Tensor`, its offsets counted from the start of the file."""
    if not isinstance(entry, dict):
        raise _damaged(path, f"the entry of tensor {name!r} is not an object")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise refusal(f"{path}: tensor {name!r} has the unknown dtype {dtype!r}; save it as F32")
    if not (_are_sizes(shape) and _are_sizes(offsets)) or len(offsets) != 2:
        raise _damaged(path, f"tensor {name!r} has no proper shape and data_offsets")
    begin, end = offsets
    bits = math.prod(shape) * BITS[dtype]
    if (end - begin) * 8 != bits:
        raise _damaged(path, f"tensor {name!r} has not the bytes that its dtype and shape need")
    return Tensor(name, dtype, tuple(shape), start + begin, start + end)


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _find_shards(index: Path, ending: str) -> tuple[Path, ...]:
    """Returns the shards that an index names: each present, holding the tensors that the index
    gives it and, for safetensors, intact."""
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise refusal(f"{index}: has no weight_map; fetch the model again")
    shards: dict[str, set[str]] = {}
    for tensor, name in places.items():
        if not isinstance(name, str) or not is_inside(name) or not name.endswith(ending):
            raise refusal(
                f"{index}: places tensor {tensor!r} in {name!r}, which is not a {ending} file "
                "of this folder; save the model again"
            )
        shards.setdefault(name, set()).add(tensor)
    for name, tensors in sorted(shards.items()):
        shard = index.parent / name
        if not shard.is_file():
            raise refusal(f"{shard}: a shard that {index.name} names is missing; fetch it again")
        if ending != ".safetensors":
            continue
        missing = tensors - {tensor.name for tensor in read_header(shard)}
        if missing:
            raise refusal(
                f"{shard}: lacks tensor {min(missing)!r}, which {index.name} places there"
            )
    return tuple(index.parent / name for name in sorted(shards))


def _parse_json(raw: bytes, where: str) -> Any:
    most = JSON_VALUES if len(raw) <= JSON_LIMIT else TOKENIZER_VALUES
    if values(raw) > most:
        raise refusal(f"{where}: holds more than {most:,} values, which no model's does")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_refuse_duplicates)
        if b"\\ud" in raw or b"\\uD" in raw:  # lone surrogates cannot be written
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise refusal(f"{where}: holds half a character (a lone surrogate); correct it") from None
    except UnicodeDecodeError as error:
        raise refusal(f"{where}: is not UTF-8 (byte {error.start}); fetch it again") from None
    except (ValueError, RecursionError) as error:
        raise refusal(f"{where}: is not JSON ({error}); fetch it again") from None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Readers disagree on which of two equal keys counts: a check of one would not cover the other.
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return value


def _damaged(path: Path, why: str) -> ModelError:
    return refusal(f"{path}: damaged or cut off, {why}; fetch the model again")
