"""Ways to damage a folder, each drawn from a seed: files cut off, flipped, swapped, linked away;
JSON and manifests that lie. What lies in a header of one format is in headers.py.

A way takes the folder, one file of it and a generator, and spoils the file. Some spoil what nobody
can tell from a sound file (a bit of a weight); `either` says so: such a folder may be accepted, but
nothing may crash. Every other one must be refused.
"""

from __future__ import annotations

import hashlib
import json
import os
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
    sound: bool = False
    """Whether it is one, and must be taken."""


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
    """As somebody would who knows how to correct the manifest's own digest, and that the verdict
    names it."""
    record = {key: value for key, value in record.items() if key != "sha256"}
    body = json.dumps(record, ensure_ascii=False, sort_keys=True, indent=1)
    digest = hashlib.sha256(body.encode()).hexdigest()
    raw = (body[:-2] + f',\n "sha256": "{digest}"\n}}\n').encode()
    (folder / "manifest.json").write_bytes(raw)
    try:
        verdict = json.loads((folder / "verdict.json").read_bytes())
        verdict["manifest"] = hashlib.sha256(raw).hexdigest()
        (folder / "verdict.json").write_text(json.dumps(verdict))
    except (OSError, ValueError, TypeError):
        pass  # it was spoilt itself


def reseal(folder: Path, most: int = 1 << 28) -> None:
    """Give the manifest the digests of the files as they are now, up to `most` bytes each."""
    record = json.loads((folder / "manifest.json").read_bytes())
    for key, known in record["files"].items():
        path = folder / key
        if path.is_file() and path.stat().st_size < most:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            known.update(sha256=digest, size=path.stat().st_size)
    write_manifest(folder, record)


def sealed(way: Way) -> Way:
    def spoil(folder: Path, key: str, rng: Rng) -> None:
        way.spoil(folder, key, rng)
        reseal(folder)

    return Way(f"{way.name}, resealed", spoil, either=True)
