"""Files that are whole and whose headers lie: safetensors, npy, ONNX, and OpenVINO's XML.

Ways as in damage.py.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.tortures.damage import Rng, Spoil, Way, text


def header(change: Callable[[dict[str, Any], Rng], None]) -> Spoil:
    """Change the JSON of a safetensors file's header."""

    def spoil(folder: Path, key: str, rng: Rng) -> None:
        raw = (folder / key).read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        record = json.loads(raw[8 : 8 + length])
        change(record, rng)
        fresh = json.dumps(record).encode()
        (folder / key).write_bytes(struct.pack("<Q", len(fresh)) + fresh + raw[8 + length :])

    return spoil


def entry(**fields: Any) -> Spoil:
    def change(record: dict[str, Any], rng: Rng) -> None:
        names = sorted(set(record) - {"__metadata__"})
        record[names[int(rng.integers(len(names)))]].update(fields)

    return header(change)


def leave_out(folder: Path, key: str, rng: Rng) -> None:
    """A file that is sound in itself, but for one tensor that is not there."""
    import safetensors.numpy

    tensors = safetensors.numpy.load_file(folder / key)
    del tensors[sorted(tensors)[int(rng.integers(len(tensors)))]]
    tensors = tensors or {"other": np.zeros(3, np.float32)}
    safetensors.numpy.save_file(tensors, folder / key, {"format": "pt"})


def declare_length(folder: Path, key: str, rng: Rng) -> None:
    raw = (folder / key).read_bytes()
    (folder / key).write_bytes(struct.pack("<Q", 1 << int(rng.integers(20, 64))) + raw[8:])


SAFETENSORS = (
    Way("a header of 2^n bytes", declare_length),
    Way("a shape of 2^80", entry(shape=[1 << 40, 1 << 40])),
    Way("a shape below zero", entry(shape=[-1, 48])),
    Way("offsets past the end", entry(data_offsets=[0, 1 << 50])),
    Way("a dtype of its own", entry(dtype="F4096")),
    Way("a tensor left out", leave_out),
)


def numbers(header_text: str) -> Spoil:
    """An .npy file whose header says so."""

    def spoil(folder: Path, key: str, rng: Rng) -> None:
        said = header_text.encode() + b"\n"
        raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said + b"\0" * 256
        (folder / key).write_bytes(raw)
        record = json.loads((folder / "golden/golden.json").read_bytes())
        record["embeddings_sha256"] = hashlib.sha256(raw).hexdigest()
        (folder / "golden/golden.json").write_text(json.dumps(record))

    return spoil


def npy(kind: str, shape: tuple[int, int]) -> Spoil:
    return numbers(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}")


NPY = (
    Way("npy: a shape of 2^50", npy("<f4", (1 << 40, 1 << 10))),
    Way("npy: a shape of 2^34", npy("<f4", (1 << 24, 1 << 10))),
    Way("npy: pickled objects", npy("|O", (9, 48))),
    Way("npy: a header that is code", numbers("__import__('os').system('true')")),
)  # fmt: skip


def graph(change: Callable[[Any, Rng], None]) -> Spoil:
    """Change an ONNX model's protobuf."""

    def spoil(folder: Path, key: str, rng: Rng) -> None:
        import onnx

        model = onnx.load(folder / key, load_external_data=False)
        change(model, rng)
        (folder / key).write_bytes(model.SerializeToString())

    return spoil


def _outside(model: Any, rng: Rng) -> Any:
    tensors = [tensor for tensor in model.graph.initializer if tensor.external_data]
    return tensors[int(rng.integers(len(tensors)))]


def external(name: str, value: str) -> Spoil:
    """Say of a constant that lies outside the file that it lies elsewhere."""

    def change(model: Any, rng: Rng) -> None:
        for said in _outside(model, rng).external_data:
            if said.key == name:
                said.value = value

    return graph(change)


def declare_dims(model: Any, rng: Rng) -> None:
    _outside(model, rng).dims[:] = [1 << 40, 1 << 20]


def declare_inline(model: Any, rng: Rng) -> None:
    tensor = next(t for t in model.graph.initializer if not t.external_data)
    tensor.dims[:] = [1 << 36]


ONNX = (
    Way("onnx: weights of ../", external("location", "../../victim/secret.bin")),
    Way("onnx: weights of /", external("location", "/etc/hostname")),
    Way("onnx: weights of a device", external("location", "/dev/zero")),
    Way("onnx: weights past the end", external("offset", str(1 << 50))),
    Way("onnx: weights of 2^50 bytes", external("length", str(1 << 50))),
    Way("onnx: a constant of 2^60", graph(declare_dims)),
    Way("onnx: 2^36 numbers of no bytes", graph(declare_inline)),
)


def xml(old: str, new: str) -> Spoil:
    """Replace, in OpenVINO's file, what `old` matches at a place that is drawn."""

    def spoil(folder: Path, key: str, rng: Rng) -> None:
        content = (folder / key).read_text("utf-8")
        found = list(re.finditer(old, content))
        place = found[int(rng.integers(len(found)))]
        (folder / key).write_text(content[: place.start()] + new + content[place.end() :])

    return spoil


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
for _old, _new in zip("abcdefghi", "bcdefghij", strict=True):
    BOMB += f'<!ENTITY {_new} "{f"&{_old};" * 10}">'
BOMB += '<net name="a" version="11"><a>&j;</a></net>'.join(("]>", ""))
XML = (
    Way("xml: entities that multiply", text(lambda content, rng: BOMB)),
    Way("xml: an offset past the end", xml(r'offset="[1-9]\d*"', f'offset="{1 << 50}"')),
    Way("xml: 2^50 bytes", xml(r'size="\d+"', f'size="{1 << 50}"')),
    Way("xml: a shape of 2^60", xml(r'shape="\d+, \d+"', f'shape="{1 << 30}, {1 << 30}"')),
    Way(
        "xml: layers 50,000 deep",
        text(lambda content, rng: '<net name="a" version="11">' + "<layers>" * 50_000),
    ),
)
