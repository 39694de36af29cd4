"""A checkpoint that is less than the model, or more, is refused by the names of its tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from goldfold.exporter.driver.preparing import traced
from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import trace
from goldfold.exporter.progress import Stages
from tests import models
from tests.exporter.model.refusing import edit

Tensors = dict[str, torch.Tensor]


def change(folder: Path, how: Callable[[Tensors], Tensors]) -> Path:
    tensors = load_file(folder / "model.safetensors")
    save_file(how(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without(word: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: t for name, t in tensors.items() if word not in name}


@pytest.mark.parametrize(
    ("kind", "word", "named"),
    [
        ("bert", "LayerNorm", "'embeddings.LayerNorm.bias'"),
        ("bert", "bias", "'embeddings.LayerNorm.bias'"),
        ("gemma3", "q_norm", "'layers.0.self_attn.q_norm.weight'"),
        ("bert", "encoder.layer.1.intermediate", "'encoder.layer.1.intermediate.dense.bias'"),
        ("bert", "word_embeddings", "'embeddings.word_embeddings.weight'"),
    ],
)
def test_tensors_that_would_be_made_up(kind: str, word: str, named: str, tmp_path: Path) -> None:
    folder = change(models.build(kind, tmp_path / kind), without(word))
    with pytest.raises(ModelError, match=f"lacks {named}.*make up.*--allow-incomplete") as caught:
        trace(open_model(folder))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_layers_that_the_config_leaves_out(tmp_path: Path) -> None:
    folder = models.build("bert", tmp_path / "bert")
    edit(folder / "config.json", lambda config: config.update(num_hidden_layers=2))
    named = r"'encoder\.layer\.2\.attention\.output\.LayerNorm\.bias'"
    with pytest.raises(ModelError, match=f"holds {named}.* and 13 more, which nothing .* reads"):
        trace(open_model(folder))


def test_layers_that_the_checkpoint_lacks(tmp_path: Path) -> None:
    folder = models.build("bert", tmp_path / "bert")
    edit(folder / "config.json", lambda config: config.update(num_hidden_layers=4))
    with pytest.raises(ModelError, match=r"lacks 'encoder\.layer\.3\."):
        trace(open_model(folder))


def test_a_tensor_of_another_size_is_named(tmp_path: Path) -> None:
    name = "encoder.layer.0.intermediate.dense.weight"
    folder = change(
        models.build("bert", tmp_path / "bert"), lambda t: {**t, name: torch.zeros(128, 48)}
    )
    said = (
        rf"tensor '{name}' is \[128, 48\] in the checkpoint, and config\.json makes it \[96, 48\]"
    )
    with pytest.raises(ModelError, match=said):
        trace(open_model(folder))
    with pytest.raises(ModelError, match=said):  # that is no matter of completeness
        trace(open_model(folder, allow_incomplete=True))


def test_what_no_embedding_reads_may_be_missing_and_a_head_may_be_there(tmp_path: Path) -> None:
    def as_on_the_hub(tensors: Tensors) -> Tensors:
        """A masked language model's checkpoint, under its prefix, and without a pooler."""
        kept = {f"bert.{name}": t for name, t in tensors.items() if "pooler" not in name}
        return {**kept, "cls.predictions.bias": torch.zeros(400)}

    folder = change(models.build("bert", tmp_path / "bert"), as_on_the_hub)
    (note,) = trace(open_model(folder)).notes
    assert note.endswith("takes no part in an embedding: 'cls.predictions.bias'.")


def test_a_further_layer_under_a_prefix_is_seen(tmp_path: Path) -> None:
    folder = change(
        models.build("bert", tmp_path / "bert"),
        lambda tensors: {f"bert.{name}": t for name, t in tensors.items()},
    )
    edit(folder / "config.json", lambda config: config.update(num_hidden_layers=2))
    with pytest.raises(ModelError, match=r"holds '(bert\.)?encoder\.layer\.2\."):
        trace(open_model(folder))


def test_who_knows_better_is_believed_and_the_manifest_says_so(tmp_path: Path) -> None:
    folder = change(models.build("gemma3", tmp_path / "gemma3"), without("q_norm"))
    notes = trace(open_model(folder, allow_incomplete=True)).notes
    assert notes[0].startswith("The checkpoint lacks 'layers.0.self_attn.q_norm.weight'")


def test_what_was_allowed_once_is_not_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from goldfold.exporter.system.cache import Cache

    cache = Cache(tmp_path / "stages")
    folder = change(models.build("bert", tmp_path / "bert"), without("LayerNorm"))
    traced(open_model(folder, allow_incomplete=True), Stages(None), cache=cache)
    assert not cache.entries()
    with pytest.raises(ModelError, match="lacks"):
        traced(open_model(folder), Stages(None), cache=cache)
