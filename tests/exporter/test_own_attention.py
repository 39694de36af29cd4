"""Models whose classes look their attention up in tables of their own, and tables that are as long
as the longest text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from goldfold.exporter.frontend.trace import attention, boundary
from goldfold.exporter.frontend.trace.reasons import why
from tests import models
from tests.exporter.test_trace import PROMISED, errors, prepared

BACKBONES = {
    # Its causal table has as many rows as the longest text has tokens.
    "gpt-neo": (
        "GPTNeoConfig",
        "GPTNeoModel",
        {
            "hidden_size": 48,
            "num_layers": 2,
            "num_heads": 3,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
            "max_position_embeddings": models.MAX_LENGTH,
        },
    ),
    "falcon": (
        "FalconConfig",
        "FalconModel",
        {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3},
    ),
}
GUARD = "Constraints violated (tokens)!\n - Not all values satisfy the generated guard {}\n"


@pytest.mark.parametrize("kind", BACKBONES)
def test_own_tables_of_attention_are_traced_eagerly(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(models._BACKBONES, kind, BACKBONES[kind])
    folder = models.build(kind, tmp_path / kind)
    program = prepared(folder)
    (note,) = program.notes
    assert note == (
        "traced with eager attention, masks included: "
        "its class has a table of attentions of its own"
    )
    assert max(errors(program, folder, (1, 40, models.MAX_LENGTH))) <= PROMISED


def test_a_boundary_at_the_longest_text_is_left_out() -> None:
    asked: list[int] = []

    def export(most: int) -> torch.export.ExportedProgram:
        asked.append(most)
        if most == 600:
            raise RuntimeError(GUARD.format("tokens != 600"))
        return None  # type: ignore[return-value]

    boundary.at_the_end(export, 600)
    assert asked == [600, 599]


def test_a_condition_elsewhere_is_refused() -> None:
    asked: list[int] = []

    def export(most: int) -> torch.export.ExportedProgram:
        asked.append(most)
        raise RuntimeError(GUARD.format("L['input_ids'].size()[1] % 16 == 0"))

    with pytest.raises(RuntimeError) as caught:
        boundary.at_the_end(export, 600)
    assert asked == [600, 599]
    assert why(caught.value) == (
        "its Python code computes in another way for some numbers of tokens (it was traced for "
        "those of tokens % 16 == 0), and a graph computes the same for all"
    )


@pytest.mark.parametrize(("window", "causal"), [(4096, True), (4096, False), (601, True)])
def test_a_window_longer_than_any_text_is_none(window: int, causal: bool) -> None:
    def sees(batch: torch.Tensor, head: torch.Tensor, i: torch.Tensor, j: torch.Tensor):
        near = (i - j).abs() < window
        return near & (j <= i) if causal else near

    assert attention.probe(sees, models.MAX_LENGTH) == attention.Mask(0, causal)
