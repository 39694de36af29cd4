"""Tracing: every family through the whole pipeline against sentence-transformers, alone and padded.

The bound is the one users are promised, 1−cos ≤ 1e-6; what is measured is below 1e-12.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from sentence_transformers import SentenceTransformer

from goldfold.exporter.errors import ModelError
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.frontend.simplify import simplify
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import attention, trace
from goldfold.exporter.frontend.trace.modules import MODES, Pool, stage_of
from goldfold.exporter.ir.program import MODULE, Program
from goldfold.exporter.passes import pipeline
from goldfold.golden.compare import reading
from tests import models

PROMISED = 1e-6

EAGER = {
    "mpnet": "with our mask",
    "deberta": "does not go through transformers' interface",
    "t5": "position_bias",
    "gemma4-bidirectional": "window 33",
}
"""Families that compute attention themselves, or whose attention is more than BandAttention says,
and what the log must say of them."""

ATTENTION = {
    "gemma3": {"window 257": 5, "all": 1},
    "modernbert": {"window 9": 2, "all": 2},
    "qwen3": {"causal": 3},
    "bert": {"all": 3},
    "bert-dense-tanh": {"all": 3},
    "mpnet": {"all, biased": 3},
    "t5": {"all, biased": 3},
    "deberta": {},
    "gemma4-bidirectional": {"all": 1},  # that of its layers whose mask is padding alone
}


def prepared(folder: Path) -> Program:
    program = trace(open_model(folder))
    simplify(program)
    pipeline.run(program, (*pipeline.EARLY, *pipeline.common(program.contract)))
    return program


def errors(program: Program, folder: Path, lengths: tuple[int, ...]) -> list[float]:
    """1−cos of drawn token ids, each alone and all in one padded batch, against the source."""
    reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    run = interpret.runner(program)
    rng = np.random.default_rng(7)
    ids = np.full((len(lengths), max(lengths)), program.contract.pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(5, models.VOCAB_SIZE - 5, length)
        mask[row, :length] = 1
    padded = run(ids, mask)
    found = []
    for row, length in enumerate(lengths):
        own_ids, own_mask = ids[row : row + 1, :length], mask[row : row + 1, :length]
        features = {"input_ids": torch.tensor(own_ids), "attention_mask": torch.tensor(own_mask)}
        with torch.no_grad():
            golden = reference(features)["sentence_embedding"][0].numpy()
        found += [reading(e, golden).distance for e in (run(own_ids, own_mask)[0], padded[row])]
    return found


RAISED = {
    "albert": {"raise-gelu": 3},
    "t5": {"raise-gelu": 3, "raise-attention": 3},
    "mpnet": {"raise-attention": 3},
    # 3 layers × (4 norms, 3 on queries, keys and values, 1 after the per-layer input), and 2 more.
    "gemma4": {"raise-rotary": 6, "raise-rms-norm": 26},
    "gemma4-bidirectional": {"raise-rotary": 6, "raise-rms-norm": 26},
    "embeddinggemma2": {"raise-rms-norm": 26, "sink-linear-past-mean": 1},
}
"""What a family must have raised, since torch leaves it spelt out; or sunk past the mean."""

SPELLING = {"Pow", "Reciprocal", "Erf", "Neg"}
"""Ops that nothing else in these families uses."""

SETTINGS: dict[str, dict] = {
    # transformers tells its attention window 33 and its mask 34: traced eagerly, and rightly so.
    "gemma4-bidirectional": {"use_bidirectional_attention": "all", "sliding_window": 64},
}
FAMILIES = (*models.KINDS, *SETTINGS)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_keeps_its_embeddings(kind: str, tmp_path: Path) -> None:
    backbone = kind.removesuffix("-bidirectional")
    folder = models.build(backbone, tmp_path / kind, **SETTINGS.get(kind, {}))
    program = trace(open_model(folder))
    simplify(program)
    passes = (*pipeline.EARLY, *pipeline.common(program.contract))
    applied = {report.name: report.applied for report in pipeline.run(program, passes)}
    expected = RAISED.get(kind, {})
    assert {name: applied[name] for name in expected} == expected
    if expected:  # MPNet negates positions, which are whole numbers
        floats = [n for n in program.graph if n.outputs[0].dtype == ir.DataType.FLOAT]
        assert not SPELLING & {node.op_type for node in floats}
    assert max(errors(program, folder, (1, 4, 300, 590))) <= PROMISED
    if kind in EAGER:
        assert len(program.notes) == 1
        assert EAGER[kind] in program.notes[0]
    else:
        assert program.notes == []
    assert sum(program.attention().values()) == program.census().get("goldfold.BandAttention", 0)
    if kind in ATTENTION:
        assert program.attention() == ATTENTION[kind]


def test_embeddinggemma_shape_has_no_mask_arithmetic(tmp_path: Path) -> None:
    program = trace(open_model(models.build("gemma3", tmp_path / "gemma3")))
    census = program.census()
    assert census["RMSNormalization"] == 37  # 6 layers × (4 norms + q and k norm) + the last
    assert census["RotaryEmbedding"] == 12
    # The one Where is the pooling's: it selects tokens.
    assert census["Where"] == 1
    assert not {"Less", "LessOrEqual", "Greater", "And", "Or", "ScatterND"} & set(census)
    assert {str(d) for d in program.graph.inputs[0].shape or ()} == {"batch", "tokens"}
    modules = {node.metadata_props.get(MODULE) for node in program.graph}
    assert "transformer.layers.5.self_attn" in modules


def test_traces_are_reproducible(tmp_path: Path) -> None:
    folder = models.build("bert", tmp_path / "bert")
    one, two = (trace(open_model(folder)) for _ in range(2))
    assert [str(n) for n in one.graph] == [str(n) for n in two.graph]
    assert list(one.graph.initializers) == list(two.graph.initializers)


# --- pooling


@pytest.mark.parametrize("mode", sorted(MODES))
def test_pooling_selects_and_agrees_with_sentence_transformers(mode: str) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling

    tokens = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 6, [1] * 3 + [0] * 3, [1] + [0] * 5])
    reference = Pooling(4, pooling_mode=mode)
    expected = reference({"token_embeddings": tokens, "attention_mask": mask})["sentence_embedding"]
    poisoned = torch.where(mask.bool().unsqueeze(-1), tokens, torch.nan)
    found = Pool((mode,)).pooled(poisoned, mask.bool())
    # Same sums in another order: a few roundings of 2^-24 on values near 1.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_pooling_modes_are_concatenated_in_order(tmp_path: Path) -> None:
    modes = ("lasttoken", "weightedmean", "mean_sqrt_len_tokens", "max")
    folder = models.build("bert-pool", tmp_path / "pool", pooling_mode=modes)
    program = prepared(folder)
    assert max(errors(program, folder, (1, 5, 40))) <= PROMISED


def test_a_module_without_a_meaning_is_named() -> None:
    with pytest.raises(ModelError, match=r"module 3 \(GRU\)"):
        stage_of(torch.nn.GRU(2, 2), 3)


# --- attention and masks


def band(window: int, causal: bool):
    def allowed(batch, head, i, j):
        seen = (i - j).abs() < window if window else torch.ones_like(i - j, dtype=torch.bool)
        return seen & (j <= i) if causal else seen

    return allowed


@pytest.mark.parametrize("window", [0, 1, 2, 255, 256, 257])
@pytest.mark.parametrize("causal", [False, True])
def test_a_band_is_recognised(window: int, causal: bool) -> None:
    if window == 1:
        causal = False  # a token that sees only itself: both are the same mask
    assert attention.probe(band(window, causal), 300) == attention.Mask(window, causal)


def test_a_window_wider_than_the_longest_text_is_none() -> None:
    assert attention.probe(band(301, False), 300) == attention.Mask(0, False)
    assert attention.probe(band(300, False), 300) == attention.Mask(300, False)


def chunked(size: int, causal: bool):
    def allowed(batch, head, i, j):
        same = torch.as_tensor(i) // size == torch.as_tensor(j) // size
        return same & (j <= i) if causal else same

    return allowed


@pytest.mark.parametrize("causal", [False, True])
def test_chunks_that_no_text_fills_are_none(causal: bool) -> None:
    assert attention.probe(chunked(300, causal), 300) == attention.Mask(0, causal)
    with pytest.raises(attention.Refused, match="is not a band"):
        attention.probe(chunked(299, causal), 300)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("lopsided", lambda b, h, i, j: ((i - j) < 3) & ((j - i) < 5)),
        ("chunked", chunked(8, False)),
        ("nobody", lambda b, h, i, j: torch.zeros_like(i - j, dtype=torch.bool)),
        ("first token too", lambda b, h, i, j: ((i - j).abs() < 3) | (j == 0)),
        ("fails", lambda b, h, i, j: {}["a table it does not have"]),
    ],
)
def test_what_is_not_a_band_is_refused(name: str, function) -> None:
    with pytest.raises(attention.Refused):
        attention.probe(function, 300)


class Layer(torch.nn.Module):
    is_causal = False


def call(recorder: attention.Recorder, mask: torch.Tensor | None, **keywords: object) -> None:
    q = torch.zeros(1, 2, 3, 4)
    attention._attention(recorder)(Layer(), q, q, q, mask, **keywords)


@pytest.mark.parametrize(
    ("keywords", "culprit"),
    [
        ({"s_aux": torch.zeros(1)}, "s_aux"),
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"dropout": 0.1}, "dropout"),
        ({"sliding_window": 5}, "window 5"),
        ({"is_causal": True}, "causal True"),
    ],
)
def test_an_attention_call_beyond_the_mask_is_refused(keywords: dict, culprit: str) -> None:
    recorder = attention.Recorder(max_length=300)
    mask = attention._mask(recorder)(
        1, 3, 3, mask_function=band(0, False), attention_mask=torch.ones(1, 3, dtype=torch.bool)
    )
    with pytest.raises(attention.Refused, match=culprit):
        call(recorder, mask, **keywords)
    assert recorder.calls == []


def test_attention_without_a_mask_is_refused() -> None:
    with pytest.raises(attention.Refused, match="without the 2-D padding mask"):
        call(attention.Recorder(max_length=300), None)


def test_the_interfaces_are_taken_back() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    with attention.registered(8):
        assert attention.NAME in AttentionInterface._global_mapping
    assert attention.NAME not in AttentionInterface._global_mapping
    assert attention.NAME not in AttentionMaskInterface._global_mapping
