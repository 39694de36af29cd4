"""Poor surroundings: no home or an odd one, a user without a name, locales, a working folder that
holds a stranger's modules, standard streams that are closed. A command works there, or says in one
line why not; what it leaves lies in its output folder and in goldfold's own cache.

Each command is a fresh process, since all of this is decided when Python starts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.tortures import cell

ROOT = Path(__file__).parents[3]
SECONDS = 60.0
MEMORY = 512 << 20
"""Bytes beyond what the same command takes in ordinary surroundings."""
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
_SCRIPT = """
import sys
from functools import partial
import goldfold.golden.make
from tests.torture.tortures.ground import TEXTS
from goldfold.exporter.cli import app
from goldfold.exporter.system import interrupt
goldfold.golden.make.make = partial(goldfold.golden.make.make, only=TEXTS)
app.main()
"""
HOMES = ("usual", "unset", "missing", "a file", "locked")
LOCALES: tuple[dict[str, str], ...] = (
    {},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"LC_ALL": "xx_XX.UTF-8"},
    {"PYTHONIOENCODING": "latin-1"},
)
CACHES: tuple[dict[str, str], ...] = ({}, {"GOLDFOLD_CACHE": ""}, {"XDG_CACHE_HOME": "/proc/1"})
TERMINALS: tuple[dict[str, str], ...] = (
    {},
    {"COLUMNS": "abc"},
    {"COLUMNS": "1", "FORCE_COLOR": ""},
    {"TERM": "", "LINES": "0"},
)
STREAMS = ("as they are", "input closed", "output closed", "errors closed", "output full")
MODULES = ("json.py", "typer.py", "tokenizers.py", "openvino.py", "numpy/__init__.py")
"""What a stranger may have put into the folder in which somebody works."""


@dataclass(frozen=True)
class Place:
    """One draw of surroundings."""

    home: str
    nobody: bool
    variables: dict[str, str]
    streams: str

    def __str__(self) -> str:
        who = "a user without a name" if self.nobody else "this user"
        said = " ".join(f"{key}={value}" for key, value in self.variables.items())
        return f"home {self.home}, {who}, {said or 'plain'}, streams {self.streams}"


@dataclass
class Found:
    """What came of them."""

    places: int = 0
    commands: int = 0
    worked: int = 0
    refused: int = 0
    broken: list[str] = field(default_factory=list)
    slowest: float = 0.0
    largest: int = 0
    """Bytes beyond the same command in ordinary surroundings."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def draw(count: int, seed: int) -> Iterator[Place]:
    """`count` surroundings; every home and every locale is among the first five."""
    rng = np.random.default_rng([seed, 77])
    for number in range(count):
        variables = {
            **LOCALES[number % len(LOCALES)],
            **CACHES[int(rng.integers(len(CACHES)))],
            **TERMINALS[int(rng.integers(len(TERMINALS)))],
        }
        streams = STREAMS[(number + number // len(HOMES)) % len(STREAMS)]
        nobody = os.geteuid() == 0 and bool(rng.integers(2))
        yield Place(HOMES[number % len(HOMES)], nobody, variables, streams)


def torture(model: Path, artifacts: Path, room: Path, places: list[Place]) -> Found:
    """An export and looks at an artifact, in each of `places`."""
    found, usual = Found(), dict[str, int]()
    plain = Place("usual", False, {}, STREAMS[0])
    for place in (plain, *places):
        here = room / "place"
        shutil.rmtree(here, ignore_errors=True)
        _lay(here, model, artifacts)
        for name, words in _commands(here).items():
            code, out, err, seconds, peak = _run(words, here, place)
            if place is plain:
                usual[name] = peak
                if code:
                    raise RuntimeError(f"{name} fails in ordinary surroundings: {err}")
                continue
            found.commands += 1
            found.worked += code == 0
            found.refused += code != 0
            found.slowest = max(found.slowest, seconds)
            found.largest = max(found.largest, peak - usual[name])
            if peak - usual[name] > MEMORY:
                found.broken.append(f"{name}, {place}: took {peak - usual[name] >> 20} MiB more")
            found.broken += [
                f"{name}, {place}: {why}" for why in _faults(name, place, code, out, err)
            ]
        found.places += place is not plain
        found.broken += [f"{place}: wrote {path}" for path in _left(here, place)]
    shutil.rmtree(room / "place", ignore_errors=True)
    return found


def _lay(here: Path, model: Path, artifacts: Path) -> None:
    """A home, a working folder with a stranger's modules, the model and an artifact."""
    for name in ("home", "work", "out", "tmp"):
        (here / name).mkdir(parents=True)
        (here / name).chmod(0o777)
    for name in MODULES:
        (here / "work" / name).parent.mkdir(exist_ok=True)
        (here / "work" / name).write_text(f"open({str(here / 'ran')!r}, 'w')\n")
    shutil.copytree(model, here / "model")
    shutil.copytree(artifacts / "onnxruntime-fp32", here / "artifact")
    for folder in (here / "model", here / "artifact"):
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode | 0o055)
    for path in here.parents:  # temporary folders are for nobody else
        if path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o011)


def _commands(here: Path) -> dict[str, list[str]]:
    out, artifact = str(here / "out"), str(here / "artifact")
    return {
        "export": ["export", str(here / "model"), "--target", "openvino", "--out", out, "-q"],
        "verify": ["verify", artifact, "-q"],
        "embed": ["embed", artifact, "-"],
        "inspect": ["inspect", artifact],
        "report": ["report", artifact, "--out", f"{out}/report"],
        "cache": ["cache", "size"],
    }


def _run(words: list[str], here: Path, place: Place) -> tuple[int, str, str, float, int]:
    """Exit code, output, errors, seconds and peak resident bytes."""
    script = here / "goldfold"
    script.write_text(_SCRIPT)
    home = {"usual": here / "home", "missing": here / "nowhere", "a file": script,
            "locked": Path("/proc/1")}.get(place.home)  # fmt: skip
    environment = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1", "TMPDIR": str(here / "tmp"), "HF_HUB_OFFLINE": "1",
        **({} if home is None else {"HOME": str(home)}), **place.variables,
    }  # fmt: skip
    before = ["setpriv", "--reuid=54321", "--clear-groups"] if place.nobody else []
    streams = {"input closed": "<&-", "output closed": ">&-", "errors closed": "2>&-",
               "output full": ">/dev/full"}.get(place.streams, "")  # fmt: skip
    line = f'exec "$@" {streams}'
    start = time.monotonic()
    with (here / "said").open("w+b") as out, (here / "complained").open("w+b") as err:
        process = subprocess.Popen(
            ["sh", "-c", line, "sh", *before, sys.executable, "-P", str(script), *words],
            cwd=here / "work",
            env=environment,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
        )
        assert process.stdin is not None
        try:
            process.stdin.write(b"a text\n")
            process.stdin.close()
        except BrokenPipeError:
            pass
        code, usage = cell.wait(process.pid, start + SECONDS)
        process.returncode = code
        seconds = time.monotonic() - start
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return code, texts[0], texts[1], seconds, usage.ru_maxrss * 1024


def _faults(name: str, place: Place, code: int, out: str, err: str) -> Iterator[str]:
    """What is wrong with a command's end."""
    if code == cell.TIMED_OUT:
        yield f"took more than {SECONDS:.0f} s"
    elif code < 0:
        yield f"ended by signal {-code}: {err[-200:]!r}"
    if "Traceback" in err:
        yield f"a traceback: {err.strip().splitlines()[-1][:200]}"
    if found := _STEERING.search(out + err):
        yield f"prints {found[0]!r}, which steers a terminal"
    if code > 0:
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        if place.streams != "errors closed" and (len(errors) != 1 or len(err.splitlines()) != 1):
            yield f"code {code}, not one line: {err[:300]!r}"
        # What cannot be: results on a full device, texts from an input that is closed, and the size
        # of a cache that is switched off.
        off = name == "cache" and place.variables.get("GOLDFOLD_CACHE") == ""
        if place.streams not in ("output full", "input closed") and not off:
            yield f"refused with code {code}: {err.strip()[:200]}"
        elif code == 7:
            yield f"called a fault of goldfold's: {err.strip()[:200]}"


def _left(here: Path, place: Place) -> Iterator[str]:
    """What lies where nothing should."""
    if (here / "ran").exists():
        yield "what the stranger's module writes: it ran"
    # A home that was named and missing is made, for the cache in it.
    ours = {
        "nowhere",
        "work",
        "out",
        "tmp",
        "home",
        "model",
        "artifact",
        "goldfold",
        "said",
        "complained",
    }
    yield from (path.name for path in here.iterdir() if path.name not in ours)
    known = {Path(name).parts[0] for name in MODULES}
    yield from (f"work/{p.name}" for p in (here / "work").iterdir() if p.name not in known)
    # torch makes a folder for what it compiles, and puts nothing into it here.
    yield from (f"tmp/{path.name}" for path in (here / "tmp").rglob("*") if path.is_file())
    for home in (here / "home", here / "nowhere"):
        for path in home.rglob("*"):
            key = path.relative_to(home).as_posix()
            if path.is_file() and not key.startswith(".cache/goldfold/"):
                yield f"{home.name}/{key}"
