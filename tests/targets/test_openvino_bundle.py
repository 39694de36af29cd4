"""An OpenVINO artifact in other hands: plain openvino, OpenVINO Tokenizers, sentence-transformers.

Each reader runs in a process of its own that has never heard of goldfold.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speed import peers
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.contract import Reference, Words
from goldfold.exporter.system.cache import Cache
from goldfold.golden import store
from goldfold.golden.store import Goldens
from goldfold.targets.openvino import TARGET, tokengraph, tokenizer

LIMIT = 1e-8
"""1 − cos in f32: the gate's own (golden/gate.py). The same graph on the same machine keeps it."""

_PLAIN = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import load
texts = np.load(sys.argv[2]).tolist()
once = load.embed(texts, "")
assert (load.embed(["a prompt"], "query") != load.embed(["a prompt"], "")).any()
assert not {"goldfold", "torch", "transformers"} & sys.modules.keys()
np.save(sys.argv[3], once)
"""
_LIBRARY = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], backend="openvino", local_files_only=True)
texts = np.load(sys.argv[2]).tolist()
np.save(sys.argv[3], model.encode(texts, prompt="", batch_size=5))
query = model.encode("how do glaciers move?", prompt_name="query")
spelt = model.encode(model.prompts["query"] + "how do glaciers move?", prompt="")
print(json.dumps({
    "modules": [type(module).__name__ for module in model],
    "prompts": model.prompts,
    "max_seq_length": model.max_seq_length,
    "dim": model.get_embedding_dimension(),
    "precision": model[0].model.request.get_property("INFERENCE_PRECISION_HINT").to_string(),
    "prompt_moves": float(np.abs(query - spelt).max()),
}))
"""


@pytest.fixture(scope="module")
def artifact(artifacts: dict[str, Path]) -> Path:
    return artifacts["openvino"]


@pytest.fixture(scope="module")
def goldens(artifact: Path) -> Goldens:
    return store.load(artifact / "golden")


def peers_python() -> str:
    python = peers.MODERN.python
    if not python.is_file():
        pytest.skip(
            f"no {python}; make it (1.5 GB) with: .venv/bin/python -c "
            "'from benchmarks.speed import peers; peers.prepare(peers.MODERN)'"
        )
    return str(python)


def read(python: str, code: str, artifact: Path, goldens: Goldens, place: Path) -> str:
    """Run `code` on the golden texts and hold what it saved to the goldens; returns its stdout."""
    texts, out = place / "texts.npy", place / "out.npy"
    np.save(texts, np.array([case.prompt + case.text for case in goldens.cases]))
    done = subprocess.run(
        [python, "-c", code, str(artifact), str(texts), str(out)],
        cwd=place,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(out).astype(np.float64)
    expected = goldens.embeddings.astype(np.float64)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert (1 - (found * expected).sum(axis=1) / norms).max() < LIMIT
    open_bundle(artifact)  # no reader left anything that an artifact may not hold
    return done.stdout


@pytest.mark.parametrize("whose", ["ours", "the-peers"])
def test_plain_loader_gives_the_goldens(
    whose: str, artifact: Path, goldens: Goldens, tmp_path: Path
) -> None:
    python = sys.executable if whose == "ours" else peers_python()
    read(python, _PLAIN, artifact, goldens, tmp_path)


def test_sentence_transformers_gives_the_goldens(
    artifact: Path, goldens: Goldens, tmp_path: Path
) -> None:
    said = json.loads(read(peers_python(), _LIBRARY, artifact, goldens, tmp_path).splitlines()[-1])
    contract = open_bundle(artifact).manifest.contract
    assert said == {
        "modules": ["Transformer"],
        "prompts": contract.prompts,
        "max_seq_length": contract.max_length,
        "dim": contract.dim,
        "precision": "f32",
        "prompt_moves": 0.0,
    }


# --- OpenVINO Tokenizers


def token_ids(goldens: Goldens) -> dict[str, tuple[int, ...]]:
    return {case.prompt + case.text: case.token_ids for case in goldens.cases if not case.call}


def test_a_layer_is_a_line_of_its_own(artifact: Path) -> None:
    lines = (artifact / "openvino_model.xml").read_text("utf-8").splitlines()
    layers = [line for line in lines if "<layer " in line]
    assert len(layers) > 100 and all(line.startswith("<layer ") for line in layers)
    assert not any(line.startswith((" ", "\t")) for line in lines)


def test_tokenizer_gives_the_golden_ids(artifact: Path, goldens: Goldens) -> None:
    ids = token_ids(goldens)
    assert tokengraph.differs(artifact, ids) is None
    (said,) = open_bundle(artifact).manifest.built
    assert f"gives all {len(ids)} golden texts their golden ids" in said


def test_tokenizer_pads_on_the_right(artifact: Path, goldens: Goldens) -> None:
    import openvino as ov
    import openvino_tokenizers  # noqa: F401

    contract = open_bundle(artifact).manifest.contract
    model = ov.Core().compile_model(artifact / tokenizer.XML, "CPU")
    by_length = sorted(token_ids(goldens).items(), key=lambda item: len(item[1]))
    short, long = by_length[0], by_length[-1]
    batch = model([short[0], long[0]])
    size, width = len(short[1]), len(long[1])
    assert batch["input_ids"].shape == (2, width)
    assert batch["input_ids"][0].tolist() == [*short[1], *[contract.pad_id] * (width - size)]
    assert batch["attention_mask"][0].tolist() == [1] * size + [0] * (width - size)


def test_second_tokenizer_has_the_same_bytes(
    artifact: Path, goldens: Goldens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = open_bundle(artifact).manifest.contract
    shutil.copy(artifact / "tokenizer.json", tmp_path)
    monkeypatch.setattr(tokenizer, "MADE", {})  # converted before, in this process
    tokenizer.write(tmp_path, contract, token_ids(goldens))
    for name in (tokenizer.XML, "openvino_tokenizer.bin"):
        assert (tmp_path / name).read_bytes() == (artifact / name).read_bytes()


def test_tokenizer_that_differs_is_not_written(
    artifact: Path, goldens: Goldens, tmp_path: Path
) -> None:
    contract = open_bundle(artifact).manifest.contract
    shutil.copy(artifact / "tokenizer.json", tmp_path)
    ids = token_ids(goldens)
    text = next(iter(ids))
    ids[text] = (*ids[text][:2], 7, *ids[text][3:])
    said = tokenizer.write(tmp_path, contract, ids)
    assert f" texts other ids, first {text[:40]!r} from token 2 on" in said
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from goldfold.exporter.contract import Words
from goldfold.targets.openvino import tokenizer
text = Path(sys.argv[1]).read_text("utf-8")
begun = tokenizer.begin(Words(text, 600, 0), Path(sys.argv[2]))
print(begun._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_conversion_ends_with_the_export_that_was_killed(artifact: Path, tmp_path: Path) -> None:
    place, elsewhere = tmp_path / "scratch", tmp_path / "tmp"
    place.mkdir()
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(artifact / "tokenizer.json"), str(place)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(elsewhere)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, until = int(done.stdout), time.monotonic() + 20
    while _alive(pid):
        assert time.monotonic() < until, "the converter outlives its export"
        time.sleep(0.05)
    assert not list(elsewhere.iterdir())
    assert not list(place.rglob(tokenizer.XML))  # it was ended, and did not merely finish


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_conversion_that_is_closed_leaves_no_process(artifact: Path, tmp_path: Path) -> None:
    text = (artifact / "tokenizer.json").read_text("utf-8")
    begun = TARGET.begin(Words(text, 17, 0), tmp_path)
    assert isinstance(begun, tokenizer.Conversion)
    begun.close()
    begun.close()
    assert begun._process.returncode == -signal.SIGKILL


def test_conversion_is_begun_once(artifact: Path, tmp_path: Path) -> None:
    """What an export has converted already, and what it began for other lengths."""
    contract = open_bundle(artifact).manifest.contract
    text = (artifact / "tokenizer.json").read_text("utf-8")
    words = Words(text, contract.max_length, contract.pad_id)
    assert TARGET.begin(words, tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_conversion_outlives_its_process_where_it_is_kept(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Cache(tmp_path / "stages")
    words = Words((artifact / "tokenizer.json").read_text("utf-8"), 17, 0)
    monkeypatch.setattr(tokenizer, "MADE", {})
    begun = TARGET.begin(words, tmp_path, kept)
    made = tokenizer.convert(words, begun)  # type: ignore[arg-type]
    assert set(made) == {tokenizer.XML, "openvino_tokenizer.bin"}
    monkeypatch.setattr(tokenizer, "MADE", {})
    assert TARGET.begin(words, tmp_path, kept) is None
    assert tokenizer.convert(words) == made
    assert kept.remarks() == "; tokenizer from the cache"
    monkeypatch.setattr(tokenizer, "MADE", {})
    other = TARGET.begin(Words(words.tokenizer, 18, 0), tmp_path, kept)
    assert other is not None
    other.close()


def test_refusal_of_the_converter_is_one_sentence(tmp_path: Path) -> None:
    begun = tokenizer.begin(Words("{}", 5, 0), tmp_path)
    said = tokenizer.convert(Words("{}", 5, 0), begun)
    assert isinstance(said, str)
    assert len(said.splitlines()) == 1
    assert str(tmp_path) not in said


def test_missing_package_is_said(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goldfold.targets.openvino.tokenizer.find_spec", lambda name: None)
    contract = open_bundle(artifact).manifest.contract
    reference = Reference({"model_type": "bert"}, "cosine", {})
    (said,) = TARGET.finish(tmp_path, contract, "fp32", reference)
    assert said.endswith("the package openvino-tokenizers is not installed")
    assert not (tmp_path / tokenizer.XML).exists()
    assert (tmp_path / "config.json").exists()
