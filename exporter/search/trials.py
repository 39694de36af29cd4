"""Trials: a recipe, tried on the tuning texts. Each result is a file of its own, named by what it
follows from, and written when it ends: a search that is killed goes on where it was.
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
from goldfold.exporter.search import testbed as grounds
from goldfold.exporter.search.dequantize import dense
from goldfold.exporter.search.testbed import Ground

_ONE = threading.Lock()
"""A program is rewritten by one thread at a time; ONNX Runtime uses the cores anyway."""


class Tried(Record, frozen=True, kw_only=True):
    """What a recipe gave."""

    key: str
    errors: tuple[Real, ...]
    """1−cos of every tuning text, against fp32."""
    seconds: float
    """What the trial took: rounding, opening, running."""

    @property
    def array(self) -> np.ndarray:
        return np.array(self.errors)


def key_of(ground_key: str, recipe: Recipe) -> str:
    """Follows from the ground and from what the recipe says, not from its name."""
    said = json.dumps(recipe.with_(name="", summary="").plain())
    return hashlib.sha256(f"{ground_key} {said}".encode()).hexdigest()[:24]


class Store:
    """Results in a folder beside the ground: `trials/KEY.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Tried | None:
        """A result, if it is there and whole."""
        try:
            return read_json(Tried, (self.folder / f"{key}.json").read_bytes())
        except (OSError, ValueError):
            return None

    def put(self, tried: Tried) -> None:
        write(self.folder / f"{tried.key}.json", tried.to_json())


def write(path: Path, text: str) -> None:
    """A whole file or none. Raises OutputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        Path(fresh).chmod(0o644)  # mkstemp's is for nobody else
        Path(fresh).replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from None


@lru_cache(maxsize=1)
def opened(folder: Path) -> Ground:
    """The ground, opened once a process."""
    return grounds.load(folder)


def one(folder: Path, recipe: Recipe, threads: int | None = None) -> Tried:
    """Try `recipe` on the ground in `folder`, and store what it gave. Runs in any process."""
    with _ONE:
        ground = opened(folder)
        store, key = Store(folder / "trials"), key_of(ground.key, recipe)
        held = store.get(key)  # another worker may have been quicker
        if held is not None:
            return held
        started = time.perf_counter()
        errors = ground.errors(dense(ground.quantized(recipe)), threads)
        tried = Tried(
            key=key,
            errors=tuple(map(float, errors)),
            seconds=round(time.perf_counter() - started, 3),
        )
        store.put(tried)
        return tried


class Runner:
    """Tries recipes, in so many processes, those that are known left out."""

    def __init__(self, folder: Path, jobs: int = 1) -> None:
        """`folder` is the ground's."""
        self.folder, self.jobs = folder, jobs
        self.ran = 0
        """Trials that were run, rather than read."""

    def __call__(
        self, recipes: Sequence[Recipe], progress: Callable[[int, int], None] = lambda *_: None
    ) -> list[Tried]:
        """What each gave, in order. `progress` is told (done, total) as they end."""
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
