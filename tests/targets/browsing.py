"""What the tests of the page need: npm's packages, a browser, and what its console says."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from goldfold.exporter.errors import TargetError
from goldfold.targets.onnxruntime import elsewhere, npm
from goldfold.targets.onnxruntime.loopback import Loopback

_SECONDS = 120


def need(*places: str) -> None:
    """Skip the test where npm's packages or a program are missing, with the reason."""
    try:
        npm.modules()
    except TargetError as error:
        pytest.skip(str(error))
    for place in places:
        if why := elsewhere.absent(place):
            pytest.skip(why)


def sentences(
    laid: Path, *flags: str, query: str = "", headers: Mapping[str, str] | None = None
) -> list[str]:
    """Opens the page in Chromium; returns what its console says up to the last word, which is
    `ready: …` or a refusal."""
    server = Loopback(laid, headers)
    try:
        return opened(f"{server.address}index.html{query}", *flags)
    finally:
        server.close()


def opened(address: str, *flags: str) -> list[str]:
    """The same for any address."""
    program = elsewhere.program(elsewhere.CHROMIUM)
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as room:
        said = Path(room) / "said.txt"
        words = [program, *elsewhere.FLAGS, f"--user-data-dir={room}/profile", *flags, address]
        process = elsewhere.start(words, Path(room), said)
        try:
            begun = time.monotonic()
            while time.monotonic() - begun < _SECONDS:
                text = said.read_text("utf-8", "replace")
                lines = re.findall(r'CONSOLE:\d+\] "goldfold: (.*)", source: .*/(\w+)\.m?js', text)
                if any(script == "start" or line.startswith("ready: ") for line, script in lines):
                    return [line for line, _ in lines]
                time.sleep(0.1)
        finally:
            elsewhere.end(process)
    raise AssertionError(f"the page said nothing in {_SECONDS} s: {text[-2000:]}")


def left() -> list[str]:
    """The processes of Chromium or Node that are still children of this process's."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if entry.name.isdecimal() and int(fields[1]) == os.getpid() and fields[0] != "Z":
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except (OSError, ValueError, IndexError):
            continue
    return [line for line in found if "chrom" in line or "node.mjs" in line]
