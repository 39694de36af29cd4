"""The examples of docs/, run: a pass, a target and a recipe, as a reader would copy them."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold import export
from goldfold.exporter import registry
from goldfold.exporter.errors import TargetError
from goldfold.exporter.passes import docstring
from goldfold.exporter.passes.base import Pass
from goldfold.exporter.quantize import recipe
from goldfold.golden import make as golden_make
from tests.docs.blocks import ROOT, blocks
from tests.exporter.passes import drawing, harness

DOCS = ROOT / "docs"


def module_of(page: str, name: str) -> types.ModuleType:
    """The page's first Python block as a module."""
    block = next(b for b in blocks(DOCS / page) if b.language == "python")
    module = types.ModuleType(name)
    sys.modules[name] = module  # dataclasses look their module up
    exec(compile(block.text, str(block), "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def negation() -> Pass:
    return module_of("writing-a-pass.md", "drop_double_negation").DropDoubleNegation()


def test_the_law_s_before_becomes_its_after(negation: Pass) -> None:
    read = docstring.read(negation)
    assert negation.name == "drop-double-negation" and read.holds and read.needs
    for example in read.examples:
        harness.assert_structure(negation, example.before, example.after)


def test_the_law_means_the_same(negation: Pass) -> None:
    before = docstring.read(negation).examples[0].before

    @given(data=st.data())
    @settings(max_examples=20, deadline=None)
    def holds(data: st.DataObject) -> None:
        weights, feeds = data.draw(drawing.draws(before))
        harness.assert_holds(negation, before, weights, feeds)

    holds()


def test_the_law_refuses_what_it_says(negation: Pass) -> None:
    (left,) = docstring.read(negation).refusals
    harness.assert_said(harness.assert_left_alone(negation, left.graph), left.reason)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The page's target, registered; few goldens, for it is slow."""
    module = module_of("adding-a-target.md", "slow_target")
    found = registry.target
    monkeypatch.setattr(
        registry, "target", lambda name: module.TARGET if name == "slow" else found(name)
    )
    monkeypatch.setattr(registry, "names", lambda: ["slow"])
    few = partial(golden_make.make, only=("card-query", "german-query", "empty", "length-16"))
    monkeypatch.setattr(golden_make, "make", few)
    return module


@pytest.mark.parametrize("by_name", [True, False])
def test_the_target_is_one(
    tiny: Path, tmp_path: Path, slow: types.ModuleType, by_name: bool
) -> None:
    build = {"longest": 24} if by_name else slow.SlowOptions(longest=24)
    (result,) = export(tiny, ["slow"], out=tmp_path / "out", build=build)
    manifest = result.bundle.manifest
    assert result.passed and manifest.target == "slow" and manifest.options == {"longest": 24}
    assert manifest.contract.max_length == 24
    assert manifest.built == ("for texts of at most 24 tokens",)


def test_the_target_s_option_is_settled(slow: types.ModuleType) -> None:
    assert slow.TARGET.settle("fp32", slow.SlowOptions(), 64).longest == 64
    with pytest.raises(TargetError, match=r"--longest is 65; the model takes 1 … 64"):
        slow.TARGET.settle("fp32", slow.SlowOptions(longest=65), 64)


def test_a_registered_target_s_option_is_a_flag(tmp_path: Path) -> None:
    """As after `pip install` of a package with the page's module and entry point."""
    page = blocks(DOCS / "adding-a-target.md")
    source = next(block for block in page if block.language == "python")
    (entry,) = (block for block in page if block.language == "toml")
    (tmp_path / "my_package.py").write_text(source.text, "utf-8")
    info = tmp_path / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1\n")
    lines = entry.text.replace("project.entry-points.", "").replace('"', "")
    (info / "entry_points.txt").write_text(lines)
    command = [sys.executable, "-m", "goldfold", "export", "--help"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    (flag,) = (line for line in done.stdout.splitlines() if "--longest" in line)
    assert "slow: the most tokens that a text may have." in flag


def test_the_recipe_is_one(tmp_path: Path) -> None:
    (block,) = (b for b in blocks(DOCS / "recipes.md") if b.language == "toml")
    file = tmp_path / "mine.toml"
    file.write_text(block.text, "utf-8")
    read = recipe.read(file)
    assert read.weights.bits == 8 and len(read.rules) == 2 and read.gate == "int8-weights"
