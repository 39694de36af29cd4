"""The short run that every commit passes, and the proof that the long one would tell.

The long run: `python -m tests.fuzz --examples 300` (CONTRIBUTING.md).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hypothesis")

from tests.fuzz import hunt
from tests.fuzz.architecture import Architecture, script
from tests.fuzz.drawing import GROUPS, KINDS
from tests.fuzz.planted import planted

ROOT = Path(__file__).parents[2]
EXAMPLES = 2
"""Of each group."""


@pytest.mark.parametrize("group", GROUPS)
def test_drawn_architectures_keep_their_embeddings(group: str) -> None:
    tried = list(hunt.hunt(GROUPS[group], EXAMPLES, number=4))
    assert len(tried) == EXAMPLES
    for one in tried:
        if one.found is None:
            pytest.fail(f"{one.fault}\n\n{one.script}", pytrace=False)


def test_the_same_seed_draws_the_same() -> None:
    assert hunt.drawn(KINDS, 20, 3) == hunt.drawn(KINDS, 20, 3)
    assert hunt.drawn(KINDS, 20, 3) != hunt.drawn(KINDS, 20, 4)


def test_every_family_is_drawn_and_what_is_drawn_can_be_asked() -> None:
    drawn = hunt.drawn(KINDS, 200, 0)
    assert {one.kind for one in drawn} == set(KINDS)
    for one in drawn:
        assert 1 <= min(one.lengths) <= max(one.lengths) + one.padding
        assert max(one.lengths) + one.padding <= (one.max_length or one.longest) <= one.longest


def test_a_script_says_all_that_was_drawn() -> None:
    for one in hunt.drawn(KINDS, 100, 1):
        assert len(script(one).splitlines()) <= 10
        assert eval(str(one), {"Architecture": Architecture}) == one


def run(text: str) -> subprocess.CompletedProcess:
    """A script as one would run it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-"],
        input=text,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_a_planted_fault_is_found_and_its_script_runs() -> None:
    # A text of one token attends to itself, whatever the scale.
    drawn = next(one for one in hunt.drawn(("bert",), 20, 0) if min(one.lengths) > 3)
    with planted():
        tried = hunt.attempt(drawn)
    assert tried.found is None
    assert tried.fault.startswith("Wrong: after the common laws, ")
    text = tried.script
    sick = run(
        f"from tests.fuzz.planted import planted\nheld = planted()\nheld.__enter__()\n{text}"
    )
    assert sick.returncode == 1
    assert tried.fault in sick.stderr
    healed = run(text)
    assert healed.returncode == 0, healed.stderr
    assert healed.stdout.startswith("Found(worst=")
