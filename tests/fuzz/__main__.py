"""The long run: many drawn architectures, every failure printed as a script, none hidden.

python -m tests.fuzz --examples 300 [--seed 0] [--kinds bert,t5] \
    [--targets openvino,coreml]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as tests/conftest.py has it

from tests.fuzz import drawing, hunt


def main() -> int:
    """Draw, check and report. Exit code 1 if any architecture failed."""
    read = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    read.add_argument("--examples", type=int, default=300)
    read.add_argument("--seed", type=int, default=0)
    read.add_argument("--kinds", default=",".join(drawing.KINDS))
    read.add_argument("--targets", default="", help="built, run and compared as well")
    asked = read.parse_args()
    wanted = tuple(asked.kinds.split(","))
    if unknown := sorted(set(wanted) - set(drawing.KINDS)):
        read.error(f"no family is called {unknown[0]!r}; there are {', '.join(drawing.KINDS)}")
    targets = tuple(name for name in asked.targets.split(",") if name)
    started = time.perf_counter()
    kinds: Counter[str] = Counter()
    laws: Counter[str] = Counter()
    failures, worst = 0, 0.0
    for number, tried in enumerate(hunt.hunt(wanted, asked.examples, asked.seed, targets), start=1):
        kinds[tried.architecture.kind] += 1
        if tried.found is None:
            failures += 1
            print(f"\nFAILURE {failures}, architecture {number}: {tried.fault}\n")
            print(tried.script, flush=True)
            continue
        laws.update({name: bool(count) for name, count in tried.found.applied.items()})
        worst = max(worst, tried.found.worst)
        if number % 10 == 0:
            seconds = time.perf_counter() - started
            print(
                f"{number} drawn, {failures} failed, worst {worst:.1e}, {seconds:.0f} s", flush=True
            )
    print(f"kinds: {dict(sorted(kinds.items()))}")
    print(f"laws, by architectures they applied in: {dict(sorted(laws.items()))}")
    print(
        f"{kinds.total()} architectures drawn (seed {asked.seed}), {failures} failed, "
        f"worst 1−cos of the others {worst:.1e}, {time.perf_counter() - started:.0f} s"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
