"""A trial runs a recipe on the tuning texts. Each result is a file of its own, named by a digest of
its inputs and written when the trial ends, so a search that was killed resumes where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from goldfold.exporter.errors import OutputError
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.records import Real, Record, read_json
from goldfold.exporter.search import testbed as testbeds
from goldfold.exporter.search.dequantize import dense
from goldfold.exporter.search.testbed import Testbed

_ONE = threading.Lock()
"""One thread at a time rewrites a program; ONNX Runtime uses the cores anyway."""


class Tried(Record, frozen=True, kw_only=True):
    """The result of a recipe."""

    key: str
    errors: tuple[Real, ...]
    """1−cos of every tuning text, against fp32."""
    seconds: float
    """The time of the trial: rounding, opening, running."""

    @property
    def array(self) -> np.ndarray:
        return np.array(self.errors)


def key_of(testbed_key: str, recipe: Recipe) -> str:
    """The digest of the testbed and of the recipe's content, without its name."""
    said = json.dumps(recipe.with_(name="", summary="").plain())
    return hashlib.sha256(f"{testbed_key} {said}".encode()).hexdigest()[:24]


class Store:
    """Results in a folder of the testbed: `trials/KEY.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Tried | None:
        """A result, if its file exists and is whole."""
        try:
            return read_json(Tried, (self.folder / f"{key}.json").read_bytes())
        except (OSError, ValueError):
            return None

    def put(self, tried: Tried) -> None:
        write(self.folder / f"{tried.key}.json", tried.to_json())


def write(path: Path, text: str) -> None:
    """Write a whole file or none. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        Path(fresh).chmod(0o644)  # mkstemp's file is readable by its owner alone
        Path(fresh).replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


@lru_cache(maxsize=1)
def opened(folder: Path) -> Testbed:
    """The testbed, opened once per process."""
    return testbeds.load(folder)


def one(folder: Path, recipe: Recipe, threads: int | None = None) -> Tried:
    """Try `recipe` on the testbed in `folder`, and store the result. Runs in any process."""
    with _ONE:
        bed = opened(folder)
        store, key = Store(folder / "trials"), key_of(bed.key, recipe)
        held = store.get(key)  # another worker may have been quicker
        if held is not None:
            return held
        started = time.perf_counter()
        errors = bed.errors(dense(bed.quantized(recipe)), threads)
        tried = Tried(
            key=key,
            errors=tuple(map(float, errors)),
            seconds=round(time.perf_counter() - started, 3),
        )
        store.put(tried)
        return tried


class Runner:
    """Tries recipes in `jobs` processes; known results are read instead."""

    def __init__(self, folder: Path, jobs: int = 1) -> None:
        """`folder` is the testbed's."""
        self.folder, self.jobs = folder, jobs
        self.ran = 0
        """Trials that were run, rather than read."""

    def __call__(
        self, recipes: Sequence[Recipe], progress: Callable[[int, int], None] = lambda *_: None
    ) -> list[Tried]:
        """The result of each recipe, in order. `progress` is called with (done, total)."""
        store = Store(self.folder / "trials")
        keys = [key_of(self.folder.name, recipe) for recipe in recipes]
        found = {key: held for key in keys if (held := store.get(key)) is not None}
        todo = {
            key: recipe
            for key, recipe in zip(keys, recipes, strict=True)
            if key not in found
        }  # fmt: skip
        total = len(todo) + len(found)
        progress(len(found), total)
        for tried in self._run(list(todo.values())):
            found[tried.key] = tried
            self.ran += 1
            progress(len(found), total)
        return [found[key] for key in keys]

    def _run(self, recipes: Sequence[Recipe]) -> Iterator[Tried]:
        if self.jobs == 1 or len(recipes) < 2:
            for recipe in recipes:
                yield one(self.folder, recipe)
            return
        from joblib import Parallel, delayed

        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        parallel = Parallel(n_jobs=self.jobs, return_as="generator_unordered")
        tasks = (delayed(one)(self.folder, recipe, threads) for recipe in recipes)
        yield from parallel(tasks)  # type: ignore[misc]
