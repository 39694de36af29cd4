"""The gate is tested by mutation: an EmbeddingGemma-shaped model, made wrong in one way, must fail.

The goldens are made by sentence-transformers from the unharmed model. Each mutation changes the
traced program (or what goes into it) as a real bug would; the unharmed program must pass, every
mutant must not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tokenizers import Tokenizer

from goldfold.exporter.evaluate import interpret
from goldfold.exporter.frontend.simplify import simplify
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.tokens import Tokens
from goldfold.exporter.frontend.trace import trace
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import Program, drop_unused
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.rewriting.linear import linear_ending_at
from goldfold.golden import calling, compare, gate
from goldfold.golden.make import make
from goldfold.golden.store import Goldens
from goldfold.golden.tokenizer_file import TokenizerFile
from goldfold.golden.witness import Witness, read
from tests import models


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Goldens]:
    """The unharmed program, before any law that a mutation would have to undo; and its goldens."""
    folder = models.build("gemma3", tmp_path_factory.mktemp("mutations") / "gemma3")
    source = open_model(folder)
    program = trace(source)
    simplify(program)
    pipeline.run(program, pipeline.EARLY)
    return program, make(folder, name="gemma3", digests=source.defining)


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Witness:
    """The source itself."""
    return read(models.build("gemma3", tmp_path_factory.mktemp("witness") / "gemma3"))


def judged(program: Program, goldens: Goldens) -> gate.Verdict:
    """Measure a program as an artifact is measured, in fp32."""
    tokens = Tokens(program.tokenizer, program.contract)
    faults = compare.token_faults(tokens.called, goldens)
    measurement = compare.measure(
        interpret.runner(program), goldens, pad_id=program.contract.pad_id
    )
    return gate.judge(measurement, faults, "fp32", goldens)


def attention_attribute(name: str, value: int, only_windowed: bool = False) -> Callable:
    def mutate(program: Program) -> None:
        for node in dialect.band_attentions(program.graph):
            if not only_windowed or dialect.Band.of(node).window:
                node.attributes[name] = ir.AttrInt64(name, value)

    return mutate


def epsilon(factor: float) -> Callable:
    def mutate(program: Program) -> None:
        for node in program.graph:
            if node.op_type == "RMSNormalization":
                old = node.attributes["epsilon"].value
                node.attributes["epsilon"] = ir.AttrFloat32("epsilon", old * factor)

    return mutate


def drop_dense(program: Program) -> None:
    """As if the exporter had left the head behind: 768→3072→768 replaced by nothing."""
    last = [linear for node in program.graph if (linear := linear_ending_at(node))][-1]
    first = linear_ending_at(last.x.producer())
    assert first is not None
    last.output.replace_all_uses_with(first.x)
    drop_unused(program.model)


MUTATIONS: dict[str, Callable[[Program], None]] = {
    "window 129": attention_attribute("window", 129, only_windowed=True),
    "window one too narrow": attention_attribute("window", 256, only_windowed=True),
    "window one too wide": attention_attribute("window", 258, only_windowed=True),
    "no window": attention_attribute("window", 0),
    "causal": attention_attribute("causal", 1),
    "the dense layers dropped": drop_dense,
    "eps too large by 2^20": epsilon(2.0**20),
    # Scaling the residual stream by s = 2^-5 and forgetting that its norms' eps scale by s².
    "eps not scaled with the stream": epsilon(2.0**10),
}


def test_the_unharmed_program_passes(subject: tuple[Program, Goldens]) -> None:
    program, goldens = subject
    verdict = judged(program, goldens)
    assert verdict.passed, verdict.sentences
    assert max(len(case.token_ids) for case in goldens.cases) > 257, "no text that a window cuts"


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutant_fails(name: str, subject: tuple[Program, Goldens]) -> None:
    program, goldens = subject
    mutant = program.copy()
    MUTATIONS[name](mutant)
    verdict = judged(mutant, goldens)
    assert not verdict.passed
    assert any("1-cos" in reason or "1−cos" in reason for reason in verdict.sentences)


def test_a_dropped_prompt_fails(subject: tuple[Program, Goldens]) -> None:
    program, goldens = subject
    tokenizer = Tokenizer.from_str(program.tokenizer)
    tokenizer.enable_truncation(program.contract.max_length)
    run = interpret.runner(program)
    without = tuple(
        replace(case, token_ids=tuple(tokenizer.encode(case.text).ids)) for case in goldens.cases
    )
    measurement = compare.measure(run, replace(goldens, cases=without))
    verdict = gate.judge(measurement, [], "fp32", goldens)
    assert not verdict.passed
    prompted = {case.id for case in goldens.cases if case.prompt}
    assert {row.id for row in measurement.ranked[:5]} <= prompted


@pytest.mark.parametrize("row", [4, 32])
def test_a_graph_that_is_wrong_from_some_row_of_a_batch_on_fails(
    row: int, subject: tuple[Program, Goldens]
) -> None:
    program, goldens = subject
    run = interpret.runner(program)

    def wrong(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        found = np.array(run(ids, mask))
        found[row:] = np.roll(found[row:], 1, axis=-1)
        return found

    verdict = gate.judge(compare.measure(wrong, goldens), [], "fp32", goldens)
    assert not verdict.passed and all("padded" in reason for reason in verdict.sentences)


@pytest.mark.parametrize("size", calling.SIZES)
def test_a_graph_that_is_wrong_in_one_row_of_a_batch_fails_whichever(
    size: int, subject: tuple[Program, Goldens]
) -> None:
    program, goldens = subject
    run = interpret.runner(program)
    assert not calling.judge(calling.measure(run, goldens), "fp32")
    for row in {0, 1, 5 % size, size // 2, size - 1}:

        def wrong(ids: np.ndarray, mask: np.ndarray, row: int = row) -> np.ndarray:
            found = np.array(run(ids, mask))
            if len(found) == size:
                found[row] = np.roll(found[row], 1)
            return found

        reasons = calling.judge(calling.measure(wrong, goldens, threads=0), "fp32")
        assert reasons and all(one.way.startswith(f"row {row} of {size} ") for one in reasons)


def test_two_ids_exchanged_where_no_golden_text_looks_fail(
    subject: tuple[Program, Goldens], witness: Witness
) -> None:
    program, goldens = subject
    said = json.loads(program.tokenizer)
    known, used = said["model"]["vocab"], {i for case in goldens.cases for i in case.token_ids}
    one, other, *_ = [token for token, id_ in known.items() if id_ not in used]
    known[one], known[other] = known[other], known[one]
    wrong = json.dumps(said)
    faults = compare.token_faults(Tokens(wrong, program.contract).called, goldens)
    assert not faults, "a golden text has one of them"
    assert witness.differs(TokenizerFile(program.tokenizer)) is None
    assert "2 of 400 entries of the vocabulary differ" in str(witness.differs(TokenizerFile(wrong)))


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": None}, {"post_processor": None}, {"added_tokens": []}, {"merges": -1},
        {"normalizer": {"type": "Lowercase"}},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_tokenizer_with_another_part_fails(
    change: dict[str, Any], subject: tuple[Program, Goldens], witness: Witness
) -> None:
    said = json.loads(subject[0].tokenizer)
    if "merges" in change:
        said["model"]["merges"] = said["model"]["merges"][:-1]
    else:
        said |= change
    assert witness.differs(TokenizerFile(json.dumps(said)))


def test_tokens_without_eos_fail(subject: tuple[Program, Goldens]) -> None:
    program, goldens = subject
    tokens = Tokens(program.tokenizer, program.contract)

    def cut(texts: list[str], call: str) -> list[list[int]]:
        return [ids[:-1] for ids in tokens.called(texts, call)]

    faults = compare.token_faults(cut, goldens)
    assert len(faults) == len(goldens.cases)
    run = interpret.runner(program)

    def without_eos(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        mask = mask.copy()
        mask[np.arange(len(mask)), mask.sum(1) - 1] = 0
        return run(ids, np.maximum(mask, np.eye(1, mask.shape[1], dtype=np.int64)))

    measurement = compare.measure(without_eos, goldens)
    assert not gate.judge(measurement, [], "fp32", goldens).passed


@pytest.mark.parametrize(
    ("promise", "faulty"),
    [
        ({"default_prompt_name": "query"}, {"call-encode"}),
        (
            {"prompts": {"query": "find: "}},
            {"call-encode-query", "call-encode-document", "prompt query", "prompt Clustering"},
        ),
        ({"lengths": {"document": 9}}, {"call-encode-document"}),
        ({"truncation_side": "left"}, {"length-672"}),
    ],
    ids=["default_prompt_name", "prompts", "lengths", "truncation_side"],
)
def test_a_contract_that_promises_other_texts_fails(
    promise: dict[str, Any], faulty: set[str], subject: tuple[Program, Goldens]
) -> None:
    program, goldens = subject
    other = replace(program, contract=program.contract.with_(**promise))
    faults = compare.token_faults(Tokens(program.tokenizer, other.contract).called, goldens)
    assert faulty <= {fault.id for fault in faults}
    assert not judged(other, goldens).passed


def test_goldens_of_another_model_fail(subject: tuple[Program, Goldens], tmp_path: Path) -> None:
    program, goldens = subject
    shifted = replace(goldens, embeddings=np.roll(goldens.embeddings, 1, axis=0))
    assert not judged(program, shifted).passed
