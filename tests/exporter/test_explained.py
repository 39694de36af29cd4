"""Artifacts explain themselves: load.py, README.md, and what stands in its front matter."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from goldfold import export, load, verify
from goldfold.exporter import registry
from goldfold.exporter.artifact import bundle, card, readme, recording
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.frontend import model_folder
from goldfold.golden import make as golden_make
from goldfold.golden.reasons import Reason
from tests.conftest import GOLDEN_TEXTS
from tests.loaders import without_goldfold

TARGETS = ("onnxruntime", "openvino")
TEXTS = [
    "which planet is red?", "Größe ﬁne 🍞", "", " blanks  and\ttabs ", "word " * 3000, "x",
    "他们在河边等船", "line\r\nline",
]  # fmt: skip


@pytest.fixture(scope="module")
def integers(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts of integers, by target, with two heads; OpenVINO's with static shapes."""
    few = partial(golden_make.make, only=GOLDEN_TEXTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_make, "make", few)
        out = tmp_path_factory.mktemp("integers")
        build = {"batch": 4, "buckets": (64,)}
        made = export(tiny, list(TARGETS), ["int8"], out, locate=False, dims=[48, 24], build=build)
    return {one.bundle.manifest.target: one.path for one in made}


# --- load.py


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_load_gives_what_goldfold_gives_to_the_bit(
    target: str, kind: str, artifacts: dict[str, Path], integers: dict[str, Path]
) -> None:
    folder = (artifacts if kind == "fp32" else integers)[target]
    encoder = load(folder)
    prompts = sorted(encoder.contract.prompts)
    asked: list[tuple[str, dict[str, Any]]] = [
        ("embed", {}),
        ("embed", {"batch_size": 3}),
        ("embed", {"prompt": prompts[0]}),
        ("embed", {"prompt": ""}),
        ("embed", {"dims": 24}),
        ("embed", {"dims": 10}),
        ("embed_query", {}),
        ("embed_document", {"batch_size": 1, "dims": encoder.contract.dim}),
    ]
    found = without_goldfold(folder, [(name, [TEXTS], how) for name, how in asked])
    for (name, how), rows in zip(asked, found, strict=True):
        assert np.array_equal(rows, getattr(encoder, name)(TEXTS, **how)), (name, how)
    (one, none) = without_goldfold(folder, [("embed", ["one text"], {}), ("embed", [[]], {})])
    assert np.array_equal(one, encoder.embed("one text"))
    assert none.shape == (0, encoder.contract.dim)
    open_bundle(folder)


def test_load_gives_the_goldens(artifacts: dict[str, Path]) -> None:
    from goldfold.golden import store

    goldens = store.load(artifacts["onnxruntime"] / "golden")
    texts = [case.prompt + case.text for case in goldens.cases]
    (rows,) = without_goldfold(artifacts["onnxruntime"], [("embed", [texts, ""], {})])
    one, other = (found.astype(np.float64) for found in (rows, goldens.embeddings))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    assert (1 - (one * other).sum(axis=1) / norms).max() < 1e-8


@pytest.mark.parametrize(
    ("given", "how", "said"),
    [
        ((["a"], "nothing"), {}, "no prompt 'nothing'; there are: "),
        ((["a", 3],), {}, "text 1 is int, and no string"),
        ((["a\ud800"],), {}, "text 0 holds half a character"),
        ((["a"],), {"dims": 0}, "dims is 0; there are 1 …"),
        ((["a"],), {"dims": True}, "dims is True"),
        ((["a"],), {"batch_size": 0}, "batch_size is 0; it must be a whole number from 1"),
        ((["a"],), {"task": "search"}, "task is 'search'"),
        ((["a <image_soft_token>"],), {}, "text 0 has no tokens, or one that the model has no row"),
    ],
)
def test_load_refuses_in_one_line(
    given: tuple[Any, ...], how: dict[str, Any], said: str, artifacts: dict[str, Path]
) -> None:
    (found,) = without_goldfold(artifacts["onnxruntime"], [("embed", given, how)])
    if "image" in str(given) and isinstance(found, np.ndarray):
        pytest.skip("this tokenizer has a row for it")
    assert found.startswith(said) and len(found.splitlines()) == 1


@pytest.mark.parametrize("task", ["embedding", "scores", "sparse", "multi_vector"])
@pytest.mark.parametrize("target", registry.OURS)
def test_every_program_is_python_that_ruff_accepts(
    target: str, task: str, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    contract = open_bundle(artifacts["onnxruntime"]).manifest.contract
    how = {"tokenwise": {}} if task == "multi_vector" else {}
    contract = contract.with_(task=task, **({"tokenwise": _tokenwise()} if how else {}))
    registry.target(target).write_loader(tmp_path, contract, "fp32")
    text = (tmp_path / "load.py").read_text("utf-8")
    assert not re.search("@[A-Z_]+@", text)
    compile(text, "load.py", "exec")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "100",
         "--select", "E,F,W", "--ignore", "E402", str(tmp_path / "load.py")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def _tokenwise() -> Any:
    from goldfold.exporter.contract import Tokenwise

    return Tokenwise()


# --- Core ML


@pytest.fixture(scope="module")
def package(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := registry.target("coreml").unavailable():
        pytest.skip(reason)
    few = partial(golden_make.make, only=GOLDEN_TEXTS[:12])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_make, "make", few)
        out = tmp_path_factory.mktemp("coreml")
        (made,) = export(tiny, ["coreml"], ["fp32"], out, build={"buckets": (16, 64)}, locate=False)
    assert made.status == "proved"
    return made.path


class _Model:
    """Core ML's MLModel, computed by the evaluator: the same arguments, the same dictionaries."""

    def __init__(self, path: str, function_name: str | None = None) -> None:
        from goldfold.targets.coreml.evaluate import Evaluator, Widened
        from goldfold.targets.coreml.package import read

        self.predict = Evaluator(read(Path(path)), function_name or "main", "declared", Widened())


def test_core_mls_program_calls_predict_as_goldfold_does(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Core ML here: what it is called with, and what becomes of its answers, is the same."""
    library: Any = ModuleType("coremltools")
    library.models = ModuleType("coremltools.models")
    library.models.MLModel = _Model
    encoder = load_proof(package)
    wanted = encoder.embed(TEXTS), encoder.embed_query(TEXTS[:3], dims=10)
    monkeypatch.setitem(sys.modules, "coremltools", library)
    spec = importlib.util.spec_from_file_location("loader", package / "load.py")
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    assert np.array_equal(program.embed(TEXTS), wanted[0])
    assert np.array_equal(program.embed_query(TEXTS[:3], dims=10), wanted[1])


def load_proof(folder: Path) -> Any:
    from goldfold.exporter.artifact.encoder import open_encoder

    return open_encoder(open_bundle(folder), proof=True)


def test_swift_has_the_prompts_and_what_its_tokenizer_asks_for(package: Path) -> None:
    contract = open_bundle(package).manifest.contract
    swift = (package / "GoldfoldEncoder.swift").read_text("utf-8")
    for name, text in contract.prompts.items():
        assert f'"{name}": "{text}"' in swift
    assert f'.query: "{contract.prompt_name("query")}"' in swift
    assert json.loads((package / "config.json").read_text("utf-8"))["model_type"]
    assert (package / "tokenizer_config.json").is_file() and "@" not in swift
    said = (package / "Package.swift").read_text("utf-8")
    assert '.iOS("18.0"), .macOS("15.0")' in said and "@" not in said
    assert "not compiled" in (package / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ('a "b" \\(c)', '"a \\"b\\" \\\\(c)"'),
        ("a\nb\t", '"a\\u{A}b\\u{9}"'),
        ("@PAD_ID@ é", '"\\u{40}PAD_ID\\u{40} é"'),
        ("\u202e", '"\\u{202E}"'),
    ],
)
def test_no_prompt_ends_its_string_in_swift(text: str, literal: str) -> None:
    from goldfold.targets.coreml import swift

    assert swift._quoted(text) == literal


# --- README.md


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_readme_is_a_card_whose_lines_run(target: str, artifacts: dict[str, Path]) -> None:
    folder = artifacts[target]
    text = (folder / "README.md").read_text("utf-8")
    said = ModelCard(text).data.to_dict()
    assert said["pipeline_tag"] == "sentence-similarity" and said["library_name"] == "goldfold"
    assert {"goldfold", target, "fp32"} <= set(said["tags"])
    encoder = load(folder)
    for name in encoder.contract.prompts:
        assert f"| `{name}` |" in text
    found = blocks(text, "python")
    assert len(found) == (3 if target == "onnxruntime" else 4)
    own, loader, plain = found[:3]
    code = f"import os, sys\nimport numpy as np\nos.chdir({str(folder.parent)!r})\n{own}\n"
    code += f"sys.dont_write_bytecode = True\nos.chdir({folder.name!r})\nsys.path.insert(0, '.')\n"
    code += "ours = vectors, query\n"
    code += f"{loader}\nassert np.array_equal(ours[0], vectors)\n{plain}\n"
    code += "assert np.abs(ours[1] - vectors).max() < 2e-6, np.abs(ours[1] - vectors).max()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    open_bundle(folder)


def test_readme_shows_the_verdict_that_there_is(artifacts: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "moved"))
    file = folder / "README.md"
    assert "**Passed**" in file.read_text("utf-8")
    file.write_text("# another's: **Passed**, 0.0\n")
    open_bundle(folder)  # it is outside of the digests
    result = verify(folder)
    text = file.read_text("utf-8")
    assert "another's" not in text and 'goldfold.load("moved")' in text
    assert result.bundle.manifest.digest[:16] in text
    verdict = result.bundle.verdict
    assert verdict is not None
    missed = verdict.with_(status="failed", reasons=(Reason("contract", note="Far <b>."),))
    bundle.write_verdict(folder, missed)
    text = file.read_text("utf-8")
    assert "**Failed its gate.**" in text and "Passed" not in text and "<b>" not in text
    proved = {"status": "proved", "stand_in": "a twin", "not_run": "no device is here"}
    bundle.write_verdict(folder, verdict.with_(**proved))
    assert "**Proved, not run**: a twin ran in its place" in file.read_text("utf-8")
    assert "Not run on its device in its precision: no device is here." in file.read_text("utf-8")


def test_no_readme_stays_beside_a_verdict_that_it_does_not_show(
    artifacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "killed"))
    verdict = open_bundle(folder).verdict
    assert verdict is not None
    put = recording._put

    def killed(number: Any, place: Any, name: str, text: str) -> None:
        if name == "README.md":
            raise KeyboardInterrupt
        put(number, place, name, text)

    monkeypatch.setattr(recording, "_put", killed)
    with pytest.raises(KeyboardInterrupt):
        bundle.write_verdict(folder, verdict)
    assert not (folder / "README.md").exists()
    assert open_bundle(folder).verdict == verdict
    monkeypatch.undo()
    outside = tmp_path / "outside"
    outside.write_text("kept")
    (folder / "README.md").symlink_to(outside)
    bundle.write_verdict(folder, verdict)
    assert outside.read_text() == "kept" and not (folder / "README.md").is_symlink()


FRONT = """---
license: other
license_name: gemma-terms
license_link: https://ai.example/terms
language:
- no
- en
- 'de'
tags: [sentence-transformers, "a: b", "# x"]
base_model: someone/else
extra: !!python/object/apply:os.system [echo]
---
# A card
"""


def test_front_matter_keeps_the_licence_and_is_yaml(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(FRONT)
    front = model_folder.front_of(tmp_path / "README.md")
    facts = card.of_source(front, "google/some-model")
    manifest = open_bundle(artifacts["onnxruntime"]).manifest
    said = ModelCard(card.front_matter(manifest, facts) + "\n# x\n").data.to_dict()
    assert said["license"] == "other" and said["license_name"] == "gemma-terms"
    assert said["license_link"] == "https://ai.example/terms"
    assert said["language"] == ["no", "en", "de"]
    assert said["base_model"] == "google/some-model" and "a: b" in said["tags"]
    assert "# x" in said["tags"]
    card.write(tmp_path, facts)
    assert json.loads((tmp_path / "card.json").read_text("utf-8")) == facts


@pytest.mark.parametrize("front", [{}, {"license": [[]], "language": {"a": 1}, "tags": "one"}])
def test_a_card_that_says_little_is_no_fault(
    front: dict[str, Any], artifacts: dict[str, Path]
) -> None:
    manifest = open_bundle(artifacts["onnxruntime"]).manifest
    manifest = manifest.with_(origin=manifest.origin.with_(licence=None))
    said = ModelCard(card.front_matter(manifest, card.of_source(front, "")) + "\n").data.to_dict()
    assert "license" not in said and "base_model" not in said


def test_strangers_words_make_no_markup(artifacts: dict[str, Path], tmp_path: Path) -> None:
    opened = open_bundle(artifacts["onnxruntime"])
    assert opened.verdict is not None
    odd = {"a|b`": "x | ` y\n", "c": ""}
    origin = opened.manifest.origin.with_(name="<script>|x\n# y")
    manifest = opened.manifest.with_(
        contract=opened.manifest.contract.with_(prompts=odd), origin=origin
    )
    text = readme.text(tmp_path, manifest, opened.verdict)
    assert "<script" not in text and "\n# y" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| `a\\|b'`")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 4
