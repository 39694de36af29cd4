"""The shell on an artifact that gives a vector for each token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from goldfold import export, load
from tests import late_models
from tests.exporter.cli.outcome import Run, refused

DOCUMENTS = ["Bread and cheese.", "Glaciers slide; they deform.", "Nothing"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tokenwise")
    (made,) = export(late_models.build("bert", place), ["onnxruntime"], ["fp32"], place / "out")
    return made.path


def test_rank_is_by_maxsim(goldfold: Run, folder: Path) -> None:
    asked = ("rank", folder, "how do glaciers move", *DOCUMENTS)
    found = json.loads(goldfold(*asked, "--json", "--top-k", "2").out)
    assert found == load(folder).rank("how do glaciers move", DOCUMENTS, 2, True)
    said = goldfold(*asked).out
    assert [said.index(one["text"]) for one in found] == sorted(
        said.index(one["text"]) for one in found
    )


def test_embed_says_what_to_call(goldfold: Run, folder: Path, tmp_path: Path) -> None:
    said = "gives a vector for each token, so it has no embed; call encode_query"
    refused(goldfold("embed", folder, "words"), 2, said)
    refused(goldfold("embed", folder, "words", "--save", tmp_path / "x.npy"), 2, said)
    assert not (tmp_path / "x.npy").exists()


def test_inspect_counts_tokens(goldfold: Run, folder: Path) -> None:
    assert f"tokens × {late_models.DIM} × float32" in goldfold("inspect", folder).out
