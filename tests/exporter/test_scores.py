"""Models that score pairs of texts, from the folder to `predict` and `rank`."""

from __future__ import annotations

import asyncio
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from typer.testing import CliRunner

from goldfold import ModelError, Result, TextError, UsageError, export, load, verify
from goldfold.exporter.artifact.scorer import ACTIVATIONS
from goldfold.exporter.cli.app import app
from goldfold.exporter.frontend.tokens import _shared
from goldfold.exporter.frontend.trace import scoring
from tests import models, rankers
from tests.loaders import without_goldfold

UNSEEN = [
    ("how do glaciers move", "Glaciers slide and deform under their own weight."),
    ("bread 🍞 and cheese", "Le marché ouvre à sept heures."),
    ("", "an empty query"),
    ("an empty document", ""),
    ("x", "a text that spells [SEP] and goes on"),
    ("long " * 40, "short"),
    ("short", "long " * 40),
    ("long " * 40, "long as well " * 40),
    ("Два моста", "  blanks  around  "),
]
CLOSE = 4e-6


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rankers")


def built(room: Path, name: str) -> Path:
    folder = room / "models" / name
    if not folder.is_dir():
        kind, _, form = name.partition("-")
        if kind == "generative":
            how = {"template": rankers.CHATML, "length": 240} if form else {}
            rankers.build_generative(folder, **how)
        else:
            rankers.build(kind, folder, 3 if kind == "deberta" else 1, form)
    return folder


def exported(room: Path, name: str, target: str = "onnxruntime", precision: str = "fp32") -> Result:
    out = room / name
    (result,) = export(built(room, name), [target], [precision], out, cache=False)
    return result


@pytest.mark.parametrize(
    "name",
    ["bert-saved", "bert-hub", "deberta-saved", "qwen3-hub", "generative", "generative-chatml"],
)
def test_scores_are_the_references(room: Path, name: str) -> None:
    result = exported(room, name)
    assert result.status == "passed", result.verdict.sentences
    scorer = load(result.path)
    reference = CrossEncoder(str(built(room, name)), device="cpu")
    wanted = reference.predict(UNSEEN)
    found = scorer.predict(UNSEEN)
    assert found.shape == wanted.shape and found.dtype == np.float32
    assert np.abs(found - wanted).max() < CLOSE
    assert np.abs(scorer.predict(UNSEEN[0]) - wanted[0]).max() < CLOSE
    logits = reference.predict(UNSEEN, activation_fn=torch.nn.Identity())
    assert np.abs(scorer.predict(UNSEEN, activation="identity") - logits).max() < CLOSE
    if wanted.ndim == 1:
        documents = [document for _, document in UNSEEN]
        theirs = reference.rank("which text", documents, top_k=4, return_documents=True)
        ours = scorer.rank("which text", documents, top_k=4, return_documents=True)
        assert [one["corpus_id"] for one in ours] == [one["corpus_id"] for one in theirs]
        assert [one["text"] for one in ours] == [one["text"] for one in theirs]
    else:
        with pytest.raises(UsageError, match="no one score to rank by, but labels"):
            scorer.rank("which text", ["a"])
        soft = reference.predict(UNSEEN, apply_softmax=True)
        assert np.abs(scorer.predict(UNSEEN, apply_softmax=True) - soft).max() < CLOSE
    plain, few = without_goldfold(
        result.path, [("predict", [UNSEEN], {}), ("predict", [UNSEEN], {"batch_size": 2})]
    )
    assert np.array_equal(plain, found)
    assert np.array_equal(few, scorer.predict(UNSEEN, batch_size=2))
    text = (result.path / "README.md").read_text("utf-8")
    assert "scorer.predict([" in text and "## Prompts" not in text and "logit error" in text


@pytest.mark.parametrize(
    ("target", "precision"), [("openvino", "int8-weights"), ("onnxruntime", "int8")]
)
def test_integers(room: Path, target: str, precision: str) -> None:
    result = exported(room, "bert-hub", target, precision)
    assert result.passed, result.verdict.sentences
    again = verify(result.path, model=built(room, "bert-hub"))
    assert again.passed, again.verdict.sentences


def streamed(scorer: Any, wanted: np.ndarray) -> None:
    """Streams, and batches across callers, give what `predict` does."""
    parts = list(scorer.predict_stream(iter(UNSEEN), window=4))
    assert [len(part) for part in parts] == [4, 4, 1]
    assert np.abs(np.concatenate(parts) - wanted).max() < CLOSE
    with pytest.raises(UsageError, match="row 9 is one text; predict takes pairs"):
        list(scorer.predict_stream([*UNSEEN, "alone"], window=4))  # type: ignore[list-item]
    with pytest.raises(UsageError, match="activation is 'relu'"):
        scorer.predict_stream(UNSEEN, activation="relu")

    async def ask() -> list[Any]:
        return await asyncio.gather(*(scorer.apredict(pair) for pair in UNSEEN))

    found = asyncio.run(ask())
    assert np.abs(np.array(found) - wanted).max() < CLOSE
    assert max(scorer.batcher.requests_a_batch) > 1


def test_any_number_of_threads(room: Path) -> None:
    scorer = load(exported(room, "bert-saved").path)
    wanted = scorer.predict(UNSEEN, batch_size=1)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda at: scorer.predict(UNSEEN[at % 9]), range(144)))
    assert np.abs(np.array(found) - np.tile(wanted, 16)).max() < CLOSE
    streamed(scorer, wanted)


def test_labels_have_their_names(room: Path) -> None:
    folder = room / "models" / "named"
    shutil.copytree(built(room, "deberta-saved"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "contradiction", "1": "entailment", "2": "neutral"}
    config["label2id"] = {name: int(at) for at, name in config["id2label"].items()}
    (folder / "config.json").write_text(json.dumps(config))
    (result,) = export(folder, ["onnxruntime"], out=room / "named", cache=False)
    contract = load(result.path).contract
    assert contract.labels == ("contradiction", "entailment", "neutral")
    assert (contract.task, contract.output, contract.dim) == ("scores", "logits", 3)


def test_a_call_of_another_task_is_refused(room: Path) -> None:
    scorer = load(exported(room, "bert-saved").path)
    for call in (scorer.embed, scorer.encode):
        with pytest.raises(UsageError, match="scores pairs of texts, so it has no"):
            call(["a text"])
    models.build("bert", room / "models" / "embedder", max_seq_length=40)
    (result,) = export(room / "models" / "embedder", ["onnxruntime"], out=room / "e", cache=False)
    encoder = load(result.path)
    with pytest.raises(UsageError, match="embeds texts, so it has no predict"):
        encoder.predict([("a", "b")])
    with pytest.raises(UsageError, match="embeds texts, so it has no rank"):
        encoder.rank("a", ["b"])
    assert np.array_equal(encoder.encode("a text"), encoder.embed(["a text"])[0])
    rows = encoder.encode(["one", "two"])
    assert np.allclose(np.diag(encoder.similarity(rows, rows)), 1)


def test_what_is_no_pair_is_refused(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = load(exported(room, "bert-saved").path)
    for wrong, said in (
        ("a text", "predict takes pairs of texts, not str"),
        (["a text"], "row 0 is one text; predict takes pairs"),
        ([("a", "b", "c")], "row 0 is tuple; predict takes pairs"),
        ([("a", "b"), ("a", 3)], "row 1 is tuple"),
        (3, "predict takes pairs of texts, not int"),
        ([("a", "\ud800")], "half a character"),
    ):
        with pytest.raises(UsageError, match=said):
            scorer.predict(wrong)
    with pytest.raises(TextError, match="spells '\\[SEP\\]' in its first text"):
        scorer.predict([("one", "two"), ("a [SEP] b", "two")])
    monkeypatch.setattr("goldfold.exporter.artifact.streams.WINDOW", 4)
    with pytest.raises(TextError, match="text 6 ") as raised:
        scorer.predict([*[("one", "two")] * 6, ("a [SEP] b", "two"), ("one", "two")])
    assert list(raised.value.reasons) == [6]
    with pytest.raises(UsageError, match="activation is 'relu'"):
        scorer.predict([("a", "b")], activation="relu")
    with pytest.raises(UsageError, match="top_k is 0"):
        scorer.rank("a", ["b"], top_k=0)
    with pytest.raises(UsageError, match="rank takes a document or a list of documents, not int"):
        scorer.rank("a", 3)
    with pytest.raises(UsageError, match="document 1 is NoneType; rank takes strings"):
        scorer.rank("a", ["b", None])
    with pytest.raises(UsageError, match="batch_size is 0"):
        scorer.predict([("a", "b")], batch_size=0)
    assert scorer.predict([]).shape == (0,) and scorer.rank("a", []) == []


def test_a_query_longer_than_the_model_leaves_room_for_nothing_else(room: Path) -> None:
    scorer = load(exported(room, "bert-saved").path)
    (ids,) = scorer.called([("long " * 9000, "long " * 9000)], "predict")
    assert len(ids) == rankers.LONGEST
    reference = CrossEncoder(str(built(room, "bert-saved")), device="cpu")
    wanted = reference.preprocess([("long " * 900, "long " * 900)])["input_ids"][0].tolist()
    assert ids == wanted


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation_fn": "torch.nn.modules.activation.ReLU"}, "its activation_fn is ReLU"),
        ({"prompts": {"q": "rank: "}, "default_prompt_name": "q"}, "its scores need a prompt"),
    ],
)
def test_what_the_graph_cannot_carry_is_refused(
    room: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    shutil.copytree(built(room, "bert-saved"), tmp_path / "model")
    file = tmp_path / "model" / "config_sentence_transformers.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ModelError, match=said):
        export(tmp_path / "model", ["onnxruntime"], out=tmp_path / "out", cache=False)
    with pytest.raises(UsageError, match="--dims: the model gives no embedding"):
        export(built(room, "bert-saved"), ["onnxruntime"], out=tmp_path / "out", dims=[1])


def test_a_template_that_does_more_than_to_stand_around_is_refused(tmp_path: Path) -> None:
    loud = rankers.TEMPLATE.replace(
        "{{ m.content }}{% endif %}", "{{ m.content | upper }}{% endif %}"
    )
    folder = rankers.build_generative(tmp_path / "model", loud)
    with pytest.raises(ModelError, match="only a fixed frame is supported"):
        export(folder, ["onnxruntime"], out=tmp_path / "out", cache=False)


@pytest.mark.parametrize("fault", ["segments", "rows", "scale"])
def test_a_wrong_graph_misses_the_gate(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    own = scoring.parts_of

    def parts(model):
        trunk, output, stages = own(model)
        classifier = model[0].auto_model.classifier
        if fault == "scale":
            stages = [*stages, _Scaled()]
        elif fault == "rows":
            with torch.no_grad():
                classifier.weight.copy_(classifier.weight.roll(1, dims=1))
        return trunk, output, stages

    if fault == "segments":
        monkeypatch.setattr(scoring, "segments", lambda ids, separator: torch.zeros_like(ids))
        monkeypatch.setattr(scoring, "_separator", lambda model: 1)
    monkeypatch.setattr(scoring, "parts_of", parts)
    result = export(built(room, "bert-saved"), ["onnxruntime"], out=tmp_path, cache=False)[0]
    assert not result.passed
    assert any(one.kind == "score" for one in result.verdict.reasons)


class _Scaled(torch.nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x * 1.0001


def test_truncated_pairs_are_the_librarys() -> None:
    tokenizer = Tokenizer(WordLevel({"x": 0, "[S]": 1}, unk_token="x"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[S] $A", pair="[S] $A [S] $B", special_tokens=[("[S]", 1)]
    )
    for one, other, room in product(range(9), range(9), range(3, 16)):
        tokenizer.enable_truncation(room + 2, strategy="longest_first")
        kinds = tokenizer.encode("x " * one, "x " * other).sequence_ids
        assert (kinds.count(0), kinds.count(1)) == _shared(one, other, room), (one, other, room)


def test_activations_are_torchs() -> None:
    logits = np.array([[-900.0, -3.0, 0.0, 2.5, 900.0]], np.float32)
    for name, module in (
        ("identity", torch.nn.Identity()),
        ("sigmoid", torch.nn.Sigmoid()),
        ("tanh", torch.nn.Tanh()),
    ):
        assert np.allclose(ACTIVATIONS[name](logits), module(torch.from_numpy(logits)), atol=1e-7)


def test_the_shell_ranks(room: Path) -> None:
    folder = str(exported(room, "bert-saved").path)
    run = CliRunner().invoke(app, ["rank", folder, "a query", "one", "two [b]", "--json"])
    assert run.exit_code == 0, run.output
    found = json.loads(run.stdout)
    assert {one["text"] for one in found} == {"one", "two [b]"}
    assert found[0]["score"] >= found[1]["score"]
    run = CliRunner().invoke(app, ["rank", folder, "a query", "one", "two [b]"])
    assert "two [b]" in run.stdout
