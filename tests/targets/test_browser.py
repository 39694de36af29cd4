"""The page for browsers, in a real Chromium and a real Node: it gives the goldens, and where
anything is wrong it says so in one sentence and embeds nothing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goldfold import export
from goldfold.exporter.artifact.layout import lay_out
from goldfold.exporter.driver import exporting
from goldfold.exporter.errors import TargetError
from goldfold.exporter.frontend import packaged
from goldfold.exporter.verification.elsewhere import verify_in
from goldfold.golden import compare, store
from goldfold.targets.onnxruntime import elsewhere
from tests.targets import browsing

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def laid(artifacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the tiny model: look, do not touch."""
    browsing.need()
    return lay_out(artifacts["onnxruntime"], "web", tmp_path_factory.mktemp("web") / "page").path


@pytest.fixture
def page(laid: Path, tmp_path: Path) -> Path:
    """A copy to damage, which opens in Chromium."""
    browsing.need("chromium")
    return Path(shutil.copytree(laid, tmp_path / "page"))


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")


def said(page: Path, *flags: str, **how: Any) -> str:
    """The last sentence of the page: it is ready, or refuses."""
    return browsing.sentences(page, *flags, **how)[-1]


# --- it works


@pytest.mark.parametrize("place", ["node", "chromium"])
def test_every_golden_is_right_in_another_program(artifacts: dict[str, Path], place: str) -> None:
    browsing.need(place)
    found = verify_in([artifacts["onnxruntime"]], [place])
    assert sorted({one.threads for one in found}) == [one.threads for one in found]
    for one in found:
        assert one.status == "passed", one.verdict
        assert one.measurement is not None
        assert max(one.measurement.worst, one.measurement.worst_padded) < 1e-9
        assert one.facts["backend"] == "wasm" and one.facts["version"] == "1.30.0"
        assert one.facts["canaries"]["count"] == 3 and one.facts["canaries"]["fault"] is None
        assert one.peak is None or 50e6 < one.peak < 4e9
    assert browsing.left() == []


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """all-MiniLM-L6-v2 in fp32 and int8, on its shorter goldens."""
    browsing.need("chromium")
    pytest.importorskip(packaged.MINILM.package)
    goldens = exporting.obtain_goldens

    def short(*args: Any) -> store.Goldens:
        return goldens(*args).within(32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "obtain_goldens", short)
        out = tmp_path_factory.mktemp("minilm")
        model = packaged.locate(packaged.MINILM)
        done = export(model, ["onnxruntime"], ["fp32", "int8"], out, locate=False)
    return [result.path for result in done]


def test_a_real_model_and_its_integers_are_right_in_chromium(minilm: list[Path]) -> None:
    """MatMulInteger in WebAssembly sums as the native kernel does: the error is the same, but for
    values in the middle between two steps, which noise in f32 rounds one way or the other."""
    for path, one in zip(minilm, verify_in(minilm, ["chromium"], threads=2), strict=True):
        assert one.status == "passed", one.verdict
        assert one.measurement is not None and one.threads == 2
        native = json.loads((path / "verdict.json").read_text("utf-8"))["measurement"]
        if path.name.endswith("int8"):
            assert one.measurement.worst == pytest.approx(native["worst"], rel=0.1)
        else:
            assert one.measurement.worst < 1e-10


def test_the_page_computes_three_canaries_and_is_ready(page: Path) -> None:
    line = said(page)
    assert line.startswith("ready: fp32, ") and "3 canaries, worst 1−cos" in line


def test_without_isolation_one_thread_computes_and_the_page_says_so(page: Path) -> None:
    lines = browsing.sentences(page, headers={})
    assert "There is no shared memory, so one thread computes" in lines[0]
    assert "Cross-Origin-Opener-Policy" in lines[0]
    assert lines[-1].startswith("ready: ") and "WebAssembly, 1 thread." in lines[-1]


def test_long_texts_are_cut_as_the_artifact_cuts_them(artifacts: dict[str, Path]) -> None:
    browsing.need("node")
    from goldfold import load

    encoder = load(artifacts["onnxruntime"])
    texts = ["word " * 3000, "ein Text, der nicht endet, " * 400, "😀" * 900, "", " a\tb\n"]
    with_web = lay_out_again(artifacts["onnxruntime"])
    there = elsewhere.Opened("node", with_web, 1)
    try:
        for length in (encoder.contract.max_length, 17, 3):
            own = encoder.tokenize(texts)
            found = there.tokenize(texts, length)
            assert [len(ids) <= length for ids in found] == [True] * len(texts)
            if length == encoder.contract.max_length:
                assert found == own
    finally:
        there.close()
        shutil.rmtree(with_web.parent)


def lay_out_again(artifact: Path) -> Path:
    return lay_out(artifact, "web", Path(tempfile.mkdtemp()) / "page").path


# --- it refuses


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_canary_with_another_vector_is_refused(page: Path, which: int) -> None:
    record = json.loads((page / "canaries.json").read_text("utf-8"))
    vector = record["texts"][which]["embedding"]
    at = int(np.argmax(np.abs(vector)))
    vector[at] = -vector[at]
    rewrite(page / "canaries.json", texts=record["texts"])
    line = said(page)
    assert line.startswith(f"Canary {which + 1} of 3 (") and "nothing is embedded" in line
    assert "from its stored vector, over the artifact's limit of 1e-8" in line


def test_a_canary_with_other_tokens_is_refused(page: Path) -> None:
    record = json.loads((page / "canaries.json").read_text("utf-8"))
    record["texts"][0]["token_ids"][1] += 1
    rewrite(page / "canaries.json", texts=record["texts"])
    assert "has other token ids here than its golden" in said(page)


@pytest.mark.parametrize("texts", [[], None, "x"])
def test_no_canaries_are_no_proof(page: Path, texts: Any) -> None:
    rewrite(page / "canaries.json", texts=texts)
    assert said(page).startswith("canaries.json holds no canaries")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-7]), "it is not whole"),
        (lambda p: p.write_bytes(p.read_bytes() + b"x"), "it is not whole, or another file"),
        (lambda p: p.unlink(), "is missing (404): copy the whole folder"),
        (lambda p: p.write_bytes(b"x" * p.stat().st_size), "its sha256 differs"),
    ],
    ids=["truncated", "longer", "missing", "changed"],
)
@pytest.mark.parametrize("name", ["model/model.onnx.data", "runtime/ort-wasm-simd-threaded.wasm"])
def test_a_damaged_file_is_named(page: Path, name: str, damage: Any, sentence: str) -> None:
    file = page / name
    kept = file.read_bytes()
    file.unlink()  # it may be a link to the artifact's own
    file.write_bytes(kept)
    damage(file)
    line = said(page)
    assert line.startswith(name) and sentence in line


@pytest.mark.parametrize("name", ["web.json", "canaries.json"])
def test_a_damaged_record_is_named(page: Path, name: str) -> None:
    (page / name).write_bytes((page / name).read_bytes()[:-20])
    assert said(page) == f"{name} is damaged, it is no JSON: copy the folder again."
    (page / name).unlink()
    assert said(page) == f"{name} is missing (404): copy the whole folder."


@pytest.mark.parametrize("name", ["page.mjs", "goldfold.mjs"])
def test_a_missing_module_is_told(page: Path, name: str) -> None:
    (page / name).unlink()
    assert said(page).startswith("page.mjs, or a module that it imports, is missing or damaged")


def test_a_missing_runtime_is_told(page: Path) -> None:
    (page / "runtime" / "ort.wasm.min.mjs").unlink()
    assert said(page).startswith("runtime/ort.wasm.min.mjs does not load (")


def test_a_file_over_2_gb_is_refused_before_it_is_fetched(page: Path) -> None:
    files = json.loads((page / "web.json").read_text("utf-8"))["files"]
    files["model/model.onnx.data"]["size"] = 2**31
    rewrite(page / "web.json", files=files)
    line = said(page)
    assert line.startswith(
        "model/model.onnx.data has 2.1 GB, and a browser holds no file over 2 GB"
    )


def test_another_format_is_refused(page: Path) -> None:
    rewrite(page / "web.json", format="goldfold.web/9")
    assert said(page).startswith("web.json is of the format goldfold.web/9")


@pytest.mark.parametrize(
    "flag", ["--jitless", "--no-enable-sse4-1"], ids=["no-webassembly", "no-vectors"]
)
def test_a_browser_without_simd_is_refused(page: Path, flag: str) -> None:
    """V8 without WebAssembly, and on a processor without SSE4.1, where it takes no vectors."""
    if flag != "--jitless" and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("V8 can be told to do without SSE on x86-64 alone")
    line = said(page, f"--js-flags={flag}")
    assert line.startswith("This browser has no WebAssembly with SIMD, which ONNX Runtime needs")


def test_a_page_from_a_file_is_refused(page: Path) -> None:
    (line,) = browsing.opened(page.joinpath("index.html").as_uri())
    assert line.startswith("This page was opened from a file") and "http.server" in line


# --- verdicts


def test_a_page_that_refuses_fails_its_verdict(
    artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    browsing.need("node")
    from goldfold.exporter.artifact import canaries

    def flipped(opened: Any, out: Path, write: Any = canaries.write) -> None:
        write(opened, out)
        record = json.loads((out / "canaries.json").read_text("utf-8"))
        record["texts"][1]["embedding"].reverse()
        rewrite(out / "canaries.json", texts=record["texts"])

    monkeypatch.setattr(canaries, "write", flipped)
    (one,) = verify_in([artifacts["onnxruntime"]], ["node"], threads=1)
    assert one.status == "failed" and one.verdict is not None
    (sentence,) = one.verdict.sentences
    assert sentence.startswith("The page refuses: Canary 2 of 3 (")


def test_a_program_that_ends_is_told(laid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDFOLD_CHROMIUM", "/bin/false")
    with pytest.raises(TargetError, match=r"chromium ended \(exit code 1\)"):
        elsewhere.Opened("chromium", laid, 1)
    assert browsing.left() == []


def test_the_browser_ends_with_a_process_that_is_killed(laid: Path, tmp_path: Path) -> None:
    browsing.need("chromium")
    code = (
        "import sys, time; from pathlib import Path\n"
        "from goldfold.targets.onnxruntime import elsewhere\n"
        "there = elsewhere.Opened('chromium', Path(sys.argv[1]), 1)\n"
        "print(there._process.pid, there._room.name, flush=True); time.sleep(600)"
    )
    words = [sys.executable, "-c", code, str(laid)]
    far = tmp_path / ("a folder whose path is longer than a socket's may be" * 2)
    far.mkdir()
    environment = os.environ | {"TMPDIR": str(far)}
    started = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
    assert started.stdout is not None
    leader, room = started.stdout.readline().decode().strip().split(maxsplit=1)
    os.killpg(int(leader), 0)
    assert list(Path(room).glob("org.chromium.*")), "its socket's folder goes with its files"
    started.kill()
    started.communicate()
    for _ in range(100):
        with suppress(ProcessLookupError):
            os.killpg(int(leader), 0)
            time.sleep(0.1)
            continue
        if not Path(room).exists():
            return
        time.sleep(0.1)
    raise AssertionError("Chromium is still there, or its files are")


def test_vectors_of_a_head_and_of_a_batch_are_those_of_the_session(laid: Path) -> None:
    browsing.need("node")
    there = elsewhere.Opened("node", laid, 1)
    try:
        with pytest.raises(TargetError, match="node: "):
            there.run(np.ones((1, 4), np.int64), np.ones((1, 4), np.int64), "no such output")
        rows = there.run(np.array([[2, 5, 1, 0], [2, 9, 4, 1]]), np.array([[1, 1, 1, 0], [1] * 4]))
        alone = there.run(np.array([[2, 5, 1]]), np.ones((1, 3), np.int64))
        assert compare.reading(rows[0].astype(float), alone[0].astype(float)).distance < 1e-9
    finally:
        there.close()
