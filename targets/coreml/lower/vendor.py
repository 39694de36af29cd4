"""The only import of coremltools: whether it works here, the systems it can build for, and its
builder.

Importing it costs seconds and prints warnings about versions of packages that are not used here; so
functions import it, once, with its logger turned down.
"""

from __future__ import annotations

import logging
import platform
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from goldfold.exporter.errors import TargetError

_LIBRARY = "libmilstoragepython"
"""The compiled part without which no weight can be written."""

SYSTEMS = {
    "ios16": "iOS16",
    "ios17": "iOS17",
    "ios18": "iOS18",
    "macos13": "iOS16",
    "macos14": "iOS17",
    "macos15": "iOS18",
}
"""Values of --minimum-target, in lower case, and the op set of each system."""

DEFAULT_SYSTEM = "iOS18"
MULTIFUNCTION = "iOS18"
"""The first op set whose packages may hold several functions."""


def unavailable() -> str | None:
    """Returns why coremltools cannot be used on this machine, in words; None if it can."""
    spec = find_spec("coremltools")
    if spec is None or not spec.submodule_search_locations:
        return "the package coremltools is not installed"
    folder = Path(next(iter(spec.submodule_search_locations)))
    if not any(folder.glob(f"{_LIBRARY}*")):
        here = f"{platform.system()} {platform.machine()} with Python {sys.version_info[0]}"
        return (
            f"coremltools has no compiled libraries for {here}.{sys.version_info[1]}: use a Mac "
            "or x86-64 Linux, with Python 3.13 or older"
        )
    return None


def native() -> bool:
    """Returns whether this machine has Core ML."""
    return platform.system() == "Darwin"


def installed() -> str | None:
    """Returns the installed version; None if there is none."""
    try:
        return version("coremltools")
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class System:
    """An op set: its name ("iOS18"), specification version, and coremltools' own word for it."""

    name: str
    number: int
    word: Any

    @property
    def devices(self) -> str:
        """The systems and devices of the op set, in words."""
        macs = next(
            n for n, found in SYSTEMS.items() if n.startswith("macos") and found == self.name
        )
        return f"{self.name} and macOS{macs.removeprefix('macos')}"

    @property
    def several(self) -> bool:
        """Whether packages of the op set may hold several functions."""
        return self.name >= MULTIFUNCTION


@cache
def coremltools() -> Any:
    """Returns the package, without its warnings. Raises TargetError where it cannot be used."""
    reason = unavailable()
    if reason is not None:
        raise TargetError(f"target coreml cannot be used here: {reason}")
    log = logging.getLogger("coremltools")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        import coremltools
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise TargetError(f"coremltools cannot be imported here: {reason}") from error
    finally:
        log.setLevel(max(before, logging.ERROR))
    return coremltools


def system(name: str) -> System:
    """Returns the op set called `name` ("iOS18")."""
    word = getattr(coremltools().target, name)
    return System(name, int(word), word)


def builder() -> Any:
    """Returns coremltools' `mb`."""
    coremltools()
    from coremltools.converters.mil.mil import Builder

    return Builder
