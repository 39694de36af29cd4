"""An artifact whose texts do not become the source's tokens, or whose contract is not the source's,
fails, however well its manifest agrees with its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from goldfold import export, verify
from goldfold.exporter.artifact import sidecars
from goldfold.exporter.artifact.bundle import digest
from goldfold.exporter.artifact.result import Result
from goldfold.exporter.driver import exporting
from goldfold.exporter.errors import ArtifactError, UsageError
from goldfold.golden import store
from tests import models
from tests.conftest import Exported
from tests.torture.tortures.damage import reseal, write_manifest


@pytest.fixture
def artifact(artifacts: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "onnxruntime-fp32"))


@pytest.fixture
def openvino(artifacts: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifacts["openvino"], tmp_path / "openvino-fp32"))


def kinds(result: Result) -> set[str]:
    return {reason.kind for reason in result.verdict.reasons}


def contract(folder: Path, **changes: Any) -> None:
    """Other promises in the manifest, whose own digest is right."""
    record = json.loads((folder / "manifest.json").read_bytes())
    record["contract"].update(changes)
    write_manifest(folder, record)


def unused(folder: Path) -> tuple[str, str]:
    """Two entries of the vocabulary that no golden text has."""
    goldens = store.load(folder / "golden")
    used = {id_ for case in goldens.cases for id_ in case.token_ids}
    vocabulary = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    rare = [token for token, id_ in vocabulary.items() if id_ not in used and len(token) > 1]
    return rare[-1], rare[-2]


def exchanged(text: str, one: str, other: str) -> str:
    """A tokenizer.json with two ids exchanged."""
    said = json.loads(text)
    known = said["model"]["vocab"]
    known[one], known[other] = known[other], known[one]
    return json.dumps(said, ensure_ascii=False)


def exchange(folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text(exchanged(file.read_text("utf-8"), *unused(folder)), "utf-8")


# --- tokens


def test_unharmed_artifacts_pass_with_and_without_their_source(
    artifact: Path, openvino: Path, tiny: Path
) -> None:
    for folder in (artifact, openvino):
        assert verify(folder).passed
        assert verify(folder, model=str(tiny)).passed


def test_two_rare_words_exchanged_fail_an_export(
    exported: Exported, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden")
    write = sidecars.write

    def wrong(*args: Any) -> None:
        write(*args)
        exchange(args[-1])

    monkeypatch.setattr(exporting, "obtain_goldens", lambda *args: goldens)
    monkeypatch.setattr(sidecars, "write", wrong)
    (result,) = export(tiny, ["onnxruntime"], ["fp32"], tmp_path / "out")
    assert not result.passed and kinds(result) == {"tokenizer"}
    (sentence,) = result.verdict.sentences
    assert "2 of 400 entries of the vocabulary differ" in sentence
    assert result.bundle.verdict is not None and result.bundle.verdict.location is None


def test_two_rare_words_exchanged_fail_a_verification(artifact: Path, tiny: Path) -> None:
    exchange(artifact)
    reseal(artifact)
    without = verify(artifact)
    assert kinds(without) == {"tokenizer"}
    assert "is not the file that its export proved" in without.verdict.sentences[0]
    record = artifact / "golden" / "source.json"
    said = json.loads(record.read_bytes())
    said["tokenizer"] = digest(artifact / "tokenizer.json")
    record.write_text(json.dumps(said))
    reseal(artifact)
    assert verify(artifact).passed  # nothing here can tell any more, but the source
    found = verify(artifact, model=str(tiny))
    assert kinds(found) == {"tokenizer"} and "entries of the vocabulary differ" in str(
        found.verdict.sentences
    )


def test_drawn_texts_are_compared_where_the_library_is_another(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = artifact / "golden" / "source.json"
    said = json.loads(record.read_bytes())
    record.write_text(json.dumps({**said, "tokenizers": "0.1"}))
    reseal(artifact)
    assert verify(artifact).passed
    record.write_text(json.dumps({**said, "tokenizers": "0.1", "drawn": "0" * 64}))
    reseal(artifact)
    assert kinds(verify(artifact)) == {"tokenizer"}


def test_a_normalizer_that_does_less_fails_with_the_source(artifact: Path, tiny: Path) -> None:
    file = artifact / "tokenizer.json"
    said = json.loads(file.read_text("utf-8"))
    said["added_tokens"] = said["added_tokens"][:-1]
    file.write_text(json.dumps(said, ensure_ascii=False), "utf-8")
    reseal(artifact)
    found = verify(artifact, model=str(tiny))
    assert "tokenizer" in kinds(found)


def test_an_artifact_without_the_record_is_not_proved(artifact: Path, tiny: Path) -> None:
    (artifact / "golden" / "source.json").unlink()
    said = json.loads((artifact / "manifest.json").read_bytes())
    del said["files"]["golden/source.json"]
    write_manifest(artifact, said)
    found = verify(artifact)
    assert kinds(found) == {"unproved"} and "--model" in found.verdict.sentences[0]
    assert verify(artifact, model=str(tiny)).passed


@pytest.mark.parametrize("raw", [b"[]", b"{", b'{"format": 1}', b'{"format": 9}', b"\xff"])
def test_a_record_that_cannot_be_read_is_named(raw: bytes, artifact: Path) -> None:
    (artifact / "golden" / "source.json").write_bytes(raw)
    reseal(artifact)
    with pytest.raises(ArtifactError, match=r"source\.json is malformed"):
        verify(artifact)


def test_another_source_is_refused(artifact: Path, tmp_path: Path) -> None:
    other = models.build("bert", tmp_path / "bert")
    with pytest.raises(UsageError, match="was not exported from bert"):
        verify(artifact, model=str(other))


# --- the contract

CHANGES: dict[str, dict[str, Any]] = {
    "a default prompt": {"default_prompt_name": "query"},
    "another prompt": {"prompts": {**models.PROMPTS, "query": "find: "}},
    "a prompt less": {"prompts": {"query": models.PROMPTS["query"]}},
    "a prompt more": {"prompts": {**models.PROMPTS, "new": "new: "}},
    "no unit vectors": {"normalized": False},
    "shorter": {"max_length": 128},
    "much shorter": {"max_length": 1},
    "longer": {"max_length": 900},
    "a shorter query": {"lengths": {"query": 16}},
    "another pad": {"pad_id": 7},
    "the other side": {"truncation_side": "left"},
    "a larger vocabulary": {"vocab_size": 500},
    "a smaller vocabulary": {"vocab_size": 300},
    "a head": {"heads": [16]},
    "fewer dimensions": {"dim": 24},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_contract_that_the_source_does_not_state_fails(name: str, artifact: Path) -> None:
    contract(artifact, **CHANGES[name])
    try:
        found = verify(artifact)
    except ArtifactError as error:
        assert "is damaged" in str(error) or "has no output" in str(error)
        return
    assert not found.passed and "contract" in kinds(found)
    said = [one for one in found.verdict.sentences if "manifest says" in one]
    assert any(field in one for one in said for field in CHANGES[name])


@pytest.mark.parametrize("name", [one for one in CHANGES if one not in ("shorter", "a head")])
def test_the_source_itself_says_so_if_the_record_is_changed_too(
    name: str, artifact: Path, tiny: Path
) -> None:
    contract(artifact, **CHANGES[name])
    record = artifact / "golden" / "source.json"
    said = json.loads(record.read_bytes())
    said["contract"].update(CHANGES[name])
    record.write_text(json.dumps(said))
    reseal(artifact)
    try:
        found = verify(artifact, model=str(tiny))
    except ArtifactError as error:
        assert "is damaged" in str(error)
        return
    assert "contract" in kinds(found)


def test_a_contract_that_the_tracer_got_wrong_fails_an_export(
    exported: Exported, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden")

    def traced(*args: Any) -> Any:
        program = exported.copy()
        program.contract = program.contract.with_(pad_id=3, normalized=False, max_length=500)
        return program

    monkeypatch.setattr(exporting, "obtain_goldens", lambda *args: goldens)
    monkeypatch.setattr(exporting, "traced", traced)
    monkeypatch.setattr(exporting, "rewrite", lambda *args: None)
    (result,) = export(tiny, ["onnxruntime"], ["fp32"], tmp_path / "out")
    assert not result.passed
    assert {one.note.split()[3] for one in result.verdict.reasons if one.kind == "contract"} == {
        "max_length", "normalized", "pad_id",
    }  # fmt: skip


# --- companions


def spoilt(change: Callable[[Path], None], folder: Path, tiny: Path) -> Result:
    change(folder)
    reseal(folder)
    return verify(folder)


def test_an_openvino_tokenizer_without_content_fails(openvino: Path) -> None:
    (openvino / "openvino_tokenizer.xml").write_text("<net/>")
    reseal(openvino)
    found = verify(openvino)
    assert kinds(found) == {"companion"}
    assert any("does not run" in one for one in found.verdict.sentences)


def test_an_openvino_tokenizer_of_other_ids_fails_though_the_record_agrees(
    openvino: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    exchange(openvino)  # the same as if the other file were changed
    record = openvino / "golden" / "source.json"
    said = json.loads(record.read_bytes())
    said["tokenizer"] = digest(openvino / "tokenizer.json")
    record.write_text(json.dumps(said))
    reseal(openvino)
    found = verify(openvino)
    assert kinds(found) == {"companion"}
    assert "openvino_tokenizer.xml gives " in found.verdict.sentences[0]


@pytest.mark.parametrize(
    "name",
    ["load.py", "config.json", "tokenizer_config.json", "sentence_bert_config.json"],
)
def test_a_companion_that_the_export_did_not_write_fails(name: str, openvino: Path) -> None:
    with (openvino / name).open("a") as file:
        file.write("\n")
    reseal(openvino)
    found = verify(openvino)
    assert kinds(found) == {"companion"} and name in found.verdict.sentences[0]


@pytest.mark.parametrize(
    "change",
    [
        {"model_max_length": 512}, {"truncation_side": "left"}, {"padding_side": "left"},
        {"pad_token": "<eos>"},
    ],
)  # fmt: skip
def test_settings_that_other_clients_read_are_the_artifacts(
    change: dict[str, Any], artifact: Path
) -> None:
    file = artifact / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | change))
    record = artifact / "golden" / "source.json"
    said = json.loads(record.read_bytes())
    said["companions"]["tokenizer_config.json"] = digest(file)
    record.write_text(json.dumps(said))
    reseal(artifact)
    found = verify(artifact)
    assert kinds(found) == {"companion"} and next(iter(change)) in found.verdict.sentences[0]


def test_a_list_of_special_tokens_that_adds_one_is_not_written(
    exported: Exported, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "tiny-gemma3"))
    (model / "special_tokens_map.json").write_text('{"mask_token": {"content": "lighthouse"}}')
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden")
    monkeypatch.setattr(exporting, "obtain_goldens", lambda *args: goldens)
    (result,) = export(model, ["onnxruntime"], ["fp32"], tmp_path / "out")
    held = (result.path / "special_tokens_map.json").exists()
    notes = " ".join(result.bundle.manifest.built)
    assert result.passed and held != ("special_tokens_map.json is not written" in notes)
