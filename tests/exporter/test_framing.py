"""Chat templates around texts: added tokens become a part of the tokenizer, other fixed text a
frame in the contract, and what is not fixed is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from goldfold import export
from goldfold.exporter.artifact.layout import lay_out
from goldfold.exporter.errors import ModelError, TargetError
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import trace
from tests import models, towers
from tests.exporter.model.refusing import edit
from tests.exporter.test_lengths import exported, same

IN_LINE = (
    "{{ bos_token }}{% for m in messages %}{% for part in m.content %}{{ part.text }}"
    "{% endfor %}{% endfor %}{{ eos_token }}"
)
TURNS = "{{ bos_token }}{% for m in messages %}<unk>{{ m.content }}<eos>{% endfor %}<pad><eos>"
NAMED = "{% for m in messages %}<bos>{{ m.role }}\n{{ m.content }}<eos>\n{% endfor %}"
TRIMMED = "{{ bos_token }}{% for m in messages %}{{ m.content | trim }}{% endfor %}{{ eos_token }}"
CHATML = (
    "<bos>system\nEmbed what the user says.<eos>\n{% for m in messages %}<bos>{{ m.role }}\n"
    "{{ m.content | trim }}<eos>\n{% endfor %}<bos>assistant\n"
)
TURN = (
    "{{ bos_token }}{% for m in messages %}<unk>{{ m.role }}\n"
    "{% for part in m.content if part.type == 'text' %}{{ part.text | trim }}{% endfor %}"
    "<eos>\n{% endfor %}"
)
"""Gemma's turns, with other tokens."""
ODD = (
    "one",
    "",
    "  blanks  around  ",
    "\u2003\x1f wide\u3000",
    "in <eos> and <bos>user\n",
    "assistant",
    "a text that is cut in the middle of its words " * 30,
)
BY_TASK = "{{ bos_token }}{% if task == 'query' %}<unk>{% endif %}{{ messages[0].content }}<eos>"


def chatting(folder: Path, template: str, form: str = "flat", **how) -> Path:
    """A model whose texts go through `template`, a message each."""
    models.build("qwen3", folder, max_seq_length=64, **how)
    (folder / "chat_template.jinja").write_text(template)
    way = {"method": "forward", "method_output_name": "last_hidden_state", "format": form}
    file = folder / "sentence_bert_config.json"
    edit(file, lambda config: config["modality_config"].update(message=way))
    return folder


@pytest.mark.parametrize(
    ("template", "form", "prompts"),
    [(IN_LINE, "structured", models.PROMPTS), (TURNS, "flat", {})],
)
def test_a_fixed_frame_is_exported(
    template: str, form: str, prompts: dict[str, str], tmp_path: Path, monkeypatch
) -> None:
    folder = chatting(tmp_path / "m", template, form, prompts=prompts)
    encoder = exported(folder, monkeypatch, ("length-64", "blank-spaces"))
    same(encoder, folder)
    (ids,) = encoder.tokenize(["one"])
    whole = {IN_LINE: ([2], [1]), TURNS: ([2, 3], [1, 0, 1])}[template]
    assert (ids[: len(whole[0])], ids[-len(whole[1]) :]) == whole
    (cut,) = encoder.tokenize(["one word after another " * 30])
    assert len(cut) == 64 and cut[-len(whole[1]) :] == whole[1]


def test_companions_have_the_frame_as_well(tmp_path: Path) -> None:
    folder = chatting(tmp_path / "m", TURNS, prompts={})
    (result,) = export(folder, ["openvino"], ["fp32"], tmp_path / "out")
    assert result.passed, result.verdict.sentences
    assert (result.path / "openvino_tokenizer.xml").is_file(), result.bundle.manifest.built


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("template", [NAMED, TRIMMED, CHATML], ids=["named", "trimmed", "ChatML"])
def test_letters_beside_a_text_are_a_frame(
    template: str, side: str, tmp_path: Path, monkeypatch
) -> None:
    folder = chatting(tmp_path / "m", template, prompts={})
    edit(folder / "tokenizer_config.json", lambda c: c.update(truncation_side=side))
    encoder = exported(folder, monkeypatch, ("length-64", "blank-spaces"))
    same(encoder, folder)
    model = SentenceTransformer(str(folder), device="cpu")
    for text, ids in zip(ODD, encoder.tokenize(ODD), strict=True):
        assert ids == model.preprocess([text])["input_ids"][0].tolist(), text[:40]
    assert encoder.contract.frame.strip == (template != NAMED)
    assert any("goldfold's load adds it" in note for note in encoder.bundle.manifest.notes)


def test_the_loader_beside_an_artifact_adds_the_frame(tmp_path: Path, monkeypatch) -> None:
    folder = chatting(tmp_path / "m", CHATML, prompts={})
    encoder = exported(folder, monkeypatch, (), "openvino")
    path = encoder.bundle.path
    spec = importlib.util.spec_from_file_location("loader", path / "load.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    model = SentenceTransformer(str(folder), device="cpu")
    for text in ODD:
        assert np.abs(loader.embed([text]) - model.encode([text])).max() < 2e-6, text[:40]
    with pytest.raises(TargetError, match="puts texts into a chat template, which"):
        lay_out(path, "ovms", tmp_path / "laid")


def test_a_frame_within_the_tokenizers_own_tokens(tmp_path: Path, monkeypatch) -> None:
    folder = towers.embeddinggemma2(tmp_path / "m", TURN, prompts={})
    encoder = exported(folder, monkeypatch, ("length-64",), "coreml")
    model = SentenceTransformer(str(folder), device="cpu")
    for text, ids in zip(ODD, encoder.tokenize(ODD), strict=True):
        assert ids == model.preprocess([text])["input_ids"][0].tolist(), text[:40]
    assert not list(encoder.bundle.path.glob("*.swift"))  # it knows no frame


def test_texts_that_a_template_joins(tmp_path: Path, monkeypatch) -> None:
    folder = towers.embeddinggemma2(tmp_path / "m")
    encoder = exported(folder, monkeypatch, ("length-64",))
    same(encoder, folder)
    assert encoder.contract.frame is None


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (TURNS, "puts the prompt 'query' elsewhere than right before the text"),
        (CHATML, "puts the prompt 'query' elsewhere than right before the text"),
        (BY_TASK, "does more with a query than to put fixed text around it"),
        ("<bos>{{ messages[0].content | upper }}<eos>", "leaves a text out, or changes its lett"),
        ("{{ bos_token }}{{ messages[0].content.lstrip() }}", "does more with 'qqq7qqq' than"),
        ("{{ raise_exception('no') }}", "makes no tokens of 'The .*: TemplateError: no"),
    ],
)
def test_other_templates_are_refused(template: str, said: str, tmp_path: Path) -> None:
    prompts = {"query": "query: "} if template in (TURNS, CHATML) else {}
    folder = chatting(tmp_path / "m", template, prompts=prompts)
    with pytest.raises(ModelError, match=said) as caught:
        trace(open_model(folder))
    assert len(str(caught.value).splitlines()) == 1
