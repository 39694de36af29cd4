"""One export in a process of its own, at another time: `python reproduce.py MODEL OUT SHIFT
PRECISION TARGET…`."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

TEXTS = ("card-query", "russian", "emoji-single", "empty", "one-letter", "prompt-query")


def main(model: str, out: str, shift: str, precision: str, *targets: str) -> None:
    """Export with the clock `shift` seconds ahead."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + int(shift)
    time.time_ns = lambda: now_ns() + int(shift) * 10**9

    from goldfold import export
    from goldfold.golden import make as golden_make

    golden_make.make = partial(golden_make.make, only=TEXTS)
    results = export(Path(model), targets, [precision], Path(out))
    assert all(result.passed for result in results), [r.verdict.sentences for r in results]


if __name__ == "__main__":
    main(*sys.argv[1:])
