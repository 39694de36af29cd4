"""`goldfold ci`: a file is run, what is unchanged is kept, limits hold, a verdict is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from goldfold.exporter.artifact import bundle
from goldfold.exporter.driver import exporting, pipelining
from goldfold.exporter.errors import UsageError
from tests.exporter.cli.outcome import Run, flip, refused

FILE = """
model = "model"
targets = ["onnxruntime"]
out = "out"
max_length = 48
"""


@pytest.fixture
def place(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and a goldfold.toml, as the working folder."""
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "goldfold.toml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], list[str]]]:
    """The targets and the precisions of every export that runs."""
    made: list[tuple[list[str], list[str]]] = []
    export = exporting.export

    def counted(model: str, targets: list[str], precisions: list[str], *rest, **named):
        made.append((list(targets), list(precisions)))
        return export(model, targets, precisions, *rest, **named)

    monkeypatch.setattr(pipelining.exporting, "export", counted)
    return made


class Stop(UsageError):
    """Raised in an export's place."""


def test_what_changed_is_exported_and_the_rest_is_kept(
    goldfold: Run,
    place: Path,
    exports: list,
    quick: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = goldfold("ci", "-q")
    assert first.code == 0, first.err
    assert exports == [(["onnxruntime"], ["fp32"])]
    artifact, page = place / "out" / "onnxruntime-fp32", place / "out" / "verdict.md"
    text = page.read_text("utf-8")
    assert text.startswith("<!-- goldfold verdict -->\n### goldfold: PASS\n")
    (row,) = (line for line in text.splitlines() if line.startswith("| `"))
    assert row.startswith("| `onnxruntime-fp32` | PASS |") and row.endswith("| new |")

    def stop(model: str, targets: list[str], precisions: list[str], *rest, **named):
        exports.append((list(targets), list(precisions)))
        raise Stop("enough")

    monkeypatch.setattr(pipelining.exporting, "export", stop)
    # Nothing changed.
    again = goldfold("ci", "-q")
    assert again.code == 0 and "onnxruntime-fp32: kept" in again.out
    assert "| the same |" in page.read_text("utf-8")

    def exported(*given: str) -> list:
        del exports[:]
        goldfold("ci", "-q", *given)
        return list(exports)

    both = (["onnxruntime"], ["fp32"])
    assert exported("--precision", "fp32", "--precision", "fp16") == [(["onnxruntime"], ["fp16"])]
    assert exported("--precision", "fp16") == [(["onnxruntime"], ["fp16"])]
    assert exported("--target", "openvino", "--target", "onnxruntime") == [(["openvino"], ["fp32"])]
    for change in (("--max-length", "32"), ("--opset", "20"), ("--unseen", "5")):
        assert exported(*change) == [both], change
    # Options that decide nothing, and one that another target takes.
    assert exported("--require-run") == exported("--no-cache") == []
    # A failed artifact beside it, a damaged file, another file of the model.
    (place / "out" / "onnxruntime-fp32.failed").mkdir()
    shutil.copy(artifact / "manifest.json", place / "out" / "onnxruntime-fp32.failed")
    assert exported() == [both]
    shutil.rmtree(place / "out" / "onnxruntime-fp32.failed")
    assert exported() == []
    flip(artifact / "tokenizer.json")
    assert exported() == [both]
    flip(artifact / "tokenizer.json")
    assert exported() == []
    (place / "model" / "README.md").write_text("another card\n")
    assert exported() == [both]
    # The state cannot be read.
    (place / "model" / "README.md").unlink()
    for text in ("", "{", '{"format": "goldfold.pipeline/9"}', "[" * 9999):
        (place / "out" / "pipeline.json").write_text(text)
        assert exported() == [both]


def test_pairs_become_few_exports() -> None:
    found = pipelining.products([("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "y")])
    assert found == [(["a", "b"], ["x", "y"]), (["c"], ["y"])]
    assert pipelining.products([]) == []


@pytest.mark.usefixtures("quick")
def test_a_limit_fails_the_run_and_needs_no_new_export(
    goldfold: Run, place: Path, exports: list
) -> None:
    file = place / "goldfold.toml"
    file.write_text(
        FILE + "[limits]\nsize_mb = 0.001\n[[layouts]]\n"
        'artifacts = ["onnxruntime-fp32"]\nfor = "vespa"\nout = "served"\n'
    )
    found = goldfold("ci", "-q")
    assert found.code == 1
    assert "error: missed a gate or a limit: onnxruntime-fp32" in found.err
    assert "limits.size_mb" in found.err
    text = (place / "out" / "verdict.md").read_text("utf-8")
    assert "### goldfold: FAIL" in text and "exceeds 0.001" in text
    assert not (place / "served").exists() and "served was left as it was" in text
    suite = ElementTree.parse(place / "out" / "junit.xml").getroot()
    assert suite.get("failures") == "1"
    assert "limits.size_mb" in (place / "out" / "report.html").read_text("utf-8")
    file.write_text(FILE + "[limits]\nsize_mb = 1.0\n[limits.precision.fp32]\nworst = 1e-7\n")
    assert goldfold("ci", "-q").code == 0
    assert len(exports) == 1
    assert "was failed" in (place / "out" / "verdict.md").read_text("utf-8")


@pytest.mark.usefixtures("quick")
def test_a_layout_is_laid_out_once_and_again_after_a_change(goldfold: Run, place: Path) -> None:
    layout = '[[layouts]]\nartifacts = ["onnxruntime-fp32"]\nfor = "vespa"\nout = "served"\n'
    (place / "goldfold.toml").write_text(FILE + layout)
    assert goldfold("ci", "-q").code == 0
    served = place / "served"
    first = served.stat().st_ino
    assert any(served.iterdir())
    assert goldfold("ci", "-q").code == 0
    assert served.stat().st_ino == first, "it was laid out again"
    assert goldfold("ci", "-q", "--max-length", "32").code == 0
    assert served.stat().st_ino != first
    assert not list(place.glob(".served*"))
    # Somebody else's folder stays as it is.
    (place / "out" / "pipeline.json").unlink()
    found = goldfold("ci", "-q", "--max-length", "32")
    assert found.code == 5 and "holds something already" in found.err


def test_a_run_without_artifacts_leaves_no_earlier_verdict(goldfold: Run, place: Path) -> None:
    (place / "out").mkdir()
    for name in (*bundle.REPORT, "verdict.md"):
        (place / "out" / name).write_text("PASS")
    (place / "model" / "config.json").unlink()
    refused(goldfold("ci", "-q"), 3, "config.json")
    assert "config.json" in (place / "out" / "verdict.md").read_text("utf-8")
    assert "FAIL" in (place / "out" / "verdict.md").read_text("utf-8")
    suite = ElementTree.parse(place / "out" / "junit.xml").getroot()
    assert suite.get("errors") == "1"


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("more", "given", "words"),
    [
        ("[options]\nopst = 20\n", (), ("options.opst", "did you mean opset?")),
        ("[limits.precision.int8]\nworst = 0.1\n", (), ("limits.precision.int8", "fp32")),
        ("[limits.artifact.onnx-fp32]\nworst = 0.1\n", (), ("did you mean onnxruntime-fp32?",)),
        ("revision = 'main'\n", (), ("is a folder", "revision")),
        ("judge = true\n", (), ("--judge", "fp32 is not quantized")),
        ("", ("--precision", "fp99"), ("fp99",)),
        ("", ("--target", "tpu"), ("tpu", "onnxruntime")),
        ("", ("--file", "none.toml"), ("none.toml", "--init")),
        ("", ("--dims", "x"), ("--dims", "x")),
        ("cut.vocabulary = 'none.txt'\n", (), ("none.txt", "cut.vocabulary")),
        ("[[layouts]]\nartifacts = ['a']\nfor = 'ovms'\nout = 'x'\n", (), ("layouts", "a")),
    ],
)
def test_what_names_nothing_is_refused_before_any_work(
    goldfold: Run, place: Path, more: str, given: tuple[str, ...], words: tuple[str, ...]
) -> None:
    with (place / "goldfold.toml").open("a") as file:
        file.write(more)
    refused(goldfold("ci", "-q", *given), 2, *words)


@pytest.mark.usefixtures("untraced")
def test_other_peoples_folders_are_left_alone(goldfold: Run, place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "thesis.txt").write_text("precious")
    refused(goldfold("ci", "-q"), 5, "thesis.txt")
    assert [path.name for path in (place / "out").iterdir()] == ["thesis.txt"]


def test_init_writes_a_file_and_replaces_none(goldfold: Run, tmp_path: Path) -> None:
    file = tmp_path / "goldfold.toml"
    assert goldfold("ci", "--init", "--file", file).code == 0
    assert 'model = "packaged"' in file.read_text("utf-8")
    refused(goldfold("ci", "--init", "--file", file), 5, "is there already")


def test_a_release_is_compared_and_texts_of_ones_own_are_goldens(
    goldfold: Run, place: Path, quick: object
) -> None:
    (place / "ours.txt").write_text("the first of ours\nthe second of ours\n")
    words = ["red", "blue", "old", "new", "fast", "slow", "night", "day"]
    lines = [f"a {one} {other} house" for one in words for other in words if one != other]
    (place / "asked.txt").write_text("\n".join(lines[:24]))
    whole = FILE + 'texts = ["ours.txt:query"]\n'
    (place / "goldfold.toml").write_text(whole)
    first = goldfold("ci", "-q")
    assert first.code == 0, first.err
    goldens = bundle.open_bundle(place / "out" / "onnxruntime-fp32").manifest
    assert goldens.texts is not None and goldens.texts.count == 2
    # Itself as the release: the same vectors. Nothing is exported again for it.
    (place / "goldfold.toml").write_text(
        whole + '[compat]\nagainst = "release"\ntexts = "asked.txt"\n'
    )
    refused(goldfold("ci", "-q"), 2, "compat.against: there is no folder")
    shutil.copytree(place / "out", place / "release")
    again = goldfold("ci")
    assert again.code == 0, again.err
    assert "onnxruntime-fp32: kept" in again.out
    assert "compatible at" in (place / "out" / "verdict.md").read_text("utf-8")
    # A release without the artifact is no error; another text is another artifact.
    shutil.rmtree(place / "release" / "onnxruntime-fp32")
    assert goldfold("ci", "-q").code == 0
    assert "has no such artifact" in (place / "out" / "verdict.md").read_text("utf-8")
