"""A whole small encoder quantized: sites by what they are there for, the plan, what is refused."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from goldfold.exporter.errors import RewriteError, UsageError
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.quantize import plan, sites, statistics
from goldfold.exporter.quantize.recipe import Recipe, made
from goldfold.exporter.search.dequantize import dense

SEQUENCES = [[2, 5, 9, 1], [2, 40, 41, 42, 43, 44, 1], [2, 7, 1]]
SEQUENCES += [[2, *range(at, at + 5), 1] for at in range(50, 115, 5)]


def _recipe(**given) -> Recipe:
    return made("mine", given)


def _quantized(program: Program, recipe: Recipe) -> Program:
    copy = program.copy()
    pipeline.run(copy, plan.balance(recipe, copy, SEQUENCES))
    pipeline.run(copy, plan.passes(recipe, copy, SEQUENCES))
    return copy


def _run(program: Program) -> np.ndarray:
    run = interpret.runner(program)
    rows = [np.array([ids], np.int64) for ids in SEQUENCES[:3]]
    return np.concatenate([run(row, np.ones_like(row)) for row in rows]).astype(np.float64)


def test_sites_are_known_by_what_they_are_there_for(program: Program) -> None:
    found = sites.find(program)
    layers = sum(node.op_type == "BandAttention" for node in program.graph)
    kinds = Counter(site.kind for site in found)
    each = ("query", "key", "value", "output", "gate", "up", "down")
    assert kinds == {"table": 1, "head": 1, **dict.fromkeys(each, layers)}
    for site in found:
        if site.kind in each:  # names serve as the check here, never in the code
            part = {"output": "o_proj", "query": "q_proj", "key": "k_proj", "value": "v_proj"}
            assert site.place.endswith(part.get(site.kind, f"{site.kind}_proj"))
            assert f"layers.{site.depth}." in site.place


@pytest.mark.parametrize("gains", ["keep", "balance"])
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_eight_bits_stay_close(program: Program, gains: str, rounding: str) -> None:
    weights = {"bits": 8, "rounding": rounding}
    made = _quantized(program, _recipe(gains=gains, weights=weights, table={"bits": 8}))
    exact, got = _run(program), _run(made)
    # A weight is off by at most 1/254 of its channel's largest: r = 4e-3 a map, and the maps of a
    # small model in a row add up to no more than √(2 · 1e-3) = 4.5e-2, eleven of them.
    assert 1e-9 < (1 - (exact * got).sum(axis=1)).max() < 1e-3
    # Multiplying the integers out gives the same numbers, to the order of f32's sums.
    assert np.abs(_run(dense(made)) - got).max() < 1e-5


def test_blocks_of_four_bits_static_activations_and_rules(program: Program) -> None:
    made = _quantized(
        program,
        _recipe(
            weights={"bits": 4, "block": 16, "rounding": "gptq"},
            rule=[{"kinds": ["head"], "bits": 0},
                  {"first": 1, "bits": 8, "block": 0, "activations": "static"}],
        ),
    )  # fmt: skip
    census = Counter(node.op_type for node in made.graph)
    layers = sum(node.op_type == "BandAttention" for node in program.graph)
    assert census["QuantizeLinear"] == 4  # q/k/v and gate/up share theirs
    kinds = Counter(str(v.dtype) for v in made.graph.initializers.values())
    assert kinds["INT4"] == 7 * (layers - 1)
    exact, got = _run(program), _run(made)
    # Of 4 bits a weight is off by up to 1/14 of its block's largest: r = 7e-2 a map; six in a row.
    assert (1 - (exact * got).sum(axis=1)).max() < 0.1


def test_seven_bits_beside_static_activations_are_half_of_a_byte(program: Program) -> None:
    """255 · 63 · 2 fits in the 16 bits in which CPUs without VNNI add two products."""
    weights = {"bits": 7, "activations": "static", "rounding": "gptq"}
    made = _quantized(program, _recipe(weights=weights, table={"bits": 8}))
    held = [v.const_value for v in made.graph.initializers.values() if v.dtype == ir.DataType.INT8]
    maps = [tensor.numpy() for tensor in held if tensor is not None and tensor.name is not None]
    narrow = [numbers for numbers in maps if numbers.min() >= -64 and numbers.max() <= 63]
    layers = sum(node.op_type == "BandAttention" for node in program.graph)
    assert len(narrow) >= 7 * layers and len(maps) - len(narrow) == 1  # the table
    exact, got = _run(program), _run(made)
    # A weight is off by up to 1/126 of its channel's largest, what it meets by 1/254 of its own:
    # 1.2e-2 a map, 7.2e-2 for six in a row, and 1−cos is half the square, 2.6e-3.
    assert (1 - (exact * got).sum(axis=1)).max() < 1e-2


def test_a_block_is_halved_until_it_divides_a_row(program: Program) -> None:
    wide = plan.check(_recipe(weights={"bits": 8, "block": 256}, table={"bits": 8}), program)
    for one in wide:
        inputs, block = one.site.matrix.shape[1], one.choice.block
        assert block == (0 if one.site.kind == "table" else math.gcd(inputs, 256))
        assert block == 0 or block >= 16


def test_balancing_changes_nothing_but_rounding(program: Program) -> None:
    copy = program.copy()
    recipe = _recipe(gains="balance", alpha=0.5, weights={"bits": 8})
    reports = pipeline.run(copy, plan.balance(recipe, copy, SEQUENCES))
    layers = sum(node.op_type == "BandAttention" for node in program.graph)
    assert reports[0].applied == 4 * layers  # two norms, attention's values, the gated product
    assert np.abs(_run(copy) - _run(program)).max() < 1e-5


def test_statistics_are_those_of_the_values(program: Program) -> None:
    site = next(s for s in sites.find(program) if s.kind == "down")
    assert site.x is not None
    seen = statistics.record(program, [site.x], SEQUENCES)[site.x.name or ""]
    assert seen.tokens == sum(map(len, SEQUENCES))
    assert np.allclose(seen.moments, seen.moments.T, rtol=1e-4)
    alone = statistics.record(program, [site.x], SEQUENCES, moments=False)[site.x.name or ""]
    assert np.allclose(np.diag(seen.moments), alone.moments, rtol=1e-4)


def test_what_cannot_be_is_refused_by_name(program: Program) -> None:
    with pytest.raises(UsageError, match=r"fits nothing .* it has, for example, table in"):
        plan.passes(_recipe(rule=[{"layers": "nowhere.*", "bits": 8}]), program, SEQUENCES)
    with pytest.raises(UsageError, match="no whole number of blocks of 7"):
        plan.passes(_recipe(weights={"bits": 8, "block": 7}), program, SEQUENCES)
    with pytest.raises(UsageError, match="no whole number of blocks of 28"):
        plan.passes(_recipe(weights={"bits": 8, "block": 28}), program, SEQUENCES)
    static = _recipe(weights={"bits": 8, "activations": "static"})
    with pytest.raises(UsageError, match="needs calibration texts, and there are none"):
        plan.passes(static, program, [])
    with pytest.raises(UsageError, match=r"is to have 6 bits, which only a table can"):
        plan.passes(_recipe(weights={"bits": 6}), program, SEQUENCES)
    with pytest.raises(UsageError, match=r"to have 7 bits.* or 7 beside static activations"):
        plan.passes(_recipe(weights={"bits": 7}), program, SEQUENCES)
    with pytest.raises(UsageError, match="want 8 bits, or 7, and one scale a channel"):
        plan.passes(_recipe(weights={"bits": 6, "activations": "static"}), program, SEQUENCES)
    both = _recipe(weights={"bits": 8, "block": 16, "activations": "static"})
    with pytest.raises(UsageError, match="want 8 bits, or 7, and one scale a channel"):
        plan.passes(both, program, SEQUENCES)


def test_calibration_that_sees_nan_is_refused(spoiled: Program) -> None:
    static = _recipe(weights={"bits": 8, "activations": "static"})
    with pytest.raises(RewriteError, match=r"calibration text 1 makes .* infinite or NaN"):
        plan.passes(static, spoiled, SEQUENCES)


@pytest.mark.parametrize(("factor", "said"), [(1e12, "above"), (1e-12, "below")])
def test_weights_beyond_every_scale_are_refused(program: Program, factor: float, said: str) -> None:
    copy = program.copy()
    site = next(site for site in sites.find(copy) if site.kind == "up")
    tensor = site.stored.const_value
    assert tensor is not None
    site.stored.const_value = ir.tensor(tensor.numpy() * np.float32(factor), name=tensor.name)
    with pytest.raises(UsageError, match=rf"\(up\) has weights {said} every scale that fp16 holds"):
        plan.passes(_recipe(weights={"bits": 8}), copy, SEQUENCES)
