"""Rounding one matrix after the other: what it reads on the way is what runs, and it pays."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from goldfold.exporter.errors import RewriteError, UsageError
from goldfold.exporter.ir.program import Program, constant
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.quantize_weights import QuantizeWeights
from goldfold.exporter.passes.rewriting.grid import Grid, nearest
from goldfold.exporter.quantize import plan, sites, statistics
from goldfold.exporter.quantize import texts as text_sets
from goldfold.exporter.quantize.gptaq import corrected
from goldfold.exporter.quantize.recipe import Recipe, made
from goldfold.exporter.quantize.staged_run import Walk
from goldfold.exporter.search import tuning
from goldfold.exporter.search.testbed import embed

SEQUENCES = [[2, 5, 9, 1], [2, 40, 41, 42, 43, 44, 1], [2, 7, 1]]
SEQUENCES += [[2, *range(at, at + 5), 1] for at in range(50, 115, 5)]


def _recipe(rounding: str, **given) -> Recipe:
    return made("mine", {
        "weights": {"bits": 4, "block": 16, "rounding": rounding},
        "table": {"bits": 8},
        "rule": [{"kinds": ["head"], "bits": 0}],
        **given,
    })  # fmt: skip


def _quantized(program: Program, recipe: Recipe, texts: list[list[int]]) -> Program:
    copy = program.copy()
    pipeline.run(copy, plan.passes(recipe, copy, texts))
    return copy


def _maps(program: Program) -> dict[str, sites.Site]:
    return {s.stored.name or "": s for s in sites.find(program) if s.kind not in ("table", "head")}


def test_exact_values_on_the_way_are_those_of_the_program(program: Program) -> None:
    maps = _maps(program)
    values = list(dict.fromkeys(site.x for site in maps.values() if site.x is not None))
    given = {name: _constant(site) for name, site in maps.items()}
    seen = statistics.record(program, values, SEQUENCES)
    walk, stops = Walk(program, SEQUENCES, given, dict(given)), []
    for value, held in walk.stops(values):
        stops.append(value.name)
        exact, rounded = (
            np.concatenate(rows)
            for rows in zip(*(b.rows(value.name or "") for b in held), strict=True)
        )
        one = seen[value.name or ""]
        assert len(exact) == one.tokens == sum(map(len, SEQUENCES))  # no padding among them
        # The same f32 products, summed over other batches.
        assert np.allclose(exact.T @ exact, one.moments, rtol=1e-4, atol=1e-4)
        assert np.array_equal(exact, rounded)  # the same weights on both sides
        shares = np.concatenate([batch.shares(int(batch.real.sum())) for batch in held])
        assert shares.sum() == pytest.approx(len(SEQUENCES))
    assert len(stops) == len(values)


def test_rounded_values_on_the_way_are_those_of_the_quantized_program(program: Program) -> None:
    maps = _maps(program)
    found = {name: nearest(site.matrix, Grid(4, 16)) for name, site in maps.items()}
    given = {name: _constant(site) for name, site in maps.items()}
    rounded = {name: _as(site, found[name].dense()) for name, site in maps.items()}
    other = program.copy()
    for name, array in rounded.items():
        other.graph.initializers[name].const_value = ir.tensor(array, name=name)
    last = [site.x for site in maps.values() if site.x is not None][-1]
    seen = statistics.record(other, [_named(other, last.name or "")], SEQUENCES)
    walk = Walk(program, SEQUENCES, given, rounded)
    ((_, held),) = walk.stops([last])
    rows = np.concatenate([batch.rows(last.name or "")[1] for batch in held])
    assert np.allclose(rows.T @ rows, seen[last.name or ""].moments, rtol=1e-4, atol=1e-4)


def test_a_chain_errs_less_than_matrices_rounded_each_by_itself(program: Program) -> None:
    texts = text_sets.corpus(program)[::12]
    judged = [ids for ids in tuning.sequences(program) if len(ids) < 60]
    exact = embed(program, judged)

    def mean(rounding: str) -> float:
        made = _quantized(program, _recipe(rounding), texts)
        return float((1 - (exact * embed(made, judged)).sum(axis=1)).mean())

    alone, chained = mean("gptq"), mean("gptaq")
    # On all the texts it is half; a twelfth of them leaves noise in the weights that are shifted.
    assert 1e-4 < chained < 0.75 * alone


def test_a_chain_goes_on_from_what_is_rounded_otherwise(program: Program) -> None:
    rules = [
        {"kinds": ["head"], "bits": 0},
        {"kinds": ["value"], "bits": 8, "block": 0, "rounding": "nearest"},
        {"kinds": ["down"], "bits": 0},
    ]
    made = _quantized(program, _recipe("gptaq", rule=rules), SEQUENCES)
    kinds = [str(v.dtype) for v in made.graph.initializers.values()]
    layers = sum(node.op_type == "BandAttention" for node in program.graph)
    assert kinds.count("INT4") == 5 * layers  # q, k, output, gate, up
    assert kinds.count("INT8") == layers + 1  # v, and the table


def test_a_chain_reads_the_very_integers_of_the_others(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [
        {"rounding": "gptaq"},  # fits the table, too, which is rounded to the nearest
        {"kinds": ["value"], "rounding": "gptq"},
        {"kinds": ["down"], "rounding": "nearest"},
        {"kinds": ["head"], "bits": 0},
    ]
    seen = {}

    def watched(program, links, known, sequences, progress):
        seen.update(known)
        return real(program, links, known, sequences, progress)

    real = plan.chained
    monkeypatch.setattr(plan, "chained", watched)
    recipe = _recipe("nearest", rule=rules)
    (law,) = plan.passes(recipe, program.copy(), SEQUENCES)
    assert isinstance(law, QuantizeWeights) and law.plan is not None
    assert sorted({site.kind for site, _ in seen.values()}) == ["down", "table", "value"]
    for name, (_, quantized) in seen.items():
        assert np.array_equal(quantized.numbers, law.plan[name].numbers)
        assert np.array_equal(quantized.scale, law.plan[name].scale)


def test_what_cannot_be_chained_is_refused(program: Program) -> None:
    with pytest.raises(ValueError, match="a table is rounded first"):
        _recipe("nearest", table={"bits": 8, "rounding": "gptaq"})
    with pytest.raises(UsageError, match="needs calibration texts, and there are none"):
        plan.passes(_recipe("gptaq"), program, [])
    with pytest.raises(UsageError, match="needs calibration texts, and there are none"):
        plan.passes(_recipe("gptaq"), program, [], known={})


def test_a_text_that_makes_nan_is_refused(spoiled: Program) -> None:
    with pytest.raises(RewriteError, match=r"calibration text makes .* infinite or NaN"):
        plan.passes(_recipe("gptaq"), spoiled, SEQUENCES)


def test_only_chained_recipes_read_the_many_texts(program: Program) -> None:
    few, many = (text_sets.steering(_recipe(r), program) for r in ("gptq", "gptaq"))
    assert few == text_sets.short(program)
    assert many == few + text_sets.corpus(program) and len(many) > 4 * len(few)


def _constant(site: sites.Site) -> np.ndarray:
    array = constant(site.stored)
    assert array is not None
    return array


def _as(site: sites.Site, matrix: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(matrix.T) if site.turned else matrix


def _named(program: Program, name: str) -> ir.Value:
    return next(v for node in program.graph for v in node.outputs if v.name == name)


def test_a_correction_is_at_most_a_share_of_its_channel() -> None:
    rng = np.random.default_rng(5)
    matrix = rng.normal(size=(64, 32)).astype(np.float32)
    for size in (0.01, 0.1, 3.0):
        shift = size * rng.normal(size=(32, 32)).astype(np.float32)
        moved = corrected(matrix, shift) - matrix
        asked = matrix @ shift.T
        shares = np.linalg.norm(moved, axis=1) / np.linalg.norm(matrix, axis=1)
        assert shares.max() <= 0.4 + 1e-6
        whole = np.linalg.norm(asked, axis=1) <= 0.4 * np.linalg.norm(matrix, axis=1)
        assert np.allclose(moved[whole], asked[whole], atol=1e-5)
        lengths = np.linalg.norm(asked, axis=1) * np.linalg.norm(moved, axis=1)
        assert np.allclose((moved * asked).sum(axis=1), lengths, rtol=1e-4)  # the same way
    assert not corrected(np.zeros((2, 32), np.float32), shift).any()
