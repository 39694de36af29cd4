"""Amplification: derivatives agree with torch's, small errors add up to what rounding does, and a
planted cause is found where it was planted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from goldfold.exporter.contract import EMBEDDING, Contract
from goldfold.exporter.diagnose import amplification as amplified
from goldfold.exporter.diagnose.amplification import (
    Amplification,
    Bench,
    amplification,
    hopeless,
    sensitive,
)
from goldfold.exporter.diagnose.stream_gains import stream_gains
from goldfold.exporter.errors import RewriteError, UsageError
from goldfold.exporter.evaluate import interpret, layer_values, probing
from goldfold.exporter.evaluate.probing import STEP
from goldfold.exporter.ir.program import Program, constant, infer_shapes
from goldfold.exporter.passes import docstring
from goldfold.exporter.quantize import sites, texts
from goldfold.exporter.records import read_json
from goldfold.golden.gate import Gate
from tests import models
from tests.exporter import small

TEXTS = ("The lighthouse keeper counted the ships.", "河边的柳树比去年长高了许多。", "Bread 🍞!")


@pytest.fixture(scope="module")
def spoken(program: Program) -> dict[str, list[int]]:
    return dict(zip("abc", texts.token_ids(program, (TEXTS, None)), strict=True))


@pytest.fixture(scope="module")
def found(program: Program, spoken: dict[str, list[int]]) -> Amplification:
    return amplification(program, spoken, top=5)


# --- derivatives


def _slope_in_torch(model: Path, ids: list[int], moved: np.ndarray, map_: str) -> np.ndarray:
    """f64 [dimensions]: the unit embedding's derivative as `map_`'s input moves along `moved`, by
    torch's forward mode in f64."""
    import torch
    from sentence_transformers import SentenceTransformer

    source = SentenceTransformer(str(model), device="cpu").double()
    backbone: Any = source[0].auto_model  # type: ignore[union-attr]
    backbone.set_attn_implementation("eager")
    row = torch.tensor([ids])

    def embed(change: torch.Tensor) -> torch.Tensor:
        inner = backbone.get_submodule(map_)
        hook = inner.register_forward_pre_hook(lambda _, args: (args[0] + change, *args[1:]))
        try:
            given = {"input_ids": row, "attention_mask": torch.ones_like(row)}
            return source(given)["sentence_embedding"][0]
        finally:
            hook.remove()

    along = torch.tensor(moved[None], dtype=torch.float64)
    slope = torch.func.jvp(embed, (torch.zeros_like(along),), (along,))[1]
    return slope.detach().numpy()


@pytest.mark.parametrize(
    ("kind", "depth", "map_"),
    [
        ("value", 0, "layers.0.self_attn.v_proj"),
        ("query", 3, "layers.3.self_attn.q_proj"),
        ("down", 5, "layers.5.mlp.down_proj"),
    ],
)
def test_a_derivative_is_that_of_torch(
    kind: str, depth: int, map_: str, program: Program, tiny: Path, spoken: dict[str, list[int]]
) -> None:
    bench, ids = Bench.of(program), spoken["a"]
    tap = next(tap for tap, site in bench.sites if (site.kind, site.depth) == (kind, depth))
    values = bench.probe.values(ids)
    drawn = np.random.default_rng(3).standard_normal(values[tap].shape).astype(np.float32)
    one = {
        tap: drawn * np.linalg.norm(values[tap], axis=-1, keepdims=True) / drawn.shape[-1] ** 0.5
    }
    s = probing.shortened(one, values)
    slopes = bench.probe.slopes(ids, [(one, s), (one, 4 * s)]).first
    expected = _slope_in_torch(tiny, ids, one[tap], map_)
    for slope in slopes:
        assert np.linalg.norm(slope - expected) < 0.01 * np.linalg.norm(expected)
    short = {tap: np.float32(s) * one[tap]}
    sizes = [np.linalg.norm(x, axis=-1) for x in (short[tap], values[tap])]
    assert np.sqrt(np.mean(np.square(sizes[0] / sizes[1]))) == pytest.approx(STEP, rel=1e-3)


def test_rounding_is_that_of_the_formula(program: Program, spoken: dict[str, list[int]]) -> None:
    """The rounded program differs from this one by exactly the errors that are looked at: moving a
    single value by its error gives what rounding it alone gives."""
    ids, copy = spoken["b"], program.copy()
    place = next(s for s in sites.find(copy) if (s.kind, s.depth) == ("gate", 2))
    assert place.x is not None
    probing.round_rows(copy, [probing.Tap("", place.x, place.node)])
    row = np.array([ids], dtype=np.int64)
    got = interpret.runner(copy)(row, np.ones_like(row))[0]
    bench = Bench.of(program)
    tap = next(tap for tap, s in bench.sites if (s.kind, s.depth) == ("gate", 2))
    error = probing.rounding_error(bench.probe.values(ids)[tap])
    moved = bench.probe.values(ids, {tap: error})[bench.probe.output]
    still = bench.probe.values(ids)[bench.probe.output]
    assert np.abs(got - moved).max() < 1e-6 < 1e-5 < np.abs(got - still).max()


# --- the sum of small errors


def test_small_errors_add_up_to_what_rounding_does(program: Program) -> None:
    """On average: the errors of one text are a draw of their directions."""
    drafts = (*TEXTS, *models.CORPUS[2:8])
    asked = {str(at): ids for at, ids in enumerate(texts.token_ids(program, (drafts, None)))}
    found = amplification(program, asked, sites=0).texts
    predicted, measured = ([float(getattr(t, n)) for t in found] for n in ("predicted", "measured"))
    assert np.mean(measured) / 1.7 < np.mean(predicted) < 1.7 * np.mean(measured)
    assert all(a / 6 < b < 6 * a for a, b in zip(predicted, measured, strict=True))
    for text in found:
        parts = sum(stage.angle**2 for stage in text.stages)
        assert parts / 3 < text.angle**2 < 3 * parts  # maps that read one value share its error
        assert all(stage.bend < 0.5 for stage in text.stages if stage.angle > 0.1 * text.angle)
        assert text.gain**2 == pytest.approx(sum(stage.gain**2 for stage in text.stages))
        assert not text.places


def test_derivatives_say_what_all_errors_do_together(program: Program, spoken) -> None:
    """The same errors, put in all at once, turn the embedding as the sum of their derivatives."""
    bench, ids = Bench.of(program), spoken["b"]
    values = bench.probe.values(ids)
    errors = {tap: probing.rounding_error(values[tap]) for tap, _ in bench.sites}
    asked = [
        ({tap: error}, probing.shortened({tap: error}, values)) for tap, error in errors.items()
    ]
    slope = bench.probe.slopes(ids, asked).first.sum(0)
    moved, still = (bench.probe.values(ids, m)[bench.probe.output] for m in (errors, None))
    apart = layer_values.distance(moved.astype(np.float64), still.astype(np.float64))
    assert 0.5 * float(slope @ slope) == pytest.approx(apart, rel=0.1)


def test_places_add_up_to_their_map(found: Amplification, program: Program, spoken) -> None:
    bench, ids = Bench.of(program), spoken["a"]
    tap = next(tap for tap, site in bench.sites if site.kind == "value")
    values = bench.probe.values(ids)
    whole = {tap: probing.rounding_error(values[tap])}
    parts = [{tap: amplified.only(whole[tap], token)} for token in range(len(ids))]
    asked = [(one, probing.shortened(one, values)) for one in (whole, *parts)]
    slopes = bench.probe.slopes(ids, asked).first
    assert np.linalg.norm(slopes[0] - slopes[1:].sum(0)) < 0.02 * np.linalg.norm(slopes[0])
    text = found.texts[0]
    assert [p.angle for p in text.places] == sorted((p.angle for p in text.places), reverse=True)
    assert all(p.angle == pytest.approx(p.gain * p.size) for p in text.places)
    assert len(text.places) == 5


def test_a_record_reads_back(found: Amplification) -> None:
    assert read_json(Amplification, found.to_json()) == found


# --- planted causes


def test_a_channel_that_sets_the_step_is_found(program: Program, spoken) -> None:
    """One channel of a layer's input is made sixty times as large and the maps' weights as much
    smaller: the same function, whose rounding errors are far larger there."""
    planted, channel = program.copy(), 17
    mine = [s for s in sites.find(planted) if s.depth == 2 and s.kind in ("query", "key", "value")]
    assert len(mine) == 3 and mine[0].x is not None
    norm = mine[0].x.producer()
    assert norm is not None and norm.op_type == "RMSNormalization"
    _scaled(norm.inputs[1], (channel,), 60.0)
    for site in mine:
        _scaled(site.stored, (channel,) if site.turned else (slice(None), channel), 1 / 60)
    before, after = (
        amplification(p, {"a": spoken["a"]}, top=4).texts[0] for p in (program, planted)
    )
    assert after.measured > 4 * before.measured
    assert all((p.depth, p.channel) == (2, channel) for p in after.places)
    assert all(p.kind in ("query", "key", "value") and p.reach > 6 for p in after.places)
    assert after.places[0].size > 2 * before.places[0].size


def _scaled(value: ir.Value | None, at: tuple, factor: float) -> None:
    array = np.array(constant(value))
    array[at] *= factor
    assert value is not None
    value.const_value = ir.tensor(array, name=value.name)


DIM, TOKENS, SCORE = 16, 5, 300.0
TIED = f"""
f (int64[batch,tokens] input_ids, int64[batch,tokens] attention_mask,
   float[8,{DIM}] table, float[{DIM},{DIM}] wq, float[{DIM},{DIM}] wk, float[{DIM},{DIM}] wv,
   float[{DIM},{DIM}] wo) => (float[batch,{DIM}] {EMBEDDING})
{{
    padding = Cast <to: int = 9> (attention_mask)
    x = Gather(table, input_ids)
    split = Constant <value: tensor = int64[4] {{0, 0, 2, {DIM // 2}}}> ()
    q0 = MatMul(x, wq)
    q1 = Reshape(q0, split)
    q = Transpose <perm: ints = [0, 2, 1, 3]> (q1)
    k0 = MatMul(x, wk)
    k1 = Reshape(k0, split)
    k = Transpose <perm: ints = [0, 2, 1, 3]> (k1)
    v0 = MatMul(x, wv)
    v1 = Reshape(v0, split)
    v = Transpose <perm: ints = [0, 2, 1, 3]> (v1)
    a = goldfold.BandAttention
        <scale: float = 1.0, window: int = 0, causal: int = 0, softcap: float = 0.0>
        (q, k, v, padding)
    back = Transpose <perm: ints = [0, 2, 1, 3]> (a)
    joint = Constant <value: tensor = int64[3] {{0, 0, {DIM}}}> ()
    h = Reshape(back, joint)
    o = MatMul(h, wo)
    s = Add(o, x)
    axis = Constant <value: tensor = int64[1] {{1}}> ()
    {EMBEDDING} = ReduceMean <keepdims: int = 0> (s, axis)
}}
"""


def _tied(gap: float) -> Program:
    """One attention of two heads. Head 1 lets token 0 see tokens 1 and 2, whose scores are
    about SCORE and `gap` apart; head 0 sees all tokens alike."""
    rng = np.random.default_rng(5)
    table = rng.standard_normal((8, DIM))
    table[:, -1] = [4, 0, 0, 0, 0, 0, 0, 0]  # a 0 is rounded without error, so it is token 0 alone
    queries = 0.1 * rng.standard_normal((DIM, DIM))
    queries[-1, 8] = SCORE / 4
    keys = 0.1 * rng.standard_normal((TOKENS, DIM))
    keys[:, 8] = -1.0
    keys[1, 8:11], keys[2, 8:11] = (1.0, 1.0, 1.0), (1.0 - gap / SCORE, -1.0, 1.0)
    maps = {"wq": queries, "wk": np.linalg.pinv(table[:TOKENS]) @ keys}
    drawn = {n: rng.standard_normal((DIM, DIM)) for n in ("wv", "wo")}
    model = docstring.graph(TIED, {"table": table, **maps, **drawn})
    infer_shapes(model)
    contract = Contract(
        model="tied", dim=DIM, max_length=16, vocab_size=8, pad_id=0, normalized=False
    )
    return Program(model, contract)


def test_a_tie_of_a_softmax_is_found() -> None:
    ids = {"text": list(range(TOKENS))}
    tied, settled = (amplification(_tied(gap), ids, top=4).texts[0] for gap in (0.5, 40.0))
    assert tied.angle > 2 * settled.angle
    first = tied.places[0]
    assert first.kind == "key" and first.token in (1, 2) and first.route is not None
    assert (first.route.head, first.route.reader) == (1, 0)
    assert first.route.share > 0.95 and first.route.reader_share > 0.95
    assert set(first.route.seen) == {1, 2}
    assert first.route.margin is not None and first.route.margin < 2
    assert all(place.kind != "key" for place in settled.places)


def test_stream_gains_add_up_to_the_text(program: Program, spoken: dict[str, list[int]]) -> None:
    """Errors of the tokens of one layer, independent of each other, add up to an error of all."""
    ids = spoken["a"]
    gains = stream_gains(program, ids)
    assert np.shape(gains.gains) == (6, len(ids)) and len(gains.layers) == 6
    table = np.array(gains.gains)
    layer, token = gains.largest()
    assert table[layer, token] == table.max() > 0
    # A relative error of all tokens behind the last layer can turn their mean by no more than so.
    assert 0.05 < np.sqrt(np.square(table[-1]).sum()) < 20


# --- what is said of it


def _sized(found: Amplification, *sizes: float) -> Amplification:
    """The first text with other angles."""
    rows = [
        found.texts[0].with_(id=f"t{at}", angle=size, predicted=1 - np.cos(size))
        for at, size in enumerate(sizes)
    ]
    return found.with_(texts=tuple(rows))


def test_sensitive_texts_stand_out_from_the_median(found: Amplification) -> None:
    sized = _sized(found, 0.01, 0.09, 0.012, 0.03, 0.011)
    assert [text.id for text in sensitive(sized)] == ["t1", "t3"]
    assert [text.id for text in sensitive(sized, 5)] == ["t1"]
    assert [text.id for text in sensitive(sized, 0)] == ["t1", "t3", "t2", "t4", "t0"]


def test_only_where_all_texts_amplify_is_there_no_hope(found: Amplification) -> None:
    gate = Gate(worst=5e-3, mean=1e-3)
    assert hopeless(_sized(found, 0.5, 0.09, 0.4), gate) is None
    reason = hopeless(_sized(found, 0.5, 0.2, 0.4), gate)
    assert reason is not None and "t1" in reason and "2.0e-02" in reason and "5e-03" in reason
    assert amplified.named(found.texts[0].places[0]) in reason and "\n" not in reason
    assert "each of 3 texts" in reason


def _without_maps() -> Program:
    text = small.TEXT.replace("MatMul(h, left)", "Neg(h)").replace("MatMul(h, right)", "Abs(h)")
    model = docstring.graph(text)
    infer_shapes(model)
    return Program(model, small.program().contract)


@pytest.mark.parametrize(
    ("broken", "error", "says"),
    [
        (lambda program, _: amplification(program, {}), UsageError, "no text"),
        (lambda *_: amplification(_without_maps(), {"a": [1, 2]}), UsageError, "no linear map"),
        (lambda *_: stream_gains(small.program(), [1, 2]), RewriteError, "no numbered layers"),
        (
            lambda _, spoiled: amplification(spoiled, {"a": [2, 9, 1]}),
            RewriteError,
            "text 'a'.*NaN",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(
    broken: Callable, error: type[Exception], says: str, program: Program, spoiled: Program
) -> None:
    with pytest.raises(error, match=says):
        broken(program, spoiled)
