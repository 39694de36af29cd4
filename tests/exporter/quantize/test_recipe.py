"""Recipes: what a file may say, which matrices a rule covers, and what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx_ir as ir
import pytest

from goldfold.exporter import records, registry
from goldfold.exporter.driver import request
from goldfold.exporter.errors import TargetError, UsageError
from goldfold.exporter.quantize import recipe
from goldfold.exporter.quantize.recipe import Recipe, made
from goldfold.exporter.quantize.sites import Site
from goldfold.golden.gate import GATES


def _recipe(**given) -> Recipe:
    return made("mine", given)


def test_every_shipped_recipe_is_read_and_has_a_gate() -> None:
    found = recipe.shipped()
    assert "int8-weights" in found
    for name, one in found.items():
        assert one.name == name and one.summary and one.gate in GATES and one.needs


@pytest.mark.parametrize(
    ("given", "gate"),
    [
        ({"weights": {"bits": 8}}, "int8-weights"),
        ({"weights": {"bits": 8, "activations": "static"}}, "int8"),
        ({"weights": {"bits": 8}, "dynamic": 128}, "int8"),
        ({"weights": {"bits": 8}, "rule": [{"kinds": ["gate"], "activations": "static"}]}, "int8"),
        ({"weights": {"bits": 4, "block": 32}}, "int4"),
        ({"weights": {"bits": 8}, "rule": [{"first": 2, "bits": 4}]}, "int4"),
        ({"weights": {"bits": 8}, "table": {"bits": 4, "block": 32}}, "small"),
        ({"weights": {"bits": 8}, "table": {"bits": 6}}, "int8"),
        ({"weights": {"bits": 8}, "table": {"bits": 5}}, "int4"),
        ({"weights": {"bits": 8}, "rule": [{"layers": "embed*", "bits": 6}]}, "int8"),
        ({"weights": {"bits": 4}, "table": {"bits": 6}}, "int4"),
    ],
)
def test_the_coarsest_thing_in_it_sets_the_gate(given: dict, gate: str) -> None:
    assert _recipe(**given).gate == gate


@pytest.mark.parametrize(
    ("first", "covered"), [(2, 2), (0.25, 3), (0.3, 4), (1, 1), (0.01, 1), (1.0, 12)]
)
def test_the_first_layers_are_counted_or_a_share(first: float, covered: int) -> None:
    rule = _recipe(rule=[{"first": first, "bits": 0}]).rules[0]
    sites = [Site("down", ir.node("MatMul", []), None, depth, layers=12) for depth in range(12)]
    assert [rule.covers(site) for site in sites] == [at < covered for at in range(12)]
    assert not rule.covers(Site("table", ir.node("Gather", []), None, layers=12))


@pytest.mark.parametrize(("last", "covered"), [(2, 2), (0.25, 3), (0.3, 3), (1, 1), (1.0, 12)])
def test_so_are_the_last(last: float, covered: int) -> None:
    rule = _recipe(rule=[{"last": last, "bits": 0}]).rules[0]
    sites = [Site("down", ir.node("MatMul", []), None, depth, layers=12) for depth in range(12)]
    assert [rule.covers(site) for site in sites] == [at >= 12 - covered for at in range(12)]
    assert not rule.covers(Site("table", ir.node("Gather", []), None, layers=12))


@pytest.mark.parametrize(("written", "covered"), [("1", 1), ("1.0", 12), ("0.5", 6)])
@pytest.mark.parametrize("field", ["first", "last"])
def test_a_share_stays_a_share_in_a_file_and_in_a_manifest(
    tmp_path: Path, field: str, written: str, covered: int
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"[[rule]]\n{field} = {written}\nbits = 8\n")
    found = recipe.read(file)
    sites = [Site("down", ir.node("MatMul", []), None, depth, layers=12) for depth in range(12)]
    for one in (found, records.read_json(Recipe, found.to_json())):
        assert sum(one.rules[0].covers(site) for site in sites) == covered


@pytest.mark.parametrize(
    ("dynamic", "row", "group"),
    [(0, 768, 0), (128, 384, 128), (0.17, 768, 128), (0.17, 384, 64), (0.17, 1024, 160),
     (0.17, 32, 16)],
)  # fmt: skip
def test_groups_are_counted_or_a_share_of_the_shortest_row(
    dynamic: float, row: int, group: int
) -> None:
    assert _recipe(dynamic=dynamic).group(row) == group


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("weights = 3", "weights"),
        ("[weights]\nbits = 3", "weights.bits"),
        ("[weights]\nbitz = 8", "weights.bitz"),
        ("[[rule]]\nkinds = ['banana']", "no kind is called 'banana'"),
        ("[table]\nbits = 8\nactivations = 'static'", "no activations"),
        ("alpha = 2", "alpha"),
        ("dynamic = 100", "a multiple of 16, or a share below 1"),
        ("[[rule]]\nfirst = 1.5\nbits = 8", "a share is at most 1.0"),
        ("[[rule]]\nfirst = 2.0\nbits = 8", "a number of layers has no point: 2"),
        ("[[rule]]\nfirst = 0\nbits = 8", "first"),
        ("[[rule]]\nfirst = inf\nbits = 8", "finite"),
        ("[[rule]]\nlast = 2.5\nbits = 8", "a share is at most 1.0"),
        ("[weights]\nbits = 8\nparts = 3", "parts"),
        ("[weights]\nbits = 8\nkept = -1", "kept"),
        ("dynamic = inf", "finite"),
        ("weights = {bits", "not TOML"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        recipe.find(str(file))
    assert says in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_a_missing_file_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        request.recipes([str(tmp_path / "none.toml")])
    with pytest.raises(UsageError, match="unknown precision 'int9'; known: fp32"):
        request.recipes(["int9"])


def test_a_file_may_not_take_the_name_of_another_precision(tmp_path: Path) -> None:
    file = tmp_path / "fp16.toml"
    file.write_text("[weights]\nbits = 8")
    with pytest.raises(UsageError, match="rename"):
        request.recipes([str(file)])


def test_bits_that_a_target_lacks_are_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(type(registry.target("coreml")), "quantizes", frozenset({"int8"}))
    four = _recipe(weights={"bits": 4, "block": 32})
    with pytest.raises(TargetError, match="it has no int4"):
        request.pairs(["coreml"], {"mine": four})


@pytest.mark.parametrize(("old", "new"), recipe.OLD_WORDS.items())
def test_words_of_before_are_read_with_a_warning(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'[weights]\nbits = 4\nrounding = "{old}"\n[[rule]]\nrounding = "{old}"\n')
    with pytest.warns(recipe.OldWord, match=f'rounding "{old}" is called "{new}" now'):
        found = recipe.read(file)
    assert found.weights.rounding == found.rules[0].rounding == new
    file.write_text(f'[weights]\nbits = 4\nrounding = "{new}"\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe.read(file)
