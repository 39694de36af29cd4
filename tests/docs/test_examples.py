"""The examples of docs/, run: a pass, a target and a recipe, as a reader would copy them."""

from __future__ import annotations

import sys
import types
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold import export
from goldfold.exporter import registry
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


def test_the_target_is_one(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = module_of("adding-a-target.md", "slow_target").TARGET
    found = registry.target
    monkeypatch.setattr(registry, "target", lambda name: ours if name == "slow" else found(name))
    monkeypatch.setattr(registry, "names", lambda: ["slow"])
    few = partial(golden_make.make, only=("card-query", "german-query", "empty", "length-16"))
    monkeypatch.setattr(golden_make, "make", few)
    (result,) = export(tiny, ["slow"], out=tmp_path / "out")
    assert result.passed and result.bundle.manifest.target == "slow"


def test_the_recipe_is_one(tmp_path: Path) -> None:
    (block,) = (b for b in blocks(DOCS / "recipes.md") if b.language == "toml")
    file = tmp_path / "mine.toml"
    file.write_text(block.text, "utf-8")
    read = recipe.read(file)
    assert read.weights.bits == 8 and len(read.rules) == 2 and read.gate == "int8-weights"
