"""Ways to damage a folder, each drawn from a seed: files cut off, flipped, swapped, linked away;
JSON, headers and manifests that lie.

A way takes the folder, one file of it and a generator, and spoils the file. Some spoil what nobody
can tell from a sound file (a bit of a weight); `either` says so: such a folder may be accepted, but
nothing may crash. Every other one must be refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Rng = np.random.Generator
Spoil = Callable[[Path, str, Rng], None]
HOLES = 8 << 30
"""Bytes of a file that is nearly all holes: larger than what any command may take of memory."""
LONG = f': {"9" * 5000}, "x": '
WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    2**63,
    10**12,
    "",
    "\ud800",
    [],
    {},
    [[1]],
    "a\nb",
)


@dataclass(frozen=True)
class Way:
    name: str
    spoil: Spoil
    either: bool = False
    """Whether the outcome may be a sound folder."""


# --- any file


def truncate(folder: Path, key: str, rng: Rng) -> None:
    path = folder / key
    with path.open("r+b") as file:
        file.truncate(int(rng.integers(0, max(1, path.stat().st_size))))


def flip(folder: Path, key: str, rng: Rng) -> None:
    path = folder / key
    raw = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 9))):
        raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(raw)


def empty(folder: Path, key: str, rng: Rng) -> None:
    (folder / key).write_bytes(b"")


def become_folder(folder: Path, key: str, rng: Rng) -> None:
    (folder / key).unlink()
    (folder / key).mkdir()


def swap(folder: Path, key: str, rng: Rng) -> None:
    others = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path != folder / key
        and path.name != "manifest.json"
        and (path.suffix == Path(key).suffix or Path(key).suffix in (".data", ".onnx", ".npy"))
    )
    other = others[int(rng.integers(len(others)))]
    mine, theirs = (folder / key).read_bytes(), other.read_bytes()
    (folder / key).write_bytes(theirs)
    other.write_bytes(mine)


def link(target: str) -> Spoil:
    def spoil(folder: Path, key: str, rng: Rng) -> None:
        (folder / key).unlink()
        (folder / key).symlink_to(target or Path(key).name)

    return spoil


def fifo(folder: Path, key: str, rng: Rng) -> None:
    (folder / key).unlink()
    os.mkfifo(folder / key)


def grow(folder: Path, key: str, rng: Rng) -> None:
    with (folder / key).open("r+b") as file:
        file.truncate(HOLES)


ANY = (
    Way("cut off", truncate),
    Way("bits flipped", flip, either=True),
    Way("empty", empty),
    Way("a folder in its place", become_folder),
    Way("swapped with another", swap),
    Way("a link to itself", link("")),
    Way("a link to nowhere", link("nowhere/at/all")),
    Way("a link to a device", link("/dev/zero")),
    Way("a pipe in its place", fifo),
    Way("8 GiB of holes", grow),
)


# --- JSON


def text(make: Callable[[str, Rng], str]) -> Spoil:
    def spoil(folder: Path, key: str, rng: Rng) -> None:
        path = folder / key
        made = make(path.read_text("utf-8"), rng)
        path.write_bytes(made.encode("utf-8", "surrogatepass"))

    return spoil


def twice(content: str, rng: Rng) -> str:
    """The first key of the outermost object once more, with another value."""
    record = json.loads(content)
    if not isinstance(record, dict) or not record:
        return '{"a": 1, "a": 2}'
    first = json.dumps(next(iter(record)))
    return "{" + f"{first}: [], " + content.lstrip()[1:]


def leaf(values: tuple[Any, ...]) -> Callable[[str, Rng], str]:
    """Put one of `values` in the place of one that is drawn."""

    def make(content: str, rng: Rng) -> str:
        record = json.loads(content)
        holder, key = record, None
        while isinstance(holder, (dict, list)) and holder:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = keys[int(rng.integers(len(keys)))]
            if not isinstance(holder[key], (dict, list)) or not holder[key] or rng.random() < 0.2:
                holder[key] = values[int(rng.integers(len(values)))]
                break
            holder = holder[key]
        return json.dumps(record)

    return make


def latin(folder: Path, key: str, rng: Rng) -> None:
    (folder / key).write_bytes(b'{"a": "\xff\xfe"}')


JSON = (
    Way("nested 200,000 deep", text(lambda content, rng: "[" * 200_000)),
    Way("objects 200,000 deep", text(lambda content, rng: '{"a":' * 200_000)),
    Way("a number of 5,000 digits", text(lambda content, rng: content.replace(":", LONG, 1))),
    Way("NaN", text(leaf((float("nan"), float("inf")))), either=True),
    Way("a key twice", text(twice)),
    Way("a wrong value", text(leaf(WRONG)), either=True),
    Way("null", text(lambda content, rng: "null")),
    Way("a list of lists", text(lambda content, rng: "[[], [[]]]")),
    Way("not UTF-8", latin),
)  # fmt: skip


# --- headers


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
    import re

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


# --- what names another place


def module_path(path: str) -> Spoil:
    def spoil(folder: Path, key: str, rng: Rng) -> None:
        modules = json.loads((folder / key).read_text())
        modules[int(rng.integers(1, 3))]["path"] = path
        (folder / key).write_text(json.dumps(modules))

    return spoil


MODULES = tuple(
    Way(f"modules.json: {word}", module_path(path))
    for word, path in {
        "../": "../victim", "an absolute path": "/etc", "NUL": "1_Pooling\0", "..\\": "..\\victim",
        "a name of 5,000 letters": "a" * 5000, "a line break": "a\nb",
    }.items()
)  # fmt: skip


def files_name(name: str) -> Spoil:
    def spoil(folder: Path, key: str, rng: Rng) -> None:
        record = json.loads((folder / key).read_bytes())
        record["files"][name] = {"sha256": "0" * 64, "size": 1}
        write_manifest(folder, record)

    return spoil


def contract(**fields: Any) -> Spoil:
    def spoil(folder: Path, key: str, rng: Rng) -> None:
        record = json.loads((folder / key).read_bytes())
        record["contract"].update(fields)
        write_manifest(folder, record)

    return spoil


def said(**fields: Any) -> Spoil:
    def spoil(folder: Path, key: str, rng: Rng) -> None:
        record = json.loads((folder / key).read_bytes())
        write_manifest(folder, {**record, **fields})

    return spoil


MANIFEST = (
    *(
        Way(f"manifest: files name {word}", files_name(name))
        for word, name in {
            "../": "../victim/secret.bin", "an absolute path": "/etc/hostname", "NUL": "a\0b",
            "a device": "/dev/zero", "a name of 5,000 letters": "a" * 5000,
            "a line break": "a\nb\x1b[2J",
        }.items()
    ),
    Way("manifest: 10^12 dimensions", contract(dim=10**12)),
    Way("manifest: 10^30 tokens", contract(max_length=10**30), either=True),
    Way("manifest: 10^12 words", contract(vocab_size=10**12), either=True),
    Way("manifest: padding of -1", contract(pad_id=-1), either=True),
    Way("manifest: no such output", contract(dim=7)),
    Way("manifest: no such target", said(target="../coreml")),
    Way("manifest: no such precision", said(precision="fp1024")),
    Way("manifest: another target", said(target="coreml")),
)  # fmt: skip


def verdict_link(folder: Path, key: str, rng: Rng) -> None:
    """Where a fresh verdict is written before it takes its place."""
    (folder / "verdict.json.new").symlink_to(folder.parents[1] / "victim" / "secret.bin")


VERDICT = (Way("a fresh verdict that is a link", verdict_link, either=True),)


# --- manifests that know the digests


def write_manifest(folder: Path, record: dict[str, Any]) -> None:
    """As somebody would who knows how to correct the manifest's own digest."""
    record = {key: value for key, value in record.items() if key != "sha256"}
    body = json.dumps(record, ensure_ascii=False, sort_keys=True, indent=1)
    digest = hashlib.sha256(body.encode()).hexdigest()
    (folder / "manifest.json").write_bytes((body[:-2] + f',\n "sha256": "{digest}"\n}}\n').encode())


def reseal(folder: Path) -> None:
    """Give the manifest the digests of the files as they are now."""
    record = json.loads((folder / "manifest.json").read_bytes())
    for key, known in record["files"].items():
        path = folder / key
        if path.is_file() and path.stat().st_size < 1 << 28:
            raw = path.read_bytes()
            known.update(sha256=hashlib.sha256(raw).hexdigest(), size=len(raw))
    write_manifest(folder, record)


def sealed(way: Way) -> Way:
    def spoil(folder: Path, key: str, rng: Rng) -> None:
        way.spoil(folder, key, rng)
        reseal(folder)

    return Way(f"{way.name}, resealed", spoil, either=True)
