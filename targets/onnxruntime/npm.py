"""The npm packages of the page for browsers: an installed folder of them is found, or made by
`npm ci` from the lock file beside this module, whose integrity hashes npm checks."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from goldfold.exporter.errors import TargetError
from goldfold.exporter.system import cache
from goldfold.exporter.system.files import expanded, read_bounded

VARIABLE = "GOLDFOLD_NODE_MODULES"
"""The variable that names a node_modules folder; `goldfold layout --node-modules` sets it."""
TOKENS = "runtime/tokenizers.min.mjs"
"""The tokenizer's library in a layout."""
PAGE = Path(__file__).with_name("page")
_ASKED, _LOCK = "package.json", "package-lock.json"
_LIMIT = 4 << 20
_SECONDS = 600
"""The most that npm may take; 40 MB come from its registry."""


def pinned() -> dict[str, str]:
    """Returns the one version of each package that the page is made for."""
    return json.loads((PAGE / _ASKED).read_text("utf-8"))["dependencies"]


def modules() -> Path:
    """Returns a node_modules folder with the packages in their pinned versions: the one that
    GOLDFOLD_NODE_MODULES names, ./node_modules, or one in the user's cache, installed where it is
    not there yet.

    Raises TargetError where the named folder lacks a package, and where nothing can be installed:
    npm or the network is missing.
    """
    if named := os.environ.get(VARIABLE):
        folder = expanded(named)
        if lacking := _lacking(folder):
            raise TargetError(f"{VARIABLE}: {folder} {lacking}; {_remedy()}")
        return folder
    here = Path("node_modules")
    if not _lacking(here):
        return here
    kept = _kept()
    if _lacking(kept):
        _install(kept.parent)
    return kept


def _kept() -> Path:
    """Returns the node_modules folder in the user's cache, which need not be there."""
    given = os.environ.get(cache.FOLDER)
    base = cache.default_folder()
    if given == "" or (not given and base is None):
        raise TargetError(f"there is no cache folder to install npm's packages in; {_remedy()}")
    room = expanded(given).absolute() if given else base.parent  # type: ignore[union-attr]
    lock = hashlib.sha256((PAGE / _LOCK).read_bytes()).hexdigest()
    return room / f"npm-{lock[:16]}" / "node_modules"


def _lacking(folder: Path) -> str | None:
    """Returns which package `folder` does not hold in its version, in words; None if all are
    there."""
    for name, version in pinned().items():
        try:
            found = json.loads(read_bounded(folder / name / _ASKED, _LIMIT))["version"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return f"holds no package {name}"
        if found != version:
            return f"holds {name} {str(found)[:40]}, and the page is made for {version}"
    return None


def _install(place: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise TargetError(f"npm is not installed, so the runtime cannot be fetched; {_remedy()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".npm-", dir=place.parent) as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            for name in (_ASKED, _LOCK):
                shutil.copyfile(PAGE / name, fresh / name)
            _run(npm, fresh)
            shutil.rmtree(place, ignore_errors=True)  # one that broke off, or is damaged
            with suppress(OSError):  # another process was first: its folder is as good
                fresh.rename(place)
    except OSError as error:
        raise TargetError(f"cannot write {place.parent}: {error.strerror}; {_remedy()}") from None
    if lacking := _lacking(place / "node_modules"):
        raise TargetError(f"npm ci ended, and {place} {lacking}; {_remedy()}")


def _run(npm: str, folder: Path) -> None:
    """Run `npm ci`: exactly what the lock says, and none of the packages' own scripts."""
    words = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TargetError(f"npm ci took more than {_SECONDS} s; {_remedy()}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        said = [line.removeprefix("npm error").strip() for line in lines if " log " not in line]
        told = " ".join(said[:3])[:200] or f"exit code {done.returncode}"
        raise TargetError(f"npm ci failed ({told}): is the registry within reach? {_remedy()}")


def _remedy() -> str:
    wanted = " and ".join(f"{name} {version}" for name, version in pinned().items())
    return (
        "install Node.js 20 with npm on a machine with a network, or name a node_modules folder "
        f"that holds {wanted} by --node-modules or {VARIABLE}"
    )
