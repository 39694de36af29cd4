"""Chat templates around texts: a fixed frame becomes part of the tokenizer, others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from goldfold import export
from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import trace
from goldfold.golden.errors import GoldenError
from goldfold.golden.witness import read
from tests import models
from tests.exporter.model.refusing import edit
from tests.exporter.test_lengths import exported, same

IN_LINE = (
    "{{ bos_token }}{% for m in messages %}{% for part in m.content %}{{ part.text }}"
    "{% endfor %}{% endfor %}{{ eos_token }}"
)
TURNS = "{{ bos_token }}{% for m in messages %}<unk>{{ m.content }}<eos>{% endfor %}<pad><eos>"
NAMED = "{% for m in messages %}<bos>{{ m.role }}\n{{ m.content }}<eos>\n{% endfor %}"
TRIMMED = "{{ bos_token }}{% for m in messages %}{{ m.content | trim }}{% endfor %}{{ eos_token }}"
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


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (NAMED, "next to the text, which is read together with the text's letters"),
        (TRIMMED, "makes other tokens of ' +blanks +around +' than fixed ones"),
        (TURNS, "puts the prompt 'query' elsewhere than right before the text"),
        (BY_TASK, "puts a query elsewhere than right before the text"),
    ],
)
def test_other_templates_are_refused(template: str, said: str, tmp_path: Path) -> None:
    prompts = {"query": "query: "} if template == TURNS else {}
    folder = chatting(tmp_path / "m", template, prompts=prompts)
    with pytest.raises(ModelError, match=said) as caught:
        trace(open_model(folder))
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(GoldenError, match=said):
        read(folder)
