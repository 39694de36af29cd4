"""Ways to hand over a folder that is no accident: cards, licences and links of a model; planted
files, other artifacts' verdicts, names and references of an artifact. Ways as in damage.py.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.tortures.damage import Rng, Spoil, Way, reseal, write_manifest

GIB = 1 << 30
EVIL = 'a\x1b]0;owned\x07\x9b31m[bold red]RED[/]\u202e\u2028b"\n}\nnode {'
NAMES = ("../../../planted", "/etc/planted", "..", "C:\\planted", EVIL, "", "CON", "x" * 4000)


def card(front: str) -> Spoil:
    def spoil(folder: Path, key: str, rng: Rng) -> None:
        (folder / "README.md").write_text(f"---\n{front}\n---\n# card\n", "utf-8")

    return spoil


def holes(name: str, size: int = GIB) -> Spoil:
    def spoil(folder: Path, key: str, rng: Rng) -> None:
        with (folder / name).open("ab") as file:
            file.truncate(size)

    return spoil


def text(name: str, make: Callable[[Rng], str]) -> Spoil:
    def spoil(folder: Path, key: str, rng: Rng) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(make(rng), "utf-8")

    return spoil


def link(name: str, target: str) -> Spoil:
    """A link where a file or a folder was, or where there was none."""

    def spoil(folder: Path, key: str, rng: Rng) -> None:
        place = folder / name
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        place.symlink_to(target)

    return spoil


def laughs(level: int = 9) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, level + 1)]
    return "\n".join([*lines, f"license: *a{level}"])


def licences(folder: Path, key: str, rng: Rng) -> None:
    """Names that other systems do not take, and two that they take for one."""
    for name in ("LICENSE", "license", "NOTICE.", "terms-\x1b[2J.txt", "COPYING-a:b|c?.md"):
        (folder / name).write_text(name)


def grow_parts(folder: Path, key: str, rng: Rng) -> None:
    file = folder / "tokenizer.json"
    record = json.loads(file.read_text("utf-8"))
    record["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 1_500_000}
    file.write_text(json.dumps(record), "utf-8")


def undecodable(folder: Path, key: str, rng: Rng) -> None:
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9.txt")).write_text("x")


MODEL = (
    Way("card: aliases that multiply", card(laughs()), either=True),
    Way("card: merges that multiply", card(laughs(6).replace("license: ", "b: {<<: ") + "}"), True),
    Way("card: a list without end", card("license:" + "\n- a" * 200_000), either=True),
    Way("card: brackets", card("license: " + "[" * 4000), either=True),
    Way("card: 1 GiB of holes", holes("README.md")),
    Way("card: a name that steers", card(f"license: {json.dumps(EVIL)}"), either=True),
    Way("licence: 1 GiB of holes", holes("LICENSE")),
    Way("licence: odd names", licences, sound=True),
    Way("link: licence to a secret", link("LICENSE", "../../victim/secret.bin")),
    Way("link: card to /etc/passwd", link("README.md", "/etc/passwd")),
    Way("link: a setting elsewhere", link("tokenizer_config.json", "../../victim/secret.bin")),
    Way("link: a module elsewhere", link("1_Pooling", "/etc")),
    Way("link: licence within", link("LICENSE", "config.json"), sound=True),
    Way("a tokenizer of a million parts", grow_parts),
    Way("settings: 1 GiB of holes", holes("special_tokens_map.json")),
    Way("words: lines without end", text("vocab.txt", lambda rng: "a\n" * 5_000_000)),
    Way("a name that is no UTF-8", undecodable),
    Way("a desktop's file", text(".DS_Store", lambda rng: "left"), sound=True),
)  # fmt: skip
"""For a model's folder. The third field of `Way` is `either`."""


# --- artifacts


def plant(name: str) -> Spoil:
    return text(name, lambda rng: "print('planted')\n")


def pipe(folder: Path, key: str, rng: Rng) -> None:
    os.mkfifo(folder / "pipe")


def deep(folder: Path, key: str, rng: Rng) -> None:
    """Folders below one another, not as deep as this file's own reader recurses."""
    place = folder
    for _ in range(400):
        place /= "d"
        place.mkdir()


def many(folder: Path, key: str, rng: Rng) -> None:
    (folder / "many").mkdir()
    for number in range(20_000):
        (folder / "many" / str(number)).touch()


def verdict(change: Callable[[dict[str, Any], Path], Any]) -> Spoil:
    def spoil(folder: Path, key: str, rng: Rng) -> None:
        file = folder / "verdict.json"
        record = json.loads(file.read_bytes())
        changed = change(record, folder)
        file.write_text(json.dumps(record if changed is None else changed))

    return spoil


def others(record: dict[str, Any], folder: Path) -> None:
    record["manifest"] = "0" * 64


def earlier(record: dict[str, Any], folder: Path) -> None:
    del record["format"], record["manifest"]


def nested(record: dict[str, Any], folder: Path) -> None:
    inner: Any = 0
    for _ in range(150):
        inner = [inner]
    record["heads"] = {str(number): {"worst": inner} for number in range(1000)}


def manifest(change: Callable[[dict[str, Any], Rng], Any]) -> Spoil:
    def spoil(folder: Path, key: str, rng: Rng) -> None:
        record = json.loads((folder / "manifest.json").read_bytes())
        change(record, rng)
        write_manifest(folder, record)

    return spoil


def named(record: dict[str, Any], rng: Rng) -> None:
    record["contract"]["model"] = NAMES[int(rng.integers(len(NAMES)))]


def steer(record: dict[str, Any], rng: Rng) -> None:
    record |= {"notes": [EVIL], "built": [EVIL], "versions": {EVIL: EVIL}, "goldfold": EVIL}
    record["contract"]["prompts"] = {EVIL: EVIL}
    record["origin"] |= {"name": EVIL, "licence": EVIL}


def cased(record: dict[str, Any], rng: Rng) -> None:
    record["files"]["TOKENIZER.json"] = record["files"]["tokenizer.json"]


def big(name: str) -> Spoil:
    """A companion of 1 GiB, its digest corrected."""

    def spoil(folder: Path, key: str, rng: Rng) -> None:
        holes(name)(folder, key, rng)
        reseal(folder, most=2 * GIB)

    return spoil


def refer(location: str) -> Spoil:
    """Weights in a file that the manifest does not name, and that lies there."""

    def spoil(folder: Path, key: str, rng: Rng) -> None:
        import onnx

        model = onnx.load(folder / "model.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for said in tensor.external_data:
                if said.key == "location":
                    said.value = location
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        (folder / location).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(folder / "model.onnx.data", folder / location)
        reseal(folder)

    return spoil


CACHE = "__pycache__/load.cpython-311.pyc"
ARTIFACT = (
    *(Way(f"planted: {name}", plant(name)) for name in
      (CACHE, "load.pyc", "numpy.py", "golden/x", ".hidden", "openvino/__init__.py")),
    Way("planted: a pipe", pipe),
    Way("planted: 20,000 files", many),
    Way("planted: folders 400 deep", deep, sound=True),
    *(Way(f"left: {name}", plant(name), sound=True) for name in
      (".DS_Store", "._load.py", "golden/Thumbs.db", "@eaDir/x", "verdict.json.new")),
    Way("verdict: another's", verdict(others)),
    Way("verdict: an earlier goldfold's", verdict(earlier)),
    Way("verdict: nested", verdict(nested), either=True),
    Way("verdict: 1 GiB of holes", holes("verdict.json")),
    Way("verdict: a list", verdict(lambda record, folder: [record])),
    Way("manifest: a name that is a path", manifest(named), either=True),
    Way("manifest: text that steers", manifest(steer), either=True),
    Way("manifest: two names that are one", manifest(cased)),
    # Only those that look at goldens refuse these two.
    Way("1 GiB of goldens, digests corrected", big("golden/golden.json"), either=True),
    Way("1 GiB of numbers, digests corrected", big("golden/embeddings.npy"), either=True),
    Way("1 GiB of tokenizer, digests corrected", big("tokenizer.json")),
)  # fmt: skip
"""For an artifact of any target."""
ONNX = tuple(
    Way(f"onnx: weights in {name}", refer(name))
    for name in (".DS_Store", "verdict.json.new", "@eaDir/weights")
)
