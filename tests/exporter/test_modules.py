"""Modules of embedding models beside the plain chain, through the public export: pooling that
leaves prompts out, routes, modules on tokens, modules of the model's own code."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import (
    Pooling,
    StaticEmbedding,
    WeightedLayerPooling,
    WordWeights,
)

from goldfold import export, load, verify
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.errors import ModelError, UsageError
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import trace
from goldfold.golden import make as golden_make
from tests import models, static
from tests.exporter.model.refusing import edit

FEW = ("card-query", "german-query", "chinese", "empty", "one-letter", "length-16")
TEXTS = ("A small engine needs clean oil.", "x", "今朝は霧が深く、山の頂上が見えませんでした。")
WIDTH, LENGTH = 48, 64
LIMIT = 1e-8
ALL = ("onnxruntime", "openvino", "coreml")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_make, "make", partial(golden_make.make, only=FEW))


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest 1−cos of two rows."""
    a, b = (x.astype(np.float64) for x in (found, wanted))
    return float((1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).max())


def exported(folder: Path, *targets: str, **how: Any) -> list[Encoder]:
    """The encoders of the artifacts of a folder, each of which passed its gate."""
    out = folder.parent / f"{folder.name}-{how.get('route', 'out')}"
    results = export(folder, targets or ALL, ["fp32"], out, cache=False, **how)
    assert all(result.passed for result in results), [result.bundle.path for result in results]
    return [load(result.path) for result in results]


def trunk(folder: Path, **how: Any) -> Transformer:
    return Transformer(str(models.build("bert", folder, **how)), max_seq_length=LENGTH)


def saved(folder: Path, *modules: torch.nn.Module, **how: Any) -> SentenceTransformer:
    model = SentenceTransformer(modules=list(modules), device="cpu", **how)
    model.save(str(folder), create_model_card=False)
    return SentenceTransformer(str(folder), device="cpu")


# --- prompts that are not pooled


def instructor(folder: Path, kind: str = "t5", **how: Any) -> SentenceTransformer:
    """A model as INSTRUCTOR's: pooling leaves the tokens of an instruction out."""
    prompts = {"query": "Represent the question: ", "document": "Represent: ", "plain": ""}
    how = {"prompts": prompts, "head": ("32 Identity unbiased", "normalize"), **how}
    models.build(kind, folder, max_seq_length=LENGTH, **how)
    edit(folder / "1_Pooling" / "config.json", lambda c: c.update(include_prompt=False))
    return SentenceTransformer(str(folder), device="cpu")


def test_the_tokens_of_a_prompt_are_not_pooled(tmp_path: Path) -> None:
    model = instructor(tmp_path / "m", default_prompt_name="document")
    pooled = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    pooled.set_pooling_include_prompt(True)
    for encoder in exported(tmp_path / "m"):
        contract = encoder.contract
        skipped = contract.unpooled
        assert set(skipped) == {"query", "document"} and skipped["query"] > skipped["document"]
        assert list(contract.outputs)[1:] == [f"sentence_embedding_after_{n}"
                                              for n in sorted(skipped.values())]  # fmt: skip
        for name in ("query", "document", "plain", ""):
            how = {"prompt_name": name} if name else {"prompt": ""}
            assert distance(encoder.embed(TEXTS, name), model.encode(list(TEXTS), **how)) < LIMIT
        assert distance(encoder.embed(TEXTS), model.encode(list(TEXTS))) < LIMIT
        assert distance(encoder.embed_query(TEXTS), model.encode_query(list(TEXTS))) < LIMIT
        asked = pooled.encode(list(TEXTS), prompt_name="query")
        assert distance(encoder.embed(TEXTS, "query"), asked) > 1e-3
        short = encoder.embed(TEXTS, "query", dims=8)
        cut = model.encode(list(TEXTS), prompt_name="query", truncate_dim=8)
        assert distance(short, cut) < LIMIT
        ids = np.array(encoder.tokenize([contract.prompts["query"] + TEXTS[0]]))
        found = encoder.run(ids, np.ones_like(ids), prompt="query")
        assert distance(found, encoder.embed(TEXTS[0], "query")) < LIMIT
        with pytest.raises(UsageError, match="has no prompt 'nonsuch'"):
            encoder.run(ids, np.ones_like(ids), prompt="nonsuch")
    (note,) = encoder.bundle.manifest.notes[:1]
    assert "leaves the tokens of a prompt out" in note
    checked = verify(encoder.bundle.path, model=tmp_path / "m")
    assert checked.passed


def test_each_way_of_pooling_leaves_them_out(tmp_path: Path) -> None:
    modes = ("cls", "lasttoken", "max", "weightedmean", "mean_sqrt_len_tokens")
    model = instructor(tmp_path / "m", "bert", pooling_mode=modes, head=())
    (encoder,) = exported(tmp_path / "m", "onnxruntime")
    for name in ("query", "document", "plain"):
        found, wanted = encoder.embed(TEXTS, name), model.encode(list(TEXTS), prompt_name=name)
        for at in range(len(modes)):
            part = slice(at * WIDTH, (at + 1) * WIDTH)
            assert distance(found[:, part], wanted[:, part]) < LIMIT, modes[at]


def test_what_does_not_go_with_prompts_that_are_not_pooled(tmp_path: Path) -> None:
    instructor(tmp_path / "m", "bert")
    with pytest.raises(UsageError, match="--dims: m leaves prompts out of its pooling"):
        exported(tmp_path / "m", "onnxruntime", dims=[8])
    with pytest.raises(UsageError, match="--max-length 8: m has the prompt 'query', which alone"):
        exported(tmp_path / "m", "onnxruntime", max_length=8)


# --- routes


def routed(folder: Path) -> SentenceTransformer:
    """A table for queries, a transformer for documents, and a normalisation of both."""
    words = static.tokenizer()
    torch.manual_seed(3)
    table = StaticEmbedding(words, embedding_weights=torch.randn(words.get_vocab_size(), WIDTH))
    document = [trunk(folder.parent / "trunk"), Pooling(WIDTH, "mean")]
    router = Router.for_query_document([table], document)
    prompts = {"query": "q: ", "document": "d: "}
    return saved(folder, router, Normalize(), prompts=prompts)


def test_a_route_is_an_artifact(tmp_path: Path) -> None:
    model = routed(tmp_path / "m")
    with pytest.raises(UsageError, match="m has the routes query, document: name one with --route"):
        exported(tmp_path / "m", "onnxruntime")
    with pytest.raises(UsageError, match="--route answer: m has the routes query, document"):
        exported(tmp_path / "m", "onnxruntime", route="answer")
    for encoder in exported(tmp_path / "m", route="query"):
        assert (encoder.contract.model, encoder.contract.route) == ("m-query", "query")
        found, wanted = encoder.encode_query(list(TEXTS)), model.encode_query(list(TEXTS))
        assert distance(found, wanted) < LIMIT
        with pytest.raises(UsageError, match="m-query is the query route of its model"):
            encoder.embed_document("x")
    (encoder,) = exported(tmp_path / "m", "openvino", route="document")
    found, wanted = encoder.embed_document(TEXTS), model.encode_document(list(TEXTS))
    assert distance(found, wanted) < LIMIT
    assert distance(encoder.embed(TEXTS), model.encode(list(TEXTS))) < LIMIT  # its default route
    assert verify(encoder.bundle.path, model=tmp_path / "m").passed


def test_a_router_behind_the_transformer_as_older_versions_wrote_it(tmp_path: Path) -> None:
    folder, names = tmp_path / "m", ("query", "doc")
    torch.manual_seed(5)
    router = Router({name: [Dense(WIDTH, 24)] for name in names})
    saved(folder, trunk(tmp_path / "trunk"), Pooling(WIDTH, "mean"), router, Normalize())
    place = folder / "2_Router"
    (place / "router_config.json").unlink()
    for name in names:
        (place / f"{name}_0_Dense").rename(place / f"{name}-0")
    old = {
        "types": {f"{name}-0": "sentence_transformers.models.Dense" for name in names},
        "structure": {name: [f"{name}-0"] for name in names},
        "parameters": {"allow_empty_key": True},
    }
    (place / "config.json").write_text(json.dumps(old), "utf-8")
    dotted = "sentence_transformers.models.Asym"
    edit(folder / "modules.json", lambda modules: modules[2].update(type=dotted))
    model = SentenceTransformer(str(folder), device="cpu")
    (encoder,) = exported(folder, "onnxruntime", route="doc")
    assert distance(encoder.embed(TEXTS), model.encode(list(TEXTS), task="doc")) < LIMIT
    assert distance(encoder.embed(TEXTS), model.encode(list(TEXTS), task="query")) > 1e-3


# --- modules on the vectors of tokens


def test_dense_and_normalize_before_pooling(tmp_path: Path) -> None:
    torch.manual_seed(5)
    name = "token_embeddings"
    model = saved(
        tmp_path / "m",
        trunk(tmp_path / "trunk"),
        Dense(WIDTH, 32, module_input_name=name),
        Normalize(module_input_name=name),
        Pooling(32, "mean"),
    )
    for encoder in exported(tmp_path / "m"):
        assert not encoder.contract.normalized and encoder.contract.dim == 32
        assert distance(encoder.embed(TEXTS), model.encode(list(TEXTS))) < LIMIT


def test_weighted_layers(tmp_path: Path) -> None:
    folder = models.build("bert", tmp_path / "trunk")
    edit(folder / "config.json", lambda c: c.update(output_hidden_states=True))
    weights = torch.nn.Parameter(torch.tensor([0.3, 1.2, 0.7]))
    layers = WeightedLayerPooling(WIDTH, 3, layer_start=1, layer_weights=weights)
    first = Transformer(str(folder), max_seq_length=LENGTH)
    model = saved(tmp_path / "m", first, layers, Pooling(WIDTH, "mean"), Normalize())
    for encoder in exported(tmp_path / "m"):
        assert distance(encoder.embed(TEXTS), model.encode(list(TEXTS))) < LIMIT
    last = saved(tmp_path / "last", first, Pooling(WIDTH, "mean"), Normalize())
    assert distance(last.encode(list(TEXTS)), model.encode(list(TEXTS))) > 1e-3


def test_words_have_weights(tmp_path: Path) -> None:
    first = trunk(tmp_path / "trunk")
    ids = first.tokenizer.get_vocab()
    drawn = np.random.default_rng(1).uniform(0.1, 1.5, len(ids))
    words = sorted(ids, key=lambda word: ids[word])
    weights = WordWeights(words, dict(zip(words, drawn.tolist(), strict=True)))
    modes = ("mean", "mean_sqrt_len_tokens", "weightedmean")
    model = saved(tmp_path / "m", first, weights, Pooling(WIDTH, modes))
    for encoder in exported(tmp_path / "m"):
        assert distance(encoder.embed(TEXTS), model.encode(list(TEXTS))) < LIMIT


# --- the model's own code

CODE = '''
import torch
from transformers import AutoModel, AutoTokenizer
from sentence_transformers.base.modules import Transformer as Base

class Louder(Base):
    def forward(self, features, **how):
        features = super().forward(features, **how)
        features["token_embeddings"] = 2 * features["token_embeddings"] - 1
        return features

class Asking(Base):
    def forward(self, features, **how):
        features = super().forward(features, **how)
        features["token_embeddings"] = features["token_embeddings"] * features["task_id"]
        return features

class Older(torch.nn.Module):
    """As modules were once written: it tokenizes, and cuts, itself."""

    def __init__(self, model_name_or_path, max_seq_length=None, model_args=None, **how):
        super().__init__()
        self.auto_model = AutoModel.from_pretrained(model_name_or_path, **(model_args or {}))
        self.tokenizer = AutoTokenizer.from_pretrained(model_name_or_path)
        self.max_seq_length = max_seq_length

    @staticmethod
    def load(input_path):
        return Older(input_path)

    def tokenize(self, texts, padding=True):
        how = {"truncation": True, "max_length": self.max_seq_length, "return_tensors": "pt"}
        return dict(self.tokenizer(texts, padding=padding, **how))

    def forward(self, features, task=None):
        found = self.auto_model.forward(**features, return_dict=False)
        features["token_embeddings"] = found[0]
        return features

class Words(torch.nn.Module):
    @classmethod
    def load(cls, path):
        return cls()

class Centred(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(48, 24)

    @classmethod
    def load(cls, path):
        from safetensors.torch import load_model
        made = cls()
        load_model(made, path + "/model.safetensors")
        return made

    def forward(self, features):
        x = features["sentence_embedding"]
        features["sentence_embedding"] = self.linear(x - x.mean(-1, keepdim=True))
        return features
'''


def own(folder: Path, place: int, name: str) -> Path:
    """A model whose module at `place` is the class of that name, of the folder's own code."""
    models.build("bert", folder, max_seq_length=LENGTH)
    (folder / "own_st.py").write_text(CODE, "utf-8")
    edit(folder / "modules.json", lambda modules: modules[place].update(type=f"own_st.{name}"))
    return folder


def test_a_transformer_of_the_models_own_code(tmp_path: Path) -> None:
    folder = own(tmp_path / "m", 0, "Louder")
    with pytest.raises(ModelError, match=r"would run code .* then pass --trust-remote-code"):
        open_model(folder)
    model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    for encoder in exported(folder, trust_remote_code=True):
        assert distance(encoder.embed(TEXTS), model.encode(list(TEXTS))) < LIMIT


def test_a_transformer_as_older_models_have_it(tmp_path: Path) -> None:
    folder = own(tmp_path / "m", 0, "Older")
    edit(folder / "sentence_bert_config.json", lambda c: c.update(max_seq_length=LENGTH))
    model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    (encoder,) = exported(folder, "onnxruntime", trust_remote_code=True)
    long = [*TEXTS, "words " * 200]
    assert distance(encoder.embed(long), model.encode(long)) < LIMIT


def test_a_module_of_the_models_own_code_behind_pooling(tmp_path: Path) -> None:
    folder = own(tmp_path / "m", 2, "Centred")
    place = folder / json.loads((folder / "modules.json").read_text("utf-8"))[2]["path"]
    place.mkdir(exist_ok=True)
    torch.manual_seed(5)
    state = torch.nn.Linear(WIDTH, 24).state_dict()
    save_file(
        {f"linear.{name}": value for name, value in state.items()}, place / "model.safetensors"
    )
    model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    (encoder,) = exported(folder, "onnxruntime", trust_remote_code=True)
    assert distance(encoder.embed(TEXTS), model.encode(list(TEXTS))) < LIMIT
    derived = (encoder.bundle.path / "derivations.txt").read_text("utf-8")
    assert f'tensor("{place.name}/model.safetensors", "linear.weight")' in derived


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Asking", r"its first module Asking.* makes no token_embeddings .* KeyError: 'task_id'"),
        ("Words", "its first module Words is of the model's own code, and has no auto_model"),
    ],
)
def test_own_code_that_asks_for_more(name: str, said: str, tmp_path: Path) -> None:
    source = open_model(own(tmp_path / "m", 0, name), trust_remote_code=True)
    with pytest.raises(ModelError, match=said) as caught:
        trace(source)
    assert len(str(caught.value).splitlines()) == 1
