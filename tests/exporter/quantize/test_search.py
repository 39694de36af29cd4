"""A whole search on a tiny model: what it finds holds, is a recipe, and is found again for nothing;
one that is killed goes on; a cluster gives the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from goldfold.exporter import records, registry
from goldfold.exporter.cli import app, console
from goldfold.exporter.errors import UsageError
from goldfold.exporter.ir.program import Program
from goldfold.exporter.quantize import plan, sites
from goldfold.exporter.quantize import recipe as recipes
from goldfold.exporter.quantize.recipe import Choice
from goldfold.exporter.search import budget, groups, outcome, testbed, trials
from goldfold.exporter.search import search as searching
from goldfold.exporter.search.search import Found, Wanted, search
from tests.exporter.quantize.few import few

TAKES = frozenset({"int8", "int4", "static"})
BOUNDS = budget.parse(["worst_cos>=0.99", "mean_cos>=0.999"])
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def _few() -> Iterator[None]:
    """Few texts."""
    with pytest.MonkeyPatch.context() as patch:
        few(patch)
        yield


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search") / "state"


@pytest.fixture(scope="module")
def found(tiny: Path, state: Path) -> Found:
    return search(Wanted(str(tiny), BOUNDS, "size", "mine"), state)


def test_what_is_found_holds_and_saves(found: Found, tmp_path: Path) -> None:
    best = found.best
    assert best is not None
    assert BOUNDS.holds(best.tried.array)
    assert best.bytes < 0.4 * found.floating_bytes
    assert best.bytes == min(step.bytes for step in found.steps if step.strain <= 1)
    assert best.timed is not None
    assert found.floating is not None
    assert best.timed.bytes < found.floating.bytes
    assert found.ran == len(found.probes) + len(found.steps)


def test_what_is_written_is_what_was_found(found: Found, tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    recipe, picture, record = outcome.write(found, out)
    assert found.best is not None
    assert recipes.read(recipe) == found.best.recipe
    drawn = ElementTree.fromstring(picture.read_text("utf-8"))
    circles = [e for e in drawn.iter() if e.tag.endswith("circle")]
    assert sum("chosen" in e.attrib["class"] for e in circles) == 4  # a dot and a key, twice
    said = json.loads(record.read_text("utf-8"))
    assert len(said["sensitivity"]) == len(found.probes)
    assert [step["chosen"] for step in said["joint"]].count(True) == 1
    shown = console.open_console()
    with shown.capture() as capture:
        shown.print(outcome.sensitivity(found))
        shown.print(outcome.path(found))
    assert "chosen" in capture.get()


def test_the_front_goes_beyond_the_budget_on_both_sides(found: Found) -> None:
    by_share = {step.share: step for step in found.steps}
    assert {0.25, 4.0} < by_share.keys()
    assert by_share[0.25].bytes > by_share[1.0].bytes > by_share[4.0].bytes
    assert by_share[0.25].strain < by_share[1.0].strain < by_share[4.0].strain


def test_a_testbed_is_read_as_it_was_measured(found: Found, state: Path) -> None:
    """The mean of squares of x² / r² over a row is at least 1, the square of its mean."""
    for folder in (file.parent for file in state.rglob("testbed.json")):
        for one in testbed.load(folder).known.values():
            assert one.tokens > 0 and one.strength.shape == one.standing.shape == one.peak.shape
            assert (one.peak**2 >= 0.999 * one.strength).all()
            assert one.standing.sum() >= 0.999 * one.tokens * one.standing.size


def test_a_second_search_runs_nothing(found: Found, tiny: Path, state: Path) -> None:
    again = search(Wanted(str(tiny), BOUNDS, "size", "other"), state)
    assert again.ran == 0
    assert again.best is not None
    assert found.best is not None
    assert again.best.tried == found.best.tried
    assert again.best.recipe.name == "other"


def test_estimate_is_near_what_is_measured(found: Found) -> None:
    """Errors of groups that have nothing to do with each other add up in 1−cos. Chance alone makes
    the sum of 17 of them err by a quarter; half to double is what the repair is counted on for."""
    for step in found.steps:
        assert 0.5 < step.tried.array.mean() / step.estimate.mean() < 2


def test_nothing_is_offered_where_nothing_holds(tiny: Path, state: Path, found: Found) -> None:
    none = search(Wanted(str(tiny), budget.Budget(worst=1e-11), "size", "mine"), state)
    assert none.best is None
    assert "no recipe found holds worst_cos >= 0.99999999999; the nearest" in none.failure()
    least = min(p.tried.array.max() for p in none.probes)
    assert f"worst_cos {1 - least:.8f}"[:-1] in none.failure()


def test_a_budget_that_the_estimate_misses_is_repaired(
    tiny: Path, state: Path, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With measurements made four times worse than the estimate, it ends at less, not at none."""
    real = trials.Runner.__call__

    def worse(self, asked, progress=lambda *_: None):
        several = len(asked) > 1  # the joint trials come one by one
        tried = real(self, asked, progress)
        if several:
            return tried
        return [t.with_(errors=tuple(4 * e for e in t.errors)) for t in tried]

    monkeypatch.setattr(trials.Runner, "__call__", worse)
    monkeypatch.setattr(searching, "Stopwatch", lambda *args: None)
    repaired = search(Wanted(str(tiny), BOUNDS, "size", "mine"), state)
    assert repaired.steps[0].strain > 1
    assert repaired.best is not None
    assert repaired.best.strain <= 1
    assert found.best is not None
    assert found.best.bytes < repaired.best.bytes < repaired.floating_bytes


def test_what_one_group_alone_holds_is_not_given_up(
    tiny: Path, state: Path, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every choice for all misses, the best single group is still an answer."""
    monkeypatch.setattr(searching.Calls, "choose", lambda self, share=1.0: None)
    alone = search(Wanted(str(tiny), BOUNDS, "size", "mine"), state)
    assert alone.best is not None
    assert sum(choice.bits > 0 for choice in alone.best.chosen) == 1
    assert alone.ran == 0


@pytest.mark.parametrize("objective", ["size", "speed"])
def test_recipe_gives_every_site_its_groups_choice(
    legal_gemma: Program, objective: groups.Objective, tmp_path: Path
) -> None:
    every = sites.find(legal_gemma)
    parts = groups.find(every, objective, TAKES)
    assert sorted(id(site) for part in parts for site in part.sites) == sorted(map(id, every))
    drawn = np.random.default_rng(3)
    for _ in range(50):
        chosen = [part.options[drawn.integers(len(part.options))] for part in parts]
        made = groups.recipe("mine", parts, chosen, objective, False, 'says "so"')
        for part, choice in zip(parts, chosen, strict=True):
            assert {made.choice(site) for site in part.sites} == {choice}
        plan.check(made, legal_gemma)
        file = tmp_path / "mine.toml"
        file.write_text(outcome.to_toml(made, ["a line"]), "utf-8")
        assert recipes.read(file) == made


def test_options_are_what_the_target_takes(legal_gemma: Program) -> None:
    every = sites.find(legal_gemma)
    for part in groups.find(every, "speed", frozenset({"int8"})):
        assert {choice.bits for choice in part.options} == {0, 8}
        assert all(choice.activations == "none" for choice in part.options)
    (table,) = (p for p in groups.find(every, "size", frozenset({"int8"})) if p.kinds == ("table",))
    assert [choice.bits for choice in table.options] == [0, 8, 6, 5]
    (site,) = table.sites
    sizes = [table.bytes(choice) / site.matrix.size for choice in table.options]
    assert sizes[0] == 4 and sorted(sizes, reverse=True) == sizes
    static = Choice(bits=8, activations="static")
    offered = {p.kinds: static in p.options for p in groups.find(every, "speed", TAKES)}
    assert not offered["table",]
    assert not offered["head",]
    assert offered["query", "key", "value"]


def test_speed_chooses_by_what_was_measured(tiny: Path, tmp_path: Path, state: Path) -> None:
    fast = search(Wanted(str(tiny), BOUNDS, "speed", "fast"), state)
    assert fast.floating is not None
    assert all(step.timed is not None for step in fast.steps)
    if fast.best is None:  # so small a model need not gain anything
        assert "is faster than floating point on openvino" in fast.failure()
    else:
        assert fast.best.timed is not None
        assert fast.best.timed.total < fast.floating.total


# --- killed, spread, refused


def test_a_killed_search_goes_on(tiny: Path, tmp_path: Path) -> None:
    out, kept = tmp_path / "mine.toml", tmp_path / "mine.search"
    command = [
        sys.executable,
        "-m",
        "tests.exporter.quantize.few",
        "quantize",
        str(tiny),
        "--out",
        str(out),
    ]
    command += ["--budget", "worst_cos>=0.99", "--budget", "mean_cos>=0.999", "--quiet"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    until = time.monotonic() + 120
    while len(list(kept.glob("*/trials/*.json"))) < 5:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = (path for path in kept.glob("*") if (path / "trials").is_dir())
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*.json")}
    found = search(Wanted(str(tiny), BOUNDS, "size", "mine"), kept)
    total = len(found.probes) + len(found.steps)
    assert 5 <= len(before) < total
    assert found.ran == total - len(before)
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())


def test_a_result_that_was_half_written_is_run_again(found: Found, state: Path) -> None:
    (folder,) = (p.parent for p in state.glob("*/trials") if (p / f"{_key(found)}.json").exists())
    file = folder / "trials" / f"{_key(found)}.json"
    whole = file.read_text("utf-8")
    file.write_text(whole[: len(whole) // 2], "utf-8")
    runner = trials.Runner(folder)
    assert found.best is not None
    (tried,) = runner([found.best.recipe])
    assert runner.ran == 1
    assert tried.errors == found.best.tried.errors


def _key(found: Found) -> str:
    assert found.best is not None
    return found.best.tried.key


def _some(found: Found) -> list[recipes.Recipe]:
    """Recipes that no search asked for."""
    only = {"alpha": 0.0, "gains": "keep", "name": "x"}
    return [
        records.read(recipes.Recipe, {**only, "weights": {"bits": 8, "block": block}})
        for block in (2, 4)
    ]


def test_processes_give_the_same(found: Found, state: Path) -> None:
    folder = next(p.parent for p in state.glob("*/trials") if (p / f"{_key(found)}.json").exists())
    asked = _some(found)
    spread = trials.Runner(folder, jobs=2)
    first = spread(asked)
    assert spread.ran == 2
    for tried in first:
        (folder / "trials" / f"{tried.key}.json").unlink()
    second = trials.Runner(folder)(asked)
    for one, other in zip(first, second, strict=True):  # threads add f32 up in another order
        assert np.abs(one.array - other.array).max() < 1e-8


# --- the command


def _run(*args: object) -> int:
    return app.guarded(partial(app.app, args=["quantize", *map(str, args)]), False)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "give at least one --budget"),
        (["--budget", "worst_cos>0.9"], 2, "lower bound"),
        (["--budget", "worst_cos>=0.9", "--objective", "beauty"], 2, "there are size and speed"),
        (["--budget", "worst_cos>=0.9", "--out", "mine.txt"], 2, "ends in .toml"),
        (["--budget", "worst_cos>=0.9", "--out", "int8.toml"], 2, "the name of a precision"),
        (["--budget", "worst_cos>=0.9", "--out", "no/mine.toml"], 5, "there is no folder no"),
        (["--budget", "worst_cos>=0.9", "--target", "nope"], 4, "unknown target"),
    ],
)
def test_refusals_are_one_line_and_come_before_any_work(
    args: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert _run("nowhere", *args) == code
    told = capsys.readouterr()
    assert says in told.err
    assert len(told.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_command_fails_with_the_nearest(
    tiny: Path, state: Path, found: Found, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.toml"
    args = ("--budget", "worst_cos>=0.99999999999", "--out", out, "--state", state, "--quiet")
    assert _run(tiny, *args) == 1
    assert "no recipe found holds" in capsys.readouterr().err
    assert not out.exists()


def test_command_writes_and_prints(
    tiny: Path, state: Path, found: Found, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.toml"
    bounds = ("--budget", "worst_cos>=0.99", "--budget", "mean_cos>=0.999")
    assert _run(tiny, *bounds, "--out", out, "--state", state) == 0
    told = capsys.readouterr()
    assert str(out) in told.out
    assert "chosen" in told.err
    assert {p.name for p in tmp_path.iterdir()} == {"mine.toml", "mine.svg", "mine.trials.json"}


def test_no_target_without_integers(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(registry.target("coreml")), "quantizes", frozenset())
    with pytest.raises(UsageError, match="takes no integers"):
        search(Wanted(str(tiny), BOUNDS, "size", "mine", target="coreml"), tmp_path)
