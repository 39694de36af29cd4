"""Calls of an encoder that threads make at once, and what each must come to."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

import numpy as np

from goldfold.exporter.artifact.encoder import Encoder
from tests import models

LIMIT = 120.0
"""Seconds after which threads are said to hang; all of them together need a few."""

Call = Callable[[], np.ndarray]


def together(calls: Sequence[Call], threads: int) -> list[np.ndarray]:
    """The results of `calls`, made by `threads` threads that all start at once. Fails where one
    raises, or where they do not come to an end."""
    found: list[np.ndarray | None] = [None] * len(calls)
    errors: list[BaseException] = []
    places = iter(range(len(calls)))  # `next` of it is one step of C: no two threads get one place
    start = threading.Barrier(threads)

    def work() -> None:
        try:
            start.wait(LIMIT)
            for place in places:
                found[place] = calls[place]()
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LIMIT)
        assert not worker.is_alive(), "a thread waits for ever"
    if errors:
        raise errors[0]
    assert all(rows is not None for rows in found)
    return [rows for rows in found if rows is not None]


SIZES = (0, 1, 3, 7, 15, 30, 60)
"""Words of a text; few sizes, for OpenVINO makes kernels for each number of tokens that is new."""


def mixed(encoder: Encoder, count: int, longest: int = 60) -> list[Call]:
    """`count` calls of `embed` that differ in text, length (up to some `longest` words), number of
    texts, prompt and size, so that a result in the wrong place is a wrong result."""
    rng = np.random.default_rng(5)
    words = " ".join(models.CORPUS).split()
    prompts, sizes = itertools.cycle((None, "query", "document", "")), itertools.cycle((None, 16))

    def one(place: int) -> Call:
        texts = [
            f"{place} {' '.join(rng.choice(words, size))}"
            for size in rng.choice([n for n in SIZES if n <= longest], 3 if place % 11 == 0 else 1)
        ]
        prompt, dims = next(prompts), next(sizes)
        return lambda: encoder.embed(texts, prompt=prompt, dims=dims)

    return [one(place) for place in range(count)]
